"""What must hold of handoffs, of agents as the log knows them, and of circuits.

Like `coord.testing.rules`: from docs/protocol.md, and asking no fold that is under test.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from coord import limits
from coord.core import handoff
from coord.core.capability import CapabilityDecider
from coord.core.deciding import Push
from coord.core.presence_decider import PresenceDecider
from coord.projector.tables import QUIET
from coord.testing.broker import TENANT
from coord.testing.fares import ILL
from coord.testing.rules import Place, Rules, said_of, stored_s
from coord.wire.envelope import StoredFact

if TYPE_CHECKING:
    from coord.testing.simulation import World

_TOLERATED_S = 1e-3


class _Handoff(msgspec.Struct):
    status: str = "-"
    offerer: str = ""
    said: dict[str, Any] = {}
    n: int = 0
    to: tuple[str, str] = ("", "")
    """Agent and instance that are asked."""
    since: float = 0.0
    asked: list[str] = []
    """By step, from the first."""
    ever: set[str] = set()
    """What it was."""


class HandoffRules(Rules):
    """One has it in the end, who was asked and accepted; nobody is asked twice, or loses the time to answer."""

    kind = "handoff"
    LONG_MS = 3_600_000
    """What waits so long for an answer is not waited for."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.handoffs: dict[Place, _Handoff] = {}

    def take(self, fact: StoredFact) -> None:
        """One rule for each event."""
        place = (fact.key, fact.id)
        found = self.handoffs.setdefault(place, _Handoff())
        is_open = found.status in ("offered", "seeking")
        n = int(fact.detail[-1]) if fact.detail else 0
        if fact.event == "offered" and not fact.detail:
            if found.status == "-":
                found.offerer, found.said, found.since = fact.agent, said_of(fact), stored_s(fact)
                to = found.said.get("agent")
                self._asks(place, found, to, "") if to else self._is(found, "seeking")
        elif fact.event in ("offered", "escalated") and len(fact.detail) == 1:
            if is_open and n == found.n + 1:
                said = said_of(fact)
                self._in_time(place, found, fact)
                self._asks(place, found, said["agent"], said.get("instance") or "")
                found.since = stored_s(fact)
        elif fact.event in ("accepted", "declined"):
            if found.status == "offered" and n == found.n and fact.agent == found.to[0]:
                self._is(found, "accepted" if fact.event == "accepted" else "seeking")
                found.since = stored_s(fact)
        elif fact.event == "withdrawn" and is_open and fact.agent == found.offerer:
            self._is(found, "withdrawn")
        elif fact.event == "expired" and is_open and n == found.n + 1:
            self._in_time(place, found, fact)
            self._is(found, "expired")

    def _is(self, found: _Handoff, status: str) -> None:
        found.status = status
        found.ever = {*found.ever, status}

    def _asks(self, place: Place, found: _Handoff, agent: str, instance: str) -> None:
        if agent in found.asked or agent == found.offerer:
            self.world.wrong(f"handoff {place[1]}: {agent} is asked once more, or has offered it")
        found.n, found.to, found.asked = found.n + 1, (agent, instance), [*found.asked, agent]
        self._is(found, "offered")

    def _in_time(self, place: Place, found: _Handoff, fact: StoredFact) -> None:
        """Whoever may answer has the time to."""
        early_s = found.since + found.said["timeout_ms"] / 1000 - stored_s(fact)
        skew_s = max(0.0, *(process.skew_s for process in self.world.deciders))
        may_answer = found.status == "offered" and (TENANT, *found.to) not in self.world.buried
        if may_answer and early_s > skew_s + _TOLERATED_S:
            self.world.wrong(f"handoff {place[1]} is taken from {found.to} {early_s:.3f} s before it has to answer")

    def tells(self, push: Push) -> None:
        """Whoever is asked was asked, and it ended as it is said to have."""
        body = push.body
        found = self.handoffs.get((body["key"], body["id"]), _Handoff())
        what, n = body["what"], body["n"]
        if what == "offered" and found.asked[n - 1 : n] != [push.agent]:
            self.world.wrong(f"{push.agent} is asked about {body['id']}, and the log does not say so")
        if what in ("accepted", "expired") and what not in found.ever:
            self.world.wrong(f"handoff {body['id']} is said to be {what}, and is {found.status}")

    def believes_accepted(self, place: Place, agent: str, instance: str) -> None:
        """Somebody has read the log and begins the work."""
        found = self.handoffs[place]
        if found.status != "accepted" or found.to[0] != agent:
            self.world.wrong(f"{instance} believes that it has {place[1]}, which is {found.status} by {found.to}")

    def unrest(self) -> Iterable[str]:
        """Open ones, but for those that may wait."""
        for place, found in self.handoffs.items():
            if found.status in ("offered", "seeking") and found.said["timeout_ms"] < self.LONG_MS:
                yield f"handoff {place[1]} is {found.status}"

    def judge(self) -> None:
        """The fold has the same handoffs, and nothing that the decider stated is a dead letter."""
        for place, found in self.handoffs.items():
            self._compare(place, found, 0)
            fold = handoff.Handoff(tenant=TENANT, key=place[0], id=place[1])
            for fact in self.history(place):
                refusal = fold.apply(fact)
                if refusal is not None and fact.agent == handoff.AGENT and refusal.code not in QUIET:
                    self.world.wrong(f"{fact.event} of {place[1]} by {fact.agent} is a dead letter: {refusal.code}")

    def behind(self, seq: int) -> None:
        """What is open is open for those who begin there."""
        for place, found in self.handoffs.items():
            if found.status in ("offered", "seeking"):
                self._compare(place, found, seq)

    def _compare(self, place: Place, found: _Handoff, since: int) -> None:
        fold = handoff.fold(self.restated(place, since) if since else self.history(place))
        says = None if fold is None else (fold.status, fold.offerer, fold.n, list(fold.tried))
        if says != (found.status, found.offerer, found.n, found.asked):
            self.world.wrong(f"handoff {place[1]}: who begins at {since} has {says}, the rules {found}")


