"""What the schedulers of all partitions of one process share: who may have a task, of all that this process knows.

Slots are counted from the log (what is claimed) and from offers that are not answered: a heartbeat is
seconds old.  So two partitions do not offer one slot twice; another process's may, and an offer
too many is given back, which is learned from.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeAlias

from coord import limits
from coord.core import placement, sharing
from coord.core.deciding import Effect
from coord.core.placement import Candidate, Decision, History, Placement, Turns
from coord.core.presence import PresenceTable, Row
from coord.core.task_decider import Holder, Ident
from coord.core.tasks import Task
from coord.wire import subjects, work

Place: TypeAlias = tuple[str, str]
"""(tenant, capability)."""

_FULL_S: Final = 0.5
"""Who gave an offer back is taken for full so long, or until one of its tasks ends."""


class Member(Protocol):
    """The scheduler of one partition."""

    looked_at: float
    """Unix seconds, when time passed for it last."""

    def taken(self, holder: Holder, capability: str) -> int:
        """Slots of an instance that its partition's tasks take: claimed, or offered."""
        ...

    def waits(self, place: Place) -> bool:
        """Whether anything of that capability waits for somebody eligible."""
        ...

    def heads(self, place: Place) -> Iterator[tuple[int, int, Member, Ident]]:
        """(priority's rank, sequence, scheduler, task): of each kind of task that waits the first."""
        ...

    def look(self, ident: Ident, now: float) -> list[Effect]:
        """Decide about a task if there is anything to be decided."""
        ...

    def is_offered(self, ident: Ident) -> bool:
        """Whether somebody is offered it, or about to be."""
        ...


