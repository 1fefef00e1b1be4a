"""Rows of entities when the log is replaced or has lost a part, and how large they may become (docs/adr/0082)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from coord import limits
from coord.projector import entities
from coord.store import entities as store
from coord.store.pool import Connection
from coord.store.rows import EventRow
from coord.wire import subjects
from tests.support.cluster import Database
from tests.support.store import event, pool_of


def fact(epoch: int, seq: int, name: str, data: Any = None, **fields: Any) -> EventRow:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=1000 * epoch + seq)
    text = msgspec.json.encode({} if data is None else data).decode()
    return event(seq, **{"epoch": epoch, "event": name, "data": text, "at": at, "agent": "me", "key": "t1"} | fields)


def submitted(epoch: int, seq: int, **fields: Any) -> EventRow:
    return fact(epoch, seq, "submitted", detail="work.normal", **fields)


async def project(conn: Connection, *rows: EventRow) -> dict[tuple[int, int], str]:
    async with conn.transaction():
        (refused,) = await entities.project(conn, [list(rows)])
    return {place: error.code for place, error in refused.items()}


async def task(conn: Connection) -> tuple[Any, ...]:
    return tuple(await conn.fetchrow("SELECT status, claimant, epoch, seq FROM coord.task WHERE id = 't1'") or ())


async def test_what_a_new_log_begins_again_is_begun_again(migrated_database: Database) -> None:
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        assert not await project(conn, submitted(1, 1), fact(1, 2, "claimed", detail="1", agent="w1"))
        assert await project(conn, submitted(1, 3, data={"input": 1})) == {(3, 0): "task.exists"}
        # The same log would refuse it; in another one it is the first.
        assert not await project(conn, submitted(2, 1, data={"input": 1}))
        assert await task(conn) == ("queued", None, 2, 1)
        assert not await project(conn, fact(2, 2, "claimed", detail="1", agent="w2"))
        assert await project(conn, submitted(2, 3, data={"input": 2})) == {(3, 0): "task.exists"}
        assert await task(conn) == ("claimed", "w2", 2, 2)


async def test_what_goes_on_behind_a_gap_goes_on_and_nobody_is_blamed_for_it(migrated_database: Database) -> None:
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        assert not await project(conn, submitted(1, 1))
        # Its claim was lost on the way into the tables: this cannot be believed, and is nobody's fault.
        assert not await project(conn, fact(2, 9, "progress", {"done": 0.5}, agent="w1"))
        assert await task(conn) == ("queued", None, 1, 1)
        assert not await project(conn, fact(2, 10, "claimed", detail="1", agent="w1"))
        assert not await project(conn, fact(2, 11, "completed", agent="w1"))
        assert await task(conn) == ("completed", "w1", 2, 11)
        assert await project(conn, fact(2, 12, "completed", agent="w2")) == {(12, 0): "task.finished"}


async def test_a_log_that_is_gone_takes_what_was_open_with_it(migrated_database: Database) -> None:
    def about(kind: str, id_: str, name: str, data: Any, seq: int, detail: str = "") -> EventRow:
        key = "flags" if kind == "flag" else id_
        agent = id_ if kind == "agent" else "a1"
        return fact(1, seq, name, data, kind=kind, id=id_, key=key, detail=detail, agent=agent)

    log = [
        submitted(1, 1, id="t-open", key="t-open"),
        submitted(1, 2, id="t-over", key="t-over"),
        fact(1, 3, "cancelled", id="t-over", key="t-over"),
        about("workflow", "w", "started", {"definition": {"name": "n", "version": "1"}}, 4),
        about("handoff", "h", "offered", {"agent": "b"}, 5),
        about("signal", "s", "raised", {}, 6),
        about("lock", "l", "requested", {"instance": "i"}, 7, "tok"),
        about("flag", "f", "set", {"percentage": 10}, 8),
        about("agent", "g", "registered", {"instance": "i1", "capabilities": {"work": 1}}, 9),
    ]
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        assert not await project(conn, *log)
        mine = subjects.partition("t-open")
        assert {k: v for k, v in (await store.lose(conn, lambda _: False)).items() if v} == {}
        one = await store.lose(conn, lambda key: subjects.partition(key) == mine)
        assert one["task"] == 1
        rest = await store.lose(conn, lambda _: True)
        both = {name: one[name] + rest[name] for name in one}
        assert both == dict.fromkeys(("task", "workflow", "handoff", "signal", "lock", "flag", "agent_registry"), 1)
        found = await conn.fetch("SELECT id, status, ended_at IS NULL AS open FROM coord.v_task ORDER BY id")
        assert [tuple(r) for r in found] == [("t-open", "lost", False), ("t-over", "cancelled", False)]
        assert not await conn.fetch("SELECT FROM coord.v_waiting")
        # It may be submitted again, to the log that there is now.
        assert not await project(conn, submitted(2, 1, id="t-open", key="t-open"))
        assert await conn.fetchval("SELECT status FROM coord.task WHERE id = 't-open'") == "queued"


async def test_rows_stay_small_whatever_is_said(migrated_database: Database) -> None:
    long = "x" * 200_000
    log = [submitted(1, 1, data={"input": long, "labels": {"l": long}, "retries": 1000})]
    seq = 1
    for n in range(1, 50):
        log += [
            fact(1, seq + 1, "claimed", detail=str(n), agent="w"),
            fact(1, seq + 2, "failed", {"error": "E", "message": long}, agent="w"),
        ]
        seq += 2
    log += [fact(1, seq + n, "progress", {"done": n / 2000}, agent="w") for n in range(1, 2_000)]
    waits = [
        fact(1, 10_000 + n, "awaited", {"names": ["s"]}, kind="signal", id="s", key="s", detail=f"tok{n}", agent="a1")
        for n in range(1_500)
    ]
    gone = [
        fact(1, 20_000 + 2 * n + m, name, {"instance": f"i{n}", "capabilities": {"work": 1}}, kind="agent", id="a1",
             key="a1", detail="" if not m else f"i{n}.1", agent="_presence" if m else "a1")
        for n in range(300)
        for m, name in enumerate(("registered", "gone"))
    ]  # fmt: skip
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        refused = await project(conn, *log)
        if refused:
            assert set(refused.values()) == {"task.not_claimant"}, "progress of a task that waits"
            assert not await project(conn, *[row for row in log if (row[2], row[3]) not in refused])
        assert not await project(conn, *waits)
        assert not await project(conn, *gone)
        fold = await conn.fetchval("SELECT octet_length(fold) FROM coord.task WHERE id = 't1'")
        assert fold < limits.ENTITY_TEXT_CHARS + 1_000
        assert await conn.fetchval("SELECT length(message) FROM coord.task") == limits.ENTITY_TEXT_CHARS
        row = await conn.fetchrow("SELECT waiting, (SELECT count(*) FROM jsonb_object_keys(waits)) FROM coord.signal")
        assert tuple(row or ()) == (1_500, limits.ENTITY_LISTED_MAX)
        kept = await conn.fetchval("SELECT count(*) FROM coord.agent_registry, jsonb_object_keys(instances)")
        assert kept == limits.REGISTRY_ENDED_KEPT


async def test_a_row_that_would_be_too_large_stays_as_it_was(migrated_database: Database, monkeypatch: Any) -> None:
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        assert not await project(conn, submitted(1, 1))
        monkeypatch.setattr(limits, "ENTITY_FOLD_BYTES_MAX", 10)
        assert not await project(conn, fact(1, 2, "claimed", detail="1", agent="w1"))
        assert await task(conn) == ("queued", None, 1, 1)


async def test_a_row_that_lags_makes_no_dead_letters_of_what_it_does_not_know(
    migrated_database: Database, monkeypatch: Any
) -> None:
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        assert not await project(conn, submitted(1, 1))
        with monkeypatch.context() as patch:
            patch.setattr(limits, "ENTITY_FOLD_BYTES_MAX", 10)
            claimed = fact(1, 2, "claimed", detail="1", agent="w1")
            assert not await project(conn, claimed)
            assert not await project(conn, claimed), "again, after a crash"
            # Valid, as whoever knows of the claim can tell: the row does not.
            assert not await project(conn, fact(1, 3, "progress", {"done": 0.5}, agent="w1"))
        assert not await project(conn, fact(1, 4, "completed", agent="w1"))
        assert (await task(conn))[:2] == ("queued", None)
        # What is believed is written again; what was missed stays missed.
        assert not await project(conn, fact(1, 5, "cancelled"))
        assert (await task(conn))[0] == "cancelled"
        assert not await project(conn, fact(1, 6, "completed", agent="w1"))
        # Begun anew it lacks nothing.
        assert not await project(conn, submitted(2, 1, data={"input": 1}))
        assert await project(conn, fact(2, 2, "completed", agent="w1")) == {(2, 0): "task.not_claimant"}


async def test_the_same_said_again_behind_a_gap_begins_nothing(migrated_database: Database) -> None:
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        started = {"definition": {"name": "n", "version": "1"}}
        run = {"kind": "workflow", "id": "w", "key": "w"}
        assert not await project(
            conn, submitted(1, 1), fact(1, 2, "claimed", detail="1", agent="w1"),
            fact(1, 3, "started", started, **run), fact(1, 4, "cancelled", **run),
        )  # fmt: skip
        assert not await project(conn, submitted(2, 5), fact(2, 6, "started", started, **run))
        assert await task(conn) == ("claimed", "w1", 1, 2)
        assert await conn.fetchval("SELECT status FROM coord.workflow") == "cancelled"
        assert not await project(conn, fact(2, 7, "completed", agent="w1"))
        assert (await task(conn))[0] == "completed"
