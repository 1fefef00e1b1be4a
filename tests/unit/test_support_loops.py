"""Which loop a test runs on: pytest-asyncio turns debug mode off again, whatever PYTHONASYNCIODEBUG says."""

from __future__ import annotations

import asyncio
import os

import pytest


async def test_it_is_the_one_that_was_asked_for(request: pytest.FixtureRequest) -> None:
    loop = asyncio.get_running_loop()
    kind = "debug" if loop.get_debug() else type(loop).__module__.partition(".")[0]
    asked = os.environ.get("COORD_TEST_LOOPS", "asyncio").split(",")
    assert kind in asked
    assert len(asked) == 1 or request.node.name.endswith(f"[{kind}]")
