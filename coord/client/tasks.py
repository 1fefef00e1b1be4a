"""What a handler is given, and what is known of it: its context, its types, its bounds.

::

    @agent.task("summarize", timeout_s=120, retries=3)
    async def summarize(doc: Doc, ctx: coord.TaskContext) -> Summary: ...

The annotations are the contract: the input is decoded as the first parameter's type, and what
is returned must be of the return type.  A parameter annotated as `TaskContext` (or called
``ctx``) gets the context.  Without annotations both are what JSON gives.
"""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from coord import errors, limits
from coord.client.returning import INFER, is_taken
from coord.client.steps import Steps, unrecorded
from coord.core.tasks import Task
from coord.wire import arguments, codec, work
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.encoding import Sequel
    from coord.client.receipt import Receipt

Handler = Callable[..., Awaitable[Any]]

T = TypeVar("T")


class Delivered(work.Submission, frozen=True, kw_only=True, omit_defaults=True):
    """A submission as a worker reads it: its input stays bytes until the handler's type is known."""

    input: msgspec.Raw = msgspec.Raw(b"")


class Handles(msgspec.Struct, frozen=True):
    """One capability's handler, as it was declared."""

    capability: str
    call: Handler
    input_type: Any
    output_type: Any
    takes_input: bool
    takes_context: bool
    context_name: str | None
    timeout_s: float | None
    """Of one execution, where the submission says nothing."""
    retries: int | None
    """After the first execution that failed, where the submission says nothing."""
    preemptible: bool | None
    """Whether it may be made to wait while something critical runs, where the submission says nothing; False: never."""

    def may_be_held(self, said: work.Submission) -> bool:
        """Whether a batch task that was so submitted may be made to wait."""
        asked = self.preemptible if said.preemptible is None else said.preemptible
        return bool(asked) and self.preemptible is not False

    def fits(self, local: work.LocalStep) -> bool:
        """Whether a local step can be done within what its offer gives it: the claim is another task's."""
        return local.timeout_s is not None or self.timeout_s is None or self.timeout_s <= local.longest_s

    def decode(self, raw: bytes, content: codec.Content) -> Any:
        """The input as the handler's type; raises `InvalidPayload`."""
        if not raw and content == "json":
            raw = b"null"
        if content == "msgpack":
            return codec.convert(codec.decode_msgpack(raw) if raw else None, self.input_type)
        return codec.decode_as(raw, "json", None, self.input_type)

    def encode(self, output: Any) -> bytes:
        """What the handler returned, as JSON; raises `InvalidPayload` where it is not of the declared type."""
        kind = self.output_type
        body = codec.encode(output, bytes_max=limits.TASK_OUTPUT_BYTES_MAX)
        plain = isinstance(kind, type) and not typing.is_typeddict(kind)
        if kind is not Any and not (plain and isinstance(output, kind)):
            codec.decode_as(body, "json", None, kind)  # read as it will be: a mapping's keys are text now
        return body


def declare(
    capability: str,
    call: Handler,
    *,
    timeout_s: float | None,
    retries: int | None,
    preemptible: bool | None,
    known: dict[str, Any] | None = None,
) -> Handles:
    """Read a handler's signature; raises `SettingsError` for one that cannot be called, or whose types nothing is of.

    `known`: names of the place where it is defined, for annotations that are text.
    """
    if not inspect.iscoroutinefunction(call):
        said = "a task's handler is an async function; what blocks it may call by asyncio.to_thread"
        raise errors.SettingsError(said, capability=capability)
    _check_bounds(timeout_s, retries, preemptible)
    hints = _hints(call, known)
    context_name, takes_input, input_type = None, False, Any
    for name, parameter in inspect.signature(call).parameters.items():
        if hints.get(name) is TaskContext or (name == "ctx" and name not in hints):
            context_name = name
        elif not takes_input and parameter.kind is not parameter.KEYWORD_ONLY:
            takes_input, input_type = True, hints.get(name, Any)
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            raise errors.SettingsError("a handler takes the input and a TaskContext", parameter=name)
    returns = hints.get("return", Any)
    for what, kind in (("input", input_type), ("output", returns)):
        if not is_taken(kind):
            raise errors.SettingsError(
                f"a handler's {what} has a type that JSON can be read as: make it a msgspec.Struct, a dataclass, a"
                " TypedDict or a pydantic model (alone, not within another type), or leave the annotation out",
                capability=capability, type=str(kind),
            )  # fmt: skip
    return Handles(
        capability=capability, call=call, input_type=input_type, output_type=type(None) if returns is None else returns,
        takes_input=takes_input, takes_context=context_name is not None, context_name=context_name,
        timeout_s=timeout_s, retries=retries, preemptible=preemptible,
    )  # fmt: skip


def _check_bounds(timeout_s: Any, retries: Any, preemptible: Any) -> None:
    """Raise `SettingsError`, naming the argument that no claim could say."""
    if timeout_s is not None:
        arguments.seconds(timeout_s, "timeout_s", error=errors.SettingsError)
        if not work.is_timeout(timeout_s):
            raise errors.SettingsError(
                f"timeout_s is above 0 and at most {limits.TASK_TIMEOUT_MAX_S:g}", timeout_s=timeout_s
            )
    if retries is not None:
        whole = isinstance(retries, int) and not isinstance(retries, bool)
        if not whole or not work.is_retries(retries):
            raise errors.SettingsError(f"retries takes a whole number, 0 to {limits.TASK_RETRIES_MAX}", retries=retries)
    arguments.is_a(preemptible, (bool, NoneType), "preemptible", "True or False", errors.SettingsError)


