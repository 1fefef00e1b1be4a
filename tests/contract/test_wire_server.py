"""The wire against a real nats-server: subjects, partitions, header blocks, optimistic concurrency."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coord import errors
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.runtime import assets
from coord.wire import headers, ids, republished, subjects
from coord.wire.envelope import (
    Encoded,
    Fact,
    Poison,
    Sample,
    StoredFact,
    StoredSample,
    decode_message,
    encode_fact,
    encode_frame,
    parse_time,
)
from coord.wire.subjects import FactSubject, SampleSubject
from tests.support.waiting import until

if TYPE_CHECKING:
    import random

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-_"
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


@pytest.fixture
async def conn(start_nats):
    server = await start_nats()
    connection = await Connection.open(NatsConfig(urls=(server.url,)), name="wire")
    await topology.apply(connection, topology.load(assets.streams_dir(), "development"))
    yield connection
    await connection.close()


def token(rng: random.Random, *, first: str = ALPHABET) -> str:
    return rng.choice(first) + "".join(rng.choices(ALPHABET, k=rng.choice([0, 1, 4, 20, 63])))


async def publish(conn: Connection, subject: str, body: bytes, block: bytes | None = None) -> dict[str, Any]:
    """Publish and wait for the PubAck; the server's answer."""
    answer = await conn.request(subject, body, headers=block, timeout_s=60)
    ack: dict[str, Any] = json.loads(answer.data)
    return ack


async def stored(conn: Connection, stream: str, seq: int) -> dict[str, Any]:
    """The message at `seq` as the stream's leader has it."""
    answer = await conn.api(f"STREAM.MSG.GET.{stream}", {"seq": seq})
    message: dict[str, Any] = answer["message"]
    return message


def decode_stored(message: dict[str, Any]) -> list[Any]:
    raw = base64.b64decode(message["hdrs"]) if message.get("hdrs") else None
    body = base64.b64decode(message.get("data", ""))
    return decode_message(message["subject"], raw, body, message["seq"], parse_time(message["time"]))


async def test_the_servers_partitions_and_subjects_are_ours(conn, rng):
    for _ in range(400):
        detail = tuple(token(rng) for _ in range(rng.randrange(5)))
        fact = FactSubject(token(rng), token(rng), token(rng), token(rng), token(rng), token(rng), detail)
        ack = await publish(conn, fact.publish, b"{}")
        assert ack["stream"] == subjects.EVENTS, ack
        assert (await stored(conn, "EVENTS", ack["seq"]))["subject"] == fact.stored
    for _ in range(200):
        series = ".".join(token(rng) for _ in range(rng.randint(1, 4)))
        sample = SampleSubject(token(rng), token(rng), series)
        ack = await publish(conn, sample.publish, b"1")
        assert ack["stream"] == subjects.TELEMETRY, ack
        assert (await stored(conn, "TELEMETRY", ack["seq"]))["subject"] == sample.stored


