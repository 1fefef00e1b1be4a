"""Signals through the SDK on the real services."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

import coord
from coord import errors, limits
from coord.wire.envelope import Fact
from tests.support.tasks import Fleet
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_raised_before_or_after_the_wait(fleet: Fleet) -> None:
    async with fleet.client("a") as a, fleet.client("b") as b:
        early = asyncio.create_task(a.signals.wait("memory-ready", timeout_s=90))

        async def awaited() -> bool:
            latch = await b.signals.get("memory-ready")
            return latch is not None and [w.agent for w in latch.waits.values()] == ["a"]

        await until(awaited)
        assert await b.signals.raise_("memory-ready", {"shards": 4})
        assert not await a.signals.raise_("memory-ready", {"shards": 5})
        assert await early == {"shards": 4}
        assert await b.signals.wait("memory-ready", timeout_s=90) == {"shards": 4}
        large = "x" * 10_000
        await a.signals.raise_("large", large)
        assert await b.signals.wait("large", timeout_s=90) == large
        assert [latch.id for latch in await a.signals.ls()] == ["memory-ready", "large"]


async def test_what_nobody_believes_does_not_forestall_a_raise(fleet: Fleet) -> None:
    async with fleet.client("a") as a, fleet.client("hostile") as hostile:
        await hostile.publish(Fact(kind="signal", id="s", key="signals", event="raised", data=["nonsense"]))
        assert await a.signals.raise_("s", 1)
        assert await a.signals.wait("s", timeout_s=90) == 1


async def test_all_any_and_in_time(fleet: Fleet) -> None:
    async with fleet.client("a") as a, fleet.client("b") as b:
        both = asyncio.create_task(a.signals.wait_all("x", "y", timeout_s=90, key="job-1"))
        either = asyncio.create_task(a.signals.wait_any("y", "z", timeout_s=90, key="job-1"))
        await b.signals.raise_("x", 1, key="job-1")
        with pytest.raises(errors.DeadlineExceeded, match="not raised in time"):
            await b.signals.wait("y", timeout_s=0.1, key="job-1")
        assert not both.done()
        assert not either.done()
        await b.signals.raise_("y", 2, key="job-1")
        assert await both == {"x": 1, "y": 2}
        assert await either == {"y": 2}

        async def nobody_waits() -> bool:
            return all(not latch.waits for latch in await a.signals.ls(key="job-1"))

        await until(nobody_waits)


async def test_agents_started_in_any_order_come_up_in_dependency_order(fleet: Fleet) -> None:
    needs = {"web": ["memory", "search"], "search": ["memory", "log"], "memory": ["log"], "log": []}
    up: list[str] = []

    async def agent(name: str) -> None:
        async with fleet.client(name) as c:
            before = [f"{need}-ready" for need in needs[name]]
            async with c.signals.starting(needs=before, provides=[f"{name}-ready"], timeout_s=150):
                up.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name in needs:
            tasks.create_task(agent(name))
    assert up == ["log", "memory", "search", "web"]


async def test_declared_agents_start_when_what_they_need_is_there(fleet: Fleet) -> None:
    started: list[str] = []

    async def start(name: str, needs: list[str]) -> None:
        agent = coord.Agent(name, needs=needs, provides=[f"{name}-up"])

        @agent.task(name)
        async def work() -> None: ...

        async with agent.connect(fleet.url, tenant=fleet.tenant):
            started.append(name)

    await asyncio.wait_for(asyncio.gather(start("c", ["b-up", "a-up"]), start("b", ["a-up"]), start("a", [])), 60)
    assert started[-1] == "c"
    assert started.index("a") < started.index("c")


async def test_a_cycle_is_named_to_those_who_wait(fleet: Fleet) -> None:
    async def agent(name: str, needs: str) -> None:
        async with fleet.client(name) as c, c.signals.starting(needs=[needs], provides=[f"{name}-ready"]):
            pass

    found = await asyncio.wait_for(
        asyncio.gather(agent("a", "b-ready"), agent("b", "c-ready"), agent("c", "a-ready"), return_exceptions=True), 60
    )
    assert [type(exc) for exc in found] == [errors.SignalDeadlock] * 3
    assert "a waits for b-ready, b waits for c-ready, c waits for a-ready" in str(found[0])


async def test_a_waiter_that_dies_waits_no_more(fleet: Fleet) -> None:
    async with fleet.client("b") as b:
        a = await fleet.client("a")
        waiting = asyncio.create_task(a.signals.wait("never"))

        async def waits() -> int:
            latch = await b.signals.get("never")
            return 0 if latch is None else len(latch.waits)

        await until(waits)
        await a.connection.close()  # no goodbye
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError, errors.CoordError):
            await waiting

        async def gone() -> bool:
            return not await waits()

        await until(gone, timeout_s=90)
        with contextlib.suppress(errors.CoordError):
            await a.close()


async def test_a_push_that_is_lost_is_made_good_by_the_log(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESULT_AUDIT_FIRST_S", 0.3)
    async with fleet.client("a") as a, fleet.client("b") as b:
        a.signals  # noqa: B018 - registers for pushes
        a.pushes._handlers["signal"] = []
        await b.signals.raise_("quiet", 7)
        began = time.monotonic()
        assert await a.signals.wait("quiet", timeout_s=150) == 7
        assert time.monotonic() - began >= limits.RESULT_AUDIT_FIRST_S * 0.9


async def test_how_long_it_takes_from_a_raise_to_the_waiter(fleet: Fleet, record_property) -> None:
    took: list[float] = []
    async with fleet.client("a") as a, fleet.client("b") as b:
        for n in range(50):
            waiting = asyncio.create_task(a.signals.wait(f"s{n}", timeout_s=150))
            await asyncio.sleep(0.005)
            began = time.monotonic()
            await b.signals.raise_(f"s{n}", n)
            assert await waiting == n
            took.append(time.monotonic() - began)
    took.sort()
    print(f"raised → resumed: p50 {took[25] * 1e3:.2f} ms, p99 {took[-1] * 1e3:.2f} ms")
    record_property("p50_ms", took[25] * 1e3)
