"""Seats at the queues: few wait however many are idle, all of them are woken for a burst, each has its turn."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coord import limits
from coord.core.seats import TRANSITIONS, Event, Seat, State

SEATS = 16

some = settings(max_examples=15, deadline=None)
"""Each example is a fleet that lives for minutes."""


@pytest.fixture(autouse=True, scope="module")
def seats() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "QUEUE_SEATS", SEATS)
        yield


class _Fleet:
    """Idle workers of one capability, and a broker that knows who waits and who can be woken."""

    def __init__(self, count: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.workers: list[Seat] = []
        self.served: Counter[int] = Counter()
        for _ in range(count):
            self.join()

    def join(self) -> None:
        seat = Seat()
        self.workers.append(seat)
        seat.looked(self.waiting, self.now, self.rng.random())

    @property
    def waiting(self) -> int:
        return sum(seat.state == "seated" for seat in self.workers)

    @property
    def standing(self) -> list[Seat]:
        return [seat for seat in self.workers if seat.state == "standing"]

    def offer(self, what: str) -> bool:
        """Wake somebody; False: nobody stands by."""
        able = self.standing
        return bool(able) and self.rng.choice(able).woken(what)

    def idle(self, seat: Seat) -> None:
        """It has nothing to do."""
        if seat.had_its_share and seat.pass_on() and not self.offer("seat"):
            seat.refused(nobody=True)
        if seat.state == "new":
            seat.looked(self.waiting, self.now, self.rng.random())
        elif seat.state == "awake":
            seat.rest(self.now, self.rng.random())

    def pass_time(self, seconds: float) -> None:
        """Everybody looks when it is time to, in any order."""
        until = self.now + seconds
        while (soonest := min(self.workers, key=lambda seat: seat.look_at)).look_at <= until:
            self.now = max(self.now, soonest.look_at)
            soonest.looked(self.waiting, self.now, self.rng.random())
            self.idle(soonest)
        self.now = until

    def take_short_task(self) -> bool:
        """Whoever waits for longest takes a task and is back at once."""
        for n, seat in enumerate(self.workers):
            if seat.state == "seated":
                self.workers.append(self.workers.pop(n))
                self.served[id(seat)] += 1
                seat.delivered(0)
                self.idle(seat)
                return True
        return False

    def burst(self, tasks: int) -> int:
        """So many long tasks at once, to begin with for those on seats; rounds until nobody was given one any more."""
        at_work: set[int] = set()
        rounds = 0
        able = [seat for seat in self.workers if seat.state == "seated"]
        while able and tasks:
            rounds += 1
            for seat in able[:tasks]:
                at_work.add(id(seat))
                tasks -= 1
                for _ in range(seat.delivered(tasks)):
                    self.offer("work")
                if seat.leaves and seat.pass_on() and not self.offer("seat"):
                    seat.refused(nobody=True)
            able = [
                seat for seat in self.workers if seat.state in ("seated", "awake", "new") and id(seat) not in at_work
            ]
        self.at_work = at_work
        return rounds


@some
@given(st.integers(1, 4 * SEATS), st.integers(0, 2**32))
def test_few_wait_and_never_nobody_however_many_begin_in_turn(count: int, seed: int) -> None:
    fleet = _Fleet(count, seed)
    assert min(count, SEATS) <= fleet.waiting <= 2 * SEATS
    fleet.pass_time(limits.STANDBY_LOOK_S)
    assert min(count, SEATS // 2) <= fleet.waiting <= 2 * SEATS
    assert fleet.waiting + len(fleet.standing) == count


@some
@given(st.integers(1, 4 * SEATS), st.integers(0, 2**32))
def test_those_who_begin_in_one_moment_find_out(count: int, seed: int) -> None:
    """All are told of the others at once, and that nobody waits yet."""
    fleet = _Fleet(0, seed)
    fleet.workers = [Seat() for _ in range(count)]
    for seat in fleet.workers:
        seat.looked(0, 0.0, fleet.rng.random())
    fleet.pass_time(2 * limits.SEAT_LOOK_S)
    assert min(count, SEATS // 2) <= fleet.waiting <= 2 * SEATS


@some
@given(st.integers(1, 4 * SEATS), st.integers(0, 2**32))
def test_a_burst_is_everybodys_within_a_few_steps(count: int, seed: int) -> None:
    fleet = _Fleet(count, seed)
    rounds = fleet.burst(count)
    assert len(fleet.at_work) >= min(count, count - SEATS), "what is left is no more than those who are back take"
    assert rounds <= 12


@some
@given(st.integers(1, 4 * SEATS), st.integers(0, 2**32))
def test_when_all_who_waited_are_gone_the_service_has_somebody_look(count: int, seed: int) -> None:
    fleet = _Fleet(count, seed)
    fleet.workers = fleet.standing
    if fleet.workers:
        assert fleet.offer("work")
        seeker = next(seat for seat in fleet.workers if seat.state == "new")
        assert seeker.delivered(0) == 0
        fleet.idle(seeker)
        assert _state(seeker) == "seated"
        assert fleet.take_short_task()


@some
@given(st.integers(1, 2 * SEATS), st.integers(0, 2**32))
def test_short_tasks_are_everybodys(count: int, seed: int) -> None:
    fleet = _Fleet(count, seed)
    for _ in range(4 * count * limits.SEAT_TASKS):
        assert fleet.take_short_task(), "somebody always waits"
    assert fleet.waiting >= min(count, SEATS // 2)
    if count <= SEATS:
        assert max(fleet.served.values()) - min(fleet.served[id(s)] for s in fleet.workers) <= limits.SEAT_TASKS
    else:  # drawn by lots: as likely as all others
        had = sum(fleet.served[id(seat)] > 0 for seat in fleet.workers)
        assert had >= count / 2


def test_nobody_is_woken_twice_where_nobody_stands_by_and_a_refused_seat_is_kept() -> None:
    seat = Seat()
    assert seat.looked(3, 0.0, 0.5)
    assert seat.delivered(1_000) == limits.WAKES_A_SEAT
    assert seat.delivered(SEATS) == 1, "its part of what is needed"
    assert seat.delivered(SEATS // 2) == 0, "those on seats are about to be given as much"
    assert not _leaves(seat), "there are few"
    for _ in range(limits.SEAT_TASKS):
        seat.delivered(0)
    assert not seat.had_its_share
    seat.looked(SEATS, 30.0, 0.5)
    assert _had_its_share(seat)
    assert seat.pass_on()
    assert seat.delivered(1_000) == limits.WAKES_A_DELIVERY
    assert seat.refused(nobody=True)
    assert _state(seat) == "seated"
    assert seat.delivered(1_000) == 0, "nobody is there to be woken"
    assert _leaves(seat), "but where there are many, somebody may stand by soon"


def _had_its_share(seat: Seat) -> bool:
    return seat.had_its_share


def _leaves(seat: Seat) -> bool:
    return seat.leaves


def test_whoever_cannot_be_told_or_woken_waits_as_if_it_were_alone() -> None:
    seat = Seat()
    assert seat.unanswered(0.0, 0.5)
    assert _state(seat) == "seated"
    standing = Seat()
    standing.looked(2 * SEATS, 0.0, 0.5)
    assert not standing.unanswered(0.0, 0.5), "it stands by, and may be woken"
    assert _state(standing) == "standing"
    assert standing.alone()
    assert _state(standing) == "seated"


def _state(seat: Seat) -> str:
    return seat.state


@pytest.mark.parametrize(("before", "event"), [(b, e) for b in ("new", "seated", "awake", "standing") for e in (
    "room", "full", "crowd", "alone", "passed", "refused", "idle", "seat", "work")])  # fmt: skip
def test_every_transition_is_the_tables_and_no_other(before: State, event: Event) -> None:
    after = TRANSITIONS.get((before, event), before)
    seat = Seat()
    seat.state = before
    steps: dict[str, Callable[[], bool]] = {
        "room": lambda: seat.looked(0, 0.0, 0.5), "full": lambda: seat.looked(2 * SEATS + 1, 0.0, 0.5),
        "crowd": lambda: seat.looked(2 * SEATS + 1, 0.0, 0.5), "alone": seat.alone, "passed": seat.pass_on,
        "refused": lambda: seat.refused(nobody=False), "idle": lambda: seat.rest(0.0, 0.5),
        "seat": lambda: seat.woken("seat"), "work": lambda: seat.woken("work"),
    }  # fmt: skip
    if (event, before) in {("full", "seated"), ("crowd", "new")}:
        return  # the same answer is the other event there
    assert steps[event]() == (after != before)
    assert seat.state == after
    assert not seat.woken("something else")
