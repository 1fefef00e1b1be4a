"""SIGKILL to the projector, anywhere: what the log acknowledged is in the tables exactly once."""

from __future__ import annotations

import random

import pytest

from tests.conftest import soak_rounds
from tests.support.crash import POINTS, Crash, Point
from tests.support.workload import Watcher, Workload, verify


async def test_killed_at_random_moments(nats, migrated_database, process, rng: random.Random, record_property) -> None:
    url = migrated_database.url
    kills = soak_rounds(4)
    async with Workload(nats.url, rng, per_s=300) as load, Watcher(url, load.tenant):
        for _ in range(kills):
            projector = await process(url)
            await projector.ready()
            await load.more(rng.randrange(20, 900))
            projector.kill()
            assert await projector.ended() == -9
        await process(url)
        await load.stop()
        rows = await verify(url, load)
    record_property("kills", kills)
    record_property("facts", len(rows))
    print(f"{kills} kills, {len(rows)} rows, {load.acks} messages")


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_chosen_point(nats, migrated_database, process, rng: random.Random, point: Point) -> None:
    url = migrated_database.url
    async with Workload(nats.url, rng, per_s=300) as load, Watcher(url, load.tenant):
        for _ in range(soak_rounds(2)):
            crash = Crash(point, rng.randint(3, 60))
            projector = await process(url, crash=crash)
            assert await projector.ended() == -9
            assert projector.crashed_at == point, f"{crash} was never reached"
        await process(url)
        await load.more(100)
        await load.stop()
        rows = await verify(url, load)
    print(f"{len(rows)} rows, {load.acks} messages")
