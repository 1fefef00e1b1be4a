"""The log reader, asked as any client would: over NATS, against a real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from coord import errors, limits
from coord.bus import rpc
from coord.bus.direct import Batch
from coord.core.subscription import Position
from coord.query import reader as query_reader
from coord.query.reader import LogReader
from coord.wire import headers as wire_headers
from coord.wire import log_api, republished, subjects
from coord.wire.codec import FRAME_TYPE
from coord.wire.envelope import Poison, StoredFact, decode_message
from tests.support.log import Log, open_log, query_service
from tests.support.waiting import until


@pytest.fixture
async def log(nats_server) -> AsyncIterator[Log]:
    async with open_log(nats_server.url) as log, query_service(nats_server.url):
        yield log


async def ask(log: Log, method: str = "read", *, tenant: str | None = None, **request: Any) -> dict[str, Any]:
    """As a plain client does: JSON without any header."""
    message = await log.conn.request(
        subjects.rpc(tenant or log.tenant, "log", method), msgspec.json.encode(request) if request else b""
    )
    answer: dict[str, Any] = msgspec.json.decode(message.data)
    if "Nats-Service-Error-Code" in message.headers:
        raise rpc.rebuild(answer)
    return answer


async def read_all(log: Log, **request: Any) -> list[dict[str, Any]]:
    facts: list[dict[str, Any]] = []
    while True:
        page = await ask(log, **request)
        facts += page["facts"]
        assert all(f["seq"] <= page["last_seq"] for f in page["facts"])
        if page["next_seq"] > page["last_seq"]:
            return facts
        request = {k: v for k, v in request.items() if k not in {"from", "from_time"}}
        request |= {"from_seq": page["next_seq"], "from_index": page["next_index"]}


async def test_a_plain_client_reads_facts_as_json(log: Log) -> None:
    seq = await log.state({"lines": 3}, kind="file", event="scanned", id="a-py")
    page = await ask(log, **{"from": "first"}, filter={"kind": "file"})
    (fact,) = page["facts"]
    assert fact == fact | {
        "seq": seq,
        "index": 0,
        "tenant": log.tenant,
        "agent": "a1",
        "key": "a-py",
        "kind": "file",
        "id": "a-py",
        "event": "scanned",
        "detail": [],
        "subject": subjects.FactSubject(log.tenant, "a1", "a-py", "file", "a-py", "scanned").stored,
        "event_id": f"events-{seq}",
        "type": "coord.file.scanned",
        "schema": 1,
        "data": {"lines": 3},
    }
    assert page["up_to"] == page["last_seq"] == page["next_seq"] - 1
    assert page["next_index"] == 0


async def test_pages_hold_every_match_once_and_say_where_to_go_on(log: Log, rng: random.Random) -> None:
    stated: list[int] = []
    for n in range(23):
        seq = await log.state(n, id=f"f{n % 3}", kind=rng.choice(["file", "other"]))
        stated.append(seq)
    facts = await read_all(log, from_seq=stated[0], max=4)
    assert [f["seq"] for f in facts] == stated
    assert [f["data"] for f in facts] == list(range(23))
    only = await read_all(log, from_seq=stated[0], max=3, filter={"kind": "file", "id": "f1"})
    assert [f["seq"] for f in only] == [f["seq"] for f in facts if f["kind"] == "file" and f["id"] == "f1"]


async def test_an_event_is_found_with_and_without_detail_in_log_order(log: Log) -> None:
    seqs = []
    for n in range(12):
        event = "scanned" if n % 3 else "scanned.deep.twice"
        seqs.append(await log.state(n, event=event))
        await log.state("another event", event="skipped")
    facts = await read_all(log, from_seq=seqs[0], max=5, filter={"event": "scanned"})
    assert [f["seq"] for f in facts] == seqs
    assert facts[0]["detail"] == ["deep", "twice"]


@pytest.mark.parametrize("field", ["key", "kind", "id", "agent", "event"])
async def test_every_filter_field_selects(log: Log, field: str) -> None:
    where: dict[str, Any] = {"key": "k1", "kind": "file", "id": "i1", "agent": "a1", "event": "scanned"}
    wanted = await log.state("wanted", **where)
    await log.state("other", **(where | {field: "different"}))
    facts = await read_all(log, from_seq=wanted, filter={field: where[field]})
    assert [f["data"] for f in facts] == ["wanted"]


async def test_no_request_leaves_its_tenant(log: Log) -> None:
    seq = await log.state("mine")
    other = Log(log.conn, log.tenant + "x")
    await other.state("theirs")
    await other.state("theirs", event="scanned.deep")
    for request in ({}, {"filter": {"kind": "file"}}, {"filter": {"event": "scanned", "id": "f1"}}):
        facts = await read_all(log, from_seq=seq, **request)
        assert [f["data"] for f in facts] == ["mine"]
    for value in ("*", ">", "a.b", f"x.>.{other.tenant}", "", "A", "ü", "x" * 65, "a b", "a\r\n"):
        for field in ("key", "kind", "id", "agent", "event"):
            with pytest.raises(errors.InvalidToken):
                await ask(log, from_seq=seq, filter={field: value})
    with pytest.raises(errors.InvalidRequest):
        await ask(log, from_seq=seq, filter={"tenant": other.tenant})
    # Wildcards and foreign tokens in the tenant's place of the subject: nobody answers or it is refused.
    for tenant in ("*", ">", "UPPER"):
        message = await log.conn.request(f"coord.rpc.{tenant}.log.read", b'{"from":"first"}', timeout_s=60)
        assert message.headers["Nats-Service-Error-Code"] == "500"
        assert msgspec.json.decode(message.data)["code"] in {"wire.token", "wire.subject"}


async def test_a_frame_may_be_read_in_parts(log: Log) -> None:
    seq = await log.state(
        subject=log.subject("agent", "status", "a1"), body=frame(7), headers={wire_headers.CONTENT_TYPE: FRAME_TYPE}
    )
    after = await log.state("after")
    facts = await read_all(log, from_seq=seq, max=3)
    assert [(f["seq"], f["index"]) for f in facts] == [*((seq, n) for n in range(7)), (after, 0)]
    assert [f["data"] for f in facts[:7]] == [{"load": n} for n in range(7)]
    page = await ask(log, from_seq=seq, from_index=5, max=1)
    assert [f["index"] for f in page["facts"]] == [5]
    assert (page["next_seq"], page["next_index"], page["up_to"]) == (seq, 6, seq - 1)


def frame(count: int) -> bytes:
    return msgspec.msgpack.encode([1, 1_700_000_000_000_000, [[n, {"load": n}] for n in range(count)]])


async def test_poison_is_skipped_and_counted(log: Log) -> None:
    first = await log.state("good")
    await log.state(body=b"{not json")
    await log.state("wrong author", subject=log.subject("agent", "gone", "a2", agent="a1"))
    await log.state(body=b"\xff\xfe", headers={wire_headers.CONTENT_TYPE: FRAME_TYPE})
    await log.state("also good")
    page = await ask(log, from_seq=first)
    assert [f["data"] for f in page["facts"]] == ["good", "also good"]
    assert page["skipped"] == 3


async def test_reading_from_a_time(log: Log) -> None:
    await log.state("before")
    seq = await log.state("then")
    (fact,) = (await ask(log, from_seq=seq))["facts"]
    stored_at = datetime.fromisoformat(fact["stored_at"])
    facts = await read_all(log, from_time=stored_at.isoformat())
    assert [f["data"] for f in facts] == ["then"]
    later = await ask(log, from_time=(stored_at + timedelta(hours=1)).isoformat())
    assert later["facts"] == []
    assert later["next_seq"] == later["last_seq"] + 1


async def test_new_is_where_the_log_ends(log: Log) -> None:
    seq = await log.state("old")
    page = await ask(log, **{"from": "new"})
    assert (page["facts"], page["next_seq"]) == ([], seq + 1)
    info = await ask(log, "info")
    assert info["last_seq"] == seq
    assert info["created"] == page["created"]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"from_seq": 1, "from": "new"},
        {"from_seq": 0},
        {"from_seq": -1},
        {"from": "first", "from_index": 3},
        {"from_seq": 1, "from_index": -1},
        {"from_seq": 1, "max": 0},
        {"from_seq": 1, "max": limits.READ_PAGE_FACTS_MAX + 1},
        {"from_time": "2026-01-01T00:00:00"},
    ],
)
async def test_senseless_requests_are_refused(log: Log, request_: dict[str, Any]) -> None:
    with pytest.raises(errors.QueryError):
        await ask(log, **request_)


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b"\xff", b'{"from":"yesterday"}', b'{"form":"new"}', b'"x"', b"[" * 5000]
)
async def test_unreadable_requests_are_refused(log: Log, body: bytes) -> None:
    message = await log.conn.request(subjects.rpc(log.tenant, "log", "read"), body)
    assert message.headers["Nats-Service-Error-Code"] == "400"
    assert msgspec.json.decode(message.data)["code"] == "rpc.invalid"


async def test_a_position_outside_the_log_is_an_error(start_nats) -> None:
    server = await start_nats()
    async with open_log(server.url) as log, query_service(server.url):
        for n in range(10):
            await log.state(n)
        await log.conn.api("STREAM.PURGE.EVENTS", {"seq": 6})
        with pytest.raises(errors.LogTrimmed) as trimmed:
            await ask(log, from_seq=5)
        assert trimmed.value.details == {"wanted": 5, "first_seq": 6}
        assert [f["data"] for f in await read_all(log, from_seq=6)] == [5, 6, 7, 8, 9]
        with pytest.raises(errors.LogTrimmed) as too_early:
            await ask(log, from_time="2020-01-01T00:00:00Z")
        assert too_early.value.details["first_seq"] == 6
        with pytest.raises(errors.LogReplaced):
            await ask(log, from_seq=12)
        assert (await ask(log, from_seq=11))["facts"] == []
        await log.conn.api("STREAM.PURGE.EVENTS")
        with pytest.raises(errors.LogTrimmed):
            await ask(log, from_time="2020-01-01T00:00:00Z")
        assert (await ask(log, **{"from": "first"}))["next_seq"] == 11


async def test_an_empty_log_is_no_error(start_nats) -> None:
    server = await start_nats()
    async with open_log(server.url) as log, query_service(server.url):
        for request in ({"from": "first"}, {"from": "new"}, {"from_seq": 1}, {"from_time": "2020-01-01T00:00:00Z"}):
            page = await ask(log, **request)
            assert (page["facts"], page["next_seq"], page["last_seq"]) == ([], 1, 0)


async def test_answers_fit_into_a_message_and_the_largest_fact_is_served(start_nats) -> None:
    server = await start_nats(max_payload=1 * limits.MIB)
    async with open_log(server.url) as log, query_service(server.url):
        sizes = [300_000, 300_000, limits.EVENT_BYTES_MAX - 2, 300_000, 100]
        for size in sizes:
            await log.state(body=b'"' + b"x" * size + b'"')
        facts = await read_all(log, from_seq=1)
        assert [len(f["data"]) for f in facts] == sizes
        # MessagePack that does not fit once it is JSON: said, and served as MessagePack.
        blob = msgspec.msgpack.encode(b"\xff" * 900_000)
        seq = await log.state(body=blob, headers={wire_headers.CONTENT_TYPE: "application/msgpack"})
        with pytest.raises(errors.PayloadTooLarge) as too_large:
            await ask(log, from_seq=seq)
        assert too_large.value.details["seq"] == seq
        subject = subjects.rpc(log.tenant, "log", "read")
        page = await rpc.call(log.conn, subject, {"from_seq": seq}, log_api.Page)
        fact = msgspec.msgpack.decode(page.facts[0], type=log_api.PackedFact).unpack()
        assert fact.data == b"\xff" * 900_000


async def test_a_subscriber_gets_from_the_log_what_it_would_have_got_live(log: Log) -> None:
    """One message of every make: decoded live and read as a page, the facts are equal."""
    live: list[StoredFact] = []

    def receive(message: Any) -> None:
        part = republished.split(message.raw_headers)
        for entry in decode_message(part.subject, part.headers, message.data, part.seq, part.stored_at):
            assert not isinstance(entry, Poison), entry
            assert isinstance(entry, StoredFact)
            live.append(entry)

    await log.conn.subscribe(subjects.live_filter(log.tenant), receive)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    first = await log.state({"bare": [1, 2.5, None, "ä€😀"]})
    await log.state(body=b"")
    await log.state(
        {"with": "headers"},
        headers={
            "ce-specversion": "1.0",
            "ce-id": "id%20with%20spaces",
            "ce-source": f"/{log.tenant}/a1",
            "ce-type": "com.example.scanned",
            "ce-time": "2026-01-02T03:04:05.678901+02:00",
            "traceparent": trace,
            "Coord-Correlation": "c1",
            "Coord-Causation": "c0",
            "Coord-Schema": "3",
        },
    )
    packed = {"bytes": b"\x00\xff", "time": datetime(2026, 1, 2, tzinfo=UTC), "n": 1}
    await log.state(
        body=msgspec.msgpack.encode(packed), headers={wire_headers.CONTENT_TYPE: "application/msgpack", "ce-id": "m"}
    )
    await log.state(
        subject=log.subject("agent", "status", "a1"), body=frame(3), headers={wire_headers.CONTENT_TYPE: FRAME_TYPE}
    )
    last = await log.state("last")
    page = await rpc.call(log.conn, subjects.rpc(log.tenant, "log", "read"), {"from_seq": first}, log_api.Page)
    facts = [msgspec.msgpack.decode(raw, type=log_api.PackedFact).unpack() for raw in page.facts]
    await until(lambda: live and live[-1].seq == last)
    assert facts == live
    assert len(facts) == 8


async def test_the_end_is_confirmed_by_the_leader_when_a_replica_lags(log: Log, rng: random.Random) -> None:
    """Whatever suffix the replica that answers the batch lacks, no page vouches for what it did not return."""
    seqs = [await log.state(n, event=rng.choice(["scanned", "scanned.deep", "skipped"])) for n in range(20)]
    reader = LogReader(log.conn)
    whole = reader._direct.batch

    async def lagging(*args: Any, **kwargs: Any) -> Batch:
        batch = await whole(*args, **kwargs)
        known = rng.choice([0, 1, 5, 20])
        kept = [m for m in batch.messages if m.seq <= seqs[0] + known]
        return Batch(kept, batch.pending if len(kept) == len(batch.messages) else 0)

    reader._direct.batch = lagging  # type: ignore[method-assign]
    try:
        scanned = [f["seq"] for f in await read_all(log, from_seq=seqs[0], filter={"event": "scanned"})]
        for event, expected in ((None, seqs), ("scanned", scanned)):
            got: list[int] = []
            position, filters = Position(seqs[0]), subjects.log_filters(log.tenant, event=event)
            while True:
                page = await reader.read(filters, position, messages_max=7)
                got += [f.seq for f in page.facts]
                assert page.next >= position
                position = page.next
                if position.seq > page.info.last_seq:
                    break
            assert got == expected
    finally:
        await reader.close()


async def test_replicas_share_and_cover_for_each_other(nats_server) -> None:
    async with open_log(nats_server.url) as log:
        seq = await log.state("x")
        async with query_service(nats_server.url) as one:
            async with query_service(nats_server.url) as two:
                await asyncio.gather(*(ask(log, from_seq=seq) for _ in range(60)))
                counts = [_requests(service) for service in (one, two)]
                assert min(counts) > 0
                assert sum(counts) == 60
            await asyncio.gather(*(ask(log, from_seq=seq) for _ in range(10)))
            assert _requests(one) == counts[0] + 10
        with pytest.raises(errors.ServiceUnavailable):
            await ask(log, from_seq=seq)


def _requests(service: Any) -> float:
    value = service.metrics.registry.get_sample_value(
        "coord_rpc_requests_total", {"service": "log", "method": "read", "outcome": "ok"}
    )
    return float(value or 0)


async def test_a_thousand_audits_share_their_questions_to_the_leader(log: Log) -> None:
    seq = await log.state("x")
    reader = LogReader(log.conn)
    asked = 0
    api = log.conn.api

    async def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        return await api(*args, **kwargs)

    log.conn.api = counting  # type: ignore[method-assign]
    try:
        filters = subjects.log_filters(log.tenant, kind="file")
        pages = await asyncio.gather(*(reader.read(filters, Position(seq + 1)) for _ in range(1_000)))
        assert all(page.next == Position(seq + 1) for page in pages)
        assert asked <= 3
    finally:
        log.conn.api = api  # type: ignore[method-assign]
        await reader.close()


async def test_an_entity_is_read_by_its_subjects_as_by_its_filter(
    log: Log, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short histories take the way that costs the same in any log; what they say, and what lags, is the same."""
    monkeypatch.setattr(query_reader, "_FEW_S", 60.0)
    reader = LogReader(log.conn)
    ways: list[str] = []
    few, batch = LogReader._few, LogReader._batch

    async def by_subjects(self: LogReader, *args: Any) -> Any:
        found = await few(self, *args)
        ways.append("subjects" if found is not None else "neither")
        return found

    async def by_filter(self: LogReader, *args: Any) -> Any:
        ways.append("filter")
        return await batch(self, *args)

    monkeypatch.setattr(LogReader, "_few", by_subjects)
    monkeypatch.setattr(LogReader, "_batch", by_filter)
    ids = {"none": 0, "one": 1, "some": 9, "many": 40}
    for n in rng.sample(range(100), 100):
        for id_, facts in ids.items():
            if n < facts:
                # Some subjects once, some again and again; by two agents.
                event = rng.choice(["failed", "progress", f"claimed.{n}"])
                await log.state({"n": n}, id=id_, key=id_, event=event, agent=rng.choice("ab"))
    for id_, facts in ids.items():
        (filter_subject,) = subjects.log_filters(log.tenant, key=id_, kind="file", id=rng.choice([id_, None]))
        page = await reader.read((filter_subject,), "first")
        assert ways == ["subjects"]
        scanned = await reader.read((filter_subject,), Position(max(1, page.info.first_seq)))
        assert (page.facts, len(page.facts)) == (scanned.facts, facts)
        assert page.next.seq == page.info.last_seq + 1
        # As many as are asked for, and what a replica does not have yet, take the other way.
        ways.clear()
        assert len((await reader.read((filter_subject,), "first", messages_max=5)).facts) == min(5, facts)
        ways.clear()
    whole = reader._direct.batch

    async def nothing(*_: Any, **__: Any) -> Batch:
        return Batch([])

    async def lagging(stream: str, wanted: str, **kwargs: Any) -> Batch:
        return await whole(stream, wanted, **kwargs) if wanted.endswith(">") else Batch([])

    monkeypatch.setattr(reader._direct, "last_of_each", nothing)
    monkeypatch.setattr(reader._direct, "batch", lagging)
    (filter_subject,) = subjects.log_filters(log.tenant, key="one", kind="file", id="one")
    assert len((await reader.read((filter_subject,), "first")).facts) == 1
    assert ways == ["neither", "filter"]
    await reader.close()


