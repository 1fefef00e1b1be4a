"""Every named question over millions of facts: how long the answer takes, and by which plan.

Facts of the usual shape (`made`), so many that nobody reads them all by chance; each question of
sql/queries is asked as a dashboard or a person asks it: for one fleet, of the last day, about
something that is there.  Once for the plan, then again and again: the figures are those of answers
with everything warm, rows fetched.  A question marked `coord: dashboard` has to be answered
within `limits.DASHBOARD_MS`, any other within `limits.QUESTION_MS`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, Final

import asyncpg
import msgspec

from coord import limits
from coord.errors import QueryError, SettingsError
from coord.ops.bench import machine, made, servers
from coord.ops.bench.measure import percentile, rounded
from coord.ops.devstack.stack import DevStackConfig
from coord.store import editions, queries
from coord.store.pool import Connection, Pool

FORMAT: Final = 1

_SINCE: Final = timedelta(days=1)
_ASKS_MAX: Final = 200
_EXPORTED: Final = "1000"
"""Rows that an export is asked for."""

_NEEDS_COMMIT_TIMES: Final = "latency_committed"
_TOLD: Final = 4
"""Kinds of scans that a plan is told by, the most frequent ones."""

_TENANT: Final = "SELECT tenant FROM coord.task GROUP BY tenant ORDER BY count(*) DESC LIMIT 1"
_THERE: Final[Mapping[str, str]] = {
    "id": """
        SELECT id FROM coord.task
        WHERE tenant = $1 AND key = id AND ended_at BETWEEN now() - interval '20 hours' AND now()
        ORDER BY ended_at DESC LIMIT 1
    """,
    "agent": "SELECT agent FROM coord.agent WHERE tenant = $1 ORDER BY agent LIMIT 1",
    "workflow": """
        SELECT id FROM coord.workflow
        WHERE tenant = $1 AND ended_at BETWEEN now() - interval '20 hours' AND now()
        ORDER BY ended_at DESC LIMIT 1
    """,
    "handoff": "SELECT id FROM coord.handoff WHERE tenant = $1 ORDER BY offered_at DESC, key LIMIT 1",
    "handoff_key": "SELECT key FROM coord.handoff WHERE tenant = $1 ORDER BY offered_at DESC, key LIMIT 1",
}
"""What is asked about: something that is there, of the largest fleet."""

_CHUNKS: Final = """
    SELECT c.chunk_name, c.hypertable_name FROM timescaledb_information.chunks AS c WHERE c.hypertable_schema = 'coord'
"""


class QuestionsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the bench does.  The defaults take some minutes on two cores, most of it to make the rows."""

    rows: int = 5_000_000
    """Facts."""
    days: float = 7.0
    """They are stored evenly over so many, until now."""
    warm_s: float = 1.0
    """Each question is asked again for so long,"""
    asks_min: int = 5
    """and so often at least."""
    only: tuple[str, ...] = ()
    """Names of questions; none: all."""
    database: DevStackConfig = DevStackConfig(ephemeral=True, nats=False)

    def validate(self) -> None:
        """Raise `SettingsError` when there is nothing to measure."""
        if self.rows < 1 or self.asks_min < 1 or self.days <= 0:
            raise SettingsError("bench: rows, asks_min and days are positive")
        if unknown := set(self.only) - queries.all_queries().keys():
            raise SettingsError(f"bench: there is no question {min(unknown)!r}")


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """One question's figures."""

    name: str
    dashboard: bool
    first_ms: float
    """Planned and answered for the first time."""
    p50_ms: float
    p99_ms: float
    """Of the warm answers; the slowest of fewer than a hundred."""
    asks: int
    rows: int
    """Of the answer."""
    read: int
    """Rows and index entries that were looked at for it."""
    plan: str
    """What was scanned, and how."""

    @property
    def bound_ms(self) -> float:
        """Within which it has to be answered."""
        return limits.DASHBOARD_MS if self.dashboard else limits.QUESTION_MS

    @property
    def held(self) -> bool:
        """Whether the median answer was."""
        return self.p50_ms < self.bound_ms


