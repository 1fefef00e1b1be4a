"""From deliveries to the rows of one transaction.

Pure in spirit: given the same deliveries it makes the same rows; it reads no clock and
touches no connection.  The identity of a row is (epoch, stream sequence, index in frame).
A message that cannot be believed becomes a dead letter beside its good siblings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeVar

import msgspec

from coord import limits
from coord.bus.pull import Delivery
from coord.core import chain
from coord.core.presence import state_after
from coord.errors import CoordError
from coord.store.rows import EVENT_COLUMNS, AgentRow, DeadLetterRow, EventRow, SampleRow
from coord.wire import usual
from coord.wire.decode import decode_unusual
from coord.wire.envelope import Poison, StoredFact, StoredSample
from coord.wire.headers import readable
from coord.wire.readings import Readings
from coord.wire.subjects import FactSubject, SampleSubject
from coord.wire.times import from_unix_us, from_unix_us_all


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
        "_sampled",
        "bytes",
        "digest",
        "epoch",
        "events",
        "first",
        "last",
        "letters",
        "messages",
        "partition",
        "readings",
        "samples",
        "stream",
    )

    def __init__(
        self, stream: str, partition: int, epoch: int, digest: int = chain.EMPTY, readings: Readings | None = None
    ) -> None:
        """`readings`: of this stream, shared with another reader of this process."""
        self.stream = stream
        self.partition = partition
        self.epoch = epoch
        self.readings = readings
        self.events: list[EventRow] = []
        self.samples: list[SampleRow] = []
        self._about_agents: list[EventRow] = []
        self.letters: list[Letter] = []
        self._sampled: set[tuple[str, str, str]] = set()
        """(tenant, agent, series) of its samples."""
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

    @property
    def tags(self) -> dict[str, set[str] | None]:
        """Tenant → what its facts touched; None: too much to name.  Gathered anew each time: ask once."""
        found: dict[str, set[str] | None] = {}
        for tenant, agent, series in self._sampled:
            _tag(found, tenant, f"series:{agent}.{series}")
        for tenant, kind in set(map(_kind, self.events)):
            _tag(found, tenant, f"kind:{kind}")
        # In pieces: the first one of a backlog names too much already, and nobody need look at the others.
        for start in range(0, len(self.events), limits.NOTICE_TAGS_MAX):
            if not any(found.values()):
                break
            for tenant, key, kind, id_ in set(map(_entity, self.events[start : start + limits.NOTICE_TAGS_MAX])):
                if found[tenant] is not None:
                    _tag(found, tenant, f"{kind}:{id_}", f"key:{key}")
        return found

    @property
    def stored(self) -> dict[str, list[tuple[int, int, tuple[str, ...]]]]:
        """Tenant → (sequence, facts of it, tags) of each message of facts; of a large batch nothing.  Ask once."""
        found: dict[str, list[tuple[int, int, tuple[str, ...]]]] = {}
        if len(self.events) > limits.NOTICE_FACTS_MAX:
            return found
        for row in self.events:
            messages = found.setdefault(row[5], [])
            if messages and messages[-1][0] == row[2]:  # of the same frame
                messages[-1] = (row[2], messages[-1][1] + 1, messages[-1][2])
            else:
                messages.append((row[2], 1, (f"{row[8]}:{row[9]}", f"key:{row[7]}", f"kind:{row[8]}")))
        return found

    def add(self, delivery: Delivery) -> None:
        """Decode one delivery and add what it holds."""
        self.fill((delivery,), rows_max=0, turn_rows_max=0)

    def fill(self, deliveries: Sequence[Delivery], rows_max: int, turn_rows_max: int) -> int:
        """Add deliveries until the batch has `rows_max` rows or this call has added `turn_rows_max`; how many.

        At least one is added.  What a message holds shows only when it is decoded: a frame of 100
        bytes may be a thousand rows, so the last one may exceed either bound.  Whatever it raises, nothing is
        added then: a batch that was offered is committed as it is.
        """
        digest, size = self.digest, self.bytes
        held = tuple(map(len, self._held))
        try:
            added = self._decode(deliveries, rows_max, turn_rows_max)
        except BaseException:
            self.digest, self.bytes = digest, size
            for rows, count in zip(self._held, held, strict=True):
                del rows[count:]  # what `_sampled` has too much only names too many tags
            raise
        if added:
            if self.first is None:
                self.first = deliveries[0]
            self.last = deliveries[added - 1]
            self.messages += added
        return added

    @property
    def _held(self) -> tuple[list[Any], ...]:
        return self.events, self.samples, self._about_agents, self.letters

    def _decode(self, deliveries: Sequence[Delivery], rows_max: int, turn_rows_max: int) -> int:
        rows = len(self)
        rows_max = min(rows_max, rows + turn_rows_max)
        append, epoch, partition = self.events.append, self.epoch, self.partition
        read, extend, readings = usual.read, chain.extend, self.readings
        added = 0
        for delivery, stored_at in zip(deliveries, stored_times(deliveries), strict=True):
            seq, subject, raw_headers, body = delivery.seq, delivery.subject, delivery.raw_headers, delivery.data
            self.digest = extend(self.digest, seq, subject, raw_headers, body)
            fact = read(subject, raw_headers, body) if readings is None else readings.of(delivery)
            if fact is not None:
                row = (stored_at, epoch, seq, 0, partition) + fact  # noqa: RUF005 - two thirds of the time
                append(row)
                self.bytes += len(body)
                if fact[3] == "agent":
                    self._about_agents.append(row)
                rows += 1
            else:
                if not self._add_frame(delivery, stored_at):
                    self._add_unusual(delivery, stored_at)
                rows = len(self)
            added += 1
            if rows >= rows_max or self.bytes >= limits.PROJECT_BATCH_BYTES:
                break
        return added

    def _add_unusual(self, delivery: Delivery, stored_at: datetime) -> None:
        """Whatever is neither a usual fact nor a usual frame, judged piece by piece."""
        for item in decode_unusual(delivery.subject, delivery.raw_headers, delivery.data, delivery.seq, stored_at):
            if isinstance(item, StoredFact):
                self._add_fact(_event_row(item, self.epoch, self.partition))
            elif isinstance(item, StoredSample):
                self._add_sample(item)
            else:
                self._add_poison(item, delivery, stored_at)

    def _add_fact(self, row: EventRow) -> None:
        self.events.append(row)
        self.bytes += len(row[19] or "")
        if row[8] == "agent":
            self._about_agents.append(row)

    def _add_frame(self, delivery: Delivery, stored_at: datetime) -> bool:
        """Add a frame's rows in one go, if it is one and nothing about it is unusual; whether it was."""
        epoch, seq, p = self.epoch, delivery.seq, self.partition
        samples = usual.read_samples(delivery.subject, delivery.raw_headers, delivery.data)
        if samples is not None:
            tenant, agent, series, times, values = samples
            self.samples += [
                (stored_at, epoch, seq, index, p, tenant, agent, series, occurred_at, value, None)
                for index, occurred_at, value in zip(range(len(values)), times, values, strict=True)
            ]
            if values:
                self._sampled.add((tenant, agent, series))
            return True
        facts = usual.read_facts(delivery.subject, delivery.raw_headers, delivery.data, seq)
        for index, fact in enumerate(facts or ()):
            self._add_fact((stored_at, epoch, seq, index, p, *fact))
        return facts is not None

    @property
    def has_agents(self) -> bool:
        """Whether any of its facts is about an agent."""
        return bool(self._about_agents)

    def agents(self) -> list[AgentRow]:
        """What the batch's facts say about agents, one row a fact, in log order."""
        return [agent_row(row) for row in self._about_agents]

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
        self._sampled.add((sample.tenant, sample.agent, sample.series))

    def _add_poison(self, poison: Poison, delivery: Delivery, stored_at: datetime) -> None:
        row = self._letter_row(
            poison.error, poison.seq, poison.index, poison.subject, poison.tenant, poison.agent, poison.body, stored_at
        )
        headers = delivery.raw_headers
        if headers:
            # A message may consist of headers alone, and every entry of a frame would repeat them.
            headers = headers[: limits.HEADERS_BYTES_MAX]
            row = msgspec.structs.replace(row, headers=readable(headers))
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