async def test_a_key_of_many_entities_costs_few_requests_before_it_takes_the_long_way(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not short is found out by the broker's refusal, once; the index's whole answer is never asked for."""
    monkeypatch.setattr(query_reader, "_FEW_S", 60.0)
    reader = LogReader(log.conn)
    asked: list[str] = []
    api, batch = log.conn.api, reader._direct.batch

    async def counting(subject: str, request: Any = None, **kwargs: Any) -> Any:
        asked.extend(["counts"] if request else [])
        return await api(subject, request, **kwargs)

    async def reading(stream: str, wanted: str, **kwargs: Any) -> Batch:
        asked.append("subject" if not {"*", ">"}.intersection(wanted.split(".")) else "scan")
        return await batch(stream, wanted, **kwargs)

    await asyncio.gather(*(log.state(n, key="many", id=f"e{n}") for n in range(1_030)))
    for id_, several in (("some", 8), ("more", 9)):
        for n in range(2 * several):
            await log.state(n, key=id_, id=id_, event=f"claimed.{n % several}")
    monkeypatch.setattr(log.conn, "api", counting)
    monkeypatch.setattr(reader._direct, "batch", reading)

    async def read(key: str) -> list[Any]:
        asked.clear()
        (wanted,) = subjects.log_filters(log.tenant, key=key, kind="file")
        return [fact.body for fact in (await reader.read((wanted,), "first")).facts]

    assert len(await read("some")) == 16
    assert asked == ["counts", *["subject"] * 8]
    assert len(await read("more")) == 18
    assert asked == ["counts", "scan"]
    assert len(await read("more")) == 18
    assert asked == ["scan"]
    assert len(await read("many")) == limits.READ_PAGE_FACTS_MAX
    assert asked == ["scan"]
    await reader.close()


async def test_a_history_that_does_not_come_in_time_takes_the_long_way(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One deadline for all of it, and not the caller's: near a damaged block the broker does not answer by subject."""
    await log.state("x", key="k", id="k")
    reader = LogReader(log.conn)
    waited = 0

    async def never(*_: Any, **__: Any) -> Batch:
        nonlocal waited
        waited += 1
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(reader._direct, "last_of_each", never)
    (wanted,) = subjects.log_filters(log.tenant, key="k", kind="file", id="k")
    for _ in range(2):
        assert len((await reader.read((wanted,), "first")).facts) == 1
    assert waited == 1
    await reader.close()
