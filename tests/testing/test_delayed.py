"""Tasks that are submitted later, and tasks that are submitted again, as their handles see them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import coord
from coord import errors, limits
from coord.client import entities, histories, task_handle, timers
from coord.client.redriving import redrive
from coord.core import reuse
from coord.core.tasks import fold, is_open
from coord.testing import InMemoryCoord
from coord.wire.records import Fact
from coord.wire.timing import Overlap


def echoes() -> tuple[coord.Agent, list[Any]]:
    """An agent that says what it is given; what it was given.  a list it rejects the first time."""
    agent = coord.Agent("echo", capabilities={"echo": 4, "slow": 4})
    seen: list[Any] = []

    @agent.task("echo")
    async def echo(x: Any) -> Any:
        seen.append(x)
        if isinstance(x, list) and seen.count(x) == 1:
            raise coord.Reject("not yet")
        return x

    @agent.task("slow")
    async def slow(_: Any) -> None:
        await asyncio.sleep(30)

    return agent, seen


async def test_a_delayed_task_has_its_id_to_itself(fleet: InMemoryCoord) -> None:
    agent, seen = echoes()
    async with fleet.work(agent), fleet.connect("boss") as c, fleet.connect("other") as other:
        first = await c.submit("echo", 1, id="x")
        assert await first.result() == 1
        with pytest.raises(errors.TaskExists) as refused:
            await c.submit("echo", 2, id="x", delay_s=1)
        assert refused.value.details["submitter"] == "boss"
        again = await c.submit("echo", 1, id="x", delay_s=1)
        assert await again.result() == 1, "the same work is the same task"

        later = await c.submit("echo", 3, id="y", delay_s=2)
        for who in (c, other):
            with pytest.raises(errors.TaskExists):
                await who.submit("echo", 4, id="y", delay_s=1)
        joined = await other.submit("echo", 3, id="y", delay_s=1)
        assert [await h.result() for h in (later, joined)] == [3, 3]
        assert seen == [1, 3]
        await c.timers.set("tea", delay_s=60)
        with pytest.raises(errors.TimerTaken):
            await c.submit("echo", 5, id="tea", delay_s=1)


async def test_a_timer_is_not_replaced_unseen(fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch) -> None:
    lags = 0

    async def lagging(*args: Any, **where: Any) -> Any:
        nonlocal lags
        lags += 1
        return [] if lags <= 2 else await entities.facts(*args, **where)

    async with fleet.connect("boss") as c:
        first = await c.submit("echo", 3, id="y", delay_s=60)
        monkeypatch.setattr(timers, "facts", lagging)
        with pytest.raises(errors.TaskExists):
            await c.submit("echo", 4, id="y", delay_s=60)
        task = await first.status()
        assert (lags > 2, task.submission.input) == (True, 3)
        await c.submit("echo", 3, id="y", delay_s=90)
        assert (await first.status()).retry_at == pytest.approx((task.retry_at or 0) + 30, abs=2)


async def test_what_recurs_goes_on_when_its_program_begins_again(fleet: InMemoryCoord) -> None:
    agent, seen = echoes()

    async def submitted(name: str) -> None:
        await fleet.until_fact("task", "submitted", id=name, timeout_s=300)

    async with fleet.work(agent):
        async with fleet.connect("boss") as c:
            first = await c.timers.submit("beat", "echo", 1, every_s=60)
            await submitted("beat-2")
        async with fleet.connect("boss") as c:  # another process: another instance
            again = await c.timers.submit("beat", "echo", 1, every_s=60)
            assert again.set_seq == first.set_seq
            await submitted("beat-3")
            # Set otherwise, and set anew after it was over: no task of before has the number, which would not be done.
            await c.timers.submit("beat", "echo", 1, every_s=90)
            await submitted("beat-4")
            await c.timers.cancel("beat")
            anew = await c.timers.submit("beat", "echo", 1, every_s=30, times_max=2)
            assert (anew.fires, anew.number) == (0, 4)
            await submitted("beat-6")
            assert await c.task("beat-6").result(60) == 1
    assert seen == [1] * 6


async def test_what_recurs_and_takes_long_does_not_overlap(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("slow", capabilities={"slow": 4})
    now, most = 0, 0

    @agent.task("slow")
    async def slow(n: int) -> int:
        nonlocal now, most
        now += 1
        most = max(now, most)
        await asyncio.sleep(5)
        now -= 1
        return n

    async with fleet.work(agent), fleet.connect("boss") as c:
        overlaps: list[tuple[Overlap, str]] = [("skip", "4"), ("queue", "2")]
        for overlap, second in overlaps:
            most = 0
            await c.timers.submit(f"t-{overlap}", "slow", 1, every_s=2, overlap=overlap)
            await fleet.until_fact("task", "submitted", id=f"t-{overlap}-{second}", timeout_s=600)
            handle = c.task(f"t-{overlap}-{second}", key=f"t-{overlap}")
            assert await handle.result(300) == 1
            timer = await c.timers.get(f"t-{overlap}")
            assert timer is not None
            assert timer.skipped >= (2 if overlap == "skip" else 1)
            assert await c.timers.cancel(f"t-{overlap}")
            assert most == 1
        with pytest.raises(errors.InvalidPayload):
            await c.timers.submit("once", "slow", 1, delay_s=5, overlap="skip")


async def test_a_delayed_task_whose_id_was_taken_has_no_outcome_of_other_work(fleet: InMemoryCoord) -> None:
    agent, seen = echoes()
    async with fleet.work(agent), fleet.connect("boss") as c, fleet.connect("other") as other:
        for name, taker in (("mine", c), ("others", other)):
            later = await c.submit("echo", 1, id=name, delay_s=1)
            assert await (await taker.submit("echo", 2, id=name)).result() == 2
            for ask in (later.result(), later.status(), later.cancel()):
                with pytest.raises(errors.TaskExists) as refused:
                    await ask
                assert refused.value.details["submitter"] == taker.agent
    assert seen == [2, 2]


async def test_what_nobody_believes_keeps_no_timers_task_from_being_there_once(fleet: InMemoryCoord) -> None:
    agent, seen = echoes()
    async with fleet.work(agent), fleet.connect("boss") as c, fleet.connect("other") as other:
        stray = {"progress": ((), {"done": 0.5}), "submitted": (("echo", "normal"), {"retries": "x"})}
        names = (*stray, "nightly-1")
        for name, (event, (detail, data)) in zip(names, (*stray.items(), ("progress", stray["progress"])), strict=True):
            await other.stating.state(Fact(kind="task", id=name, key=name, event=event, detail=detail, data=data))
        handles = [await c.submit("echo", name, id=name, delay_s=2) for name in stray]
        await c.timers.submit("nightly", "echo", "nightly", every_s=5)
        assert [await handle.result(timeout_s=30) for handle in handles] == list(stray)
        assert await c.task("nightly-1").result(timeout_s=30) == "nightly"
        await c.timers.cancel("nightly")
        for name in names:
            facts = [fact for fact in fleet.facts(kind="task", id=name) if fact.event == "submitted"]
            stated = [fact for fact in facts if fact.agent == "_timer"]
            assert len(stated) == 1
            assert not is_open(facts, stated[0].event_id)
            assert is_open([fact for fact in facts if fact not in stated], stated[0].event_id)
            # Decided again, as after a death: it is there, even where no reader believes it.
            assert not is_open([msgspec.structs.replace(stated[0], detail=())], stated[0].event_id)
    assert sorted(seen) == ["nightly", *stray]


async def test_a_delayed_task_is_there_before_its_time(fleet: InMemoryCoord) -> None:
    agent, seen = echoes()
    async with fleet.work(agent), fleet.connect("boss") as c, fleet.connect("other") as other:
        later = await c.submit("echo", 1, id="x", delay_s=2)
        for handle in (later, other.task("x")):
            task = await handle.status()
            assert (task.status, task.submitter, task.capability) == ("waiting", "boss", "echo")
            assert task.retry_at is not None
        assert not await other.task("x").cancel()
        assert await later.cancel("no more")
        for handle in (later, other.task("x"), c.task("x")):
            with pytest.raises(errors.TaskCancelled, match="no more"):
                await handle.result(timeout_s=30)
        assert (await later.status()).status == "cancelled"
        again = await c.submit("echo", 1, id="x", delay_s=2)
        assert await again.result() == 1
        given_up = await c.submit("slow", 2, id="y", delay_s=60)
        assert await given_up.cancel()
        for handle in (await c.submit("slow", 2, id="y"), given_up):
            assert await handle.result(timeout_s=60) is None, "begun after all"
        with pytest.raises(errors.UnknownTask):
            await c.task("nobodys").cancel()
    assert seen == [1]


async def test_a_delayed_submission_keeps_its_deadline_and_reuse(fleet: InMemoryCoord) -> None:
    agent, seen = echoes()
    async with fleet.work(agent), fleet.connect("boss") as c, fleet.connect("other") as other:
        handle = await c.submit("slow", delay_s=2, deadline_s=3)
        with pytest.raises(errors.TaskExpired):
            await handle.result()
        task = await handle.status()
        assert task.submission.deadline == pytest.approx(task.submitted_at + 3, abs=1)
        with pytest.raises(errors.InvalidPayload):
            await c.submit("echo", delay_s=60, deadline_s=-1)

        both = [await who.submit("echo", 7, delay_s=2, reuse_for_s=600) for who in (c, c, other)]
        assert [await handle.result() for handle in both] == [7, 7, 7]
        reused = [await c.submit("echo", 7, reuse_for_s=600, delay_s=delay_s) for delay_s in (None, 2)]
        assert [(handle.reused, await handle.result()) for handle in reused] == [(True, 7), (True, 7)]
        given_up = await c.submit("echo", 8, delay_s=2, reuse_for_s=600)
        assert (await given_up.status()).status == "waiting"
        assert await given_up.cancel()
    assert seen == [7]


async def test_who_gives_up_his_delayed_task_gives_up_nobody_elses(fleet: InMemoryCoord) -> None:
    agent, seen = echoes()
    async with fleet.work(agent), fleet.connect("boss") as c:
        mine, other = [await c.submit("echo", 7, delay_s=delay_s, reuse_for_s=600) for delay_s in (2, 3)]
        assert mine.id == other.id
        waits = [asyncio.ensure_future(handle.result(timeout_s=30)) for handle in (mine, other)]
        await asyncio.sleep(0.1)
        assert await mine.cancel("no more")
        with pytest.raises(errors.TaskCancelled, match="no more"):
            await waits[0]
        assert (mine.done, other.done) == (True, False)
        with pytest.raises(errors.TaskCancelled):
            await mine.result(timeout_s=1)
        assert await waits[1] == 7
        assert await mine.result(timeout_s=1) == 7, "the work was done all the same"
    assert seen == [7]


async def test_what_was_submitted_again_has_its_later_outcome(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = echoes()

    async def lagging(*args: Any) -> Any:
        facts = (await histories.read(*args))[1][:-1]
        return fold(facts)[0], facts

    async with fleet.work(agent), fleet.connect("boss") as c, fleet.connect("operator") as operator:
        first = await c.submit("echo", [1], id="x")
        with pytest.raises(errors.TaskRejected):
            await first.result()
        with monkeypatch.context() as patched:
            patched.setattr(task_handle, "read", lagging)
            with pytest.raises(errors.TaskRejected):
                await first.result(timeout_s=1)
        await redrive(operator, "x")
        again = await c.submit("echo", [1], id="x")
        for handle in (first, c.task("x"), again):
            assert await handle.result(timeout_s=30) == [1]


async def test_the_log_of_a_delayed_task_may_be_away(fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, _ = echoes()
    away = 2

    async def failing(*args: Any) -> Any:
        nonlocal away
        away -= 1
        if away >= 0:
            raise errors.ServiceUnavailable
        return await histories.read(*args)

    async def lagging(*_: Any) -> Any:
        return None, []

    async with fleet.work(agent), fleet.connect("boss") as c:
        later, slow = [await c.submit(capability, 1, delay_s=1) for capability in ("echo", "slow")]
        await asyncio.sleep(5)
        assert (later.done, slow.done) == (True, False)
        monkeypatch.setattr(task_handle, "read", lagging)
        with pytest.raises(errors.DeadlineExceeded):
            await slow.cancel()  # it runs: False would say that it has ended
        monkeypatch.setattr(task_handle, "read", failing)
        assert await later.result() == 1
        assert away == -1
        away, joined = 1000, await c.submit("echo", 2, delay_s=1)
        await asyncio.sleep(5)
        with pytest.raises(errors.DeadlineExceeded):
            await joined.result(timeout_s=3)


async def test_failures_that_were_told_are_not_looked_up(fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, _ = echoes()
    reads = 0

    async def counted(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        return await histories.read(*args)

    monkeypatch.setattr(task_handle, "read", counted)
    async with fleet.work(agent), fleet.connect("boss") as c:
        many = await c.submit_many("echo", [[n] for n in range(20)])
        await asyncio.sleep(30)
        assert all(handle.done for handle in many)
        for looks in (0, 20):  # asked again, it may have been redriven since
            reads, began = 0, asyncio.get_running_loop().time()
            failed = await asyncio.gather(*(handle.result() for handle in many), return_exceptions=True)
            took_s = asyncio.get_running_loop().time() - began
            assert all(isinstance(one, errors.TaskRejected) for one in failed)
            assert reads == looks
            assert took_s >= (looks - 2) * limits.RESULT_AUDIT_APART_S, "one after the other"


async def test_who_joins_waits_no_longer_than_he_said(fleet: InMemoryCoord) -> None:
    agent, _ = echoes()
    async with fleet.work(agent), fleet.connect("boss") as c:
        await c.submit("slow", 1, reuse_for_s=60)
        joined = await c.submit("slow", 1, reuse_for_s=60, deadline_s=0.5)
        with pytest.raises(errors.DeadlineExceeded):
            await joined.result()
        assert (await joined.status()).status == "claimed", "it goes on for whoever came first"


async def test_many_at_once_take_what_one_takes(fleet: InMemoryCoord) -> None:
    agent, seen = echoes()
    async with fleet.work(agent), fleet.connect("boss") as c:
        twice = [await c.submit_many("echo", range(3), reuse_for_s=60) for _ in range(2)]
        assert [[handle.reused for handle in many] for many in twice] == [[False] * 3, [True] * 3]
        assert [await handle.result() for many in twice for handle in many] == [0, 1, 2, 0, 1, 2]
        later = await c.submit_many("echo", [7, 8], ids=["x", "y"], delay_s=0.5)
        assert [(await handle.status()).status for handle in later] == ["waiting"] * 2
        assert [(handle.id, await handle.result()) for handle in later] == [("x", 7), ("y", 8)]
        mixed = await c.submit_many("echo", [7, 9], ids=["x", "y"], delay_s=0.5, return_errors=True)
        assert [getattr(one, "id", one.__class__) for one in mixed] == ["x", errors.TaskExists]
        with pytest.raises(errors.InvalidPayload):
            await c.submit_many("echo", [1, 2], ids=iter(["z"]), delay_s=0.5)
        for wrong in ({"retries": "three"}, {"nosuch": 1}, {"reuse_for_s": 1, "nosuch": 1}, {"reuse_for_s": "x"}):
            with pytest.raises(errors.InvalidPayload):
                await c.submit_many("echo", [1], **wrong)
    assert sorted(seen) == [0, 1, 2, 7, 8]


async def test_what_nobody_believes_keeps_no_reused_work_from_being_done(fleet: InMemoryCoord) -> None:
    agent, seen = echoes()
    async with fleet.work(agent), fleet.connect("boss") as c, fleet.connect("other") as other:
        key = reuse.key_of("echo", b"7")
        await other.stating.state(
            Fact(kind="task", id=reuse.name_of(key, 1), key=key, event="submitted", detail=("echo", "normal"),
                 data={"retries": "many"})
        )  # fmt: skip
        handles = [await who.submit("echo", 7, reuse_for_s=60) for who in (c, c, other)]
        assert [await handle.result(timeout_s=30) for handle in handles] == [7] * 3
        assert [handle.reused for handle in handles] == [False, True, True]
    assert seen == [7]


async def test_shared_work_that_fails_before_its_time_is_begun_anew_when_it_comes(fleet: InMemoryCoord) -> None:
    """And what was done meanwhile answers, if it is not too old by then; nobody's older answer does."""
    agent = coord.Agent("moody", capabilities={"moody": 4})
    seen: list[Any] = []

    @agent.task("moody", retries=0)
    async def moody(given: dict[str, Any]) -> int:
        seen.append(given["name"])
        await asyncio.sleep(given.get("sleeps_s", 0.0))
        if seen.count(given["name"]) <= given.get("failures", 0):
            raise ConnectionError("not now")
        return seen.count(given["name"])

    async with fleet.work(agent), fleet.connect("boss") as c, fleet.connect("other") as other:
        fails = {"name": "fails", "failures": 2}
        mine = await c.submit("moody", fails, delay_s=3, reuse_for_s=600)
        waits = asyncio.ensure_future(mine.result(timeout_s=60))
        for _ in range(2):  # the second after the first, so in another generation
            with pytest.raises(errors.TaskFailed):
                await (await other.submit("moody", fails, reuse_for_s=600)).result(timeout_s=60)
        assert (waits.done(), mine.done, (await mine.status()).status) == (False, False, "waiting")
        assert await waits == 3
        task = await mine.status()
        assert (task.submitter, task.status, reuse.generation_of(task.key, task.id)) == ("boss", "completed", 3)

        runs = {"name": "runs", "failures": 1, "sleeps_s": 2}
        first = await other.submit("moody", runs, reuse_for_s=600)
        later = [await c.submit("moody", runs, delay_s=delay_s, reuse_for_s=600) for delay_s in (1, 4)]
        ended = await asyncio.gather(*(h.result(timeout_s=60) for h in (first, *later)), return_exceptions=True)
        codes = [getattr(one, "code", one) for one in ended]
        assert codes == ["task.failed", "task.failed", 2], "it ran when the first one's time came"

        old = {"name": "old"}
        again = await c.submit("moody", old, delay_s=8, reuse_for_s=2)
        assert await (await other.submit("moody", old, reuse_for_s=2)).result(timeout_s=60) == 1
        await asyncio.sleep(4)
        assert await again.result(timeout_s=60) == 2, "by then the answer is too old"
        given_up = {"name": "given up", "failures": 1}
        gone = await c.submit("moody", given_up, delay_s=60, reuse_for_s=600)
        with pytest.raises(errors.TaskFailed):
            await (await other.submit("moody", given_up, reuse_for_s=600)).result(timeout_s=60)
        assert await gone.cancel("no more")
        with pytest.raises(errors.TaskCancelled, match="no more"):
            await gone.result(timeout_s=60)
