"""Timers: the fold of one, and what is done when it is set, fires or is cancelled.

::

                set                    fired (once), times_max reached
    (nothing) ─────▶ set ─────────────────────────────────────────────▶ fired
                     │ ▲ set again, fired (recurring)                      │ set
                     │ └──────────────────────────────────────────────────┘ │
                     │ cancelled                                             │
                     └──────────▶ cancelled ──── set ──▶ set ◀───────────────┘

The server keeps the time: a timer that is set is *armed*, a message in the stream TIMERS, and the
log takes in what that publishes.  Exactly once comes from here: a `fired` counts when it
belongs to the `set` that holds, was not counted before, and nobody cancelled first, in log order.  So
arming twice, firing twice, or firing after a cancellation change nothing, and whatever was not
armed because somebody crashed is armed again.

What recurs may say that its tasks do not `overlap`.  They have its key then, so that whoever decides folds them too:
a firing while one has not ended submits nothing (`skipped`, a fact), or waits for its end, one at a time.

Whoever submits a task under the id that a timer is to submit later has the id.  While both are in the log that
refuses the second; where the first has ended and left it meanwhile, only who folded it then knows.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.core import tasks
from coord.core.deciding import NONE, Arm, Effect, Folding, Presence, Push, Reuse, State
from coord.core.tasks import Refusal, Task, decode
from coord.errors import WireError
from coord.wire import timing as wire
from coord.wire.envelope import StoredFact
from coord.wire.timing import Cancelled, Fired, Held, Skipped, TimerSet
from coord.wire.work import Carried

AGENT: Final = "_timer"

Status: TypeAlias = Literal["set", "fired", "cancelled"]

TRANSITIONS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("-", "set"): ("set",),
    ("set", "set"): ("set",),
    ("set", "fired"): ("set", "fired"),
    ("set", "skipped"): ("set",),
    ("fired", "skipped"): ("fired",),
    ("set", "cancelled"): ("cancelled",),
    ("fired", "set"): ("set",),
    ("cancelled", "set"): ("set",),
}

_MALFORMED: Final = "timer.malformed"
_UNKNOWN: Final = Refusal("timer.not_set", "no such timer is set")
_STALE: Final = Refusal("timer.stale", "it belongs to an earlier setting of this timer")
_REPEATED: Final = Refusal("timer.repeated", "this firing was counted before")
_TAKEN: Final = Refusal("timer.taken", "somebody else has set this timer")
_NOT_SETTER: Final = Refusal("timer.not_setter", "only whoever set it, or a decider, may cancel a timer")
_FULL: Final = Refusal("timer.too_many", "too many timers are set")

Ident: TypeAlias = tuple[str, str, str]
"""(tenant, key, id)."""

_HELD: Final = tuple(name for name in Held.__struct_fields__ if name not in ("run", "since"))
"""Of the timer itself."""


class Timer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One timer as its facts leave it.  Mutable: `apply` changes it."""

    tenant: str
    key: str
    id: str
    status: Status = "set"
    said: TimerSet = TimerSet()
    setter: str = ""
    set_at: float = 0.0
    """Broker's clock, Unix seconds."""
    set_seq: int = 0
    """Of the fact by which it was set: says which firings are its."""
    seq: int = 0
    """Of the fact that the log has of that."""
    fires: int = 0
    fired_at: float | None = None
    """The last time."""
    fired_id: str = ""
    numbered: int = 0
    """How often it fired, again and again, as it was set before: its tasks are numbered from there on."""
    skipped: int = 0
    """Firings that submitted nothing, since a task of it had not ended."""
    skipped_n: int = 0
    """The last of them."""
    reason: str = ""
    """Of its cancellation; the decider says so what the broker has against a schedule."""
    taken: bool = False
    """The task that it is to submit once was submitted by somebody else since it was set."""
    begun_seq: int = 0
    """What was stated from here on has been folded: a setting of then that is not known is over; 0: nothing was."""
    since_seq: int = 0
    """For its decider: who reads from here on knows all of it; 0: from `seq` on."""

    @property
    def once(self) -> bool:
        """Whether it fires once."""
        return self.said.at is not None

    @property
    def number(self) -> int:
        """Of the task that it submitted last, of those that it submits again and again."""
        return self.numbered + (0 if self.once else self.fires)

    @property
    def next_at(self) -> float | None:
        """When it fires next, where that is known here: not of a cron schedule."""
        if self.status != "set" or self.said.cron is not None:
            return None
        if self.said.every_s is None:
            return self.said.at
        return (self.set_at if self.fired_at is None else self.fired_at) + self.said.every_s

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact of this timer; None: believed.  A refused one has changed nothing."""
        try:
            if fact.event == "set":
                return self._set(fact, decode(fact, TimerSet))
            if self.set_seq and fact.event == "skipped":
                return self._skip(fact, decode(fact, Skipped))
            if self.set_seq == 0 or self.status != "set":
                return _UNKNOWN
            if fact.event == "fired":
                return self._fire(fact, decode(fact, Fired))
            if fact.event == "cancelled":
                return self._cancel(fact, decode(fact, Cancelled))
        except WireError as exc:
            return Refusal(_MALFORMED, exc.message)
        return Refusal(_MALFORMED, "no such event of a timer")

    def _set(self, fact: StoredFact, said: TimerSet) -> Refusal | None:
        at = fact.stored_at.timestamp()
        held = said.held if fact.agent == AGENT else None
        if fact.agent != AGENT and (said.held is not None or said.restated):
            said = msgspec.structs.replace(said, held=None, restated=0)  # nobody else knows what it was
        wire.check(said, at if held is None else held.set_at)
        holds = self.set_seq != 0 and self.status == "set"
        if held is not None and holds:
            if held.set_seq == self.set_seq and said.restated > self.said.restated:
                self.said, self.seq = said, fact.seq
                self.numbered, self.taken = max(self.numbered, held.numbered), self.taken or held.taken
                if held.fires > self.fires:  # what was stated again before that was late
                    self.fires, self.fired_at, self.fired_id = held.fires, held.fired_at, held.fired_id
                return None
            return _STALE
        if held is not None and 0 < self.begun_seq <= held.set_seq:
            return _STALE
        if holds and fact.agent != self.setter and not fact.agent.startswith("_"):
            return _TAKEN
        self.numbered = self.number if self.set_seq else self.numbered
        before = _task_of(self)
        self.status, self.said, self.seq = "set", said, fact.seq
        self.taken = self.taken and before == _task_of(self)
        self.setter, self.set_at, self.set_seq, self.fires = fact.agent, at, fact.seq, 0
        self.fired_at, self.fired_id, self.reason = None, "", ""
        self.skipped = self.skipped_n = 0
        self.begun_seq = self.begun_seq or fact.seq
        if held is not None:
            for name in _HELD:
                setattr(self, name, getattr(held, name))
        return None

    def _fire(self, fact: StoredFact, said: Fired) -> Refusal | None:
        if said.set != self.set_seq:
            return _STALE
        if self.fired_id and _place(fact.event_id) <= _place(self.fired_id):
            return _REPEATED
        self.fires += 1
        self.fired_at, self.fired_id = fact.stored_at.timestamp(), fact.event_id
        if self.once or (self.said.times_max is not None and self.fires >= self.said.times_max):
            self.status = "fired"
        return None

    def _skip(self, fact: StoredFact, said: Skipped) -> Refusal | None:
        n = int(fact.detail[0]) if len(fact.detail) == 1 and fact.detail[0].isdecimal() else 0
        if self.status == "cancelled" or said.set != self.set_seq:
            return _STALE
        if not self.skipped_n < n <= self.fires:
            return _REPEATED
        self.skipped, self.skipped_n = self.skipped + 1, n
        return None

    def _cancel(self, fact: StoredFact, said: Cancelled) -> Refusal | None:
        if fact.detail and fact.detail != (str(self.set_seq),):
            return _STALE
        if fact.agent != self.setter and not fact.agent.startswith("_"):
            return _NOT_SETTER
        self.status, self.reason = "cancelled", said.reason
        return None


def fold(facts: Iterable[StoredFact]) -> Timer | None:
    """One timer's history in log order; None: it was never set."""
    timer: Timer | None = None
    for fact in facts:
        if timer is None:
            timer = Timer(tenant=fact.tenant, key=fact.key, id=fact.id)
        timer.apply(fact)
    return timer if timer is not None and timer.set_seq else None


