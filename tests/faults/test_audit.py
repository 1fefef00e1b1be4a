"""Bits of a stopped broker's files are flipped: `coord doctor --audit` says what is damaged, always.

The broker itself goes on without a word: it skips a record whose checksum is wrong, and drops
the rest of a block whose records no longer follow each other.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.ops.audit import Damage, Report, audit
from coord.ops.devstack.nats import NatsServer
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.wire.records import Fact
from tests.support.cli import cli
from tests.support.publishing import client
from tests.support.streams import apply_topology
from tests.support.waiting import until
from tests.support.workload import Workload, verify

HEADER = 22
"""Of a record: length in 4 bytes, sequence and time in 8, the subject's length in 2; then subject, headers, body."""
HASH = 8


class Victim:
    """A stopped broker whose log was projected, and the files as they were."""

    def __init__(self, server: NatsServer, conn: Connection, pool: Pool, last: int, pristine: Path) -> None:
        self.server, self.conn, self.pool, self.last, self._pristine = server, conn, pool, last, pristine
        self.url = server.url

    @property
    def blocks(self) -> list[Path]:
        found = self.server.folder.rglob("streams/EVENTS/msgs/*.blk")
        return sorted(found, key=lambda path: int(path.stem))

    async def again(self) -> None:
        """The files as they were; the broker is stopped."""
        await self.server.stop()
        shutil.rmtree(self.server.folder)
        shutil.copytree(self._pristine, self.server.folder)

    async def audited(self) -> Report:
        """Start the broker on what there is, and audit."""
        await self.server.start()
        await self.conn.wait_connected(100)
        return await audit(self.conn, self.pool, "EVENTS")

    async def lost(self) -> set[int]:
        """Sequences that the broker does not give out any more, whatever it says of itself."""
        lost = set()
        for seq in range(1, self.last + 1):
            try:
                await self.conn.api("STREAM.MSG.GET.EVENTS", {"seq": seq})
            except errors.BusError:
                lost.add(seq)
        return lost


@pytest.fixture
async def victim(start_nats, migrated_database, projector, rng: random.Random, tmp_path) -> AsyncIterator[Victim]:
    """300 facts, in the log and in the tables; then everybody stops."""
    server = await start_nats()
    url = migrated_database.url
    config = NatsConfig(urls=(server.url,), ping_interval_s=1.0, reconnect_wait_s=0.05)
    async with (
        await Connection.open(config, name="operator", wait=True) as conn,
        Pool(DatabaseConfig(url=url, pool_min=1, pool_max=3)) as pool,
    ):
        await apply_topology(conn)
        service = await projector(url, nats_url=server.url)
        async with Workload(server.url, rng, kinds=("note", "job")) as load:
            await load.until(300)
            await load.stop()
        await verify(url, load)
        report = await audit(conn, pool, "EVENTS")
        assert (report.damage_count, report.messages) == (0, report.last_seq)
        assert report.rows >= report.messages
        assert report.segments >= 8
        await service.drain()
        await service.stop()
        await server.stop()
        shutil.copytree(server.folder, tmp_path / "pristine")
        yield Victim(server, conn, pool, report.last_seq, tmp_path / "pristine")


def records(block: bytes | bytearray) -> list[tuple[int, int]]:
    """Offset and length of each record."""
    found, at = [], 0
    while at + HEADER <= len(block):
        length = int.from_bytes(block[at : at + 4], "little") & 0x7FFFFFFF
        found.append((at, length))
        at += length
    return found


def flip(path: Path, place: str, rng: random.Random) -> str:
    """Flip one bit of a record's part; says which."""
    block = bytearray(path.read_bytes())
    chosen = rng.choice(records(block)) if place != "last" else records(block)[-1]
    at, length = chosen
    subject = int.from_bytes(block[at + 20 : at + 22], "little")
    within = {
        "length": range(4),
        # Higher bytes: the broker counts through the gap, two thousand million numbers, before it answers. Not silent.
        "sequence": range(4, 7),
        "time": range(12, 20),
        "subject": range(HEADER, HEADER + subject),
        "header": range(HEADER + subject + 4, HEADER + subject + 60),
        "body": range(length - HASH - 20, length - HASH),
        "hash": range(length - HASH, length),
        "last": range(HEADER, length),
    }[place]
    offset, bit = at + rng.choice(within), rng.randrange(8)
    block[offset] ^= 1 << bit
    path.write_bytes(block)
    return f"{place}: bit {bit} of byte {offset - at} of the record at {at} of {path.name}"


