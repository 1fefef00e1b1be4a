"""A subscription against a model of the log: whatever happens, in order and exactly once, or an error.

`World` is a broker, a log reader and a consumer with everything that can go wrong between
them as single steps; Hypothesis and long seeded runs choose the steps.  The world knows what
ought to be handed out next and checks every fact.
"""

from __future__ import annotations

import random
import sys
import types
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coord import errors
from coord.core import subscription
from coord.core.subscription import (
    SKIPPED,
    Bounds,
    Entry,
    Page,
    Position,
    Read,
    Reason,
    Skipped,
    Start,
    SubscriptionMachine,
)
from tests.conftest import soak_rounds

PAGE_MAX = 4
BOUNDS = Bounds(messages_max=6, bytes_max=100, resume_below=2, audit_s=5.0)


@dataclass
class Stored:
    seq: int
    matches: bool
    subject_last_seq: int
    entries: list[str | None]
    """None is poison."""
    lost: bool = False
    """Its republish died with the leader: it may come late."""


@dataclass
class World:
    start: Start = "first"
    prefilled: int = 0
    one_subject: bool = False
    leader: int = 0
    """0: the log has no replicas."""
    picky: bool = False
    """The consumer has a condition."""
    now: float = 0.0
    log: list[Stored] = field(default_factory=list)
    facts: list[tuple[Position, str]] = field(default_factory=list)
    first_seq: int = 1
    created: str = "first log"
    subscribed: bool = True
    online: bool = True
    deaf: bool = False
    republished: int = 0  # index into `log`
    wire: list[Stored] = field(default_factory=list)
    request: Read | None = None
    answer: tuple[Read, Page[str] | errors.LogTrimmed, bool] | None = None
    expected: int | None = None  # index into `facts`; None while the start is not fixed
    missing: set[int] = field(default_factory=set)  # below `expected`, not handed out: lost republishes
    finished: int | None = None
    unfinished: set[int] = field(default_factory=set)  # below `finished`
    handed: set[int] = field(default_factory=set)  # late ones, not finished
    outcomes: list[str] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(self.prefilled):
            self.append(number)
        self.republished = len(self.log)
        self.machine = self.new_machine(self.start)
        if isinstance(self.start, Position):
            self.begin_at(self.start)

    def new_machine(self, start: Start, created: str | None = None) -> SubscriptionMachine[Stored, str]:
        return SubscriptionMachine(
            start,
            expand=lambda stored: [self.wanted(value) for value in stored.entries],
            admit=self.admit if self.picky else None,
            jitter=lambda: 0.5,
            bounds=BOUNDS,
            created=created,
            on_catch_up=self.reasons.append,
        )

    def wanted(self, value: str | None) -> str | Skipped | None:
        """What the consumer gets in place of an entry: every third is not what it asked for."""
        return SKIPPED if self.picky and value is not None and sum(map(int, value.split("/"))) % 3 == 0 else value

    def admit(self, stored: Stored) -> Stored | None:
        return None if all(self.wanted(value) in {None, SKIPPED} for value in stored.entries) else stored

    # --- what ought to be -----------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        return self.log[-1].seq if self.log else 0

    def begin_at(self, position: Position) -> None:
        self.expected = self.before(position)
        self.finished = self.expected
        self.missing, self.unfinished, self.handed = set(), set(), set()

    def before(self, position: Position) -> int:
        return bisect_left(self.facts, position, key=lambda fact: fact[0])

    # --- the broker -----------------------------------------------------------------------

    def append(self, choice: int) -> None:
        matches = choice % 4 != 0
        seq = self.last_seq + 1
        size = 1 if choice % 5 else 1 + choice % 7
        entries: list[str | None] = [f"{seq}/{index}" for index in range(size)]
        if choice % 11 == 0:
            entries[choice % size] = None
        subject_last = 0
        if self.one_subject:
            subject_last = next((s.seq for s in reversed(self.log) if s.matches), 0)
        self.log.append(Stored(seq, matches, subject_last, entries))
        if matches:
            self.facts += [
                (Position(seq, index), value)
                for index, value in enumerate(entries)
                if value is not None and self.wanted(value) is not SKIPPED
            ]

    def republish(self, _: int) -> None:
        if self.republished < len(self.log):
            stored = self.log[self.republished]
            self.republished += 1
            if stored.matches and self.subscribed and not self.deaf:
                self.wire.append(stored)

    def deliver(self, _: int) -> None:
        if self.wire:
            stored = self.wire.pop(0)
            self.machine.receive(stored.seq, stored.subject_last_seq, len(stored.entries), stored, self.now)

    def drop(self, choice: int) -> None:
        """Lose a message on the way, without a reconnect."""
        if self.one_subject:
            if self.wire:  # the next of the same subject tells; at the end, the audit does
                self.wire.pop(choice % len(self.wire))
        elif self.machine.live and not self.wire and self.machine.done is not None:
            # (Before any reader has answered there is nothing an audit could compare with.)
            self.deaf = True  # until the log was read, so that nothing later arrives before

    def trim(self, choice: int) -> None:
        self.first_seq = min(self.first_seq + 1 + choice % 3, self.last_seq + 1)

    def crash_leader(self, choice: int) -> None:
        """The leader dies: some of what it has stored it has not republished, and nobody will."""
        if not self.leader:
            return
        for _ in range(choice % 3):
            self.republish(0)
        for stored in self.log[self.republished :]:
            stored.lost = stored.matches
        self.republished = len(self.log)
        self.leader += 1

    def disconnect(self, choice: int) -> None:
        if self.online:
            self.online = self.subscribed = self.deaf = False
            self.wire.clear()
            was_unanchored = self.machine.live and self.machine.done is None
            self.machine.disconnected()
            if self.request is not None or (self.answer is not None and choice % 2):
                self.fail_read()  # otherwise the answer was received and is looked at later
            if was_unanchored:
                assert isinstance(self.machine.failure, errors.ServiceUnavailable)

    def resubscribe(self, _: int) -> None:
        """The broker has the subscription again; the client does not know yet."""
        if not self.online:
            self.subscribed = True

    def reconnect(self, _: int) -> None:
        if not self.online:
            self.subscribed = self.online = True
            self.machine.connected()

    # --- the log reader -------------------------------------------------------------------

    def ask(self, _: int) -> None:
        read = self.machine.want(self.now)
        if read is not None:
            assert self.request is None
            assert self.answer is None
            assert self.online
            self.request = read

    def serve(self, choice: int) -> None:
        if self.request is not None:
            read, self.request = self.request, None
            self.answer = (read, self.read(read.start, 1 + choice % PAGE_MAX, refuse=choice % 2 == 0), self.deaf)
            self.deaf = False

    def read(self, start: Start, count: int, *, refuse: bool) -> Page[str] | errors.LogTrimmed:
        if start == "new":
            position = Position(self.last_seq + 1)
        elif start == "first":
            position = Position(self.first_seq)
        else:
            assert isinstance(start, Position)
            position = start
            if position.seq < self.first_seq and refuse:
                return errors.LogTrimmed(wanted=position.seq, first_seq=self.first_seq)
        entries = [
            (Position(s.seq, index), value)
            for s in self.log[max(self.first_seq, position.seq) - 1 :]
            if s.matches
            for index, value in enumerate(s.entries)
            if Position(s.seq, index) >= position
        ]
        page, rest = entries[:count], entries[count:]
        following = rest[0][0] if rest else Position(self.last_seq + 1)
        if rest and following.seq != page[-1][0].seq:
            following = Position(page[-1][0].seq + 1)
        good = [Entry(at.seq, at.index, 1, self.wanted(value) or "") for at, value in page if value is not None]
        leader = f"n{self.leader}" if self.leader else ""
        return Page(good, max(following, position), self.first_seq, self.last_seq, self.created, leader)

    def respond(self, _: int) -> None:
        if self.answer is None:
            return
        (read, answer, _deaf), self.answer = self.answer, None
        resolved = self.machine.resolved
        if isinstance(answer, errors.LogTrimmed):
            self.machine.refused(read, answer)
        else:
            self.machine.page(read, answer, self.now)
        if not resolved and self.machine.resolved and self.expected is None:
            assert isinstance(answer, Page)
            entries = answer.entries
            self.begin_at(Position(entries[0].seq, entries[0].index) if entries else answer.next)

    def fail(self, _: int) -> None:
        if self.request is not None or (self.answer is not None and not self.answer[2]):
            self.fail_read()

    def fail_read(self) -> None:
        read = self.request or (self.answer[0] if self.answer else None)
        assert read is not None
        self.request = self.answer = None
        self.machine.read_failed(read, self.now)

    def give_up_reader(self, _: int) -> None:
        """No reader answers: go live without."""
        if self.request is None and self.answer is None and self.machine.join_without_reader(self.now):
            oldest = self.wire[0].seq if self.wire else self.last_seq + 1
            if self.republished < len(self.log):
                oldest = min(oldest, self.log[self.republished].seq)
            held = [h[0] for h in self.machine._ready]
            self.begin_at(Position(min([oldest, *(w for w in held)])))

    # --- the consumer ---------------------------------------------------------------------

    def take(self, choice: int) -> None:
        self.machine.finish()
        self.finished = self.expected
        self.unfinished, self.handed = set(self.missing), set()
        self.check_done()
        value: str | None = None
        for _ in range(1 + choice % 3):
            value = self.machine.take()
            if value is None:
                break
            self.check_next(value)
            self.check_done()
        self.check_bounds()
        if value is None and self.machine.failure is not None:
            self.face(self.machine.failure)

    def check_next(self, value: str) -> None:
        """In log order, each once; only what a dead leader did not republish may be passed over and come late."""
        assert self.expected is not None
        assert isinstance(value, str), "handed out what stands for something that nobody wants"
        seq, index = map(int, value.split("/"))
        number = self.before(Position(seq, index))
        assert number < len(self.facts), f"handed out {value!r}, which nobody stated"
        assert self.facts[number][1] == value
        if number < self.expected:
            assert number in self.missing, f"handed out {value!r} twice"
            self.missing.remove(number)
            self.handed.add(number)
            self.outcomes.append("late")
            return
        for passed in range(self.expected, number):
            assert self.log[self.facts[passed][0].seq - 1].lost, (
                f"handed out {value!r} before {self.facts[passed][1]!r}"
            )
            self.missing.add(passed)
        self.expected = number + 1

    def check_done(self) -> None:
        """What a durable subscription would save loses nothing, and without replicas doubles nothing."""
        done = self.machine.done
        if done is None or self.finished is None:
            return
        below = self.before(done)
        assert below <= self.finished
        assert not any(number < below for number in self.unfinished | self.missing | self.handed)
        if not self.leader:
            assert below == self.finished

    def check_bounds(self) -> None:
        waiting = len(self.machine._ready)
        assert waiting + self.machine.held <= BOUNDS.messages_max + BOUNDS.resume_below + PAGE_MAX

    def face(self, failure: errors.CoordError) -> None:
        self.outcomes.append(failure.code)
        assert self.machine.acknowledge() is failure
        assert not isinstance(failure, errors.LogReplaced), "nobody replaced the log"
        if isinstance(failure, errors.LogTrimmed):
            assert self.expected is not None
            assert failure.details["wanted"] < self.first_seq
            done = self.machine.done
            assert done is not None
            assert done.seq < self.first_seq
            self.machine.seek(Position(self.first_seq))
            self.begin_at(Position(self.first_seq))
        else:
            assert isinstance(failure, errors.ServiceUnavailable)
            self.expected = self.finished = None
            self.missing, self.unfinished, self.handed = set(), set(), set()

    def restart(self, choice: int) -> None:
        """The process dies; a durable subscription resumes from what was saved."""
        done = self.machine.done
        if done is None or self.machine.failure is not None or self.request or self.answer:
            return
        self.begin_at(done)  # with replicas it may lag, and repeat
        self.wire.clear()
        self.deaf = False
        self.machine = self.new_machine(done, self.machine.created)
        if not self.online:
            self.machine.disconnected()

    def tick(self, _: int) -> None:
        if self.machine.live and self.machine.done is None:
            self.flow(0)  # what the machine assumes: nothing waits a whole interval for its republish
        self.now = max(self.now + 0.1, self.machine.audit_at or 0.0)

    # --- several steps at once, without which the quick states are rarely reached -----------

    def flow(self, _: int) -> None:
        while self.wire or self.republished < len(self.log):
            self.republish(0)
            self.deliver(0)

    def burst(self, _: int) -> None:
        for _ in range(BOUNDS.messages_max + 2):
            self.append(1)
        self.flow(0)

    def race(self, choice: int) -> None:
        """A page is measured, then the live feed runs over, then the page arrives."""
        self.ask(0)
        self.serve(choice)
        self.burst(0)
        self.respond(0)

    def look(self, choice: int) -> None:
        for name in ("ask", "serve", "respond"):
            self.step(name, choice)

    def drain(self, _: int) -> None:
        for _ in range(BOUNDS.messages_max):
            self.take(2)
            self.look(3)

    # --- running --------------------------------------------------------------------------

    def step(self, name: str, choice: int) -> None:
        getattr(self, name)(choice)

    def settle(self) -> None:
        """Everything works again: whatever was stored must come."""
        self.reconnect(0)
        for _ in range(40 * (len(self.log) + 10)):
            for name in ("republish", "deliver", "ask", "serve", "respond", "take"):
                self.step(name, 3)
            idle = self.republished == len(self.log) and not self.wire and self.request is None and self.answer is None
            if idle and self.machine.live and self.machine.waiting == 0 and not self.deaf:
                break
            if idle and self.machine.live:
                self.tick(0)
        # Two audits: one may be needed to find the position, one to find what is missing.
        for _ in range(2):
            self.now += 100
            for _ in range(len(self.log) + 10):
                for name in ("ask", "serve", "respond", "take"):
                    self.step(name, 3)
        assert self.machine.live
        assert self.machine.failure is None
        assert self.expected == len(self.facts), "facts are missing"
        assert not self.missing, "facts that the live feed lost are missing"
        self.take(0)
        done = self.machine.done
        assert done is not None
        assert done.seq == self.last_seq + 1, "the position does not move over what nobody wants"


