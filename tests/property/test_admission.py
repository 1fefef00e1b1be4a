"""Who is let in: by what the board says, and by what entered since."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.core.admission import ENTER, Board, Door, FailFast, Wait
from coord.core.capability import CapabilityState, _Window
from coord.core.watch import Fare

PROBES = limits.CAPABILITY_PROBES


def let_in(door: Door, now: float, asked: int = 100) -> int:
    """How many of so many enter."""
    entered = 0
    for _ in range(asked):
        verdict = door.ask(now)
        if verdict is ENTER:
            door.entered()
            entered += 1
    return entered


def test_a_circuit_that_probes_lets_a_few_in_and_the_others_fail_fast() -> None:
    door = Door()
    probing = Board(circuit="probing", retry_after_s=1.0)
    door.hear(Board(circuit="open", retry_after_s=10.0), 0.0)
    assert let_in(door, 1.0) == 0
    door.hear(probing, 10.0)
    assert let_in(door, 10.0) == PROBES
    assert door.ask(10.5, urgent=True) == FailFast(1.0)
    door.hear(Board(circuit="probing", depth=1, running=PROBES - 1), 11.0)
    assert let_in(door, 11.0) == 0, "as many are on their way"
    door.hear(probing, 12.0)
    assert let_in(door, 12.0) == PROBES, "they ended"
    door.hear(Board(), 13.0)
    assert let_in(door, 13.0) == 100, "closed"


def test_what_takes_long_does_not_hold_a_probe_up_for_ever() -> None:
    door = Door()
    entered = []
    for second in range(3 * int(limits.CAPABILITY_OPEN_S) + 2):
        door.hear(Board(circuit="probing", depth=500), float(second))
        if let_in(door, second + 0.5):
            entered.append(second)
    assert len(entered) == 2, entered


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["closed", "open", "probing"]), st.integers(0, 6), st.integers(0, 6),
            st.integers(0, 20), st.floats(0.01, 4.0), st.sampled_from([None, 2, 50]),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_no_board_lets_in_more_than_it_may(
    heard: list[tuple[str, int, int, int, float, int | None]],
) -> None:
    door, now = Door(), 0.0
    for circuit, depth, running, asked, later, bound in heard:
        board = Board(circuit=circuit, depth=depth, running=running, retry_after_s=60.0, bound=bound)  # type: ignore[arg-type]
        door.hear(board, now)
        entered = let_in(door, now, asked)
        if circuit == "open":
            assert entered == 0
        elif circuit == "probing":
            assert entered <= (PROBES if depth + running < PROBES else 1)
            assert not asked or entered or depth + running >= min(PROBES, bound or PROBES)
            assert not isinstance(door.ask(now, urgent=True), Wait)
        else:
            assert entered == min(asked, asked if bound is None else max(0, bound - depth))
        now += later


@pytest.mark.parametrize("seed", range(8))
def test_submitters_whom_nobody_coordinates_let_few_in_while_it_probes_and_it_closes_in_the_end(seed: int) -> None:
    """Closed, open, probing, open again, closed: boards come once a second, late, and are lost at times."""
    rng = random.Random(seed)
    doors, state, window = [Door() for _ in range(3)], CapabilityState("acme", "ill"), _Window((0, 0))
    ends: list[float] = []
    done = failed = 0
    ill_until, slow_s = rng.uniform(20.0, 60.0), rng.choice([0.2, 3.0])
    seen: set[str] = set()
    for tick in range(4 * 300):
        now = tick / 4
        over = [end for end in ends if end <= now]
        ends = [end for end in ends if end > now]
        done, failed = (done, failed + len(over)) if now < ill_until else (done + len(over), failed)
        window.take(Fare(completed=done, failed=failed), now)
        if event := state.decide(window, now):
            assert state.apply(event, state.n + (event == "opened"), now)
            window.clear()
            seen.add(state.circuit)
        if tick % 4 == 0:
            wait_s = max(1.0, state.since + state.open_s - now) if state.circuit == "open" else 1.0
            board = Board(running=len(ends), circuit=state.circuit, retry_after_s=wait_s)
            for door in doors:
                if rng.random() < 0.9:
                    door.hear(board, now)
        told = now - state.since > limits.BOARD_STALE_S  # all have heard that it is open
        for door in doors:
            entered = let_in(door, now, rng.randrange(8))
            assert not (told and state.circuit == "open" and entered), f"seed {seed} at {now}"
            ends += [now + slow_s * rng.random() for _ in range(entered)]
        if state.circuit == "probing":
            assert len(ends) < PROBES + PROBES * len(doors), f"seed {seed} at {now}: {len(ends)} are under way"
    assert seen == {"closed", "open", "probing"}
    assert (state.circuit, state.n > 1 or ill_until < 40.0) == ("closed", True), f"seed {seed}"
