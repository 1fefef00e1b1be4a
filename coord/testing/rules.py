"""What must hold of timers, flags and decision tables, and what the rules of each kind have in common.

Written a second time, from docs/protocol.md, like the referee's: no fold that is under test is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import msgspec

from coord.core import flags, timers
from coord.core.deciding import Push
from coord.testing.broker import T0, TENANT
from coord.wire.envelope import StoredFact

if TYPE_CHECKING:
    from coord.testing.simulation import World

Place: TypeAlias = tuple[str, str]
"""(key, id) of an entity."""


class Rules:
    """Of one kind of entity, for one run."""

    kind: ClassVar[str]

    def __init__(self, world: World) -> None:
        self.world = world

    def take(self, fact: StoredFact) -> None:
        """The log has one more of this kind."""
        raise NotImplementedError

    def tells(self, push: Push) -> None:
        """A decider tells an agent something of this kind."""

    def unrest(self) -> Iterable[str]:
        """What has not come to its end."""
        return ()

    def judge(self) -> None:
        """Everything has come to rest: what is folded of the log is what the rules say."""

    def behind(self, seq: int) -> None:
        """The log begins with this sequence, for whoever begins now: what is open was stated again behind it."""

    def history(self, place: Place, *, since: int = 0) -> list[StoredFact]:
        """An entity's facts from a sequence on."""
        return [fact for fact in self.world.broker.history(self.kind, *place) if fact.seq >= since]

    def restated(self, place: Place, seq: int) -> list[StoredFact]:
        """An entity's facts from a sequence on; where it was stated again behind that, from there on.

        Between both somebody may have stated what is refused only by those who know what was before.
        """
        facts = self.history(place, since=seq)
        again = (at for at, fact in enumerate(facts) if fact.agent == f"_{self.kind}" and "restated" in said_of(fact))
        return facts[next(again, 0) :]


def said_of(fact: StoredFact) -> dict[str, Any]:
    """The data of a fact that has any."""
    return fact.data if isinstance(fact.data, dict) else {}


def stored_s(fact: StoredFact) -> float:
    """When, in seconds of the run."""
    return (fact.stored_at - T0).total_seconds()


# --- timers ----------------------------------------------------------------------------------


class _Timer(msgspec.Struct):
    status: str = "-"
    setter: str = ""
    said: dict[str, Any] = {}
    set_seq: int = 0
    set_s: float = 0.0
    fires: int = 0
    last: int = 0
    """The number of the last firing that counted."""
    fired_max: int = 0
    """Firings of one setting."""
    numbered: int = 0
    """Firings of settings before, which its tasks are numbered after."""
    runs: Place | None = None
    """The task that it submitted last and that has not ended, of tasks that do not overlap."""
    waits: Place | None = None
    """The one that follows it."""
    apart: set[Place] = set()
    """Its tasks since it was set so that they do not overlap."""

    @property
    def is_apart(self) -> bool:
        return self.said.get("overlap") in ("skip", "queue")


