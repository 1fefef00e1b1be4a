"""Status by changes, end to end: followers and the table show what the agent says, whatever was lost."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from coord import errors, limits
from coord.client.connect import Coord
from coord.client.statuses import AgentStatus, Statuses
from coord.ops.devstack.nats import NatsServer
from coord.wire.envelope import Fact
from tests.support.cluster import Database
from tests.support.log import open_log, projector, query_service
from tests.support.publishing import client
from tests.support.store import pool_of
from tests.support.waiting import until


async def until_shown(statuses: Statuses, state: Any) -> list[AgentStatus]:
    """Follow until the agent's state is shown and current."""
    seen: list[AgentStatus] = []
    async with asyncio.timeout(60):
        async for status in statuses:
            seen.append(status)
            if status.state == state and not status.stale:
                return seen
    raise AssertionError("the statuses ended")


def lose(c: Coord, **members: Any) -> None:
    """The agent says something that is stored nowhere, and believes that it is."""
    assert c.status._sender.change(members, [], time.monotonic()) is not None


def seconds_since(began: float) -> int:
    """Whole ones: whoever asks when an answer was just given has the next one a second later."""
    return int((time.monotonic() - began) / limits.STATUS_ASK_FIRST_S)


PAD = {f"field_{n}": f"value {n}" for n in range(12)}


async def test_a_follower_sees_what_the_agent_says(nats_server: NatsServer) -> None:
    async with (
        open_log(nats_server.url) as log,
        query_service(nats_server.url),
        client(nats_server.url, tenant=log.tenant) as c,
    ):
        async with c.statuses("a1") as statuses:
            assert await c.status.replace({"load": 0, **PAD}) is not None
            for load in range(1, 50):
                assert await c.status.update(load=load) is not None
            assert await c.status.update(load=49) is None  # says nothing
            receipt = await c.status.update({"a b": None}, unset=["field_3"])
            assert receipt is not None
            await receipt
            seen = await until_shown(statuses, c.status.state)
        loads = [status.state["load"] for status in seen]
        assert loads == sorted(loads)
        assert not any(status.stale for status in seen)
        assert "field_3" not in seen[-1].state
        assert seen[-1].state["a b"] is None


async def test_whoever_begins_in_the_middle_or_misses_something_asks(nats_server: NatsServer) -> None:
    async with (
        open_log(nats_server.url) as log,
        query_service(nats_server.url),
        client(nats_server.url, tenant=log.tenant) as c,
        client(nats_server.url, tenant=log.tenant, agent="b2") as other,
    ):
        began = time.monotonic()
        await c.status.replace({"load": 0, **PAD})
        await c.flush()
        async with c.statuses() as first, other.statuses() as second:
            await c.status.update(load=1)
            for statuses in (first, second):
                seen = await until_shown(statuses, {"load": 1, **PAD})
                assert (seen[0].state, seen[0].stale) == (None, True)  # it began in the middle
            lose(c, load=2)
            await c.status.update(load=3)
            for statuses in (first, second):
                seen = await until_shown(statuses, {"load": 3, **PAD})
                assert (seen[0].state, seen[0].stale) == ({"load": 1, **PAD}, True)
            assert first.asked + second.asked >= 2
            assert 2 <= c.status.answered <= 2 + seconds_since(began)  # two gaps, however many asked


async def test_asking_often_is_answered_once_a_second(nats_server: NatsServer) -> None:
    async with (
        open_log(nats_server.url) as log,
        query_service(nats_server.url),
        client(nats_server.url, tenant=log.tenant) as c,
    ):
        began = time.monotonic()
        await c.status.replace({"load": 0})
        async with c.statuses() as statuses:
            for _ in range(50):
                statuses.ask("a1")
            await until_shown(statuses, {"load": 0})
            await log.conn.flush()
            assert 1 <= c.status.answered <= 1 + seconds_since(began)


async def test_what_was_not_stored_comes_whole_with_the_next(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_log(nats_server.url) as log,
        query_service(nats_server.url),
        client(nats_server.url, tenant=log.tenant) as c,
    ):
        await c.status.replace({"load": 0, **PAD})
        accept = c._publisher.emit

        async def full(item: Any, /, **_: Any) -> Any:
            raise errors.Overloaded("no room", retry_after_s=1)

        async with c.statuses() as statuses:
            monkeypatch.setattr(c._publisher, "emit", full)
            with pytest.raises(errors.Overloaded):
                await c.status.update(load=1)
            monkeypatch.setattr(c._publisher, "emit", accept)
            await c.status.update(load=2)
            assert len(await until_shown(statuses, {"load": 2, **PAD})) == 1
            assert statuses.asked == 0
            receipt = await c.status.update(load=3)
            assert receipt is not None
            await receipt
            receipt.ack, receipt.error = None, errors.PublishTimeout("as if it had never been stored")
            c.status._unsettled.append(receipt)
            c.status._checked()  # what a timer does, for an agent that has nothing more to say
            await until_shown(statuses, {"load": 3, **PAD})
            await until(lambda: c.status._sender._changes == 0)  # it was whole


async def test_the_table_follows_and_asks(nats_server: NatsServer, migrated_database: Database) -> None:
    async with (
        open_log(nats_server.url) as log,
        projector(nats_server.url, migrated_database.url),
        client(nats_server.url, tenant=log.tenant) as c,
        pool_of(migrated_database.url) as pool,
    ):

        async def shown() -> tuple[Any, bool]:
            async with pool.acquire() as conn:
                row = await conn.fetchrow(
                    "SELECT status, status_stale FROM coord.v_agent_status WHERE tenant = $1", log.tenant
                )
            return (None, False) if row is None else (json.loads(row["status"]), row["status_stale"])

        async def until_table(state: Any) -> None:
            async def is_it() -> bool:
                return await shown() == (state, False)

            await until(is_it, every_s=0.02)

        await c.status.replace({"load": 0, **PAD})
        for load in range(1, 150):
            await c.status.update(load=load)
        await until_table({"load": 149, **PAD})
        began = time.monotonic()
        lose(c, load=150)
        await c.status.update(task="t1")
        await until_table({"load": 150, "task": "t1", **PAD})
        assert 1 <= c.status.answered <= 1 + seconds_since(began)
        await c.emit(Fact(kind="agent", id="a1", event="status", data={"plain": True}))
        await until_table({"plain": True})
