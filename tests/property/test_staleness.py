"""The age that is claimed of a replica is never below its true one, and small where it has everything."""

from __future__ import annotations

from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from coord.core.staleness import SAMPLES_MAX, Staleness

_WHAT = ["commit", "replay", "ask", "answer", "wait", "restart"]
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["commit", "replay", "ask", "answer", "wait", "restart"]),
        st.integers(1, 50),
        st.floats(0.001, 3.0),
    ),
    max_size=300,
)


@given(_STEPS)
def test_a_claimed_age_is_never_below_the_true_one(steps: list[tuple[str, int, float]]) -> None:
    now, position, replayed = 0.0, 0, 0
    commits: list[tuple[int, float]] = [(0, 0.0)]  # position, when it was made durable
    staleness = Staleness()
    for what, amount, seconds in steps:
        now += seconds
        if what == "commit":
            position += amount
            commits.append((position, now))
        elif what == "replay":
            replayed = min(position, replayed + amount)
        elif what == "ask":
            staleness.primary(now - seconds / 2, _position_at(commits, now))
        elif what == "answer":
            staleness.replica(replayed)
        elif what == "restart":  # with its connections; whoever connects again looks first
            replayed = max(0, replayed - amount)
            staleness.replica(replayed)
        claimed = staleness.age_s(now)
        if claimed is not None:
            missing = next((at for place, at in commits if place > replayed), now)
            assert claimed >= now - missing, "the oldest commit that it lacks is older than is claimed"


@given(st.integers(1, 4 * SAMPLES_MAX), st.integers(0, 1_000))
def test_a_replica_that_has_everything_is_as_old_as_the_last_question(questions: int, position: int) -> None:
    staleness = Staleness(lead_s=0.6)
    for n in range(questions):
        staleness.primary(float(n), position)
        staleness.replica(position)
    assert staleness.age_s(questions + 1.0) == 2.0 + 0.6


def test_one_that_is_cut_off_grows_older_and_another_primary_begins_anew() -> None:
    staleness = Staleness()
    assert staleness.age_s(0.0) is None
    staleness.primary(1.0, 100)
    staleness.replica(99)
    assert staleness.age_s(1.0) is None
    staleness.replica(100)
    for n in range(2, 500):
        staleness.primary(float(n), 100 + n)
        staleness.replica(100)
        assert staleness.age_s(n + 0.5) == n - 0.5
    staleness.replica(10_000)
    assert staleness.age_s(499.5) == 0.5
    staleness.primary(500.0, 50)
    assert staleness.age_s(500.0) is None


def test_a_replica_that_shows_less_than_it_did_is_not_believed_to_show_it() -> None:
    staleness = Staleness()
    staleness.primary(1.0, 100)
    assert staleness.replica(120)
    assert staleness.age_s(1.0) == 0.0
    assert not staleness.replica(90)
    assert staleness.age_s(1.0) is None
    assert staleness.replica(100)
    assert staleness.age_s(2.0) == 1.0


def _position_at(commits: list[tuple[int, float]], now: float) -> int:
    return commits[bisect_right([at for _, at in commits], now) - 1][0]
