"""Steps of a handler: done once for a task, whoever executes it how often, and given again as they were given first."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

import coord
from coord import errors, limits
from coord.client import execution, histories
from coord.client.config import PublisherConfig
from coord.client.redriving import redrive
from coord.core import tasks
from coord.testing import InMemoryCoord
from coord.wire import subjects
from coord.wire.records import Fact
from tests.support.waiting import until


@dataclass
class Charge:
    id: str
    amount: int


class Odd:
    """Nothing that JSON can hold."""


class Shop:
    """Three steps, of which the last one fails or hangs for a while; what was done."""

    def __init__(self, failures: int = 0) -> None:
        self.done: Counter[str] = Counter()
        self.given: list[Any] = []
        self.failures = failures
        self.hangs = asyncio.Event()
        self.agent = coord.Agent("shop", capabilities={"order": 4})
        self.agent.task("order", retries=self.failures, timeout_s=7200)(self.order)

    async def charge(self, amount: int) -> Charge:
        self.done["charge"] += 1
        return Charge(f"ch-{self.done['charge']}", amount)

    def label(self, charge: Charge) -> dict[str, Any]:
        self.done["label"] += 1
        return {"of": charge.id, "no": self.done["label"]}

    async def ship(self) -> None:
        self.done["ship"] += 1
        if self.done["ship"] <= self.failures:
            raise ConnectionError("nobody at the door")

    async def order(self, amount: int, ctx: coord.TaskContext) -> list[Any]:
        charge = await ctx.run("charge", self.charge, amount)
        label = await ctx.run("label", self.label, charge)
        self.given.append((charge, label))
        if self.hangs.is_set():
            await asyncio.sleep(3600)
        await ctx.run("ship", self.ship)
        return [charge.id, label["no"]]


async def test_what_a_failed_execution_did_is_not_done_again(fleet: InMemoryCoord) -> None:
    shop = Shop(failures=2)
    async with fleet.work(shop.agent), fleet.connect("boss") as c:
        handle = await c.submit("order", 7)
        assert await handle.result(timeout_s=3600) == ["ch-1", 1]
    assert shop.done == {"charge": 1, "label": 1, "ship": 3}
    assert shop.given == [(Charge("ch-1", 7), {"of": "ch-1", "no": 1})] * 3, "of the same type each time"
    facts = fleet.facts("task", handle.id)
    assert [f.event for f in facts] == [
        "submitted", "claimed", "recorded", "recorded", "failed",
        "claimed", "failed", "claimed", "recorded", "completed",
    ]  # fmt: skip
    first = next(f for f in facts if f.event == "recorded")
    assert (first.data["claim"], first.data["step"], first.data["output"]) == (1, "charge", {"id": "ch-1", "amount": 7})
    assert first.causation_id == facts[0].event_id


async def test_what_an_agent_did_before_it_died_is_not_done_again(fleet: InMemoryCoord) -> None:
    shop = Shop()
    shop.hangs.set()
    async with fleet.connect("boss") as c, fleet.work(shop.agent) as doomed:
        handle = await c.submit("order", 7)
        await until(lambda: shop.given)
        await fleet.crash(doomed)
        shop.hangs.clear()
        async with fleet.work(shop.agent):
            assert await handle.result(timeout_s=3600) == ["ch-1", 1]
    assert shop.done == {"charge": 1, "label": 1, "ship": 1}


async def test_a_redrive_goes_on_where_the_task_ended_but_not_with_another_input(fleet: InMemoryCoord) -> None:
    shop = Shop()
    shop.failures = 1  # and no retries
    async with fleet.work(shop.agent), fleet.connect("boss") as c:
        handle = await c.submit("order", 7, id="o1")
        with pytest.raises(errors.TaskFailed):
            await handle.result(timeout_s=60)
        await redrive(c, "o1")
        ended = await fleet.until_fact("task", "completed", id="o1")
        assert ended.data["output"] == ["ch-1", 1]
        assert shop.done == {"charge": 1, "label": 1, "ship": 2}

        shop.failures = 3
        handle = await c.submit("order", 7, id="o2")
        with pytest.raises(errors.TaskFailed):
            await handle.result(timeout_s=60)
        task, facts = await histories.read(c.connection, c.tenant, "o2", "o2")
        assert task is not None
        anew = Fact(
            kind="task", id="o2", event="submitted", detail=("order", "normal"), data={"input": 8, "redrive": 1}
        )
        await c.stating.send(anew, last=facts[-1].seq)
        ended = await fleet.until_fact("task", "completed", id="o2")
        assert ended.data["output"] == ["ch-3", 3], "it is another order"


async def test_a_redrive_of_what_was_submitted_as_message_pack_goes_on(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("press", capabilities={"press": 1})
    done: list[bytes] = []

    @agent.task("press", retries=0)
    async def press(plate: bytes, ctx: coord.TaskContext) -> None:
        await ctx.run("press", done.append, plate)
        if len(fleet.facts("task", ctx.task_id)) < 5:
            raise ConnectionError("no paper")

    async with fleet.work(agent), fleet.connect("boss", publisher=PublisherConfig(content="msgpack")) as c:
        await c.emit(Fact(kind="task", id="p1", event="submitted", detail=("press", "normal"), data={"input": b"\xff"}))
        await fleet.until_fact("task", "failed", id="p1")
        await redrive(c, "p1")
        await fleet.until_fact("task", "completed", id="p1")
    assert done == [b"\xff"]


async def test_steps_at_once_and_what_is_left_behind(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("many", capabilities={"many": 1})
    released = asyncio.Event()
    left: list[asyncio.Task[Any]] = []

    async def twice(n: int) -> int:
        return 2 * n

    async def late() -> int:
        await released.wait()
        return 0

    @agent.task("many", retries=1)
    async def many(n: int, ctx: coord.TaskContext) -> int:
        doubled = await asyncio.gather(*(ctx.run(f"n{i}", twice, i) for i in range(n)))
        left.append(asyncio.ensure_future(ctx.run("late", late)))
        await asyncio.sleep(0)
        if ctx.attempt == 1:
            raise ConnectionError("once more")
        return sum(doubled)

    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("many", 20)
        assert await handle.result(timeout_s=60) == 380
        released.set()
        await asyncio.wait(left)
    assert all(task.cancelled() for task in left), "nobody would believe it"
    recorded = [f.data["step"] for f in fleet.facts("task", handle.id) if f.event == "recorded"]
    assert sorted(recorded) == sorted(f"n{i}" for i in range(20))


async def test_a_handler_may_try_a_step_again_itself(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("stubborn", capabilities={"stubborn": 1})
    tried: list[int] = []

    def flaky() -> int:
        tried.append(1)
        if len(tried) < 3:
            raise ConnectionError("not now")
        return len(tried)

    @agent.task("stubborn", retries=0)
    async def stubborn(ctx: coord.TaskContext) -> int:
        while True:
            try:
                return await ctx.run("flaky", flaky)
            except ConnectionError:
                await asyncio.sleep(0.1)

    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("stubborn")
        assert await handle.result(timeout_s=60) == 3
    assert [f.data["step"] for f in fleet.facts("task", handle.id) if f.event == "recorded"] == ["flaky"]


async def test_a_step_whose_record_is_on_its_way_is_not_done_again(fleet: InMemoryCoord) -> None:
    """A handler that does not wait for the record, and asks again: everybody is told what was recorded first."""
    agent = coord.Agent("hasty", capabilities={"hasty": 1})
    made: list[int] = []
    given: list[int] = []

    async def make() -> int:
        if not made:
            fleet.server.stop()  # the record does not get through
        made.append(1)
        return len(made)

    @agent.task("hasty", retries=1, timeout_s=600)
    async def hasty(ctx: coord.TaskContext) -> int:
        for _ in range(1_000):
            try:
                async with asyncio.timeout(0.2):
                    given.append(await ctx.run("make", make))
            except TimeoutError:
                fleet.server.start()
            else:
                break
        if ctx.attempt == 1:
            raise ConnectionError("once more")
        return given[-1]

    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("hasty")
        assert await handle.result(timeout_s=600) == 1
    assert given == [1, 1]
    assert made == [1]
    assert [f.event for f in fleet.facts("task", handle.id) if f.event == "recorded"] == ["recorded"]


def hasty(fleet: InMemoryCoord, made: list[int], *, away_s: float, waits_s: float = 0.5) -> coord.Agent:
    """An agent that does a step once, while the broker is away, and does not wait for its record for long."""
    agent = coord.Agent("hasty", capabilities={"hasty": 1}, drain_s=0.5)

    async def make() -> int:
        if not made:
            fleet.server.stop()
            asyncio.get_running_loop().call_later(away_s, fleet.server.start)
        made.append(1)
        return len(made)

    @agent.task("hasty", retries=1, timeout_s=600)
    async def once(ctx: coord.TaskContext) -> int:
        try:
            async with asyncio.timeout(waits_s):
                return await ctx.run("make", make)
        except TimeoutError:
            raise ConnectionError("not waited for") from None

    return agent


@pytest.mark.parametrize("away_s", [1, 40])
async def test_the_record_comes_before_a_failure(fleet: InMemoryCoord, away_s: int) -> None:
    made: list[int] = []
    async with fleet.work(hasty(fleet, made, away_s=away_s)), fleet.connect("boss") as c:
        handle = await c.submit("hasty")
        assert await handle.result(timeout_s=600) == 1
    assert made == [1]


@pytest.mark.parametrize("away_s", [1, 40])
async def test_the_record_comes_before_a_drained_task_is_returned(
    fleet: InMemoryCoord, away_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STOP_S", 120.0)  # the broker is there again before the agent has to go
    made: list[int] = []
    agent = hasty(fleet, made, away_s=away_s, waits_s=120)
    async with fleet.connect("boss") as c:
        async with fleet.work(agent):
            handle = await c.submit("hasty")
            await until(lambda: made)
        async with fleet.work(agent):
            assert await handle.result(timeout_s=600) == 1
    events = [f.event for f in fleet.facts("task", handle.id)]
    assert "returned" in events
    assert made == [1], events


async def test_what_a_handler_left_behind_begins_no_step(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("lazy", capabilities={"lazy": 1})
    over = asyncio.Event()
    left: list[asyncio.Task[Any]] = []
    done: list[str] = []

    @agent.task("lazy")
    async def lazy(ctx: coord.TaskContext) -> None:
        async def later() -> None:
            await over.wait()
            await ctx.run("late", lambda: done.append("late"))

        left.append(asyncio.ensure_future(later()))

    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("lazy")
        await handle.result(timeout_s=60)
        over.set()
        with pytest.raises(errors.StepRefused, match="has ended"):
            await left[0]
    assert done == []
    assert [f.event for f in fleet.facts("task", handle.id)] == ["submitted", "claimed", "completed"]


async def test_steps_that_fail_are_not_counted(fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STEPS_MAX", 3)
    agent = coord.Agent("unlucky", capabilities={"unlucky": 1})
    tries: list[int] = []

    def flaky() -> int:
        tries.append(1)
        if len(tries) < 10:
            raise ConnectionError("not now")
        return len(tries)

    @agent.task("unlucky", retries=0)
    async def unlucky(ctx: coord.TaskContext) -> int:
        while True:
            with contextlib.suppress(ConnectionError):
                return await ctx.run("flaky", flaky)

    async with fleet.work(agent), fleet.connect("boss") as c:
        assert await (await c.submit("unlucky")).result(timeout_s=60) == 10


async def test_there_are_not_endlessly_many(fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STEPS_MAX", 3)
    agent = coord.Agent("long", capabilities={"long": 1})

    @agent.task("long", retries=1)
    async def long(n: int, ctx: coord.TaskContext) -> None:
        for i in range(n):
            await ctx.run(f"s{i}", lambda: 1)
        if ctx.attempt == 1:
            raise ConnectionError("what was recorded counts once")

    async with fleet.work(agent), fleet.connect("boss") as c:
        await (await c.submit("long", 3)).result(timeout_s=60)
        with pytest.raises(errors.TaskFailed, match="at most 3 steps"):
            await (await c.submit("long", 4)).result(timeout_s=60)


async def test_large_ones_travel_by_reference(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("large", capabilities={"large": 1})
    made: list[int] = []

    def blob() -> str:
        made.append(1)
        return "x" * 1_000_000

    @agent.task("large", retries=1)
    async def large(ctx: coord.TaskContext) -> int:
        text = await ctx.run("blob", blob)
        if ctx.attempt == 1:
            raise ConnectionError("once more")
        return len(text)

    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("large")
        assert await handle.result(timeout_s=60) == 1_000_000
    assert made == [1]
    (recorded,) = [f for f in fleet.facts("task", handle.id) if f.event == "recorded"]
    assert recorded.data["ref"]["size"] == 1_000_002
    assert len(recorded.body) < 1_000


async def test_names_and_types_that_cannot_be(fleet: InMemoryCoord) -> None:
    agent = coord.Agent("odd", capabilities={"odd": 1})
    done: list[str] = []

    class Hidden:
        pass

    def hidden() -> Hidden:
        return Hidden()

    def odd() -> Odd:
        done.append("odd")
        return Odd()

    def lies() -> int:
        return "three"  # type: ignore[return-value]

    @agent.task("odd", retries=0)
    async def handler(what: str, ctx: coord.TaskContext) -> None:
        if what == "twice":
            unsaid: Any = await ctx.run("a", lambda: {1, 2})
            assert unsaid == [1, 2], "what JSON gives, the first time too"
            await ctx.run("a", lambda: 2)
        elif what == "no name":
            await ctx.run("", lambda: 1)
        elif what == "lies":
            await ctx.run("lies", lies)
        elif what == "returns":
            assert await ctx.run("lies", lambda: "3", returns=str) == "3"
        elif what == "hidden":
            await ctx.run("hidden", hidden)
        else:
            await ctx.run("odd", odd)

    async with fleet.work(agent), fleet.connect("boss") as c:
        for what, code in (("twice", "task.step_refused"), ("no name", "task.step_refused"),
                           ("lies", "wire.payload"), ("type", "task.step_refused"),
                           ("hidden", "task.step_refused")):  # fmt: skip
            with pytest.raises(errors.TaskFailed) as failed:
                await (await c.submit("odd", what)).result(timeout_s=60)
            assert failed.value.details["error"] == code, what
        await (await c.submit("odd", "returns")).result(timeout_s=60)
    assert done == [], "refused before it is done"


async def test_whose_facts_are_message_pack_coordinates_all_the_same(fleet: InMemoryCoord) -> None:
    packed = PublisherConfig(content="msgpack")
    shop = Shop(failures=1)
    async with fleet.work(shop.agent, publisher=packed), fleet.connect("boss", publisher=packed) as c:
        handle = await c.submit("order", 7)
        assert await handle.result(timeout_s=60) == ["ch-1", 1]
    assert shop.done == {"charge": 1, "label": 1, "ship": 2}


async def test_a_task_that_tells_its_progress_for_long_goes_on(
    fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TASK_FACTS_MAX", 20)
    agent = coord.Agent("talker", capabilities={"talk": 1})
    done: list[str] = []

    @agent.task("talk", retries=1)
    async def talk(ctx: coord.TaskContext) -> None:
        await ctx.run("once", lambda: done.append("once"))
        for n in range(limits.READ_PAGE_FACTS_MAX):
            await ctx.progress(n / limits.READ_PAGE_FACTS_MAX)
        if ctx.attempt == 1:
            raise ConnectionError("once more")

    async with fleet.work(agent), fleet.connect("boss") as c:
        handle = await c.submit("talk")
        await handle.result(timeout_s=60)
        task, facts = await histories.read(c.connection, c.tenant, handle.id, handle.id)
        assert task is not None
        assert task.status == "completed"
        assert (facts[0].event, facts[-1].event) == ("submitted", "completed")
    assert done == ["once"]


async def test_no_claim_is_run_twice_while_readers_lag(fleet: InMemoryCoord, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    async with fleet.work(shop.agent) as worker, fleet.connect("boss") as c:
        handle = await c.submit("order", 7)
        await handle.result(timeout_s=60)
        facts = fleet.facts("task", handle.id)
        lagging = tasks.fold(facts[:-1])[0], facts[:-1]
        assert facts[-1].event == "completed"
        looked = asyncio.Event()

        async def read(*_: Any) -> Any:
            looked.set()
            return lagging

        monkeypatch.setattr(execution, "read", read)
        entity = subjects.entity_prefix(facts[0].tenant, facts[0].key, "task", handle.id)
        worker._take("order", "normal", facts[0], entity, first=False)
        await looked.wait()
        await worker.wait()
    assert len(shop.given) == 1
