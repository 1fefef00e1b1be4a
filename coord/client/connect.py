"""`coord.connect`: one object to speak and listen as one agent.

::

    async with coord.connect("nats://127.0.0.1:4222", tenant="acme", agent="scout") as c:
        await c.emit(coord.Fact(kind="file", id="f1", event="scanned", data={"lines": 120}))
        await c.sample("cpu", 0.4)

Leaving the block drains: everything emitted is acknowledged, or `FlushFailed` names what is
not.  `coord.client.publisher` says how facts travel, `coord.client.subscriber` how they come.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterable, Callable, Coroutine, Generator, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload
from weakref import WeakSet

import msgspec

from coord import limits
from coord.bus import rpc
from coord.bus.connection import Connection, NatsConfig
from coord.client.beating import Beating
from coord.client.config import ClientConfig, PublisherConfig
from coord.client.instance import connection_name, new_instance
from coord.client.metering import PublisherStats
from coord.client.outcomes import Outcomes
from coord.client.payloads import Payloads
from coord.client.publisher import Publisher
from coord.client.pushes import Pushes
from coord.client.queues import Queues
from coord.client.starting import Starts
from coord.client.stating import Stating
from coord.client.submits import Submits
from coord.client.submitting import Submitter
from coord.client.understood import Understood
from coord.client.used import UsedIds
from coord.core.admission import Board
from coord.errors import InvalidToken, SettingsError
from coord.runtime import clock
from coord.telemetry.metrics import default as default_metrics
from coord.wire import subjects
from coord.wire.agents import Found, FoundAgents

if TYPE_CHECKING:
    from coord.bus.publish import PubAck
    from coord.cache.config import CacheConfig
    from coord.cache.functions import Answering, CachedFunction, CachedOptions
    from coord.cache.loading import Cache
    from coord.client.caches import Caches
    from coord.client.flags import Flags
    from coord.client.handoff import HandoffHandle, Handoffs
    from coord.client.locks import Locking, Locks
    from coord.client.querying import Querying
    from coord.client.quotas import Allowance
    from coord.client.receipt import Receipt
    from coord.client.signals import Signals
    from coord.client.status import OwnStatus
    from coord.client.statuses import Statuses
    from coord.client.subscriber import StartAt, SubscriberConfig, Subscription
    from coord.client.timers import Timers
    from coord.client.worker import Worker
    from coord.telemetry.metrics import Metrics
    from coord.wire.envelope import Fact, Sample
    from coord.wire.where import Condition

T = TypeVar("T")


def connect(
    to: str | NatsConfig | ClientConfig | None = None,
    /,
    *,
    tenant: str | None = None,
    agent: str | None = None,
    publisher: PublisherConfig | None = None,
    spool: str | None = None,
    drain_s: float | None = None,
    connection: Connection | None = None,
    wait: bool = False,
    metrics: Metrics | None = None,
) -> Connecting:
    """Connect as one agent: use it with ``async with``, or await it and `close` what it gives.

    `to`: the broker's URL (several with commas between), a `NatsConfig`, or a whole
    `ClientConfig`; default ``nats://127.0.0.1:4222``.  The environment is not read: where `coord dev env` was
    evaluated, ``connect(os.environ.get("COORD_NATS_URLS"))``.  `tenant`: default ``default``.
    `agent`: who speaks; default ``{host}-{pid}``, which is a new agent for every process:
    give a stable name to whatever is more than a trial.  `connection`: use this one and
    leave it open; it stays the caller's.  `spool`: a directory of this agent's own, where
    what it says without a broker waits on disk.  `drain_s`: how long leaving takes at most (default:
    `publisher.drain_s`, 20 s), see `Coord.close`.  `wait`: keep trying for as long as there is no
    broker, instead of raising after `connect_timeout_s`.

    Raises `NotConnected`, `SettingsError`, and `InvalidToken` for a name that is none;
    names that begin with ``_`` are deciders' and refused.
    """
    config = _config(to, tenant, agent, publisher)
    said = {name: value for name, value in (("spool", spool), ("drain_s", drain_s)) if value is not None}
    if said:
        config = msgspec.structs.replace(config, publisher=msgspec.structs.replace(config.publisher, **said))
    if connection is not None and to is not None and not isinstance(to, ClientConfig):
        raise SettingsError("connect: give a broker or an open connection, not both")
    return Connecting(config, connection, wait=wait, metrics=metrics)


class Connecting:
    """What `connect` returns: enter it, or await it."""

    __slots__ = ("_config", "_connection", "_coord", "_metrics", "_wait")

    def __init__(
        self, config: ClientConfig, connection: Connection | None, *, wait: bool, metrics: Metrics | None
    ) -> None:
        self._config = config
        self._connection = connection
        self._wait = wait
        self._metrics = metrics
        self._coord: Coord | None = None

    async def _open(self) -> Coord:
        config = self._config
        agent = agent_name(config.agent)
        instance = new_instance()
        conn = self._connection
        if conn is None:
            name = connection_name(config.tenant, agent, instance)
            conn = await Connection.open(config.nats, name=name, wait=self._wait)
        stating: Stating | None = None
        try:
            stating = await Stating.open(conn, config.tenant, agent, config.publisher)
            publisher = await Publisher.open(
                conn, tenant=config.tenant, agent=agent, config=config.publisher, metrics=self._metrics
            )
        except BaseException:
            if stating is not None:
                await stating.close()
            if self._connection is None:
                await conn.close()
            raise
        owned = self._connection is None
        return Coord(
            conn, publisher, stating=stating, instance=instance, owns_connection=owned, metrics=self._metrics,
            cache=config.cache,
        )  # fmt: skip

    def __await__(self) -> Generator[Any, None, Coord]:
        return self._open().__await__()

    async def __aenter__(self) -> Coord:
        self._coord = await self._open()
        return self._coord

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        coord, self._coord = self._coord, None
        if coord is not None:
            await coord.close(report=kind is None)


class Coord(Submits, Starts):
    """A connected agent.  Not thread-safe; any number of tasks of one event loop may use it."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        *,
        stating: Stating,
        instance: str,
        owns_connection: bool,
        metrics: Metrics | None = None,
        cache: CacheConfig | None = None,
    ) -> None:
        self.connection = connection
        """The broker's connection, for what this class has no method for."""
        self.instance = instance
        """Which run of the agent this is: a token of this connection's own."""
        self.stating = stating
        """For facts that are stated on a condition and answered at once."""
        self.pushes = Pushes(connection, publisher.tenant, publisher.agent)
        """What this agent is told."""
        self.beating = Beating(connection, self.pushes, stating, publisher.tenant, publisher.agent, instance)
        """Says that this instance is there; silent until something is registered or held."""
        self.outcomes = Outcomes(self)
        """Of the tasks that it submitted."""
        self.payloads = Payloads(connection, publisher.tenant)
        """What is too large for the log."""
        self.queues = Queues(connection, publisher.tenant)
        """Makes sure that there are some."""
        self.used_ids = UsedIds(connection, publisher.tenant)
        """Which ids were used before, where the log does not know it any more."""
        self.understood = Understood(connection, publisher.tenant)
        """Whether coord knows what is about to be stated."""
        self._leave_by = float("inf")
        """All that leaving waits for has ended then, monotonic."""
        self.workers: list[Worker] = []
        """What works on this connection; closing it drains them."""
        self.allowance: Allowance | None = None
        """Of facts a second, where the agent that works here limits itself."""
        self.metrics = metrics or default_metrics()
        """Where this process counts."""
        self._submitter = Submitter(self)
        self._publisher = publisher
        self._owns_connection = owns_connection
        self._subscriptions: WeakSet[Subscription | Statuses] = WeakSet()
        self._metrics = metrics
        self._status: OwnStatus | None = None
        self._signals: Signals | None = None
        self._timers: Timers | None = None
        self._locks: Locks | None = None
        self._flags: Flags | None = None
        self._handoffs: Handoffs | None = None
        self._cache_config = cache
        self._held: Caches | None = None

    @property
    def tenant(self) -> str:
        """Whose facts these are."""
        return self._publisher.tenant

    @property
    def agent(self) -> str:
        """Who speaks."""
        return self._publisher.agent

    @property
    def stats(self) -> PublisherStats:
        """What was accepted, acknowledged, shed and so on."""
        return self._publisher.stats

    # --- speaking ------------------------------------------------------------------------

    @overload
    def emit(self, item: Fact | Sample, /) -> Coroutine[Any, Any, Receipt]: ...

    @overload
    def emit(
        self,
        item: object,
        /,
        *,
        id: str,
        key: str | None = None,
        detail: tuple[str, ...] = (),
        event_id: str | None = None,
        occurred_at: datetime | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
    ) -> Coroutine[Any, Any, Receipt]: ...

    def emit(self, item: Any, /, **about: Any) -> Coroutine[Any, Any, Receipt]:
        """State a fact or a sample; returns when it is queued or sent, long before it is stored.

        `item`: a `Fact`, a `Sample`, or an object of a type registered with ``@fact``, with
        ``id=`` and what else a fact has.  How soon it is sent, and what happens when too
        much is queued, is its class of service's: see `coord.client.publisher`.  Await the
        receipt for the `PubAck`, or `flush` for all; errors nobody awaited are named there.

        Raises the `WireError` a reader would refuse it with, `Overloaded` when there was no
        room in time, `BusClosed`.  Cancelled or raising, it has accepted nothing.
        """
        if self.allowance is not None:
            return self._in_turn(self._publisher.emit(item, **about))
        return self._publisher.emit(item, **about)

    async def _in_turn(self, stating: Coroutine[Any, Any, T]) -> T:
        """State something when this agent's quota allows it."""
        assert self.allowance is not None
        try:
            await self.allowance.turn()
        except BaseException:
            stating.close()
            raise
        return await stating

    @overload
    def publish(self, item: Fact | Sample, /) -> Coroutine[Any, Any, PubAck]: ...

    @overload
    def publish(
        self,
        item: object,
        /,
        *,
        id: str,
        key: str | None = None,
        detail: tuple[str, ...] = (),
        event_id: str | None = None,
        occurred_at: datetime | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
    ) -> Coroutine[Any, Any, PubAck]: ...

    def publish(self, item: Any, /, **about: Any) -> Coroutine[Any, Any, PubAck]:
        """`emit`, at once whatever the class, and wait until it is stored: returns (stream, seq).

        Raises what `emit` raises and what the broker answered: `StreamFull`, `NoPermission`,
        `MessageTooLarge`, `IdCollision`, `NoStream`, `PublishTimeout`, …
        """
        if self.allowance is not None:
            return self._in_turn(self._publisher.publish(item, **about))
        return self._publisher.publish(item, **about)

    def emit_many(self, items: Iterable[Any] | AsyncIterable[Any]) -> Coroutine[Any, Any, int]:
        """`emit` each fact or sample, in order; returns how many.  Cheapest for runs of plain samples.

        When one is refused its error is raised and those before it stay accepted.
        """
        return self._publisher.emit_many(items)

    def sample(self, series: str, value: float, /, **fields: Any) -> Coroutine[Any, Any, Receipt]:
        """One value of a series (``cpu``, ``llm.tokens``); `fields` are labels and whatever goes with it.

        For a time of its own emit a `Sample`.
        """
        return self._publisher.sample(series, value, fields or None)

    @property
    def status(self) -> OwnStatus:
        """This agent's status, stated by changes: ``await c.status.update(load=0.4)``."""
        if self._status is None:
            from coord.client.status import OwnStatus  # most agents that only speak need no status

            self._status = OwnStatus(self.connection, self._publisher)
        return self._status

    def flush(self, timeout_s: float | None = None) -> Coroutine[Any, Any, None]:
        """Return when everything emitted before is durably acknowledged; `FlushFailed` names what is not.

        Bounded by the publish deadline (30 s); `timeout_s` bounds it further with
        `DeadlineExceeded`, after which what is unsettled is still on its way.
        """
        return self._publisher.flush(timeout_s)

    # --- listening -----------------------------------------------------------------------

    def subscribe(
        self,
        *,
        key: str | None = None,
        kind: str | None = None,
        id: str | None = None,
        event: str | None = None,
        agent: str | None = None,
        where: Condition | None = None,
        start: StartAt = "new",
        durable: str | None = None,
        batch_max: int = 100,
        config: SubscriberConfig | None = None,
    ) -> Subscription:
        """Facts of this tenant that match, live and from the log: ``async for fact in c.subscribe(…)``.

        `key`, `kind`, `id`, `event` and `agent` (the author) select; None matches all.
        `where` selects further, before anything is decoded:
        ``where=coord.where.data["load"] > 0.9``; see `coord.wire.where`.
        `start`: ``new``, ``first``, a stream sequence or an aware time; with `durable`, a
        name under which the position is kept, only the first time.  What is emitted while
        handling a fact carries its correlation and names it as the cause.

        See `coord.client.subscriber` for what is guaranteed and what is raised.
        """
        from coord.client.subscriber import subscribe  # an agent that only speaks need not load it

        subscription = subscribe(
            self.connection, tenant=self.tenant, as_agent=self.agent, key=key, kind=kind, id=id, event=event,
            agent=agent, where=where, start=start, durable=durable, batch_max=batch_max, config=config,
            registry=self._metrics,
        )  # fmt: skip
        self._subscriptions.add(subscription)
        return subscription

    def statuses(
        self, agent: str | None = None, *, start: StartAt = "new", config: SubscriberConfig | None = None
    ) -> Statuses:
        """Statuses of this tenant's agents, or of one, as they change: ``async for status in c.statuses()``.

        An agent that says nothing is not heard of: `start="first"` begins with what the log
        holds, and the table `coord.v_agent_status` has them all.
        """
        from coord.client.statuses import STATEMENTS, Statuses

        statuses = Statuses(
            self.connection,
            self.tenant,
            self.subscribe(kind="agent", id=agent, where=STATEMENTS, start=start, config=config),
        )
        self._subscriptions.add(statuses)
        return statuses

    # --- coordinating --------------------------------------------------------------------

    @property
    def signals(self) -> Signals:
        """Latches that are raised once and awaited from anywhere: ``await c.signals.wait("memory-ready")``."""
        if self._signals is None:
            from coord.client.signals import Signals

            self._signals = Signals(self)
        return self._signals

    @property
    def timers(self) -> Timers:
        """Timers that the broker keeps: ``await c.timers.set("tea", delay_s=240, raise_="tea-ready")``."""
        if self._timers is None:
            from coord.client.timers import Timers

            self._timers = Timers(self)
        return self._timers

    def sleep_until(self, at: datetime, *, id: str | None = None, key: str | None = None) -> Coroutine[Any, Any, None]:
        """Return when that (aware) time has come, by the broker's clock; with an `id`, across restarts.

        See `coord.client.timers`.
        """
        return self.timers.sleep_until(at, id=id, key=key)

    @property
    def locks(self) -> Locks:
        """Who holds what: ``await c.locks.get("index")``; `lock`, `elect` and `semaphore` take one."""
        if self._locks is None:
            from coord.client.locks import Locks

            self._locks = Locks(self)
        return self._locks

    def lock(
        self, name: str, *, timeout_s: float | None = None, ttl_s: float | None = None, key: str | None = None
    ) -> Locking:
        """Hold a lock: ``async with c.lock("index") as held:``, with `held.epoch` for fencing.

        Held until the block ends, this instance dies, or `ttl_s` have passed (default: no such bound).
        `key`: of the piece of work it belongs to; default: its name.  Entering raises `DeadlineExceeded` after
        `timeout_s` (default: it waits); see `coord.client.locks`.
        """
        return self.locks.locking(name, 1, key, ttl_s, timeout_s)

    def elect(self, role: str, *, timeout_s: float | None = None, key: str | None = None) -> Locking:
        """Lead: ``async with c.elect("planner") as led:`` begins when this instance does, with `led.epoch`.

        Who leads does so until the block ends or its instance dies; `led.lost` is set when somebody else may.
        It is the lock of that name.
        """
        return self.locks.locking(role, 1, key, None, timeout_s)

    def semaphore(
        self,
        name: str,
        permits: int,
        *,
        timeout_s: float | None = None,
        ttl_s: float | None = None,
        key: str | None = None,
    ) -> Locking:
        """Hold one of `permits`: `lock`, for so many at a time.  Everybody says the same number."""
        return self.locks.locking(name, permits, key, ttl_s, timeout_s)

    @property
    def flags(self) -> Flags:
        """Feature flags: ``await c.flags.enabled("new-ranker", subject=user)``."""
        if self._flags is None:
            from coord.client.flags import Flags

            self._flags = Flags(self)
        return self._flags

    @property
    def handoffs(self) -> Handoffs:
        """Handoffs offered and received; `handoff` offers one, ``@agent.handoff`` takes them."""
        if self._handoffs is None:
            from coord.client.handoff import Handoffs

            self._handoffs = Handoffs(self)
        return self._handoffs

    def handoff(
        self,
        work: Any,
        /,
        *,
        to: str | None = None,
        capability: str | None = None,
        reason: str = "",
        context: Any = None,
        id: str | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
        escalate: bool = True,
    ) -> Coroutine[Any, Any, HandoffHandle]:
        """Pass `work` and its `context` on: `to` an agent, or to whoever has `capability`.

        Returns its handle once the offer is stored; ``await handle.accepted()`` says who took it.  Whoever has
        not answered after `timeout_s` (default 5) has declined.  Then another agent with the capability is
        asked, three at most, then, with `escalate`, the coordinator that the last one registered, and up.
        `id`: it is offered once under it; the same work with the same context again gives the same handoff.

        Raises `HandoffExists` for an id that other work has, or that any had which ended and has left the log,
        `InvalidPayload`, `InvalidToken`, and what stating a fact raises.
        """
        return self.handoffs.offer(
            work, to=to, capability=capability, reason=reason, context=context, id=id, key=key, timeout_s=timeout_s,
            escalate=escalate,
        )  # fmt: skip

    # --- caching -------------------------------------------------------------------------

    @property
    def cache(self) -> Cache:
        """What this process keeps of answers, evicted by what the projector commits; see `coord.cache.hearing`."""
        return self._caches().cache

    def cached(self, key: str, **options: Unpack[CachedOptions]) -> Callable[[Answering[T]], CachedFunction[T]]:
        """Keep an async function's answers: ``@c.cached("agent:{id}", tags=["agent:{id}"])``.

        `key` and `tags` name the function's parameters; facts that are committed evict the answers with their tags.
        `coord.cache.functions.CachedOptions` says what else there is.  Raises `InvalidCacheKey`.
        """
        return self._caches().functions.cached(key, **options)

    async def warm(
        self, function: CachedFunction[Any], calls: Iterable[tuple[Any, ...]], /, *, every_s: float | None = None
    ) -> int:
        """Have a cached function's answers before anybody asks: one for each tuple of arguments; how many came.

        `every_s`: look after them so often from now on.  As far as it pays: see `coord.cache.warming`.
        """
        return await self._caches().warm(function, calls, every_s)

    async def begin_warm(self) -> int:
        """Have what processes of this agent asked for most (`CacheConfig.warm`, ``record``); how many answers came.

        Call it when the functions are there and work has not begun.
        """
        return await self._caches().begin()

    def _caches(self) -> Caches:
        if self._held is None:
            from coord.client.caches import Caches

            self._held = Caches(self, self._cache_config)
        return self._held

    # --- asking --------------------------------------------------------------------------

    @property
    def query(self) -> Querying:
        """Ask a named question about this tenant, without a database: ``await c.query("task", id="t1")``."""
        from coord.client.querying import Querying

        return Querying(self.connection, self.tenant)

    # --- who is there --------------------------------------------------------------------

    async def agents(
        self,
        *,
        capability: str | None = None,
        agent: str | None = None,
        labels: dict[str, str] | None = None,
        state: str | None = None,
        limit: int = limits.AGENTS_FOUND,
    ) -> list[Found]:
        """Instances of this tenant's agents, as the service sees them now: nothing is stored, nobody is polled.

        What is None is not asked about; `state`: alive, draining, quarantined, suspect or gone (default: all but gone).
        Raises `InvalidRequest`, `ServiceUnavailable`, `DeadlineExceeded`.
        """
        asked = {"capability": capability, "agent": agent, "labels": labels or {}, "state": state, "limit": limit}
        where = subjects.rpc(self.tenant, "agents", "find")
        return (await rpc.call(self.connection, where, asked, FoundAgents)).instances

    async def drain_agent(self, agent: str, *, instance: str | None = None, rejoin: bool = False) -> int:
        """Have an agent, or one instance of it, take no more; `rejoin`: take work again.  Returns how many were told.

        They say so themselves when they have heard: ``agent.draining``.  Raises `UnknownAgent`.
        """
        asked = {"agent": agent, "instance": instance, "rejoin": rejoin}
        answer = await rpc.call(self.connection, subjects.rpc(self.tenant, "agents", "drain"), asked, dict[str, int])
        return answer["instances"]

    async def capabilities(self) -> dict[str, Board]:
        """How the tenant's capabilities fare: depth, running, agents, whether they are starved, their circuits."""
        where = subjects.rpc(self.tenant, "agents", "capabilities")
        return await rpc.call(self.connection, where, None, dict[str, Board])

    # --- the end -------------------------------------------------------------------------

    def leave_within(self, drain_s: float | None = None) -> float:
        """Begin to leave: all that `close` waits for ends at the moment returned (monotonic), whatever the broker does.

        `drain_s`: see `close`.  Said again, the earlier moment counts.
        """
        if drain_s is None:
            asked = [worker.agent.drain_s for worker in self.workers]
            drain_s = max(self._publisher.config.drain_s, *(s + limits.STOP_S for s in asked if s is not None), 0.0)
        self._leave_by = min(self._leave_by, clock.monotonic() + drain_s)
        return self._leave_by

    async def close(self, *, drain_s: float | None = None, report: bool = True) -> None:
        """Drain workers, close subscriptions, wait for acks, say goodbye, disconnect: all of that within `drain_s`.

        Default: what `connect` was given, else the config's 20 s; where an agent on it has a `drain_s` of its own and
        that, with 4 s for giving back what did not finish, is longer: that.  A broker that stands still is let go a
        second later.  0: give up at once.

        Raises `FlushFailed` for what is not stored; `report=False` logs it.  Twice is legal.
        However it ends, nothing is left waiting.
        """
        by = self.leave_within(drain_s)
        words_s = min(limits.LAST_WORDS_S, max(0.0, by - clock.monotonic()) / 4)

        def rest_s(kept_s: float = 0.0) -> float:
            return max(0.0, by - kept_s - clock.monotonic())

        try:
            await asyncio.gather(*(worker.drain(by=by - words_s) for worker in self.workers))
            await asyncio.gather(*(one.close(rest_s(words_s)) for one in list(self._subscriptions)))
            if self._status is not None:
                await self._status.close()
            await self._publisher.close(drain_s=rest_s(words_s), report=report)
        finally:
            # Nothing of this is left to be done, but where the above was broken off.
            await asyncio.gather(*(worker.drain(0, by=by) for worker in self.workers))
            await asyncio.gather(*(one.close(0) for one in list(self._subscriptions)))
            await self._publisher.close(drain_s=0, report=False)
            if self._handoffs is not None:
                await self._handoffs.close()
            if self._flags is not None:
                await self._flags.close()
            for part in (self._signals, self._locks, self._workflows):
                if part is not None:
                    part.close()
            self.outcomes.close()
            await self._submitter.close()
            if self._held is not None:
                await self._held.close()
            await self.payloads.close()
            await self.used_ids.close()
            await self.beating.close(rest_s())
            await self.stating.close()
            await self.pushes.close()
            if self._owns_connection:
                await self.connection.drain(rest_s())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.close(report=kind is None)


