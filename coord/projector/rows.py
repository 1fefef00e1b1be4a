"""From deliveries to the rows of one transaction.

Pure in spirit: given the same deliveries it makes the same rows; it reads no clock and
touches no connection.  The identity of a row is (epoch, stream sequence, index in frame).
A message that cannot be believed becomes a dead letter beside its good siblings.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from coord import limits
from coord.bus.pull import Delivery
from coord.core import chain
from coord.core.presence import STATE_AFTER
from coord.errors import CoordError
from coord.store.rows import AgentRow, DeadLetterRow, EventRow, SampleRow
from coord.wire.envelope import Poison, StoredFact, StoredSample, decode_message
from coord.wire.subjects import FactSubject, SampleSubject

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
        "_about_agents",
        "bytes",
        "digest",
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

    def __init__(self, stream: str, partition: int, epoch: int, digest: int = chain.EMPTY) -> None:
        self.stream = stream
        self.partition = partition
        self.epoch = epoch
        self.events: list[EventRow] = []
        self.samples: list[SampleRow] = []
        self._about_agents: list[EventRow] = []
        self.letters: list[Letter] = []
        self.tags: dict[str, set[str] | None] = {}
        """Tenant → what its facts touched; None: too much to name."""
        self.first: Delivery | None = None
        self.last: Delivery | None = None
        self.messages = 0
        self.bytes = 0
        """About what its bodies and headers hold, as decoded."""
        self.digest = digest
        """The partition's chain up to and with `last` (`coord.core.chain`)."""

    def __len__(self) -> int:
        return len(self.events) + len(self.samples) + len(self.letters)

    @property
    def is_empty(self) -> bool:
        """Whether it holds no message (a message may yield no row: an empty frame)."""
        return self.last is None

    def is_full(self, rows_max: int) -> bool:
        """Whether it should take no further message."""
        return len(self) >= rows_max or self.bytes >= limits.PROJECT_BATCH_BYTES

    def add(self, delivery: Delivery) -> None:
        """Decode one delivery and add what it holds."""
        if self.first is None:
            self.first = delivery
        self.last = delivery
        self.messages += 1
        self.digest = chain.extend(self.digest, delivery.seq, delivery.subject, delivery.raw_headers, delivery.data)
        stored_at = stored_time(delivery.stored_ns)
        for item in decode_message(delivery.subject, delivery.raw_headers, delivery.data, delivery.seq, stored_at):
            if isinstance(item, StoredFact):
                self._add_fact(item)
            elif isinstance(item, StoredSample):
                self._add_sample(item)
            else:
                self._add_poison(item, delivery, stored_at)

    def _add_fact(self, fact: StoredFact) -> None:
        row: EventRow = (
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
        self.events.append(row)
        self.bytes += len(row[19] or "")
        if fact.kind == "agent":
            self._about_agents.append(row)
        self._tag(fact.tenant, f"{fact.kind}:{fact.id}", f"key:{fact.key}", f"kind:{fact.kind}")

    def agents(self) -> list[AgentRow]:
        """What the batch's facts say about agents, one row a fact, in log order."""
        return [_agent_row(row) for row in self._about_agents]

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
        self.bytes += len(sample.json_text or "")
        self._tag(sample.tenant, f"series:{sample.agent}.{sample.series}")

    def _add_poison(self, poison: Poison, delivery: Delivery, stored_at: datetime) -> None:
        row = self._letter_row(
            poison.error, poison.seq, poison.index, poison.subject, poison.tenant, poison.agent, poison.body, stored_at
        )
        headers = delivery.raw_headers
        if headers:
            # A message may consist of headers alone, and every entry of a frame would repeat them.
            headers = headers[: limits.HEADERS_BYTES_MAX]
            row = msgspec.structs.replace(row, headers=headers.decode("utf-8", "backslashreplace"))
        self.bytes += len(poison.body) + len(headers or b"")
        self.letters.append(Letter(row, poison.body, headers))

    def park(self, refused: Mapping[tuple[int, int], CoordError]) -> None:
        """Turn the rows at these (seq, idx) into dead letters: the database refused their content."""
        self.events, dead_events = _split(self.events, refused)
        self.samples, dead_samples = _split(self.samples, refused)
        self._about_agents, _ = _split(self._about_agents, refused)
        for row in dead_events:
            tenant, agent, key, kind, id_, event, detail = row[5:12]
            tokens = tuple(detail.split(".")) if detail else ()
            self._park_row(row, FactSubject(tenant, agent, key, kind, id_, event, tokens), row[19], refused)
        for sample in dead_samples:
            self._park_row(sample, SampleSubject(*sample[5:8]), sample[10], refused)

    def _park_row(
        self,
        row: EventRow | SampleRow,
        subject: FactSubject | SampleSubject,
        text: str | None,
        refused: Mapping[tuple[int, int], CoordError],
    ) -> None:
        seq, idx, body = row[2], row[3], (text or "").encode()
        letter = self._letter_row(
            refused[seq, idx], seq, idx, subject.stored, subject.tenant, subject.agent, body, row[0]
        )
        self.letters.append(Letter(letter, body, None))

    def _letter_row(
        self,
        error: CoordError,
        seq: int,
        idx: int,
        subject: str,
        tenant: str | None,
        agent: str | None,
        body: bytes,
        stored_at: datetime,
    ) -> DeadLetterRow:
        return DeadLetterRow(
            stream=self.stream,
            epoch=self.epoch,
            seq=seq,
            idx=idx,
            partition=self.partition,
            subject=subject,
            tenant=tenant,
            agent=agent,
            code=error.code,
            reason=str(error),
            body=body[: limits.DEAD_LETTER_BODY_BYTES_MAX],
            body_bytes=len(body),
            stored_at=stored_at,
        )

    def _tag(self, tenant: str, *tags: str) -> None:
        known = self.tags.setdefault(tenant, set())
        if known is None:
            return
        known.update(tags)
        if len(known) > limits.NOTICE_TAGS_MAX:
            self.tags[tenant] = None


Row = TypeVar("Row", EventRow, SampleRow)


def _split(rows: list[Row], refused: Mapping[tuple[int, int], CoordError]) -> tuple[list[Row], list[Row]]:
    good: list[Row] = []
    bad: list[Row] = []
    for row in rows:
        (bad if (row[2], row[3]) in refused else good).append(row)
    return good, bad


def _agent_row(row: EventRow) -> AgentRow:
    event, stored_at = row[10], row[0]
    return AgentRow(
        tenant=row[5],
        agent=row[9],
        seen_first=stored_at,
        seen_last=stored_at,
        state=STATE_AFTER.get(event),
        status=row[19] if event == "status" else None,
        epoch=row[1],
        seq=row[2],
        idx=row[3],
    )


def stored_time(stored_ns: int) -> datetime:
    """The broker's nanoseconds as an aware datetime, truncated to microseconds."""
    return _EPOCH + timedelta(microseconds=stored_ns // 1000)
