"""The deadline sweep: who is sent again, who is given up, and when to look next."""

from __future__ import annotations

import random

import pytest

from coord.core import retry
from coord.core.retry import RetryPolicy, Sending
from coord.errors import NoStream, SettingsError, StreamFull

POLICY = RetryPolicy(attempt_s=2.0, attempt_max_s=8.0, deadline_s=30.0, refused_wait_s=5.0, backoff_s=0.1)


def sending(at: float = 0.0) -> Sending:
    item = Sending(deadline_at=at + POLICY.deadline_s)
    retry.sent(item, at, POLICY)
    return item


def test_a_message_is_sent_again_after_its_attempt_and_never_before() -> None:
    item = sending()
    early = retry.sweep([item], 1.999)
    assert (early.resend, early.expired, early.next_at) == ([], [], 2.0)
    assert retry.sweep([item], 2.0).resend == [item]


def test_attempts_wait_longer_and_longer() -> None:
    item = sending()
    waits = []
    for _ in range(5):
        waits.append(item.next_at)
        retry.sent(item, item.next_at, POLICY)
    assert waits == [2.0, 6.0, 14.0, 22.0, 30.0]


def test_an_expired_message_is_given_up_and_not_sent_again() -> None:
    item = sending()
    swept = retry.sweep([item], 30.0)
    assert swept.expired == [item]
    assert swept.resend == []
    assert swept.next_at is None


def test_the_next_look_is_the_earliest_of_all_attempts_and_deadlines() -> None:
    first, second = sending(0.0), sending(1.0)
    first.next_at = 50.0  # an attempt beyond the deadline
    assert retry.sweep([first, second], 2.0).next_at == 3.0
    second.next_at = 60.0
    assert retry.sweep([first, second], 2.0).next_at == 30.0


def test_resends_keep_the_order_of_first_sends() -> None:
    items = [sending(t / 10) for t in range(10)]
    assert retry.sweep(items, 10.0).resend == items


def test_an_absent_stream_is_retried_until_the_deadline() -> None:
    item, rng, now = sending(), random.Random(1), 0.0
    error = NoStream()
    while retry.refused(item, error, now, POLICY, rng, until_deadline=True):
        assert now < item.next_at < item.deadline_at
        now = item.next_at
    assert now > 25.0
    assert item.failure is error


def test_a_full_stream_is_retried_for_a_while() -> None:
    item, rng, now = sending(10.0), random.Random(2), 10.0
    while retry.refused(item, StreamFull(), now, POLICY, rng, until_deadline=False):
        now = item.next_at
    assert 13.0 < now < 15.0


def test_waiting_for_a_full_stream_can_be_switched_off() -> None:
    policy = RetryPolicy(refused_wait_s=0.0)
    assert not retry.refused(sending(), StreamFull(), 0.0, policy, random.Random(3), until_deadline=False)


def test_backoff_doubles_within_its_bounds_and_jitters() -> None:
    rng = random.Random(4)
    for attempt in range(1, 80):
        whole = min(2.0, 0.1 * 2.0 ** (attempt - 1))
        values = {retry.backoff_s(attempt, rng, first_s=0.1, most_s=2.0) for _ in range(50)}
        assert len(values) == 50
        assert all(whole / 2 <= v <= whole for v in values)


@pytest.mark.parametrize(
    "bad",
    [
        {"attempt_s": 0.0},
        {"attempt_s": 9.0, "attempt_max_s": 8.0},
        {"attempt_s": 2.0, "deadline_s": 2.0},
        {"deadline_s": 119.0},
        {"refused_wait_s": 31.0},
        {"backoff_s": 3.0},
    ],
)
def test_policies_that_contradict_themselves_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        RetryPolicy(**bad).validate()


def test_the_default_policy_is_valid() -> None:
    RetryPolicy().validate()
