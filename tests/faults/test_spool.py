"""The disk spool on a real server that goes away: nothing lost, nothing doubled, order per key kept."""

from __future__ import annotations

import asyncio
import functools
import signal
from pathlib import Path

import pytest

from coord import errors
from coord.client.connect import connect
from coord.client.spool import Spool
from coord.core import spool as spool_format
from coord.core.spool import Record
from coord.wire.envelope import Fact
from tests.support import forking
from tests.support.publishing import client, lose_broker, observer, quick
from tests.support.waiting import until


def said(n: int, key: str) -> Fact:
    return Fact(kind="note", id=f"{key}-t", key=key, event="noted", data={"n": n})


@pytest.mark.parametrize("order", ["pipelined", "always"])
async def test_an_outage_longer_than_the_deadline_loses_nothing(start_nats, tmp_path, order) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams()
        config = quick(deadline_s=3.0, spool=str(tmp_path / "spool"), order=order)
        async with client(server.url, publisher=config) as c:
            await c.publish(said(-1, "k0"))
            await lose_broker(server, c)
            receipts = [await c.emit(said(n, f"k{n % 3}")) for n in range(300)]
            await until(lambda: all(r.spooled for r in receipts))
            with pytest.raises(errors.DeadlineExceeded):  # longer than a fact would be tried in memory
                await c.flush()
            assert c.stats.spooled_messages == 300
            await server.start()
            await until(lambda: c.connection.is_connected)
            late = [await c.emit(said(n, f"k{n % 3}")) for n in range(300, 330)]
            acks = [await r for r in [*receipts, *late]]
            assert not any(a.duplicate for a in acks)
            await until(lambda: seen.conn.is_connected)
            stored = await seen.facts(c)
            assert len(stored) == 331
            for key in ("k0", "k1", "k2"):
                numbers = [f.data["n"] for f in stored if f.key == key]
                assert numbers == sorted(numbers)
            await until(lambda: c.stats.spooled_messages == 0)
            await until(lambda: not list((tmp_path / "spool").glob("*.spool")))  # what is done is removed


