"""A disk that refuses: what it does not take waits in memory, within its bounds, and nothing is lost or silent."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coord import errors
from coord.wire.envelope import Fact
from tests.support import forking
from tests.support.publishing import client, count, lose_broker, observer, quick
from tests.support.waiting import until

CHILD = """
import asyncio, json, resource, sys
from coord import errors
from coord.client import keeping
from coord.client.config import PublisherConfig
from coord.client.connect import connect
from coord.core.retry import RetryPolicy
from coord.wire.envelope import Fact

async def main():
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # a write beyond is cut, the next one fails: EFBIG
    keeping._DISK_AGAIN_S = 600.0  # the disk is tried again after the reconnect, not before
    retry = RetryPolicy(deadline_s=100.0)
    publisher = PublisherConfig(spool=sys.argv[2], queue_entries=50, overload_wait_s=1.0, retry=retry)
    c = await connect(sys.argv[1], tenant="disk", agent="a1", publisher=publisher)
    print("up", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    while c.connection.is_connected:
        await asyncio.sleep(0.01)
    accepted = 0
    try:
        while accepted < 500:
            while c.stats.queued and not c.stats.spool_failures:  # a slow disk is not what is waited for a second
                await asyncio.sleep(0.01)
            await c.emit(Fact(kind="note", id="t", key="k", event="noted", data={"n": accepted, "text": "x" * 1000}))
            accepted += 1
    except errors.Overloaded:
        pass
    s = c.stats
    print(json.dumps([accepted, s.spooled_messages, s.queued, s.spool_failures]), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await c.flush(90)
    print(json.dumps([c.stats.spooled_messages, c.stats.failed]), flush=True)
    await c.close()

asyncio.run(main())
"""


async def test_a_file_that_may_not_grow(start_nats, tmp_path) -> None:
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams()
        child = await forking.python("-c", CHILD, server.url, tmp_path / "spool")

        async def line() -> Any:
            return msgspec.json.decode(await child.stdout.readline())

        async with asyncio.timeout(100):
            assert await child.stdout.readline() == b"up\n"
            server.kill()
            child.stdin.write(b"\n")
            accepted, spooled, queued, failures = await line()
            assert 20 < spooled < 40, "as many as fit into the file"
            # More than the queue holds, if the publisher was told of the cut only after the first emits.
            assert queued >= 50
            assert (accepted, failures) == (spooled + queued, 1)
            await server.start()
            await until(lambda: seen.conn.is_connected)
            child.stdin.write(b"\n")
            assert await line() == [0, 0]
            assert await child.wait() == 0
        stored = await seen.messages("EVENTS", "coord.log.*.disk.>")
        assert [msgspec.json.decode(m.body)["n"] for m in stored] == list(range(accepted))


def said(n: int) -> Fact:
    return Fact(kind="note", id="t", key="k", event="noted", data={"n": n})  # critical: fsynced


async def test_a_failing_fsync_is_counted_and_nothing_is_called_safe(
    start_nats, tmp_path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def fails(_: list[int]) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("coord.client.keeping._DISK_AGAIN_S", 600.0)  # it is tried again after the reconnect
    server = await start_nats()
    async with observer(server.url) as seen:
        await seen.make_streams()
        async with client(server.url, publisher=quick(spool=str(tmp_path), deadline_s=60)) as c:
            await lose_broker(server, c)
            with monkeypatch.context() as patched:
                patched.setattr("coord.client.keeping.fsync", fails)
                first = await c.emit(said(0))
                await until(lambda: c.stats.spool_failures == 1)
            later = await c.emit(said(1))
            assert not first.spooled
            assert (c.stats.spooled_messages, c.stats.queued) == (1, 1), "nothing more is written for now"
            assert errors.SpoolUnusable.code in caplog.text
            c._publisher._tick()
            assert count(c, "coord_publish_spool_failures_total") == 1
            written = time.time()
            await until(lambda: time.time() > written + 0.05)
            c._publisher._tick()
            assert 0.05 < count(c, "coord_publish_spool_oldest_seconds") < 600
            await server.start()
            assert not (await first).duplicate
            await later
            await until(lambda: seen.conn.is_connected)
            assert [f.data["n"] for f in await seen.facts(c)] == [0, 1]
            c._publisher._tick()
            assert count(c, "coord_publish_spool_oldest_seconds") == 0


async def test_a_spool_in_use_can_be_looked_into(start_nats, tmp_path) -> None:
    server = await start_nats()
    folder = tmp_path / "spool"
    async with client(server.url, tenant="looked", publisher=quick(spool=str(folder), drain_s=0.1, deadline_s=60)) as c:
        await lose_broker(server, c)
        receipts = [await c.emit(said(n)) for n in range(3)]
        await until(lambda: all(r.spooled for r in receipts))
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        rows, said_so, code = await spool_ls(folder)
        assert code == 0
        assert [(row["number"], row["event_id"], row["maybe_sent"]) for row in rows] == [
            (n, r.event_id, False) for n, r in enumerate(receipts)
        ]
        assert "looked/a1: 3 messages" in said_so
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    (segment,) = folder.glob("*.spool")
    with segment.open("ab") as file:
        file.write(b"\x40\x00")
    rows, said_so, code = await spool_ls(folder)
    assert (len(rows), code) == (3, 3)
    assert "torn after 3 records" in said_so
    assert (await spool_ls(tmp_path / "none"))[2] == 4


async def spool_ls(folder: Path) -> tuple[list[Any], str, int | None]:
    child = await forking.python(
        "-c", "from coord.ops.cli import main; main()", "spool", "ls", folder, "-o", "json", stderr=subprocess.PIPE
    )
    out, err = await child.communicate()
    return msgspec.json.decode(out or b"[]"), err.decode(), child.returncode
