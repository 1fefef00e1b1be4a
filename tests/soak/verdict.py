"""Do the tables hold exactly what was acknowledged?  Asked in SQL, cheap at ten million rows.

The speakers' records are copied into a table of their own, the tenant's rows are drawn out once
into a narrow one, and four questions are put:

*lost*        a message that was acknowledged, and not all of its facts are there
*moved*       they are, but not under the sequence that the PubAck said
*stray*       a row that no message accounts for, acknowledged or given up
*doubled*     a number of a key that is there more than once
*disordered*  a key whose numbers do not rise by log order, or skip one that was not given up

plus: agents' statuses behind what was acknowledged, dead letters (there must be none), and rows
beyond their partition's checkpoint, which would be written again.
"""

from __future__ import annotations

from pathlib import Path

import asyncpg

from tests.soak.harness import FINDINGS_NAMED_MAX, Finding
from tests.soak.speakers import Line, Speech, records

_TABLES = """
DROP TABLE IF EXISTS soak_line, soak_message, soak_row, soak_suspect;
CREATE UNLOGGED TABLE soak_line (line int, stream smallint, key text COLLATE "C", agent text COLLATE "C");
CREATE UNLOGGED TABLE soak_message (line int, stream smallint, acked boolean, facts int, first int, seq bigint);
"""

_ROWS = """
CREATE UNLOGGED TABLE soak_row AS
SELECT l.line, l.stream, r.partition, r.epoch, r.seq, r.idx, r.n
FROM (
  SELECT 0 AS stream, partition, epoch, seq, idx, key, agent, (data ->> 'n')::int AS n
  FROM coord.event WHERE tenant = $tenant
  UNION ALL
  SELECT 1, partition, epoch, seq, idx, series, agent, value::int FROM coord.metric_sample WHERE tenant = $tenant
) AS r
LEFT JOIN soak_line AS l ON l.stream = r.stream AND l.key = r.key AND l.agent = r.agent
"""

_SUSPECT = """
SELECT m.line, m.stream, l.key, m.seq, m.first, m.facts
FROM soak_message AS m JOIN soak_line AS l USING (line)
LEFT JOIN (
  SELECT line, seq, count(DISTINCT n) AS facts, min(n) AS low, max(n) AS high FROM soak_row GROUP BY line, seq
) AS s ON s.line = m.line AND s.seq = m.seq
WHERE m.acked AND (s.facts IS DISTINCT FROM m.facts OR s.low <> m.first OR s.high <> m.first + m.facts - 1)
"""

_LOST = """
SELECT s.*, r.there FROM soak_suspect AS s, LATERAL (
  SELECT count(DISTINCT n) AS there FROM soak_row AS r
  WHERE r.line = s.line AND r.n >= s.first AND r.n < s.first + s.facts
) AS r WHERE r.there < s.facts
"""

_MOVED = """
SELECT s.*, r.seqs FROM soak_suspect AS s, LATERAL (
  SELECT count(DISTINCT n) AS there, array_agg(DISTINCT r.seq) AS seqs FROM soak_row AS r
  WHERE r.line = s.line AND r.n >= s.first AND r.n < s.first + s.facts
) AS r WHERE r.there = s.facts
"""

_STRAY = """
SELECT r.stream, r.partition, r.line, r.seq, r.idx, r.n
FROM soak_row AS r
WHERE NOT EXISTS (SELECT 1 FROM soak_message AS m WHERE m.line = r.line AND m.seq = r.seq AND m.acked)
AND NOT EXISTS (
  SELECT 1 FROM soak_message AS m
  WHERE m.line = r.line AND NOT m.acked AND r.n >= m.first AND r.n < m.first + m.facts
)
"""

_DOUBLED = """
SELECT line, n, count(*) AS times, array_agg(seq) AS seqs FROM soak_row GROUP BY line, n HAVING count(*) > 1
"""

_DISORDERED = """
SELECT line, seq, idx, n, before FROM (
  SELECT line, seq, idx, n, lag(n, 1, 0) OVER (PARTITION BY line ORDER BY epoch, seq, idx) AS before FROM soak_row
) AS r
WHERE n < before OR (n > before + 1 AND NOT EXISTS (
  SELECT 1 FROM soak_message AS m WHERE m.line = r.line AND NOT m.acked
  AND m.first < r.n AND m.first + m.facts > r.before + 1
))
"""