# --- agents ----------------------------------------------------------------------------------


class _Agent(msgspec.Struct):
    instances: dict[str, str] = {}
    """Instance → what the log says of it."""
    stated: dict[str, int] = {}
    """Instance → the number of what the decider stated of it last, or its registration's place if that is higher."""
    quarantined: bool = False
    quarantines: int = 0


_NOBODY: Final = _Agent()


class AgentRules(Rules):
    """Nobody is said to be gone who was never silent; in the end the log says of everybody what is so."""

    kind = "agent"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.agents: dict[str, _Agent] = {}

    def take(self, fact: StoredFact) -> None:
        """One rule for each event."""
        agent = self.agents.setdefault(fact.id, _Agent({}, {}))
        said, event = said_of(fact), fact.event
        instance = str(said.get("instance", ""))
        if event == "registered":
            agent.instances[instance] = "alive"
            # What is stated of it from here on is numbered from this fact's place.
            agent.stated[instance] = max(agent.stated.get(instance, 0), fact.seq)
        elif event == "left":
            if agent.instances.pop(instance, None) is not None:
                agent.stated.pop(instance, None)
        elif event in ("gone", "suspected", "returned"):
            if instance in agent.instances and int(fact.detail[-1]) == agent.stated.get(instance, 0) + 1:
                agent.stated[instance] = int(fact.detail[-1])
                agent.instances[instance] = {"gone": "gone", "suspected": "suspect", "returned": "alive"}[event]
                if event == "gone" and (TENANT, fact.id, instance) not in self.world.buried:
                    self.world.wrong(f"{instance} is said to be gone, and was never silent")
        elif event == "quarantined" and not agent.quarantined and int(fact.detail[0]) == agent.quarantines + 1:
            agent.quarantined, agent.quarantines = True, agent.quarantines + 1
            if fact.id not in self.world.greedy:
                self.world.wrong(f"{fact.id} is quarantined, and never used more than it may")
        elif event == "released" and agent.quarantined and int(fact.detail[0]) == agent.quarantines:
            agent.quarantined = False

    def unrest(self) -> Iterable[str]:
        """What the log says of somebody that is not so."""
        for name, known in self.agents.items():
            agent = self.world.agents[name]
            for instance, status in known.instances.items():
                lives = agent.alive and instance == agent.instance and agent.holder not in self.world.gone
                if lives != (status == "alive"):
                    yield f"the log says that {instance} is {status}, and it {'lives' if lives else 'is dead'}"
            if known.quarantined:
                yield f"{name} is quarantined"
        for member in self.world.members:
            if member.instance not in self.agents.get(member.name, _NOBODY).instances:
                yield f"{member.instance} is not registered"

    def judge(self) -> None:
        """Who decides has folded the same."""
        held = [d for p in self.world.deciders for d in p.deciding() if isinstance(d, PresenceDecider)]
        for name, known in self.agents.items():
            folded = [found for d in held if (found := d.get(TENANT, name)) is not None]
            says = [({i: one.status for i, one in found.instances.items()}, found.quarantines) for found in folded]
            if (known.instances, known.quarantines) not in says and known.instances:
                self.world.wrong(f"agent {name}: who decides has {says}, the rules {known}")


