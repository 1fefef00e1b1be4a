"""Bugs to be found: each is a few lines of what somebody might have written, put in the place of what is right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from coord import limits
from coord.core import (
    deciding,
    flags,
    flow_rerun,
    flow_run,
    handoff,
    locks,
    presence_decider,
    recorded,
    reuse,
    rules,
    signals,
    task_decider,
    tasks,
    timers,
)
from coord.core.capability import CapabilityState
from coord.core.deciding import Arm, Push, Settle, State
from coord.core.scheduling import PlacementDecider
from coord.core.timers import TimerDecider
from coord.core.workflow import WorkflowDecider
from coord.testing import deciders, fleet
from coord.wire.envelope import StoredFact

Patch = pytest.MonkeyPatch


def claim_gate_ignored(patch: Patch) -> None:
    """A worker states its claim without the condition that it is the first of its number."""
    patch.setattr(fleet, "CLAIM_ONCE", None)


def live_claims_naked(patch: Patch) -> None:
    """After a takeover every delivery is naked, that of a live claim too."""

    def reconcile(self: task_decider.TaskDecider, now: float) -> Iterable[Any]:
        return [
            *right(self, now),
            *(Settle(task_decider._queue(t), t.submitted_seq, "nak") for t in self._tasks.values()),
        ]

    right = task_decider.TaskDecider.reconcile
    patch.setattr(task_decider.TaskDecider, "reconcile", reconcile)


def anybodys_outcome_believed(patch: Patch) -> None:
    """The fold does not ask who holds the claim."""

    def held(self: tasks.Task, fact: StoredFact, claim: int | None) -> tasks.Refusal | None:
        return tasks._FINISHED if self.ended else None

    patch.setattr(tasks.Task, "_held", held)


def ids_by_chance(patch: Patch) -> None:
    """What is decided twice is stated under two ids."""
    count = itertools.count()
    patch.setattr(deciders, "event_id_of", lambda _: f"chance-{next(count)}")


def snapshot_too_early(patch: Patch) -> None:
    """A snapshot is stored before the log has what its facts led to."""
    patch.setattr(deciders.Session, "is_answered", lambda *_: True)


def acked_when_claimed(patch: Patch) -> None:
    """The delivery is settled when somebody takes it, as many queues do."""

    def claimed(self: task_decider.TaskDecider, ident: Any, task: tasks.Task, fact: StoredFact) -> Iterable[Any]:
        return [*right(self, ident, task, fact), Settle(task_decider._queue(task), task.submitted_seq, "ack")]

    right = task_decider.TaskDecider._claimed
    patch.setattr(task_decider.TaskDecider, "_claimed", claimed)


def snapshot_forgets_deaths(patch: Patch) -> None:
    """A field is missing in a snapshot."""

    def dump(self: task_decider.TaskDecider) -> Any:
        dumped = right(self)
        for task in dumped.tasks:
            task.failures = 0
        return dumped

    right = task_decider.TaskDecider.dump
    patch.setattr(task_decider.TaskDecider, "dump", dump)


def undone_is_done(patch: Patch) -> None:
    """A rerun takes over what was undone, or may be."""
    patch.setattr(flow_rerun, "_may_be_undone", lambda *_: False)


def newest_holds_the_lock(patch: Patch) -> None:
    """Who asks last is served first."""
    patch.setattr(locks.Lock, "holders", property(lambda self: list(self.requests.values())[-self.permits :]))


def nothing_owed(patch: Patch) -> None:
    """Whoever takes over believes that what was demanded before has been stated."""
    patch.setattr(deciding.Owed, "take", lambda _: [])


def needs_ignored(patch: Patch) -> None:
    """A step begins when one of those that it needs has ended."""

    def done(self: WorkflowDecider, run: Any) -> list[Any]:
        for state in run.flow.steps:
            state.missing = min(state.missing, 1)
        return right(self, run)

    right = WorkflowDecider._done
    patch.setattr(WorkflowDecider, "_done", done)


def local_steps_done_again(patch: Patch) -> None:
    """What an agent went on with is submitted all the same."""
    patch.setattr(flow_run.Run, "_done_already", lambda self, planned, state, _: _submitted(self, planned, state))


def _submitted(run: flow_run.Run, planned: Any, state: Any) -> None:
    run._open(state, 0)
    run._submit(planned, 0, run.live.input_of(planned, 0))


def local_failures_wait_for_nothing(patch: Patch) -> None:
    """A local step that failed is to be submitted again, and no timer says when."""
    patch.setattr(flow_run.Run, "_set_timer", lambda *_: None)


def members_all_at_once(patch: Patch) -> None:
    """A fan-out begins all of its members."""

    def fill(self: flow_run.Run, planned: Any, state: Any) -> None:
        many = 100 * planned.fanned
        state.over += many
        right(self, planned, state)
        state.over -= many

    right = flow_run.Run._fill
    patch.setattr(flow_run.Run, "_fill", fill)


def waits_have_no_end(patch: Patch) -> None:
    """A step waits for its signal for as long as it takes."""
    right = flow_run.Run._set_timer

    def set_timer(self: flow_run.Run, planned: Any, state: Any, after_s: float) -> None:
        if planned.kind != "signal":
            right(self, planned, state, after_s)

    patch.setattr(flow_run.Run, "_set_timer", set_timer)


def older_table_again(patch: Patch) -> None:
    """What is stated again of a decision table replaces what somebody set meanwhile."""
    patch.setattr(rules.RuleSet, "_is_over", lambda *_: False)


def releases_forgotten(patch: Patch) -> None:
    """Neither a death nor an overrun releases a claim."""

    def tick(self: task_decider.TaskDecider, now: float, presence: Any) -> Iterable[Any]:
        return [e for e in right(self, now, presence) if not (isinstance(e, State) and e.event == "released")]

    right = task_decider.TaskDecider.tick
    patch.setattr(task_decider.TaskDecider, "tick", tick)
    patch.setattr(task_decider.TaskDecider, "gone", lambda *_: ())


def told_before_it_is_decided(patch: Patch) -> None:
    """Whoever is chosen is told at once, whether or not the log takes the decision."""

    def decided(self: PlacementDecider, ident: Any, entry: Any, task: tasks.Task, now: float) -> list[Any]:
        effects = right(self, ident, entry, task, now)
        for effect in [e for e in effects if isinstance(e, State) and e.data.get("agent") is not None]:
            said = {"what": "placed", "key": task.key, "id": task.id, "n": effect.attempt, "claim": task.next_claim}
            effects.append(Push(task.tenant, effect.data["agent"], effect.data["instance"], "task", said))
        return effects

    right = PlacementDecider._decide
    patch.setattr(PlacementDecider, "_decide", decided)


def silence_is_patience(patch: Patch) -> None:
    """Who does not answer an offer is waited for."""

    def look(self: PlacementDecider, ident: Any, now: float) -> list[Any]:
        task = self._tasks.get(*ident)
        offered = task is not None and task.placing is not None and task.placing.agent is not None
        return [] if offered else right(self, ident, now)

    right = PlacementDecider.look
    patch.setattr(PlacementDecider, "look", look)


# --- timers ----------------------------------------------------------------------------------


def firings_count_twice(patch: Patch) -> None:
    """What comes again from the server's stream of timers counts again."""
    count = itertools.count(1)
    patch.setattr(timers, "_place", lambda _: (next(count), ""))


