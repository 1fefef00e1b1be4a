"""Questions to the tables through the query service, by agents that have no database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

import coord
from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection, NatsConfig
from coord.client.connect import Coord
from coord.ops import caches, serve
from coord.ops.devstack.nats import NatsServer
from coord.ops.settings import ServiceConfig, Settings
from coord.query import catalogue
from coord.query.config import QueryConfig, QueryHttpConfig
from coord.query.http import QueryHttp
from coord.query.service import QueryService
from coord.runtime.http import HttpService
from coord.runtime.http_config import HttpConfig
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.cache_api import CacheAsk
from coord.wire.query_api import QueryAnswer, QueryRequest
from tests.soak import query as soak
from tests.soak.harness import Result
from tests.support import interop
from tests.support.cluster import Cluster
from tests.support.log import ASKING, query_service
from tests.support.projecting import projector_service
from tests.support.servers import migrated
from tests.support.streams import apply_topology
from tests.support.waiting import until
from tests.support.web import get

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

TOKEN = secrets.token_hex(8)

Running: TypeAlias = tuple[str, QueryService, QueryHttp, str, str]
"""The broker's URL, the service, its routes, their URL, the database's."""


class Fleet:
    """Agents of two tenants of the test's own."""

    def __init__(self, acme: Coord, other: Coord, service: QueryService, url: str) -> None:
        self.acme = acme
        self.other = other
        self.service = service
        self.url = url
        """Where the service answers over HTTP."""

    async def said(self, c: Coord, id: str, event: str = "said", **data: Any) -> coord.Watermark:  # noqa: A002
        ack = await c.publish(coord.Fact(kind="note", id=id, event=event, data=data))
        return coord.Watermark(id, ack.seq)

    async def vouched(self) -> None:
        """The service keeps what it reads: it has heard of every partition."""
        await vouched(self.service, self.acme.tenant)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A broker, a database, a projector and a query service for all tests of this module."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    await server.start()
    http = QueryHttp(())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "NOTICE_BEAT_S", 0.05)
        async with await Connection.open(NatsConfig(urls=(server.url,)), name="apply") as conn:
            await apply_topology(conn)
        async with (
            migrated(postgres) as database,
            projector_service(server.url, database.url, idle_checkpoint_s=0.1) as projector,
            query_service(server.url, database_url=database.url, http=http) as service,
            HttpService(HttpConfig(port=0), None, routes=http.routes, registry=service.metrics, name="query") as web,
        ):
            await projector.wait_ready(60)
            await web.wait_ready(60)
            yield server.url, service, http, web.url, database.url
    await server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(running: Running) -> AsyncIterator[Fleet]:
    url, service, http, web, _ = running
    names = [f"t{secrets.token_hex(4)}" for _ in range(2)]
    http.allow([f"{name}:{TOKEN}-{n}" for n, name in enumerate(names)])
    async with (
        coord.connect(url, tenant=names[0], agent="a1") as acme,
        coord.connect(url, tenant=names[1], agent="a1") as other,
    ):
        yield Fleet(acme, other, service, web)


async def vouched(service: QueryService, tenant: str) -> None:
    async with service.tenants.turn(tenant) as cache:
        await until(lambda: cache.evictions.is_vouched and cache.evictions.heard == 2 * limits.PARTITIONS)


def loads(service: QueryService) -> float:
    """Looks at the tables so far."""
    registry = service.metrics.registry
    return registry.get_sample_value("coord_cache_load_seconds_count", {"tier": "l1"}) or 0.0