async def test_facts_there_and_back(conn, rng):
    for content in ("json", "msgpack"):
        fact = Fact(
            kind="task",
            id="t1",
            event="submitted",
            key="wf-7",
            detail=("sum", "high"),
            data={"ä": [1, 2.5, None, "x" * rng.randrange(2000)]},
            correlation_id="conv 1 ü",
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        event_id = ids.uuid7(1_795_255_200_000, rng.getrandbits(80))
        message = encode_fact(fact, tenant="acme", agent="a1", event_id=event_id, occurred_at=NOW, content=content)
        ack = await publish(conn, message.subject, message.body, message.header_block())
        (row,) = decode_stored(await stored(conn, "EVENTS", ack["seq"]))
        assert isinstance(row, StoredFact)
        assert (row.subject, row.seq, row.event_id) == (fact.subject("acme", "a1"), ack["seq"], event_id)
        assert (row.data, row.occurred_at, row.correlation_id) == (fact.data, NOW, "conv 1 ü")
        # The same id again is recognised, whatever it says.
        again = await publish(conn, message.subject, b"{}", message.header_block())
        assert again == {**ack, "duplicate": True}


async def test_frames_there_and_back(conn):
    samples = [Sample(series="cpu", value=i / 8, data={"i": i}) for i in range(100)]
    for compress in (False, True):
        message = encode_frame(
            samples, tenant="acme", agent="a1", event_id=f"f-{compress}", occurred_at=NOW, compress=compress
        )
        ack = await publish(conn, message.subject, message.body, message.header_block())
        rows = decode_stored(await stored(conn, "TELEMETRY", ack["seq"]))
        assert [(r.value, r.data) for r in rows] == [(s.value, s.data) for s in samples]
        assert all(isinstance(r, StoredSample) and r.seq == ack["seq"] for r in rows)


async def test_expected_last_on_the_canonical_filters(conn):
    """The server compares these very strings; two claimants with one number: one wins."""

    def claim(agent: str, n: int) -> Encoded:
        fact = Fact(kind="task", id="t1", event="claimed", key="wf-7", detail=(str(n),))
        message = encode_fact(fact, tenant="acme", agent=agent, event_id=f"{agent}-{n}", occurred_at=NOW)
        expected = {
            headers.EXPECTED_LAST_SUBJECT_SEQ: "0",
            headers.EXPECTED_LAST_SUBJECT: subjects.event_filter("acme", "wf-7", "task", "t1", "claimed", (str(n),)),
        }
        return msgspec.structs.replace(message, headers={**message.headers, **expected})

    async def state(message: Encoded) -> int | None:
        ack = await publish(conn, message.subject, message.body, message.header_block())
        return ack["error"]["err_code"] if "error" in ack else None

    assert await state(claim("w1", 1)) is None
    assert await state(claim("w2", 1)) == 10071
    assert await state(claim("w2", 2)) is None
    # The entity's own filter counts every fact about it, whoever stated it.
    entity = subjects.entity_filter("acme", "wf-7", "task", "t1")
    fact = Fact(kind="task", id="t1", event="submitted", key="wf-7", detail=("sum", "high"))
    message = encode_fact(fact, tenant="acme", agent="scout", event_id="s-1", occurred_at=NOW)
    late = {headers.EXPECTED_LAST_SUBJECT_SEQ: "0", headers.EXPECTED_LAST_SUBJECT: entity}
    assert await state(msgspec.structs.replace(message, headers={**message.headers, **late})) == 10071
    late[headers.EXPECTED_LAST_SUBJECT_SEQ] = "2"
    assert await state(msgspec.structs.replace(message, headers={**message.headers, **late})) is None


HOSTILE = [
    None,
    b"NATS/1.0\r\nNats-Sequence: 999\r\nNats-Subject: coord.log.0.x\r\nNats-Stream: EVIL\r\nce-id: 1\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 503 x\r\nce-id: 1\r\n\r\n",
    b"NATS/1.0\r\nce-id: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\nce-id: 1\r\nce-id: 2\r\n\r\n",
    b"NATS/1.0\r\nce-id: no end",
    b"not a header block at all",
    b"\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\nce-time: yesterday\r\n\r\n",
    b"NATS/1.0\r\nx: " + b"y" * 20_000 + b"\r\n\r\n",
]


async def test_whatever_the_server_stores_is_judged_alike_by_every_reader(conn):
    """The projector reads the stream, a subscriber the republish: the same rows or the same error."""
    live: list[Any] = []
    subscription = await conn.subscribe(subjects.LIVE_ALL, live.append)
    subject = FactSubject("acme", "a1", "n1", "note", "n1", "taken")
    accepted = []
    for block in HOSTILE:
        try:
            ack = await publish(conn, subject.publish, b'{"n":1}', block)
        except errors.CoordError:  # refused by the connection or the server: nothing is stored
            continue
        if "seq" in ack:
            accepted.append((ack["seq"], block))
    await conn.flush()
    await subscription.unsubscribe()
    assert len(accepted) >= 8
    by_seq = {part.seq: (message, part) for message in live for part in (republished.split(message.raw_headers),)}
    for seq, block in accepted:
        (from_stream,) = decode_stored(await stored(conn, "EVENTS", seq))
        message, part = by_seq[seq]
        assert (part.stream, part.subject) == ("EVENTS", subject.stored)
        assert subjects.live_to_stored(message.subject) == subject.stored
        (from_live,) = decode_message(part.subject, part.headers, message.data, seq, part.stored_at)
        assert type(from_live) is type(from_stream), block
        if isinstance(from_stream, Poison):
            assert isinstance(from_live, Poison)
            assert from_live.error.code == from_stream.error.code, block
        else:
            assert from_live == from_stream


async def test_a_puback_sent_to_a_forged_reply_subject_is_nobodys_fact(conn):
    """The server does not check reply subjects: its answer to a1 is stored as a fact of a2."""
    mine = FactSubject("acme", "a1", "n1", "note", "n1", "taken")
    forged = FactSubject("acme", "a2", "t1", "task", "t1", "completed")
    stale = headers.encode({headers.EXPECTED_LAST_SUBJECT_SEQ: "77"})
    with_id = headers.encode({headers.MSG_ID: "once"})
    for block in (None, with_id, with_id, stale):  # stored, stored, a duplicate, refused
        conn.publish(mine.publish, b"{}", reply=forged.publish, headers=block)
    answers: list[bytes] = []

    async def all_stored() -> bool:
        """The server stores its answers when it gets to them: later than it acknowledges what follows."""
        answers.clear()
        kept = await conn.api("STREAM.INFO.EVENTS", {})
        for seq in range(1, kept["state"]["last_seq"] + 1):
            message = await stored(conn, "EVENTS", seq)
            (row,) = decode_stored(message)
            if message["subject"] == forged.stored:
                answers.append(base64.b64decode(message["data"]))
                assert isinstance(row, Poison), answers[-1]
                assert row.error.code == "wire.author"
            else:
                assert isinstance(row, StoredFact)
        return len(answers) >= 4

    await until(all_stored)
    assert len(answers) == 4, answers


async def test_subjects_the_server_takes_and_the_protocol_does_not(conn):
    """A wildcard subscription catches any token; the decoder refuses what is none."""
    for published in (
        "coord.ev.ACME.a1.n1.note.n1.taken",
        "coord.ev.acme.a1.n1.note.n1.tak$n",
        "coord.ev.acme.a1." + "k" * 65 + ".note.n1.taken",
        "coord.ev.acme.a1.n1.note.n1.taken.1.2.3.4.5",
        "coord.ev.acme.ä.n1.note.n1.taken",
    ):
        ack = await publish(conn, published, b"{}")
        (row,) = decode_stored(await stored(conn, "EVENTS", ack["seq"]))
        assert isinstance(row, Poison)
        assert row.error.code in ("wire.token", "wire.subject")
