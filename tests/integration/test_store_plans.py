"""What the projector asks by key is answered by an index, also of a table that was never analyzed."""

from __future__ import annotations

import re

from coord.store.queries import statement
from tests.support.cluster import Database
from tests.support.store import pool_of

BY_KEY = (
    "checkpoint_advance", "checkpoint_advance_all", "checkpoint_read", "read_agent_registry", "read_flag",
    "read_handoff", "read_lock", "read_signal", "read_statuses", "read_task", "read_workflow", "write_at_once",
)  # fmt: skip


async def test_a_projectors_session_reads_by_index(migrated_database: Database) -> None:
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        for name in BY_KEY:
            sql = statement(name)
            nulls = ", ".join(["NULL"] * max(map(int, re.findall(r"\$(\d+)", sql))))
            await conn.execute(f"PREPARE by_key_{name} AS {sql}")
            plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN EXECUTE by_key_{name}({nulls})"))
            # Without the session's settings it would be planned for these nulls, and read nothing at all.
            assert "Index" in plan, (name, plan)
            assert "Seq Scan" not in plan, (name, plan)
            if name == "write_at_once":  # checkpoints are locked in the order in which they are given
                assert not re.search("Hash|Merge", plan), plan