async def test_an_answer_is_kept_evicted_and_revalidated_for_nothing(fleet: Fleet) -> None:
    ask = fleet.acme.query
    seen = await fleet.said(fleet.acme, "n1", n=1)
    first = await ask("history", key="n1", min_watermark=seen)
    assert [(row["id"], row["event"], row["data"]) for row in first.rows] == [("n1", "said", {"n": 1})]
    await fleet.vouched()
    kept = await ask("history", key="n1")
    before = loads(fleet.service)
    again = await ask("history", key="n1")
    assert again == kept, "the same answer, the same watermark"
    still = await ask("history", key="n1", unless=kept)
    assert still.rows is kept.rows
    assert loads(fleet.service) == before, "neither asked the database"
    # Another instance has not got the answer: what it heard proves that the ETag holds.
    async with fleet.service.tenants.turn(fleet.acme.tenant) as cache:
        await cache.l1.clear()
    assert (await ask("history", key="n1", unless=kept)).rows is kept.rows
    assert loads(fleet.service) == before
    seen = await fleet.said(fleet.acme, "n1", n=2)
    newer = await ask("history", key="n1", unless=kept, min_watermark=seen)
    assert [row["data"]["n"] for row in newer.rows] == [1, 2]
    assert newer.marks[seen.source][1] >= seen.seq
    assert newer.etag != kept.etag


async def test_an_operator_is_shown_what_the_service_keeps(fleet: Fleet) -> None:
    await fleet.vouched()
    assert (await fleet.acme.query("history", key="nobody")).rows == []

    async def shown() -> bool:
        question = CacheAsk(asker="", what="stats", agent="_query")
        found = await caches.ask(fleet.other.connection, fleet.acme.tenant, question, wait_s=1, processes=1)
        return bool(found and found[0].tiers[0].loads)

    await until(shown)


async def test_an_answer_that_was_read_again_and_is_the_same_is_not_sent_again(fleet: Fleet) -> None:
    ask = fleet.acme.query
    await fleet.vouched()
    first = await ask("tasks_done")
    seen = await fleet.said(fleet.acme, "n1")
    same = await ask("tasks_done", unless=first, min_watermark=seen)
    assert same.rows is first.rows
    assert same.etag != first.etag, "which goes further"


async def test_nobody_sees_another_fleet(fleet: Fleet) -> None:
    """Whatever the question: asked with everything in the tables, it answers one fleet as if there were no other."""
    mine = await fleet.said(fleet.acme, "n1", secret="of-acme")
    theirs = await fleet.said(fleet.other, "n1", secret="of-other")
    rows = (await fleet.acme.query("facts", min_watermark=max(mine, theirs, key=lambda w: w.seq))).rows
    assert [row["data"]["secret"] for row in rows] == ["of-acme"]
    for tenant in ("other", ""):
        with pytest.raises(errors.QueryError, match="the tenant is the subject's"):
            await fleet.acme.query("facts", tenant=tenant)
    needed = {"id": "n1", "key": "n1", "label": "x"}
    for name, question in catalogue.questions().items():
        params: dict[str, Any] = {p: v for p, v in needed.items() if p in question.query.parameters}
        told = await fleet.acme.query(name, **params)
        assert "of-other" not in repr(told.rows), name
        assert all(row.get("tenant", fleet.acme.tenant) == fleet.acme.tenant for row in told.rows), name


async def test_a_plain_client_asks_in_json_or_messagepack(fleet: Fleet) -> None:
    seen = await fleet.said(fleet.acme, "n1", n=1, ratio=0.5)
    where = subjects.rpc(fleet.acme.tenant, "query", "history")
    request = {"params": {"key": "n1"}, "min_watermark": {"key": "n1", "seq": seen.seq}}
    message = await fleet.acme.connection.request(where, json.dumps(request).encode())
    answer = json.loads(message.data)
    assert (answer["modified"], answer["next"], answer["moved"]) == (True, None, False)
    assert answer["columns"][0] == ["stored_at", "timestamptz"]
    assert answer["watermark"]["EVENTS"][str(subjects.partition("n1"))][1] >= seen.seq
    packed = await rpc.call(fleet.acme.connection, where, request, dict[str, Any], content="msgpack")
    assert packed["rows"] == answer["rows"]
    assert packed["watermark"]["EVENTS"].keys() == set(range(limits.PARTITIONS))
    message = await fleet.acme.connection.request(where.replace("history", "storage"), b"")
    assert message.headers["Nats-Service-Error-Code"] == "404"
    assert json.loads(message.data)["code"] == "query.unknown"


