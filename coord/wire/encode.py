"""From a fact or sample to a message: subject, headers, body.

Everything a reader would refuse is refused here, where the author can still be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from coord import limits
from coord.errors import InvalidEnvelope, InvalidFrame, InvalidPayload, PayloadTooLarge
from coord.wire import authors, codec, frames, headers, subjects
from coord.wire.attributes import valid_traceparent
from coord.wire.facts import REGISTRY
from coord.wire.records import Encoded, Fact, Sample
from coord.wire.subjects import FactSubject, SampleSubject
from coord.wire.times import format_time, to_unix_us

if TYPE_CHECKING:
    from coord.wire.codec import Content


def encode_fact(
    fact: Fact, *, tenant: str, agent: str, event_id: str, occurred_at: datetime, content: Content = "json"
) -> Encoded:
    """The message of one fact.

    `event_id` and `occurred_at` stand where the fact has none of its own.  Raises the
    `WireError` a reader would dead-letter it with.
    """
    subject = fact.subject(tenant, agent).checked()
    schema = _schema_of(fact)
    authors.check(subject, schema=schema)
    event_id = fact.event_id or event_id
    body = b"" if fact.data is None else codec.encode(fact.data, content)
    fields = _common(subject, event_id, fact.occurred_at or occurred_at, codec.MEDIA_TYPES[content])
    fields[headers.TYPE] = headers.quote(fact.type or subjects.default_type(fact.kind, fact.event))
    _add_fact_headers(fields, fact, schema)
    return Encoded(subject.publish, fields, body, fields[headers.MSG_ID])


def encode_sample(sample: Sample, *, tenant: str, agent: str, event_id: str, occurred_at: datetime) -> Encoded:
    """The message of one sample, in JSON; many go into a frame instead."""
    subject = SampleSubject(tenant, agent, sample.series).checked()
    body = codec.encode(_sample_data(sample))
    fields = _common(subject, event_id, sample.occurred_at or occurred_at, codec.JSON_TYPE)
    fields[headers.TYPE] = subjects.SAMPLE_TYPE
    return Encoded(subject.publish, fields, body, fields[headers.MSG_ID])


def encode_frame(
    entries: Sequence[Fact] | Sequence[Sample],
    *,
    tenant: str,
    agent: str,
    event_id: str,
    occurred_at: datetime,
    compress: bool = False,
) -> Encoded:
    """One message of many samples of one series, or many facts of one subject.

    The facts' own event ids are ``{event_id}/{index}``; what stands in headers (type,
    schema, correlation, causation, trace) must be the same for all.  Raises
    `InvalidFrame` where entries do not fit together, `FrameNotAllowed` for facts that
    must be single messages.
    """
    if not entries:
        raise InvalidFrame("a frame has at least one entry")
    items: Sequence[Fact | Sample] = entries
    first = items[0]
    subject: FactSubject | SampleSubject
    if isinstance(first, Fact):
        subject, fields, data = _fact_frame(entries, first, tenant, agent, event_id, occurred_at)
    else:
        subject, fields, data = _sample_frame(entries, first, tenant, agent, event_id, occurred_at)
    fields[headers.CONTENT_TYPE] = codec.FRAME_ZSTD_TYPE if compress else codec.FRAME_TYPE
    base_us = to_unix_us(first.occurred_at or occurred_at)
    packed = [(to_unix_us(e.occurred_at or occurred_at) - base_us, d) for e, d in zip(items, data, strict=True)]
    body = frames.pack(base_us, packed, compress=compress)
    if type(subject) is FactSubject and len(body) > limits.FRAME_MESSAGE_BYTES_MAX:
        raise PayloadTooLarge("the frame is too large", bytes=len(body), bytes_max=limits.FRAME_MESSAGE_BYTES_MAX)
    return Encoded(subject.publish, fields, body, fields[headers.MSG_ID])


def _fact_frame(
    entries: Sequence[Any], first: Fact, tenant: str, agent: str, event_id: str, occurred_at: datetime
) -> tuple[FactSubject, dict[str, str], list[Any]]:
    subject = first.subject(tenant, agent).checked()
    schema = _schema_of(first)
    authors.check(subject, schema=schema, framed=True)
    shared = _shared(first)
    for entry in entries:
        if not isinstance(entry, Fact) or entry.subject(tenant, agent) != subject:
            raise InvalidFrame("all entries of a frame have one subject", subject=subject.publish)
        if entry.event_id is not None:
            raise InvalidFrame("an entry of a frame cannot have an id of its own", event_id=entry.event_id)
        if _shared(entry) != shared or _schema_of(entry) != schema:
            raise InvalidFrame("all entries of a frame have the same headers", subject=subject.publish)
    fields = _common(subject, event_id, first.occurred_at or occurred_at, codec.FRAME_TYPE)
    fields[headers.TYPE] = headers.quote(first.type or subjects.default_type(first.kind, first.event))
    _add_fact_headers(fields, first, schema)
    return subject, fields, [_checked_data(entry.data) for entry in entries]


def _sample_frame(
    entries: Sequence[Any], first: Sample, tenant: str, agent: str, event_id: str, occurred_at: datetime
) -> tuple[SampleSubject, dict[str, str], list[Any]]:
    subject = SampleSubject(tenant, agent, first.series).checked()
    for entry in entries:
        if not isinstance(entry, Sample) or entry.series != first.series:
            raise InvalidFrame("all entries of a frame are samples of one series", series=first.series)
    fields = _common(subject, event_id, first.occurred_at or occurred_at, codec.FRAME_TYPE)
    fields[headers.TYPE] = subjects.SAMPLE_TYPE
    return subject, fields, [_sample_data(entry) for entry in entries]


def _shared(fact: Fact) -> tuple[str | None, ...]:
    return (fact.type, fact.correlation_id, fact.causation_id, fact.traceparent)


def _schema_of(fact: Fact) -> int:
    """A registered payload type knows its version better than the default does."""
    entry = REGISTRY.of_payload(fact.data)
    if entry is not None and (entry.kind, entry.event) == (fact.kind, fact.event):
        return entry.schema
    if not 1 <= fact.schema <= limits.SCHEMA_VERSION_MAX:
        raise InvalidEnvelope(f"schema is 1 to {limits.SCHEMA_VERSION_MAX}", schema=fact.schema)
    return fact.schema


def _checked_data(data: Any) -> Any:
    builtins = codec.to_builtins(data)
    codec.json_text(builtins)
    return builtins


def _sample_data(sample: Sample) -> Any:
    codec.check_value(sample.value)
    if not sample.data:
        return sample.value
    if "value" in sample.data:
        raise InvalidPayload("a sample's other fields cannot be named 'value'")
    return {"value": sample.value, **_checked_data(sample.data)}


def _common(
    subject: FactSubject | SampleSubject, event_id: str, occurred_at: datetime, content_type: str
) -> dict[str, str]:
    if not 0 < len(event_id.encode("utf-8", "surrogatepass")) <= limits.EVENT_ID_BYTES_MAX:
        raise InvalidEnvelope(f"an event id is 1 to {limits.EVENT_ID_BYTES_MAX} bytes", event_id=event_id[:256])
    quoted = headers.quote(event_id)
    return {
        headers.SPECVERSION: "1.0",
        headers.ID: quoted,
        headers.SOURCE: f"/{subject.tenant}/{subject.agent}",
        headers.TIME: format_time(occurred_at),
        headers.CONTENT_TYPE: content_type,
        headers.MSG_ID: f"{subject.tenant}.{subject.agent}.{quoted}",
    }


def _add_fact_headers(fields: dict[str, str], fact: Fact, schema: int) -> None:
    for name, value in ((headers.CORRELATION, fact.correlation_id), (headers.CAUSATION, fact.causation_id)):
        if value is not None:
            if not 0 < len(value.encode("utf-8", "surrogatepass")) <= limits.HEADER_VALUE_BYTES_MAX:
                raise InvalidEnvelope(f"{name} is 1 to {limits.HEADER_VALUE_BYTES_MAX} bytes")
            fields[name] = headers.quote(value)
    if len(fields[headers.TYPE]) > limits.HEADER_VALUE_BYTES_MAX:
        raise InvalidEnvelope(f"a type is at most {limits.HEADER_VALUE_BYTES_MAX} bytes")
    if fact.traceparent is not None:
        if valid_traceparent(fact.traceparent) is None:
            raise InvalidEnvelope("not a W3C traceparent", traceparent=fact.traceparent[:64])
        fields[headers.TRACEPARENT] = fact.traceparent
    if schema != 1:
        fields[headers.SCHEMA] = str(schema)
