"""What the broker and the database hold, in one `Snapshot`.

`coord status`, `coord top`, `coord doctor` and the gauges of ``/metrics`` all ask here, so
that they cannot tell different stories.  A collection never raises because something is
away: what could not be asked is None, and a `Problem` among the `failures` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.core import assignment
from coord.core.admission import Board
from coord.store import editions
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated
from coord.telemetry import logs
from coord.wire import subjects, work

_log = logs.get("stats")

T = TypeVar("T")

PROJECTED: Final = (subjects.EVENTS, subjects.TELEMETRY)

_editions: WeakKeyDictionary[Pool, editions.Edition] = WeakKeyDictionary()

_LISTEN_S: Final = 1.5 * limits.REPLICA_BEAT_S
_BOARDS_S: Final = 1.5 * limits.BOARD_EVERY_S
_WHOSE_S: Final = 0.5
_GROUPED: Final = re.compile(r"(?P<group>.+)-(\d+|[0-9a-f]{12})")
"""A partition's consumer, or the one for all of them that a process has made."""


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
    created_at: datetime | None
    """Its identity: a stream made anew is another one."""


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
    """Since the checkpoint was written that was written longest ago;"""
    silent_seconds_min: float | None
    """and the one that was written last."""
    epoch: int
    seq_min: int
    seq_max: int
    stream_created_min: datetime
    stream_created_max: datetime
    """Which stream the checkpoints were taken from."""


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


