"""A pull consumer that one client at a time is pinned to, read without losing order.

nats-py's ``fetch`` creates a task and a UUID per message and reaches a fifth of what raw
pulls do; it also knows nothing of pins.  This reader keeps a few pull requests
outstanding, each expiring after a second: renewing one renews the pin, and its expiry is
the sign of life of the server.

The life of a reader::

    wait_pinned() ── first delivery carries Nats-Pin-Id ──▶ start(seq) ── CONSUMER.RESET ──▶ receive() …
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
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection, Subscription
from coord.bus.patched import Message, as_message
from coord.core.delivery import DeliveryOrder, Verdict

_encode = msgspec.json.encode

_PIN = b"Nats-Pin-Id: "
_ACK = b"$JS.ACK."
_END = b"\r\n\r\n"
_NO_FIELDS = len(b"NATS/1.0")
"""A block of this many bytes, without its end, has none."""

_OVERHEAD_BYTES: Final = 128
"""What a waiting delivery takes beside its body and headers: itself, subject and reply."""

SILENCE_S = 3 * limits.PULL_EXPIRES_S
"""No delivery and no expiry for so long: the request or its answer is lost."""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One accepted delivery."""

    seq: int
    """Stream sequence."""
    stored_ns: int
    """The broker's time, nanoseconds since 1970."""
    subject: str
    raw_headers: bytes | None
    """As its author sent them: without the line that the server adds to a pinned delivery."""
    data: bytes
    ack: bytes = b""
    """Where to acknowledge (this one and, with AckAll, all before it); also says what follows."""

    @property
    def pending(self) -> int:
        """Messages of this consumer behind this one when it was sent; 0 for one that no consumer delivered."""
        return int(_place(self.ack)[4]) if self.ack else 0


