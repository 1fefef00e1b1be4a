"""Ten million facts through everything: whether memory stays flat and each is a row once.

One publisher states facts `task.progress` through `emit_many`, a hundred about each task, which
travel in frames, and some single facts between them; `processes` projectors share the
partitions.  The publisher waits while the projectors are far behind, so the run measures what
the whole can keep up for minutes, not how fast a queue fills.

The log is a window of a minute, so its oldest messages leave while new ones come, as they do
in production after a day.  `coord.ops.bench.held` says what has to hold at the end, or the run
fails.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from coord import limits
from coord.bus.connection import Connection, NatsConfig
from coord.client.connect import Coord
from coord.errors import EnvironmentProblem, SettingsError
from coord.ops.bench import ends, held, machine, servers
from coord.ops.bench.author import author
from coord.ops.bench.held import Sample
from coord.ops.bench.measure import BenchError, Clock, rss_bytes
from coord.ops.bench.workers import Job, Worker
from coord.ops.devstack.stack import DevStackConfig
from coord.wire import subjects
from coord.wire.envelope import Fact

FORMAT: Final = 1

TASK: Final = 100
"""Facts about each task."""

_CHUNK: Final = 50
"""Tasks stated between two looks at how far the projectors are behind."""

_SINGLES_EVERY: Final = 50
"""One fact in so many is a single one."""

_LAG_MESSAGES_MAX: Final = 5_000
"""How far behind projectors may be before the publisher waits: half a million facts, some seconds."""

_SAMPLE_S: Final = 0.5
_FINE_S: Final = 0.05
"""Between two looks at the projectors; the second once all is published: the error of the end."""

_STALLED_S: Final = 150.0
_DISK_EVERY: Final = 10
"""One look at the disk for so many at the memory: it walks through folders."""

_WINDOW_S_MIN: Final = limits.PUBLISH_DEADLINE_S + 5 * limits.PUBLISH_ATTEMPT_S
"""Longer than the publisher may send a message again."""

_ROW_BYTES: Final = 900
"""Disk wanted for a fact before anything starts: its row, its indexes and write-ahead log, with room to spare."""


class SoakConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the soak does.  The defaults take some minutes on two cores."""

    facts: int = 10_000_000
    processes: int = 1
    """Projectors."""
    window_s: float = 60.0
    """`max_age` of EVENTS, and its duplicate_window, above which the broker wants it."""
    disk_gib_max: float = 15.0
    """Of stream and database together; beyond it the soak ends."""
    took_s_max: float = 1_200.0
    """The soak ends then, whatever is missing."""
    sync_interval: str | None = None
    """nats-server's: "always" syncs before every acknowledgement; None is its default, two minutes."""
    database: DevStackConfig = DevStackConfig(ephemeral=True, nats=False)

    def validate(self) -> None:
        """Raise `SettingsError` when a number is out of its bounds."""
        if self.facts < TASK:
            raise SettingsError(f"bench: facts is at least {TASK}")
        if not 1 <= self.processes <= limits.PARTITIONS:
            raise SettingsError(f"bench: processes is from 1 to {limits.PARTITIONS}, one for each partition")
        if self.window_s < _WINDOW_S_MIN:
            raise SettingsError(f"bench: window_s is at least {_WINDOW_S_MIN:g}: resends must be recognised")
        if self.disk_gib_max <= 0 or self.took_s_max <= 0:
            raise SettingsError("bench: disk_gib_max and took_s_max are positive")


