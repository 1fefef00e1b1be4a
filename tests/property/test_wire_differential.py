"""The decoder with its short cuts against a plain reading of the protocol: item for item, reason for reason.

`tests.support.reference` takes no short cut.  What the package makes of a message, as facts for
subscribers and as rows for the tables, must be what the reference makes of it, for golden
vectors, for whatever the encoder writes, and for all of them with bytes changed.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coord.bus.pull import Delivery
from coord.ops.bench import workload
from coord.projector.rows import Batch
from coord.wire import authors, codec, headers, subjects
from coord.wire.envelope import Poison, StoredFact, StoredSample, decode_message
from coord.wire.subjects import FactSubject
from coord.wire.times import from_unix_us, from_unix_us_all
from tests.property.test_wire_fuzz import corpus, mutate
from tests.support import reference

NS = 1_795_255_200_123_456_789
NOW = from_unix_us(NS // 1000)
SEQ = 42
PIN = b"Nats-Pin-Id: mUoCoXXyj8JmEJBHgYQ7mY\r\n\r\n"


def item(stored: Any) -> reference.Item:
    """One decoded item as the reference writes it."""
    match stored:
        case StoredFact():
            f = stored
            assert (f.seq, f.stored_at, f.partition) == (SEQ, NOW, subjects.partition(f.key))
            return (
                "fact", f.index, f.tenant, f.agent, f.key, f.kind, f.id, f.event, ".".join(f.detail), f.event_id,
                f.type, f.schema, f.occurred_at, f.correlation_id, f.causation_id, f.traceparent, f.json_text,
            )  # fmt: skip
        case StoredSample():
            s = stored
            assert (s.seq, s.stored_at, s.partition) == (SEQ, NOW, subjects.partition(s.agent))
            return "sample", s.index, s.tenant, s.agent, s.series, s.occurred_at, s.value, s.json_text
        case Poison():
            p = stored
            return "poison", p.index, p.tenant, p.agent, p.error.code, str(p.error), p.body
    raise AssertionError(stored)


def rows(batch: Batch) -> list[reference.Item]:
    """The rows of a batch of one message as the reference writes them."""
    found: list[reference.Item] = []
    for e in batch.events:
        assert e[:3] == (NOW, 1, SEQ)
        assert e[4] == batch.partition
        found.append(("fact", e[3], *e[5:15], *e[15:]))
    for s in batch.samples:
        assert s[:3] == (NOW, 1, SEQ)
        found.append(("sample", s[3], *s[5:]))
    for letter in batch.letters:
        r = letter.row
        assert (r.seq, r.stored_at) == (SEQ, NOW)
        found.append(("poison", r.idx, r.tenant, r.agent, r.code, r.reason, letter.body))
    return sorted(found, key=lambda i: i[1])


def exact(items: list[reference.Item]) -> list[list[tuple[type, str]]]:
    """Comparable, NaN-proof, and with types: 1 is not 1.0 and a time has its zone."""
    return [[(type(field), repr(field)) for field in i] for i in items]


def check(subject: str, raw: bytes | None, body: bytes) -> str:
    """Hold all readings of one message against each other; what kind of items it has."""
    wanted = reference.decode(subject, raw, body, SEQ, NOW)
    assert exact([item(i) for i in decode_message(subject, raw, body, SEQ, NOW)]) == exact(wanted)
    batch = Batch("EVENTS", 3, 1)
    batch.add(delivery(subject, raw, body))
    assert exact(rows(batch)) == exact(wanted)
    assert tags(batch) == reference_tags(wanted)
    return "+".join(sorted({i[0] for i in wanted}))


def delivery(subject: str, raw: bytes | None, body: bytes) -> Delivery:
    return Delivery(SEQ, NS, subject, raw, body)


def tags(batch: Batch) -> dict[str, set[str]]:
    return {tenant: set(found or ()) for tenant, found in batch.tags.items()}


def reference_tags(items: list[reference.Item]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for i in items:
        if i[0] == "fact":
            tenant, _, key, kind, id_ = i[2:7]
            found.setdefault(tenant, set()).update((f"{kind}:{id_}", f"key:{key}", f"kind:{kind}"))
        elif i[0] == "sample":
            found.setdefault(i[2], set()).add(f"series:{i[3]}.{i[4]}")
    return found


def usual() -> list[tuple[str, bytes | None, bytes]]:
    """What coord's own encoder writes, of every kind there is."""
    agents = ["a1", "agent-2"]
    encoded = [
        *workload.encoded_facts(20, workload.bodies(), agents),
        *workload.sample_frames(3, workload.numbers(), agents),
        *workload.progress_frames(3, agents),
    ]
    made: list[tuple[str, bytes | None, bytes]] = [
        (subjects.parse_published(e.subject).stored, e.header_block(), e.body) for e in encoded
    ]
    own = made[0]
    assert own[1] is not None
    extras = (
        b"Coord-Correlation: c-1\r\n",
        b"Coord-Correlation: c-1\r\nCoord-Causation: acme/a:7\r\n",
        b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
        b"Coord-Schema: 7\r\n",
        b"Coord-Schema: 07\r\n",
        b"Coord-Schema: 9999999\r\n",
        b"Nats-Pin-Id: forged\r\n",
        b"Nats-Expected-Last-Subject-Sequence: 0\r\n",
    )
    made += [(own[0], own[1][:-2] + extra + b"\r\n", own[2]) for extra in extras]
    made += [(own[0], own[1], body) for body in BODIES]
    made += [(own[0], None, body) for body in BODIES]
    return made