FEED = ["append", "append", "republish", "republish", "deliver", "deliver", "flow"]
READER = ["ask", "serve", "respond", "look"]
CONSUMER = ["take", "take", "drain"]
CRASHES = ["crash_leader", "tick"]
BREAKS = ["fail", "fail", "disconnect", "resubscribe", "reconnect", "reconnect"]
PROFILES = {
    "calm": FEED * 3 + READER * 2 + CONSUMER * 2 + ["drop", "tick"],
    "slow consumer": FEED * 3 + READER + ["take", "drain", "burst", "race", "tick"],
    "quiet": FEED + READER * 3 + CONSUMER * 3 + ["drop", "tick", "tick"],
    "stormy": FEED * 3 + READER * 3 + CONSUMER * 2 + BREAKS + ["race", "drop", "tick", "restart"],
    "elections": FEED * 4 + READER * 3 + CONSUMER * 2 + CRASHES * 2 + ["fail", "restart"],
    "short window": FEED * 2 + READER * 2 + CONSUMER + BREAKS + ["trim", "tick", "restart"],
}
OPS = [*PROFILES["stormy"], "trim"]
STEPS = st.sampled_from([*PROFILES.values(), OPS]).flatmap(
    lambda profile: st.lists(st.tuples(st.sampled_from(profile), st.integers(0, 999)), max_size=150)
)