def cancelled_too_late(patch: Patch) -> None:
    """A timer that was cancelled fires if it was armed."""
    patch.setattr(timers.Timer, "_cancel", lambda *_: None)


def armed_once(patch: Patch) -> None:
    """Whoever sets a timer arms it, and nobody looks whether that was so."""
    patch.setattr(TimerDecider, "tick", lambda *_: ())
    patch.setattr(TimerDecider, "reconcile", lambda *_: ())


def never_disarmed(patch: Patch) -> None:
    """What recurs in vain is left alone: its removal was asked for once."""

    def apply(self: TimerDecider, fact: StoredFact) -> Iterable[Any]:
        ours = self.get(fact.tenant, fact.key, fact.id)
        return [e for e in right(self, fact) if ours is not None or not isinstance(e, Arm) or e.schedule]

    right = TimerDecider.apply
    patch.setattr(TimerDecider, "apply", apply)


def what_queues_begins_at_once(patch: Patch) -> None:
    """The next task of a timer does not wait for the end of the one that waits for its own."""
    right = TimerDecider._follow

    def follow(self: TimerDecider, ident: Any, timer: timers.Timer, fact: StoredFact) -> list[Any]:
        if (running := self._running.get(ident)) is not None and running.waits:
            self._leave(ident)
        return right(self, ident, timer, fact)

    patch.setattr(TimerDecider, "_follow", follow)


def what_waits_is_forgotten(patch: Patch) -> None:
    """A snapshot has the task that runs, and not the one that waits for its end."""
    right = TimerDecider.dump

    def dump(self: TimerDecider) -> Any:
        dumped = msgspec.convert(msgspec.to_builtins(right(self)), timers._Dump)
        for *_, running in dumped.running:
            running.waits = 0
        return dumped

    patch.setattr(TimerDecider, "dump", dump)


