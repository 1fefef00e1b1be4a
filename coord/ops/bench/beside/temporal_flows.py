"""What Temporal's worker runs; a module of its own because the decorators need the SDK at import."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow

_TIMEOUT = timedelta(seconds=5)


@activity.defn
async def nothing() -> None:
    """A step."""


@workflow.defn
class Chain:
    """Steps one after another."""

    @workflow.run
    async def run(self, steps: int, local: bool) -> None:
        """Run so many of them; `local`: within the workflow's own turn."""
        execute = workflow.execute_local_activity if local else workflow.execute_activity
        for _ in range(steps):
            await execute(nothing, start_to_close_timeout=_TIMEOUT)
