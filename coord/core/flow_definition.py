"""A workflow's definition, checked and made ready to be followed: its `Plan`.

Whoever starts a workflow checks it with this, and the decider does so again: a definition that
is none is refused with an error that names the step at fault.

::

    needs(step) = what it says it needs, and every step that its condition or a mapping names
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import errors, limits
from coord.core import expressions, placement
from coord.core.expressions import Path
from coord.errors import InvalidWorkflow, WireError
from coord.wire import arguments, where
from coord.wire.flow import Definition, RuleTable, Step
from coord.wire.numbers import check_integers
from coord.wire.subjects import check_token
from coord.wire.where import Judge, Place
from coord.wire.work import LocalStep

Kind: TypeAlias = Literal["task", "workflow", "signal", "decide", "sleep"]

Template: TypeAlias = tuple[LocalStep, tuple[Path, ...], int]
"""A local step as it is offered, but for values; the paths of those; bytes of what is there, as JSON."""

UNDO: Final = "undo_"
"""How the ids of tasks that compensate begin: a step's name never does."""

_KINDS: Final[dict[str, Kind]] = {
    "task": "task", "workflow": "workflow", "signal": "signal", "decide": "decide", "sleep_s": "sleep",
}  # fmt: skip
_FANNED: Final = frozenset({"task", "workflow"})
_HEADS: Final = frozenset({"input", "steps", "item", "index", "workflow"})
_OF_STEP: Final = frozenset({"output", "status", "error"})
_AT_STEP: Final = re.compile(r"`\$\.steps\[(\d+)\]")
_MONTH_S: Final = 31 * 86_400.0


class Planned:
    """One step, ready to be followed."""

    __slots__ = ("after", "dependents", "fanned", "index", "kind", "line", "needs", "offer", "order", "step", "when")

    def __init__(self, index: int, step: Step, kind: Kind, when: Judge | None, order: list[Place]) -> None:
        self.index = index
        self.step = step
        self.kind = kind
        self.fanned = step.for_each is not None
        self.needs: tuple[int, ...] = ()
        self.dependents: tuple[int, ...] = ()
        self.when = when
        self.order = order
        """The values that `when` looks at."""
        self.after: int | None = None
        """Of a local step: the step that its agent did before."""
        self.line: tuple[int, ...] = ()
        """The local steps that may follow it at once, in order."""
        self.offer: tuple[Template, ...] | None = None
        """The same as submissions offer them (`coord.core.flow_local`); None: not looked at yet."""


class Plan:
    """A checked definition."""

    __slots__ = ("by_name", "definition", "last", "steps", "version")

    def __init__(self, definition: Definition, steps: list[Planned]) -> None:
        self.definition = definition
        self.steps = steps
        self.by_name = {planned.step.name: planned for planned in steps}
        self.last = [planned for planned in steps if not planned.dependents]
        """Steps that none needs."""
        self.version = f"{definition.name}@{definition.version}"

    def part_of(self, task: str) -> tuple[Planned, int] | None:
        """Whose step a task's (or sub-workflow's) id is, and which of a fan-out; None: nobody's."""
        planned = self.by_name.get(task)
        if planned is not None:
            return None if planned.fanned else (planned, 0)
        name, dash, number = task.rpartition("-")
        planned = self.by_name.get(name) if dash else None
        if planned is None or not planned.fanned or not _is_number(number):
            return None
        return planned, int(number)

    def capabilities(self) -> set[str]:
        """What tasks ask for, those of sub-workflows too."""
        return set(_capabilities(self.definition))


def task_id(planned: Planned, item: int) -> str:
    """Of the task, or in names of the sub-workflow, that is item `item` of a step."""
    return f"{planned.step.name}-{item}" if planned.fanned else planned.step.name


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and (text == "0" or not text.startswith("0"))


def _capabilities(definition: Definition) -> Iterator[str]:
    for step in definition.steps:
        if step.task is not None:
            yield step.task
        if step.undo is not None:
            yield step.undo.task
        if step.workflow is not None:
            yield from _capabilities(step.workflow)


# --- checking ---------------------------------------------------------------------------------


def decode(raw: bytes) -> Definition:
    """A definition from JSON; raises `InvalidWorkflow`."""
    try:
        return msgspec.json.decode(raw, type=Definition)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise _not_one(exc, raw) from exc


def convert(value: Any) -> Definition:
    """A definition from what TOML or JSON gave; raises `InvalidWorkflow`."""
    try:
        return msgspec.convert(value, Definition)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise _not_one(exc, value) from exc


