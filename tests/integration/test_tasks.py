"""Tasks through the SDK on a real server: submitted, claimed, run, told of."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import nats.js.errors
import pytest

import coord
from coord import errors, limits
from coord.bus.patched import Message
from coord.client import attempts
from coord.wire import subjects, work
from tests.support.tasks import Fleet
from tests.support.waiting import until


class Doc(msgspec.Struct):
    text: str


class Summary(msgspec.Struct):
    words: int


pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("unsuspecting")]


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
        assert await handle.result(timeout_s=150) == Summary(3)
        assert (await handle.status()).status == "completed"
        rejected = await c.submit("summarize", Doc(""))
        with pytest.raises(errors.TaskRejected, match="empty"):
            await rejected.result(timeout_s=150)
        await until(lambda: worker.stats.completed == 1 and worker.stats.rejected == 1)


async def test_ends_are_told_together_to_an_sdk_and_one_by_one_to_whoever_does_not_ask_for_it(fleet: Fleet) -> None:
    said: dict[str, list[str]] = {"boss": [], "plain": []}

    def heard(message: Message) -> None:
        *_, agent, topic = message.subject.split(".")
        said[agent].append(topic)

    watches = [await fleet.conn.subscribe(subjects.pushes(fleet.tenant, agent), heard) for agent in said]
    await fleet.conn.flush()
    agent = summarizer().connect(fleet.url, tenant=fleet.tenant)
    async with agent, fleet.client() as c, fleet.client("plain") as plain:
        handles = await c.submit_many("summarize", [Doc("a b c")] * 200, returns=Summary)
        assert [await handle.result(timeout_s=150) for handle in handles] == [Summary(3)] * 200
        for n in range(20):
            said_by_plain = work.Submission(input={"text": "a"}, instance="i")
            detail = work.submission_detail("summarize", "normal")
            fact = coord.Fact(kind="task", id=f"plain-{n}", event="submitted", detail=detail, data=said_by_plain)
            await plain.emit(fact)
        await plain.flush()
        await until(lambda: len(said["plain"]) == 20)
    assert set(said["plain"]) == {"task"}
    assert "tasks" in said["boss"]
    assert len(said["boss"]) < 200
    for watch in watches:
        await watch.unsubscribe()


# --- submitting --------------------------------------------------------------------------


async def test_an_id_is_one_task_whoever_submits_it_again_and_other_work_is_refused(fleet: Fleet) -> None:
    async with fleet.client() as c, fleet.client("other") as other:
        first = await c.submit("summarize", Doc("a b"), id="d1", priority="critical", returns=Summary)
        again = await c.submit("summarize", Doc("a b"), id="d1", returns=Summary)
        elsewhere = await other.submit("summarize", Doc("a b"), id="d1", returns=Summary)
        with pytest.raises(errors.TaskExists) as refused:
            await c.submit("summarize", Doc("something else"), id="d1")
        assert refused.value.details["submitter"] == "boss"
        assert refused.value.details["first_event_id"] == (await first.status()).event_id
        with pytest.raises(errors.TaskExists):
            await c.submit("translate", Doc("a b"), id="d1")
        with pytest.raises(errors.TaskExists):
            await c.submit("summarize", Doc("a b"), id="d1", priority="normal")  # as is said, not as by default
        async with summarizer().connect(fleet.url, tenant=fleet.tenant) as worker:
            found = await asyncio.gather(*(h.result(timeout_s=150) for h in (first, again, elsewhere)))
            assert found == [Summary(2)] * 3
            assert worker.stats.completed == 1
        seen = c.task("d1", returns=Summary)
        assert await seen.result(timeout_s=150) == Summary(2), "a handle of a task that ended long ago"
        with pytest.raises(errors.UnknownTask):
            await c.task("never").status()


async def test_many_are_submitted_at_once_and_one_refused_harms_no_other(fleet: Fleet) -> None:
    async with summarizer().connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        await c.submit("summarize", Doc("x"), id="m3")
        docs = [Doc("w " * n) for n in range(1, 8)]
        ids = [f"m{n}" for n in range(7)]
        with pytest.raises(errors.TaskExists):
            await c.submit_many("summarize", docs, ids=ids)
        handles = await c.submit_many("summarize", docs, ids=ids, return_errors=True, returns=Summary)
        assert isinstance(handles[3], errors.TaskExists)
        good = [h for h in handles if isinstance(h, coord.TaskHandle)]
        assert [s.words for s in await asyncio.gather(*(h.result(timeout_s=150) for h in good))] == [1, 2, 3, 5, 6, 7]


async def test_a_capability_that_nobody_has_waits_until_somebody_comes(fleet: Fleet) -> None:
    async with fleet.client() as c:
        handle = await c.submit("summarize", Doc("a"))
        with pytest.raises(errors.DeadlineExceeded):
            await handle.result(timeout_s=0.05)
        assert (await handle.status()).status == "queued"
        async with summarizer().connect(fleet.url, tenant=fleet.tenant):
            assert await handle.result(timeout_s=150) == {"words": 1}


async def test_what_expired_before_anybody_came_is_run_by_nobody(fleet: Fleet) -> None:
    ran = []
    agent = coord.Agent("late")

    @agent.task("tardy")
    async def tardy(given: int) -> int:
        ran.append(given)
        return given

    async with fleet.client() as c:
        with pytest.raises(errors.TaskExpired):
            await (await c.submit("tardy", 1, deadline_s=0.05)).result(timeout_s=60)
        async with agent.connect(fleet.url, tenant=fleet.tenant) as worker:
            assert await (await c.submit("tardy", 2)).result(timeout_s=60) == 2
            await until(lambda: worker.stats.skipped == 1)
    assert ran == [2]


async def test_a_capability_is_opened_once_for_however_many_are_submitted_before_it_is(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet.client() as c:
        asked: list[str] = []
        ask = c.queues.open

        async def opening(capability: str, *, again: bool = False) -> bool:
            asked.append(capability)
            there: bool = await ask(capability, again=again)
            return there

        monkeypatch.setattr(c.queues, "open", opening)
        # More than a service takes requests at a time.
        handles = await asyncio.gather(*(c.submit("unheard-of", n, id=f"u{n}") for n in range(600)))
        assert len({handle.id for handle in handles}) == 600
        assert asked == ["unheard-of"]


async def test_one_bad_submission_of_many_is_an_error_in_its_place(fleet: Fleet) -> None:
    async with fleet.client() as c:
        found = await c.submit_many("work", [1, object(), 3], ids=["m-1", "m-2", "m-3"], return_errors=True)
        assert [getattr(one, "id", None) for one in found] == ["m-1", None, "m-3"]
        assert isinstance(found[1], errors.InvalidPayload)
        found = await c.submit_many("work", [1, 2], ids=["m-4", "NOT A TOKEN"], return_errors=True)
        assert isinstance(found[1], errors.InvalidToken)
        with pytest.raises(errors.InvalidPayload):
            await c.submit_many("work", [object(), 5], ids=["m-5", "m-6"])
        assert (await c.task("m-6").status()).status == "queued", "the others are stored all the same"


@pytest.mark.parametrize(
    "option", [{"labels": {"a": 1}}, {"labels": "x"}, {"preemptible": "yes"}, {"progress": 3}, {"retries": "a"}]
)
async def test_options_that_no_reader_would_believe_are_refused(fleet: Fleet, option: dict[str, Any]) -> None:
    async with fleet.client() as c:
        with pytest.raises(errors.InvalidPayload):
            await c.submit("work", 1, **option)


async def test_bad_submissions_are_refused_before_they_are_stated(fleet: Fleet) -> None:
    async with fleet.client() as c:
        for refused, options in (
            (errors.InvalidToken, {"id": "Not A Token"}),
            (errors.InvalidPayload, {"priority": "urgent"}),
            (errors.InvalidPayload, {"retries": -1}),
            (errors.InvalidPayload, {"timeout_s": 0.0}),
        ):
            with pytest.raises(refused):
                await c.submit("summarize", Doc("a"), **options)
        with pytest.raises(errors.InvalidPayload, match="ids names each"):
            await c.submit_many("summarize", [Doc("a"), Doc("b")], id="both")  # type: ignore[call-overload]
        with pytest.raises(errors.InvalidToken):
            await c.submit("No Capability", Doc("a"))
        with pytest.raises(errors.InvalidPayload):
            await c.submit("summarize", float("nan"))


async def test_beyond_the_bound_submitting_waits_and_an_open_circuit_fails_fast(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SUBMIT_WAIT_S", 0.3)
    async with fleet.client() as c:
        board = subjects.board(fleet.tenant, "crowded")

        def say(**what: Any) -> None:
            c.connection.publish(board, msgspec.json.encode(what))

        await c.submit("crowded", 0)
        say(depth=1, bound=2)
        await c.connection.flush()
        await c.submit("crowded", 1)
        with pytest.raises(errors.Overloaded):
            await c.submit("crowded", 2)
        monkeypatch.setattr(limits, "SUBMIT_WAIT_S", 60.0)
        waiting = asyncio.ensure_future(c.submit("crowded", 3))
        say(depth=0, bound=2)
        await waiting
        say(depth=0, bound=2, circuit="open", retry_after_s=60)
        await c.connection.flush()
        with pytest.raises(errors.CircuitOpen) as refused:
            await c.submit("crowded", 4)
        assert 0 < refused.value.retry_after_s <= 60


# --- handlers ----------------------------------------------------------------------------


async def test_what_a_handler_does_wrong_is_a_typed_failure(fleet: Fleet) -> None:
    agent = coord.Agent("faulty")

    @agent.task("wrong-type")
    async def wrong_type(_: Any) -> Summary:
        return "no summary"  # type: ignore[return-value]

    @agent.task("too-large")
    async def too_large(_: Any) -> str:
        return "x" * (limits.TASK_OUTPUT_BYTES_MAX + 1)

    @agent.task("too-slow", timeout_s=0.05, retries=0)
    async def too_slow(_: Any) -> None:
        await asyncio.sleep(60)

    @agent.task("raises", retries=0)
    async def raises(_: Any) -> None:
        raise KeyError("nothing there")

    @agent.task("typed", retries=0)
    async def typed(doc: Doc) -> int:
        return len(doc.text)

    async with agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        for capability, kind, error in (
            ("wrong-type", errors.TaskFailed, "result.type"),
            ("too-large", errors.TaskFailed, "result.too_large"),
            ("too-slow", errors.TaskFailed, "timeout"),
            ("raises", errors.TaskFailed, "KeyError"),
            ("typed", errors.TaskRejected, "rejected"),
        ):
            handle = await c.submit(capability, {"no": "text"})
            with pytest.raises(kind) as failed:
                await handle.result(timeout_s=150)
            assert failed.value.details["error"] == error


async def test_long_time_limits_are_kept_too(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_COARSE_S", 0.01)  # so that 50 ms is a long one
    monkeypatch.setattr(limits, "TASK_TIMEOUT_GRACE_S", 60.0)  # however long the machine stands still
    agent = coord.Agent("slow")
    ended: list[str] = []

    @agent.task("overruns", retries=0)
    async def overruns(how: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(how)

    async with agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        handle = await c.submit("overruns", "x", timeout_s=0.05)
        with pytest.raises(errors.TaskFailed) as failed:
            await handle.result(timeout_s=150)
        assert failed.value.details["error"] == "timeout"
        assert ended == ["x"]


async def test_a_failure_is_tried_again_and_the_handler_knows_which_attempt_it_is(fleet: Fleet) -> None:
    agent = coord.Agent("flaky")
    attempts: list[tuple[int, int]] = []

    @agent.task("flaky", retries=5)
    async def flaky(ctx: coord.TaskContext) -> int:
        attempts.append((ctx.attempt, ctx.claim))
        assert ctx.deadline is not None
        if ctx.attempt < 3:
            raise RuntimeError("not yet")
        return ctx.attempt

    async with agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        handle = await c.submit("flaky", retries=2, backoff_s=0.02)
        assert await handle.result(timeout_s=150) == 3
        assert attempts == [(1, 1), (2, 2), (3, 3)]
        hopeless = await c.submit("flaky", retries=1, backoff_s=0.02)
        with pytest.raises(errors.TaskFailed, match="not yet"):
            await hopeless.result(timeout_s=150)


async def test_a_cancelled_task_ends_its_handler(fleet: Fleet) -> None:
    agent = coord.Agent("patient")
    began, ended = asyncio.Event(), asyncio.Event()

    @agent.task("wait")
    async def wait(_: Any, ctx: coord.TaskContext) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert ctx.cancelled.is_set()
            ended.set()

    async with agent.connect(fleet.url, tenant=fleet.tenant) as worker, fleet.client() as c:
        handle = await c.submit("wait", 1)
        await asyncio.wait_for(began.wait(), 90)
        assert await handle.cancel("changed my mind")
        await asyncio.wait_for(ended.wait(), 90)
        with pytest.raises(errors.TaskCancelled, match="changed my mind"):
            await handle.result(timeout_s=150)
        assert not await handle.cancel()
        await until(lambda: worker.held == 0)
        queued = await c.submit("nobody-has-this", 1)
        assert await queued.cancel()
        with pytest.raises(errors.TaskCancelled):
            await queued.result(timeout_s=150)


async def test_progress_is_told_to_whoever_asks(fleet: Fleet) -> None:
    agent = coord.Agent("walker")
    go = asyncio.Event()

    @agent.task("walk")
    async def walk(ctx: coord.TaskContext) -> str:
        await ctx.progress(0.25, note="a quarter")
        await go.wait()
        await ctx.progress(0.75)
        return "there"

    async with agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        handle = await c.submit("walk", progress=True)
        seen = []
        async for progress in handle.progress():
            seen.append(progress.done)
            go.set()
        assert seen[0] == 0.25
        assert await handle.result(timeout_s=150) == "there"
        assert (await handle.status()).progress == 1.0


async def recorded(store: Any, name: str) -> bool:
    with contextlib.suppress(nats.js.errors.ObjectNotFoundError):
        return bool(await store.get_info(name))
    return False


async def test_large_payloads_travel_by_reference(fleet: Fleet) -> None:
    agent = coord.Agent("echo")

    @agent.task("echo")
    async def echo(text: str) -> str:
        return text[::-1]

    async with agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        text = "ab" * limits.TASK_INLINE_BYTES
        handle = await c.submit("echo", text)
        assert await handle.result(timeout_s=150) == text[::-1]
        ref = (await handle.status()).submission.ref
        assert ref is not None
        # Any NATS client reads it.
        theirs = await nats.connect(fleet.url)
        store = await theirs.jetstream().object_store("PAYLOADS")
        await until(lambda: recorded(store, ref.name), 90)
        stored = (await store.get(ref.name)).data
        assert stored is not None
        assert msgspec.json.decode(stored) == text
        await theirs.close()


# --- sharing and leaving -------------------------------------------------------------------


async def test_a_saturated_worker_shares_itself_out_and_borrows_what_is_not_used(fleet: Fleet) -> None:
    agent = coord.Agent("busy", capabilities={"busy": 1})
    order: list[str] = []

    @agent.task("busy")
    async def busy(ctx: coord.TaskContext) -> None:
        order.append(ctx.priority)

    async with fleet.client() as c:
        handles = []
        counts: tuple[tuple[work.Priority, int], ...] = (("batch", 40), ("normal", 24), ("critical", 64))
        for priority, count in counts:
            handles += await c.submit_many("busy", range(count), priority=priority)
        async with agent.connect(fleet.url, tenant=fleet.tenant):
            await asyncio.gather(*(h.result(timeout_s=150) for h in handles))
    saturated = order[:84]  # seven rounds of twelve: all three have work
    assert {p: saturated.count(p) for p in work.PRIORITIES} == {"critical": 56, "normal": 21, "batch": 7}
    assert order.count("batch") == 40, "in the end batch has it all"


async def test_a_full_worker_leaves_what_it_cannot_take_to_others(fleet: Fleet) -> None:
    go = asyncio.Event()

    def one_at_a_time() -> coord.Agent:
        agent = coord.Agent("single", capabilities={"single": 1})

        @agent.task("single")
        async def single(_: int) -> None:
            await go.wait()

        return agent

    async with (
        one_at_a_time().connect(fleet.url, tenant=fleet.tenant) as a,
        one_at_a_time().connect(fleet.url, tenant=fleet.tenant) as b,
        fleet.client() as c,
    ):
        priorities: tuple[work.Priority, ...] = ("normal", "critical")
        handles = [await c.submit("single", n, priority=p) for n, p in enumerate(priorities)]
        await until(lambda: a.held == b.held == 1, 90)
        go.set()
        await asyncio.gather(*(h.result(timeout_s=150) for h in handles))


async def test_a_worker_that_drains_finishes_what_it_can_and_returns_the_rest(fleet: Fleet) -> None:
    began: list[str] = []

    def sleeper(name: str, seconds: float) -> coord.Agent:
        agent = coord.Agent(name, capabilities={"sleep": 1}, drain_s=0.1)

        @agent.task("sleep")
        async def sleep(_: int) -> str:
            began.append(name)
            await asyncio.sleep(seconds)
            return name

        return agent

    async with fleet.client() as c:
        async with sleeper("first", 60).connect(fleet.url, tenant=fleet.tenant) as worker:
            handle = await c.submit("sleep", 1)
            await until(lambda: began == ["first"], 90)
            await worker.drain()
        async with sleeper("second", 0).connect(fleet.url, tenant=fleet.tenant):
            assert await handle.result(timeout_s=150) == "second"
        assert (await handle.status()).deaths == 0, "it was given back, nobody died"


async def test_batch_makes_way_for_critical_at_its_next_await(fleet: Fleet) -> None:
    agent = coord.Agent("polite", capabilities={"polite": 1})
    events: list[str] = []

    @agent.task("polite", preemptible=True)
    async def polite(name: str) -> None:
        events.append(f"{name} begins")
        for _ in range(10_000):
            await asyncio.sleep(0.005)
            if name == "critical" or "critical begins" in events:
                break
        events.append(f"{name} ends")

    async with agent.connect(fleet.url, tenant=fleet.tenant), fleet.client() as c:
        batch = await c.submit("polite", "batch", priority="batch")
        await until(lambda: events, 90)
        critical = await c.submit("polite", "critical", priority="critical")
        await asyncio.gather(batch.result(timeout_s=150), critical.result(timeout_s=150))
    assert events == ["batch begins", "critical begins", "critical ends", "batch ends"]


async def test_a_finished_task_that_is_delivered_again_reaches_no_handler(fleet: Fleet) -> None:
    runs: list[int] = []
    agent = coord.Agent("once", capabilities={"once": 2})

    @agent.task("once")
    async def once(n: int) -> int:
        runs.append(n)
        return n

    async with fleet.client() as c:
        async with agent.connect(fleet.url, tenant=fleet.tenant):
            handles = await c.submit_many("once", range(5))
            await asyncio.gather(*(h.result(timeout_s=150) for h in handles))
        name = subjects.queue(fleet.tenant, "once", "normal")
        # As after a crash of the broker that lost its acks: all five are delivered once more, as if for the first time.
        config = (await c.connection.api(f"CONSUMER.INFO.EVENTS.{name}"))["config"]
        await c.connection.api(f"CONSUMER.DELETE.EVENTS.{name}")
        config |= {"deliver_policy": "all"}
        config.pop("opt_start_seq", None)
        await c.connection.api(f"CONSUMER.CREATE.EVENTS.{name}", {"stream_name": "EVENTS", "config": config})
        async with agent.connect(fleet.url, tenant=fleet.tenant) as worker:
            await until(lambda: worker.stats.skipped >= 5, 90)

            async def settled() -> bool:
                info = await c.connection.api(f"CONSUMER.INFO.EVENTS.{name}")
                return bool(info["num_ack_pending"] == 0 and info["num_pending"] == 0)

            await until(settled, 90)
    assert sorted(runs) == [0, 1, 2, 3, 4]


# --- reuse -------------------------------------------------------------------------------


async def test_identical_work_is_done_once_and_everybody_gets_its_outcome(fleet: Fleet) -> None:
    agent = coord.Agent("thinker", capabilities={"think": 4})
    runs: list[dict[str, int]] = []
    go = asyncio.Event()

    @agent.task("think", retries=0)
    async def think(what: dict[str, int]) -> int:
        runs.append(what)
        await go.wait()
        if what.get("fails"):
            raise RuntimeError("no")
        return sum(what.values())

    async with (
        agent.connect(fleet.url, tenant=fleet.tenant),
        fleet.client() as c,
        fleet.client("other") as other,
    ):
        first = await c.submit("think", {"a": 1, "b": 2}, reuse_for_s=60)
        meanwhile = await asyncio.gather(
            *(who.submit("think", {"b": 2, "a": 1}, reuse_for_s=60) for who in (c, other) for _ in range(5))
        )
        assert not first.reused
        assert all(h.reused and h.id == first.id for h in meanwhile)
        go.set()
        assert set(await asyncio.gather(*(h.result(timeout_s=150) for h in (first, *meanwhile)))) == {3}
        after = await other.submit("think", {"a": 1, "b": 2}, reuse_for_s=60)
        assert after.reused
        assert await after.result(timeout_s=150) == 3
        assert len(runs) == 1

        again = await c.submit("think", {"a": 1, "b": 2}, reuse_for_s=0.0)
        assert not again.reused, "older than is accepted: a new generation"
        assert await again.result(timeout_s=150) == 3
        failed = await c.submit("think", {"fails": 1}, reuse_for_s=60)
        with pytest.raises(errors.TaskFailed):
            await failed.result(timeout_s=150)
        assert not (await c.submit("think", {"fails": 1}, reuse_for_s=60)).reused, "a failure is no answer"
        await until(lambda: len(runs) == 4, 90)


# --- quotas ------------------------------------------------------------------------------


async def test_an_agent_keeps_to_its_quotas(fleet: Fleet) -> None:
    most = 0

    def limited(name: str, quotas: coord.Quotas) -> coord.Agent:
        agent = coord.Agent(name, capabilities={f"{name}-a": 8, f"{name}-b": 8}, quotas=quotas)
        now = 0

        async def count(_: int) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.002)
            now -= 1

        agent.task(f"{name}-a")(count)
        agent.task(f"{name}-b")(count)
        return agent

    async with fleet.client() as c:
        async with limited("few", coord.Quotas(inflight=3)).connect(fleet.url, tenant=fleet.tenant):
            handles = await c.submit_many("few-a", range(20)) + await c.submit_many("few-b", range(20))
            await asyncio.gather(*(h.result(timeout_s=150) for h in handles))
        assert 1 <= most <= 3
        async with limited("slow", coord.Quotas(facts_per_s=40)).connect(fleet.url, tenant=fleet.tenant):
            # 40 tasks are 80 facts, claims and outcomes; 40 are saved up, the others take a second
            # (the last claim is taken when 78 are spent and there is room for one more: 39 / 40 s).
            began = asyncio.get_running_loop().time()
            handles = await c.submit_many("slow-a", range(40))
            await asyncio.gather(*(h.result(timeout_s=150) for h in handles))
            assert asyncio.get_running_loop().time() - began >= 0.9
        async with limited("huge", coord.Quotas(memory_mib=1)).connect(fleet.url, tenant=fleet.tenant) as worker:
            handle = await c.submit("huge-a", 1)
            with pytest.raises(errors.DeadlineExceeded):
                await handle.result(timeout_s=0.3)
            assert worker.held == 0
        with pytest.raises(errors.SettingsError):
            coord.Agent("none", quotas=coord.Quotas(facts_per_s=0))


# --- hostile neighbours --------------------------------------------------------------------


async def test_facts_that_nobody_believes_keep_nobody_from_submitting_or_claiming(fleet: Fleet) -> None:
    agent = coord.Agent("honest", capabilities={"work": 2})

    @agent.task("work", retries=5)
    async def run(ctx: coord.TaskContext) -> int:
        if ctx.attempt == 1:
            raise RuntimeError("once more")
        return ctx.claim

    async with fleet.client("evil") as evil, fleet.client() as c:
        # Before there is a task, and a claim that is not its turn yet: both count for the broker's conditions.
        await evil.publish(coord.Fact(kind="task", id="t1", event="progress", data={"done": 1}))
        await evil.publish(coord.Fact(kind="task", id="t1", event="claimed", detail=("2",)))
        handle = await c.submit("work", id="t1", backoff_s=0.02)
        async with agent.connect(fleet.url, tenant=fleet.tenant):
            assert await handle.result(timeout_s=150) == 2
        task = await handle.status()
        assert (task.claimant, task.submitter) == ("honest", "boss")
