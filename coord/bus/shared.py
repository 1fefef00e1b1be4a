"""One consumer for all partitions of a stream, while one process has them all to itself.

Sixteen consumers with a filter each cost the broker 8 µs a message when they follow a backlog: each
copies what is between two messages of its partition, to compare the subjects.  One that takes everything
costs half of that.  `coord.core.gathering` says when it pays.  Then::

    readers of all partitions, each pinned, each somewhere
        │ lend: asks its own consumer for nothing more, but keeps the pin
        ▼
    one consumer without a name to keep, from the least of their positions on
        │ feed: each what is its partition's and behind its position
        ▼
    any trouble: reclaim: each resets its own consumer to its checkpoint, leaves out what it has, reads as before

Another service of the process that reads the same stream may be fed by that consumer, too: `coord.bus.riding`.

No session ends on the way there or back, and who owns a partition is said by its own pin as
always: a reader that loses it leaves, and the others stay.  One that takes nothing for a
second while all wait for it has to read by itself.

The consumer belongs to this process alone, lives in the broker's memory, has one copy whatever the
stream has, and is forgotten `GATHER_KEPT_S` after nobody asks it any more.  It filters as the
partitions' own do, for all partitions at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection
from coord.bus.feeding import Feeding
from coord.bus.pull import PinnedReader
from coord.bus.puller import Delivery, Puller
from coord.bus.riding import Meeting, Ride, Wanted
from coord.bus.topology import Spec, create_consumer
from coord.core.chain import canonical_headers
from coord.core.gathering import Gathering, Place, Word
from coord.runtime.clock import until_moment
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.readings import Reading

_log = logs.get("gathered")

_END = b"\r\n\r\n"
_NO_FIELDS: Final = len(b"NATS/1.0\r\n\r\n")


class SharedConsumer(Puller):
    """The consumer of one gathering, and whom it feeds."""

    def __init__(self, conn: Connection, spec: Spec, readers: Sequence[PinnedReader], changed: asyncio.Event) -> None:
        """`spec`: of the consumer; `readers`: of partition 0, 1, …; `changed` is set when it breaks."""
        assert spec.consumer is not None
        super().__init__(
            conn,
            spec.stream,
            spec.consumer,
            messages_max=min(limits.GATHER_MESSAGES, sum(reader.messages_max for reader in readers)),
            bytes_max=sum(reader.bytes_max for reader in readers),
            expires_s=limits.PULL_EXPIRES_S,
        )
        self._spec = spec
        self._readers = readers
        self._feeding = Feeding(self, readers)
        self._token_at = len(subjects.any_partition(spec.stream).removesuffix("*."))
        self._changed = changed
        self._held_since: float | None = None
        """Since when somebody has no room;"""
        self._open = False
        self.ride: Ride | None = None
        """Readers of another service that are fed, or will be soon."""
        self.leaving: Ride | None = None
        """What its own readers wait for."""

    @property
    def whose(self) -> str:
        """Of which service: ``projector-all``."""
        return topology.base(self._spec)

    @property
    def position(self) -> int:
        """Everything up to this sequence was fed to whom it belongs to."""
        return self._order.position

    @property
    def broken(self) -> errors.CoordError | None:
        """What is wrong with it; None: nothing."""
        silent_s = asyncio.get_running_loop().time() - self._heard_at
        if self._broken is None and self._outstanding and silent_s > limits.GATHER_SILENCE_S:
            self._broken = errors.DeliveryGap("the server is silent", silent_s=round(silent_s, 1))
        return self._broken

    @property
    def expects(self) -> bool:
        """Whether it has asked for what comes next."""
        return bool(self._outstanding)

    def held_by(self, now: float) -> list[PinnedReader]:
        """Whom the others have waited for too long."""
        if self._held_since is None or now - self._held_since < limits.GATHER_STALL_S:
            return []
        return [r for r in self._readers if r.is_lent and not r.has_room]

    async def create(self, position: int) -> None:
        """Make it, to deliver what follows `position`; nothing is asked for yet."""
        self._order.position = position
        self._inbox = await self._conn.subscribe_bytes(self._conn.new_inbox(), self._arrived)
        await create_consumer(self._conn, self._spec)

    def begin(self) -> None:
        """Ask for deliveries."""
        self._open = True
        self._heard_at = asyncio.get_running_loop().time()
        self._refill()

    def stop(self) -> None:
        """Feed nobody any more, and ask for nothing."""
        self._open = False
        self._feeding.tell()

    async def end(self) -> None:
        """Stop for good.  Twice is legal."""
        for ride in (self.ride, self.leaving):
            if ride is not None:
                await ride.end()
        self.stop()
        self._unregister()
        await self._close_inbox()

    # --- being a puller, and a lender ------------------------------------------------------

    def room_again(self) -> None:
        """A reader has taken something."""
        if len(self._outstanding) < 2:
            self._refill()

    def _refill(self) -> None:
        if self._open:
            super()._refill()
            if self.ride is not None and not self._outstanding:
                self.ride.put_off(self.position)  # nothing comes before somebody here has room again

    def _has_room(self) -> bool:
        # All together have less than if each read by itself; one may have more than its share of it.
        lent = [reader for reader in self._readers if reader.is_lent]
        if (
            sum(reader.buffered for reader in lent) <= self._batch
            and sum(reader.buffered_bytes for reader in lent) <= self._batch_bytes
        ):
            self._held_since = None
            return True
        if self._held_since is None:
            self._held_since = asyncio.get_running_loop().time()
        return False

    def _accept(self, seq: int, stored_ns: int, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        at = self._token_at
        token = subject[at : subject.find(b".", at)]
        if token not in self._feeding.tokens:
            return
        # A partition's own consumer hides how a block ended; so does this one.
        usual = headers.endswith(_END) and len(headers) > _NO_FIELDS
        raw_headers = headers if usual else canonical_headers(headers or None)
        text = subject.decode("utf-8", "backslashreplace")
        reading: Reading = "unread" if self.ride is not None and self.ride.aboard else None
        delivery = Delivery(seq, stored_ns, text, raw_headers, data, reply, reading)
        self._feeding.feed(token, delivery)
        if self.leaving is not None:
            self.leaving.board()
        ride = self.ride
        if ride is not None:
            try:
                ride.passing(subject, token, delivery)
            except BaseException:
                ride.put_off(seq - 1)
                raise
            if not self._outstanding:
                self._refill()

    def _notify(self) -> None:
        if self.ride is not None:
            self.ride.put_off(self.position)
        self._changed.set()


class SharedReader:
    """Gathers and parts the readers of one stream's partitions."""

    def __init__(
        self,
        conn: Connection,
        stream: str,
        readers: Sequence[PinnedReader],
        spec: Spec | None,
        metrics: Metrics,
        *,
        offers: Meeting | None = None,
        seeks: Meeting | None = None,
    ) -> None:
        """`spec`: of partition 0's own consumer; None: then nothing is ever gathered.

        `offers`: where the readers of another service may find what feeds these.  `seeks`: where to look for
        what may feed these, too; `spec` filters by kinds then.
        """
        self._conn = conn
        self._stream = stream
        self._readers = readers
        self._spec = spec
        self._gathering = Gathering()
        self._changed = asyncio.Event()
        self._consumer: SharedConsumer | Ride | None = None
        self._offers = offers
        self._seeks = seeks
        self._wanted = Wanted(topology.filters_anywhere(spec)) if seeks is not None and spec is not None else None
        self._ride: Ride | None = None
        """What they wait for; they may board only while nothing else is done here."""
        self._rides = Gathering()
        """When the next ride may be looked for."""
        self._rides.alone(True, 0.0)
        self._together: frozenset[int] = frozenset()
        """Whom it was lent and not given back by itself."""
        self._gauge = metrics.partitions_gathered.labels(consumer=self._name)
        for reader in readers:
            reader.on_lendable = self._changed.set

    @property
    def carrier(self) -> str:
        """Whose consumer feeds these now: ``projector-all``; "": their own."""
        ride = self._consumer
        return ride.carrier if isinstance(ride, Ride) and not ride.is_over else ""

    def alone(self, alone: bool) -> None:  # noqa: FBT001 - the state itself
        """Whether this process has all partitions to itself, as far as it knows."""
        now = asyncio.get_running_loop().time()
        self._gathering.alone(alone, now)
        if alone and self._spec is not None and self._gathering.may(now):
            for reader in self._readers:
                reader.modest_until = now + limits.GATHER_MODEST_S
        self._changed.set()

    async def run(self) -> None:
        """Gather and part until cancelled."""
        if self._spec is None:
            return
        renewing = asyncio.create_task(self._renew(), name=f"{self._name}-pins")
        try:
            while True:
                await self._wait()
                try:
                    await self._look()
                except errors.CoordError as exc:
                    await self._part(exc)
                except Exception as exc:  # noqa: BLE001 - a defect must leave everybody to read by itself
                    _log.error("gathered.defect", consumer=self._name, exc_info=exc)
                    await self._part(errors.CoordError(f"a defect: {type(exc).__name__}: {exc}"))
        finally:
            renewing.cancel()
            # The readers' sessions end too, or have.
            self._offer(None)
            for feeder in (self._ride, self._consumer):
                if feeder is not None:
                    await feeder.end()

    async def _renew(self) -> None:
        """Keep the pins, whatever else is waited for."""
        while True:
            await asyncio.sleep(until_moment(asyncio.get_running_loop().time(), limits.PULL_EXPIRES_S))
            for reader in self._readers:
                reader.renew()

    async def _wait(self) -> None:
        due_s = self._gathering.due_in(asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(limits.PULL_EXPIRES_S if due_s is None else due_s, limits.PULL_EXPIRES_S)):
                await self._changed.wait()
        self._changed.clear()

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        await self._look_at_ride(now)
        consumer = self._consumer
        if consumer is not None:
            if (broken := consumer.broken) is not None:
                raise broken
            await self._let_go(consumer, now)
            still = frozenset(slot for slot in self._together if self._readers[slot].is_lent)
            if still < self._together:  # a session has ended: it begins by itself
                self._gathering.troubled(now)
                self._together = still
                self._gauge.set(len(still))
            if not still:
                await self._part(None)
        word = self._gathering.judge(self._places(), now)
        if word is Word.PART:
            await self._part(None)
        elif isinstance(word, frozenset):
            await self._gather(word)
        self._seek(now)

    async def _look_at_ride(self, now: float) -> None:
        """Whoever has boarded needs its own consumer no more; whoever was put off needs one at once."""
        waiting, self._ride = self._ride, None
        own = self._consumer
        if waiting is not None and (own is None or not waiting.aboard):
            await waiting.end()  # until everything else has been looked at
        elif waiting is not None and own is not None:
            self._consumer = waiting
            self._rides.gathered(now)
            await own.end()
            _log.info("gathered.riding", consumer=self._name, position=waiting.position)
        ride = self._consumer
        if isinstance(ride, Ride) and ride.is_over:
            self._rides.troubled(now)
            lent = frozenset(slot for slot in self._together if self._readers[slot].is_lent)
            if lent:
                await self._gather(lent)
            else:
                await self._part(None)

    def _seek(self, now: float) -> None:
        """Have these readers wait for a ride, where there may be one."""
        carrier = None if self._seeks is None else self._seeks.carrier
        if (
            carrier is not None
            and carrier.ride is None
            and carrier.broken is None
            and self._wanted is not None
            and isinstance(self._consumer, SharedConsumer)
            and self._rides.may(now)
        ):
            self._ride = Ride(carrier, self._consumer, self._readers, self._wanted, self._changed)
            self._ride.board()

    def _offer(self, consumer: SharedConsumer | None) -> None:
        if self._offers is not None:
            self._offers.carrier = consumer

    def _places(self) -> list[Place]:
        consumer = self._consumer
        return [
            Place(consumer.position, gathered=True)
            if consumer is not None and reader.is_lent
            # Also when it was lent and is broken: its owner will find out, and begin anew.
            else Place(reader.position if reader.is_lendable else None)
            for reader in self._readers
        ]

    async def _let_go(self, consumer: SharedConsumer | Ride, now: float) -> None:
        """Those whom the others wait for read by themselves."""
        slow = consumer.held_by(now)
        if slow:
            _log.info("gathered.slow", consumer=self._name, partitions=len(slow))
            await asyncio.gather(*(reader.reclaim() for reader in slow))
            consumer.room_again()

    async def _gather(self, slots: frozenset[int]) -> None:
        """Read for the partitions of `slots` from now on, too; raises when that cannot be."""
        assert self._spec is not None
        before = self._consumer
        positions = [p.position for slot, p in enumerate(self._places()) if slot in slots and p.position is not None]
        behind = min(positions, default=0)
        spec = topology.for_all_partitions(self._spec, behind=behind)
        consumer = SharedConsumer(self._conn, spec, self._readers, self._changed)
        try:
            await consumer.create(behind)
        except BaseException:
            await consumer.end()
            raise
        if before is not None:
            await before.end()
        self._consumer = consumer
        # A session that has begun anew since its position was asked for may be before `behind`: `lend` refuses it.
        for slot in slots:
            await self._readers[slot].lend(consumer)
        consumer.begin()
        self._offer(consumer)
        self._together = frozenset(slot for slot in slots if self._readers[slot].is_lent)
        self._gathering.gathered(asyncio.get_running_loop().time())
        self._gauge.set(len(self._together))
        _log.info("gathered.together", consumer=self._name, partitions=len(self._together), position=behind)

    async def _part(self, why: errors.CoordError | None) -> None:
        """Let everybody read by itself."""
        consumer, self._consumer = self._consumer, None
        self._offer(None)
        self._together = frozenset()
        if why is not None:
            self._gathering.troubled(asyncio.get_running_loop().time())
        if consumer is not None:
            await consumer.end()
            _log.info("gathered.parted", consumer=self._name, code=why.code if why else None, error=str(why or ""))
        await asyncio.gather(*(reader.reclaim() for reader in self._readers))
        self._gauge.set(0)

    @property
    def _name(self) -> str:
        return self._stream if self._spec is None else f"{self._stream}/{topology.base(self._spec)}"
