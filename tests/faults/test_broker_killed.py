"""SIGKILL to nats-server under load, restarted on its data: what it acknowledged is still there, and projected once."""

from __future__ import annotations

import random

from tests.conftest import soak_rounds
from tests.support.publishing import observer
from tests.support.workload import Watcher, Workload, verify


async def test_killed_at_random_moments(
    nats, migrated_database, projector, rng: random.Random, record_property
) -> None:
    url = migrated_database.url
    kills = soak_rounds(3)
    service = await projector(url)
    async with Workload(nats.url, rng, per_s=1200) as load, Watcher(url, load.tenant):
        done = 0
        while done < kills or sum(load.failures.values()) < kills:  # nothing may be in flight when it is killed
            await load.more(rng.randrange(50, 800))
            nats.kill()
            await nats.start()
            done += 1
        await load.more(100)
        await load.stop()
        rows = await verify(url, load)
        async with observer(nats.url) as seen:
            for stream, subject in (("EVENTS", "coord.log"), ("TELEMETRY", "coord.tlog")):
                stored = {m.seq for m in await seen.messages(stream, f"{subject}.*.{load.tenant}.>")}
                assert {e.seq for e in load.acked if e.stream == stream} == stored
    await service.wait_ready(100)
    record_property("kills", done)
    record_property("facts", len(rows))
    print(f"{done} kills, {len(rows)} rows, {load.acks} messages, unanswered {dict(load.failures)}")


async def test_killed_together_with_the_projector(nats, migrated_database, process, rng: random.Random) -> None:
    """Neither remembers anything: the checkpoint in the database is all there is."""
    url = migrated_database.url
    async with Workload(nats.url, rng, per_s=1000) as load, Watcher(url, load.tenant):
        for _ in range(soak_rounds(2)):
            projector = await process(url)
            await projector.ready()
            await load.more(rng.randrange(50, 500))
            projector.kill()
            nats.kill()
            await projector.ended()
            await nats.start()
        await process(url)
        await load.stop()
        rows = await verify(url, load)
    print(f"{len(rows)} rows, {load.acks} messages")