def to_be(timer: Timer, key: str, id: str) -> Task | None:  # noqa: A002 - an entity's id
    """The task that a timer submits once, before the log has it; None: it submits no such task.

    It is ``waiting`` until then (`Task.retry_at`), or was ``cancelled`` with the timer.
    """
    told = None if timer.said.then is None else timer.said.then.submit
    if told is None or not timer.once:
        return None
    name = told.id or timer.id
    if (told.key or name, name) != (key, id):
        return None
    task = Task(
        tenant=timer.tenant, key=key, id=id, status="waiting", capability=told.capability,
        queue=wire.queue_of(told.task), submission=told.task, submitter=timer.setter, retry_at=timer.said.at,
    )  # fmt: skip
    if timer.status == "cancelled":
        task.status, task.retry_at = "cancelled", None
        task.error, task.message = "cancelled", timer.reason or None
    return task


def _place(event_id: str) -> tuple[int, str]:
    """Firings in order: ``timers-{sequence of TIMERS}`` where the server said it."""
    number = event_id.removeprefix("timers-")
    return (int(number), "") if number.isdecimal() and len(number) < 19 else (0, event_id)


class Running(msgspec.Struct):
    """Of a timer whose tasks do not overlap: the one that has not ended."""

    task: Task
    at: float
    """When that followed, Unix seconds."""
    waits: int = 0
    """queue: the number of the task that is submitted when it has ended; 0: none."""
    hearsay: bool = False
    """It was said when the timer was stated again, and not seen: what is said later counts."""

    def is_over(self, at: float) -> bool:
        """Whether it never began: somebody has its id."""
        return not self.task.submitted_seq and at > self.at + limits.TIMER_UNMET_S


