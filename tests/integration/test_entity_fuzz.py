"""Whatever is said about entities, the tables take it or a dead letter has it: no fold fails, no row is refused."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
import pytest

from coord.projector import entities
from coord.projector.tables import TABLES
from coord.store.rows import EventRow
from coord.wire.authors import TABLE
from tests.support.cluster import Database
from tests.support.store import event, pool_of

MEMBERS = re.findall(
    r"\w+",
    """
    agent attempt at backoff_s candidates capabilities capability carried claim context coordinator cycle data deadline
    definition done enabled epoch error every_s final held input instance labels message mode model name names note
    output percentage permits placement priority progress provides quotas rank raised_at raised_by reason redrive ref
    restated retries rules run_s said salt since step submitter subjects timeout_ms timeout_s ttl_s version work
    """,
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, -(2**63), 10**25, 0.5, -1.5, 1e300, 1e-300, "", "a", "tok1",
    "\u00e9\u2028\U0001f600", "x" * 9000, [], ["s"], ["s", "s2"], [1], {}, {"a": "b"}, {"a": 1}, [{}],
    {"name": "n", "version": "1", "steps": []}, {"status": "claimed", "claims": -5, "ended_at": 1e300},
    "all", "any", "i1", {"work": 2}, {"work": -2}, {"agent": "b"}, [{"percentage": 50, "agents": ["b"]}],
)  # fmt: skip
DETAILS = (
    "",
    "1",
    "2",
    "tok1",
    "tok2",
    "work.normal",
    "work.batch",
    "i1.1",
    "i1.2",
    "tok1.7",
    "x.y.z",
    "99999999999999",
)
AGENTS = ("me", "b", "_task", "_signal", "_lock", "_handoff", "_presence", "_workflow", "_flag")


def said(rng: random.Random, seq: int) -> EventRow:
    kind, name = rng.choice([(k, e) for k, e in TABLE if k in TABLES])
    data: Any = {rng.choice(MEMBERS): rng.choice(VALUES) for _ in range(rng.randrange(6))}
    if rng.random() < 0.05:
        data = rng.choice(VALUES)
    id_ = rng.choice(("e1", "e2"))
    return event(
        seq, kind=kind, id=id_, key="flags" if kind == "flag" else id_, event=name, detail=rng.choice(DETAILS),
        agent=rng.choice(AGENTS), data=msgspec.json.encode(data).decode(), epoch=1 + seq // 1000,
    )  # fmt: skip


async def test_any_fact_of_any_kind(
    migrated_database: Database, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    log = [said(rng, seq) for seq in range(1, 2_000)]
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
