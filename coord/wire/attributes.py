"""The attributes of a message: what its headers say, checked against the subject.

A message needs no headers; what it leaves out comes from its subject and the stream.  What
it does say must be well formed and must not contradict the subject.  A `traceparent` alone
is forgiven: W3C asks to ignore an invalid one.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import msgspec

from coord import limits
from coord.errors import InvalidEnvelope, UnknownSpecVersion
from coord.wire import codec, headers
from coord.wire.codec import Media
from coord.wire.times import parse_time


class Attributes(msgspec.Struct, frozen=True, gc=False):
    """What the headers say, checked; None where they are silent."""

    event_id: str | None = None
    type: str | None = None
    schema: int = 1
    occurred_at: datetime | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    media: Media = "json"


BARE: Final = Attributes()
"""A message without headers: a JSON fact about which only subject and stream speak."""

_QUOTED: Final = frozenset(headers.ENVELOPE) - {headers.PLAIN_CONTENT_TYPE, headers.TRACEPARENT}


def read(raw: bytes, tenant: str, agent: str) -> Attributes:
    """The attributes of a header block; raises `InvalidEnvelope`, `UnknownSpecVersion` or `InvalidPayload`."""
    found = _USUAL.fullmatch(raw.decode("latin-1"))
    if found is not None:
        event_id, source, time, content_type, type_, correlation, causation, trace, schema = found.groups()
        if source == f"{tenant}/{agent}":
            return Attributes(
                event_id,
                type_,
                1 if schema is None else schema_version(schema),
                parse_time(time),
                correlation,
                causation,
                trace,
                codec.media_of(content_type),
            )
    return _read_any(raw, tenant, agent)


_VALUE: Final = r"[!#$&-~]"


def usual_block(*, source: str, content_type: str) -> str:
    """A regular expression of the blocks that coord's own encoder writes, in its order, nothing quoted.

    `source` and `content_type` are expressions of the two values.  Its groups, beside what those
    bring: id, time, type, correlation, causation, trace, schema.  The server's line at the end of a
    pinned delivery may be there; to a reader it is a header that means nothing.
    """
    value_max = limits.HEADER_VALUE_BYTES_MAX
    return (
        r"NATS/1\.0\r\n"
        r"ce-specversion: 1\.0\r\n"
        rf"ce-id: ({_VALUE}{{1,{limits.EVENT_ID_BYTES_MAX}}})\r\n"
        rf"ce-source: /{source}\r\n"
        r"ce-time: (\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d(?:\.\d{6})?Z)\r\n"
        rf"ce-datacontenttype: {content_type}\r\n"
        rf"Nats-Msg-Id: {_VALUE}{{1,512}}\r\n"
        rf"ce-type: ({_VALUE}{{1,{value_max}}})\r\n"
        rf"(?:Coord-Correlation: ({_VALUE}{{1,{value_max}}})\r\n)?"
        rf"(?:Coord-Causation: ({_VALUE}{{1,{value_max}}})\r\n)?"
        r"(?:traceparent: (00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})\r\n)?"
        rf"(?:Coord-Schema: ({_VALUE}{{1,16}})\r\n)?"
        # A fact that was stated on a condition: the server has seen to it.
        rf"(?:Nats-Expected-Last-Subject-Sequence: {_VALUE}{{1,20}}\r\n"
        rf"Nats-Expected-Last-Subject-Sequence-Subject: {_VALUE}{{1,768}}\r\n)?"
        rf"(?:Nats-Pin-Id: {_VALUE}{{1,64}}\r\n)?"
        r"\r\n"
    )


# One match takes a quarter of the time of reading line by line.  A property test compares the two.
_USUAL = re.compile(usual_block(source=rf"({_VALUE}{{1,256}})", content_type=rf"({_VALUE}{{1,256}})"), re.ASCII)


def _read_any(raw: bytes, tenant: str, agent: str) -> Attributes:
    block = headers.parse(raw)
    fields = block.fields
    if not block.usual:
        if block.status is not None:
            raise InvalidEnvelope("a message has no status line", status=block.status)
        fields = {n: headers.unquote(v, n) if n in _QUOTED else v for n, v in fields.items()}
    if not block.usual or len(raw) > limits.HEADER_VALUE_BYTES_MAX:
        _check_lengths(raw, fields)
    get = fields.get
    if (version := get(headers.SPECVERSION)) is not None and version != "1.0":
        raise UnknownSpecVersion(specversion=version[:32])
    if (source := get(headers.SOURCE)) is not None and source != f"/{tenant}/{agent}":
        raise InvalidEnvelope("ce-source contradicts the subject", source=source[:256])
    event_id = get(headers.ID)
    if event_id is not None and not 0 < len(event_id) <= limits.EVENT_ID_BYTES_MAX:
        raise InvalidEnvelope(f"ce-id is 1 to {limits.EVENT_ID_BYTES_MAX} bytes", event_id=event_id[:256])
    if event_id is None and (source := get(headers.STREAM_SOURCE)) is not None:
        event_id = _sourced_id(source)
    time = get(headers.TIME)
    schema = get(headers.SCHEMA)
    trace = get(headers.TRACEPARENT) or get(headers.CE_TRACEPARENT)
    plain = get(headers.PLAIN_CONTENT_TYPE)
    if plain is not None and plain[: len(codec.STRUCTURED_TYPE)].lower() == codec.STRUCTURED_TYPE:
        codec.media_of(plain)
    content_type = get(headers.CONTENT_TYPE) or plain
    return Attributes(
        event_id,
        get(headers.TYPE) or None,
        1 if schema is None else schema_version(schema),
        None if time is None else parse_time(time),
        get(headers.CORRELATION) or None,
        get(headers.CAUSATION) or None,
        None if trace is None else valid_traceparent(trace),
        "json" if content_type is None else codec.media_of(content_type),
    )


def _sourced_id(source: str) -> str | None:
    """The id of what was taken in from another stream and has none: its place there, however often it came."""
    stream, _, rest = source.partition(" ")
    number = rest.partition(" ")[0]
    return f"{stream.lower()}-{number}" if _SOURCED.fullmatch(f"{stream} {number}") else None


_SOURCED: Final = re.compile(r"[A-Z]{1,32} [0-9]{1,20}")

_BOUNDS: Final = {
    headers.ID: limits.EVENT_ID_BYTES_MAX,
    headers.TYPE: limits.HEADER_VALUE_BYTES_MAX,
    headers.CORRELATION: limits.HEADER_VALUE_BYTES_MAX,
    headers.CAUSATION: limits.HEADER_VALUE_BYTES_MAX,
}


def _check_lengths(raw: bytes, fields: dict[str, str]) -> None:
    if len(raw) > limits.HEADERS_BYTES_MAX:
        raise InvalidEnvelope("the headers are too large", bytes=len(raw), bytes_max=limits.HEADERS_BYTES_MAX)
    for name, bytes_max in _BOUNDS.items():
        size = len(fields.get(name, "").encode())
        if size > bytes_max:
            raise InvalidEnvelope(f"{name} is longer than {bytes_max} bytes", bytes=size)


def schema_version(text: str) -> int:
    """The number in `Coord-Schema`; `InvalidEnvelope` for anything else."""
    if text.isascii() and text.isdigit() and len(text) <= 7 and 1 <= int(text) <= limits.SCHEMA_VERSION_MAX:
        return int(text)
    raise InvalidEnvelope(f"{headers.SCHEMA} is not a number from 1 to {limits.SCHEMA_VERSION_MAX}", value=text[:32])


_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


def valid_traceparent(text: str) -> str | None:
    """`text` if it is a W3C traceparent, else None: an invalid one is dropped, not an error."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or len(text) > limits.HEADER_VALUE_BYTES_MAX or (found[1] == "00" and found[2] is not None):
        return None
    return text
