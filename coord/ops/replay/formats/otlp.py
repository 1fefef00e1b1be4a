"""OpenTelemetry spans with GenAI attributes, as OTLP JSON: one document, or one a line.

``{"resourceSpans": [{"resource": …, "scopeSpans": [{"scope": …, "spans": [{…}]}]}]}``, as the
collector's file exporter writes it.  Each span is one ``span.{span id}.ended``:

* by ``gen_ai.agent.name``, else ``gen_ai.agent.id``, else the resource's ``service.name``;
* its key is ``gen_ai.conversation.id``, else the trace: ``{run id}-…`` in front;
* `occurred_at` is the span's end, `correlation_id` the trace, `causation_id` the event id that
  the parent span's fact has, `traceparent` the span itself.

Names of attributes: OpenTelemetry's semantic conventions for generative AI, which are still
in development; only the four above mean something here, and all are kept in the body.
Spans of one document are stated in the order in which they ended.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from coord.ops.replay import places
from coord.ops.replay.names import NameRefused, Names
from coord.ops.replay.recording import Item, Problem, Statement
from coord.ops.replay.source import Document, Source
from coord.wire.records import Fact

NAME: Final = "otlp"
TITLE: Final = "OpenTelemetry spans (OTLP JSON) with GenAI attributes"

AGENT_NAME: Final = "gen_ai.agent.name"
AGENT_ID: Final = "gen_ai.agent.id"
CONVERSATION: Final = "gen_ai.conversation.id"
SERVICE: Final = "service.name"

_BEGIN: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NANOS_MAX: Final = 253_402_300_799 * 10**9
"""The end of the year 9999."""
_HEX: Final = re.compile(r"[0-9a-f]+")


class KeyValue(msgspec.Struct):
    """One attribute; the value's only member says its type, and int64 is a string."""

    key: str
    value: dict[str, Any] = {}


class Resource(msgspec.Struct):
    """What emitted the spans."""

    attributes: list[KeyValue] = []


class ScopeSpans(msgspec.Struct):
    """Spans of one instrumentation; read one by one, so that one bad span is one problem."""

    spans: list[dict[str, Any]] = []


class ResourceSpans(msgspec.Struct, rename="camel"):
    """Spans of one resource."""

    resource: Resource = msgspec.field(default_factory=Resource)
    scope_spans: list[ScopeSpans] = []


class Traces(msgspec.Struct, rename="camel"):
    """One export request."""

    resource_spans: list[ResourceSpans]


class Status(msgspec.Struct):
    """How a span ended."""

    code: int | str = 0
    message: str = ""


class Event(msgspec.Struct, rename="camel"):
    """Something that happened within a span."""

    name: str = ""
    time_unix_nano: int | str = 0
    attributes: list[KeyValue] = []


class Span(msgspec.Struct, rename="camel"):
    """One span."""

    trace_id: str
    span_id: str
    name: str = ""
    parent_span_id: str = ""
    kind: int | str = 0
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    attributes: list[KeyValue] = []
    events: list[Event] = []
    status: Status | None = None


def sniff(head: str) -> bool:
    """An object with ``resourceSpans``."""
    return head.lstrip().startswith("{") and re.search(r'"resourceSpans"\s*:\s*\[', head) is not None


def read(source: Source, run: str) -> Iterator[Item]:
    """The spans of every document."""
    agents, keys = Names("agent"), Names("conversation")
    for document in source.documents():
        if isinstance(document, Problem):
            yield document
        else:
            yield from _document(document, run, agents, keys)


class _Place(msgspec.Struct, frozen=True):
    document: Document
    path: tuple[str | int, ...]

    @property
    def line(self) -> int:
        inside = 1 if self.document.is_line else places.line_of(self.document.text, self.path)
        return self.document.first_line + inside - 1


def _document(document: Document, run: str, agents: Names, keys: Names) -> Iterator[Item]:
    try:
        traces = msgspec.json.decode(document.text, type=Traces)
    except (msgspec.MsgspecError, RecursionError) as exc:
        yield Problem(document.first_line, f"no OTLP traces: {exc}")
        return
    statements: list[Statement] = []
    number = 0
    for r, of_resource in enumerate(traces.resource_spans):
        try:
            about = _attributes(of_resource.resource.attributes)
        except ValueError as exc:
            yield Problem(_Place(document, ("resourceSpans", r)).line, f"resourceSpans[{r}]: {exc}")
            continue
        for s, scope in enumerate(of_resource.scope_spans):
            for n, raw in enumerate(scope.spans):
                place = _Place(document, ("resourceSpans", r, "scopeSpans", s, "spans", n))
                try:
                    statements.append(_statement(place, raw, about, run, agents, keys, number))
                except (msgspec.MsgspecError, NameRefused, ValueError) as exc:
                    yield Problem(place.line, f"resourceSpans[{r}].scopeSpans[{s}].spans[{n}]: {exc}")
                number += 1
    yield from sorted(statements, key=lambda statement: (statement.at, statement.ordinal))


