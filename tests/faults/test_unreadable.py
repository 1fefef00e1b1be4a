"""A block of the broker's files that cannot be decompressed, as logs of before have: readers say so, and get past it.

The broker says *no message* there, as at the log's end; see `coord.bus.damage`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from coord import errors, limits
from coord.bus import damage
from coord.bus.connection import Connection, NatsConfig
from coord.client.subscriber import subscribe
from coord.core.subscription import Position
from coord.ops import projection
from coord.query.reader import LogReader
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.wire import subjects
from tests.support.log import Log, query_service
from tests.support.streams import apply_topology
from tests.support.waiting import until

FACTS = 200
RARE = 60
KEYS = 5


class Damaged:
    """A log of 200 facts in six blocks, of which the second cannot be read: sequences `lost`."""

    def __init__(self, conn: Connection, url: str, lost: list[int]) -> None:
        self.conn, self.url, self.lost = conn, url, lost


@pytest.fixture
async def damaged(start_nats, rng: random.Random) -> AsyncIterator[Damaged]:
    server = await start_nats()
    config = NatsConfig(urls=(server.url,), ping_interval_s=1.0, reconnect_wait_s=0.05)
    async with await Connection.open(config, name="test", wait=True) as conn:
        # Below 32 MiB the broker makes blocks of 4 MB, not 8: half as much to write and to project.
        await apply_topology(conn, EVENTS={"max_bytes": 30 * limits.MIB, "compression": "s2"})
        log = Log(conn, "t")
        texts = ["".join(rng.choices("abcdefgh \n", k=100_000)) for _ in range(7)]
        for n in range(1, FACTS + 1):
            rare = n == RARE
            await log.state(
                [n, texts[n % 7]], id="rare" if rare else f"k{n % KEYS}", event="failed" if rare else "said"
            )
        await server.stop()
        blocks = sorted(server.folder.rglob("streams/EVENTS/msgs/*.blk"), key=lambda path: int(path.stem))
        assert len(blocks) > 4
        block = bytearray(blocks[1].read_bytes())
        block[rng.randrange(len(block) // 4, len(block))] ^= 1 << rng.randrange(8)
        blocks[1].write_bytes(block)
        await server.start()
        await conn.wait_connected(100)
        lost = []
        for seq in range(1, FACTS + 1):
            try:
                await conn.api("STREAM.MSG.GET.EVENTS", {"seq": seq})
            except errors.ApiNotFound:
                lost.append(seq)
        print("lost", lost[0], "to", lost[-1])
        assert lost == list(range(lost[0], lost[-1] + 1))
        assert lost[0] < RARE < lost[-1] < FACTS / 2
        yield Damaged(conn, server.url, lost)


async def test_what_cannot_be_read_is_told_from_what_is_not_there(damaged: Damaged) -> None:
    lost = damaged.lost

    async def ask(from_seq: int, **where: str) -> int | None:
        (wanted,) = subjects.log_filters("t", **where)
        return await damage.readable_again(damaged.conn, "EVENTS", wanted, from_seq, FACTS)

    assert await ask(lost[0]) == lost[-1] + 1
    assert await ask(lost[3]) == lost[-1] + 1
    assert await ask(lost[0] - 1, id="k1", kind="file") == lost[-1] + 1
    assert await ask(RARE - 5, id="rare") == FACTS + 1  # nothing behind it can be read either
    assert await ask(RARE - 5, id="nobody") is None
    assert await ask(FACTS - 3, id="rare", kind="other") is None
    for key in range(KEYS):
        assert await ask(FACTS + 1, id=f"k{key}") is None


async def test_a_reader_names_the_gap_and_reads_what_is_behind_it(damaged: Damaged) -> None:
    reader = LogReader(damaged.conn)
    # One damaged log for all of them: making it takes as long as reading it four times.
    for where in ({}, {"id": "k1"}, {"event": "said", "id": "k2"}, {"event": "failed"}):
        print("reading", where)
        await _names_the_gap(reader, damaged, where)
    await reader.close()


async def _names_the_gap(reader: LogReader, damaged: Damaged, where: dict[str, str]) -> None:
    wanted = [
        n for n in range(1, FACTS + 1)
        if (n == RARE) == (where.get("event") == "failed" or (not where and n == RARE))
        and ("id" not in where or f"k{n % KEYS}" == where["id"])
    ]  # fmt: skip
    found: list[int] = []
    gaps: list[tuple[int, int]] = []
    at = Position(1)
    while at.seq <= FACTS:
        try:
            page = await reader.read(subjects.log_filters("t", **where), at)
        except errors.DeadlineExceeded:  # of a busy machine's server: whoever reads asks again
            continue
        except errors.LogUnreadable as exc:
            gaps.append((exc.details["wanted"], exc.details["first_seq"]))
            at = Position(exc.details["first_seq"])
            continue
        found += [fact.seq for fact in page.facts]
        assert page.next > at
        at = page.next
    assert found == [n for n in wanted if n not in damaged.lost]
    ((wanted_seq, first_seq),) = gaps
    missed = [n for n in wanted if n in damaged.lost]
    assert missed
    assert wanted_seq <= missed[0] <= missed[-1] < first_seq


async def test_a_subscriber_is_told_and_goes_on(damaged: Damaged) -> None:
    config = NatsConfig(urls=(damaged.url,))
    async with query_service(damaged.url), await Connection.open(config, name="agent") as conn:
        found: list[int] = []
        gaps: list[int] = []
        facts = subscribe(conn, tenant="t", as_agent="a1", kind="file", start="first")
        async with asyncio.timeout(100), facts:
            while not found or found[-1] < FACTS + 1:
                try:
                    found.append((await anext(facts)).seq)
                except errors.LogUnreadable as exc:
                    gaps.append(exc.details["wanted"])
                    facts.seek(exc.details["first_seq"])
                if found and found[-1] == FACTS:
                    await Log(damaged.conn, "t").state("new", id="k1")
        assert gaps == [damaged.lost[0]]
        assert found == [n for n in range(1, FACTS + 2) if n not in damaged.lost]


async def test_a_projector_stops_in_front_of_it_until_somebody_decides(
    damaged: Damaged, migrated_database, projector
) -> None:
    url = migrated_database.url
    await projector(url, nats_url=damaged.url, idle_checkpoint_s=0.5)
    hit = {subjects.partition(f"k{n}") for n in range(KEYS)} | {subjects.partition("rare")}
    async with Pool(DatabaseConfig(url=url, pool_min=1, pool_max=3)) as pool:

        async def stopped() -> bool:
            try:
                rows = await projection.status(damaged.conn, pool, ["EVENTS"])
            except errors.DeadlineExceeded:
                return False  # a busy machine
            assert all(isinstance(r.problem, errors.LogGap | None) for r in rows)
            well = [r for r in rows if r.problem is None]
            return len(rows) == 16 and len(well) == 16 - len(hit) and all(r.checkpoint.seq == FACTS for r in well)

        async def projected(wanted: list[int]) -> bool:
            async with pool.acquire() as db:
                return [r["seq"] for r in await db.fetch("SELECT seq FROM coord.event ORDER BY seq")] == wanted

        await until(stopped)
        assert await projected(list(range(1, damaged.lost[0])))  # nothing was passed over
        plan = await projection.plan_new_epoch(damaged.conn, pool, "EVENTS", None)
        assert set(plan.starts) == hit
        await projection.new_epoch(pool, plan)
        readable = [n for n in range(1, FACTS + 1) if n not in damaged.lost]
        await until(lambda: projected(readable))


def test_only_what_is_new_needs_no_question() -> None:
    watched = damage.Watched()
    assert not watched.covers(1)
    watched.saw(100, 5.0)
    assert (watched.covers(100), watched.covers(101)) == (False, True)
    watched.saw(200, 5.0 + damage.FRESH_S - 1)
    watched.saw(300, 5.0 + damage.FRESH_S)
    assert (watched.covers(100), watched.covers(101)) == (False, True)
    watched.saw(400, 5.0 + 2 * damage.FRESH_S)
    assert (watched.covers(300), watched.covers(301)) == (False, True)