def covered(damage: Iterable[Damage]) -> set[int]:
    return {seq for d in damage for seq in range(d.first_seq, d.last_seq + 1)}


async def test_a_flipped_bit_is_never_silent(victim: Victim, rng: random.Random, rounds: int) -> None:
    places = ["length", "sequence", "time", "subject", "header", "body", "hash", "last"]
    for place in places * max(1, rounds // 3):
        await victim.again()
        what = flip(rng.choice(victim.blocks), place, rng)
        report = await victim.audited()
        lost = await victim.lost()
        said = [f"{d.kind} {d.first_seq}-{d.last_seq}" for d in report.damage]
        print(f"{what}: {len(lost)} of {victim.last} lost, audit says {said}")
        assert report.damage_count, f"silent: {what}"
        assert lost <= covered(report.damage), f"not named: {what}"


async def test_changed_rows_and_lost_blocks(victim: Victim, migrated_database) -> None:
    async with victim.pool.acquire() as db:
        await db.execute("DELETE FROM coord.event WHERE seq = 7")
        await db.execute("INSERT INTO coord.event SELECT * FROM coord.event WHERE seq = 9 AND idx = 0")
    report = await victim.audited()
    assert [(d.kind, d.first_seq) for d in report.damage] == [("rows", 7), ("rows", 9)]

    await victim.server.stop()
    for path in victim.blocks:
        path.unlink()
    report = await victim.audited()
    assert {d.kind for d in report.damage} & {"tail", "front"}
    servers = ("--nats", victim.url, "--database", migrated_database.url)
    ended = await cli("doctor", "--audit", "--stream", "events", *servers)
    assert ended.code == 3
    assert "FAIL  EVENTS" in ended.out
    assert (await cli("doctor", "--audit", "-o", "json", "--since", "5m", *servers)).json[0]["damage_count"]
    assert (await cli("doctor", "--audit", "--stream", "telemetry", *servers)).code == 0


@pytest.mark.timeout(600)
async def test_blocks_that_were_compressed(
    start_nats, migrated_database, projector, rng: random.Random, tmp_path, rounds: int
) -> None:
    """A log of several blocks, of which all but the last are compressed: a bit anywhere in them."""
    if rounds <= 2:
        pytest.skip("40 MB of log: only in `make soak`")
    server = await start_nats()
    config = NatsConfig(urls=(server.url,), ping_interval_s=1.0, reconnect_wait_s=0.05)
    async with (
        await Connection.open(config, name="operator", wait=True) as conn,
        Pool(DatabaseConfig(url=migrated_database.url, pool_min=1, pool_max=3)) as pool,
    ):
        await apply_topology(conn, EVENTS={"compression": "s2"})
        service = await projector(migrated_database.url, nats_url=server.url)
        last = 0
        async with client(server.url) as c:
            for n in range(120):
                text = "".join(rng.choices("abcdefgh \n", k=300_000))
                last = (await c.publish(Fact(kind="note", id=f"n{n}", event="said", data={"text": text}))).seq

        async def is_projected() -> bool:
            async with pool.acquire() as db:
                return bool(await db.fetchval("SELECT count(*) = $1 FROM coord.event", last))

        await until(is_projected)
        await service.drain()
        await service.stop()
        await server.stop()
        shutil.copytree(server.folder, tmp_path / "pristine")
        victim = Victim(server, conn, pool, last, tmp_path / "pristine")
        print([path.stat().st_size for path in victim.blocks])
        assert len(victim.blocks) > 2
        for _ in range(rounds):
            await victim.again()
            path = rng.choice(victim.blocks)
            block = bytearray(path.read_bytes())
            at, bit = rng.randrange(len(block)), rng.randrange(8)
            block[at] ^= 1 << bit
            path.write_bytes(block)
            report = await victim.audited()
            lost = await victim.lost()
            said = [f"{d.kind} {d.first_seq}-{d.last_seq}" for d in report.damage]
            print(f"bit {bit} of byte {at} of {path.name}: {len(lost)} of {last} lost, audit says {said}")
            assert report.damage_count
            assert lost == covered(d for d in report.damage if d.kind != "chain"), "no more and no less"
