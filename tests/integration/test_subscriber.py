"""Subscribing against a real server: live, from the past, slowly, durably."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec
import pytest
from structlog.contextvars import get_contextvars

from coord import errors
from coord.client import context
from coord.client.subscriber import StartAt, SubscriberConfig, close_all
from coord.core.subscription import Position
from coord.wire import headers as wire_headers
from coord.wire import subjects
from coord.wire.codec import FRAME_TYPE
from tests.support.log import Log, open_log, query_service
from tests.support.subscribing import QUICK, crash, follow, nothing_more, publish_until, stored, take
from tests.support.waiting import until


@pytest.fixture
async def log(nats_server) -> AsyncIterator[Log]:
    async with open_log(nats_server.url) as log, query_service(nats_server.url):
        yield log
        await close_all(log.conn)


# --- live ----------------------------------------------------------------------------------


async def test_new_facts_arrive_live_and_only_those_that_match(log: Log) -> None:
    await log.state("before")
    config = msgspec.structs.replace(QUICK, audit_s=30)  # whose pages would be counted
    async with follow(log, kind="file", event="scanned", config=config) as subscription:
        assert subscription.live
        await log.state("other kind", kind="dir")
        await log.state("other event", event="skipped")
        first = await log.state({"n": 1})
        second = await log.state({"n": 2}, event="scanned.deep", id="f2", agent="a7")
        one, two = await take(subscription, 2)
        assert (one.seq, one.data) == (first, {"n": 1})
        assert (two.seq, two.data, two.detail, two.agent, two.id) == (second, {"n": 2}, ("deep",), "a7", "f2")
        assert await nothing_more(subscription)
        assert subscription.stats.pages == 1  # the one that fixed the start


@pytest.mark.parametrize("field", ["key", "kind", "id", "agent", "event"])
async def test_every_filter_selects(log: Log, field: str) -> None:
    where: dict[str, Any] = {"key": "k1", "kind": "file", "id": "i1", "agent": "a1", "event": "scanned"}
    async with follow(log, **{field: where[field]}) as subscription:
        await log.state("other", **(where | {field: "different"}))
        await log.state("wanted", **where)
        (fact,) = await take(subscription, 1)
        assert fact.data == "wanted"


async def test_frames_are_unpacked_and_poison_is_counted(log: Log) -> None:
    async with follow(log) as subscription:
        body = msgspec.msgpack.encode([1, 1_700_000_000_000_000, [[0, 1], [5, 2], "bad entry", [10, 3]]])
        seq = await log.state(
            subject=log.subject("agent", "status", "a1"), body=body, headers={wire_headers.CONTENT_TYPE: FRAME_TYPE}
        )
        await log.state(body=b"{broken")
        await log.state("last")
        facts = await take(subscription, 4)
        assert [(f.seq, f.index, f.data) for f in facts] == [
            (seq, 0, 1),
            (seq, 1, 2),
            (seq, 3, 3),
            (seq + 2, 0, "last"),
        ]
        assert subscription.stats.poison == 2


async def test_batches_hold_what_is_there_up_to_the_bound(log: Log) -> None:
    async with follow(log, batch_max=4) as subscription:
        for n in range(10):
            await log.state(n)
        await until(lambda: subscription._machine.waiting == 10)
        batches = subscription.batches()
        sizes = [len(await anext(batches)) for _ in range(3)]
        assert sizes == [4, 4, 2]
        waiting = asyncio.ensure_future(anext(batches))
        seq = await log.state("one")
        assert [f.seq for f in await waiting] == [seq]
        assert subscription.position == Position(seq)
        subscription.finish()
        assert subscription.position == Position(seq + 1)


async def test_a_loop_ends_when_the_subscription_is_closed(log: Log) -> None:
    subscription = follow(log)
    got: list[Any] = []

    async def consume() -> None:
        got.extend([fact.data async for fact in subscription])

    task = asyncio.create_task(consume())
    await subscription.wait_ready(60)
    await log.state(1)
    await until(lambda: subscription.stats.taken == 1)
    await subscription.close()
    await asyncio.wait_for(task, 60)
    assert got == [1]
    await subscription.close()
    assert log.conn._subscriptions == {s for s in log.conn._subscriptions if "coord.live" not in s.subject}


async def test_closing_and_cancelling_while_it_opens_leaves_nothing_behind(log: Log, rng: random.Random) -> None:
    before = set(log.conn._subscriptions)
    for n in range(60):
        subscription = follow(log, durable=f"x{n}" if n % 2 else None)
        opening = asyncio.ensure_future(subscription.wait_ready())
        await asyncio.sleep(rng.choice([0, 0, 0.0005, 0.001, 0.002]))
        if n % 3:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            if n % 3 == 1:  # once more, to the end
                await subscription.wait_ready(60)
                await log.state(n)
                assert (await take(subscription, 1))[0].data == n
        await subscription.close()
        async with asyncio.timeout(60):
            await asyncio.gather(opening, return_exceptions=True)
        assert {s for s in log.conn._subscriptions if "coord.live" in s.subject} <= before
        assert not subscription._tasks
        assert not subscription._bus


async def test_one_consumer_at_a_time(log: Log) -> None:
    async with follow(log) as subscription:
        first = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer"):
            await anext(subscription)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await log.state("still usable")
        assert (await take(subscription, 1))[0].data == "still usable"


async def test_what_is_emitted_while_handling_a_fact_knows_its_cause(log: Log) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with follow(log) as subscription:
        await log.state(1, headers={"ce-id": "e1", "Coord-Correlation": "c1", "traceparent": trace})
        await log.state(2, headers={"ce-id": "e2"})
        causes = []
        async for fact in subscription:
            causes.append((context.current(), get_contextvars()))
            if fact.data == 2:
                break
        (one, logged), (two, _) = causes
        assert one == context.Cause("c1", "e1", trace, fact.key)
        assert two == context.Cause("e2", "e2", None, fact.key)
        assert logged["correlation_id"] == "c1"
        assert logged["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert context.current() is None
    assert "correlation_id" not in get_contextvars()


# --- where to begin --------------------------------------------------------------------------


async def test_starting_in_the_past_then_going_on_live(log: Log) -> None:
    seqs = [await log.state(n) for n in range(30)]
    config = SubscriberConfig(page_facts=7)
    async with follow(log, start=seqs[10], config=config) as subscription:
        facts = await take(subscription, 20)
        assert [f.seq for f in facts] == seqs[10:]
        await until(lambda: subscription.live)
        seq = await log.state("live")
        assert (await take(subscription, 1))[0].seq == seq
    stored_at = facts[5].stored_at
    async with follow(log, start=stored_at) as subscription:
        assert (await take(subscription, 16))[0].seq == facts[5].seq
    async with follow(log, start="first", id="f1") as subscription:
        assert [f.seq for f in await take(subscription, 31)] == [*seqs, seq]


async def test_joining_while_others_publish_misses_and_repeats_nothing(log: Log, rng: random.Random) -> None:
    """The seam between the log and the live feed, under load, for many starts."""
    first = await log.state({"n": -1})
    enough = asyncio.Event()
    publishing = asyncio.create_task(publish_until(log, enough))
    starts: list[StartAt] = [*(first + rng.randrange(1, 2_000) for _ in range(6)), "new", "new"]
    subscriptions = []
    for start in starts:
        if isinstance(start, int):
            await until(functools.partial(stored, log, start))
        subscription = follow(log, start=start, config=SubscriberConfig(page_facts=rng.randrange(20, 500)))
        await subscription.wait_ready(60)
        subscriptions.append(subscription)
    await until(functools.partial(stored, log, first + 6_000))
    enough.set()  # only now: all of them joined while facts were published
    last = await publishing
    await log.state({"n": last})
    for subscription in subscriptions:
        numbers = [(await anext(subscription)).data["n"]]
        while numbers[-1] != last:
            numbers.append((await anext(subscription)).data["n"])
        assert numbers == list(range(numbers[0], last + 1))
        await subscription.close()


@pytest.mark.parametrize("start", [0, -5, "yesterday", datetime(2026, 1, 1), True, 1.5])
async def test_a_senseless_start_is_refused(log: Log, start: Any) -> None:
    with pytest.raises(errors.QueryError):
        follow(log, start=start)


async def test_names_must_be_tokens(log: Log) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"kind": "*"},
        {"event": "a.b"},
        {"key": ">"},
        {"durable": "my cursor"},
        {"agent": "UP"},
    )
    for options in wrong:
        with pytest.raises(errors.InvalidToken):
            follow(log, **options)


# --- slow consumers, lost messages -----------------------------------------------------------


async def test_a_slow_consumer_catches_up_from_the_log(log: Log) -> None:
    config = SubscriberConfig(buffer_messages=200, page_facts=50)
    async with follow(log, config=config) as subscription:
        await log.flood(5_000)
        await until(lambda: not subscription.live)
        assert subscription._machine.waiting + subscription._machine.held <= 200
        facts = await take(subscription, 5_000)
        assert [f.data["n"] for f in facts] == list(range(5_000))
        assert subscription.stats.overflows > 0
        await until(lambda: subscription.live)
        await log.state({"n": "live again"})
        assert (await take(subscription, 1))[0].data == {"n": "live again"}


async def test_the_buffer_is_bounded_in_bytes(log: Log) -> None:
    config = SubscriberConfig(buffer_bytes=100_000, page_facts=50)
    async with follow(log, config=config) as subscription:
        await log.flood(500, size=2_000)
        await until(lambda: not subscription.live)
        assert subscription._machine._ready_bytes + subscription._machine._held_bytes <= 100_000
        facts = await take(subscription, 500)
        assert [f.data["n"] for f in facts] == list(range(500))


async def test_an_idle_audit_finds_what_the_live_feed_lost(log: Log) -> None:
    config = msgspec.structs.replace(QUICK, audit_s=1.0)  # time to lose all three in between
    async with follow(log, config=config) as subscription:
        await log.state(0)
        await take(subscription, 1)
        live = subscription._bus[0]
        receivers, sid = live._conn.client.receivers, b"%d" % (live._sid or 0)
        hear, receivers[sid] = receivers[sid], lambda *_: None  # the broker's messages are lost
        for n in range(1, 4):
            await log.state(n)
        assert [f.data for f in await take(subscription, 3)] == [1, 2, 3]
        assert 1 <= subscription.stats.audits_found <= 3  # once, unless the machine stood still in between
        receivers[sid] = hear
        await log.state(4)
        assert (await take(subscription, 1))[0].data == 4


async def test_an_idle_position_moves_with_the_log(log: Log) -> None:
    """A filter that matches nothing for a day must not find itself outside the window."""
    async with follow(log, kind="rare") as subscription:
        seq = await log.state("another kind")
        await until(lambda: subscription.position == Position(seq + 1))
        assert await nothing_more(subscription)


async def test_cancelling_loses_nothing(log: Log, rng: random.Random) -> None:
    async with follow(log) as subscription:
        publishing = asyncio.create_task(log.flood(2_000))
        got: list[int] = []
        cancelled = 0
        while len(got) < 2_000:
            try:
                async with asyncio.timeout(rng.choice([0, 0.0001, 0.001, 0.05])):
                    got.append((await anext(subscription)).data["n"])
            except TimeoutError:
                cancelled += 1
        assert got == list(range(2_000))
        assert cancelled
        await publishing


async def test_a_fast_loop_leaves_others_their_turn(log: Log) -> None:
    async with follow(log) as subscription:
        await log.flood(3_000)
        await until(lambda: subscription._machine.waiting == 3_000)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await take(subscription, 3_000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert turns >= 10


# --- durable ---------------------------------------------------------------------------------


async def test_a_durable_subscription_goes_on_where_its_consumer_stopped(log: Log) -> None:
    async with follow(log, durable="work") as subscription:
        seqs = [await log.state(n) for n in range(6)]
        facts = await take(subscription, 3)  # the third is being handled, not finished
    assert [f.seq for f in facts] == seqs[:3]
    async with follow(log, durable="work", start="first") as subscription:
        assert [f.seq for f in await take(subscription, 4)] == seqs[2:]
        subscription.finish()
    await log.state("while away")
    async with follow(log, durable="work") as subscription:
        assert [f.data for f in await take(subscription, 1)] == ["while away"]
    async with follow(log, durable="other", start=seqs[5]) as subscription:
        assert [f.seq for f in await take(subscription, 1)] == seqs[5:6]


async def test_a_crash_in_the_middle_of_a_frame_neither_loses_nor_doubles_its_rest(log: Log) -> None:
    body = msgspec.msgpack.encode([1, 1_700_000_000_000_000, [[n, n] for n in range(10)]])
    subscription = follow(log, durable="framed")
    await subscription.wait_ready(60)
    await log.state(
        subject=log.subject("agent", "status", "a1"), body=body, headers={wire_headers.CONTENT_TYPE: FRAME_TYPE}
    )
    await log.state("after")
    got = [f.data for f in await take(subscription, 4)]
    await until(lambda: subscription._saved is not None and subscription._saved.index == 3)
    crash(subscription)
    async with follow(log, durable="framed") as again:
        got += [f.data for f in await take(again, 8)]
    assert got == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, "after"]  # 3 was being handled


async def test_saving_is_rare_and_never_ahead_of_the_consumer(log: Log) -> None:
    config = SubscriberConfig(save_s=0.1)
    subject = subjects.cursor(log.tenant, "me", "rare")
    saves: list[tuple[float, int]] = []
    loop = asyncio.get_running_loop()
    await log.conn.subscribe(subject, lambda m: saves.append((loop.time(), msgspec.json.decode(m.data)["seq"])))
    async with follow(log, durable="rare", config=config) as subscription:
        seqs = [await log.state(n) for n in range(400)]
        finished = 0
        async for fact in subscription:
            assert all(seq <= (seqs[0] if not finished else finished + 1) for _, seq in saves)
            finished = fact.seq
            await asyncio.sleep(0.001)
            if fact.seq == seqs[-1]:
                break
        duration = loop.time() - saves[0][0]
        assert len(saves) <= duration / 0.1 + 2
    await until(lambda: saves[-1][1] == seqs[-1])


async def test_a_name_that_is_taken_over_says_so(log: Log) -> None:
    old = follow(log, durable="shared")
    await old.wait_ready(60)
    await log.state(1)
    await take(old, 1)
    old.finish()
    await until(lambda: old._saved == old.position)
    async with follow(log, durable="shared") as new:
        await log.state(2)
        await take(old, 1)
        with pytest.raises(errors.DurableInUse):
            await take(old, 1)
        assert (await take(new, 1))[0].data == 2
    await old.close()


async def test_a_lost_ack_of_a_save_is_not_taken_for_somebody_else(log: Log) -> None:
    async with follow(log, durable="acks") as subscription:
        await log.state(1)
        await take(subscription, 1)
        subscription.finish()
        await subscription.save()
        cursor = subscription._cursor
        assert cursor is not None
        cursor._message._last_seq -= 1  # as if the last ack had not arrived
        await log.state(2)
        await take(subscription, 1)
        subscription.finish()
        await subscription.save()
        assert subscription._saved == subscription.position


async def test_an_unreadable_cursor_is_an_error_not_a_fresh_start(log: Log) -> None:
    await log.conn.request(subjects.cursor(log.tenant, "me", "broken"), b"{")
    with pytest.raises(errors.CursorUnreadable):
        await follow(log, durable="broken").wait_ready(60)
