"""What the broker and the database hold, in one `Snapshot`; and what is wrong with it.

`coord status`, `coord top`, `coord doctor` and the gauges of ``/metrics`` all ask here, so
that they cannot tell different stories.  A collection never raises because something is
away: what could not be asked is None, and `judge` says so.

`judge` is pure: a snapshot in, problems out.  An *error* means that facts are not flowing or
will soon be lost; a *warning* that somebody should look.  Each names what to do.
"""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection, NatsConfig
from coord.ops.settings import side_pool
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.store import editions
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects

_log = logs.get("stats")

PROJECTED: Final = (subjects.EVENTS, subjects.TELEMETRY)

FILL_WARNING: Final = 0.8
FILL_ERROR: Final = 0.95
"""Parts of a stream's limits; from DESIGN §3, alarm at 80 %."""

LAG_WARNING_S: Final = 30.0
LAG_ERROR_S: Final = 300.0
"""Age of the newest projected message while more are waiting."""

SILENT_S: Final = 4 * limits.CHECKPOINT_IDLE_S
"""A checkpoint nobody confirmed for so long, while messages wait, has no projector."""

_LISTEN_S: Final = 1.5 * limits.REPLICA_BEAT_S
_GROUPED: Final = re.compile(r"(?P<group>.+)-\d+")


class BrokerStats(msgspec.Struct, frozen=True, kw_only=True):
    """The server that answered."""

    url: str
    server: str
    version: str
    rtt_s: float
    max_payload_bytes: int


class StreamStats(msgspec.Struct, frozen=True, kw_only=True):
    """One stream against its limits; a limit of -1 is none."""

    name: str
    messages: int
    bytes: int
    limit_messages: int
    limit_bytes: int
    fill: float
    """The fuller of messages and bytes, 0 to 1; 0 without limits."""
    discard: str
    """What happens when it is full: `new` refuses publishers, `old` drops the oldest."""
    subjects: int
    consumers: int
    first_seq: int
    last_seq: int
    first_at: datetime | None
    last_at: datetime | None
    replicas: int
    leader: str | None


