"""What is stated and what is read: facts and samples before and after the log.

Users meet these classes as `coord.wire.envelope.Fact` and so on.  Objects read from the
log are flat and hold their body as bytes: decoding it is left to whoever needs the data.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar, cast

import msgspec

from coord.errors import InvalidPayload, WireError
from coord.wire import codec, headers
from coord.wire.codec import Content
from coord.wire.facts import REGISTRY, FactType
from coord.wire.subjects import FactSubject

T = TypeVar("T")

# The structs below have a field named `type`.
_Type: TypeAlias = type[T]


NOTHINGS: Final = (b"null", b"\xc0")
"""Bodies that say nothing, as JSON and as MessagePack have it; so does an empty one."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What an author states.  Everything that is None is filled in when it is published."""

    kind: str
    id: str
    event: str
    """Past tense: `completed`, not `complete`."""
    data: Any = None
    """A msgspec struct, dataclass, pydantic model, dict, list, scalar or None."""
    key: str | None = None
    """The ordering key; default: `id`."""
    detail: tuple[str, ...] = ()
    """Up to four more subject tokens that consumers filter on."""
    event_id: str | None = None
    """The deduplication id, unique for this author; default: a fresh UUIDv7."""
    occurred_at: datetime | None = None
    """Aware; default: when it is emitted."""
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    type: str | None = None
    """The CloudEvents type; default: `coord.{kind}.{event}`."""
    schema: int = 1
    """The version of the data; a registered payload type brings its own."""

    @classmethod
    def of(cls, payload: Any, *, id: str, **fields: Any) -> Fact:
        """The fact of a registered payload object; `fields` are this class's."""
        entry = REGISTRY.of_payload(payload)
        if entry is None:
            raise InvalidPayload(f"{type(payload).__name__} is not registered with @fact")
        return cls(kind=entry.kind, event=entry.event, schema=entry.schema, id=id, data=payload, **fields)

    def subject(self, tenant: str, agent: str) -> FactSubject:
        """Where `agent` states it; not checked."""
        key = self.id if self.key is None else self.key
        return FactSubject(tenant, agent, key, self.kind, self.id, self.event, self.detail)


class Sample(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # plain data has no cycles; a fifth cheaper
    """One value of one series of telemetry."""

    series: str
    """`cpu` or `llm.tokens`: up to four tokens."""
    value: float
    data: dict[str, Any] | None = None
    """Labels and other fields beside the value; not named `value`."""
    occurred_at: datetime | None = None


class Encoded(msgspec.Struct, frozen=True):
    """A message ready to publish."""

    subject: str
    headers: dict[str, str]
    body: bytes
    msg_id: str
    """What the server recognises a resend by: also in `headers` as Nats-Msg-Id."""

    def header_block(self) -> bytes:
        """The headers as they go over the wire."""
        return headers.encode(self.headers)


class StoredFact(msgspec.Struct, frozen=True, gc=False):
    """A fact read from the log."""

    tenant: str
    agent: str
    key: str
    kind: str
    id: str
    event: str
    detail: tuple[str, ...]
    partition: int
    seq: int
    """Stream sequence; (seq, index) is its place in the log."""
    index: int
    """Place in its frame; 0 for a single message."""
    stored_at: datetime
    """The broker's clock."""
    occurred_at: datetime
    """The author's clock; `stored_at` where the author gave none."""
    event_id: str
    type: str
    schema: int
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    body: bytes
    """The data as it was sent; empty for null."""
    content: Content
    converted: str | None = None
    """The JSON text of a MessagePack body."""

    @property
    def says_nothing(self) -> bool:
        """Whether the body is empty, or null as JSON or MessagePack has it: how a plain client leaves all out."""
        return not self.body or self.body in NOTHINGS

    @property
    def json_text(self) -> str:
        """The data as JSON text that jsonb accepts."""
        return self.body.decode() or "null" if self.converted is None else self.converted

    @property
    def data(self) -> Any:
        """The data as dicts, lists and scalars (MessagePack: also bytes and datetimes)."""
        if not self.body:
            return None
        return codec.decode_json(self.body) if self.content == "json" else codec.decode_msgpack(self.body)

    def decode(self, to: _Type[T]) -> T:
        """The data as type `to`, upcast first if `to` is registered with a newer schema.

        Raises `InvalidPayload` when it is not of that type and `UnknownSchema` when its
        schema is newer than the registered one.
        """
        entry = REGISTRY.of_type(to)
        if entry is not None and (entry.kind, entry.event) == (self.kind, self.event) and entry.schema != self.schema:
            return cast("T", self._upcast(entry))
        decoded: T = codec.decode_as(self.body, self.content, self.converted, to)
        return decoded

    def _upcast(self, entry: FactType) -> Any:
        data = REGISTRY.upcast(entry, self.data, self.schema)
        return codec.convert(data, entry.payload)

    @property
    def subject(self) -> FactSubject:
        """Where it was published and stored."""
        return FactSubject(self.tenant, self.agent, self.key, self.kind, self.id, self.event, self.detail)


class StoredSample(msgspec.Struct, frozen=True, gc=False):
    """A sample read from TELEMETRY."""

    tenant: str
    agent: str
    series: str
    partition: int
    seq: int
    index: int
    stored_at: datetime
    occurred_at: datetime
    value: float
    json_text: str | None = None
    """The other fields as a JSON object that jsonb accepts; None when there are none."""

    @property
    def data(self) -> dict[str, Any] | None:
        """The other fields, decoded."""
        return None if self.json_text is None else msgspec.json.decode(self.json_text)


class Poison(msgspec.Struct, frozen=True):
    """A message, or one entry of a frame, that cannot be believed, and why."""

    error: WireError
    seq: int
    index: int
    """The entry's place in its frame; 0 for a whole message."""
    subject: str
    body: bytes
    tenant: str | None = None
    agent: str | None = None
    """As far as the subject gives them."""
