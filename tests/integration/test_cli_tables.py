"""``coord task``, ``dlq redrive``, ``workflow ls``, ``handoff``, ``lock`` and ``signal ls`` on real servers."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import coord
from coord.projector import entities
from coord.store import copy
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.log import projector
from tests.support.store import event, pool_of
from tests.support.tasks import Fleet, services
from tests.support.waiting import until


@pytest.fixture
async def fleet(
    nats_server, migrated_database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Fleet]:
    async with services(nats_server.url) as found, projector(nats_server.url, migrated_database.url):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("COORD_NATS_URLS", found.url)
        monkeypatch.setenv("COORD_DATABASE_URL", migrated_database.url)
        monkeypatch.setenv("COORD_IDENTITY_TENANT", found.tenant)
        monkeypatch.setenv("COORD_IDENTITY_AGENT", "ops")
        yield found


def worker() -> tuple[coord.Agent, dict[str, bool]]:
    """Adds up, and breaks for as long as it is told to."""
    agent = coord.Agent("w1", capabilities={"add": 4, "shaky": 1})
    state = {"broken": True}

    @agent.task("add")
    async def add(numbers: list[int]) -> int:
        return sum(numbers)

    @agent.task("shaky", retries=0)
    async def shaky(_given: Any) -> str:
        if state["broken"]:
            raise ValueError("broken")
        return "mended"

    return agent, state


async def rows(*args: str, until_: Callable[[list[Any]], object]) -> list[Any]:
    """What a listing says once it says that: tables follow the log."""

    async def listed() -> list[Any] | None:
        found: list[Any] = (await cli(*args, "-o", "json")).json
        return found if until_(found) else None

    result: list[Any] = await until(listed)
    return result


async def test_tasks_are_submitted_listed_shown_cancelled_and_retried(
    fleet: Fleet, migrated_database: Database
) -> None:
    agent, state = worker()
    mine = ("--tenant", fleet.tenant)
    async with agent.connect(fleet.url, tenant=fleet.tenant):
        done = await cli("task", "submit", "add", "-i", "[1, 2, 3]", "--id", "sum", "--wait", "-o", "json")
        assert done.json == {"id": "sum", "result": 6}
        taken = await cli("task", "submit", "add", "-i", "[4]", "--id", "sum")
        assert (taken.code, "[task.exists]" in taken.err) == (1, True)
        await cli("task", "submit", "rare", "--id", "open", "--priority", "batch")
        await cli("task", "submit", "shaky", "--id", "dead", "-i", "1")
        assert (await cli("task", "submit", "add", "-i", "{")).code == 2

        ended = {"sum": "completed", "open": "queued", "dead": "failed"}
        await rows("task", "ls", *mine, until_=lambda r: {x["id"]: x["status"] for x in r} == ended)
        listed = await rows("task", "ls", *mine, "--status", "failed", until_=lambda r: len(r) == 1)
        assert (listed[0]["error"], listed[0]["submitter"], listed[0]["attempts"]) == ("ValueError", "ops", 1)
        rare = await cli("task", "ls", *mine, "--capability", "rare", "-o", "json")
        assert [r["id"] for r in rare.json] == ["open"]
        table = list(csv.DictReader(io.StringIO((await cli("task", "ls", *mine, "--agent", "w1", "-o", "csv")).out)))
        assert {r["id"] for r in table} == {"sum", "dead"}

        shown = (await cli("task", "get", "sum", "-o", "json")).json
        assert (shown["status"], [h["event"] for h in shown["history"]]) == (
            "completed",
            ["submitted.add.normal", "claimed.1", "completed"],
        )
        assert "claimed.1" in (await cli("task", "get", "sum")).out
        queued = (await cli("task", "get", "open", "-o", "json")).json
        assert (queued["status"], queued["claims"], queued["error"]) == ("queued", 0, None), "defaults are shown too"
        assert (await cli("task", "get", "never")).code == 4
        async with pool_of(migrated_database.url) as pool, pool.transaction() as conn:
            old = event(1, tenant=fleet.tenant, id="old", key="old", detail="add.normal", agent="ops", data="{}")
            assert await entities.project(conn, [[old]]) == [{}]
            await copy.events(conn, [old])
        older = await cli("task", "get", "old", "-o", "json")
        (said,) = older.json["history"]
        assert (older.json["status"], said["event"], said["data"]) == ("queued", "submitted.add.normal", {})
        assert "has left the log" in older.err

        refused = await cli("task", "cancel", "open", "--agent", "stranger")
        assert (refused.code, "not cancelled" in refused.err) == (1, True)
        assert (await cli("task", "cancel", "open", "--reason", "enough")).code == 0
        assert (await cli("task", "cancel", "open")).code == 1, "it has ended"

        async with pool_of(migrated_database.url) as pool, pool.transaction() as conn:
            step = [
                event(seq, tenant=fleet.tenant, id="pay", key="trip", agent=agent, event=name, detail=detail)
                for seq, (name, detail, agent) in enumerate(
                    [("submitted", "pay.normal", "_workflow"), ("claimed", "1", "w1"), ("rejected", "", "w1")], 1
                )
            ]
            assert await entities.project(conn, [step]) == [{}]
        dry = await cli("dlq", "redrive", *mine, "--dry-run", "-o", "json")
        assert "1 tasks of workflows (trip)" in dry.err
        listed = (await cli("dlq", "redrive", *mine, "--dry-run", "--workflow-tasks", "-o", "json")).json
        assert {(r["id"], r["key"]) for r in listed} == {("dead", "dead"), ("pay", "trip")}
        listed = dry.json
        assert [(r["id"], r["status"], r["seq"]) for r in listed] == [("dead", "failed", None)]
        again = await cli("task", "retry", "dead", "-o", "json")
        assert again.json["id"] == "dead"
        await rows("task", "ls", *mine, "--status", "failed", until_=lambda r: r != [] and r[0]["attempts"] == 2)
        state["broken"] = False
        driven = (await cli("dlq", "redrive", *mine, "--capability", "shaky", "-o", "json")).json
        assert [(r["id"], r["refused"], r["seq"] > 0) for r in driven] == [("dead", None, True)]
        await rows("task", "ls", *mine, "--status", "completed", until_=lambda r: len(r) == 2)
        assert (await cli("task", "retry", "dead")).code == 1, "it is completed"
        assert (await cli("task", "retry", "never")).code == 4


async def test_many_are_cancelled_and_submitted_again_by_a_selection(fleet: Fleet) -> None:
    mine = ("--tenant", fleet.tenant)
    flow = coord.Workflow("stuck")
    flow.task("first", "rare")
    async with fleet.client("boss") as boss, fleet.client("other") as other:
        for number in range(3):
            await (boss if number else other).submit("rare", number, id=f"r{number}")
        await boss.submit("odd", id="odd")
        await boss.start_workflow(flow, id="w1")
    await rows("task", "ls", *mine, until_=lambda r: len(r) == 5)
    which = (*mine, "--capability", "rare")
    asked = await cli("task", "cancel", *which, "-o", "json")
    assert (asked.code, "3 would be cancelled. Nothing was done: --yes does it." in asked.err) == (1, True)
    assert "1 tasks of workflows" in asked.err
    dry = await cli("task", "cancel", *which, "--older-than", "1h", "--dry-run", "-o", "json")
    assert (dry.code, dry.json) == (0, [])
    done = await cli("task", "cancel", *which, "--yes", "-o", "json")
    assert {(row["id"], row["result"]) for row in done.json} == {(f"r{n}", "cancelled") for n in range(3)}
    assert (done.code, "3 cancelled, 0 had ended, 0 refused." in done.err) == (0, True)
    await rows("task", "ls", *mine, "--status", "cancelled", until_=lambda r: len(r) == 3)
    assert (await cli("task", "cancel", *which, "--yes", "-o", "json")).json == [], "said again, nothing is left"
    again = await cli("task", "retry", *which, "--status", "cancelled", "--limit", "2", "--yes", "-o", "json")
    assert [row["result"] for row in again.json] == ["submitted"] * 2
    assert "There may be more than 2" in again.err
    assert (await cli("task", "cancel", *mine)).code == 2, "neither one nor a selection"
    assert (await cli("task", "cancel", "odd", *which)).code == 2, "both"

    stopped = await cli("workflow", "cancel", *mine, "--name", "stuck", "--yes", "-o", "json")
    assert [(row["id"], row["result"]) for row in stopped.json] == [("w1", "cancelled")]
    await rows("workflow", "ls", *mine, "--status", "cancelled", until_=len)


async def test_what_waits_and_who_has_it_is_listed(fleet: Fleet) -> None:
    mine = ("--tenant", fleet.tenant)
    flow = coord.Workflow("chain", version="2")
    flow.task("first", "rare")
    async with fleet.client("boss") as boss, fleet.client("other") as other:
        await boss.start_workflow(flow, {}, id="w1")
        offer = await boss.handoff({"n": 1}, to="other", reason="late", id="h1", timeout_s=600)
        async with boss.lock("db"):
            wanted = other.lock("db", timeout_s=90)
            entering = asyncio.create_task(wanted.__aenter__())
            found = await rows("lock", "ls", *mine, until_=lambda r: len(r) == 2)
            assert [(r["agent"], r["state"]) for r in found] == [("boss", "holds"), ("other", "waits")]
            assert (await rows("lock", "ls", *mine, "--agent", "other", until_=len))[0]["lock"] == "db"
            assert (await cli("lock", "ls", *mine, "--lock", "none", "-o", "json")).json == []
        await entering
        await wanted.__aexit__(None, None, None)
        listed = await rows("workflow", "ls", *mine, "--status", "running", until_=len)
        assert (listed[0]["id"], listed[0]["name"], listed[0]["version"], listed[0]["submitter"]) == (
            "w1", "chain", "2", "boss",
        )  # fmt: skip
        assert (await cli("workflow", "ls", *mine, "--name", "none", "-o", "json")).json == []

        listed = await rows("handoff", "ls", *mine, "--agent", "boss", until_=len)
        assert [(r["id"], r["status"], r["addressee"]) for r in listed] == [("h1", "offered", "other")]
        assert (await cli("handoff", "ls", *mine, "--status", "accepted", "-o", "json")).json == []
        await offer.withdraw("done elsewhere")

        async def withdrawn() -> bool:
            shown = (await cli("handoff", "get", "h1", "-o", "json")).json
            return bool(shown["status"] == "withdrawn") and bool(shown["history"][0]["event"] == "offered")

        await until(withdrawn)
        assert "withdrawn" in (await cli("handoff", "get", "h1")).out
        assert (await cli("handoff", "get", "never")).code == 4

        await boss.signals.raise_("up")
        waiting = asyncio.create_task(other.signals.wait("never-up", timeout_s=90))
        found = await rows("signal", "ls", *mine, "--waiting", until_=len)
        assert [(r["signal"], r["waits"]) for r in found] == [("never-up", "other")]
        assert [r["signal"] for r in (await cli("signal", "ls", *mine, "--name", "up", "-o", "json")).json] == ["up"]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