def _statement(
    place: _Place, raw: dict[str, Any], about: dict[str, Any], run: str, agents: Names, keys: Names, number: int
) -> Statement:
    span = msgspec.convert(raw, Span)
    trace_id, span_id = _id(span.trace_id, 16, "traceId"), _id(span.span_id, 8, "spanId")
    parent = _id(span.parent_span_id, 8, "parentSpanId") if span.parent_span_id else None
    started, ended = _nanos(span.start_time_unix_nano, "start"), _nanos(span.end_time_unix_nano, "end")
    attributes = _attributes(span.attributes)
    line = place.document.first_line
    speaker = str(attributes.get(AGENT_NAME) or attributes.get(AGENT_ID) or about.get(SERVICE) or "unknown")
    conversation = str(attributes.get(CONVERSATION) or trace_id)
    data = {
        "name": span.name,
        "kind": span.kind,
        "agent_name": speaker,
        "conversation": conversation,
        "trace_id": trace_id,
        "parent_span_id": parent,
        "started_at": _moment(started),
        "duration_ms": (ended - started) / 1e6,
        "status": None if span.status is None else msgspec.to_builtins(span.status),
        "attributes": attributes,
        "events": [
            {"name": e.name, "at": _moment(_nanos(e.time_unix_nano, "event")), "attributes": _attributes(e.attributes)}
            for e in span.events
        ],
        "resource": about,
    }
    at = _moment(ended)
    fact = Fact(
        kind="span",
        id=span_id,
        event="ended",
        key=keys.token(f"{run}-{conversation}", line),
        event_id=_event_id(run, trace_id, span_id),
        causation_id=None if parent is None else _event_id(run, trace_id, parent),
        correlation_id=trace_id,
        traceparent=f"00-{trace_id}-{span_id}-01",
        occurred_at=at,
        data=data,
    )
    return Statement(line=line, ordinal=number, agent=agents.token(speaker, line), fact=fact, at=at)


def _event_id(run: str, trace_id: str, span_id: str) -> str:
    return f"{run}-{trace_id}-{span_id}"


def _id(text: str, size: int, what: str) -> str:
    """An id in lower-case hexadecimal; OTLP JSON writes hex, generic protobuf JSON base64."""
    found = text.lower()
    if len(found) != 2 * size or not _HEX.fullmatch(found):
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != size:
            raise ValueError(f"{what} {text[:64]!r} is not {size} bytes in hexadecimal")
        found = raw.hex()
    if not found.strip("0"):
        raise ValueError(f"{what} is zero")
    return found


def _nanos(value: int | str, what: str) -> int:
    try:
        nanos = int(value)
    except ValueError:
        raise ValueError(f"{what} time {value!r} is no number of nanoseconds") from None
    if not 0 < nanos <= _NANOS_MAX:
        raise ValueError(f"{what} time {nanos} is not within 1970 and 9999")
    return nanos


def _moment(nanos: int) -> datetime:
    return _BEGIN + timedelta(microseconds=nanos // 1000)


def _attributes(pairs: list[KeyValue]) -> dict[str, Any]:
    try:
        return {pair.key: _value(pair.value) for pair in pairs}
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"an attribute's value is not as OTLP writes it: {exc}") from None


def _value(value: dict[str, Any]) -> Any:
    """An AnyValue as plain JSON."""
    for kind, held in value.items():
        if kind in ("stringValue", "boolValue", "bytesValue"):
            return held
        if kind == "intValue":
            return int(held)
        if kind == "doubleValue":
            number = float(held)  # "NaN" and "Infinity" are strings in protobuf's JSON
            return number if math.isfinite(number) else str(held)
        if kind == "arrayValue":
            return [_value(v) for v in held.get("values", [])]
        if kind == "kvlistValue":
            return {v["key"]: _value(v.get("value", {})) for v in held.get("values", [])}
        raise ValueError(f"an attribute of the unknown type {kind!r}")
    return None
