"""Rows into the tables and back, with everything a sender may put into them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import asyncpg
import msgspec
import pytest

from coord import errors, limits
from coord.store import copy
from coord.store.pool import Connection, Pool
from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS, AgentRow, DeadLetterRow
from tests.support.cluster import Database
from tests.support.store import T0, event, pool_of, sample

LONG_AGO = datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
FAR_AHEAD = datetime(9999, 12, 31, 23, 59, 59, 999998, tzinfo=UTC)


@pytest.fixture
async def conn(pool: Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as conn:
        yield conn


async def stored(conn: Connection, table: str, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    rows = await conn.fetch(f"SELECT {', '.join(columns)} FROM coord.{table} ORDER BY epoch, seq, idx")
    return [tuple(r) for r in rows]


def equal(row: tuple[Any, ...], back: tuple[Any, ...]) -> bool:
    """Equal, JSON compared as values: jsonb keeps neither spaces nor the order of keys."""
    *values, data = row
    *values_back, data_back = back
    as_value = [None if d is None else json.loads(d, parse_int=Decimal, parse_float=Decimal) for d in (data, data_back)]
    return values == values_back and as_value[0] == as_value[1]


async def test_what_goes_in_comes_out(conn: Connection) -> None:
    rows = [
        event(1),
        event(2, data=None),
        event(3, data='""', detail="", event_id="x", correlation_id="", traceparent=""),
        event(4, data='"übergröße 漢字 🧪 \\u2028 \\\\ \\" \x7f"', event_id="é🧪\t\r\n\\N", correlation_id="\\."),
        event(5, data=json.dumps({"nested": [{"a": [1, 2.5, None, True]}] * 3, "ключ": "значение"})),
        event(6, data=json.dumps("x" * (limits.EVENT_BYTES_MAX - 2))),
        event(7, data="[" * limits.NESTING_MAX + "]" * limits.NESTING_MAX),
        event(8, data="1e400"),
        event(9, data="123456789012345678901234567890.000000000000000000001"),
        event(2**63 - 1, at=T0, epoch=2**31 - 1, idx=2**31 - 1, partition=15, schema=limits.SCHEMA_VERSION_MAX),
        event(10, occurred_at=LONG_AGO),
        event(11, occurred_at=FAR_AHEAD),
        event(12, occurred_at=datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
        event(13, tenant="t" * 64, agent="a" * 64, key="k" * 64, kind="k" * 64, id="i" * 64, event="e" * 64),
    ]
    await copy.events(conn, rows)
    back = await stored(conn, "event", EVENT_COLUMNS)
    expected = sorted(rows, key=lambda r: r[1:4])
    assert len(back) == len(rows)
    for row, found in zip(expected, back, strict=True):
        assert equal(row, found), row[2]


async def test_random_rows(conn: Connection, rng: random.Random) -> None:
    alphabet = [chr(c) for c in (*range(1, 0x250), 0x2028, 0xFFFD, 0xFFFF, 0x10FFFF, *range(0x1F600, 0x1F640))]

    def text() -> str:
        return "".join(rng.choices(alphabet, k=rng.choice((0, 1, 3, 40))))

    rows = [
        event(
            i,
            at=T0 + timedelta(seconds=rng.uniform(0, 1e6)),
            idx=rng.randrange(1000),
            event_id=text(),
            type=text(),
            correlation_id=rng.choice((None, text())),
            data=json.dumps({text(): [text(), rng.random(), None]}, ensure_ascii=rng.random() < 0.5),
        )
        for i in range(500)
    ]
    await copy.events(conn, rows)
    for row, found in zip(rows, await stored(conn, "event", EVENT_COLUMNS), strict=True):
        assert equal(row, found)


async def test_samples(conn: Connection) -> None:
    rows = [
        sample(1),
        sample(2, value=-0.0, data='{"gpu":1}'),
        sample(3, value=1.7976931348623157e308),
        sample(4, value=5e-324, occurred_at=LONG_AGO),
    ]
    await copy.samples(conn, rows)
    assert await stored(conn, "metric_sample", SAMPLE_COLUMNS) == [
        (*r[:-1], None if r[-1] is None else '{"gpu": 1}') for r in rows
    ]


async def test_nothing_is_nothing(conn: Connection) -> None:
    await copy.events(conn, [])
    await copy.samples(conn, [])
    await copy.upsert_agents(conn, [])
    await copy.dead_letters(conn, [])


async def test_projected_at_is_the_databases_time(conn: Connection) -> None:
    before = await conn.fetchval("SELECT clock_timestamp()")
    await copy.events(conn, [event(i) for i in range(5)])
    times = await conn.fetch("SELECT DISTINCT projected_at FROM coord.event")
    assert len(times) == 1
    assert before <= times[0][0] <= await conn.fetchval("SELECT clock_timestamp()")


REFUSED: dict[str, dict[str, object]] = {
    "nul in text": {"event_id": "a\x00b"},
    "nul in json": {"data": '"\\u0000"'},
    "raw nul in json": {"data": '"\x00"'},
    "surrogate": {"event_id": "\ud800"},
    "no json": {"data": "{"},
    "empty json": {"data": ""},
    "nan": {"data": "NaN"},
    "a number beyond all bounds": {"data": "1e131072"},
    "deep json": {"data": "[" * 100_000 + "]" * 100_000},
    "null where there must be text": {"event": None},
    "number too large": {"schema": 2**31},
    "far too large": {"epoch": 2**63},
}


DEFECTS: dict[str, dict[str, object]] = {
    "not a time": {"occurred_at": "yesterday"},
    "not text": {"event": 5},
    "not a number": {"epoch": "1"},
}


@pytest.mark.parametrize("fields", DEFECTS.values(), ids=DEFECTS.keys())
async def test_a_row_that_coord_built_wrongly_is_no_dead_letter(pool: Pool, fields: dict[str, object]) -> None:
    """It would not be the sender's fault, and every other fact would be wrong as well."""
    with pytest.raises(errors.StoreError) as caught:
        async with pool.transaction() as conn:
            await copy.events(conn, [event(1), event(2, **fields)])
    assert type(caught.value) is errors.StoreError
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM coord.event") == 0


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("rows", [1, 50])
async def test_a_row_the_database_cannot_take_is_refused_and_leaves_nothing(
    pool: Pool, fields: dict[str, object], rows: int
) -> None:
    bad = [*(event(i) for i in range(rows - 1)), event(99, **fields)]
    with pytest.raises(errors.DatabaseRefused) as caught:
        async with pool.transaction() as conn:
            await copy.events(conn, bad)
    assert caught.value.fault is errors.Fault.SENDER
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM coord.event") == 0
        # The connection is as good as before.
        await copy.events(conn, [event(1)])
    assert pool.stats.connects_total == 1


