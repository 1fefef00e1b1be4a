"""Nothing that answers wrongly, or not at all, stops a partition for good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import msgspec
import pytest

from coord import errors
from coord.bus import topology
from coord.bus.connection import Connection
from coord.bus.patched import Message
from coord.bus.pull import PinnedReader
from coord.core import checkpoint
from coord.projector import dead_letters, partition
from coord.projector.service import ProjectorService
from coord.runtime import assets
from coord.wire import subjects
from tests.support.projecting import projector_service
from tests.support.waiting import until

pytestmark = pytest.mark.slow

GOOD = "coord.ev.acme.me.me.agent.me.status"
POISON = "coord.ev.acme.me.other.agent.other.status"
MINE = subjects.partition("me")
STALLED = {"stream": "EVENTS", "reason": errors.DeliveryGap.code}


@pytest.fixture
def new_service(nats, migrated_database) -> Callable[[], ProjectorService]:
    return lambda: projector_service(
        nats.url, migrated_database.url, streams=("EVENTS",), idle_checkpoint_s=0.5, retry_max_s=0.2
    )


@pytest.fixture
def service(new_service: Callable[[], ProjectorService]) -> ProjectorService:
    return new_service()


async def rows(db: asyncpg.Connection, table: str, wanted: int) -> None:
    async with asyncio.timeout(100):
        while (await db.fetchval(f"SELECT count(*) FROM coord.{table}")) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_database_that_takes_a_write_and_says_no_more_is_no_readiness(
    conn, db, service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coord.limits.PROJECT_HELD_UP_S", 0.2)
    async with service:
        await until(lambda: service.ready)
        async with db.transaction():
            await db.execute("LOCK TABLE coord.event")
            await conn.request(GOOD, b"{}")
            await until(lambda: not service.ready)
            assert service.health()["held_up_s"] >= 0.2
            assert not service.health()["errors"]
        await until(lambda: service.ready)
        await rows(db, "event", 1)


@pytest.mark.parametrize("answer", [None, b"\xff", b"[]", b'{"error":7}'], ids=["mute", "bytes", "list", "odd error"])
async def test_a_dead_letter_queue_that_is_none_blocks_no_partition(
    conn, db, service, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    """Without the stream, somebody's listener on coord.dlq.> takes what is published there."""
    monkeypatch.setattr(dead_letters, "_MUTE_S", 0.3)
    monkeypatch.setattr("coord.limits.RPC_TIMEOUT_S", 0.2)
    await conn.api("STREAM.DELETE.DLQ")

    def listen(message: Message) -> None:
        if answer is not None:
            conn.publish(message.reply, answer)

    await conn.subscribe("coord.dlq.>", listen)
    for subject in (POISON, GOOD, POISON):
        await conn.request(subject, b"{}")
    async with service:
        await rows(db, "dead_letter", 2)
        await rows(db, "event", 1)
        await conn.request(POISON, b"{}")
        await rows(db, "dead_letter", 3)