BODIES = [
    b"",
    b"null",
    b"{}",
    b" 1 ",
    b'{"stream":"EVENTS","seq":7}',
    b'{"type":"io.nats.jetstream.api.v1.pub_ack_response"}',
    b'{"a":"\\u0000"}',
    b'{"a":"\\\\u0000"}',
    b'{"a":"\\ud83d\\ude00"}',
    b'{"a":"\\ud800"}',
    b'{"a":"\xc3\xa4"}',
    b'{"a":"\xff"}',
    b'{"a":"\x00"}',
    b"1e308",
    b"1e309",
    b"[1e400]",
    b"1e-400",
    b"1e-401",
    b"1E-401",
    b"0e401",
    b"-0.0E+0000000401",
    b'{"a":"1e-500","b":1}',
    b'{"id":"89b28a180c5166f0e9b4649035780c8fb0e-9e","x":1.5e-7}',
    b"9" * 1000,
    b"9" * 1001,
    b'"' + b"9" * 1001 + b'"',
    b"1." + b"9" * 1001,
    b"2" + b"0" * 309 + b".5",
    b"1" + b"0" * 5000,
    b"[" * 64 + b"]" * 64,
    b"[" * 65 + b"]" * 65,
    b'{"a":' * 65 + b"1" + b"}" * 65,
    b"[" + b"[]," * 100 + b"[]]",
    b'"' + b"[" * 100 + b'"',
    b'{"t":true,"f":false,"n":null,"e":"e"}',
    b"NaN",
    b"01",
    b"[1,]",
    b'{"a":1}x',
    b"\xef\xbb\xbf1",
]


@pytest.mark.parametrize("at", range(len(usual())))
def test_what_the_encoder_writes(at):
    check(*usual()[at])


def test_golden_vectors():
    kinds = [check(*message) for message in corpus()]
    assert {"fact", "sample", "poison"} <= set(kinds)


def test_mutations(rng):
    messages = corpus() + usual()
    outcomes: dict[str, int] = {}
    for _ in range(4_000):
        subject, raw, body = rng.choice(messages)
        if rng.random() < 0.2:
            subject = mutate(subject.encode(), rng).decode("utf-8", "backslashreplace")
        if raw is not None and rng.random() < 0.6:
            raw = (mutate if rng.random() < 0.3 else swap)(raw, rng)
        if rng.random() < 0.4:
            body = (mutate if rng.random() < 0.5 else swap)(body, rng)
        outcome = check(subject, raw, body)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(outcomes)
    assert min(outcomes.get(kind, 0) for kind in ("poison", "fact", "sample")) > 10, outcomes


