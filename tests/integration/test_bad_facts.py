"""What somebody states who may not, or no more: it changes nothing, is a dead letter with its reason, harms nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

import coord
from coord import errors
from coord.wire.records import Fact
from tests.support.cluster import Database
from tests.support.log import projector
from tests.support.tasks import Fleet, services
from tests.support.waiting import until

WAIT_S = 150


@pytest.fixture
async def fleet(nats_server, migrated_database: Database) -> AsyncIterator[Fleet]:
    async with services(nats_server.url) as found, projector(nats_server.url, migrated_database.url):
        yield found


def adder() -> coord.Agent:
    agent = coord.Agent("adder")

    @agent.task("add")
    async def add(numbers: list[int]) -> int:
        return sum(numbers)

    return agent


async def letters(database: Database, tenant: str, count: int) -> dict[str, Any]:
    """Code → reason of this tenant's dead letters, once there are so many."""
    conn = await asyncpg.connect(database.url)
    try:

        async def enough() -> list[Any] | None:
            found = await conn.fetch(
                "SELECT code, reason, agent FROM coord.dead_letter WHERE tenant = $1 ORDER BY seq", tenant
            )
            return list(found) if len(found) >= count else None

        rows = await until(enough)
    finally:
        await conn.close()
    assert len(rows) == count
    return {row["code"]: (row["agent"], row["reason"]) for row in rows}


async def test_what_others_say_of_a_task_is_parked_and_its_outcome_stands(
    fleet: Fleet, migrated_database: Database
) -> None:
    async with (
        adder().connect(fleet.url, tenant=fleet.tenant),
        fleet.client("boss") as boss,
        fleet.client("stranger") as stranger,
    ):
        handle = await boss.submit("add", [1, 2], id="sum")
        first = (await handle.status()).event_id

        async def say(event: str, data: Any, *detail: str) -> None:
            await stranger.publish(Fact(kind="task", id="sum", key="sum", event=event, data=data, detail=detail))

        assert await handle.result(WAIT_S) == 3
        # Other work under the same id, an outcome of a claim that is another's, an end by somebody else.
        await say("submitted", {"input": [7]}, "add", "normal")
        await say("completed", {"claim": 1, "output": 99})
        open_ = await boss.submit("nobody-can", None, id="open")
        stated = Fact(kind="task", id="open", key="open", event="completed", data={"claim": 1, "output": 1})
        await stranger.publish(stated)
        await stranger.publish(Fact(kind="task", id="open", key="open", event="cancelled"))
        found = await letters(migrated_database, fleet.tenant, 4)
        assert set(found) == {"task.exists", "task.finished", "task.not_claimant", "task.not_submitter"}
        assert found["task.exists"][0] == "stranger"
        assert f"{first}, by boss" in found["task.exists"][1]
        assert (await handle.status()).submitter == "boss"
        assert await boss.task("sum").result(WAIT_S) == 3
        assert (await open_.status()).status == "queued"


async def test_an_offer_made_twice_is_no_dead_letter(fleet: Fleet, migrated_database: Database) -> None:
    async with fleet.client("plain") as plain:

        async def offer(work: Any) -> None:
            said = {"agent": "absent", "work": work, "context": {"a": 1, "b": 2}, "timeout_ms": 600_000}
            await plain.publish(Fact(kind="handoff", id="h1", event="offered", data=said))

        await offer({"x": 1, "y": 2})
        await offer({"y": 2, "x": 1})  # who does not know whether it arrived sends it again
        await offer({"x": 1, "y": 3})
        found = await letters(migrated_database, fleet.tenant, 1)
        assert set(found) == {"handoff.exists"}


async def test_a_signal_to_a_workflow_that_is_not_there(fleet: Fleet) -> None:
    flow = coord.Workflow("gated")
    flow.signal("gate", "go")
    async with fleet.client("boss") as boss:
        with pytest.raises(errors.UnknownWorkflow):
            await boss.workflow("later").signal("go", 1)
        # A plain client does not ask: the signal is a latch of that key, and counts when the workflow comes.
        await boss.signals.raise_("go", {"n": 5}, key="later")
        handle = await boss.start_workflow(flow, {}, id="later")
        assert await handle.result(WAIT_S) == {"n": 5}
