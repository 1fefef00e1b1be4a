"""Whether nothing is there, or it cannot be read.

A broker that cannot decompress a block of its files (one flipped bit: 8 MB) says so to nobody.  A
read that comes to the block answers *no message*, as at the end of the log, though later blocks are
well; a batched read by subject from within it, or from some way behind it, is not answered at all
(nats-server 2.15: the count of what is pending fails).  What it knows without its blocks is which
subjects it holds, and where each was last: that is asked here before an end is believed.
"""

from __future__ import annotations

from typing import Final

from coord import errors
from coord.bus.connection import Connection
from coord.bus.direct import next_on_leader

FRESH_S: Final = 60.0
"""What was stored while somebody looked, so lately, was not read back from a disk: it needs no question."""


_BEHIND_ALL: Final = 2**31 - 1
"""More subjects than a stream has; tests/contract/test_counting_subjects.py."""


class Watched:
    """From which sequence on a log was stored while this process looked at it, within the last minute or two.

    Whoever follows the end of a log asks about it all the time; the question below is for those
    who come from further back.  `now` is monotonic, in seconds.
    """

    __slots__ = ("_old", "_young", "_young_at")

    def __init__(self) -> None:
        self._old: int | None = None
        self._young = 0
        self._young_at = 0.0

    def saw(self, last_seq: int, now: float) -> None:
        """The log ended there just now."""
        if self._old is None:
            self._old = self._young = last_seq
            self._young_at = now
        elif now - self._young_at >= FRESH_S:
            self._old, self._young, self._young_at = self._young, last_seq, now

    def covers(self, seq: int) -> bool:
        """Whether `seq` and what follows it was stored since."""
        return self._old is not None and seq > self._old


async def readable_again(
    conn: Connection, stream: str, filter_subject: str, from_seq: int, last_seq: int
) -> int | None:
    """Where reading goes on behind a part that cannot be read; None: there is no such part.

    To be asked of the leader when it has found nothing that matches from `from_seq` on, though the
    log goes on up to `last_seq`.  The answer is at most `last_seq` + 1, then nothing that matches
    can be read any more; between two damaged parts it may pass over what is well.  Raises `BusError`s.
    """
    newest = await _newest(conn, stream, filter_subject)
    if newest is not None and newest < from_seq:
        return None
    if newest is None and not await _holds(conn, stream, filter_subject):
        return None
    if await next_on_leader(conn, stream, filter_subject, from_seq) is not None:
        return None  # stored since
    if newest is None or newest > last_seq:
        newest = last_seq + 1
    return await _first_readable(conn, stream, filter_subject, from_seq + 1, newest)


def gap(stream: str, partition: int, checkpoint_seq: int, first_seq: int) -> errors.LogGap:
    """What stops a partition in front of such a part; `first_seq` is where reading goes on."""
    return errors.LogGap(
        "the broker cannot read a part of the log that was not projected: `coord doctor --audit` says more",
        first_seq=first_seq,
        sequences_lost_max=first_seq - checkpoint_seq - 1,
        stream=stream,
        partition=partition,
        checkpoint=checkpoint_seq,
    )


async def _newest(conn: Connection, stream: str, filter_subject: str) -> int | None:
    try:
        answer = await conn.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": filter_subject})
    except errors.ApiNotFound as exc:
        if exc.details.get("server_code") == 10037:  # no message found
            return None
        raise
    return int(answer["message"]["seq"])


async def _holds(conn: Connection, stream: str, filter_subject: str) -> bool:
    """Whether the broker counts anything that matches; its index is in memory and outlives its blocks.

    A page of subjects has up to 100,000, some 10 MB: one behind the last has none, and says how many there are.
    """
    info = await conn.api(f"STREAM.INFO.{stream}", {"subjects_filter": filter_subject, "offset": _BEHIND_ALL})
    return int(info.get("total", 0)) > 0


async def _first_readable(conn: Connection, stream: str, filter_subject: str, low: int, high: int) -> int:
    """The first sequence in [low, high) from which the leader finds something; `high` if there is none.

    Steps that double, then halves: some forty questions for a million sequences.
    """
    step = 1
    while low < high and await next_on_leader(conn, stream, filter_subject, min(low + step, high) - 1) is None:
        low, step = min(low + step, high), 2 * step
    high = min(low + step, high)
    while low < high:
        middle = (low + high) // 2
        if await next_on_leader(conn, stream, filter_subject, middle) is None:
            low = middle + 1
        else:
            high = middle
    return low
