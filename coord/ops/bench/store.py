"""The bench of the database: facts in, questions answered, bytes kept.

ingest     a projector drains a backlog while the tables are maintained, against COPY of the very rows by hand into
           the same tables and nothing beside it: frames of facts (`ingest_ratio`), single facts about files
           (`ingest_single_ratio`), and what a fleet states, whose rows of tasks, handoffs and workflows are written
           too (`ingest_fleet_ratio`)
rebuild    what a fleet stated is projected, then rebuilt from its copy, compared and swapped in (`rebuild_ratio`)
archive    chunks are written as Parquet into a folder and read back (`archive_rows_per_s`)
dashboard  how long dashboards wait while facts come in (`coord.ops.bench.dashboard`)
bytes      what a fact takes, in the database's edition and in `plain` (`coord.ops.bench.sizes`)

Everything is temporary and on free ports of loopback, or in a new database of the server that was given.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, TypeAlias, get_args

import asyncpg
import msgspec

from coord import limits
from coord.errors import EnvironmentProblem, SettingsError
from coord.ops.bench import fleet_facts, machine, made, projecting, servers, sizes
from coord.ops.bench.dashboard import DashboardConfig, dashboard
from coord.ops.bench.measure import BenchError, Clock, Run, alternate, rates, ratios, rounded
from coord.ops.bench.servers import Database
from coord.ops.bench.workers import Job
from coord.ops.devstack.nats import NatsServer
from coord.ops.devstack.stack import DevStackConfig
from coord.projector import rebuild as rebuilding
from coord.store.archive import run as archive
from coord.store.archive.files import Files
from coord.store.config import ArchiveConfig
from coord.store.pool import Pool

FORMAT: Final = 1

_ARCHIVED_AGE: Final = timedelta(days=40)

Say: TypeAlias = Callable[[str], None]

Part: TypeAlias = Literal["ingest", "rebuild", "archive", "dashboard", "bytes"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bench does.  The defaults take less than two minutes on two cores."""

    rounds: int = 3
    framed: int = 200_000
    """Facts in frames, of each round."""
    singles: int = 40_000
    """Single facts, of each round; of a fleet's facts as many."""
    rows: int = 400_000
    """Facts in the tables when dashboards are asked."""
    facts_per_s: float = 20_000
    """Facts that come in meanwhile."""
    dashboard_s: float = 10
    archived: int = 300_000
    """Facts of a day, in each round written as Parquet and read back."""
    weighed: int = 60_000
    """Facts that are weighed, in each edition."""
    parts: tuple[Part, ...] = PARTS
    database: DevStackConfig = DevStackConfig(ephemeral=True, nats=False)

    def validate(self) -> None:
        """Raise `SettingsError` when a count is not positive or a part unknown."""
        for name in ("rounds", "framed", "singles", "rows", "facts_per_s", "dashboard_s", "archived", "weighed"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"bench: {name} is positive")
        if not self.parts or set(self.parts) - set(PARTS):
            raise SettingsError(f"bench: parts are {', '.join(PARTS)}")

    def scaled(self, share: float) -> StoreConfig:
        """With `share` of every count and duration; rates stay."""
        fields: dict[str, Any] = {
            name: max(1, int(getattr(self, name) * share))
            for name in ("framed", "singles", "rows", "archived", "weighed")
        }
        return msgspec.structs.replace(self, dashboard_s=self.dashboard_s * share, **fields)


class _Found(msgspec.Struct):
    """What has been measured so far."""

    figures: dict[str, Any] = {}
    by_round: dict[str, list[float]] = {}
    rounds: dict[str, list[dict[str, float]]] = {}
    questions: list[dict[str, Any]] = []
    fleet: projecting.Backlog | None = None
    """What a fleet states, made once for every part that projects it."""


