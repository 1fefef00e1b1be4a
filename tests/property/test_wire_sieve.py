"""Judging before decoding gives what decoding and then judging gives, on messages good, odd and bad."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from coord import errors, limits
from coord.wire import frames
from coord.wire.envelope import Poison, StoredFact, decode_message
from coord.wire.sieve import Sieve, decode_kept
from coord.wire.subjects import FactSubject
from coord.wire.where import Compare, Condition, Place, matches, where

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
NAMES = ["load", "task", "a b", "", "☃"]
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([1.0, 0.5, -1.5, 2**64, 10**30, "a1", "1", "true", "", "ä", "done", "coord.agent.status"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=6,
)
TIMES = st.sampled_from([AT - timedelta(seconds=1), AT, AT + timedelta(microseconds=5), AT + timedelta(days=1)])


# --- conditions ----------------------------------------------------------------------------


def places() -> st.SearchStrategy[tuple[Place, st.SearchStrategy[Any]]]:
    data = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)
    return st.one_of(
        st.sampled_from(["agent", "key", "kind", "id", "event"]).map(
            lambda n: (Place("subject", (n,)), st.sampled_from(["a1", "me", "agent", "status", "file", "scanned"]))
        ),
        st.integers(0, 2).map(lambda n: (Place("subject", ("detail", n)), st.sampled_from(["x", "y"]))),
        st.sampled_from(["type", "event_id", "correlation_id", "causation_id"]).map(
            lambda n: (
                Place("attribute", (n,)),
                st.sampled_from(
                    ["c1", "c 2", "coord.agent.status", "coord.file.scanned", "t", "e1", "e1/1", "events-42"]
                ),
            )
        ),
        st.just((Place("attribute", ("schema",)), st.integers(1, 3))),
        st.just((Place("attribute", ("occurred_at",)), TIMES)),
        data.map(lambda path: (Place("data", tuple(path)), SCALARS)),
        data.map(lambda path: (Place("data", tuple(path)), SCALARS)),
    )


@st.composite
def comparisons(draw: st.DrawFn) -> Condition:
    place, constants = draw(places())
    op: Any = draw(st.sampled_from(["==", "==", "<", "<=", ">", ">=", "exists"]))
    if op == "exists":
        return Compare(place, "exists", ())
    if op == "==":
        return Compare(place, "==", tuple(draw(st.lists(constants, max_size=3))))
    constant = draw(constants.filter(lambda c: c is not None and type(c) is not bool))
    return Compare(place, op, (constant,))


CONDITIONS = st.recursive(
    comparisons(),
    lambda inner: (
        st.tuples(inner, inner).map(lambda p: p[0] & p[1])
        | st.tuples(inner, inner).map(lambda p: p[0] | p[1])
        | inner.map(lambda p: ~p)
    ),
    max_leaves=6,
)


# --- messages ------------------------------------------------------------------------------

SUBJECTS = st.sampled_from(
    [
        FactSubject("acme", "a1", "a1", "agent", "a1", "status"),
        FactSubject("acme", "me", "f1", "file", "f1", "scanned", ("x",)),
        FactSubject("acme", "me", "f1", "file", "f1", "progress", ("y", "x")),
    ]
).map(lambda s: s.stored)
ODD_SUBJECTS = st.sampled_from(["coord.log.3.acme.me.agent", "coord.log.9.acme.f1.file.f1.me.Scanned", "other.subject"])

LINES = st.lists(
    st.sampled_from(
        [
            "ce-type: t", "CE-Type:t", "ce-type: ", "ce-type:  coord.file.scanned ", 'ce-type: "t"', "ce-type : t",
            "ce-id: e1", "ce-id: e%31", "ce-id: ", "Ce-Id: e1",
            "Coord-Schema: 2", "coord-schema: 02", "Coord-Schema: x", "Coord-Schema: 9999999999",
            "Coord-Correlation: c1", "coord-correlation: c%202", "Coord-Correlation: c 2", "Coord-Correlation: ",
            "Coord-Causation: c1", "coord-causation:\tc1", "ce-time: 2026-11-21T10:00:00.000005Z", "ce-time: now",
            "ce-source: /acme/me", "ce-source: /acme/a1", "ce-specversion: 1.0", "ce-specversion: 0.3",
            "x-type: ce-type: t", "Nats-Msg-Id: ce-type: t", "X: \r\nce-type: c1", "no colon", "X: \nce-type: t",
        ]
    ),
    max_size=5,
)  # fmt: skip
GOOD_LINES = st.permutations(
    ["ce-type: t", "ce-id: e1", "Coord-Schema: 1", "Coord-Correlation: c%202", "ce-time: 2026-11-21T10:00:00.000005Z"]
).flatmap(lambda lines: st.integers(0, 5).map(lambda n: lines[:n]))
MEDIA = {
    "json": ["", "ce-datacontenttype: application/json", "Content-Type: text/json", "content-type: application/x+json"],
    "msgpack": ["ce-datacontenttype: application/msgpack", "Content-Type: application/x-msgpack"],
    "frame": ["ce-datacontenttype: application/vnd.coord.frame+msgpack"],
    "zstd": ["ce-datacontenttype: application/vnd.coord.frame+msgpack+zstd"],
}


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, bytes | None, bytes]:
    form = draw(st.sampled_from(["json", "json", "msgpack", "frame", "zstd"]))
    subject = draw(SUBJECTS.filter(lambda s: form in {"json", "msgpack"} or "scanned" not in s))
    if draw(st.integers(0, 19)) == 0:
        subject = draw(ODD_SUBJECTS)
    lines = draw(LINES if draw(st.integers(0, 3)) == 0 else GOOD_LINES)
    media = draw(st.sampled_from(MEDIA[form]))
    if media:
        lines.insert(draw(st.integers(0, len(lines))), media)
    raw: bytes | None = ("NATS/1.0\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()
    if not lines and draw(st.booleans()):
        raw = draw(st.sampled_from([None, b"", b"NATS/1.0\r\n"]))
    if form in {"frame", "zstd"}:
        entries = draw(st.lists(st.tuples(st.integers(-5, 9), VALUES), max_size=5))
        packed: Any = [1, int(AT.timestamp()) * 1_000_000, [[at, _in_64_bits(value)] for at, value in entries]]
        if packed[2] and draw(st.integers(0, 6)) == 0:
            packed[2][-1] = draw(st.sampled_from([[1], "x", [0.5, 1], [0, float("nan")], [0, {1: 2}], [10**17, 1]]))
        packed[0] = draw(st.sampled_from([1] * 9 + [2]))
        body = msgspec.msgpack.encode(packed)
        if form == "zstd":
            body = zstandard.ZstdCompressor(level=1).compress(body)
    else:
        value = draw(VALUES)
        body = msgspec.json.encode(value) if form == "json" else msgspec.msgpack.encode(_in_64_bits(value))
        if form == "json" and type(value) is dict and draw(st.booleans()):
            twice = msgspec.json.encode(draw(st.sampled_from(NAMES))) + b":" + msgspec.json.encode(draw(VALUES))
            body = body[:-1] + (b"," if value else b"") + twice + b"}"
        if draw(st.integers(0, 9)) == 0:
            body = draw(
                st.sampled_from([b"", b"{", b"null", body + b"x", b'{"load":1,"x":"\\u0000"}', b'{"load":1e999}'])
            )
    return subject, raw, body


def _in_64_bits(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_64_bits(v) for v in value]
    if isinstance(value, dict):
        return {k: _in_64_bits(v) for k, v in value.items()}
    return 7 if type(value) is int and value >= 2**64 else value


@given(messages(), CONDITIONS)
def test_as_decoding_and_then_judging(message: tuple[str, bytes | None, bytes], condition: Condition) -> None:
    subject, raw, body = message
    expected = decode_message(subject, raw, body, 42, AT)
    wanted = [item for item in expected if isinstance(item, StoredFact) and matches(condition, item)]
    sieve = Sieve(condition)
    verdict = sieve.judge(subject, raw, body, 42, AT)
    found = sieve.decode(verdict, subject, raw, body, 42, AT)
    passed = [item for _, item in found]
    assert [index for index, _ in found] == [item.index for item in passed]
    assert [item for item in passed if isinstance(item, StoredFact)] == wanted
    assert all(sieve.accepts(item) for item in wanted)
    bad = {item.error.code for item in passed if isinstance(item, Poison)}
    assert bad <= {item.error.code for item in expected if isinstance(item, Poison)}


class Colour(enum.StrEnum):
    RED = "red"


class Moment(datetime):
    """As pandas and pendulum have them."""


def test_how_values_compare() -> None:
    stored = FactSubject("acme", "me", "f1", "file", "f1", "scanned", ("x",)).stored

    def of(data: Any) -> StoredFact:
        (fact,) = decode_message(stored, None, msgspec.json.encode(data), 42, AT)
        assert isinstance(fact, StoredFact), fact
        return fact

    fact = of({"n": 1, "t": True, "null": None, "s": "b", "red": "red", "list": [1], "in": {"ner": 2}})
    d = where.data
    for condition in (
        d["n"] == 1,
        d["n"] == 1.0,
        d["n"] != True,  # noqa: E712
        d["t"] != 1,
        d["t"] == True,  # noqa: E712
        d["null"] == None,  # noqa: E711
        d["null"].exists(),
        d["absent"] != None,  # noqa: E711
        ~d["absent"].exists(),
        ~(d["absent"] < 5),
        d["s"] > "a",
        ~(d["s"] > 1),
        d["red"] == Colour.RED,
        d["n"].is_in(["1", 1]),
        ~d["n"].is_in([]),
        d["in"]["ner"] >= 2,
        ~d["list"]["0"].exists(),
        d["list"].exists(),
        ~(d["list"] == "[1]"),
        where.detail[0] == "x",
        ~where.detail[1].exists(),
        where.type == "coord.file.scanned",
        where.schema == 1,
        where.occurred_at <= AT,
        where.occurred_at == Moment.fromtimestamp(AT.timestamp(), UTC),
        ~(where.occurred_at > Moment.fromtimestamp(AT.timestamp(), UTC)),
        ~(d["list"] > Moment.fromtimestamp(AT.timestamp(), UTC)),
        ~where.correlation_id.exists(),
        (where.kind == "file") & (where.agent == "me") | (where.id == "other"),
    ):
        assert matches(condition, fact), condition
        assert not matches(~condition, fact), condition
        message = (stored, None, fact.body, 42, AT)
        assert Sieve(condition).judge(*message) is True
        assert Sieve(~condition).judge(*message) is False


def test_mistakes_are_refused_where_they_are_made() -> None:
    d = where.data
    with pytest.raises(TypeError, match="&"):
        bool(d["n"] == 1)
    with pytest.raises(TypeError, match="&"):
        assert 0 < d["n"] < 5
    with pytest.raises(TypeError):
        assert "x" in d["n"]  # type: ignore[operator]
    with pytest.raises(TypeError, match="no condition"):
        (d["n"] == 1) & True  # type: ignore[operator]
    for wrong in (
        lambda: d["n"] == [1],
        lambda: d["n"] < None,
        lambda: d["n"] > True,
        lambda: d["n"].is_in("abc"),
        lambda: where.occurred_at > datetime(2026, 1, 1),
        lambda: where.detail[-1],
    ):
        with pytest.raises(errors.QueryError):
            wrong()
    path = d["a"]
    with pytest.raises(errors.QueryError):
        for _ in range(20):
            path = path["a"]
    many = d["n"] == 0
    for n in range(300):
        many = many | (d["n"] == n)
    with pytest.raises(errors.QueryError):
        Sieve(many)


def test_of_a_frame_only_what_passes_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = FactSubject("acme", "me", "f1", "file", "f1", "progress").stored
    entries = [(n, {"n": n, "pad": "x" * 50}) for n in range(100)]
    body = frames.pack(int(AT.timestamp() * 1e6), entries)
    raw = b"NATS/1.0\r\nce-id: e1\r\nce-datacontenttype: application/vnd.coord.frame+msgpack\r\n\r\n"
    kept = Sieve(where.data["n"].is_in([3, 97])).judge(subject, raw, body, 42, AT)
    assert kept == (3, 97)
    decoded: list[int] = []
    real = frames.unpack

    def unpack(body: bytes, *, compressed: bool = False) -> Any:
        decoded.append(len(body))
        return real(body, compressed=compressed)

    monkeypatch.setattr(frames, "unpack", unpack)
    found = decode_kept(subject, raw, body, 42, AT, kept)
    whole = decode_message(subject, raw, body, 42, AT)
    assert [item for _, item in found] == [whole[3], whole[97]]
    assert len(decoded) == 2
    assert decoded[0] < len(body) / 20


def test_a_frame_that_is_too_large_is_left_to_the_decoder() -> None:
    subject = FactSubject("acme", "me", "f1", "file", "f1", "progress").stored
    body = msgspec.msgpack.encode([1, 0, [[0, 1]] * (limits.FRAME_ENTRIES_MAX + 1)])
    raw = b"NATS/1.0\r\nce-datacontenttype: application/vnd.coord.frame+msgpack\r\n\r\n"
    assert Sieve(where.data["n"] == 1).judge(subject, raw, body, 42, AT) is None
