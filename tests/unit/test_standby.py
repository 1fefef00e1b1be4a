"""Being woken: who cannot take work leaves it to others, and nobody is made to say anything."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from coord import limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.client.standby import Standby
from coord.wire import subjects
from tests.support.waiting import until

_WAKE = b'{"what":"work"}'


class _Broker:
    """Knows who listens, and tells of a crowd."""

    def __init__(self) -> None:
        self.is_connected = True
        self.heard: dict[str, list[Any]] = {}
        self.denied: Any = None
        self.answered = 0
        self.said: dict[str, Any] = {"waiting": limits.QUEUE_CROWD, "seats": limits.QUEUE_SEATS}

    def on_permission_denied(self, listener: Any) -> Any:
        self.denied = listener
        return lambda: None

    async def subscribe_bytes(self, subject: str, handler: Any, *, queue: str = "") -> Any:
        assert (queue == subjects.WAKE_GROUP) != (subjects.PROBES in subject)
        self.heard.setdefault(subject, []).append(handler)
        return _Subscription(self, subject, handler)

    async def answer(self, _conn: Any, _subject: str, asked: dict[str, Any], to: Any, **_: Any) -> Any:
        if asked["probe"]:
            for handler in self.heard[subjects.wake("t", asked["probe"])]:
                handler(b"", b"", b"", b'{"what":"probe"}')
        self.answered += 1
        return to(**self.said)

    def say(self, body: bytes, reply: bytes = b"") -> bool:
        """To the first who listens; whether there is one."""
        there = self.heard.get(subjects.wake("t", "c"), [])
        if there:
            there[0](b"", reply, b"", body)
        return bool(there)


class _Subscription:
    def __init__(self, broker: _Broker, subject: str, handler: Any) -> None:
        self._broker, self._subject, self._handler = broker, subject, handler

    async def unsubscribe(self) -> None:
        self._broker.heard[self._subject].remove(self._handler)


class _Worker:
    def __init__(self, broker: _Broker) -> None:
        self.able = True
        self.wakes = self.rises = 0
        self.standby = Standby(
            cast("Connection", broker), "t", "c", idle=lambda: True, able=lambda: self.able,
            wake=self._wake, rise=self._rise, paced=lambda: None,
        )  # fmt: skip

    def _wake(self) -> None:
        self.wakes += 1

    def _rise(self) -> None:
        self.rises += 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> _Broker:
    found = _Broker()
    monkeypatch.setattr(limits, "SEAT_AGAIN_S", 0.01)
    monkeypatch.setattr(rpc, "call", found.answer)
    return found


async def _standing(broker: _Broker) -> _Worker:
    worker = _Worker(broker)
    worker.standby.begin()
    await until(lambda: bool(broker.heard.get(subjects.wake("t", "c"))))
    assert _state(worker) == "standing"
    assert worker.rises == 1
    return worker


def _state(worker: _Worker) -> str:
    return worker.standby.state


def _wakes(worker: _Worker) -> int:
    return worker.wakes


async def test_who_is_woken_comes_once_and_listens_no_more(broker: _Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await _standing(broker)
    monkeypatch.setattr(limits, "SEAT_AGAIN_S", 3_600.0)
    assert broker.say(_WAKE)
    broker.say(_WAKE)  # sent before the broker knew
    assert _wakes(worker) == 1
    assert _state(worker) == "seated"
    await until(lambda: not broker.say(b""))
    await worker.standby.close()


async def test_who_cannot_take_work_leaves_wakes_to_others_until_it_can(broker: _Broker) -> None:
    worker = await _standing(broker)
    worker.able = False
    assert broker.say(_WAKE), "nobody told it yet"
    await until(lambda: not broker.say(b""))
    assert _state(worker) == "standing"
    assert _wakes(worker) == 0
    worker.able = True
    worker.standby.follow()
    await until(lambda: broker.say(b""))
    worker.able = False
    worker.standby.follow()
    await until(lambda: not broker.say(b""))
    worker.able = True
    worker.standby.follow()
    await until(lambda: broker.say(_WAKE))
    assert _wakes(worker) == 1
    await worker.standby.close()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"what":"x"}', b'{"what":"\xff"}', b'{"what":"probe"}', b"[" * 99_999]
)
async def test_what_is_no_wake_wakes_nobody_and_is_not_answered(broker: _Broker, body: bytes) -> None:
    worker = await _standing(broker)
    broker.say(body, b"coord.ev.acme.victim.k.task.k.completed")  # the broker here cannot publish: it would raise
    assert _wakes(worker) == 0
    await worker.standby.close()


async def test_who_may_not_be_woken_waits(broker: _Broker) -> None:
    worker = await _standing(broker)
    broker.denied(subjects.wake("t", "other"))
    assert _state(worker) == "standing"
    broker.denied(subjects.wake("t", "c"))
    assert _state(worker) == "seated"
    assert _wakes(worker) == 1
    await asyncio.sleep(0)
    await worker.standby.close()


async def test_who_leaves_is_not_woken_and_begins_anew(broker: _Broker) -> None:
    worker = await _standing(broker)
    worker.standby.leave()
    broker.say(_WAKE)
    assert _wakes(worker) == 0
    await until(lambda: not broker.say(b""))
    worker.standby.begin()
    await until(lambda: broker.say(b""))
    assert _state(worker) == "standing"
    await worker.standby.close()
    await worker.standby.close()


async def test_a_service_that_does_not_say_for_how_many_it_sees_to_gets_as_many_as_it_did(
    broker: _Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wake workers again and again where fewer than 64 wait, and they stood by again."""
    monkeypatch.setattr(limits, "SEAT_LOOK_S", 0.01)
    broker.said = {"waiting": 2 * 64 - 1}
    worker = _Worker(broker)
    worker.standby.begin()
    await until(lambda: broker.answered >= 2)
    assert _state(worker) == "seated"
    broker.said = {"waiting": 2 * 64}
    await until(lambda: _state(worker) == "standing")
    await worker.standby.close()
