"""Tasks between the SDK and a Node client that knows nothing but docs/protocol.md."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import coord
from coord import errors
from tests.support import interop
from tests.support.tasks import services

pytestmark = pytest.mark.node


async def test_node_submits_and_works_with_the_sdk_on_the_other_side(nats_server) -> None:
    async with services(nats_server.url) as fleet, fleet.client() as c:
        agent = coord.Agent("halver")

        @agent.task("halve", retries=0)
        async def halve(n: float) -> float:
            if n < 0:
                raise coord.Reject("negative")
            return n / 2

        async with (
            agent.connect(fleet.url, tenant=fleet.tenant),
            interop.script("submit", fleet.url, fleet.tenant, "halve", "[4, -1]") as script,
        ):
            completed, rejected, refused = [await script.line() for _ in range(3)]
            await script.end()
        assert (completed["status"], completed["output"]) == ("completed", 2)
        assert (rejected["status"], rejected["message"]) == ("rejected", "negative")
        assert refused == {"refused": 10071}

        async with interop.script("work", fleet.url, fleet.tenant, "double", "5") as script:
            assert await script.line() == {"ready": True}
            number, text = await asyncio.gather(c.submit("double", 21), c.submit("double", "x", retries=2))
            assert await number.result(timeout_s=90) == 42
            with pytest.raises(errors.TaskRejected, match="not a number"):
                await text.result(timeout_s=90)
            # It knows nothing of local steps: each is a task of its own.
            flow = coord.Workflow("twice")
            flow.task("again", "double", needs=[flow.task("once", "double")], local=True)
            handle = await c.start_workflow(flow, 3)
            assert await handle.result(90) == 12
            begun = await c.submit("double", {"heavy": True}, backoff_s=0.1)
            await script.end()
        porter = coord.Agent("porter")

        @porter.task("double")
        async def double(_: dict[str, Any], ctx: coord.TaskContext) -> list[Any]:
            weight: Any = await ctx.run("weigh", lambda: pytest.fail("Node has weighed it"))
            return [ctx.claim, weight, await ctx.run("carry", lambda: "carried")]

        async with porter.connect(fleet.url, tenant=fleet.tenant):
            assert await begun.result(90) == [2, {"kg": 3}, "carried"]
        assert [(step.status, step.local) for step in (await handle.status()).steps] == [("completed", None)] * 2
        said, left = await number.status(), await text.status()
        assert (said.claimant, said.retries, said.timeout_s) == ("node-worker", 1, 900.0), "its handler's word"
        assert (left.retries, left.timeout_s) == (2, 900.0), "the submitter's counts first"


async def test_node_is_handed_work_waits_is_placed_joins_and_goes_on_after_a_death(nats_server) -> None:
    async with services(nats_server.url) as fleet, fleet.client() as c:
        agent = coord.Agent("clerk")

        @agent.task("halve")
        async def halve(n: float) -> float:
            return n / 2

        @agent.task("sum")
        async def total(given: dict[str, int]) -> int:
            return sum(given.values())

        async with (
            agent.connect(fleet.url, tenant=fleet.tenant),
            interop.script("together", fleet.url, fleet.tenant) as script,
        ):
            assert await (await c.submit("sum", {"a": 1, "b": 2}, reuse_for_s=3600)).result(90) == 3
            assert await script.line() == {"ready": True}
            handoff = await c.handoff({"ticket": 7}, to="node-1")
            assert await handoff.accepted(90) == "node-1"
            assert await script.line() == {"work": {"ticket": 7}, "from": "boss", "last": "accepted"}
            # Silent: who decided has just started, and may not have heard of all who are there.
            assert await script.line() in ({"expired": "nobody"}, {"expired": "silent"})
            await c.signals.wait("js-due", timeout_s=90)
            assert await script.line() == {"fired": ["js-later", 1], "ended": ["js-later", 2]}
            on_node = coord.Placement(strategy="agent", agent="node-1", strict=True)
            placed = await c.submit("desk", 3, placement=on_node)
            assert await placed.result(90) == 30
            assert await script.line() == {"placed": 1, "holder": "node-1"}
            assert (await placed.status()).claimant == "node-1"
            frail = await c.submit("frail", id="frail")
            assert await script.line() == {"refused": 10071, "reused": 3}
            assert await frail.result(90) == "alive"
            assert await script.line() == {"same": True, "claims": 1, "holder": None}
            await script.end()
