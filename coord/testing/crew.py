"""More agents of a simulation: who sets timers and flags, hands work over, and comes and goes.

Each waits to be told what becomes of its own, and looks in the log when it is not: where nothing goes wrong
(`Faults.calm`) it must not have to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from coord.core import handoff, timers
from coord.testing.fleet import Agent, Member
from coord.testing.loop import Thread, sleep
from coord.testing.rules import TimerRules
from coord.testing.rules_agents import HandoffRules
from coord.wire.envelope import Fact

if TYPE_CHECKING:
    from coord.testing.simulation import World


class Setter(Agent):
    """Sets timers, cancels some and sets some again."""

    def __init__(self, name: str, world: World, count: int) -> None:
        self.waits = {f"{name}a{i}" for i in range(count)}
        super().__init__(name, world)

    def start(self) -> None:
        """A thread for each timer that it does not know the end of."""
        for name in sorted(self.waits):
            self.spawn(self._timer(name))

    def _timer(self, name: str) -> Thread:
        rng = self.rng
        yield sleep(rng.random() * 6.0)
        said = self._said()
        yield from self.state_until_stored(Fact(kind="timer", id=name, event="set", data=said))
        if rng.random() < 0.3:
            yield sleep(rng.random() * 3.0)
        if rng.random() < 0.2:
            said = self._said()
            yield from self.state_until_stored(Fact(kind="timer", id=name, event="set", data=said))
        if rng.random() < 0.2:
            yield from self.state_until_stored(Fact(kind="timer", id=name, event="cancelled", data={}))
        yield from self._ended(name, said)
        self.waits.discard(name)

    def _said(self) -> dict[str, Any]:
        rng, now = self.rng, self.broker.unix
        then = rng.choice((None, {"submit": {"capability": "work"}}, {"raise": {"name": "go"}}))
        said: dict[str, Any] = {"instance": self.instance} | ({} if then is None else {"then": then})
        kind = rng.random()
        if kind < 0.15:  # not before the end of the run
            return said | {"at": now + 2 * TimerRules.AHEAD_S}
        if kind < 0.3:
            return {"every_s": 60.0}
        if kind < 0.6:
            said |= {"every_s": rng.choice([1.0, 2.5]), "times_max": rng.choice([1, 3])}
            keeps_apart = "submit" in (then or {}) and len(self.broker.log) % 2
            return said | ({"overlap": "skip"} if keeps_apart else {})
        return said | {"at": now + rng.choice([-1.0, 0.0, 1.0, 10.0]) * rng.random()}

    def _ended(self, name: str, said: dict[str, Any]) -> Thread:
        """Wait until it has fired for the last time; what does not is not waited for."""
        told = ("timer", f"{name} {name}", "")
        while True:
            for _ in range(4):
                yield sleep(0.5)
                if told in self.told and self.told[told]["n"] >= said.get("times_max", 1):
                    return
            timer = timers.fold((yield from self.broker.read("timer", name, name)))
            if timer is None or timer.status == "cancelled" or (timer.said.times_max is None and not timer.once):
                return
            if timer.status == "fired":
                if timer.setter == self.name:
                    yield from self.is_told(told)
                return
            if timer.said.at is not None and timer.said.at > self.broker.unix + 60.0:
                return


class Flagger(Agent):
    """Sets and removes flags, at the same time as others."""

    def start(self) -> None:
        """A few times."""
        self.done = False
        self.spawn(self._flag())

    def _flag(self) -> Thread:
        rng = self.rng
        for _ in range(3):
            yield sleep(rng.random() * 5.0)
            name = rng.choice(("dark", "beta"))
            said: dict[str, Any] = {"percentage": float(rng.randint(0, 100))}
            event = "set" if rng.random() < 0.7 else "removed"
            fact = Fact(kind="flag", id=name, key="flags", event=event, data=said if event == "set" else {})
            yield from self.state_until_stored(fact)
        self.done = True


_TO: Final = (
    {"capability": "work"},
    {"capability": "work"},
    {"capability": "visit"},
    {"capability": "nobody"},
    {"agent": "w0"},
    {"agent": "absent"},
)


class Offerer(Agent):
    """Hands work over, to an agent or to a capability, and takes some of it back."""

    def __init__(self, name: str, world: World, count: int) -> None:
        self.waits = {f"{name}h{i}" for i in range(count)}
        super().__init__(name, world)

    def start(self) -> None:
        """A thread for each handoff that it does not know the end of."""
        for name in sorted(self.waits):
            self.spawn(self._offer(name))

    def _offer(self, name: str) -> Thread:
        rng = self.rng
        yield sleep(rng.random() * 10.0)
        to = rng.choice(_TO)
        is_long = to == {"agent": "absent"} and rng.random() < 0.5
        said = to | {
            "work": name, "instance": self.instance, "escalate": rng.random() < 0.8,
            "timeout_ms": HandoffRules.LONG_MS if is_long else rng.choice([300, 1_000, 3_000]),
        }  # fmt: skip
        while (yield from self.state(Fact(kind="handoff", id=name, event="offered", data=said), "entity")) is None:
            yield sleep(0.1)
        if rng.random() < 0.2:
            yield sleep(rng.random() * 2.0)
            yield from self.state_until_stored(Fact(kind="handoff", id=name, event="withdrawn", data={}))
        yield from self._ended(name)
        self.waits.discard(name)

    def _ended(self, name: str) -> Thread:
        told = ("handoff", f"{name} {name}", "")
        while True:
            for _ in range(4):
                yield sleep(0.5)
                if self.told.get(told, {}).get("what") in ("accepted", "expired"):
                    return
            found = handoff.fold((yield from self.broker.read("handoff", name, name)))
            if found is not None and found.status in ("accepted", "expired") and found.said.instance == self.instance:
                yield from self.is_told(told)
            if found is None or found.ended or found.said.timeout_ms == HandoffRules.LONG_MS:
                return


class Guest(Member):
    """Says goodbye, and comes again as another instance."""

    slots: ClassVar = {"visit": 1}
    stays = 2

    def start(self) -> None:
        """Register, and leave."""
        super().start()
        self.spawn(self._leave())

    def _leave(self) -> Thread:
        yield sleep(self.rng.random() * 8.0)
        if not self.stays or not self.faults.active:
            return
        self.stays -= 1
        for event in ("draining", "left"):
            bye = Fact(kind="agent", id=self.name, event=event, data={"instance": self.instance})
            yield from self.state_until_stored(bye)
        self.loop.at(0.0, self.crash)