async def test_a_savepoint_survives_a_refused_row(pool: Pool) -> None:
    """The projector looks for the row inside its transaction."""
    async with pool.transaction() as conn:
        await copy.events(conn, [event(1)])
        for fields in REFUSED.values():
            with pytest.raises(errors.DatabaseRefused):
                async with conn.transaction():
                    await copy.events(conn, [event(2), event(3, **fields)])
        await copy.events(conn, [event(4)])
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT array_agg(seq ORDER BY seq) FROM coord.event") == [1, 4]


async def test_a_table_that_is_not_there_is_the_operators_fault(bare_database: Database) -> None:
    async with pool_of(bare_database.url) as pool:
        with pytest.raises(errors.DatabaseNotReady, match="does not exist"):
            async with pool.transaction() as conn:
                await copy.events(conn, [event(1)])


# --- agents ------------------------------------------------------------------------------


def agent(seq: int, name: str = "a1", **fields: Any) -> AgentRow:
    at = T0 + timedelta(seconds=seq)
    row = AgentRow(tenant="acme", agent=name, seen_first=at, seen_last=at, epoch=1, seq=seq)
    return msgspec.structs.replace(row, **fields)


async def agents(conn: Connection) -> dict[str, asyncpg.Record]:
    return {r["agent"]: r for r in await conn.fetch("SELECT * FROM coord.agent")}


async def test_agents_are_upserted_field_by_field(conn: Connection) -> None:
    await copy.upsert_agents(conn, [agent(5, status='{"load":1}')])
    first = (await agents(conn))["a1"]
    assert (first["state"], json.loads(first["status"]), first["seq"]) == ("alive", {"load": 1}, 5)
    await copy.upsert_agents(conn, [agent(7, state="draining"), agent(6, "b2", state="left", status="[]")])
    both = await agents(conn)
    a1 = both["a1"]
    assert (a1["state"], json.loads(a1["status"]), a1["seq"]) == ("draining", {"load": 1}, 7)
    assert (a1["first_seen"], a1["last_seen"]) == (T0 + timedelta(seconds=5), T0 + timedelta(seconds=7))
    assert both["b2"]["state"] == "left"
    # Neither state nor status told: both stay.
    await copy.upsert_agents(conn, [agent(8)])
    a1 = (await agents(conn))["a1"]
    assert (a1["state"], json.loads(a1["status"]), a1["seq"]) == ("draining", {"load": 1}, 8)