_entity = itemgetter(5, 7, 8, 9)  # tenant, key, kind and id of an EventRow
_kind = itemgetter(5, 8)

assert EVENT_COLUMNS[5] == "tenant" and EVENT_COLUMNS[7:10] == ("key", "kind", "id")  # noqa: PT018 - one thing


def _tag(found: dict[str, set[str] | None], tenant: str, *tags: str) -> None:
    known = found.setdefault(tenant, set())
    if known is None:
        return
    known.update(tags)
    if len(known) > limits.NOTICE_TAGS_MAX:
        found[tenant] = None


def _event_row(fact: StoredFact, epoch: int, partition: int) -> EventRow:
    return (
        fact.stored_at,
        epoch,
        fact.seq,
        fact.index,
        partition,
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


Row = TypeVar("Row", EventRow, SampleRow)


def _split(rows: list[Row], refused: Mapping[tuple[int, int], CoordError]) -> tuple[list[Row], list[Row]]:
    good: list[Row] = []
    bad: list[Row] = []
    for row in rows:
        (bad if (row[2], row[3]) in refused else good).append(row)
    return good, bad


def agent_row(row: EventRow) -> AgentRow:
    """What a fact of kind ``agent`` says of its agent."""
    event, stored_at = row[10], row[0]
    return AgentRow(
        tenant=row[5],
        agent=row[9],
        seen_first=stored_at,
        seen_last=stored_at,
        state=state_after(event, row[19]),
        status=row[19] if event == "status" else None,
        change=row[19] if event == "changed" else None,
        epoch=row[1],
        seq=row[2],
        idx=row[3],
    )


def stored_times(deliveries: Sequence[Delivery]) -> list[datetime]:
    """When the broker stored each, truncated to microseconds."""
    return from_unix_us_all([delivery.stored_ns // 1000 for delivery in deliveries])


def stored_time(stored_ns: int) -> datetime:
    """The broker's nanoseconds as an aware datetime, truncated to microseconds."""
    return from_unix_us(stored_ns // 1000)
