"""What a soak has to hold at its end: every fact a row exactly once and in order, memory flat and small."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import msgspec

from coord import limits
from coord.ops.bench.measure import BenchError

RSS_BYTES_MAX: Final = 200 * limits.MIB
"""What one projector process may take."""
RSS_GROWTH_MAX: Final = 0.05
"""How much more the last quarter of the run may take than the second."""
JUDGED_FACTS_MIN: Final = 5_000_000
"""A shorter run ends while caches and arenas still fill: its memory is reported and not judged."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One look at a running soak."""

    at_s: float
    published: int
    projected: int
    """Facts, about: by the projectors' checkpoints."""
    rss: list[int]
    """Bytes of each projector."""


_TASKS: Final = """
    SELECT count(*) AS tasks, coalesce(sum(n), 0)::bigint AS facts,
           count(*) FILTER (WHERE n <> $1 OR least <> 0 OR most <> $1 - 1 OR total <> $1 * ($1 - 1) / 2
                            OR squares <> ($1 - 1) * $1 * (2 * $1 - 1) / 6) AS wrong
    FROM (SELECT count(*) AS n, min(done) AS least, max(done) AS most, sum(done) AS total, sum(done * done) AS squares
          FROM (SELECT id, (data->>'done')::int AS done FROM coord.event WHERE kind = 'task') AS e
          GROUP BY id) AS t
"""
_SINGLES: Final = """
    SELECT count(*) AS facts, count(DISTINCT (data->>'number')::int) AS distinct_facts
    FROM coord.event WHERE kind = 'file'
"""
_ORDER: Final = """
    SELECT count(*) FILTER (WHERE done <= before) FROM (
      SELECT (data->>'done')::int AS done,
             lag((data->>'done')::int) OVER (PARTITION BY id ORDER BY epoch, seq, idx) AS before
      FROM coord.event WHERE kind = 'task' AND id LIKE '%00') AS e
"""


async def check(
    db: asyncpg.Connection[asyncpg.Record], *, tasks: int, facts_a_task: int, singles: int
) -> dict[str, bool | None]:
    """Raise `BenchError` unless every fact is a row exactly once, and those of a key are in order.

    Facts of tasks carry `done`, 0 to `facts_a_task` - 1; single ones a `number` of their own.  The
    order is looked at for one task in a hundred: a sort of all of them would take minutes.
    """
    found = await db.fetchrow(_TASKS, facts_a_task)
    alone = await db.fetchrow(_SINGLES)
    swapped = await db.fetchval(_ORDER)
    dead = await db.fetchval("SELECT count(*) FROM coord.dead_letter")
    rows = await db.fetchval("SELECT count(*) FROM coord.event")
    assert found is not None
    assert alone is not None
    wanted = tasks * facts_a_task + singles
    right = (
        rows == wanted
        and (found["tasks"], found["facts"], found["wrong"]) == (tasks, tasks * facts_a_task, 0)
        and (alone["facts"], alone["distinct_facts"]) == (singles, singles)
        and not swapped
        and not dead
    )
    if not right:
        raise BenchError(
            "not every fact is a row exactly once and in order", rows=rows, facts=wanted, tasks_wrong=found["wrong"],
            tasks_missing=tasks - found["tasks"], singles_missing=singles - alone["distinct_facts"],
            out_of_order=swapped, dead_letters=dead,
        )  # fmt: skip
    return {"exactly_once": True, "in_order": True}


def memory(samples: Sequence[Sample]) -> dict[str, float]:
    """RSS of the largest projector in MiB: by quarters of the facts projected, at most, and last ÷ second."""
    total = max((s.projected for s in samples), default=0)
    quarters: list[list[int]] = [[], [], [], []]
    for sample in samples:
        quarters[min(3, 4 * sample.projected // max(1, total))].append(max(sample.rss))
    medians = [statistics.median(q) if q else 0.0 for q in quarters]
    found = {f"rss_mib_q{i}": round(m / 2**20, 1) for i, m in enumerate(medians, 1)}
    found["rss_mib_max"] = round(max((max(s.rss) for s in samples), default=0) / 2**20, 1)
    found["rss_last_to_second"] = round(medians[3] / medians[1], 3) if medians[1] else 0.0
    return found


def judged(rss: dict[str, float], facts: int) -> dict[str, bool | None]:
    """Whether memory was flat and small; None where the run was too short to tell."""
    if facts < JUDGED_FACTS_MIN:
        return {"rss_flat": None, "rss_small": None}
    return {
        "rss_flat": 0 < rss["rss_last_to_second"] <= 1 + RSS_GROWTH_MAX,
        "rss_small": rss["rss_mib_max"] < RSS_BYTES_MAX / 2**20,
    }


def thinned(samples: Sequence[Sample], most: int = 200) -> list[Any]:
    """At most about so many of them as plain values, evenly: enough for a picture."""
    every = max(1, len(samples) // most)
    return [[round(s.at_s, 1), s.published, s.projected, *s.rss] for s in samples[::every]]
