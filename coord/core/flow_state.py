"""What a running workflow has come to: the state that its decider holds, and reads values from.

::

    step:   waiting ──needs have ended──▶ running ──▶ completed | failed
               └──── condition does not hold, or all it needs was skipped ──▶ skipped

    flow:   running ──a step failed, or cancelled──▶ stopping ──nothing is open──▶ undoing ──▶ ending
               └──────────────────── all steps have ended ───────────────────────────────────────┘

A step has parts: one, or one for each member of a fan-out.  A part is a task, a sub-workflow, or a
wait for a signal, a decision or a time.

Outputs are held as the bytes they came in and decoded only when a condition or a mapping looks
into them.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord.core import expressions
from coord.core.expressions import Path
from coord.core.flow_definition import Plan, Planned
from coord.core.tasks import Task
from coord.core.workflow_life import Workflow
from coord.wire import where
from coord.wire.flow import Rerun
from coord.wire.work import Reference

StepStatus: TypeAlias = Literal["waiting", "running", "completed", "skipped", "failed"]
Phase: TypeAlias = Literal["running", "stopping", "undoing", "ending"]

NEW: Final = 0
STATED: Final = 1
"""Submitted, started, waited for: it has not ended."""
OVER: Final = 2
"""It has ended."""
TAKEN: Final = 3
"""Somebody else submitted a task of its id before it was its turn."""

NULL: Final = b"null"


class Inlined(msgspec.Struct, frozen=True):
    """An output by reference as values have it: ``{"$ref": …}``."""

    ref: Reference = msgspec.field(name="$ref")


class StepState(msgspec.Struct):
    """A step as its facts leave it."""

    missing: int
    """Steps that it needs and that have not ended."""
    status: StepStatus = "waiting"
    parts: bytearray = msgspec.field(default_factory=bytearray)
    """NEW, STATED, OVER or TAKEN, of each part."""
    begun: int = 0
    over: int = 0
    outputs: list[bytes] = []
    """Of a fan-out, of each part."""
    output: bytes | None = None
    """JSON."""
    error: str | None = None
    message: str | None = None
    due: float | None = None
    """When it is woken, submitted again or its time is over: Unix seconds."""
    failures: int = 0
    """Executions as a local step that failed: its task begins with them."""
    inherited: bool = False
    """It ended in another workflow, whose doing it is: this one does not undo it."""


class Flow(msgspec.Struct, kw_only=True):
    """A workflow that has not ended, or is being undone.  Its fields are what snapshots hold."""

    life: Workflow
    definition: bytes
    input: bytes = NULL
    steps: list[StepState] = []
    phase: Phase = "running"
    left: int = 0
    """Steps that have not ended."""
    open: int = 0
    """Parts that are STATED."""
    tasks: dict[str, Task] = {}
    """Open ones that were met in the log."""
    signals: dict[str, bytes] = {}
    """Those raised under its key, and what was said with them."""
    taken: list[str] = []
    """Ids of tasks that somebody else submitted under its key."""
    done: list[tuple[int, int]] = []
    """Parts that can be undone, in the order in which they were completed; taken from the end."""
    undoing: str | None = None
    """The part whose compensating task runs, by the id of its own task,"""
    undoing_part: tuple[int, int] | None = None
    """and by step and number."""
    undone: list[str] = []
    not_undone: list[str] = []
    error: str | None = None
    """Why it stops: what kind,"""
    message: str = ""
    step: str | None = None
    succeeds: bool = False
    """ending: `completed` was stated."""
    rerun: Rerun | None = None
    """What it took over, without the outputs: `steps` has those."""
    oversized: bool = False
    """Too large to be stated again."""


class Live:
    """A flow, its plan, and what was read of its values."""

    __slots__ = ("_decoded", "flow", "items", "plan")

    def __init__(self, flow: Flow, plan: Plan) -> None:
        self.flow = flow
        self.plan = plan
        self.items: dict[int, list[Any]] = {}
        """Of steps that are fanned out; see `fan`."""
        self._decoded: dict[int, Any] = {}
        """By step; -1: the input."""

    # --- values ---------------------------------------------------------------------------

    def read(self, path: Path) -> Any:
        """What a path names, or `where.MISSING`; raises `PayloadTooLarge` for what is elsewhere."""
        head = path[0]
        if head == "input":
            return expressions.follow(self._decode(-1, self.flow.input), path[1:], ("input",))
        if head == "steps":
            return self._of_step(path[1], path[2:])
        if head == "workflow":
            life = self.flow.life
            known = {"id": life.id, "name": life.name, "version": life.version}
            return where.follow(known, path[1:])
        return where.MISSING

    def _of_step(self, name: str, path: Path) -> Any:
        planned = self.plan.by_name[name]
        state = self.flow.steps[planned.index]
        if path[0] == "status":
            return state.status
        if path[0] == "error":
            return where.MISSING if state.error is None else state.error
        if state.output is None:
            return where.MISSING
        return expressions.follow(self._decode(planned.index, state.output), path[1:], ("steps", name, "output"))

    def _decode(self, which: int, raw: bytes) -> Any:
        if which not in self._decoded:
            self._decoded[which] = msgspec.json.decode(raw)
        return self._decoded[which]

    def holds(self, planned: Planned) -> bool:
        """Whether the condition of a step holds; raises `PayloadTooLarge`, as `read` does."""
        if planned.when is None:
            return True
        paths = [tuple(str(part) for part in place.path) for place in planned.order]
        return bool(planned.when([self.read(path) for path in paths]))

    # --- inputs ---------------------------------------------------------------------------

    def fan(self, planned: Planned) -> Any:
        """What a step is fanned out over; a list if all is well.  Raises `PayloadTooLarge`, as `read` does."""
        members = planned.step.for_each
        if isinstance(members, str):
            path = expressions.path_of(members)
            assert path is not None, "checked by the plan"
            members = self.read(path)
            expressions.refuse_reference(members, path)
        if isinstance(members, list):
            self.items[planned.index] = members
        return members

    def input_of(self, planned: Planned, item: int, mapping: Any = None, output: bytes = NULL) -> bytes:
        """What a part is given, as JSON; with `mapping` (and `output`) what its compensation is."""
        undo = mapping is not None
        mapping = planned.step.input if mapping is None else mapping
        if mapping is None:
            return self._usual(planned, item)
        if isinstance(mapping, str):
            raw = self._whole(mapping, output if undo else None)
            if raw is not None:
                return raw

        def read(path: Path) -> Any:
            if path[0] == "item":
                return expressions.follow(self._item(planned, item), path[1:], ("item",))
            if path[0] == "index":
                return item
            if path[0] == "output" and undo:
                return expressions.follow(msgspec.json.decode(output), path[1:], ("output",))
            return self.read(path)

        return msgspec.json.encode(expressions.filled(mapping, expressions.counted(read)))

    def _whole(self, mapping: str, output: bytes | None) -> bytes | None:
        """An input or an output that is handed on as it is."""
        if mapping == "$input":
            return self.flow.input
        if mapping == "$output":
            return output
        path = expressions.path_of(mapping)
        if path is None or len(path) != 3 or path[0] != "steps" or path[2] != "output":
            return None
        found = self.flow.steps[self.plan.by_name[path[1]].index].output
        return NULL if found is None else found

    def _usual(self, planned: Planned, item: int) -> bytes:
        if planned.fanned:
            return msgspec.json.encode(self._item(planned, item))
        needs = planned.step.needs
        if not needs:
            return self.flow.input
        if len(needs) == 1:
            return self._output(needs[0])
        return msgspec.json.encode({name: msgspec.Raw(self._output(name)) for name in needs})

    def _item(self, planned: Planned, item: int) -> Any:
        if not planned.fanned:
            return None
        if planned.index not in self.items:
            self.fan(planned)  # after a snapshot was loaded
        return self.items[planned.index][item]

    def _output(self, name: str) -> bytes:
        found = self.flow.steps[self.plan.by_name[name].index].output
        return NULL if found is None else found

    def output(self) -> bytes:
        """What the workflow gives."""
        mapping = self.plan.definition.output
        if isinstance(mapping, str):
            raw = self._whole(mapping, None)
            if raw is not None:
                return raw
        if mapping is not None:
            return msgspec.json.encode(expressions.filled(mapping, expressions.counted(self.read)))
        last = self.plan.last
        if len(last) == 1:
            return self._output(last[0].step.name)
        return msgspec.json.encode({p.step.name: msgspec.Raw(self._output(p.step.name)) for p in last})


def reference_in(raw: bytes) -> Reference | None:
    """What an output by reference refers to; None: it is a value."""
    if not raw.startswith(b'{"$ref":'):
        return None
    try:
        return msgspec.json.decode(raw, type=Inlined).ref
    except msgspec.MsgspecError:
        return None
