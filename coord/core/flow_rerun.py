"""Going on from where a workflow got to, in another one: what that one takes over.

::

    facts of the original ──the decider's own fold──▶ how far its steps are
    its definition, or a newer one ──▶ taken over: what had ended, was not undone, and comes after nothing that runs

What the decider held is what is taken over, so conditions, fan-outs, local steps, decisions, signals and
sub-workflows need no rules of their own.

**What was undone has not been done.**  A step with an ``undo`` of a workflow that failed or was cancelled runs again,
and all that comes after it.  While the original may still undo such a step nobody may build on it: `WorkflowNotOver`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from graphlib import TopologicalSorter
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.core import expressions, flow_definition, workflow_life
from coord.core.expressions import Path
from coord.core.flow_definition import Plan, Planned
from coord.core.flow_state import NULL, Flow, StepState
from coord.core.workflow import WorkflowDecider
from coord.wire import where
from coord.wire.envelope import StoredFact
from coord.wire.flow import TakenOver

_KINDS: Final = frozenset({"workflow", "task", "signal", "timer"})

_MOVED_BYTES_MIN: Final = 4 * limits.KIB
"""What is smaller gains little by travelling by reference."""


def reached(facts: Sequence[StoredFact]) -> Flow | None:
    """How far a workflow is, from the facts under its key in log order; None: they do not tell of its beginning.

    It may have ended.  Raises `InvalidWorkflow` for one whose definition is none.
    """
    decider = WorkflowDecider()
    own: list[StoredFact] = []
    flow: Flow | None = None
    for fact in facts:
        if fact.kind not in _KINDS:
            continue
        if decider.forgot(fact):
            decider.recall(own)
        deque(decider.apply(fact), maxlen=0)
        if fact.kind == "workflow":
            own.append(fact)
            flow = decider.get(fact.tenant, fact.key) or flow
    if flow is None and workflow_life.beginning(own) is not None:
        raise errors.InvalidWorkflow("what it was started with was refused: none of its steps ever began")
    return flow


def take_over(flow: Flow, plan: Plan, since: Collection[str] = ()) -> dict[str, TakenOver]:
    """What a workflow of `plan` takes over from one that got as far as `flow`, and is to run the steps `since` again.

    In an order in which what is needed comes first.

    Raises `UnknownStep` for what `plan` has no step of, `WorkflowNotOver` while the original undoes, or may undo, what
    would be taken over, `StepsDiffer` where `plan` makes another thing of a step, and `InvalidWorkflow` for another
    workflow's plan.
    """
    old = flow_definition.plan(flow_definition.decode(flow.definition))
    if old.definition.name != plan.definition.name:
        raise errors.InvalidWorkflow(
            "a definition of another workflow", workflow=plan.definition.name, original=old.definition.name
        )
    for name in since:
        if name not in plan.by_name:
            raise errors.UnknownStep("there is no such step", step=name, unknown=name, workflow=old.definition.name)
    if flow.phase in ("stopping", "undoing"):
        raise errors.WorkflowNotOver("it is stopping, and may undo what it did", workflow=flow.life.id)
    taken: dict[str, TakenOver] = {}
    differ: list[str] = []
    may_undo: list[str] = []
    for index in TopologicalSorter({p.index: p.needs for p in plan.steps}).static_order():
        planned = plan.steps[index]
        name = planned.step.name
        before = old.by_name.get(name)
        if before is None or name in since or any(plan.steps[n].step.name not in taken for n in planned.needs):
            continue
        state = flow.steps[before.index]
        outcome = _outcome(before, state, is_undone=flow.phase == "ending" and not flow.succeeds)
        if outcome is None or (outcome.status == "failed" and not planned.step.optional):
            continue
        if _shape(planned) != _shape(before):
            differ.append(name)
        elif flow.phase == "running" and _may_be_undone(before, state):
            may_undo.append(name)
        taken[name] = outcome
    if differ:
        raise errors.StepsDiffer(steps=sorted(differ), workflow=plan.definition.name)
    if may_undo:
        raise errors.WorkflowNotOver(workflow=flow.life.id, steps=sorted(may_undo))
    return taken


def _may_be_undone(planned: Planned, state: StepState) -> bool:
    return planned.step.undo is not None and not state.inherited and state.status != "skipped"


def _outcome(planned: Planned, state: StepState, *, is_undone: bool) -> TakenOver | None:
    """What has become of a step; None: it has not ended, or was undone."""
    if is_undone and _may_be_undone(planned, state):
        return None
    if state.status == "completed":
        return TakenOver(output=msgspec.Raw(NULL if state.output is None else state.output))
    if state.status == "skipped":
        return TakenOver(status="skipped")
    if state.status == "failed" and planned.step.optional:
        return TakenOver(status="failed", error=state.error, message=state.message)
    return None


def _shape(planned: Planned) -> tuple[Any, ...]:
    """What a step's output is the output of."""
    step = planned.step
    what = step.task or step.signal or (step.workflow.name if step.workflow is not None else None)
    if isinstance(step.decide, str):
        what = step.decide
    return planned.kind, planned.fanned, what


# --- outputs that do not fit --------------------------------------------------------------------


def wanted(plan: Plan, taken: Collection[str]) -> set[str]:
    """The steps that are taken over and whose output is handed on by what runs, or is given."""
    found = {name for step in _running(plan, taken) for name, _ in _handed(step)}
    return found.intersection(taken)


def movable(plan: Plan, taken: dict[str, TakenOver]) -> list[str]:
    """The steps whose output may travel by reference, as nothing that runs looks into it; the largest first."""
    read = {name for step in _running(plan, taken) for name, looks in _handed(step) if looks}
    found = [
        name
        for name, over in taken.items()
        if name not in read and len(over.output) > _MOVED_BYTES_MIN and b'"$ref":' not in bytes(over.output)
    ]
    return sorted(found, key=lambda name: (-len(taken[name].output), name))


def _running(plan: Plan, taken: Collection[str]) -> list[Planned | Plan]:
    return [plan, *(planned for planned in plan.steps if planned.step.name not in taken)]


def _handed(of: Planned | Plan) -> list[tuple[str, bool]]:
    """Steps whose output a step (or the workflow's own output) names, and whether it looks into it."""
    if isinstance(of, Plan):
        mapping = of.definition.output
        if mapping is None:
            return [(planned.step.name, False) for planned in of.last]
        return _named(expressions.paths(mapping), looks=False)
    step = of.step
    # A table's rules and a sub-workflow's steps look into what they are given.
    looks = of.kind in ("decide", "workflow")
    if step.input is not None:
        found = _named(expressions.paths(step.input), looks=looks)
    else:
        found = [(name, looks) for name in step.needs]
    if isinstance(step.for_each, str):
        found += _named(expressions.paths(step.for_each), looks=True)
    if step.when is not None:
        places = where.places(expressions.condition(step.when))
        found += _named((tuple(map(str, place.path)) for place in places), looks=True)
    if step.undo is not None:
        found += _named(expressions.paths(step.undo.input), looks=False)
    return found


def _named(paths: Any, *, looks: bool) -> list[tuple[str, bool]]:
    def of(path: Path) -> tuple[str, bool] | None:
        is_output = len(path) > 2 and path[0] == "steps" and path[2] == "output"
        return (path[1], looks or len(path) > 3) if is_output else None

    return [named for named in map(of, paths) if named is not None]
