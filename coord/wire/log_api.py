"""The log reader's request and answers: ``coord.rpc.{tenant}.log.read`` and ``.log.info``.

Two spellings of a fact, by the answer's type.  In JSON its data is JSON, whatever the
author sent.  In MessagePack its data is the bytes the author sent and what they are, so
that a subscriber gets exactly what it would have got live.

Structs here only grow, with defaults: readers of other releases and languages decode them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from coord import limits
from coord.wire import codec, subjects
from coord.wire.codec import Content
from coord.wire.records import StoredFact


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which facts; what is None matches all.  The tenant is the request subject's."""

    key: str | None = None
    kind: str | None = None
    id: str | None = None
    agent: str | None = None
    event: str | None = None

    def stored(self, tenant: str) -> tuple[str, ...]:
        """The one or two disjoint filters over stored subjects; `InvalidToken` for what is no token."""
        return subjects.log_filters(
            tenant, key=self.key, kind=self.kind, id=self.id, agent=self.agent, event=self.event
        )

    def live(self, tenant: str) -> tuple[str, ...]:
        """The same over live subjects."""
        return subjects.live_filters(
            tenant, key=self.key, kind=self.kind, id=self.id, agent=self.agent, event=self.event
        )


class ReadRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """Where to read from: exactly one of `from_seq`, `from_time` and `from`."""

    filter: Filter = Filter()
    from_seq: int | None = None
    from_index: int = 0
    """With `from_seq`: entries of that message's frame before this one are left out."""
    from_time: datetime | None = None
    """RFC 3339 with an offset: the first fact stored at or after it."""
    from_: Literal["new", "first"] | None = None
    """`new`: nothing that is stored yet, only where the log ends; `first`: the window's beginning."""
    max: int = limits.READ_PAGE_FACTS_MAX
    """Facts at most, 1 to 500; an answer may hold fewer, even none, though more follow."""


class JsonFact(msgspec.Struct, frozen=True, kw_only=True):
    """A fact in a JSON answer."""

    seq: int
    index: int
    subject: str
    """The stored subject."""
    tenant: str
    agent: str
    key: str
    kind: str
    id: str
    event: str
    detail: tuple[str, ...]
    stored_at: datetime
    occurred_at: datetime
    event_id: str
    type: str
    schema: int
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    data: msgspec.Raw


class PackedFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact in a MessagePack answer."""

    seq: int
    index: int
    tenant: str
    agent: str
    key: str
    kind: str
    id: str
    event: str
    stored_at: datetime
    occurred_at: datetime
    event_id: str
    type: str
    body: bytes
    """The data: JSON text or MessagePack, by `content`; empty for null."""
    content: Content = "json"
    detail: tuple[str, ...] = ()
    schema: int = 1
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None

    def unpack(self) -> StoredFact:
        """The fact as a live subscriber gets it."""
        converted = None
        if self.content == "msgpack":
            converted = codec.json_text(codec.decode_msgpack(self.body)) if self.body else "null"
        return StoredFact(
            tenant=self.tenant,
            agent=self.agent,
            key=self.key,
            kind=self.kind,
            id=self.id,
            event=self.event,
            detail=self.detail,
            partition=subjects.partition(self.key),
            seq=self.seq,
            index=self.index,
            stored_at=self.stored_at,
            occurred_at=self.occurred_at,
            event_id=self.event_id,
            type=self.type,
            schema=self.schema,
            correlation_id=self.correlation_id,
            causation_id=self.causation_id,
            traceparent=self.traceparent,
            body=self.body,
            content=self.content,
            converted=converted,
        )


class LogInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the log holds, as its leader says."""

    first_seq: int
    """The window's first sequence; one more than `last_seq` when it holds nothing."""
    last_seq: int
    first_stored_at: datetime | None
    """None when it holds nothing."""
    last_stored_at: datetime | None
    """None when it never held anything."""
    created: str
    """When the stream was created: another value is another log."""
    leader: str = ""
    """Who leads a stream with replicas, and since when: when it changes, the live feed may have lost
    something.  Empty without replicas."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to `ReadRequest`.  The next request's `from_seq` and `from_index` are `next_*`.

    Everything that matches at or below `up_to` is in this page or before it.  The page
    reaches the end of the log when `next_seq` is above `last_seq`.
    """

    facts: list[msgspec.Raw]
    """`JsonFact` or `PackedFact`, in log order."""
    next_seq: int
    next_index: int
    up_to: int
    first_seq: int
    last_seq: int
    created: str
    leader: str = ""
    skipped: int = 0
    """Messages and frame entries that are no valid facts; they are dead letters."""


def to_json(fact: StoredFact) -> bytes:
    """The JSON text of `JsonFact`."""
    text = fact.body if fact.content == "json" else fact.json_text.encode()
    return msgspec.json.encode(
        JsonFact(
            seq=fact.seq,
            index=fact.index,
            subject=fact.subject.stored,
            tenant=fact.tenant,
            agent=fact.agent,
            key=fact.key,
            kind=fact.kind,
            id=fact.id,
            event=fact.event,
            detail=fact.detail,
            stored_at=fact.stored_at,
            occurred_at=fact.occurred_at,
            event_id=fact.event_id,
            type=fact.type,
            schema=fact.schema,
            correlation_id=fact.correlation_id,
            causation_id=fact.causation_id,
            traceparent=fact.traceparent,
            data=msgspec.Raw(text or b"null"),
        )
    )


def to_msgpack(fact: StoredFact) -> bytes:
    """The MessagePack of `PackedFact`."""
    return msgspec.msgpack.encode(
        PackedFact(
            seq=fact.seq,
            index=fact.index,
            tenant=fact.tenant,
            agent=fact.agent,
            key=fact.key,
            kind=fact.kind,
            id=fact.id,
            event=fact.event,
            stored_at=fact.stored_at,
            occurred_at=fact.occurred_at,
            event_id=fact.event_id,
            type=fact.type,
            body=fact.body,
            content=fact.content,
            detail=fact.detail,
            schema=fact.schema,
            correlation_id=fact.correlation_id,
            causation_id=fact.causation_id,
            traceparent=fact.traceparent,
        )
    )
