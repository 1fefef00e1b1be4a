"""What an older service would pass over without a word is refused, and says in the log what it needs."""

from __future__ import annotations

from typing import Any

import pytest

import coord
from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.client import understood
from coord.client.understood import Understood
from coord.core import assignment
from coord.server import history
from coord.wire import authors, subjects
from coord.wire.understood import GROWN, KEEPS_APART, RECORDS, RERUNS
from tests.support.tasks import Fleet

shared = pytest.mark.asyncio(loop_scope="module")

worker = coord.Agent("worker", capabilities={"echo": 2, "steps": 1})


@worker.task("echo")
async def echo(given: Any) -> Any:
    return given


@worker.task("steps", retries=0)
async def steps(ctx: coord.TaskContext) -> int:
    return await ctx.run("one", lambda: 1, returns=int)


@shared
async def test_it_is_refused_where_an_older_service_decides_and_marked_where_not(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {KEEPS_APART, RERUNS, RECORDS} <= set(range(assignment.FOLDS + 1))
    flow = coord.Workflow("pair")
    flow.task("b", "echo", needs=[flow.task("a", "echo")])
    replicas = fleet.deciders._replicas
    monkeypatch.setattr(understood, "_UNKNOWN_S", 0.0)

    async def timer(c: coord.Coord) -> Any:
        return await c.timers.submit("apart", "echo", every_s=3600, overlap="skip")

    async with worker.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        assert await c.run_workflow(flow, 7, id="w", timeout_s=100) == 7
        with monkeypatch.context() as older:
            older.setattr(replicas, "_folds", assignment.FOLDS - 1)
            for asked in (timer(c), c.rerun_workflow("w", "b")):
                with pytest.raises(errors.ServiceTooOld, match="do not know"):
                    await asked
            with pytest.raises(errors.TaskFailed, match=errors.ServiceTooOld.code):
                await (await c.submit("steps")).result(timeout_s=100)
        assert not await history.entity(fleet.conn, fleet.tenant, "apart", "timer", "apart")
        await timer(c)
        again = await c.rerun_workflow("w", "b")
        assert await again.result(timeout_s=100) == 7
        assert await (await c.submit("steps")).result(timeout_s=100) == 1
        assert await c.timers.cancel("apart")
    stated = [
        (await history.entity(fleet.conn, fleet.tenant, key, kind, key))[0].schema
        for kind, key in (("timer", "apart"), ("workflow", again.id), ("workflow", "w"))
    ]
    assert stated == [GROWN, GROWN, 1]
    assert not authors.is_allowed("signal", "raised", GROWN, decider=False)  # so older releases are to everything


async def test_a_release_that_cannot_be_asked_knows_nothing_new_and_nobody_forbids_nothing(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLICA_BEAT_S", 0.01)
    monkeypatch.setattr(understood, "_UNKNOWN_S", 0.0)
    asked = Understood(conn, "acme")
    await asked.demand(1, "this")

    async def boards(_: rpc.Request) -> dict[str, Any]:
        return {}

    endpoint = await rpc.serve(
        conn, subjects.rpc_all("agents", "capabilities"), boards, service="agents", method="capabilities"
    )
    for _ in range(8):  # also while its circuit is open
        with pytest.raises(errors.ServiceTooOld):
            await asked.demand(1, "this")
        assert not asked.covers(1)
    await endpoint.close()
