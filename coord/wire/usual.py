"""The usual message, read in one stroke: a single JSON fact with the headers that coord's encoder writes.

Nearly every message of a log is one, and looking at each part of it by itself (a token, a line, a
time) costs several times what the parts do.  Here subject and headers are one regular expression,
which takes them apart and checks them; the body is decoded once and scanned for what jsonb refuses.

What it never does: judge.  Anything at all that is not usual is None, and `coord.wire.decode` looks
at the message piece by piece, believes it all the same or says what is wrong with it.  So there is
one place that knows the errors, and this one need only be right when it says yes.
`tests/property/test_wire_differential.py` holds both against a third, plain one.

It cannot be made slow: no run of characters in the expression may end where the next could begin, so
a message is gone through once, and a hostile one pays for this look on top of the thorough one.
"""

from __future__ import annotations

import re
from datetime import datetime
from math import isfinite
from typing import Any, Final, TypeAlias

import msgspec

from coord import limits
from coord.wire import attributes, authors, codec, frames, subjects
from coord.wire.authors import RESERVED_KINDS
from coord.wire.codec import read_json_text
from coord.wire.subjects import PARTITION_TOKENS, FactSubject, SampleSubject, partition
from coord.wire.times import from_unix_us_all

FIELDS: Final = (
    "tenant",
    "agent",
    "key",
    "kind",
    "id",
    "event",
    "detail",
    "event_id",
    "type",
    "schema",
    "occurred_at",
    "correlation_id",
    "causation_id",
    "traceparent",
    "data",
)
"""What the parts of a `UsualFact` are, in order."""

UsualFact: TypeAlias = tuple[
    str,  # tenant
    str,  # agent
    str,  # key
    str,  # kind
    str,  # id
    str,  # event
    str,  # detail: tokens joined by dots, '' when there are none
    str,  # event_id
    str,  # type
    int,  # schema
    datetime,  # occurred_at, in UTC
    str | None,  # correlation_id
    str | None,  # causation_id
    str | None,  # traceparent
    str,  # data: JSON text that jsonb accepts
]

_TOKEN: Final = subjects.TOKEN_PATTERN
_MESSAGE = re.compile(
    # coord.log.{p}.{tenant}.{key}.{kind}.{id}.{agent}.{event}[.{detail}]
    rf"{re.escape(subjects.LOG_PREFIX)}([0-9]{{1,2}})"
    rf"\.({_TOKEN})\.({_TOKEN})\.({_TOKEN})\.({_TOKEN})\.({_TOKEN})\.({_TOKEN})"
    rf"(?:\.({_TOKEN}(?:\.{_TOKEN}){{0,{limits.DETAIL_TOKENS_MAX - 1}}}))?\n"
    # The source is the tenant and the agent of the subject, or the message is not usual.
    + attributes.usual_block(source=r"\2/\6", content_type=re.escape(codec.JSON_TYPE)),
    re.ASCII,
)

_fullmatch = _MESSAGE.fullmatch
_fromisoformat = datetime.fromisoformat


def read(subject: str, raw_headers: bytes | None, body: bytes) -> UsualFact | None:
    """What a stored message says if everything about it is usual, else None; raises nothing.

    `raw_headers` may still end in the line that the server adds to a pinned delivery.
    """
    if raw_headers is None or len(body) > limits.EVENT_BYTES_MAX:
        return None
    found = _fullmatch(f"{subject}\n{raw_headers.decode('latin-1')}")
    if found is None:
        return None
    (p, tenant, key, kind, id_, agent, event, detail, event_id, time, type_, correlation, causation, trace, schema) = (
        found.groups()
    )
    # A year at the calendar's ends needs a closer look; the expression has seen to the rest of the shape.
    if p != PARTITION_TOKENS[partition(key)] or not "0002" <= time < "9999":
        return None
    try:
        version = 1 if schema is None else attributes.schema_version(schema)
        # Any agent may state anything of a kind that is not reserved, as a single message.
        decides = agent[0] == "_"
        if (kind in RESERVED_KINDS or decides) and not authors.is_allowed(kind, event, version, decider=decides):
            authors.check(FactSubject(tenant, agent, key, kind, id_, event), schema=version)
        occurred_at = _fromisoformat(time)
        text = read_json_text(body) if body else "null"
    except Exception:  # noqa: BLE001 - whatever it is, the thorough look says it, or parks a defect
        return None
    return (
        tenant,
        agent,
        key,
        kind,
        id_,
        event,
        detail or "",
        event_id,
        type_,
        version,
        occurred_at,
        correlation,
        causation,
        trace,
        text,
    )


# --- frames ------------------------------------------------------------------------------

_FRAMES: Final = ("frame", "frame+zstd")

_decode_values = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[int, float]]]).decode
_decode_entries = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[int, Any]]]).decode


def read_samples(
    subject: str, raw_headers: bytes | None, body: bytes
) -> tuple[str, str, str, list[datetime], list[float]] | None:
    """(tenant, agent, series, times, values) of a frame of plain numbers, else None; raises nothing."""
    if raw_headers is None or not subject.startswith(subjects.TLOG_PREFIX):
        return None
    try:
        place = subjects.parse_stored(subject)
        attrs = attributes.read(raw_headers, place.tenant, place.agent)
        if attrs.media not in _FRAMES or type(place) is not SampleSubject:
            return None
        version, base_us, entries = _decode_values(frames.decoded(body, compressed=attrs.media == "frame+zstd"))
        times = from_unix_us_all([base_us + delta_us for delta_us, _ in entries])
    except Exception:  # noqa: BLE001 - as above
        return None
    values = [value for _, value in entries]
    # A sum is finite only if all its parts are.
    if version != frames.VERSION or len(entries) > limits.FRAME_ENTRIES_MAX or not isfinite(sum(values)):
        return None
    return place.tenant, place.agent, place.series, times, values


def read_facts(subject: str, raw_headers: bytes | None, body: bytes, seq: int) -> list[UsualFact] | None:
    """The facts of a frame in which every entry can be believed, else None; raises nothing."""
    if raw_headers is None or not subject.startswith(subjects.LOG_PREFIX):
        return None
    try:
        place = subjects.parse_stored(subject)
        attrs = attributes.read(raw_headers, place.tenant, place.agent)
        if attrs.media not in _FRAMES or type(place) is not FactSubject:
            return None
        authors.check(place, schema=attrs.schema, framed=True)
        version, base_us, entries = _decode_entries(frames.decoded(body, compressed=attrs.media == "frame+zstd"))
        if version != frames.VERSION or len(entries) > limits.FRAME_ENTRIES_MAX:
            return None
        times = from_unix_us_all([base_us + delta_us for delta_us, _ in entries])
        texts = codec.json_texts([data for _, data in entries])
    except Exception:  # noqa: BLE001 - as above
        return None
    if any(len(text) > limits.EVENT_BYTES_MAX for text in texts):
        return None
    head = (place.tenant, place.agent, place.key, place.kind, place.id, place.event, ".".join(place.detail))
    event_id = attrs.event_id or f"events-{seq}"
    type_ = attrs.type or subjects.default_type(place.kind, place.event)
    tail = (attrs.correlation_id, attrs.causation_id, attrs.traceparent)
    return [
        (*head, f"{event_id}/{index}", type_, attrs.schema, occurred_at, *tail, text)
        for index, (occurred_at, text) in enumerate(zip(times, texts, strict=True))
    ]
