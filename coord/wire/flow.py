"""What is said about workflows and decision tables: the bodies of their facts, in docs/protocol.md §16.3.

A workflow is the entity (tenant, id, ``workflow``, id): its key is its id, and so is the key of its
tasks, timers and signals.  `Started` carries the whole definition, so a running workflow
finishes on the version that it began with, whatever is edited meanwhile.

All bodies are JSON maps that only grow, with defaults.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from coord import limits
from coord.wire.numbers import Count
from coord.wire.understood import GROWN
from coord.wire.work import Priority

# --- definitions ------------------------------------------------------------------------------


class Undo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The task that makes a completed step undone when the workflow fails or is cancelled."""

    task: str
    """A capability."""
    input: Any = None
    """As a step's; default: ``{"input": …, "output": …}`` of what is to be undone."""
    retries: int | None = None
    """None: as its handler says, else 3."""
    timeout_s: float | None = None
    """None: as its handler says, else 600."""


class When(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One rule of a decision table: rules are looked at in order."""

    output: Any
    """What is decided; a mapping, as a step's input."""
    when: str | None = None
    """A condition on ``input``; None: always."""
    confidence: float = 1.0
    """0 to 1: how sure this rule is when its condition holds."""


class RuleTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Ordered rules: ``rules.set``, or inside of a step.

    The first rule that holds and is at least `threshold` sure decides at once; if none is, the surest
    of those that hold does.
    """

    rules: list[When]
    inputs: list[str] = []
    """Members that ``input`` must have; without one of them nothing is decided."""
    threshold: float = 1.0
    """0 to 1."""
    version: str = "1"
    restated: Count = 0
    """How often its decider stated it again because it neared the end of the window."""


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One step: exactly one of `task`, `workflow`, `signal`, `decide` and `sleep_s` says what it does."""

    name: str
    needs: list[str] = []
    """Steps that must have ended before."""
    when: str | None = None
    """A condition on ``input`` and ``steps``: where it does not hold the step is skipped."""

    task: str | None = None
    """A capability."""
    workflow: Definition | None = None
    """A workflow of its own, which this step waits for."""
    signal: str | None = None
    """A signal under the workflow's key that must be raised; what was said with it is the output."""
    decide: str | RuleTable | None = None
    """A decision table: the name of one that is set by facts, or the table."""
    sleep_s: float | None = None

    input: Any = None
    """What it is given: a value in which ``"$input.a"``, ``"$steps.name.output.b"``, ``"$item"`` and
    ``"$index"`` stand for what they name.  Default: the item; the output of the one step that it needs;
    of several, a map of their outputs; of none, the workflow's input."""
    for_each: str | list[Any] | None = None
    """Once for each member of this list (or of the one that this names: ``$input.files``)."""
    max_parallelism: int = limits.FLOW_PARALLELISM
    """How many of those run at once."""
    optional: bool = False
    """Whether the workflow goes on when it fails."""
    undo: Undo | None = None
    """Compensation."""
    approval: bool = False
    """signal: ``{"approved": true}`` must have been said with it."""

    priority: Priority = "normal"
    retries: int | None = None
    """task: executions after the first that failed; None: as its handler says, else 3."""
    backoff_s: float = limits.TASK_BACKOFF_S
    backoff_max_s: float = limits.TASK_BACKOFF_MAX_S
    timeout_s: float | None = None
    """task: of one execution (default: as its handler says, else 600); others: of the whole step (default: none)."""
    deadline_s: float | None = None
    """task: of all executions, from when it is submitted."""
    placement: dict[str, Any] | None = None
    labels: dict[str, str] = {}
    preemptible: bool | None = None
    local: bool = False
    """task: whoever did the step before does this one too, at once and under the same claim, where it can."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A workflow: steps and what each waits for."""

    name: str
    steps: list[Step]
    version: str = "1"
    description: str = ""
    output: Any = None
    """What it gives, as a mapping; default: the output of the step that none needs, of several a map."""


# --- facts ------------------------------------------------------------------------------------


class Parent(msgspec.Struct, frozen=True):
    """Whose step a workflow is."""

    id: str
    task: str
    """The step, of a fan-out ``{step}-{i}``."""


class TakenOver(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a step of another workflow, and so of this one's of the same name."""

    status: Literal["completed", "skipped", "failed"] = "completed"
    """failed: one that was optional."""
    output: msgspec.Raw = msgspec.Raw(b"null")
    """Of a fan-out the list of its outputs; a large one as ``{"$ref": …}``."""
    error: str | None = None
    """failed: what kind,"""
    message: str | None = None
    """and words."""


class Rerun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a workflow that goes on from where another one got to."""

    of: str
    """That one; nobody looks it up: what is taken over stands here."""
    since: list[str] = msgspec.field(default=[], name="from")
    """Steps that were to be executed again, with all that comes after them; none: what had not ended."""
    steps: dict[str, TakenOver] = {}
    """By name; with each all that it needs.  (Of a start that its decider stated again without the outputs.)"""


class Started(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``workflow.started``."""

    definition: msgspec.Raw = msgspec.Raw(b"{}")
    """A `Definition`; what is wrong with one is said by ``workflow.failed``."""
    input: msgspec.Raw = msgspec.Raw(b"null")
    instance: str | None = None
    """Of the author: how it ends is pushed to it.  None: to nobody; the log has it."""
    parent: Parent | None = None
    """Believed of a decider."""
    rerun: Rerun | None = None
    """Steps that it begins with, as another workflow left them."""
    restated: Count = 0
    """How often its decider stated it again because it neared the end of the window."""
    carried: Any = None
    """With `restated`: what its facts had come to."""


def schema_of(said: Started) -> int:
    """`Coord-Schema` of it: who does not know `rerun` would do everything once more."""
    return 1 if said.rerun is None else GROWN


Outcome: TypeAlias = Literal["completed", "failed", "cancelled"]


class Decided(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``workflow.decided.{step}``: the outcome of a decision step, and what decided."""

    output: msgspec.Raw = msgspec.Raw(b"null")
    table: str | None = None
    """None: the step's own."""
    version: str | None = None
    """Of the table."""
    rule: Count | None = None
    """Which rule, from 0."""
    confidence: float | None = None
    error: str | None = None
    """Instead of an output: a code,"""
    message: str | None = None
    """and words."""


class Joined(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``workflow.joined.{step}``: a sub-workflow has ended, said under the key of its parent."""

    workflow: str = ""
    status: Outcome = "completed"
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    message: str | None = None


class Completed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``workflow.completed``."""

    output: msgspec.Raw = msgspec.Raw(b"null")


class Failed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``workflow.failed``."""

    error: str = ""
    """A code, or what kind of error a step's task ended with."""
    message: str = ""
    step: str | None = None
    """The one that failed."""
    undone: list[str] = []
    """Tasks that were compensated, in that order,"""
    not_undone: list[str] = []
    """and those whose compensation failed;"""
    unnamed: Count = 0
    """how many more there are of both, beyond `limits.FLOW_NAMED_MAX`."""


class Compensating(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``workflow.compensating``: what was completed is undone, newest first."""

    error: str = ""
    message: str = ""
    step: str | None = None
    undo: list[str] = []
    unnamed: Count = 0
    """Of those, see `Failed`."""


class Compensated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``workflow.compensated``: a cancelled workflow has been undone as far as it can be."""

    undone: list[str] = []
    not_undone: list[str] = []
    unnamed: Count = 0
    """Of both, see `Failed`."""


class Cancelled(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``workflow.cancelled``."""

    reason: str = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``rules.asked.{workflow}.{step}``: a workflow wants this table's decision."""

    input: msgspec.Raw = msgspec.Raw(b"null")
