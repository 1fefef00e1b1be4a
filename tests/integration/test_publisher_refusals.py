"""What the broker refuses reaches whoever asked, as a typed error with the server's code, and never hangs."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.bus.patched import Message
from coord.client.connect import Coord
from coord.wire.envelope import Fact, Sample
from tests.support.proxy import Proxy
from tests.support.publishing import Observer, client, count, observer, quick
from tests.support.waiting import until

PERMISSIONS = """
accounts {
  COORD {
    jetstream: enabled
    users: [
      {user: boss, password: boss}
      {user: a1, password: a1, permissions: {
        publish: ["coord.ev.acme.a1.>", "coord.tel.acme.a1.>", "$JS.API.DIRECT.GET.EVENTS.coord.log.*.acme.*.*.*.a1.>"]
        subscribe: ["_INBOX_a1.>"] }}
      {user: blind, password: blind, permissions: { publish: ["coord.ev.acme.blind.>"], subscribe: ["_INBOX_blind.>"] }}
      {user: deaf, password: deaf, permissions: { publish: ["coord.ev.>"], subscribe: ["_INBOX_other.>"] }}
    ]
  }
}
"""


def user(server: Any, name: str) -> NatsConfig:
    return NatsConfig(urls=(server.url,), user=name, password=name, inbox_prefix=f"_INBOX_{name}")


def scanned(id: str = "f1", data: Any = None, **fields: Any) -> Fact:  # noqa: A002
    return Fact(kind="file", id=id, event="scanned", data=data, **fields)


def acting(server: Any, name: str) -> AbstractAsyncContextManager[Coord]:
    """A client of that user; with a deadline beyond the tests', which must not have to wait for it."""
    return client("", to=user(server, name), tenant="acme", agent=name, publisher=quick(deadline_s=60))


@pytest.fixture
async def guarded(start_nats) -> Any:
    """A server with users and permissions, its streams made."""
    server = await start_nats(extra=PERMISSIONS)
    config = NatsConfig(urls=(server.url,), user="boss", password="boss")
    async with await Connection.open(config, name="boss") as conn:
        await Observer(conn, None).make_streams()  # type: ignore[arg-type]
    return server


# --- stream full -------------------------------------------------------------------------


async def test_a_full_stream_makes_wait_and_then_refuses_with_the_servers_code(start_nats) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams(max_msgs=10)
        async with client(server.url, publisher=quick(deadline_s=60, refused_wait_s=0.3)) as c:
            for n in range(10):
                await c.publish(scanned(f"f{n}"))
            started = asyncio.get_running_loop().time()
            with pytest.raises(errors.StreamFull) as refused:
                await c.publish(scanned("one-too-many"))
            assert 0.1 < asyncio.get_running_loop().time() - started < 30
            assert refused.value.details["server_code"] == 10077
            assert refused.value.retryable
            assert len(await seen.facts(c)) == 10
            assert c.stats.failed == 1
            assert c.stats.resends >= 1


async def test_a_stream_that_gets_room_in_time_takes_what_waited(start_nats) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams(max_msgs=10)
        async with client(server.url, publisher=quick(refused_wait_s=30.0)) as c:
            receipts = [await c.emit(scanned(f"f{n}")) for n in range(15)]
            await until(lambda: c.stats.acked == 10 and c.stats.resends)
            await seen.conn.api("STREAM.PURGE.EVENTS")
            acks = await asyncio.gather(*receipts)
            assert len({ack.seq for ack in acks}) == 15
            assert sorted(f.id for f in await seen.facts(c)) == sorted(f"f{n}" for n in range(10, 15))


async def test_flush_names_what_a_full_stream_refused_once(start_nats) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams(max_msgs=10)
        async with client(server.url, publisher=quick(refused_wait_s=0.0)) as c:
            for n in range(13):
                await c.emit(scanned(f"f{n}"))
            with pytest.raises(errors.FlushFailed) as failed:
                await c.flush()
            assert [(s.rsplit(".", 2)[-2], e.code) for s, e in failed.value.failures] == [
                (f"f{n}", "bus.stream_full") for n in (10, 11, 12)
            ]
            await c.flush()
            assert count(c, "coord_publish_errors_total", stream="EVENTS", reason="bus.stream_full") in {0, 3}
        assert count(c, "coord_publish_errors_total", stream="EVENTS", reason="bus.stream_full") == 3


# --- permissions -------------------------------------------------------------------------


async def test_speaking_as_another_agent_is_refused_at_once_and_harms_nothing_else(guarded) -> None:
    async with (
        client("", to=user(guarded, "a1"), tenant="acme", agent="a1", publisher=quick(deadline_s=60)) as own,
        client("", to=user(guarded, "a1"), tenant="acme", agent="a2", publisher=quick(deadline_s=60)) as other,
        asyncio.timeout(45),
    ):
        receipts = [await other.emit(scanned(f"f{n}")) for n in range(300)]
        for receipt in receipts:
            with pytest.raises(errors.NoPermission):
                await receipt
        with pytest.raises(errors.NoPermission, match="refuses this subject"):
            await other.publish(Sample(series="cpu", value=1))
        assert (await own.publish(scanned())).stream == "EVENTS"
        await other.flush()  # whoever awaited has been told


