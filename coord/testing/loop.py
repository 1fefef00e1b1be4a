"""Virtual time, and processes that die or stand still between any two steps.

A process runs *threads*: generators that yield what they wait for (an `Op`) and are resumed with the
answer.  Nothing of a process runs at any other moment, so a crash at a yield is a crash at
an await of the real program.  No clock, no asyncio: time is a heap of what comes next.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator
from random import Random
from typing import Any, TypeAlias

Resume: TypeAlias = Callable[[Any], None]
Op: TypeAlias = Callable[["Process", Resume], None]
"""Arranges for `resume` to be called later, never at once."""

Thread: TypeAlias = Generator[Op, Any, Any]


class Loop:
    """What happens when; the only clock."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the beginning."""
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call it so much later; calls of one moment in the order in which they were asked for."""
        heapq.heappush(self._heap, (self.now + delay_s, next(self._order), call))

    def run(self, until: float) -> None:
        """Let time pass."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call = heapq.heappop(heap)
            self.steps += 1
            call()
        self.now = until


class Faults:
    """What may go wrong, and whether it still does."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.active = True
        kind = rng.random()
        self.calm = calm = kind < 0.15
        """Nothing is lost, late, or dies: all that is told arrives."""
        self.loses = 0.0 if calm else rng.choice([0.0, 0.005, 0.03])
        self.doubles = 0.0 if calm else rng.choice([0.0, 0.02])
        self.dawdles = 0.0 if calm else rng.choice([0.0, 0.02, 0.1])
        """A message takes up to a second or (one of ten of those) five: it overtakes nobody's, others overtake it."""
        self.dies = 0.0 if calm else rng.choice([0.0, 0.002, 0.01])
        """At each step of each process."""
        self.loses_leader = 0.0 if calm else rng.choice([0.0, 0.0, 0.03])
        """At each statement of a decider."""
        self.hangs = 0.0 if calm else rng.choice([0.0, 0.001, 0.004])

    def hop_s(self) -> float | None:
        """How long one message takes; None: it never comes."""
        rng = self.rng
        if self.active:
            dice = rng.random()
            if dice < self.loses:
                return None
            if dice < self.loses + self.dawdles:
                return rng.random() * (5.0 if rng.random() < 0.1 else 1.0)
        return 0.0002 + rng.random() * 0.002

    def leaderless(self) -> bool:
        """Whether the log's stream has lost its leader."""
        return self.active and self.rng.random() < self.loses_leader

    def twice(self) -> bool:
        """Whether a message comes two times."""
        return self.active and self.rng.random() < self.doubles


class Process:
    """Dies and hangs as a whole; threads of an incarnation that died are never resumed."""

    def __init__(self, name: str, loop: Loop, faults: Faults) -> None:
        self.name = name
        self.loop = loop
        self.faults = faults
        self.alive = True
        self.incarnation = 0
        self.hung_until = 0.0
        self.sent_until = 0.0
        """When the last thing that it sent arrives."""

    def spawn(self, thread: Thread) -> None:
        """Run a thread, beginning soon."""
        incarnation = self.incarnation
        self.loop.at(0.0, lambda: self._step(thread, incarnation, None))

    def call(self, what: Callable[[], None]) -> None:
        """As from a callback of the present incarnation; later if it hangs, never if it is dead by then."""
        incarnation = self.incarnation

        def now() -> None:
            if self.alive and incarnation == self.incarnation:
                if self.hung_until > self.loop.now:
                    self.loop.at(self.hung_until - self.loop.now, now)
                else:
                    what()

        now()

    def crash(self) -> None:
        """Everything in memory is gone."""
        if self.alive:
            self.alive = False
            self.incarnation += 1
            self.crashed()

    def hang(self, for_s: float) -> None:
        """Stand still: what arrives waits."""
        self.hung_until = self.loop.now + for_s
        self.hung()

    def crashed(self) -> None:
        """For subclasses: it has just died."""

    def hung(self) -> None:
        """For subclasses: it has just begun to stand still."""

    def _step(self, thread: Thread, incarnation: int, value: Any) -> None:
        loop, faults = self.loop, self.faults
        if not self.alive or incarnation != self.incarnation:
            return
        if self.hung_until > loop.now:
            loop.at(self.hung_until - loop.now, lambda: self._step(thread, incarnation, value))
            return
        if faults.active:
            dice = faults.rng.random()
            if dice < faults.dies:
                self.crash()
                return
            if dice < faults.dies + faults.hangs:
                self.hang(faults.rng.choice([0.3, 2.0, 4.0, 8.0]))
                loop.at(self.hung_until - loop.now, lambda: self._step(thread, incarnation, value))
                return
        try:
            op = thread.send(value)
        except StopIteration:
            return
        op(self, lambda answer: self._step(thread, incarnation, answer))


def sleep(delay_s: float) -> Op:
    """Go on so much later."""

    def op(process: Process, resume: Resume) -> None:
        process.loop.at(delay_s, lambda: resume(None))

    return op
