"""The tests of this folder run as those of an agent's author do: without servers, in virtual time."""

from __future__ import annotations

from coord.testing.fixtures import fleet, pytest_asyncio_loop_factories

__all__ = ["fleet", "pytest_asyncio_loop_factories"]
