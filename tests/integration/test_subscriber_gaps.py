"""Subscribing when something goes wrong: trimmed and replaced logs, no service, lost connections, hostile messages."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from coord import errors
from coord.bus import direct
from coord.bus.connection import Connection, NatsConfig
from coord.client.subscriber import SubscriberConfig, Subscription, close_all
from coord.wire import subjects
from coord.wire.envelope import StoredFact, decode_message
from tests.support.log import Log, apply_streams, open_log, query_service
from tests.support.network import Line
from tests.support.subscribing import HASTY, connected, cut, follow, publish_slowly, take
from tests.support.waiting import until


@pytest.fixture
async def log(nats_server) -> AsyncIterator[Log]:
    async with open_log(nats_server.url) as log, query_service(nats_server.url):
        yield log
        await close_all(log.conn)


# --- the log's window, another log -----------------------------------------------------------


async def test_a_trimmed_position_is_an_error_and_seek_the_way_on(start_nats) -> None:
    server = await start_nats()
    async with open_log(server.url) as log, query_service(server.url):
        for n in range(10):
            await log.state(n)
        await log.conn.api("STREAM.PURGE.EVENTS", {"seq": 7})
        async with follow(log, start=3) as subscription:
            with pytest.raises(errors.LogTrimmed):
                await take(subscription, 1)
            with pytest.raises(errors.LogTrimmed) as trimmed:  # as often as it is asked
                await take(subscription, 1)
            assert (trimmed.value.details["wanted"], trimmed.value.details["first_seq"]) == (3, 7)
            subscription.seek(trimmed.value.details["first_seq"])
            assert [f.data for f in await take(subscription, 4)] == [6, 7, 8, 9]
            await log.state("live")
            assert (await take(subscription, 1))[0].data == "live"
        with pytest.raises(errors.LogTrimmed):
            await take(follow(log, start=datetime.now(UTC) - timedelta(days=2)), 1)
        await close_all(log.conn)


async def test_a_slow_consumer_that_the_window_overtakes_is_told(start_nats) -> None:
    server = await start_nats()
    async with open_log(server.url) as log, query_service(server.url):
        config = SubscriberConfig(buffer_messages=20, page_facts=10)
        async with follow(log, config=config) as subscription:
            await log.flood(500)
            await log.conn.api("STREAM.PURGE.EVENTS", {"seq": 401})
            got: list[int] = []
            with pytest.raises(errors.LogTrimmed) as trimmed:
                while True:
                    got.append((await take(subscription, 1))[0].data["n"])
            assert got == list(range(len(got)))
            assert trimmed.value.details["wanted"] == len(got) + 1
            assert trimmed.value.details["first_seq"] == 401


@pytest.mark.parametrize("how", ["live", "resumed"])
async def test_a_log_made_anew_is_noticed(start_nats, how: str) -> None:
    server = await start_nats()
    async with open_log(server.url) as log, query_service(server.url):
        subscription = follow(log, durable="d")
        await subscription.wait_ready(60)
        for n in range(5):
            await log.state(n)
        await take(subscription, 5)
        subscription.finish()
        if how == "resumed":
            await subscription.close()
        config = (await log.conn.api("STREAM.INFO.EVENTS"))["config"]
        await log.conn.api("STREAM.DELETE.EVENTS")
        await log.conn.api("STREAM.CREATE.EVENTS", config)
        for n in range(7):  # more than there were: the sequence alone does not show it
            await log.state(("new log", n))
        if how == "resumed":
            subscription = follow(log, durable="d")
        with pytest.raises(errors.LogReplaced):
            await take(subscription, 20)
        subscription.seek("first")
        assert [f.data for f in await take(subscription, 7)] == [["new log", n] for n in range(7)]
        await subscription.close()


# --- no query service ------------------------------------------------------------------------


async def test_live_works_without_a_query_service(nats_server) -> None:
    async with open_log(nats_server.url) as log, follow(log) as subscription:
        assert subscription.live
        seq = await log.state("live")
        assert (await take(subscription, 1))[0].seq == seq


async def test_a_gap_without_a_query_service_is_said_and_mended_once_there_is_one(start_nats) -> None:
    server = await start_nats()
    async with open_log(server.url) as log, Line(server.port) as line, connected(line) as conn:
        subscription = follow(log, conn=conn, config=HASTY)
        await subscription.wait_ready(60)
        await log.state(0)
        await take(subscription, 1)
        await cut(line, conn, log.state(1))
        with pytest.raises(errors.ServiceUnavailable):
            await take(subscription, 1)
        with pytest.raises(errors.ServiceUnavailable):  # again, not once for all
            await take(subscription, 1)
        await log.state(2)
        async with query_service(server.url):
            assert [(await take_patiently(subscription)).data for _ in range(2)] == [1, 2]
            await until(lambda: subscription.live)
        await subscription.close()


async def take_patiently(subscription: Subscription) -> StoredFact:
    """The next fact; told that nobody answers, iterate again: a circuit may be open for two seconds more."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(errors.ServiceUnavailable):
                return await anext(subscription)


