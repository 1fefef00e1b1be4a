"""A pull consumer that one client at a time is pinned to, read without losing order.

nats-py's ``fetch`` creates a task and a UUID per message and reaches a fifth of what raw
pulls do; it also knows nothing of pins.  This reader keeps a few pull requests
outstanding, each expiring after a second: renewing one renews the pin, and its expiry is
the sign of life of the server.

The life of a reader::

    wait_pinned() ── first delivery carries Nats-Pin-Id ──▶ start(seq) ── CONSUMER.RESET ──▶ take() …
         ▲                                                                                     │
         └──────────── PinLost · DeliveryGap · NotConnected · silence: stop(), back ◀───────────┘

``start`` uses a fresh inbox, so that deliveries from before the reset cannot be mistaken for
later ones; from there on `coord.core.delivery` judges every delivery by its consumer
sequence.  A reader that is not pinned never resets while somebody is (a standby's reset
would redeliver to the pinned one); when nobody is, ``rouse`` may have to.

Bounds: at most two requests outstanding, each for half of `messages_max` and half of
`bytes_max`, and none while more than half is waiting to be received.  A single message
larger than the byte bound is asked for alone, without it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.patched import Message
from coord.bus.puller import OVERHEAD_BYTES, Delivery, Puller, is_delivery, status_error
from coord.core.delivery import DeliveryOrder
from coord.runtime.bell import Bell
from coord.runtime.clock import until_moment

__all__ = ["Delivery", "PinnedReader", "as_published"]

_PIN = b"Nats-Pin-Id: "
_END = b"\r\n\r\n"
_NO_FIELDS = len(b"NATS/1.0")
"""A block of this many bytes, without its end, has none."""

SILENCE_S = 3 * limits.PULL_EXPIRES_S
"""No delivery and no expiry for so long: the request or its answer is lost."""


class Lender(Protocol):
    """Reads for several readers, which it was lent."""

    @property
    def position(self) -> int:
        """What it feeds from now on is behind this sequence."""

    def room_again(self) -> None:
        """One of them has taken something."""

    async def nothing_on_its_way(self) -> bool:
        """Whether they have been fed everything that the stream has for them."""


class PinnedReader(Puller):
    """Reads one consumer; not safe for use by two coroutines at a time, but for `lend` and `reclaim`."""

    def __init__(
        self,
        conn: Connection,
        stream: str,
        consumer: str,
        *,
        messages_max: int = limits.PULL_MESSAGES,
        bytes_max: int = limits.PULL_BYTES,
        expires_s: float = limits.PULL_EXPIRES_S,
        group: str = "w",
    ) -> None:
        super().__init__(conn, stream, consumer, messages_max=messages_max, bytes_max=bytes_max, expires_s=expires_s)
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self._group = group
        self._whose = {"group": group}
        self._pin: str | None = None
        self._pin_line = b""
        self._session = object()
        """Another one after each `start` and `stop`."""
        self._reading = False
        """The consumer was reset for this session: what it is asked for from now on may be believed."""
        self._resetting: asyncio.Task[dict[str, Any]] | None = None
        """The request to reset the consumer, which must not outlive its session."""
        self._kept = 0
        """No session of whoever owns the partition begins before this sequence any more."""
        self._may_lend = False
        self._lender: Lender | None = None
        """Who feeds it; None: it reads by itself."""
        self._buffer: deque[Delivery] = deque()
        self._buffered_bytes = 0
        self._acks = False  # the consumer wants acknowledgements
        self._bell = Bell()
        self.on_wake: Callable[[], None] | None = None
        """Called synchronously when something has arrived that was waited for, or broke: `take` then."""
        self.on_lendable: Callable[[], None] | None = None
        """Called when this reader may be lent, or no longer is."""
        self.modest_until = 0.0
        """Until then (the loop's clock) it asks for little: it expects to be lent, and what is on its way is lost."""
        self.resets = 0
        self.is_untouched = False
        """When `rouse` last looked, there was nothing in the stream that this consumer could ever deliver."""

    # --- becoming pinned -----------------------------------------------------------------

    async def wait_pinned(self) -> None:
        """Return once this client is pinned, which the server decides with the first message.

        What arrives meanwhile is thrown away: `start` resets the consumer anyway.  Raises
        `NotConnected`, `ApiNotFound` (no such consumer); waits for ever otherwise.
        """
        await self.stop()
        pinned: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        # A refusal may come when nobody waits any more.
        pinned.add_done_callback(lambda done: done.cancelled() or done.exception())

        def on_message(message: Message) -> None:
            status = message.status
            if is_delivery(message):
                if not pinned.done():
                    pinned.set_result(_pin_id(message.raw_headers or b""))
            elif status is not None and status not in (100, 408) and not pinned.done():
                pinned.set_exception(status_error(status, message, self._consumer))
            else:
                self._bell.ring()  # the request expired: ask again

        self._inbox = await self._conn.subscribe(self._conn.new_inbox(), on_message)
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        while not pinned.done():
            self._raise_if_broken()
            self._bell.silence()
            # All who wait so ask, and are told that there is nothing, in the same moments: one wake-up for many.
            # Such a request renews nothing: who has waited for longer than a pin lives asks rarely.
            now, every_s = loop.time(), self._expires_s
            if now - began_at > limits.PIN_TTL_S:
                every_s = max(every_s, limits.PULL_CALM_S)
            wait_s = until_moment(now + self._expires_s / 2, every_s) + self._expires_s / 2
            self._ask(1, bytes_max=None, expires_s=wait_s)
            # A request that did not even expire is lost; asking again costs nothing.
            await self._bell.wait(wait_s + self._expires_s, pinned)
        self._pin = self._whose["id"] = pinned.result()
        self._pin_line = b"\r\n%b%b\r\n\r\n" % (_PIN, self._pin.encode())

    async def rouse(self, position: int | None, *, overdue: bool = False) -> bool:
        """Make the server deliver to whoever waits for the pin, when it would not by itself; whether it had to.

        A pin comes with a delivery, and what a dead owner had received is not delivered again (or
        only after ack_wait): without new messages nobody would be pinned.  So a consumer
        that nobody is pinned to, and that is past `position` (the checkpoint), is reset.  Two
        standbys doing so at once, or one just after another was pinned, cost that one a
        `DeliveryGap`, nothing else.  May be called while `wait_pinned` waits.  `overdue`: a message
        behind `position` waits in vain; the consumer stands before what the broker cannot read.
        `position` None: reset if anything was delivered since it was reset last.

        It is reset to the stream's beginning, not to `position`: whoever is pinned meanwhile may
        have read an older checkpoint (the database may have lost the last ones in a crash), and
        would take a first delivery behind its own for the next in line.
        """
        info = await self._conn.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        pinned = any(g.get("pinned_client_id") for g in info.get("priority_groups") or ())
        # Acks that were lost may have filled the window, of what is committed too: nothing is sent then.
        stalled = info["num_ack_pending"] >= info["config"].get("max_ack_pending", 0) > 0
        delivered = info["delivered"]
        self.is_untouched = not (pinned or info["num_pending"] or delivered["consumer_seq"])
        past = delivered["consumer_seq"] > 0 if position is None else delivered["stream_seq"] > position
        if pinned or not (stalled or overdue or past):
            return False
        await self._conn.api(f"CONSUMER.RESET.{self._stream}.{self._consumer}", {"seq": 1})
        return True

    # --- reading -------------------------------------------------------------------------

    async def start(self, seq: int, *, created: datetime | None = None) -> None:  # noqa: ARG002
        """Begin a session at stream sequence `seq` (≥ 1; last_seq + 1 is legal).

        Only while pinned; a stream that is not the one that was `created` then knows no such pin.
        Raises `PinLost`, `NotConnected` and what `Connection.api` raises.
        """
        if self._pin is None:
            raise errors.PinLost(consumer=self._consumer)
        await self._end_session()
        self._kept = seq - 1
        await self._begin(seq - 1, self._session)

    async def _begin(self, position: int, session: object) -> None:
        """Let the own consumer deliver what follows `position`, unless `session` has ended meanwhile.

        It is reset to where the next session would begin at the earliest, and what was had is left out: a
        reset that the server gets to late, when another client has begun, may make that one begin anew
        but never skip anything.
        """
        self._order = DeliveryOrder(position, behind=self._kept)
        if not await self._open_inbox(session):
            return
        info = await self._reset(self._kept + 1)
        if info is None or session is not self._session:
            return
        self._acks = info["config"]["ack_policy"] != "none"
        self.resets += 1
        self._heard_at = asyncio.get_running_loop().time()
        self._reading = True
        self._refill()

    async def _reset(self, seq: int) -> dict[str, Any] | None:
        """The consumer begins anew at `seq`; None: the session has ended, and nothing is asked for again."""
        request = self._conn.api(f"CONSUMER.RESET.{self._stream}.{self._consumer}", {"seq": seq})
        resetting = self._resetting = asyncio.ensure_future(request)
        try:
            await asyncio.wait({resetting})
        finally:
            resetting.cancel()
        return None if resetting.cancelled() else resetting.result()

    async def _open_inbox(self, session: object) -> bool:
        """Listen at a fresh inbox, where nothing of before can arrive; False when `session` has ended meanwhile."""
        inbox = await self._conn.subscribe_bytes(self._conn.new_inbox(), self._arrived)
        if session is not self._session:
            await inbox.unsubscribe()
            return False
        self._inbox = inbox
        return True

    @property
    def patience_s(self) -> float:
        """How soon `check_silence` may find something, if nothing comes until then.

        What is not taken yet is a sign of life when it is: nobody need look again and again until then.
        """
        if self._buffer:
            return SILENCE_S + limits.PULL_EXPIRES_S / 10
        patience_s = self._heard_at + SILENCE_S - asyncio.get_running_loop().time()
        return max(patience_s, 0.0) + limits.PULL_EXPIRES_S / 10

    def check_silence(self) -> None:
        """Raise what is broken, or `DeliveryGap` when the server should have said something by now."""
        if not self._buffer:
            self._raise_if_broken()
        silent_s = asyncio.get_running_loop().time() - self._heard_at
        if not self._buffer and silent_s > SILENCE_S:
            raise errors.DeliveryGap("the server is silent", silent_s=round(silent_s, 1))

    def take(self, messages_max: int) -> list[Delivery]:
        """What has arrived, in order: at most `messages_max`; without waiting.

        Raises `PinLost`, `DeliveryGap`, `NotConnected` or `ApiNotFound`: then call `stop` and begin again from the
        checkpoint; deliveries that were not committed will come again.
        """
        buffer = self._buffer
        if len(buffer) <= messages_max:
            taken = list(buffer)
            buffer.clear()
            self._buffered_bytes = 0
        else:
            taken = [buffer.popleft() for _ in range(messages_max)]
            self._buffered_bytes -= sum(d.size for d in taken)
        if taken:
            self._heard_at = asyncio.get_running_loop().time()
        else:
            self._raise_if_broken()
        self._refill()
        return taken

    def put_back(self, deliveries: list[Delivery]) -> None:
        """Return the last of what was taken, before anything else is awaited: they come first next time."""
        self._buffer.extendleft(reversed(deliveries))
        self._buffered_bytes += sum(d.size for d in deliveries)

    def passed(self, seq: int) -> None:
        """Its owner knows that nothing of the partition is left up to `seq`, delivered or not."""
        if self.is_empty:
            self._order.position = max(self._order.position, seq)

    async def has_all(self) -> bool:
        """Whether everything that the stream has for this partition, as the broker says now, was taken."""
        lender, session = self._lender, self._session
        if lender is None and not self._reading:
            return False
        drained = await (self if lender is None else lender).nothing_on_its_way()
        return drained and self.is_empty and session is self._session and lender is self._lender

    def left_behind(self, delivery: Delivery) -> int:
        """Messages of the partition behind this one when it was sent; about, when another has delivered it."""
        mine = delivery.ack.startswith(self._first_delivery[:-1]) or self._lender is None
        return delivery.pending if mine else delivery.pending // limits.PARTITIONS

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be received."""
        return not self._buffer

    def ack(self, delivery: Delivery) -> None:
        """Everything up to this one is committed; tell a consumer that asks for it, which may be lost."""
        self.kept(delivery.seq)
        if self._acks and self._conn.is_connected:
            self._conn.publish(delivery.ack.decode("latin-1"), b"+ACK")

    def kept(self, seq: int) -> None:
        """Whoever reads the partition next begins behind `seq`, or further on."""
        self._kept = max(self._kept, min(seq, self._order.position))

    async def unpin(self, timeout_s: float = limits.API_TIMEOUT_S) -> None:
        """Stop, and give the pin back at once, so that nobody need wait for it to lapse.

        Not when it was lost: it is another's then.  Raises what `Connection.api` raises.
        """
        owned = self._pin is not None and not isinstance(self._broken, errors.PinLost)
        await self.stop()
        if owned and self._conn.is_connected:
            request = f"CONSUMER.UNPIN.{self._stream}.{self._consumer}"
            await self._conn.api(request, {"group": self._group}, timeout_s=timeout_s)

    async def stop(self) -> None:
        """End the session and forget what has arrived.  Twice is legal."""
        self._pin = None
        self._whose.pop("id", None)
        await self._end_session()

    async def close(self) -> None:
        """Stop for good."""
        self._unregister()
        await self.stop()

    # --- being lent (see `coord.bus.shared`) -------------------------------------------------

    def may_be_lent(self) -> None:
        """The owner of this session does not mind who delivers from now on."""
        self._may_lend = True
        if self.on_lendable is not None:
            self.on_lendable()

    @property
    def is_lendable(self) -> bool:
        """Whether a session is under way that may be fed by somebody else."""
        return self._may_lend and self._reading and self._broken is None

    @property
    def is_lent(self) -> bool:
        """Whether it is fed, and does not read by itself; not once it is broken."""
        return self._lender is not None and self._broken is None

    @property
    def position(self) -> int:
        """Everything of the partition up to this sequence has reached this reader."""
        return self._order.position

    async def lend(self, lender: Lender) -> None:
        """From now on `feed` brings what follows `position`; the own consumer only keeps the pin.

        Nothing happens where that may not be, as when its session has begun anew before what the lender
        begins with; one that is lent may be lent again, to another.
        """
        # Nothing is awaited between these questions and the answer to them.
        if self._lender is not None:
            # It has all that the last one fed, though its own position may be that of an earlier message.
            if lender.position <= max(self._lender.position, self.position):
                self._lender = lender
            else:
                await self.reclaim()
            return
        if not self.is_lendable or self.position < lender.position:
            return
        self._lender = lender
        self._reading = False
        self._outstanding.clear()
        self._alone = False
        session = self._session
        self._heard_at = asyncio.get_running_loop().time()
        await self._close_inbox()  # before anything is awaited: what was asked for and is on its way counts no more
        if await self._open_inbox(session):
            self.renew()

    def renew(self) -> None:
        """Lent: renew the pin, and have the server show that it lives.

        No message fits into a byte: the server answers at once that the next one does not, or that there is none.
        """
        if self._lender is None or self._inbox is None or self._broken is not None:
            return
        try:
            self._ask(1, bytes_max=1, expires_s=0)
        except errors.BusError as exc:
            self._break(exc)

    def pass_on(self, lender: Lender, to: Lender) -> None:
        """Lent by `lender`: `to` feeds it from now on, beginning no later than where `lender` ends."""
        if self._lender is lender:
            self._lender = to

    def feed(self, delivery: Delivery, lender: Lender) -> int:
        """Lent to `lender`: take the next delivery of the partition, telling nobody; how many wait to be received now.

        0: it was not taken, being behind `position` or for a reader that is not lent to that one, or is broken:
        its owner would learn only after a backlog that the pin is lost.
        """
        order, seq = self._order, delivery.seq
        if self._lender is not lender or seq <= order.position or self._broken is not None:
            return 0
        order.position = seq
        buffer = self._buffer
        buffer.append(delivery)
        head = delivery.raw_headers
        self._buffered_bytes += len(delivery.data) + (len(head) if head else 0) + OVERHEAD_BYTES  # its `size`
        return len(buffer)

    def tell(self) -> None:
        """Lent: tell whoever reads of what was fed."""
        self._notify()

    @property
    def buffered(self) -> int:
        """How many messages wait to be received."""
        return len(self._buffer)

    @property
    def buffered_bytes(self) -> int:
        """And about what they take."""
        return self._buffered_bytes

    @property
    def has_room(self) -> bool:
        """Whether it would ask for more if it read by itself."""
        return len(self._buffer) <= self._batch and self._buffered_bytes <= self._batch_bytes

    async def reclaim(self) -> None:
        """Read by the own consumer again, behind what was fed.  What goes wrong ends the session."""
        if self._lender is None:
            return
        self._lender = None
        session = self._session
        await self._close_inbox()
        if session is not self._session or self._broken is not None:
            return
        self._outstanding.clear()
        self._alone = False
        try:
            await self._begin(self._order.position, session)
        except errors.CoordError as exc:
            if session is self._session:
                self._break(exc)

    # --- requests and arrivals -----------------------------------------------------------

    def _has_room(self) -> bool:
        return self.has_room

    def _refill(self) -> None:
        if self._lender is not None:
            self._lender.room_again()
        elif self._reading:
            super()._refill()

    def _batch_now(self) -> int:
        modest = asyncio.get_running_loop().time() < self.modest_until
        return min(self._batch, limits.GATHER_MODEST) if modest else self._batch

    def _accept(self, seq: int, stored_ns: int, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if not self._buffer:
            # While something waits nobody asks how long the server has been silent, nor sleeps.
            self._heard_at = asyncio.get_running_loop().time()
            self._notify()
        elif len(self._buffer) == limits.GATHER_CROWD - 1:
            self._notify()  # many: whoever waits with what little there was does not any more
        # `as_published`, for the line that every delivery of this session ends with.
        head = headers.removesuffix(self._pin_line)
        raw_headers = head + _END if _NO_FIELDS < len(head) < len(headers) else as_published(headers or None)
        self._buffer.append(
            Delivery(seq, stored_ns, subject.decode("utf-8", "backslashreplace"), raw_headers, data, reply)
        )
        self._buffered_bytes += len(data) + (len(raw_headers) if raw_headers else 0) + OVERHEAD_BYTES

    def _notify(self) -> None:
        self._bell.ring()
        if self.on_wake is not None:
            self.on_wake()

    async def _end_session(self) -> None:
        self._session = object()
        could, self._may_lend = self._may_lend, False
        self._reading = False
        self._lender = None
        resetting, self._resetting = self._resetting, None
        if resetting is not None:
            resetting.cancel()
        await self._close_inbox()
        self._buffer.clear()
        self._buffered_bytes = 0
        self._outstanding.clear()
        self._broken = None
        self._alone = False
        if resetting is not None:
            await asyncio.wait({resetting})
        if could and self.on_lendable is not None:
            self.on_lendable()


def _pin_id(raw_headers: bytes) -> str:
    """The pin the server granted with this message.

    Taken from the raw bytes: the server appends its header to whatever the author sent, so
    the last one is the server's even when the block is malformed or forged.
    """
    _, found, rest = raw_headers.rpartition(_PIN)
    return rest.partition(b"\r\n")[0].decode("ascii", "replace") if found else ""


def as_published(raw_headers: bytes | None) -> bytes | None:
    """The header block of a pinned delivery as it was published; None where it had none.

    The server cuts off a block's last two bytes, whatever they are, and puts its own line and
    a proper end behind.  That would mend a block that was truncated, and give headers to a
    message that had none: readers judge those differently.  A block that did not end as it
    should comes back without an end.
    """
    if raw_headers is None:
        return None
    head, found, _ = raw_headers.rpartition(_PIN)
    if not found:
        return raw_headers
    if head == b"NATS/1.0\r\n":
        return None
    return head + b"\r\n" if head.endswith(b"\r\n") else head
