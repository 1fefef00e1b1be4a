"""Laws of the wire: parse∘build and decode∘encode are the identity, partitions are FNV's."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from coord import limits
from coord.errors import PayloadTooDeep, WireError
from coord.wire import attributes, codec, headers, ids, subjects
from coord.wire.envelope import (
    Fact,
    Sample,
    StoredFact,
    StoredSample,
    decode_message,
    encode_fact,
    encode_frame,
    encode_sample,
    format_time,
    parse_time,
)
from coord.wire.subjects import FactSubject, SampleSubject
from coord.wire.times import from_unix_us, to_unix_us

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)

tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=limits.TOKEN_BYTES_MAX)
agents = tokens.filter(lambda t: not t.startswith("_"))
# Not reserved: anybody may state them.
kinds = tokens.map(lambda t: f"x-{t}"[: limits.TOKEN_BYTES_MAX])
details = st.lists(tokens, max_size=limits.DETAIL_TOKENS_MAX).map(tuple)
fact_subjects = st.builds(FactSubject, tokens, tokens, tokens, tokens, tokens, tokens, details)
series = st.lists(tokens, min_size=1, max_size=limits.SERIES_TOKENS_MAX).map(".".join)
sample_subjects = st.builds(SampleSubject, tokens, tokens, series)

texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=40)
# What headers carry: CloudEvents strings, which exclude controls and noncharacters.
header_texts = texts.filter(lambda t: t and not headers._FORBIDDEN.search(t))
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | finite | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)
zones = st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))
moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones)
hexes = st.text("0123456789abcdef", min_size=1)
traces = st.tuples(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255)).map(
    lambda t: f"00-{t[0]:032x}-{t[1]:016x}-{t[2]:02x}"
)


@given(fact_subjects)
def test_fact_subjects(subject):
    assert subject.checked() is subject
    assert subjects.parse_published(subject.publish) == subject
    assert subjects.parse_stored(subject.stored) == subject
    assert subjects.parse_live(subject.live) == subject
    assert subjects.live_to_stored(subject.live) == subject.stored
    assert subjects.owner(subject.stored) == subjects.owner(subject.publish) == (subject.tenant, subject.agent)


@given(sample_subjects)
def test_sample_subjects(subject):
    assert subject.checked() is subject
    assert subjects.parse_published(subject.publish) == subject
    assert subjects.parse_stored(subject.stored) == subject
    assert subjects.owner(subject.stored) == (subject.tenant, subject.agent)


@given(tokens, tokens, tokens, tokens, st.integers(0, limits.PARTITIONS - 1))
def test_all_other_subjects(a, b, c, d, p):
    assert subjects.parse_rpc(subjects.rpc(a, b, c)) == (a, b, c)
    assert subjects.parse_timer(subjects.timer(a, b, c, d)) == (a, b, c, d)
    assert subjects.parse_due(subjects.due(a, b, c, d)) == (a, b, c, d)
    assert subjects.parse_notice(subjects.notice(a, p)) == (a, p)
    assert subjects.parse_cursor(subjects.cursor(a, b, c)) == (a, b, c)
    for stream in subjects.STREAMS:
        expected = (stream, None if a == "_" else a, None if b == "_" else b)
        assert subjects.parse_dlq(subjects.dlq(stream, a, b)) == expected


@given(st.text(max_size=200))
def test_any_text_parses_to_what_it_was_or_not_at_all(text):
    for subject in (text, "coord.ev." + text, "coord.log." + text, "coord.tel." + text, "coord.tlog." + text):
        try:
            assert subjects.parse_published(subject).publish == subject
        except WireError:
            pass
        try:
            assert subjects.parse_stored(subject).stored == subject
        except WireError:
            pass


@given(tokens | texts)
def test_the_partition_is_the_low_bits_of_fnv1a(token):
    assert subjects.partition(token) == subjects.fnv1a_32(token.encode()) % limits.PARTITIONS


@given(header_texts)
@example("Euro € 😀")
def test_percent_encoding(text):
    encoded = headers.quote(text)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert not set(encoded) & set(' "')
    assert headers.unquote(encoded, "x") == text


names = st.text("abcdefghijklmnopqrstuvwxyzABC-_!#$%&'*+.^`|~019", min_size=1, max_size=20)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40).map(str.strip)


@given(st.dictionaries(names, values, max_size=8))
def test_header_blocks(fields):
    try:
        block = headers.parse(headers.encode(fields))
    except WireError:
        lowered = [n.lower() for n in fields]
        assert len(set(lowered)) < len(lowered)  # the same envelope name in two spellings
        return
    assert {headers._CANONICAL.get(n.lower(), n): v for n, v in fields.items()} == block.fields
    assert block.status is None


optional = st.none() | header_texts
facts = st.builds(
    Fact,
    kind=kinds,
    id=tokens,
    event=tokens,
    data=json_values,
    key=st.none() | tokens,
    detail=details,
    event_id=st.none() | header_texts.filter(lambda t: len(t.encode()) <= limits.EVENT_ID_BYTES_MAX),
    occurred_at=st.none() | moments,
    correlation_id=optional,
    causation_id=optional,
    traceparent=st.none() | traces,
    type=st.none() | header_texts,
    schema=st.integers(1, limits.SCHEMA_VERSION_MAX),
)


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: -0.0 and 0 apart, 1 and 1.0 alike (PostgreSQL's numeric thinks so too)."""
    return bool(a == b)