def checked(definition: Definition) -> Definition:
    """A definition that was made in Python, where nothing looks at types; raises what `plan` raises."""
    try:
        raw = msgspec.json.encode(definition)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidWorkflow(f"a definition that cannot be sent: {exc}", workflow=definition.name) from exc
    plan(decode(raw))
    return definition


def _not_one(exc: Exception, given: Any) -> InvalidWorkflow:
    """The error for what is no definition, naming the step where that can be told; `given`: its JSON, or the value."""
    found = _AT_STEP.search(str(exc))
    details = {} if found is None else _named_step(given, int(found[1]))
    return InvalidWorkflow(f"not a workflow's definition: {arguments.reason(exc, Definition)}", **details)


def _named_step(given: Any, number: int) -> dict[str, str]:
    """The name that the step of that number has, in what may be anything."""
    try:
        step = (msgspec.json.decode(given) if isinstance(given, bytes | msgspec.Raw) else given)["steps"][number]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}  # not even JSON further on
    name = step.get("name") if isinstance(step, dict) else None
    return {"step": name[:100]} if isinstance(name, str) else {}


def plan(definition: Definition, *, depth: int = 1) -> Plan:
    """The plan of a definition.

    Raises `CyclicWorkflow`, `UnknownStep`, `StepWithoutHandler`, `DuplicateStep`, or `InvalidWorkflow`
    for what else is wrong; each names the step.
    """
    _check_names(definition, depth)
    steps = [_planned(index, step, depth) for index, step in enumerate(definition.steps)]
    numbers = {step.name: index for index, step in enumerate(definition.steps)}
    for planned in steps:
        planned.needs = tuple(sorted(numbers[name] for name in _needs(planned.step, numbers)))
    for path in expressions.paths(definition.output):
        _check_path("the workflow's output", path, numbers, item=False)
    _check_order(steps)
    dependents: list[list[int]] = [[] for _ in steps]
    for planned in steps:
        for need in planned.needs:
            dependents[need].append(planned.index)
    for planned in steps:
        planned.dependents = tuple(dependents[planned.index])
    _join_lines(steps)
    return Plan(definition, steps)


def _check_names(definition: Definition, depth: int) -> None:
    if depth > limits.FLOW_DEPTH_MAX:
        raise InvalidWorkflow("workflows are nested too deeply", workflow=definition.name, max=limits.FLOW_DEPTH_MAX)
    _token(definition.name, "a workflow's name")
    if not definition.version or len(definition.version) > limits.TOKEN_BYTES_MAX:
        raise InvalidWorkflow("a version has 1 to 64 characters", workflow=definition.name)
    if not 1 <= len(definition.steps) <= limits.FLOW_STEPS_MAX:
        raise InvalidWorkflow(f"a workflow has 1 to {limits.FLOW_STEPS_MAX} steps", workflow=definition.name)
    fanned = {step.name for step in definition.steps if step.for_each is not None}
    seen: set[str] = set()
    for step in definition.steps:
        _token(step.name, "a step's name")
        if len(step.name) > limits.FLOW_NAME_BYTES_MAX or step.name.startswith(UNDO):
            raise InvalidWorkflow(
                f"a step's name has at most {limits.FLOW_NAME_BYTES_MAX} bytes and does not begin with {UNDO}",
                step=step.name,
            )
        name, _, number = step.name.rpartition("-")
        if step.name in seen or (name in fanned and _is_number(number)):
            raise errors.DuplicateStep(step=step.name, workflow=definition.name)
        seen.add(step.name)


def _token(value: str, what: str) -> None:
    try:
        check_token(value, what)
    except errors.InvalidToken as exc:
        raise InvalidWorkflow(exc.message, name=value[:100]) from exc


def _planned(index: int, step: Step, depth: int) -> Planned:
    said = [kind for field, kind in _KINDS.items() if getattr(step, field) is not None]
    if len(said) != 1:
        raise errors.StepWithoutHandler(step=step.name, said=said)
    kind = said[0]
    try:
        _check_step(step, kind, depth)
        when, order = None, []
        if step.when is not None:
            found = expressions.condition(step.when)
            order = where.places(found)
            when = where.compiled(found, order)
    except (errors.WireError, InvalidWorkflow) as exc:
        details = {"step": step.name, **exc.details}
        if isinstance(exc, InvalidWorkflow):
            raise type(exc)(exc.message, **details) from exc
        raise InvalidWorkflow(exc.message, **details) from exc
    return Planned(index, step, kind, when, order)


