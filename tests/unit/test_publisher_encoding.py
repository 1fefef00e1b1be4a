"""The publisher's fast encoder says byte for byte what the reference in coord.wire says."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from coord import errors, limits
from coord.client import context, encoding
from coord.client.config import CRITICAL, STATUS, PublisherConfig
from coord.client.encoding import Encoder, Message, sample_entry
from coord.client.receipt import Receipt
from coord.runtime import clock
from coord.wire import codec, frames, headers
from coord.wire.envelope import Fact, Sample, StoredFact, StoredSample, decode_message, encode_fact, encode_frame
from coord.wire.facts import REGISTRY
from coord.wire.subjects import FactSubject, parse_published

NOW = datetime(2026, 11, 21, 4, 30, 0, 123456, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000 + 123456
SAID = "019aa3b2-0000-7000-8000-000000000001"
"""Every fact's id here."""


@pytest.fixture(autouse=True)
def _frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One time and one id, so that bytes can be compared."""
    freeze(monkeypatch, NOW_US)


def freeze(monkeypatch: pytest.MonkeyPatch, now_us: int) -> None:
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_us)
    monkeypatch.setattr(encoding, "now_us", lambda: now_us)
    monkeypatch.setattr(encoding, "new_event_id", lambda: SAID)

    monkeypatch.setattr(clock, "utc_now", lambda: now)


def encoder(content: str = "json") -> Encoder:
    return Encoder("acme", "a1", PublisherConfig(content=content))  # type: ignore[arg-type]


def reference(fact: Fact, content: str = "json", now_us: int = NOW_US) -> Message:
    made = encode_fact(
        fact,
        tenant="acme",
        agent="a1",
        event_id=SAID,
        occurred_at=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_us),
        content=content,  # type: ignore[arg-type]
    )
    event_id = fact.event_id or SAID
    return Message(made.subject, made.header_block(), made.body, event_id)


def outcome(work: Any) -> Any:
    """The result, or the error's class and code: what a caller can tell."""
    try:
        return work()
    except errors.CoordError as exc:
        return type(exc).__name__


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=10,
)
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
TOKENS = st.one_of(st.sampled_from(["f1", "run-1", "x_y", "0"]), st.text("abc-_019", min_size=1, max_size=64))
VALUES = st.one_of(st.none(), st.sampled_from(["c-1", "a b", "100%", "ü", '"q"', "x" * 1024]))
GOOD: dict[str, Any] = {
    "kind_event": st.sampled_from(
        [("file", "scanned"), ("file", "progress"), ("task", "completed"), ("task", "progress"), ("signal", "raised")]
    ),
    "id": TOKENS,
    "key": st.one_of(st.none(), TOKENS),
    "data": JSON.filter(lambda data: not isinstance(outcome(lambda: codec.encode(data)), str)),
    "detail": st.lists(TOKENS, max_size=4).map(tuple),
    "event_id": st.one_of(st.none(), st.sampled_from(["e1", "a b", "%", "x" * 128])),
    "occurred_at": st.one_of(
        st.none(),
        st.datetimes(min_value=datetime(2, 1, 1), timezones=st.sampled_from([UTC, timezone(timedelta(hours=2))])),
    ),
    "correlation_id": VALUES,
    "causation_id": VALUES,
    "traceparent": st.sampled_from([None, TRACE]),
    "type": st.sampled_from([None, None, "org.example.scanned", "with space"]),
    "schema": st.sampled_from([1, 1, 1, 2]),
}
BAD: dict[str, list[Any]] = {
    "kind_event": [("Bad", "scanned"), ("file", "b d"), ("task", "invented"), ("agent", "gone"), ("agent", "status")],
    "id": ["", "A", "a.b", "ü", "a b", "x" * 65, "*", ">", "a\n", "%s"],
    "key": ["", "A", "a.b", "x" * 65, "a\n"],
    "data": [float("nan"), {"a": "\0"}, {"a": [math.inf]}, object(), "\ud800"],
    "detail": [("Bad",), ("a.b",), ("",), ("a",) * 5],
    "event_id": ["x" * 129],
    "occurred_at": [datetime(2026, 1, 1)],
    "correlation_id": ["", "x" * 1025],
    "causation_id": ["", "x" * 1025],
    "traceparent": ["nonsense", "00-" + "0" * 32 + "-" + "b" * 16 + "-01", TRACE[:-1], TRACE + "0", TRACE.upper()],
    "type": ["x" * 1025],
    "schema": [0, 2, 10**7],
}


