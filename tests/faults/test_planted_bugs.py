"""Who watches the watchmen: the workload's verification finds the bugs it is there to find.

Each test plants one, in the projector as it runs here, and demands that `verify` raises.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_two_owners import add_rival_consumers, side
from tests.soak.lag import caught_up
from tests.soak.speakers import Speech, speaking
from tests.soak.stack import Checkpoints
from tests.soak.verdict import judge
from tests.support.planted import Bug, replacements
from tests.support.standing import stop
from tests.support.waiting import until
from tests.support.workload import (
    Entry,
    GuaranteeBroken,
    Kind,
    Row,
    Watcher,
    Workload,
    compare,
    connect,
    holes,
    verify,
)


def have(monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    for target, name, value in replacements(bug):
        monkeypatch.setattr(target, name, value)


async def found(url: str, load: Workload, timeout_s: float = 4) -> set[Kind]:
    """What kinds of findings `verify` has; it must have some."""
    with pytest.raises(GuaranteeBroken) as broken:
        await verify(url, load, timeout_s=timeout_s)
    print(str(broken.value)[:300])
    return broken.value.kinds


async def test_a_batch_swallowed_though_its_checkpoint_advances(
    nats, migrated_database, projector, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, "swallowed_batch")
    url = migrated_database.url
    await projector(url)
    db = await connect(url)

    async def swallowed() -> bool:
        return bool(await db.fetchval("SELECT max(seq) > 0 FROM coord.checkpoint WHERE stream = 'EVENTS'"))

    async with Workload(nats.url, rng) as load:
        watcher = Watcher(url, load.tenant)
        with pytest.raises(GuaranteeBroken, match="hole"):
            async with watcher:
                await load.until(100)
                await until(swallowed)
                await load.more(400)  # behind it, however few transactions a slow machine makes of them
                await load.stop()
                assert "lost" in await found(url, load)
                looks = watcher.looks
                await until(lambda: watcher.looks > looks + 1)  # the last of them began after all that
    await db.close()


async def test_a_checkpoint_that_moves_without_its_guard(
    nats, conn, migrated_database, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, "unguarded_checkpoint")
    await add_rival_consumers(conn)
    url = migrated_database.url
    async with (
        side("one", nats.url, url, rival=False) as one,
        side("two", nats.url, url, rival=True) as two,
        Workload(nats.url, rng) as load,
    ):
        await until(lambda: all(s.total("coord_db_rows_written_total") for s in (one, two)))
        await load.more(500)  # what both of them write
        await load.stop()
        assert "doubled" in await found(url, load, timeout_s=20)


async def test_a_position_taken_from_the_consumer_and_not_from_the_checkpoint(
    nats, migrated_database, projector, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was delivered counts as done: what a session had in hand when it ended is skipped by the next."""
    have(monkeypatch, "trusted_consumer")
    url = migrated_database.url
    await projector(url)
    db = await connect(url)
    async with Workload(nats.url, rng, per_s=2500) as load:
        for _ in range(8):  # a session that had nothing in hand, or has not begun, shows nothing
            await load.more(250)
            await db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'coord'"
                             " AND datname = current_database()")  # fmt: skip
            await load.more(100)
            if await holes(db, load.tenant):
                break
        await load.stop()
        assert "lost" in await found(url, load)
    await db.close()


@pytest.mark.parametrize("bug", [None, "lost_ack"])
async def test_an_ack_that_never_came_and_is_taken_for_one(
    nats, migrated_database, projector, seed: int, tmp_path: Path, bug: Bug | None
) -> None:
    """The SDK's publishers, in their own process, over kills of the broker; judged as in `make soak`."""
    url = migrated_database.url
    await projector(url)
    speech = Speech(
        url=nats.url, tenant="speaking", seed=seed, records=str(tmp_path / "records"), per_s=6000, agents=2, notes=24,
        tasks=24, bug=bug,
    )  # fmt: skip
    async with speaking(speech, tmp_path / "speakers.log") as speakers:
        for _ in range(2):
            assert await speakers.until(speakers.told.acked + 2000, 100)
            stop(nats.pid)  # what is said from now on is in flight when it dies
            for _ in range(2):
                await speakers.word()
            nats.kill()
            await nats.start()
        assert await speakers.until(speakers.told.acked + 500, 100)
        await speakers.finish()
        checkpoints = Checkpoints(url)
        assert await caught_up(speakers, checkpoints, 100) is not None
        checkpoints.close()
    db = await connect(url)
    rows, findings = await judge(db, [speech])
    await db.close()
    assert rows > (2000 if bug else 4500)  # what the bug takes for acknowledged is not all stored
    kinds = {f.kind for f in findings}
    assert "lost" in kinds if bug else not findings, findings


# --- the comparison itself, without servers ----------------------------------------------------

ENTRIES = [Entry("EVENTS", "a", "k", n, 0, f"e{n}", 1, 10 * n) for n in range(1, 6)]
ROWS = [Row("EVENTS", 1, e.seq, 0, e.partition, e.agent, e.key, e.event_id, e.n) for e in ENTRIES]


def changed(at: int, **fields: Any) -> list[Row]:
    import msgspec

    return [msgspec.structs.replace(r, **fields) if i == at else r for i, r in enumerate(ROWS)]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert compare(ROWS, ENTRIES) == []
    assert compare(ROWS, ENTRIES[:3], ENTRIES[3:]) == []  # unsure: may be there
    assert compare(ROWS[:3], ENTRIES[:3], ENTRIES[3:]) == []  # or not


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        (ROWS[:4], {"lost"}),
        (ROWS[1:], {"lost"}),
        ([*ROWS, ROWS[2]], {"doubled"}),
        ([*ROWS, changed(2, seq=31)[2]], {"doubled", "stray"}),
        (changed(2, epoch=2), {"lost", "stray", "disordered"}),
        (changed(2, seq=45), {"lost", "stray", "disordered"}),
        (changed(2, event_id="e9"), {"wrong"}),
        (changed(2, n=9), {"wrong", "disordered"}),
        (changed(2, key="other"), {"wrong"}),
        (changed(2, partition=99), {"wrong"}),
        ([*ROWS, Row("EVENTS", 1, 99, 0, ROWS[0].partition, "a", "k", "e99", 99)], {"stray"}),
    ],
    ids=[
        "last",
        "first",
        "twice",
        "under two sequences",
        "epoch",
        "order",
        "id",
        "number",
        "key",
        "partition",
        "stray",
    ],
)
def test_each_kind_of_damage_is_found(rows: list[Row], kinds: set[Kind]) -> None:
    assert kinds <= {f.kind for f in compare(rows, ENTRIES)}