class TimerRules(Rules):
    """A timer fires when it is due, not before and not when it was cancelled, as often as it was set to."""

    kind = "timer"
    AHEAD_S: ClassVar = 86_400.0
    """What is set to fire so much later is not waited for."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.timers: dict[Place, _Timer] = {}
        self.demanded: dict[Place, Place] = {}
        """Task (key, id) → the timer whose firing submits it."""
        self.demanded_of: dict[Place, set[Place]] = {}
        """Such a task → those that it must not overlap."""
        self.refused: set[int] = set()
        """What strangers said of timers that were somebody's."""
        self.skips: set[tuple[Place, int, int]] = set()
        """(timer, its setting, which firing) that came while a task of it had not ended, and what was said of them."""
        self.skipped: set[tuple[Place, int, int]] = set()

    def take(self, fact: StoredFact) -> None:
        """One rule for each event."""
        place = (fact.key, fact.id)
        timer = self.timers.setdefault(place, _Timer())
        said, is_set = said_of(fact), timer.status == "set"
        if fact.event == "set":
            if is_set and fact.agent not in ("_timer", timer.setter):
                self.refused.add(fact.seq)
            elif fact.agent != "_timer":
                found = self.timers[place] = _Timer(
                    "set", fact.agent, said, fact.seq, stored_s(fact), fired_max=timer.fired_max,
                    numbered=timer.numbered + (0 if "at" in timer.said else timer.fires),
                )  # fmt: skip
                if is_set and found.is_apart:
                    found.runs, found.apart = timer.runs, timer.apart
        elif fact.event == "cancelled":
            mine = fact.agent == timer.setter or fact.agent.startswith("_")
            if is_set and mine and fact.detail in ((), (str(timer.set_seq),)):
                timer.status = "cancelled"
            elif not mine:
                self.refused.add(fact.seq)
        elif fact.event == "fired" and is_set and said.get("set") == timer.set_seq:
            number = int(fact.event_id.removeprefix("timers-"))
            if number > timer.last:
                timer.last = number
                self._fires(place, timer, stored_s(fact))
        elif fact.event == "skipped" and fact.agent == "_timer":
            self.skipped.add((place, said.get("set", 0), int(fact.detail[0])))
            if (place, said.get("set", 0), int(fact.detail[0])) not in self.skips:
                self.world.wrong(f"timer {place} is said to have skipped {fact.detail[0]} at {fact.seq}")

    def _fires(self, place: Place, timer: _Timer, now: float) -> None:
        timer.fires += 1
        timer.fired_max = max(timer.fires, timer.fired_max)
        every_s = timer.said.get("every_s")
        due_s = timer.said["at"] - T0.timestamp() if every_s is None else timer.set_s + timer.fires * every_s
        if now < due_s - 1e-3:
            self.world.wrong(f"timer {place} fires {due_s - now:.3f} s early")
        if every_s is None or timer.fires >= timer.said.get("times_max", 1e9):
            timer.status = "fired"
        submit = (timer.said.get("then") or {}).get("submit")
        if submit is not None:
            name = place[1] if every_s is None else f"{place[1]}-{timer.numbered + timer.fires}"
            if not timer.is_apart:
                self.demanded[name, name] = place
            elif timer.runs is None:
                self._run(place, timer, (place[0], name))
            elif timer.said["overlap"] == "queue" and timer.waits is None:
                timer.waits = (place[0], name)
            else:
                self.skips.add((place, timer.set_seq, timer.fires))

    def _run(self, place: Place, timer: _Timer, task: Place) -> None:
        self.demanded[task], self.demanded_of[task] = place, timer.apart
        timer.runs, timer.waits, timer.apart = task, None, timer.apart | {task}

    def ended(self, task: Place) -> None:
        """A task is over: the one that waits for it follows, unless its timer is over or was set anew."""
        place = self.demanded.get(task)
        timer = None if place is None else self.timers[place]
        if place is None or timer is None or timer.runs != task:
            return
        timer.runs = None
        if timer.status == "set" and timer.waits is not None:
            self._run(place, timer, timer.waits)

    def submits(self, key: str, task: str) -> None:
        """The timer decider submits a task."""
        if (key, task) not in self.demanded:
            self.world.wrong(f"task {task} is submitted, and no timer has fired for it")
        for other in self.demanded_of.get((key, task), ()):
            if other not in self.world.referee.tasks or self.world.referee.is_open(other):
                self.world.wrong(f"task {task} is submitted beside {other[1]}, which has not ended")

    def tells(self, push: Push) -> None:
        """A firing is told that the log has."""
        body = push.body
        timer = self.timers.get((body["key"], body["id"]))
        if timer is None or body["n"] > timer.fired_max:
            self.world.wrong(f"timer {body['id']} is said to have fired {body['n']} times")

    def unrest(self) -> Iterable[str]:
        """Timers that are due, what should follow, and schedules of nobody."""
        for place, timer in self.timers.items():
            if timer.status == "set" and not self._goes_on(timer):
                yield f"timer {place} has not fired"
        for task in self.demanded:
            if task not in self.world.referee.tasks:
                yield f"task {task[1]}, for which a timer has fired, is not submitted"
        for place, _, n in self.skips - self.skipped:
            yield f"timer {place} has skipped {n}, and nobody says so"
        for place, arm in self.world.broker.schedules.held.items():
            if self.timers[place].status != "set" and (arm.schedule or "").startswith("@every"):
                yield f"timer {place} is over, and fires again and again"

    def _goes_on(self, timer: _Timer) -> bool:
        at = timer.said.get("at")
        if at is None:
            return timer.said.get("times_max") is None
        return bool(at > T0.timestamp() + self.AHEAD_S)

    def judge(self) -> None:
        """The fold has the same timers."""
        for place, timer in self.timers.items():
            found = timers.fold(self.history(place))
            says = ("-", 0, 0) if found is None else (found.status, found.set_seq, found.fires)
            if says != (timer.status, timer.set_seq, timer.fires):
                self.world.wrong(f"timer {place}: the fold says {says}, the rules {timer}")

    def behind(self, seq: int) -> None:
        """What is set is set for those who begin there, and what is over is over.

        But for what strangers say of it: who does not know whose it is believes the first.
        """
        for place, timer in self.timers.items():
            found = timers.fold(fact for fact in self.restated(place, seq) if fact.seq not in self.refused)
            says = None if found is None else (found.setter, found.set_seq, found.fires, found.status)
            is_set = (timer.setter, timer.set_seq, timer.fires, timer.status)
            if says != is_set if timer.status == "set" else found is not None and found.status == "set":
                self.world.wrong(f"timer {place}: who begins at {seq} has {says}, the rules {timer}")
        self._behind_runs(seq)

    def _behind_runs(self, seq: int) -> None:
        """Who begins there knows what runs, and what waits for its end."""
        decider = timers.TimerDecider()
        for stored in self.world.broker.log[max(seq - 1, 0) :]:
            if stored.fact.kind in decider.kinds and stored.fact.seq not in self.refused:
                list(decider.apply(stored.fact))
        runs = {(key, name): running for _, key, name, running in decider.dump().running}
        for place, timer in self.timers.items():
            if timer.status == "set" and timer.is_apart:
                found, waits = runs.get(place), timer.waits and int(timer.waits[1].rpartition("-")[2])
                says = None if found is None else (found.task.key, found.task.id, found.waits)
                if says != (timer.runs and (*timer.runs, waits or 0)):
                    self.world.wrong(f"timer {place}: who begins at {seq} has {says} running, the rules {timer}")


