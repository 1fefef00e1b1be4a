"""``coord signal`` and ``coord flag`` on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import coord
from tests.support.cli import cli
from tests.support.fleet import Fleet, serving
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
async def fleet(start_nats, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with serving(await start_nats()) as found:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("COORD_NATS_URLS", found.server.url)
        monkeypatch.setenv("COORD_IDENTITY_TENANT", "acme")
        yield found


async def test_signals_are_raised_awaited_and_listed(fleet: Fleet) -> None:
    async with coord.connect(fleet.server.url, tenant="acme", agent="a1") as c:
        waiting = asyncio.create_task(c.signals.wait("memory-ready", timeout_s=90))

        async def listed() -> Any:
            return (await cli("signal", "ls", "-o", "json")).json

        (row,) = await until(listed)
        assert (row["signal"], row["waits"], row["raised"]) == ("memory-ready", "a1", None)
        assert "raised memory-ready" in (await cli("signal", "raise", "memory-ready", "-d", '{"n": 1}')).out
        assert await waiting == {"n": 1}
        assert (await cli("signal", "raise", "memory-ready", "-o", "json")).json["first"] is False
        waited = await cli("signal", "wait", "memory-ready", "--timeout", "30", "-o", "json")
        assert waited.json == [{"signal": "memory-ready", "data": {"n": 1}}]
        assert (await cli("signal", "wait", "never", "--timeout", "0.1")).code == 3
        assert (await cli("signal", "raise", "x", "-d", "{")).code == 2


async def test_flags_are_set_listed_and_removed(fleet: Fleet) -> None:
    async with coord.connect(fleet.server.url, tenant="acme", agent="a1") as c:
        assert (await cli("flag", "ls", "-o", "json")).json == []
        assert not await c.flags.enabled("ranker", subject="user-1")
        asked = ("flag", "set", "ranker", "-p", "0", "--for-subject", "user-1", "--note", "trial", "--agent", "ops")
        assert (await cli(*asked)).code == 0

        async def on() -> bool:
            return await c.flags.enabled("ranker", subject="user-1") and not await c.flags.enabled("ranker")

        await until(on)
        (row,) = (await cli("flag", "ls", "-o", "json")).json
        assert (row["flag"], row["by"], row["note"], row["percentage"]) == ("ranker", "ops", "trial", 0)
        assert (await cli("flag", "set", "ranker", "--off")).code == 0
        assert (await cli("flag", "rm", "ranker")).code == 0
        assert (await cli("flag", "rm", "ranker")).code == 4
        assert (await cli("flag", "set", "ranker", "-l", "nonsense")).code == 2