async def questions(
    config: QuestionsConfig, say: Callable[[str], None], progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Run it; returns the report, plain values only."""
    config.validate()
    circumstances = machine.Circumstances()
    async with servers.database(config.database, say) as database:
        now = datetime.now(UTC)
        say(f"Making {config.rows:,} facts …")
        began = time.perf_counter()
        shape = made.Shape(
            rows=config.rows, begin=now - timedelta(days=config.days), until=now, samples=config.rows // 5
        )
        rows = await made.fill(database.config.url, shape, progress=progress)
        took_s = time.perf_counter() - began
        say(f"  {rows:,} in {took_s:.0f} s")
        await made.roll_up(database.config)
        say(f"  rolled up after {time.perf_counter() - began:.0f} s")
        async with Pool(msgspec.structs.replace(database.config, pool_min=1)) as pool, pool.acquire() as conn:
            found = [answered async for answered in _all(conn, config, say)]
        versions = await servers.versions(None, database.config)
    return circumstances.report(
        "queries",
        FORMAT,
        versions=versions,
        edition=database.edition,
        settings=servers.settings(config) | {"facts": rows, "made_in_s": round(took_s, 1)},
        figures={one.name: rounded(one.p50_ms) for one in found},
        questions=[msgspec.to_builtins(one) | {"bound_ms": one.bound_ms, "held": one.held} for one in found],
    )


async def _all(conn: Connection, config: QuestionsConfig, say: Callable[[str], None]) -> AsyncIterator[Answered]:
    edition = await editions.detect_async(conn)
    chunks: dict[str, str] = {}
    if edition.timescaledb is not None:
        chunks = {row["chunk_name"]: row["hypertable_name"] for row in await conn.fetch(_CHUNKS)}
    there = await what_is_there(conn)
    for query in queries.all_queries().values():
        if config.only and query.name not in config.only:
            continue
        if query.name == _NEEDS_COMMIT_TIMES and not edition.commit_timestamps:
            continue
        values = query.bind(asked(query, there))
        try:
            answered = await _answered(conn, query, values, config, chunks)
        except asyncpg.PostgresError as exc:
            raise QueryError(f"{query.name}: {exc}") from exc
        mark = "" if answered.held else f"  > {answered.bound_ms:g} ms"
        say(f"  {query.name:<28} {answered.p50_ms:>9,.1f} ms  {answered.rows:>7,} rows{mark}")
        yield answered


async def what_is_there(conn: Connection) -> dict[str, str]:
    """What can be asked about: the largest fleet, and a task, a workflow, a handoff and an agent of it."""
    tenant = str(await conn.fetchval(_TENANT))
    return {"tenant": tenant} | {name: str(await conn.fetchval(sql, tenant) or "") for name, sql in _THERE.items()}


def asked(query: queries.Query, there: Mapping[str, str]) -> dict[str, str]:
    """What somebody would ask it with."""
    values: dict[str, str] = {}
    since = (datetime.now(UTC) - _SINCE).isoformat()
    for name, parameter in query.parameters.items():
        optional = "empty" in parameter.doc
        if name == "tenant":
            values[name] = there["tenant"]
        elif name == "since" and parameter.default in {"-infinity", "yesterday"}:
            values[name] = since
        elif name == "seq":
            values[name] = "1"
        elif name == "limit" and query.export:
            values[name] = _EXPORTED  # of any size, and streamed: only how soon it begins can be bounded
        elif name in {"id", "key", "workflow", "agent"} and not parameter.default and not optional:
            values[name] = there["id" if name == "key" else name]
    if query.name.startswith("workflow") and "id" in values:
        values["id"] = there["workflow"]
    if query.name == "handoff":
        values |= {"id": there["handoff"], "key": there["handoff_key"]}
    return values


async def _answered(
    conn: Connection,
    query: queries.Query,
    values: Mapping[str, str],
    config: QuestionsConfig,
    chunks: Mapping[str, str],
) -> Answered:
    sql, arguments = query.for_asyncpg, list(values.values())
    began = time.perf_counter()
    answer = await conn.fetch(sql, *arguments)
    first_ms = (time.perf_counter() - began) * 1000
    (text,) = await conn.fetchrow(f"EXPLAIN (ANALYZE, FORMAT json) {sql}", *arguments)  # type: ignore[misc]
    scans = list(_scans(_nodes(json.loads(text)[0]["Plan"])))
    warm: list[float] = []
    until = time.perf_counter() + config.warm_s
    while len(warm) < config.asks_min or (time.perf_counter() < until and len(warm) < _ASKS_MAX):
        began = time.perf_counter()
        await conn.fetch(sql, *arguments)
        warm.append((time.perf_counter() - began) * 1000)
    return Answered(
        name=query.name,
        dashboard=query.dashboard,
        first_ms=round(first_ms, 1),
        p50_ms=round(median(warm), 2),
        p99_ms=round(percentile(sorted(warm), 0.99), 2),
        asks=len(warm),
        rows=len(answer),
        read=sum(map(_read, scans)),
        plan=_told(scans, chunks),
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _scans(nodes: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those that read a table or a chunk and were run; a ChunkAppend only has such below it."""
    return (n for n in nodes if "Relation Name" in n and n["Actual Loops"] and n["Node Type"] != "Custom Scan")


def _read(node: dict[str, Any]) -> int:
    """Rows a scan looked at, all its loops and workers together."""
    return int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])


def _told(scans: Iterable[dict[str, Any]], chunks: Mapping[str, str]) -> str:
    """The scans that were run, chunks of one table together: "index task_time_idx; seq event (4 chunks)"."""
    found: Counter[str] = Counter()
    chunked: Counter[str] = Counter()
    for node in scans:
        relation: str = node["Relation Name"]
        index = node.get("Index Name", "")
        if relation in chunks:
            index = index.removeprefix(f"{relation}_")
        kind = node["Node Type"].removesuffix(" Scan").lower()
        what = f"{kind} {index or chunks.get(relation, relation)}"
        found[what] += 1
        chunked[what] += relation in chunks
    return "; ".join(
        what + (f" ({chunked[what]} chunks)" if chunked[what] > 1 else f" ({times} times)" if times > 1 else "")
        for what, times in found.most_common(_TOLD)
    )


def table(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a question, the slowest of those with one bound first."""
    ordered = sorted(report.get("questions", ()), key=lambda q: (q["bound_ms"], -q["p50_ms"]))
    return [
        {
            "question": q["name"],
            "p50_ms": q["p50_ms"],
            "p99_ms": q["p99_ms"],
            "bound_ms": q["bound_ms"],
            "held": q["held"],
            "rows": q["rows"],
            "read": q["read"],
            "plan": q["plan"],
        }
        for q in ordered
    ]
