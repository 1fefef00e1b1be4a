"""The publisher on a real server: what is accepted is stored, in order, or somebody is told why not."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import pytest

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.client import context
from coord.client.config import ClientConfig, PublisherConfig
from coord.client.connect import agent_name, connect
from coord.wire import subjects
from coord.wire.codec import FRAME_TYPE
from coord.wire.envelope import Fact, Sample
from coord.wire.facts import fact
from tests.support.publishing import client, count, facts_of, observer, quick
from tests.support.waiting import until


def scanned(id: str = "f1", **fields: object) -> Fact:  # noqa: A002
    fields.setdefault("data", {"lines": 1})
    return Fact(kind="file", id=id, event="scanned", **fields)  # type: ignore[arg-type]


def progress(id: str = "t1", **fields: object) -> Fact:  # noqa: A002
    return Fact(kind="task", id=id, event="progress", **fields)  # type: ignore[arg-type]


def slow() -> PublisherConfig:
    """Lingers that no test's patience outlasts: what is sent was not waited for."""
    return quick(deadline_s=60, status_linger_ms=40_000, progress_linger_ms=40_000, metrics_linger_ms=40_000)


# --- what arrives ------------------------------------------------------------------------


async def test_a_fact_is_stored_as_it_was_stated(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        before = datetime.now(UTC)
        receipt = await c.emit(scanned(key="run-1", detail=("py",), correlation_id="c1", data={"lines": 120}))
        ack = await receipt
        assert (ack.stream, ack.duplicate) == ("EVENTS", False)
        (stored,) = await seen.facts(c)
        assert (stored.seq, stored.event_id) == (ack.seq, receipt.event_id)
        assert (stored.tenant, stored.agent, stored.key, stored.id) == (c.tenant, "a1", "run-1", "f1")
        assert (stored.detail, stored.data, stored.correlation_id) == (("py",), {"lines": 120}, "c1")
        assert before <= stored.occurred_at <= datetime.now(UTC)


async def test_awaiting_a_receipt_again_and_from_many_tasks_gives_the_same_ack(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        receipt = await c.emit(scanned())

        async def wait() -> object:
            return await receipt

        acks = await asyncio.gather(*(wait() for _ in range(5)))
        assert set(map(id, acks)) == {id(await receipt)}


async def test_publish_waits_for_the_ack_and_for_no_linger(nats_server, seen) -> None:
    async with client(nats_server.url, publisher=slow()) as c, asyncio.timeout(30):
        for _ in range(3):  # the first would find an idle publisher anyway
            assert (await c.publish(scanned())).stream == "EVENTS"
            assert (await c.publish(progress())).stream == "EVENTS"
            assert (await c.publish(Sample(series="cpu", value=1))).stream == "TELEMETRY"
        assert len(await seen.facts(c)) == 6


@fact("pubtest", "measured", schema=2)
class Measured(msgspec.Struct):
    value: int


@fact("pubtest", "noted")
@dataclass
class Noted:
    text: str


async def test_registered_payloads_are_emitted_as_they_are(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        await c.emit(Measured(3), id="m1", key="run-1", detail=("x",))
        await c.publish(Noted("hello"), id="n1", correlation_id="c1")
        first, second = await seen.facts(c)
        assert (first.kind, first.event, first.schema, first.key) == ("pubtest", "measured", 2, "run-1")
        assert first.decode(Measured) == Measured(3)
        assert second.decode(Noted) == Noted("hello")
        assert second.correlation_id == "c1"


async def test_what_is_emitted_wrongly_is_a_programmers_error(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        with pytest.raises(TypeError, match="id="):
            await c.emit(Noted("x"))  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="correlation_id"):
            await c.emit(scanned(), id="f1", correlation_id="c")
        with pytest.raises(errors.InvalidPayload, match="not registered"):
            await c.emit({"a": 1}, id="f1")
        with pytest.raises(errors.InvalidToken, match="Upper"):
            await c.emit(scanned(id="Upper"))
        with pytest.raises(errors.InvalidToken):
            await c.sample("Not A Series", 1.0)
        with pytest.raises(errors.InvalidPayload):
            await c.sample("cpu", float("nan"))
        assert c.stats.accepted == 0


async def test_samples_arrive_in_frames_with_their_labels_in_order(nats_server, seen) -> None:
    async with client(nats_server.url, publisher=slow()) as c:
        for n in range(250):
            await c.sample("cpu", n, core=n % 4)
            await c.emit(Sample(series="llm.tokens", value=n / 2))
        await c.flush()
        samples = await seen.samples(c)
        cpu = [s for s in samples if s.series == "cpu"]
        assert [s.value for s in cpu] == list(range(250))
        assert [s.data for s in cpu] == [{"core": n % 4} for n in range(250)]
        assert [s.value for s in samples if s.series == "llm.tokens"] == [n / 2 for n in range(250)]
        assert len({s.seq for s in samples}) <= 2 * 4, "100 to a frame, the first of each perhaps alone"
        assert c.stats.acked == 500


async def test_the_samples_of_a_frame_share_one_receipt(nats_server, seen) -> None:
    async with client(nats_server.url, publisher=slow()) as c:
        await c.sample("cpu", 0)
        first, second = await c.sample("cpu", 1), await c.sample("cpu", 2)
        assert first is second
        await c.flush()
        ack = await first
        assert [s.value for s in await seen.samples(c) if s.seq == ack.seq] == [1, 2]


async def test_emit_many_takes_facts_samples_and_async_iterables(nats_server, seen) -> None:
    async def later() -> AsyncIterator[Fact]:
        for n in range(50):
            yield scanned(f"f{n}")

    async with client(nats_server.url) as c:
        plain = [Sample(series="cpu", value=n) for n in range(2500)]
        assert await c.emit_many(plain) == 2500
        mixed = [Sample(series="mem", value=1, data={"unit": "b"}), scanned("m1"), Sample(series="cpu", value=-1)]
        assert await c.emit_many(iter(mixed)) == 3
        assert await c.emit_many(later()) == 50
        assert await c.emit_many([]) == 0
        await c.flush()
        samples = await seen.samples(c)
        assert [s.value for s in samples if s.series == "cpu"] == [*range(2500), -1]
        assert len(await seen.facts(c)) == 51
        assert c.stats.accepted == c.stats.acked == 2553


async def test_emit_many_stops_at_the_first_refused_item_and_keeps_those_before(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        with pytest.raises(errors.InvalidPayload):
            await c.emit_many([Sample(series="cpu", value=v) for v in (1.0, 2.0, float("inf"), 3.0)])
        await c.flush()
        assert [s.value for s in await seen.samples(c)] == [1.0, 2.0]


# --- batches and order -------------------------------------------------------------------


async def test_an_idle_publisher_sends_status_alone_and_at_once_a_busy_one_in_frames(nats_server, seen) -> None:
    async with client(nats_server.url, publisher=slow()) as c:
        async with asyncio.timeout(30):
            await (await c.emit(progress(data={"done": 0})))
        for n in range(1, 40):
            await c.emit(progress(data={"done": n}))
        await c.flush()
        messages = await seen.messages("EVENTS", f"coord.log.*.{c.tenant}.>")
        assert [FRAME_TYPE.encode() in (m.headers or b"") for m in messages] == [False, True]
        facts = [f for m in messages for f in facts_of(m)]
        assert [f.data["done"] for f in facts] == list(range(40))
        assert len({f.event_id for f in facts}) == 40


async def test_a_linger_ends_by_itself(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        receipts = [await c.emit(progress(data=n)) for n in range(10)]
        async with asyncio.timeout(60):
            for receipt in receipts:
                await receipt


@pytest.mark.parametrize("order", ["auto", "always"])
async def test_facts_of_one_key_keep_their_order_whatever_their_class(nats_server, seen, rng, order) -> None:
    config = quick(inflight_messages=8, progress_linger_ms=50, order=order, deadline_s=60, overload_wait_s=60)
    async with client(nats_server.url, publisher=config) as c:
        stated = defaultdict(list)
        for n in range(2000):
            key = f"k{rng.randrange(5)}"
            task = f"t{rng.randrange(3)}"
            if rng.random() < 0.7:
                item = progress(task, key=key, data=n)
            else:
                item = Fact(kind="note", id=task, event="written", key=key, data=n)
            await c.emit(item)
            stated[key].append(n)
            if rng.random() < 0.02:
                await asyncio.sleep(0.002)
        await c.flush()
        logged = defaultdict(list)
        for stored in await seen.facts(c):
            logged[stored.key].append(stored.data)
        assert logged == stated


async def test_a_flush_is_a_barrier_for_all_classes(nats_server, seen) -> None:
    async with client(nats_server.url, publisher=slow()) as c:
        for round_ in range(1, 4):
            for n in range(30):
                await c.emit(scanned(f"f{n}"))
                await c.emit(progress(f"t{n % 3}", data=n))
                await c.sample("cpu", n)
            async with asyncio.timeout(30):
                await c.flush()
            assert len(await seen.facts(c)) == 60 * round_
            assert len(await seen.samples(c)) == 30 * round_


async def test_flush_of_nothing_returns_at_once_and_flushes_may_overlap(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        await c.flush()
        for n in range(200):
            await c.emit(scanned(f"f{n}"))
        await asyncio.gather(*(c.flush() for _ in range(5)))
        assert c.stats.acked == 200
        assert c.stats.inflight_messages == c.stats.queued == 0


async def test_a_critical_fact_passes_while_metrics_are_stuck(start_nats) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams(only="EVENTS")
        config = quick(inflight_messages=8, deadline_s=60.0, queue_entries=500)
        async with client(server.url, publisher=config) as c:
            for n in range(2000):
                await c.sample("cpu", n)
            await until(lambda: c.stats.inflight_messages == 2)  # a quarter of eight: full
            async with asyncio.timeout(45):  # and not only when the metrics are given up
                for n in range(20):
                    await c.publish(scanned(f"f{n}"))
                    await c.publish(progress(data=n))
                assert await c.emit_many([scanned(f"g{n}") for n in range(100)]) == 100
            assert c.stats.shed > 0
            await seen.make_streams()
            with pytest.raises(errors.FlushFailed) as failed:
                await c.flush()
            assert {e.code for _, e in failed.value.failures} == {"publish.shed"}


# --- causes ------------------------------------------------------------------------------


async def test_what_is_emitted_while_handling_a_fact_names_it_as_the_cause(nats_server, seen) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    async with client(nats_server.url) as c:
        await c.publish(scanned("root", correlation_id="conversation", traceparent=trace))
        (root,) = await seen.facts(c)
        with context.handling(root):
            await c.emit(scanned("child"))
            await c.emit(progress(data=1))
            await c.emit(progress(data=2))
            await asyncio.create_task(c.publish(scanned("grandchild")))
        await c.emit(scanned("stranger"))
        await c.flush()
        caused = {(f.id, str(f.data)): f for f in await seen.facts(c)}
        for id_, stored in caused.items():
            if id_[0] in {"root", "stranger"}:
                continue
            assert (stored.correlation_id, stored.causation_id) == ("conversation", root.event_id), id_
            assert stored.traceparent == trace
        stranger = next(f for f in caused.values() if f.id == "stranger")
        assert (stranger.correlation_id, stranger.causation_id, stranger.traceparent) == (None, None, None)


# --- connecting --------------------------------------------------------------------------


async def test_connect_gives_a_client_to_enter_or_to_await(nats_server, seen) -> None:
    c = await connect(nats_server.url, tenant=f"t{secrets.token_hex(4)}", agent="a1")
    await c.emit(scanned())
    await c.close()
    await c.close()
    assert len(await seen.facts(c)) == 1
    config = ClientConfig(nats=NatsConfig(urls=(nats_server.url,)), tenant="acme", agent="from-config")
    async with connect(config, agent="given") as c:
        assert (c.tenant, c.agent) == ("acme", "given")
    async with connect(NatsConfig(urls=(nats_server.url,))) as c:
        assert (c.tenant, c.agent) == ("default", agent_name(None))
        subjects.check_token(c.agent, "agent")


async def test_a_connection_that_was_lent_stays_open(nats_server, seen) -> None:
    async with await Connection.open(NatsConfig(urls=(nats_server.url,)), name="mine") as conn:
        for _ in range(2):
            async with connect(tenant=f"t{secrets.token_hex(4)}", agent="a1", connection=conn) as c:
                await c.emit(scanned())
            assert len(await seen.facts(c)) == 1
            assert conn.is_connected
        with pytest.raises(errors.SettingsError):
            connect(nats_server.url, agent="a1", connection=conn)
        assert not conn._subscriptions, "the client has left nothing behind"
        assert not conn._connected_listeners
        assert not conn._disconnected_listeners


@pytest.mark.parametrize("name", ["_task", "_", "Upper", "", "a.b", "x" * 65])
def test_names_that_are_no_agents_are_refused(name: str) -> None:
    with pytest.raises(errors.InvalidToken):
        connect(agent=name)


def test_a_bad_tenant_or_config_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(errors.InvalidToken):
        connect(tenant="Acme")
    with pytest.raises(errors.SettingsError):
        connect(publisher=PublisherConfig(queue_entries=0))
    with pytest.raises(errors.SettingsError):
        connect(" , ")


async def test_without_a_broker_connecting_says_so() -> None:
    config = NatsConfig(urls=("nats://127.0.0.1:1",), connect_timeout_s=0.3)
    with pytest.raises(errors.NotConnected, match=r"127\.0\.0\.1:1"):
        async with connect(config, agent="a1"):
            raise AssertionError("unreachable")


async def test_a_closed_client_leaves_no_tasks_and_no_timers(nats_server, seen) -> None:
    before = asyncio.all_tasks()
    async with client(nats_server.url) as c:
        for n in range(300):
            await c.emit(scanned(f"f{n}"))
            await c.sample("cpu", n)
    await until(lambda: asyncio.all_tasks() <= before)
    publisher = c._publisher
    assert publisher._timer is None
    assert publisher._ticker is None
    assert publisher._pipeline._timer is None
    with pytest.raises(errors.BusClosed):
        await c.emit(scanned())
    with pytest.raises(errors.BusClosed):
        await c.publish(scanned())
    with pytest.raises(errors.BusClosed):
        await c.sample("cpu", 1)
    with pytest.raises(errors.BusClosed):
        await c.emit_many([scanned()])
    await c.flush()


async def test_metrics_say_what_happened(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        for n in range(20):
            await c.emit(scanned(f"f{n}"))
        await c.emit_many([Sample(series="cpu", value=n) for n in range(500)])
        await c.flush()
    assert count(c, "coord_events_published_total", stream="EVENTS") == 20
    assert count(c, "coord_events_published_total", stream="TELEMETRY") == 500
    assert count(c, "coord_publish_duration_seconds_count", stream="EVENTS") == 20
    assert count(c, "coord_publish_batch_messages_sum") == 500
    assert count(c, "coord_publish_inflight") == 0
    assert count(c, "coord_publish_queued", service_class="metrics") == 0
