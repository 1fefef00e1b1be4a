"""Timers through the SDK: the broker keeps the time, the deciders arm and count."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

import coord
from coord import errors, limits
from coord.bus import direct
from coord.core.deciding import Arm
from coord.wire import subjects
from coord.wire.records import Fact
from tests.support.tasks import Fleet
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def doubler() -> coord.Agent:
    agent = coord.Agent("doubler", capabilities={"double": 2})

    @agent.task("double")
    async def double(n: int) -> int:
        return 2 * n

    return agent


async def armed(fleet: Fleet, key: str, id_: str) -> bool:
    subject = subjects.timer(fleet.tenant, key, "timer", id_)
    return await direct.next_on_leader(fleet.conn, subjects.TIMERS, subject, 1) is not None


async def test_a_delayed_task_is_its_submitters(fleet: Fleet) -> None:
    async with doubler().connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        began = time.monotonic()
        handle = await c.submit("double", 21, id="later", delay_s=0.5, returns=int)
        assert await handle.result(timeout_s=90) == 42
        assert time.monotonic() - began >= 0.45
        task = await handle.status()
        assert (task.submitter, task.status) == ("boss", "completed")
        timer = await c.timers.get("later")
        assert timer is not None
        assert (timer.status, timer.fires) == ("fired", 1)


async def test_it_raises_a_signal_and_is_cancelled_atomically(fleet: Fleet) -> None:
    async with fleet.client() as c, fleet.client("other") as other:
        await c.timers.set("tea", delay_s=0.2, raise_="tea-ready", data="hot")
        assert await other.signals.wait("tea-ready", timeout_s=90) == "hot"
        await c.timers.set("never", delay_s=600, raise_="never-ready")
        await until(lambda: armed(fleet, "never", "never"))
        with pytest.raises(errors.TimerTaken):
            await other.timers.cancel("never")
        with pytest.raises(errors.TimerTaken):
            await other.timers.set("never", delay_s=1)
        assert await c.timers.cancel("never")
        assert not await c.timers.cancel("never")
        assert not await c.timers.cancel("tea")

        async def removed() -> bool:
            return not await armed(fleet, "never", "never")

        await until(removed)
        assert await c.signals.get("never-ready") is None
        assert await c.timers.ls() == []


async def test_a_recurring_task(fleet: Fleet) -> None:
    async with doubler().connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        timer = await c.timers.submit("beat", "double", 1, every_s=1, times_max=2)
        again = await c.timers.submit("beat", "double", 1, every_s=1, times_max=2)
        assert (again.set_seq, again.said) == (timer.set_seq, timer.said), "nothing new"
        assert await c.task("beat-1", returns=int).result(timeout_s=90) == 2
        assert await c.task("beat-2", returns=int).result(timeout_s=90) == 2

        async def ended() -> bool:
            return not await c.timers.ls() and not await armed(fleet, "beat", "beat")

        await until(ended)
        cron = await c.timers.submit("nightly", "double", 1, cron="0 0 3 * * *", zone="Europe/Berlin")
        assert cron.status == "set"
        await until(lambda: armed(fleet, "nightly", "nightly"))


async def test_a_schedule_that_the_broker_refuses_cancels_the_timer(fleet: Fleet) -> None:
    async with fleet.client() as c:
        for zone in ("Nowhere/Berlin", "..", "Europe"):
            with pytest.raises(errors.InvalidPayload, match=r"zone takes|a zone goes"):
                await c.timers.set("bad", cron="0 0 3 * * *", zone=zone)
        with pytest.raises(errors.InvalidPayload, match="a field of cron"):
            await c.timers.set("bad", cron="0 0 3 L * *")
        with pytest.raises(errors.InvalidPayload, match="at takes an aware"):
            await c.sleep_until(datetime(2030, 1, 1), id="naive")
        said = {"cron": "0 0 3 * * *", "zone": "Nowhere/Berlin"}  # as somebody whose machine knows it
        await c.publish(Fact(kind="timer", id="bad", event="set", data=said))

        async def reason() -> str | None:
            timer = await c.timers.get("bad")
            return timer.reason if timer is not None and timer.status == "cancelled" else None

        assert "time zone" in (await until(reason) or "")


async def test_a_sleep_goes_on_after_a_restart(fleet: Fleet) -> None:
    at = datetime.now(UTC) + timedelta(seconds=0.6)
    async with fleet.client() as c:
        first = asyncio.create_task(c.sleep_until(at, id="pause"))

        async def is_set() -> bool:
            return await c.timers.get("pause") is not None

        await until(is_set)
        first.cancel()
    async with fleet.client() as c:
        await c.sleep_until(at + timedelta(seconds=60), id="pause")  # the same sleep
        assert datetime.now(UTC) >= at
        await c.sleep_until(at, id="pause")  # it is over
        await c.sleep_until(datetime.now(UTC) + timedelta(milliseconds=50))


async def test_what_was_not_armed_is_armed_when_it_is_overdue(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    performer = fleet.deciders._performer
    assert performer is not None
    lost: list[Arm] = []
    monkeypatch.setattr(limits, "TIMER_LATE_S", 0.3)
    arm = performer.on_arm
    monkeypatch.setattr(performer, "on_arm", lambda demanded, _done: lost.append(demanded))
    async with fleet.client() as c:
        waiting = asyncio.create_task(c.timers.set("lost", delay_s=0.1, raise_="found"))
        await until(lambda: lost)
        await waiting
        monkeypatch.setattr(performer, "on_arm", arm)
        await c.signals.wait("found", timeout_s=60)
