"""The questions an index was made for use it, and a bound on stored_at opens only its chunks."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from coord.store import copy
from coord.store.pool import Connection
from tests.support.cluster import Database
from tests.support.store import T0, event, pool_of, sample

CHUNK = timedelta(hours=6)
AGENTS, KEYS, ROWS = 50, 500, 6_000


@pytest.fixture
async def filled(either_database: Database) -> AsyncIterator[Connection]:
    """A day of facts and samples, four chunks where there are chunks; on the server's edition and on plain."""
    async with pool_of(either_database.url) as pool, pool.acquire() as conn:
        await fill(conn)
        yield conn


only = functools.partial(pytest.mark.parametrize, "either_database", indirect=True)


async def fill(conn: Connection) -> None:
    step = 4 * CHUNK / ROWS
    start = T0.replace(hour=0)
    await copy.events(
        conn,
        [
            event(i, at=start + i * step, agent=f"a{i % AGENTS}", key=f"k{i % KEYS}", id=f"k{i % KEYS}")
            for i in range(ROWS)
        ],
    )
    await copy.samples(
        conn, [sample(i, at=start + i * step, agent=f"a{i % AGENTS}", series=f"s{i % 7}") for i in range(ROWS)]
    )
    await conn.execute("ANALYZE coord.event, coord.metric_sample")


async def plan(conn: Connection, sql: str) -> list[dict[str, Any]]:
    """The nodes of the plan that was run."""
    (text,) = await conn.fetchrow(f"EXPLAIN (ANALYZE, FORMAT json) {sql}")  # type: ignore[misc]
    return list(nodes(json.loads(text)[0]["Plan"]))


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


def scans(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nodes that read a table or a chunk and were run; TimescaleDB's ChunkAppend only has such below it."""
    return [
        n
        for n in found
        if "Relation Name" in n and n["Actual Loops"] > 0 and n.get("Custom Plan Provider") != "ChunkAppend"
    ]


def read(found: list[dict[str, Any]]) -> int:
    """Rows that were looked at."""
    return sum(n["Actual Rows"] + n.get("Rows Removed by Filter", 0) for n in scans(found))


async def test_what_an_agent_did_lately(filled: Connection) -> None:
    found = await plan(
        filled,
        "SELECT * FROM coord.v_event WHERE tenant = 'acme' AND agent = 'a7' ORDER BY stored_at DESC LIMIT 10",
    )
    assert scans(found)
    assert all("event_agent_idx" in n.get("Index Name", "") for n in scans(found)), found
    assert not [n for n in found if n["Node Type"] == "Sort"], "the index has the order already"
    assert read(found) <= 20


async def test_everything_about_a_key(filled: Connection) -> None:
    found = await plan(
        filled, "SELECT * FROM coord.v_event WHERE tenant = 'acme' AND key = 'k77' ORDER BY epoch, seq, idx"
    )
    indexes = {n["Index Name"] for n in found if "Index Name" in n}
    assert indexes
    assert all("event_key_idx" in name for name in indexes), found
    assert not [n for n in found if n["Node Type"] == "Seq Scan"]
    assert read(found) == ROWS / KEYS


async def test_a_series_of_an_agent_over_time(filled: Connection) -> None:
    found = await plan(
        filled,
        "SELECT stored_at, value FROM coord.v_metric_sample WHERE tenant = 'acme' AND agent = 'a1' AND series = 's1'"
        " ORDER BY stored_at DESC LIMIT 5",
    )
    assert all("metric_sample_series_idx" in n.get("Index Name", "") for n in scans(found)), found
    assert read(found) <= 10


@only(["server"])
async def test_a_bound_on_stored_at_opens_only_its_chunks(filled: Connection, either_database: Database) -> None:
    if either_database.edition == "plain":
        pytest.skip("plain has no chunks; its BRIN is tested below")
    found = await plan(
        filled,
        "SELECT count(*) FROM coord.v_event WHERE stored_at >= '2026-01-01 18:00+00'::text::timestamptz",
    )
    assert len({n["Relation Name"] for n in scans(found)}) == 1, found
    assert read(found) == ROWS / 4


@only(["plain"])
async def test_plain_finds_an_hour_by_its_brin(filled: Connection) -> None:
    await filled.execute("SELECT brin_summarize_new_values('coord.event_time_brin')")
    await filled.execute("SET enable_seqscan = off")  # the table is too small to bother
    try:
        found = await plan(
            filled,
            "SELECT count(*) FROM coord.v_event"
            " WHERE stored_at >= '2026-01-01 06:00+00' AND stored_at < '2026-01-01 07:00+00'",
        )
    finally:
        await filled.execute("RESET enable_seqscan")
    assert [n for n in found if n.get("Index Name") == "event_time_brin"], found
