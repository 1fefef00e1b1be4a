"""The subscription machine, case by case; tests/property/test_subscription_model.py does all the others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coord import errors
from coord.core.subscription import Bounds, Entry, Page, Position, Read, Reason, Start, SubscriptionMachine

Machine = SubscriptionMachine[list[str | None], str]


def machine(start: Start = "new", *, created: str | None = None, **bounds: Any) -> tuple[Machine, list[Reason]]:
    reasons: list[Reason] = []
    made: Machine = SubscriptionMachine(
        start,
        expand=lambda entries: entries,
        jitter=lambda: 0.0,
        bounds=Bounds(**bounds),
        created=created,
        on_catch_up=reasons.append,
    )
    return made, reasons


def page(
    *entries: tuple[int, int], then: int, last: int, first: int = 1, index: int = 0, created: str = "c"
) -> Page[str]:
    found = [Entry(seq, i, 10, f"{seq}/{i}") for seq, i in entries]
    return Page(found, Position(then, index), first, last, created)


def hear(m: Machine, seq: int, *entries: str | None, before: int = 0, now: float = 0.0) -> None:
    m.receive(seq, before, 10, list(entries) or [f"{seq}/0"], now)


def drain(m: Machine) -> list[str]:
    got = []
    while (value := m.take()) is not None:
        m.finish()
        got.append(value)
    return got


def joined(then: int = 1, **bounds: Any) -> tuple[Machine, list[Reason]]:
    m, reasons = machine(**bounds)
    read = m.want(0)
    assert read == Read("new", 0, audit=False)
    m.page(read, page(then=then, last=then - 1), 0)
    assert m.live
    return m, reasons


def test_new_starts_behind_the_end_that_was_measured() -> None:
    m, _ = machine()
    read = m.want(0)
    assert read is not None
    hear(m, 4)  # stored before the end was measured, heard before the answer
    hear(m, 6)
    m.page(read, page(then=6, last=5), 0)
    assert drain(m) == ["6/0"]
    assert m.done == Position(7)


def test_nothing_is_asked_twice_at_a_time() -> None:
    m, _ = machine(Position(1))
    assert m.want(0) is not None
    assert m.want(0) is None


def test_pages_follow_the_consumer() -> None:
    m, _ = machine(Position(1), resume_below=2)
    read = m.want(0)
    assert read is not None
    m.page(read, page(*[(n, 0) for n in range(1, 6)], then=6, last=100), 0)
    assert m.want(0) is None  # enough waits
    for _ in range(3):
        m.take()
    read = m.want(0)
    assert read is not None
    assert read.start == Position(6)


def test_a_page_asked_for_before_a_reconnect_does_not_join() -> None:
    m, _ = joined()
    m.disconnected()
    assert m.want(0) is None
    m.connected()
    read = m.want(0)
    assert read is not None
    m.disconnected()
    m.connected()
    m.page(read, page(then=3, last=2), 0)
    assert not m.live
    read = m.want(0)
    assert read is not None
    assert read.start == Position(3)
    m.page(read, page(then=3, last=2), 0)
    assert m.live


def test_a_position_in_a_frame_is_resumed_in_it() -> None:
    m, _ = machine(Position(7, 2))
    read = m.want(0)
    assert read is not None
    assert read.start == Position(7, 2)
    m.page(read, page((7, 2), (7, 3), then=8, last=7), 0)
    assert m.take() == "7/2"
    assert m.done == Position(7, 2)  # not finished
    m.finish()
    assert m.done == Position(7, 3)
    assert m.take() == "7/3"
    m.finish()
    assert m.done == Position(8)


def test_a_page_that_ends_in_a_frame_goes_on_in_it() -> None:
    m, _ = machine(Position(7))
    read = m.want(0)
    assert read is not None
    m.page(read, page((7, 0), (7, 1), then=7, index=2, last=7), 0)
    assert not m.live
    assert drain(m) == ["7/0", "7/1"]
    assert m.done == Position(7, 2)


def test_poison_is_counted_and_passed_over() -> None:
    m, _ = joined()
    hear(m, 1, None)
    hear(m, 2, "a", None, "b", None)
    assert m.take() == "a"
    m.finish()
    assert m.done == Position(2, 1)
    assert m.take() == "b"
    assert m.take() is None
    m.finish()
    assert (m.done, m.stats.poison) == (Position(3), 3)


def test_a_gap_within_one_subject_is_seen_at_once() -> None:
    m, reasons = joined(then=10)
    hear(m, 12, before=11)
    assert not m.live
    assert m.take() is None
    assert reasons == ["start", "subject"]
    read = m.want(0)
    assert read is not None
    m.page(read, page((11, 0), then=12, last=11), 0)
    assert drain(m) == ["11/0", "12/0"]
    assert m.live


def test_an_overflow_keeps_what_is_in_order_and_gives_up_the_newest() -> None:
    m, reasons = joined(messages_max=3, resume_below=1)
    for seq in range(1, 6):
        hear(m, seq)
    assert reasons == ["start", "overflow"]
    assert m.want(0) is None  # three still wait
    assert drain(m) == ["1/0", "2/0", "3/0"]
    hear(m, 6)
    read = m.want(0)
    assert read is not None
    m.page(read, page((4, 0), (5, 0), then=6, last=5), 0)
    assert drain(m) == ["4/0", "5/0", "6/0"]


def test_audits_come_rarer_while_nothing_does() -> None:
    m, _ = joined(audit_s=5.0, audit_max_s=30.0)
    now, waits = 0.0, []
    for _ in range(5):
        assert m.audit_at is not None
        waits.append(m.audit_at - now)
        now = m.audit_at
        read = m.want(now)
        assert read is not None
        assert read.audit
        m.page(read, page(then=1, last=0), now)
    assert waits == [5, 10, 20, 30, 30]
    hear(m, 1, now=now)
    assert m.audit_at == now + 5


def test_a_live_message_waits_for_the_audit_and_a_failed_audit_lets_it_go() -> None:
    m, _ = joined()
    read = m.want(100)
    assert read is not None
    assert read.audit
    hear(m, 1)
    assert m.take() is None
    m.read_failed(read, 101)
    assert m.live
    assert drain(m) == ["1/0"]


def test_an_audit_that_finds_something_goes_on_from_the_log() -> None:
    m, reasons = joined()
    read = m.want(100)
    assert read is not None
    hear(m, 2)
    m.page(read, page((1, 0), (2, 0), then=3, last=2), 100)
    assert drain(m) == ["1/0", "2/0"]
    assert m.live
    assert (reasons, m.stats.audits_found, m.stats.repeats) == (["start", "audit"], 1, 1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (page(then=5, last=10, first=4), errors.LogTrimmed),
        (page(then=5, last=1), errors.LogReplaced),
        (page(then=5, last=10, created="another"), errors.LogReplaced),
    ],
)
def test_a_position_that_is_gone_is_an_error_until_seek(answer: Page[str], expected: type[errors.CoordError]) -> None:
    m, _ = machine(Position(3), created="c")
    read = m.want(0)
    assert read is not None
    m.page(read, answer, 0)
    assert m.want(0) is None
    for _ in range(2):
        assert type(m.acknowledge()) is expected
    m.seek(Position(8))
    assert m.acknowledge() is None
    read = m.want(0)
    assert read is not None
    m.page(read, page((9, 0), then=10, last=9, first=4, created="another"), 0)
    assert drain(m) == ["9/0"]


def by(leader: str, answer: Page[str]) -> Page[str]:
    return msgspec.structs.replace(answer, leader=leader)


def replicated() -> Machine:
    m, _ = machine()
    read = m.want(0)
    assert read is not None
    m.page(read, by("n1", page(then=1, last=0)), 0)
    return m


def test_a_busy_subscription_to_a_replicated_log_is_audited() -> None:
    m = replicated()
    for seq in range(1, 50):
        hear(m, seq, now=seq / 10)
    assert m.audit_at == 5
    assert m.done == Position(1)  # nothing is verified yet
    assert len(drain(m)) == 49
    read = m.want(5)
    assert read is not None
    m.page(read, by("n1", page(then=50, last=49)), 5)
    assert m.done == Position(50)


def test_what_a_dead_leader_did_not_republish_comes_late_and_once() -> None:
    m = replicated()
    for seq in (1, 2, 5):
        hear(m, seq)
    assert drain(m) == ["1/0", "2/0", "5/0"]
    read = m.want(5)
    assert read is not None
    hear(m, 7)
    m.page(read, by("n2", page((6, 0), then=7, last=6)), 5)
    read = m.want(5)
    assert read is not None
    assert read.start == Position(1)
    hear(m, 8)
    m.page(read, by("n2", page((1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), then=8, last=7)), 5)
    assert m.live
    assert m.done == Position(1)
    assert drain(m) == ["6/0", "3/0", "4/0", "7/0", "8/0"]
    assert m.stats.late == 2
    read = m.want(20)
    assert read is not None
    m.page(read, by("n2", page(then=9, last=8)), 20)
    m.finish()
    assert m.done == Position(9)


def test_a_new_leader_after_everything_was_verified_costs_nothing() -> None:
    m = replicated()
    read = m.want(5)
    assert read is not None
    m.page(read, by("n2", page(then=4, last=3)), 5)
    assert m.live
    assert m.done == Position(4)


def test_what_is_remembered_is_bounded() -> None:
    m, _ = machine(recent_max=3)
    read = m.want(0)
    assert read is not None
    m.page(read, by("n1", page(then=1, last=0)), 0)
    for seq in range(1, 9):
        hear(m, seq)
        drain(m)
    assert m.done == Position(6)  # below that, nothing can be compared any more


def test_closing_verifies_what_was_live() -> None:
    m = replicated()
    hear(m, 1)
    drain(m)
    assert m.want(0) is None
    read = m.last_look(0)
    assert read is not None
    m.page(read, by("n1", page(then=2, last=1)), 0)
    assert m.done == Position(2)
    assert m.last_look(0) is None


def test_what_was_received_comes_before_the_error() -> None:
    m, _ = joined(then=5)
    hear(m, 5)
    m.disconnected()
    m.connected()
    read = m.want(0)
    assert read is not None
    m.refused(read, errors.LogTrimmed(wanted=6, first_seq=9))
    assert m.take() == "5/0"
    assert m.take() is None
    assert isinstance(m.acknowledge(), errors.LogTrimmed)


def test_an_answer_to_a_question_before_seek_is_ignored() -> None:
    m, _ = machine(Position(1))
    read = m.want(0)
    assert read is not None
    m.seek(Position(50))
    m.page(read, page((1, 0), then=2, last=60), 0)
    assert m.take() is None
    m.seek(Position(70))
    m.refused(read, errors.LogTrimmed(wanted=1, first_seq=9))
    assert m.failure is None


def test_without_a_reader_only_new_facts_can_be_followed() -> None:
    for start in (Position(1), "first"):
        m, _ = machine(start)
        assert not m.join_without_reader(0)
    m, _ = machine("new")
    hear(m, 5)
    assert m.join_without_reader(0)
    assert drain(m) == ["5/0"]
    assert m.done == Position(6)


def test_an_unanchored_subscription_learns_its_position_from_two_audits() -> None:
    m, _ = machine("new")
    assert m.join_without_reader(0)
    for now, last in ((100, 7), (200, 9)):
        read = m.want(now)
        assert read == Read("new", 0, audit=True)
        m.page(read, page(then=last + 1, last=last), now)
    assert m.done == Position(8)  # the first audit's end: whatever lies below has been republished since
    read = m.want(300)
    assert read is not None
    assert read.start == Position(8)


def test_an_unanchored_subscription_that_loses_its_feed_says_so_once() -> None:
    m, _ = machine("new")
    assert m.join_without_reader(0)
    m.disconnected()
    m.connected()
    assert isinstance(m.acknowledge(), errors.ServiceUnavailable)
    assert m.acknowledge() is None
    read = m.want(0)
    assert read is not None
    assert read.start == "new"


def test_disconnecting_and_failing_reads_while_catching_up_change_nothing() -> None:
    m, _ = machine(Position(3))
    for _ in range(3):
        read = m.want(0)
        assert read is not None
        m.read_failed(read, 0)
        m.disconnected()
        assert m.audit_at is None
        m.connected()
    read = m.want(0)
    assert read is not None
    assert read.start == Position(3)
