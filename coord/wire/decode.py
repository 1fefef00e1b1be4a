"""From a stored message to rows: the one place where what a peer sent is judged.

``decode_message`` takes whatever a stream may hold, written by anybody, and returns what
can be believed of it: facts or samples, and a `Poison` with a typed error for the rest.
It raises nothing; an entry of a frame fails on its own.  Whatever passes is safe to store.
"""

from __future__ import annotations

from datetime import datetime
from math import isfinite
from typing import Any, Final, TypeAlias

from coord import limits
from coord.errors import (
    InvalidPayload,
    PayloadTooLarge,
    Unauthorised,
    WireError,
)
from coord.wire import attributes, authors, codec, frames, subjects, usual
from coord.wire.attributes import Attributes
from coord.wire.codec import Media
from coord.wire.records import Poison, StoredFact, StoredSample
from coord.wire.subjects import FactSubject, SampleSubject

Stored: TypeAlias = StoredFact | StoredSample | Poison


def decode_message(subject: str, raw_headers: bytes | None, body: bytes, seq: int, stored_at: datetime) -> list[Stored]:
    """What one stored message holds, in order.  Raises nothing but MemoryError.

    `subject` is the stored one (``coord.log.…`` or ``coord.tlog.…``), `raw_headers` the
    header block as it came, `seq` the stream sequence, `stored_at` the broker's time.
    """
    usual_fact = usual.read(subject, raw_headers, body)
    if usual_fact is not None:
        return [stored_fact(usual_fact, body, seq, stored_at)]
    return decode_unusual(subject, raw_headers, body, seq, stored_at)


def decode_unusual(subject: str, raw_headers: bytes | None, body: bytes, seq: int, stored_at: datetime) -> list[Stored]:
    """`decode_message`, for whoever has asked `usual.read` already: the same answer for every message."""
    try:
        return _decode(subject, raw_headers, body, seq, stored_at)
    except WireError as exc:
        error = exc
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001 - a defect here must not stop a partition; tests fail on it
        error = WireError(f"the decoder failed: {type(exc).__name__}: {exc}")
        error.__cause__ = exc
    tenant, agent = subjects.owner(subject)
    return [Poison(error, seq, 0, subject, body, tenant, agent)]


def _decode(subject: str, raw_headers: bytes | None, body: bytes, seq: int, stored_at: datetime) -> list[Stored]:
    parsed = subjects.parse_stored(subject)
    attrs = attributes.read(raw_headers, parsed.tenant, parsed.agent) if raw_headers else attributes.BARE
    media = attrs.media
    if media in ("json", "msgpack"):
        if len(body) > limits.EVENT_BYTES_MAX:
            raise PayloadTooLarge(bytes=len(body), bytes_max=limits.EVENT_BYTES_MAX)
        if type(parsed) is FactSubject:
            return [_fact(parsed, attrs, media, body, seq, stored_at)]
        assert type(parsed) is SampleSubject
        return [_single_sample(parsed, attrs, media, body, seq, stored_at)]
    if type(parsed) is FactSubject:
        authors.check(parsed, schema=attrs.schema, framed=True)
    base_us, entries = frames.unpack(body, compressed=media == "frame+zstd")
    if type(parsed) is FactSubject:
        return _fact_entries(parsed, attrs, base_us, entries, subject, seq, stored_at)
    assert type(parsed) is SampleSubject
    return _sample_entries(parsed, base_us, entries, subject, seq, stored_at)


# --- facts -------------------------------------------------------------------------------


def stored_fact(fact: usual.UsualFact, body: bytes, seq: int, stored_at: datetime) -> StoredFact:
    """What `usual.read` made of a message, as who decides about it wants it."""
    (
        tenant, agent, key, kind, id_, event, detail, event_id, type_, schema, occurred_at,
        correlation_id, causation_id, traceparent, _,
    ) = fact  # fmt: skip
    return StoredFact(
        tenant,
        agent,
        key,
        kind,
        id_,
        event,
        tuple(detail.split(".")) if detail else (),
        subjects.partition(key),
        seq,
        0,
        stored_at,
        occurred_at,
        event_id,
        type_,
        schema,
        correlation_id,
        causation_id,
        traceparent,
        body,
        "json",
    )


def _fact(
    subject: FactSubject, attrs: Attributes, media: Media, body: bytes, seq: int, stored_at: datetime
) -> StoredFact:
    authors.check(subject, schema=attrs.schema)
    converted = None
    if media == "msgpack":
        converted = codec.json_text(codec.decode_msgpack(body)) if body else "null"
    elif body:
        value = codec.decode_json(body)
        if attrs is attributes.BARE and type(value) is dict:
            _check_not_an_answer(value)
    return StoredFact(
        subject.tenant,
        subject.agent,
        subject.key,
        subject.kind,
        subject.id,
        subject.event,
        subject.detail,
        subjects.partition(subject.key),
        seq,
        0,
        stored_at,
        attrs.occurred_at or stored_at,
        attrs.event_id or f"events-{seq}",
        attrs.type or subjects.default_type(subject.kind, subject.event),
        attrs.schema,
        attrs.correlation_id,
        attrs.causation_id,
        attrs.traceparent,
        body,
        "json" if converted is None else "msgpack",
        converted,
    )