def fact_of(fields: dict[str, Any]) -> Fact:
    kind, event = fields.pop("kind_event")
    return Fact(kind=kind, event=event, **fields)


@given(fields=st.fixed_dictionaries(GOOD), content=st.sampled_from(["json", "msgpack"]), now_us=st.integers(0, 2**52))
def test_every_fact_has_the_reference_bytes(fields: dict[str, Any], content: str, now_us: int) -> None:
    if (fields["kind_event"][0] in {"task", "signal"}) and fields["type"] is None:
        fields["schema"] = 1  # a reserved kind's only version
    fact = fact_of(fields)
    with pytest.MonkeyPatch.context() as patch:
        freeze(patch, now_us)
        wanted = outcome(lambda: reference(fact, content, now_us))
        fast = encoder(content)
        for _ in range(2):  # the first makes the shape, the second uses it
            assert outcome(lambda: fast.single(fact, fast.shape(fact))) == wanted
        note(wanted)


@given(
    fields=st.fixed_dictionaries({name: GOOD[name] for name in ("id", "key", "data", "traceparent")}),
    event=st.sampled_from([("task", "completed"), ("task", "claimed"), ("file", "scanned"), ("agent", "status")]),
    detail=st.sampled_from([(), ("1",), ("a", "b-2")]),
    correlation=VALUES,
    cause=st.sampled_from(["e1", "a b", "%", "019aa3b2-0000-7000-8000-000000000009"]),
    content=st.sampled_from(["json", "msgpack"]),
    more=st.sampled_from(["", "Nats-Expected-Last-Subject-Sequence: 0\r\n"]),
)
def test_a_sequel_has_the_bytes_of_a_fact_that_says_the_same(
    fields: dict[str, Any],
    event: tuple[str, str],
    detail: tuple[str, ...],
    correlation: str | None,
    cause: str,
    content: str,
    more: str,
) -> None:
    kind, name = event
    if kind == "agent":
        fields["id"] = fields["key"] = "a1"
    said = Fact(kind=kind, id=fields["id"], key=fields["key"], event="submitted" if kind == "task" else "progress")
    first = msgspec.structs.replace(
        said, detail=("no-op", "normal") if kind == "task" else (), event_id=cause, correlation_id=correlation,
        traceparent=fields["traceparent"], event="status" if kind == "agent" else said.event,
    )  # fmt: skip
    made = encode_fact(first, tenant="acme", agent="a2" if kind != "agent" else "a1", event_id=cause, occurred_at=NOW)
    stored = parse_published(made.subject)
    assert isinstance(stored, FactSubject)
    (read,) = decode_message(stored.stored, made.header_block(), made.body, 7, NOW)
    assert isinstance(read, StoredFact)
    wanted = Fact(
        kind=kind, id=read.id, key=read.key, event=name, detail=detail, data=fields["data"],
        correlation_id=correlation or cause, causation_id=cause, traceparent=fields["traceparent"],
    )  # fmt: skip
    fast = encoder(content)
    sequel = fast.sequel(read)
    other = encoder(content)
    said_as = (name, ".".join(detail), fields["data"], SAID, more)
    if sequel is not None:
        assert sequel.entity == ".".join(stored.stored.split(".")[:7])
        for _ in range(2):  # the first makes the shape
            expected = outcome(lambda: other.single(wanted, other.shape(wanted), more))
            assert outcome(lambda: fast.follow(sequel, *said_as)) == expected
            note(expected)
    assert (sequel is None) == (" " in cause or "%" in cause or (correlation not in (None, "c-1", "x" * 1024)))


def test_lines_for_the_broker_stand_behind_the_others_whichever_way_a_fact_took() -> None:
    for type_ in (None, "org.example.scanned"):
        fact = Fact(kind="file", id="f1", event="scanned", type=type_)
        fast = encoder()
        plain, told = (fast.single(fact, fast.shape(fact), more) for more in ("", "A: 1\r\nB: 2\r\n"))
        assert told.headers == plain.headers[:-2] + b"A: 1\r\nB: 2\r\n\r\n"


