"""The scheduler: whom a task is offered that asked for a placement, one offer after the other.

::

    submitted.{capability}.placed ──▶ choose ──▶ placed.{n}: to whom, of whom, why ──▶ told ("placed")
                                        ▲                                               │
            ┌── nobody is eligible: wait ┤     returned.{n} · silent for accept_ms · gone │
            │   (a slot is freed, time)  └──────────────────────────────────────────────┤
            ▼                                                                           ▼
    wait_s is over, or offers_max were made: placed.{n} "pull"                       claimed.{m}
            │
            ▼
    submitted.{capability}.{priority}, restated: from here on it is pulled

Everything that it remembers of a task is in the log and folded by `coord.core.tasks`
(`coord.wire.work.Placing`); what is here besides is when to look again.  It folds behind the task
decider of its partition, whose tasks it reads.

Who is there, and how loaded, no log says: so a choice is stated once, under a derived id and as the
first n-th decision, and everybody goes by the fact (`State.from_outside`).  What depends on the
fact alone (the submission after "pull") follows from the fold, whoever folds.

A placement that demands something of an agent (`Placement.binding`) is never left to a pull: when
everybody was tried it begins again, a second later each time, and shows as unplaced meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from coord import limits
from coord.core import placement
from coord.core.deciding import NONE, Effect, Folding, Presence, Push, State
from coord.core.desk import Desk, Member, Place
from coord.core.placement import Decision, Placement
from coord.core.presence import PresenceTable
from coord.core.task_decider import TOPIC, Holder, Ident, TaskDecider
from coord.core.tasks import Task, restatement
from coord.errors import InvalidPayload
from coord.wire import work
from coord.wire.envelope import StoredFact

AGENT: Final = "_scheduler"

_PLACED: Final = (work.PLACED,)

_FREES: Final = frozenset({"completed", "rejected", "failed", "returned", "released", "cancelled", "expired"})
"""What may leave a slot free."""

_LOST_S: Final = 2 * limits.PUBLISH_DEADLINE_S
"""A decision that is not in the log by then was never stored."""

_RANK: Final = {priority: rank for rank, priority in enumerate(work.PRIORITIES)}


class _Entry(msgspec.Struct):
    """What is remembered of a task that is to be placed besides its fold."""

    asked: Placement
    place: Place
    since: float
    """When it became free (Unix seconds)."""
    group: str
    """Those of one group are eligible for the same agents: while its first waits the others do."""
    n: int = 0
    """The newest decision of the log that was acted upon."""
    deciding: int = 0
    """The number of a decision that is on its way to the log; 0: none is."""
    stated_at: float = 0.0
    """When that decision was made."""
    holder: Holder | None = None
    """Who is offered it, or is about to be: a slot counts as taken."""
    again: int = 0
    """How often everybody was tried,"""
    not_before: float = 0.0
    """and when it begins anew."""
    due_at: float = 0.0
    """When it is looked at next; 0: not by itself."""


class _Dump(msgspec.Struct):
    """A snapshot; only grows.  What is known of tasks the task decider's has."""

    histories: list[tuple[str, str, str, float, float]] = []


