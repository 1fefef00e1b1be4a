"""What one reader of a process leaves for the other: the same answer, read once, and never another message's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from coord import limits
from coord.bus.puller import Delivery
from coord.wire import headers, usual
from coord.wire.encode import encode_fact
from coord.wire.readings import Readings
from coord.wire.records import Fact
from coord.wire.subjects import FactSubject


def _message(n: int, kind: str = "task", **fields: object) -> tuple[int, str, bytes, bytes]:
    fact = Fact(kind=kind, id=f"t{n}", event="submitted", data={"n": n, **fields}, detail=("c", "normal"))
    encoded = encode_fact(fact, tenant="t", agent="a", event_id=f"e{n}", occurred_at=datetime(2026, 1, 2, tzinfo=UTC))
    place = FactSubject("t", "a", f"t{n}", kind, f"t{n}", "submitted", ("c", "normal"))
    return n, place.stored, headers.encode(encoded.headers), encoded.body


@pytest.mark.parametrize("time", ["2026-01-02T24:00:00Z", "2026-02-29T10:00:00Z", "2026-01-02T23:59:60Z"])
def test_a_time_that_is_none_to_some_pythons_is_usual_to_nobody(time: str) -> None:
    _, subject, block, body = _message(1)
    assert usual.read(subject, block, body) is not None
    assert usual.read(subject, block.replace(b"2026-01-02T00:00:00Z", time.encode()), body) is None


def test_the_second_reader_gets_what_the_first_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    readings, message = Readings(frozenset({"task"})), _message(1)
    first = readings.read(*message)
    assert first == usual.read(*message[1:])
    assert first is not None
    monkeypatch.setattr(usual, "read", lambda *_: pytest.fail("read twice"))
    assert readings.read(*message) is first
    assert (len(readings), readings.taken) == (0, 1)


def test_what_two_are_given_is_read_once_and_left_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def delivery(message: tuple[int, str, bytes, bytes]) -> Delivery:
        seq, subject, block, body = message
        return Delivery(seq, 0, subject, block, body, reading="unread")

    readings, message = Readings(frozenset({"task"})), _message(1)
    usually, oddly = delivery(message), delivery((2, message[1], b"nonsense", b""))
    large = delivery(_message(3, text="x" * limits.READING_BYTES_MAX))
    first = readings.of(usually)
    assert first == usual.read(*message[1:])
    assert readings.of(oddly) is None
    assert readings.of(large) is not None
    assert large.reading == "unread"  # what is large would be held twice
    monkeypatch.setattr(usual, "read", lambda *_: pytest.fail("read twice"))
    assert readings.of(usually) is first
    assert readings.of(oddly) is None
    assert (len(readings), readings.taken) == (0, 2)


def test_what_one_may_say_another_may_not_say_afterwards() -> None:
    """Who may say what is looked up once: not for everybody."""

    def read(agent: str, key: str, id_: str, event: str, schema: int = 1) -> bool:
        said: dict[str, Any] = {"id": id_, "key": key, "event": event, "schema": schema}
        noon = datetime(2026, 1, 2, tzinfo=UTC)
        encoded = encode_fact(Fact(kind="note", **said), tenant="t", agent="x", event_id="e1", occurred_at=noon)
        block = headers.encode(encoded.headers).replace(b"/t/x\r", b"/t/%b\r" % agent.encode())
        return usual.read(Fact(kind="agent", **said).subject("t", agent).stored, block, encoded.body) is not None

    for _ in range(2):
        assert read("a", "a", "a", "status")
        assert not read("b", "a", "a", "status")
        assert not read("a", "k", "a", "status")
        assert not read("_a", "_a", "_a", "status")
        assert not read("a", "a", "a", "status", schema=99)
        assert not read("a", "a", "a", "nonsense")


def test_other_bytes_at_the_same_sequence_are_read_anew() -> None:
    """A stream made anew counts from one again."""
    seq, subject, block, body = _message(1)
    _, other_subject, other_block, other_body = _message(2)
    for other in (
        (seq, other_subject, other_block, other_body),
        (seq, subject, other_block, body),
        (seq, subject, block, other_body),
        (seq, subject, None, body),
        (seq, subject, block, b"\xff"),
    ):
        readings = Readings(frozenset({"task"}))
        assert readings.read(seq, subject, block, body) is not None
        assert readings.read(*other) == usual.read(*other[1:])
        assert readings.taken == 0


def test_nothing_is_kept_of_what_only_one_reads_of_what_is_large_and_of_nonsense() -> None:
    for kinds, message in (
        ({"workflow"}, _message(1)),
        ({"task"}, _message(2, text="x" * limits.READING_BYTES_MAX)),
    ):
        readings = Readings(kinds)
        assert readings.read(*message) is not None
        assert len(readings) == 0
    readings = Readings({"task"})
    assert readings.read(3, "coord.log.1.t.k.task.i.a.started", b"nonsense", b"") is None
    assert len(readings) == 0


def test_who_reads_alone_lets_the_oldest_fall_out() -> None:
    readings = Readings(frozenset({"task"}))
    for n in range(1, limits.READINGS_MAX + 3):
        readings.read(*_message(n))
    assert len(readings) == limits.READINGS_MAX
    readings.read(*_message(limits.READINGS_MAX))
    readings.read(*_message(1))
    assert readings.taken == 1