class PinnedReader:
    """Reads one consumer; not safe for use by two coroutines at a time."""

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
        self._conn = conn
        self._stream = stream
        self._consumer = consumer
        self._request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._first_delivery = f"$JS.ACK.{stream}.{consumer}.1".encode()
        self._batch = max(1, messages_max // 2)
        self._batch_bytes = max(1024, bytes_max // 2)
        self._expires_s = expires_s
        self._group = group
        self._pin: str | None = None
        self._pin_line = b""
        self._inbox: Subscription | None = None
        self._order = DeliveryOrder(0)
        self._buffer: deque[Delivery] = deque()
        self._buffered_bytes = 0
        self._outstanding: deque[int] = deque()  # remaining messages of each request, oldest first
        self._alone = False  # the next message exceeds the byte bound
        self._acks = False  # the consumer wants acknowledgements
        self._broken: errors.CoordError | None = None
        self._wake = asyncio.Event()
        self.on_wake: Callable[[], None] | None = None
        """Called synchronously when something has arrived that was waited for, or broke: `take` then."""
        self._heard_at = 0.0
        self.duplicates = 0
        self.resets = 0
        self.is_untouched = False
        """When `rouse` last looked, there was nothing in the stream that this consumer could ever deliver."""
        self._unregister = conn.on_disconnected(self._disconnected)

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
            if _is_delivery(message):
                if not pinned.done():
                    pinned.set_result(_pin_id(message.raw_headers or b""))
            elif status is not None and status not in (100, 408) and not pinned.done():
                pinned.set_exception(_status_error(status, message, self._consumer))
            else:
                wake.set()  # the request expired: ask again

        wake = asyncio.Event()
        self._inbox = await self._conn.subscribe(self._conn.new_inbox(), on_message)
        while not pinned.done():
            self._raise_if_broken()
            wake.clear()
            self._wake.clear()
            self._ask(1, with_bytes=False)
            # A request that did not even expire is lost; asking again costs nothing.
            await _first(pinned, wake, self._wake, timeout_s=1.5 * self._expires_s)
        self._pin = pinned.result()
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

    async def start(self, seq: int) -> None:
        """Begin a session at stream sequence `seq` (≥ 1; last_seq + 1 is legal).

        Only while pinned.  Raises `PinLost`, `NotConnected` and what `Connection.api` raises.
        """
        if self._pin is None:
            raise errors.PinLost(consumer=self._consumer)
        await self._close_inbox()
        self._forget()
        self._order = DeliveryOrder(seq - 1)
        self._inbox = await self._conn.subscribe_bytes(self._conn.new_inbox(), self._arrived)
        info = await self._conn.api(f"CONSUMER.RESET.{self._stream}.{self._consumer}", {"seq": seq})
        self._acks = info["config"]["ack_policy"] != "none"
        self.resets += 1
        self._heard_at = asyncio.get_running_loop().time()
        self._refill()

    async def receive(
        self, messages_max: int, timeout_s: float, *, unless: asyncio.Future[Any] | None = None
    ) -> list[Delivery]:
        """What has arrived, in order: at most `messages_max`; empty after `timeout_s` (or less) without any.

        Also returns (perhaps nothing) when `unless` is done or `interrupt` was called.  Raises
        `PinLost`, `DeliveryGap`, `NotConnected` or `ApiNotFound`: then call `stop` and begin
        again from the checkpoint; deliveries that were not committed will come again.
        """
        if not self._buffer:
            self._wake.clear()
            self._raise_if_broken()
            self._refill()
            wake = asyncio.ensure_future(self._wake.wait())
            waits = {wake} if unless is None else {wake, unless}
            # Silence is noticed when it is one, however long the caller would wait; and never before
            # what arrived while this process stood still could be read.
            patience_s = self._heard_at + SILENCE_S - asyncio.get_running_loop().time()
            timeout_s = min(timeout_s, max(patience_s, 0.0) + limits.PULL_EXPIRES_S / 10)
            try:
                await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                wake.cancel()
            self.check_silence()
        return self.take(messages_max)

    def check_silence(self) -> None:
        """Raise what is broken, or `DeliveryGap` when the server should have said something by now.

        For whoever does not `receive`.
        """
        if not self._buffer:
            self._raise_if_broken()
        silent_s = asyncio.get_running_loop().time() - self._heard_at
        if not self._buffer and silent_s > SILENCE_S:
            raise errors.DeliveryGap("the server is silent", silent_s=round(silent_s, 1))

    def interrupt(self) -> None:
        """Make a waiting `receive` return now."""
        self._wake.set()

    def take(self, messages_max: int) -> list[Delivery]:
        """What has arrived, without waiting.  Raises like `receive`."""
        buffer = self._buffer
        if len(buffer) <= messages_max:
            taken = list(buffer)
            buffer.clear()
            self._buffered_bytes = 0
        else:
            taken = [buffer.popleft() for _ in range(messages_max)]
            self._buffered_bytes -= sum(map(_size, taken))
        if taken:
            self._heard_at = asyncio.get_running_loop().time()
        else:
            self._raise_if_broken()
        self._refill()
        return taken

    def put_back(self, deliveries: list[Delivery]) -> None:
        """Return the last of what was taken, before anything else is awaited: they come first next time."""
        self._buffer.extendleft(reversed(deliveries))
        self._buffered_bytes += sum(_size(d) for d in deliveries)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be received."""
        return not self._buffer

    def ack(self, delivery: Delivery) -> None:
        """Tell a consumer that asks for it how far this reader is; losing it costs nothing."""
        if self._acks and self._conn.is_connected:
            self._conn.publish(delivery.ack.decode("latin-1"), b"+ACK")

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
        await self._close_inbox()
        self._pin = None
        self._forget()

    async def close(self) -> None:
        """Stop for good."""
        self._unregister()
        await self.stop()

    # --- requests ------------------------------------------------------------------------

    def _ask(self, batch: int, *, with_bytes: bool) -> None:
        request: dict[str, Any] = {"batch": batch, "expires": int(self._expires_s * 1e9), "group": self._group}
        if with_bytes:
            request["max_bytes"] = self._batch_bytes
        if self._pin is not None:
            request["id"] = self._pin
        if self._inbox is None:
            raise errors.DeliveryGap("no session")
        self._conn.publish(self._request_subject, _encode(request), reply=self._inbox.subject)

    def _refill(self) -> None:
        if self._broken is not None or self._pin is None:
            return
        while (
            len(self._outstanding) < 2
            and len(self._buffer) <= self._batch
            and self._buffered_bytes <= self._batch_bytes
        ):
            if not self._outstanding:
                # Nothing was asked for while the buffer was full: that was our silence, not the server's.
                self._heard_at = asyncio.get_running_loop().time()
            try:
                self._ask(1 if self._alone else self._batch, with_bytes=not self._alone)
            except errors.BusError as exc:
                self._break(exc)
                return
            self._outstanding.append(1 if self._alone else self._batch)
            self._alone = False

    def _request_ended(self) -> None:
        if self._outstanding:
            self._outstanding.popleft()

    # --- arrivals (called from the read loop) --------------------------------------------

    def _arrived(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        # $JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<ns>.<pending>
        place = reply.rsplit(b".", 4)
        if place[0] != self._first_delivery:
            if not reply.startswith(_ACK):
                self._heard_at = asyncio.get_running_loop().time()
                message = as_message(subject, reply, headers, data)
                if (status := message.status) is not None:
                    self._on_status(status, message)
                return
            place = _place(reply)
        seq, consumer_seq = int(place[1]), int(place[2])
        outstanding = self._outstanding
        if outstanding:
            outstanding[0] -= 1
            if outstanding[0] <= 0:
                outstanding.popleft()
        verdict = self._order.judge(consumer_seq, seq)
        if verdict is Verdict.ACCEPT:
            if not self._buffer:
                # While something waits nobody asks how long the server has been silent, nor sleeps.
                self._heard_at = asyncio.get_running_loop().time()
                self._notify()
            # `as_published`, for the line that every delivery of this session ends with.
            head = headers.removesuffix(self._pin_line)
            raw_headers = head + _END if _NO_FIELDS < len(head) < len(headers) else as_published(headers or None)
            self._buffer.append(
                Delivery(seq, int(place[3]), subject.decode("utf-8", "backslashreplace"), raw_headers, data, reply)
            )
            self._buffered_bytes += len(data) + (len(raw_headers) if raw_headers else 0) + _OVERHEAD_BYTES
            return
        self._heard_at = asyncio.get_running_loop().time()
        if verdict is Verdict.DUPLICATE:
            self.duplicates += 1
            self._refill()
        else:
            self._break(errors.DeliveryGap(consumer=self._consumer, consumer_seq=consumer_seq))

    def _on_status(self, status: int, message: Message) -> None:
        description = message.headers.get("Description", "").lower()
        if status == 100 or description == "batch completed":
            # The latter follows the last message of a request with max_bytes, which has been
            # counted: ending another request for it would let the server send without bound.
            return
        if status == 409 and "maxbytes" in description.replace(" ", ""):
            self._alone = True
        elif status not in (404, 408, 409) or "deleted" in description:
            self._break(_status_error(status, message, self._consumer))
            return
        self._request_ended()
        self._wake.set()
        self._refill()

    def _disconnected(self) -> None:
        self._break(errors.NotConnected())

    def _break(self, error: errors.CoordError) -> None:
        if self._broken is None:
            self._broken = error
        self._notify()

    def _notify(self) -> None:
        self._wake.set()
        if self.on_wake is not None:
            self.on_wake()

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise self._broken
        if not self._conn.is_connected:
            raise errors.NotConnected

    def _forget(self) -> None:
        self._buffer.clear()
        self._buffered_bytes = 0
        self._outstanding.clear()
        self._broken = None
        self._alone = False

    async def _close_inbox(self) -> None:
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await inbox.unsubscribe()


def _is_delivery(message: Message) -> bool:
    """Whether a stream's message came, not word of the request.

    Its headers do not tell: an author may write a status line, and the server delivers it.
    """
    return message.reply.startswith("$JS.ACK.")


def _place(reply: bytes) -> list[bytes]:
    """Anything, stream sequence, consumer sequence, nanoseconds and pending out of any form of a reply.

    The usual one of a message that was delivered before; newer ones have domain and account in
    front of the stream, and a random token at the end.
    """
    tokens = reply.split(b".")
    base = 4 if len(tokens) == 9 else 6
    return tokens[base : base + 5]


def _size(delivery: Delivery) -> int:
    return len(delivery.data) + (len(delivery.raw_headers) if delivery.raw_headers else 0) + _OVERHEAD_BYTES


async def _first(future: asyncio.Future[Any], *events: asyncio.Event, timeout_s: float) -> None:
    """Return when the future is done, an event is set or the time is over."""
    waits = [asyncio.ensure_future(e.wait()) for e in events]
    try:
        await asyncio.wait({future, *waits}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


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


def _status_error(status: int, message: Message, consumer: str) -> errors.CoordError:
    description = message.headers.get("Description", "")
    if status == 423:
        return errors.PinLost(description or None, consumer=consumer)
    if status == 503 or "deleted" in description.lower():
        return errors.ApiNotFound(description or "the consumer does not exist", consumer=consumer)
    return errors.BusError(description or "the server refused a pull", status=status, consumer=consumer)
