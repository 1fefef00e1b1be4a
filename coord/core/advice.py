"""What to change about the database, and when its disk is full: decisions from what the server counts.

Pure: `coord.store.advice` asks the server, this module judges.  Four questions:

*Indexes nobody uses.*  One that was not scanned once for `ADVISE_UNUSED_S` costs every write and answers
nothing; those that keep keys unique are never called unused.
*Indexes that are missing.*  Those of coord's schema that are not there, or that a `CREATE INDEX CONCURRENTLY`
left invalid; and tables that are read from end to end again and again.
*Chunks.*  The chunk that is written to should be in memory with its indexes, or every row waits for the disk:
at most a quarter of it (TimescaleDB's rule).  Far smaller ones are no better, and each costs planning.
*The disk.*  Facts of whole days, their mean and how much the days differ (Student's t, 90 %): so there is an
earliest, a likely and a latest day on which it is full, or the room at which it settles, since what is old is
dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.core.upkeep import DAY_S

Kind: TypeAlias = Literal["unused index", "missing index", "invalid index", "read whole", "chunk interval", "disk"]
Severity: TypeAlias = Literal["urgent", "advice", "note"]

_INTERVALS_S: Final = (3_600, 2 * 3_600, 6 * 3_600, 12 * 3_600, 86_400, 2 * 86_400, 7 * 86_400)
"""What is recommended: hours and days that people think in."""

_T90: Final = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761)
"""Student's t, 95 % one-sided, for 1 to 14 degrees of freedom: a 90 % interval.  Beyond, the normal's 1.645 is near."""
_Z90: Final = 1.645


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """An index as the server counts it; those of a hypertable's chunks together."""

    relation: str
    name: str
    scans: int
    bytes: int
    unique: bool = False
    valid: bool = True
    definition: str = ""
    """The statement that makes it, where that is known."""


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """How a table is read; the chunks of a hypertable together."""

    relation: str
    rows: int
    seq_scans: int
    seq_rows: int
    """Rows that were read by them."""
    index_scans: int


