"""The capability board: how deep each capability's queues are, who can do it, and whether to submit at all.

Each process with deciders knows its own partitions' part (`Part`) and tells the others once a
second; each adds up what it hears, so any of them can answer, and the one whose name sorts first says
the sums on `coord.wire.subjects.board`.  A process that is silent for `PART_STALE_S` takes its part
with it: by then others have its partitions.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from coord import limits
from coord.core.admission import Board
from coord.core.capability import CapabilityState
from coord.core.presence import PresenceTable, Row
from coord.core.presence_decider import Agent
from coord.core.watch import Barred, Fare

PART_STALE_S: Final = 3 * limits.BOARD_EVERY_S

Place = tuple[str, str]
"""(tenant, capability)."""

_CHANGED_ENOUGH: Final = 0.25

_CLAIMS_KEPT: Final = 4
"""Sums of a second.  Partitions are not folded in step: a claim may be counted before the end of the one before it."""


class Open(msgspec.Struct, frozen=True):
    """A circuit that is not closed."""

    tenant: str
    capability: str
    circuit: str
    until: float
    """Unix seconds: when it probes, as far as is known."""


class Part(msgspec.Struct, frozen=True):
    """What one process knows of its partitions."""

    fares: list[tuple[str, str, Fare]] = []
    claims: list[tuple[str, str, int]] = []
    """(tenant, agent, claims held), of agents with quotas."""
    held: list[tuple[str, str, str, int]] = []
    """(tenant, agent, instance, claims held), of instances that are looked at by themselves."""
    circuits: list[Open] = []
    stood: list[tuple[str, str, int]] = []
    """(tenant, capability, workers it told to stand by, ever): `coord.core.standers`."""
    quarantined: list[tuple[str, str, Barred]] = []
    """(tenant, agent, why and since when)."""
    bye: bool = False
    """It stops: others have its partitions."""


def part(
    fares: Iterable[Mapping[Place, Fare]],
    claims: Iterable[Mapping[tuple[str, str], int]],
    circuits: Iterable[CapabilityState],
    watched: frozenset[tuple[str, str]],
    quarantined: Iterable[Agent] = (),
    held: Iterable[tuple[str, str, str, int]] = (),
) -> Part:
    """This process's: `watched` are the agents whose claims somebody wants to know."""
    summed: dict[Place, Fare] = {}
    for one in fares:
        for place, fare in one.items():
            summed.setdefault(place, Fare()).add(fare)
    claimed: dict[tuple[str, str], int] = {}
    for counts in claims:
        for agent in watched & counts.keys():
            claimed[agent] = claimed.get(agent, 0) + counts[agent]
    return Part(
        [(*place, fare) for place, fare in summed.items()],
        [(*agent, count) for agent, count in claimed.items()],
        list(held),
        [
            Open(state.tenant, state.capability, state.circuit, state.since + state.open_s)
            for state in circuits
            if state.circuit != "closed"
        ],
        quarantined=[(agent.tenant, agent.agent, Barred(agent.quota, agent.since)) for agent in quarantined],
    )