@pytest.mark.parametrize(("broken", "value"), [(name, value) for name, values in BAD.items() for value in values])
@pytest.mark.parametrize("warm", [True, False])
def test_a_fact_with_one_bad_field_is_refused_with_the_reference_error(broken: str, value: Any, warm: bool) -> None:
    fields = {"kind_event": ("file", "scanned"), "id": "f1"}
    if broken == "schema" and value == 2:
        fields["kind_event"] = ("task", "completed")
    fast = encoder()
    if warm:
        good = fact_of(dict(fields))
        fast.single(good, fast.shape(good))
    fact = fact_of(fields | {broken: value})
    wanted = outcome(lambda: reference(fact))
    assert isinstance(wanted, str), "the reference takes it: it is not bad"
    assert outcome(lambda: fast.single(fact, fast.shape(fact))) == wanted


class Scan(msgspec.Struct):
    lines: int


@dataclass
class Ratio:
    value: float


class Model(pydantic.BaseModel):
    name: str


@pytest.mark.parametrize("data", [Scan(3), Ratio(0.5), Model(name="x"), [1, {"a": None}], "text", 3, b"\x00\xff", NOW])
def test_payloads_of_every_kind_have_the_reference_bytes(data: Any) -> None:
    fact = Fact(kind="file", id="f1", event="scanned", data=data)
    fast = encoder()
    assert fast.single(fact, fast.shape(fact)) == reference(fact)


@pytest.mark.parametrize(
    "data",
    [
        float("nan"), {"a": math.inf}, {"a": "\0"}, {"\0": 1}, object(), {"a": {1, object()}}, 2**70,
        msgspec.Raw(b"{broken"), "\ud800", {"a": [[]] * 70 + [None]},
    ],
)  # fmt: skip
def test_data_that_no_reader_takes_is_refused_or_fine_for_the_reference(data: Any) -> None:
    fact = Fact(kind="file", id="f1", event="scanned", data=data)
    fast = encoder()
    assert outcome(lambda: fast.single(fact, fast.shape(fact))) == outcome(lambda: reference(fact))


def test_nesting_is_bounded() -> None:
    deep: Any = 1
    for _ in range(limits.NESTING_MAX + 1):
        deep = [deep]
    fast = encoder()
    fact = Fact(kind="file", id="f1", event="scanned", data=deep)
    with pytest.raises(errors.PayloadTooDeep):
        fast.single(fact, fast.shape(fact))


def test_a_registered_payload_brings_its_schema() -> None:
    class Measured(msgspec.Struct):
        value: int

    REGISTRY.register("encodingtest", "measured", Measured, schema=3)
    fact = Fact.of(Measured(1), id="m1")
    fast = encoder()
    message = fast.single(fact, fast.shape(fact))
    assert message == reference(fact)
    assert headers.parse(message.headers).fields[headers.SCHEMA] == "3"


def test_lanes_follow_the_table_and_an_applications_wish() -> None:
    class Beat(msgspec.Struct):
        n: int

    REGISTRY.register("encodingtest", "beat", Beat, service_class="metrics")
    fast = encoder()

    def lane(kind: str, event: str, entity: str = "x") -> tuple[int, bool]:
        shape = fast.shape(Fact(kind=kind, id=entity, event=event))
        return shape.lane, shape.linger_s is not None

    assert lane("task", "completed") == (CRITICAL, False)
    assert lane("task", "progress") == (STATUS, True)
    assert lane("file", "progress") == (STATUS, True)
    assert lane("agent", "status", "a1") == (STATUS, True)
    assert lane("encodingtest", "beat") == (STATUS, False), "facts are never shed"


def test_what_an_agent_may_not_say_is_refused_every_time() -> None:
    fast = encoder()
    own = Fact(kind="agent", id="a1", event="status")
    fast.single(own, fast.shape(own))
    others = Fact(kind="agent", id="a2", event="status")
    for _ in range(2):
        with pytest.raises(errors.Unauthorised):
            fast.single(others, fast.shape(others))
    mismatch = Fact(kind="agent", id="a1", key="other", event="status")
    with pytest.raises(errors.KeyMismatch):
        fast.single(mismatch, fast.shape(mismatch))
    for event in ("gone", "invented"):
        with pytest.raises(errors.Unauthorised):
            fast.shape(Fact(kind="agent", id="a1", event=event))