async def store(config: StoreConfig, say: Say) -> dict[str, Any]:
    """Run it; returns the report, plain values only.

    Raises `EnvironmentProblem` when the machine lacks something, `BenchError` when a row was lost or doubled.
    """
    config.validate()
    circumstances = machine.Circumstances()
    found = _Found()
    versions: dict[str, str | None] = {}
    async with servers.database(config.database, say) as database:
        for part in config.parts:
            say(part)
            await servers.emptied(database.config)
            if part in _ALONE:
                await _ALONE[part](config, database, found, say)
                continue
            async with servers.broker() as nats:
                versions = await servers.versions(nats, database.config)
                await _PARTS[part](config, nats, database, found, say)
        versions = versions or await servers.versions(None, database.config)
    return circumstances.report(
        "store",
        FORMAT,
        versions=versions,
        edition=database.edition,
        settings=servers.settings(config),
        figures=found.figures,
        by_round=found.by_round,
        rounds=found.rounds,
        questions=found.questions,
    )


async def _ingest(config: StoreConfig, nats: NatsServer, database: Database, found: _Found, say: Say) -> None:
    counts = projecting.Counts(framed=config.framed, singles=config.singles)
    names = {"progress": "ingest", "singles": "ingest_single", "fleet": "ingest_fleet"}
    assert nats.pid is not None
    for name, figure in names.items():
        if name == "fleet":
            backlog = await _fleet(config, database, found)
        else:
            (backlog,) = projecting.backlogs(counts, ["progress" if name == "progress" else "singles"])
        async with projecting.opened(nats.url, nats.pid, database.config, database.pid, backlog) as bench:
            bench.beside = Job(role="upkeep", nats_url=nats.url, database_url=database.config.url)
            drained, copied = f"drain_{name}", f"copy_{name}"
            runs: dict[str, list[Run]] = await alternate(config.rounds, {drained: bench.drain, copied: bench.copy}, say)
        each = ratios(runs[drained], runs[copied])
        found.figures[f"{figure}_ratio"] = rounded(median(each))
        found.figures[f"{figure}_rows_per_s"] = rounded(median(run.per_s for run in runs[drained]))
        found.by_round[f"{figure}_ratio"] = [rounded(value) for value in each]
        found.rounds |= {side: [run.record() for run in of] for side, of in runs.items()}


async def _fleet(config: StoreConfig, database: Database, found: _Found) -> projecting.Backlog:
    """The facts; leaves the tables empty."""
    await servers.emptied(database.config)
    if found.fleet is None:
        found.fleet = await fleet_facts.backlog(database.config.url, config.singles)
        await servers.emptied(database.config)
    return found.fleet


async def _rebuild(config: StoreConfig, nats: NatsServer, database: Database, found: _Found, say: Say) -> None:
    assert nats.pid is not None
    backlog = await _fleet(config, database, found)
    async with projecting.opened(nats.url, nats.pid, database.config, database.pid, backlog) as bench:

        async def rebuilt() -> Run:
            async with rebuilding.pools(database.config) as (writer, reader):
                clock = Clock(database=database.pid)
                rebuilder = rebuilding.Rebuilder(writer, reader)
                await rebuilder.begin()
                await rebuilder.build()
                compared = await rebuilder.compare()
                await rebuilder.swap()
                clock.stop()
            if not all(one.live_hash == one.rebuilt_hash for one in compared):
                raise BenchError("what was rebuilt is not what was there", compared=msgspec.to_builtins(compared))
            return clock.run(backlog.rows)

        runs = await alternate(config.rounds, {"project_fleet": bench.drain, "rebuild_fleet": rebuilt}, say)
    each = ratios(runs["rebuild_fleet"], runs["project_fleet"])
    found.figures["rebuild_ratio"] = rounded(median(each))
    found.figures["rebuild_rows_per_s"] = rounded(median(run.per_s for run in runs["rebuild_fleet"]))
    found.by_round["rebuild_ratio"] = [rounded(value) for value in each]
    found.rounds |= {side: [run.record() for run in of] for side, of in runs.items()}


