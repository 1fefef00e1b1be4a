"""All of coord in memory: what an agent's author tests, by the means that docs/howto/testing.md shows."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

import coord
from coord import errors, limits
from coord.client.attempts import Attempt
from coord.client.execution import Execution
from coord.core.presence_decider import Agent
from coord.testing import InMemoryCoord, Stuck, load, replay, run, save
from coord.wire.flow import When
from coord.wire.locking import Released
from coord.wire.records import Fact
from tests.support.waiting import until

GOLDEN = Path(__file__).parents[1] / "golden" / "histories"


class Doc(msgspec.Struct):
    text: str


def writers(failures: int = 0) -> tuple[coord.Agent, list[Any]]:
    """An agent that counts words, after so many failures; what it was given."""
    agent = coord.Agent("writer", capabilities={"count": 2, "slow": 1})
    seen: list[Any] = []

    @agent.task("count", retries=5)
    async def count(doc: Doc, ctx: coord.TaskContext) -> int:
        seen.append(doc.text)
        if not doc.text:
            raise coord.Reject("empty")
        if len(seen) <= failures:
            raise ConnectionError("not now")
        await ctx.progress(0.5)
        return len(doc.text.split())

    @agent.task("slow", timeout_s=7200)
    async def slow(_: Any) -> str:
        seen.append("slow")
        await asyncio.sleep(20)
        return "done"

    return agent, seen


async def test_a_handlers_results_rejections_and_progress(fleet: InMemoryCoord) -> None:
    agent, seen = writers()
    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("count", Doc("to be or not"), id="d1")
        assert await handle.result(timeout_s=5) == 4
        with pytest.raises(errors.TaskRejected, match="empty"):
            await (await c.submit("count", Doc(""))).result(timeout_s=5)
        first = await c.submit("count", Doc("same"), reuse_for_s=3600)
        again = await c.submit("count", Doc("same"), reuse_for_s=3600)
        assert (await first.result(), await again.result(), again.reused) == (1, 1, True)
        with pytest.raises(errors.TaskExists):
            await c.submit("count", Doc("another"), id="d1")
    assert seen == ["to be or not", "", "same"]
    assert [f.event for f in fleet.facts("task", "d1")] == ["submitted", "claimed", "progress", "completed"]


async def test_retries_wait_in_virtual_time(fleet: InMemoryCoord) -> None:
    agent, seen = writers(failures=3)
    loop = asyncio.get_running_loop()
    async with fleet.work(agent), fleet.connect("boss") as c:
        began = loop.time()
        handle = await c.submit("count", Doc("a b"))
        assert await handle.result(timeout_s=3600) == 2
    assert len(seen) == 4
    assert loop.time() - began > 1, "three backoffs"


async def test_what_is_over_is_gone_without_the_collector(fleet: InMemoryCoord) -> None:
    agent, _ = writers(failures=2)
    async with fleet.work(agent) as worker, fleet.connect("boss") as c:
        gc.collect()
        gc.disable()
        try:
            assert await (await c.submit("count", Doc("a b"))).result(timeout_s=3600) == 2
            await worker.wait()
            await c.flush()
            left = [type(one).__name__ for one in gc.get_objects() if isinstance(one, (Attempt, Execution))]
        finally:
            gc.enable()
        assert left == []
        handle = await c.submit("count", Doc("a"))
        assert len(c.outcomes) == 1
        assert await handle.result(timeout_s=5) == 1
        del handle
        assert len(c.outcomes) == 0, "nobody holds a handle"


async def test_waits_that_were_too_long_leave_nothing_behind(fleet: InMemoryCoord) -> None:
    async with fleet.connect("boss") as c:
        watch = c.outcomes.watch("k", "t")
        for _ in range(3):
            assert not any(await asyncio.gather(*(watch.changed(0.01) for _ in range(10))))
        assert len(watch._changed) <= 20  # not thirty: those that are over go when others come
        waits = asyncio.ensure_future(watch.changed(None))
        await asyncio.sleep(0)
        watch.hear()
        assert await waits


async def test_a_worker_that_crashes_loses_its_task_to_another(fleet: InMemoryCoord) -> None:
    agent, seen = writers()
    async with fleet.connect("boss") as c, fleet.work(agent) as doomed:
        handle = await c.submit("slow")
        await until(lambda: seen)
        await fleet.crash(doomed)
        async with fleet.work(agent):
            assert await handle.result(timeout_s=3600) == "done"
    assert seen == ["slow", "slow"]
    assert [f.event for f in fleet.facts("task", handle.id)] == [
        "submitted", "claimed", "released", "claimed", "completed"
    ]  # fmt: skip


async def test_a_broker_that_is_away_for_a_while_loses_nothing(fleet: InMemoryCoord) -> None:
    agent, _ = writers()
    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("slow")
        await fleet.until_fact("task", "claimed")
        await fleet.restart_broker(away_s=5)
        assert await handle.result(timeout_s=3600) == "done"
    assert [f.event for f in fleet.facts("task", handle.id)] == ["submitted", "claimed", "completed"]


def order(threshold: int = 2) -> coord.Workflow:
    flow = coord.Workflow("order")
    counted = flow.task("counted", "count", input=flow.input["doc"])
    rules = [When(when=f"input.words > {threshold}", output="large"), When(output="small")]
    size = flow.decide("size", rules, input={"words": counted.output})
    approved = flow.approval("approved", "boss-says", needs=[size], when=size.output == "large")
    flow.sleep("rest", 3600.0, needs=[approved])
    flow.output({"words": counted.output, "size": size.output})
    return flow


async def test_a_workflow_defined_as_data_asks_a_table_that_is_changed(fleet: InMemoryCoord) -> None:
    flow = {"name": "triage", "steps": [{"name": "size", "decide": "sizes"}]}
    async with fleet.connect("boss") as c:
        table = await c.rules.set("sizes", [{"when": "input.n > 2", "output": "large"}, {"output": "small"}])
        assert table == await c.rules.get("sizes")
        assert await c.run_workflow(flow, {"n": 3}, timeout_s=60) == "large"
        with pytest.raises(errors.InvalidWorkflow, match="is 0 to 1") as refused:
            await c.rules.set("sizes", [{"output": "small"}, {"output": "large", "confidence": 7}])
        assert (refused.value.details["rule"], refused.value.details["field"]) == (1, "confidence")
        with pytest.raises(errors.InvalidWorkflow, match=r"outptu.*\$\.rules\[0\]"):
            await c.rules.set("sizes", {"rules": [{"outptu": "small"}]})
        await c.rules.set("sizes", {"rules": [{"output": "any"}]}, version="2")
        assert [(table.id, table.said.version) for table in await c.rules.ls()] == [("sizes", "2")]
        assert await c.run_workflow(coord.Workflow.from_dict(flow), {"n": 3}, timeout_s=60) == "any"
        assert await c.rules.get("nobody") is None


async def test_a_start_that_nobody_believes_is_in_nobodys_way(fleet: InMemoryCoord) -> None:
    flow = {"name": "triage", "steps": [{"name": "size", "decide": {"rules": [{"output": 1}]}}]}
    async with fleet.connect("boss") as c, fleet.connect("other") as other:
        await other.stating.state(Fact(kind="workflow", id="w", key="w", event="started", data=[1]))
        started = [await who.start_workflow(flow, {}, id="w") for who in (c, c, other)]
        assert [await handle.result(timeout_s=60) for handle in started] == [1] * 3
        assert [step.name for step in (await started[0].status()).steps] == ["size"]
        with pytest.raises(errors.WorkflowExists) as refused:
            await other.start_workflow(flow, {"n": 1}, id="w")
        believed = fleet.facts("workflow", "w")[1]
        assert (refused.value.details["submitter"], refused.value.details["first_seq"]) == ("boss", believed.seq)


async def test_a_handler_may_wait_for_a_signal_of_its_workflow(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("asker", capabilities={"ask": 1})

    @agent.task("ask")
    async def ask(_: Any, ctx: coord.TaskContext) -> Any:
        return await ctx.coord.signals.wait("go", key=ctx.key, timeout_s=60)

    flow = coord.Workflow("asks")
    flow.task("asked", "ask", input=1)
    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.start_workflow(flow, {}, id="w")
        with pytest.raises(errors.UnknownSignal):
            await handle.signal("goo")
        await fleet.until_fact("signal", "awaited", key="w")
        with pytest.raises(errors.UnknownSignal):
            await handle.signal("goo")
        await handle.signal("go", 5)
        assert await handle.result(timeout_s=60) == 5
        await handle.signal("go", 6)  # said before: of no consequence


async def test_what_is_large_is_handed_on_whole_and_a_late_signal_is_refused(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("pages")

    @agent.task("page")
    async def page(n: int) -> dict[str, Any]:
        return {"n": n, "text": str(n) * 300_000}

    @agent.task("bind")
    async def bind(given: dict[str, Any]) -> list[dict[str, Any]]:
        return [*given["pages"], {"n": 2, "text": ""}]

    flow = coord.Workflow("book")
    pages = flow.task("pages", "page", for_each=[0, 1])
    flow.task("bound", "bind", input={"pages": pages.output})
    late = flow.signal("late", "go", when=pages.status == "failed")
    flow.task("never", "page", needs=[late])
    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.start_workflow(flow, id="book")
        book = (await handle.result(timeout_s=60))["bound"]
        assert [(p["n"], len(p["text"])) for p in book] == [(0, 300_000), (1, 300_000), (2, 0)]
        with pytest.raises(errors.WorkflowOver):
            await handle.signal("go")
        # Raised all the same, it changes nothing of what is shown.
        await c.signals.raise_("go", key="book")
        steps = {step.name: step.status for step in (await handle.status()).steps}
        assert steps == {"pages": "completed", "bound": "completed", "late": "skipped", "never": "skipped"}


@pytest.mark.parametrize("heard", [True, False])
async def test_who_was_granted_a_lock_and_thought_gone_before_he_looked_asks_again(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    async with fleet.connect("a") as c:
        send, tokens = c.locks.send, list[str]()

        async def stands_still(locking: Any, token: str, event: str, data: Any) -> Any:
            stored = await send(locking, token, event, data)
            if event == "requested":
                tokens.append(token)
                if len(tokens) == 1:
                    await until(lambda: locking._granted)
                    await send(locking, token, "released", Released())  # the log has it no more
                    if heard:
                        c.locks._pushed(msgspec.json.encode({"what": "revoked", "token": token}))
                    else:
                        c.locks._reconnected()
            return stored

        monkeypatch.setattr(c.locks, "send", stands_still)
        held = await c.lock("index", timeout_s=60).acquire()
        lock = await c.locks.get("index")
        assert lock is not None
        assert [request.epoch for request in lock.holders] == [held.epoch]
        assert len(tokens) == 2


async def test_a_handoff_to_a_name_that_nobody_has_says_so(fleet: InMemoryCoord) -> None:
    async with fleet.connect("boss") as c:
        await asyncio.sleep(2 * limits.PRESENCE_SETTLE_S)  # just started, nobody knows who is there
        handle = await c.handoff({"n": 1}, to="clrek", timeout_s=0.1)
        with pytest.raises(errors.HandoffExpired) as refused:
            await handle.accepted(60)
    assert refused.value.details["reason"] == "nobody"


async def test_one_too_many_registers_again_and_has_the_place_of_one_that_left(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PRESENCE_PER_AGENT_MAX", 1)
    async with fleet.connect("w") as first, fleet.connect("w") as second:
        await first.beating.register()
        await second.beating.register()
        await asyncio.sleep(60)
        await first.beating.close()
        await asyncio.sleep(120)
        facts, agent = fleet.facts("agent", "w"), Agent("", "")
        for fact in facts:
            agent.apply(fact)
        assert (list(agent.instances), agent.state) == ([second.instance], "alive")
        # After 5 s at most, then 10, 20, 40 and 80, each shortened by up to a half.
        assert sum(fact.event == "registered" for fact in facts) in {6, 7}


async def played(fleet: InMemoryCoord, workflow: coord.Workflow) -> list[coord.StoredFact]:
    """The history of one that was approved and slept its hour."""
    agent, _ = writers()
    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.start_workflow(workflow, {"doc": {"text": "a b c"}}, id="order-7")
        await fleet.until_fact("workflow", "decided", key="order-7")
        with pytest.raises(errors.UnknownSignal) as refused:
            await handle.approve("boss-sais")
        assert refused.value.details["signals"] == ["boss-says"]
        await handle.approve("boss-says")
        await fleet.leap(hours=2)
        assert await handle.result(60) == {"words": 3, "size": "large"}
    return fleet.facts(key="order-7")


async def test_a_workflow_that_is_approved_and_sleeps(fleet: InMemoryCoord, tmp_path: Path) -> None:
    history = await played(fleet, order())
    assert replay(history) == []
    assert replay(history, order()) == []
    save(history, tmp_path / "history.jsonl")
    assert replay(load(tmp_path / "history.jsonl")) == []


async def test_a_replay_says_what_would_be_decided_otherwise(fleet: InMemoryCoord) -> None:
    history = await played(fleet, order())
    found = {(d.what, d.fact) for d in replay(history, order(threshold=5))}
    assert ("changed", "workflow.decided.size order-7") in found, found
    without = coord.Workflow("order")
    without.task("counted", "count", input=without.input["doc"])
    found = {(d.what, d.fact) for d in replay(history, without)}
    assert ("missing", "workflow.decided.size order-7") in found, found
    assert replay(history) == []
    with pytest.raises(errors.InvalidPayload):
        replay(history[1:])


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.jsonl")), ids=lambda path: path.stem)
def test_stored_histories_are_decided_as_they_were(path: Path) -> None:
    """Of each release: whoever began under one ends under the next as if nothing had happened."""
    assert replay(load(path)) == []


def test_everything_has_its_place_without_pytest() -> None:
    async def main() -> float:
        async with InMemoryCoord() as fleet, fleet.connect() as c:
            began = fleet.now
            await c.sleep_until(began + timedelta(seconds=10))
            return (fleet.now - began).total_seconds()

    assert 10 <= run(main()) < 15


def test_waiting_for_nothing_is_said() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        run(main())
