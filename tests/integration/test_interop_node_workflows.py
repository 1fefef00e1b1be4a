"""Workflows started, approved, cancelled and run again by a Node client that knows nothing but docs/protocol.md."""

from __future__ import annotations

import pytest

import coord
from tests.support import interop
from tests.support.tasks import services

pytestmark = pytest.mark.node


async def test_node_starts_approves_cancels_and_runs_again(nats_server) -> None:
    async with services(nats_server.url) as fleet, fleet.client() as c:
        agent = coord.Agent("halver")
        halved: list[float] = []

        @agent.task("halve")
        async def halve(n: float) -> float:
            halved.append(n)
            return n / 2

        async with (
            agent.connect(fleet.url, tenant=fleet.tenant),
            interop.script("workflow", fleet.url, fleet.tenant, "halve") as script,
        ):
            approved, failed, cancelled, refused, rerun = [await script.line() for _ in range(5)]
            await script.end()
        assert (approved["status"], approved["output"]) == ("completed", [4, 2])
        assert (failed["error"], failed["step"]) == ("workflow.cyclic", "a")
        assert (cancelled["status"], cancelled["message"]) == ("cancelled", "enough")
        assert refused == {"refused": 10071}
        view = await c.workflow("js-flow-0").status()
        assert (view.life.submitter, [step.status for step in view.steps]) == ("node-boss", ["completed"] * 2)
        assert (rerun["status"], rerun["output"]) == ("completed", 2)
        assert halved[2:] == [8, 4, 4], "of the second run the first step was taken over"
        assert (await c.workflow("js-flow-3-r2").status()).life.rerun_of == "js-flow-3"
