"""What the archive does next with each chunk.  Pure: the edge asks the database and performs.

A *piece* is a chunk of a table (on `plain` a span of six hours) and what has become of it::

              write            publish             verify           drop, when it is due
    writing ────────▶ written ─────────▶ published ───────▶ verified ────────▶ dropped ──▶ purging ──▶ purged
       ▲  aside, under  │ under their       │ read back       │ count and sum     │ ▲        files go
       │  names nobody  │ names             │                 │ are compared      ▼ │ drop
       │  reads         │                   │                 │                restored
       └────────────────┴───── again ───────┴─────────────────┘    (its rows are in the table again)

*Again*: a file was not there or not what was written; or rows came late, which only more rows in the chunk
than in the piece can mean.  Everything of the attempt before is removed and the chunk, which was not dropped, is
written anew.  Each arrow is one transaction of the database after what it says has happened: a crash anywhere
finds the piece in a state whose step can be repeated.

A row is in the table while its piece is in any state but `dropped`, and only in the files while it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Final, Literal, TypeAlias

import msgspec

Relation: TypeAlias = Literal["event", "metric_sample"]
State: TypeAlias = Literal["writing", "written", "published", "verified", "dropped", "restored", "purging", "purged"]
Step: TypeAlias = Literal["write", "publish", "verify", "drop", "purge", "restore"]

RELATIONS: Final[tuple[Relation, ...]] = ("event", "metric_sample")

STEPS: Final[Mapping[State, Step]] = {
    "writing": "write",
    "written": "publish",
    "published": "verify",
    "purging": "purge",
}
"""What is done at once with a piece in that state (written: once no restored rows are kept in its chunk); in the others
it rests until something is due."""

LEADS_TO: Final[Mapping[State, frozenset[State]]] = {
    "writing": frozenset({"written", "purged"}),
    "written": frozenset({"published", "writing"}),
    "published": frozenset({"verified", "writing"}),
    "verified": frozenset({"dropped", "writing"}),
    "dropped": frozenset({"restored", "purging"}),
    "restored": frozenset({"dropped", "writing", "purging"}),
    "purging": frozenset({"purged"}),
    "purged": frozenset(),
}
"""Every change of state there is.  A chunk that was found empty is purged at once; of several restored pieces that
are written again as one, the others are purged."""

HOLDS_ROWS: Final[frozenset[State]] = frozenset({"writing", "written", "published", "verified", "restored"})
"""States in which the piece's chunk is in the table: it is not begun a second time."""


class Span(msgspec.Struct, frozen=True, order=True):
    """A range of `stored_at` that is archived and dropped as one: from `start`, until before `end`."""

    start: datetime
    end: datetime


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A row of coord.archive."""

    piece: int
    relation: Relation
    start: datetime
    end: datetime
    state: State
    attempt: int
    rows: int | None = None
    """None until it is written."""
    bytes: int | None = None
    verified_at: datetime | None = None
    restored_until: datetime | None = None

    @property
    def span(self) -> Span:
        """Its range."""
        return Span(self.start, self.end)

    @property
    def name(self) -> str:
        """What its files' names begin with: its start, number and attempt; unique in the archive."""
        return f"{self.start:%Y%m%dT%H%M%SZ}-{self.piece}-{self.attempt}"

    def __str__(self) -> str:
        return f"{self.relation} of {self.start:%Y-%m-%d %H:%M} (piece {self.piece})"


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A row of coord.archive_file: rows of one tenant, day, kind and epoch, in the order of (seq, idx)."""

    number: int
    path: str
    """Below the archive's root."""
    tenant: str
    day: date
    kind: str | None
    """None: samples have none."""
    epoch: int
    seq_first: int
    seq_last: int
    rows: int
    bytes: int
    sha256: str
    """Of its bytes."""
    content: str
    """Of the values in it, column by column."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a piece's files, so that the archive can be read without the database."""

    version: int = 1
    relation: Relation
    piece: int
    start: datetime
    end: datetime
    rows: int
    files: tuple[File, ...]


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """How old what must be; None: never."""

    after: timedelta
    drop: timedelta | None
    keep: timedelta | None


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """The next thing to do: begin a piece for a span, or go on with one."""

    step: Step | Literal["begin"]
    relation: Relation
    span: Span
    piece: Piece | None = None


