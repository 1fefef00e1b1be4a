"""The publisher while things break: nothing acked is lost, nothing is stored twice, nothing hangs."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from coord import errors
from coord.bus.publish import PubAck
from coord.client.connect import Coord, connect
from coord.client.receipt import Receipt
from coord.wire.envelope import Fact, Sample
from tests.support.proxy import Proxy
from tests.support.publishing import Observer, client, count, observer, quick
from tests.support.waiting import until


@pytest.fixture
async def proxy(nats_server, seen) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", nats_server.port) as proxy:
        yield proxy


def scanned(id: str = "f1", data: Any = None, **fields: Any) -> Fact:  # noqa: A002
    return Fact(kind="file", id=id, event="scanned", data=data, **fields)


def progress(id: str = "t1", data: Any = None, **fields: Any) -> Fact:  # noqa: A002
    return Fact(kind="task", id=id, event="progress", data=data, **fields)


async def outcomes(receipts: list[Receipt]) -> Counter[str]:
    """How receipts ended, by error code or "acked"."""

    async def outcome(receipt: Receipt) -> str:
        try:
            await receipt
        except errors.CoordError as exc:
            return exc.code
        return "acked"

    return Counter(await asyncio.gather(*map(outcome, receipts)))


async def arrived(c: Coord, id_: str) -> bool:
    """Whether a fact is stored, with a deadline that a machine that stands still may miss."""
    try:
        return (await c.publish(scanned(id_))).stream == "EVENTS"
    except errors.PublishTimeout:
        return False


# --- crashes of the server ---------------------------------------------------------------


@pytest.mark.faults
async def test_kill_and_restart_while_publishing_stores_every_acked_fact_exactly_once(start_nats, rng, rounds) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams()
        config = quick(deadline_s=60, attempt_s=0.5, overload_wait_s=60)
        async with client(server.url, publisher=config) as c:
            acked: dict[str, PubAck] = {}
            stop = asyncio.Event()
            stated = 0

            async def state(worker: int) -> None:
                nonlocal stated
                pending: list[tuple[str, Receipt]] = []
                n = 0
                while not stop.is_set():
                    for _ in range(rng.randrange(1, 60)):
                        n += 1
                        stated += 1
                        item = scanned if n % 3 else progress
                        fact = item(f"w{worker}-{n}", key=f"k{worker}", data=n, event_id=f"e{worker}-{n}")
                        pending.append((f"e{worker}-{n}", await c.emit(fact)))
                    await asyncio.sleep(rng.random() * 0.002)
                for event_id, receipt in pending:
                    acked[event_id] = await receipt

            def reached(goal: int) -> bool:
                return c.stats.acked >= goal

            async def crash() -> None:
                for _ in range(rounds):
                    goal = c.stats.acked + rng.randrange(500, 3000)
                    await until(partial(reached, goal))
                    server.kill()
                    await asyncio.sleep(rng.random() * 0.3)  # down for a while: facts queue up
                    await server.start()
                await until(partial(reached, c.stats.acked + 500))
                stop.set()

            async with asyncio.timeout(200), asyncio.TaskGroup() as group:
                group.create_task(crash())
                for worker in range(4):
                    group.create_task(state(worker))
            assert len(acked) == stated
            assert c.stats.failed == 0
            assert c.stats.resends > 0, "no crash hit anything in flight"
            await until(lambda: seen.conn.is_connected)
            stored = await seen.facts(c)
            assert len(stored) == stated
            assert Counter(f.event_id for f in stored) == Counter(acked.keys())
            assert {f.event_id: f.seq for f in stored} == {e: ack.seq for e, ack in acked.items()}
            order = defaultdict(list)
            for fact in stored:
                order[fact.key].append(fact.data)
            for key, numbers in order.items():
                assert numbers == sorted(numbers), f"{key} is out of order"


async def test_frames_survive_a_crash_too(start_nats) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams()
        async with client(server.url, publisher=quick(deadline_s=60, attempt_s=0.5, overload_wait_s=60)) as c:
            for n in range(20_000):
                await c.sample("cpu", n)
                if n == 10_000:
                    server.kill()
                    await server.start()
            await c.flush()
            await until(lambda: seen.conn.is_connected)
            assert [s.value for s in await seen.samples(c)] == list(range(20_000))


# --- the network -------------------------------------------------------------------------


async def test_acks_lost_with_the_connection_are_duplicates_on_the_resend_and_success(proxy, seen) -> None:
    async with client(proxy.url, publisher=quick(deadline_s=60, attempt_s=10)) as c:
        await c.publish(scanned("f0", data=0))
        proxy.stall("down")
        receipts = [await c.emit(scanned(f"f{n}", key="k", data=n)) for n in range(1, 200)]
        await until(lambda: _stored(seen, c, 200))
        proxy.cut()
        proxy.resume()
        acks = await asyncio.gather(*receipts)
        assert all(ack.duplicate for ack in acks)
        assert [f.data for f in await seen.facts(c)] == list(range(200))
        assert c.stats.failed == 0


async def _stored(seen: Observer, c: Any, expected: int) -> bool:
    info = await seen.conn.api("STREAM.INFO.EVENTS", {"subjects_filter": f"coord.log.*.{c.tenant}.>"})
    return bool(sum((info["state"].get("subjects") or {}).values()) == expected)


async def test_what_was_lost_on_the_way_is_sent_again_before_anything_new(proxy, seen) -> None:
    async with client(proxy.url, publisher=quick(deadline_s=60, attempt_s=10, overload_wait_s=60)) as c:
        await c.publish(scanned("f0", key="k", data=0))
        proxy.stall("up")
        lost = [await c.emit(scanned(f"f{n}", key="k", data=n)) for n in range(1, 3000)]
        await asyncio.sleep(0)
        proxy.refuse()
        proxy.cut()
        await until(lambda: not c.connection.is_connected)
        meanwhile = [await c.emit(scanned(f"f{n}", key="k", data=n)) for n in range(3000, 4000)]
        proxy.resume()
        proxy.refuse(False)
        new = []
        for n in range(4000, 4200):
            new.append(await c.emit(scanned(f"f{n}", key="k", data=n)))
            await asyncio.sleep(0)
        assert await outcomes(lost + meanwhile + new) == {"acked": 4199}
        assert [f.data for f in await seen.facts(c)] == list(range(4200))


async def test_repeated_cuts_lose_and_double_nothing(proxy, seen, rng) -> None:
    async with client(proxy.url, publisher=quick(deadline_s=60, attempt_s=0.5, overload_wait_s=60)) as c:
        receipts = []
        for n in range(5000):
            receipts.append(await c.emit(scanned(f"f{n}", key="k", data=n)))
            if rng.random() < 0.003:
                proxy.cut()
            if rng.random() < 0.02:
                await asyncio.sleep(0.001)
        assert await outcomes(receipts) == {"acked": 5000}
        assert [f.data for f in await seen.facts(c)] == list(range(5000))


async def test_a_deaf_connection_ends_in_publish_timeout_and_not_in_a_hang(proxy, seen) -> None:
    async with client(proxy.url, publisher=quick(deadline_s=2.0, attempt_s=0.5)) as c:
        await until(lambda: arrived(c, "f0"))
        proxy.stall()
        async with asyncio.timeout(60):
            receipts = [await c.emit(scanned(f"f{n}", data="x" * 500)) for n in range(3000)]
            receipts += [await c.emit(progress(data=n)) for n in range(100)]
            receipts += [await c.sample("cpu", n) for n in range(500)]
            assert await outcomes(receipts) == {"bus.publish_timeout": 3600}
            await c.flush()
        assert c.stats.inflight_messages == c.stats.queued == 0
        assert c.connection.outgoing_bytes < 4_000_000, "no copies pile up in front of a stalled socket"
        proxy.resume()
        await until(lambda: arrived(c, "after"))


async def test_a_flush_can_be_bounded_and_what_is_unsettled_stays_on_its_way(proxy, seen) -> None:
    async with client(proxy.url, publisher=quick(deadline_s=60, attempt_s=10)) as c:
        await c.publish(scanned("f0"))
        proxy.stall("down")
        await c.emit(scanned("f1"))
        with pytest.raises(errors.DeadlineExceeded) as exceeded:
            await c.flush(timeout_s=0.05)
        assert exceeded.value.details["unsettled_messages"] == 1
        proxy.resume()
        await c.flush(timeout_s=50)
        assert c.stats.acked == 2


# --- too much ----------------------------------------------------------------------------


async def test_a_full_queue_of_critical_facts_makes_wait_and_then_overloads(proxy, seen) -> None:
    config = quick(deadline_s=60, attempt_s=10, queue_entries=50, inflight_messages=20, overload_wait_s=0.2)
    async with client(proxy.url, publisher=config) as c:
        await c.publish(scanned("f0"))
        proxy.stall("down")
        receipts = [await c.emit(scanned(f"f{n}", data=n)) for n in range(1, 61)]  # ten in flight, fifty queued
        started = asyncio.get_running_loop().time()
        with pytest.raises(errors.Overloaded) as refused:
            await c.emit(scanned("too-many"))
        assert 0.15 < asyncio.get_running_loop().time() - started < 30, "it did not wait for the deadline"
        assert 0.1 <= refused.value.retry_after_s <= 30
        assert refused.value.retryable
        assert c.stats.queued == 50
        assert c.stats.accepted == 61
        proxy.resume()
        assert await outcomes(receipts) == {"acked": 60}
        assert "too-many" not in {f.id for f in await seen.facts(c)}


async def test_callers_that_wait_for_room_are_served_in_order(proxy, seen) -> None:
    config = quick(deadline_s=60, attempt_s=10, queue_entries=4, inflight_messages=4, overload_wait_s=60)
    async with client(proxy.url, publisher=config) as c:
        proxy.stall("down")
        for n in range(6):  # two in flight, four queued
            await c.emit(scanned(f"f{n}", data=n))
        waiting = []
        for n in range(6, 60):
            waiting.append(asyncio.create_task(c.emit(scanned(f"f{n}", data=n))))
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        proxy.resume()
        await asyncio.gather(*waiting)
        await c.flush()
        assert [f.data for f in await seen.facts(c)] == list(range(60))


async def test_status_waits_for_room_too(proxy, seen) -> None:
    config = quick(deadline_s=60, attempt_s=10, queue_entries=50, inflight_messages=4, status_entries=10)
    async with client(proxy.url, publisher=config) as c:
        proxy.stall("down")

        async def state() -> None:
            for n in range(300):
                await c.emit(progress(data=n))

        task = asyncio.create_task(state())
        await until(lambda: c.stats.queued == 50)
        await asyncio.sleep(0.05)
        assert not task.done()
        assert c.stats.queued == 50
        proxy.resume()
        await task
        await c.flush()
        assert [f.data for f in await seen.facts(c)] == list(range(300))


async def test_samples_beyond_the_queue_are_shed_oldest_first_counted_and_named(proxy, seen) -> None:
    config = quick(deadline_s=60, attempt_s=10, queue_entries=1000, inflight_messages=4, metrics_entries=10)
    async with client(proxy.url, publisher=config) as c:
        proxy.stall("down")
        first = await c.sample("cpu", 0)
        second = await c.sample("cpu", 1)
        for n in range(2, 5000):
            await c.sample("cpu", n)
        assert c.stats.queued <= 1000
        shed = c.stats.shed
        assert 3999 <= shed < 4010, "one sample is in flight, a thousand queued, the rest went frame by frame"
        proxy.resume()
        with pytest.raises(errors.FlushFailed) as failed:
            await c.flush()
        assert {e.code for _, e in failed.value.failures} == {"publish.shed"}
        assert len(failed.value.failures) == 100, "named up to a bound"
        stored = [s.value for s in await seen.samples(c)]
        assert len(stored) == 5000 - shed
        assert stored[:1] == [0], "what is in flight is not shed"
        assert stored[-900:] == list(range(4100, 5000)), "the newest survive"
        assert (await first).stream == "TELEMETRY"
        with pytest.raises(errors.Shed):
            await second
        await c.flush()
    assert count(c, "coord_load_shed_total", reason="publish_queue_full") == shed
    assert c.stats.failed == 0


async def test_leaving_does_not_fail_because_samples_were_shed(proxy, seen) -> None:
    config = quick(deadline_s=60, attempt_s=10, queue_entries=100, inflight_messages=4, metrics_entries=10)
    async with client(proxy.url, publisher=config) as c:
        proxy.stall("down")
        for n in range(1000):
            await c.sample("cpu", n)
        proxy.resume()
    assert c.stats.shed > 0
    assert c.stats.acked + c.stats.shed == 1000


async def test_emit_many_waits_where_emit_would_shed(proxy, seen) -> None:
    config = quick(deadline_s=60, attempt_s=10, queue_entries=5000, inflight_messages=8, metrics_entries=10)
    async with client(proxy.url, publisher=config) as c:
        proxy.stall("down")
        labelled = [Sample(series="mem", value=n, data={"unit": "b"}) for n in range(3000)]
        task = asyncio.create_task(c.emit_many([Sample(series="cpu", value=n) for n in range(50_000)] + labelled))
        await until(lambda: c.stats.inflight_messages == 2)
        await asyncio.sleep(0.05)
        assert not task.done()
        assert c.stats.queued <= 5000
        proxy.resume()
        assert await task == 53_000
        await c.flush()
        assert c.stats.shed == 0
        samples = await seen.samples(c)
        assert [s.value for s in samples if s.series == "cpu"] == list(range(50_000))
        assert [s.value for s in samples if s.series == "mem"] == list(range(3000))


@pytest.mark.parametrize("queue", [{"queue_entries": 20}, {"queue_bytes": 400}, {"queue_entries": 1}])
async def test_emit_many_sheds_nothing_however_small_the_queue(proxy, seen, queue: dict[str, int]) -> None:
    config = quick(deadline_s=60, attempt_s=10, inflight_messages=4, metrics_linger_ms=5000, **queue)
    async with client(proxy.url, publisher=config) as c:
        series = ["cpu", "mem", "net"]
        await c.emit_many([Sample(series=series[n // 50 % 3], value=n) for n in range(1000)])
        await c.emit_many([Sample(series=series[n % 3], value=n, data={"x": 1}) for n in range(1000)])
        await c.flush()
        assert c.stats.shed == 0
        assert len(await seen.samples(c)) == 2000


async def test_emit_many_says_when_nothing_moves(proxy, seen) -> None:
    config = quick(deadline_s=0.5, attempt_s=0.2, inflight_messages=4, metrics_entries=10)
    async with client(proxy.url, publisher=config) as c:
        proxy.stall()
        proxy.cut()
        proxy.refuse()
        await until(lambda: not c.connection.is_connected)
        with pytest.raises(errors.Overloaded, match="took no metrics"):
            await c.emit_many([Sample(series="cpu", value=n) for n in range(5000)])
        proxy.refuse(False)
        proxy.resume()


# --- cancellation ------------------------------------------------------------------------


async def test_cancelling_emits_that_wait_leaves_the_queue_as_it_was(proxy, seen, rng) -> None:
    config = quick(deadline_s=60, attempt_s=10, queue_entries=20, inflight_messages=4, overload_wait_s=60)
    async with client(proxy.url, publisher=config) as c:
        accepted = []
        for round_ in range(20):
            proxy.stall("down")
            tasks = [asyncio.create_task(c.emit(scanned(f"r{round_}-{n}"))) for n in range(60)]
            await until(lambda: c.stats.queued == 20)
            victims = rng.sample(tasks, 30)
            if round_ % 2:
                proxy.resume()  # cancelled while room is being handed out
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            for task in victims:
                task.cancel()
            proxy.resume()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for n, result in enumerate(results):
                if isinstance(result, Receipt):
                    accepted.append(f"r{round_}-{n}")
                else:
                    assert isinstance(result, asyncio.CancelledError)
            await c.flush()
            lane = c._publisher._outbox.lanes[0]
            assert (lane.queue.count, lane.queue.size, lane.inflight.count, lane.inflight.size) == (0, 0, 0, 0)
        assert sorted(f.id for f in await seen.facts(c)) == sorted(accepted)


async def test_cancelling_an_await_of_a_receipt_cancels_nothing_else(proxy, seen) -> None:
    async with client(proxy.url, publisher=quick(deadline_s=60, attempt_s=10)) as c:
        proxy.stall("down")
        receipt = await c.emit(scanned())

        async def wait() -> PubAck:
            return await receipt

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        proxy.resume()
        assert (await second) is (await receipt)


async def test_a_cancelled_flush_leaves_its_findings_to_the_next(proxy, seen) -> None:
    async with client(proxy.url, publisher=quick(deadline_s=1.5, attempt_s=0.4)) as c:
        await until(lambda: arrived(c, "f0"))
        proxy.stall("down")
        await c.emit(scanned("f1"))
        flush = asyncio.create_task(c.flush())
        await asyncio.sleep(0)
        flush.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flush
        with pytest.raises(errors.FlushFailed) as failed:
            await c.flush()
        assert [e.code for _, e in failed.value.failures] == ["bus.publish_timeout"]
        assert not c._publisher._outbox.barriers
        proxy.resume()


async def test_a_receipt_somebody_gave_up_on_is_named_by_the_next_flush(proxy, seen) -> None:
    async with client(proxy.url, publisher=quick(deadline_s=2.0, attempt_s=0.5)) as c:
        await until(lambda: arrived(c, "f0"))
        proxy.stall("down")
        receipt = await c.emit(scanned("f1"))

        async def wait() -> PubAck:
            return await receipt

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await until(lambda: receipt.done)
        with pytest.raises(errors.FlushFailed):
            await c.flush()
        proxy.resume()


# --- the end -----------------------------------------------------------------------------


async def test_leaving_the_block_drains_also_when_it_is_cancelled(nats_server, seen) -> None:
    started = asyncio.Event()
    stated = 0
    slow = quick(deadline_s=60, status_linger_ms=40_000, metrics_linger_ms=40_000)
    c: Any = None

    async def agent() -> None:
        nonlocal stated, c
        async with client(nats_server.url, publisher=slow) as c:
            while True:
                await c.emit(scanned(f"f{stated}"))
                await c.emit(progress(data=stated))
                await c.sample("cpu", stated)
                stated += 1
                if stated == 500:
                    started.set()
                    await asyncio.Event().wait()

    task = asyncio.create_task(agent())
    await started.wait()
    task.cancel()
    async with asyncio.timeout(35):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(await seen.facts(c)) == 1000
    assert len(await seen.samples(c)) == 500


async def test_a_drain_is_bounded_and_names_what_it_leaves(proxy, seen) -> None:
    with pytest.raises(errors.FlushFailed) as failed:
        async with (
            client(proxy.url, publisher=quick(deadline_s=60, attempt_s=10, drain_s=0.2)) as c,
            asyncio.timeout(45),
        ):
            await c.publish(scanned("f0"))
            proxy.stall("down")
            receipt = await c.emit(scanned("f1"))
    assert [e.code for _, e in failed.value.failures] == ["bus.closed"]
    with pytest.raises(errors.BusClosed):
        await receipt
    proxy.resume()


async def test_an_error_in_the_block_is_not_hidden_by_what_could_not_be_stored(proxy, seen, caplog) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client(proxy.url, publisher=quick(deadline_s=60, attempt_s=10, drain_s=0.1)) as c:
            await c.publish(scanned("f0"))
            proxy.stall("down")
            await c.emit(scanned("f1"))
            raise ZeroDivisionError
    assert "unstored_at_close" in caplog.text
    proxy.resume()


async def test_a_connection_closed_underneath_fails_everything_at_once(proxy, seen) -> None:
    config = quick(deadline_s=60, attempt_s=10, queue_entries=20, inflight_messages=4, overload_wait_s=60)
    async with client(proxy.url, publisher=config) as c, asyncio.timeout(45):
        await c.publish(scanned("f0"))
        proxy.stall("down")
        receipts = [await c.emit(scanned(f"f{n}")) for n in range(22)]
        receipts += [await c.emit(progress(data=n)) for n in range(5)]
        waiting = [asyncio.create_task(c.emit(scanned(f"w{n}"))) for n in range(5)]
        bulk = asyncio.create_task(c.emit_many([Sample(series="cpu", value=n) for n in range(100_000)]))
        flush = asyncio.create_task(c.flush())
        await asyncio.sleep(0.05)
        await c.connection.close()
        assert await outcomes(receipts) == {"bus.closed": 27}
        for task in (*waiting, bulk):
            with pytest.raises(errors.BusClosed):
                await task
        with pytest.raises(errors.FlushFailed):
            await flush
        with pytest.raises(errors.BusClosed):
            await c.emit(scanned("late"))
    proxy.resume()


async def test_closing_lets_what_waits_for_room_go_with_an_error(proxy, seen) -> None:
    config = quick(deadline_s=60, attempt_s=10, queue_entries=5, inflight_messages=4, overload_wait_s=60, drain_s=0.1)
    c = await connect(proxy.url, tenant="acme", agent="a1", publisher=config)
    proxy.stall("down")
    for n in range(7):
        await c.emit(scanned(f"f{n}"))
    waiting = [asyncio.create_task(c.emit(scanned(f"w{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(errors.FlushFailed):
        await c.close()
    for task in waiting:
        with pytest.raises(errors.BusClosed):
            await task
    proxy.resume()


async def test_a_client_that_starts_without_a_broker_waits_for_it(start_nats) -> None:
    server = await start_nats()
    url = server.url
    await server.stop()

    async def open_client() -> Coord:
        return await connect(url, tenant="acme", agent="a1", wait=True)

    opening = asyncio.create_task(open_client())
    await asyncio.sleep(0.2)
    assert not opening.done()
    await server.start()
    async with asyncio.timeout(60):
        c = await opening
    async with observer(url) as seen:
        await seen.make_streams()
        await c.publish(scanned())
        await c.close()
