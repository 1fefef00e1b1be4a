"""A handler is held where it would go on, and nothing else about it changes."""

from __future__ import annotations

import asyncio

import pytest

from coord.client.yielding import Gate, through


async def test_results_and_exceptions_come_through_an_open_gate() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    async def at_once() -> int:
        return 1

    assert await through(Gate(), answer()) == 42
    assert await through(Gate(), at_once()) == 1
    with pytest.raises(KeyError):
        await through(Gate(), fail())


async def test_a_closed_gate_holds_the_handler_at_its_await_not_what_it_awaits() -> None:
    gate, steps = Gate(), []
    reached, answered = asyncio.Event(), asyncio.Event()

    async def call() -> str:
        reached.set()
        await asyncio.sleep(0)
        answered.set()
        return "answer"

    async def handler() -> str:
        aio_task = asyncio.ensure_future(call())
        steps.append("before")
        found = await aio_task
        steps.append("after")
        return found

    running = asyncio.ensure_future(through(gate, handler()))
    await reached.wait()
    gate.close()
    gate.close()
    await answered.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert steps == ["before"]
    gate.open()
    assert await running == "answer"
    assert steps == ["before", "after"]


@pytest.mark.parametrize("held", [False, True])
async def test_a_cancellation_reaches_the_handler_gate_or_not(held: bool) -> None:
    gate, seen = Gate(), []
    reached = asyncio.Event()

    async def handler() -> None:
        try:
            reached.set()
            if held:
                gate.close()
            await (asyncio.sleep(0) if held else asyncio.sleep(60))
            seen.append("went on")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    running = asyncio.ensure_future(through(gate, handler()))
    await reached.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert seen == ["cancelled"]


async def test_a_handler_held_before_its_first_line_begins_when_let_go_or_never() -> None:
    gate, begun = Gate(), []

    async def handler(name: str) -> str:
        begun.append(name)
        return name

    gate.close()
    let_go = asyncio.ensure_future(through(gate, handler("let go")))
    cancelled = asyncio.ensure_future(through(gate, handler("cancelled")))
    for _ in range(5):
        await asyncio.sleep(0)
    assert begun == []
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    gate.open()
    assert await let_go == "let go"
    assert begun == ["let go"]


async def test_timeouts_and_task_groups_work_inside() -> None:
    async def handler() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            pass
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        return "done"

    assert await through(Gate(), handler()) == "done"


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_handler_that_has_not_begun_is_held_before_its_first_line(cancelled: bool) -> None:
    gate, steps = Gate(), []

    async def handler() -> None:
        steps.append("begun")

    gate.close()
    running = asyncio.ensure_future(through(gate, handler()))
    for _ in range(5):
        await asyncio.sleep(0)
    assert steps == []
    if cancelled:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
    gate.open()
    if not cancelled:
        await running
    assert steps == ([] if cancelled else ["begun"])
