"""No byte string makes the decoder raise, and whatever passes it can be stored.

10,000 messages, most of them valid ones with a few bytes changed, from the run's seed; and
hypothesis for whatever it finds.
"""

from __future__ import annotations

import base64
import json
import random
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from coord.errors import WireError
from coord.wire import attributes, headers, republished, subjects
from coord.wire.envelope import Poison, StoredFact, StoredSample, decode_message

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
V1 = Path(__file__).parents[1] / "golden" / "v1"


def corpus() -> list[tuple[str, bytes | None, bytes]]:
    found = []
    for name in ("messages.json", "invalid.json"):
        for v in json.loads((V1 / name).read_text()):
            raw = None if v["headers"] is None else base64.b64decode(v["headers"])
            body = base64.b64decode(v["body"])
            found.append((v["stored"], raw, body[:4096]))
    return found


def check(subject: str, raw: bytes | None, body: bytes) -> str:
    """Decode and hold the rows against what the tables take; returns what came out."""
    kinds = []
    texts: list[str | None]
    for row in decode_message(subject, raw, body, 42, NOW):
        if isinstance(row, Poison):
            # The last resort of the decoder is for defects: none may be needed.
            assert type(row.error) is not WireError, row.error
            texts = [row.error.code, str(row.error)]
            kinds.append("poison")
        elif isinstance(row, StoredFact):
            json.loads(row.json_text, parse_constant=lambda c: 1 / 0)
            texts = [row.event_id, row.type, row.correlation_id, row.causation_id, row.traceparent, row.json_text]
            assert row.subject.stored == subject
            assert 1 <= row.schema <= 1_000_000
            assert "\\u0000" not in row.json_text.replace("\\\\", "")
            kinds.append("fact")
        else:
            assert isinstance(row, StoredSample)
            assert row.value - row.value == 0.0
            texts = [row.series, row.json_text]
            kinds.append("sample")
        assert row.seq == 42
        if not isinstance(row, Poison):
            assert row.occurred_at.tzinfo is UTC
        for text in texts:
            if text is not None:
                assert "\x00" not in text
                text.encode()  # no lone surrogate
    return "+".join(sorted(set(kinds)))


INTERESTING = [
    b"",
    b"\x00",
    b"\xff",
    b"\\u0000",
    b"\\ud800",
    b"NaN",
    b"1e999",
    b"e-99999",
    b"[" * 70,
    b"]" * 70,
    b"{",
    b"}",
    b'"',
    b"\r\n",
    b"\r\n\r\n",
    b": ",
    b"%",
    b"%00",
    b"%C0%A0",
    b"NATS/1.0 503\r\n",
    b"ce-id: x\r\n",
    b"ce-datacontenttype: application/msgpack\r\n",
    b"ce-datacontenttype: application/vnd.coord.frame+msgpack\r\n",
    b"Coord-Schema: 99999999\r\n",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc7\x0c\xff",
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\xd4\x01\x00",
    b"\x28\xb5\x2f\xfd",
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + rng.choice(INTERESTING) + data[at:]
            case 2:
                data = data[:at] + data[rng.randrange(at, len(data) + 1) :]
            case 3:
                data = data[:at]
            case 4:
                data = data[:at] + data[: rng.randrange(64)] + data[at:]
            case _:
                data = rng.randbytes(rng.randrange(64))
    return data


def test_ten_thousand_mutated_messages(rng):
    messages = corpus()
    outcomes: dict[str, int] = {}
    for _ in range(10_000):
        subject, raw, body = rng.choice(messages)
        if rng.random() < 0.1:
            subject = mutate(subject.encode(), rng).decode("utf-8", "backslashreplace")
        if rng.random() < 0.1:
            _, raw, _ = rng.choice(messages)
        if raw is not None and rng.random() < 0.3:
            raw = mutate(raw, rng)
        if rng.random() < 0.5:
            body = mutate(body, rng)
        outcome = check(subject, raw, body)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(outcomes)
    # The fuzz reaches both sides of every judgement.
    assert all(outcomes.get(kind, 0) > 100 for kind in ("poison", "fact", "sample")), outcomes


some_subjects = st.sampled_from(sorted({m[0] for m in corpus()})) | st.text(max_size=60)
some_headers = st.none() | st.sampled_from([m[1] for m in corpus() if m[1]]) | st.binary(max_size=200)


@given(some_subjects, some_headers, st.binary(max_size=300))
def test_any_bytes(subject, raw, body):
    check(subject, raw, body)


header_lines = st.lists(
    st.tuples(
        st.sampled_from([*headers.ENVELOPE, "Nats-Msg-Id", "x", ""]),
        st.text(st.characters(max_codepoint=0x2FF), max_size=20)
        | st.sampled_from(["1.0", "/acme/a1", "application/json", "application/msgpack", "2026-11-21T10:00:00Z", "1"]),
    ),
    max_size=6,
)


@given(header_lines, st.binary(max_size=50) | st.just(b"{}"))
def test_any_headers(lines, body):
    raw = "NATS/1.0\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines) + "\r\n"
    check(subjects.FactSubject("acme", "a1", "n1", "note", "n1", "taken").stored, raw.encode(), body)
    check(subjects.SampleSubject("acme", "a1", "cpu").stored, raw.encode(), body)


@given(st.binary(max_size=300))
def test_any_header_block(raw):
    for data in (raw, b"NATS/1.0\r\n" + raw, b"NATS/1.0\r\n" + raw + b"\r\n\r\n"):
        for read in (headers.parse, republished.split, lambda r: attributes.read(r, "acme", "a1")):
            try:
                read(data)
            except WireError:
                pass


@given(st.text(max_size=100))
def test_any_subject_has_an_owner_or_none(subject):
    tenant, agent = subjects.owner(subject)
    for token in (tenant, agent):
        assert token is None or subjects.check_token(token, "token") == token
