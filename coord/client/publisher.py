"""The publisher: facts and samples in, acknowledged messages out, bounded everywhere.

The decisions are `coord.core.outbox`'s, the bytes `coord.client.encoding`'s, sending and
acks `coord.bus.publish`'s.  This module drives them: it accepts, waits for room, sends what
may be sent, and tells whoever asked.

====================  ================  ==========================  ===========================
class                 travels as        is sent                     when its queue is full
====================  ================  ==========================  ===========================
critical              single messages   at once, pipelined          `emit` waits, then raises
                                                                    `Overloaded`
status, progress      single when idle, at once when idle, else     `emit` waits; what is queued
                      else frames       within 100 or 10 ms         leaves or expires
metrics               frames            at once when idle, else     the oldest frame is shed and
                                        at 100 samples or 1 s       counted; `emit` never waits
====================  ================  ==========================  ===========================

Order.  Facts of one key are first sent in the order they were emitted, whatever their class;
samples of one series likewise.  Facts of different keys, and facts and samples, are not
ordered among each other.  What a resend can do to the order: `coord.bus.publish`.  On a
cluster, or when asked for (`PublisherConfig.order`), nothing: the next of a key or series is
sent when the one before it is settled, so the log has them in the order they were emitted.

Nothing waits for ever: a queued fact expires at its deadline (`PublishTimeout`), a caller
waiting for room is refused (`Overloaded`), and closing settles everything (`BusClosed`).

Not thread-safe: one event loop, any number of its tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, Coroutine, Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

from coord import errors
from coord.bus.connection import Connection
from coord.bus.publish import AckPipeline, PubAck, Publication
from coord.client import context, encoding
from coord.client.config import CRITICAL, METRICS, PublisherConfig
from coord.client.encoding import Encoder, FramedFact, Label, Shape
from coord.client.event_ids import new_event_id
from coord.client.failures import Failures, Named
from coord.client.keeping import Keeper
from coord.client.metering import Meter, PublisherStats
from coord.client.receipt import Receipt
from coord.client.room import Room
from coord.client.spool import Spool
from coord.core.outbox import Barrier, Outbox
from coord.core.window import Admission
from coord.runtime import clock
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire.envelope import Fact, Sample

_log = logs.get("publish")

_BURST: Final = 128
"""Messages `emit` hands over before it lets the event loop write them and read acks."""

_CHUNK: Final = 1_000
"""Items `emit_many` takes from its iterable at a time; it yields to the event loop in between."""

_TICK_S: Final = 0.5
"""How often queues are looked through for what has expired, and metrics are brought up to date."""


class _Flush:
    """One `flush` that waits: its barrier, and what failed under it."""

    __slots__ = ("barrier", "done", "failures")

    def __init__(self, barrier: Barrier, failures: Failures, done: asyncio.Future[None]) -> None:
        self.barrier = barrier
        self.failures = failures
        self.done = done


class Publisher:
    """See the module.  Make one with ``await Publisher.open(conn, tenant=…, agent=…)``."""

    def __init__(
        self,
        conn: Connection,
        pipeline: AckPipeline,
        *,
        tenant: str,
        agent: str,
        config: PublisherConfig,
        metrics: Metrics | None,
        spool: Spool | None = None,
    ) -> None:
        self.tenant = tenant
        self.agent = agent
        self.config = config
        self._conn = conn
        self._pipeline = pipeline
        pipeline.on_settled = self._settled
        self._loop = asyncio.get_running_loop()
        self._now = clock.monotonic  # not the loop's time, which uvloop keeps in whole milliseconds
        self._encoder = Encoder(tenant, agent, config)
        self._outbox: Outbox[Receipt] = Outbox(config.lanes(conn.max_payload))
        self._outbox.held = not conn.is_connected
        self._choose_order()
        self._meter = Meter(metrics)
        self._metrics_lane = self._outbox.lanes[METRICS]
        self._deadline_s = config.retry.deadline_s
        self._room = Room(
            self._outbox,
            # Status waits until what is queued leaves or expires; only critical callers are told earlier.
            wait_s={CRITICAL: config.overload_wait_s},
            wait_at_most_s=config.retry.deadline_s,
            freed=self._pump,
        )
        # What `emit_many` accepts in one go must fit beside what others have queued, or it would be shed.
        self._chunk = max(1, min(_CHUNK, config.queue_entries // 4, config.queue_bytes // encoding.NUMBER_BYTES // 4))
        self._flushes: list[_Flush] = []
        self._unreported = Failures()
        self._burst = 0
        self._pumping = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ticker: asyncio.TimerHandle | None = None
        self._up = conn.is_connected
        self._keeper: Keeper | None = None
        if spool is not None:
            self._keeper = Keeper(self._outbox, pipeline, spool, conn, pump=self._pump, found=self._found)
            pipeline.on_put_off = self._keeper.put_off
        if self._keeper is not None and self._keeper.active:
            self._outbox.held = True  # what a former process left is sent first
            self._loop.call_soon(self._pump)
        # After the pipeline's own listeners: it repeats what was in flight before anything new is sent.
        self._unregister = [conn.on_reconnected(self._reconnected), conn.on_disconnected(self._disconnected)]

    @classmethod
    async def open(
        cls,
        conn: Connection,
        *,
        tenant: str,
        agent: str,
        config: PublisherConfig | None = None,
        metrics: Metrics | None = None,
    ) -> Self:
        """A publisher on a connection that stays the caller's; `metrics`: default the process's.

        Raises `SettingsError` for an impossible config, `SpoolUnusable`, `BusClosed`.
        """
        config = config or PublisherConfig()
        config.validate()
        spool = Spool(Path(config.spool), f"{tenant}/{agent}", config.spool_bytes) if config.spool is not None else None
        try:
            pipeline = await AckPipeline.open(conn, config.retry, inflight_max=config.inflight_messages)
        except BaseException:
            if spool is not None:
                spool.close()
            raise
        return cls(conn, pipeline, tenant=tenant, agent=agent, config=config, metrics=metrics, spool=spool)

    @property
    def stats(self) -> PublisherStats:
        """What was counted so far."""
        meter = self._meter
        return PublisherStats(
            accepted=meter.accepted,
            acked=meter.acked,
            failed=meter.failed,
            shed=meter.shed,
            queued=sum(lane.queue.count for lane in self._outbox.lanes),
            inflight_messages=self._pipeline.inflight,
            spooled_messages=self._keeper.records if self._keeper is not None else 0,
            spool_failures=self._keeper.failures if self._keeper is not None else 0,
            spool_repeats=self._keeper.repeats if self._keeper is not None else 0,
            resends=self._pipeline.resends,
        )

    # --- accepting -----------------------------------------------------------------------

    async def emit(self, item: Any, /, **about: Any) -> Receipt:
        """Accept a fact or a sample; returns as soon as it is queued or sent, with its receipt.

        `item`: a `Fact`, a `Sample`, or an object of a type registered with ``@fact``; for
        the latter `about` says ``id=`` and what else `Fact` has (``key=``, ``detail=`` …).

        Raises the `WireError` a reader would refuse it with, `Overloaded` when there was no
        room in time, `BusClosed`.  Cancelled or raising, it has accepted nothing.
        """
        if self._burst >= _BURST:
            await self._breathe()
        if self._closed:
            raise errors.BusClosed
        if type(item) is Sample and not about:
            return self._offer_sample(item.series, item.value, item.data, item.occurred_at)
        offered = self._offer_fact(_as_fact(item, about), at_once=False)
        return offered if isinstance(offered, Receipt) else await offered

    async def publish(self, item: Any, /, **about: Any) -> PubAck:
        """`emit`, at once whatever the class, and wait until the broker has stored it.

        Raises what `emit` raises and what awaiting the receipt raises.
        """
        if self._closed:
            raise errors.BusClosed
        if type(item) is Sample and not about:
            receipt = self._offer_sample(item.series, item.value, item.data, item.occurred_at)
            self._outbox.hasten(receipt)
            self._pump()
        else:
            offered = self._offer_fact(_as_fact(item, about), at_once=True)
            receipt = offered if isinstance(offered, Receipt) else await offered
        return await receipt

    async def sample(
        self, series: str, value: float, data: dict[str, Any] | None = None, occurred_at: datetime | None = None
    ) -> Receipt:
        """`emit` a sample without making one."""
        if self._burst >= _BURST:
            await self._breathe()
        if self._closed:
            raise errors.BusClosed
        return self._offer_sample(series, value, data, occurred_at)

    async def emit_many(self, items: Iterable[Any] | AsyncIterable[Any]) -> int:
        """`emit` each item (facts, samples, or both), in order; returns how many were accepted.

        Plain samples cost a fraction of what `emit` takes.  Those without `occurred_at` get
        the time at which their run of up to a thousand is accepted.  Unlike `emit` it waits
        when samples come faster than the broker takes them, instead of shedding: whoever
        hands over many at once can wait.  When an item is refused, its error is raised and
        those before it stay accepted.  Raises `Overloaded` when nothing moved for as long as
        the publish deadline.
        """
        accepted = 0
        if isinstance(items, AsyncIterable):
            async for item in items:
                await self._emit_patiently(item)
                accepted += 1
            return accepted
        iterator = iter(items)
        while chunk := list(islice(iterator, self._chunk)):
            values = encoding.plain_values(chunk)
            if values is None:
                for item in chunk:
                    await self._emit_patiently(item)
            else:
                if self._burst >= _BURST:
                    await self._breathe()
                await self._room.way_clear(METRICS)
                if self._closed:
                    raise errors.BusClosed
                self._offer_values(chunk[0].series, values)
            accepted += len(chunk)
        return accepted

    async def _emit_patiently(self, item: Any) -> None:
        if isinstance(item, Sample):
            await self._room.way_clear(METRICS)
        await self.emit(item)

    async def _breathe(self) -> None:
        """Let the event loop write what was handed over and read acks; before anything is accepted."""
        self._burst = 0
        await asyncio.sleep(0)

    def _offer_sample(self, series: str, value: Any, data: dict[str, Any] | None, at: datetime | None) -> Receipt:
        label = self._encoder.series(series)
        at_us, entry, size = encoding.sample_entry(value, data, at)
        now = self._now()
        place = self._outbox.place
        receipt = place(METRICS, series, label, size, now, self._new_frame)
        while receipt is None:
            self._shed_oldest()
            receipt = place(METRICS, series, label, size, now, self._new_frame)
        receipt.add(at_us, entry)
        self._meter.accepted += 1
        if receipt.count == 1 or self._metrics_lane.ready:  # a frame was opened, or filled
            self._pump()
        return receipt

    def _offer_values(self, series: str, values: list[Any]) -> None:
        """Accept plain samples of one series, with the time of now."""
        label = self._encoder.series(series)
        at_us = encoding.now_us()
        now = self._now()
        start = 0
        while start < len(values):
            placed = self._outbox.place_many(
                METRICS, series, label, len(values) - start, encoding.NUMBER_BYTES, now, self._new_frame
            )
            if placed is None:  # others have filled the queue
                self._shed_oldest()
                continue
            receipt, count = placed
            receipt.add_values(at_us, values[start : start + count])
            start += count
        self._meter.accepted += len(values)
        self._pump()

    def _offer_fact(self, fact: Fact, *, at_once: bool) -> Receipt | Coroutine[Any, Any, Receipt]:
        """Accept a fact: its receipt, or, where it has to wait for room, a coroutine that gives it."""
        encoder = self._encoder
        shape = encoder.shape(fact)
        if context.current() is not None:
            fact = encoder.caused(fact)
        now = self._now()
        group = fact.id if fact.key is None else fact.key
        if shape.linger_s is not None and not at_once and not self._outbox.idle(shape.lane, now, shape.linger_s, group):
            framed = encoder.entry(fact, shape)
            if framed is not None:
                return self._add_to_frame(group, shape, framed, now)
        message = encoder.single(fact, shape)
        lane = shape.lane
        receipt = Receipt(
            deadline_at=now + self._deadline_s,
            subject=message.subject,
            headers=message.headers,
            body=message.body,
            lane=lane,
            home=lane,
            group=group,
            count=1,
            size=len(message.headers) + len(message.body),
            event_id=message.event_id,
        )
        admission = self._outbox.submit(receipt, now, linger_s=shape.linger_s)
        if admission is Admission.SEND:
            self._burst += 1
            self._meter.accepted += 1
            self._pipeline.submit(receipt, now)
            if self._ticker is None:
                self._keep_ticking()
            return receipt
        if admission is Admission.QUEUED:
            return self._queued(receipt)
        return self._submit_later(receipt)

    def _queued(self, receipt: Receipt) -> Receipt:
        self._burst += 1
        self._meter.accepted += 1
        self._pump()
        return receipt

    async def _submit_later(self, receipt: Receipt) -> Receipt:
        await self._room.wait(receipt.lane, 1, receipt.size)
        now = self._now()
        receipt.deadline_at = now + self._deadline_s
        self._outbox.submit(receipt, now, reserved=True)
        return self._queued(receipt)

    def _add_to_frame(
        self, group: str, shape: Shape, framed: FramedFact, now: float
    ) -> Receipt | Coroutine[Any, Any, Receipt]:
        """Accept a fact that travels in a frame."""
        receipt = self._outbox.place(
            shape.lane, group, framed.label, framed.size, now, self._new_frame, linger_s=shape.linger_s
        )
        if receipt is None:
            return self._add_to_frame_later(group, shape, framed)
        return self._added(receipt, framed)

    async def _add_to_frame_later(self, group: str, shape: Shape, framed: FramedFact) -> Receipt:
        await self._room.wait(shape.lane, 1, framed.size)
        receipt = self._outbox.place(
            shape.lane, group, framed.label, framed.size, self._now(), self._new_frame,
            linger_s=shape.linger_s, reserved=True,
        )  # fmt: skip
        assert receipt is not None, "room was reserved"
        return self._added(receipt, framed)

    def _added(self, receipt: Receipt, framed: FramedFact) -> Receipt:
        receipt.add(framed.at_us, framed.data)
        self._meter.accepted += 1
        self._pump()
        return receipt

    def _new_frame(self, lane: int, group: str, label: Label, now: float) -> Receipt:
        return Receipt(
            deadline_at=now + self._deadline_s, subject=label.subject, lane=lane, home=lane, group=group, label=label
        )

    def _shed_oldest(self) -> None:
        receipt = self._outbox.shed(METRICS)
        assert receipt is not None, "a queue that is full has something to shed"
        self._drop(receipt, errors.Shed(subject=receipt.subject, samples=receipt.count))

    # --- sending -------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send all that may be sent now; hand the room to waiters; look again when a linger is over."""
        if self._pumping:
            return  # something was settled while sending: the loop below goes on
        self._pumping = True
        try:
            now = self._now()
            if self._keeper is not None and self._outbox.held:
                self._keep_or_replay(self._keeper, now)
            while (receipt := self._outbox.take(now)) is not None:
                self._send(receipt, now)
        finally:
            self._pumping = False
        self._room.hand_out()
        keeping = self._keeper is not None and self._outbox.held
        due = self._keeper.next_due() if self._keeper is not None and keeping else self._outbox.next_due()
        if self._keeper is not None and self._up and (again := self._keeper.wait_until(self._now())) is not None:
            due = again if due is None else min(due, again)
        if due is not None and (self._timer is None or due < self._timer_at):
            self._wake_at(due)
        if self._ticker is None and self._busy:
            self._keep_ticking()

    @property
    def _busy(self) -> bool:
        kept = self._keeper is not None and self._keeper.records > 0 and not self._closed
        return kept or self._outbox.unsettled > 0

    def _keep_or_replay(self, keeper: Keeper, now: float) -> None:
        """Without a broker: into the spool; with one: what is in it first, and all that comes behind it."""
        while (receipt := keeper.take(now)) is not None:
            if (error := self._encode(receipt)) is not None:
                self._failed(receipt, error)
                self._outbox.leave_aside(receipt)
            elif not keeper.keep(receipt):
                self._outbox.give_back(receipt)  # the disk refused it: it waits in memory, within the queue's bounds
        if self._up:
            keeper.replay(now)
            self._outbox.held = keeper.active

    def _encode(self, receipt: Receipt) -> errors.WireError | None:
        """Give a frame its bytes; the error, and it is settled with it, if it cannot be sent."""
        if receipt.label is None or not receipt.entries:
            return None
        try:
            message = self._encoder.frame(receipt.label, receipt.base_us, receipt.entries, doubles=receipt.doubles)
        except errors.WireError as exc:
            receipt.settle(None, exc)
            return exc
        receipt.headers = message.headers
        receipt.body = message.body
        receipt.event_id = message.event_id
        receipt.entries = []
        return None

    def _send(self, receipt: Receipt, now: float) -> None:
        if receipt.entries:
            self._burst += 1
        if self._encode(receipt) is None:
            self._pipeline.submit(receipt, now)
        else:
            self._settled(receipt)

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - self._now()), self._woken)

    def _woken(self) -> None:
        self._timer = None
        self._pump()

    # --- settling ------------------------------------------------------------------------

    def _settled(self, publication: Publication) -> None:
        """A message in flight is done; called by the pipeline."""
        assert isinstance(publication, Receipt)
        more = self._outbox.settle(publication)
        if publication.spool_number >= 0 and self._keeper is not None:
            more = not self._closed
        if publication.spool_number >= 0 and self._keeper is not None and not self._keeper.settled(publication):
            pass  # the connection is closed for good: the record stays, nothing has failed
        elif publication.error is None:
            assert publication.ack is not None
            self._meter.count_ack(publication, publication.ack, now := self._now())
            self._outbox.acked(publication.lane, publication.attempts, now - publication.sent_at, now)
        else:
            if isinstance(publication.error, errors.IdCollision):
                new_event_id.renew()
            self._failed(publication, publication.error)
        if self._flushes:
            self._release_flushes()
        if more:
            self._pump()

    def _found(self, receipt: Receipt, ack: PubAck) -> None:
        """Something in the spool turned out to be stored."""
        self._meter.count_ack(receipt, ack, self._now())
        if self._flushes:
            self._release_flushes()

    def _drop(self, receipt: Receipt, error: errors.CoordError) -> None:
        """Something that was never sent is done: shed, expired, or the publisher closes."""
        receipt.settle(None, error)
        receipt.entries = []
        self._failed(receipt, error)
        if self._flushes:
            self._release_flushes()

    def _failed(self, receipt: Receipt, error: errors.CoordError) -> None:
        """Count a failure and see to it that somebody is told: awaiter, running flushes, or the next one."""
        self._meter.count_error(receipt, error)
        told = receipt.awaited
        for flush in self._flushes:
            if receipt.ordinal <= flush.barrier.upto:
                flush.failures.add(receipt)
                told = True
        if not told:
            self._unreported.add(receipt)

    # --- flushing ------------------------------------------------------------------------

    async def flush(self, timeout_s: float | None = None) -> None:
        """A barrier: when it returns, everything accepted before it is durably acknowledged.

        Otherwise it raises `FlushFailed`, naming (subject, error) of what is not, samples
        that were shed included; and of what failed since the last flush without anybody
        awaiting its receipt, each once.  Bounded by the publish deadline; `timeout_s` bounds
        it further: `DeadlineExceeded`, and what is unsettled stays on its way.
        """
        error = (await self._settle_all(timeout_s)).error()
        if error is not None:
            raise error

    async def _settle_all(self, timeout_s: float | None) -> Failures:
        failures, self._unreported = self._unreported, Failures()
        failures.forget_awaited()
        barrier = self._outbox.barrier()
        flush = _Flush(barrier, failures, self._loop.create_future())
        self._flushes.append(flush)
        try:
            self._pump()
            if barrier.remaining:
                if timeout_s is None and self._keeper is not None:
                    timeout_s = self._deadline_s  # what is spooled has no deadline of its own
                async with asyncio.timeout(timeout_s):
                    await flush.done
        except BaseException as exc:
            self._outbox.drop_barrier(barrier)
            self._unreported.merge(failures)  # nobody was told: the next flush names them
            if isinstance(exc, TimeoutError):
                raise errors.DeadlineExceeded(
                    "not everything is acknowledged yet", unsettled_messages=barrier.remaining
                ) from exc
            raise
        finally:
            self._flushes.remove(flush)
        return failures

    def _release_flushes(self) -> None:
        for flush in self._flushes:
            if not flush.barrier.remaining and not flush.done.done():
                flush.done.set_result(None)

    # --- time ----------------------------------------------------------------------------

    def _keep_ticking(self) -> None:
        self._ticker = self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        """Twice a second while anything is unsettled: expire, measure, report."""
        self._ticker = None
        now = self._now()
        self._expire(now)
        self._outbox.observe(now)
        self._pump()
        self._meter.sync(self._outbox, self._pipeline, self._keeper)
        if self._busy and self._ticker is None:
            self._keep_ticking()

    def _expire(self, now: float) -> None:
        for receipt in self._outbox.expire(now):
            self._drop(
                receipt,
                errors.PublishTimeout(
                    "never sent: the broker took nothing before the deadline",
                    subject=receipt.subject, attempts=0, connected=self._up,
                ),
            )  # fmt: skip

    # --- the connection ------------------------------------------------------------------

    def _choose_order(self) -> None:
        """See `PublisherConfig.order`; a reconnect may lead to another server."""
        order = self.config.order
        if order == "always" or (order == "auto" and self._conn.is_clustered):
            self._outbox.go_in_turn(receipt for receipt in self._pipeline.unsettled() if isinstance(receipt, Receipt))
        else:
            self._outbox.go_pipelined()

    def _disconnected(self) -> None:
        self._up = False
        self._outbox.held = True
        if self._conn.is_closed:
            self._abandon()
        elif self._keeper is not None:
            self._keeper.disconnected()
            self._pump()  # what was queued is safe on disk now

    def _reconnected(self) -> None:
        self._up = True
        self._choose_order()
        if self._keeper is not None:
            self._keeper.retry()
        self._outbox.held = self._keeper is not None and self._keeper.active
        self._pump()

    # --- the end -------------------------------------------------------------------------

    def _abandon(self) -> None:
        """Nothing can be sent any more: fail what is queued and whoever waits."""
        self._closed = True
        self._outbox.held = True
        if self._keeper is not None:
            self._up = False
            self._keeper.disconnected()
            self._pump()  # what waits for the broker waits on disk
            self._keeper.leave()
            self._release_flushes()
        for receipt in self._outbox.drain():
            self._drop(receipt, errors.BusClosed())
        self._room.close()

    async def close(self, *, drain_s: float | None = None, report: bool = True) -> None:
        """Accept nothing more, wait up to `drain_s` for acks, then fail the rest with `BusClosed`.

        `drain_s`: default the config's; 0: give up at once.  Raises `FlushFailed` as `flush`
        does, but not for what policy shed; `report=False` logs it instead (another error is
        on its way already).  Twice is legal.  However it ends, everything is settled.
        """
        if self._closed and self._pipeline.is_closed and not self._unregister:
            return
        self._closed = True
        drain_s = self.config.drain_s if drain_s is None else drain_s
        failures = Failures()
        try:
            if drain_s > 0 and self._outbox.unsettled:
                with contextlib.suppress(errors.DeadlineExceeded):
                    failures = await self._settle_all(drain_s)
        finally:
            self._abandon()
            await self._pipeline.close()
            self._stop()
            if self._keeper is not None:
                await self._keeper.close()
        failures.merge(self._unreported)
        self._unreported = Failures()
        failures.forget_awaited()
        failures.shed = Named()
        error = failures.error()
        if error is None:
            return
        if report:
            raise error
        _log.error("publish.unstored_at_close", error=error)

    def _stop(self) -> None:
        for unregister in self._unregister:
            unregister()
        self._unregister.clear()
        for handle in (self._timer, self._ticker):
            if handle is not None:
                handle.cancel()
        self._timer = self._ticker = None
        self._meter.sync(self._outbox, self._pipeline, self._keeper)


def _as_fact(item: Any, about: dict[str, Any]) -> Fact:
    """The fact that `emit` was given in one of its forms."""
    if type(item) is Fact and not about:
        return item
    if isinstance(item, (Fact, Sample)):
        if about or isinstance(item, Sample):
            raise TypeError(f"a {type(item).__name__} says everything itself; {', '.join(about)} belongs into it")
        return item
    if "id" not in about:
        raise TypeError(f"emit({type(item).__name__}(…)) needs id=, the entity it is about")
    return Fact.of(item, **about)