def _hints(call: Handler, known: dict[str, Any] | None) -> dict[str, Any]:
    try:
        return typing.get_type_hints(call, localns=known)
    except NameError as exc:
        raise errors.SettingsError(
            "an annotation of a task's handler names something that is not there", name=exc.name
        ) from exc


class TaskContext:
    """One execution, as its handler sees it.

    ``coord``: the connection, to submit and state more with.  ``task_id``, ``key``, ``capability``, ``priority``,
    ``labels``, ``submitter`` (an agent): of the task.  ``claim``: the number of this claim, from 1; (key, task, claim,
    step) are those of no other execution.  ``attempt``: 1 for the first; failures count, agents that died do not.
    ``step``: the task's id, or the name of the local step.
    """

    def __init__(
        self, coord: Coord, fact: StoredFact, said: Delivered, *, claim: int, attempt: int,
        local: work.LocalStep | None = None, sequel: Sequel | None = None, held: bool = False,
    ) -> None:  # fmt: skip
        """`local`: the execution is that local step's, under the claim of the task that `fact` submitted.

        `sequel`: what `Stating.sequel` made of `fact`.  `held`: the claim was found in the log.
        """
        self.coord = coord
        """The connection, to submit and state more with; what is stated names the task as its cause."""
        self.task_id = fact.id
        """Of the task that is claimed; of a local step that under whose claim it runs."""
        self.step = fact.id if local is None else local.step
        """The id of the task, or the name of the local step: the task that it would otherwise be."""
        self.key = fact.key
        self.capability = fact.detail[0] if local is None else local.task
        self.priority = said.priority
        self.labels = said.labels
        self.submitter = fact.agent
        """The agent that submitted it."""
        self.claim = claim
        """The number of this claim, from 1: no two executions have the same key, task, claim and step."""
        self.attempt = attempt
        """1 for the first execution; failures count, agents that died do not."""
        self._is_local = local is not None
        self._ends_at = 0.0
        self._cancelled: asyncio.Event | None = None
        self._progress: Receipt | None = None
        self._fact = fact
        self._sequel = sequel
        self._held = held
        self._steps: Steps | None = None
        self._is_over = False

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the task is cancelled or lost; then the handler is, too, at its next await."""
        if self._cancelled is None:
            self._cancelled = asyncio.Event()
        return self._cancelled

    async def progress(self, done: float | None = None, note: Any = None) -> None:
        """Say how far it is (0 to 1) and what about it; returns when that is queued.

        Told to the submitter where it asked for it, and in the log.  Cheap, but each is a fact: once
        a second is plenty.  Of a local step nothing is told: it has no task that could be.
        """
        if self._is_local:
            return
        said = work.Progress(claim=self.claim, done=done, note=note)
        fact = Fact(kind="task", id=self.task_id, key=self.key, event="progress", data=said)
        self._progress = await self.coord.emit(fact)

    @overload
    async def run(self, name: str, call: Callable[..., Any], *arguments: Any, returns: type[T]) -> T: ...

    @overload
    async def run(self, name: str, call: Callable[..., Any], *arguments: Any, returns: Any) -> Any: ...

    @overload  # a coroutine function
    async def run(self, name: str, call: Callable[..., Awaitable[T]], *arguments: Any) -> T: ...

    @overload
    async def run(self, name: str, call: Callable[..., T], *arguments: Any) -> T: ...

    async def run(self, name: str, call: Callable[..., Any], *arguments: Any, returns: Any = INFER) -> Any:
        """What ``call(*arguments)`` gives, done once for the task: whoever executes it again is given the same.

        What it gives is recorded, as a fact of the task, before this returns; under a later claim (after a death,
        a failure, a redrive with the same input) `call` is not called, and this returns what was recorded. So it is
        executed again only where the agent was lost while it ran or before its record was stored. What
        it raises is not recorded: it is raised here.

        `name` says which step of the task it is, whatever else the handler does before and after, and however its
        code changes: 1 to 256 characters, once an execution, at most 1,000 of a task.  `call`: a function or
        coroutine function.  `returns`: the type of what it gives, where its annotation does not say; without
        either it is what JSON gives, the first time too.  At most 64 MiB; beyond 64 KiB by reference.

        Several may run at once (`asyncio.gather`).  In a local step of a workflow nothing is recorded: the line is
        executed again as a whole.

        Raises `StepRefused` for a name or type that cannot be, `InvalidPayload` when it gives something else, and
        what storing a fact raises when trying again cannot help.
        """
        if self._is_local:
            return await unrecorded(call, arguments, returns)
        if self._is_over:
            raise errors.StepRefused("the handler has ended: nobody would believe the record", step=name)
        if self._steps is None:
            self._steps = Steps(self.coord, self._fact, self.claim, self._sequel, held=self._held)
        return await self._steps.run(name, call, arguments, returns)

    def over(self) -> None:
        """The handler is: what it left behind records nothing more."""
        self._is_over = True
        if self._steps is not None:
            self._steps.over()

    @property
    def has_spoken(self) -> bool:
        """Whether something was said that may not be stored yet."""
        return self._progress is not None or self._steps is not None

    async def settled(self) -> None:
        """Return when what was said last is stored, so that the outcome comes after it."""
        if self._steps is not None:
            await self._steps.settled()
        if self._progress is not None and not self._progress.done:
            try:
                await self._progress
            except errors.CoordError:
                return  # the outcome is what counts

    @property
    def deadline(self) -> datetime:
        """When this execution is ended: its timeout, or the task's deadline where that is sooner."""
        return datetime.fromtimestamp(self._ends_at, UTC)

    def bound(self, ends_at: float) -> None:
        """Note when it will be ended (Unix seconds)."""
        self._ends_at = ends_at


def attempt_of(task: Task | None) -> int:
    """Which execution the next one is."""
    return 1 if task is None else task.failures + 1