class PlacementDecider(Folding):
    """Of one partition; a `coord.core.deciding.Decider`.  In the list of deciders it comes after its task decider.

    Who is there it knows from the first `tick` on, which comes before anything is decided.
    """

    name = "placements"
    kinds = frozenset({"task"})

    def __init__(self, p: int, tasks: TaskDecider, desk: Desk) -> None:
        super().__init__()
        self.looked_at = 0.0
        """Unix seconds, of the newest `tick`."""
        self._p = p
        self._tasks = tasks
        self._desk = desk
        self._presence: PresenceTable | None = None
        self._entries: dict[Ident, _Entry] = {}
        self._offered: dict[Holder, set[Ident]] = {}
        self._waiting: dict[Place, dict[str, dict[Ident, int]]] = {}
        """Capability → group → those nobody is eligible for now, in the order in which they came → sequence."""
        self._due: list[tuple[float, Ident]] = []
        """A heap of when to look at what."""
        self._counted_at = 0.0

    # --- for the desk --------------------------------------------------------------------------

    def taken(self, holder: Holder, capability: str) -> int:
        """Slots of an instance that this partition's tasks take: claimed, or offered."""
        offered = self._offered.get(holder)
        taken = self._tasks.held(holder, capability)
        if offered:
            for ident in offered:
                task = self._tasks.get(*ident)
                taken += task is not None and task.capability == capability
        return taken

    def heads(self, place: Place) -> Iterator[tuple[int, int, Member, Ident]]:
        """Of each group of a capability that waits the first, and its rank: priority, then the order of the log."""
        for group in self._waiting.get(place, {}).values():
            ident, seq = next(iter(group.items()))
            task = self._tasks.get(*ident)
            yield (0 if task is None else _RANK[task.submission.priority], seq, self, ident)

    def waits(self, place: Place) -> bool:
        """Whether anything of that capability waits here for somebody eligible."""
        return place in self._waiting

    def is_offered(self, ident: Ident) -> bool:
        """Whether somebody is offered it, or about to be."""
        entry = self._entries.get(ident)
        return entry is not None and entry.holder is not None

    # --- facts -----------------------------------------------------------------------------------

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Look what the fact made of its task; the task decider has folded it."""
        event, tasks, desk = fact.event, self._tasks, self._desk
        ended, tasks.ended = tasks.ended, None
        if not desk.tracked and (event != "submitted" or fact.detail[1:] != _PLACED):
            return NONE  # where nothing was ever placed
        if event in ("progress", "recorded"):
            return NONE
        ident = (fact.tenant, fact.key, fact.id)
        task = tasks.get(*ident) if ended is None else ended
        if task is None:
            return NONE
        place = (task.tenant, task.capability)
        if task.queue == work.PLACED:
            desk.track(place)
        elif place not in desk.tracked:
            return NONE
        now = fact.stored_at.timestamp()
        effects: list[Effect] = []
        if event in _FREES:
            self._outcome(task, fact)
        if task.queue == work.PLACED:
            effects += self._follow(ident, task, now)
        else:
            self._forget(ident)
        if event in _FREES and self._presence is not None and desk.waits(place):
            effects += desk.next(place, now)
        return effects

    def _outcome(self, task: Task, fact: StoredFact) -> None:
        if fact.event in ("completed", "failed") and (task.ended or task.status == "waiting"):
            run_s = task.run_s
            if run_s is None:
                run_s = max(0.0, fact.stored_at.timestamp() - (task.claimed_at or 0.0)) if task.claimed_at else 0.0
            failed = fact.event == "failed"
            self._desk.learn(task.tenant, task.capability, fact.agent, max(0.0, run_s), failed=failed)
        if task.ended and task.claimant is not None and task.instance is not None:
            self._desk.freed((task.tenant, task.claimant, task.instance), task.capability)

    def _follow(self, ident: Ident, task: Task, now: float) -> list[Effect]:
        """What is to be done about a task as it is now; nothing where the fact was not believed."""
        if not task.free:
            self._taken(ident, task)
            return []
        entry = self._entries.get(ident)
        if entry is None:
            entry = self._entries[ident] = _entry(task, now)
        placing = task.placing
        n = 0 if placing is None else placing.n
        if entry.deciding > n:
            return []  # it follows
        entry.deciding = 0
        if placing is not None and placing.pull:
            self._forget(ident)
            return [_pull(task)]
        if placing is not None and placing.agent is not None:
            if entry.n == n:
                return []
            entry.n = n
            self._offer_to(ident, entry, (task.tenant, placing.agent, placing.instance or ""))
            self._later(ident, entry, placing.at + entry.asked.accept_ms / 1000)
            return [_told(task)]
        if entry.holder is not None:
            # Of the one who was offered it: a decision that is under way was excluded above.
            self._count(entry, "returned")
            self._desk.refused(entry.holder, task.capability, now)
            self._offer_to(ident, entry, None)
        entry.n = n
        return self._decide(ident, entry, task, now)

    def _taken(self, ident: Ident, task: Task) -> None:
        entry = self._entries.get(ident)
        if entry is not None:
            if task.status == "claimed" and entry.n:
                holder = (task.tenant, task.claimant or "", task.instance or "")
                self._count(entry, "accepted" if entry.holder == holder else "taken_by_another")
            self._forget(ident)

    # --- deciding --------------------------------------------------------------------------------

    def look(self, ident: Ident, now: float) -> list[Effect]:
        """Decide about a task if there is anything to be decided now."""
        entry, task = self._entries.get(ident), self._tasks.get(*ident)
        if entry is None or task is None or not task.free or task.queue != work.PLACED:
            self._forget(ident)
            return []
        placing = task.placing
        if placing is not None and placing.pull:
            return []  # submitted again
        if entry.deciding:
            if now < entry.stated_at + _LOST_S:
                self._later(ident, entry, entry.stated_at + _LOST_S)
                return []
            entry.deciding = 0  # whoever stated it could not
            self._offer_to(ident, entry, None)
        if placing is not None and placing.agent is not None and entry.holder is not None:
            late_at = placing.at + entry.asked.accept_ms / 1000
            if now < late_at:
                self._later(ident, entry, late_at)
                return []
            self._count(entry, "silent")
            self._offer_to(ident, entry, None)
        return self._decide(ident, entry, task, now)

    def _decide(self, ident: Ident, entry: _Entry, task: Task, now: float) -> list[Effect]:
        """Offer it to the next one; where there is none: wait, begin again, or leave it to a pull."""
        if self._presence is None:
            self._later(ident, entry, 1.0)  # the first tick asks
            return []
        not_before = max(entry.not_before, task.retry_at or 0.0)
        if now < not_before:
            self._later(ident, entry, not_before)
            return []
        group = self._waiting.get((task.tenant, task.capability), {}).get(entry.group)
        if group and ident not in group:
            self._wait(ident, entry, task)  # behind those who came before
            return []
        asked, placing = entry.asked, task.placing or _NOTHING
        decision = Decision(strategy=asked.strategy, reason=f"{len(placing.tried)} offers were not accepted")
        if len(placing.tried) < asked.offers_max:
            decision = self._desk.choose(asked, task, self._presence, now)
        if decision.agent is not None:
            self._unwait(ident, entry)
            self._offer_to(ident, entry, (task.tenant, decision.agent, decision.instance or ""))
            return [self._state(ident, entry, task, decision, "offered", now)]
        # Whoever waits for a slot that somebody has gains nothing by a pull, and thousands of them would load the log.
        full = "full" in decision.passed_over
        overdue = now >= entry.since + asked.wait_s and not full
        if (placing.tried or overdue) and not asked.binding:
            self._unwait(ident, entry)
            why = "nobody accepted it" if placing.tried else f"nobody was eligible for {asked.wait_s:g} s"
            told = msgspec.structs.replace(decision, pull=True, reason=f"{why}: whoever is free first")
            return [self._state(ident, entry, task, told, "pull", now)]
        if placing.tried:
            entry.again += 1
            entry.not_before = now + min(limits.PLACEMENT_AGAIN_MAX_S, 2.0 ** min(entry.again - 1, 10))
            self._unwait(ident, entry)
            told = msgspec.structs.replace(decision, again=True, reason="nobody accepted it: from the beginning")
            return [self._state(ident, entry, task, told, "nobody", now)]
        self._wait(ident, entry, task)
        if placing.unplaced or full:
            return []  # it was said before; or it waits for a slot, which is nothing to say
        return [self._state(ident, entry, task, decision, "nobody", now)]

    def _state(self, ident: Ident, entry: _Entry, task: Task, decision: Decision, what: str, now: float) -> State:
        n = 1 if task.placing is None else task.placing.n + 1
        entry.deciding, entry.stated_at = n, now
        self._later(ident, entry, now + _LOST_S)
        self._count(entry, what)
        return State(
            tenant=task.tenant, agent=AGENT, key=task.key, kind="task", id=task.id, event="placed", detail=(str(n),),
            data=msgspec.to_builtins(decision), once="own", step=f"task/{task.id}/placed", attempt=n,
            from_outside=True, correlation_id=task.correlation_id,
        )  # fmt: skip

    def _count(self, entry: _Entry, what: str) -> None:
        if self._presence is not None:  # not what is folded again
            self._desk.counts[entry.asked.strategy, what] += 1

    # --- deaths and time ----------------------------------------------------------------------

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        """What an instance was offered is offered to the next one."""
        effects: list[Effect] = []
        for ident in sorted(self._offered.get((tenant, agent, instance), ())):
            entry, task = self._entries[ident], self._tasks.get(*ident)
            if entry.deciding or task is None:
                continue  # the offer itself is on its way: nobody will answer it
            self._count(entry, "gone")
            self._offer_to(ident, entry, None)
            effects += self._decide(ident, entry, task, now)
        return effects

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        """Offers without an answer; what waits for somebody eligible; time that is over."""
        if isinstance(presence, PresenceTable):
            self._presence = presence
        self.looked_at = now
        self._desk.join(self._p, self)
        effects: list[Effect] = []
        while self._due and self._due[0][0] <= now and len(effects) < limits.DECIDER_BURST:
            at, ident = heapq.heappop(self._due)
            entry = self._entries.get(ident)
            if entry is not None and entry.due_at == at:
                entry.due_at = 0.0
                effects += self.look(ident, now)
        for place in list(self._waiting):
            for name in list(self._waiting.get(place, ())):
                effects += self._try_group(place, name, now, limits.DECIDER_BURST - len(effects))
        if now - self._counted_at >= 1.0:
            self._counted_at = now
            self._count_unplaced()
        return effects

    def _try_group(self, place: Place, name: str, now: float, most: int) -> list[Effect]:
        """Of a group that waits the first, and those behind it until one goes on waiting."""
        effects: list[Effect] = []
        while len(effects) < most:
            group = self._waiting.get(place, {}).get(name)
            if not group:
                break
            ident = next(iter(group))
            effects += self.look(ident, now)
            if ident in self._waiting.get(place, {}).get(name, ()):
                break
        return effects

    def _count_unplaced(self) -> None:
        found: Counter[Place] = Counter()
        for groups in self._waiting.values():
            for ident in itertools.chain.from_iterable(groups.values()):
                task = self._tasks.get(*ident)
                if task is not None and task.placing is not None and task.placing.unplaced:
                    found[task.tenant, task.capability] += 1
        for place, fare in self._tasks.fares.items():
            fare.unplaced = found[place]

    def reconcile(self, now: float) -> Iterable[Effect]:  # noqa: ARG002 - the state is as of the log
        """What the newest decision demanded, if that is not in the log."""
        left = [task for task in self._tasks.open_tasks() if task.queue == work.PLACED and task.placing is not None]
        return [_pull(task) for task in left if task.free and task.placing is not None and task.placing.pull]

    # --- waiting, offering ---------------------------------------------------------------------

    def _offer_to(self, ident: Ident, entry: _Entry, holder: Holder | None) -> None:
        if entry.holder == holder:
            return
        if entry.holder is not None:
            offered = self._offered.get(entry.holder, set())
            offered.discard(ident)
            if not offered:
                self._offered.pop(entry.holder, None)
        entry.holder = holder
        if holder is not None:
            self._offered.setdefault(holder, set()).add(ident)

    def _later(self, ident: Ident, entry: _Entry, at: float) -> None:
        """Look at it then, or before: every look says when the next one is."""
        if not entry.due_at or at < entry.due_at:
            entry.due_at = at
            heapq.heappush(self._due, (at, ident))

    def _wait(self, ident: Ident, entry: _Entry, task: Task) -> None:
        groups = self._waiting.setdefault(entry.place, {})
        groups.setdefault(entry.group, {}).setdefault(ident, task.submitted_seq)

    def _unwait(self, ident: Ident, entry: _Entry) -> None:
        groups = self._waiting.get(entry.place)
        group = None if groups is None else groups.get(entry.group)
        if groups is None or group is None or group.pop(ident, None) is None:
            return
        if not group:
            del groups[entry.group]
        if not groups:
            del self._waiting[entry.place]

    def _forget(self, ident: Ident) -> None:
        entry = self._entries.pop(ident, None)
        if entry is not None:
            self._offer_to(ident, entry, None)
            self._unwait(ident, entry)

    # --- snapshots -------------------------------------------------------------------------------

    def dump(self) -> Any:
        """How agents fared."""
        return _Dump(self._desk.histories(self._p))

    def load(self, dumped: Any) -> None:
        """The task decider, which comes first, has the tasks again: each is looked at."""
        self._desk.recall(msgspec.convert(dumped, _Dump).histories)
        self._entries, self._offered, self._waiting, self._due = {}, {}, {}, []
        for task in self._tasks.open_tasks():
            if task.queue != work.PLACED:
                continue
            self._desk.track((task.tenant, task.capability))
            if task.free:
                ident = (task.tenant, task.key, task.id)
                entry = self._entries[ident] = _entry(task, task.submitted_at)
                placing = task.placing
                if placing is not None:
                    entry.n = placing.n
                    if placing.agent is not None:
                        self._offer_to(ident, entry, (task.tenant, placing.agent, placing.instance or ""))
                self._later(ident, entry, 1.0)

    def open_count(self) -> int:
        """Tasks that are to be placed."""
        return len(self._entries)


_NOTHING: Final = work.Placing()


def _entry(task: Task, now: float) -> _Entry:
    """`now`: when the task became free."""
    try:
        asked = placement.parse(task.submission.placement or {})
    except InvalidPayload:
        asked = Placement()  # a plain client's: what is meant nobody knows
    name = msgspec.json.encode([task.submission.priority, asked], order="deterministic").decode()
    return _Entry(asked, (task.tenant, task.capability), now, name)


def _told(task: Task) -> Push:
    placing = task.placing
    assert placing is not None
    assert placing.agent is not None
    body = {
        "what": "placed", "key": task.key, "id": task.id, "n": placing.n, "instance": placing.instance,
        "claim": task.next_claim,
    }  # fmt: skip
    return Push(task.tenant, placing.agent, placing.instance, TOPIC, body)


def _pull(task: Task) -> State:
    """The submission once more, into the queue of its priority."""
    said = restatement(task)
    return State(
        tenant=task.tenant, agent=AGENT, key=task.key, kind="task", id=task.id, event="submitted",
        detail=(task.capability, task.submission.priority), data=said, merge_seq=task.submitted_seq,
        once=None,  # a second one is refused by the fold: it is not the next restatement any more
        step=f"task/{task.id}/pull/{task.redrives}", attempt=said.restated, correlation_id=task.correlation_id,
    )  # fmt: skip
