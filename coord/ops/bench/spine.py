"""The bench of the spine: publish, project, ask, subscribe, on servers of its own.

Each part gets a fresh nats-server with the streams of streams/ (profile `production`); one
database serves them all.  Everything is temporary and on free ports of loopback; nothing of
the bench is left when it ends.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import asyncpg
import msgspec

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.errors import SettingsError
from coord.ops.bench import machine, projecting, publishing
from coord.ops.bench.latency import Load, latency
from coord.ops.bench.measure import Figures, Run
from coord.ops.devstack.nats import NatsOptions, NatsServer
from coord.ops.devstack.stack import DevStack, DevStackConfig
from coord.runtime import assets
from coord.store import migrations
from coord.store.config import DatabaseConfig

FORMAT: Final = 1
"""Of the report; a figure that changes its meaning raises it."""

Part: TypeAlias = Literal["publish", "project", "latency"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


class SpineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bench does.  The defaults take less than two minutes on two cores."""

    rounds: int = 3
    """Of each side of each ratio; the figure is their median."""
    singles: int = 40_000
    """Single facts a round publishes."""
    samples: int = 500_000
    """Samples a round publishes one by one, in frames that the publisher makes."""
    samples_many: int = 1_500_000
    """Samples a round publishes with `emit_many`, and in ready frames."""
    backlog_framed: int = 400_000
    """Rows of each backlog of frames."""
    backlog_singles: int = 60_000
    """Rows of the backlog of single facts."""
    latency_facts_per_s: float = 2_000
    latency_s: float = 4
    """Of each of `rounds` windows."""
    subscribers: int = 200
    subscribe_facts_per_s: float = 500
    subscribe_s: float = 4
    """The same."""
    warm_up_s: float = 2
    """Before the first window of a latency, at the same rate: not counted."""
    sync_interval: str | None = None
    """nats-server's: "always" syncs before every acknowledgement; None is its default, two minutes."""
    parts: tuple[Part, ...] = PARTS
    """latency: latency_ms and subscribe_ms."""
    database: DevStackConfig = DevStackConfig(ephemeral=True, nats=False)
    """Which database; its server is started and removed by the bench."""

    def validate(self) -> None:
        """Raise `SettingsError` when a count is not positive or a part unknown."""
        for name in (
            "rounds",
            "singles",
            "samples",
            "samples_many",
            "backlog_framed",
            "backlog_singles",
            "subscribers",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"bench: {name} is at least 1")
        for name in ("latency_facts_per_s", "latency_s", "subscribe_facts_per_s", "subscribe_s", "warm_up_s"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"bench: {name} is positive")
        if not self.parts or set(self.parts) - set(PARTS):
            raise SettingsError(f"bench: parts are {', '.join(PARTS)}")

    def scaled(self, share: float) -> SpineConfig:
        """With `share` of every count and duration; rates and subscribers stay."""
        counts = ("singles", "samples", "samples_many", "backlog_framed", "backlog_singles")
        fields: dict[str, Any] = {name: max(1, int(getattr(self, name) * share)) for name in counts}
        fields |= {name: getattr(self, name) * share for name in ("latency_s", "subscribe_s", "warm_up_s")}
        return msgspec.structs.replace(self, **fields)


