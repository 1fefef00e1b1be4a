"""From a stored message to rows: the one place where what a peer sent is judged.

``decode_message`` takes whatever a stream may hold, written by anybody, and returns what
can be believed of it: facts or samples, and a `Poison` with a typed error for the rest.
It raises nothing; an entry of a frame fails on its own.  Whatever passes is safe to store.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from coord import limits
from coord.errors import (
    InvalidEnvelope,
    InvalidFrame,
    InvalidPayload,
    PayloadTooLarge,
    UnknownSpecVersion,
    WireError,
)
from coord.wire import authors, codec, frames, headers, subjects
from coord.wire.records import Poison, StoredFact, StoredSample
from coord.wire.subjects import FactSubject, SampleSubject

if TYPE_CHECKING:
    from coord.wire.codec import Media

Stored: TypeAlias = StoredFact | StoredSample | Poison

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US_MIN: Final = -62_135_596_800_000_000  # 0001-01-01
_US_MAX: Final = 253_402_300_799_999_999  # 9999-12-31


def decode_message(subject: str, raw_headers: bytes | None, body: bytes, seq: int, stored_at: datetime) -> list[Stored]:
    """What one stored message holds, in order.  Raises nothing but MemoryError.

    `subject` is the stored one (``coord.log.…`` or ``coord.tlog.…``), `raw_headers` the
    header block as it came, `seq` the stream sequence, `stored_at` the broker's time.
    """
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
    envelope = _Envelope(raw_headers, parsed.tenant, parsed.agent) if raw_headers else _BARE
    media = envelope.media
    if media in ("json", "msgpack"):
        if len(body) > limits.EVENT_BYTES_MAX:
            raise PayloadTooLarge(bytes=len(body), bytes_max=limits.EVENT_BYTES_MAX)
        if type(parsed) is FactSubject:
            return [_fact(parsed, envelope, media, body, seq, stored_at)]
        assert type(parsed) is SampleSubject
        return [_single_sample(parsed, envelope, media, body, seq, stored_at)]
    if type(parsed) is FactSubject:
        authors.check(parsed, schema=envelope.schema, framed=True)
    base_us, entries = frames.unpack(body, compressed=media == "frame+zstd")
    if not _US_MIN <= base_us <= _US_MAX:
        raise InvalidFrame("the base time is outside the years 1 to 9999", base_us=base_us)
    if type(parsed) is FactSubject:
        return _fact_entries(parsed, envelope, base_us, entries, subject, seq, stored_at)
    assert type(parsed) is SampleSubject
    return _sample_entries(parsed, base_us, entries, subject, seq, stored_at)


# --- facts -------------------------------------------------------------------------------


def _fact(
    subject: FactSubject, envelope: _Envelope, media: Media, body: bytes, seq: int, stored_at: datetime
) -> StoredFact:
    authors.check(subject, schema=envelope.schema)
    converted = None
    if media == "msgpack":
        converted = codec.json_text(codec.decode_msgpack(body)) if body else "null"
    elif body:
        codec.decode_json(body)
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
        envelope.occurred_at or stored_at,
        envelope.event_id or f"events-{seq}",
        envelope.type or subjects.default_type(subject.kind, subject.event),
        envelope.schema,
        envelope.correlation_id,
        envelope.causation_id,
        envelope.traceparent,
        body,
        "json" if converted is None else "msgpack",
        converted,
    )


def _fact_entries(
    subject: FactSubject,
    envelope: _Envelope,
    base_us: int,
    entries: list[Any],
    raw_subject: str,
    seq: int,
    stored_at: datetime,
) -> list[Stored]:
    p = subjects.partition(subject.key)
    event_id = envelope.event_id or f"events-{seq}"
    type_ = envelope.type or subjects.default_type(subject.kind, subject.event)
    rows: list[Stored] = []
    for index, entry in enumerate(entries):
        try:
            occurred_at, data = _entry(entry, base_us)
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
                    envelope.schema,
                    envelope.correlation_id,
                    envelope.causation_id,
                    envelope.traceparent,
                    *codec.reencode(data),
                )
            )
        except WireError as exc:
            rows.append(_bad_entry(exc, entry, raw_subject, subject, seq, index))
    return rows


# --- samples -----------------------------------------------------------------------------


def _single_sample(
    subject: SampleSubject, envelope: _Envelope, media: Media, body: bytes, seq: int, stored_at: datetime
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
        envelope.occurred_at or stored_at,
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
            occurred_at, data = _entry(entry, base_us)
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
    if not math.isfinite(value):
        raise InvalidPayload("NaN and infinities have no place in a series")
    return value, text


# --- entries of frames -------------------------------------------------------------------


def _entry(entry: Any, base_us: int) -> tuple[datetime, Any]:
    if type(entry) is not list or len(entry) != 2:
        raise InvalidFrame("an entry is an array of a time and data")
    delta_us, data = entry
    if type(delta_us) is not int:
        raise InvalidFrame("an entry's time is not an integer of microseconds")
    unix_us = base_us + delta_us
    if not _US_MIN <= unix_us <= _US_MAX:
        raise InvalidFrame("an entry's time is outside the years 1 to 9999", unix_us=unix_us)
    return EPOCH + timedelta(0, 0, unix_us), data


def _bad_entry(
    error: WireError, entry: Any, raw_subject: str, subject: FactSubject | SampleSubject, seq: int, index: int
) -> Poison:
    body = codec.encode_again(entry)
    return Poison(error, seq, index, raw_subject, body, subject.tenant, subject.agent)


# --- headers -----------------------------------------------------------------------------


class _Envelope:
    """What the headers say, checked; None where they are silent."""

    __slots__ = (
        "causation_id",
        "correlation_id",
        "event_id",
        "media",
        "occurred_at",
        "schema",
        "traceparent",
        "type",
    )

    event_id: str | None
    type: str | None
    schema: int
    occurred_at: datetime | None
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    media: Media

    def __init__(self, raw: bytes, tenant: str, agent: str) -> None:
        block = headers.parse(raw)
        if block.status is not None:
            raise InvalidEnvelope("a message has no status line", status=block.status)
        fields = block.fields
        # Quoting is rare, and one look at the whole block tells.
        if b"%" in raw or b'"' in raw or not raw.isascii():
            fields = {n: headers.unquote(v, n) if n in _QUOTED else v for n, v in fields.items()}
        get = fields.get
        if (version := get(headers.SPECVERSION)) is not None and version != "1.0":
            raise UnknownSpecVersion(specversion=version[:32])
        if (source := get(headers.SOURCE)) is not None and source != f"/{tenant}/{agent}":
            raise InvalidEnvelope("ce-source contradicts the subject", source=source[:256])
        self.event_id = event_id = get(headers.ID)
        if event_id is not None and not 0 < len(event_id.encode()) <= limits.EVENT_ID_BYTES_MAX:
            raise InvalidEnvelope(f"ce-id is 1 to {limits.EVENT_ID_BYTES_MAX} bytes", bytes=len(event_id.encode()))
        self.type = get(headers.TYPE) or None
        self.correlation_id = get(headers.CORRELATION) or None
        self.causation_id = get(headers.CAUSATION) or None
        if len(raw) > limits.HEADER_VALUE_BYTES_MAX:
            _check_lengths(fields)
        self.occurred_at = None if (time := get(headers.TIME)) is None else parse_time(time)
        self.schema = 1 if (schema := get(headers.SCHEMA)) is None else _schema(schema)
        trace = get(headers.TRACEPARENT) or get(headers.CE_TRACEPARENT)
        self.traceparent = None if trace is None else valid_traceparent(trace)
        plain = get(headers.PLAIN_CONTENT_TYPE)
        if plain is not None and plain[: len(codec.STRUCTURED_TYPE)].lower() == codec.STRUCTURED_TYPE:
            codec.media_of(plain)
        content_type = get(headers.CONTENT_TYPE) or plain
        self.media = "json" if content_type is None else codec.media_of(content_type)


_QUOTED: Final = frozenset(headers.ENVELOPE) - {headers.PLAIN_CONTENT_TYPE, headers.TRACEPARENT}


class _BareEnvelope(_Envelope):
    """A message without headers: a JSON fact about which only subject and stream speak."""

    __slots__ = ()

    def __init__(self) -> None:
        self.event_id = self.type = self.occurred_at = None
        self.correlation_id = self.causation_id = self.traceparent = None
        self.schema = 1
        self.media = "json"


_BARE: Final = _BareEnvelope()


def _check_lengths(fields: dict[str, str]) -> None:
    for name in (headers.TYPE, headers.CORRELATION, headers.CAUSATION):
        if len(fields.get(name, "").encode()) > limits.HEADER_VALUE_BYTES_MAX:
            raise InvalidEnvelope(f"{name} is longer than {limits.HEADER_VALUE_BYTES_MAX} bytes")


def _schema(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 7 and 1 <= int(text) <= limits.SCHEMA_VERSION_MAX:
        return int(text)
    raise InvalidEnvelope(f"{headers.SCHEMA} is not a number from 1 to {limits.SCHEMA_VERSION_MAX}", value=text[:32])


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:)(\d\d)(\.\d{1,32})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> datetime:
    """An RFC 3339 timestamp as an aware UTC datetime, truncated to microseconds.

    A leap second becomes the last microsecond before it.  Raises `InvalidEnvelope` for
    anything else, a time without offset and a year outside 1 to 9999 among it.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise InvalidEnvelope("ce-time is not an RFC 3339 timestamp with an offset", time=text[:64])
    day, minutes, seconds, fraction, offset = found.groups()
    if seconds == "60":
        seconds, fraction = "59", ".999999"
    try:
        moment = datetime.fromisoformat(f"{day}T{minutes}{seconds}{fraction or ''}{offset.upper()}")
        return moment if offset in "Zz" else moment.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InvalidEnvelope("ce-time is not a time that exists", time=text[:64]) from exc


_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


def valid_traceparent(text: str) -> str | None:
    """`text` if it is a W3C traceparent, else None: an invalid one is dropped, not an error."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or len(text) > limits.HEADER_VALUE_BYTES_MAX or (found[1] == "00" and found[2] is not None):
        return None
    return text
