"""``coord agent`` and what ``coord status`` says of capabilities, on real servers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import coord
from coord import errors, limits
from coord.bus import rpc
from coord.ops import stats
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


async def test_agents_are_listed_shown_and_drained(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async with coord.connect(fleet.server.url, tenant="acme", agent="a1") as c:
        await c.beating.register(capabilities={"ocr": 2}, labels={"region": "eu"})
        await c.submit("rare", None, id="t1")

        async def listed() -> Any:
            return (await cli("agent", "ls", "--capability", "ocr", "-l", "region=eu", "-o", "json")).json

        (row,) = await until(listed)
        assert (row["agent"], row["instance"], row["state"]) == ("a1", c.instance, "alive")
        assert (await cli("agent", "ls", "-l", "region=us", "-o", "json")).json == []
        assert (await cli("agent", "ls", "-l", "nonsense")).code == 2
        shown = await cli("agent", "get", "a1", "-o", "json")
        assert shown.json[0]["capabilities"] == {"ocr": 2}
        assert shown.json[0]["running"] == {}, "defaults are shown too"
        assert (await cli("agent", "get", "nobody")).code == 4
        assert (await cli("agent", "drain", "nobody")).code == 4
        drained = await cli("agent", "drain", "a1")
        assert drained.code == 0
        assert "told 1 instance of a1" in drained.out
        await until(lambda: c.beating.draining)
        assert (await cli("agent", "drain", "a1", "--rejoin", "-o", "json")).json == {"instances": 1}
        await until(lambda: not c.beating.draining)

        async def starved() -> bool:
            boards = (await cli("agent", "capabilities", "-o", "json")).json
            return any(b["capability"] == "rare" and b["starved"] for b in boards)

        await until(starved)

        async def known() -> bool:
            with contextlib.suppress(errors.ServiceUnavailable):  # who has just begun does not answer for all
                return bool(await rpc.call(c.connection, "coord.rpc._.agents.boards", {}, list[Any]))
            return False

        await until(known)
        monkeypatch.setattr(stats, "_BOARDS_S", 600.0)  # it is asked, and need not be listened for
        status = await cli("status", "-o", "json")
        assert any("no agent can do them" in problem["message"] for problem in status.json["problems"])
        assert status.json["queues"]["consumers"] >= 3, "those of `rare`"
        assert status.json["queues"]["consumers_max"] == 3 * limits.CAPABILITIES_MAX