# --- circuits --------------------------------------------------------------------------------


class CircuitRules(Rules):
    """A circuit opens only where tasks fail, lets try again after a while, and closes when they do not."""

    kind = "capability"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.circuit, self.n, self.in_a_row, self.since = "closed", 0, 0, 0.0

    def take(self, fact: StoredFact) -> None:
        """Of the one that is ill."""
        if fact.id != ILL:
            self.world.wrong(f"the circuit of {fact.id} is {fact.event}, and nothing of it ever failed")
            return
        n, now = int(fact.detail[0]), stored_s(fact)
        if fact.event == "opened" and self.circuit != "open" and n == self.n + 1:
            self._failed(now)
            self.circuit, self.n, self.in_a_row, self.since = "open", n, self.in_a_row + 1, now
        elif fact.event == "probing" and self.circuit == "open" and n == self.n:
            open_s = min(limits.CAPABILITY_OPEN_S * 2 ** (self.in_a_row - 1), limits.CAPABILITY_OPEN_MAX_S)
            skew_s = max(abs(process.skew_s) for process in self.world.deciders)
            if now < self.since + open_s - skew_s - _TOLERATED_S:
                self.world.wrong(f"circuit {n} is tried {self.since + open_s - now:.3f} s too early")
            self.circuit, self.since = "probing", now
        elif fact.event == "closed" and self.circuit != "closed" and n == self.n:
            self.circuit, self.in_a_row, self.since = "closed", 0, now

    def _failed(self, now: float) -> None:
        """As many as there must be, since it was closed or tried; counts come late."""
        fares, since_s = self.world.fares, max(0.0, self.since - 2.0)
        failed = fares.failed(ILL, now) - fares.failed(ILL, since_s)
        least = 1 if self.circuit == "probing" else limits.CAPABILITY_OUTCOMES_MIN * limits.CAPABILITY_FAILING
        if failed < least:
            self.world.wrong(f"circuit {self.n + 1} opens, and {failed} have failed since {since_s:.1f} s")

    def unrest(self) -> Iterable[str]:
        """It opens, and closes in the end."""
        if self.world.fares.counted:
            if not self.n:
                yield f"the circuit of {ILL} never opened"
            if self.circuit != "closed":
                yield f"the circuit of {ILL} is {self.circuit}"

    def judge(self) -> None:
        """Who decides has folded the same."""
        held = [d for p in self.world.deciders for d in p.deciding() if isinstance(d, CapabilityDecider)]
        says = [(s.circuit, s.n, s.in_a_row) for d in held for s in d.states()]
        if self.n and (self.circuit, self.n, self.in_a_row) not in says:
            self.world.wrong(f"who decides has the circuits {says}, the rules {self.circuit} {self.n} {self.in_a_row}")