_PUBACK: Final = frozenset({"stream", "seq", "domain", "duplicate", "val", "batch", "count", "error"})


def _check_not_an_answer(value: dict[str, Any]) -> None:
    """Refuse what the server itself answers, stored because a publish named a fact's subject as its reply.

    The server does not check the reply subject against the publisher's permissions, so
    its answer would be somebody else's fact.
    """
    if ("stream" in value and "seq" in value and _PUBACK.issuperset(value)) or (
        "type" in value and str(value["type"]).startswith("io.nats.")
    ):
        raise Unauthorised("this is an answer of the server, sent to a forged reply subject")


def _fact_entries(
    subject: FactSubject,
    attrs: Attributes,
    base_us: int,
    entries: list[Any],
    raw_subject: str,
    seq: int,
    stored_at: datetime,
) -> list[Stored]:
    p = subjects.partition(subject.key)
    event_id = attrs.event_id or f"events-{seq}"
    type_ = attrs.type or subjects.default_type(subject.kind, subject.event)
    rows: list[Stored] = []
    for index, entry in enumerate(entries):
        try:
            occurred_at, data = frames.entry_time(entry, base_us), entry[1]
            rows.append(
                StoredFact(
                    subject.tenant,
                    subject.agent,
                    subject.key,
                    subject.kind,
                    subject.id,
                    subject.event,
                    subject.detail,
                    p,
                    seq,
                    index,
                    stored_at,
                    occurred_at,
                    f"{event_id}/{index}",
                    type_,
                    attrs.schema,
                    attrs.correlation_id,
                    attrs.causation_id,
                    attrs.traceparent,
                    *codec.reencode(data),
                )
            )
        except WireError as exc:
            rows.append(_bad_entry(exc, entry, raw_subject, subject, seq, index))
    return rows


# --- samples -----------------------------------------------------------------------------


def _single_sample(
    subject: SampleSubject, attrs: Attributes, media: Media, body: bytes, seq: int, stored_at: datetime
) -> StoredSample:
    if not body:
        raise InvalidPayload("a sample has a value")
    data = codec.decode_json(body) if media == "json" else codec.decode_msgpack(body)
    value, text = _sample(data)
    return StoredSample(
        subject.tenant,
        subject.agent,
        subject.series,
        subjects.partition(subject.agent),
        seq,
        0,
        stored_at,
        attrs.occurred_at or stored_at,
        value,
        text,
    )


def _sample_entries(
    subject: SampleSubject, base_us: int, entries: list[Any], raw_subject: str, seq: int, stored_at: datetime
) -> list[Stored]:
    tenant, agent, series = subject.tenant, subject.agent, subject.series
    p = subjects.partition(agent)
    rows: list[Stored] = []
    for index, entry in enumerate(entries):
        try:
            occurred_at, data = frames.entry_time(entry, base_us), entry[1]
            if type(data) is float and isfinite(data):
                rows.append(StoredSample(tenant, agent, series, p, seq, index, stored_at, occurred_at, data))
            else:
                value, text = _sample(data)
                rows.append(StoredSample(tenant, agent, series, p, seq, index, stored_at, occurred_at, value, text))
        except WireError as exc:
            rows.append(_bad_entry(exc, entry, raw_subject, subject, seq, index))
    return rows


def _sample(data: Any) -> tuple[float, str | None]:
    """The value and the other fields' JSON of a number or of a map with `value`."""
    text = None
    if type(data) is dict:
        if "value" not in data:
            raise InvalidPayload("a sample is a number or a map with 'value'")
        others = {name: field for name, field in data.items() if name != "value"}
        text = codec.json_text(others) if others else None
        if text is not None and len(text) > limits.EVENT_BYTES_MAX:
            raise PayloadTooLarge(bytes=len(text), bytes_max=limits.EVENT_BYTES_MAX)
        data = data["value"]
    if type(data) is float:
        value = data
    elif type(data) is int:
        try:
            value = float(data)
        except OverflowError as exc:
            raise InvalidPayload("the value does not fit in a double") from exc
    else:
        raise InvalidPayload("the value of a sample is a number", found=type(data).__name__)
    if not isfinite(value):
        raise InvalidPayload("NaN and infinities have no place in a series")
    return value, text


# --- entries of frames -------------------------------------------------------------------


def _bad_entry(
    error: WireError, entry: Any, raw_subject: str, subject: FactSubject | SampleSubject, seq: int, index: int
) -> Poison:
    body = codec.encode_again(entry)
    return Poison(error, seq, index, raw_subject, body, subject.tenant, subject.agent)
