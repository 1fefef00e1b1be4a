"""When partitions are read together: a table of cases, and what holds whatever happens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coord.core.gathering import Gathering, Place, Policy, Word

POLICY = Policy(enough=3, near_max=100, patience_s=0.25, pause_s=5.0, pause_max_s=60.0)


def places(*positions: int | None, gathered: tuple[int, ...] = ()) -> list[Place]:
    return [Place(at, gathered=slot in gathered) for slot, at in enumerate(positions)]


def lone() -> Gathering:
    gathering = Gathering(POLICY)
    gathering.alone(True, 0.0)
    return gathering


def test_all_that_read_near_each_other_are_gathered_at_once() -> None:
    assert lone().judge(places(10, 20, 30, 110), 0.0) == frozenset({0, 1, 2, 3})


def test_nobody_is_gathered_beside_another_process() -> None:
    gathering = Gathering(POLICY)
    assert gathering.judge(places(1, 1, 1, 1), 0.0) is Word.STAY
    gathering.alone(False, 0.0)
    assert gathering.judge(places(1, 1, 1, 1), 9.0) is Word.STAY


def test_the_last_ones_are_waited_for_a_moment() -> None:
    gathering = lone()
    assert gathering.judge(places(1, 1, 1, None), 1.0) is Word.STAY
    assert gathering.due_in(1.1) == 1.25 - 1.1
    assert gathering.judge(places(1, 1, 1, None), 1.25) == frozenset({0, 1, 2})


def test_one_that_is_far_behind_reads_by_itself_until_it_is_near() -> None:
    gathering = lone()
    gathering.judge(places(5, 500, 500, 500), 0.0)
    assert gathering.judge(places(5, 500, 500, 500), 0.3) == frozenset({1, 2, 3})
    gathering.gathered(0.3)
    assert gathering.judge(places(5, 500, 500, 500, gathered=(1, 2, 3)), 20.0) is Word.STAY
    assert gathering.judge(places(450, 500, 500, 500, gathered=(1, 2, 3)), 20.0) == frozenset({0, 1, 2, 3})


def test_too_few_or_company_part_them() -> None:
    gathering = lone()
    assert gathering.judge(places(1, 1, None, None, gathered=(0, 1)), 0.0) is Word.PART
    gathering.alone(False, 1.0)
    assert gathering.judge(places(1, 1, 1, 1, gathered=(0, 1, 2, 3)), 1.0) is Word.PART
    gathering.alone(True, 2.0)
    assert gathering.judge(places(1, 1, 1, 1), 2.0) is Word.STAY, "who came and went may come again"
    assert gathering.judge(places(1, 1, 1, 1), 6.0) == frozenset({0, 1, 2, 3})


def test_trouble_is_tried_less_and_less_often() -> None:
    gathering, now, waits = lone(), 0.0, []
    for _ in range(6):
        gathering.gathered(now)
        gathering.troubled(now)
        wait = gathering.due_in(now)
        assert wait is not None
        assert gathering.judge(places(1, 1, 1, 1), now + wait - 0.001) is Word.STAY
        waits.append(wait)
        now += wait
    assert waits == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    gathering.gathered(now)
    gathering.troubled(now + 61)
    assert gathering.due_in(now + 61) == 5.0, "after a quiet time it begins anew"


events = st.one_of(
    st.tuples(st.just("alone"), st.booleans()),
    st.tuples(st.just("move"), st.integers(0, 3), st.none() | st.integers(0, 300)),
    st.tuples(st.just("leave"), st.integers(0, 3)),
    st.tuples(st.just("trouble"), st.none()),
)


@given(st.lists(st.tuples(st.floats(0, 3), events), max_size=60))
def test_whatever_happens_they_are_together_only_alone_enough_and_near(history) -> None:
    """And never wait for nothing: what `due_in` names as the next moment is one at which it may say more."""
    gathering, now, alone = Gathering(POLICY), 0.0, False
    at: list[int | None] = [0, 0, 0, 0]
    together: frozenset[int] = frozenset()
    parted_at = float("-inf")
    for wait, event in history:
        now += wait
        if event[0] == "alone":
            alone = event[1]
            gathering.alone(alone, now)
        elif event[0] == "move":
            at[event[1]] = event[2]
            together -= {event[1]} if event[2] is None else frozenset()
        elif event[0] == "leave":
            if event[1] in together:
                together -= {event[1]}
                gathering.troubled(now)
                parted_at = now
        elif together:
            together = frozenset()
            gathering.troubled(now)
            parted_at = now
        seen = [Place(p, gathered=slot in together) for slot, p in enumerate(at)]
        word = gathering.judge(seen, now)
        if word is Word.PART:
            assert together
            assert not alone or len(together) < POLICY.enough
            together = frozenset()
        elif isinstance(word, frozenset):
            assert alone
            assert len(word) >= POLICY.enough
            assert not word <= together
            assert now - parted_at >= POLICY.pause_s
            positions = [p for slot, p in enumerate(at) if slot in word]
            assert None not in positions
            assert max(p for p in at if p is not None) - min(p for p in positions if p is not None) <= POLICY.near_max
            together = word
            gathering.gathered(now)
        else:
            due = gathering.due_in(now)
            assert due is None or due >= 0
            assert not together or (alone and len(together) >= POLICY.enough)
