"""Which replica should own which partition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coord.core import assignment

members = st.sets(st.text("abcdef0123456789", min_size=1, max_size=6), min_size=1, max_size=12)


@given(members, st.integers(1, 64))
def test_every_slot_has_exactly_one_owner_and_shares_are_even(names: set[str], slots: int) -> None:
    shares = {m: assignment.slots_of(m, names, slots) for m in names}
    assert sorted(s for share in shares.values() for s in share) == list(range(slots))
    assert all(assignment.owner(s, names) == m for m, share in shares.items() for s in share)
    sizes = [len(share) for share in shares.values()]
    assert max(sizes) - min(sizes) <= 1


def test_a_stranger_owns_nothing() -> None:
    assert assignment.slots_of("x", {"a", "b"}, 16) == frozenset()
    assert assignment.owner(3, []) is None


def test_alive_is_within_the_deadline() -> None:
    assert assignment.alive({"a": 10.0, "b": 8.0, "c": 7.9}, 10.0, 2.0) == {"a", "b"}


@given(st.integers(0, 99))
def test_what_a_replica_says_tells_its_folds(folds: int) -> None:
    assert assignment.folds_of(assignment.here(folds)) == folds


def test_who_says_no_number_has_the_oldest_folds() -> None:
    """As releases before the number do; what is no number is none."""
    assert assignment.here(0) == b"here"
    assert [assignment.folds_of(word) for word in (b"here", b"here x", b"", b"here " + b"9" * 99)] == [0, 0, 0, 0]
    assert assignment.older({"a": 0, "b": 1, "c": 2}, 1) == {"a"}