async def test_lost_acknowledgements_do_not_stall_a_partition(
    conn, db, service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that wants acks, as its leader moves: it waits for what was sent, and delivers no more."""
    for p in range(16):
        spec = topology.load(assets.streams_dir()).get(f"EVENTS/projector-{p}")
        await conn.api(f"CONSUMER.DELETE.EVENTS.projector-{p}")
        wants = {"ack_policy": "all", "max_ack_pending": 10, "mem_storage": False}
        await topology.create_consumer(conn, msgspec.structs.replace(spec, config=spec.config | wants))
    monkeypatch.setattr(PinnedReader, "ack", lambda *_: None)
    for _ in range(25):
        await conn.request(GOOD, b"{}")
    async with service:
        await rows(db, "event", 25)


async def test_a_broker_that_does_not_say_who_is_pinned_keeps_nobody_from_it(
    conn, db, service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a consumer's leader moves: the pin comes with a message, the answer does not come at all."""
    asked = asyncio.Event()

    async def never(*_: object, **__: object) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return False

    monkeypatch.setattr(PinnedReader, "rouse", never)
    async with service:
        async with asyncio.timeout(100):
            await asked.wait()
        await conn.request(GOOD, b"{}")
        await rows(db, "event", 1)


async def test_a_consumer_that_wants_acknowledgements_gets_them(conn, db, service) -> None:
    """One that an earlier version has made, and nobody has applied streams/ since."""
    for p in range(16):
        spec = topology.load(assets.streams_dir()).get(f"EVENTS/projector-{p}")
        await conn.api(f"CONSUMER.DELETE.EVENTS.projector-{p}")
        config = spec.config | {"ack_policy": "all", "max_ack_pending": 10}
        await topology.create_consumer(conn, msgspec.structs.replace(spec, config=config))
    async with service:
        for _ in range(25):
            await conn.request(GOOD, b"{}")
        await rows(db, "event", 25)
        async with asyncio.timeout(100):
            while True:
                info = await conn.api(f"CONSUMER.INFO.EVENTS.projector-{MINE}")
                if info["ack_floor"]["stream_seq"] == 25:
                    break
                await asyncio.sleep(0.05)
    assert service.metrics.registry.get_sample_value("coord_projection_rollbacks_total", STALLED) is None


async def test_a_broker_that_has_forgotten_its_consumers_gets_them_back(conn, db, nats, new_service) -> None:
    """They live in its memory: it is started again, and then a projector that has never seen them."""
    await conn.request(GOOD, b"{}")
    async with new_service():
        await rows(db, "event", 1)
        await nats.restart()
        await conn.wait_connected(60)
        await conn.request(GOOD, b"{}")
        await rows(db, "event", 2)
    await nats.restart()
    await conn.wait_connected(60)
    with pytest.raises(errors.ApiNotFound):
        await conn.api(f"CONSUMER.INFO.EVENTS.projector-{MINE}")
    await conn.request(GOOD, b"{}")
    async with new_service():
        await rows(db, "event", 3)

        others = {"EVENTS/decider", "TELEMETRY/projector", "CACHE_L2"}

        async def theirs_are_back() -> bool:  # nobody decides, projects telemetry or lays streams here
            missing = await topology.plan(conn, topology.load(assets.streams_dir(), "development"))
            return {change.label.partition("-")[0] for change in missing} == others

        await until(theirs_are_back)


async def test_a_defect_ends_a_session_and_nothing_else(conn, db, service, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = checkpoint.judge
    failures = [KeyError("state"), ValueError("time"), AssertionError()]

    def failing(*args: Any) -> errors.ProjectionStopped | None:
        if failures:
            raise failures.pop()
        return judge(*args)

    monkeypatch.setattr(partition, "judge", failing)
    await conn.request(GOOD, b"{}")
    async with service:
        await rows(db, "event", 1)
        assert not any(p.closed.is_set() for p in service.partitions)
        assert all(loop["restarts"] == 0 for loop in service.health()["loops"].values())
    assert all(p.closed.is_set() for p in service.partitions)


async def test_one_given_back_and_assigned_again_while_a_commit_is_under_way_goes_on(
    conn, db, service, migrated_database
) -> None:
    async with service:
        await conn.request(GOOD, b"{}")
        await rows(db, "event", 1)
        mine = next(p for p in service.partitions if p.partition == MINE)
        other = await asyncpg.connect(migrated_database.url)
        async with other.transaction():
            await other.execute("LOCK TABLE coord.event IN SHARE MODE")
            await conn.request(GOOD, b"{}")
            async with asyncio.timeout(60):
                while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            mine.assign(mine=False)
            await until(lambda: mine._intake._leaving)
            mine.assign(mine=True)
            await asyncio.sleep(0)
        await other.close()
        await rows(db, "event", 2)
        await conn.request(GOOD, b"{}")
        await rows(db, "event", 3)


async def test_an_answer_that_is_not_jetstreams_is_an_error_of_the_bus(conn) -> None:
    await conn.subscribe("$JS.API.NONE", lambda m: conn.publish(m.reply, b"[1"))
    with pytest.raises(errors.BusError, match="not JetStream"):
        await conn.api("NONE")


async def test_a_listener_that_raises_does_not_deafen_its_connection(conn) -> None:
    def raising(_subject: str) -> None:
        raise KeyError

    conn.on_permission_denied(raising)
    before = conn.callback_errors
    await conn._error(Exception('nats: permissions violation for publish to "x"'))
    assert conn.callback_errors == before + 1


async def test_a_consumer_without_a_leader_is_done_without(conn, db, service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a cut link: the stream answers, the consumer does not, for seconds."""
    ask, answers = Connection.api, False

    async def api(self: Connection, request: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if request.startswith("CONSUMER.") and not answers:
            raise errors.ApiUnavailable(request=request)
        return await ask(self, request, *args, **kwargs)

    def states() -> set[str]:
        return {p.state for p in service.partitions}

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "api", api)
        # Nobody hears a pull either.
        patch.setattr(PinnedReader, "_ask", lambda *_, **__: None)
        for _ in range(3):
            await conn.request(GOOD, b"{}")
        async with service:
            await rows(db, "event", 3)
            await conn.request(POISON, b"{}")
            for _ in range(4):
                await conn.request(GOOD, b"{}")
            await rows(db, "event", 7)
            await rows(db, "dead_letter", 1)
            await until(lambda: "unled" in states())
            patch.undo()
            answers = True
            await conn.request(GOOD, b"{}")
            await until(lambda: "unled" not in states() and "pinned" in states())
            await rows(db, "event", 8)
            assert service.metrics.registry.get_sample_value(
                "coord_projection_unled_sessions_total", {"stream": "EVENTS"}
            )