def _check_step(step: Step, kind: Kind, depth: int) -> None:
    if kind == "task":
        check_token(step.task or "", "a capability")
        if step.placement is not None:
            placement.parse(step.placement)
    elif kind == "signal":
        check_token(step.signal or "", "a signal's name")
    elif step.workflow is not None:
        plan(step.workflow, depth=depth + 1)
    elif isinstance(step.decide, RuleTable):
        check_table(step.decide)
    elif step.decide is not None:
        check_token(step.decide, "a decision table's name")
    if step.for_each is not None and kind not in _FANNED:
        raise InvalidWorkflow("only tasks and workflows can be fanned out")
    if isinstance(step.for_each, str) and expressions.path_of(step.for_each) is None:
        raise InvalidWorkflow("for_each is a list, or names one: $input.files", found=step.for_each[:100])
    if isinstance(step.for_each, list) and len(step.for_each) > limits.FLOW_ITEMS_MAX:
        raise InvalidWorkflow("for_each has too many members", max=limits.FLOW_ITEMS_MAX)
    if step.timeout_s is not None and kind in ("sleep", "decide"):
        raise InvalidWorkflow("timeout_s is for tasks, workflows and signals")
    if step.deadline_s is not None and kind != "task":
        raise InvalidWorkflow("deadline_s is for tasks")
    if step.approval and kind != "signal":
        raise InvalidWorkflow("only a signal can be an approval")
    if step.local:
        _check_local(step, kind)
    if step.undo is not None:
        if kind not in _FANNED:
            raise InvalidWorkflow("only tasks and workflows can be undone")
        check_token(step.undo.task, "a capability")
        _within("undo.retries", step.undo.retries or 0, 0, limits.TASK_RETRIES_MAX)
        if step.undo.timeout_s is not None:
            _within("undo.timeout_s", step.undo.timeout_s, 0.001, limits.TASK_TIMEOUT_MAX_S)
    _within("max_parallelism", step.max_parallelism, 1, limits.FLOW_ITEMS_MAX)
    _within("retries", step.retries or 0, 0, limits.TASK_RETRIES_MAX)
    _within("backoff_max_s", step.backoff_max_s, 0.001, 86_400.0)
    _within("backoff_s", step.backoff_s, 0.001, step.backoff_max_s)
    for name, value, most in (
        ("timeout_s", step.timeout_s, limits.TASK_TIMEOUT_MAX_S if kind == "task" else 12 * _MONTH_S),
        ("deadline_s", step.deadline_s, 12 * _MONTH_S),
        ("sleep_s", step.sleep_s, 12 * _MONTH_S),
    ):
        if value is not None:
            _within(name, value, 0.001, most)


def _check_local(step: Step, kind: Kind) -> None:
    if kind != "task":
        raise InvalidWorkflow("only tasks can be local")
    for name in ("for_each", "placement", "undo", "deadline_s"):
        if getattr(step, name) is not None:
            raise InvalidWorkflow(f"a local step has no {name}")


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidWorkflow(f"{name} is {least:g} to {most:g}", **{name.replace(".", "_"): value})


def check_table(table: RuleTable) -> RuleTable:
    """Itself; raises `InvalidWorkflow` for what is no decision table, `InvalidPayload` for what nobody can keep."""
    if not 1 <= len(table.rules) <= limits.RULES_MAX:
        raise InvalidWorkflow(f"a decision table has 1 to {limits.RULES_MAX} rules")
    _within("threshold", table.threshold, 0, 1)
    for number, rule in enumerate(table.rules):
        field = "confidence"
        try:
            _within(field, rule.confidence, 0, 1)
            field = "output"
            _about_input(path[0] for path in expressions.paths(rule.output))
            field = "when"
            if rule.when is not None:
                _about_input(str(place.path[0]) for place in where.places(expressions.condition(rule.when)))
        except InvalidWorkflow as exc:
            raise InvalidWorkflow(exc.message, rule=number, field=field, **exc.details) from exc
    check_integers(table)
    return table


def table_of(value: Any) -> RuleTable:
    """A checked decision table from what TOML, JSON or Python gave, of a list its rules; raises `InvalidWorkflow`.

    The error names the rule, counted from 0, and its field.
    """
    said = {"rules": value} if isinstance(value, list | tuple) else value
    try:
        return check_table(msgspec.convert(msgspec.to_builtins(said), RuleTable))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as exc:
        raise InvalidWorkflow(f"not a decision table: {exc}") from exc
    except WireError as exc:
        raise InvalidWorkflow(exc.message, **exc.details) from exc