class ConsumerStats(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer, or a group that has one per partition, added up."""

    stream: str
    name: str
    members: int
    pending: int
    """Not yet delivered."""
    ack_pending: int
    """Delivered, not yet acked."""
    redelivered: int
    waiting: int
    """Pull requests that wait for messages."""
    pinned: int
    """Partitions that somebody owns now."""
    delivered: int
    """Messages delivered since the consumers were made or reset: only its rise means something."""


class ProjectionStats(msgspec.Struct, frozen=True, kw_only=True):
    """One stream's checkpoints."""

    stream: str
    partitions: int
    pending: int
    lag_seconds: float | None
    silent_seconds: float | None
    epoch: int
    seq_min: int
    seq_max: int


class DeadLetterStats(msgspec.Struct, frozen=True, kw_only=True):
    """Parked messages of one stream with one error."""

    stream: str
    code: str
    letters: int
    last_at: datetime


class DatabaseStats(msgspec.Struct, frozen=True, kw_only=True):
    """The database that answered."""

    url: str
    edition: str
    lacks: tuple[str, ...]
    postgres: str
    timescaledb: str | None
    bytes: int
    connections: int
    connections_max: int
    migrated: bool


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something a person should know."""

    severity: Literal["error", "warning"]
    what: str
    """The part it is about: `broker`, `stream EVENTS`, `projection EVENTS`."""
    message: str
    remedy: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment."""

    at: datetime
    broker: BrokerStats | None = None
    streams: tuple[StreamStats, ...] = ()
    consumers: tuple[ConsumerStats, ...] = ()
    instances: tuple[str, ...] | None = None
    """Projectors heard of; None when nobody listened."""
    database: DatabaseStats | None = None
    projection: tuple[ProjectionStats, ...] = ()
    dead_letters: tuple[DeadLetterStats, ...] = ()
    agents: dict[str, int] = {}
    """State → how many."""
    failures: tuple[Problem, ...] = ()
    """What could not be asked, and why."""

    def stream(self, name: str) -> StreamStats | None:
        """The stream of that name, if there is one."""
        return next((s for s in self.streams if s.name == name), None)

    def consumer(self, stream: str, name: str) -> ConsumerStats | None:
        """The consumer or group of that name, if there is one."""
        return next((c for c in self.consumers if (c.stream, c.name) == (stream, name)), None)


# --- collecting ----------------------------------------------------------------------------


async def collect(
    conn: Connection | errors.CoordError,
    pool: Pool | errors.CoordError,
    *,
    listen: bool = True,
    now: datetime | None = None,
) -> Snapshot:
    """Ask the broker and the database, at the same time.

    Either may be the error that kept it from being reached.  `listen`: also listen for
    projectors, which takes `_LISTEN_S`.
    """
    broker, database = await asyncio.gather(_ask_broker(conn, listen=listen), _ask_database(pool))
    merged = {**broker, **database, "failures": (*broker.get("failures", ()), *database.get("failures", ()))}
    return Snapshot(at=now or datetime.now(UTC), **merged)


async def _ask_broker(conn: Connection | errors.CoordError, *, listen: bool) -> dict[str, Any]:
    try:
        if isinstance(conn, errors.CoordError):
            raise conn
        heard = asyncio.ensure_future(_instances(conn)) if listen else None
        try:
            broker = await _broker(conn)
            found = await streams(conn)
            return {
                "broker": broker,
                "streams": tuple(found),
                "consumers": tuple([c for s in found for c in await consumers(conn, s.name)]),
                "instances": await heard if heard is not None else None,
            }
        finally:
            if heard is not None:
                heard.cancel()
                await asyncio.wait({heard})
    except errors.CoordError as exc:
        return {"failures": (_failure("broker", exc),)}


async def _ask_database(pool: Pool | errors.CoordError) -> dict[str, Any]:
    try:
        if isinstance(pool, errors.CoordError):
            raise pool
        async with pool.acquire() as conn:
            edition = await editions.detect_async(conn)
            with translated("stats"):
                row = dict((await conn.fetch(statement("stats_database")))[0])
                database = DatabaseStats(
                    url=pool.config.safe_url,
                    edition=edition.name,
                    lacks=edition.lacks,
                    postgres=edition.postgres,
                    timescaledb=edition.timescaledb,
                    **row,
                )
                if not database.migrated:
                    return {"database": database}
                projection = await conn.fetch(statement("stats_projection"))
                letters = await conn.fetch(statement("stats_dead_letters"))
                agents = await conn.fetch(statement("stats_agents"))
        return {
            "database": database,
            "projection": tuple(ProjectionStats(**dict(r)) for r in projection),
            "dead_letters": tuple(DeadLetterStats(**dict(r)) for r in letters),
            "agents": {r["state"]: r["agents"] for r in agents},
        }
    except errors.CoordError as exc:
        return {"failures": (_failure("database", exc),)}


def _failure(what: str, exc: errors.CoordError) -> Problem:
    return Problem(severity="error", what=what, message=f"{exc.message} [{exc.code}]", remedy=exc.remedy)


async def _broker(conn: Connection) -> BrokerStats:
    started = time.perf_counter()  # finer than the loop's clock
    await conn.flush()
    rtt_s = time.perf_counter() - started
    url, server = conn.client.connected_url, conn.client._server_info  # noqa: SLF001 - nats-py shows only parts
    return BrokerStats(
        url=f"nats://{url.hostname}:{url.port}" if url is not None else "",
        server=str(server.get("server_name", "")),
        version=str(server.get("version", "")),
        rtt_s=rtt_s,
        max_payload_bytes=conn.max_payload,
    )


async def streams(conn: Connection) -> list[StreamStats]:
    """The streams of coord that exist, in coord's order; others of the account are none of our business."""
    found = []
    for name in subjects.STREAMS:
        try:
            found.append(stream(await conn.api(f"STREAM.INFO.{name}")))
        except errors.ApiNotFound:
            continue
    return found


def stream(info: dict[str, Any]) -> StreamStats:
    """One answer of STREAM.INFO."""
    config, state = info["config"], info["state"]
    limit_messages, limit_bytes = config.get("max_msgs", -1), config.get("max_bytes", -1)
    fills = [
        held / limit
        for held, limit in ((state["messages"], limit_messages), (state["bytes"], limit_bytes))
        if limit > 0
    ]
    return StreamStats(
        name=config["name"],
        messages=state["messages"],
        bytes=state["bytes"],
        limit_messages=limit_messages,
        limit_bytes=limit_bytes,
        fill=max(fills, default=0.0),
        discard=config.get("discard", "old"),
        subjects=state.get("num_subjects", 0),
        consumers=state.get("consumer_count", 0),
        first_seq=state["first_seq"],
        last_seq=state["last_seq"],
        first_at=_moment(state.get("first_ts")),
        last_at=_moment(state.get("last_ts")),
        replicas=config.get("num_replicas", 1),
        leader=(info.get("cluster") or {}).get("leader"),
    )


async def consumers(conn: Connection, stream: str) -> list[ConsumerStats]:
    """The consumers of a stream, those that have one per partition added up."""
    groups: dict[str, ConsumerStats] = {}
    offset = 0
    while True:
        page = await conn.api(f"CONSUMER.LIST.{stream}", {"offset": offset})
        for info in page.get("consumers") or []:
            one = _consumer(stream, info)
            groups[one.name] = _add(groups[one.name], one) if one.name in groups else one
        offset += len(page.get("consumers") or [])
        if not page.get("consumers") or offset >= page["total"]:
            return [groups[name] for name in sorted(groups)]


def _consumer(stream: str, info: dict[str, Any]) -> ConsumerStats:
    grouped = _GROUPED.fullmatch(info["name"])
    return ConsumerStats(
        stream=stream,
        name=grouped["group"] if grouped else info["name"],
        members=1,
        pending=info.get("num_pending", 0),
        ack_pending=info.get("num_ack_pending", 0),
        redelivered=info.get("num_redelivered", 0),
        waiting=info.get("num_waiting", 0),
        pinned=sum(1 for g in info.get("priority_groups") or [] if g.get("pinned_client_id")),
        delivered=(info.get("delivered") or {}).get("consumer_seq", 0),
    )


def _add(a: ConsumerStats, b: ConsumerStats) -> ConsumerStats:
    fields = ("members", "pending", "ack_pending", "redelivered", "waiting", "pinned", "delivered")
    return msgspec.structs.replace(a, **{f: getattr(a, f) + getattr(b, f) for f in fields})


async def _instances(conn: Connection) -> tuple[str, ...]:
    """The projectors that say they are there within one and a half beats."""
    heard: set[str] = set()

    def listen(message: Any) -> None:
        name = message.subject.rpartition(".")[2]
        if message.data == b"gone":
            heard.discard(name)
        else:
            heard.add(name)

    subscription = await conn.subscribe(subjects.beats("projector"), listen)
    try:
        await asyncio.sleep(_LISTEN_S)
    finally:
        await subscription.unsubscribe()
    return tuple(sorted(heard))


def _moment(text: str | None) -> datetime | None:
    """The broker's RFC 3339 with nanoseconds; its zero time is None."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text)


# --- judging (pure) ------------------------------------------------------------------------


def judge(snapshot: Snapshot) -> list[Problem]:
    """What is wrong, errors first."""
    problems = list(snapshot.failures)
    if snapshot.broker is not None:
        problems += _judge_streams(snapshot)
        problems += _judge_consumers(snapshot)
    if snapshot.database is not None:
        problems += _judge_database(snapshot)
    if snapshot.broker is not None and snapshot.database is not None and snapshot.database.migrated:
        problems += _judge_projection(snapshot)
    return sorted(problems, key=lambda p: p.severity != "error")


def healthy(problems: list[Problem]) -> bool:
    """Whether none of them is an error."""
    return all(p.severity != "error" for p in problems)


def _judge_streams(snapshot: Snapshot) -> list[Problem]:
    problems = [
        _error(f"stream {name}", "it does not exist", "Run `coord stream apply`.")
        for name in subjects.STREAMS
        if snapshot.stream(name) is None
    ]
    for stream in snapshot.streams:
        if stream.replicas > 1 and stream.leader is None:
            problems.append(
                _error(f"stream {stream.name}", "it has no leader", "Wait for an election, or bring its servers back.")
            )
        if stream.discard != "new" or stream.fill < FILL_WARNING:
            continue  # a stream that drops its oldest is full as a matter of course
        make = _error if stream.fill >= FILL_ERROR else _warning
        problems.append(
            make(
                f"stream {stream.name}",
                f"it is {stream.fill:.0%} full; when it is full, publishers are refused",
                "Lower max_age or raise max_msgs and max_bytes in streams/, then `coord stream apply`.",
            )
        )
    return problems


def _judge_consumers(snapshot: Snapshot) -> list[Problem]:
    problems = []
    for name in PROJECTED:
        group = snapshot.consumer(name, "projector")
        if snapshot.stream(name) is not None and (group is None or group.members < limits.PARTITIONS):
            have = group.members if group else 0
            problems.append(
                _error(
                    f"stream {name}",
                    f"it has {have} of {limits.PARTITIONS} projector consumers",
                    "Run `coord stream apply`.",
                )
            )
    if snapshot.instances == ():
        waiting = sum(c.pending for c in snapshot.consumers if c.name == "projector")
        make = _error if waiting else _warning
        problems.append(make("projector", f"none is running; {waiting} messages wait", "Start one: `coord serve all`."))
    return problems


def _judge_database(snapshot: Snapshot) -> list[Problem]:
    database = snapshot.database
    assert database is not None
    if not database.migrated:
        return [_error("database", "coord's tables are not there", "Run `coord db migrate`.")]
    problems = []
    if database.connections >= 0.9 * database.connections_max:
        problems.append(
            _warning(
                "database",
                f"{database.connections} of {database.connections_max} connections are used",
                "Lower database.pool_max, or raise max_connections.",
            )
        )
    letters = sum(d.letters for d in snapshot.dead_letters)
    if letters:
        worst = snapshot.dead_letters[0]
        problems.append(
            _warning(
                "dead letters",
                f"{letters} parked, most of them {worst.code} ({worst.letters} of {worst.stream})",
                "Look at them: `coord dlq ls`.",
            )
        )
    return problems


def _judge_projection(snapshot: Snapshot) -> list[Problem]:
    problems = []
    for projection in snapshot.projection:
        what = f"projection {projection.stream}"
        lag_s, silent_s = projection.lag_seconds or 0.0, projection.silent_seconds or 0.0
        if projection.pending and silent_s > SILENT_S:
            problems.append(
                _error(
                    what,
                    f"{projection.pending} messages wait and a checkpoint has not moved for {silent_s:.0f} s",
                    "See which and why: `coord projection status`.",
                )
            )
        elif lag_s > LAG_WARNING_S:
            make = _error if lag_s > LAG_ERROR_S else _warning
            problems.append(
                make(
                    what,
                    f"it is {lag_s:.0f} s behind, {projection.pending} messages wait",
                    "Look at `coord top`: add a projector, or find out what slows the database.",
                )
            )
        stream = snapshot.stream(projection.stream)
        if stream is not None and stream.discard == "new" and 0 < projection.seq_min < stream.first_seq - 1:
            problems.append(
                _error(
                    what,
                    f"the log begins at {stream.first_seq}, a checkpoint is at {projection.seq_min}: facts may be lost",
                    "See `coord projection status`; go on with `coord projection new-epoch`.",
                )
            )
    return problems


def _error(what: str, message: str, remedy: str) -> Problem:
    return Problem(severity="error", what=what, message=message, remedy=remedy)


def _warning(what: str, message: str, remedy: str) -> Problem:
    return Problem(severity="warning", what=what, message=message, remedy=remedy)


# --- gauges --------------------------------------------------------------------------------


class StatsService(Service):
    """Refreshes the gauges of streams, consumers and tables while a process serves."""

    def __init__(
        self,
        nats: NatsConfig,
        database: DatabaseConfig,
        every_s: float,
        *,
        registry: Metrics | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__("stats", registry=registry, clock=clock)
        self.snapshot: Snapshot | None = None
        """The last one."""
        self._nats = nats
        self._database = database
        self._every_s = every_s

    async def run(self) -> None:
        """Ask, show, sleep.  What is away is counted and asked again."""
        pool = await Pool(side_pool(self._database, "stats"), metrics=Metrics(_nowhere())).open(wait=False)
        conn: Connection | None = None
        try:
            while not self.draining.is_set():
                if conn is None:
                    conn = await Connection.open(self._nats, name="coord-stats", wait=True)
                self.snapshot = await collect(conn, pool, listen=False, now=self.clock.now())
                self._show(self.snapshot)
                await self.clock.sleep(self._every_s)
        finally:
            await pool.close()
            if conn is not None:
                await conn.close()

    def is_ready(self) -> bool:
        """Always: whether the others are well is not this service's to say."""
        return True

    def _show(self, snapshot: Snapshot) -> None:
        m = self.metrics
        for problem in snapshot.failures:
            m.stats_errors.labels(source=problem.what).inc()
            _log.debug("stats.unavailable", source=problem.what, error=problem.message)
        for s in snapshot.streams:
            self._set(m.stream_messages, s.messages, s.name)
            self._set(m.stream_bytes, s.bytes, s.name)
            self._set(m.stream_limit_messages, s.limit_messages, s.name)
            self._set(m.stream_limit_bytes, s.limit_bytes, s.name)
        for c in snapshot.consumers:
            self._set(m.consumer_pending_messages, c.pending, c.stream, c.name)
            self._set(m.consumer_ack_pending_messages, c.ack_pending, c.stream, c.name)
        for p in snapshot.projection:
            if p.lag_seconds is not None:
                self._set(m.consumer_lag_seconds, p.lag_seconds, p.stream, "projector")
        if snapshot.database is not None and snapshot.database.migrated:
            for stream in PROJECTED:
                letters = sum(d.letters for d in snapshot.dead_letters if d.stream == stream)
                self._set(m.dead_letters, letters, stream)

    @staticmethod
    def _set(gauge: Any, value: float, *labels: str) -> None:
        gauge.labels(*labels).set(value)


def _nowhere() -> Any:
    """A registry nobody shows: this service's own pool is not what operators watch."""
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()
