"""What the tests of rollups share: facts of a few hours, checkpoints that say so, and what views answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from coord.store.rollup_files import LEVELS
from coord.store.rollups import load

BEGIN = datetime(2026, 3, 2, 21, 30, tzinfo=UTC)
"""An evening: the data go over midnight."""

END = BEGIN + timedelta(hours=6)


_TENANT = "CASE i % 5 WHEN 0 THEN 'other' ELSE 'acme' END"
_KIND = "CASE i % 3 WHEN 0 THEN 'task' ELSE 'file' END"
_EVENT = "CASE i % 4 WHEN 0 THEN 'listed' ELSE 'completed' END"


def facts_sql(rows: int = 3_000, hours: float = 6) -> list[str]:
    """Statements that fill event, outcome and metric_sample: the same rows on every server, nothing random."""
    at = f"timestamptz '{BEGIN.isoformat()}' + i * interval '{hours * 3600 / rows:.6f} s'"
    series = f"FROM generate_series(0, {rows - 1}) AS i"
    return [
        f"""INSERT INTO coord.event (
              stored_at, occurred_at, seq, epoch, idx, schema, partition, tenant, agent, key, kind, id, event, detail,
              event_id, type
            )
            SELECT {at}, {at}, i, 1, 0, 1, i % 16, {_TENANT}, 'a' || i % 7, 'k' || i, {_KIND}, 'k' || i, {_EVENT}, '',
              'e' || i, 'coord.' || {_KIND} || '.' || {_EVENT}
            {series}""",
        f"""INSERT INTO coord.outcome (
              stored_at, wait_s, run_s, attempts, failures, tenant, kind, status, capability, priority, from_agent,
              agent
            )
            SELECT {at}, CASE WHEN i % 11 > 0 THEN 0.0007 * (i % 997) * (i % 13 + 1) END,
              CASE WHEN i % 4 < 3 THEN 0.1 * (i % 701) END, i % 3, i % 2, {_TENANT},
              CASE i % 4 WHEN 3 THEN 'handoff' ELSE 'task' END, CASE i % 9 WHEN 0 THEN 'failed' ELSE 'completed' END,
              'c' || i % 3, 'normal', 'boss', 'a' || i % 7
            {series}""",
        f"""INSERT INTO coord.metric_sample (
              stored_at, occurred_at, value, seq, epoch, idx, partition, tenant, agent, series
            )
            SELECT {at}, {at}, 0.1 * (i % 89) - 3, i, 1, 0, i % 16, {_TENANT}, 'a' || i % 7,
              CASE i % 2 WHEN 0 THEN 'cpu' ELSE 'llm.tokens' END
            {series}""",
    ]


def checkpoints_sql(until: datetime) -> str:
    """Everything stored before `until` is in the tables, says every partition of both streams."""
    return f"""INSERT INTO coord.checkpoint (stream_created, stored_at, seq, epoch, partition, stream)
        SELECT now(), '{until.isoformat()}', 1, 1, p, s
        FROM generate_series(0, 15) AS p, (VALUES ('EVENTS'), ('TELEMETRY')) AS x (s)
        ON CONFLICT (stream, partition) DO UPDATE SET stored_at = excluded.stored_at, pending = 0, updated_at = now()"""


def view_names() -> list[str]:
    """Every view over a rollup."""
    return [f"v_{rollup.table(level)}" for rollup in load() for level in LEVELS]


def rows_sql(view: str) -> str:
    """All of it, as text, in an order that every server has alike."""
    return f'SELECT x::text AS row FROM coord.{view} AS x ORDER BY x::text COLLATE "C"'