def agent_name(agent: str | None) -> str:
    """The name to speak under; `InvalidToken` for one that is no token or a decider's."""
    if agent is None:
        host = re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().lower()).lstrip("_-") or "agent"
        pid = f"-{os.getpid()}"
        return host[: limits.TOKEN_BYTES_MAX - len(pid)] + pid
    subjects.check_token(agent, "agent")
    if subjects.is_decider(agent):
        raise InvalidToken("names that begin with '_' are deciders'", token=agent, what="agent")
    return agent


def _config(
    to: str | NatsConfig | ClientConfig | None, tenant: str | None, agent: str | None, publisher: PublisherConfig | None
) -> ClientConfig:
    if isinstance(to, ClientConfig):
        config = to
    elif isinstance(to, NatsConfig):
        config = ClientConfig(nats=to)
    elif to is not None:
        urls = tuple(url.strip() for url in to.split(",") if url.strip())
        config = ClientConfig(nats=NatsConfig(urls=urls))
    else:
        config = ClientConfig()
    given = {"tenant": tenant, "agent": agent, "publisher": publisher}
    config = msgspec.structs.replace(config, **{name: value for name, value in given.items() if value is not None})
    config.validate()
    subjects.check_token(config.tenant, "tenant")
    agent_name(config.agent)
    return config
