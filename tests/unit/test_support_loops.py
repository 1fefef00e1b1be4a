"""Which loop a test runs on: pytest-asyncio turns debug mode off again, whatever PYTHONASYNCIODEBUG says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import loops_of


async def test_it_is_the_one_that_was_asked_for(request: pytest.FixtureRequest) -> None:
    loop = asyncio.get_running_loop()
    kind = "debug" if loop.get_debug() else type(loop).__module__.partition(".")[0]
    asked = loops_of(request.node.path)
    assert kind in asked
    assert len(asked) == 1 or request.node.name.endswith(f"[{kind}]")


def test_files_that_are_named_run_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORD_TEST_ALL_LOOPS", "tests/unit/test_a.py tests/unit/test_b.py")
    monkeypatch.setenv("COORD_TEST_LOOPS", "uvloop")
    assert loops_of(Path("/x/tests/unit/test_b.py")) == ["asyncio", "debug", "uvloop"]
    assert loops_of(Path("/x/tests/unit/test_c.py")) == ["uvloop"]
    monkeypatch.delenv("COORD_TEST_LOOPS")
    assert loops_of(Path("/x/tests/unit/test_c.py")) == ["asyncio"]