async def soak(
    config: SoakConfig, say: Callable[[str], None], tick: Callable[[Sample], None] = lambda _: None
) -> dict[str, Any]:
    """Run it; `tick` is called twice a second.  Returns the report.

    Raises `BenchError` when a fact was lost, doubled or out of order, a projector ended, the disk
    or the time ran out; `EnvironmentProblem` when there is not enough disk to begin.
    """
    config.validate()
    _enough_disk(config)
    circumstances = machine.Circumstances()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(servers.database(config.database, say))
        nats = await stack.enter_async_context(servers.broker(config.sync_interval))
        conn = await stack.enter_async_context(await Connection.open(NatsConfig(urls=(nats.url,)), name="bench-soak"))
        await _narrow_window(conn, config.window_s)
        job = Job(role="projector", nats_url=nats.url, database_url=database.config.url)
        workers = [await stack.enter_async_context(Worker(job)) for _ in range(config.processes)]
        db: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(database.config.url)
        stack.push_async_callback(db.close)
        coord = await stack.enter_async_context(author(nats.url))
        assert database.data_dir is not None, "its own server"
        run = _Run(config, coord, conn, db, workers, (nats.folder, database.data_dir), tick)
        assert nats.pid is not None
        clock = Clock(server=nats.pid, database=database.pid)
        try:
            async with asyncio.timeout(config.took_s_max):
                await run.publish_and_wait()
                clock.stop()
                say("  all is projected; counting …")
                found = await held.check(db, tasks=run.tasks, facts_a_task=TASK, singles=run.singles)
        except TimeoutError:
            raise BenchError(
                f"not done within {config.took_s_max:g} s", published=run.published, projected=run.projected
            ) from None
        state = (await conn.api(f"STREAM.INFO.{subjects.EVENTS}"))["state"]
        versions = await servers.versions(nats, database.config)
        edition = database.edition
    facts = run.tasks * TASK + run.singles
    rss = held.memory(run.samples)
    figures = {
        "facts": facts,
        "facts_per_s": round(facts / clock.seconds),
        "seconds": round(clock.seconds, 1),
        "messages": int(state["last_seq"]),
        "messages_aged_out": int(state["first_seq"]) - 1,
        "publisher_cpu_us": round(clock.client_cpu_s / facts * 1e6, 2),
        "nats_cpu_us": round(clock.server_cpu_s / facts * 1e6, 2),
        "database_cpu_us": round(clock.database_cpu_s / facts * 1e6, 2),
        "disk_gib_max": round(run.disk_bytes_max / 2**30, 2),
    }
    return circumstances.report(
        "soak",
        FORMAT,
        versions=versions,
        edition=edition,
        settings=servers.settings(config) | {"facts_a_task": TASK, "singles_one_in": _SINGLES_EVERY},
        figures={"soak": figures | rss},
        held=found | held.judged(rss, facts),
        samples=held.thinned(run.samples),
    )


