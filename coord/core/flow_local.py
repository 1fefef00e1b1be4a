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
from typing import Any, Final, NamedTuple

import msgspec

from coord import limits
from coord.core import expressions
from coord.core.expressions import Path
from coord.core.flow_definition import Plan, Planned, Template
from coord.core.flow_state import Live, reference_in
from coord.errors import PayloadTooLarge
from coord.wire import where
from coord.wire.where import Judge
from coord.wire.work import LocalOutcome, LocalStep

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
            try:
                values = {expressions.path_text(path): live.read(path) for path in paths}
            except PayloadTooLarge:
                break  # fails when its turn comes, and says why
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
            timeout_s=step.timeout_s, retries=step.retries,
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

    __slots__ = ("_before", "_outputs", "is_over", "used")

    def __init__(self, first: str, output: bytes) -> None:
        """`output`: of the first, JSON."""
        self._before = first
        self._outputs = {first: output}
        self.used = 0
        """Bytes of what its local steps have given."""
        self.is_over = False
        """Whether nothing can follow what ended last: it failed, or its output is elsewhere."""

    def ended(self, outcome: LocalOutcome, output: bytes) -> None:
        """One more was executed; `output`: what it gave, JSON."""
        self._before = outcome.step
        self._outputs[outcome.step] = output
        self.used += len(output)
        self.is_over = outcome.error is not None or outcome.ref is not None

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


class Moment(NamedTuple):
    """What whoever did the step before knows when the next might begin."""

    claim: int
    """The number of the claim under which the line is done."""
    after_s: float
    """Since the task began."""
    able: bool = True
    """Whether it has a handler for the step's capability."""
    leaving: bool = False
    """Whether it begins nothing more: it leaves, its execution ends, or is held for something critical."""
    slot: bool = True
    """Whether the step's capability has a slot for it."""
    crowded: bool = False
    """Whether something more urgent may wait for a slot that the line has, or would have with the step."""
    yields: bool = True
    """Whether the step makes way where the task would."""


def begins(line: Line, local: LocalStep, at: Moment) -> bytes | None:
    """What a local step is given, as JSON, if it is to begin now; None: the line stops before it.

    Raises `InvalidWorkflow` for what is no mapping or no condition.
    """
    if at.claim != 1:
        return None  # somebody died of one of the steps perhaps: alone, each is counted and named
    most_s = limits.LOCAL_CROWDED_S if at.crowded else limits.LOCAL_S
    if at.leaving or at.after_s >= most_s or not (at.able and at.slot and at.yields):
        return None
    if line.is_over or line.used >= limits.LOCAL_OUTPUT_BYTES_MAX or not line.goes_on(local):
        return None
    given = line.input_of(local)
    return None if reference_in(given) is not None else given  # a payload of its own is the decider's to hand on


@lru_cache(_CONDITIONS)
def _judge(text: str) -> tuple[Judge, list[Path]]:
    found = expressions.condition(text)
    order = where.places(found)
    return where.compiled(found, order), [tuple(map(str, place.path)) for place in order]
