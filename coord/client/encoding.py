"""From facts and samples to bytes, fast: what `coord.wire.encode` does, prepared per kind.

`coord.wire.envelope.encode_fact` is the reference: it checks everything for every message
(10 µs).  An agent states the same few kinds of facts again and again, so most of its checks
need doing once per kind, and most of the header block is the same.  `Encoder` lets the
reference make both once per (kind, event) or series, with placeholders, and does per message
only what can differ (2 µs).  The bytes are the reference's, by a test; whatever is unusual
goes through the reference itself.

Where a block or a body is cut and checked is said in `coord.wire.prepared`.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import zstandard

from coord import limits
from coord.client import context
from coord.client.config import SERVICE_CLASSES, PublisherConfig
from coord.client.event_ids import new_event_id
from coord.errors import InvalidPayload
from coord.runtime import clock
from coord.wire import authors, codec, frames, headers
from coord.wire.envelope import Fact, Sample, encode_fact, encode_frame, format_time
from coord.wire.facts import REGISTRY
from coord.wire.prepared import (
    PLACE_ID,
    PLACE_TIME,
    Moments,
    are_tokens,
    checked_json,
    is_plain,
    is_token,
    open_block,
    open_subject,
    pieces,
)
from coord.wire.records import StoredFact
from coord.wire.subjects import SampleSubject, entity_prefix

_SHAPES_MAX: Final = 4_096
"""Kinds and series remembered; an agent has a few dozen."""

NUMBER_BYTES: Final = 20
"""A number with its time in a frame: at most 9 bytes each, and an array of two."""

_ENTRY_BYTES: Final = 11
"""What a frame adds to an entry's own bytes, at most."""

