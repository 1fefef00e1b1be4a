"""The plan check of the named questions, with few facts: that each is asked and told of, not how fast it is."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from coord.ops.bench import made, servers
from coord.store import queries
from coord.wire import ids
from tests.support.cluster import Cluster, Database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHAPE = made.Shape(rows=3_000, begin=NOW - timedelta(minutes=5), until=NOW, samples=400, agents=30)


def _uncounted(column: str) -> str:
    """An id without what is counted in it: that jumps from batch to batch."""
    return f"regexp_replace({column}, '(?<=-)[0-9a-f]{{12}}', '', 'g')"


async def test_facts_are_made_alike_whatever_the_batches_are(migrated_database: Database) -> None:
    found = []
    key, id_, event_id = _uncounted("key"), _uncounted("id"), _uncounted("event_id")
    for database, batch_tasks in ((migrated_database, 1_000), (migrated_database, 150)):
        await made.fill(database.url, SHAPE, connections=2, batch_tasks=batch_tasks)
        conn = await asyncpg.connect(database.url)
        try:
            found.append(
                [
                    await conn.fetch(
                        f"SELECT stored_at, tenant, agent, {key}, {id_}, event, detail, {event_id}, data"
                        " FROM coord.event ORDER BY stored_at, agent, kind, event"
                    ),
                    await conn.fetch(
                        f"SELECT submitted_at, {key}, {id_}, status, ended_at, claimant FROM coord.task"
                        " ORDER BY 1, 2, 3"
                    ),
                    await conn.fetch(
                        f"SELECT offered_at, {key}, {id_}, status, addressee FROM coord.handoff ORDER BY 1, 2, 3"
                    ),
                    await conn.fetch("SELECT stored_at, agent, series, value FROM coord.metric_sample ORDER BY seq"),
                ]
            )
            assert await conn.fetchval("SELECT count(*) = count(DISTINCT (epoch, seq, idx)) FROM coord.event")
            assert await conn.fetchval("SELECT count(*) = count(DISTINCT (agent, event_id)) FROM coord.event")
            await conn.execute(await conn.fetchval(servers.TRUNCATE))
        finally:
            await conn.close()
    assert found[0] == found[1]
    assert all(found[0])


async def test_rows_of_entities_are_what_the_facts_leave(migrated_database: Database) -> None:
    await made.fill(migrated_database.url, SHAPE)
    conn = await asyncpg.connect(migrated_database.url)
    try:
        facts = await conn.fetch(
            """
            SELECT e.tenant, e.key, e.id, min(e.stored_at) FILTER (WHERE e.event = 'submitted') AS submitted_at,
              count(*) FILTER (WHERE e.event = 'claimed') AS claims,
              coalesce(max(e.event) FILTER (WHERE e.event IN ('completed', 'cancelled')),
                max('failed') FILTER (WHERE e.data ? 'final')) AS outcome
            FROM coord.event AS e WHERE e.kind = 'task' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            """
        )
        rows = await conn.fetch(
            "SELECT tenant, key, id, submitted_at, claims, CASE WHEN ended_at IS NOT NULL THEN status END AS outcome"
            " FROM coord.task ORDER BY 1, 2, 3"
        )
        assert [tuple(r) for r in facts] == [tuple(r) for r in rows]
        assert {r["outcome"] for r in rows} == {"completed", "failed", "cancelled", None}
        stated = await conn.fetch(
            "SELECT count(*) FILTER (WHERE event = 'offered'), count(*) FILTER (WHERE event = 'accepted')"
            " FROM coord.event WHERE kind = 'handoff'"
        )
        ends = await conn.fetch("SELECT kind, count(*) FROM coord.outcome GROUP BY kind ORDER BY kind")
        assert [tuple(r) for r in ends] == [
            (
                kind,
                await conn.fetchval(
                    "SELECT count(*) FROM coord.event WHERE kind = $1"
                    " AND (event IN ('completed', 'cancelled', 'accepted') OR data ? 'final')",
                    kind,
                ),
            )
            for kind in ("handoff", "task", "workflow")
        ]
        assert [tuple(r) for r in stated] == [
            tuple(r)
            for r in await conn.fetch("SELECT count(*), count(*) FILTER (WHERE status = 'accepted') FROM coord.handoff")
        ]
    finally:
        await conn.close()


@pytest.mark.slow
async def test_ids_are_as_the_sdk_and_the_deciders_make_them(migrated_database: Database) -> None:
    """What compresses here has to compress there: docs/adr/0101."""
    await made.fill(migrated_database.url, SHAPE)  # one batch: no count jumps
    conn = await asyncpg.connect(migrated_database.url)
    try:
        facts = await conn.fetch(
            "SELECT tenant, agent, key, kind, id, event, detail, event_id FROM coord.event ORDER BY stored_at, seq"
        )
    finally:
        await conn.close()
    sessions: dict[tuple[str, str, int], list[int]] = {}
    decided = {
        "placed": ("1", "task/{id}/placed", 1), "submitted": ("research@3", "{id}/submitted", 0),
        "cancelled": ("research@3", "{id}/cancelled", 2), "completed": ("research@3", "completed", 0),
    }  # fmt: skip
    for fact in facts:
        if fact["agent"].startswith("_"):
            version, step, attempt = decided[fact["event"]]
            step = step.format(id=fact["id"])
            assert fact["event_id"] == ids.derive_id(fact["tenant"], fact["key"], version, step, attempt, 0)
            continue
        lone = fact["event"] == "submitted" and fact["id"] == fact["key"]
        for one in (fact["id"], fact["event_id"]) if lone else (fact["event_id"],):
            digits = one.replace("-", "")
            count = int(digits[20:], 16)
            session = int(digits[:12] + digits[13:16], 16) << 14 | int(digits[16:20], 16) & 0x3FFF
            assert one == ids.counted_id(session, count)
            sessions.setdefault((fact["tenant"], fact["agent"], session), []).append(count)
    assert len(sessions) > 30
    assert len({session for _, _, session in sessions}) == len(sessions), "of one process each"
    for counts in sessions.values():
        assert counts == list(range(counts[0], counts[0] + len(counts)))


async def test_every_question_is_asked_and_told_of(postgres: Cluster) -> None:
    """On a server given, as a native Community server would be: in a database of its own, which is dropped."""
    before = await databases(postgres)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coord.ops.bench", "queries", "--rows", "2000", "--warm-s", "0", "-o", "json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"COORD_TEST_DATABASE_URL": postgres.admin_url},
    )  # fmt: skip
    output, talk = await process.communicate()
    assert process.returncode in {0, 3}, talk.decode()
    report = json.loads(output)
    asked = {q["name"]: q for q in report["questions"]}
    assert asked.keys() >= queries.all_queries().keys() - {"latency_committed"}
    assert asked["task"]["rows"] == 1
    assert asked["task"]["plan"] == "index task_pkey"
    assert asked["workflow"]["rows"] == 1
    assert asked["handoff"]["rows"] == 1
    assert asked["history"]["rows"] >= 3
    assert report["figures"].keys() == asked.keys()
    assert {q["bound_ms"] for q in asked.values()} == {100, 1000}
    assert not {name for name in await databases(postgres) - before if name.startswith("coord_bench")}


async def databases(cluster: Cluster) -> set[str]:
    conn = await asyncpg.connect(cluster.admin_url)
    try:
        return {r["datname"] for r in await conn.fetch("SELECT datname FROM pg_database")}
    finally:
        await conn.close()
