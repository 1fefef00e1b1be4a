"""Once, though the broker would not recognise a repeat any more: its duplicate window is 100 ms here."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from coord import errors
from coord.client.config import PublisherConfig
from coord.client.spool import Spool
from coord.core.spool import Record
from coord.wire.envelope import Fact, Sample
from tests.support.log import query_service
from tests.support.proxy import Proxy
from tests.support.publishing import client, count, lose_broker, observer, quick
from tests.support.waiting import until

WINDOW = 100_000_000
"""Nanoseconds, as JetStream has it."""


def said(n: int, entity: str) -> Fact:
    return Fact(kind="note", id=entity, key="k", event="noted", data={"n": n})


def patient(folder: Path, **fields: Any) -> PublisherConfig:
    """What is in flight is not sent again while its connection stands: behind the window that would be a repeat."""
    return quick(attempt_s=20.0, deadline_s=60.0, spool=str(folder), **fields)


@pytest.fixture(autouse=True)
def _short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coord.limits.SPOOL_ASK_AFTER_S", 0.02)


async def in_flight_and_cut(c: Any, proxy: Proxy, seen: Any, facts: list[Fact]) -> list[Any]:
    """State facts whose acks are lost with the connection, and let the duplicate window pass."""
    before = len(await seen.facts(c))
    proxy.stall("down")
    receipts = [await c.emit(fact) for fact in facts]

    async def all_stored() -> bool:
        return len(await seen.facts(c)) == before + len(facts)

    await until(all_stored)
    stored = time.monotonic()
    proxy.refuse()
    proxy.cut()
    await until(lambda: all(r.spooled for r in receipts))
    await until(lambda: time.monotonic() > stored + 0.25)
    return receipts


@pytest.mark.parametrize("entities", [20, 1])
async def test_what_was_in_flight_at_the_cut_is_stored_once(start_nats, tmp_path, entities: int) -> None:
    server = await start_nats()
    async with observer(server.url) as seen, Proxy("127.0.0.1", server.port) as proxy:
        await seen.make_streams(duplicate_window=WINDOW)
        async with query_service(server.url), client(proxy.url, publisher=patient(tmp_path)) as c:
            await c.publish(said(-1, "e0"))
            sent = await in_flight_and_cut(c, proxy, seen, [said(n, f"e{n % entities}") for n in range(20)])
            kept = [await c.emit(said(n, f"e{n % entities}")) for n in range(20, 30)]
            proxy.resume()
            acks = [await r for r in [*sent, *kept]]
            assert [a.duplicate for a in acks] == [True] * 20 + [False] * 10
            assert [f.data["n"] for f in await seen.facts(c)] == list(range(-1, 30))
            assert c.stats.spool_repeats == 0


async def test_without_a_query_service_one_of_a_subject_is_known_and_several_are_counted(
    start_nats, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("coord.client.inquiry._PATIENCE_S", 0.05)
    server = await start_nats()
    async with observer(server.url) as seen, Proxy("127.0.0.1", server.port) as proxy:
        await seen.make_streams(duplicate_window=WINDOW)
        async with client(proxy.url, publisher=patient(tmp_path)) as c:
            facts = [said(1, "alone"), said(2, "twice"), said(3, "twice")]
            receipts = await in_flight_and_cut(c, proxy, seen, facts)
            proxy.resume()
            for receipt in receipts:
                await receipt
            # The newest of "twice" is known; whether the other one is stored nobody says.
            assert [f.data["n"] for f in await seen.facts(c)] == [1, 2, 3, 2]
            assert c.stats.spool_repeats == 1
            c._publisher._tick()
            assert count(c, "coord_publish_spool_repeats_total") == 1


async def test_what_was_in_flight_and_never_arrived_is_sent(start_nats, tmp_path) -> None:
    server = await start_nats()
    async with observer(server.url) as seen, Proxy("127.0.0.1", server.port) as proxy:
        await seen.make_streams(duplicate_window=WINDOW)
        async with query_service(server.url), client(proxy.url, publisher=patient(tmp_path)) as c:
            await c.publish(said(0, "e"))
            proxy.stall("up")
            receipts = [await c.emit(said(n, "e")) for n in range(1, 10)]
            samples = await c.emit(Sample(series="cpu", value=1.0))
            await c._publisher._breathe()
            proxy.refuse()
            proxy.cut()
            await until(lambda: all(r.spooled for r in [*receipts, samples]))
            cut = time.monotonic()
            await until(lambda: time.monotonic() > cut + 0.1)
            proxy.resume()
            for receipt in [*receipts, samples]:
                await receipt
            assert [f.data["n"] for f in await seen.facts(c)] == list(range(10))
            assert len(await seen.samples(c)) == 1


async def test_closing_keeps_what_is_in_flight_and_the_next_process_looks_it_up(start_nats, tmp_path) -> None:
    server = await start_nats()
    config = patient(tmp_path, drain_s=0.1)
    async with observer(server.url) as seen, Proxy("127.0.0.1", server.port) as proxy:
        await seen.make_streams(duplicate_window=WINDOW)
        async with client(proxy.url, tenant="closed", publisher=config) as c:
            proxy.stall("down")
            receipts = [await c.emit(said(n, f"e{n}")) for n in range(10)]

            async def all_stored() -> bool:
                return len(await seen.facts(c)) == 10

            await until(all_stored)
        for receipt in receipts:
            with pytest.raises(errors.StillSpooled):
                await receipt
        closed = time.monotonic()
        await until(lambda: time.monotonic() > closed + 0.25)
        async with client(server.url, tenant="closed", publisher=config) as c:
            assert c.stats.spooled_messages == 10
            await c.publish(said(10, "e"))
            assert [f.data["n"] for f in await seen.facts(c)] == list(range(11))


async def test_acks_that_a_killed_process_forgot_are_looked_up(start_nats, tmp_path) -> None:
    server = await start_nats()
    folder, copy = tmp_path / "spool", tmp_path / "copy"
    config = patient(folder, drain_s=0.1)
    async with observer(server.url) as seen:
        await seen.make_streams(duplicate_window=WINDOW)
        async with client(server.url, tenant="forgetful", publisher=config) as c:
            await lose_broker(server, c)
            receipts = [await c.emit(said(n, f"e{n}")) for n in range(50)]
            await until(lambda: all(r.spooled for r in receipts))
            shutil.copytree(folder, copy)
            await server.start()
            for receipt in receipts:
                await receipt
        # As if it had been killed between the first ack and the next note of what is done.
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        (folder / "done").write_text("0 256")
        await until(lambda: seen.conn.is_connected)
        acked = time.monotonic()
        await until(lambda: time.monotonic() > acked + 0.25)
        async with client(server.url, tenant="forgetful", publisher=config) as c:
            assert c.stats.spooled_messages == 50
            await c.publish(said(50, "e"))
            assert [f.data["n"] for f in await seen.facts(c)] == list(range(51))
            await until(lambda: c.stats.spooled_messages == 0)


async def test_a_full_stream_is_waited_for(start_nats, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("coord.client.inquiry._PATIENCE_S", 0.05)
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams(max_msgs=10)
        config = patient(tmp_path, refused_wait_s=0.1)
        async with client(server.url, publisher=config) as c:
            await lose_broker(server, c)
            receipts = [await c.emit(said(n, "e")) for n in range(30)]
            await until(lambda: all(r.spooled for r in receipts))
            await server.start()
            await until(lambda: receipts[9].done)
            late = await c.emit(said(30, "e"))
            await until(lambda: late.spooled)
            with pytest.raises(errors.DeadlineExceeded):
                await c.flush(1.0)  # far longer than a fact in memory would be tried
            assert (c.stats.spooled_messages, c.stats.failed) == (21, 0)
            await until(lambda: seen.conn.is_connected)
            await seen.make_streams(max_msgs=1000)
            for receipt in [*receipts, late]:
                await receipt
            assert [f.data["n"] for f in await seen.facts(c)] == list(range(31))
            assert not (tmp_path / "refused").exists()


def test_what_may_have_been_sent_is_known_to_the_next_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "t/a", 1 << 30)
    for n in range(600):
        spool.append(Record(0, 0, "k", 1, f"e{n}", "s", b"", b"x"))
    for _ in range(3):
        spool.read()
        spool.advance()
    note = (tmp_path / "done").read_text()  # what a kill would leave
    spool.close()
    assert note == "0 256"
    again = Spool(tmp_path, "t/a", 1 << 30)
    assert again.doubt_below == 256
    for n in range(300):
        again.done(n)
    assert (again.read()[0], again.records) == (300, 300)
    again.rewind(299)
    assert again.read()[0] in (299, 300)
    again.close()


async def test_what_was_in_flight_and_does_not_fit_comes_behind_what_does(start_nats, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("coord.limits.SPOOL_RECORDS_MAX", 20)
    monkeypatch.setattr("coord.limits.SPOOL_ASK_AFTER_S", 60.0)
    server = await start_nats()
    async with observer(server.url) as seen, Proxy("127.0.0.1", server.port) as proxy:
        await seen.make_streams()
        async with client(proxy.url, publisher=patient(tmp_path)) as c:
            await c.publish(said(0, "e"))
            proxy.stall("up")
            receipts = [await c.emit(said(n, "e")) for n in range(1, 51)]
            proxy.refuse()
            proxy.cut()
            await until(lambda: c.stats.spooled_messages == 20)
            assert (c.stats.queued, c.stats.inflight_messages) == (30, 0)
            proxy.resume()
            for receipt in receipts:
                await receipt
            assert [f.data["n"] for f in await seen.facts(c)] == list(range(51))