@pytest.mark.node
async def test_a_node_client_asks_with_nothing_but_the_protocol(fleet: Fleet, running: Running) -> None:
    tenant = fleet.acme.tenant
    await fleet.vouched()
    async with interop.script("query", running[0], tenant, fleet.url, f"{TOKEN}-0") as script:
        assert await script.line() == {"rows": [1, 2], "column": ["stored_at", "timestamptz"], "reached": True}
        assert await script.line() == {"pages": [[1, 2], [3]]}
        assert await script.line() == {"state": [True, 25, "node-1"]}
        assert await script.line() == {"modified": False, "rows": 0}
        assert await script.line() == {"modified": True, "rows": 4}
        assert await script.line() == {
            "refused": ["404 query.unknown", "400 query.invalid", "400 query.invalid", "504 coord.deadline"]
        }
        assert await script.line() == {"http": [200, 304, 401], "rows": 1}
        await script.end()


async def test_pages_go_on_where_the_last_one_ended(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUERY_ANSWER_ROWS", 5)  # 12 rows are three pieces
    seen = [await fleet.said(fleet.acme, "n1", n=n) for n in range(12)]
    await fleet.acme.query("history", key="n1", min_watermark=seen[-1])
    await fleet.vouched()
    found = [page async for page in fleet.acme.query.pages("history", key="n1", rows=3)]
    assert [row["data"]["n"] for page in found for row in page.rows] == list(range(12))
    assert [len(page.rows) for page in found] == [3, 2, 3, 2, 2]
    assert not any(page.moved for page in found)
    first = found[0]
    monkeypatch.setattr(limits, "QUERY_ANSWER_ROWS", 50)
    await fleet.acme.query("history", key="n1", min_watermark=await fleet.said(fleet.acme, "n1", n=12))
    assert (await fleet.acme.query("history", key="n1", rows=3, after=first.next)).moved
    with pytest.raises(errors.QueryError, match="after is not"):
        await fleet.acme.query("history", key="n2", rows=3, after=first.next)


async def test_instances_share_what_one_has_read(
    fleet: Fleet, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are told to: the second has it from the first, proved current, without asking the database."""
    monkeypatch.setattr(limits, "CACHE_TIER_S", 30.0)  # a slow machine's tier is not away
    monkeypatch.setattr(limits, "CACHE_LEASE_S", 30.0)
    monkeypatch.setattr(limits, "QUERY_LOAD_S", 200.0)
    url, database_url = running[0], running[4]
    seen = await fleet.said(fleet.acme, "n1", n=1)
    await fleet.acme.query("history", key="n1", min_watermark=seen)
    config = QueryConfig(l2=True)
    asked = QueryRequest(params={"key": "n1"})

    async def ask(service: QueryService) -> QueryAnswer:
        assert service.answering is not None
        until = asyncio.get_running_loop().time() + 200
        return await service.answering.answer(fleet.acme.tenant, "history", asked, 100_000, until)

    async with (
        query_service(url, config, database_url=database_url) as one,
        query_service(url, config, database_url=database_url) as other,
    ):
        for service in (one, other):
            async with service.tenants.turn(fleet.acme.tenant) as cache:
                await until(lambda: cache.evictions.heard == 2 * limits.PARTITIONS)
        first = await ask(one)
        assert await ask(other) == first
        assert (loads(one), loads(other)) == (1, 0)


async def test_every_answer_is_what_the_log_was_up_to_where_it_goes(
    running: Running, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little of ``python -m tests.soak query``: two instances, two tenants, facts and questions side by side."""
    url, _, _, _, database_url = running
    names = tuple(f"t{secrets.token_hex(4)}" for _ in range(2))
    monkeypatch.setattr(soak, "TENANTS", names)
    over, result = asyncio.Event(), Result()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(query_service(url, database_url=database_url))
        clients = {
            name: await stack.enter_async_context(coord.connect(url, tenant=name, agent="speaker")) for name in names
        }
        stating = soak.Stating(clients, rng, keys=3, per_s=200.0)
        askers = [soak.Asker(clients[name].connection, rng, 3, stating.acked) for name in names]
        tasks = [asyncio.create_task(stating.run(over)), *(asyncio.create_task(one.run(over)) for one in askers)]
        await until(lambda: min(len(one.told) for one in askers) >= 40 and stating.facts >= 20)
        over.set()
        await asyncio.gather(*tasks)
        await soak.at_last(result, askers[0], names, 3)
    database = await asyncpg.connect(database_url)
    rows = await database.fetch(
        "SELECT tenant, key, seq FROM coord.event WHERE tenant = ANY($1) ORDER BY epoch, seq, idx", list(names)
    )
    await database.close()
    facts: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        facts.setdefault((row["tenant"], row["key"]), []).append(row["seq"])
    assert soak.check(result, [told for one in askers for told in one.told], facts) >= 80
    assert not result.findings


async def test_slow_questions_of_many_fleets_hold_up_nobody_else(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of six fleets wait for a lock, on every connection that there is; a seventh is answered meanwhile."""
    for name, value in {"QUERY_QUICK_S": 1.0, "QUERY_WAIT_S": 200.0, "QUERY_LOAD_S": 200.0}.items():
        monkeypatch.setattr(limits, name, value)
    url, database_url = running[0], running[4]
    names = [f"t{secrets.token_hex(4)}" for _ in range(7)]
    database, looker = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    async with query_service(url, QueryConfig(connections=4), database_url=database_url) as service:

        async def ask(tenant: str, name: str, **params: Any) -> list[Any]:
            assert service.answering is not None
            until_s = asyncio.get_running_loop().time() + 200
            asked = QueryRequest(params=params)
            return (await service.answering.answer(tenant, name, asked, 100_000, until_s)).rows

        async def is_held(looks: int) -> bool:
            """Whether so many wait for the lock, no more: what was recalled is ended in the database, too."""
            # By a connection without a transaction: to that pg_stat_activity is as it was first seen.
            found: int = await looker.fetchval(
                "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE NOT l.granted "
                "AND l.relation = 'coord.task'::regclass AND a.application_name = $1",
                ASKING,  # the projector's own writes wait for it, too
            )
            return found == looks

        async with database.transaction():
            await database.execute("LOCK TABLE coord.task IN ACCESS EXCLUSIVE MODE")
            slow = [asyncio.create_task(ask(name, "tasks", limit=n)) for n in range(1, 4) for name in names[:6]]
            await until(lambda: is_held(4))
            for n in range(5):
                assert await ask(names[6], "history", key=f"k{n}") == []
            await until(lambda: is_held(3))
            assert not any(task.done() for task in slow)
        assert await asyncio.gather(*slow) == [[]] * len(slow)
        registry = service.metrics.registry
        assert (registry.get_sample_value("coord_query_recalled_total") or 0) >= 1
    await asyncio.gather(database.close(), looker.close())


async def test_what_cannot_be_asked_is_refused(fleet: Fleet) -> None:
    ask = fleet.acme.query
    with pytest.raises(errors.UnknownQuestion):
        await ask("storage")  # of the deployment, not of a fleet
    with pytest.raises(errors.UnknownQuestion):
        await ask("nonsense")
    wrong: list[dict[str, Any]] = [
        {"nonsense": 1}, {"limit": "many"}, {"since": "now"}, {"status": "x" * 2_000}, {"status": "a\0b"},
    ]  # fmt: skip
    for params in wrong:
        with pytest.raises(errors.QueryError):
            await ask("tasks", **params)
    with pytest.raises(errors.QueryError):
        await ask("deadlines", within="a while")  # PostgreSQL says so
    for rows in (0, 1_001):
        with pytest.raises(errors.QueryError):
            await ask("tasks", rows=rows)
    for watermark in (
        coord.Watermark("n1", 0),
        coord.Watermark("", 1),
        coord.Watermark("n1", 1, "DLQ"),
        coord.Watermark("n1", 1, epoch=0),
    ):
        with pytest.raises(errors.QueryError, match="min_watermark"):
            await ask("tasks", min_watermark=watermark)
    async with fleet.service.tenants.turn(fleet.acme.tenant) as cache:
        cache.config = msgspec.structs.replace(cache.config, watermark_wait_s=0.05)  # type: ignore[misc]
    with pytest.raises(errors.TablesBehind):
        await ask("tasks", min_watermark=coord.Watermark("n1", 10**9))
    assert (await ask("tasks", status=None)).rows == [], "and others are answered"
    long = "\N{PARTY POPPER}" + "x" * 1_000  # four bytes a character in memory
    for _ in range(2):
        assert (await ask("tasks", status=long, capability=long, agent=long)).rows == []


async def test_the_same_over_http(fleet: Fleet) -> None:
    async def ask(path: str, token: str = f"{TOKEN}-0", **headers: str) -> tuple[int, dict[str, str], Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, found, body = await get(
            fleet.url, f"/v1/query/{path}", headers={"authorization": f"Bearer {token}"} | named
        )
        return status, found, json.loads(body) if body else None

    seen = await fleet.said(fleet.acme, "n1", n=1)
    await fleet.vouched()
    status, headers, answer = await ask(f"history?key=n1&_rows=5&_min_key=n1&_min_seq={seen.seq}")
    assert (status, headers["cache-control"], headers["vary"]) == (200, "private, no-cache", "Authorization")
    assert [row["data"] for row in answer["rows"]] == [{"n": 1}]
    assert headers["etag"] == f'W/"{answer["etag"]}"'
    assert int(headers["age"]) >= 0
    status, again, nothing = await ask("history?key=n1&_rows=5", if_none_match=f'"else", {headers["etag"]}')
    assert (status, again["etag"], nothing) == (304, headers["etag"], None)
    assert (await ask("history?key=n1&_rows=6", if_none_match=headers["etag"]))[0] == 200, "of another page"
    same = await fleet.acme.query("history", key="n1", rows=5)
    assert same.etag == answer["etag"], "one way is as good as the other"
    assert (await ask("history?key=n1", token=f"{TOKEN}-1"))[2]["rows"] == [], "of another fleet"
    for path, wanted in {
        "history?key=n1&key=n2": 400, "history?nonsense=1": 400, "history?_nonsense=1": 400, "history?_rows=x": 400,
        "history?_min_key=n1": 400, "storage": 404, "no.such": 404,
    }.items():  # fmt: skip
        status, headers, answer = await ask(path)
        assert (status, headers["cache-control"]) == (wanted, "no-store"), path
        assert answer["code"] in {"query.invalid", "query.unknown"}
    for token in ("", TOKEN):
        status, headers, answer = await ask("history?key=n1", token=token)
        assert (status, headers["www-authenticate"], answer["code"]) == (401, "Bearer", "query.unauthorized")
    assert (await ask("history?key=n1", coord_deadline_ms="soon"))[0] == 400
    assert (await get(fleet.url, "/metrics"))[0] == 404, "the probes are elsewhere"


async def test_what_coord_serve_runs_answers_over_http(fleet: Fleet, running: Running) -> None:
    settings = Settings(
        nats=NatsConfig(urls=(running[0],)),
        database=DatabaseConfig(url=running[4], pool_min=0),
        http=HttpConfig(enabled=False),
        query=QueryConfig(http=QueryHttpConfig(enabled=True, port=0, tokens=(f"{fleet.acme.tenant}:{TOKEN}",))),
        service=ServiceConfig(stats_every_s=0),
    )
    async with serve.services(settings, serve.What.QUERY, registry=Metrics(CollectorRegistry())) as group:
        await group.wait_ready(60)
        (web,) = (member for member in group.members if isinstance(member, HttpService))
        status, _, body = await get(web.url, "/v1/query/tasks", headers={"authorization": f"Bearer {TOKEN}"})
        assert (status, json.loads(body)["rows"]) == (200, [])


async def test_a_service_that_drains_answers_no_more_over_http() -> None:
    http = QueryHttp([f"acme:{TOKEN}"])
    async with HttpService(HttpConfig(port=0), None, routes=http.routes, registry=Metrics(CollectorRegistry())) as web:
        await web.wait_ready(60)
        await http.end()
        status, _, body = await get(web.url, "/v1/query/tasks", headers={"authorization": f"bearer {TOKEN}"})
        assert (status, json.loads(body)["code"]) == (503, "rpc.unavailable")