class Sums:
    """The parts of all processes, added up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._parts: dict[str, tuple[float, Part]] = {}
        self._said: dict[Place, Board] = {}
        self._claims: deque[dict[tuple[str, ...], int]] = deque(maxlen=_CLAIMS_KEPT)
        self._able: dict[Place, tuple[int, int]] = {}
        """(instances that would take a task, what they run at a time), as `count` found."""
        self.circuits: dict[Place, Open] = {}

    def hear(self, name: str, said: Part, now: float) -> bool:
        """A process's part (monotonic seconds); whether it is one of those that are added up."""
        if said.bye:
            self._parts.pop(name, None)
        elif name in self._parts or len(self._parts) < limits.DECIDER_PROCESSES_MAX:
            self._parts[name] = (now, said)
        return name in self._parts

    @property
    def speaks(self) -> bool:
        """Whether this process says the sums."""
        return min(self._parts, default=self.name) >= self.name

    def agents(self) -> dict[Place, int]:
        """Instances that would take a task, as `count` found."""
        return {place: agents for place, (agents, _) in self._able.items()}

    def add_up(self, table: PresenceTable, now: float) -> None:
        """Put the sums where deciders ask for them."""
        for name in [n for n, (at, _) in self._parts.items() if now - at > PART_STALE_S]:
            del self._parts[name]
        fares: dict[Place, Fare] = {}
        claims: dict[tuple[str, ...], int] = {}
        barred: dict[tuple[str, str], Barred] = {}
        self.circuits = {}
        for _, said in self._parts.values():
            for tenant, capability, fare in said.fares:
                fares.setdefault((tenant, capability), Fare()).add(fare)
            for tenant, agent, count in said.claims:
                claims[tenant, agent] = claims.get((tenant, agent), 0) + count
            for *instance, count in said.held:
                holder = tuple(instance)
                claims[holder] = claims.get(holder, 0) + count
            for circuit in said.circuits:
                self.circuits[circuit.tenant, circuit.capability] = circuit
            for tenant, agent, why in said.quarantined:
                barred[tenant, agent] = why
        table.fare_of = fares
        self._claims.append(claims)
        table.claims_of = {agent: min(sums.get(agent, 0) for sums in self._claims) for agent in claims}
        table.bar(barred)

    def count(self, table: PresenceTable) -> None:
        """Count who can do what: the costly part, which need not be newer than a second."""
        self._able = {place: _able(rows, place[1]) for place, rows in table.capabilities()}

    def boards(self, table: PresenceTable, now: float, *, tenant: str | None = None) -> dict[Place, Board]:
        """Every capability with work, with agents or with a circuit that is not closed (Unix seconds)."""
        places = {p for p, (agents, _) in self._able.items() if agents} | self.circuits.keys()
        places |= {p for p, fare in table.fare_of.items() if fare.depth or fare.claimed}
        return {place: self.board(place, table, now) for place in sorted(p for p in places if tenant in (None, p[0]))}

    def board(self, place: Place, table: PresenceTable, now: float) -> Board:
        """Of one capability, whatever is known of it."""
        fare = table.fare(*place)
        agents, capacity = self._able.get(place, (0, 0))
        circuit = self.circuits.get(place)
        return Board(
            depth=fare.depth,
            running=fare.claimed,
            agents=agents,
            capacity=capacity,
            unplaced=fare.unplaced,
            bound=limits.CAPABILITY_DEPTH,
            starved=bool(fare.depth and not agents and not fare.claimed),
            circuit=circuit.circuit if circuit is not None else "closed",  # type: ignore[arg-type]
            retry_after_s=_retry_after_s(circuit, now),
            at=now,
        )

    def news(self, boards: dict[Place, Board], *, all_of_them: bool) -> dict[Place, Board]:
        """What is to be said: all of it once a second, between that what has changed a lot.

        A capability that is no longer among them is said once more, as empty.
        """
        ended = {place: Board(at=max((b.at for b in boards.values()), default=0.0))
                 for place in self._said.keys() - boards.keys()}  # fmt: skip
        said = {p: b for p, b in boards.items() if all_of_them or _changed(self._said.get(p), b)} | ended
        self._said = {p: b for p, b in (self._said | said).items() if p in boards}
        return said


def _able(rows: Iterable[Row], capability: str) -> tuple[int, int]:
    """(instances that would take a task, what they can run at a time)."""
    able = [row for row in rows if row.takes]
    return len(able), sum(row.about.capabilities.get(capability, 0) for row in able if row.about is not None)


def _retry_after_s(circuit: Open | None, now: float) -> float:
    return 1.0 if circuit is None or circuit.circuit != "open" else max(limits.BOARD_EVERY_S, circuit.until - now)


def _changed(before: Board | None, board: Board) -> bool:
    if before is None or before.circuit != board.circuit or before.starved != board.starved:
        return True
    full = board.bound is not None and (before.depth >= board.bound) != (board.depth >= board.bound)
    return full or abs(board.depth - before.depth) > _CHANGED_ENOUGH * limits.CAPABILITY_DEPTH
