"""Rows of entities that ended are removed, what is open or in use stays, and nobody waits for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from coord import errors
from coord.projector import entities
from coord.store import copy
from coord.store.maintenance import remove_ended
from coord.store.rows import AgentRow, EventRow
from tests.support.cluster import Database
from tests.support.rolling import checkpoints_sql
from tests.support.store import event, pool_of

NOW = datetime.now(UTC)
OLD, NEW = NOW - timedelta(days=40), NOW - timedelta(days=1)
KEEP = timedelta(days=30)


class Log:
    """Facts with growing sequences."""

    def __init__(self) -> None:
        self.rows: list[EventRow] = []

    def add(self, at: datetime, kind: str, id_: str, name: str, data: Any = None, detail: str = "") -> None:
        seq = len(self.rows) + 1
        key = "flags" if kind == "flag" else id_
        body = msgspec.json.encode({} if data is None else data).decode()
        agent = id_ if kind == "agent" and name != "gone" else "_presence" if kind == "agent" else "a1"
        row = event(seq, at=at, kind=kind, id=id_, key=key, event=name, detail=detail, agent=agent, data=body)
        self.rows.append(row)


def life(log: Log, suffix: str, began: datetime, ended: datetime | None) -> None:
    """One entity of each kind, and its end."""
    log.add(began, "task", f"t-{suffix}", "submitted", detail="work.normal")
    log.add(began, "workflow", f"w-{suffix}", "started", {"definition": {"name": "n", "version": "1"}})
    log.add(began, "handoff", f"h-{suffix}", "offered", {"agent": "b"})
    log.add(began, "signal", f"s-{suffix}", "awaited", {"names": [f"s-{suffix}"]}, "tok")
    log.add(began, "lock", f"l-{suffix}", "requested", {"instance": "i1"}, "tok")
    log.add(began, "flag", f"f-{suffix}", "set", {"percentage": 10})
    log.add(began, "agent", f"g-{suffix}", "registered", {"instance": "i1", "capabilities": {"work": 1}})
    if ended is not None:
        log.add(ended, "task", f"t-{suffix}", "cancelled")
        log.add(ended, "workflow", f"w-{suffix}", "cancelled")
        log.add(ended, "handoff", f"h-{suffix}", "withdrawn")
        log.add(ended, "signal", f"s-{suffix}", "resumed", detail="tok")
        log.add(ended, "lock", f"l-{suffix}", "released", detail="tok")
        log.add(ended, "flag", f"f-{suffix}", "removed")
        log.add(ended, "agent", f"g-{suffix}", "gone", detail="i1.1")


TABLES = ("task", "workflow", "handoff", "signal", "lock", "flag", "agent_registry", "agent")


def agent(name: str, at: datetime) -> AgentRow:
    return AgentRow(tenant="acme", agent=name, seen_first=at, seen_last=at, epoch=1, seq=1)


async def test_what_ended_long_ago_goes_and_the_rest_stays(migrated_database: Database) -> None:
    log = Log()
    life(log, "over", OLD, OLD + timedelta(hours=1))
    life(log, "fresh", OLD, NEW)
    life(log, "open", OLD, None)
    async with pool_of(migrated_database.url) as pool:
        async with pool.transaction() as conn:
            assert await entities.project(conn, [log.rows]) == [{}]
            seen = {"g-over": OLD, "g-fresh": NEW, "g-open": OLD}
            await copy.upsert_agents(conn, [agent(name, at) for name, at in seen.items()])
        removed = await remove_ended(pool, KEEP)
        assert {one.relation: one.removed for one in removed} == dict.fromkeys(TABLES, 1)
        assert not any(one.more for one in removed)
        assert {one.relation: one.removed for one in await remove_ended(pool, KEEP)} == dict.fromkeys(TABLES, 0)
        async with pool.acquire() as conn:
            for table in TABLES:
                name = "agent" if table == "agent" else "id"
                left = {r[0].partition("-")[2] for r in await conn.fetch(f"SELECT {name} FROM coord.{table}")}
                assert left == {"fresh", "open"}, table


async def test_it_goes_in_bounded_steps_and_goes_on(migrated_database: Database) -> None:
    log = Log()
    for n in range(25):
        life(log, f"n{n}", OLD, OLD)
    async with pool_of(migrated_database.url) as pool:
        async with pool.transaction() as conn:
            await entities.project(conn, [log.rows])
            await copy.upsert_agents(conn, [agent(f"g-n{n}", OLD) for n in range(25)])
        first = await remove_ended(pool, KEEP, batch_rows=10, pause_s=0, steps_max=1)
        assert {one.relation: (one.removed, one.more) for one in first} == dict.fromkeys(TABLES, (10, True))
        rest = await remove_ended(pool, KEEP, batch_rows=10, pause_s=0)
        assert {one.relation: (one.removed, one.more) for one in rest} == dict.fromkeys(TABLES, (15, False))


async def test_a_row_that_its_projector_writes_is_left_and_nobody_waits(migrated_database: Database) -> None:
    log = Log()
    life(log, "over", OLD, OLD)
    async with pool_of(migrated_database.url) as pool:
        async with pool.transaction() as conn:
            await entities.project(conn, [log.rows])
        async with pool.transaction() as conn:
            # A redrive of what ended: the projector has the row in hand.
            again = event(99, at=NOW, id="t-over", key="t-over", agent="a1", detail="work.normal", data='{"redrive":1}')
            assert await entities.project(conn, [[again]]) == [{}]
            removed = {one.relation: one.removed for one in await remove_ended(pool, KEEP)}
            assert removed["task"] == 0
            assert removed["workflow"] == 1
        removed = {one.relation: one.removed for one in await remove_ended(pool, KEEP)}
        assert removed["task"] == 0, "it is open again"


async def test_a_clock_that_is_ahead_ends_nobody(migrated_database: Database) -> None:
    log = Log()
    life(log, "over", OLD, OLD)
    async with pool_of(migrated_database.url) as pool:
        async with pool.transaction() as conn:
            await entities.project(conn, [log.rows])
            # By the broker's clock what ended is 20 days old.
            await conn.execute(checkpoints_sql(OLD + timedelta(days=20)))
        assert not any(one.removed for one in await remove_ended(pool, KEEP))
        async with pool.acquire() as conn:
            await conn.execute(checkpoints_sql(OLD + timedelta(days=31)))
        assert {one.relation: one.removed for one in await remove_ended(pool, KEEP)}["task"] == 1


async def test_a_time_to_keep_that_is_none_is_refused(migrated_database: Database) -> None:
    async with pool_of(migrated_database.url) as pool:
        with pytest.raises(errors.SettingsError):
            await remove_ended(pool, timedelta(0))
