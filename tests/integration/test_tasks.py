"""Tasks through the SDK on a real server: submitted, claimed, run, told of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

import coord
from coord import errors, limits
from coord.ops.devstack.nats import NatsServer
from coord.wire import subjects, work
from tests.support.tasks import Fleet, new_tenant, services
from tests.support.waiting import until


class Doc(msgspec.Struct):
    text: str


class Summary(msgspec.Struct):
    words: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(nats_server: NatsServer) -> AsyncIterator[Fleet]:
    async with services(nats_server.url) as fleet:
        yield fleet


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    """The module's services, and a tenant of this test's own."""
    running.tenant = new_tenant()
    return running


pytestmark = pytest.mark.asyncio(loop_scope="module")


def summarizer(**options: Any) -> coord.Agent:
    agent = coord.Agent("summarizer", capabilities={"summarize": 8}, labels={"region": "eu"})

    @agent.task("summarize", timeout_s=120, retries=3, **options)
    async def summarize(doc: Doc, ctx: coord.TaskContext) -> Summary:
        await ctx.progress(0.5)
        if not doc.text:
            raise coord.Reject("empty")
        return Summary(len(doc.text.split()))

    return agent


async def test_a_task_is_run_and_its_submitter_told(fleet: Fleet) -> None:
    async with summarizer().connect(fleet.url, tenant=fleet.tenant) as worker, fleet.client() as c:
        handle = await c.submit("summarize", Doc("a b c"), id="doc-42", priority="critical", returns=Summary)
        assert await handle.result(timeout_s=30) == Summary(3)
        assert (await handle.status()).status == "completed"
        rejected = await c.submit("summarize", Doc(""))
        with pytest.raises(errors.TaskRejected, match="empty"):
            await rejected.result(timeout_s=30)
        await until(lambda: worker.stats.completed == 1 and worker.stats.rejected == 1)
