"""Places shared between tenants: whatever comes and goes, the rules hold, and everybody has his share."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coord.core.fairness import Places, Room, Step, Turn, Until

QUICK_S = 1.0
WAIT_S = 20.0
TENANTS = st.sampled_from("abcd")


class Sharing(RuleBasedStateMachine):
    """Turns of four tenants enter, end, give up, and take longer than they should."""

    def __init__(self) -> None:
        super().__init__()
        self.places = Places(5, quick_s=QUICK_S, wait_s=WAIT_S, waiting_max=12)
        self.now = 100.0
        self.turns: list[Turn] = []
        self.look_at: float | None = None

    def step(self) -> Step:
        step = self.places.step(self.now)
        self.look_at = step.look_at
        for turn in step.expired:
            assert min(turn.until.at, turn.since + WAIT_S) <= self.now
        for turn in step.recalled:
            assert turn.long, "what is quick is left alone"
        self.turns = [t for t in self.turns if t.state != "over"]
        return step

    @rule(tenant=TENANTS, name=st.sampled_from(["x", "y"]), patience=st.floats(0.1, 100))
    def enter(self, tenant: str, name: str, patience: float) -> None:
        waiting = Counter(t.tenant for t in self.turns if t.state == "waiting" and not t.recalled)
        turn = self.places.enter(tenant, name, self.now, Until(self.now + patience))
        if turn is None:
            assert waiting[tenant] >= 12 - waiting.total(), "there was room for it"
        else:
            self.turns.append(turn)
        self.step()

    @rule(seconds=st.floats(0.01, 3))
    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.look_at is not None and self.look_at <= until:
            self.now = max(self.now, self.look_at)
            before = self.look_at
            again = self.step().look_at
            assert again is None or again > before, "a look that is due once is not due again"
        self.now = until

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.turns))
        self.places.leave(turn, self.now)
        self.places.leave(turn, self.now)
        self.step()

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), more=st.floats(0, 50))
    def somebody_else_wants_it(self, data: st.DataObject, more: float) -> None:
        data.draw(st.sampled_from(self.turns)).until.wanted(self.now + more)
        self.step()

    @invariant()
    def the_rules_hold(self) -> None:
        running = [t for t in self.turns if t.state == "running"]
        waiting = [t for t in self.turns if t.state == "waiting"]
        held = Counter(t.tenant for t in running)
        assert len(running) <= self.places.places
        assert self.places.waiting == len(waiting)
        assert {tenant: self.places.held(tenant) for tenant in "abcd"} == {tenant: held[tenant] for tenant in "abcd"}
        long = sum(t.long for t in running)
        if any(not t.long for t in waiting):
            assert len(running) == self.places.places, "a free place, and somebody waits"
            assert long <= self.places.long_max, "quick ones have places of their own"
        if wanting := {t.tenant for t in waiting if t.long}:
            assert len(running) == self.places.places or long >= self.places.long_max
            least = min(held[tenant] for tenant in wanting)
            assert all(held[t.tenant] <= least + 1 for t in running if t.long), "one has two more than who waits"


TestSharing = Sharing.TestCase
TestSharing.settings = settings(stateful_step_count=25, max_examples=80)


def test_the_room_is_shared_by_who_is_there() -> None:
    room = Room(12)
    assert [room.enter("a") for _ in range(7)] == [True] * 6 + [False], "half of it alone"
    assert [room.enter("b") for _ in range(4)] == [True] * 3 + [False]
    assert room.enter("c")
    for _ in range(6):
        room.leave("a")
    assert room.of("a") == 0
    assert [room.enter("b") for _ in range(4)] == [True] * 3 + [False]
    assert Room(1).enter("a")


class Fleets:
    """Tenants that ask as fast as they are let, in simulated time: who waits how long, and who gets what."""

    def __init__(self, places: int, rng: random.Random) -> None:
        self.places = Places(places, quick_s=0.25, wait_s=2.0, waiting_max=64)
        self.rng = rng
        self.now = 0.0
        self.waits: dict[str, list[float]] = {}
        self.had: defaultdict[str, float] = defaultdict(float)
        """Seconds of places."""
        self.done: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.recalled = 0
        self._ends: dict[Turn, float] = {}
        self._asked: dict[Turn, tuple[float, float]] = {}
        """Turn → when it asked, how long it takes."""

    def ask(self, tenant: str, takes_s: float) -> None:
        turn = self.places.enter(tenant, "slow" if takes_s > 1 else "fast", self.now, Until(self.now + 5))
        if turn is None:
            self.late[tenant] += 1
        else:
            self._asked[turn] = (self.now, takes_s)

    def run(self, until: float, ask: Callable[[], object], every_s: float = 0.05) -> None:
        """`ask` is called again and again."""
        while self.now < until:
            ask()
            self._settle()
            then = self.now + every_s
            for turn, at in sorted(self._ends.items(), key=lambda item: item[1]):
                if at > then:
                    break
                if turn in self._ends:
                    self.now = max(self.now, at)
                    self._end(turn)
                    self._settle()
            self.now = then

    def _end(self, turn: Turn) -> None:
        del self._ends[turn]
        self.had[turn.tenant] += self.now - turn.granted_at
        self.done[turn.tenant] += 1
        self.places.leave(turn, self.now)

    def _settle(self) -> None:
        step = self.places.step(self.now)
        for turn in step.recalled:
            self.recalled += 1
            self._ends.pop(turn, None)
        for turn in step.expired:
            self.late[turn.tenant] += 1
        for turn in step.granted:
            if turn.state == "running":
                asked, takes_s = self._asked[turn]
                self.waits.setdefault(turn.tenant, []).append(self.now - asked)
                self._ends[turn] = self.now + takes_s


def test_a_fast_tenant_beside_many_slow_ones_does_not_wait_for_them(rng: random.Random) -> None:
    fleets = Fleets(8, rng)

    def ask() -> None:
        for n in range(12):
            fleets.ask(f"slow{n}", rng.uniform(3, 10))
        fleets.ask("fast", 0.01)

    fleets.run(5, ask)  # each is tried as a quick one, once
    fleets.waits.clear()
    fleets.late.clear()
    fleets.run(120, ask)
    waits = sorted(fleets.waits["fast"])
    assert not fleets.late["fast"]
    assert waits[-1] <= 0.3, "a quick place is free within quick_s"
    assert waits[len(waits) // 2] == 0
    shares = [fleets.had[f"slow{n}"] for n in range(12)]
    assert min(shares) > 0.4 * max(shares), "and they share alike"
    assert min(fleets.done[f"slow{n}"] for n in range(12)) >= 3


def test_what_is_lent_is_given_back_at_once(rng: random.Random) -> None:
    fleets = Fleets(8, rng)
    slow = ["a"]

    def ask() -> None:
        for tenant in slow:
            fleets.ask(tenant, 4.0)

    fleets.run(20, ask)
    assert fleets.places.held("a") == 6, "nobody else wants them; two are kept for quick ones"
    slow.append("b")
    fleets.run(21, ask)
    assert fleets.places.held("a") == fleets.places.held("b")
    before = fleets.done.copy()
    fleets.run(101, ask)
    assert abs((fleets.done["a"] - before["a"]) - (fleets.done["b"] - before["b"])) <= 6
    assert fleets.recalled <= 8, "not again and again"


def test_who_was_away_has_saved_nothing_up(rng: random.Random) -> None:
    fleets = Fleets(2, rng)
    present = ["a"]

    def ask() -> None:
        for tenant in present:
            fleets.ask(tenant, 1.0)

    fleets.run(100, ask)
    present.append("b")
    before = fleets.had.copy()
    fleets.run(200, ask)
    shares = [fleets.had[t] - before[t] for t in present]
    assert min(shares) > 0.8 * max(shares)