async def test_an_agent_that_may_not_hear_its_acks_is_told_why(guarded) -> None:
    async with acting(guarded, "deaf") as c, asyncio.timeout(45):
        with pytest.raises(errors.NoPermission, match="inbox_prefix"):
            await c.publish(scanned())
        with pytest.raises(errors.NoPermission, match="inbox_prefix"):
            await c.publish(scanned())


# --- size --------------------------------------------------------------------------------


async def test_what_exceeds_max_payload_with_its_headers_is_not_sent_and_the_connection_lives(start_nats) -> None:
    server = await start_nats(max_payload=100_000)
    async with observer(server.url) as seen:
        await seen.make_streams()
        async with client(server.url) as c:
            epoch = c.connection.epoch
            with pytest.raises(errors.MessageTooLarge) as refused:
                await c.publish(scanned(data="x" * 99_900))  # fits without headers
            assert not refused.value.retryable
            await c.publish(scanned(data="x" * 99_000))
            await c.emit(scanned(data="x" * 200_000))
            with pytest.raises(errors.FlushFailed) as failed:
                await c.flush()
            assert [e.code for _, e in failed.value.failures] == ["bus.too_large"]
            assert c.connection.epoch == epoch
            assert c.connection.is_connected


async def test_frames_stay_below_a_small_max_payload(start_nats) -> None:
    server = await start_nats(max_payload=20_000)
    async with observer(server.url) as seen:
        await seen.make_streams()
        async with client(server.url) as c:
            for n in range(300):
                await c.sample("cpu", n, note="x" * 200)
            await c.flush()
            assert [s.value for s in await seen.samples(c)] == list(range(300))


async def test_what_the_stream_finds_too_large_has_its_code(start_nats) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams(max_msg_size=10_000)
        async with client(server.url) as c:
            with pytest.raises(errors.MessageTooLarge) as refused:
                await c.publish(scanned(data="x" * 20_000))
            assert refused.value.details["server_code"] == 10054


