"""Workflows written in Python: what gives the definition that TOML and JSON files are.

::

    flow = coord.Workflow("review", version="2")
    scan = flow.task("scan", "scan")  # a step and the capability that it asks for
    each = flow.task("each", "summarize", for_each=scan.output["files"], max_parallelism=8)
    gate = flow.approval("gate", "approved", needs=[each], timeout_s=86_400)
    flow.task("publish", "publish", needs=[gate], input={"text": each.output}, undo="unpublish")

`scan.output` and `flow.input` name values: in an input they stand for them, and comparing one
makes a condition: ``when=scan.output["score"] >= 0.8``.  What one names it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeAlias

from coord.core import expressions, flow_definition, flow_files
from coord.errors import InvalidWorkflow
from coord.wire import arguments
from coord.wire.flow import Definition, RuleTable, Step, Undo, When
from coord.wire.where import Condition, Members, Place

Needs: TypeAlias = "Iterable[StepRef | str] | StepRef | str"
"""Steps that must have ended before: some, or one."""


class StepRef:
    """A step of a workflow that is being written."""

    __slots__ = ("error", "name", "output", "status")

    def __init__(self, name: str) -> None:
        self.name = name
        self.output = _members("steps", name, "output")
        """What it gives: ``step.output["member"]``."""
        self.status = _members("steps", name, "status")
        """`completed`, `skipped` or `failed`."""
        self.error = _members("steps", name, "error")

    def __repr__(self) -> str:
        return f"StepRef({self.name!r})"


class Workflow:
    """A workflow that is being written.  `definition` checks it.

    ``flow.input["member"]`` is what it is started with, ``flow.item`` and ``flow.index`` the member that a part of a
    fan-out is for and its number, ``step.output["member"]`` what a step gave: in inputs, lists and conditions.

    All steps take `needs` (steps that end before; those that are named are needed too), `when` (a condition, else it
    is skipped), `optional` (the workflow goes on when it fails) and `timeout_s` (of the whole step; of one execution of
    a task: default: its handler's, else 600).  Tasks and workflows take `input`, `for_each` and `max_parallelism` (5);
    tasks `priority`, `retries` (its handler's, else 3), `backoff_s` (1), `backoff_max_s` (60), `deadline_s` (of all
    executions), `placement`, `labels`, `preemptible`, `undo` and `local`.
    """

    def __init__(self, name: str, *, version: str = "1", description: str = "") -> None:
        self.name = name
        self.version = version
        self.description = description
        self.input = _members("input")
        """What it is started with: ``flow.input["member"]``."""
        self.item = _members("item")
        """In a fan-out, the member that a part is for,"""
        self.index = _members("index")
        """and its number."""
        self._steps: list[Step] = []
        self._output: Any = None

    @classmethod
    def from_dict(cls, definition: Mapping[str, Any] | Definition) -> Self:
        """One that is defined as data, as files have it; raises `InvalidWorkflow` naming the step."""
        said = definition if isinstance(definition, Definition) else flow_definition.convert(definition)
        flow_definition.plan(said)
        flow = cls(said.name, version=said.version, description=said.description)
        flow._steps = list(said.steps)
        flow._output = said.output
        return flow

    @classmethod
    def from_toml(cls, text: str, /, **parameters: Any) -> Self:
        """One from the text of a TOML file, or of a template with these parameters; raises `InvalidWorkflow`."""
        return cls.from_dict(flow_files.parse(flow_files.filled(text, parameters)))

    @classmethod
    def from_json(cls, text: str | bytes, /) -> Self:
        """One from the text of a JSON file; raises `InvalidWorkflow`."""
        return cls.from_dict(flow_files.parse(text, is_json=True))

    def task(
        self,
        name: str,
        capability: str,
        *,
        needs: Needs = (),
        undo: str | Undo | None = None,
        **options: Any,
    ) -> StepRef:
        """A step that is a task for whoever has `capability`.  `options`: see the class.

        `undo`: the capability (or an `Undo`) that compensates it.
        """
        compensation = Undo(task=undo) if isinstance(undo, str) else undo
        return self._add(name, needs, task=capability, undo=compensation, **options)

    def workflow(self, name: str, inner: Workflow | Definition, *, needs: Needs = (), **options: Any) -> StepRef:
        """A step that is a workflow of its own."""
        arguments.is_a(inner, (Workflow, Definition), "inner", "a Workflow or a Definition", InvalidWorkflow)
        defined = inner.definition() if isinstance(inner, Workflow) else inner
        return self._add(name, needs, workflow=defined, **options)

    def signal(self, name: str, signal: str, *, needs: Needs = (), **options: Any) -> StepRef:
        """A step that waits for a signal under the workflow's key; what was said with it is its output."""
        return self._add(name, needs, signal=signal, **options)

    def approval(self, name: str, signal: str, *, needs: Needs = (), **options: Any) -> StepRef:
        """A step that somebody has to say yes to: `WorkflowHandle.approve`."""
        return self._add(name, needs, signal=signal, approval=True, **options)

    def decide(
        self,
        name: str,
        table: str | RuleTable | Mapping[str, Any] | list[When] | list[dict[str, Any]],
        *,
        needs: Needs = (),
        **options: Any,
    ) -> StepRef:
        """A step that is a decision: of the table of that name (`Coord.rules`), or of this one, or these rules."""
        decided = table
        if not isinstance(table, str):
            try:
                decided = flow_definition.table_of(table)
            except InvalidWorkflow as exc:
                raise InvalidWorkflow(exc.message, step=name, **exc.details) from exc
        return self._add(name, needs, decide=decided, **options)

    def sleep(self, name: str, sleep_s: float, *, needs: Needs = (), **options: Any) -> StepRef:
        """A step that waits."""
        return self._add(name, needs, sleep_s=sleep_s, **options)

    def output(self, mapping: Any) -> None:
        """What the workflow gives; default: the output of the step that no other needs, of several a map of them."""
        self._output = _mapped(mapping)

    def definition(self) -> Definition:
        """The definition; raises `InvalidWorkflow` (cyclic, an unknown step, no handler, …) naming the step."""
        return flow_definition.checked(self.unchecked())

    def unchecked(self) -> Definition:
        """The same, for whoever checks it himself."""
        return Definition(
            name=self.name, steps=list(self._steps), version=self.version, description=self.description,
            output=self._output,
        )  # fmt: skip

    def _add(self, name: str, needs: Needs, **said: Any) -> StepRef:
        when = said.pop("when", None)
        if isinstance(when, Condition):
            when = expressions.text(when)
        elif isinstance(when, Members):
            when = expressions.text(when == True)  # noqa: E712 - makes a condition
        for mapping in ("input", "for_each"):
            if mapping in said:
                said[mapping] = _mapped(said[mapping])
        # One step stands for a list of it; a text would be read letter by letter.
        given = (needs,) if isinstance(needs, StepRef | str) else needs
        arguments.is_a(given, Iterable, "needs", "steps", InvalidWorkflow)
        named = [need.name if isinstance(need, StepRef) else need for need in given]
        try:
            step = Step(name=name, needs=named, when=when, **said)
        except TypeError as exc:
            raise InvalidWorkflow(f"not an option of a step: {exc}", step=name) from exc
        self._steps.append(step)
        return StepRef(name)


def _members(*path: str) -> Members:
    return Members(Place("data", path))


def _mapped(value: Any) -> Any:
    """A mapping in which values stand for themselves, as a definition has it."""
    if isinstance(value, Members):
        return expressions.reference(expressions.path_named(value))
    if isinstance(value, StepRef):
        return expressions.reference(("steps", value.name, "output"))
    if isinstance(value, dict):
        return {name: _mapped(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(member) for member in value]
    return value