async def spine(config: SpineConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it; returns the report, plain values only.

    Raises `EnvironmentProblem` when the machine lacks something, `BenchError` when something
    was lost, doubled or refused on the way.
    """
    config.validate()
    began, started_at = time.perf_counter(), datetime.now(UTC)
    load_before, elsewhere = machine.load_1m(), machine.Elsewhere()
    figures: dict[str, Figures] = {}
    runs: dict[str, list[Run]] = {}
    versions: dict[str, str | None] = {}
    say("Starting the database …")
    async with DevStack(config.database, say=say) as stack:
        edition, database = stack.edition, DatabaseConfig(url=stack.database_url)
        await asyncio.to_thread(migrations.migrate, database)
        for part in config.parts:
            say(part)
            async with _nats(config) as nats:
                versions = await _versions(nats, database)
                await _run(part, config, nats, database, stack.postgres_pid, say, figures, runs)
    return {
        "bench": "spine",
        "format": FORMAT,
        "started_at": started_at.isoformat(timespec="seconds"),
        "took_s": round(time.perf_counter() - began, 1),
        "machine": machine.machine() | {"load_1m_before": load_before, "cores_used_elsewhere": elsewhere.cores()},
        "python": machine.python(),
        "versions": versions,
        "commit": machine.commit(),
        "edition": edition,
        "settings": _settings(config),
        "figures": _each(figures, statistics.median),
        "by_round": _each(figures, list),
        "rounds": {name: [run.record() for run in of] for name, of in runs.items()},
    }


async def _run(
    part: Part,
    config: SpineConfig,
    nats: NatsServer,
    database: DatabaseConfig,
    postgres_pid: int | None,
    say: Callable[[str], None],
    figures: dict[str, Figures],
    runs: dict[str, list[Run]],
) -> None:
    assert nats.pid is not None
    if part == "latency":
        loads = (
            Load(facts_per_s=config.latency_facts_per_s, seconds=config.latency_s, windows=config.rounds),
            Load(facts_per_s=config.subscribe_facts_per_s, seconds=config.subscribe_s, windows=config.rounds),
        )
        figures |= await latency(nats.url, database, *loads, config.warm_up_s, config.subscribers, say)
    elif part == "publish":
        counts = publishing.Counts(singles=config.singles, samples=config.samples, samples_many=config.samples_many)
        figures[part], found = await publishing.publishing(nats.url, nats.pid, counts, config.rounds, say)
        runs |= found
    else:
        rows = projecting.Counts(framed=config.backlog_framed, singles=config.backlog_singles)
        figures[part], found = await projecting.projecting(
            nats.url, nats.pid, database, postgres_pid, rows, config.rounds, say
        )
        runs |= found


def _each(figures: dict[str, Figures], of: Callable[[list[float]], Any]) -> dict[str, dict[str, Any]]:
    """The figures by part and name, each made of its rounds' values, which are rounded first."""
    return {
        part: {name: of([_rounded(value) for value in values]) for name, values in found.items()}
        for part, found in figures.items()
    }


@asynccontextmanager
async def _nats(config: SpineConfig) -> AsyncIterator[NatsServer]:
    """A fresh broker with coord's streams and consumers."""
    with tempfile.TemporaryDirectory(prefix="coord-bench-", ignore_cleanup_errors=True) as folder:
        server = NatsServer(Path(folder), NatsOptions(sync_interval=config.sync_interval))
        await server.start()
        try:
            async with await Connection.open(NatsConfig(urls=(server.url,)), name="bench-setup") as conn:
                await topology.apply(conn, topology.load(assets.streams_dir(), "production"))
            yield server
        finally:
            await server.stop()


async def _versions(nats: NatsServer, database: DatabaseConfig) -> dict[str, str | None]:
    async with await Connection.open(NatsConfig(urls=(nats.url,)), name="bench-setup") as conn:
        found = conn.client.connected_server_version
        broker = f"{found.major}.{found.minor}.{found.patch}"
    db: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(database.url)
    try:
        postgres = str(await db.fetchval("SHOW server_version")).partition(" ")[0]
        extension = await db.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    finally:
        await db.close()
    return machine.versions(nats_server=broker, postgres=postgres, timescaledb=extension)


def _settings(config: SpineConfig) -> dict[str, Any]:
    found = msgspec.structs.asdict(config)
    del found["database"]
    return found | {"streams_profile": "production", "synchronous_commit": "off", "fsync": True, "event_loop": "uvloop"}


def _rounded(value: float) -> float:
    return round(value, 3) if abs(value) < 100 else float(round(value))
