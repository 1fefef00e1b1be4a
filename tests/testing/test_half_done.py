"""What was begun here and did not come to its end holds nobody up, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import coord
from coord import errors
from coord.client import execution, histories, task_handle
from coord.testing import InMemoryCoord
from coord.wire.records import Fact


def doubles(**capabilities: int) -> tuple[coord.Agent, list[int]]:
    """An agent that doubles what it is given; what it was given."""
    agent = coord.Agent("doubler", capabilities=capabilities)
    seen: list[int] = []

    async def double(n: int) -> int:
        seen.append(n)
        return 2 * n

    for capability in capabilities:
        agent.task(capability)(double)
    return agent, seen


async def test_whoever_waits_for_a_delayed_task_may_be_told_last(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = doubles(double=1)
    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("double", 4, delay_s=3, reuse_for_s=600)
        subscribe = c.connection.subscribe

        async def deaf(subject: str, _: Any) -> Any:  # the live log is at most once
            return await subscribe(subject, lambda _: None)

        monkeypatch.setattr(c.connection, "subscribe", deaf)
        waiting = asyncio.ensure_future(handle.result(timeout_s=60))
        await asyncio.sleep(4)
        assert (await handle.status()).status == "completed"
        assert await waiting == 8


async def test_nobody_joins_work_that_is_not_stored(fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, seen = doubles(double=1)
    async with fleet.work(agent), fleet.connect("boss") as c:
        await (await c.submit("double", 0)).result()
        submit = c.stating._submit
        lost: list[Any] = []

        def losing(message: Any, then: Any) -> Any:
            statement = submit(message, then)
            if ".submitted" in message.subject and not lost:
                lost.append(statement)
                c.stating._pipeline.withdraw(statement)
                asyncio.get_running_loop().call_later(1, statement.settle, None, errors.PublishTimeout())
            return statement

        monkeypatch.setattr(c.stating, "_submit", losing)
        monkeypatch.setattr(c.connection, "publish", _but_first(c.connection.publish, ".submitted"))
        first = asyncio.ensure_future(c.submit("double", 5, reuse_for_s=600))
        await asyncio.sleep(0.5)
        assert lost
        second = await c.submit("double", 5, reuse_for_s=600)
        with pytest.raises(errors.PublishTimeout):
            await first
        assert await second.result(timeout_s=60) == 10
        third = await c.submit("double", 5, reuse_for_s=600)
        assert (third.id, await third.result(timeout_s=60)) == (second.id, 10)
        assert seen == [0, 5]


def _but_first(publish: Any, part: str) -> Any:
    """Publish all but the first message whose subject has that in it."""
    dropped: list[str] = []

    def publishing(subject: str, body: bytes = b"", **more: Any) -> None:
        if part in subject and not dropped:
            dropped.append(subject)
        else:
            publish(subject, body, **more)

    return publishing


async def test_work_is_joined_only_while_it_is_as_young_as_was_asked_for(fleet: InMemoryCoord) -> None:
    agent, seen = doubles(double=1)
    async with fleet.connect("boss") as c, fleet.connect("other") as other:
        first = await c.submit("double", 6, reuse_for_s=60)
        joined = await other.submit("double", 6, reuse_for_s=60)
        async with fleet.work(agent):
            assert await first.result() == 12
            await fleet.leap(minutes=10)
            again = await other.submit("double", 6, reuse_for_s=60)
            assert (again.reused, await again.result(timeout_s=60)) == (False, 12)
            assert await joined.result(timeout_s=60) == 12
    assert seen == [6, 6]


async def test_asking_again_for_queues_that_cannot_be_opened_listens_once(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet.connect("boss") as c:

        async def refused(_: str) -> None:
            raise errors.ServiceUnavailable

        with monkeypatch.context() as patched:
            patched.setattr(c.queues, "open", refused)
            await c.beating.start()
            before = len(c.connection._subscriptions)
            for _ in range(5):
                with pytest.raises(errors.ServiceUnavailable):
                    await c.submit("double", 1)
            assert len(c.connection._subscriptions) <= before + 1
        await c.submit("double", 1)
        assert len(c.connection._subscriptions) <= before + 2


async def test_an_agent_that_could_not_be_started_takes_nothing(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, seen = doubles(double=1, triple=1)
    async with fleet.connect("boss") as boss, fleet.connect("doubler") as c:
        opened = c.queues.open

        async def refused(capability: str, **how: Any) -> None:
            if capability == "triple":
                raise errors.ServiceUnavailable
            await opened(capability, **how)

        with monkeypatch.context() as patched:
            patched.setattr(c.queues, "open", refused)
            with pytest.raises(errors.ServiceUnavailable):
                await agent.start(c)
        handle = await boss.submit("double", 7)
        with pytest.raises(errors.DeadlineExceeded):
            await handle.result(timeout_s=20)
        assert (seen, c.workers) == ([], [])
        await agent.start(c)
        assert await handle.result(timeout_s=60) == 14


async def test_an_answer_to_a_handoff_that_was_not_stored_is_given_again(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = coord.Agent("taker")
    refused: list[str] = []

    @agent.handoff
    async def take(_: Any, ctx: coord.HandoffContext) -> None:
        try:
            await ctx.accept()
        except errors.Overloaded as exc:
            refused.append(exc.code)
            await ctx.accept()

    async with fleet.work(agent) as worker, fleet.connect("boss") as c:
        state = worker.coord.stating.state

        async def full(fact: Any, **how: Any) -> Any:
            if fact.event == "accepted" and not refused:
                raise errors.Overloaded
            return await state(fact, **how)

        monkeypatch.setattr(worker.coord.stating, "state", full)
        handoff = await c.handoff({"ticket": 7}, to="taker")
        assert (await handoff.accepted(timeout_s=60), len(refused)) == ("taker", 1)


async def test_who_comes_back_asks_until_it_is_told_whether_its_task_is_its_own(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = coord.Agent("slow", capabilities={"slow": 1})
    began, ended = asyncio.Event(), asyncio.Event()

    @agent.task("slow")
    async def slow(_: None) -> None:
        began.set()
        try:
            await asyncio.sleep(500)
        finally:
            ended.set()

    asked: list[int] = []

    async def away(*args: Any) -> Any:  # the service comes back later than the broker
        asked.append(1)
        if len(asked) <= 3:
            raise errors.ServiceUnavailable
        return await histories.read(*args)

    async with fleet.work(agent) as worker, fleet.connect("boss") as c:
        handle = await c.submit("slow")
        await began.wait()
        worker._unregister()  # it does not hear that
        assert await handle.cancel()
        monkeypatch.setattr(execution, "read", away)
        await fleet.cut(worker)
        async with asyncio.timeout(60):
            await ended.wait()


async def test_closing_that_is_cancelled_leaves_nothing_open_on_a_connection_that_stays(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("slow", capabilities={"slow": 1})
    began = asyncio.Event()

    @agent.task("slow")
    async def slow(_: None) -> None:
        began.set()
        await asyncio.sleep(500)

    async with fleet.connect("boss") as boss, fleet.connect("other") as other:
        await other.agents()
        before = {one.subject for one in other.connection._subscriptions}
        how: dict[str, Any] = {"tenant": fleet.tenant, "agent": "slow", "connection": other.connection}
        c = await coord.connect(**how)
        await agent.start(c)
        await boss.submit("slow")
        await began.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await c.close()
        with pytest.raises(errors.BusClosed):
            await c.emit(Fact(kind="agent", id="slow", event="status"))
        with pytest.raises(errors.SpoolUnusable):
            await coord.connect(spool=__file__, **how)
        assert {one.subject for one in other.connection._subscriptions} == before


async def test_what_was_first_is_said_when_the_log_shows_it(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = coord.Agent("slow", capabilities={"slow": 1})
    go, looks = asyncio.Event(), 0

    @agent.task("slow")
    async def slow(_: None) -> None:
        await go.wait()

    async def lagging(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        task, facts = await histories.read(*args)
        if looks == 1:  # and it is completed before the cancellation is stated
            go.set()
            await fleet.until_fact("task", "completed")
        return (task, facts) if looks != 2 else (task, facts[:-2])

    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("slow")
        await fleet.until_fact("task", "claimed")
        monkeypatch.setattr(task_handle, "read", lagging)
        assert (await handle.cancel(), looks) == (False, 3)
