"""Maintenance of the tables: rollups, retention, what ended; one process of the fleet at a time.

::

    every few minutes: the advisory lock of the database ──another has it──▶ sleep
                          │ ours
                       how far is the projector behind? ──▶ hold or release what compresses and drops
                          │
                       rollups, as far as they are complete (apache, plain; the server does it in community)
                          │ at 02:00 UTC, or as soon after as somebody is there
                       anchors, old minutes and hours of rollups, retention, what ended, archive
                          │
                       facts of every step: stated by _maintenance

Where facts come fast, whoever leads goes on leading between two looks and moves the rollups as soon as about 10,000
more have come, twice a second at most: what no rollup has, every view counts.

Each step is one or more transactions of about 10,000 rows with pauses in between, so that ingest goes on
(`coord.core.upkeep`), and can be repeated: a process that dies leaves nothing half done, whoever leads next goes on.
What was done is a row of coord.maintenance_step first and a fact then, so that a log that is away
misses nothing.  A step that fails is recorded and keeps the others from nothing.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection as Bus
from coord.bus.connection import NatsConfig
from coord.core import upkeep
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.server.config import MaintenanceConfig
from coord.store import editions, maintenance, rollups
from coord.store.alone import alone
from coord.store.archive import pieces
from coord.store.config import AgesConfig, ArchiveConfig, DatabaseConfig
from coord.store.maintenance import Recorded, Removed, Step
from coord.store.pool import Connection, Pool
from coord.store.rollup_files import LEVELS, STREAMS, Level, Rollup
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import headers, ids
from coord.wire.encode import encode_fact
from coord.wire.records import Fact

_log = logs.get("maintenance")

AGENT: Final = "_maintenance"


class Maintenance(Service):
    """See the module.  It starts without its database and its broker, and goes on when they come."""

    def __init__(
        self,
        nats: NatsConfig | None,
        database: DatabaseConfig,
        ages: AgesConfig,
        config: MaintenanceConfig | None = None,
        *,
        tenant: str = "default",
        window_s: float = 0.0,
        archive: ArchiveConfig | None = None,
        clock: Clock | None = None,
        registry: Metrics | None = None,
    ) -> None:
        """`database`: three connections at least while it works: who leads holds one, an archive two.

        `nats`: None: steps are recorded and not stated.  `tenant`: whose facts they are.  `window_s`: how long the log
        holds a fact; what ended stays at least so long.  `archive`: facts and samples leave by it, not by retention.
        """
        super().__init__("maintenance", clock=clock, registry=registry)
        self.config = config or MaintenanceConfig()
        self.config.validate()
        self.leads = False
        """At the last look."""
        self.steps = 0
        """Since the start, that did something."""
        self._nats = nats
        # Its statements may take their time: nobody waits for them, and none is slow by a reader's measure.
        self._database = msgspec.structs.replace(
            database, pool_min=0, pool_max=max(3, database.pool_max), slow_query_ms=0.0
        )
        self._ages = ages
        self._tenant = tenant
        self._window_s = window_s
        self._archive = archive if archive is not None and archive.url else None
        self._bus: Bus | None = None
        self._said: dict[str, str] = {}
        """What could not be done and why, until it can: said once."""
        self._rolled: dict[str, Step] = {}
        """What rollups were moved by since it was last recorded."""
        self._widths: dict[str, float] = {}
        """How much time a step of each rollup covered at last, in seconds."""
        self._rolled_at = self.clock.monotonic()
        self._roll_every_s = math.inf
        """How often rollups are moved on between looks; infinite: facts do not come so fast, or it is another's."""

    # --- life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look, work, sleep; what is away is asked again at the next look."""
        rng = random.Random()
        while not self.draining.is_set():
            try:
                # Jittered, so that replicas started together do not work at the same moment.
                await self._between_looks(self.config.every_s * (0.5 + rng.random()))
                await self.look()
                self._said.pop("look", None)
            except errors.CoordError as exc:
                self._roll_every_s = math.inf  # or it would lead again at once, and fail again
                self._say("look", exc.code, error=exc)

    async def teardown(self) -> None:
        """Close the connection."""
        if self._bus is not None:
            await self._bus.close()

    def details(self) -> dict[str, Any]:
        """Whether it leads, and what was done."""
        return {"leads": self.leads, "steps": self.steps}

    async def _between_looks(self, rest_s: float) -> None:
        """Sleep; where facts come fast, lead on and move the rollups meanwhile."""
        until = self.clock.monotonic() + rest_s
        if self._roll_every_s < rest_s:
            async with self._leading() as (pool, conn):
                while conn is not None and self._roll_every_s < until - self.clock.monotonic():
                    await self.clock.sleep(self._roll_every_s)
                    await self._roll(pool, conn)
        await self.clock.sleep(max(0.0, until - self.clock.monotonic()))

    # --- one look ------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _leading(self) -> AsyncIterator[tuple[Pool, Connection | None]]:
        pool = Pool(self._database, metrics=self.metrics)
        async with await pool.open(wait=True), alone(pool, "maintenance") as conn:
            self.leads = conn is not None
            if conn is None:
                self._roll_every_s = math.inf
            yield pool, conn

    async def look(self) -> None:
        """Work, if nobody else does."""
        async with self._leading() as (pool, conn):
            if conn is None:
                return
            edition = await editions.detect_async(conn)
            waiting_s, silent_s = await maintenance.behind_s(conn)
            why = upkeep.held(waiting_s, silent_s, self._ages.hot_days)
            await self._hold(conn, why)
            if edition.name != "community":
                await self._roll(pool, conn)
                await self._record_rolled(conn)
            now, last, tried = await maintenance.night(conn)
            if last is None:
                # The first look only says since when there is somebody: a start at noon is no night.
                await maintenance.record(conn, Step(job="night", relation=""))
            elif upkeep.is_due(now, last, self.config.at, tried):
                await self._tonight(pool, conn, edition.name, why, waiting_s)
            await self._tell(conn)

    async def _hold(self, conn: Connection, why: str | None) -> None:
        changed = await maintenance.hold(conn, why is not None)
        if changed:
            await self._record(
                conn,
                Step(job="hold", relation="", unit="jobs", rows=changed, result="held" if why else "done", reason=why),
            )

    async def _roll(self, pool: Pool, conn: Connection) -> None:
        """Move every rollup as far as it may be moved; how soon again follows from how much that was."""
        pause_s = limits.MAINTAIN_PAUSE_S if math.isinf(self._roll_every_s) else limits.ROLLUP_PAUSE_MIN_S
        settle_s = upkeep.settle_s(self._roll_every_s)
        rows = 0
        failed = False
        for rollup in rollups.load():
            for level in LEVELS:
                with self._failing(f"rollup {rollup.table(level)}") as failure:
                    began = self.clock.monotonic()
                    width_s = self._widths.get(rollup.table(level))
                    moved = await rollups.advance(
                        pool, rollup, level, pause_s=pause_s, settle_s=settle_s, width_s=width_s
                    )
                    self._widths[moved.relation] = moved.width_s
                    if moved.again is not None:
                        _log.warning("maintenance.counted_again", rollup=rollup.name, since=moved.again)
                    self._add(moved, self.clock.monotonic() - began)
                    rows = max(rows, moved.rows if level == LEVELS[0] else 0)
                await self._record_failure(conn, "rollup", rollup.table(level), failure)
                failed = failed or bool(failure)
        with self._failing("index of time"):
            await rollups.ready(pool)
        since, self._rolled_at = self._rolled_at, self.clock.monotonic()
        again_s = upkeep.next_roll_s(rows, self._rolled_at - since, self.config.every_s)
        self._roll_every_s = math.inf if failed else again_s

    def _add(self, moved: rollups.Advance, seconds: float) -> None:
        """Keep what was moved for the next look's record: where facts come fast, each move is not worth a row."""
        if moved.steps:
            before = self._rolled.get(moved.relation) or Step(job="rollup", relation=moved.relation)
            self._rolled[moved.relation] = msgspec.structs.replace(
                before, rows=before.rows + moved.rows, batches=before.batches + moved.steps,
                seconds=before.seconds + seconds, result="more" if moved.more else "done",
            )  # fmt: skip

    async def _record_rolled(self, conn: Connection) -> None:
        for name in list(self._rolled):
            await self._record(conn, self._rolled.pop(name))

    async def _tonight(self, pool: Pool, conn: Connection, edition: str, why: str | None, waiting_s: float) -> None:
        """The night's work; done when nothing was held: else, or where it dies, it is tried again an hour later."""
        await maintenance.record(conn, Step(job="night", relation="", result="more"))
        began = self.clock.monotonic()
        if await self._night(pool, conn, edition, why, waiting_s):
            await maintenance.record(conn, Step(job="night", relation="", seconds=self.clock.monotonic() - began))

    async def _night(self, pool: Pool, conn: Connection, edition: str, why: str | None, waiting_s: float) -> bool:
        await self._step(conn, "anchors", "audit_anchor", lambda: _counted(maintenance.remove_anchors(pool)))
        for rollup in rollups.load() if edition != "community" else []:
            for level, days in _expiring(self._ages):
                await self._expire(pool, conn, rollup, level, days)
        keep = timedelta(seconds=limits.MAINTENANCE_KEEP_S)
        await self._step(conn, "steps", "maintenance_step", lambda: _counted(maintenance.forget_steps(pool, keep)))
        return await self._drop(pool, conn, edition, why, waiting_s)

    async def _expire(self, pool: Pool, conn: Connection, rollup: Rollup, level: Level, days: float) -> None:
        async def expire() -> list[Removed]:
            rows, _ = await rollups.expire(pool, rollup, level, timedelta(days=days))
            return [Removed(relation=rollup.table(level), unit="rows", removed=rows, more=False)]

        await self._step(conn, "expire", rollup.table(level), expire)

    async def _drop(self, pool: Pool, conn: Connection, edition: str, why: str | None, waiting_s: float) -> bool:
        """Retention, what ended and the archive: what takes rows away.  False: all of it is held.

        The archive last: it takes longest and needs most, and what a process dies of keeps nothing else from its night.
        """
        refused = upkeep.refused(waiting_s, self._ages.retain_days)
        if refused is not None:
            await self._record(conn, Step(job="retention", relation="", result="refused", reason=refused))
            return False
        if why is not None:
            await self._record(conn, Step(job="retention", relation="", result="held", reason=why))
            return False
        # By both clocks, as what drops has it: the last minute of a fleet that fell silent, which no rollup has as a
        # whole, is not old.
        now = await pieces.clock(conn)
        if self._ages.retain_days is not None:
            await self._retain(pool, conn, edition, now, timedelta(days=self._ages.retain_days))
        if self._archive is not None:
            await self._archived(pool, conn, self._archive, edition, now)
        return True

    async def _retain(self, pool: Pool, conn: Connection, edition: str, now: datetime, retain: timedelta) -> None:
        uncounted = await self._uncounted(conn, edition, now - retain)
        if uncounted is not None:
            await self._record(conn, Step(job="retention", relation="", result="held", reason=uncounted))
        else:
            await self._step(conn, "retention", "", lambda: maintenance.maintain(pool, retain))
        ended = max(retain, timedelta(seconds=self._window_s + limits.ENDED_MARGIN_S))
        await self._step(conn, "ended", "", lambda: maintenance.remove_ended(pool, ended))

    async def _archived(self, pool: Pool, conn: Connection, config: ArchiveConfig, edition: str, now: datetime) -> None:
        """One run of the archive, then its purge; each chunk's step is recorded as it is taken."""
        from coord.store.archive import run as archiving

        uncounted = editions.too_short(await editions.detect_async(conn), self._ages, config)
        if uncounted is None and config.drop_days is not None:
            uncounted = await self._uncounted(conn, edition, now - timedelta(days=config.drop_days))
        if uncounted is not None:
            await self._record(conn, Step(job="archive", relation="", result="held", reason=uncounted))
            return

        async def told(done: archiving.Done) -> None:
            self.metrics.archive_rows.labels(step=done.step).inc(done.piece.rows or 0)
            self.metrics.archive_bytes.labels(step=done.step).inc(done.piece.bytes or 0)
            await self._record(
                conn,
                Step(
                    job=f"archive_{done.step}", relation=done.piece.relation, rows=done.piece.rows or 0, batches=1,
                    seconds=done.seconds,
                ),
            )  # fmt: skip

        with self._failing("archive") as failure:
            report = await archiving.run(pool, config, told=told)
            failure.extend(report.problems)
            if not failure:
                dropped = report.rows("drop")
                await self._record(conn, Step(job="archive", relation="", rows=dropped, seconds=report.seconds))
        await self._record_failure(conn, "archive", "", failure)
        with self._failing("archive purge") as unpurged:
            await archiving.purge(pool, config, told=told)
        await self._record_failure(conn, "archive_purge", "", unpurged)
        for problem in (*failure, *unpurged):
            self.metrics.archive_problems.labels(code=problem.code).inc()

    async def _uncounted(self, conn: Connection, edition: str, cutoff: datetime) -> str | None:
        """Why what is older than `cutoff` may not go yet: a rollup lacks it.  None: it may."""
        if edition == "community":
            return None  # a refresh looks back no further than the rows stay
        for source in STREAMS:
            exists, shown = await rollups.uncounted(conn, source, cutoff)
            if exists:
                return upkeep.unrolled(shown, cutoff)
        return None

    # --- one step ------------------------------------------------------------------------------

    async def _step(
        self, conn: Connection, job: str, relation: str, work: Callable[[], Awaitable[Sequence[Removed]]]
    ) -> None:
        """Do it and record it: a row for each table that it names, with its size before and after."""
        with self._failing(f"{job} {relation}".strip()) as failure:
            began = self.clock.monotonic()
            before = {name: await maintenance.size_of(conn, name) for name in _SIZED.get(job, ())}
            for done in await work():
                name = done.relation or relation
                await self._record(
                    conn,
                    Step(
                        job=job, relation=name, unit=done.unit, rows=done.removed, batches=done.batches,
                        seconds=self.clock.monotonic() - began, result="more" if done.more else "done",
                        bytes_before=before.get(name),
                        bytes_after=await maintenance.size_of(conn, name) if name in before else None,
                    ),
                )  # fmt: skip
        await self._record_failure(conn, job, relation, failure)

    @contextlib.contextmanager
    def _failing(self, what: str) -> Iterator[list[errors.CoordError]]:
        """What fails in the block is collected, said once, and ends nothing else."""
        failure: list[errors.CoordError] = []
        try:
            yield failure
            self._said.pop(what, None)
        except errors.CoordError as exc:
            self._say(what, exc.code, error=exc)
            failure.append(exc)

    async def _record_failure(
        self, conn: Connection, job: str, relation: str, failure: Sequence[errors.CoordError]
    ) -> None:
        for exc in failure:
            await self._record(
                conn, Step(job=job, relation=relation, result="failed", reason=f"{exc.code}: {exc.message}"[:500])
            )

    async def _record(self, conn: Connection, step: Step) -> None:
        await maintenance.record(conn, step)
        if step.result in {"held", "refused"}:
            self._say(f"{step.job} {step.relation}", step.reason or "", result=step.result)
            return
        if step.result != "failed":
            self.steps += 1
            self._said.pop(f"{step.job} {step.relation}", None)
        if step.rows:
            _log.info(
                "maintenance.step", job=step.job, relation=step.relation, unit=step.unit, rows=step.rows,
                batches=step.batches, seconds=round(step.seconds, 3),
            )  # fmt: skip

    def _say(self, what: str, why: str, **fields: Any) -> None:
        if self._said.get(what) != why:
            self._said[what] = why
            _log.warning("maintenance.waiting", what=what, why=why, **fields)

    # --- facts ---------------------------------------------------------------------------------

    async def _tell(self, conn: Connection) -> None:
        """Publish the facts of steps that the log has none of; a log that is away gets them with the next look."""
        steps = await maintenance.unstated(conn)
        if not steps or self._nats is None:
            return
        with self._failing("facts"):
            if self._bus is None:
                self._bus = await Bus.open(self._nats, name="coord-maintenance", role="maintenance", wait=False)
            told = []
            try:
                for step in steps:
                    await self._publish(self._bus, step)
                    told.append(step.id)
            finally:
                if told:
                    await maintenance.stated(conn, told)

    async def _publish(self, bus: Bus, step: Recorded) -> None:
        fact = Fact(
            kind="maintenance", key=AGENT, id=step.relation or step.job, event="stepped", detail=(step.job,),
            data=_said_of(step),
        )  # fmt: skip
        number = f"{step.started_at.isoformat()}-{step.id}"
        made = encode_fact(
            fact, tenant=self._tenant, agent=AGENT, occurred_at=step.ended_at,
            event_id=ids.derive_id(self._tenant, AGENT, "1", number, 1, 0),
        )  # fmt: skip
        answer = await bus.request(made.subject, made.body, headers=headers.encode(made.headers))
        error = msgspec.json.decode(answer.data, type=dict[str, Any]).get("error")
        if error:
            raise errors.PublishRefused(str(error.get("description", error)), subject=made.subject)


_SIZED: Final = {"retention": ("event", "metric_sample", "outcome"), "ended": ("task", "workflow", "handoff")}
"""Jobs whose tables are measured before and after."""


def _expiring(ages: AgesConfig) -> list[tuple[Level, float]]:
    """Widths that are kept for so many days."""
    return [("1m", ages.minutes_days), ("1h", ages.hours_days)]


async def _counted(count: Awaitable[int]) -> list[Removed]:
    return [Removed(relation="", unit="rows", removed=await count, more=False)]


def _said_of(step: Recorded) -> dict[str, Any]:
    """The body of a step's fact: what there is to say."""
    said = {
        "job": step.job, "relation": step.relation, "result": step.result, "unit": step.unit, "rows": step.rows,
        "batches": step.batches, "seconds": round((step.ended_at - step.started_at).total_seconds(), 3),
        "bytes_before": step.bytes_before, "bytes_after": step.bytes_after, "reason": step.reason,
    }  # fmt: skip
    return {name: value for name, value in said.items() if value is not None and value != ""}
