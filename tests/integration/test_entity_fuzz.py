"""Whatever is said about entities, the tables take it or a dead letter has it: no fold fails, no row is refused."""

from __future__ import annotations

import random

import pytest

from coord.projector import entities
from coord.projector.tables import TABLES
from coord.wire.authors import TABLE
from tests.support.cluster import Database
from tests.support.hostile import said
from tests.support.store import pool_of

ABOUT = [(kind, event) for kind, event in TABLE if kind in TABLES]


async def test_any_fact_of_any_kind(
    migrated_database: Database, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    log = [said(rng, seq, ABOUT) for seq in range(1, 2_000)]
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        for start in range(0, len(log), 100):
            batch = log[start : start + 100]
            while True:
                async with conn.transaction():
                    (refused,) = await entities.project(conn, [batch])
                if not refused:
                    break
                assert all(error.code and "defect" not in error.code for error in refused.values()), refused
                batch = [row for row in batch if (row[2], row[3]) not in refused]
        for view in ("v_task", "v_workflow", "v_handoff_state", "v_signal", "v_lock", "v_waiting", "v_agent"):
            await conn.fetch(f"SELECT * FROM coord.{view}")
    assert "fold_defect" not in caplog.text