def test_a_fact_inherits_from_the_one_being_handled_unless_it_says_otherwise() -> None:
    parent = decode_message(
        FactSubject("acme", "a2", "k", "file", "f0", "scanned").stored,
        headers.encode({
            headers.SPECVERSION: "1.0", headers.ID: "parent-1",
            headers.TRACEPARENT: "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        }),
        b"{}", 7, NOW,
    )[0]  # fmt: skip
    assert isinstance(parent, StoredFact)
    fast = encoder()
    fact = Fact(kind="file", id="f1", event="scanned")
    with context.handling(parent):
        caused = fast.caused(fact)
        own = fast.caused(Fact(kind="file", id="f1", event="scanned", correlation_id="mine", causation_id="me"))
    assert (caused.correlation_id, caused.causation_id) == ("parent-1", "parent-1"), "the parent began the conversation"
    assert caused.traceparent == parent.traceparent
    assert (own.correlation_id, own.causation_id) == ("mine", "me")
    assert fast.caused(fact) is fact, "the context ends with the block"
    fields = headers.parse(fast.single(caused, fast.shape(caused)).headers).fields
    assert fields[headers.CAUSATION] == "parent-1"


# --- frames ------------------------------------------------------------------------------


def test_a_frame_of_samples_has_the_reference_bytes() -> None:
    fast = encoder()
    samples = [Sample(series="llm.tokens", value=n / 2, occurred_at=NOW + timedelta(microseconds=n)) for n in range(50)]
    entries = [sample_entry(s.value, s.data, s.occurred_at) for s in samples]
    made = fast.frame(fast.series("llm.tokens"), NOW_US, [(at - NOW_US, data) for at, data, _ in entries])
    wanted = encode_frame(samples, tenant="acme", agent="a1", event_id=SAID, occurred_at=NOW)
    assert (made.subject, made.headers, made.body) == (wanted.subject, wanted.header_block(), wanted.body)
    assert len(made.body) <= sum(size for _, _, size in entries) + 20, "the estimate is an upper bound"


@given(
    data=st.dictionaries(st.text(max_size=5), JSON, max_size=5),
    value=st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**64 - 1)),
)
def test_samples_with_labels_are_read_back_as_they_were_or_refused_alike(data: dict[str, Any], value: float) -> None:
    fast = encoder()
    wanted = outcome(
        lambda: encode_frame(
            [Sample(series="cpu", value=value, data=data)], tenant="acme", agent="a1", event_id="e", occurred_at=NOW
        )
    )
    made = outcome(lambda: sample_entry(value, data, NOW))
    if isinstance(wanted, str):
        assert made == wanted
        return
    at_us, entry, size = made
    frame = fast.frame(fast.series("cpu"), at_us, [(0, entry)])
    assert len(msgspec.msgpack.encode((0, entry))) <= size
    stored = parse_published(frame.subject).stored
    (ours,) = decode_message(stored, frame.headers, frame.body, 1, NOW)
    (theirs,) = decode_message(stored, wanted.header_block(), wanted.body, 1, NOW)
    assert isinstance(ours, StoredSample)
    assert isinstance(theirs, StoredSample)
    assert (ours.value, ours.data) == (theirs.value, theirs.data)


class NumpyLike:
    def __float__(self) -> float:
        return 1.5


@pytest.mark.parametrize(("value", "sent"), [(Decimal("0.5"), 0.5), (NumpyLike(), 1.5), (2**70, float(2**70))])
def test_other_numbers_are_sent_as_doubles(value: Any, sent: float) -> None:
    assert sample_entry(value, None, NOW)[1] == sent


@pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf, 10**400, Decimal("NaN")])
def test_what_is_no_finite_number_is_no_sample(value: Any) -> None:
    with pytest.raises(errors.InvalidPayload):
        sample_entry(value, None, NOW)


@given(st.lists(st.one_of(st.floats(), st.integers(), st.booleans()), min_size=1))
def test_plain_values_need_no_further_look(values: list[Any]) -> None:
    if encoding.are_plain(values):
        for value in values:
            assert sample_entry(value, None, NOW)[1] == value
            assert type(value) in (int, float)


def test_a_number_that_messagepack_cannot_hold_travels_alone_in_json() -> None:
    fast = encoder()
    fact = Fact(kind="task", id="t1", event="progress", data={"n": 2**70})
    assert fast.entry(fact, fast.shape(fact)) is None
    assert fast.single(fact, fast.shape(fact)).body == b'{"n":%d}' % 2**70


