"""What a worker's pulls do when the broker's answers take long: it must come to rest."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from coord.bus.connection import Connection
from coord.client import pulling
from coord.client.pulling import Delivery, Puller
from coord.wire import subjects, work
from tests.support.waiting import until

_LATE_S = 0.01
"""Five times as long as an empty queue counts as empty for sure."""


class _LateBroker:
    """Has no work, says so late, and keeps what waits."""

    def __init__(self) -> None:
        self.is_connected = True
        self.asked = 0
        self.retired = 0
        self.waiting: list[str] = []
        self._handlers: dict[str, Any] = {}
        self._inboxes = 0

    def new_inbox(self) -> str:
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"

    def on_disconnected(self, _listener: Any) -> Any:
        return lambda: None

    on_reconnected = on_permission_denied = on_disconnected

    async def subscribe_bytes(self, subject: str, handler: Any) -> Any:
        self._handlers[subject.removesuffix("*")] = handler
        return _Subscription(subject, self)

    def listen(self, inbox: str, handler: Any) -> Any:
        self._handlers[inbox] = handler
        return _Subscription(inbox, self)

    def publish(self, subject: str, body: bytes, *, reply: str) -> None:
        if not msgspec.json.decode(body).get("no_wait"):
            self.waiting.append(subject)
            return
        self.asked += 1
        handler = self._handlers[reply[: reply.rindex(".") + 1]]
        asyncio.get_running_loop().call_later(
            _LATE_S, handler, reply.encode(), b"", b"NATS/1.0 404 No Messages\r\n\r\n", b""
        )

    def give(self, queue: str, consumer: str, pending: int) -> None:
        """Deliver a task to what waits."""
        inbox = next(reversed(self._handlers))
        subject = f"coord.log.0.t.k.task.i.a.submitted.c.{queue}"
        reply = f"$JS.ACK.EVENTS.{consumer}.1.7.7.1700000000000000000.{pending}"
        self._handlers[inbox](subject.encode(), reply.encode(), b"", b"")

    async def flush(self, _timeout_s: float) -> None:
        return


class _Subscription:
    def __init__(self, subject: str, broker: _LateBroker) -> None:
        self.subject = subject
        self._broker = broker

    async def unsubscribe(self) -> None:
        return

    def retire(self) -> None:
        self._broker.retired += 1


async def test_one_free_slot_and_late_answers_end_in_a_wait_for_each_priority() -> None:
    """Asked one after another, the first would be taken for unknown again when the last has answered."""
    broker = _LateBroker()
    puller = Puller(cast("Connection", broker), "t", "c", free=lambda: 1, deliver=lambda _: None, missing=lambda: None)
    puller.open()
    await until(lambda: len(broker.waiting) == len(work.PRIORITIES))
    assert broker.asked >= len(work.PRIORITIES), "waits before it was asked"
    await puller.close()


async def test_each_priority_is_asked_once_however_late_answers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of many workers that is slow would be kept slow by their questions, for ever."""
    monkeypatch.setattr(pulling, "_EMPTY_MOST_S", _LATE_S / 2)
    monkeypatch.setattr(pulling, "_CALM_S", _LATE_S / 2)
    broker = _LateBroker()
    puller = Puller(cast("Connection", broker), "t", "c", free=lambda: 1, deliver=lambda _: None, missing=lambda: None)
    puller.open()
    await until(lambda: len(broker.waiting) == len(work.PRIORITIES) or broker.asked > 3 * len(work.PRIORITIES))
    assert broker.asked == len(work.PRIORITIES)
    await puller.close()


@pytest.mark.parametrize("pending", [0, 1])
async def test_after_a_task_that_was_the_last_the_next_is_waited_for_without_asking(
    pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes a task now and then asks nobody three times for each; who leaves a backlog behind does."""
    monkeypatch.setattr(pulling, "_CALM_S", 60.0)  # however long this test is kept from going on
    broker = _LateBroker()
    free = 1
    came: list[str] = []

    def deliver(delivery: Delivery) -> None:
        nonlocal free
        free = 0
        came.append(delivery.queue)

    puller = Puller(cast("Connection", broker), "t", "c", free=lambda: free, deliver=deliver, missing=lambda: None)
    puller.open()
    await until(lambda: len(broker.waiting) == len(work.PRIORITIES))
    asked, broker.waiting = broker.asked, []
    broker.give("normal", subjects.queue("t", "c", "normal"), pending)
    assert came == ["normal"]
    await until(lambda: broker.retired == len(work.PRIORITIES))  # the slot is taken: nothing may wait
    free = 1
    puller.refill()
    await until(lambda: len(broker.waiting) == len(work.PRIORITIES))
    assert (broker.asked == asked) == (pending == 0)
    await puller.close()
