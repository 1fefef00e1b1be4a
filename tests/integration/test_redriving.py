"""A task that ended without success is submitted again, once."""

from __future__ import annotations

import pytest

import coord
from coord import errors
from coord.client.redriving import redrive
from coord.ops.devstack.nats import NatsServer
from tests.support.tasks import services
from tests.support.waiting import until


async def test_a_dead_task_runs_again(nats_server: NatsServer) -> None:
    agent = coord.Agent("worker", capabilities={"shaky": 1})
    broken = True

    @agent.task("shaky", retries=0)
    async def shaky(given: dict[str, int]) -> int:
        if broken:
            raise ValueError("broken")
        return given["n"]

    async with (
        services(nats_server.url) as fleet,
        agent.connect(fleet.url, tenant=fleet.tenant),
        fleet.client() as c,
    ):
        handle = await c.submit("shaky", {"n": 7}, id="dead", retries=0)
        with pytest.raises(errors.TaskFailed, match="broken"):
            await handle.result(timeout_s=90)
        broken = False
        await redrive(c, "dead")
        again = c.task("dead", returns=int)

        async def completed() -> bool:
            return (await again.status()).status == "completed"

        await until(completed)
        assert (await again.status()).redrives == 1
        with pytest.raises(errors.TaskExists, match="completed"):
            await redrive(c, "dead")
        with pytest.raises(errors.UnknownTask):
            await redrive(c, "never")


async def test_a_task_of_a_workflow_is_left_alone(nats_server: NatsServer) -> None:
    """Its workflow has failed, and undone what it builds on."""
    agent = coord.Agent("worker")

    @agent.task("pay")
    async def pay(_: dict[str, int]) -> None:
        raise coord.Reject("no money")

    flow = coord.Workflow("trip")
    flow.task("charge", "pay")
    async with (
        services(nats_server.url) as fleet,
        agent.connect(fleet.url, tenant=fleet.tenant),
        fleet.client() as c,
    ):
        handle = await c.start_workflow(flow, {}, id="trip")
        with pytest.raises(errors.WorkflowFailed):
            await handle.result(timeout_s=90)
        with pytest.raises(errors.TaskOfWorkflow) as left:
            await redrive(c, "charge", "trip")
        assert left.value.details["workflow"] == "trip"
        await redrive(c, "charge", "trip", workflow_tasks=True)
        charge = c.task("charge", key="trip")

        async def rejected_again() -> bool:
            task = await charge.status()
            return task.ended and task.redrives == 1

        await until(rejected_again)
        with pytest.raises(errors.TaskOfWorkflow):  # it stays a workflow's, whoever has submitted it since
            await redrive(c, "charge", "trip")
