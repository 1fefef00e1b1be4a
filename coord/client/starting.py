"""What `Coord` offers to whoever starts workflows, and sets the tables that they ask."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from coord.client.building import Workflow
    from coord.client.connect import Coord
    from coord.client.rules import Rules
    from coord.client.workflows import WorkflowHandle, Workflows
    from coord.wire.flow import Definition


class Starts:
    """See the module."""

    _workflows: Workflows | None = None

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