class _Run:
    """A soak under way."""

    def __init__(
        self,
        config: SoakConfig,
        coord: Coord,
        conn: Connection,
        db: asyncpg.Connection[asyncpg.Record],
        workers: Sequence[Worker],
        folders: tuple[Path, Path],
        tick: Callable[[Sample], None],
    ) -> None:
        self.singles = config.facts // _SINGLES_EVERY
        self.tasks = (config.facts - self.singles) // TASK
        self.samples: list[Sample] = []
        self.published = self.projected = 0
        self.disk_bytes_max = 0
        self._config = config
        self._coord = coord
        self._conn = conn
        self._db = db
        self._workers = workers
        self._folders = folders
        self._tick = tick
        self._began = time.perf_counter()
        self._near = asyncio.Event()
        """The projectors are not far behind."""
        self._near.set()
        self._ends: dict[int, int] = {}
        """Partition → its last message, once all is published."""
        self._complete = asyncio.Event()

    async def publish_and_wait(self) -> None:
        """Return when every fact is committed."""
        self._began = time.perf_counter()
        watch = asyncio.create_task(self._watch())
        publish = asyncio.create_task(self._publish())
        try:
            # Watching ends by itself only when something is wrong.
            await asyncio.wait({watch, publish}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
            publish.result()
            self._ends = await ends.partition_ends(self._conn, subjects.EVENTS)
            complete = asyncio.create_task(self._complete.wait())
            await asyncio.wait({watch, complete}, return_when=asyncio.FIRST_COMPLETED)
            complete.cancel()
            if watch.done():
                watch.result()
        finally:
            for task in (watch, publish):
                task.cancel()
            await asyncio.wait({watch, publish})
        self._weigh(await asyncio.to_thread(self._disk_bytes))

    async def _publish(self) -> None:
        numbers = iter(range(self.singles))
        a_chunk = max(1, -(-self.singles * _CHUNK // self.tasks))
        for first in range(0, self.tasks, _CHUNK):
            await self._near.wait()
            tasks = range(first, min(first + _CHUNK, self.tasks))
            self.published += await self._coord.emit_many(_progress(tasks))
            alone = [number for _, number in zip(range(a_chunk), numbers, strict=False)]
            self.published += await self._coord.emit_many(map(_single, alone))
        await self._coord.flush()
        stats = self._coord.stats
        if stats.acked != stats.accepted or stats.failed or stats.shed:
            raise BenchError("not everything was stored", accepted=stats.accepted, acked=stats.acked)

    async def _watch(self) -> None:
        """Look at everything until cancelled."""
        moved = time.perf_counter()
        done = looks = 0
        while True:
            checkpoints = await ends.checkpoints(self._db, subjects.EVENTS)
            info = await self._conn.api(f"STREAM.INFO.{subjects.EVENTS}")
            self._follow(checkpoints, int(info["state"]["last_seq"]))
            if looks % _DISK_EVERY == 0:
                self._weigh(await asyncio.to_thread(self._disk_bytes))
            looks += 1
            now = time.perf_counter()
            if sum(checkpoints.values()) > done:
                done, moved = sum(checkpoints.values()), now
            if now - moved > _STALLED_S or not all(worker.alive for worker in self._workers):
                raise BenchError(
                    "a projector ended, or none projects any more", published=self.published, projected=self.projected
                )
            sample = Sample(now - self._began, self.published, self.projected, self._rss())
            self.samples.append(sample)
            self._tick(sample)
            await asyncio.sleep(_FINE_S if self._ends else _SAMPLE_S)

    def _follow(self, checkpoints: dict[int, int], last_seq: int) -> None:
        slowest = min(checkpoints.get(p, 0) for p in range(limits.PARTITIONS))
        self.projected = int(self.published * min(1.0, slowest / max(1, last_seq)))
        if last_seq - slowest > _LAG_MESSAGES_MAX:
            self._near.clear()
        else:
            self._near.set()
        if self._ends and ends.reached(self._ends, checkpoints):
            self.projected = self.published
            self._complete.set()

    def _rss(self) -> list[int]:
        return [rss_bytes(worker.pid) for worker in self._workers]

    def _disk_bytes(self) -> int:
        return sum(map(folder_bytes, self._folders))

    def _weigh(self, found: int) -> None:
        self.disk_bytes_max = max(self.disk_bytes_max, found)
        if found > self._config.disk_gib_max * 2**30:
            raise BenchError("the soak takes more disk than it may", gib=round(found / 2**30, 1))


def _progress(tasks: range) -> Iterator[Fact]:
    for number in tasks:
        for done in range(TASK):
            data = {"done": done, "of": TASK, "step": "parse"}
            yield Fact(kind="task", id=f"t{number}", event="progress", data=data)


def _single(number: int) -> Fact:
    return Fact(kind="file", id=f"f{number % 5_000}", event="analysed", data={"number": number})


async def _narrow_window(conn: Connection, window_s: float) -> None:
    info = await conn.api(f"STREAM.INFO.{subjects.EVENTS}")
    window = int(window_s * 1e9)
    narrow = {"max_age": window, "duplicate_window": min(window, info["config"]["duplicate_window"])}
    await conn.api(f"STREAM.UPDATE.{subjects.EVENTS}", info["config"] | narrow)


def _enough_disk(config: SoakConfig) -> None:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    wanted = min(config.facts * _ROW_BYTES, int(config.disk_gib_max * 2**30)) + 2 * 2**30
    if free < wanted:
        raise EnvironmentProblem(
            f"the soak wants {wanted / 2**30:.1f} GiB of free disk for temporary files and finds {free / 2**30:.1f}: "
            "set TMPDIR, or take fewer --facts"
        )


def folder_bytes(folder: Path) -> int:
    """Disk that a folder takes; what goes away meanwhile is not counted."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(f"{root}/{name}").st_blocks * 512
            except OSError:
                continue
    return total