# --- flags -----------------------------------------------------------------------------------


class FlagRules(Rules):
    """A flag is what somebody said last, in the order of the log."""

    kind = "flag"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.flags: dict[Place, tuple[str, float] | None] = {}
        """(who set it, percentage); None: removed."""

    def take(self, fact: StoredFact) -> None:
        """What the decider states again is nobody's word."""
        if fact.agent != "_flag":
            said = said_of(fact)
            self.flags[fact.key, fact.id] = (fact.agent, said["percentage"]) if fact.event == "set" else None

    def judge(self) -> None:
        """The fold has the same flags."""
        self._judge(0)

    def behind(self, seq: int) -> None:
        """So it has for those who begin there."""
        self._judge(seq)

    def _judge(self, since: int) -> None:
        for place, flag in self.flags.items():
            fold = flags.Flag(tenant=TENANT, key=place[0], id=place[1])
            for fact in self.history(place, since=since):
                fold.apply(fact)
            says = None if fold.said is None else (fold.by, fold.said.percentage)
            if says != flag:
                self.world.wrong(f"flag {place[1]}: who begins at {since} has {says}, and it is {flag}")


# --- decision tables ------------------------------------------------------------------------

AT_ONCE: Final = 2
"""Members of a fan-out that may be open at a time."""


class TableRules(Rules):
    """A decision is that of the table as it was set last when it was asked for, in the order of the log."""

    kind = "rules"
    AUTHOR: ClassVar = "_workflow"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.version: str | None = None
        self.asked: dict[tuple[str, ...], str | None] = {}
        """(workflow, step) → the version that decides."""
        self.decided: set[tuple[str, ...]] = set()

    def take(self, fact: StoredFact) -> None:
        """One rule for each event."""
        if fact.event == "asked" and fact.agent == self.AUTHOR:
            self.asked.setdefault(fact.detail, self.version)
        elif fact.event == "set" and fact.agent != self.AUTHOR:
            self.version = said_of(fact)["version"]

    def decides(self, fact: StoredFact) -> None:
        """A workflow is told what was decided."""
        place = (fact.key, *fact.detail)
        if place not in self.decided:
            self.decided.add(place)
            said = said_of(fact)
            version = None if said.get("error") == "rules.unknown" else said.get("version", "")
            if version != self.asked.get(place, ""):
                self.world.wrong(f"{place} is decided by version {version}, and asked {self.asked.get(place)}")