async def test_an_older_place_in_the_log_never_overwrites(conn: Connection) -> None:
    await copy.upsert_agents(conn, [agent(5, state="left", epoch=2, idx=3)])
    for older in (agent(5, state="alive", epoch=2, idx=2), agent(4, epoch=2, state="alive"), agent(99, state="alive")):
        await copy.upsert_agents(conn, [older])
    found = (await agents(conn))["a1"]
    assert (found["state"], found["epoch"], found["seq"], found["idx"]) == ("left", 2, 5, 3)
    await copy.upsert_agents(conn, [agent(5, state="alive", epoch=2, idx=4)])
    assert (await agents(conn))["a1"]["state"] == "alive"


async def test_one_agent_many_times_in_a_batch(conn: Connection) -> None:
    rows = [agent(i, f"a{i % 3}", state="alive" if i < 6 else None, status=f'{{"n":{i}}}') for i in range(9)]
    await copy.upsert_agents(conn, rows)
    found = await agents(conn)
    assert {a: (r["state"], json.loads(r["status"])["n"]) for a, r in found.items()} == {
        "a0": ("alive", 6),
        "a1": ("alive", 7),
        "a2": ("alive", 8),
    }


async def test_two_writers_of_the_same_agents_do_not_deadlock(pool: Pool, rng: random.Random) -> None:
    async def write(epoch: int) -> None:
        for seq in range(30):
            rows = [agent(seq, f"a{i}", epoch=epoch) for i in range(40)]
            rng.shuffle(rows)
            async with pool.transaction() as conn:
                await copy.upsert_agents(conn, rows)

    await asyncio.gather(write(1), write(2), write(3))
    async with pool.acquire() as conn:
        assert {(r["epoch"], r["seq"]) for r in (await agents(conn)).values()} == {(3, 29)}


async def test_a_status_that_is_no_json_is_refused(pool: Pool) -> None:
    with pytest.raises(errors.DatabaseRefused):
        async with pool.transaction() as conn:
            await copy.upsert_agents(conn, [agent(1, status="{")])


# --- dead letters ------------------------------------------------------------------------


def letter(seq: int, **fields: Any) -> DeadLetterRow:
    row = DeadLetterRow(
        stream="EVENTS",
        epoch=1,
        seq=seq,
        partition=3,
        subject="coord.log.3.acme.k.task.t.a.submitted",
        code="wire.payload",
        reason="not JSON",
        body=b"\x00\xff{",
        body_bytes=3,
        stored_at=T0,
    )
    return msgspec.structs.replace(row, **fields)


async def test_a_dead_letter_takes_whatever_a_sender_sent(conn: Connection) -> None:
    await copy.dead_letters(
        conn,
        [
            letter(1),
            letter(
                2,
                idx=7,
                subject="coord.log.\x00\ud800\\xff",
                tenant="\ud800",
                agent="\x00",
                reason="\udcff\x00",
                headers="NATS/1.0\r\nX: \x00\udc80\r\n\r\n",
                body=b"",
                body_bytes=0,
            ),
            letter(3, body=b"x" * (limits.DEAD_LETTER_BODY_BYTES_MAX + 1), body_bytes=10**6),
        ],
    )
    one, two, three = await conn.fetch("SELECT * FROM coord.dead_letter ORDER BY seq")
    assert (one["body"], one["tenant"], one["headers"]) == (b"\x00\xff{", None, None)
    assert (two["subject"], two["tenant"], two["agent"]) == ("coord.log.\\x00\\ud800\\xff", "\\ud800", "\\x00")
    assert (two["body"], two["headers"]) == (b"", "NATS/1.0\r\nX: \\x00\\udc80\r\n\r\n")
    assert (len(three["body"]), three["body_bytes"]) == (limits.DEAD_LETTER_BODY_BYTES_MAX, 10**6)


async def test_a_letter_is_parked_once(conn: Connection) -> None:
    await copy.dead_letters(conn, [letter(1), letter(1, idx=1), letter(1, stream="TELEMETRY")])
    await copy.dead_letters(conn, [letter(1, reason="again"), letter(1, epoch=2)])
    rows = await conn.fetch("SELECT reason FROM coord.dead_letter")
    assert [r["reason"] for r in rows] == ["not JSON"] * 4


async def test_many_large_letters_go_in_pieces(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEAD_LETTER_STATEMENT_BYTES_MAX", 100_000)
    rows = [letter(i, body=bytes(40_000), body_bytes=40_000) for i in range(11)]
    assert [len(p) for p in copy._pieces(rows)] == [2, 2, 2, 2, 2, 1]
    await copy.dead_letters(conn, rows)
    assert await conn.fetchval("SELECT count(*) FROM coord.dead_letter") == 11
