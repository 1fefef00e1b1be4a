"""Conditions on content: live, from the log, in frames, and what becomes of positions and counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from coord import errors
from coord.wire import frames
from coord.wire.where import where
from tests.support.log import Log, open_log, query_service
from tests.support.subscribing import crash, follow, nothing_more, take
from tests.support.waiting import until

FRAME = {"ce-datacontenttype": "application/vnd.coord.frame+msgpack", "ce-id": "e1"}


@pytest.fixture
async def log(nats_server) -> AsyncIterator[Log]:
    async with open_log(nats_server.url) as log, query_service(nats_server.url):
        yield log


def numbers(facts: list[Any]) -> list[int]:
    return [fact.data["n"] for fact in facts]


async def test_live_and_from_the_log_the_same_facts(log: Log) -> None:
    await log.flood(30)
    condition = (where.data["n"] >= 10) & where.data["n"].is_in(range(0, 60, 7))
    async with follow(log, start="first", where=condition) as facts:
        assert numbers(await take(facts, 3)) == [14, 21, 28]
        await until(lambda: facts.live)
        await log.flood(30, first=30)
        assert numbers(await take(facts, 4)) == [35, 42, 49, 56]
        await until(lambda: facts.stats.filtered >= 53)
        assert await nothing_more(facts)
        assert facts.stats.taken == 7
        assert facts.stats.filtered == 53
        shown = facts._metrics.registry.get_sample_value("coord_subscribe_filtered_total")
        assert shown == 53
        assert facts.position is not None
        await until(lambda: facts.position.seq == facts._machine._tail.seq)  # type: ignore[union-attr]


async def test_of_a_frame_the_entries_that_match(log: Log) -> None:
    body = frames.pack(0, [(n, {"n": n}) for n in range(10)])
    async with follow(log, where=(where.data["n"] == 3) | (where.event_id == "e1/7")) as facts:
        seq = await log.state(subject=log.subject(event="progress"), headers=FRAME, body=body)
        found = await take(facts, 2)
        assert [(fact.seq, fact.index, fact.data, fact.event_id) for fact in found] == [
            (seq, 3, {"n": 3}, "e1/3"),
            (seq, 7, {"n": 7}, "e1/7"),
        ]
        await log.state({"n": 3})
        assert numbers(await take(facts, 1)) == [3]


async def test_what_nobody_wants_takes_no_room(log: Log) -> None:
    """A consumer that does not come for what matches is not overrun by what does not."""
    from tests.support.subscribing import QUICK

    config = msgspec.structs.replace(QUICK, buffer_messages=20, page_facts=10)
    async with follow(log, where=where.data["n"] == 77, config=config) as facts:
        await log.flood(500)
        await until(lambda: facts.stats.filtered == 499)
        assert facts.stats.overflows == 0
        assert facts.live
        assert numbers(await take(facts, 1)) == [77]


async def test_a_durable_position_moves_over_what_is_thrown_out(log: Log) -> None:
    async with follow(log, where=where.data["n"] == 0, start="first", durable="picky") as facts:
        await log.flood(1)
        await take(facts, 1)
        facts.finish()
        await log.flood(20, first=1)
        await until(lambda: facts.stats.filtered == 20)
        assert facts.position is not None
        end = facts.position
        await facts.save()
        crash(facts)
    async with follow(log, where=where.data["n"] >= 0, durable="picky") as again:
        assert again.position == end
        await log.flood(1, first=21)
        assert numbers(await take(again, 1)) == [21]


async def test_poison_is_skipped_as_ever_and_a_gap_is_noticed_behind_what_is_thrown_out(log: Log) -> None:
    async with follow(log, where=where.data["n"] > 5) as facts:
        await log.state(body=b"{")
        await log.state({"n": 9})
        assert numbers(await take(facts, 1)) == [9]
        # One that matches is lost on the way; the next on its subject does not match, and still tells.
        real = facts._machine.receive
        lost: list[int] = []

        def lossy(seq: int, last: int, size: int, raw: Any, now: float) -> None:
            if not lost:
                lost.append(seq)
                return
            real(seq, last, size, raw, now)

        facts._machine.receive = lossy  # type: ignore[method-assign,assignment]
        await log.state({"n": 10})
        await log.state({"n": 1})
        assert numbers(await take(facts, 1)) == [10]
        assert lost


async def test_a_condition_that_is_too_large_is_refused_at_once(log: Log) -> None:
    condition = where.data["n"] == 0
    for n in range(300):
        condition |= where.data["n"] == n
    with pytest.raises(errors.QueryError):
        follow(log, where=condition)
    await asyncio.sleep(0)