def test_a_batch_is_what_its_messages_are(rng):
    """Filled at once, in turns, and message by message."""
    messages = [rng.choice(corpus() + usual()) for _ in range(300)]
    messages = [(s, r if r is None or rng.random() < 0.8 else swap(r, rng), b) for s, r, b in messages]
    deliveries = [delivery(*message) for message in messages]
    batch, alone = Batch("EVENTS", 3, 1), Batch("EVENTS", 3, 1)
    turns = 0
    while batch.messages < len(deliveries):
        turns += 1
        assert batch.fill(deliveries[batch.messages :], 10**9, turn_rows_max=90) > 0
    for one in deliveries:
        alone.add(one)
    assert turns > 2
    assert (batch.events, batch.samples, batch.letters) == (alone.events, alone.samples, alone.letters)
    assert (batch.digest, batch.bytes, batch.tags) == (alone.digest, alone.bytes, alone.tags)
    assert (batch.first, batch.last) == (deliveries[0], deliveries[-1])
    wanted = [i for s, r, b in messages for i in reference.decode(s, r, b, SEQ, NOW)]
    assert exact([("fact", e[3], *e[5:15], *e[15:]) for e in batch.events]) == exact(
        [i for i in wanted if i[0] == "fact"]
    )


def swap(data: bytes, rng: random.Random) -> bytes:
    """A byte for one that a regular expression or a search might take for another."""
    if not data:
        return data
    at = rng.randrange(len(data))
    return (
        data[:at]
        + rng.choice([b"", b"\n", b"\r", b".", b":", b'"', b"%", b"\\", b"0", b"e", b"-", b"\xe9"])
        + data[at + rng.randrange(2) :]
    )


header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F), max_size=12) | st.sampled_from(
    [
        *(
            "1.0",
            "/acme/a1",
            "/acme/a2",
            "application/json",
            "application/msgpack",
            "1",
            "\u0660",
            "x" * 129,
            "y" * 1025,
        ),
        *("2026-11-21T10:00:00Z", "2026-11-21T10:00:00.123456Z", "2026-02-30T10:00:00Z", "2016-12-31T23:59:60Z"),
        *("0001-01-01T00:00:00Z", "0001-01-02T00:00:00Z", "9999-12-30T23:59:59.999999Z", "9999-12-31T00:00:00Z"),
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
    ]
)
ORDER = (
    headers.SPECVERSION,
    headers.ID,
    headers.SOURCE,
    headers.TIME,
    headers.CONTENT_TYPE,
    headers.MSG_ID,
    headers.TYPE,
    headers.CORRELATION,
    headers.CAUSATION,
    headers.TRACEPARENT,
    headers.SCHEMA,
    headers.PIN_ID,
)
OWN = ("1.0", "id-1", "/acme/a1", "2026-11-21T10:00:00.123456Z", "application/json", "acme.a1.id-1", "coord.note.taken")
PLACE = FactSubject("acme", "a1", "n1", "note", "n1", "taken").stored


@given(st.dictionaries(st.sampled_from(ORDER), header_values, max_size=3), st.sets(st.sampled_from(ORDER), max_size=2))
@example({}, set())
def test_the_encoders_headers_with_some_changed(changed, missing):
    """In the encoder's order, which is what the short cut looks for."""
    fields = dict(zip(ORDER, OWN, strict=False)) | changed
    block = "".join(f"{name}: {fields[name]}\r\n" for name in ORDER if name in fields and name not in missing)
    check(PLACE, f"NATS/1.0\r\n{block}\r\n".encode(), b'{"a":1}')


tokens = st.text("ab_-9", min_size=1, max_size=3) | st.sampled_from(
    ["_task", "a" * 64, "a" * 65, "", "A", "agent", "a1"]
)


@given(st.lists(tokens, min_size=4, max_size=12), st.integers(0, 16) | st.none(), st.booleans())
def test_subjects(parts, p, bare):
    if p is None and len(parts) > 1:
        p = reference.fnv_partition(parts[1])
    subject = ".".join(("coord.log", str(p), *parts))
    raw = None
    if not bare and len(parts) > 5:
        raw = headers_of(parts[0], parts[4])
    check(subject, raw, b"{}")


