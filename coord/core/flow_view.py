"""A workflow as whoever asks sees it: its life, and how far each of its steps is.

A fold over the facts under its key, made for people and graphs: what the decider holds is more
(`coord.core.flow_state`) and gone when the workflow has ended.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from coord.core import workflow_life
from coord.core.flow_definition import UNDO
from coord.core.tasks import Task
from coord.core.workflow_life import Workflow, decode
from coord.wire import flow, work
from coord.wire.envelope import StoredFact
from coord.wire.flow import Definition, Step

StepStatus: TypeAlias = Literal["waiting", "running", "completed", "failed", "cancelled", "skipped", "undone"]


class StepView(msgspec.Struct):
    """One step."""

    name: str
    status: StepStatus = "waiting"
    kind: str = "task"
    parts: dict[str, str] = {}
    """Task (of a sub-workflow: its part) → its status."""
    local: dict[str, Any] | None = None
    """Executed with the task before: whose, by which agent, from when (Unix seconds) and how long it ran."""
    waits_since: float | None = None
    """signal: when it began to wait, Unix seconds."""
    decided: dict[str, Any] | None = None
    """decide: which table, version and rule."""
    taken_over: bool = False
    """It ended in the workflow of which this one is a rerun."""


class View(msgspec.Struct):
    """A workflow."""

    life: Workflow
    definition: Definition | None
    """None: what was started is no definition."""
    steps: list[StepView]
    undo: dict[str, str] = {}
    """Compensating task → its status."""
    output: Any = None
    """completed: what it gave."""
    rerun_from: list[str] = []
    """Of a rerun: the steps that it was to begin with; none: with what had not ended."""


def view(facts: list[StoredFact]) -> View | None:
    """From the facts under a workflow's key, in log order; None: it was not started."""
    life, _ = workflow_life.fold([fact for fact in facts if fact.kind == "workflow"])
    if life is None:
        return None
    definition = _definition(facts)
    if definition is None:
        return View(life, None, [])
    steps = {step.name: StepView(step.name, kind=_kind(step)) for step in definition.steps}
    found = View(life, definition, list(steps.values()))
    if life.rerun_of is not None:
        _taken_over(found, steps, facts)
    tasks: dict[str, Task] = {}
    over = False
    for fact in facts:
        if fact.kind == "task":
            task = tasks.setdefault(fact.id, Task(tenant=fact.tenant, key=fact.key, id=fact.id))
            if task.apply(fact) is None:
                _task(found, steps, fact.id, task.status)
                if fact.event == "completed" and task.submission.then:
                    _went_on(definition, steps, task, fact)
        elif over:
            continue  # of no consequence any more; tasks may be undoing what was done
        elif fact.kind == "workflow" and fact.event == life.status and fact.stored_at.timestamp() == life.ended_at:
            over = True
            found.output = (fact.data or {}).get("output")
        elif fact.kind == "workflow" and fact.event in ("decided", "joined"):
            _reported(steps, fact)
        elif fact.kind in ("signal", "timer"):
            _waited(definition, steps, fact)
    _conclude(life, steps)
    return found


def signals_of(facts: list[StoredFact]) -> frozenset[str] | None:
    """The signals that steps of a workflow wait for, now, before or later; None: what it is made of is not known."""
    definition = _definition(facts)
    return None if definition is None else frozenset(step.signal for step in definition.steps if step.signal)


def _definition(facts: list[StoredFact]) -> Definition | None:
    """What the start that is believed says; None: there is none, or it says no definition."""
    started = workflow_life.beginning(facts)
    try:
        return (
            None if started is None else msgspec.json.decode(decode(started, flow.Started).definition, type=Definition)
        )
    except (msgspec.MsgspecError, RecursionError):
        return None


def _taken_over(found: View, steps: dict[str, StepView], facts: list[StoredFact]) -> None:
    """Steps as another workflow left them."""
    started = workflow_life.beginning(facts)
    rerun = None if started is None else decode(started, flow.Started).rerun
    if rerun is None:
        return
    found.rerun_from = rerun.since
    for name, over in rerun.steps.items():
        if name in steps:
            steps[name].status, steps[name].taken_over = over.status, True


def _kind(step: Step) -> str:
    for kind in ("task", "workflow", "signal", "decide"):
        if getattr(step, kind) is not None:
            return kind
    return "sleep"


def _step_of(steps: dict[str, StepView], name: str) -> StepView | None:
    return steps.get(name) or steps.get(name.rpartition("-")[0])


def _task(found: View, steps: dict[str, StepView], name: str, status: str) -> None:
    if name.startswith(UNDO):
        found.undo[name] = status
        step = _step_of(steps, name[len(UNDO) :])
        if step is not None and status == "completed":
            step.status = "undone"
        return
    step = _step_of(steps, name)
    if step is not None:
        step.parts[name] = status
        step.status = _together(step.parts)


def _went_on(definition: Definition, steps: dict[str, StepView], task: Task, fact: StoredFact) -> None:
    """The local steps that the agent of a task went on with."""
    retried = {step.name for step in definition.steps if step.retries != 0}
    for outcome in decode(fact, work.Completed).then:
        step = steps.get(outcome.step)
        if step is None:
            continue
        again = outcome.error is not None and not outcome.final and outcome.step in retried
        step.status = "completed" if outcome.error is None else "running" if again else "failed"
        step.parts[outcome.step] = "waiting" if again else step.status
        step.local = {
            "task": task.id, "agent": fact.agent, "at": (task.claimed_at or 0.0) + (outcome.after_s or 0.0),
            "run_s": outcome.run_s,
        }  # fmt: skip


def _together(parts: dict[str, str]) -> StepStatus:
    statuses = set(parts.values())
    if statuses & {"failed", "rejected", "expired"}:
        return "failed"
    if statuses & {"queued", "claimed", "waiting"}:
        return "running"
    return "cancelled" if "cancelled" in statuses else "completed"


def _reported(steps: dict[str, StepView], fact: StoredFact) -> None:
    step = _step_of(steps, fact.detail[0]) if fact.detail else None
    if step is None:
        return
    said = fact.data or {}
    if fact.event == "decided":
        step.status = "failed" if said.get("error") else "completed"
        step.decided = {name: said.get(name) for name in ("table", "version", "rule", "confidence")}
    else:
        step.parts[fact.detail[0]] = said.get("status", "completed")
        step.status = _together(step.parts)


def _waited(definition: Definition, steps: dict[str, StepView], fact: StoredFact) -> None:
    if fact.kind == "timer":
        step = steps.get(fact.id)
        if step is not None and step.kind == "sleep":
            step.status = "running" if fact.event == "set" else "completed" if fact.event == "fired" else "cancelled"
        return
    for said in definition.steps:
        step = steps[said.name]
        if said.signal != fact.id:
            continue
        if fact.event == "awaited" and fact.detail == (said.name,) and step.status == "waiting":
            step.status, step.waits_since = "running", fact.stored_at.timestamp()
        elif fact.event == "raised" and step.status in ("running", "waiting"):
            step.status, step.waits_since = "completed", None
        elif fact.event == "resumed" and fact.detail == (said.name,):
            step.status, step.waits_since = "failed", None


def _conclude(life: Workflow, steps: dict[str, StepView]) -> None:
    """What has not begun in a workflow that has ended will not."""
    if not life.ended:
        return
    for step in steps.values():
        step.waits_since = None
        if step.status in ("waiting", "running"):
            step.status = "skipped" if step.status == "waiting" else "cancelled"
    if life.step in steps and steps[life.step].status in ("completed", "skipped"):
        steps[life.step].status = "failed"
