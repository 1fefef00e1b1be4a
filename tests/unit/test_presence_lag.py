"""How old what a board hears is: what it says to itself through the broker tells it."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from coord import limits
from coord.core import presence as core
from coord.runtime import clock
from coord.server.presence import PresenceBoard
from coord.telemetry.metrics import Metrics
from tests.support.waiting import until


class Line:
    """A connection to a broker that answers when it is told to."""

    def __init__(self) -> None:
        self.said: list[bytes] = []

    def publish(self, _subject: str, body: bytes) -> None:
        self.said.append(body)


async def test_who_beats_through_a_slow_broker_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PRESENCE_ECHO_S", 0.0)
    monkeypatch.setattr(limits, "PRESENCE_TICK_S", 0.01)
    board, line = PresenceBoard(registry=Metrics(CollectorRegistry()), settle_s=0.001), Line()
    board._conn = line  # type: ignore[assignment]
    monkeypatch.setattr(board.table, "blind", lambda: None)  # with such short times it would be deaf at once
    lags: list[float] = []
    tick = core.PresenceTable.tick

    def ticked(table: core.PresenceTable, now: float, lag_s: float = 0.0) -> list[core.Change]:
        lags.append(lag_s)
        return tick(table, now, lag_s)

    monkeypatch.setattr(core.PresenceTable, "tick", ticked)
    watching = asyncio.ensure_future(board.watch())
    try:
        await until(lambda: max(lags, default=0.0) >= 0.05)  # nothing has come back
        board._echoed(b"", b"", b"", line.said[0])
        took_s = clock.monotonic() - float(line.said[0])
        assert 0.05 <= board._echo_s <= took_s
        board._echoed(b"", b"", b"", line.said[-1])  # those between are lost: nothing is older than the last
        assert not board._said_at
        board._echoed(b"", b"", b"", b"not ours")
        assert board.lag_s(clock.monotonic()) == board._echo_s < took_s
        board._sees()
        assert board.lag_s(clock.monotonic()) == 0.0, "what was under way on another connection"
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
