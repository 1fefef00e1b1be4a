"""What a worker's pulls do when the broker's answers take long: it must come to rest."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec

from coord.bus.connection import Connection
from coord.client.pulling import Puller
from coord.wire import work
from tests.support.waiting import until

_LATE_S = 0.01
"""Five times as long as an empty queue counts as empty for sure."""


class _LateBroker:
    """Has no work, says so late, and keeps what waits."""

    def __init__(self) -> None:
        self.is_connected = True
        self.asked = 0
        self.waiting: list[str] = []
        self._handlers: dict[str, Any] = {}
        self._inboxes = 0

    def new_inbox(self) -> str:
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"

    def on_disconnected(self, _listener: Any) -> Any:
        return lambda: None

    on_reconnected = on_disconnected

    async def subscribe_bytes(self, subject: str, handler: Any) -> Any:
        self._handlers[subject.removesuffix("*")] = handler
        return _Subscription(subject)

    def publish(self, subject: str, body: bytes, *, reply: str) -> None:
        if not msgspec.json.decode(body).get("no_wait"):
            self.waiting.append(subject)
            return
        self.asked += 1
        handler = self._handlers[reply[: reply.rindex(".") + 1]]
        asyncio.get_running_loop().call_later(
            _LATE_S, handler, reply.encode(), b"", b"NATS/1.0 404 No Messages\r\n\r\n", b""
        )

    async def flush(self, _timeout_s: float) -> None:
        return


class _Subscription:
    def __init__(self, subject: str) -> None:
        self.subject = subject

    async def unsubscribe(self) -> None:
        return

    drain = unsubscribe


async def test_one_free_slot_and_late_answers_end_in_a_wait_for_each_priority() -> None:
    """Asked one after another, the first would be taken for unknown again when the last has answered."""
    broker = _LateBroker()
    puller = Puller(cast("Connection", broker), "t", "c", free=lambda: 1, deliver=lambda _: None, missing=lambda: None)
    await puller.open()
    await until(lambda: len(broker.waiting) == len(work.PRIORITIES))
    assert broker.asked >= len(work.PRIORITIES), "waits before it was asked"
    await puller.close()