async def test_a_gap_before_any_position_was_known_is_an_error(start_nats) -> None:
    server = await start_nats()
    async with open_log(server.url) as log, Line(server.port) as line, connected(line) as conn:
        subscription = follow(log, conn=conn, config=HASTY)
        await subscription.wait_ready(60)
        await cut(line, conn, log.state("nobody can know of this"))
        with pytest.raises(errors.ServiceUnavailable, match="before this subscription knew"):
            await take(subscription, 1)
        await subscription.close()


async def test_starting_in_the_past_without_a_query_service_is_an_error(nats_server) -> None:
    async with open_log(nats_server.url) as log:
        subscription = follow(log, start="first", config=HASTY)
        with pytest.raises(errors.ServiceUnavailable):
            await take(subscription, 1)
        await subscription.close()


# --- reconnects and crashes --------------------------------------------------------------------


async def test_after_a_reconnect_nothing_is_missing(start_nats, rng: random.Random) -> None:
    server = await start_nats()
    async with (
        open_log(server.url) as log,
        query_service(server.url),
        Line(server.port) as line,
        connected(line) as conn,
    ):
        subscription = follow(log, conn=conn)
        await subscription.wait_ready(60)
        publishing = asyncio.create_task(publish_slowly(log, 4_000))
        got: list[int] = []
        cuts = sorted(rng.sample(range(3_000), 3))
        while len(got) < 4_000:
            got.append((await take(subscription, 1))[0].data["n"])
            if cuts and got[-1] >= cuts[0]:
                cuts.pop(0)
                await cut(line, conn, asyncio.sleep(0.05))
        await publishing
        assert got == list(range(4_000))
        assert conn.epoch >= 4
        await subscription.close()


async def test_a_killed_broker_costs_nothing_but_time(start_nats) -> None:
    """kill -9 of the server while facts are acknowledged one by one: each is seen once, in order."""
    server = await start_nats()
    async with open_log(server.url) as log, query_service(server.url):
        subscription = follow(log, durable="survivor")
        await subscription.wait_ready(60)
        acked: list[int] = []
        stop = asyncio.Event()

        async def publish() -> None:
            n = 0
            while not stop.is_set():
                try:
                    await log.state(n, headers={"Nats-Msg-Id": f"{log.tenant}.{n}"})
                except (errors.CoordError, AssertionError):
                    await asyncio.sleep(0.01)
                    continue  # the same again: the id makes it once
                acked.append(n)
                n += 1

        publishing = asyncio.create_task(publish())
        got: list[int] = []
        for _ in range(2):
            got += [f.data for f in await take(subscription, 50)]
            server.kill()
            await server.start()
        got += [f.data for f in await take(subscription, 50)]
        stop.set()
        await publishing
        got += [f.data for f in await take(subscription, len(acked) - len(got))]
        assert got == acked
        await subscription.close()


async def test_a_closed_connection_ends_the_loop_with_an_error(nats_server) -> None:
    async with open_log(nats_server.url) as log, query_service(nats_server.url):
        conn = await Connection.open(NatsConfig(urls=(nats_server.url,)), name="agent")
        subscription = follow(log, conn=conn)
        await subscription.wait_ready(60)
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        await conn.close()
        with pytest.raises(errors.BusClosed):
            await asyncio.wait_for(waiting, 60)
        await subscription.close()


# --- hostile messages and permissions ----------------------------------------------------------


