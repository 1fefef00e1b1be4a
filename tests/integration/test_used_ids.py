"""An id exists once: within the log's window the broker says so, later the tables (docs/adr/0081)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from coord import errors, limits
from coord.bus.rpc import Request
from coord.client import used as client_used
from coord.client.histories import facts_of
from coord.core import reuse
from coord.core.retry import CallPolicy
from coord.ops.devstack.nats import NatsServer
from coord.projector import entities
from coord.query.used import UsedIds
from coord.store.rows import EventRow
from coord.wire import subjects
from coord.wire.flow import Definition, Step
from coord.wire.log_api import LogInfo
from coord.wire.used import Used, UsedAnswer, UsedKind, UsedRequest
from tests.support.cluster import Database
from tests.support.log import open_log
from tests.support.store import event, pool_of
from tests.support.tasks import services

LONG_AGO = datetime.now(UTC) - timedelta(days=40)


def ended(
    tenant: str, seq: int, id_: str, *, key: str | None = None, kind: str = "task", at: datetime = LONG_AGO
) -> list[EventRow]:
    """What was submitted and cancelled long ago."""
    about = {"tenant": tenant, "kind": kind, "id": id_, "key": key or id_, "agent": "boss", "at": at}
    begun = {"event": "submitted", "detail": "work.normal", "data": "{}"}
    if kind == "workflow":
        begun = {"event": "started", "data": '{"definition":{"name":"n","version":"1"}}'}
    elif kind == "handoff":
        begun = {"event": "offered", "data": '{"agent":"desk","work":1}'}
        return [event(seq, **about, **begun), event(seq + 1, **about, event="withdrawn", data="{}")]
    return [event(seq, **about, **begun), event(seq + 1, **about, event="cancelled", data="{}")]


async def project(database: Database, rows: list[EventRow]) -> None:
    async with pool_of(database.url) as pool, pool.transaction() as conn:
        assert await entities.project(conn, [rows]) == [{}]


def request(*ids: tuple[str, str]) -> Request:
    return Request(
        subjects.rpc("acme", "ids", "used"), msgspec.json.encode(UsedRequest("task", list(ids))), "json", math.inf
    )


async def test_an_id_that_has_left_the_log_is_refused_naming_the_first(
    nats_server, migrated_database: Database
) -> None:
    async with services(nats_server.url, database_url=migrated_database.url) as fleet:
        tenant = fleet.tenant
        shared = reuse.key_of("work", b"7")
        await project(
            migrated_database,
            ended(tenant, 1, "doc-1")
            + ended(tenant, 3, "part", key="whole")
            + ended(tenant, 5, "flow-1", kind="workflow")
            + ended(tenant, 7, reuse.name_of(shared, 1), key=shared)
            + ended(tenant, 9, reuse.name_of(shared, 2), key=shared)
            + ended("t-other", 11, "doc-2")
            + ended(tenant, 13, "pass-1", kind="handoff"),
        )
        async with fleet.client() as boss:
            with pytest.raises(errors.TaskExists) as refused:
                await boss.submit("work", {"any": "thing"}, id="doc-1")
            assert refused.value.details["first_event_id"] == "e1"
            assert (refused.value.details["submitter"], refused.value.details["status"]) == ("boss", "cancelled")
            with pytest.raises(errors.TaskExists):
                await boss.submit("work", id="part", key="whole")
            with pytest.raises(errors.TaskExists):
                await boss.submit("work", id="doc-1", delay_s=60)
            await boss.submit("work", id="part")  # another key, another task
            await boss.submit("work", id="doc-2")  # another tenant's is nobody's
            with pytest.raises(errors.WorkflowExists):
                await boss.start_workflow(Definition(name="n", steps=[Step(name="s", task="work")]), {}, id="flow-1")

            with pytest.raises(errors.HandoffExists) as taken:
                await boss.handoff({"any": "thing"}, to="desk", id="pass-1")
            assert taken.value.details["first_event_id"] == "e13"
            assert (taken.value.details["to"], taken.value.details["status"]) == ("desk", "withdrawn")
            await boss.handoff({"any": "thing"}, to="desk", id="doc-1")  # a task's

            found = await boss.submit_many("work", range(3), ids=["new-1", "doc-1", "new-2"], return_errors=True)
            assert [getattr(one, "id", None) for one in found] == ["new-1", None, "new-2"]
            assert isinstance(found[1], errors.TaskExists)
            with pytest.raises(errors.InvalidPayload):
                await boss.submit_many("work", range(3), ids=["new-3", "new-4"])

            again = await boss.submit("work", 7, reuse_for_s=60)
            assert (again.id, again.reused) == (reuse.name_of(shared, 3), False)
            joined = await boss.submit("work", 7, reuse_for_s=60)
            assert (joined.id, joined.reused) == (again.id, True)


async def test_what_the_log_still_tells_of_is_joined_however_old_the_tables_say_it_is(
    nats: NatsServer, migrated_database: Database
) -> None:
    flow = Definition(name="n", steps=[Step(name="s", task="work")])
    async with services(nats.url, database_url=migrated_database.url) as fleet, fleet.client() as boss:
        await project(migrated_database, ended(fleet.tenant, 5, "doc-0"))
        assert not await boss.used_ids.whole()
        first = await boss.submit("work", 1, id="doc-1")
        assert await first.cancel()
        run = await boss.start_workflow(flow, {}, id="flow-1")
        assert await run.cancel()
        # As if stated again near the end of the window: the beginning is old, and in the log.
        rows = ended(fleet.tenant, 1, "doc-1") + ended(fleet.tenant, 3, "flow-1", kind="workflow")
        await project(migrated_database, rows)

        again = await boss.submit("work", 1, id="doc-1")
        [many, gone] = await boss.submit_many("work", [1, 1], ids=["doc-1", "doc-0"], return_errors=True)
        later = await boss.submit("work", 1, id="doc-1", delay_s=600)
        for handle in (again, many, later):
            assert not isinstance(handle, errors.CoordError)
            with pytest.raises(errors.TaskCancelled):
                await handle.result(timeout_s=90)
        assert isinstance(gone, errors.TaskExists)
        with pytest.raises(errors.TaskExists) as refused:
            await boss.submit("work", "other work", id="doc-1")
        assert "first_seq" in refused.value.details, "the log's answer, not the tables'"
        joined = await boss.start_workflow(flow, {}, id="flow-1")
        with pytest.raises(errors.WorkflowCancelled):
            await joined.result(timeout_s=90)

        # Its end is still in the log, what it was is not.
        begun = min(fact.seq for fact in await facts_of(boss.connection, fleet.tenant, "doc-1"))
        await fleet.conn.api(f"STREAM.PURGE.{subjects.EVENTS}", {"seq": begun + 1})
        assert await facts_of(boss.connection, fleet.tenant, "doc-1")
        with pytest.raises(errors.TaskExists) as refused:
            await boss.submit("work", 1, id="doc-1")
        assert refused.value.details["first_event_id"] == "e1"


async def test_a_handoff_is_joined_while_the_log_tells_of_it(nats_server, migrated_database: Database) -> None:
    async with services(nats_server.url, database_url=migrated_database.url) as fleet, fleet.client() as boss:
        await project(migrated_database, ended(fleet.tenant, 1, "pass-1", kind="handoff"))
        first = await boss.handoff({"a": 1, "b": (2,)}, to="desk", id="pass-1", key="k")
        again = await boss.handoff({"b": [2], "a": 1}, to="desk", id="pass-1", key="k")
        assert again is first
        for to, other in (("desk", 8), ("boss", {"a": 1, "b": [2]})):
            with pytest.raises(errors.HandoffExists) as refused:
                await boss.handoff(other, to=to, id="pass-1", key="k")
            assert refused.value.details["offerer"] == "boss"
        # As if it were an old one that was stated again: the log still tells of it.
        await project(migrated_database, ended(fleet.tenant, 3, "pass-1", key="k", kind="handoff"))
        assert await boss.handoff({"a": 1, "b": (2,)}, to="desk", id="pass-1", key="k") is first


async def test_what_was_sent_is_settled_when_the_next_ids_cannot_be_asked_about(
    nats_server, migrated_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "USED_IDS_MAX", 3)
    async with services(nats_server.url, database_url=migrated_database.url) as fleet, fleet.client() as boss:
        real, asked = boss.used_ids.firsts, []

        async def firsts(kind: UsedKind, idents: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Used]:
            asked.append(idents)
            if len(asked) > 1:
                raise errors.DatabaseUnavailable("it is away")
            return await real(kind, idents)

        monkeypatch.setattr(boss.used_ids, "firsts", firsts)
        names = [f"s{n}" for n in range(8)]
        found = await boss.submit_many("work", range(8), ids=names, return_errors=True)
        assert [getattr(one, "id", None) for one in found] == [*names[:3], *[None] * 5]
        assert all(isinstance(one, errors.DatabaseUnavailable) for one in found[3:])
        assert len(asked) == 2, "the rest would wait as long for the same answer"
        assert (await boss.task("s2").status()).status == "queued"

        asked.clear()
        with pytest.raises(errors.DatabaseUnavailable):
            await boss.submit_many("work", range(4), ids=(f"r{n}" for n in range(4)))
        assert (await boss.task("r2").status()).status == "queued"

        asked.clear()
        found = await boss.submit_many("work", range(9), ids=iter(["u0", "No Token", "u1"]), return_errors=True)
        assert [getattr(one, "id", None) for one in found] == ["u0", None, "u1", None]
        assert isinstance(found[1], errors.InvalidToken), "it spoils nothing for the others"
        asked.clear()
        found = await boss.submit_many("work", iter([0]), ids=["v0", "v1"], return_errors=True)
        assert [getattr(one, "id", None) for one in found] == ["v0", None]
        assert isinstance(found[1], errors.InvalidPayload)


async def test_whoever_waits_for_an_answer_when_it_is_closed_is_told_so(
    nats_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_log(nats_server.url) as log:
        asking = client_used.UsedIds(log.conn, log.tenant)
        asked = asyncio.Event()

        async def never(_request: UsedRequest) -> UsedAnswer:
            asked.set()
            await asyncio.Event().wait()
            return UsedAnswer()

        monkeypatch.setattr(asking, "_once", never)
        one, other = (asyncio.create_task(asking.first("task", "k", f"t{n}")) for n in range(2))
        await asked.wait()
        one.cancel()
        await asyncio.wait([one])
        await asking.close()
        assert one.cancelled()
        with pytest.raises(errors.BusClosed):
            await other


async def test_a_database_that_is_away_refuses_chosen_ids_only(
    nats_server, migrated_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:9/none"
    monkeypatch.setattr(client_used, "_ASK", CallPolicy(retries_max=1, first_s=0.01))
    async with services(nats_server.url, database_url=nowhere) as fleet, fleet.client() as boss:
        await boss.submit("work", 1)
        with pytest.raises(errors.DatabaseUnavailable):
            await boss.submit("work", 1, id="doc-1")


async def test_where_nobody_answers_the_log_decides(nats_server) -> None:
    async with open_log(nats_server.url) as log:
        # A tenant of whose requests no service hears: the queue group listens to all, so another service's name.
        asking = client_used.UsedIds(log.conn, log.tenant)
        asking._service = subjects.rpc(log.tenant, "nobody", "used")
        assert await asking.first("task", "k", "t") is None
        assert await asking.whole()
        await asking.close()


async def test_nobody_asks_while_the_log_holds_all_that_the_tables_know(migrated_database: Database) -> None:
    now = datetime.now(UTC)
    info = LogInfo(first_seq=1, last_seq=9, first_stored_at=now, last_stored_at=now, created="c1", leader="")

    async def what() -> LogInfo:
        return info

    async with pool_of(migrated_database.url) as pool:
        used = UsedIds(pool, what)
        assert (await used.used(request())).whole, "the tables know nothing"
        await project(migrated_database, [event(1, at=now, id="t", key="t", detail="work.normal", data="{}")])
        assert (await UsedIds(pool, what).used(request(("t", "t")))).whole
        await project(migrated_database, ended("acme", 1, "old"))
        await pool.close()
        assert (await used.used(request(("old", "old")))).whole, "of this log it is known, the database may be away"
        info = msgspec.structs.replace(info, first_stored_at=now - timedelta(seconds=1))
        assert (await used.used(request(("old", "old")))).whole
        info = msgspec.structs.replace(info, first_stored_at=now + timedelta(seconds=1))
        with pytest.raises(errors.StoreError):
            await used.used(request(("old", "old")))
        await pool.open()
        assert not (await used.used(request(("old", "old")))).whole
        used = UsedIds(pool, what)
        info = msgspec.structs.replace(info, created="c2")
        answer = await used.used(request(("old", "old"), ("t", "t"), ("none", "none")))
        assert not answer.whole
        assert [one.id for one in answer.used] == ["old"], "what is open is in the log"
        with pytest.raises(errors.InvalidRequest):
            await used.used(request(*[("k", "i")] * 401))


async def test_what_began_within_the_window_is_left_to_the_log(migrated_database: Database) -> None:
    now, margin = datetime.now(UTC), timedelta(seconds=limits.USED_MARGIN_S)
    second = timedelta(seconds=1)
    info = LogInfo(first_seq=1, last_seq=9, first_stored_at=now, last_stored_at=now, created="c1", leader="")

    async def what() -> LogInfo:
        return info

    names = ("old", "near", "within")
    asked = request(*((name, name) for name in names))
    async with pool_of(migrated_database.url) as pool:
        await project(
            migrated_database,
            ended("acme", 1, "old")
            + ended("acme", 3, "near", at=now + margin - second)
            + ended("acme", 5, "within", at=now + margin + second),
        )
        answer = await UsedIds(pool, what).used(asked)
        assert sorted(one.id for one in answer.used) == ["near", "old"]
        info = msgspec.structs.replace(info, first_stored_at=None)
        answer = await UsedIds(pool, what).used(asked)
        assert len(answer.used) == 3, "an empty log tells of nothing"


async def test_tables_that_lag_are_not_remembered_as_younger_than_the_log(migrated_database: Database) -> None:
    now = datetime.now(UTC)
    info = LogInfo(first_seq=1, last_seq=9, first_stored_at=now, last_stored_at=now, created="c1", leader="")

    async def what() -> LogInfo:
        return info

    async with pool_of(migrated_database.url) as pool:
        used = UsedIds(pool, what)
        await project(migrated_database, ended("acme", 5, "late", at=now + timedelta(hours=2)))
        assert (await used.used(request())).whole
        await project(migrated_database, ended("acme", 1, "early", at=now + timedelta(minutes=1)))
        info = msgspec.structs.replace(info, first_stored_at=now + timedelta(hours=1))
        assert not (await used.used(request())).whole
