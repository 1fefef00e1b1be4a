"""Questions to the tables through the query service, by agents that have no database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

import coord
from coord import errors, limits
from coord.client.connect import Coord
from coord.query import catalogue
from coord.query.service import QueryService
from tests.support.log import query_service
from tests.support.projecting import projector_service
from tests.support.waiting import until

pytestmark = pytest.mark.slow


class Fleet:
    """Agents of two tenants, a projector, and a query service beside them."""

    def __init__(self, acme: Coord, other: Coord, service: QueryService) -> None:
        self.acme = acme
        self.other = other
        self.service = service

    async def said(self, c: Coord, id: str, event: str = "said", **data: Any) -> coord.Watermark:  # noqa: A002
        ack = await c.publish(coord.Fact(kind="note", id=id, event=event, data=data))
        return coord.Watermark(id, ack.seq)

    async def vouched(self, tenant: str = "acme") -> None:
        """The service keeps what it reads: it has heard of every partition."""
        async with self.service.tenants.turn(tenant) as cache:
            await until(lambda: cache.evictions.is_vouched and cache.evictions.heard == 2 * limits.PARTITIONS)


@pytest.fixture
async def fleet(conn, nats, migrated_database, monkeypatch) -> AsyncIterator[Fleet]:
    monkeypatch.setattr(limits, "NOTICE_BEAT_S", 0.05)
    async with (
        projector_service(nats.url, migrated_database.url, idle_checkpoint_s=0.1) as projector,
        query_service(nats.url, database_url=migrated_database.url) as service,
        coord.connect(nats.url, tenant="acme", agent="a1") as acme,
        coord.connect(nats.url, tenant="other", agent="a1") as other,
    ):
        await projector.wait_ready(60)
        yield Fleet(acme, other, service)


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
    async with fleet.service.tenants.turn("acme") as cache:
        await cache.l1.clear()
    assert (await ask("history", key="n1", unless=kept)).rows is kept.rows
    assert loads(fleet.service) == before
    seen = await fleet.said(fleet.acme, "n1", n=2)
    newer = await ask("history", key="n1", unless=kept, min_watermark=seen)
    assert [row["data"]["n"] for row in newer.rows] == [1, 2]
    assert newer.marks[seen.source][1] >= seen.seq
    assert newer.etag != kept.etag


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
        assert all(row.get("tenant", "acme") == "acme" for row in told.rows), name


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
    async with fleet.service.tenants.turn("acme") as cache:
        cache.config = msgspec.structs.replace(cache.config, watermark_wait_s=0.05)  # type: ignore[misc]
    with pytest.raises(errors.TablesBehind):
        await ask("tasks", min_watermark=coord.Watermark("n1", 10**9))
    assert (await ask("tasks", status=None)).rows == [], "and others are answered"
