"""Local steps: those that the agent which did the step before does at once, under the same claim.

::

    decider   task a submitted, then: [b, c]  ──▶  agent   claims a, does a, b and c
    decider   a, b and c have ended           ◀──          a completed, then: [b's outcome, c's outcome]

An offer is a hint.  Whoever ignores it completes a alone, and whoever stops early tells of what was
done: the decider submits the next step as a task of its own, with what follows that one on
offer.  So what a workflow comes to does not depend on who did it.

What a step is given is a function of what the offer holds and what the line has given so far, and
says the same as `coord.core.flow_state` does of a step whose task is submitted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from coord import limits
from coord.core import expressions
from coord.core.expressions import Path
from coord.core.flow_definition import Plan, Planned, Template
from coord.core.flow_state import Live
from coord.wire import where
from coord.wire.where import Judge
from coord.wire.work import LocalStep

_CONDITIONS: Final = 1_000


# --- what is offered --------------------------------------------------------------------------


def offered(planned: Planned, live: Live) -> list[LocalStep]:
    """The local steps that may follow a task that is submitted now: as many as fit."""
    if not planned.line:
        return []
    if planned.offer is None:
        planned.offer = tuple(_templates(live.plan, planned))
    found: list[LocalStep] = []
    size = 0
    for local, paths, plain_size in planned.offer:
        more = plain_size
        if paths:
            values = {expressions.path_text(path): live.read(path) for path in paths}
            values = {name: value for name, value in values.items() if value is not where.MISSING}
            local = msgspec.structs.replace(local, values=values)  # noqa: PLW2901 - the template, filled in
            more = len(msgspec.json.encode(local))
        size += more
        if size > limits.LOCAL_BYTES_MAX:
            break
        found.append(local)
    return found


def _templates(plan: Plan, first: Planned) -> list[Template]:
    found: list[Template] = []
    line = {first.step.name}
    before = first.step.name
    for index in first.line:
        step = plan.steps[index].step
        mapping = _mapping(plan.steps[index])
        if mapping == expressions.reference(("steps", before, "output")):
            mapping = None
        local = LocalStep(
            step=step.name, task=step.task or "", input=mapping, when=step.when, labels=step.labels,
            timeout_s=limits.TASK_TIMEOUT_S if step.timeout_s is None else step.timeout_s,
        )  # fmt: skip
        named = list(expressions.paths(mapping))
        if step.when is not None:
            named += _judge(step.when)[1]
        paths = tuple(dict.fromkeys(path for path in named if path[0] != "steps" or path[1] not in line))
        found.append((local, paths, len(msgspec.json.encode(local))))
        before = step.name
        line.add(before)
    return found


def _mapping(planned: Planned) -> Any:
    """The input of a step as a mapping, where it says none."""
    step = planned.step
    if step.input is not None:
        return step.input
    if not step.needs:
        return "$input"
    outputs = {name: expressions.reference(("steps", name, "output")) for name in step.needs}
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


# --- what an agent does with it ---------------------------------------------------------------


class Line:
    """Steps that are done one after another, and what they have given."""

    __slots__ = ("_before", "_outputs")

    def __init__(self, first: str, output: bytes) -> None:
        """`output`: of the first, JSON."""
        self._before = first
        self._outputs = {first: output}

    def ended(self, step: str, output: bytes) -> None:
        """One more was completed."""
        self._before = step
        self._outputs[step] = output

    def goes_on(self, local: LocalStep) -> bool:
        """Whether a step's condition holds; raises `InvalidWorkflow` for what is no condition."""
        if local.when is None:
            return True
        judge, paths = _judge(local.when)
        return bool(judge([self._read(local, path) for path in paths]))

    def input_of(self, local: LocalStep) -> bytes:
        """What a step is given, as JSON; raises `InvalidWorkflow` for what is no mapping."""
        if local.input is None:
            return self._outputs[self._before]
        if isinstance(local.input, str):
            path = expressions.path_of(local.input)
            if path is not None and len(path) == 3 and path[0] == "steps" and path[2] == "output":
                found = self._outputs.get(path[1])
                if found is not None:
                    return found
        return msgspec.json.encode(expressions.filled(local.input, lambda path: self._read(local, path)))

    def _read(self, local: LocalStep, path: Path) -> Any:
        if path[0] == "steps" and len(path) > 2 and path[1] in self._outputs:
            if path[2] == "status":
                return "completed"
            if path[2] == "error":
                return where.MISSING
            return where.follow(msgspec.json.decode(self._outputs[path[1]]), path[3:])
        return local.values.get(expressions.path_text(path), where.MISSING)


@lru_cache(_CONDITIONS)
def _judge(text: str) -> tuple[Judge, list[Path]]:
    found = expressions.condition(text)
    order = where.places(found)
    return where.compiled(found, order), [tuple(map(str, place.path)) for place in order]
