"""Workers stand by while processes of coord come, go and are killed: whoever is left, or comes, wakes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from coord import limits
from coord.bus.connection import Connection
from coord.client.connect import Connecting, connect
from coord.ops.devstack.nats import NatsServer
from coord.telemetry.metrics import Metrics
from tests.support import crew
from tests.support.holding import FEW_SEATS, WORKERS, Holding

_TENANT = "acme"
_PATIENT: dict[str, int | float] = {"SUSPECT_AFTER": 30.0, "GONE_AFTER": 50.0}
"""Nobody is gone because his heartbeats are late: on a busy machine they are, by seconds."""

Begin = Callable[[], Awaitable[crew.Member]]


@pytest.fixture
def few_seats(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (FEW_SEATS | _PATIENT).items():
        monkeypatch.setattr(limits, name, value)


@pytest.fixture
async def begin(nats: NatsServer, conn: Connection, tmp_path: Path) -> AsyncIterator[Begin]:
    """Start a process of coord that decides and answers; ready when this returns."""
    members: list[crew.Member] = []

    async def start() -> crew.Member:
        job = crew.Job(
            urls=(nats.url,), tenant=_TENANT, folder=str(tmp_path), role="server", name="coord",
            limits=FEW_SEATS | _PATIENT,
        )  # fmt: skip
        member = await crew.start(job, tmp_path / "crew.log")
        members.append(member)
        assert await member.ready()
        return member

    yield start
    for member in members:
        await member.close()


@contextlib.asynccontextmanager
async def workers(nats: NatsServer) -> AsyncIterator[Holding]:
    def client() -> Connecting:
        return connect(nats.url, agent="boss", tenant=_TENANT, metrics=Metrics(CollectorRegistry()))

    async with contextlib.AsyncExitStack() as stack:
        found = Holding(nats.url, _TENANT, client)
        await found.start(stack)
        yield found


@pytest.mark.usefixtures("few_seats")
async def test_of_two_processes_one_dies_and_then_the_other_and_a_new_one_wakes_all(
    nats: NatsServer, begin: Begin
) -> None:
    """Both told workers to stand by, one wakes; whoever is left knows of all, a new one of nobody.  No worker looks."""
    first, second = await asyncio.gather(begin(), begin())
    async with workers(nats) as holding:
        await holding.settled()
        await holding.do(WORKERS)
        await holding.settled()
        first.kill()
        await holding.do(WORKERS)
        await holding.settled()
        second.kill()
        await begin()
        assert len(holding.standing()) > len(holding.seated())
        await holding.do(WORKERS)