@given(facts, tokens, agents, st.sampled_from(["json", "msgpack"]), st.integers(1, 2**63 - 1))
def test_facts(fact, tenant, agent, content, seq):
    message = encode_fact(fact, tenant=tenant, agent=agent, event_id="default", occurred_at=NOW, content=content)
    stored = subjects.parse_published(message.subject).stored
    (row,) = decode_message(stored, message.header_block(), message.body, seq, NOW)
    assert isinstance(row, StoredFact), row
    assert row.subject == fact.subject(tenant, agent)
    assert row.seq == seq
    assert row.event_id == (fact.event_id or "default")
    assert row.occurred_at == (fact.occurred_at or NOW)
    assert row.occurred_at.tzinfo is UTC
    assert (row.correlation_id, row.causation_id) == (fact.correlation_id, fact.causation_id)
    assert row.traceparent == fact.traceparent
    assert row.type == (fact.type or f"coord.{fact.kind}.{fact.event}")
    assert row.schema == fact.schema
    assert same(row.data, fact.data)
    assert same(json.loads(row.json_text), fact.data)
    assert row.partition == subjects.partition(row.key)


labels = st.none() | st.dictionaries(texts.filter(lambda t: t != "value"), json_values, min_size=1, max_size=4)
samples = st.builds(
    Sample,
    series=st.just("cpu.total"),
    value=finite | st.integers(-(2**63), 2**64 - 1),
    data=labels,
    occurred_at=st.none() | moments,
)


@given(st.lists(samples, min_size=1, max_size=20), agents, st.booleans())
def test_frames_of_samples(entries, agent, compress):
    message = encode_frame(entries, tenant="acme", agent=agent, event_id="f", occurred_at=NOW, compress=compress)
    stored = subjects.parse_published(message.subject).stored
    rows = decode_message(stored, message.header_block(), message.body, 5, NOW)
    assert len(rows) == len(entries)
    for index, (row, entry) in enumerate(zip(rows, entries, strict=True)):
        assert isinstance(row, StoredSample), row
        assert (row.index, row.value, row.data) == (index, float(entry.value), entry.data)
        assert row.occurred_at == (entry.occurred_at or NOW)


@given(samples, agents)
def test_single_samples(sample, agent):
    message = encode_sample(sample, tenant="acme", agent=agent, event_id="s", occurred_at=NOW)
    stored = subjects.parse_published(message.subject).stored
    (row,) = decode_message(stored, message.header_block(), message.body, 5, NOW)
    assert isinstance(row, StoredSample), row
    assert (row.value, row.data) == (float(sample.value), sample.data)


@given(st.lists(st.tuples(json_values, st.none() | moments), min_size=1, max_size=20), st.booleans(), optional)
def test_frames_of_facts(entries, compress, correlation):
    stated = [
        Fact(kind="agent", id="a1", event="status", data=data, occurred_at=at, correlation_id=correlation)
        for data, at in entries
    ]
    message = encode_frame(stated, tenant="acme", agent="a1", event_id="f", occurred_at=NOW, compress=compress)
    stored = subjects.parse_published(message.subject).stored
    rows = decode_message(stored, message.header_block(), message.body, 5, NOW)
    assert len(rows) == len(stated)
    for index, (row, fact) in enumerate(zip(rows, stated, strict=True)):
        assert isinstance(row, StoredFact), row
        assert (row.index, row.event_id) == (index, f"f/{index}")
        assert same(row.data, fact.data)
        assert same(json.loads(row.json_text), fact.data)
        assert row.occurred_at == (fact.occurred_at or NOW)
        assert row.correlation_id == correlation