class Chunks(msgspec.Struct, frozen=True, kw_only=True):
    """How a hypertable is cut."""

    relation: str
    interval_s: float
    count: int
    bytes_per_s: float
    """Growth of its row store with indexes, as its newest whole chunks say; 0: not known."""


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """What the forecast is made from."""

    used: int
    """Bytes of the database."""
    room: int | None
    """Bytes that are left for it; None: not known."""
    bytes_per_fact: float
    facts_by_day: Sequence[int]
    """Of whole days, the newest last."""
    retain_days: float | None
    """What is older is dropped; None: nothing is."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known."""

    observed_s: float
    """For so long the server has counted."""
    memory: int
    """Bytes of memory that the server may use for caching."""
    indexes: Sequence[Index]
    wanted: Mapping[str, str]
    """Indexes of coord's schema: name → the statement that makes it."""
    tables: Sequence[Table]
    chunks: Sequence[Chunks]
    disk: Disk


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do, or to know."""

    severity: Severity
    kind: Kind
    what: str
    """The index, the table, the disk."""
    why: str
    statement: str = ""
    """SQL that does it; empty: there is none."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """When the disk is full.  Days from now; None: never, as far as can be told."""

    days_judged: int
    bytes_per_day: float
    doubt: float
    """The true mean is within so many bytes a day of it, nine times of ten; infinite with fewer than two days."""
    settles_at: float | None
    """Bytes the database takes once as much is dropped as comes; None: nothing is dropped."""
    earliest: float | None
    likely: float | None
    latest: float | None


def advise(known: Known) -> list[Advice]:
    """Everything there is to say, the most urgent first."""
    found = [
        *_indexes(known),
        *(one for table in known.tables for one in _read_whole(table, known.observed_s)),
        *(one for chunks in known.chunks for one in _interval(chunks, known.memory)),
        *_disk(known.disk),
    ]
    order: tuple[Severity, ...] = ("urgent", "advice", "note")
    return sorted(found, key=lambda one: (order.index(one.severity), one.kind, one.what))


# --- indexes -------------------------------------------------------------------------------


def _indexes(known: Known) -> Iterable[Advice]:
    there = {index.name: index for index in known.indexes}
    for name, statement in known.wanted.items():
        if name not in there:
            yield Advice(
                severity="urgent",
                kind="missing index",
                what=name,
                why="coord's schema has it, this database has not: its questions read whole tables",
                statement=statement,
            )
    for index in known.indexes:
        if not index.valid:
            yield Advice(
                severity="urgent",
                kind="invalid index",
                what=f"{index.relation}.{index.name}",
                why="its making was broken off: every write keeps it up, no question uses it",
                statement=f"REINDEX INDEX CONCURRENTLY coord.{index.name}",
            )
        elif _is_unused(index, known.observed_s):
            ours = index.name in known.wanted
            yield Advice(
                severity="note" if ours else "advice",
                kind="unused index",
                what=f"{index.relation}.{index.name}",
                why=f"not scanned in {_days(known.observed_s)}, and takes {_size(index.bytes)}"
                + ("; coord's own: its questions are not asked here" if ours else ""),
                statement="" if ours else f"DROP INDEX CONCURRENTLY coord.{index.name}",
            )


def _is_unused(index: Index, observed_s: float) -> bool:
    return (
        not index.unique
        and index.scans == 0
        and observed_s >= limits.ADVISE_UNUSED_S
        and index.bytes >= limits.ADVISE_INDEX_BYTES_MIN
    )


def _read_whole(table: Table, observed_s: float) -> Iterable[Advice]:
    """A large table that is read from end to end more often than twice an hour."""
    an_hour = table.seq_scans / max(observed_s, 1.0) * 3_600
    mean_rows = table.seq_rows / max(table.seq_scans, 1)
    if mean_rows >= limits.ADVISE_SEQ_ROWS_MIN and an_hour >= limits.ADVISE_SEQ_SCANS_PER_H:
        yield Advice(
            severity="advice",
            kind="read whole",
            what=table.relation,
            why=f"read from end to end {an_hour:.3g} times an hour, {mean_rows:,.0f} rows each time"
            f" ({table.index_scans:,} scans by index meanwhile): the log of slow queries says by which question",
        )


# --- chunks --------------------------------------------------------------------------------


def _interval(chunks: Chunks, memory: int) -> Iterable[Advice]:
    if chunks.bytes_per_s <= 0:
        return
    fits = memory * limits.ADVISE_CHUNK_MEMORY_SHARE
    best = best_interval_s(chunks.bytes_per_s, memory)
    takes = chunks.bytes_per_s * chunks.interval_s
    too_large = takes > fits and best < chunks.interval_s
    # Smaller than could be costs nothing until there are many: only then is it worth a word.
    too_many = chunks.count > limits.ADVISE_CHUNKS_MAX and best > chunks.interval_s
    if not too_large and not too_many:
        return
    why = f"a chunk of {_hours(chunks.interval_s)} takes {_size(takes)} with its indexes"
    if too_large:
        why += f", more than a quarter of {_size(memory)} of memory"
    else:
        why += f", and there are {chunks.count:,} of them: each costs every question that bounds no time"
    yield Advice(
        severity="advice",
        kind="chunk interval",
        what=chunks.relation,
        why=f"{why}; {_hours(best)} would take {_size(chunks.bytes_per_s * best)}",
        statement=f"SELECT set_chunk_time_interval('coord.{chunks.relation}', INTERVAL '{best} seconds')",
    )


def best_interval_s(bytes_per_s: float, memory: int) -> int:
    """The longest of the usual intervals whose chunk fits; the shortest there is when none does."""
    fits = memory * limits.ADVISE_CHUNK_MEMORY_SHARE
    return max((s for s in _INTERVALS_S if s * bytes_per_s <= fits), default=_INTERVALS_S[0])


# --- the disk ------------------------------------------------------------------------------


def forecast(disk: Disk) -> Forecast:
    """When it is full, if the fleet goes on as in those days."""
    days = list(disk.facts_by_day)
    mean = fmean(days) * disk.bytes_per_fact if days else 0.0
    doubt = math.inf
    if len(days) >= 2:
        t = _T90[len(days) - 2] if len(days) - 2 < len(_T90) else _Z90
        doubt = t * stdev(days) / math.sqrt(len(days)) * disk.bytes_per_fact

    def full(per_day: float) -> float | None:
        if disk.room is None or not days:
            return None
        if disk.room <= 0:
            return 0.0
        if per_day <= 0:
            return None
        # What is dropped makes room for what comes: it never takes more than that.
        if disk.retain_days is not None and per_day * disk.retain_days <= disk.used + disk.room:
            return None
        return disk.room / per_day

    known = math.isfinite(doubt)
    return Forecast(
        days_judged=len(days),
        bytes_per_day=mean,
        doubt=doubt,
        settles_at=None if disk.retain_days is None else mean * disk.retain_days,
        earliest=full(mean + doubt) if known else full(mean),
        likely=full(mean),
        latest=full(max(0.0, mean - doubt)) if known else None,
    )


def _disk(disk: Disk) -> Iterable[Advice]:
    told = forecast(disk)
    if told.days_judged == 0:
        yield Advice(severity="note", kind="disk", what="disk", why="no whole day of facts yet: nothing to judge by")
        return
    doubt = f"± {_size(told.doubt)}" if math.isfinite(told.doubt) else "from one day: no confidence"
    why = f"{_size(told.bytes_per_day)} a day ({doubt}, 90 %, {told.days_judged} days)"
    if disk.room is None:
        settles = "" if told.settles_at is None else f", settles at {_size(told.settles_at)}"
        yield Advice(
            severity="note", kind="disk", what="disk", why=f"{why}{settles}; say --disk-gib for when it is full"
        )
        return
    if told.earliest is None:
        settles = "" if told.settles_at is None else f": settles at {_size(told.settles_at)}"
        fits = f"of {_size(disk.used + disk.room)}"
        yield Advice(severity="note", kind="disk", what="disk", why=f"{why}; is not full as it goes on{settles} {fits}")
        return
    latest = "never" if told.latest is None else f"{told.latest:.0f}"
    likely = "never" if told.likely is None else f"{told.likely:.0f}"
    yield Advice(
        severity="urgent" if told.earliest <= limits.ADVISE_DISK_URGENT_DAYS else "advice",
        kind="disk",
        what="disk",
        why=f"{why}; {_size(disk.room)} left: full in {likely} days (earliest {told.earliest:.0f}, latest {latest})",
    )


# --- in words ------------------------------------------------------------------------------


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _days(seconds: float) -> str:
    return f"{seconds / DAY_S:.0f} days"


def _hours(seconds: float) -> str:
    return f"{seconds / 3_600:g} h" if seconds < 2 * DAY_S else f"{seconds / DAY_S:g} days"