_AGENTS = """
SELECT l.agent, m.last, (a.status ->> 'n')::int AS n
FROM soak_line AS l
JOIN (
  SELECT line, max(first) AS last FROM soak_message WHERE acked GROUP BY line
) AS m USING (line)
LEFT JOIN coord.agent AS a ON a.tenant = $tenant AND a.agent = l.agent
WHERE l.key = l.agent AND (a.status ->> 'n')::int IS DISTINCT FROM m.last
AND coalesce((a.status ->> 'n')::int, 0) < m.last
"""

_BEYOND = """
SELECT r.stream, r.partition, max(r.seq) AS seq, min(c.seq) AS checkpoint
FROM soak_row AS r
JOIN coord.checkpoint AS c
  ON c.partition = r.partition AND c.stream = CASE r.stream WHEN 0 THEN 'EVENTS' ELSE 'TELEMETRY' END
GROUP BY r.stream, r.partition HAVING max(r.seq) > min(c.seq)
"""

_DEAD = "SELECT stream, seq, code, reason FROM coord.dead_letter WHERE tenant = $tenant OR tenant IS NULL"

_CHECKS = (
    ("lost", _LOST, "facts"),
    ("moved", _MOVED, None),
    ("stray", _STRAY, None),
    ("doubled", _DOUBLED, None),
    ("disordered", _DISORDERED, None),
    ("agent", _AGENTS, None),
    ("checkpoint", _BEYOND, None),
    ("dead", _DEAD, None),
)


async def judge(
    db: asyncpg.Connection[asyncpg.Record], speeches: list[Speech], *, dead_letters: bool = False
) -> tuple[int, list[Finding]]:
    """Rows there are, and what is wrong with them.  `speeches` are of one tenant; all is settled.

    `dead_letters`: there may be some (of what the scenario stated besides).
    """
    await db.execute("SET work_mem = '256MB'; SET max_parallel_workers_per_gather = 0; SET statement_timeout = 0")
    await _load(db, speeches)
    tenant = "'" + speeches[0].tenant + "'"  # a token: letters and digits
    await db.execute(_ROWS.replace("$tenant", tenant))
    await db.execute("ANALYZE soak_line, soak_message, soak_row")
    await db.execute("CREATE INDEX ON soak_message (line, first) WHERE NOT acked")
    await db.execute("CREATE INDEX ON soak_message (line, seq) WHERE acked")
    await db.execute(f"CREATE UNLOGGED TABLE soak_suspect AS {_SUSPECT}")
    if await db.fetchval("SELECT EXISTS (SELECT FROM soak_suspect)"):
        await db.execute("CREATE INDEX ON soak_row (line, n)")
    found: list[Finding] = []
    for kind, question, weight in _CHECKS:
        if kind == "dead" and dead_letters:
            continue
        found += await _ask(db, kind, question.replace("$tenant", tenant), weight)
    rows: int = await db.fetchval("SELECT count(*) FROM soak_row")
    await db.execute("DROP TABLE soak_line, soak_message, soak_row, soak_suspect")
    return rows, found


async def _load(db: asyncpg.Connection[asyncpg.Record], speeches: list[Speech]) -> None:
    await db.execute(_TABLES)
    offset = 0
    for speech in speeches:
        lines = speech.lines()
        await db.copy_records_to_table("soak_line", records=[_line(line, offset) for line in lines])
        await db.copy_records_to_table(
            "soak_message",
            records=(
                (offset + line, stream, bool(acked), facts, first, seq)
                for line, stream, acked, facts, first, seq in records(Path(speech.records))
            ),
        )
        offset += len(lines)


def _line(line: Line, offset: int) -> tuple[int, int, str, str]:
    return offset + line.number, line.stream, line.key, f"speaker-{line.agent}"


async def _ask(db: asyncpg.Connection[asyncpg.Record], kind: str, question: str, weight: str | None) -> list[Finding]:
    """The first findings by name, the others as one number."""
    # A whole-row count beside the sample: nothing is fetched that nobody reads.
    await db.execute(f"CREATE TEMP TABLE soak_found AS {question}")
    try:
        counted = f"sum({weight} - there)" if weight else "count(*)"
        count: int = await db.fetchval(f"SELECT coalesce({counted}, 0)::bigint FROM soak_found")
        rows: int = await db.fetchval("SELECT count(*) FROM soak_found")
        sample = await db.fetch("SELECT * FROM soak_found LIMIT $1", FINDINGS_NAMED_MAX)
    finally:
        await db.execute("DROP TABLE soak_found")
    if not rows:
        return []
    found = [Finding(kind, str(dict(row)), 0) for row in sample]
    # The numbers stand on the first, so that a sum over findings is the sum of facts.
    return [Finding(kind, f"{rows} found, the first: {found[0].text}", max(count, rows)), *found[1:]]
