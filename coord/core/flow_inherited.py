"""Steps that a workflow has from another one: ended before it began.

Which they are and what they gave stands in the start (`coord.wire.flow.Rerun`), so what follows is decided by the
workflow's own facts alone.  Whoever starts it says so; nothing is believed of it that an input would not be.

A step belongs to the workflow that did it: what was taken over is never undone here.
"""

from __future__ import annotations

from coord.core.flow_definition import Plan
from coord.core.flow_state import Flow
from coord.errors import InvalidWorkflow, UnknownStep
from coord.wire.flow import Rerun, TakenOver


def check(plan: Plan, rerun: Rerun) -> None:
    """Raise `InvalidWorkflow`, or `UnknownStep`, for what a workflow of this plan cannot begin with."""
    for name in (*rerun.since, *rerun.steps):
        if name not in plan.by_name:
            raise UnknownStep(
                "there is no such step", step=name[:100], unknown=name[:100], workflow=plan.definition.name
            )
    for name in rerun.since:
        if name in rerun.steps:
            raise InvalidWorkflow("a step is to be run again, and was taken over", step=name)
    for name, over in rerun.steps.items():
        planned = plan.by_name[name]
        for need in planned.needs:
            needed = plan.steps[need].step.name
            if needed not in rerun.steps:
                raise InvalidWorkflow("a step was taken over, and one that it needs was not", step=name, needs=needed)
        if over.status == "failed" and not planned.step.optional:
            raise InvalidWorkflow("only an optional step can be taken over as failed", step=name)


def inherit(plan: Plan, flow: Flow, rerun: Rerun) -> None:
    """Give a flow that begins the steps that it takes over."""
    for name, over in rerun.steps.items():
        planned = plan.by_name[name]
        state = flow.steps[planned.index]
        state.status, state.inherited = over.status, True
        state.output = bytes(over.output) if over.status == "completed" else None
        if over.status == "failed":
            state.error, state.message = (over.error or "")[:200], (over.message or "")[:2_000]
        flow.left -= 1
        for index in planned.dependents:
            flow.steps[index].missing -= 1
    flow.rerun = without_outputs(rerun)


def without_outputs(rerun: Rerun) -> Rerun:
    """What is known of it when the outputs are elsewhere."""
    steps = {name: TakenOver(status=over.status) for name, over in rerun.steps.items()}
    return Rerun(of=rerun.of, since=rerun.since, steps=steps)
