"""Open tasks and waits are found by their indexes, among many that have ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coord.projector import entities
from coord.store.pool import Connection
from tests.schema.test_query_plans import nodes, scans
from tests.support.cluster import Database
from tests.support.store import event, pool_of

TASKS = 4_000

REMOVED = """
WITH old AS (
  SELECT least(now(), (SELECT max(c.stored_at) FROM coord.checkpoint AS c)) - interval '30 days' AS at
)
SELECT ctid FROM coord.task
WHERE submitted_at < (SELECT at FROM old) AND ended_at < (SELECT at FROM old) AND changed_at < (SELECT at FROM old)
ORDER BY submitted_at LIMIT 20 FOR UPDATE SKIP LOCKED
"""


async def plan(conn: Connection, sql: str) -> list[dict[str, Any]]:
    (text,) = await conn.fetchrow(f"EXPLAIN (ANALYZE, FORMAT json) {sql}")  # type: ignore[misc]
    return list(nodes(json.loads(text)[0]["Plan"]))


@pytest.mark.parametrize(
    ("sql", "index", "rows_max"),
    [
        ("SELECT * FROM coord.v_waiting WHERE tenant = 'acme' AND what = 'task'", "task_open_idx", 100),
        ("SELECT * FROM coord.v_task WHERE tenant = 'acme' AND key = 't7' AND id = 't7'", "task_pkey", 1),
        ("SELECT * FROM coord.v_task ORDER BY submitted_at DESC LIMIT 20", "task_time_idx", 20),
        # As sql/queries/internal/remove_ended.sql looks for them, and oldest_begun.sql.
        (REMOVED, "task_time_idx", 25),
        ("SELECT min(submitted_at) FROM coord.task", "task_time_idx", 1),
    ],
)
async def test_plans(migrated_database: Database, sql: str, index: str, rows_max: int) -> None:
    log = []
    for number in range(TASKS):
        name = f"t{number}"
        log.append(event(2 * number + 1, id=name, key=name, agent="me", detail=f"c{number % 7}.normal", data="{}"))
        if number % 100:
            log.append(event(2 * number + 2, id=name, key=name, agent="me", event="cancelled", data="{}"))
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        async with conn.transaction():
            assert await entities.project(conn, [log]) == [{}]
        await conn.execute("ANALYZE coord.task")
        found = await plan(conn, sql)
    of_tasks = [n for n in found if n.get("Relation Name") == "task" or n.get("Index Name") == index]
    assert any(n.get("Index Name") == index for n in of_tasks), of_tasks
    assert sum(n["Actual Rows"] + n.get("Rows Removed by Filter", 0) for n in scans(of_tasks)) <= rows_max