_INT_LEAST: Final = -(1 << 63)
_INT_MOST: Final = (1 << 64) - 1
"""MessagePack's integers; a larger sample is sent as a double."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)

# Values that stand in a header as they are: see `headers.quote`.
_plain_id = re.compile(rf"[\x21\x23\x24\x26-\x7e]{{1,{limits.EVENT_ID_BYTES_MAX}}}").fullmatch
_plain_trace = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch

_json_decode = msgspec.json.Decoder().decode
_msgpack_encode = msgspec.msgpack.Encoder().encode


def now_us() -> int:
    """Unix time in microseconds."""
    return int(clock.unix() * 1e6)


class Shape(msgspec.Struct, frozen=True):
    """What is the same for all facts of one (kind, event) of this agent."""

    lane: int
    linger_s: float | None
    """Of the frames it may travel in; None: single messages only."""
    schema_max: int | None
    each: bool
    """The rule looks at the entity: every fact is checked, not only the first."""
    subject: tuple[str, ...]
    """Where such a fact without details is published: what stands before, between and behind key and entity."""
    head: tuple[str, ...]
    """The header block of a single fact, open at its end: what stands around id, time, id."""
    frame_head: str
    """The same of a frame; empty where frames are not allowed."""


class Label(msgspec.Struct, frozen=True):
    """What all entries of a frame share."""

    subject: str
    head: str
    extra: str = ""


class Message(msgspec.Struct, gc=False):
    """One message, encoded."""

    subject: str
    headers: bytes
    body: bytes
    event_id: str


class Sequel(msgspec.Struct, frozen=True, gc=False):
    """What all facts have in common that a received one causes and that are about its entity."""

    kind: str
    key: str
    id: str
    entity: str
    """The stored subject up to the entity: `subjects.entity_of`."""
    extra: str
    """Header lines that say the following."""
    correlation_id: str
    causation_id: str
    traceparent: str | None


class FramedFact(msgspec.Struct, gc=False):
    """A fact as an entry of a frame."""

    label: Label
    at_us: int
    """Unix microseconds."""
    data: Any
    size: int
    """Bytes, at most."""


class Encoder:
    """Encodes for one tenant and agent.  Not thread-safe."""

    def __init__(self, tenant: str, agent: str, config: PublisherConfig) -> None:
        self.tenant = tenant
        self.agent = agent
        self._config = config
        self._shapes: dict[tuple[str, str], Shape] = {}
        self._series: dict[str, Label] = {}
        self._moments = Moments()
        self._zstd: zstandard.ZstdCompressor | None = None
        """Kept: a new compressor costs 17 µs and more, compressing 5 KB 12; most agents never need one."""

    # --- facts ---------------------------------------------------------------------------

    def shape(self, fact: Fact) -> Shape:
        """How facts like this one are treated; raises the `WireError` that forbids them."""
        shape = self._shapes.get((fact.kind, fact.event))
        if shape is None:
            shape = self._make_shape(fact)
            if len(self._shapes) >= _SHAPES_MAX:
                self._shapes.clear()
            self._shapes[fact.kind, fact.event] = shape
        return shape

    def caused(self, fact: Fact) -> Fact:
        """The fact with what it inherits from the one being handled, where it does not say itself."""
        cause = context.current()
        if cause is None:
            return fact
        return msgspec.structs.replace(
            fact,
            correlation_id=fact.correlation_id or cause.correlation_id,
            causation_id=fact.causation_id or cause.causation_id,
            traceparent=fact.traceparent or cause.traceparent,
        )

    def single(self, fact: Fact, shape: Shape, more: str = "") -> Message:
        """A fact as a message of its own; raises the `WireError` a reader would dead-letter it with.

        `more`: header lines for the broker, each with its end.
        """
        causeless = fact.correlation_id is fact.causation_id is fact.traceparent is fact.type is None
        extra = "" if causeless and fact.schema == 1 and REGISTRY.of_payload(fact.data) is None else self._extra(fact)
        event_id = fact.event_id or new_event_id()
        if extra is None or (fact.event_id is not None and not _plain_id(event_id)):
            return self._by_reference(fact, event_id, more)
        subject = self._subject(fact, shape)
        moment = self._moments.text(now_us()) if fact.occurred_at is None else format_time(fact.occurred_at)
        begin, between, then, end = shape.head
        block = f"{begin}{event_id}{between}{moment}{then}{event_id}{end}{extra}{more}\r\n".encode()
        return Message(subject, block, self.body(fact.data), event_id)

    def sequel(self, fact: StoredFact, entity: str | None = None) -> Sequel | None:
        """For `follow`; None: what this fact causes has to be encoded by `single`.

        `entity`: `subjects.entity_prefix` of it, where the caller has it.
        """
        correlation, cause, trace = fact.correlation_id or fact.event_id, fact.event_id, fact.traceparent
        if not (
            is_plain(cause)
            and (correlation is cause or is_plain(correlation))
            and (trace is None or _plain_trace(trace))
        ):
            return None
        extra = f"{headers.CORRELATION}: {correlation}\r\n{headers.CAUSATION}: {cause}\r\n"
        if trace is not None:
            extra += f"{headers.TRACEPARENT}: {trace}\r\n"
        if entity is None:
            entity = entity_prefix(fact.tenant, fact.key, fact.kind, fact.id)
        return Sequel(fact.kind, fact.key, fact.id, entity, extra, correlation, cause, trace)

    def follow(
        self,
        sequel: Sequel,
        event: str,
        detail: str,
        data: Any,
        event_id: str,
        more: str = "",
        body: bytes | None = None,
    ) -> Message:
        """`single`, of a fact that has nothing else: the same bytes for half the work.

        `detail`: valid tokens joined by dots, or nothing.  `event_id`: `new_event_id`'s.  That key and id are tokens
        is known: they were read.  `body`: `self.body` of the data, where it was made before.
        """
        shape = self._shapes.get((sequel.kind, event))
        if shape is None or shape.each or REGISTRY.of_payload(data) is not None:
            fact = Fact(
                kind=sequel.kind, id=sequel.id, key=sequel.key, event=event, data=data, event_id=event_id,
                detail=tuple(detail.split(".")) if detail else (), correlation_id=sequel.correlation_id,
                causation_id=sequel.causation_id, traceparent=sequel.traceparent,
            )  # fmt: skip
            return self.single(fact, self.shape(fact), more)
        before, middle, behind = shape.subject
        subject = f"{before}{sequel.key}{middle}{sequel.id}{behind}"
        moment = self._moments.text(now_us())
        begin, between, then, end = shape.head
        block = f"{begin}{event_id}{between}{moment}{then}{event_id}{end}{sequel.extra}{more}\r\n".encode()
        if body is None:
            body = self.body(data)
        return Message(f"{subject}.{detail}" if detail else subject, block, body, event_id)

    def entry(self, fact: Fact, shape: Shape) -> FramedFact | None:
        """A fact as an entry of a frame; None: it has to travel alone."""
        extra = self._extra(fact)
        if fact.event_id is not None or shape.linger_s is None or extra is None:
            return None
        label = Label(self._subject(fact, shape), shape.frame_head, extra)
        at_us = now_us() if fact.occurred_at is None else _unix_us(fact.occurred_at)
        if fact.data is None:
            return FramedFact(label, at_us, None, NUMBER_BYTES)
        # By way of JSON: a fact reads the same whether it travelled alone or in a frame.
        try:
            packed = _msgpack_encode(_json_decode(checked_json(fact.data)))
        except OverflowError:  # an integer that JSON can hold and MessagePack cannot
            return None
        return FramedFact(label, at_us, msgspec.Raw(packed), len(packed) + _ENTRY_BYTES)

    def _make_shape(self, fact: Fact) -> Shape:
        subject = fact.subject(self.tenant, self.agent).checked()
        rule = authors.check(subject, schema=1)
        model = msgspec.structs.replace(
            fact, data=None, event_id=None, occurred_at=None, correlation_id=None, causation_id=None,
            traceparent=None, type=None, schema=1,
        )  # fmt: skip
        made: dict[str, Any] = {
            "tenant": self.tenant, "agent": self.agent, "event_id": PLACE_ID, "occurred_at": PLACE_TIME
        }  # fmt: skip
        head = open_block(encode_fact(model, **made, content=self._config.content).headers)
        frame_head = open_block(encode_frame([model], **made).headers) if rule.frames else ""
        lane = SERVICE_CLASSES.index(REGISTRY.service_class(fact.kind, fact.event))
        linger_ms = self._config.progress_linger_ms if fact.event == "progress" else self._config.status_linger_ms
        return Shape(
            lane=min(lane, 1),  # the third lane is samples' alone: it sheds
            linger_s=linger_ms / 1000 if rule.frames and lane == 1 else None,
            schema_max=rule.schema,
            each=fact.kind == "agent" or rule.author is authors.Author.SELF,
            subject=pieces(open_subject(self.tenant, self.agent, fact.kind, fact.event)),
            head=pieces(head),
            frame_head=frame_head,
        )

    def _subject(self, fact: Fact, shape: Shape) -> str:
        key = fact.id if fact.key is None else fact.key
        detail = fact.detail
        if shape.each or not (is_token(fact.id) and (key is fact.id or is_token(key))) or not are_tokens(detail):
            subject = fact.subject(self.tenant, self.agent).checked()
            authors.check(subject)
            return subject.publish
        # kind, event and their author were checked when the shape was made.
        before, middle, behind = shape.subject
        return ".".join((f"{before}{key}{middle}{fact.id}{behind}", *detail))

    def _extra(self, fact: Fact) -> str | None:
        """The header lines that not every fact has; None where the reference has to be asked."""
        if fact.type is not None:
            return None
        extra = ""
        if fact.correlation_id is not None:
            if not is_plain(fact.correlation_id):
                return None
            extra = f"{headers.CORRELATION}: {fact.correlation_id}\r\n"
        if fact.causation_id is not None:
            if not is_plain(fact.causation_id):
                return None
            extra += f"{headers.CAUSATION}: {fact.causation_id}\r\n"
        if fact.traceparent is not None:
            if not _plain_trace(fact.traceparent):
                return None
            extra += f"{headers.TRACEPARENT}: {fact.traceparent}\r\n"
        if fact.schema != 1 or REGISTRY.of_payload(fact.data) is not None:
            return self._schema(fact, extra)
        return extra

    def _schema(self, fact: Fact, extra: str) -> str | None:
        entry = REGISTRY.of_payload(fact.data)
        known = entry is not None and (entry.kind, entry.event) == (fact.kind, fact.event)
        schema = entry.schema if entry is not None and known else fact.schema
        limit = self.shape(fact).schema_max
        if not 1 <= schema <= limits.SCHEMA_VERSION_MAX or (limit is not None and schema > limit):
            return None
        return extra if schema == 1 else f"{extra}{headers.SCHEMA}: {schema}\r\n"

    def body(self, data: Any) -> bytes:
        """A fact's body; raises the `WireError` a reader would dead-letter it with."""
        if data is None:
            return b""
        return checked_json(data) if self._config.content == "json" else codec.encode(data, "msgpack")

    def _by_reference(self, fact: Fact, event_id: str, more: str) -> Message:
        encoded = encode_fact(
            fact, tenant=self.tenant, agent=self.agent, event_id=event_id,
            occurred_at=clock.utc_now(), content=self._config.content,
        )  # fmt: skip
        block = encoded.header_block()
        if more:
            block = b"%b%b\r\n" % (block[:-2], more.encode())
        return Message(encoded.subject, block, encoded.body, event_id)

    # --- samples and frames --------------------------------------------------------------

    def series(self, series: str) -> Label:
        """What frames of a series share; raises `InvalidToken`, `InvalidSubject`."""
        label = self._series.get(series)
        if label is None:
            subject = SampleSubject(self.tenant, self.agent, series).checked()
            made = encode_frame(
                [Sample(series=series, value=0)], tenant=self.tenant, agent=self.agent,
                event_id=PLACE_ID, occurred_at=PLACE_TIME,
            )  # fmt: skip
            label = Label(subject.publish, open_block(made.headers))
            if len(self._series) >= _SHAPES_MAX:
                self._series.clear()
            self._series[series] = label
        return label

    def frame(self, label: Label, base_us: int, entries: list[Any], *, doubles: bool = False) -> Message:
        """A frame of these entries (µs since `base_us`, data), or `doubles` all at it; raises `PayloadTooLarge`."""
        event_id = new_event_id()
        body = frames.pack_doubles(base_us, entries) if doubles else frames.pack(base_us, entries)
        head = label.head
        if self._config.compress_bytes and len(body) >= self._config.compress_bytes:
            if self._zstd is None:
                self._zstd = zstandard.ZstdCompressor(level=limits.COMPRESS_LEVEL)
            smaller = self._zstd.compress(body)
            if len(smaller) * 10 < len(body) * 9:  # else not worth a reader's while
                body = smaller
                head = head.replace(codec.FRAME_TYPE, codec.FRAME_ZSTD_TYPE, 1)
        block = f"{head % (event_id, self._moments.text(base_us), event_id)}{label.extra}\r\n".encode()
        return Message(label.subject, block, body, event_id)