class CapabilityStats(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one capability on its board."""

    tenant: str
    capability: str
    depth: int
    running: int
    agents: int
    starved: bool
    unplaced: int
    circuit: str


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """The consumers that are queues of capabilities: three of each that has work or workers."""

    consumers: int
    consumers_max: int = limits.CAPABILITIES_MAX * len(work.PRIORITIES)
    """Of all tenants; then a new capability's are refused until unused ones have gone."""


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
    unanswered: tuple[str, ...] = ()
    """Streams that nobody answers for: all of their servers are away, or have no leader."""
    consumers: tuple[ConsumerStats, ...] = ()
    queues: QueueStats | None = None
    instances: tuple[str, ...] | None = None
    """Projectors heard of; None when nobody listened."""
    older: tuple[str, ...] = ()
    """Projectors and deciders of an older release that were heard of: newer ones wait for them to end."""
    capabilities: tuple[CapabilityStats, ...] = ()
    """Those with work or agents, as heard; nothing where nobody listened or no decider runs."""
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

    Either may be the error that kept it from being reached.  `listen`: also ask who is there and how
    capabilities fare; where nobody answers that, it is listened for, which takes 1.5 s.
    """
    log, tables = await asyncio.gather(_ask_broker(conn, listen=listen), _ask_database(pool))
    if not isinstance(conn, errors.CoordError) and "streams" in log:
        log["streams"] = await _reaching(conn, log["streams"], tables.get("projection", ()))
    merged = {**log, **tables, "failures": (*log.get("failures", ()), *tables.get("failures", ()))}
    return Snapshot(at=now or datetime.now(UTC), **merged)


async def _reaching(
    conn: Connection, found: tuple[StreamStats, ...], projection: tuple[ProjectionStats, ...]
) -> tuple[StreamStats, ...]:
    """Streams with an end that was read later than the checkpoints that are beyond it: facts go on coming meanwhile."""
    ends = {one.stream: one.seq_max for one in projection}
    settled = []
    for one in found:
        later = None
        if ends.get(one.name, 0) > one.last_seq:
            with contextlib.suppress(errors.CoordError):
                later = await _stream(conn, one.name)
        settled.append(one if later is None else msgspec.structs.replace(one, last_seq=later.last_seq))
    return tuple(settled)


async def _ask_broker(conn: Connection | errors.CoordError, *, listen: bool) -> dict[str, Any]:
    try:
        if isinstance(conn, errors.CoordError):
            raise conn
        heard = asyncio.ensure_future(_instances(conn)) if listen else None
        boards = asyncio.ensure_future(_boards(conn)) if listen else None
        try:
            about = await broker(conn)
            found, unanswered = await streams(conn)
            lists = await asyncio.gather(*(consumers(conn, s.name) for s in found))
            readers = tuple(c for one in lists for c in one)
            return {
                "broker": about,
                "streams": tuple(found),
                "unanswered": unanswered,
                "consumers": readers,
                "queues": QueueStats(consumers=sum(subjects.parse_queue(c.name) is not None for c in readers)),
                **(await heard if heard is not None else {}),
                "capabilities": await boards if boards is not None else (),
            }
        finally:
            for listening in (heard, boards):
                if listening is not None:
                    listening.cancel()
                    await asyncio.wait({listening})
    except errors.CoordError as exc:
        return {"failures": (_failure("broker", exc),)}


async def _ask_database(pool: Pool | errors.CoordError) -> dict[str, Any]:
    try:
        if isinstance(pool, errors.CoordError):
            raise pool
        async with pool.acquire() as conn:
            edition = _editions.get(pool)
            if edition is None:  # asked once: the server looks through its folder of extensions
                edition = _editions[pool] = await editions.detect_async(conn)
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


async def broker(conn: Connection) -> BrokerStats:
    """The server this connection is with, and how far away it is."""
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


async def streams(conn: Connection) -> tuple[list[StreamStats], tuple[str, ...]]:
    """The streams of coord that exist, in coord's order, and those of which nobody answers.

    Others of the account are none of our business.  Raises where nobody answers for any.
    """
    asked = await asyncio.gather(*(_stream(conn, name) for name in subjects.STREAMS), return_exceptions=True)
    found = [one for one in asked if isinstance(one, StreamStats)]
    unanswered = []
    for name, one in zip(subjects.STREAMS, asked, strict=True):
        if not isinstance(one, BaseException):
            continue
        if not found or not isinstance(one, errors.ApiUnavailable | errors.DeadlineExceeded):
            raise one
        unanswered.append(name)
    return found, tuple(unanswered)


async def _stream(conn: Connection, name: str) -> StreamStats | None:
    try:
        return stream(await conn.api(f"STREAM.INFO.{name}"))
    except errors.ApiNotFound:
        return None


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
        created_at=_moment(info.get("created")),
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
            break
    decider, own = groups.get("decider"), groups.get("decider-all")
    if decider is not None and decider.pending and (own is None or not own.waiting):
        # They may read by the projector's: then their own only keep their pins, and what those count says nothing.
        with contextlib.suppress(errors.CoordError):
            where = subjects.rpc(subjects.OPERATORS, "deciders", "read")
            whose = await rpc.call(conn, where, {}, str, timeout_s=_WHOSE_S)
            groups["decider"] = _as_read(decider, groups.get(whose))
    return [_as_read(groups[name], groups.get(f"{name}-all")) for name in sorted(groups)]


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


def _as_read(group: ConsumerStats, everybodys: ConsumerStats | None) -> ConsumerStats:
    """What waits is what the one for all has left: those that only keep their pins stay where they are."""
    if everybodys is None or not everybodys.waiting:
        return group
    return msgspec.structs.replace(group, pending=everybodys.pending)


def _add(a: ConsumerStats, b: ConsumerStats) -> ConsumerStats:
    fields = ("members", "pending", "ack_pending", "redelivered", "waiting", "pinned", "delivered")
    return msgspec.structs.replace(a, **{f: getattr(a, f) + getattr(b, f) for f in fields})


async def _instances(conn: Connection) -> dict[str, tuple[str, ...]]:
    """Projectors that are there, and of them and of deciders who is of an older release than this."""
    projectors, deciders = await asyncio.gather(_replicas(conn, "projector"), _replicas(conn, "deciders"))
    older = {name for members in (projectors, deciders) for name in assignment.older(members, assignment.FOLDS)}
    return {"instances": tuple(sorted(projectors)), "older": tuple(sorted(older))}


async def _replicas(conn: Connection, service: str) -> dict[str, int]:
    """Name → folds, as one of them answers; where none does, of those that say so within one and a half beats."""
    heard: dict[str, int] = {}

    def listen(message: Any) -> None:
        name = message.subject.rpartition(".")[2]
        if message.data == assignment.GONE:
            heard.pop(name, None)
        else:
            heard[name] = assignment.folds_of(message.data)

    where = subjects.rpc(subjects.OPERATORS, "replicas", service)
    listening = await conn.subscribe(subjects.beats(service), listen)
    try:
        return await _told(rpc.call(conn, where, {}, dict[str, int]), _LISTEN_S) or heard
    finally:
        await listening.unsubscribe()


async def _boards(conn: Connection) -> tuple[CapabilityStats, ...]:
    """Every capability with work or agents, as a decider's process answers.

    Where none does, those whose board is said within one and a half beats: each is, once a second.
    """
    heard: dict[tuple[str, str], Board] = {}

    def listen(message: Any) -> None:
        if len(heard) < 2 * limits.CAPABILITIES_MAX:
            with contextlib.suppress(msgspec.MsgspecError, errors.WireError):
                heard[subjects.parse_board(message.subject)] = msgspec.json.decode(message.data, type=Board)

    where = subjects.rpc(subjects.OPERATORS, "agents", "boards")
    subscription = await conn.subscribe(subjects.BOARDS_ALL, listen)
    try:
        told = await _told(rpc.call(conn, where, {}, list[tuple[str, str, Board]]), _BOARDS_S)
    finally:
        await subscription.unsubscribe()
    boards = heard if told is None else {(tenant, capability): board for tenant, capability, board in told}
    return tuple(
        CapabilityStats(
            tenant=tenant,
            capability=capability,
            depth=board.depth,
            running=board.running,
            agents=board.agents,
            starved=board.starved,
            unplaced=board.unplaced,
            circuit=board.circuit,
        )
        for (tenant, capability), board in sorted(boards.items())
    )


async def _told(asking: Coroutine[Any, Any, T], listens_s: float) -> T | None:
    """The answer; None where nobody of this release gives one, after as long as there is to be listened."""
    until = asyncio.get_running_loop().time() + listens_s
    with contextlib.suppress(errors.CoordError, TimeoutError):
        async with asyncio.timeout_at(until):
            return await asking
    await asyncio.sleep(until - asyncio.get_running_loop().time())
    return None


def _moment(text: str | None) -> datetime | None:
    """The broker's RFC 3339 with nanoseconds; its zero time is None."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text)