def headers_of(tenant: str, agent: str) -> bytes:
    block = "".join(f"{n}: {v}\r\n" for n, v in zip(ORDER, OWN, strict=False))
    return f"NATS/1.0\r\n{block}\r\n".replace("/acme/a1", f"/{tenant}/{agent}").encode()


reserved = st.sampled_from(sorted({(k, e) for k, e in authors.TABLE} | {("agent", "x"), ("x", "progress")}))


@given(reserved, st.sampled_from(["a1", "_task", "b"]), st.sampled_from(["a1", "b"]), st.sampled_from(["a1", "b"]),
       st.sampled_from([b"", b"Coord-Schema: 2\r\n"]))  # fmt: skip
def test_authors(said, agent, key, id_, extra):
    subject = FactSubject("acme", agent, key, said[0], id_, said[1]).stored
    raw = headers_of("acme", agent)
    check(subject, raw[:-2] + extra + b"\r\n", b"{}")
    check(
        subject, raw.replace(b"application/json", codec.FRAME_TYPE.encode()), msgspec.msgpack.encode([1, 0, [[0, 1]]])
    )


json_texts = st.recursive(
    st.sampled_from(
        ["null", "true", "1", "-0", "1.5", "1e5", "1e-5", "0e9", '""', '"e-"', '"\\u00e4"', '"\\u0000"', "x"]
    )
    | st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,4})?", fullmatch=True),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda v: "[" + ", ".join(v) + "]")
        | st.lists(inner, max_size=4).map(lambda v: "{" + ",".join(f'"k{i}":{x}' for i, x in enumerate(v)) + "}")
    ),
    max_leaves=15,
)


@given(json_texts, st.integers(0, 70))
def test_json_bodies(text, depth):
    body = ("[" * depth + text + "]" * depth).encode()
    check(PLACE, headers_of("acme", "a1"), body)
    check(subjects.SampleSubject("acme", "a1", "cpu").stored, None, body)


packed_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=4)
    | st.text(max_size=4)
    | st.datetimes(timezones=st.just(UTC))
    | st.sampled_from(["\0", msgspec.msgpack.Ext(5, b"x")])
)
packed_keys = st.text(max_size=3) | st.just("value") | st.integers(-9, 9)
packed = st.recursive(
    packed_scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(packed_keys, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.integers(-(2**53), 2**53), packed) | packed, max_size=5), st.integers(-(2**62), 2**62))
@example([(0, 1.5), (1, {"value": 2, "a": "x"}), (2, 7)], 1_795_255_200_000_000)
def test_frames(entries, base_us):
    body = msgspec.msgpack.encode([1, base_us, entries])
    for media in (codec.FRAME_TYPE, "application/msgpack"):
        raw = headers_of("acme", "a1").replace(b"application/json", media.encode())
        check(FactSubject("acme", "a1", "t1", "task", "t1", "progress").stored, raw, body)
        check(subjects.SampleSubject("acme", "a1", "cpu").stored, raw, body)


unix_times = st.integers(0, 2**33 * 10**6) | st.integers(-(2**48), 2**48)


@given(st.lists(unix_times, max_size=5), st.sampled_from([0, 1, 20]))
@example([2**32 * 10**6 - 1], 20)
@example([2**32 * 10**6], 20)
def test_times(unix_us, more):
    """One by one and many at once."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    given = unix_us + [NS // 1000 + i for i in range(more)]
    wanted = [epoch + timedelta(microseconds=us) for us in given]
    for found in ([from_unix_us(us) for us in given], from_unix_us_all(given)):
        assert found == wanted
        assert all(moment.tzinfo is UTC for moment in found)


def test_many_times_are_exact(rng):
    given = [rng.randrange(2**32 * 10**6) for _ in range(20_000)]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert from_unix_us_all(given) == [epoch + timedelta(microseconds=us) for us in given]