def _about_input(heads: Iterable[str]) -> None:
    if any(head != "input" for head in heads):
        raise InvalidWorkflow("a rule is about `input` only")


# --- what a step needs ------------------------------------------------------------------------


def _needs(step: Step, numbers: dict[str, int]) -> set[str]:
    for name in step.needs:
        if name not in numbers:
            raise errors.UnknownStep(step=step.name, unknown=name)
    needs = set(step.needs)
    for path, item in _paths(step):
        needs |= _check_path(step.name, path, numbers, item=item and step.for_each is not None)
    return needs


def _paths(step: Step) -> Iterable[tuple[Path, bool]]:
    """What a step names, and whether its items are known there."""
    if step.when is not None:
        for place in where.places(expressions.condition(step.when)):
            yield tuple(str(part) for part in place.path), False
    if isinstance(step.for_each, str):
        for path in expressions.paths(step.for_each):
            yield path, False
    for path in expressions.paths(step.input):
        yield path, True
    if step.undo is not None:
        for path in expressions.paths(step.undo.input):
            if path[0] != "output":  # of what is undone
                yield path, True


def _check_path(step: str, path: Path, numbers: dict[str, int], *, item: bool) -> set[str]:
    head = path[0]
    if head not in _HEADS or (head in ("item", "index") and not item):
        raise InvalidWorkflow("there is no such value here", step=step, value=".".join(path)[:200])
    if head != "steps":
        return set()
    if len(path) < 3 or path[2] not in _OF_STEP:
        value = ".".join(path)
        raise InvalidWorkflow("of a step there is its output, its status and its error", step=step, value=value)
    if path[1] not in numbers:
        raise errors.UnknownStep(step=step, unknown=path[1])
    return {path[1]}


def _check_order(steps: list[Planned]) -> None:
    graph = {planned.index: set(planned.needs) for planned in steps}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        names = [steps[index].step.name for index in reversed(exc.args[1])]
        raise errors.CyclicWorkflow(cycle=names, step=names[0]) from exc


# --- lines of local steps -----------------------------------------------------------------------


def _join_lines(steps: list[Planned]) -> None:
    """Find what each local step follows; raises `InvalidWorkflow` where that is not one task that it alone follows.

    ::

        a ──▶ b (local) ──▶ c (local) ──▶ d        c may need a as well, or what a needs
    """
    if not any(planned.step.local for planned in steps):
        return
    before = _all_before(steps)
    follower: dict[int, int] = {}
    for planned in steps:
        if planned.step.local:
            planned.after = _followed(planned, steps, before)
            follower[planned.after] = planned.index
    for planned in steps:
        line: list[int] = []
        at = planned.index
        while at in follower and len(line) < limits.LOCAL_STEPS_MAX:
            at = follower[at]
            line.append(at)
        planned.line = tuple(line)


def _all_before(steps: list[Planned]) -> list[int]:
    """Of each step, all that must have ended before it, as bits: a definition may have very many needs."""
    before = [0] * len(steps)
    for index in TopologicalSorter({planned.index: planned.needs for planned in steps}).static_order():
        for need in steps[index].needs:
            before[index] |= 1 << need | before[need]
    return before


def _followed(planned: Planned, steps: list[Planned], before: list[int]) -> int:
    """The one step after which a local step comes at once."""
    named = planned.step.name
    # If one of its needs comes after all the others, it is the one with the most before it.
    last = max(planned.needs, key=lambda need: before[need].bit_count(), default=None)
    if last is None or before[planned.index] != 1 << last | before[last]:
        raise InvalidWorkflow("a local step comes after one other step", step=named)
    found = steps[last]
    if found.kind != "task" or found.fanned or found.step.deadline_s is not None:
        raise InvalidWorkflow(
            "a local step follows a task that is no fan-out and has no deadline_s", step=named, follows=found.step.name
        )
    if found.step.undo is not None:
        # Of what is being executed when the workflow stops the end is waited for: steps would begin meanwhile.
        raise InvalidWorkflow("a local step follows a task without undo", step=named, follows=found.step.name)
    if found.step.priority != planned.step.priority:
        raise InvalidWorkflow(
            "a local step has the priority of the step that it follows", step=named, follows=found.step.name,
            priority=planned.step.priority, followed_has=found.step.priority,
        )  # fmt: skip
    for index in found.dependents:
        if index != planned.index and not before[index] >> planned.index & 1:
            # It would wait for this one, though it does not need it.
            raise InvalidWorkflow(
                "nothing else goes on from the step that a local step follows", step=named, follows=found.step.name,
                other=steps[index].step.name,
            )  # fmt: skip
    return last