def sample_entry(value: float, data: dict[str, Any] | None, occurred_at: datetime | None) -> tuple[int, Any, int]:
    """A sample as an entry of a frame, and its bytes; raises `InvalidPayload`."""
    if type(value) is float:
        if value - value != 0.0:  # NaN and infinities
            codec.check_value(value)
    elif type(value) is not int or not _INT_LEAST <= value <= _INT_MOST:
        value = _as_double(value)
    at_us = now_us() if occurred_at is None else _unix_us(occurred_at)
    if not data:
        return at_us, value, NUMBER_BYTES
    if "value" in data:
        raise InvalidPayload("a sample's other fields cannot be named 'value'")
    for key, field in data.items():
        if type(key) is not str or type(field) not in _FLAT or (type(field) is str and "\0" in field) or "\0" in key:
            data = _json_decode(checked_json(data))
            break
        if type(field) is float and field - field != 0.0:
            codec.check_tree(data)
    try:
        packed = _msgpack_encode({"value": value, **data})
    except (OverflowError, ValueError) as exc:  # an integer of more than 64 bits, a lone surrogate
        raise InvalidPayload(f"cannot be sent: {exc}") from exc
    return at_us, msgspec.Raw(packed), len(packed) + _ENTRY_BYTES


def plain_values(items: list[Any]) -> list[Any] | None:
    """The values of a run of samples of one series without labels or times; None: it is not one."""
    series = getattr(items[0], "series", None)
    values = [
        item.value
        for item in items
        if type(item) is Sample and item.series == series and item.data is None and item.occurred_at is None
    ]
    return values if len(values) == len(items) and are_plain(values) else None


def are_plain(values: list[Any]) -> bool:
    """Whether all are finite doubles, or all small integers: then none needs a further look."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return bool(min(values) >= _INT_LEAST and max(values) <= _INT_MOST)
    # NaN and infinities survive a sum; a sum that overflows is looked at one by one.
    return kinds == {float} and math.isfinite(sum(values))


_FLAT: Final = frozenset({str, int, float, bool, type(None)})


def _as_double(value: Any) -> float:
    """Numbers of other types (numpy's, Decimal, huge integers) are sent as doubles."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise InvalidPayload("the value of a sample is a number", found=type(value).__name__)
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidPayload("the value of a sample is a finite double") from exc
    codec.check_value(value)
    return float(value)


def _unix_us(moment: datetime) -> int:
    if moment.tzinfo is None:
        format_time(moment)  # says what is wrong with it
    return (moment - _EPOCH) // _US
