"""The shares of the priorities: exact while all have work, borrowed when one has none, nobody starves."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.core.sharing import Turns

SHARES = limits.PRIORITY_SHARES
QUEUES = tuple(SHARES)
some_queues = st.sets(st.sampled_from(QUEUES), min_size=1)


def test_while_all_have_work_each_gets_its_share_in_every_round() -> None:
    turns = Turns(SHARES)
    for _ in range(20):
        assert Counter(turns.next(QUEUES) for _ in range(sum(SHARES.values()))) == SHARES


def test_the_order_is_smooth() -> None:
    served = [Turns.next(turns, QUEUES) for turns in [Turns(SHARES)] for _ in range(24)]
    batches = [n for n, queue in enumerate(served) if queue == "batch"]
    normals = [n for n, queue in enumerate(served) if queue == "normal"]
    assert [b - a for a, b in pairwise(batches)] == [12]
    assert max(b - a for a, b in pairwise(normals)) <= 5


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 20), min_size=1), st.data())
def test_any_shares_among_any_that_have_work(shares: dict[str, int], data: st.DataObject) -> None:
    turns = Turns(shares)
    for _ in range(data.draw(st.integers(0, 30))):  # whatever went before
        turns.next(data.draw(st.sets(st.sampled_from(sorted(shares)), min_size=1)))
    among = data.draw(st.sets(st.sampled_from(sorted(shares)), min_size=1))
    total = sum(shares[q] for q in among)
    rounds = 12
    served = Counter(turns.next(among) for _ in range(rounds * total))
    for queue in among:
        # What went before shifts it by at most one bound's worth of turns, however long it lasts.
        assert abs(served[queue] - rounds * shares[queue]) <= 2 * sum(shares.values())
    assert set(served) <= among


@given(st.integers(0, 200), some_queues)
def test_a_plan_gives_every_slot_to_somebody_who_may_have_work(slots: int, among: set[str]) -> None:
    planned = Turns(SHARES).plan(slots, among)
    assert sum(planned.values()) == slots
    assert set(planned) <= among
    assert Turns(SHARES).plan(slots, ()) == {}


@given(st.lists(st.tuples(some_queues, st.booleans()), max_size=200))
def test_credit_stays_bounded_and_nobody_starves(steps: list[tuple[set[str], bool]]) -> None:
    turns = Turns(SHARES)
    bound = sum(SHARES.values())
    for among, has_work in steps:
        queue = turns.next(among)
        assert queue is not None
        if not has_work:
            turns.rested(queue, 1)
        assert all(-2 * bound <= credit <= 2 * bound for credit in turns._credit.values())
    served = [turns.next(QUEUES) for _ in range(6 * bound)]
    assert set(served) == set(QUEUES)


def test_what_a_queue_without_work_leaves_goes_to_the_others_and_is_not_saved_up() -> None:
    turns = Turns(SHARES)
    for _ in range(100):
        if turns.next(QUEUES) == "critical":
            turns.rested("critical", 1)
    served = Counter(turns.next(QUEUES) for _ in range(24))
    assert abs(served["critical"] - 16) <= 1, "critical is back and gets its share, not what it missed"
