"""What `Coord` offers to whoever starts workflows, and sets the tables that they ask."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from msgspec import UNSET

if TYPE_CHECKING:
    from coord.client.building import Workflow
    from coord.client.connect import Coord
    from coord.client.rules import Rules
    from coord.client.workflows import WorkflowHandle, Workflows
    from coord.wire.flow import Definition

R = TypeVar("R")


class Starts:
    """See the module."""

    _workflows: Workflows | None = None

    @overload
    def start_workflow(
        self,
        definition: Workflow | Definition | Mapping[str, Any],
        input: Any = None,
        /,
        *,
        returns: type[R],
        id: str | None = None,
    ) -> Coroutine[Any, Any, WorkflowHandle[R]]: ...

    @overload
    def start_workflow(
        self,
        definition: Workflow | Definition | Mapping[str, Any],
        input: Any = None,
        /,
        *,
        returns: Any = Any,
        id: str | None = None,
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]: ...

    def start_workflow(
        self,
        definition: Workflow | Definition | Mapping[str, Any],
        input: Any = None,
        /,
        *,
        id: str | None = None,
        returns: Any = Any,
    ) -> Coroutine[Any, Any, WorkflowHandle[Any]]:
        """Start a workflow; returns, once that is stored, the handle of its result.

        `definition`: a `coord.Workflow`, also one `from_toml` or `from_json`, or what such a file says, as a dict; it
        is stored with the start, so later versions of it change nothing.  `id`: the workflow exists once under it;
        default: a fresh one.  `returns`: type of the result.

        Raises `InvalidWorkflow` (`CyclicWorkflow`, `UnknownStep`, `StepWithoutHandler`, `DuplicateStep`) naming the
        step at fault, `WorkflowExists` for an id that another one has, and what publishing raises.
        """
        return self._flows().start(definition, input, id=id, returns=returns)

    @overload
    async def run_workflow(
        self,
        definition: Workflow | Definition | Mapping[str, Any],
        input: Any = None,
        /,
        *,
        returns: type[R],
        id: str | None = None,
        timeout_s: float | None = None,
    ) -> R: ...

    @overload
    async def run_workflow(
        self,
        definition: Workflow | Definition | Mapping[str, Any],
        input: Any = None,
        /,
        *,
        returns: Any = Any,
        id: str | None = None,
        timeout_s: float | None = None,
    ) -> Any: ...

    async def run_workflow(
        self,
        definition: Workflow | Definition | Mapping[str, Any],
        input: Any = None,
        /,
        *,
        id: str | None = None,
        returns: Any = Any,
        timeout_s: float | None = None,
    ) -> Any:
        """`start_workflow`, and wait for its result; raises what both raise."""
        return await (await self.start_workflow(definition, input, id=id, returns=returns)).result(timeout_s)

    @overload
    async def rerun_workflow(
        self,
        of: str,
        from_step: str | Sequence[str] | None = None,
        /,
        *,
        returns: type[R],
        id: str | None = None,
        definition: Workflow | Definition | Mapping[str, Any] | None = None,
        input: Any = UNSET,
    ) -> WorkflowHandle[R]: ...

    @overload
    async def rerun_workflow(
        self,
        of: str,
        from_step: str | Sequence[str] | None = None,
        /,
        *,
        returns: Any = Any,
        id: str | None = None,
        definition: Workflow | Definition | Mapping[str, Any] | None = None,
        input: Any = UNSET,
    ) -> WorkflowHandle[Any]: ...

    async def rerun_workflow(
        self,
        of: str,
        from_step: str | Sequence[str] | None = None,
        /,
        *,
        id: str | None = None,
        definition: Workflow | Definition | Mapping[str, Any] | None = None,
        input: Any = UNSET,
        returns: Any = Any,
    ) -> WorkflowHandle[Any]:
        """Start a new workflow that takes over what the steps of `of` gave, and runs `from_step` and all after it.

        What runs: `from_step` (one or several), what comes after it, what has not ended there (or failed), what was
        undone, and what comes after that.  `of` is never touched, and may have ended in any way or still run.  What was
        taken over is not undone when the new one fails.  `id`: as for `start_workflow`; default: ``{of}-r2``, or the
        next that is free (asked again while that one runs, it is that one).  `definition`, `input`: others than its.

        Raises `UnknownWorkflow`, `WorkflowGone` where neither log nor tables have its facts (what only the archive has
        is restored first: `coord db archive restore`) or a large output is gone,
        `UnknownStep`, `StepsDiffer` where the definition makes another thing of what would be taken over,
        `WorkflowNotOver` while it may undo that, `InvalidArgument` where nothing would run, `PayloadTooLarge`, and
        what `start_workflow` raises.
        """
        from coord.client import rerunning

        me = cast("Coord", self)
        prepared = await rerunning.prepare(me, of, from_step, definition=definition, input=input)
        return await rerunning.start(self.workflow(of), prepared, id=id, returns=returns)

    @overload
    def workflow(self, id: str, /, *, returns: type[R]) -> WorkflowHandle[R]: ...

    @overload
    def workflow(self, id: str, /, *, returns: Any = Any) -> WorkflowHandle[Any]: ...

    def workflow(self, id: str, /, *, returns: Any = Any) -> WorkflowHandle[Any]:
        """The handle of a workflow that somebody started; nothing is asked until it is used."""
        return self._flows().handle(id, returns)

    def _flows(self) -> Workflows:
        if self._workflows is None:
            from coord.client.workflows import Workflows

            self._workflows = Workflows(cast("Coord", self))
        return self._workflows

    @property
    def rules(self) -> Rules:
        """Decision tables that workflows ask: ``await c.rules.set("triage", [{"output": "ask"}])``."""
        from coord.client.rules import Rules

        return Rules(cast("Coord", self))