@given(facts, agents, st.randoms(use_true_random=False))
def test_the_order_of_headers_does_not_matter(fact, agent, random):
    """The usual block is read by one match, any other line by line: to the same end."""
    message = encode_fact(fact, tenant="acme", agent=agent, event_id="default", occurred_at=NOW)
    shuffled = list(message.headers.items())
    random.shuffle(shuffled)
    first = attributes.read(message.header_block(), "acme", agent)
    assert attributes.read(headers.encode(dict(shuffled)), "acme", agent) == first
    lowered = {n.lower() if random.random() < 0.5 else n.upper(): v for n, v in shuffled}
    assert attributes.read(headers.encode(lowered), "acme", agent) == first


@given(moments)
def test_times(moment):
    assert parse_time(format_time(moment)) == moment
    assert parse_time(moment.isoformat()) == moment
    assert from_unix_us(to_unix_us(moment)) == moment


@given(st.integers(0, ids.UNIX_MS_MAX), st.integers(0, 2**80 - 1), st.integers(0, 2**80 - 1))
def test_uuid7_sorts_by_time_and_keeps_its_random_bits(ms, one, two):
    first = ids.uuid7(ms, one)
    assert len(first) == 36
    assert ids.unix_ms_of(first) == ms
    if one >> 68 != two >> 68 or (one ^ two) & ((1 << 62) - 1):
        assert ids.uuid7(ms, two) != first
    if ms < ids.UNIX_MS_MAX:
        assert ids.uuid7(ms + 1, two) > first


fields = st.tuples(texts, texts, texts, texts, st.integers(0, 10**6), st.integers(0, 10**6))


@given(fields, fields)
def test_hashed_ids_differ_where_anything_differs(one, two):
    assert (ids.hashed_id(*one) == ids.hashed_id(*two)) == (one == two)


narrow = st.text(":./-a1", max_size=4)
alike = st.tuples(st.just("acme"), narrow, narrow, narrow, st.integers(0, 12), st.integers(0, 12))


@given(st.one_of(st.tuples(fields, fields), st.tuples(alike, alike)))
def test_derived_ids_differ_where_anything_differs_within_a_tenant(pair):
    one, two = ("acme", *pair[0][1:]), ("acme", *pair[1][1:])
    assert (ids.derive_id(*one) == ids.derive_id(*two)) == (one == two)
    found = ids.derive_id(*one)
    assert headers.quote(found) == found, "it stands in a header as it is"
    assert len(found) <= limits.EVENT_ID_BYTES_MAX


@given(st.integers(0, 2**74 - 1), st.integers(0, 2**74 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
def test_counted_ids_are_in_order_and_differ_by_session(one, two, n, m):
    assert (ids.counted_id(one, n) < ids.counted_id(one, m)) == (n < m)
    assert (ids.counted_id(one, n) == ids.counted_id(two, m)) == ((one, n) == (two, m))


@given(json_values)
def test_depth_is_counted_alike_by_both_codecs(value):
    def depth(item: Any) -> int:
        if isinstance(item, dict):
            return 1 + max(map(depth, item.values()), default=0)
        return 1 + max(map(depth, item), default=0) if isinstance(item, list) else 0

    extra = limits.NESTING_MAX - depth(value)
    for more, fine in ((extra, True), (extra + 1, False)):
        nested = value
        for _ in range(more):
            nested = [nested]
        outcomes = []
        for decode in (
            lambda v: codec.decode_json(msgspec.json.encode(v)),
            lambda v: codec.json_text(codec.decode_msgpack(msgspec.msgpack.encode(v))),
        ):
            try:
                decode(nested)
                outcomes.append(True)
            except PayloadTooDeep:
                outcomes.append(False)
        assert outcomes == [fine, fine]


@given(finite)
def test_every_double_survives(value):
    text = codec.encode(value).decode()
    assert math.isfinite(codec.decode_json(text.encode()))
    assert codec.decode_json(text.encode()) == value


@given(st.lists(st.binary(max_size=4) | texts.map(str.encode)).map(b"".join))
@example(b"\xed\xa0\x80\xe2\x82-\xc3\xa4\\xff\xff")
def test_bytes_of_any_kind_are_readable(block):
    assert headers.readable(block) == block.decode("utf-8", "backslashreplace")
