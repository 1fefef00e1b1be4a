"""Two projectors that both believe they own every partition: one of each pair of commits counts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.pull import PinnedReader
from coord.projector.config import ProjectorConfig
from coord.projector.dead_letters import DeadLetterQueue
from coord.projector.partition import PartitionProjector
from coord.projector.writer import Writer
from coord.runtime import assets
from coord.store.config import DatabaseConfig
from coord.store.pool import PROJECTOR_SETTINGS, Pool
from coord.telemetry.metrics import Metrics
from tests.conftest import soak_rounds
from tests.support.waiting import until
from tests.support.workload import Watcher, Workload, verify

SLOTS = [(stream, p) for stream in ("EVENTS", "TELEMETRY") for p in range(limits.PARTITIONS)]


class Side:
    """Every partition of both streams, owned whatever anybody else says."""

    def __init__(self, partitions: list[PartitionProjector], metrics: Metrics) -> None:
        self.partitions = partitions
        self.metrics = metrics

    def total(self, name: str, **labels: str) -> float:
        """A counter, summed over the labels that are not given."""
        return sum(
            s.value
            for family in self.metrics.registry.collect()
            for s in family.samples
            if s.name == name and labels.items() <= s.labels.items()
        )


@contextlib.asynccontextmanager
async def side(name: str, nats_url: str, database_url: str, *, rival: bool) -> AsyncIterator[Side]:
    """One of the two; `rival`: on consumers of its own, so that no pin keeps them apart."""
    metrics = Metrics(CollectorRegistry())
    config = ProjectorConfig(idle_checkpoint_s=0.5, retry_max_s=0.3, batch_rows_max=200)
    async with contextlib.AsyncExitStack() as stack:
        conn = await stack.enter_async_context(
            await Connection.open(NatsConfig(urls=(nats_url,)), name=name, registry=metrics)
        )
        pool = await stack.enter_async_context(
            Pool(DatabaseConfig(url=database_url, pool_min=1, pool_max=6), settings=PROJECTOR_SETTINGS, metrics=metrics)
        )
        writer = Writer(pool, DeadLetterQueue(conn, metrics), metrics, writers=config.writers)
        lanes = [asyncio.create_task(writer.run()) for _ in range(config.writers)]
        partitions = [PartitionProjector(s, p, conn, pool, writer, config, metrics) for s, p in SLOTS]
        for partition in partitions:
            if rival:
                partition._reader = PinnedReader(conn, partition.stream, f"rival-{partition.partition}")
            partition.assign(mine=True)
        tasks = [asyncio.create_task(p.run()) for p in partitions]
        try:
            yield Side(partitions, metrics)
        finally:
            for partition in partitions:
                partition.close()
            await asyncio.wait_for(asyncio.gather(*tasks), 100)
            for lane in lanes:
                lane.cancel()
            await asyncio.wait(lanes)


async def add_rival_consumers(conn: Connection) -> None:
    """A second set of the projector's consumers under other names."""
    for spec in topology.load(assets.streams_dir(), "development").specs:
        if spec.consumer is not None and spec.consumer.startswith("projector-"):
            name = spec.consumer.replace("projector", "rival")
            config = spec.config | {"name": name, "durable_name": name}
            request = f"CONSUMER.CREATE.{spec.stream}.{name}.{config['filter_subject']}"
            await conn.api(request, {"stream_name": spec.stream, "config": config})


async def test_on_consumers_of_their_own(nats, conn, migrated_database, rng: random.Random, record_property) -> None:
    """Both receive every fact and both try to commit it."""
    await add_rival_consumers(conn)
    url = migrated_database.url
    async with (
        side("one", nats.url, url, rival=False) as one,
        side("two", nats.url, url, rival=True) as two,
        Workload(nats.url, rng, per_s=1000) as load,
        Watcher(url, load.tenant),
    ):

        def counted() -> list[float]:
            return [s.total("coord_db_rows_written_total") for s in (one, two)]

        def lost_races() -> list[float]:
            return [s.total("coord_projection_rollbacks_total", reason=errors.CheckpointMoved.code) for s in (one, two)]

        goal = soak_rounds(2) * 1200
        while load.acks < goal or not all(counted() + lost_races()):
            # Whoever is ahead stays ahead, unless it stumbles now and then.
            for partition in rng.choice((one, two)).partitions:
                partition._reader._break(errors.DeliveryGap("stumbled"))
            await load.more(rng.randrange(100, 400))
        await load.stop()
        rows = await verify(url, load)
        written, lost = counted(), lost_races()
    print(f"{len(rows)} rows, written by {written}, rolled back {lost}")
    assert sum(written) <= len(rows)  # who stumbles does not count what it had just committed
    record_property("races_lost", sum(lost))


async def test_a_storm_of_unpins(nats, conn, migrated_database, rng: random.Random) -> None:
    """One set of consumers, both pull, and the pin is taken from whoever has it all the time."""
    url = migrated_database.url
    async with (
        side("one", nats.url, url, rival=False) as one,
        side("two", nats.url, url, rival=False) as two,
        Workload(nats.url, rng, per_s=800) as load,
        Watcher(url, load.tenant),
    ):

        def takeovers() -> list[float]:
            return [s.total("coord_projection_takeovers_total") for s in (one, two)]

        goal = soak_rounds(2) * 800
        unpins = 0
        # Every pin is taken once to begin with; how often they change hands meanwhile is a matter of speed.
        while load.acks < goal or not all(takeovers()) or sum(takeovers()) <= len(SLOTS):
            stream, p = rng.choice(SLOTS)
            with contextlib.suppress(errors.BusError):
                await conn.api(f"CONSUMER.UNPIN.{stream}.projector-{p}", {"group": "w"})
                unpins += 1
            await load.more(2)
        await load.stop()
        rows = await verify(url, load)
        print(f"{len(rows)} rows, {unpins} unpins, takeovers {takeovers()}")


@pytest.mark.parametrize("stream", ["EVENTS", "TELEMETRY"])
async def test_the_loser_recovers_though_nothing_more_comes(
    nats, conn, migrated_database, rng: random.Random, stream: str
) -> None:
    """Its checkpoint moved under it; when the winner is gone it must go on by itself."""
    await add_rival_consumers(conn)
    url = migrated_database.url
    async with side("one", nats.url, url, rival=False) as one:
        async with side("two", nats.url, url, rival=True), Workload(nats.url, rng, per_s=1000) as load:
            await load.until(300)
            await load.stop()
            await verify(url, load)
        async with Workload(nats.url, rng, per_s=1000, tenant=load.tenant + "x") as again:
            await again.until(200)
            await again.stop()
            await verify(url, again)
        await until(lambda: not [p for p in one.partitions if p.stream == stream and p.state == "stopped"])
