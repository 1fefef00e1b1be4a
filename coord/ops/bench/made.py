"""Facts that nobody stated, of the shape that a fleet's have: millions of rows in a minute, without a broker.

The database makes them itself (sql/bench/), so they are the same on every edition, over any
connection, and the same numbers give the same facts.  Bodies, names, ids and proportions are those
of the recordings as `coord replay --as-tasks` does them: a task has a bit more than four facts.
Tables of entities are filled with what those facts leave; their column `fold` has filler of the
usual length, so no projector may go on from them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Final

import asyncpg
import msgspec

from coord.runtime.assets import sql_dir
from coord.store import editions, queries, rollups
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.store.rollup_files import LEVELS

FACTS_A_TASK: Final = 4.3
"""On average, counted: 3 of its life, and of placements, handoffs, statuses, workflows, retries the rest."""

BATCH_TASKS: Final = 25_000
"""Tasks of one transaction: 100,000 facts, sorted in memory.  A multiple of a workflow's five."""

_SEQS_A_TASK: Final = 12
"""A task has at most so many facts: batches need not know of each other to number theirs."""

_ROLL_S: Final = 600.0
_STEPS_MAX: Final = 100_000
"""Of a rollup: all there are."""

_ROLL_ROWS: Final = 200_000
"""Of a step: nobody else wants the tables."""

_SETUP: Final = "SET search_path = coord, public"


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How much, and of what time."""

    rows: int
    """Facts, about."""
    begin: datetime
    """When the first task is submitted, by the broker's clock; aware."""
    until: datetime
    """Now: what would be stated later is not there yet, so the newest tasks are open."""
    agents: int = 400
    tenants: int = 3
    samples: int = 0
    """Samples of telemetry beside them."""
    entities: bool = True
    """Whether tables of tasks, handoffs, workflows and agents are filled too."""

    @property
    def tasks(self) -> int:
        """How many tasks it takes."""
        return max(1, math.ceil(self.rows / FACTS_A_TASK))

    @property
    def seconds(self) -> float:
        """From the first submission to the end."""
        return (self.until - self.begin).total_seconds()


class Step(msgspec.Struct, frozen=True):
    """One statement of `sql/bench/`, and its parameters."""

    name: str
    values: Mapping[str, str]

    @property
    def query(self) -> queries.Query:
        """Its text, for asyncpg or psycopg."""
        return _statement(self.name)


def batches(shape: Shape, batch_tasks: int = BATCH_TASKS) -> Iterator[list[Step]]:
    """What to run, in this order: a transaction each.  Each empties the temporary table `made` first."""
    common = {
        "begin": shape.begin.isoformat(),
        "until": shape.until.isoformat(),
        "agents": str(shape.agents),
        "tenants": str(shape.tenants),
    }
    if shape.entities:
        yield [_step("agent_rows", common), _step("checkpoints", common | {"seq": str(shape.tasks * _SEQS_A_TASK)})]
    step_s = str(shape.seconds / shape.tasks)
    for first in range(0, shape.tasks, batch_tasks):
        last = min(first + batch_tasks, shape.tasks) - 1
        values = common | {
            "first": str(first),
            "last": str(last),
            "step_s": step_s,
            "seq": str(1 + first * _SEQS_A_TASK),
        }
        steps = [_step("table", values), _step("none", values), _step("tasks", values), _step("facts", values)]
        if shape.entities:
            steps += [_step(name, values) for name in ("task_rows", "handoff_rows", "workflow_rows", "outcome_rows")]
        yield steps
    if shape.samples:
        of_sample = {"step_s": str(shape.seconds / shape.samples)}
        for first in range(0, shape.samples, 8 * batch_tasks):
            last = min(first + 8 * batch_tasks, shape.samples) - 1
            yield [_step("samples", common | of_sample | {"first": str(first), "last": str(last)})]


async def fill(
    url: str,
    shape: Shape,
    *,
    connections: int = 2,
    batch_tasks: int = BATCH_TASKS,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write all of it over so many connections, then ANALYZE; how many facts there are now.

    `progress` is told how many transactions of how many are done.  The tables should be empty.
    """
    work = list(batches(shape, batch_tasks))
    waiting, done = iter(work), 0

    async def write() -> None:
        nonlocal done
        conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url, server_settings={"jit": "off"})
        try:
            await conn.execute(_SETUP)
            for steps in waiting:
                async with conn.transaction():
                    await conn.execute("SET LOCAL synchronous_commit = off; SET LOCAL work_mem = '256MB'")
                    for step in steps:
                        query = step.query
                        await conn.execute(query.for_asyncpg, *query.bind(step.values).values())
                done += 1
                if progress is not None:
                    progress(done, len(work))
        finally:
            await conn.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(connections, len(work))):
            group.create_task(write())
    conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url)
    try:
        await conn.execute(
            "ANALYZE coord.event, coord.metric_sample, coord.outcome, coord.task, coord.handoff, coord.workflow"
        )
        return int(await conn.fetchval("SELECT count(*) FROM coord.event"))
    finally:
        await conn.close()


async def roll_up(database: DatabaseConfig, *, connections: int = 2) -> None:
    """Bring every rollup up to what there is, as the upkeep would in its own time; returns when it is done."""
    patient = msgspec.structs.replace(database, pool_min=1, statement_timeout_s=_ROLL_S, idle_in_transaction_s=_ROLL_S)
    async with Pool(patient) as pool:
        async with pool.acquire() as conn:
            edition = await editions.detect_async(conn)
            if edition.name == "community":
                for name in (rollup.table(level) for rollup in rollups.load() for level in LEVELS):
                    await conn.execute(f"CALL refresh_continuous_aggregate('coord.{name}', NULL, NULL)")
                return
        waiting = iter(sorted(rollups.load(), key=lambda rollup: rollup.source != "event"))  # the longest one first

        async def move() -> None:
            for rollup in waiting:
                for level in LEVELS:
                    await rollups.advance(pool, rollup, level, pause_s=0, steps_max=_STEPS_MAX, batch_rows=_ROLL_ROWS)

        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(move())


def _step(name: str, values: Mapping[str, str]) -> Step:
    return Step(name, {n: v for n, v in values.items() if n in _statement(name).parameters})


@cache
def _statement(name: str) -> queries.Query:
    return queries.parse(name, (sql_dir() / "bench" / f"{name}.sql").read_text("utf-8"))