CHILD = """
import asyncio, sys
from coord.client.config import PublisherConfig
from coord.client.connect import connect
from coord.wire.envelope import Fact

async def main():
    c = await connect(sys.argv[1], tenant="spooling", agent="a1", publisher=PublisherConfig(spool=sys.argv[2]))
    print("up", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    while c.connection.is_connected:
        await asyncio.sleep(0.01)
    for n in range(100):
        receipt = await c.emit(Fact(kind="note", id="t", key="k", event="noted", data={"n": n}))
    while not receipt.spooled:
        await asyncio.sleep(0.01)
    print("spooled", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_process_leaves_its_facts_to_the_next(start_nats, tmp_path) -> None:
    server = await start_nats()
    folder = tmp_path / "spool"
    async with observer(server.url) as seen:
        await seen.make_streams()
        child = await forking.python("-c", CHILD, server.url, folder)
        async with asyncio.timeout(100):
            assert await child.stdout.readline() == b"up\n"
            server.kill()
            child.stdin.write(b"\n")
            assert await child.stdout.readline() == b"spooled\n"
            with pytest.raises(errors.SpoolUnusable, match="another process"):
                Spool(folder, "spooling/a1", 1 << 30)
            child.send_signal(signal.SIGKILL)
            await child.wait()
        (segment,) = folder.glob("*.spool")
        with segment.open("ab") as file:
            file.write(b"\x40\x00\x00\x00torn")  # what a crash in the middle of a write leaves
        await server.start()
        async with connect(
            server.url, tenant="spooling", agent="a1", publisher=quick(spool=str(folder), deadline_s=60), wait=True
        ) as c:
            ack = await c.publish(said(100, "k"))
            assert not ack.duplicate
            await until(lambda: seen.conn.is_connected)
            stored = await seen.facts(c)
            assert [f.data["n"] for f in stored] == list(range(101)), "what was left comes first, once, in order"
            assert len(list(folder.glob("*.damaged"))) == 1


async def test_a_full_spool_waits_then_refuses_and_what_is_kept_is_sent_later(
    start_nats, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("coord.limits.SPOOL_RECORDS_MAX", 20)
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams()
        config = quick(deadline_s=60, spool=str(tmp_path), queue_entries=10, overload_wait_s=1.0)
        async with client(server.url, publisher=config) as c:
            await lose_broker(server, c)
            accepted = 0

            def kept(count: int) -> bool:
                return c.stats.spooled_messages == count

            with pytest.raises(errors.Overloaded):
                while accepted < 100:
                    await c.emit(said(accepted, "k"))
                    accepted += 1
                    # A second's patience is for a spool that takes no more, not for a slow disk.
                    await until(functools.partial(kept, min(accepted, 20)))
            assert (accepted, c.stats.spooled_messages, c.stats.queued) == (30, 20, 10)
            await server.start()
            await c.flush()
            await until(lambda: seen.conn.is_connected)
            assert [f.data["n"] for f in await seen.facts(c)] == list(range(30))


async def test_closing_without_a_broker_says_what_stays(start_nats, tmp_path) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams()
        config = quick(spool=str(tmp_path), drain_s=0.2, deadline_s=60)
        async with client(server.url, tenant="closing", publisher=config) as c:
            await lose_broker(server, c)
            receipt = await c.emit(said(1, "k"))
            await until(lambda: receipt.spooled)
        with pytest.raises(errors.StillSpooled):
            await receipt
        await server.start()
        async with client(server.url, tenant="closing", publisher=config) as c:
            await c.publish(said(2, "k"))
            await until(lambda: seen.conn.is_connected)
            assert [f.data["n"] for f in await seen.facts(c)] == [1, 2]


def record(n: int) -> Record:
    return Record(0, 0, "k", 1, f"e{n}", "s", b"", b"x" * 1000)


def test_a_full_disk_is_an_answer_and_what_was_written_stays(tmp_path: Path, monkeypatch) -> None:
    spool = Spool(tmp_path, "t/a", 1 << 30)
    assert [spool.append(record(n)) for n in range(3)] == [0, 1, 2]

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("coord.client.spool.os.pwrite", full)
        assert spool.append(record(3)) is None
    assert spool.failed is not None
    assert not spool.fits(1)
    spool.close()
    again = Spool(tmp_path, "t/a", 1 << 30)
    assert again.records == 3
    assert [again.append(record(3)), again.read()] == [3, (0, record(0))]
    again.close()
    with pytest.raises(errors.SpoolUnusable, match="another agent"):
        Spool(tmp_path, "t/b", 1 << 30)


def test_damage_in_the_middle_is_put_aside_and_the_rest_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("coord.limits.SPOOL_SEGMENT_BYTES", 5_000)
    spool = Spool(tmp_path, "t/a", 1 << 30)
    for n in range(12):
        spool.append(record(n))
    spool.close()
    first = min(tmp_path.glob("*.spool"))
    data = bytearray(first.read_bytes())
    data[1_500] ^= 1  # in the second record
    first.write_bytes(data)
    again = Spool(tmp_path, "t/a", 1 << 30)
    assert again.problems == 1
    assert list(tmp_path.glob("*.damaged"))
    numbers = []
    while again.unread:
        numbers.append(again.read()[0])
        again.advance()
    assert numbers == [0, *range(4, 12)]
    for number in numbers:
        again.done(number)
    assert again.records == 0
    assert not list(tmp_path.glob("*.spool"))
    again.close()


def test_what_is_refused_for_good_is_kept_beside(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "t/a", 1 << 30)
    for n in range(3):
        spool.append(record(n))
    for n in (0, 2):
        spool.refused(n)
    assert spool.records == 1
    spool.done(1)
    spool.close()
    kept = spool_format.scan((tmp_path / "refused").read_bytes())
    assert (len(kept.sizes), kept.problem) == (2, None)


async def test_a_broker_killed_again_and_again_during_the_replay(start_nats, tmp_path) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams()
        async with client(server.url, publisher=quick(spool=str(tmp_path), deadline_s=60)) as c:
            await lose_broker(server, c)
            receipts = [await c.emit(said(n, f"k{n % 5}")) for n in range(3000)]
            for left in (2000, 1000):
                await server.start()

                def fewer(left: int = left) -> bool:
                    return c.stats.spooled_messages < left

                await until(fewer, every_s=0.0005)
                await lose_broker(server, c)
            await server.start()
            for receipt in receipts:
                await receipt
            await until(lambda: seen.conn.is_connected)
            stored = await seen.facts(c)
            assert len(stored) == 3000
            for key in range(5):
                assert [f.data["n"] for f in stored if f.key == f"k{key}"] == list(range(key, 3000, 5))
