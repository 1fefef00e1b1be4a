"""Who holds locks by leases, waits for several signals at once, and asks for work that may be shared.

With draws of their own, and in some seeds only: whatever another seed plays does not depend on what is drawn here.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from coord.core import locks, reuse, signals, tasks
from coord.testing.broker import Refused
from coord.testing.fleet import Agent
from coord.testing.loop import Thread, sleep
from coord.testing.referee import LEASES
from coord.wire import work
from coord.wire.envelope import Fact, StoredFact

if TYPE_CHECKING:
    from coord.testing.simulation import World

HERD: Final = "herd"
"""The key of signals that agents raise for each other."""

REUSES_S: Final = (0.0, 2.0, 60.0)
"""How old an outcome may be, for those who ask."""

_TTL_S: Final = 3.0


class Patient(Agent):
    """Draws for itself, and is done one day."""

    def __init__(self, name: str, world: World, seed: int) -> None:
        self.own = Random(f"{name} {seed}")
        self.done = False
        super().__init__(name, world)

    def start(self) -> None:
        """As long as it is not done."""
        if not self.done:
            self.spawn(self._all())

    def _all(self) -> Thread:
        raise NotImplementedError


class Leaser(Patient):
    """Holds locks as a plain client does, by renewing them; after a pause it may be too late, and asks anew."""

    def __init__(self, name: str, world: World, seed: int) -> None:
        self.rounds = 3
        super().__init__(name, world, seed)

    def _all(self) -> Thread:
        while self.rounds:
            yield sleep(self.own.random() * 3.0)
            yield from self._hold(self.own.choice(sorted(LEASES)))
            self.rounds -= 1
        self.done = True

    def _hold(self, name: str) -> Thread:
        # Without an instance, and the same token after a crash: the lease is all that ends it.
        token, own = f"{self.name}-{self.rounds}", self.own
        wanted = self._fact(name, token, "requested", {"permits": LEASES[name], "ttl_s": _TTL_S})
        yield from self.state_until_stored(wanted)
        while (epoch := (yield from self._epoch(name, token))) == 0:
            yield sleep(0.5)
        if epoch > 0:
            self.world.referee.believes_held(name, token, epoch)
        for _ in range(own.choice([0, 1, 4])):  # the last pause is at times too long
            yield sleep(own.choice([0.3, 1.0, 1.0, 4.0]))
            yield from self.state_until_stored(wanted)
        if own.random() < 0.6:
            yield from self.state_until_stored(self._fact(name, token, "released", {}))

    def _epoch(self, name: str, token: str) -> Thread:
        """Under which it holds the lock; 0: it waits, below that: it does not any more."""
        lock = locks.fold((yield from self.broker.read("lock", name, name)))
        request = None if lock is None else lock.requests.get(token)
        if lock is None or request is None:
            return -1
        return request.epoch if request in lock.holders else 0

    def _fact(self, name: str, token: str, event: str, data: dict[str, Any]) -> Fact:
        return Fact(kind="lock", id=name, key=name, event=event, detail=(token,), data=data)


class Herder(Patient):
    """Waits for some of the others' signals, and raises its own: at times nobody can begin."""

    def __init__(self, name: str, world: World, seed: int, herd: tuple[str, ...]) -> None:
        self._herd = herd
        super().__init__(name, world, seed)

    def _all(self) -> Thread:
        own = self.own
        yield sleep(own.random() * 6.0)
        others = [name for name in self._herd if name != self.name]
        names = own.sample(others, min(len(others), own.choice([0, 1, 2, 2])))
        if names:
            yield from self._wait(names, own.choice(("all", "all", "any")))
        yield from self.state_until_stored(
            Fact(kind="signal", id=f"{self.name}-ready", key=HERD, event="raised", data={"data": self.name})
        )
        self.done = True

    def _wait(self, herd: list[str], mode: str) -> Thread:
        """Until it is over, by signals, by the deadline, or because nobody can go on."""
        own, names = self.own, [f"{name}-ready" for name in herd]
        ends_at = self.broker.unix + own.choice([1.0, 6.0]) if own.random() < 0.2 else None
        missing, tries = list(names), 0
        while missing:
            tries += 1
            wait = f"{self.instance}w{tries}"
            said = {
                "names": names, "mode": mode, "instance": self.instance, "deadline": ends_at,
                "provides": [f"{self.name}-ready"],
            }  # fmt: skip
            for name in names:
                yield from self.state_until_stored(self._fact(name, "awaited", wait, said))
                yield sleep(own.choice([0.0, 0.0, 1.0]))
            reason = ""
            while missing and not reason:
                yield sleep(1.0)
                latches = yield from self._latches(names)
                missing = [name for name in names if name not in latches or not latches[name].raised]
                if missing and mode == "any" and len(missing) < len(names):
                    reason = "any"
                elif any(wait in latch.waits and latch.waits[wait].deadlock for latch in latches.values()):
                    reason = "deadlocked"
                elif ends_at is not None and self.broker.unix > ends_at:
                    reason = "timeout"
                elif any(name not in latches or wait not in latches[name].waits for name in missing):
                    reason = "gone"  # it was silent for too long
            for name in missing:
                yield from self.state_until_stored(self._fact(name, "resumed", wait, {"reason": reason}))
            if reason != "gone":
                return

    def _latches(self, names: list[str]) -> Thread:
        found: dict[str, signals.Latch] = {}
        for name in names:
            latch = signals.fold((yield from self.broker.read("signal", HERD, name)))
            if latch is not None:
                found[name] = latch
        return found

    def _fact(self, name: str, event: str, wait: str, data: dict[str, Any]) -> Fact:
        return Fact(kind="signal", id=name, key=HERD, event=event, detail=(wait,), data=data)


class Sharer(Patient):
    """Asks again and again for the same work, and accepts what others were told."""

    def _all(self) -> Thread:
        for _ in range(self.own.choice([1, 3])):
            yield sleep(self.own.random() * 5.0)
            yield from self._ask({"shared": self.own.choice([1, 1, 2])}, self.own.choice(REUSES_S))
        self.done = True

    def _ask(self, asked: dict[str, Any], reuse_for_s: float) -> Thread:
        key, generation = reuse.key_of("work", msgspec.json.encode(asked)), 1
        said = work.Submission(
            input=asked, retries=0, backoff_s=0.5, timeout_s=5.0, instance=self.instance, reuse_key=key
        )
        while True:
            name = reuse.name_of(key, generation)
            fact = Fact(kind="task", id=name, key=key, event="submitted", detail=("work", "normal"), data=said)
            answer = yield from self.state(fact, "entity")
            found = reuse.newest(key, (yield from self._facts(key)))
            if found is None:
                yield sleep(0.1)
            elif answer is not None and not isinstance(answer, Refused):
                name = fact.id
                break
            elif reuse.joinable(found.task, reuse_for_s=reuse_for_s, now=self.broker.unix):
                name = found.task.id
                self.world.referee.joins(key, name, asked, reuse_for_s)
                break
            else:
                generation = found.generation + 1
        while True:
            task, _ = tasks.fold((yield from self.broker.read("task", key, name)))
            if task is not None and task.ended:
                return
            yield sleep(2.0)

    def _facts(self, key: str) -> Thread:
        facts: list[StoredFact] | None = None
        while facts is None:
            facts = yield self.broker.request(lambda: [s.fact for s in self.broker.log if s.fact.key == key])
        return facts