def _gist(running: Running | None) -> tuple[Any, ...] | None:
    """What would be decided otherwise if it were otherwise."""
    if running is None:
        return None
    task = running.task
    return task.id, task.status, task.claims, task.failures, task.deaths, task.redrives, running.waits


class _Dump(msgspec.Struct):
    """A snapshot; only grows."""

    timers: list[Timer] = []
    begun_seq: int = 0
    over: list[tuple[str, str, str, int]] = []
    """Of timers that are over: tenant, key, id and number."""
    running: list[tuple[str, str, str, Running]] = []


class TimerDecider(Folding):
    """Of one partition; a `coord.core.deciding.Decider`.  It holds the timers that are set."""

    name = "timers"
    kinds = frozenset({"timer", "task"})

    def __init__(self) -> None:
        super().__init__()
        self._timers: dict[Ident, Timer] = {}
        self._over: dict[Ident, int] = {}
        """Of timers that are over and fired again and again: the number of the last task."""
        self._begun_seq = 0
        """Of the first fact that it believed."""
        self._due: list[tuple[float, Ident, int]] = []
        """A heap of (when to look, timer, set_seq): those but crons, if they did not fire."""
        self._to_be: dict[Ident, Ident] = {}
        """Task → the timer that is to submit it, once; of the same partition, as all that the SDK sets are."""
        self._running: dict[Ident, Running] = {}
        """By timer."""
        self._runs: dict[Ident, Ident] = {}
        """Task → the timer that waits for its end."""

    def get(self, tenant: str, key: str, id: str) -> Timer | None:  # noqa: A002 - an entity's id
        """A timer that is set; not to be changed."""
        return self._timers.get((tenant, key, id))

    # --- facts -----------------------------------------------------------------------------

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact of a timer, or of a task that one is to submit."""
        if fact.kind == "task":
            if fact.event == "submitted" and self._to_be:
                self._submitted(fact)
            return self._went_on(fact) if self._runs else NONE
        ident = (fact.tenant, fact.key, fact.id)
        timer = self._timers.get(ident)
        if timer is None:
            if fact.event == "skipped":
                return NONE  # the last firing of one that is over
            if fact.event == "set" and len(self._timers) >= limits.TIMERS_MAX:
                self.refused[_FULL.code] += 1
                return NONE
            numbered = self._over.get(ident, 0)
            timer = Timer(
                tenant=fact.tenant, key=fact.key, id=fact.id, begun_seq=self._begun_seq, numbered=numbered
            )  # fmt: skip
        set_seq, named = timer.set_seq, _task_of(timer)
        refusal = timer.apply(fact)
        if refusal is not None:
            self.refused[refusal.code] += 1
            if fact.event == "set" and refusal is _STALE:
                return _taken_back(timer, fact)
            if fact.event != "fired" or refusal not in (_STALE, _UNKNOWN):
                return NONE
            # What fires in vain is replaced, or removed: whoever was to do that may have died.
            return (_arm(timer, remove=refusal is _UNKNOWN),)
        self._begun_seq = self._begun_seq or fact.seq
        if fact.event == "skipped":
            return NONE
        if fact.event == "set":
            self._adopt(ident, timer, fact)
            self._timers[ident] = timer
            self._over.pop(ident, None)
            self._forget(ident, named)
            self._expect(ident, timer)
            inherited = timer.seq == timer.set_seq and bool(timer.numbered or timer.taken or ident in self._running)
            timer.since_seq = (timer.since_seq or 1) if inherited else timer.seq
            if timer.set_seq == set_seq:  # stated again
                mine, held = self._running.get(ident), timer.said.held
                # It went on, or fired, before that was stored: whoever begins to read there must know.
                late = held is not None and (_gist(_run_of(timer)) != _gist(mine) or held.fires < timer.fires)
                return (_again(timer, mine),) if late else NONE
            self._watch(ident, timer)
            # Who begins to read here does not see what it was before, and would count from the start, beside what runs.
            return (_arm(timer), _again(timer, self._running.get(ident))) if inherited else (_arm(timer),)
        effects: list[Effect] = []
        if timer.status != "set":
            del self._timers[ident]
            if timer.number:
                self._over[ident] = timer.number
                if len(self._over) > limits.TIMERS_NUMBERED_MAX:
                    del self._over[next(iter(self._over))]
            self._forget(ident, named)
            if not timer.once or fact.event == "cancelled":
                effects.append(_arm(timer, remove=True))
        if fact.event == "fired":
            effects += self._follow(ident, timer, fact)
        if timer.status != "set":
            self._leave(ident)  # the last firing was judged by it
        return effects

    # --- tasks that do not overlap -----------------------------------------------------------

    def _follow(self, ident: Ident, timer: Timer, fact: StoredFact) -> list[Effect]:
        """What its setter wanted to happen, in view of what of it runs."""
        told = None if timer.said.then is None else timer.said.then.submit
        if told is None or timer.said.overlap == "allow":
            return _follow(timer, fact)
        effects = _follow(timer, fact, submits=False)
        running = self._running.get(ident)
        if running is None or running.is_over(fact.stored_at.timestamp()):
            waited = 0 if running is None else running.waits
            if timer.status != "set":  # the last: nothing comes that it could be in the way of
                effects.append(_submit(timer, told, timer.number, fact))
            else:
                effects.append(self._run(ident, timer, told, waited or timer.number, fact))
                self._running[ident].waits = timer.number if waited else 0
        elif timer.said.overlap == "queue" and not running.waits:
            running.waits = timer.number
        else:
            effects.append(_skipped(timer, running.task.id))
        return effects

    def _run(self, ident: Ident, timer: Timer, told: wire.Submit, number: int, fact: StoredFact) -> State:
        stated = _submit(timer, told, number, fact)
        self._leave(ident)
        task = Task(tenant=stated.tenant, key=stated.key, id=stated.id)
        self._running[ident] = Running(task, fact.stored_at.timestamp())
        self._runs[task.tenant, task.key, task.id] = ident
        return stated

    def _went_on(self, fact: StoredFact) -> Iterable[Effect]:
        """A task: where it is one that a timer waits for, and has ended, the next may follow."""
        ident = self._runs.get((fact.tenant, fact.key, fact.id))
        if ident is None:
            return NONE
        running = self._running[ident]
        task = running.task
        if task.apply(fact) is not None or not task.ended:
            if task.submission.input is not None:
                task.submission = msgspec.structs.replace(task.submission, input=None)
            return NONE
        self._leave(ident)
        timer = self._timers[ident]
        told = None if timer.said.then is None else timer.said.then.submit
        if not running.waits or told is None:
            return NONE
        return (self._run(ident, timer, told, running.waits, fact),)

    def _leave(self, ident: Ident) -> None:
        """What runs is waited for no more."""
        running = self._running.pop(ident, None)
        if running is not None:
            del self._runs[running.task.tenant, running.task.key, running.task.id]

    def _adopt(self, ident: Ident, timer: Timer, fact: StoredFact) -> None:
        """It is set: what of it runs is known, was said with it, or does not matter any more."""
        mine = self._running.get(ident)
        held = timer.said.held
        is_heard = ident not in self._timers or (mine is not None and mine.hearsay)
        is_late = held is not None and 0 < held.since < timer.begun_seq
        if held is not None and timer.seq == fact.seq and (is_heard or is_late):
            self._leave(ident)
            running = _run_of(timer)
            if running is not None:
                running.hearsay = True
                self._running[ident] = running
                self._runs[running.task.tenant, running.task.key, running.task.id] = ident
        elif timer.set_seq == fact.seq and timer.said.overlap == "allow":
            self._leave(ident)
        elif timer.set_seq == fact.seq and ident in self._running:
            self._running[ident].waits = 0  # that was of the setting before

    def _watch(self, ident: Ident, timer: Timer) -> None:
        if timer.next_at is not None:
            heapq.heappush(self._due, (_late_at(timer), ident, timer.set_seq))

    def _expect(self, ident: Ident, timer: Timer) -> None:
        if (name := _task_of(timer)) is not None:
            self._to_be[name] = ident

    def _forget(self, ident: Ident, task: Ident | None) -> None:
        if task is not None and self._to_be.get(task) == ident:
            del self._to_be[task]

    def _submitted(self, fact: StoredFact) -> None:
        ident = self._to_be.get((fact.tenant, fact.key, fact.id))
        if ident is not None and tasks.fold([fact])[0] is not None:  # what nobody believes takes no id
            self._timers[ident].taken = True

    # --- time ------------------------------------------------------------------------------

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:  # noqa: ARG002
        """What should have fired and did not is armed again: it may never have been."""
        effects: list[Effect] = []
        while self._due and self._due[0][0] <= now:
            _, ident, set_seq = heapq.heappop(self._due)
            timer = self._timers.get(ident)
            if timer is None or timer.set_seq != set_seq:
                continue
            late_at = _late_at(timer)
            if late_at <= now:
                effects.append(_arm(timer))
                late_at = now + max(6 * limits.TIMER_LATE_S, (timer.said.every_s or 0.0) + limits.TIMER_LATE_S)
            heapq.heappush(self._due, (late_at, ident, set_seq))
        return effects

    def reconcile(self, now: float) -> Iterable[Effect]:  # noqa: ARG002
        """Whatever is not armed is."""
        return [_arm(timer, absent=True) for timer in self._timers.values()]

    # --- the window ------------------------------------------------------------------------

    def edge(self, seq: int) -> Iterable[Effect]:
        """Timers that were set long ago are set again, as they are."""
        return (
            _again(timer, self._running.get(ident))
            for ident, timer in list(self._timers.items())
            if _since(timer) < seq
        )

    def oldest(self) -> int | None:
        """Of what set them."""
        return min((_since(timer) for timer in self._timers.values()), default=None)

    # --- snapshots -------------------------------------------------------------------------

    def dump(self) -> Any:
        """The timers that are set."""
        over = [(*ident, number) for ident, number in self._over.items()]
        running = [(*ident, running) for ident, running in self._running.items()]
        return _Dump(list(self._timers.values()), self._begun_seq, over, running)

    def load(self, dumped: Any) -> None:
        """The same again."""
        said = msgspec.convert(dumped, _Dump)
        self._timers = {(t.tenant, t.key, t.id): t for t in said.timers}
        self._begun_seq = said.begun_seq
        self._over = {(tenant, key, name): number for tenant, key, name, number in said.over}
        self._due, self._to_be = [], {}
        self._running = {(tenant, key, name): running for tenant, key, name, running in said.running}
        self._runs = {(r.task.tenant, r.task.key, r.task.id): ident for ident, r in self._running.items()}
        for ident, timer in self._timers.items():
            self._expect(ident, timer)
            self._watch(ident, timer)

    def open_count(self) -> int:
        """Timers that are set."""
        return len(self._timers)


def _task_of(timer: Timer) -> Ident | None:
    """The task that it submits once under an id of its own; None: it submits none, or one that may be begun anew."""
    told = None if timer.said.then is None else timer.said.then.submit
    if told is None or not timer.once or told.reuse_for_s is not None:
        return None
    name = told.id or timer.id
    return timer.tenant, told.key or name, name


def _since(timer: Timer) -> int:
    return timer.since_seq or timer.seq


def _late_at(timer: Timer) -> float:
    """By then it should have fired."""
    assert timer.next_at is not None
    return max(timer.next_at, timer.set_at) + limits.TIMER_LATE_S


def _arm(timer: Timer, *, remove: bool = False, absent: bool = False) -> Arm:
    return Arm(
        timer.tenant, timer.key, "timer", timer.id, None if remove else wire.schedule(timer.said),
        msgspec.to_builtins(Fired(timer.set_seq)), zone=timer.said.zone, absent=absent,
    )  # fmt: skip


def _skipped(timer: Timer, task: str) -> State:
    return State(
        tenant=timer.tenant, agent=AGENT, key=timer.key, kind="timer", id=timer.id, event="skipped",
        detail=(str(timer.fires),), data=Skipped(timer.set_seq, task), once=None, step=f"skipped.{timer.id}",
        attempt=timer.set_seq, ordinal=timer.fires,
    )  # fmt: skip


def _follow(timer: Timer, fact: StoredFact, *, submits: bool = True) -> list[Effect]:
    """What its setter wanted to happen."""
    effects: list[Effect] = []
    n, then = timer.fires, timer.said.then
    if timer.said.instance is not None:
        body = {"what": "fired", "key": timer.key, "id": timer.id, "n": n, "instance": timer.said.instance}
        effects.append(Push(timer.tenant, timer.setter, timer.said.instance, wire.TOPIC, body))
    if then is not None and then.submit is not None and not timer.taken and submits:
        effects.append(_submit(timer, then.submit, timer.number, fact))
    if then is not None and then.raise_ is not None:
        told = then.raise_
        effects.append(
            State(
                tenant=timer.tenant,
                agent=AGENT,
                key=told.key,
                kind="signal",
                id=told.name,
                event="raised",
                data={"data": told.data},
                once=None,
                step=f"raise.{timer.key}.{timer.id}.{told.name}",
                attempt=timer.set_seq,
                ordinal=n,
            )
        )
    return effects


def _submit(timer: Timer, told: wire.Submit, number: int, fact: StoredFact) -> State:
    """`number`: of the task, of those that it submits again and again."""
    name = (told.id or timer.id) if timer.once else f"{timer.id[: limits.TOKEN_BYTES_MAX - 12]}-{number}"
    key = told.key or (name if timer.said.overlap == "allow" else timer.key)
    # In the name of whoever set the timer: outcomes are told to him, and he may cancel.
    carried = Carried(submitter=timer.setter, submitted_at=fact.stored_at.timestamp(), event_id=fact.event_id)
    task = msgspec.structs.replace(told.task, carried=carried)
    return State(
        tenant=timer.tenant, agent=AGENT, key=key, kind="task", id=name, event="submitted",
        detail=(told.capability, wire.queue_of(task)), data=msgspec.to_builtins(task), once="entity",
        step=f"submit.{timer.key}.{timer.id}.{name}", attempt=timer.set_seq,
        ordinal=timer.fires if timer.said.overlap == "allow" else number,
        from_outside=True,  # set again, a timer may name a task that there is: it is that one
        reuse=None if told.reuse_for_s is None else Reuse(told.reuse_for_s, fact.stored_at.timestamp()),
    )  # fmt: skip


def _taken_back(timer: Timer, late: StoredFact) -> Iterable[Effect]:
    """What was stated again though it was over: whoever begins to read there must not take it for set."""
    held = decode(late, TimerSet).held
    if held is None or held.set_seq == timer.set_seq:
        return NONE  # stated again twice
    cancelled = State(
        tenant=timer.tenant, agent=AGENT, key=timer.key, kind="timer", id=timer.id, event="cancelled",
        detail=(str(held.set_seq),), data={}, once=None, step=f"cancelled.{timer.id}", attempt=held.set_seq,
        ordinal=late.seq, from_outside=True,
    )  # fmt: skip
    return (cancelled,)


def _run_of(timer: Timer) -> Running | None:
    """What of it ran, as was said when it was stated again."""
    held = timer.said.held
    if held is None or held.run is None:
        return None
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(held.run, Running)
    return None


def _again(timer: Timer, running: Running | None = None) -> State:
    n = timer.said.restated + 1
    run = None if running is None else msgspec.to_builtins(running)
    held = Held(**{name: getattr(timer, name) for name in _HELD}, run=run, since=_since(timer))
    said = msgspec.structs.replace(timer.said, restated=n, held=held)
    return State(
        tenant=timer.tenant, agent=AGENT, key=timer.key, kind="timer", id=timer.id, event="set",
        detail=(str(timer.set_seq), str(n)), data=msgspec.to_builtins(said), once="own", step=f"set.{timer.id}",
        attempt=timer.set_seq, ordinal=n, from_outside=True, schema=wire.schema_of(said),
    )  # fmt: skip