def random_run(rng: random.Random, steps: int) -> World:
    """One life: a few profiles after one another, then everything works again and is checked."""
    start: Start = rng.choice(["first", "new", Position(2)])
    world = World(
        start, rng.randint(2, 6), one_subject=rng.random() < 0.3, leader=rng.randrange(2), picky=rng.random() < 0.4
    )
    for _ in range(1 + steps // 150):
        profile = PROFILES[rng.choice(list(PROFILES))]
        for _ in range(min(150, steps)):
            world.step(rng.choice(profile), rng.randrange(1_000))
    world.settle()
    return world


STARTS: st.SearchStrategy[Start] = st.sampled_from(["first", "new", Position(1), Position(3)])


@given(
    start=STARTS,
    prefilled=st.integers(2, 8),
    one_subject=st.booleans(),
    leader=st.integers(0, 1),
    picky=st.booleans(),
    steps=STEPS,
)
@settings(max_examples=400)
def test_every_fact_once_and_in_order_or_an_error(
    start: Start, prefilled: int, one_subject: bool, leader: int, picky: bool, steps
) -> None:
    world = World(start, prefilled, one_subject, leader, picky)
    for name, choice in steps:
        world.step(name, choice)
    world.settle()


@given(prefilled=st.integers(0, 5), steps=STEPS, late=st.integers(0, 60))
@settings(max_examples=200)
def test_live_without_a_reader_loses_nothing_or_says_so(prefilled: int, steps, late: int) -> None:
    """`start="new"` and nobody answers at first: live works, and a gap is an error, never silence."""
    world = World("new", prefilled)
    world.give_up_reader(0)
    assert world.machine.live
    for number, (name, choice) in enumerate(steps):
        if number < late and name in {"serve", "respond"}:
            world.fail(0)
        else:
            world.step(name, choice)
        if not world.machine.resolved:
            world.give_up_reader(0)
    world.settle()


def test_long_random_runs(rng: random.Random) -> None:
    seen: set[str] = set()
    for _ in range(soak_rounds(200)):
        world = random_run(rng, 1_500)
        seen.update(world.outcomes, world.reasons)
    # A model that never reaches its interesting states proves nothing.
    assert {"subscribe.trimmed", "start", "reconnect", "overflow", "subject", "audit", "leader", "seek", "late"} <= seen


UNBOUNDED = "def _full(self, size: int) -> bool:\n        return False\n\n    def _unused(self"
MUTANTS = {
    "joins with a page asked for before the loss": (" and read.generation == self._generation", ""),
    "joins before the end": ("page.complete and read", "read"),
    "believes live messages while it catches up": ("if self._joined and not self._auditing", "if True"),
    "ignores gaps within a subject": ("if subject_last_seq >= tail.seq", "if False"),
    "never audits": ("if now < self._audit_at:", "if True:"),
    "saves the position before the fact is done": ("done = self._finished if busy", "done = self._handed if busy"),
    "does not notice a new leader": ("page.leader == leader", "True"),
    "repeats what it knows": ("if entry.seq in self._known or", "if"),
    "saves what is not verified": ("limit = self._floor or (self._verified if self._leader else None)", "limit = None"),
    "forgets that something late is unfinished": ("not (self._ready or self._opened or self._known)", "True"),
    "forgets the rest of a frame": ("if number < len(good) else waiting.end", "if False else waiting.end"),
    "sees no gap before what nobody wants": (
        "if subject_last_seq >= tail.seq:",
        "if subject_last_seq >= tail.seq and (self._admit is None or self._admit(raw) is not None):",
    ),
    "hands out what nobody wants": ("if value is not None and value is not SKIPPED", "if value is not None"),
    "hands out repeats": ("if seq < tail.seq:", "if False:"),
    "does not look at the window": ("if 0 < wanted < page.first_seq", "if False"),
    "holds without bound": ("def _full(self", UNBOUNDED),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_notices_defects(mutant: str, monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    """Each guard of the machine is load-bearing: without it, some run fails."""
    old, new = MUTANTS[mutant]
    source = Path(subscription.__file__).read_text()
    assert old in source, "the mutant no longer fits the source"
    module = types.ModuleType("mutant_subscription")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source.replace(old, new), "mutant", "exec"), module.__dict__)
    names = ("SKIPPED", "Bounds", "Entry", "Page", "Position", "SubscriptionMachine")
    for name in names:
        monkeypatch.setitem(globals(), name, getattr(module, name))
    monkeypatch.setitem(globals(), "BOUNDS", module.Bounds(messages_max=6, bytes_max=100, resume_below=2))

    with pytest.raises((AssertionError, IndexError)):
        for _ in range(5_000):  # the rarest is found in one of 150: within 500 it was not, one time in thirty
            random_run(rng, 300)