async def test_what_no_reader_would_take_is_refused_before_it_is_accepted(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        with pytest.raises(errors.PayloadTooLarge):
            await c.emit(scanned(data="x" * 1_100_000))
        assert c.stats.accepted == 0


# --- collisions --------------------------------------------------------------------------


async def test_an_id_used_for_another_fact_is_a_collision_the_same_fact_again_is_not(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        first = await c.publish(scanned(data=1, event_id="e1"))
        again = await c.publish(scanned(data=1, event_id="e1"))
        assert (again.seq, again.duplicate) == (first.seq, True)
        for other in (scanned(data=2, event_id="e1"), scanned("f2", data=1, event_id="e1")):
            with pytest.raises(errors.IdCollision) as collided:
                await c.publish(other)
            assert collided.value.details["seq"] == first.seq
            assert collided.value.details["stored_subject"].endswith(".f1.a1.scanned")
        # No longer the last of its subject: found by its sequence.
        await c.publish(scanned(data=3))
        assert (await c.publish(scanned(data=1, event_id="e1"))).seq == first.seq
        with pytest.raises(errors.IdCollision):
            await c.publish(scanned(data=2, event_id="e1"))
        assert len(await seen.facts(c)) == 2


async def test_an_agent_with_permission_for_its_own_subjects_can_compare_the_last(guarded) -> None:
    async with acting(guarded, "a1") as c, asyncio.timeout(45):
        await c.publish(scanned(data=1, event_id="e1"))
        assert (await c.publish(scanned(data=1, event_id="e1"))).duplicate
        with pytest.raises(errors.IdCollision) as collided:
            await c.publish(scanned(data=2, event_id="e1"))
        assert "compared" not in collided.value.details
        await c.publish(scanned(data=3))
        with pytest.raises(errors.IdCollision) as unread:  # by sequence it may not read
            await c.publish(scanned(data=1, event_id="e1"))
        assert unread.value.details["compared"] is False


async def test_a_duplicate_that_may_not_be_read_is_a_collision_and_says_that_it_was_not_compared(guarded) -> None:
    async with acting(guarded, "blind") as c, asyncio.timeout(45):
        await c.publish(scanned(data=1, event_id="e1"))
        with pytest.raises(errors.IdCollision, match="may not be read back") as unread:
            await c.publish(scanned(data=1, event_id="e1"))
        assert unread.value.details["compared"] is False


async def test_many_duplicates_at_once_are_all_compared(nats_server, seen) -> None:
    async with client(nats_server.url) as c:
        first = [await c.emit(scanned("f1", data=n, event_id=f"e{n}")) for n in range(300)]
        stored = await asyncio.gather(*first)
        again = [await c.emit(scanned("f1", data=n if n % 3 else -1, event_id=f"e{n}")) for n in range(300)]
        results = await asyncio.gather(*again, return_exceptions=True)
        for n, result in enumerate(results):
            if n % 3:
                assert result.seq == stored[n].seq  # type: ignore[union-attr]
            else:
                assert isinstance(result, errors.IdCollision)
        assert not c._publisher._pipeline._duplicates._asking


async def test_many_duplicates_that_may_not_be_read_do_not_wait_for_each_other(guarded) -> None:
    async with acting(guarded, "blind") as c, asyncio.timeout(45):
        await asyncio.gather(*[await c.emit(scanned(data=n, event_id=f"e{n}")) for n in range(50)])
        again = [await c.emit(scanned(data=n, event_id=f"e{n}")) for n in range(50)]
        results = await asyncio.gather(*again, return_exceptions=True)
        assert {type(r) for r in results} == {errors.IdCollision}


def hold_requests(c: Coord) -> asyncio.Event:
    """Let the client's requests wait for an event, so that something can happen meanwhile."""
    go, request = asyncio.Event(), c.connection.request

    async def held(*args: Any, **options: Any) -> Message:
        await go.wait()
        return await request(*args, **options)

    c.connection.request = held  # type: ignore[method-assign]
    return go


async def test_a_comparison_that_is_cut_off_is_made_again_after_the_reconnect(nats_server, seen) -> None:
    async with Proxy("127.0.0.1", nats_server.port) as proxy, client(proxy.url, publisher=quick(deadline_s=60)) as c:
        for n in range(20):
            await c.publish(scanned(f"f{n}", data=n, event_id=f"e{n}"))
        go = hold_requests(c)
        again = [await c.emit(scanned(f"f{n}", data=n, event_id=f"e{n}")) for n in range(20)]
        await until(lambda: c._publisher._pipeline._duplicates.asked == 20)
        proxy.refuse()  # a client that is back at once would not be seen to be away
        proxy.cut()
        await until(lambda: not c.connection.is_connected)
        go.set()
        await asyncio.sleep(0)
        proxy.refuse(False)
        async with asyncio.timeout(45):
            assert all(ack.duplicate for ack in await asyncio.gather(*again))


async def test_closing_while_comparing_ends_it(nats_server, seen) -> None:
    async with client(nats_server.url, publisher=quick(deadline_s=60, drain_s=0)) as c:
        await c.publish(scanned(event_id="e1"))
        hold_requests(c)
        again = await c.emit(scanned(event_id="e1"))
        await until(lambda: c._publisher._pipeline._duplicates.asked)
        with pytest.raises(errors.FlushFailed):
            await c.close()
        with pytest.raises(errors.BusClosed):
            await again


async def test_ids_are_unique_per_agent_only(nats_server, seen) -> None:
    tenant = f"t{secrets.token_hex(4)}"
    async with client(nats_server.url, tenant=tenant) as c, client(nats_server.url, tenant=tenant, agent="a2") as d:
        first, second = await c.publish(scanned(event_id="e1")), await d.publish(scanned(event_id="e1"))
        assert not second.duplicate
        assert second.seq > first.seq


# --- no stream ---------------------------------------------------------------------------


async def test_without_a_stream_publishing_tries_until_the_deadline_and_says_so(start_nats) -> None:
    server = await start_nats()
    async with client(server.url, publisher=quick(deadline_s=3.0)) as c, asyncio.timeout(60):
        with pytest.raises(errors.NoStream) as refused:
            await c.publish(scanned())
        assert refused.value.retryable
        assert c.stats.resends >= 2


async def test_a_stream_that_comes_in_time_takes_what_waited_for_it(start_nats) -> None:
    server = await start_nats()
    async with observer(server.url) as seen, client(server.url, publisher=quick(deadline_s=60)) as c:
        receipts = [await c.emit(scanned(f"f{n}")) for n in range(50)]
        await until(lambda: c.stats.resends)
        await seen.make_streams()
        async with asyncio.timeout(45):
            await asyncio.gather(*receipts)
        assert len(await seen.facts(c)) == 50


async def test_in_turn_what_a_broker_refuses_for_now_keeps_its_order(start_nats) -> None:
    """Each refused fact is tried again after a random while: pipelined, the next of its key may be stored before it."""
    server = await start_nats()
    config = quick(deadline_s=60.0, order="always", progress_linger_ms=1)
    async with observer(server.url) as seen, client(server.url, publisher=config) as c:
        receipts = []
        for n in range(200):
            key = f"k{n % 2}"
            event, kind = ("progress", "task") if n % 5 == 0 else ("noted", "note")
            receipts.append(await c.emit(Fact(kind=kind, id=f"{key}-t", key=key, event=event, data=n)))
        await until(lambda: max(r.refusals for r in receipts) >= 3)
        assert sum(r.attempts > 0 for r in receipts) == 2, "of each key one was sent"
        await seen.make_streams()
        await c.flush()
        stored = await seen.facts(c)
        assert c.stats.resends >= 4
    for key in ("k0", "k1"):
        assert [f.data for f in stored if f.key == key] == list(range(int(key[1]), 200, 2))
