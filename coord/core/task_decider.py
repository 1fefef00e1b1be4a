"""The task decider: what follows from the facts about tasks, from deaths and from time.

What a task *is* after a fact, `coord.core.tasks` says.  This adds what is to be done about it::

    ended                       ack its delivery · tell the submitter · tell a claimant who still runs it
    waiting (failed, retried)   nak its delivery, to come back when the backoff is over
    queued (returned, released) nak it, to come back at once
    free, and not claimed       nak it after 1, 2, 4 … 10 s: whoever was given it may be dead or hang
    claimed                     extend its lease every third of ack_wait while the instance lives
    instance gone · overran     state released.{n}; so where a quarantined agent claimed it
    deadline passed             state expired
    near the window's edge      state the submission again, with what is known of it

It holds the tasks that are open, each as its facts left it, and forgets those that ended: what a
later fact says of one is refused, or (a redrive) judged once the history was recalled.

A lease.  The broker redelivers a delivery that nobody settled within ack_wait.  A claim with an
instance is extended as long as `Presence` does not say that the instance is gone; one without (a
plain client's) until its timeout.  When this decider's process dies, another extends them all
at once when it has caught up, long before ack_wait is over.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.core import tasks
from coord.core.deciding import NONE, Effect, Open, Presence, Push, Settle, State
from coord.core.tasks import Task
from coord.core.watch import Barred, Fare, Watch
from coord.errors import WireError
from coord.wire import subjects, work
from coord.wire.envelope import StoredFact

AGENT: Final = "_task"
TOPIC: Final = "task"

EXTEND_EVERY_S: Final = limits.QUEUE_ACK_WAIT_S / 3

_OPEN_EVERY_S: Final = 30.0
"""How often it is made sure that the queues exist whose work nobody takes."""

_OPEN_AFTER_S: Final = 2.0
"""Queued for so long: nobody takes it."""

_UNTAKEN_S: Final = 1.0
"""A delivery that nobody claimed for so long is with somebody who died, hangs or went away: it is naked again,"""
_RELEASED_S: Final = 0.3
"""And this soon once after a release: the pulls of who hangs are still at the broker, and got it again."""
_UNTAKEN_MAX_S: Final = 10.0
"""then after twice as long each time, up to this."""
_UNTAKEN_MAX: Final = 64
"""The oldest of each queue are looked at: what is behind them was not delivered, or comes first later."""
_UNTAKEN_LOOK: Final = 2_000
"""Open tasks gone through for that, the oldest first."""

_DUE_SPARE: Final = 1_000
"""Deadlines of tasks that have ended are forgotten when there are so many more than twice the open tasks."""

_GONE_S: Final = limits.PUBLISH_DEADLINE_S
"""A claim that was sent is stored within this, or never."""

Ident: TypeAlias = tuple[str, str, str]
"""(tenant, key, id)."""

Place: TypeAlias = tuple[str, str, str]
"""(tenant, capability, queue)."""

Holder: TypeAlias = tuple[str, str, str]
"""(tenant, agent, instance)."""

ReleaseReason: TypeAlias = Literal["gone", "timeout", "quarantined", "drained"]


class _Outcome(msgspec.Struct, frozen=True):
    """Of a completed task, its output as its author wrote it."""

    output: msgspec.Raw = msgspec.Raw(b"null")
    ref: Any = None


class _Dump(msgspec.Struct):
    """A snapshot; only grows."""

    tasks: list[Task] = []


class TaskDecider:
    """Of one partition; a `coord.core.deciding.Decider`."""

    name = "tasks"
    kinds = frozenset({"task"})

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        """Facts that were not believed, by code."""
        self.fares: dict[tuple[str, str], Fare] = {}
        """(tenant, capability) → how its tasks fare; what ended since this was made."""
        self._claims: Counter[tuple[str, str]] = Counter()
        self._tasks: dict[Ident, Task] = {}
        self._held: dict[Holder, set[Ident]] = {}
        """What each instance has claimed."""
        self._gone: dict[Holder, float] = {}
        """Who was said to be gone, and when, for as long as a claim of theirs may still be on its way."""
        self._leases: deque[tuple[float, Ident, int]] = deque()
        """(when to extend, task, claim): every claim, in order of time."""
        self._due: list[tuple[float, Ident, int]] = []
        """A heap of (when to look, task, claim or 0): deadlines, and the timeouts that come before the next look at
        their lease: most claims end long before, and leave nothing here."""
        self._opened: dict[Place, float] = {}
        """Queues that were asked for, and when last."""
        self._untaken: dict[Ident, tuple[float, float]] = {}
        """(when to nak the delivery again, and how long it was waited before): of what is not claimed."""
        self._released: deque[tuple[float, Ident, int]] = deque()
        """(when to look whether it was taken, task, claim that was released)."""
        self._barred: Mapping[tuple[str, str], Barred] = {}
        """Who is quarantined, as of the last tick."""
        self._recalled: tuple[Ident, Task] | None = None
        self.ended: Task | None = None
        """The task that the newest fact ended, for whoever folds the fact after this; who has seen it takes it away."""
        self._now = 0.0
        self._swept_at = 0.0
        self._looked_at = 0.0

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, tenant: str, key: str, id: str) -> Task | None:  # noqa: A002 - an entity's id
        """An open task, not to be changed; None: it is unknown or has ended."""
        return self._tasks.get((tenant, key, id))

    def open_tasks(self) -> Iterable[Task]:
        """All of them, not to be changed."""
        return self._tasks.values()

    def held(self, holder: Holder, capability: str) -> int:
        """Claims of one capability that an instance holds, of this partition's tasks."""
        held = self._held.get(holder)
        return 0 if held is None else sum(self._tasks[ident].capability == capability for ident in held)

    def holds(self, holder: Holder) -> int:
        """Claims that an instance holds, of this partition's tasks."""
        return len(self._held.get(holder, ()))

    def usage(self) -> Mapping[tuple[str, str], int]:
        """(tenant, agent) → claims that it holds, those of all its instances."""
        return self._claims

    # --- facts -----------------------------------------------------------------------------

    def forgot(self, fact: StoredFact) -> bool:
        """A submission of something that is not open may be of something that has ended."""
        return fact.event == "submitted" and (fact.tenant, fact.key, fact.id) not in self._tasks

    def recall(self, facts: list[StoredFact]) -> None:
        """What is known of a task that is submitted once more."""
        task, _ = tasks.fold(facts)
        if task is not None:
            self._recalled = (task.tenant, task.key, task.id), task

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact of a task."""
        event, ident = fact.event, (fact.tenant, fact.key, fact.id)
        task = self._tasks.get(ident)
        known = task is not None
        if task is None:
            if event != "submitted":
                # It has ended, or never was: the projector, which has all of them, says which.
                self.refused["task.not_open"] += 1
                return self._claimed_in_vain(fact, None) if event == "claimed" else NONE
            task = self._recollect(ident) or Task(tenant=fact.tenant, key=fact.key, id=fact.id)
        claimant, instance, claim, was = task.claimant, task.instance, task.claims, task.status
        before = _ack(task) if known and event == "submitted" else NONE
        refusal = task.apply(fact)
        if refusal is not None:
            self.refused[refusal.code] += 1
            return self._refused(task, fact)
        if event == "recorded":
            return NONE
        if event != "progress":
            self._count(task, was if known else None, event, claimant, claim)
        if event == "completed" and task.submission.then:
            self._count_local(task, fact)
        if was == "claimed" and (event == "submitted" or task.status != "claimed"):
            self._let_go(ident, claimant, instance)
        status = task.status
        if self._untaken and (status == "claimed" or status in tasks.ENDED):
            self._untaken.pop(ident, None)
        if event == "claimed":
            return self._claimed(ident, task, fact)
        if event == "progress":
            return self._progress(task, fact)
        if event == "submitted":
            return self._submitted(ident, task, fact, before)
        if status in tasks.ENDED:
            return self._ended(ident, task, fact, claim if was == "claimed" else 0, claimant, instance)
        if event in ("failed", "returned", "released"):
            if event == "released":
                self._released.append((fact.stored_at.timestamp() + _RELEASED_S, ident, task.claims))
                if claimant is not None and tasks.decode(fact, work.Released).reason == "quarantined":
                    # Unlike the others it may well be at it.
                    return (*_nak(task, fact.stored_at.timestamp()), _stop(task, claimant, instance, claim))
            return _nak(task, fact.stored_at.timestamp())
        return NONE  # placed: the scheduler's own

    def _count(self, task: Task, was: str | None, event: str, claimant: str | None, claims: int = 0) -> None:
        """One task more or less in a status; `claimant`: who held it before; `claims`: how many there had been."""
        place = (task.tenant, task.capability)
        fare = self.fares.get(place) or self._fare_of(place)
        status = task.status
        fare.again += (status == "queued" and task.claims > 0) - (was == "queued" and claims > 0)
        if was != status:
            if was == "queued":
                fare.queued -= 1
            elif was == "claimed":
                fare.claimed -= 1
                if claimant is not None:
                    self._uses(task.tenant, claimant, -1)
            elif was == "waiting":
                fare.waiting -= 1
            if status == "queued":
                fare.queued += 1
            elif status == "claimed":
                fare.claimed += 1
                if task.claimant is not None:
                    self._uses(task.tenant, task.claimant, +1)
            elif status == "waiting":
                fare.waiting += 1
        # What ends an execution; a death says nothing of the capability.
        if event == "completed":
            fare.completed += 1
        elif event == "failed":
            fare.failed += 1
        elif event == "rejected":
            fare.rejected += 1

    def _count_local(self, task: Task, fact: StoredFact) -> None:
        """What its agent went on with: executions of other capabilities, perhaps."""
        for local, outcome in zip(task.submission.then, tasks.decode(fact, work.Completed).then, strict=False):
            fare = self._fare_of((task.tenant, local.task))
            if outcome.error is None:
                fare.completed += 1
            elif outcome.rejected:
                fare.rejected += 1
            else:
                fare.failed += 1

    def _fare_of(self, place: tuple[str, str]) -> Fare:
        fare = self.fares.get(place)
        if fare is None:
            if len(self.fares) >= 2 * limits.CAPABILITIES_MAX:
                self.fares = {p: f for p, f in self.fares.items() if f.depth or f.claimed}
            fare = self.fares[place] = Fare()
        return fare

    def _uses(self, tenant: str, agent: str, by: int) -> None:
        claims, whose = self._claims, (tenant, agent)
        held = claims.get(whose, 0) + by
        if held:
            claims[whose] = held
        else:
            del claims[whose]

    def _recollect(self, ident: Ident) -> Task | None:
        recalled, self._recalled = self._recalled, None
        return recalled[1] if recalled is not None and recalled[0] == ident else None

    def _submitted(self, ident: Ident, task: Task, fact: StoredFact, before: Iterable[Effect]) -> Iterable[Effect]:
        """`before`: what settles the submission that this one stands in for, stated again."""
        effects: list[Effect] = list(before)
        self._tasks[ident] = task
        if task.submission.input is not None:
            task.submission = msgspec.structs.replace(task.submission, input=None)  # the log has it
        if task.submission.deadline is not None:
            heapq.heappush(self._due, (task.submission.deadline, ident, 0))
        if task.status == "claimed":  # stated again: the claim goes on, with the new delivery
            self._hold(ident, task, fact.stored_at.timestamp())
        elif task.status == "waiting":
            effects += _nak(task, fact.stored_at.timestamp())
        place = (task.tenant, task.capability, task.queue)
        if place not in self._opened:
            self._opened[place] = self._now
            effects.append(Open(*place, task.submitted_seq))
        return effects

    def _claimed(self, ident: Ident, task: Task, fact: StoredFact) -> Iterable[Effect]:  # noqa: ARG002
        assert task.claimed_at is not None, "claimed"
        self._hold(ident, task, task.claimed_at)
        return NONE

    def _hold(self, ident: Ident, task: Task, at: float) -> None:
        """A claim begins, or goes on after its decider was away: leases are looked after from now on."""
        holder = None
        if task.instance is not None and task.claimant is not None:
            holder = (task.tenant, task.claimant, task.instance)
            held = self._held.get(holder)
            if held is None:
                held = self._held[holder] = set()
            held.add(ident)
        if (self._gone and holder in self._gone) or (self._barred and self._is_barred(task)):
            # It died before its claim was stored, or came back: the next tick asks which.  Or it is to take nothing.
            self._leases.appendleft((0.0, ident, task.claims))
        else:
            # In order of time but for a broker's clock that was set back; then a look comes late by as much.
            self._leases.append((at + EXTEND_EVERY_S, ident, task.claims))
        self._time_out(ident, task, 0.0, at + EXTEND_EVERY_S)

    def _time_out(self, ident: Ident, task: Task, after: float, until: float) -> None:
        """Look at a claim when it overruns, if that is then: between two looks at its lease."""
        overrun_at = _overrun_at(task)
        if after < overrun_at <= until:
            heapq.heappush(self._due, (overrun_at, ident, task.claims))

    def _is_barred(self, task: Task) -> bool:
        """Whether it was claimed by somebody who had long been quarantined."""
        why = None if task.claimant is None else self._barred.get((task.tenant, task.claimant))
        return why is not None and (task.claimed_at or 0.0) > why.since + limits.QUARANTINE_TOLD_S

    def _let_go(self, ident: Ident, agent: str | None, instance: str | None) -> None:
        if agent is None or instance is None:
            return
        holder = (ident[0], agent, instance)
        held = self._held.get(holder)
        if held is not None:
            held.discard(ident)
            if not held:
                del self._held[holder]

    def _progress(self, task: Task, fact: StoredFact) -> Iterable[Effect]:
        told = task.submission
        if not told.progress or told.instance is None:
            return NONE
        said = tasks.decode(fact, work.Progress)
        body = {
            "what": "progress", "key": task.key, "id": task.id, "instance": told.instance, "claim": task.claims,
            "done": task.progress, "note": said.note,
        }  # fmt: skip
        return (Push(task.tenant, task.submitter, told.instance, TOPIC, body),)

    def _ended(
        self, ident: Ident, task: Task, fact: StoredFact, claim: int, claimant: str | None, instance: str | None
    ) -> Iterable[Effect]:
        del self._tasks[ident]
        self.ended = task
        effects: list[Effect] = list(_ack(task))
        if task.submission.instance is not None:
            effects.append(_told(task, fact))
        if claim and claimant is not None and fact.agent != claimant:
            # Somebody else ended it: whoever runs it is to stop.
            effects.append(_stop(task, claimant, instance, claim))
        return effects

    # --- facts that are not believed ----------------------------------------------------------

    def _refused(self, task: Task, fact: StoredFact) -> Iterable[Effect]:
        if fact.event == "submitted":
            # Its queue delivers it all the same.
            try:
                capability, queue = work.submission_detail(*fact.detail)
            except (WireError, TypeError):
                return NONE  # no queue has it
            if queue == work.PLACED:
                return NONE
            return (Settle(subjects.queue(fact.tenant, capability, queue), fact.seq, "ack"),)
        if fact.event == "claimed":
            return self._claimed_in_vain(fact, task)
        return NONE

    def _claimed_in_vain(self, fact: StoredFact, task: Task | None) -> Iterable[Effect]:
        """The broker let a claim pass that the fold does not believe: whoever made it is not to run it.

        Such is a claim of a task that was cancelled before it was delivered.
        """
        n = work.number(fact.detail)
        if n is None or (task is not None and task.claimant == fact.agent and task.claims == n):
            return NONE  # the very claim, twice
        try:
            instance = tasks.decode(fact, work.Claim).instance
        except WireError:
            return NONE
        body = {"what": "cancel", "key": fact.key, "id": fact.id, "claim": n, "instance": instance}
        return (Push(fact.tenant, fact.agent, instance, TOPIC, body),)

    # --- deaths and time --------------------------------------------------------------------

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        """Every claim of an instance is released."""
        self._gone[tenant, agent, instance] = now
        return self._release_all(tenant, agent, instance, "gone")

    def leaves(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        """The same: what it holds is free at once."""
        return self.gone(tenant, agent, instance, now)

    def _release_all(self, tenant: str, agent: str, instance: str, reason: ReleaseReason) -> Iterable[Effect]:
        held = sorted(self._held.get((tenant, agent, instance), ()))
        for ident in held[limits.DECIDER_BURST :]:  # with the next ticks
            self._leases.appendleft((0.0, ident, self._tasks[ident].claims))
        return [_release(self._tasks[ident], reason) for ident in held[: limits.DECIDER_BURST]]

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        """Extend the leases that are due; end what overran; make sure of queues."""
        self._now = now
        effects: list[Effect] = []
        leases, released = self._leases, 0
        barred = presence.barred if isinstance(presence, Watch) else {}
        if barred is not self._barred:
            self._barred = barred
            if barred:  # they may have claimed something before it was known here
                leases.extendleft(
                    (0.0, ident, task.claims)
                    for ident, task in self._tasks.items()
                    if task.status == "claimed" and self._is_barred(task)
                )
        while leases and leases[0][0] <= now and released < limits.DECIDER_BURST:
            look_at, ident, claim = leases.popleft()
            task = self._tasks.get(ident)
            if task is None or task.status != "claimed" or task.claims != claim:
                continue
            leases.append((now + EXTEND_EVERY_S, ident, claim))
            self._time_out(ident, task, look_at, now + EXTEND_EVERY_S)
            if not _lives(task, presence):
                released += 1
                effects.append(_release(task, "gone"))
            elif self._barred and self._is_barred(task):
                released += 1
                effects.append(_release(task, "quarantined"))
            else:
                effects += _extend(task)
        while self._released and self._released[0][0] <= now:
            _, ident, claim = self._released.popleft()
            task = self._tasks.get(ident)
            if task is not None and task.status == "queued" and task.claims == claim:
                effects += _nak(task, now)
        while self._due and self._due[0][0] <= now and len(effects) < 2 * limits.DECIDER_BURST:
            _, ident, claim = heapq.heappop(self._due)
            effects += self._overdue(ident, claim, now)
        if now - self._swept_at >= _UNTAKEN_S:
            self._swept_at = now
            effects += self._naks_again(now)
            if len(self._due) > 2 * len(self._tasks) + _DUE_SPARE:
                self._due = [entry for entry in self._due if entry[1] in self._tasks]
                heapq.heapify(self._due)
            if self._gone:
                self._gone = {who: at for who, at in self._gone.items() if now - at < _GONE_S}
            effects += self._unserved(now)
        return effects

    def _overdue(self, ident: Ident, claim: int, now: float) -> Iterable[Effect]:
        task = self._tasks.get(ident)
        if task is None:
            return NONE
        if not claim:
            deadline = task.submission.deadline
            if deadline is None or deadline > now:
                return NONE  # of a submission before this one
            heapq.heappush(self._due, (now + 5.0, ident, 0))  # until the fact is there
            return (_expire(task),)
        if task.status != "claimed" or task.claims != claim:
            return NONE
        heapq.heappush(self._due, (now + 5.0, ident, claim))
        return (_release(task, "timeout"),)

    def _naks_again(self, now: float) -> Iterable[Effect]:
        """Deliveries that may be with somebody who will never claim them.

        Who hangs has pulls waiting at the broker still: what was taken from him is given to him again.
        """
        effects: list[Effect] = []
        seen: Counter[Place] = Counter()
        untaken: dict[Ident, tuple[float, float]] = {}
        for ident, task in itertools.islice(self._tasks.items(), _UNTAKEN_LOOK):
            place = (task.tenant, task.capability, task.queue)
            # What is to be placed is with the scheduler, which looks after it.
            if task.status == "claimed" or task.queue == work.PLACED or seen[place] >= _UNTAKEN_MAX:
                continue
            seen[place] += 1
            free_at = task.submitted_at if task.retry_at is None else task.retry_at
            at, waited_s = self._untaken.get(ident, (max(free_at, now) + _UNTAKEN_S, _UNTAKEN_S))
            if at <= now:
                effects.append(Settle(_queue(task), task.submitted_seq, "nak"))
                waited_s = min(2 * waited_s, _UNTAKEN_MAX_S)
                at = now + waited_s
            untaken[ident] = at, waited_s
        self._untaken = untaken
        return effects

    def _unserved(self, now: float) -> Iterable[Effect]:
        """Queues that may have been deleted under work that waits: the oldest of each is looked at."""
        if not any(fare.queued for fare in self.fares.values()):
            return NONE
        if now - self._looked_at < _OPEN_EVERY_S:
            return NONE
        self._looked_at = now
        oldest: dict[Place, int] = {}
        for task in self._tasks.values():
            if task.status == "queued" and now - task.submitted_at >= _OPEN_AFTER_S:
                place = (task.tenant, task.capability, task.queue)
                oldest[place] = min(oldest.get(place, task.submitted_seq), task.submitted_seq)
        return [Open(*place, seq) for place, seq in oldest.items()]

    def reconcile(self, now: float) -> Iterable[Effect]:
        """Caught up: the queues of what is open, leases of what is claimed, deliveries of what is not."""
        self._now = now
        first: dict[Place, int] = {}
        settles: list[Effect] = []
        for task in self._tasks.values():
            place = (task.tenant, task.capability, task.queue)
            first[place] = min(first.get(place, task.submitted_seq), task.submitted_seq)
            if task.status == "claimed":
                settles += _extend(task)
            elif task.claims:
                # Returned, released or failed: whether the broker was told is not known.
                settles += _nak(task, now)
        self._opened = dict.fromkeys(first, now)
        return [*(Open(*place, seq) for place, seq in first.items()), *settles]

    # --- the window ---------------------------------------------------------------------------

    def edge(self, seq: int) -> Iterable[Effect]:
        """Submissions below `seq` are stated again, with what their facts have said since."""
        return (_restate(task) for task in list(self._tasks.values()) if task.submitted_seq < seq)

    def oldest(self) -> int | None:
        """The oldest submission of an open task."""
        return min((task.submitted_seq for task in self._tasks.values()), default=None)

    def open_count(self) -> int:
        """Open tasks."""
        return len(self._tasks)

    # --- snapshots ----------------------------------------------------------------------------

    def dump(self) -> Any:
        """The open tasks."""
        return _Dump(list(self._tasks.values()))

    def load(self, dumped: Any) -> None:
        """Become them; leases and timeouts are looked at from now on."""
        self._tasks.clear()
        self._held.clear()
        self._leases.clear()
        self._due.clear()
        self._opened.clear()
        self._untaken.clear()
        self._released.clear()
        self.fares.clear()
        self._claims.clear()
        for task in msgspec.convert(dumped, _Dump).tasks:
            ident = (task.tenant, task.key, task.id)
            self._tasks[ident] = task
            self._count(task, None, "", None)
            if task.submission.deadline is not None:
                self._due.append((task.submission.deadline, ident, 0))
            if task.status == "claimed":
                if task.instance is not None and task.claimant is not None:
                    self._held.setdefault((task.tenant, task.claimant, task.instance), set()).add(ident)
                self._leases.append((0.0, ident, task.claims))
        heapq.heapify(self._due)


# --- effects ----------------------------------------------------------------------------------


def _queue(task: Task) -> str:
    return subjects.queue(task.tenant, task.capability, task.queue)


def _ack(task: Task) -> Iterable[Effect]:
    return () if task.queue == work.PLACED else (Settle(_queue(task), task.submitted_seq, "ack"),)


def _extend(task: Task) -> Iterable[Effect]:
    return () if task.queue == work.PLACED else (Settle(_queue(task), task.submitted_seq, "extend"),)


def _nak(task: Task, now: float) -> Iterable[Effect]:
    if task.queue == work.PLACED:
        return ()  # no queue has it: the scheduler offers it again
    delay_s = 0.0 if task.retry_at is None else max(0.0, task.retry_at - now)
    return (Settle(_queue(task), task.submitted_seq, "nak", delay_s),)


def _overrun_at(task: Task) -> float:
    assert task.claimed_at is not None, "claimed"
    return task.claimed_at + task.claim_s + limits.TASK_TIMEOUT_GRACE_S


def _lives(task: Task, presence: Presence) -> bool:
    if task.instance is None or task.claimant is None:
        return True  # until its timeout
    return presence.lives(task.tenant, task.claimant, task.instance)


def _release(task: Task, reason: ReleaseReason) -> State:
    return State(
        tenant=task.tenant,
        agent=AGENT,
        key=task.key,
        kind="task",
        id=task.id,
        event="released",
        detail=(str(task.claims),),
        data=work.Released(reason, task.instance),
        once="own",
        step=f"task/{task.id}/released",
        attempt=task.claims,
        from_outside=True,
        correlation_id=task.correlation_id,
    )


def _expire(task: Task) -> State:
    return State(
        tenant=task.tenant,
        agent=AGENT,
        key=task.key,
        kind="task",
        id=task.id,
        event="expired",
        detail=(str(task.redrives),) if task.redrives else (),  # redriven, it may expire again
        data=work.Ended("its deadline passed"),
        once="own",
        step=f"task/{task.id}/expired",
        attempt=task.redrives,
        from_outside=True,
        correlation_id=task.correlation_id,
    )


def _told(task: Task, fact: StoredFact) -> Push:
    """What the submitter is told of the end."""
    body: dict[str, Any] = {
        "what": "ended", "key": task.key, "id": task.id, "instance": task.submission.instance, "status": task.status,
        "claim": task.claims,
    }  # fmt: skip
    if task.status == "completed":
        body |= _output(fact)
    else:
        body["error"], body["message"] = task.error, task.message
    return Push(task.tenant, task.submitter, task.submission.instance, TOPIC, body, task.submission.together)


def _output(fact: StoredFact) -> dict[str, Any]:
    if len(fact.body) > limits.TASK_INLINE_BYTES + limits.KIB:
        return {"omitted": True}  # a plain client's: the submitter reads it in the log
    if fact.content == "json" and not fact.says_nothing:
        said = msgspec.json.decode(fact.body, type=_Outcome)
        return {"output": said.output} if said.ref is None else {"ref": said.ref}
    completed = tasks.decode(fact, work.Completed)
    return {"output": completed.output} if completed.ref is None else {"ref": completed.ref}


def _stop(task: Task, claimant: str, instance: str | None, claim: int) -> Push:
    body = {
        "what": "cancel", "key": task.key, "id": task.id, "claim": claim, "instance": instance, "status": task.status,
    }  # fmt: skip
    return Push(task.tenant, claimant, instance, TOPIC, body)


def _restate(task: Task) -> State:
    said = tasks.restatement(task)
    return State(
        tenant=task.tenant,
        agent=AGENT,
        key=task.key,
        kind="task",
        id=task.id,
        event="submitted",
        detail=(task.capability, task.queue),
        data=said,
        merge_seq=task.submitted_seq,
        once=None,  # a second one is refused by the fold: it is not the next restatement any more
        step=f"task/{task.id}/restated/{task.redrives}",
        attempt=said.restated,
        from_outside=True,
        correlation_id=task.correlation_id,
    )
