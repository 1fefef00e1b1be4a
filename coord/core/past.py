"""Which facts a state in the past is made of: a point in the order of the log, and where each fact was found.

A state *at* a point is the fold of the facts up to it, by the folds that everybody uses.  Points::

    a time    every fact stored at or before it, up to the first that was stored later
    EPOCH:SEQ every fact up to that sequence of that epoch, older epochs included
    SEQ       of the newest epoch

Where the broker's clock stepped back, facts behind the step have earlier times than facts before it.  The
log's order wins: a history by time ends before the first fact that is later, whatever follows it.

Pure: where facts are read from is the caller's.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final, Literal, TypeAlias

import msgspec

from coord.wire.envelope import StoredFact

Source: TypeAlias = Literal["archive", "table", "log"]
"""Where a fact was read: cold storage, the event copy, the log's window."""

Place: TypeAlias = tuple[int, int, int]
"""(epoch, seq, index in frame): the order of the log."""

_SEQ: Final = re.compile(r"(?:(?P<epoch>[0-9]{1,9}):)?(?P<seq>[0-9]{1,18})")


class Point(msgspec.Struct, frozen=True):
    """Up to where a history goes; of nothing: all of it."""

    time: datetime | None = None
    """Aware."""
    seq: int | None = None
    epoch: int | None = None
    """Of `seq`; None: the newest."""

    @property
    def is_now(self) -> bool:
        """Whether nothing is left out."""
        return self.time is None and self.seq is None

    def within(self, newest_epoch: int) -> Point:
        """The same with its epoch named."""
        if self.seq is None or self.epoch is not None:
            return self
        return msgspec.structs.replace(self, epoch=newest_epoch)

    def ends_before(self, place: Place, stored_at: datetime) -> bool:
        """Whether the fact there is beyond it."""
        if self.time is not None and stored_at > self.time:
            return True
        if self.seq is None:
            return False
        assert self.epoch is not None, "named by `within`"
        return place[:2] > (self.epoch, self.seq)


def sequence(text: str) -> Point | None:
    """The point that ``SEQ`` or ``EPOCH:SEQ`` names; None for other text."""
    found = _SEQ.fullmatch(text.strip())
    if found is None:
        return None
    return Point(seq=int(found["seq"]), epoch=None if found["epoch"] is None else int(found["epoch"]))


class Said(msgspec.Struct, frozen=True):
    """One fact of a history, and where it was found."""

    epoch: int
    fact: StoredFact
    source: Source

    @property
    def place(self) -> Place:
        """Its place in the order of the log."""
        return self.epoch, self.fact.seq, self.fact.index
