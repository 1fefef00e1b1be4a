"""The named questions, asked on every edition here: the right answers, and the same ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from coord import errors
from coord.store import copy, editions, queries
from coord.store.pool import Connection, Pool
from coord.store.rows import AgentRow, DeadLetterRow, EventRow
from tests.support.cluster import Database
from tests.support.store import T0, fact, pool_of, sample


def facts() -> list[EventRow]:
    """A small fleet: a scout, two analysts, a reporter."""
    rows: list[EventRow] = []

    def add(kind: str, name: str, event: str, *, agent: str, data: object = None, **fields: Any) -> None:
        seq = len(rows) + 1
        at = T0 + timedelta(milliseconds=100 * seq)
        rows.append(
            fact(seq, kind, name, event, data, agent=agent, at=at, occurred_at=at - timedelta(milliseconds=5), **fields)
        )

    for i in range(4):
        add("file", f"f{i}", "listed", agent="scout", data={"path": f"lib/f{i}.py"})
    for i in range(4):
        functions = [{"name": f"g{i}{j}", "complexity": 10 * i + j, "lines": j + 1} for j in range(i)]
        data = {"path": f"lib/f{i}.py", "lines": 100 * i, "functions": functions, "imports": ["os"], "todos": 0}
        add("file", f"f{i}", "analysed", agent="analyst-1" if i < 3 else "analyst-2", data=data)
    for to, reason in (("analyst-1", "parse"), ("analyst-2", "parse"), ("analyst-1", "retry"), ("analyst-1", "parse")):
        add("handoff", f"h{len(rows)}", "offered", agent="scout", data={"to": to, "reason": reason})
    add("handoff", "h99", "offered", agent="analyst-1", data={})
    add("handoff", "h99", "accepted", agent="analyst-2")
    for i in range(2):
        add("task", f"t{i}", "submitted", agent="scout", detail="parse.high", data={})
        add("task", f"t{i}", "claimed", agent="analyst-1", detail="1")
    add("task", "t0", "completed", agent="analyst-1", data={"n": 1})
    add("task", "t1", "failed", agent="analyst-1", data={"why": "no"})
    add("task", "t2", "submitted", agent="scout", detail="report.low")
    add("file", "x", "listed", agent="scout", tenant="other", data={"path": "x"})
    return rows


ROWS = facts()
ACME = [r for r in ROWS if r[5] == "acme"]


@pytest.fixture
async def pool(either_database: Database) -> AsyncIterator[Pool]:
    async with pool_of(either_database.url) as pool:
        async with pool.transaction() as conn:
            await fill(conn)
        yield pool


async def fill(conn: Connection) -> None:
    await copy.events(conn, ROWS)
    await copy.samples(conn, [sample(i, value=float(i), agent=f"a{i % 2}", series="cpu") for i in range(1, 101)])
    await copy.upsert_agents(
        conn,
        [
            AgentRow(tenant="acme", agent=name, seen_first=T0, seen_last=T0, state=state, status="{}", epoch=1, seq=1)
            for name, state in (("scout", "alive"), ("analyst-1", "left"))
        ],
    )
    await copy.dead_letters(
        conn,
        [
            DeadLetterRow(
                stream="EVENTS",
                epoch=1,
                seq=seq,
                partition=0,
                subject="s",
                tenant="acme",
                code=code,
                reason="r",
                body=b"\x00\xc3\xa4{",
                body_bytes=4,
                stored_at=T0,
            )
            for seq, code in ((5, "wire.payload"), (6, "wire.author"))
        ],
    )
    await conn.execute(
        "INSERT INTO coord.checkpoint (stream, partition, stream_created, epoch, seq, stored_at, pending)"
        " VALUES ('EVENTS', 0, $1, 1, 10, $1, 3), ('EVENTS', 1, $1, 1, 9, NULL, 0), ('TELEMETRY', 0, $1, 1, 1, $1, 0)",
        T0,
    )


async def ask(pool: Pool, name: str, **parameters: object) -> list[dict[str, Any]]:
    async with pool.acquire() as conn:
        return [dict(r) for r in await queries.run(conn, name, **parameters)]


async def test_files_per_agent(pool: Pool) -> None:
    assert await ask(pool, "files_per_agent", tenant="acme") == [
        {"agent": "analyst-1", "listed": 0, "analysed": 3, "lines": 300, "functions": 3},
        {"agent": "analyst-2", "listed": 0, "analysed": 1, "lines": 300, "functions": 3},
        {"agent": "scout", "listed": 4, "analysed": 0, "lines": 0, "functions": 0},
    ]


async def test_most_complex_functions(pool: Pool) -> None:
    found = await ask(pool, "most_complex_functions", limit=3)
    assert [(r["function"], r["complexity"], r["path"], r["analysed_by"]) for r in found] == [
        ("g32", 32, "lib/f3.py", "analyst-2"),
        ("g31", 31, "lib/f3.py", "analyst-2"),
        ("g30", 30, "lib/f3.py", "analyst-2"),
    ]
    assert len(await ask(pool, "most_complex_functions")) == 6


async def test_handoff_matrix(pool: Pool) -> None:
    assert await ask(pool, "handoff_matrix", tenant="acme") == [
        {"from_agent": "scout", "to_agent": "analyst-1", "handoffs": 3, "commonest_reason": "parse"},
        {"from_agent": "analyst-1", "to_agent": None, "handoffs": 1, "commonest_reason": None},
        {"from_agent": "scout", "to_agent": "analyst-2", "handoffs": 1, "commonest_reason": "parse"},
    ]


async def test_rows_and_facts(pool: Pool) -> None:
    (all_there,) = await ask(pool, "rows_vs_facts", tenant="acme", published=len(ACME))
    assert all_there == {
        "rows": len(ACME),
        "identities": len(ACME),
        "event_ids": len(ACME),
        "published": len(ACME),
        "exactly_once": True,
    }
    (missing,) = await ask(pool, "rows_vs_facts", tenant="acme", published=len(ACME) + 1)
    assert missing["exactly_once"] is False
    async with pool.acquire() as conn:
        await copy.events(conn, [ROWS[0]])
    (doubled,) = await ask(pool, "rows_vs_facts", tenant="acme")
    assert (doubled["exactly_once"], doubled["rows"] - doubled["identities"]) == (False, 1)


async def test_throughput_and_facts_over_time(pool: Pool) -> None:
    (whole,) = await ask(pool, "throughput", tenant="acme")
    seconds = (ACME[-1][0] - T0) // timedelta(seconds=1) + 1
    assert whole["facts"] == len(ACME)
    assert whole["seconds"] == seconds
    assert whole["facts_per_second"] == pytest.approx(len(ACME) / seconds, abs=0.1)
    assert whole["busiest_second"] == 10
    (nothing,) = await ask(pool, "throughput", tenant="nobody")
    assert nothing == {"facts": 0, "seconds": 0, "facts_per_second": 0, "busiest_second": 0}
    buckets = await ask(pool, "facts_over_time", tenant="acme", width="1 hour")
    assert {r["bucket"] for r in buckets} == {T0}
    assert sum(r["facts"] for r in buckets) == len(ACME)
    by_event = await ask(pool, "facts_by_event", tenant="acme")
    assert {(r["kind"], r["event"]): r["facts"] for r in by_event} == {
        (r["kind"], r["event"]): r["facts"] for r in buckets
    }
    assert by_event[0] == {
        "kind": "handoff",
        "event": "offered",
        "facts": 5,
        "agents": 2,
        "first_at": ROWS[8][0],
        "last_at": ROWS[12][0],
    }


async def test_times_bound_a_question(pool: Pool) -> None:
    since, until = ROWS[2][0], ROWS[5][0]
    found = await ask(pool, "recent_events", since=since.isoformat(), until=until.isoformat())
    assert [r["seq"] for r in found] == [5, 4, 3]
    assert len(await ask(pool, "recent_events", limit=2)) == 2
    assert await ask(pool, "recent_events", since="tomorrow") == []


async def test_history_of_a_key(pool: Pool) -> None:
    found = await ask(pool, "history", tenant="acme", key="t1")
    assert [(r["event"], r["agent"]) for r in found] == [
        ("submitted", "scout"),
        ("claimed", "analyst-1"),
        ("failed", "analyst-1"),
    ]


async def test_task_times(pool: Pool) -> None:
    parse, report = await ask(pool, "task_times", tenant="acme")
    assert (parse["capability"], parse["tasks"], parse["ended"], parse["failed"]) == ("parse", 2, 2, 1)
    assert (parse["wait_p50_seconds"], parse["wait_p99_seconds"]) == (0.1, 0.1)
    assert (parse["run_p50_seconds"], parse["run_p99_seconds"]) == (0.25, 0.299)  # of 0.2 and 0.3
    assert (report["capability"], report["ended"], report["wait_p50_seconds"]) == ("report", 0, None)


async def test_agents_and_telemetry(pool: Pool) -> None:
    both = await ask(pool, "agents", tenant="acme")
    assert [(r["agent"], r["state"]) for r in both] == [("analyst-1", "left"), ("scout", "alive")]
    assert all(r["silent_seconds"] > 0 for r in both)
    assert [r["agent"] for r in await ask(pool, "agents", state="alive")] == ["scout"]
    (cpu,) = await ask(pool, "telemetry_summary")
    assert (cpu["series"], cpu["samples"], cpu["agents"], cpu["least"], cpu["p50"], cpu["most"]) == (
        "cpu",
        100,
        2,
        1,
        50.5,
        100,
    )


async def test_dead_letters(pool: Pool) -> None:
    assert [r["seq"] for r in await ask(pool, "dead_letters", stream="EVENTS")] == [6, 5]
    assert [r["seq"] for r in await ask(pool, "dead_letters", code="wire.author", limit=1)] == [6]
    assert await ask(pool, "dead_letters", tenant="other") == []
    (letter,) = await ask(pool, "dead_letter", seq=5)
    assert (letter["body"], letter["text"], letter["reason"]) == (b"\x00\xc3\xa4{", "\\000\\303\\244{", "r")
    assert await ask(pool, "dead_letter", seq=5, epoch=2) == []


async def test_projection_lag(pool: Pool) -> None:
    found = await ask(pool, "projection_lag", stream="EVENTS")
    assert [(r["partition"], r["seq"], r["pending"]) for r in found] == [(0, 10, 3), (1, 9, 0)]
    assert found[0]["lag_seconds"] > 0
    assert found[1]["lag_seconds"] == 0
    assert len(await ask(pool, "projection_lag")) == 3


async def test_latencies(pool: Pool) -> None:
    """Both variants, on facts whose times are known to the database's clock."""
    async with pool.acquire() as conn:
        edition = await editions.detect_async(conn)
        await conn.execute("TRUNCATE coord.event")
        now = datetime.now(UTC)
        stored = now - timedelta(seconds=2)
        await copy.events(
            conn, [fact(i, "file", "f", "listed", at=stored, occurred_at=now - timedelta(seconds=3)) for i in range(50)]
        )
    assert edition.commit_timestamps, "the tests' servers keep commit times"
    assert edition.latency_query == ("latency_projected" if edition.direct_compress else "latency_committed")
    for name in ("latency_projected", "latency_committed"):
        publish, log = await ask(pool, name)
        assert (publish["leg"], log["leg"]) == ("publish to queryable", "stored to queryable")
        for leg, least in ((publish, 3000), (log, 2000)):
            assert leg["facts"] == 50
            assert least <= leg["p50_ms"] <= leg["p99_ms"] <= leg["max_ms"] < least + 60_000
    committed = (await ask(pool, "latency_committed"))[1]
    projected = (await ask(pool, "latency_projected"))[1]
    assert committed["p50_ms"] >= projected["p50_ms"], "a commit comes after the start of its write"


