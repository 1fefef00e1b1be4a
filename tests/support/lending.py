"""A broker in memory with one stream of sixteen partitions: as much of JetStream's pulls as readers use."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from coord import errors
from coord.bus.patched import Receiver
from coord.bus.pull import PinnedReader
from coord.wire.filters import matches


class Consumer:
    """Where it is, what it filters, and who asks."""

    def __init__(self, prefix: bytes, seq: int, filters: list[str] | None = None) -> None:
        self.prefix = prefix
        self.filters = filters
        self._judged: dict[bytes, bool] = {}
        self.next = seq
        self.sent = 0
        self.requests: list[list[Any]] = []  # [inbox, batch, bytes_max]

    def wants(self, subject: bytes) -> bool:
        """Whether it delivers a message of this subject."""
        if not subject.startswith(self.prefix):
            return False
        if self.filters is None:
            return True
        if subject not in self._judged:
            self._judged[subject] = any(matches(one, subject.decode()) for one in self.filters)
        return self._judged[subject]


class Memory:
    """Stands in for a `Connection` and the server behind it; delivers when `turn` says so."""

    is_connected = True

    def __init__(self, rng: random.Random) -> None:
        self.messages: list[bytes] = []
        """Subjects, by sequence - 1."""
        self.consumers: dict[str, Consumer] = {}
        self.lose: Callable[[], bool] = lambda: False
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """What else happens while somebody waits for the server."""
        self.resets: list[int] = []
        """Where consumers were told to begin anew."""
        self._rng = rng
        self._inboxes: dict[str, Receiver] = {}
        self._names = 0

    # --- what a Connection has -------------------------------------------------------------

    def on_disconnected(self, _: Any) -> Callable[[], None]:
        return lambda: None

    def new_inbox(self) -> str:
        self._names += 1
        return f"_INBOX.{self._names}"

    async def subscribe_bytes(self, subject: str, receiver: Receiver) -> Any:
        await asyncio.sleep(0)
        self._inboxes[subject] = receiver
        await self._wait()
        return Inbox(self, subject)

    def publish(self, subject: str, body: bytes = b"", *, reply: str = "") -> None:
        name = subject.rpartition(".")[2]
        request = msgspec.json.decode(body)
        if name in self.consumers:
            self.consumers[name].requests.append([reply, request["batch"], request.get("max_bytes")])

    async def api(self, request: str, payload: Any = None, *, timeout_s: float = 0) -> dict[str, Any]:
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)
        await self._wait()
        verb, _, name = request.removeprefix("CONSUMER.").partition(".")
        name = name.rpartition(".")[2]
        if verb == "CREATE":
            config = payload["config"]
            self.consumers[name] = Consumer(b"", config["opt_start_seq"], config.get("filter_subjects"))
            return {}
        consumer = self.consumers.get(name)
        if consumer is None:
            raise errors.ApiNotFound
        if verb == "RESET":
            consumer.next, consumer.sent = payload["seq"], 0
            self.resets.append(payload["seq"])
        pending = sum(map(consumer.wants, self.messages[consumer.next - 1 :]))
        return {
            "config": {"ack_policy": "none"},
            "num_pending": pending,
            "delivered": {"consumer_seq": consumer.sent},
        }

    async def _wait(self) -> None:
        if self.meanwhile is not None:
            await self.meanwhile()

    # --- the server ------------------------------------------------------------------------

    def turn(self) -> None:
        """Let each consumer answer some of its requests."""
        for name, consumer in list(self.consumers.items()):
            for _ in range(self._rng.randrange(6)):
                self._deliver(name, consumer)

    def expire(self) -> None:
        """A second has passed."""
        for consumer in self.consumers.values():
            requests, consumer.requests = consumer.requests, []
            for inbox, _, _ in requests:
                self._send(inbox, b"", b"NATS/1.0 408 Request Timeout\r\n\r\n", b"")

    def _deliver(self, name: str, consumer: Consumer) -> None:
        consumer.requests = [r for r in consumer.requests if r[0] in self._inboxes]  # as for lost interest
        if not consumer.requests:
            return
        seq = next(
            (i + 1 for i in range(consumer.next - 1, len(self.messages)) if consumer.wants(self.messages[i])),
            None,
        )
        if seq is None:
            return
        request = consumer.requests[0]
        if request[2] is not None and request[2] < 10:
            consumer.requests.pop(0)
            self._send(request[0], b"", b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\n\r\n", b"")
            return
        consumer.next = seq + 1
        consumer.sent += 1
        request[1] -= 1
        if not request[1]:
            consumer.requests.pop(0)
        if not self.lose():
            ack = b"$JS.ACK.EVENTS.%b.1.%d.%d.%d.%d" % (
                name.encode(),
                seq,
                consumer.sent,
                seq,
                len(self.messages) - seq,
            )
            self._send(request[0], ack, b"", self.messages[seq - 1])

    def _send(self, inbox: str, ack: bytes, headers: bytes, subject: bytes) -> None:
        receiver = self._inboxes.get(inbox)
        if receiver is not None:
            receiver(subject or inbox.encode(), ack, headers, b"")


class Inbox:
    """A subscription."""

    def __init__(self, memory: Memory, subject: str) -> None:
        self.subject = subject
        self._memory = memory

    async def unsubscribe(self) -> None:
        self._memory._inboxes.pop(self.subject, None)
        await asyncio.sleep(0)


async def begin(reader: PinnedReader, got: list[int]) -> None:
    """A session from where the last one, which got these, ended."""
    await reader.stop()
    reader._pin = "pin"
    await reader.start((got or [0])[-1] + 1)
    reader.may_be_lent()
