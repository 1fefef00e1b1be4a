"""An id exists once: within the log's window the broker says so, later the tables (docs/adr/0081)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from coord import errors
from coord.bus.rpc import Request
from coord.client import used as client_used
from coord.core import reuse
from coord.core.retry import CallPolicy
from coord.projector import entities
from coord.query.used import UsedIds
from coord.store.rows import EventRow
from coord.wire import subjects
from coord.wire.flow import Definition, Step
from coord.wire.log_api import LogInfo
from coord.wire.used import UsedRequest
from tests.support.cluster import Database
from tests.support.log import open_log
from tests.support.store import event, pool_of
from tests.support.tasks import services

LONG_AGO = datetime.now(UTC) - timedelta(days=40)


def ended(tenant: str, seq: int, id_: str, *, key: str | None = None, kind: str = "task") -> list[EventRow]:
    """What was submitted and cancelled long ago."""
    about = {"tenant": tenant, "kind": kind, "id": id_, "key": key or id_, "agent": "boss", "at": LONG_AGO}
    begun = {"event": "submitted", "detail": "work.normal", "data": "{}"}
    if kind == "workflow":
        begun = {"event": "started", "data": '{"definition":{"name":"n","version":"1"}}'}
    return [event(seq, **about, **begun), event(seq + 1, **about, event="cancelled", data="{}")]


async def project(database: Database, rows: list[EventRow]) -> None:
    async with pool_of(database.url) as pool, pool.transaction() as conn:
        assert await entities.project(conn, [rows]) == [{}]


def request(*ids: tuple[str, str]) -> Request:
    return Request(subjects.rpc("acme", "ids", "used"), msgspec.json.encode(UsedRequest("task", list(ids))), "json")


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
            + ended("t-other", 11, "doc-2"),
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

            found = await boss.submit_many("work", range(3), ids=["new-1", "doc-1", "new-2"], return_errors=True)
            assert [getattr(one, "id", None) for one in found] == ["new-1", None, "new-2"]
            assert isinstance(found[1], errors.TaskExists)
            with pytest.raises(errors.InvalidPayload):
                await boss.submit_many("work", range(3), ids=["new-3", "new-4"])

            again = await boss.submit("work", 7, reuse_for_s=60)
            assert (again.id, again.reused) == (reuse.name_of(shared, 3), False)
            joined = await boss.submit("work", 7, reuse_for_s=60)
            assert (joined.id, joined.reused) == (again.id, True)


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
