"""An agent's cache and its two subscriptions, where opening them fails or is overtaken by the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.cache.hearing import Caching
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.notices import Notice
from tests.support.waiting import until


class Bus:
    """A connection that has subscriptions, and takes its time where it is told to."""

    is_clustered = False

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.receivers: list[Any] = []
        self.asked: list[str] = []
        self.fails = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def subscribe_bytes(self, subject: str, receiver: object) -> Subscribed:
        self.asked.append(subject)
        await self.answers.wait()
        if self.fails and len(self.asked) == 2:
            raise errors.NotConnected
        self.subscribed.append(subject)
        self.receivers.append(receiver)
        return Subscribed(self, subject)

    async def flush(self) -> None:
        """All of it is there."""

    def on_connected(self, _called: object) -> Any:
        return lambda: None

    on_disconnected = on_permission_denied = on_connected


class Subscribed:
    def __init__(self, bus: Bus, subject: str) -> None:
        self.bus, self.subject = bus, subject

    async def unsubscribe(self) -> None:
        self.bus.subscribed.remove(self.subject)


def caching(bus: Any) -> Caching:
    return Caching(bus, "acme", None, Metrics(CollectorRegistry()))


BOTH = [subjects.notices("acme"), subjects.notices(subjects.UNKNOWN)]


async def test_what_is_opened_while_it_is_closed_is_given_back() -> None:
    bus = Bus()
    made = caching(bus)
    bus.answers.clear()
    opening = asyncio.create_task(made.open())
    await until(lambda: bus.asked)
    await made.close()
    bus.answers.set()
    await opening
    assert bus.subscribed == []


async def test_a_second_try_takes_only_what_the_first_did_not_get() -> None:
    bus = Bus()
    made = caching(bus)
    bus.fails = True
    with pytest.raises(errors.NotConnected):
        await made.open()
    await made.open()
    assert bus.subscribed == BOTH
    await made.close()
    assert bus.subscribed == []


async def test_what_the_broker_was_made_to_send_is_no_notice() -> None:
    """An agent can have a stored message sent to any subject, as the answer to a request of its own."""
    bus = Bus()
    made = caching(bus)
    await made.open()
    body = notices.encode(
        Notice(stream=subjects.EVENTS, epoch=9, partition=3, session="forged", from_=0, to=10**9, tags=[])
    )
    for reply, headers in ((b"", b"NATS/1.0\r\nNats-Stream: OBJ_PAYLOADS\r\n\r\n"), (b"$JS.ACK.EVENTS.x", b"")):
        for receiver in bus.receivers:
            receiver(b"", reply, headers, body)
    assert made.cache.evictions.heard == 0
    bus.receivers[1](b"", b"", b"", body)
    assert made.cache.evictions.heard == 1
    await made.close()
