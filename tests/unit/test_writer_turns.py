"""Partitions' turns: together, just before a transaction that waits for company, and never too much in one go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from coord import limits
from coord.projector.writer import Writer
from coord.telemetry.metrics import Metrics


@pytest.fixture
def writer() -> Writer:
    return Writer(cast("Any", None), cast("Any", None), Metrics(CollectorRegistry()))


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def turn(calls: list[str]) -> Callable[..., Callable[[], int]]:
    def make(name: str, rows: int = 1) -> Callable[[], int]:
        def called() -> int:
            calls.append(name)
            return rows

        return called

    return make


async def test_all_come_in_the_next_turn_of_the_loop_once_each(writer, calls, turn) -> None:
    a, b = turn("a"), turn("b")
    for one in (a, b, a):
        writer.soon(one)
    assert calls == []
    await asyncio.sleep(0)
    assert calls == ["a", "b"]


async def test_no_more_rows_at_a_time_than_others_should_wait_for(writer, calls, turn) -> None:
    for one in (turn("a", limits.PROJECT_TURN_ROWS), turn("b", limits.PROJECT_TURN_ROWS), turn("c")):
        writer.soon(one)
    await asyncio.sleep(0)
    assert calls == ["a"]
    await asyncio.sleep(0)
    assert calls == ["a", "b"]
    await asyncio.sleep(0)
    assert calls == ["a", "b", "c"]


async def test_who_always_has_more_lets_the_others_have_theirs_first(writer, calls, turn) -> None:
    def greedy() -> int:
        calls.append("greedy")
        writer.soon(greedy)
        return limits.PROJECT_TURN_ROWS

    writer.soon(greedy)
    writer.soon(turn("b"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert calls[:3] == ["greedy", "b", "greedy"]


async def test_they_wait_with_a_transaction_where_little_comes(writer, calls, turn) -> None:
    writer._pace.begin(asyncio.get_running_loop().time(), 1)  # a few rows a second
    lane = asyncio.ensure_future(writer._pause(60))
    await asyncio.sleep(0)
    a, b = turn("a"), turn("b")
    writer.soon(a)
    writer.soon(b)
    for _ in range(3):
        await asyncio.sleep(0)
    assert calls == []
    lane.cancel()  # the pause is over
    await asyncio.wait({lane})
    assert calls == ["a", "b"]


async def test_who_asks_again_meanwhile_does_not_wait(writer, calls, turn) -> None:
    writer._pace.begin(asyncio.get_running_loop().time(), 1)
    lane = asyncio.ensure_future(writer._pause(60))
    await asyncio.sleep(0)
    a = turn("a")
    writer.soon(a)
    writer.soon(a)
    await asyncio.sleep(0)
    assert calls == ["a"]
    lane.cancel()


async def test_where_much_comes_nothing_waits(writer, calls, turn) -> None:
    now = asyncio.get_running_loop().time()
    writer._pace.begin(now - 1, 0)
    writer._pace.begin(now, 100_000)
    lane = asyncio.ensure_future(writer._pause(60))
    await asyncio.sleep(0)
    writer.soon(turn("a"))
    await asyncio.sleep(0)
    assert calls == ["a"]
    lane.cancel()