Verdict: TypeAlias = Literal["same", "late", "less"]


def plan(
    relation: Relation, spans: Iterable[Span], pieces: Sequence[Piece], *, now: datetime, due: Due
) -> list[Action]:
    """What is to be done for one table, the oldest first.

    `spans` are those that have rows now, `pieces` all that were not purged.
    """
    actions = [
        Action(step=step, relation=relation, span=piece.span, piece=piece)
        for piece in pieces
        if (step := next_step(piece, pieces, now=now, due=due)) is not None
    ]
    held = [piece.span for piece in pieces if piece.state in HOLDS_ROWS]
    actions += [
        Action(step="begin", relation=relation, span=span)
        for span in spans
        if span.end <= now - due.after and not any(_overlap(span, other) for other in held)
    ]
    return sorted(actions, key=lambda a: (a.span, -1 if a.piece is None else a.piece.piece))


def next_step(piece: Piece, others: Iterable[Piece], *, now: datetime, due: Due) -> Step | None:
    """What is to be done with a piece now; None: it rests.

    A chunk into which rows were restored stays until their time is over, and is not written again before; `others`
    may hold them.
    """
    if piece.state in STEPS and piece.state != "writing":
        return STEPS[piece.state]
    back = (p for p in (piece, *others) if p.state == "restored" and p.span == piece.span)
    is_kept = any(p.restored_until is not None and p.restored_until > now for p in back)
    if piece.state == "writing":
        return None if is_kept else "write"  # they would be a part of it, and go when it does
    if piece.state not in {"verified", "restored"} or due.drop is None or piece.end > now - due.drop:
        return None
    return None if is_kept else "drop"


def in_the_way(piece: Piece, pieces: Iterable[Piece]) -> Piece | None:
    """Why a piece cannot be restored: one whose rows are in the table, of a range that overlaps its own and is another.

    Chunks get other bounds when their interval is changed.  Then rows of both would be in one chunk: it would be
    written and dropped with the rows of the other, and those would be archived twice.
    """
    others = (p for p in pieces if p.relation == piece.relation and p.state in HOLDS_ROWS and p.span != piece.span)
    return next((p for p in others if _overlap(p.span, piece.span)), None)


def purgeable(pieces: Iterable[Piece], *, now: datetime, due: Due) -> list[Piece]:
    """Pieces whose files are to be removed: dropped, and older than they are kept; the oldest first."""
    if due.keep is None:
        return []
    old = (p for p in pieces if p.state == "dropped" and p.end <= now - due.keep)
    return sorted(old, key=lambda p: (p.span, p.piece))


def compare(*, archived: tuple[int, int], found: tuple[int, int]) -> Verdict:
    """What (rows, sum of seq) of a chunk means against those of its pieces.

    Rows are never changed and never removed one by one: more are late ones, and everything else
    is somebody else's doing, who must be asked before anything is overwritten.
    """
    if archived == found:
        return "same"
    return "late" if found[0] > archived[0] else "less"


def folder(relation: Relation, tenant: str, day: date, kind: str | None) -> str:
    """Where files of one tenant, day and kind lie, below the root: Hive's names, which every reader knows."""
    kinds = "" if kind is None else f"/kind={kind}"
    return f"{relation}/tenant={tenant}/day={day:%Y-%m-%d}{kinds}"


def path(piece: Piece, file_number: int, *, tenant: str, day: date, kind: str | None) -> str:
    """The name of a file once it is published."""
    return f"{folder(piece.relation, tenant, day, kind)}/{piece.name}-{file_number:04d}.parquet"


def aside(piece: Piece) -> str:
    """The folder where a piece is written; readers pass over names that begin with an underscore."""
    return f"_writing/{piece.relation}/{piece.piece}"


def manifest_path(piece: Piece) -> str:
    """Where the piece's manifest lies."""
    return f"{piece.relation}/_manifest/{piece.start:%Y%m%dT%H%M%SZ}-{piece.piece}.json"


def _overlap(one: Span, other: Span) -> bool:
    return one.start < other.end and other.start < one.end