async def test_forged_broker_headers_and_half_a_header_block(log: Log) -> None:
    """Whatever an agent writes into its headers, sequence and subject are the broker's."""
    async with follow(log) as subscription:
        good: list[int] = []
        forged = (
            b"NATS/1.0\r\nNats-Sequence: 999999999\r\nNats-Stream: EVENTS\r\n"
            b"Nats-Subject: coord.log.0.other.k.file.i.a.scanned\r\nNats-Last-Sequence: 999999998\r\n\r\n"
        )
        good.append(await log.state("forged", headers=forged))
        for block in (
            b"NATS/1.0\r\nce-id: no end",
            b"NATS/1.0\r\nce-id: x\r\n",
            b"NATS/1.0\r\n\xff\xfe: \x00\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\nce-id: x\r\n\r\nce-type: behind the end\r\n\r\n",
        ):
            await log.state("hostile", headers=block)
        good.append(await log.state("status line", headers=b"NATS/1.0 503 No Responders\r\n\r\n"))
        good.append(await log.state("end of batch", headers=b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 9\r\n\r\n"))
        good.append(await log.state("last"))
        live: list[int] = []
        while not live or live[-1] != good[-1]:
            live += [f.seq for f in await take(subscription, 1)]
    async with follow(log, start=good[0]) as subscription:
        read: list[int] = []
        while not read or read[-1] != good[-1]:
            read += [f.seq for f in await take(subscription, 1)]
    stored = []
    for seq in range(good[0], good[-1] + 1):  # as the projector judges them: by what was stored
        message = await direct.next_on_leader(log.conn, subjects.EVENTS, subjects.log_filter(log.tenant), seq)
        assert message is not None
        entry = decode_message(message.subject, message.headers, message.body, message.seq, message.stored_at)[0]
        stored += [seq] if isinstance(entry, StoredFact) else []
    assert live == read == stored
    assert {good[0], good[-1]} <= set(live)


async def test_messages_that_the_stream_did_not_send_are_ignored(log: Log) -> None:
    async with follow(log, key="k") as subscription:
        subject = subjects.FactSubject(log.tenant, "a1", "k", "file", "f", "scanned")
        other = subjects.FactSubject(log.tenant, "a1", "k", "file", "other", "scanned")
        tail = b"Nats-Sequence: 99999999\r\nNats-Time-Stamp: 2026-01-01T00:00:00Z\r\nNats-Last-Sequence: 0\r\n\r\n"
        for headers in (
            None,
            b"NATS/1.0\r\n\r\n",
            b"NATS/1.0\r\nNats-Stream: OTHER\r\nNats-Subject: " + subject.stored.encode() + b"\r\n" + tail,
            b"NATS/1.0\r\nNats-Stream: EVENTS\r\nNats-Subject: " + other.stored.encode() + b"\r\n" + tail,
            b"NATS/1.0\r\nNats-Stream: EVENTS\r\nNats-Sequence: x\r\n\r\n",
        ):
            log.conn.publish(subject.live, b'"forged"', headers=headers)
        await log.state("true", subject=subject.publish)
        assert (await take(subscription, 1))[0].data == "true"
        assert subscription.foreign == 5


async def test_a_missing_permission_is_an_error_not_silence(start_nats) -> None:
    server = await start_nats(
        extra="""
        authorization { users: [
          {user: all, password: p}
          {user: deaf, password: p, permissions: { publish: ["coord.rpc.>"], subscribe: ["_INBOX_deaf.>"] }}
        ] }"""
    )
    every = NatsConfig(urls=(server.url,), user="all", password="p")
    deaf = NatsConfig(urls=(server.url,), user="deaf", password="p", inbox_prefix="_INBOX_deaf")
    async with await Connection.open(every, name="all") as conn, await Connection.open(deaf, name="deaf") as agent:
        await apply_streams(conn)
        subscription = follow(Log(conn, "acme"), conn=agent)
        with pytest.raises(errors.NoPermission):
            await take(subscription, 1)
        await subscription.close()


async def test_a_missing_permission_for_the_cursor_is_an_error(start_nats) -> None:
    server = await start_nats(
        extra="""
        authorization { users: [
          {user: all, password: p}
          {user: a1, password: p, permissions: {
            publish: ["coord.rpc.>"], subscribe: ["_INBOX_a1.>", "coord.live.>"] }}
        ] }"""
    )
    every = NatsConfig(urls=(server.url,), user="all", password="p")
    a1 = NatsConfig(urls=(server.url,), user="a1", password="p", inbox_prefix="_INBOX_a1")
    async with await Connection.open(every, name="all") as conn, await Connection.open(a1, name="a1") as agent:
        await apply_streams(conn)
        subscription = follow(Log(conn, "acme"), conn=agent, durable="d")
        with pytest.raises(errors.NoPermission):
            await subscription.wait_ready(60)
        await subscription.close()


async def test_many_subscriptions_share_a_connection(log: Log) -> None:
    subscriptions = [follow(log, id=f"f{n}") for n in range(300)]
    await asyncio.gather(*(s.wait_ready(60) for s in subscriptions))
    for n in range(300):
        log.conn.publish(log.subject(id=f"f{n}"), str(n).encode())
    facts = await asyncio.gather(*(take(s, 1) for s in subscriptions))
    assert [fact.data for (fact,) in facts] == list(range(300))
    await close_all(log.conn)
