"""Pull requests of one consumer, and what they bring, believed in order.

A few requests are outstanding at a time, each for at most a second: an expiry is the sign of life
of the server.  Deliveries are judged by their consumer sequence (`coord.core.delivery`).
What is done with an accepted one is the subclass's to say: `coord.bus.pull` reads a partition
that one client is pinned to, `coord.bus.shared` reads a stream for all partitions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import msgspec

from coord import errors
from coord.bus.connection import Connection, Subscription
from coord.bus.patched import Message, as_message
from coord.core.delivery import DeliveryOrder, Verdict
from coord.wire.readings import Reading

_encode = msgspec.json.encode

_ACK = b"$JS.ACK."

OVERHEAD_BYTES: Final = 128
"""What a waiting delivery takes beside its body and headers: itself, subject and reply."""


class Delivery(msgspec.Struct, gc=False):
    """One accepted delivery.  Nothing of it is changed but `reading`."""

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
    reading: Reading = None
    """What it says, once either of two services has read it that are fed the same one (`coord.wire.readings`)."""

    @property
    def pending(self) -> int:
        """Messages of this consumer behind this one when it was sent; 0 for one that no consumer delivered."""
        return int(place_of(self.ack)[4]) if self.ack else 0

    @property
    def size(self) -> int:
        """About the bytes that it takes in memory."""
        return len(self.data) + (len(self.raw_headers) if self.raw_headers else 0) + OVERHEAD_BYTES


class Puller:
    """Keeps two requests outstanding while there is room; not safe for use by two coroutines at a time."""

    def __init__(
        self, conn: Connection, stream: str, consumer: str, *, messages_max: int, bytes_max: int, expires_s: float
    ) -> None:
        """Each request is for half of `messages_max` and `bytes_max`."""
        self._conn = conn
        self._stream = stream
        self._consumer = consumer
        self._request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._first_delivery = f"$JS.ACK.{stream}.{consumer}.1".encode()
        self._batch = max(1, messages_max // 2)
        self._batch_bytes = max(1024, bytes_max // 2)
        self._expires_s = expires_s
        self._whose: dict[str, Any] = {}
        """What a request says of its sender."""
        self._inbox: Subscription | None = None
        self._order = DeliveryOrder(0)
        self._outstanding: deque[int] = deque()  # remaining messages of each request, oldest first
        self._alone = False  # the next message exceeds the byte bound
        self._broken: errors.CoordError | None = None
        self._heard_at = 0.0
        self.duplicates = 0
        self._unregister = conn.on_disconnected(self._disconnected)

    # --- what subclasses say ---------------------------------------------------------------

    def _has_room(self) -> bool:
        """Whether another request may be sent."""
        raise NotImplementedError

    def _accept(self, seq: int, stored_ns: int, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        """Take the next delivery; called from the read loop."""
        raise NotImplementedError

    def _notify(self) -> None:
        """Something is broken, or no more can come of a request."""
        raise NotImplementedError

    # --- requests ------------------------------------------------------------------------

    def _ask(self, batch: int, *, bytes_max: int | None, expires_s: float | None = None) -> None:
        """`expires_s`: 0 to be answered at once; None: as all requests."""
        expires_s = self._expires_s if expires_s is None else expires_s
        waits = {"expires": int(expires_s * 1e9)} if expires_s else {"no_wait": True}
        request = self._whose | {"batch": batch} | waits
        if bytes_max is not None:
            request["max_bytes"] = bytes_max
        if self._inbox is None:
            raise errors.DeliveryGap("no session")
        self._conn.publish(self._request_subject, _encode(request), reply=self._inbox.subject)

    def _refill(self) -> None:
        if self._broken is not None:
            return
        while len(self._outstanding) < 2 and self._has_room():
            if not self._outstanding:
                # Nothing was asked for while the buffer was full: that was our silence, not the server's.
                self._heard_at = asyncio.get_running_loop().time()
            batch = 1 if self._alone else self._batch_now()
            try:
                self._ask(batch, bytes_max=None if self._alone else self._batch_bytes)
            except errors.BusError as exc:
                self._break(exc)
                return
            self._outstanding.append(batch)
            self._alone = False

    def _batch_now(self) -> int:
        """How many messages the next request is for."""
        return self._batch

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
            place = place_of(reply)
        seq, consumer_seq = int(place[1]), int(place[2])
        outstanding = self._outstanding
        if outstanding:
            outstanding[0] -= 1
            if outstanding[0] <= 0:
                outstanding.popleft()
        order = self._order
        if consumer_seq == order.consumer_seq + 1 and seq > order.position and not order.is_broken:
            # What `judge` does when it says ACCEPT, without the call.
            order.consumer_seq, order.position = consumer_seq, seq
            self._accept(seq, int(place[3]), subject, reply, headers, data)
            return
        self._heard_at = asyncio.get_running_loop().time()
        if order.judge(consumer_seq, seq) is Verdict.DUPLICATE:
            self.duplicates += 1
            self._refill()
        else:
            self._break(errors.DeliveryGap(consumer=self._consumer, consumer_seq=consumer_seq))

    def _on_status(self, status: int, message: Message) -> None:
        if status in (404, 408):  # nothing came: what most that wait are told
            self._request_ended()
            self._refill()
            return
        description = message.headers.get("Description", "").lower()
        if status == 100 or description == "batch completed":
            # The latter follows the last message of a request with max_bytes, which has been
            # counted: ending another request for it would let the server send without bound.
            return
        if status == 409 and "maxbytes" in description.replace(" ", ""):
            self._alone = True
        elif status != 409 or "deleted" in description:
            self._break(status_error(status, message, self._consumer))
            return
        self._request_ended()
        self._refill()

    def _disconnected(self) -> None:
        self._break(errors.NotConnected())

    def _break(self, error: errors.CoordError) -> None:
        if self._broken is None:
            self._broken = error
        self._notify()

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise self._broken
        if not self._conn.is_connected:
            raise errors.NotConnected

    async def _close_inbox(self) -> None:
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await inbox.unsubscribe()

    async def nothing_on_its_way(self) -> bool:
        """Whether the consumer has nothing left, and all that it has sent has arrived."""
        info = await self._conn.api(f"CONSUMER.INFO.{self._stream}.{self._consumer}")
        return not info["num_pending"] and info["delivered"]["consumer_seq"] == self._order.consumer_seq


def is_delivery(message: Message) -> bool:
    """Whether a stream's message came, not word of the request.

    Its headers do not tell: an author may write a status line, and the server delivers it.
    """
    return message.reply.startswith("$JS.ACK.")


def place_of(reply: bytes) -> list[bytes]:
    """Anything, stream sequence, consumer sequence, nanoseconds and pending out of any form of a reply.

    The usual one of a message that was delivered before; newer ones have domain and account in
    front of the stream, and a random token at the end.
    """
    tokens = reply.split(b".")
    base = 4 if len(tokens) == 9 else 6
    return tokens[base : base + 5]


def status_error(status: int, message: Message, consumer: str) -> errors.CoordError:
    """What the server means by refusing a pull."""
    description = message.headers.get("Description", "")
    if status == 423:
        return errors.PinLost(description or None, consumer=consumer)
    if status == 503 or "deleted" in description.lower():
        return errors.ApiNotFound(description or "the consumer does not exist", consumer=consumer)
    return errors.BusError(description or "the server refused a pull", status=status, consumer=consumer)