# --- flags -----------------------------------------------------------------------------------


def stated_again_it_wins(patch: Patch) -> None:
    """What a flag was when it was stated again replaces what somebody said meanwhile."""

    def set_(self: flags.Flag, fact: StoredFact, said: Any) -> None:
        self.said, self.seq, self.by = said, fact.seq, fact.agent if said.said is None else said.said.by

    patch.setattr(flags.Flag, "_set", set_)


def flags_leave_the_log(patch: Patch) -> None:
    """Nobody states an old flag again."""
    patch.setattr(flags.FlagDecider, "edge", lambda *_: ())


def what_was_stated_again_first_holds(patch: Patch) -> None:
    """Who meets what was stated again too late believes it, whatever is stated again after it."""
    patch.setattr(flags.Flag, "is_over", lambda self, origin: bool(self.seq) and origin != self.seq)


# --- handoffs --------------------------------------------------------------------------------


def anybody_accepts(patch: Patch) -> None:
    """The fold does not ask whether the author was asked."""

    def open_(self: handoff.Handoff, fact: StoredFact) -> Any:
        if fact.event in ("accepted", "declined") and self.addressee is not None:
            fact = msgspec.structs.replace(fact, agent=self.addressee, detail=(str(self.n),))
        return right(self, fact)

    right = handoff.Handoff._open
    patch.setattr(handoff.Handoff, "_open", open_)


def asked_again(patch: Patch) -> None:
    """Who has declined is asked once more: still the least loaded one."""
    patch.setattr(handoff, "_may", lambda row, of: row.state == "alive" and row.takes and row.agent != of.offerer)


def silence_is_refusal(patch: Patch) -> None:
    """Whoever has not answered by the next look is taken for silent."""

    def tick(self: handoff.HandoffDecider, now: float, presence: Any) -> Iterable[Any]:
        return right(self, now + 3.0, presence)

    right = handoff.HandoffDecider.tick
    patch.setattr(handoff.HandoffDecider, "tick", tick)


def expired_while_asked(patch: Patch) -> None:
    """An end is believed whatever was stated since it was decided."""

    def open_(self: handoff.Handoff, fact: StoredFact) -> Any:
        return right(self, msgspec.structs.replace(fact, detail=()) if fact.event == "expired" else fact)

    right = handoff.Handoff._open
    patch.setattr(handoff.Handoff, "_open", open_)
    patch.setattr(handoff.HandoffDecider, "_late", late_without_a_look)


def late_without_a_look(self: handoff.HandoffDecider, ident: Any, found: handoff.Handoff) -> list[Any]:
    """As it was before the simulation found it."""
    return self._next(ident, found, "silent") if found.status == "offered" else [handoff._expired(found, "nobody")]


# --- agents, circuits ------------------------------------------------------------------------


def doubt_is_death(patch: Patch) -> None:
    """Whoever has not been heard of is gone, right after a process has begun as well."""

    def seen(presence: Any, _watch: Any, agent: Any, instance: str) -> str:
        row = presence.get(agent.tenant, agent.agent, instance)
        return "gone" if row is None else row.state

    patch.setattr(presence_decider, "_seen", seen)


def deaths_are_not_stated(patch: Patch) -> None:
    """What is heard of a death is not written down."""
    right = presence_decider._due
    patch.setattr(presence_decider, "_due", lambda stated, seen: None if seen != "alive" else right(stated, seen))
    patch.setattr(presence_decider.PresenceDecider, "gone", lambda *_: ())


def quarantined_for_good(patch: Patch) -> None:
    """Nobody looks whether it uses less now."""

    def quota(self: Any, at: Any, agent: Any, usage: Any, now: float) -> Iterable[Any]:
        return [] if agent.quarantined else right(self, at, agent, usage, now)

    right = presence_decider.PresenceDecider._quota
    patch.setattr(presence_decider.PresenceDecider, "_quota", quota)


def one_failure_opens(patch: Patch) -> None:
    """Few are enough for a circuit to open."""

    def decide(self: CapabilityState, window: Any, now: float) -> str | None:
        return "opened" if self.circuit == "closed" and window.failed else right(self, window, now)

    right = CapabilityState.decide
    patch.setattr(CapabilityState, "decide", decide)


def tried_at_once(patch: Patch) -> None:
    """An open circuit does not wait longer each time."""
    patch.setattr(CapabilityState, "open_s", property(lambda _: limits.CAPABILITY_OPEN_S))


