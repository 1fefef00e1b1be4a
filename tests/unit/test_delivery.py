"""The order in which a partition's deliveries may be believed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coord.core.delivery import DeliveryOrder, Verdict


def test_next_in_line_is_accepted() -> None:
    order = DeliveryOrder(10)
    assert [order.judge(1, 11), order.judge(2, 40), order.judge(3, 41)] == [Verdict.ACCEPT] * 3
    assert order.position == 41


def test_a_redelivery_is_a_duplicate_and_moves_nothing() -> None:
    order = DeliveryOrder(0)
    order.judge(1, 5)
    assert order.judge(2, 5) is Verdict.DUPLICATE
    assert order.position == 5
    assert order.judge(3, 6) is Verdict.ACCEPT


def test_a_lost_delivery_breaks_the_session_for_good() -> None:
    order = DeliveryOrder(0)
    order.judge(1, 5)
    assert order.judge(3, 9) is Verdict.GAP
    assert order.judge(2, 7) is Verdict.GAP
    assert order.judge(4, 10) is Verdict.GAP
    assert order.position == 5


def test_a_session_must_begin_with_consumer_sequence_one() -> None:
    assert DeliveryOrder(0).judge(2, 1) is Verdict.GAP


@given(
    lost=st.sets(st.integers(0, 49), max_size=5),
    again=st.lists(st.integers(0, 49), max_size=10),
    gaps=st.lists(st.integers(1, 5), min_size=50, max_size=50),
)
def test_accepted_is_always_a_prefix_of_what_was_sent(lost: set[int], again: list[int], gaps: list[int]) -> None:
    """Whatever is lost or redelivered: no message is accepted while an earlier one is missing."""
    stream, at = [], 0
    for gap in gaps:
        at += gap
        stream.append(at)
    # The server sends each in turn, some again later; every send takes a consumer sequence.
    sends = sorted([(i, 0, i) for i in range(50)] + [(i + 3, 1, i) for i in again])
    order, accepted = DeliveryOrder(0), []
    for consumer_seq, (_, _, index) in enumerate(sends, start=1):
        if consumer_seq - 1 in lost:
            continue
        if order.judge(consumer_seq, stream[index]) is Verdict.ACCEPT:
            accepted.append(stream[index])
    assert accepted == stream[: len(accepted)]
    if not lost:
        assert accepted == stream


def test_what_is_asked_for_again_is_a_duplicate_and_no_more_than_that() -> None:
    order = DeliveryOrder(10, behind=5)
    assert [order.judge(1, 6), order.judge(2, 10), order.judge(3, 11)] == [Verdict.DUPLICATE] * 2 + [Verdict.ACCEPT]
    assert DeliveryOrder(10, behind=5).judge(1, 5) is Verdict.GAP


def test_a_session_that_begins_below_its_start_was_reset_by_somebody_else() -> None:
    order = DeliveryOrder(10)
    assert order.judge(1, 10) is Verdict.GAP
    assert order.judge(2, 11) is Verdict.GAP
    assert order.position == 10
