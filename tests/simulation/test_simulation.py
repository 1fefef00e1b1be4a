"""Two thousand small runs of everything, and bugs planted to see that they would be found.

A seed that fails is printed; ``coord chaos sim --seed N --seeds 1`` plays it again, step by step the same.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coord.testing.simulation import simulate
from tests.simulation.planted import BUGS

SEEDS = 2_000
PER_TEST = 100
FINDS_WITHIN = 400
"""Seeds; most of the bugs are found by one of the first twenty."""


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_nothing_is_wrong_in_any_run(first: int) -> None:
    failed = [run for run in map(simulate, range(first, first + PER_TEST)) if run.wrongs]
    assert not failed, f"coord chaos sim --seed {failed[0].seed} --seeds 1: {failed[0].wrongs}"


def test_runs_are_no_idle_ones() -> None:
    runs = [simulate(seed) for seed in range(40)]
    assert sum(run.facts for run in runs) > 40 * 30


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_seed_plays_the_same_again(seed: int) -> None:
    assert simulate(seed) == simulate(seed)


@pytest.mark.parametrize("bug", BUGS, ids=[bug.__name__ for bug in BUGS])
def test_a_planted_bug_is_found(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    found = next((run for run in map(simulate, range(FINDS_WITHIN)) if run.wrongs), None)
    assert found is not None, bug.__doc__
    assert simulate(found.seed).wrongs, "it plays again as it failed"
