"""Waking whoever stands by: nobody is looked for where the broker says that nobody listens."""

from __future__ import annotations

from typing import Any, cast

from prometheus_client import CollectorRegistry

from coord import limits
from coord.bus.connection import Connection
from coord.core.presence import PresenceTable
from coord.server.standing import Standing
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from tests.support.waiting import until

_PLACE = ("t", "c")


class _Broker:
    """Tasks wait in its queues, and no pull."""

    is_connected = True

    def __init__(self) -> None:
        self.listened = False
        self.asked: list[str] = []
        self.woken = self.looks = 0

    async def is_heard(self, subject: str, body: bytes) -> bool:
        assert subject == subjects.wake(*_PLACE)
        assert body != b'{"what":"work"}', "to ask is not to wake"
        self.looks += 1
        return self.listened

    async def api(self, request: str) -> dict[str, Any]:
        self.asked.append(request)
        return {"num_waiting": 0, "num_pending": 5}

    def publish(self, subject: str, body: bytes) -> None:
        assert (subject, body) == (subjects.wake(*_PLACE), b'{"what":"work"}')
        self.woken += 1


async def test_a_backlog_while_nobody_listens_wakes_nobody_and_asks_for_no_queue_until_somebody_does() -> None:
    broker = _Broker()
    standing = Standing(cast("Connection", broker), Metrics(CollectorRegistry()), PresenceTable(0.0))
    for _ in range(3):  # this process is young: it presumes that all agents stand by
        looks = broker.looks
        standing.look({_PLACE: 2}, {_PLACE: 5}, {})
        await until(lambda before=looks: broker.looks > before)  # type: ignore[misc]
        await standing.close()
    assert (broker.woken, broker.asked) == (0, [])
    broker.listened = True
    standing.look({_PLACE: 2}, {_PLACE: 5}, {})
    await until(lambda: broker.woken >= limits.QUEUE_SEATS)
    await standing.close()
