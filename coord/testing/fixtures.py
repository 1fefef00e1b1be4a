"""For pytest: all of coord as a fixture, in virtual time.

In the ``conftest.py`` of a folder of tests, with pytest-asyncio (1.4 or later)::

    from coord.testing.fixtures import fleet, pytest_asyncio_loop_factories

Then ``async def test_…(fleet)`` has an `InMemoryCoord`, and every test of that folder runs on a loop with virtual
time.  The tests that must run on the usual one are marked ``@pytest.mark.asyncio(loop_factories=["real"])``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import pytest_asyncio

from coord.testing.inmemory import InMemoryCoord
from coord.testing.virtual import VirtualLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Virtual time, unless a test asks for ``real``."""
    marker = item.get_closest_marker("asyncio")
    wanted = (marker.kwargs.get("loop_factories") if marker is not None else None) or ["virtual"]
    known: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"virtual": VirtualLoop, "real": asyncio.new_event_loop}
    return {name: known[name] for name in wanted if name in known}


@pytest_asyncio.fixture
async def fleet() -> AsyncIterator[InMemoryCoord]:
    """All of coord, with an empty log."""
    async with InMemoryCoord() as made:
        yield made
