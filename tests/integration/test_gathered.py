"""A projector that is alone reads with one consumer, and nobody notices when it stops doing so."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
import msgspec
import pytest

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.shared import SharedConsumer, SharedReader
from coord.projector.service import ProjectorService
from coord.wire import subjects
from tests.support.projecting import projector_service
from tests.support.waiting import until

pytestmark = pytest.mark.slow

KEYS = {subjects.partition(key): key for key in map(str, range(200))}
"""A key of each partition."""


@pytest.fixture
def new_service(nats, migrated_database, monkeypatch) -> Callable[..., ProjectorService]:
    monkeypatch.setattr(limits, "REPLICA_BEAT_S", 0.1)

    def make(idle_checkpoint_s: float = 0.5) -> ProjectorService:
        return projector_service(
            nats.url,
            migrated_database.url,
            streams=("EVENTS",),
            idle_checkpoint_s=idle_checkpoint_s,
            retry_max_s=0.2,
        )

    return make


def shared(service: ProjectorService) -> SharedReader:
    (found,) = service._shared
    return found


def gathered(service: ProjectorService) -> int:
    value = service.metrics.registry.get_sample_value("coord_partitions_gathered", {"consumer": "EVENTS/projector"})
    return int(value or 0)


def impatient(service: ProjectorService) -> ProjectorService:
    """After trouble it does not wait for seconds before it tries again."""
    gathering = shared(service)._gathering
    gathering.policy = msgspec.structs.replace(gathering.policy, pause_s=0.2, pause_max_s=0.4)
    return service


class Facts:
    """What was said, one fact of each partition at a time."""

    def __init__(self, conn: Connection, db: asyncpg.Connection) -> None:
        self._conn = conn
        self._db = db
        self.said = 0

    async def say(self, times: int = 1) -> None:
        for _ in range(times):
            for key in KEYS.values():
                self._conn.publish(f"coord.ev.acme.a1.{key}.note.n.said", b"{}")
                self.said += 1
        await self._conn.flush()

    async def are_rows(self) -> None:
        """Each exactly once: there is no unique index that would hide a second one."""

        async def found() -> bool:
            count = await self._db.fetchval("SELECT count(*) FROM coord.event")
            assert await self._db.fetchval("SELECT count(DISTINCT (epoch, seq, idx)) FROM coord.event") >= count
            return bool(count >= self.said)

        await until(found)
        assert await self._db.fetchval("SELECT count(*) FROM coord.event") == self.said


async def together(service: ProjectorService, facts: Facts) -> None:
    async def all_of_them() -> bool:
        if gathered(service) < limits.PARTITIONS:
            await facts.say()  # a pin comes with a message
        return gathered(service) == limits.PARTITIONS

    await until(all_of_them, every_s=0.05)


@pytest.fixture
def facts(conn, db) -> Facts:
    return Facts(conn, db)


async def test_a_second_process_takes_its_half_and_gives_it_back(facts, new_service) -> None:
    await facts.say(5)
    async with new_service() as first:
        impatient(first)
        await together(first, facts)
        await facts.say(20)
        async with new_service() as second:
            await facts.say(20)

            async def shared_out() -> bool:
                await facts.say()  # a pin comes with a message
                owned = [sum(p.state == "pinned" for p in s.partitions) for s in (first, second)]
                return owned == [limits.PARTITIONS // 2] * 2 and gathered(first) == gathered(second) == 0

            await until(shared_out)
            await facts.say(20)
            await facts.are_rows()

        async def gathered_again() -> bool:
            await facts.say()
            return gathered(first) == limits.PARTITIONS

        await until(gathered_again)
        await facts.say(20)
        await facts.are_rows()


async def test_a_partition_that_loses_its_pin_leaves_by_itself(
    conn, facts, new_service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A broker that says nothing for seconds, because it stands still, is no trouble for which all leave.
    monkeypatch.setattr(limits, "GATHER_SILENCE_S", 60.0)
    monkeypatch.setattr(limits, "GATHER_STALL_S", 60.0)
    await facts.say()
    async with new_service() as service:
        impatient(service)
        parted: list[object] = []
        resets: list[int] = []
        part = SharedReader._part

        async def noting(self: SharedReader, why: errors.CoordError | None) -> None:
            parted.append(why)
            await part(self, why)

        monkeypatch.setattr(SharedReader, "_part", noting)
        for _ in range(10):
            await together(service, facts)
            parted.clear()
            resets = [p.reader.resets for p in service.partitions]
            await conn.api("CONSUMER.UNPIN.EVENTS.projector-3", {"group": "w"})

            async def begun_anew(before: int = resets[3]) -> bool:
                await facts.say()  # a lost pin shows when there is something to deliver
                return bool(service.partitions[3].reader.resets > before)

            await until(begun_anew, every_s=0.05)
            await facts.say(10)
            await facts.are_rows()
            if not parted:  # else all have left, as they do when their machine stands still
                break
        assert not parted
        assert [p.reader.resets for p in service.partitions if p.partition != 3] == resets[:3] + resets[4:]


async def test_a_consumer_that_vanishes_is_done_without(conn, facts, new_service) -> None:
    await facts.say()
    async with new_service() as service:
        impatient(service)
        for _ in range(3):
            await together(service, facts)
            listed = await conn.api("CONSUMER.NAMES.EVENTS")
            for name in [n for n in listed["consumers"] if n.startswith("projector-all-")]:
                await conn.api(f"CONSUMER.DELETE.EVENTS.{name}")
            await facts.say(10)
            await facts.are_rows()


async def test_a_partition_that_takes_nothing_holds_the_others_up_for_a_moment_only(
    facts, new_service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await facts.say()
    # Those that wait look twice for what is not delivered before they give up: later than it takes to let go of one.
    async with new_service(limits.GATHER_STALL_S + 1.5 * limits.PULL_EXPIRES_S) as service:
        await together(service, facts)
        await facts.are_rows()
        stuck = service.partitions[3].reader
        take = stuck.take
        monkeypatch.setattr(stuck, "take", lambda _: [])
        for partition in service.partitions:
            partition.reader._batch = 10
        consumer = shared(service)._consumer
        assert isinstance(consumer, SharedConsumer)
        consumer._batch = 40
        await facts.say(300)
        await until(lambda: not stuck.is_lent)
        assert gathered(service) >= limits.GATHER_PARTITIONS_MIN
        monkeypatch.setattr(stuck, "take", take)
        await facts.are_rows()


async def test_a_broker_that_is_killed_and_comes_back(conn, nats, facts, new_service) -> None:
    await facts.say()
    async with new_service() as service:
        impatient(service)
        await together(service, facts)
        await facts.say(10)
        await facts.are_rows()
        nats.kill()
        await nats.restart()
        await conn.wait_connected(60)
        await facts.say(10)
        await facts.are_rows()
