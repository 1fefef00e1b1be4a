"""From deliveries to the rows of one transaction.

Pure in spirit: given the same deliveries it makes the same rows; it reads no clock and
touches no connection.  The identity of a row is (epoch, stream sequence, index in frame).
A message that cannot be believed becomes a dead letter beside its good siblings.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from coord import limits
from coord.bus.pull import Delivery
from coord.core.presence import STATE_AFTER
from coord.errors import CoordError
from coord.store.rows import AgentRow, DeadLetterRow, EventRow, SampleRow
from coord.wire import subjects
from coord.wire.envelope import Poison, StoredFact, StoredSample, decode_message

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Letter(msgspec.Struct, frozen=True):
    """One dead letter: its row, and what its copy in the DLQ has besides."""

    row: DeadLetterRow
    body: bytes
    """All of it; the row keeps less."""
    raw_headers: bytes | None


class Batch:
    """The rows of one transaction of one partition."""

    __slots__ = (
        "agents",
        "epoch",
        "events",
        "first",
        "last",
        "letters",
        "messages",
        "partition",
        "samples",
        "stream",
        "tags",
    )

    def __init__(self, stream: str, partition: int, epoch: int) -> None:
        self.stream = stream
        self.partition = partition
        self.epoch = epoch
        self.events: list[EventRow] = []
        self.samples: list[SampleRow] = []
        self.agents: dict[tuple[str, str], AgentRow] = {}
        self.letters: list[Letter] = []
        self.tags: dict[str, set[str] | None] = {}
        """Tenant → what its facts touched; None: too much to name."""
        self.first: Delivery | None = None
        self.last: Delivery | None = None
        self.messages = 0

    def __len__(self) -> int:
        return len(self.events) + len(self.samples) + len(self.letters)

    @property
    def is_empty(self) -> bool:
        """Whether it holds no message (a message may yield no row: an empty frame)."""
        return self.last is None

    def add(self, delivery: Delivery) -> None:
        """Decode one delivery and add what it holds."""
        if self.first is None:
            self.first = delivery
        self.last = delivery
        self.messages += 1
        stored_at = stored_time(delivery.stored_ns)
        for item in decode_message(delivery.subject, delivery.raw_headers, delivery.data, delivery.seq, stored_at):
            if isinstance(item, StoredFact):
                self._add_fact(item)
            elif isinstance(item, StoredSample):
                self._add_sample(item)
            else:
                self._add_poison(item, delivery, stored_at)

    def _add_fact(self, fact: StoredFact) -> None:
        self.events.append(
            (
                fact.stored_at,
                self.epoch,
                fact.seq,
                fact.index,
                self.partition,
                fact.tenant,
                fact.agent,
                fact.key,
                fact.kind,
                fact.id,
                fact.event,
                ".".join(fact.detail),
                fact.event_id,
                fact.type,
                fact.schema,
                fact.occurred_at,
                fact.correlation_id,
                fact.causation_id,
                fact.traceparent,
                fact.json_text,
            )
        )
        if fact.kind == "agent":
            self._touch_agent(fact)
        self._tag(fact.tenant, f"{fact.kind}:{fact.id}", f"key:{fact.key}", f"kind:{fact.kind}")

    def _touch_agent(self, fact: StoredFact) -> None:
        state = STATE_AFTER.get(fact.event)
        key = (fact.tenant, fact.id)
        before = self.agents.get(key)
        # Facts of one agent arrive in order: the later one wins, field by field.
        self.agents[key] = AgentRow(
            tenant=fact.tenant,
            agent=fact.id,
            seen_first=before.seen_first if before else fact.stored_at,
            seen_last=fact.stored_at,
            state=state if state is not None else (before.state if before else None),
            status=fact.json_text if fact.event == "status" else (before.status if before else None),
            epoch=self.epoch,
            seq=fact.seq,
            idx=fact.index,
        )

    def _add_sample(self, sample: StoredSample) -> None:
        self.samples.append(
            (
                sample.stored_at,
                self.epoch,
                sample.seq,
                sample.index,
                self.partition,
                sample.tenant,
                sample.agent,
                sample.series,
                sample.occurred_at,
                sample.value,
                sample.json_text,
            )
        )
        self._tag(sample.tenant, f"series:{sample.agent}.{sample.series}")

    def _add_poison(self, poison: Poison, delivery: Delivery, stored_at: datetime) -> None:
        self._park(poison.error, poison.seq, poison.index, poison.body, delivery, stored_at)

    def _park(
        self, error: CoordError, seq: int, index: int, body: bytes, delivery: Delivery, stored_at: datetime
    ) -> None:
        tenant, agent = subjects.owner(delivery.subject)
        row = DeadLetterRow(
            stream=self.stream,
            epoch=self.epoch,
            seq=seq,
            idx=index,
            partition=self.partition,
            subject=delivery.subject,
            tenant=tenant,
            agent=agent,
            code=error.code,
            reason=str(error),
            body=body[: limits.DEAD_LETTER_BODY_BYTES_MAX],
            body_bytes=len(body),
            headers=delivery.raw_headers.decode("utf-8", "backslashreplace") if delivery.raw_headers else None,
            stored_at=stored_at,
        )
        self.letters.append(Letter(row, body, delivery.raw_headers))

    def _tag(self, tenant: str, *tags: str) -> None:
        known = self.tags.setdefault(tenant, set())
        if known is None:
            return
        known.update(tags)
        if len(known) > limits.NOTICE_TAGS_MAX:
            self.tags[tenant] = None


def stored_time(stored_ns: int) -> datetime:
    """The broker's nanoseconds as an aware datetime, truncated to microseconds."""
    return _EPOCH + timedelta(microseconds=stored_ns // 1000)