class Desk:
    """See the module."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """(strategy, what became of a decision); whoever shows them takes them out."""
        self.tracked: set[Place] = set()
        """Capabilities of which something was to be placed: those of others cost nothing."""
        self._members: dict[int, Member] = {}
        self._turns: dict[Place, Turns] = {}
        self._priorities: dict[Place, sharing.Turns] = {}
        self._histories: dict[tuple[str, str, str], History] = {}
        """(tenant, capability, agent) → how its tasks went."""
        self._full: dict[tuple[Holder, str], float] = {}

    def join(self, p: int, decider: Member) -> None:
        """A partition's scheduler decides from now on; it takes the place of the one before."""
        self._members[p] = decider

    def track(self, place: Place) -> None:
        """Something of this capability is to be placed."""
        if place not in self.tracked and len(self.tracked) < 2 * limits.CAPABILITIES_MAX:
            self.tracked.add(place)

    def _live(self) -> list[Member]:
        """Those that look at the time: another process has the partitions of the others."""
        members = self._members.values()
        stale = max((member.looked_at for member in members), default=0.0) - limits.PLACEMENT_STALE_S
        return [member for member in members if member.looked_at >= stale]

    def waits(self, place: Place) -> bool:
        """Whether anything of that capability waits for somebody eligible."""
        return any(member.waits(place) for member in self._members.values())

    # --- what is known of agents -------------------------------------------------------------

    def learn(self, tenant: str, capability: str, agent: str, run_s: float, *, failed: bool) -> None:
        """An execution ended."""
        at = (tenant, capability, agent)
        history = self._histories.pop(at, None) or History()
        if len(self._histories) >= limits.PLACEMENT_HISTORIES_MAX:
            del self._histories[next(iter(self._histories))]  # whoever has ended nothing for longest
        self._histories[at] = history.after(run_s, failed=failed)

    def histories(self, p: int) -> list[tuple[str, str, str, float, float]]:
        """For a partition's snapshot: each has those whose agent's name is its own."""
        return [
            (*at, h.response_s or 0.0, h.failures)
            for at, h in self._histories.items()
            if subjects.partition(at[2]) == p
        ]

    def recall(self, histories: Iterable[tuple[str, str, str, float, float]]) -> None:
        """Of a snapshot: what is not known better."""
        for tenant, capability, agent, response_s, failures in histories:
            if len(self._histories) < limits.PLACEMENT_HISTORIES_MAX:
                self._histories.setdefault((tenant, capability, agent), History(response_s, failures))

    def refused(self, holder: Holder, capability: str, now: float) -> None:
        """It gave an offer back."""
        if len(self._full) >= limits.PLACEMENT_HISTORIES_MAX:
            self._full = {who: until for who, until in self._full.items() if until > now}
        self._full[holder, capability] = now + _FULL_S

    def freed(self, holder: Holder, capability: str) -> None:
        """One of its slots is free again."""
        if self._full:
            self._full.pop((holder, capability), None)

    # --- choosing ------------------------------------------------------------------------------

    def choose(self, asked: Placement, task: Task, presence: PresenceTable, now: float) -> Decision:
        """Who is offered the task next."""
        place = (task.tenant, task.capability)
        tried = () if task.placing is None else task.placing.tried
        seed = f"{task.tenant}/{task.key}/{task.id}"
        rows = self._rows(asked, place, presence, seed)
        at_once = limits.PLACEMENT_CANDIDATES_MAX
        decision = Decision(strategy=asked.strategy)
        for start in range(0, max(1, len(rows)), at_once):
            candidates = self._candidates(place, rows[start : start + at_once], now)
            turns = self._turns.get(place)
            decision, turned = placement.choose(asked, candidates, seed=seed, tried=tried, turns=turns)
            if decision.agent is not None:
                if asked.strategy == "round_robin":
                    self._turns[place] = turned
                break
        return decision

    def _rows(self, asked: Placement, place: Place, presence: PresenceTable, seed: str) -> list[Row]:
        """Who is there and takes tasks of the capability; of very many those that the placement names first."""
        tenant, capability = place
        if asked.strategy == "agent" and asked.strict and asked.agent is not None:
            found: Iterable[Row] = presence.instances(tenant, asked.agent)
        else:
            found = presence.rows(tenant, capability)
        rows = [row for row in found if row.state == "alive" and row.takes]
        return rows if len(rows) <= limits.PLACEMENT_CANDIDATES_MAX else _in_turn(rows, asked, seed)

    def _candidates(self, place: Place, rows: list[Row], now: float) -> Iterator[Candidate]:
        tenant, capability = place
        members = self._live()
        for row in rows:
            capacity = 0 if row.about is None else row.about.capabilities.get(capability, 0)
            if row.about is None or not capacity:
                continue
            holder = row.ident
            running = sum(member.taken(holder, capability) for member in members)
            if self._full and self._full.get((holder, capability), 0.0) > now:
                running = max(running, capacity)
            quotas = row.about.quotas
            free_mib = None
            if quotas is not None and quotas.memory_mib is not None:
                free_mib = max(0.0, quotas.memory_mib - (row.beat.memory_mib or 0.0))
            yield Candidate(
                agent=row.agent, instance=row.instance, load=row.beat.load, capacity=capacity, running=running,
                labels=row.about.labels, memory_mib=free_mib, weight=_weight(row.about.labels, capacity),
                history=self._histories.get((tenant, capability, row.agent), _NO_HISTORY),
            )  # fmt: skip

    def next(self, place: Place, now: float) -> list[Effect]:
        """A slot of this capability may be free: the first that waits, of all partitions, that somebody may have.

        Of the priority whose turn it is, by the shares that a busy worker gives the queues that it pulls; where
        nobody is eligible for those, of the most urgent other one.
        """
        found = [head for member in self._live() for head in member.heads(place)]
        if not found:
            return []
        turns = self._priorities.get(place)
        if turns is None:
            turns = self._priorities[place] = sharing.Turns(limits.PRIORITY_SHARES)
        served = turns.next({work.PRIORITIES[rank] for rank, _, _, _ in found})
        heads = sorted(found, key=lambda head: (work.PRIORITIES[head[0]] != served, head[0], head[1]))
        effects: list[Effect] = []
        for _, _, member, ident in heads[: limits.PLACEMENT_LOOK_MAX]:
            effects += member.look(ident, now)
            if member.is_offered(ident):
                break
        return effects


_NO_HISTORY: Final = History()


def _in_turn(rows: list[Row], asked: Placement, seed: str) -> list[Row]:
    """More agents than are compared at once: those that it names, then the others from another one on for each task.

    The first part in which somebody is eligible decides.
    """
    begin = placement.spot(seed, len(rows))
    rows = rows[begin:] + rows[:begin]

    def named(row: Row) -> bool:
        labels = {} if row.about is None else row.about.labels
        if asked.strategy == "agent":
            return row.agent == asked.agent
        wanted = asked.prefer.items()
        near = asked.strategy == "label" and labels.get(asked.label) in asked.values
        return near or (bool(wanted) and all(labels.get(name) == value for name, value in wanted))

    rows.sort(key=lambda row: not named(row))
    return rows


def _weight(labels: dict[str, str], capacity: int) -> float:
    """Of `round_robin`: the label ``weight``, or as many tasks as it takes at a time."""
    try:
        said = float(labels["weight"])
    except (KeyError, ValueError):
        return float(capacity)
    return said if 0 < said < 1e6 else float(capacity)