def steps_done_again(patch: Patch) -> None:
    """Who executes a task after a death begins from the start."""
    right = recorded.recorded

    def forgets(facts: list[StoredFact]) -> Any:
        task, records = right(facts)
        return task, {} if task is not None and task.deaths else records

    patch.setattr(fleet, "recorded", forgets)


def newest_step_holds(patch: Patch) -> None:
    """What is recorded is believed, whoever says it."""

    def believing(facts: list[StoredFact]) -> Any:
        task, _ = tasks.fold(facts)
        return task, {f.data["step"]: recorded._read(f) for f in facts if f.event == "recorded" and "step" in f.data}

    patch.setattr(fleet, "recorded", believing)


# --- signals, locks --------------------------------------------------------------------------


def raised_before_is_forgotten(patch: Patch) -> None:
    """Who begins to wait after the signal was raised is not told."""

    def awaited(self: signals.SignalDecider, *args: Any, **kwargs: Any) -> Iterable[Any]:
        return [e for e in right(self, *args, **kwargs) if not isinstance(e, Push)]

    right = signals.SignalDecider._awaited
    patch.setattr(signals.SignalDecider, "_awaited", awaited)


def the_dead_keep_their_locks(patch: Patch) -> None:
    """A lock is given back by its holder alone."""
    patch.setattr(locks.LockDecider, "gone", lambda *_: ())
    patch.setattr(locks.LockDecider, "tick", lambda *_: ())


def one_more_holds_it(patch: Patch) -> None:
    """A semaphore counts its permits from nought."""
    patch.setattr(locks.Lock, "holders", property(lambda self: list(self.requests.values())[: self.permits + 1]))


def renewed_in_vain(patch: Patch) -> None:
    """A lease ends when it was granted for so long."""
    right = locks.Request.expires_at
    patch.setattr(
        locks.Request, "expires_at",
        property(lambda self: right.fget(msgspec.structs.replace(self, renewed_at=None))),  # type: ignore[attr-defined]
    )  # fmt: skip


def renewals_are_requests(patch: Patch) -> None:
    """Who begins to read at a renewal takes it for a request of its own, for good."""
    patch.setattr(locks.Lock, "_may_be", lambda *_: False)


def the_rest_is_not_looked_at(patch: Patch) -> None:
    """A wait for several is looked at for cycles only where what it is stated for last is not raised."""
    patch.setattr(signals.SignalDecider, "_rest_of", lambda *_: ())


def deadlocks_are_patience(patch: Patch) -> None:
    """Nobody looks for cycles."""
    patch.setattr(signals, "find_cycle", lambda *_, **__: ())


def old_answers_serve(patch: Patch) -> None:
    """Whatever was done once answers, however old it is."""
    patch.setattr(reuse, "joinable", lambda task, **_: not task.ended or task.status in reuse.ANSWERS)


def failures_serve(patch: Patch) -> None:
    """What failed answers as what was done does."""
    patch.setattr(reuse, "ANSWERS", reuse.ANSWERS | {"failed"})


def each_begins_his_own(patch: Patch) -> None:
    """Nobody joins what runs."""
    right = reuse.joinable
    patch.setattr(reuse, "joinable", lambda task, **more: task.ended and right(task, **more))


BUGS: tuple[Callable[[Patch], None], ...] = (
    claim_gate_ignored,
    live_claims_naked,
    anybodys_outcome_believed,
    ids_by_chance,
    snapshot_too_early,
    acked_when_claimed,
    snapshot_forgets_deaths,
    undone_is_done,
    newest_holds_the_lock,
    nothing_owed,
    needs_ignored,
    local_steps_done_again,
    steps_done_again,
    newest_step_holds,
    local_failures_wait_for_nothing,
    members_all_at_once,
    waits_have_no_end,
    older_table_again,
    releases_forgotten,
    told_before_it_is_decided,
    silence_is_patience,
    firings_count_twice,
    cancelled_too_late,
    armed_once,
    never_disarmed,
    what_queues_begins_at_once,
    what_waits_is_forgotten,
    stated_again_it_wins,
    flags_leave_the_log,
    what_was_stated_again_first_holds,
    anybody_accepts,
    asked_again,
    silence_is_refusal,
    expired_while_asked,
    doubt_is_death,
    deaths_are_not_stated,
    quarantined_for_good,
    one_failure_opens,
    tried_at_once,
    raised_before_is_forgotten,
    the_dead_keep_their_locks,
    one_more_holds_it,
    renewed_in_vain,
    renewals_are_requests,
    the_rest_is_not_looked_at,
    deadlocks_are_patience,
    old_answers_serve,
    failures_serve,
    each_begins_his_own,
)
