"""A Node client that knows nothing but docs/protocol.md (tests/interop_node), through the whole spine."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from coord.core.subscription import Position
from coord.query.reader import LogReader
from coord.wire import subjects
from coord.wire.envelope import StoredFact
from tests.support import interop
from tests.support.log import Log, open_log, projector, query_service, rows

pytestmark = pytest.mark.node

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def log(nats_server) -> AsyncIterator[Log]:
    async with open_log(nats_server.url) as log, query_service(nats_server.url):
        yield log


async def history(log: Log, **where: Any) -> list[StoredFact]:
    reader = LogReader(log.conn)
    try:
        facts: list[StoredFact] = []
        position = Position((await reader.info()).first_seq)
        while True:
            page = await reader.read(subjects.log_filters(log.tenant, **where), position)
            facts += page.facts
            position = page.next
            if position.seq > page.info.last_seq:
                return facts
    finally:
        await reader.close()


async def test_what_a_node_client_publishes_is_facts_and_rows(start_nats, migrated_database) -> None:
    server = await start_nats()
    async with (
        open_log(server.url) as log,
        projector(server.url, migrated_database.url),
        interop.script("publish", server.url, log.tenant) as script,
    ):
        acked = await script.line()
        await script.end()
        facts = await history(log)
        by_seq = {fact.seq: fact for fact in facts if fact.index == 0}
        check_facts(log.tenant, acked, facts, by_seq)
        assert acked["again"]["duplicate"] is True
        assert acked["again"]["seq"] == acked["first"]["seq"]
        assert acked["refused"]["error"]["err_code"] == 10071

        events = await rows(migrated_database.url, "SELECT * FROM coord.event ORDER BY seq, idx", count=len(facts))
        for row, fact in zip(events, facts, strict=True):
            assert (row["tenant"], row["agent"], row["key"], row["kind"], row["id"], row["event"]) == (
                fact.tenant, fact.agent, fact.key, fact.kind, fact.id, fact.event,
            )  # fmt: skip
            assert (row["seq"], row["idx"], row["partition"]) == (fact.seq, fact.index, fact.partition)
            assert (row["event_id"], row["type"], row["traceparent"]) == (fact.event_id, fact.type, fact.traceparent)
            assert (row["correlation_id"], row["causation_id"]) == (fact.correlation_id, fact.causation_id)
            assert row["occurred_at"] == fact.occurred_at
            assert json.loads(row["data"]) == json.loads(fact.json_text)
        (sample,) = await rows(migrated_database.url, "SELECT * FROM coord.metric_sample", count=1)
        assert (sample["agent"], sample["series"], sample["value"]) == ("node-1", "cpu", 0.75)
        (agent,) = await rows(migrated_database.url, "SELECT * FROM coord.agent", count=1)
        assert (agent["agent"], json.loads(agent["status"])) == ("node-1", {"load": 0.75})


def check_facts(tenant: str, acked: dict[str, Any], facts: list[StoredFact], by_seq: dict[int, StoredFact]) -> None:
    unacked = facts[0]
    assert (unacked.kind, unacked.event, unacked.id, unacked.data) == ("agent", "status", "node-1", {"load": 0.2})
    bare = by_seq[acked["bare"]["seq"]]
    assert (bare.tenant, bare.agent, bare.id, bare.data) == (tenant, "node-1", "a-js", {"lines": 3, "text": "ä€😀"})
    assert by_seq[acked["request"]["seq"]].data == {}
    full = by_seq[acked["json"]["seq"]]
    assert full.event_id == "id with ä space"
    assert full.detail == ("summarize", "critical")
    assert (full.key, full.type, full.schema) == ("wf-7", "com.example.submitted", 1)
    assert full.occurred_at == datetime(2026, 1, 2, 1, 4, 5, 678901, tzinfo=UTC)
    assert (full.correlation_id, full.causation_id, full.traceparent) == ("conversation 1", "cause-1", TRACE)
    assert full.data == {"title": "Grüße"}
    packed = by_seq[acked["msgpack"]["seq"]]
    assert packed.content == "msgpack"
    assert packed.data == {
        "n": 1.5,
        "bytes": b"\x00\xff",
        "list": [1, None, True],
        "at": datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
    }
    frame = [fact for fact in facts if fact.seq == acked["frame"]["seq"]]
    assert [(f.index, f.event_id, f.data) for f in frame] == [(n, f"f-1/{n}", {"load": n / 4}) for n in range(4)]
    assert [f.occurred_at.microsecond for f in frame] == [0, 250_000, 500_000, 750_000]
    assert {f.traceparent for f in frame} == {TRACE}
    claim = by_seq[acked["claim"]["seq"]]
    assert (claim.agent, claim.event, claim.detail) == ("node-1", "claimed", ("1",))


async def test_node_agrees_with_every_golden_vector(request: pytest.FixtureRequest) -> None:
    async with interop.script("vectors", str(request.config.rootpath / "tests" / "golden" / "v1")) as script:
        said = await script.line()
        await script.end()
    differs = [d for d in said["differs"] if "this Node has no zstd" not in str(d["got"])]
    assert differs == []
    checked = said["checked"]
    assert min(checked["partition"], checked["stored"], checked["derived"], checked["quote"]) >= 4
    assert sum(what.startswith("message: ") for what in checked) >= 15


async def test_a_node_subscriber_misses_and_repeats_nothing_through_reconnects(log: Log) -> None:
    """The algorithm of docs/protocol.md §11, written by hand in Node: from the past, live, and after gaps."""
    total, first = 400, 100
    seqs = [await log.state({"n": n}) for n in range(first)]
    arguments = ("subscribe", log.conn.config.urls[0], log.tenant, '{"kind":"file","event":"scanned"}')
    start = json.dumps({"from_seq": seqs[0]})
    async with interop.script(*arguments, start, str(total), "75") as script:
        assert await script.line() == {"ready": True}

        async def publish() -> None:
            for n in range(first, total):
                seqs.append(await log.state({"n": n}, event="scanned" if n % 3 else "scanned.deep"))
                await log.state("another", kind="dir")
                if n % 5 == 0:
                    await asyncio.sleep(0.002)

        publishing = asyncio.create_task(publish())
        facts = [(await script.line())["fact"] for _ in range(total)]
        await publishing
        stats = (await script.line())["stats"]
        await script.end()
    assert [fact["data"]["n"] for fact in facts] == list(range(total))
    assert [fact["seq"] for fact in facts] == seqs
    assert stats["gaps"] >= 2


async def test_a_fact_is_the_same_live_and_from_the_log_in_node(log: Log) -> None:
    async with interop.script(
        "subscribe", log.conn.config.urls[0], log.tenant, "{}", '{"from":"new"}', "2", "0"
    ) as script:
        await script.line()
        seq = await log.state({"x": [1, None]}, headers={"ce-id": "a%20b", "traceparent": TRACE, "Coord-Schema": "2"})
        await log.state({"y": 2}, event="scanned.deep")
        live = [(await script.line())["fact"] for _ in range(2)]
    async with interop.script(
        "subscribe", log.conn.config.urls[0], log.tenant, "{}", json.dumps({"from_seq": seq}), "2", "0"
    ) as script:
        await script.line()
        read = [(await script.line())["fact"] for _ in range(2)]
    for one, other in zip(live, read, strict=True):
        assert {k: v for k, v in other.items() if k in one and not k.endswith("_at")} == {
            k: v for k, v in one.items() if k != "partition" and not k.endswith("_at")
        }
        for time in ("stored_at", "occurred_at"):
            assert datetime.fromisoformat(one[time]) == datetime.fromisoformat(other[time])


async def test_node_sees_errors_with_their_code(log: Log) -> None:
    async with interop.script("read", log.conn.config.urls[0], log.tenant, '{"from_seq":999999999}') as script:
        error = (await script.line())["error"]
    assert error["code"] == "subscribe.replaced"
    assert error["details"]["wanted"] == 999999999


def test_the_lock_names_no_registry() -> None:
    lock = (interop.FOLDER / "package-lock.json").read_text()
    assert not re.search(r"https?://", lock)
    assert "resolved" not in lock
    packages = json.loads(lock)["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)
