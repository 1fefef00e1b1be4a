"""What a fleet states, ready to be published: single facts, of every kind, in the order in which they were stated.

The same facts as `made` writes into the tables, read from there: submissions, claims, outcomes, handoffs,
placements, statuses.  Projected they are rows of `event` and of their entities, so unlike `workload`'s facts
about files they cost what tasks cost.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import msgspec

from coord.ops.bench import made
from coord.ops.bench.projecting import Backlog
from coord.store.rows import EVENT_COLUMNS
from coord.wire import subjects
from coord.wire.envelope import Encoded, Fact, encode_fact

_FACTS_PER_S: Final = 100.0
"""How densely they are stated: tasks of some seconds run beside each other."""

_READ: Final = """
    SELECT
      e.tenant, e.agent, e.key, e.kind, e.id, e.event, e.detail, e.event_id, e.occurred_at, e.correlation_id,
      e.causation_id, e.data::text AS data
    FROM coord.event AS e ORDER BY e.seq
"""


async def backlog(url: str, count: int) -> Backlog:
    """About `count` facts of a fleet as messages.

    They are written into the database's tables, which should be empty; whoever asked for them empties them again.
    """
    now = datetime.now(UTC)
    begin = now - timedelta(seconds=count / _FACTS_PER_S)
    await made.fill(url, made.Shape(rows=count, begin=begin, until=now, agents=100, entities=False))
    conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url)
    try:
        messages = [_message(row) for row in await conn.fetch(_READ)]
    finally:
        await conn.close()
    return Backlog("fleet", subjects.EVENTS, "event", EVENT_COLUMNS, messages, len(messages))


def _message(row: asyncpg.Record) -> Encoded:
    fact = Fact(
        kind=row["kind"],
        id=row["id"],
        key=row["key"],
        event=row["event"],
        detail=tuple(row["detail"].split(".")) if row["detail"] else (),
        data=msgspec.json.decode(row["data"]),
        correlation_id=row["correlation_id"],
        causation_id=row["causation_id"],
    )
    return encode_fact(
        fact, tenant=row["tenant"], agent=row["agent"], event_id=row["event_id"], occurred_at=row["occurred_at"]
    )