def test_a_status_fact_reads_the_same_alone_and_in_a_frame() -> None:
    fast = encoder()
    fact = Fact(
        kind="task", id="t1", event="progress", key="w1", correlation_id="c",
        data={"done": 3, "when": NOW, "raw": b"\x01", "names": {1: "int keys become text"}},
    )  # fmt: skip
    shape = fast.shape(fact)
    framed = fast.entry(fact, shape)
    assert framed is not None
    frame = fast.frame(framed.label, framed.at_us, [(0, framed.data)])
    single = fast.single(fact, shape)
    stored = parse_published(single.subject).stored
    (alone,) = decode_message(stored, single.headers, single.body, 1, NOW)
    (together,) = decode_message(stored, frame.headers, frame.body, 1, NOW)
    assert isinstance(alone, StoredFact)
    assert isinstance(together, StoredFact)
    assert alone.data == together.data
    assert (alone.correlation_id, alone.occurred_at) == (together.correlation_id, together.occurred_at)
    assert together.event_id == "019aa3b2-0000-7000-8000-000000000001/0"


@pytest.mark.parametrize(
    "fields", [{"event_id": "own"}, {"type": "org.example.x"}, {"correlation_id": "needs quoting %"}]
)
def test_a_fact_with_an_unusual_envelope_travels_alone(fields: dict[str, str]) -> None:
    fast = encoder()
    fact = Fact(kind="task", id="t1", event="progress", **fields)  # type: ignore[arg-type]
    assert fast.entry(fact, fast.shape(fact)) is None


def test_remembered_kinds_and_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_SHAPES_MAX", 3)
    fast = encoder()
    for n in range(20):
        fast.shape(Fact(kind=f"k{n}", id="x", event="scanned"))
        fast.series(f"s{n}")
        assert len(fast._shapes) <= 3
        assert len(fast._series) <= 3


# --- compressed frames -------------------------------------------------------------------


def _framed(count: int, data: Any, **config: int) -> tuple[Message, Any]:
    fast = Encoder("acme", "a1", PublisherConfig(**config))  # type: ignore[arg-type]
    _, entry, _ = sample_entry(1.5, data, None)
    made = fast.frame(fast.series("cpu"), NOW_US, [(n, entry) for n in range(count)])
    return made, decode_message(parse_published(made.subject).stored, made.headers, made.body, 1, NOW)


def test_a_large_frame_travels_compressed_and_reads_the_same() -> None:
    labels = {"model": "m-large", "host": "node-1"}
    plain, wanted = _framed(300, labels, compress_bytes=0)
    made, found = _framed(300, labels)
    assert len(plain.body) >= limits.COMPRESS_BYTES
    assert len(made.body) * 3 < len(plain.body)
    assert f"{codec.FRAME_ZSTD_TYPE}\r\n".encode() in made.headers
    assert found == wanted
    assert len(found) == 300


def test_small_frames_and_those_that_do_not_shrink_travel_as_they_are() -> None:
    made, _ = _framed(100, None)  # a hundred plain samples: the default frame
    assert f"{codec.FRAME_TYPE}\r\n".encode() in made.headers
    fast = encoder()
    packed = msgspec.Raw(msgspec.msgpack.encode({"value": 1, "blob": random.Random(7).randbytes(8_000)}))
    made = fast.frame(fast.series("cpu"), NOW_US, [(0, packed)])
    assert f"{codec.FRAME_TYPE}\r\n".encode() in made.headers, "random bytes do not shrink"


ADDED = st.one_of(
    st.tuples(st.just("one"), st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-9, 9))),
    st.tuples(st.just("run"), st.lists(st.floats(0, 9), min_size=1, max_size=4)),
    st.tuples(st.just("run"), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
)


@given(st.lists(ADDED, min_size=1, max_size=6))
def test_however_a_frame_is_filled_its_entries_are_those(added: list[tuple[str, Any]]) -> None:
    receipt, expected = Receipt(deadline_at=0.0), []
    for at_us, (how, what) in enumerate(added, 1_000_000):
        if how == "one":
            receipt.add(at_us, what)
            expected.append([at_us - 1_000_000, what])
        else:
            receipt.add_values(at_us, list(what))
            expected += [[at_us - 1_000_000, value] for value in what]
    label = encoder().series("cpu")
    message = encoder().frame(label, receipt.base_us, receipt.entries, doubles=receipt.doubles)
    assert frames.unpack(message.body) == (1_000_000, expected)
