"""Subscribing: facts as they are published, and from the log whatever the live feed missed.

::

    async with subscribe(conn, tenant="acme", as_agent="a1", kind="task", event="completed") as facts:
        async for fact in facts:
            ...

A subscription listens to the stream's republish (one NATS subscription, no consumer on the
server) and reads from the log through the query service whenever it cannot vouch for what
it heard: at a start in the past, after a reconnect, when its consumer is so slow that the
bounded buffer is full, and now and then when it is idle.  `coord.core.subscription` decides;
this module listens, asks, saves positions and hands out.

What the consumer can rely on: facts come in log order, each once, poison skipped (it is
dead-lettered by the projector).  Of a replicated log, what a dying leader kept from the live
feed comes late (`stats.late`): behind later facts, and never not at all.  If a part of the
log is gone, `LogTrimmed` says which; `seek` is the way on.  If no query service answers when
the log has to be read, `ServiceUnavailable` is raised after a while; iterating again goes on
asking.  Errors come after everything that was received before them.

A fact counts as finished when the consumer asks for the next one; only finished positions
are saved under `durable`, so a crash repeats at most what was being handled and what was
finished within the last second (of a replicated log: since the last audit).
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.connection import Subscription as BusSubscription
from coord.bus.patched import Message
from coord.client import context
from coord.client.cursors import Cursor, CursorRecord
from coord.client.live import Live, Wanted
from coord.client.log_source import LogSource
from coord.core.retry import backoff_s
from coord.core.subscription import Bounds, Position, Reason, Start, Stats, SubscriptionMachine
from coord.telemetry import logs, metrics, tracing
from coord.wire import republished, subjects
from coord.wire.log_api import Filter
from coord.wire.records import StoredFact
from coord.wire.sieve import Sieve
from coord.wire.where import Condition

if TYPE_CHECKING:
    from contextvars import Token

_log = logs.get("subscriber")

StartAt: TypeAlias = Literal["new", "first"] | int | datetime
"""`new`: what is published from now on; `first`: all that the log holds; a stream sequence
(inclusive); a time (aware): the first fact stored at or after it."""

_YIELD_EVERY: Final = 256
"""Facts handed out before others get a turn of the event loop."""
_WITHOUT_READER_S: Final = 0.5
"""How long a subscription to new facts waits for the query service before it goes live without."""
_READ_AGAIN_MOST_S: Final = 1.0
_DISCONNECTED_S: Final = 0.05
_CLOSE_SAVE_S: Final = 2.0
_IDLE_SAVE_S: Final = 60.0
"""How often a durable position is saved that moved though nothing matched."""


class SubscriberConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds and intervals of subscriptions.  Times in seconds."""

    buffer_messages: int = limits.SUBSCRIBER_BUFFER_MESSAGES
    """Received and not yet taken; beyond it a subscription leaves the live feed and reads the log."""
    buffer_bytes: int = limits.SUBSCRIBER_BUFFER_BYTES
    page_facts: int = limits.READ_PAGE_FACTS_MAX
    """Facts asked for at a time when reading the log."""
    audit_s: float = limits.IDLE_AUDIT_S
    """An idle subscription asks the log whether it missed something after 1 to 1.5 times this,"""
    audit_max_s: float = limits.IDLE_AUDIT_MAX_S
    """then after twice that, and so on up to this, until something comes."""
    save_s: float = limits.CURSOR_SAVE_S
    """A durable subscription saves its position at most this often."""
    unavailable_s: float = limits.SUBSCRIBER_UNAVAILABLE_S
    """How long the log cannot be read before the consumer is told, again and again."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if not 1 <= self.page_facts <= limits.READ_PAGE_FACTS_MAX:
            raise errors.SettingsError(f"subscriber.page_facts is 1 to {limits.READ_PAGE_FACTS_MAX}")
        if self.buffer_messages < 1 or self.buffer_bytes < 1:
            raise errors.SettingsError("subscriber: buffers must be positive")
        if min(self.audit_s, self.save_s, self.unavailable_s) <= 0:
            raise errors.SettingsError("subscriber: times must be positive")
        if self.audit_max_s < self.audit_s:
            raise errors.SettingsError("subscriber.audit_max_s is at least audit_s")


_rng = random.Random()
_by_connection: WeakKeyDictionary[Connection, WeakSet[Subscription]] = WeakKeyDictionary()


def subscribe(
    conn: Connection,
    *,
    tenant: str,
    as_agent: str,
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
    registry: metrics.Metrics | None = None,
) -> Subscription:
    """A subscription of `as_agent` to the facts of a tenant that match.

    `key`, `kind`, `id`, `event` and `agent` (the author) select at the broker; None matches
    all.  `where` selects here, among what the broker sends: see `coord.wire.where`.  `start`
    says where to begin; with `durable`, a name of this agent, only the first time: later
    it goes on behind the last fact that was finished.  `batch_max` bounds `batches`.

    Nothing happens before it is entered or iterated.  Raises `InvalidToken` for a name that
    is no token, `QueryError` for a `start` that is neither or a condition that is too large.
    """
    config = config or SubscriberConfig()
    config.validate()
    if batch_max < 1:
        raise errors.QueryError("batch_max is at least 1")
    subscription = Subscription(
        conn,
        tenant=subjects.check_token(tenant, "tenant"),
        filter=Filter(key=key, kind=kind, id=id, agent=agent, event=event),
        sieve=None if where is None else Sieve(where),
        start=_start(start),
        cursor=None if durable is None else Cursor(conn, tenant, as_agent, durable, secrets.token_hex(8)),
        batch_max=batch_max,
        config=config,
        registry=registry or metrics.default(),
    )
    _by_connection.setdefault(conn, WeakSet()).add(subscription)
    return subscription


async def close_all(conn: Connection) -> None:
    """Close every subscription of a connection; durable positions are saved."""
    await asyncio.gather(*(subscription.close() for subscription in list(_by_connection.get(conn, ()))))


def _start(start: StartAt) -> Start:
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise errors.QueryError("start is a naive time; give it a time zone")
        return start
    if isinstance(start, int) and not isinstance(start, bool):
        if start < 1:
            raise errors.QueryError("start is a stream sequence from 1 on", start=start)
        return Position(start)
    if start not in {"new", "first"}:
        raise errors.QueryError("start is 'new', 'first', a sequence or a time", start=str(start)[:64])
    return start


class Subscription:
    """See the module.  Made by `subscribe`; one consumer at a time."""

    def __init__(
        self,
        conn: Connection,
        *,
        tenant: str,
        filter: Filter,
        sieve: Sieve | None,
        start: Start,
        cursor: Cursor | None,
        batch_max: int,
        config: SubscriberConfig,
        registry: metrics.Metrics,
    ) -> None:
        self.filter = filter
        self.ready = asyncio.Event()
        """Set once nothing that is published from now on can be missed silently."""
        self.foreign = 0
        """Messages on the live subject that the stream did not send; ignored."""
        self._conn = conn
        self._config = config
        self._batch_max = batch_max
        self._live_filters = filter.live(tenant)
        self._sieve = sieve
        self._wanted = Wanted(sieve)
        self._log = LogSource(conn, tenant, filter, config.page_facts, None if sieve is None else sieve.accepts)
        self._cursor = cursor
        self._metrics = registry
        self._filtered_shown = 0
        self._machine = self._new_machine(start, None)
        self._bus: list[BusSubscription] = []
        self._unregister: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._opening: asyncio.Lock = asyncio.Lock()
        self._opened = False
        self._closed = False
        self._fatal: errors.CoordError | None = None
        self._notice: errors.CoordError | None = None
        self._fresh = asyncio.Event()
        self._work = asyncio.Event()
        self._dirty = asyncio.Event()
        self._saved: Position | None = None
        self._saved_at = 0.0
        self._saving = asyncio.Lock()
        self._consuming = False
        self._since_yield = 0
        self._bound: tuple[Token[context.Cause | None], logs.Bound] | None = None

    def _new_machine(self, start: Start, created: str | None) -> SubscriptionMachine[Live, StoredFact]:
        return SubscriptionMachine(
            start,
            expand=self._wanted.expand,
            admit=None if self._sieve is None else self._wanted.admit,
            jitter=_rng.random,
            bounds=Bounds(
                messages_max=self._config.buffer_messages,
                bytes_max=self._config.buffer_bytes,
                resume_below=min(self._config.page_facts, self._config.buffer_messages) // 2,
                audit_s=self._config.audit_s,
                audit_max_s=self._config.audit_max_s,
            ),
            created=created,
            on_catch_up=self._count_catch_up,
        )

    # --- what it is ----------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether it follows the live feed; False while it catches up from the log."""
        return self._machine.live

    @property
    def position(self) -> Position | None:
        """The first place in the log that the consumer has not finished with; None while unknown."""
        return self._machine.done

    @property
    def stats(self) -> Stats:
        """Counts since the start."""
        return self._machine.stats

    # --- life ----------------------------------------------------------------------------

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Return once nothing published from now on can be missed silently.

        Raises `DeadlineExceeded`, or the error that ended the subscription.
        """
        await self._open()
        try:
            async with asyncio.timeout(timeout_s):
                while not self.ready.is_set():
                    if self._fatal is not None:
                        raise self._fatal
                    if self._closed:
                        raise errors.BusClosed("this subscription was closed")
                    if self._machine.failure is not None or self._notice is not None:
                        return  # the consumer learns it
                    self._fresh.clear()
                    await self._fresh.wait()
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"not subscribed within {timeout_s:g} s") from exc

    async def __aenter__(self) -> Self:
        try:
            await self.wait_ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> None:
        async with self._opening:
            if self._opened or self._closed:
                return
            try:
                await self._acquire()
                self._opened = True
            finally:
                if not self._opened or self._closed:  # cancelled, refused, or closed meanwhile
                    await self._release()

    async def _acquire(self) -> None:
        conn = self._conn
        await conn.wait_connected(self._config.unavailable_s)
        self._unregister = [
            conn.on_disconnected(self._disconnected),
            conn.on_reconnected(self._reconnected),
            conn.on_permission_denied(self._denied),
        ]
        if self._cursor is not None:
            await self._resume(self._cursor)
        # Before the first read: what is stored after the reader measured the end comes live.
        for live_filter in self._live_filters:
            self._bus.append(await conn.subscribe(live_filter, self._on_live))
        if not conn.is_connected:
            self._machine.disconnected()
        loops = [self._pump] if self._cursor is None else [self._pump, self._save_loop]
        self._tasks = [asyncio.create_task(self._guard(loop), name="subscription") for loop in loops]

    async def _release(self) -> None:
        for unregister in self._unregister:
            unregister()
        self._unregister = []
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._bus:
            await self._bus.pop().unsubscribe()

    async def _resume(self, cursor: Cursor) -> None:
        """Go on where the name's last holder stopped; asks for a while, as a leader may be being elected."""
        deadline = _now() + self._config.unavailable_s
        attempt = 0
        record: CursorRecord | None = None
        while True:
            try:
                record = await cursor.open()
                break
            except errors.CoordError as exc:
                if self._fatal is not None:
                    raise self._fatal from exc
                if not exc.retryable or _now() >= deadline:
                    raise
            attempt += 1
            await asyncio.sleep(backoff_s(attempt, _rng, first_s=0.1, most_s=_READ_AGAIN_MOST_S))
        if record is not None:
            self._saved = record.position
            self._saved_at = _now()
            self._machine = self._new_machine(record.position, record.created or None)

    async def close(self, within_s: float = _CLOSE_SAVE_S) -> None:
        """Stop listening and, if durable, save the position within that time.  Twice is legal; never raises."""
        if self._closed:
            return
        self._closed = True
        self._unbind()
        await self._release()
        if self._opened and self._fatal is None:
            with contextlib.suppress(errors.CoordError, TimeoutError):
                async with asyncio.timeout(min(within_s, _CLOSE_SAVE_S)):
                    await self._save_last()
        self._fresh.set()
        _by_connection.get(self._conn, WeakSet()).discard(self)

    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A defect ends the subscription with an error instead of leaving its consumer waiting."""
        try:
            await loop()
        except Exception as exc:  # noqa: BLE001 - the consumer gets it
            error = errors.CoordError(f"the subscription failed: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            self._fail(error)

    def _fail(self, error: errors.CoordError) -> None:
        if self._fatal is None:
            self._fatal = error
        self._fresh.set()

    # --- the consumer --------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredFact:
        with self._one_consumer():
            self.finish()
            fact = await self._next()
        self._bind(fact)
        return fact

    def batches(self) -> Batches:
        """Iterate over lists of 1 to `batch_max` facts: what is there, waiting only for the first.

        A batch is finished when the next one is asked for.
        """
        return Batches(self)

    async def next_batch(self) -> list[StoredFact]:
        """The next 1 to `batch_max` facts; finishes the ones before.  `StopAsyncIteration` when closed."""
        with self._one_consumer():
            self.finish()
            batch = [await self._next()]
            while len(batch) < self._batch_max and (fact := self._machine.take()) is not None:
                batch.append(fact)
            self._after_take(len(batch) - 1)
        return batch

    def finish(self) -> None:
        """Everything handed out so far is done with; asking for the next fact says so too."""
        self._unbind()
        self._machine.finish()
        self._show_filtered()
        if self._cursor is not None and self._machine.done != self._saved:
            self._dirty.set()

    async def _next(self) -> StoredFact:
        if not self._opened:
            await self._open()
        if self._since_yield >= _YIELD_EVERY:
            self._since_yield = 0
            await asyncio.sleep(0)  # a fast consumer must not starve the connection
        while True:
            if self._closed:
                raise StopAsyncIteration
            fact = self._machine.take()
            if fact is not None:
                self._after_take(1)
                return fact
            self._raise_what_happened()
            self._fresh.clear()
            await self._fresh.wait()

    def _after_take(self, count: int) -> None:
        self._since_yield += count
        if not self._machine.live:
            self._work.set()  # there may be room for the next page

    def _raise_what_happened(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        failure = self._machine.acknowledge()
        if failure is not None:
            self._work.set()
            raise failure
        notice, self._notice = self._notice, None
        if notice is not None:
            raise notice

    @contextlib.contextmanager
    def _one_consumer(self) -> Any:
        if self._consuming:
            raise RuntimeError("a subscription has one consumer; make another subscription")
        self._consuming = True
        try:
            yield
        finally:
            self._consuming = False

    def seek(self, start: StartAt) -> None:
        """Go on from elsewhere, forgetting what was received and not taken: the way on after `LogTrimmed`.

        ``subscription.seek(error.details["first_seq"])`` goes on behind the gap.
        """
        self._machine.seek(_start(start))
        self._notice = None
        self._work.set()

    # --- causes --------------------------------------------------------------------------

    def _bind(self, fact: StoredFact) -> None:
        """While the consumer handles `fact`, what it emits and logs says that this is why."""
        fields: dict[str, str] = {
            "correlation_id": fact.correlation_id or fact.event_id,
            "causation_id": fact.event_id,
        }
        trace = tracing.parse(fact.traceparent)
        if trace is not None:
            fields |= {"trace_id": trace.trace_id, "span_id": trace.span_id}
        self._bound = (context.follow(fact), logs.bind(**fields))

    def _unbind(self) -> None:
        bound, self._bound = self._bound, None
        if bound is None:
            return
        # ValueError: the consumer asks from another task than last time; that one's context is gone.
        with contextlib.suppress(ValueError):
            context.restore(bound[0])
        with contextlib.suppress(ValueError):
            logs.unbind(bound[1])

    # --- the live feed -------------------------------------------------------------------

    def _on_live(self, message: Message) -> None:
        try:
            part = republished.split(message.raw_headers)
        except errors.WireError:
            self.foreign += 1
            return
        subject = subjects.live_to_stored(message.subject)
        if part.subject != subject or part.stream != subjects.EVENTS:
            self.foreign += 1
            return
        machine = self._machine
        filtered = machine.stats.filtered
        size = len(message.data) + len(message.raw_headers or b"")
        live = Live(subject, part.headers, message.data, part.seq, part.stored_at)
        machine.receive(part.seq, part.subject_last_seq, size, live, _now())
        if not machine.live:
            self._work.set()
        elif machine.stats.filtered == filtered:
            self._fresh.set()
        else:
            self._note_idle_move()  # nothing for the consumer, and the position has moved

    def _show_filtered(self) -> None:
        filtered = self._machine.stats.filtered
        if filtered != self._filtered_shown:
            self._metrics.subscribe_filtered.inc(max(0, filtered - self._filtered_shown))
            self._filtered_shown = filtered

    def _disconnected(self) -> None:
        self._machine.disconnected()
        if self._conn.is_closed:
            self._fail(errors.BusClosed())
        self._fresh.set()

    def _reconnected(self) -> None:
        self._machine.connected()
        self._work.set()

    def _denied(self, subject: str) -> None:
        # The broker's text arrives lower-cased; so are our tokens.
        ours = {*self._live_filters, self._log.subject}
        if self._cursor is not None:
            ours |= self._cursor.subjects
        if subject in ours:
            self._fail(errors.NoPermission("the broker does not let this user subscribe", subject=subject))

    def _count_catch_up(self, reason: Reason) -> None:
        self._metrics.subscribe_catch_ups.labels(reason=reason).inc()
        if reason == "overflow":
            self._metrics.subscribe_overflows.inc()

    # --- the log -------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Read from the log whenever the machine wants to."""
        silent_since: float | None = None
        attempt = 0
        while True:
            read = self._machine.want(_now())
            if read is None:
                await self._until_work()
                continue
            try:
                page = await self._log.page(read)
            except errors.NotConnected:
                self._machine.read_failed(read, _now())
                self._fresh.set()
                await asyncio.sleep(_DISCONNECTED_S)  # until this subscription has been told too
                continue
            except errors.BusClosed as exc:
                self._fail(exc)
                return
            except errors.CoordError as exc:
                if not exc.retryable:
                    self._machine.refused(read, exc)
                    self._fresh.set()
                    continue
                self._machine.read_failed(read, _now())
                self._fresh.set()  # an audit may have held something back
                if read.audit:
                    continue
                attempt += 1
                silent_since = silent_since or _now()
                silent_since = self._no_answer(exc, silent_since)
                if silent_since is None:
                    attempt = 0
                    continue
                await asyncio.sleep(self._wait_s(exc, attempt))
                continue
            else:
                self._machine.page(read, page, _now())
                self._note_idle_move()
            silent_since, attempt = None, 0
            if self._machine.resolved:
                self.ready.set()
            self._fresh.set()

    def _no_answer(self, exc: errors.CoordError, since: float) -> float | None:
        """Go live without the log where that is possible, or tell the consumer; returns since when to count."""
        silent_s = _now() - since
        if silent_s >= _WITHOUT_READER_S and self._machine.join_without_reader(_now()):
            _log.warning("subscriber.no_reader", subject=self._log.subject, error=exc)
            self.ready.set()
            self._fresh.set()
            return None
        if silent_s < self._config.unavailable_s:
            return since
        self._notice = errors.ServiceUnavailable(
            f"the log could not be read for {silent_s:.0f} s; iterate again to go on trying",
            subject=self._log.subject,
            last_error=exc.code,
        )
        self._notice.__cause__ = exc
        self._fresh.set()
        return _now()

    @staticmethod
    def _wait_s(exc: errors.CoordError, attempt: int) -> float:
        wait_s = backoff_s(attempt, _rng, first_s=0.1, most_s=_READ_AGAIN_MOST_S)
        if isinstance(exc, errors.Overloaded | errors.CircuitOpen):
            return max(wait_s, exc.retry_after_s * _rng.uniform(0.5, 1.5))
        return wait_s

    async def _until_work(self) -> None:
        self._work.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._machine.audit_at):
                await self._work.wait()

    # --- durable positions ---------------------------------------------------------------

    async def save(self) -> None:
        """Save the position now: everything finished.  Without `durable`, nothing happens.

        Raises `DurableInUse`, `ApiUnavailable`, `NotConnected`.
        """
        async with self._saving:  # an older position must not overtake a newer one
            done = self._machine.done
            if self._cursor is None or done is None or done == self._saved:
                return
            await self._cursor.save(done, self._machine.created or "")
            self._saved = done
            self._saved_at = _now()

    async def _save_last(self) -> None:
        if self._cursor is None:
            return
        read = self._machine.last_look(_now())
        if read is not None:
            self._machine.page(read, await self._log.page(read), _now())
        await self.save()

    def _note_idle_move(self) -> None:
        self._show_filtered()
        # An idle position moves with the log's end, or it would leave the window some day.
        if self._cursor is None or self._machine.done == self._saved:
            return
        if self._saved is None or _now() - self._saved_at > _IDLE_SAVE_S:
            self._dirty.set()

    async def _save_loop(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self.save()
            except errors.DurableInUse as exc:
                self._fail(exc)
                return
            except errors.CoordError as exc:
                if not exc.retryable:
                    _log.warning("subscriber.position_not_saved", error=exc)
                self._dirty.set()
            await asyncio.sleep(self._config.save_s)


class Batches:
    """Iterates over a subscription in lists.  Made by `Subscription.batches`."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[StoredFact]:
        return await self._subscription.next_batch()


def _now() -> float:
    return asyncio.get_running_loop().time()
