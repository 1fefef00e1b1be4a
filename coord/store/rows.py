"""What a row is: the place where the order of columns lives, with the end of it in `coord.wire.usual`.

Rows of the two big tables are plain tuples, because asyncpg's COPY takes them as they are
and a struct each would cost more than encoding it.  Whoever builds one follows EVENT_COLUMNS
or SAMPLE_COLUMNS; `EventRow` and `SampleRow` say the types, in the same order.

Columns that are not listed have a default in the table (`projected_at`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeAlias

import msgspec

from coord.wire import usual

EVENT_COLUMNS: Final = (
    "stored_at",
    "epoch",
    "seq",
    "idx",
    "partition",
    *usual.FIELDS,
)
"""Columns of `coord.event` in the order of an `EventRow`: where it was stored, and what a usual fact says."""

EventRow: TypeAlias = tuple[
    datetime,  # stored_at, aware
    int,  # epoch
    int,  # seq
    int,  # idx
    int,  # partition
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
    datetime,  # occurred_at, aware
    str | None,  # correlation_id
    str | None,  # causation_id
    str | None,  # traceparent
    str | None,  # data: JSON text; None is SQL null
]

SAMPLE_COLUMNS: Final = (
    "stored_at",
    "epoch",
    "seq",
    "idx",
    "partition",
    "tenant",
    "agent",
    "series",
    "occurred_at",
    "value",
    "data",
)
"""Columns of `coord.metric_sample` in the order of a `SampleRow`."""

SampleRow: TypeAlias = tuple[
    datetime,  # stored_at, aware
    int,  # epoch
    int,  # seq
    int,  # idx
    int,  # partition
    str,  # tenant
    str,  # agent
    str,  # series
    datetime,  # occurred_at, aware
    float,  # value
    str | None,  # data: JSON text; None is SQL null
]


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch of facts says about one agent; (epoch, seq, idx) is its newest fact's."""

    tenant: str
    agent: str
    seen_first: datetime
    seen_last: datetime
    state: str | None = None
    """None: the facts do not say; what the table has stays, and a new agent is 'alive'."""
    status: str | None = None
    """JSON text; None: the facts do not say, what the table has stays."""
    status_rev: str | None = None
    """JSON text of what `status` is built upon (`coord.store.statuses`); goes with it."""
    change: str | None = None
    """JSON text of a change of the status, not yet put together with what it changes."""
    epoch: int
    seq: int
    idx: int = 0

    @property
    def position(self) -> tuple[int, int, int]:
        """Its place in the log: what is newer wins."""
        return self.epoch, self.seq, self.idx


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """A message or an entry of a frame that could not be believed, and why.

    Its texts may hold anything a sender can put into a subject or a header: `copy.dead_letters`
    escapes what PostgreSQL would not take.
    """

    stream: str
    epoch: int
    seq: int
    idx: int = 0
    partition: int
    subject: str
    tenant: str | None = None
    agent: str | None = None
    code: str
    reason: str
    body: bytes
    """As much of it as the table keeps (`limits.DEAD_LETTER_BODY_BYTES_MAX`)."""
    body_bytes: int
    """Its size as it came."""
    headers: str | None = None
    stored_at: datetime


def coalesce_agents(rows: list[AgentRow]) -> list[AgentRow]:
    """One row an agent, sorted by primary key.

    The newest position wins field by field, an unstated field keeps the older value, and the
    time seen spans all of them.  One statement cannot touch a row twice, and two transactions
    that take their row locks in one order cannot deadlock.
    """
    merged: dict[tuple[str, str], AgentRow] = {}
    # In the order of the log: a field's value does not say how old it is once it was kept.
    for row in sorted(rows, key=lambda r: r.position):
        key = (row.tenant, row.agent)
        before = merged.get(key)
        merged[key] = row if before is None else _merge(before, row)
    return [merged[key] for key in sorted(merged)]


def _merge(old: AgentRow, new: AgentRow) -> AgentRow:
    return msgspec.structs.replace(
        new,
        seen_first=min(old.seen_first, new.seen_first),
        seen_last=max(old.seen_last, new.seen_last),
        state=new.state if new.state is not None else old.state,
        status=new.status if new.status is not None else old.status,
        status_rev=old.status_rev if new.status is None and new.status_rev is None else new.status_rev,
    )


def printable(text: str) -> str:
    """`text` as PostgreSQL can store it: NUL and lone surrogates become backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")