OF_THE_SERVER = {"storage", "disk_full"}
"""Questions about the server's own tables: never empty, and of each edition another answer."""


async def test_every_question_through_psycopg_too(migrated_database: Database) -> None:
    def run() -> dict[str, int]:
        with psycopg.connect(migrated_database.url) as conn:
            conn.execute("SET search_path = coord, public")
            return {
                name: len(conn.execute(query.for_psycopg.encode(), values_of(query)).fetchall())
                for name, query in queries.all_queries().items()
            }

    rows = await asyncio.to_thread(run)
    assert len(rows) > 60
    assert max(n for name, n in rows.items() if name not in OF_THE_SERVER) == 1, "nothing happened here"


def values_of(query: queries.Query) -> dict[str, str]:
    return query.bind({"seq": 1} if query.name == "dead_letter" else {})


async def test_what_cannot_be_read_as_its_type_is_the_callers(pool: Pool) -> None:
    for parameters in ({"limit": "many"}, {"since": "sometime"}, {"limit": -1}):
        with pytest.raises(errors.QueryError, match="recent_events"):
            await ask(pool, "recent_events", **parameters)
    assert await ask(pool, "recent_events", tenant="'; DROP TABLE coord.event; --") == []
    assert len(await ask(pool, "recent_events")) == 20


async def test_editions_give_the_same_answers(migrated_database: Database, plain_database: Database) -> None:
    answers: list[dict[str, Any]] = []
    for url in (migrated_database.url, plain_database.url):
        async with pool_of(url) as pool:
            async with pool.transaction() as conn:
                await fill(conn)
            answers.append(
                {
                    name: [
                        {k: v for k, v in row.items() if k not in {"silent_seconds", "lag_seconds", "dead_at"}}
                        for row in await ask(pool, name, **({"seq": 5} if name == "dead_letter" else {}))
                    ]
                    for name in queries.all_queries()
                    if not name.startswith("latency") and name not in OF_THE_SERVER
                }
            )
    assert answers[0] == answers[1]
    assert sum(map(len, answers[0].values())) > 50
