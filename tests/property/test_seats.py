"""Seats at the queues: few wait however many are idle, a burst is everybody's, and whoever dies is made good."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coord import limits
from coord.core.seats import TRANSITIONS, Event, Seat, State, crowded
from coord.core.standers import Queued, Standers

SEATS = 8
PLACE = ("acme", "summarize")

some = settings(max_examples=15, deadline=None)
"""Each example is a fleet that lives for minutes."""
fleets = st.integers(1, 8 * SEATS)
seeds = st.integers(0, 2**32)


@pytest.fixture(autouse=True, scope="module")
def seats() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "QUEUE_SEATS", SEATS)
        patch.setattr(limits, "QUEUE_CROWD", 2 * SEATS)
        yield


class _Fleet:
    """Workers of one slot at one capability, a broker that draws whom a message wakes, and the service."""

    def __init__(self, count: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 1.0
        self.workers = [Seat(self.now, self.rng.random()) for _ in range(count)]
        self.busy: set[int] = set()
        self.pending = 0
        self.again = False
        """What is pending had been claimed before."""
        self.sent = 0
        self.standers = Standers(0.0)

    @property
    def able(self) -> list[Seat]:
        """Those that wait."""
        return [w for w in self.workers if w.state == "seated" and id(w) not in self.busy]

    @property
    def standing(self) -> list[Seat]:
        return [w for w in self.workers if w.state == "standing"]

    def pass_time(self, seconds: float) -> None:
        """Idle ones look when it is time to, in any order."""
        until = self.now + seconds
        idle = [w for w in self.workers if id(w) not in self.busy]
        while idle and (soonest := min(idle, key=lambda w: w.look_at)).look_at <= until:
            self.now = max(self.now, soonest.look_at)
            waiting = len(self.able)
            soonest.looked(waiting, self.now, self.rng.random())
            if soonest.state == "standing":
                self.standers.tell(PLACE, self.now)
        self.now = until

    def work(self) -> None:
        """Whoever waits is given what there is."""
        for worker in self.able[: self.pending]:
            self.busy.add(id(worker))
            self.pending -= 1

    def look(self) -> None:
        """The service's: a message is drawn by one of those who listen at that moment, woken already or not."""
        listening = self.standing
        queued = Queued(len(self.able), 0, self.pending) if self.again else Queued(len(self.able), self.pending)
        agents = {PLACE: len(self.workers)}
        if self.standers.due(agents, {PLACE: self.pending}, self.now):
            sent = self.standers.wakes(PLACE, queued, len(self.workers))
            self.sent += sent
            for _ in range(sent if listening else 0):
                self.rng.choice(listening).woken(self.now, self.rng.random())
        self.work()
        self.now += limits.PRESENCE_TICK_S if self.pending else limits.BOARD_EVERY_S

    def burst(self, tasks: int) -> None:
        self.pending += tasks
        self.work()

    def settled(self) -> bool:
        """Some wait, and the others stand by."""
        count = len(self.workers)
        return min(count, SEATS) <= len(self.able) < 2 * SEATS and len(self.able) + len(self.standing) == count


@some
@given(fleets, seeds)
def test_few_wait_and_never_too_few_though_all_begin_in_one_moment(count: int, seed: int) -> None:
    fleet = _Fleet(count, seed)
    fleet.pass_time(2 * limits.SEAT_LOOK_S)
    assert fleet.settled()
    if count < 2 * SEATS:
        assert not fleet.standing
    fleet.pass_time(4 * limits.STANDBY_LOOK_S)
    fleet.look()
    assert fleet.settled()
    assert not fleet.sent, "nobody is wanted"


@some
@given(fleets, st.integers(1, 10 * SEATS), seeds)
def test_a_burst_is_everybodys_within_a_second_and_afterwards_few_wait(count: int, tasks: int, seed: int) -> None:
    fleet = _Fleet(count, seed)
    fleet.pass_time(2 * limits.SEAT_LOOK_S)
    fleet.burst(tasks)
    for _ in range(4):
        fleet.look()
    assert len(fleet.busy) == min(count, tasks)
    fleet.pending = 0
    fleet.busy.clear()
    fleet.pass_time(2 * limits.SEAT_LOOK_S)
    assert fleet.settled()


@some
@given(seeds)
def test_nine_in_ten_of_a_burst_for_all_are_woken_at_the_first_look(seed: int) -> None:
    fleet = _Fleet(400, seed)
    fleet.pass_time(2 * limits.SEAT_LOOK_S)
    fleet.burst(400)
    fleet.look()
    assert len(fleet.busy) >= 360


@some
@given(st.integers(2 * SEATS, 8 * SEATS), seeds, st.booleans())
def test_when_all_who_waited_are_gone_others_sit_down_or_take_what_waits(count: int, seed: int, waits: bool) -> None:
    fleet = _Fleet(count, seed)
    fleet.pass_time(2 * limits.SEAT_LOOK_S)
    fleet.workers = fleet.standing
    alive = len(fleet.workers)
    fleet.pending = alive if waits else 0
    for _ in range(8):
        fleet.look()
    if waits:
        assert len(fleet.busy) == alive
    else:
        assert len(fleet.able) >= min(alive, SEATS)


