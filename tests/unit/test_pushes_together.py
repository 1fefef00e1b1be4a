"""What one receiver is told in one turn of the loop is one message, where it says that it takes several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.publish import AckPipeline
from coord.core.deciding import Push
from coord.server.effects import Performer
from coord.telemetry.metrics import Metrics


class _Conn:
    is_connected = True
    max_payload = 1 << 20

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.turns: list[Callable[[], None]] = []

    def publish(self, subject: str, body: bytes) -> None:
        if not self.is_connected:
            raise errors.NotConnected
        self.said.append((subject.removeprefix("coord.push.t."), msgspec.json.decode(body)))

    def before_write(self, callback: Callable[[], None]) -> None:
        self.turns.append(callback)

    def turn(self) -> None:
        turns, self.turns = self.turns, []
        assert len(turns) == 1
        turns[0]()


class _Pipeline:
    on_settled: Any = None


@pytest.fixture
def conn() -> _Conn:
    return _Conn()


@pytest.fixture
def performer(conn: _Conn) -> Performer:
    return Performer(cast("Connection", conn), cast("AckPipeline", _Pipeline()), Metrics(CollectorRegistry()))


def _push(agent: str, body: Any, *, together: bool = True) -> Push:
    return Push("t", agent, "i", "task", body, together)


def test_several_of_a_turn_are_one_message_and_one_alone_or_for_whoever_does_not_ask_is_as_ever(
    conn: _Conn, performer: Performer
) -> None:
    for push in (_push("a", 1), _push("b", 2), _push("plain", 3, together=False), _push("a", 4), _push("a", {"n": 5})):
        performer.perform(push)
    assert conn.said == [("plain.task", 3)]
    conn.turn()
    assert conn.said[1:] == [("a.tasks", [1, 4, {"n": 5}]), ("b.task", 2)]
    performer.perform(_push("a", 6))
    conn.turn()
    assert conn.said[3:] == [("a.task", 6)]


def test_what_is_together_is_bounded_and_stays_in_order(conn: _Conn, performer: Performer) -> None:
    bodies = [str(n) + "x" * (limits.PUSH_TOGETHER_BYTES // size) for n, size in enumerate([3, 3, 3, 3, 1, 100, 100])]
    for body in bodies:
        performer.perform(_push("a", body))
    conn.turn()
    assert [subject for subject, _ in conn.said] == ["a.tasks", "a.tasks", "a.task", "a.tasks"]
    told = [one for _, said in conn.said for one in (said if isinstance(said, list) else [said])]
    assert told == bodies


def test_without_a_connection_whoever_decides_is_told_and_what_waits_is_lost(conn: _Conn, performer: Performer) -> None:
    performer.perform(_push("a", 1))
    conn.is_connected = False
    with pytest.raises(errors.NotConnected):
        performer.perform(_push("a", 2))
    conn.turn()
    conn.is_connected = True
    performer.perform(_push("a", 3))
    conn.turn()
    assert conn.said == [("a.task", 3)]


def test_one_that_cannot_be_told_keeps_no_other_from_its_own(
    conn: _Conn, performer: Performer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(subject: str, body: bytes) -> None:
        if subject.endswith(".a.task"):
            raise errors.PayloadTooLarge
        conn.said.append((subject.removeprefix("coord.push.t."), msgspec.json.decode(body)))

    monkeypatch.setattr(conn, "publish", publish)
    performer.perform(_push("a", 1))
    performer.perform(_push("b", 2))
    conn.turn()
    assert conn.said == [("b.task", 2)]
