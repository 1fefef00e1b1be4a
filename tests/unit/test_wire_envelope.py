"""Facts and samples, single messages: what is written, what is read, what is refused."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from coord import limits
from coord.errors import (
    InvalidEnvelope,
    InvalidPayload,
    InvalidSubject,
    InvalidToken,
    PayloadTooLarge,
    Unauthorised,
    UnknownSchema,
    WireError,
)
from coord.wire import ids, subjects
from coord.wire.envelope import (
    Encoded,
    Fact,
    Poison,
    Sample,
    StoredFact,
    StoredSample,
    decode_message,
    encode_fact,
    encode_sample,
)

AT = datetime(2026, 11, 21, 10, 0, 0, 123_456, tzinfo=UTC)
NOW = datetime(2026, 11, 21, 10, 0, 1, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def stored(message: Encoded) -> str:
    return subjects.parse_published(message.subject).stored


def read(message: Encoded) -> Any:
    (row,) = decode_message(stored(message), message.header_block(), message.body, 7, NOW)
    return row


def encode(fact: Fact, **changes: Any) -> Encoded:
    return encode_fact(fact, **{"tenant": "acme", "agent": "a1", "event_id": "e-1", "occurred_at": AT, **changes})


@pytest.mark.parametrize("content", ["json", "msgpack"])
def test_a_fact_there_and_back(content):
    fact = Fact(
        kind="task",
        id="t1",
        event="submitted",
        key="wf-7",
        detail=("sum", "high"),
        data={"doc": "ä", "n": [1, 2.5, None]},
        event_id='id 1 "%"',
        occurred_at=AT.astimezone(timezone(timedelta(hours=5, minutes=30))),
        correlation_id="c ü",
        causation_id="c/1",
        traceparent=TRACE,
        type="com.example.submitted",
    )
    message = encode(fact, content=content)
    assert message.subject == "coord.ev.acme.a1.wf-7.task.t1.submitted.sum.high"
    assert message.msg_id == message.headers["Nats-Msg-Id"] == "acme.a1.id%201%20%22%25%22"
    row = read(message)
    assert isinstance(row, StoredFact)
    assert row.subject == fact.subject("acme", "a1")
    assert (row.seq, row.index, row.partition) == (7, 0, subjects.partition("wf-7"))
    assert (row.stored_at, row.occurred_at) == (NOW, AT)
    assert (row.event_id, row.correlation_id, row.causation_id) == ('id 1 "%"', "c ü", "c/1")
    assert (row.traceparent, row.type, row.schema) == (TRACE, "com.example.submitted", 1)
    assert row.data == fact.data
    assert row.content == content
    assert msgspec.json.decode(row.json_text) == fact.data


@pytest.mark.parametrize("content", ["json", "msgpack"])
def test_defaults(content):
    row = read(encode(Fact(kind="note", id="n1", event="taken"), content=content))
    assert (row.key, row.detail, row.event_id, row.type) == ("n1", (), "e-1", "coord.note.taken")
    assert (row.occurred_at, row.correlation_id, row.causation_id, row.traceparent) == (AT, None, None, None)
    assert (row.body, row.data, row.json_text) == (b"", None, "null")


def test_the_headers_are_cloudevents():
    message = encode(Fact(kind="note", id="n1", event="taken", data={}))
    assert message.headers == {
        "ce-specversion": "1.0",
        "ce-id": "e-1",
        "ce-source": "/acme/a1",
        "ce-time": "2026-11-21T10:00:00.123456Z",
        "ce-datacontenttype": "application/json",
        "Nats-Msg-Id": "acme.a1.e-1",
        "ce-type": "coord.note.taken",
    }


@pytest.mark.parametrize(
    ("fact", "error"),
    [
        (Fact(kind="Task", id="t1", event="done"), InvalidToken),
        (Fact(kind="note", id="", event="taken"), InvalidToken),
        (Fact(kind="note", id="n1", event="taken", key=""), InvalidToken),
        (Fact(kind="note", id="n1", event="taken", detail=("A",)), InvalidToken),
        (Fact(kind="note", id="n1", event="taken", detail=("a",) * 5), InvalidSubject),
        (Fact(kind="agent", id="a2", event="status"), Unauthorised),
        (Fact(kind="timer", id="t1", event="fired"), Unauthorised),
        (Fact(kind="note", id="n1", event="taken", data=float("nan")), InvalidPayload),
        (Fact(kind="note", id="n1", event="taken", data="x" * 2_000_000), PayloadTooLarge),
        (Fact(kind="note", id="n1", event="taken", event_id="x" * 129), InvalidEnvelope),
        (Fact(kind="note", id="n1", event="taken", event_id="\ud800"), InvalidEnvelope),
        (Fact(kind="note", id="n1", event="taken", correlation_id=""), InvalidEnvelope),
        (Fact(kind="note", id="n1", event="taken", causation_id="x" * 1025), InvalidEnvelope),
        (Fact(kind="note", id="n1", event="taken", type="ä" * 400), InvalidEnvelope),
        (Fact(kind="note", id="n1", event="taken", traceparent="00-abc"), InvalidEnvelope),
        (Fact(kind="note", id="n1", event="taken", occurred_at=datetime(2026, 1, 1)), InvalidEnvelope),
        (Fact(kind="note", id="n1", event="taken", schema=0), InvalidEnvelope),
        (Fact(kind="task", id="t1", event="submitted", schema=2), UnknownSchema),
    ],
    ids=repr,
)
def test_the_author_is_told_at_once(fact, error):
    with pytest.raises(error):
        encode(fact)


def test_longest_values_still_fit():
    fact = Fact(
        kind="k" * 64,
        id="i" * 64,
        event="e" * 64,
        key="y" * 64,
        detail=("d" * 64,) * 4,
        event_id="ä" * 64,
        correlation_id="ä" * 512,
        causation_id="€" * 341,
        type="t" * 1024,
        traceparent=TRACE,
        schema=limits.SCHEMA_VERSION_MAX,
    )
    row = read(encode(fact, tenant="t" * 64, agent="a" * 64))
    assert isinstance(row, StoredFact), row.error
    assert (row.event_id, row.correlation_id, row.causation_id) == ("ä" * 64, "ä" * 512, "€" * 341)
    assert row.schema == limits.SCHEMA_VERSION_MAX


def test_samples_as_single_messages():
    sample = Sample(series="llm.tokens", value=12, data={"model": "m", "cached": False, "n": None})
    message = encode_sample(sample, tenant="acme", agent="a1", event_id="s-1", occurred_at=AT)
    assert (message.subject, message.msg_id) == ("coord.tel.acme.a1.llm.tokens", "acme.a1.s-1")
    row = read(message)
    assert isinstance(row, StoredSample)
    assert (row.value, row.data, row.occurred_at) == (12.0, sample.data, AT)
    bare = encode_sample(Sample(series="cpu", value=0.5), tenant="acme", agent="a1", event_id="s", occurred_at=AT)
    assert bare.body == b"0.5"
    row = read(bare)
    assert (row.value, row.data, row.json_text) == (0.5, None, None)
    with pytest.raises(InvalidToken):
        encode_sample(Sample(series="a..b", value=1), tenant="acme", agent="a1", event_id="s", occurred_at=AT)
    with pytest.raises(InvalidSubject):
        encode_sample(Sample(series="a.b.c.d.e", value=1), tenant="acme", agent="a1", event_id="s", occurred_at=AT)


def test_poison_names_what_can_be_named():
    (row,) = decode_message("coord.log.7.acme.me.agent.me.me.status", None, b"{", 11, NOW)
    assert isinstance(row, Poison)
    assert (row.seq, row.index, row.tenant, row.agent, row.body) == (11, 0, "acme", "me", b"{")
    assert row.error.code == "wire.payload"
    (row,) = decode_message("nonsense", None, b"{", 11, NOW)
    assert isinstance(row, Poison)
    assert (row.tenant, row.agent) == (None, None)


@pytest.mark.parametrize(
    ("body", "believed"),
    [
        (b'{"stream":"EVENTS","seq":3}', False),
        (b'{"stream":"EVENTS","domain":"hub","seq":3,"duplicate":true}', False),
        (b'{"error":{"code":400,"err_code":10071},"stream":"EVENTS","seq":0}', False),
        (b'{"type":"io.nats.jetstream.api.v1.stream_info_response"}', False),
        (b'{"type":"io.nats.micro.v1.ping_response","name":"x"}', False),
        (b'{"stream":"EVENTS","seq":3,"text":"mine"}', True),
        (b'{"stream":"EVENTS"}', True),
        (b'{"type":7}', True),
        (b'["stream","seq"]', True),
    ],
)
def test_an_answer_of_the_server_is_no_bare_fact(body, believed):
    subject = subjects.FactSubject("acme", "a1", "n1", "note", "n1", "taken").stored
    (row,) = decode_message(subject, None, body, 1, NOW)
    assert isinstance(row, StoredFact if believed else Poison)
    # Whoever means it says so with a header; the server's answers to a publish have none.
    assert isinstance(decode_message(subject, b"NATS/1.0\r\nce-id: 1\r\n\r\n", body, 1, NOW)[0], StoredFact)


def test_too_large_a_body():
    subject = subjects.FactSubject("acme", "a1", "n1", "note", "n1", "taken").stored
    fits = b'"' + b"x" * (limits.EVENT_BYTES_MAX - 2) + b'"'
    assert isinstance(decode_message(subject, None, fits, 1, NOW)[0], StoredFact)
    (row,) = decode_message(subject, None, fits + b" ", 1, NOW)
    assert isinstance(row, Poison)
    assert row.error.code == "wire.too_large"


def test_too_large_headers():
    subject = subjects.FactSubject("acme", "a1", "n1", "note", "n1", "taken").stored
    (row,) = decode_message(subject, b"NATS/1.0\r\nx: " + b"y" * limits.HEADERS_BYTES_MAX + b"\r\n\r\n", b"", 1, NOW)
    assert isinstance(row, Poison)
    assert row.error.code == "wire.envelope"


def test_a_defect_of_the_decoder_is_poison_too(monkeypatch):
    def defective(*_: object) -> object:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(subjects, "parse_stored", defective)
    (row,) = decode_message("coord.log.7.acme.me.agent.me.me.status", None, b"{}", 11, NOW)
    assert isinstance(row, Poison)
    assert row.error.code == WireError.code
    assert "ZeroDivisionError" in str(row.error)


def test_running_out_of_memory_is_not_the_senders_fault(monkeypatch):
    def exhausted(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr(subjects, "parse_stored", exhausted)
    with pytest.raises(MemoryError):
        decode_message("coord.log.7.acme.me.agent.me.me.status", None, b"{}", 11, NOW)


def test_uuid7():
    first = ids.uuid7(1_795_255_200_123, 0)
    assert ids.unix_ms_of(first) == 1_795_255_200_123
    assert ids.uuid7(1_795_255_200_123, (1 << 80) - 1) > first
    assert ids.uuid7(1_795_255_200_124, 0) > ids.uuid7(1_795_255_200_123, (1 << 80) - 1)
    # The example of RFC 9562, appendix A.6.
    assert ids.uuid7(0x017F22E279B0, 0xCC3 << 68 | 0x18C4DC0C0C07398F) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    for bad in (-1, 1 << 48):
        with pytest.raises(ValueError):
            ids.uuid7(bad, 0)
    with pytest.raises(ValueError):
        ids.unix_ms_of("00000000-0000-4000-8000-000000000000")


def test_counted_ids():
    first = ids.counted_id(0, 0)
    found = uuid.UUID(ids.counted_id((1 << ids.SESSION_BITS) - 1, ids.COUNT_MAX))
    assert (found.version, found.variant) == (8, uuid.RFC_4122)
    assert uuid.UUID(first).int | found.int == found.int
    assert (uuid.UUID(first).int ^ found.int).bit_count() == ids.SESSION_BITS + 48, (
        "the version's and variant's 6 are fixed"
    )
    for session, count in ((-1, 0), (1 << ids.SESSION_BITS, 0), (0, -1), (0, ids.COUNT_MAX + 1)):
        with pytest.raises(ValueError):
            ids.counted_id(session, count)


def test_derived_ids_are_what_the_protocol_says():
    assert ids.derive_id("acme", "wf-7", "review@3", "parse", 1, 0) == "wf-7:review@3:parse:1.0"
    assert ids.derive_id("acme", "wf-7", "rules/x", "a:b/decided", 1, 0) == "wf-7:rules/x:a:b/decided:1.0"
    for fields in (
        ("acme", "a:b", "c", "d", 1, 0), ("acme", "a", "b:c", "d", 1, 0), ("acme", "wf", "1", "say it", 1, 0),
        ("acme", "wf", "1", 'say"it', 1, 0), ("acme", "wf", "1", "50%", 1, 0), ("acme", "wf", "1", "ü", 1, 0),
        ("acme", "wf", "1", "x" * 120, 1, 0), ("acme", "wf", "1", "line\n", 1, 0),
    ):  # fmt: skip
        assert ids.derive_id(*fields) == ids.hashed_id(*fields), fields


def test_hashed_ids_are_what_the_protocol_says():
    text = b"coord/derived/1" + b"4:acme,4:wf-7,8:review@3,5:parse,1:1,1:0,"
    expected = uuid.UUID(bytes=hashlib.sha256(text).digest()[:16])
    found = uuid.UUID(ids.hashed_id("acme", "wf-7", "review@3", "parse", 1, 0))
    assert found.version == 8
    assert found.variant == uuid.RFC_4122
    mask = ~(0xF << 76 | 0x3 << 62)
    assert found.int & mask == expected.int & mask
    # Lengths keep neighbouring fields apart.
    assert ids.hashed_id("a", "bc", "d", "e", 1, 0) != ids.hashed_id("ab", "c", "d", "e", 1, 0)
    assert ids.hashed_id("a", "b", "c", "d", 11, 0) != ids.hashed_id("a", "b", "c", "d", 1, 10)
