"""``coord signal``, ``coord flag``, ``coord timer`` and ``coord rules`` on real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

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


async def test_timers_and_delayed_tasks_are_listed_shown_and_cancelled(fleet: Fleet) -> None:
    async with coord.connect(fleet.server.url, tenant="acme", agent="a1") as c:
        await c.timers.submit("nightly", "report", cron="0 0 3 * * *", zone="Europe/Berlin")
        given = ("--id", "later", "--delay", "600", "--retries", "0", "--agent", "a1")
        assert (await cli("task", "submit", "report", *given, "-o", "json")).json["id"] == "later"
        nightly, later = sorted((await cli("timer", "ls", "-o", "json")).json, key=lambda row: row["when"])
        assert (later["id"], later["when"], later["then"]) == ("later", "once", "task later for report")
        assert 500 < (datetime.fromisoformat(later["next_at"]) - datetime.now(UTC)).total_seconds() <= 600
        assert (nightly["setter"], nightly["then"]) == ("a1", "task nightly-1 for report")
        assert datetime.fromisoformat(nightly["next_at"]).astimezone(ZoneInfo("Europe/Berlin")).hour == 3
        shown = (await cli("timer", "get", "nightly", "-o", "json")).json
        assert (shown["said"]["cron"], [fact["event"] for fact in shown["history"]]) == ("0 0 3 * * *", ["set"])
        delayed = (await cli("task", "get", "later", "-o", "json")).json
        assert (delayed["status"], delayed["retry_at"]) == ("waiting", later["next_at"])
        cancelled = await cli("timer", "cancel", "nightly", "-o", "json")
        assert cancelled.json == {"id": "nightly", "cancelled": True, "status": "cancelled"}, "said as who set it"
        assert (await cli("timer", "cancel", "nightly")).code == 1
        assert (await cli("timer", "cancel", "nobody")).code == 4
        assert [row["id"] for row in (await cli("timer", "ls", "--tasks", "-o", "json")).json] == ["later"]


async def test_decision_tables_are_set_once_they_are_some(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "triage.toml").write_text('threshold = 0.9\nrules = [{when = "input.n < 9", output = "pay"}]\n')
    (tmp_path / "bad.json").write_text('{"rules": [{"output": "pay"}, {"output": 1, "when": "amount < 100"}]}')
    assert (await cli("rules", "set", "triage", "triage.toml", "--version", "2")).code == 0
    bad = await cli("rules", "set", "triage", "bad.json", "-o", "json")
    assert (bad.code, json.loads(bad.err)["details"]) == (2, {"rule": "1", "field": "when"})
    (row,) = (await cli("rules", "ls", "-o", "json")).json
    assert (row["table"], row["version"], row["rules"], row["threshold"]) == ("triage", "2", 1, 0.9)
    shown = (await cli("rules", "get", "triage", "-o", "json")).json
    assert [fact["event"] for fact in shown["history"]] == ["set"]