async def _dashboard(config: StoreConfig, nats: NatsServer, database: Database, found: _Found, say: Say) -> None:
    part = DashboardConfig(rows=config.rows, facts_per_s=config.facts_per_s, seconds=config.dashboard_s)
    figures, found.questions = await dashboard(nats.url, database.config, part, say)
    found.figures["dashboard_ms"] = {name: rounded(value) for name, value in figures.items()}
    say(f"  p50 {figures['p50']:.1f} ms, p99 {figures['p99']:.1f} ms")


async def _archive(config: StoreConfig, database: Database, found: _Found, say: Say) -> None:
    begin = datetime.now(UTC) - _ARCHIVED_AGE
    shape = made.Shape(rows=config.archived, begin=begin, until=begin + timedelta(days=1), entities=False)
    await made.fill(database.config.url, shape)
    await _vacuumed(database)
    runs: list[Run] = []
    for number in range(1, config.rounds + 1):
        with tempfile.TemporaryDirectory(prefix="coord-bench-archive-") as folder:
            where = ArchiveConfig(url=folder, drop_days=None, keep_days=None)
            async with Pool(msgspec.structs.replace(database.config, pool_min=1, pool_max=3)) as pool:
                files = await asyncio.to_thread(Files.open, where)
                clock = Clock(database=database.pid)
                report = await archive.run(
                    pool, where, files=files, relations=["event"], at_once=limits.ARCHIVE_AT_ONCE
                )
                clock.stop()
                if report.problems:
                    raise report.problems[0]
                async with pool.transaction() as conn:  # as if nothing were archived: again, into another folder
                    await conn.execute("TRUNCATE coord.archive, coord.archive_file")
            rows = report.rows("verify")
            size = await asyncio.to_thread(_parquet_bytes, Path(folder))
        runs.append(clock.run(rows, bytes_per_row=size / rows))
        say(f"    {number}/{config.rounds} {runs[-1].per_s:>12,.0f}/s  ({rows:,} rows, {size / rows:.0f} bytes each)")
    each = rates(runs)
    found.figures["archive_rows_per_s"] = rounded(median(each))
    found.figures["archive_bytes_per_fact"] = rounded(median(run.more["bytes_per_row"] for run in runs))
    found.by_round["archive_rows_per_s"] = [rounded(value) for value in each]
    found.rounds["archive"] = [run.record() for run in runs]


async def _vacuumed(database: Database) -> None:
    """What is old enough for the archive has been vacuumed long ago: who reads rows first marks them as committed."""
    conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(database.config.url)
    try:
        await conn.execute("VACUUM coord.event")
    finally:
        await conn.close()


def _parquet_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet"))


async def _bytes(config: StoreConfig, database: Database, found: _Found, say: Say) -> None:
    weighed = [await sizes.sizes(database, config.weighed, say)]
    if database.edition != "plain":
        try:
            plain = DevStackConfig(ephemeral=True, nats=False, source="plain", cache_dir=config.database.cache_dir)
            async with servers.database(plain, say) as other:
                weighed.append(await sizes.sizes(other, config.weighed, say))
        except EnvironmentProblem as exc:
            say(f"  plain is not weighed: {exc.message}")
    found.figures["bytes_per_fact"] = {one.edition: round(one.event_kept) for one in weighed}
    found.figures["bytes_of_entities_per_fact"] = {one.edition: round(one.entities) for one in weighed}
    found.figures["gb_per_day_at_100_per_s"] = {one.edition: rounded(one.gb_per_day) for one in weighed}
    for one in weighed:
        if one.warm is not None:
            found.figures["compression"] = {one.edition: rounded(one.event / one.warm)}
            found.figures["bytes_per_fact_hot"] = {one.edition: round(one.event)}


_PARTS: Final[dict[Part, Callable[[StoreConfig, NatsServer, Database, _Found, Say], Awaitable[None]]]] = {
    "ingest": _ingest,
    "rebuild": _rebuild,
    "dashboard": _dashboard,
}
_ALONE: Final[dict[Part, Callable[[StoreConfig, Database, _Found, Say], Awaitable[None]]]] = {
    "archive": _archive,
    "bytes": _bytes,
}
"""Without a broker."""