@some
@given(st.integers(2 * SEATS, 8 * SEATS), seeds, st.booleans())
def test_whatever_the_account_says_and_after_a_restart_who_stands_by_is_found(
    count: int, seed: int, restarted: bool
) -> None:
    fleet = _Fleet(count, seed)
    fleet.pass_time(2 * limits.SEAT_LOOK_S)
    if restarted:
        fleet.standers = Standers(fleet.now)  # was told nothing yet
    else:
        lost = Queued(0, 10**6)
        for _ in range(3):
            fleet.standers.wakes(PLACE, lost, count)  # nobody heard those
    fleet.burst(count)
    for _ in range(64):
        fleet.look()
    assert len(fleet.busy) == count


@some
@given(st.integers(4 * SEATS, 8 * SEATS), seeds)
def test_tasks_that_are_delivered_again_wake_as_many_as_new_ones(count: int, seed: int) -> None:
    """What a process of hundreds held is no longer pending at the broker, and more than there are seats."""
    fleet = _Fleet(count, seed)
    fleet.pass_time(2 * limits.SEAT_LOOK_S)
    fleet.again = True
    fleet.burst(count - SEATS)
    for _ in range(4):
        fleet.look()
    assert fleet.pending == 0


def test_a_backlog_while_nobody_stands_by_costs_a_few_messages_a_look() -> None:
    standers = Standers(0.0)
    for _ in range(1_000):
        standers.tell(PLACE, 1.0)
    sent = [standers.wakes(PLACE, Queued(0, 10**6), 1_000) for _ in range(1_000)]
    assert sum(sent) <= 10 * 1_000 + SEATS * 1_000
    assert sent[-1] == SEATS
    assert max(sent) <= limits.WAKES_A_LOOK


def test_nothing_is_looked_at_where_nobody_was_told_and_never_too_much() -> None:
    standers = Standers(0.0)
    now = limits.STANDERS_S + 1.0
    assert standers.due({PLACE: 5}, {PLACE: 9}, now) == []
    assert standers.wakes(PLACE, Queued(0, 9), 5) == 0
    standers.tell(PLACE, 0.0)
    assert standers.wakes(PLACE, Queued(SEATS, 9), 5) == 0, "the seats are taken: it is on its way"
    assert standers.due({PLACE: 5}, {PLACE: 9}, now) == []
    standers.tell(PLACE, now)
    assert standers.due({}, {}, now) == [PLACE]
    assert standers.due({}, {}, now) == [], "once a second"
    assert standers.due({}, {PLACE: 1}, now) == [PLACE], "unless work waits"
    assert standers.due({}, {}, now + limits.STANDERS_S) == []
    places = {("acme", f"c{n}") for n in range(3 * limits.STANDERS_PLACES - 1)}
    for place in places:
        standers.tell(place, now)
    work = dict.fromkeys(places, 1)
    looked = [standers.due({}, work, now + n * limits.PRESENCE_TICK_S) for n in range(3)]
    assert {len(set(one)) for one in looked} == {limits.STANDERS_PLACES}
    assert {place for one in looked for place in one} >= places
    for n in range(2 * limits.CAPABILITIES_MAX):
        standers.tell(("other", f"c{n}"), now)
    assert len(standers.said(now)) <= limits.CAPABILITIES_MAX


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 50), st.booleans()), max_size=20))
def test_what_other_processes_were_told_is_added_once_though_parts_are_lost(
    said: list[tuple[str, int, bool]],
) -> None:
    tellers = {name: Standers(0.0) for name in ("a", "b")}
    mine = Standers(0.0)
    for name, count, lost in said:
        for _ in range(count):
            tellers[name].tell(PLACE, 1.0)
        if not lost:
            mine.hear(name, tellers[name].said(1.0), 1.0)
    for name, teller in tellers.items():
        mine.hear(name, teller.said(1.0), 1.0)
        mine.hear(name, teller.said(1.0), 1.0)  # again: nothing new
    told = sum(count for _, count, _ in said)
    sent = mine.wakes(PLACE, Queued(0, told), 0)
    if told:
        exact = Standers(0.0)
        for _ in range(told):
            exact.tell(PLACE, 1.0)
        assert sent == exact.wakes(PLACE, Queued(0, told), 0)
    else:
        assert not sent


def test_whoever_is_told_nothing_or_cannot_be_woken_waits_as_if_it_were_alone() -> None:
    seat = Seat(0.0, 0.5)
    seat.unanswered(0.0, 0.5)
    assert _state(seat) == "seated"
    assert not seat.looked(10**6, 0.0, 0.5, may_stand=False)
    assert _state(seat) == "seated"
    assert seat.looked(2 * SEATS, 0.0, 0.5)
    seat.unanswered(0.0, 0.5)
    assert _state(seat) == "standing", "it may be woken"
    assert seat.alone()
    assert _state(seat) == "seated"
    assert not crowded(2 * SEATS - 1)


def _state(seat: Seat) -> str:
    return seat.state


@pytest.mark.parametrize(("before", "event"), [(b, e) for b in get_args(State) for e in get_args(Event)])
def test_every_transition_is_the_tables_and_no_other(before: State, event: Event) -> None:
    after = TRANSITIONS.get((before, event), before)
    seat = Seat(0.0, 0.5)
    seat.state = before
    steps: dict[str, Callable[[], bool]] = {
        "crowd": lambda: seat.looked(2 * SEATS, 0.0, 0.5), "room": lambda: seat.looked(SEATS - 1, 0.0, 0.5),
        "woken": lambda: seat.woken(0.0, 0.5), "alone": seat.alone,
    }  # fmt: skip
    assert steps[event]() == (after != before)
    assert seat.state == after
