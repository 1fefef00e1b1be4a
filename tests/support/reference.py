"""What a stored message means, written down a second time: plainly, and with no thought for speed.

`coord.wire.decode` and `coord.projector.rows` take short cuts for what is usual.  This module
takes none: it goes through a message line by line and value by value, as docs/protocol.md tells
it.  Differential tests hold the two against each other, result for result and reason for reason,
for whatever bytes anybody may send.  It shares with the package only its errors, its limits and the
table of authors.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import zstandard

from coord import limits
from coord.errors import (
    FrameNotAllowed,
    InvalidEnvelope,
    InvalidFrame,
    InvalidPayload,
    InvalidSubject,
    InvalidToken,
    KeyMismatch,
    PayloadTooDeep,
    PayloadTooLarge,
    Unauthorised,
    UnknownSchema,
    UnknownSpecVersion,
    WireError,
)
from coord.wire.authors import RESERVED_KINDS, TABLE, Author

Item = tuple[Any, ...]
"""("fact", index, tenant, agent, key, kind, id, event, detail, event_id, type, schema, occurred_at,
correlation_id, causation_id, traceparent, text), ("sample", index, tenant, agent, series,
occurred_at, value, text) or ("poison", index, tenant, agent, code, reason, body)."""


def decode(subject: str, raw_headers: bytes | None, body: bytes, seq: int, stored_at: datetime) -> list[Item]:
    """The items of one stored message, in order."""
    try:
        parsed = parse_subject(subject)
        attrs = Attributes(raw_headers, parsed) if raw_headers else Attributes.bare()
        if attrs.media in ("json", "msgpack"):
            if len(body) > limits.EVENT_BYTES_MAX:
                raise PayloadTooLarge(bytes=len(body), bytes_max=limits.EVENT_BYTES_MAX)
            if isinstance(parsed, FactPlace):
                return [_fact(parsed, attrs, body, seq, stored_at, bare=not raw_headers)]
            return [_single_sample(parsed, attrs, body, stored_at)]
        if isinstance(parsed, FactPlace):
            check_author(parsed, attrs.schema, framed=True)
        base_us, entries = unpack(body, compressed=attrs.media == "frame+zstd")
        return [_entry_item(parsed, attrs, base_us, entry, seq, i) for i, entry in enumerate(entries)]
    except WireError as exc:
        return [("poison", 0, *owner(subject), exc.code, str(exc), body)]


# --- subjects ----------------------------------------------------------------------------

_TOKEN = re.compile(r"[a-z0-9_-]{1,64}")


class FactPlace(msgspec.Struct):
    tenant: str
    key: str
    kind: str
    id: str
    agent: str
    event: str
    detail: list[str]


class SamplePlace(msgspec.Struct):
    tenant: str
    agent: str
    series: str


def fnv_partition(token: str) -> int:
    value = 0x811C9DC5
    for byte in token.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value % limits.PARTITIONS


def _check_token(value: str) -> None:
    if _TOKEN.fullmatch(value):
        return
    if not value:
        reason = "is empty"
    elif len(value.encode("utf-8", "surrogatepass")) > limits.TOKEN_BYTES_MAX:
        reason = f"is longer than {limits.TOKEN_BYTES_MAX} bytes"
    else:
        reason = f"contains {next(c for c in value if not _TOKEN.fullmatch(c))!r}"
    raise InvalidToken(f"token {reason}", token=value[:128], what="token")


def parse_subject(subject: str) -> FactPlace | SamplePlace:
    if not subject.startswith(("coord.log.", "coord.tlog.")):
        raise InvalidSubject("not a subject that a stream stores", subject=subject[:256])
    tokens = subject.split(".")
    for token in tokens:
        _check_token(token)
    if tokens[1] == "log":
        if not 9 <= len(tokens) <= 13:
            shape = "{p}.{tenant}.{key}.{kind}.{id}.{agent}.{event}[.{detail}]"
            raise InvalidSubject(f"the subject is not of the form {shape}", subject=subject[:256])
        if tokens[2] != str(fnv_partition(tokens[4])):
            raise InvalidSubject("the partition is not the key's", subject=subject[:256])
        tenant, key, kind, id_, agent, event = tokens[3:9]
        return FactPlace(tenant, key, kind, id_, agent, event, tokens[9:])
    if not 6 <= len(tokens) <= 9:
        shape = "coord.tlog.{p}.{tenant}.{agent}.{series}"
        raise InvalidSubject(f"the subject is not of the form {shape}", subject=subject[:256])
    if tokens[2] != str(fnv_partition(tokens[4])):
        raise InvalidSubject("the partition is not the agent's", subject=subject[:256])
    return SamplePlace(tokens[3], tokens[4], ".".join(tokens[5:]))


def owner(subject: str) -> tuple[str | None, str | None]:
    parts = subject.split(".")
    found: tuple[list[str], list[str]] = ([], [])
    if subject.startswith(("coord.log.", "coord.live.")):
        found = (parts[3:4], parts[7:8])
    elif subject.startswith("coord.tlog."):
        found = (parts[3:4], parts[4:5])
    elif subject.startswith(("coord.ev.", "coord.tel.")):
        found = (parts[2:3], parts[3:4])
    tenant, agent = (p[0] if p and _TOKEN.fullmatch(p[0]) else None for p in found)
    return tenant, agent


def check_author(place: FactPlace, schema: int, *, framed: bool = False) -> None:
    kind, event, agent = place.kind, place.event, place.agent
    rule = TABLE.get((kind, event))
    if rule is None and kind in RESERVED_KINDS:
        raise Unauthorised(f"{event!r} is not an event of the reserved kind {kind!r}", kind=kind, event=event)
    author = Author.ANYONE if rule is None else rule.author
    if kind == "agent" and place.key != place.id:
        raise KeyMismatch(key=place.key, id=place.id)
    if agent.startswith("_"):
        if author is not Author.DECIDER and not (rule is not None and rule.deciders):
            raise Unauthorised(f"a decider may not state {kind}.{event}", agent=agent)
    elif author is Author.DECIDER:
        raise Unauthorised(f"only a decider may state {kind}.{event}", agent=agent)
    elif author is Author.SELF and agent != place.id:
        raise Unauthorised(f"only the agent itself may state {kind}.{event}", agent=agent, id=place.id)
    if rule is not None and rule.schema is not None and schema > rule.schema:
        raise UnknownSchema(schema=schema, known=rule.schema, kind=kind, event=event)
    if framed and not (rule.frames if rule is not None else event == "progress"):
        raise FrameNotAllowed(kind=kind, event=event)


# --- headers -----------------------------------------------------------------------------

_NAMES = {
    name.lower(): name
    for name in (
        *("ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time", "ce-datacontenttype", "content-type"),
        *("traceparent", "ce-traceparent", "Coord-Correlation", "Coord-Causation", "Coord-Schema"),
    )
}
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS = re.compile(r"NATS/1\.0(?: +(\d{3})(?: (.*))?)?\s*", re.ASCII)
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_BLOCK_BYTES_MAX = limits.HEADERS_BYTES_MAX + 4096


def header_fields(raw: bytes) -> dict[str, str]:
    if len(raw) > _BLOCK_BYTES_MAX:
        raise InvalidEnvelope("the headers are too large", bytes=len(raw), bytes_max=_BLOCK_BYTES_MAX)
    try:
        lines = raw.decode().split("\r\n")
    except UnicodeDecodeError as exc:
        raise InvalidEnvelope("the headers are not UTF-8") from exc
    if len(lines) < 3 or lines[-1] or lines[-2]:
        raise InvalidEnvelope("the header block does not end with an empty line")
    first = _STATUS.fullmatch(lines[0])
    if first is None:
        raise InvalidEnvelope("the header block does not begin with NATS/1.0")
    fields: dict[str, str] = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise InvalidEnvelope("not a header line", line=line[:128])
        known = _NAMES.get(name.lower())
        if known in fields:
            raise InvalidEnvelope("a header stands twice", name=known)
        fields[known or name] = value.strip(" \t")
    for name, value in fields.items():
        if _CONTROL.search(value):
            raise InvalidEnvelope("a header value contains a control character", name=name)
    if first[1] is not None:
        raise InvalidEnvelope("a message has no status line", status=int(first[1]))
    return fields


def unquote(value: str, name: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    if "%" in value:
        try:
            value = re.sub(
                rb"%([0-9A-Fa-f]{2})?", lambda m: bytes.fromhex((m[1] or b"x").decode()), value.encode()
            ).decode()
        except (ValueError, UnicodeError) as exc:
            raise InvalidEnvelope("a header value is not correctly percent-encoded", name=name) from exc
    if _FORBIDDEN.search(value):
        raise InvalidEnvelope("a header value contains a control character", name=name)
    return value


class Attributes:
    event_id: str | None = None
    type: str | None = None
    schema: int = 1
    occurred_at: datetime | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    media: str = "json"

    @classmethod
    def bare(cls) -> Attributes:
        return cls.__new__(cls)

    def __init__(self, raw: bytes, place: FactPlace | SamplePlace) -> None:
        fields = header_fields(raw)
        for name in fields:
            if name in _NAMES.values() and name not in ("content-type", "traceparent"):
                fields[name] = unquote(fields[name], name)
        if len(raw) > limits.HEADER_VALUE_BYTES_MAX or not _is_plain(raw, fields):
            _check_lengths(raw, fields)
        get = fields.get
        if (version := get("ce-specversion")) is not None and version != "1.0":
            raise UnknownSpecVersion(specversion=version[:32])
        if (source := get("ce-source")) is not None and source != f"/{place.tenant}/{place.agent}":
            raise InvalidEnvelope("ce-source contradicts the subject", source=source[:256])
        self.event_id = get("ce-id")
        if self.event_id is not None and not 0 < len(self.event_id) <= 128:
            raise InvalidEnvelope("ce-id is 1 to 128 bytes", event_id=self.event_id[:256])
        plain = get("content-type")
        if plain is not None and plain[:23].lower() == "application/cloudevents":
            media_of(plain)
        self.type = get("ce-type") or None
        if (schema := get("Coord-Schema")) is not None:
            self.schema = _schema(schema)
        if (time := get("ce-time")) is not None:
            self.occurred_at = parse_time(time)
        self.correlation_id = get("Coord-Correlation") or None
        self.causation_id = get("Coord-Causation") or None
        if trace := get("traceparent") or get("ce-traceparent"):
            self.traceparent = _traceparent(trace)
        if content_type := get("ce-datacontenttype") or plain:
            self.media = media_of(content_type)
        elif content_type is not None:
            self.media = media_of("")


_PLAIN_BLOCK = re.compile(rb"NATS/1\.0\r\n([!-9;-~]+: [!#$&-~]*\r\n)*\r\n")
_SERVERS = {
    *("Nats-Msg-Id", "Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Last-Sequence", "Nats-Time-Stamp"),
    *("Nats-Num-Pending", "Nats-Pin-Id"),
}


def _is_plain(raw: bytes, fields: dict[str, str]) -> bool:
    """A short block of known headers in their own spelling, nothing quoted: only its `ce-id` may be too long.

    This decides no verdict, only which of two wrong things is named, where two are.
    """
    names = [line.partition(b":")[0].decode() for line in raw.split(b"\r\n")[1:-2]]
    return (
        _PLAIN_BLOCK.fullmatch(raw) is not None
        and len(names) == len(fields)
        and _SERVERS.union(_NAMES.values()).issuperset(names)
    )


def _check_lengths(raw: bytes, fields: dict[str, str]) -> None:
    if len(raw) > limits.HEADERS_BYTES_MAX:
        raise InvalidEnvelope("the headers are too large", bytes=len(raw), bytes_max=limits.HEADERS_BYTES_MAX)
    for name, most in (("ce-id", 128), ("ce-type", 1024), ("Coord-Correlation", 1024), ("Coord-Causation", 1024)):
        if (size := len(fields.get(name, "").encode())) > most:
            raise InvalidEnvelope(f"{name} is longer than {most} bytes", bytes=size)


def _schema(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 7 and 1 <= int(text) <= limits.SCHEMA_VERSION_MAX:
        return int(text)
    raise InvalidEnvelope(f"Coord-Schema is not a number from 1 to {limits.SCHEMA_VERSION_MAX}", value=text[:32])


def _traceparent(text: str) -> str | None:
    found = re.fullmatch(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?", text)
    if found is None or len(text) > limits.HEADER_VALUE_BYTES_MAX or (found[1] == "00" and found[2] is not None):
        return None
    return text


_MEDIA = {
    "application/json": "json",
    "text/json": "json",
    "application/msgpack": "msgpack",
    "application/x-msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
    "application/vnd.coord.frame+msgpack": "frame",
    "application/vnd.coord.frame+msgpack+zstd": "frame+zstd",
}


def media_of(content_type: str) -> str:
    if content_type in _MEDIA:
        return _MEDIA[content_type]
    essence, _, parameters = content_type.partition(";")
    essence = essence.strip().lower()
    charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise InvalidPayload("text must be UTF-8", content_type=content_type[:128])
    if essence in _MEDIA:
        return _MEDIA[essence]
    if essence.startswith("application/cloudevents"):
        raise InvalidPayload(
            "structured-mode CloudEvents are not read; send the attributes as ce- headers (binary mode)",
            content_type=content_type[:128],
        )
    if essence.endswith("+json"):
        return "json"
    raise InvalidPayload("not a content type that coord reads", content_type=content_type[:128])


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:)(\d\d)(\.\d{1,32})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_FIRST = datetime(1, 1, 2, tzinfo=UTC)
_LAST = datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC)


def parse_time(text: str) -> datetime:
    found = _TIME.fullmatch(text)
    if found is None:
        raise InvalidEnvelope("not an RFC 3339 timestamp with an offset", time=text[:64])
    day, minutes, seconds, fraction, offset = found.groups()
    if seconds == "60":
        seconds, fraction = "59", ".999999"
    try:
        moment = datetime.fromisoformat(f"{day}T{minutes}{seconds}{(fraction or '.0')[:7]:0<7}{offset.upper()}")
    except ValueError as exc:
        raise InvalidEnvelope("a time that does not exist", time=text[:64]) from exc
    try:
        moment = moment.astimezone(UTC)
    except OverflowError as exc:
        raise InvalidEnvelope("a time outside the calendar", time=text[:64]) from exc
    if not _FIRST <= moment <= _LAST:
        raise InvalidEnvelope("a time outside the calendar", time=text[:64])
    return moment


# --- bodies ------------------------------------------------------------------------------

_NUL = "the body contains the character U+0000, which no text column takes"


def from_json(body: bytes) -> Any:
    try:
        value = msgspec.json.decode(body)
    except RecursionError as exc:
        raise PayloadTooDeep(depth_max=limits.NESTING_MAX) from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidPayload(f"not JSON: {exc}") from exc
    if any("\0" in text for text in _texts(value)):
        raise InvalidPayload(_NUL)
    if _depth(value) > limits.NESTING_MAX:
        raise PayloadTooDeep(depth_max=limits.NESTING_MAX)
    outside = re.sub(rb'"(?:[^"\\]|\\.)*"', b'""', body)
    # A positive exponent was judged by the decoder, unless it stands on a zero.
    if re.search(rb"[eE]-|0[eE]", body):
        for found in re.finditer(rb"[eE][-+]?([0-9]+)", outside):
            digits = found[1].lstrip(b"0") or b"0"
            if len(digits) > 3 or int(digits) > 400:
                raise InvalidPayload("a number's exponent is too large", exponent_max=400)
    if re.search(rb"[0-9]{1001}", outside):
        raise InvalidPayload("a number has too many digits", digits_max=1_000)
    return value


def _texts(value: Any) -> list[str]:
    found, todo = [], [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            todo += [*item, *item.values()]
        elif isinstance(item, list):
            todo += item
    return found


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [item for c in level for item in (c.values() if isinstance(c, dict) else c)]
    return depth


def from_msgpack(body: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(body)
    except RecursionError as exc:
        raise PayloadTooDeep(depth_max=limits.NESTING_MAX) from exc
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, OverflowError) as exc:
        raise InvalidPayload(f"not MessagePack: {exc}") from exc


def to_json(value: Any) -> str:
    containers: list[Any] = [[value]]
    for _ in range(limits.NESTING_MAX + 1):
        below: list[Any] = []
        for container in containers:
            if isinstance(container, dict) and any(type(key) is not str for key in container):
                raise InvalidPayload("a map key is not a string")
            for item in container.values() if isinstance(container, dict) else container:
                if isinstance(item, dict | list):
                    below.append(item)
                elif isinstance(item, float):
                    if not math.isfinite(item):
                        raise InvalidPayload("NaN and infinities have no JSON form")
                elif not isinstance(item, str | int | bytes | datetime | None):
                    raise InvalidPayload("an extension type has no JSON form")
        containers = below
        if not containers:
            break
    else:
        raise PayloadTooDeep(depth_max=limits.NESTING_MAX)
    try:
        text = msgspec.json.encode(value)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise InvalidPayload(f"no JSON form: {exc}") from exc
    if any("\0" in t for t in _texts(value)):
        raise InvalidPayload(_NUL)
    return text.decode()


_PUBACK = {"stream", "seq", "domain", "duplicate", "val", "batch", "count", "error"}


def _fact(place: FactPlace, attrs: Attributes, body: bytes, seq: int, stored_at: datetime, *, bare: bool) -> Item:
    check_author(place, attrs.schema)
    if not body:
        text = "null"
    elif attrs.media == "msgpack":
        text = to_json(from_msgpack(body))
    else:
        value = from_json(body)
        if bare and isinstance(value, dict):
            answer = {"stream", "seq"} <= value.keys() <= _PUBACK
            if answer or str(value.get("type", "")).startswith("io.nats."):
                raise Unauthorised("this is an answer of the server, sent to a forged reply subject")
        text = body.decode()
    event_id = attrs.event_id or f"events-{seq}"
    return _fact_item(place, attrs, 0, event_id, attrs.occurred_at or stored_at, text)


def _fact_item(
    place: FactPlace, attrs: Attributes, index: int, event_id: str, occurred_at: datetime, text: str
) -> Item:
    return (
        "fact",
        index,
        place.tenant,
        place.agent,
        place.key,
        place.kind,
        place.id,
        place.event,
        ".".join(place.detail),
        event_id,
        attrs.type or f"coord.{place.kind}.{place.event}",
        attrs.schema,
        occurred_at,
        attrs.correlation_id,
        attrs.causation_id,
        attrs.traceparent,
        text,
    )


def _single_sample(place: SamplePlace, attrs: Attributes, body: bytes, stored_at: datetime) -> Item:
    if not body:
        raise InvalidPayload("a sample has a value")
    data = from_json(body) if attrs.media == "json" else from_msgpack(body)
    value, text = _sample(data)
    return ("sample", 0, place.tenant, place.agent, place.series, attrs.occurred_at or stored_at, value, text)


def _sample(data: Any) -> tuple[float, str | None]:
    text = None
    if isinstance(data, dict):
        if "value" not in data:
            raise InvalidPayload("a sample is a number or a map with 'value'")
        others = {name: field for name, field in data.items() if name != "value"}
        text = to_json(others) if others else None
        if text is not None and len(text) > limits.EVENT_BYTES_MAX:
            raise PayloadTooLarge(bytes=len(text), bytes_max=limits.EVENT_BYTES_MAX)
        data = data["value"]
    if type(data) not in (int, float):
        raise InvalidPayload("the value of a sample is a number", found=type(data).__name__)
    try:
        value = float(data)
    except OverflowError as exc:
        raise InvalidPayload("the value does not fit in a double") from exc
    if not math.isfinite(value):
        raise InvalidPayload("NaN and infinities have no place in a series")
    return value, text


# --- frames ------------------------------------------------------------------------------


def unpack(body: bytes, *, compressed: bool) -> tuple[int, list[Any]]:
    most = limits.FRAME_BYTES_MAX
    if compressed:
        try:
            declared = zstandard.frame_content_size(body)
            if declared > most:
                raise PayloadTooLarge("the frame is too large", bytes=declared, bytes_max=most)
            body = zstandard.ZstdDecompressor(max_window_size=most).decompress(
                body, max_output_size=most, allow_extra_data=False
            )
        except zstandard.ZstdError as exc:
            raise InvalidFrame(f"not zstd, or larger than {most} bytes: {exc}") from exc
    elif len(body) > most:
        raise PayloadTooLarge("the frame is too large", bytes=len(body), bytes_max=most)
    frame = from_msgpack(body)
    if type(frame) is not list or len(frame) != 3:
        raise InvalidFrame("a frame is an array of version, base time and entries")
    version, base_us, entries = frame
    if type(version) is not int or version != 1:
        raise InvalidFrame("not a frame version this release reads", version=repr(version)[:32])
    if type(base_us) is not int:
        raise InvalidFrame("the base time is not an integer of microseconds")
    if type(entries) is not list:
        raise InvalidFrame("the entries are not an array")
    if len(entries) > limits.FRAME_ENTRIES_MAX:
        raise PayloadTooLarge(
            "too many entries in one frame", entries=len(entries), entries_max=limits.FRAME_ENTRIES_MAX
        )
    return base_us, entries


def _entry_item(
    place: FactPlace | SamplePlace, attrs: Attributes, base_us: int, entry: Any, seq: int, index: int
) -> Item:
    try:
        if type(entry) is not list or len(entry) != 2:
            raise InvalidFrame("an entry is an array of a time and data")
        delta_us, data = entry
        if type(delta_us) is not int:
            raise InvalidFrame("an entry's time is not an integer of microseconds")
        try:
            occurred_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=base_us + delta_us)
            if not _FIRST <= occurred_at <= _LAST:
                raise OverflowError
        except OverflowError as exc:
            raise InvalidFrame("an entry's time is outside the calendar", delta_us=delta_us) from exc
        if isinstance(place, SamplePlace):
            return ("sample", index, place.tenant, place.agent, place.series, occurred_at, *_sample(data))
        text = to_json(data)
        if len(text) > limits.EVENT_BYTES_MAX:
            raise PayloadTooLarge(bytes=len(text), bytes_max=limits.EVENT_BYTES_MAX)
        event_id = f"{attrs.event_id or f'events-{seq}'}/{index}"
        return _fact_item(place, attrs, index, event_id, occurred_at, text)
    except WireError as exc:
        return ("poison", index, place.tenant, place.agent, exc.code, str(exc), msgspec.msgpack.encode(entry))
