"""`coord doctor --audit`: reads a stream again and compares it with what was projected from it.

What it finds is damage that nobody else reports: a broker that lost part of a file drops the
records it cannot read and goes on.  Three comparisons, in one pass over the stream:

* its sequences: what is missing in the middle, and before the first one if it should be there;
* the chain of each partition against its anchors: a message that is another, or gone;
* its messages against the tables: each has its rows or dead letters, and none twice.

Nothing is changed.  It reads in bounded batches and rests as long as it worked, so that it takes
no more than half of one core's worth of the broker.  A direct get may be answered by any replica;
what looks wrong is asked of the leader before it is said.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.direct import DirectReader, StoredMessage, next_on_leader
from coord.core import chain, trim
from coord.core.audit import NAMED_MAX, Broken, Gap, Point, Walk
from coord.ops import projection
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated
from coord.wire import subjects
from coord.wire.decode import decode_message

Kind = Literal["gap", "tail", "front", "chain", "rows"]

_ROWS_EVERY: Final = 20_000
"""Messages compared with the tables at a time: each time the rows of that stretch of time are read."""
_SLACK: Final = timedelta(minutes=1)
"""Stored times of neighbouring messages may differ so much from their order: a broker's clock that was set."""

_RESTORE = "Restore the stream from a replica or a backup"


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was written."""

    stream: str
    kind: Kind
    first_seq: int
    last_seq: int
    partition: int | None = None
    messages: int
    """How many are concerned, at most."""
    detail: str
    remedy: str


class Report(msgspec.Struct, kw_only=True):
    """What an audit of one stream saw."""

    stream: str
    first_seq: int
    last_seq: int
    messages: int = 0
    segments: int = 0
    """Stretches of a partition's chain that were recomputed."""
    rows: int = 0
    """Rows and dead letters that were counted."""
    seconds: float = 0.0
    damage: list[Damage] = []
    damage_count: int = 0
    """Also what is not named."""

    def add(self, damage: Damage) -> None:
        """Note one; named up to a bound."""
        self.damage_count += 1
        if len(self.damage) < NAMED_MAX:
            self.damage.append(damage)


async def audit(
    conn: Connection,
    pool: Pool,
    stream: str,
    *,
    since: datetime | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Audit one stream: all that it holds, or what was stored from `since` on.

    `progress(seq, last_seq)` is called after each batch.  Raises `CoordError` when the broker or the
    database cannot be asked.
    """
    return await _Audit(conn, pool, stream, progress).run(since)


class _Audit:
    def __init__(self, conn: Connection, pool: Pool, stream: str, progress: Callable[[int, int], None] | None) -> None:
        self._conn = conn
        self._pool = pool
        self._stream = stream
        self._progress = progress
        self._partitions = {subjects.partition_filter(stream, p)[:-1]: p for p in range(limits.PARTITIONS)}
        self._stretch: dict[int, tuple[datetime, str]] = {}
        """Stored times and subjects of messages to be compared with the tables."""

    async def run(self, since: datetime | None) -> Report:
        began = time.monotonic()
        # The checkpoints first: what was committed until then is in the stream looked at afterwards.
        statuses = await projection.status(self._conn, self._pool, [self._stream])
        info = await self._conn.api(f"STREAM.INFO.{self._stream}")
        first, last = info["state"]["first_seq"], info["state"]["last_seq"]
        report = self._report = Report(stream=self._stream, first_seq=first, last_seq=last)
        self._at = {s.checkpoint.partition: s.checkpoint.seq for s in statuses}
        self._judge_checkpoints(statuses)
        async with contextlib.AsyncExitStack() as exits:
            reader = DirectReader(self._conn)
            exits.push_async_callback(reader.close)
            start = max(1, first if since is None else await self._since(reader, since, first, last))
            await self._front(info, first, since)
            async with self._pool.acquire() as db:
                with translated("audit"):
                    rows = await db.fetch(statement("audit_anchors"), self._stream, start - 1)
            points: dict[int, list[Point]] = {}
            for row in rows:
                points.setdefault(row["partition"], []).append(Point(row["seq"], row["messages"], row["digest"]))
            # A replaced stream is not the one that was projected.
            walk = Walk({} if any(d.kind == "tail" for d in report.damage) else points, start)
            await self._walk(reader, walk, start, last)
        report.messages, report.segments = walk.messages, walk.segments
        await self._judge_walk(walk)
        report.seconds = round(time.monotonic() - began, 3)
        return report

    # --- reading -----------------------------------------------------------------------------

    async def _since(self, reader: DirectReader, since: datetime, first: int, last: int) -> int:
        batch = await reader.batch(self._stream, ">", from_time=since, messages_max=1)
        return max(first, batch.messages[0].seq) if batch.messages else last + 1

    async def _walk(self, reader: DirectReader, walk: Walk, start: int, last: int) -> None:
        seq = start
        while seq <= last:
            began = time.monotonic()
            messages = await self._read(reader, seq, last)
            for message in messages:
                self._take(walk, message)
            seq = messages[-1].seq + 1 if messages else await self._readable(seq + 1, last)
            if len(self._stretch) >= _ROWS_EVERY:
                await self._compare_rows()
            if self._progress is not None:
                self._progress(min(seq - 1, last), last)
            await asyncio.sleep(time.monotonic() - began)
        walk.finish(last)
        await self._compare_rows()

    async def _read(self, reader: DirectReader, seq: int, last: int) -> list[StoredMessage]:
        """The next messages up to `last`, without a hole that the leader would not confirm."""
        batch = await reader.batch(self._stream, ">", from_seq=seq, messages_max=limits.READ_PAGE_FACTS_MAX)
        found: list[StoredMessage] = []
        for message in [*batch.messages, None]:
            end = last + 1 if message is None else min(message.seq, last + 1)
            if message is None and (found or seq > last):
                break
            while seq < end:
                held = await next_on_leader(self._conn, self._stream, ">", seq)
                if held is None or held.seq >= end:
                    break
                found.append(held)
                seq = held.seq + 1
            if message is not None and message.seq <= last:
                found.append(message)
                seq = message.seq + 1
        return found

    async def _readable(self, seq: int, last: int) -> int:
        """The first sequence from `seq` on from which the leader can read; `last` + 1 when there is none.

        A block that cannot be decompressed ends every read that comes to it, as if the log ended
        there; behind it the log goes on.
        """
        low, step = seq, 1  # not from below `low`
        while True:
            high = min(low + step, last)
            if low > last:
                return last + 1
            if await next_on_leader(self._conn, self._stream, ">", high) is not None:
                break
            low, step = high + 1, 2 * step
        while low < high:
            middle = (low + high) // 2
            if await next_on_leader(self._conn, self._stream, ">", middle) is None:
                low = middle + 1
            else:
                high = middle
        return low

    def _take(self, walk: Walk, message: StoredMessage) -> None:
        partition = self._partition(message.subject)
        headers = chain.canonical_headers(message.headers)
        walk.add(partition, message.seq, message.subject, headers, message.body)
        if partition is not None and message.seq <= self._at.get(partition, 0):
            self._stretch[message.seq] = (message.stored_at, message.subject)

    def _partition(self, subject: str) -> int | None:
        return self._partitions.get(".".join(subject.split(".", 3)[:3]) + ".")

    # --- judging -----------------------------------------------------------------------------

    def _judge_checkpoints(self, statuses: list[projection.PartitionStatus]) -> None:
        """What the projector would stop at: another stream, or one that lost its end."""
        for status in statuses:
            if isinstance(status.problem, errors.StreamReplaced):
                mark = status.checkpoint
                furthest = max(s.checkpoint.seq for s in statuses)
                first = min(self._report.last_seq + 1, furthest)
                self._say(
                    "tail", first, furthest, furthest - first + 1,
                    f"{status.problem.message}; the stream ends at {self._report.last_seq},"
                    f" the furthest checkpoint is {furthest}",
                    f"{_RESTORE}, or go on with `coord projection new-epoch`; the tables have what was projected.",
                    partition=mark.partition,
                )  # fmt: skip
                return  # it is so for all of them

    async def _front(self, info: dict[str, Any], first: int, since: datetime | None) -> None:
        """Messages that are too young to have left, nobody trimmed, and that the log begins behind."""
        config = info["config"]
        age_us = trim.intended(config) // 1_000
        if self._stream != subjects.EVENTS:
            return  # it drops its oldest whenever it is full
        now = datetime.fromisoformat(info["ts"]).astimezone(UTC)
        oldest = now - timedelta(microseconds=age_us) + _SLACK if age_us else datetime(1970, 1, 1, tzinfo=UTC)
        if since is not None:
            oldest = max(oldest, since)
        async with self._pool.acquire() as db:
            with translated("audit"):
                row = (await db.fetch(statement("audit_front"), first, oldest, trim.unneeded_below(config)))[0]
        if row["messages"]:
            self._say(
                "front", row["first"], first - 1, row["messages"],
                f"the log begins at {first}; {row['messages']} messages before it were too young to leave",
                f"The tables have them. {_RESTORE} if subscribers must read them; look for who deleted or purged.",
            )  # fmt: skip

    async def _judge_walk(self, walk: Walk) -> None:
        # What left from the front while we were reading is no damage.
        first = (await self._conn.api(f"STREAM.INFO.{self._stream}"))["state"]["first_seq"]
        for gap in walk.gaps:
            if gap.last >= first:
                await self._say_gap(Gap(max(gap.first, first), gap.last))
        for broken in walk.broken:
            if broken.after + 1 >= first:
                self._say_broken(broken, walk.gaps)
        self._report.damage_count += walk.gaps_count - len(walk.gaps) + walk.broken_count - len(walk.broken)

    async def _say_gap(self, gap: Gap) -> None:
        far = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
        async with self._pool.acquire() as db:
            with translated("audit"):
                rows = await db.fetch(statement("audit_rows"), self._stream, gap.first, gap.last, *far)
        have = len(rows)
        known = f"the tables have {have} of {gap.count}" if gap.count > 1 or not have else "the tables have it"
        remedy = f"{_RESTORE} if subscribers must read them."
        if have < gap.count:
            remedy += " What the tables do not have is lost, unless its publisher can state it again with the same id."
        self._say("gap", gap.first, gap.last, gap.count, f"sequences are missing; {known}", remedy)

    def _say_broken(self, broken: Broken, gaps: list[Gap]) -> None:
        missing = any(g.first <= broken.upto and g.last > broken.after for g in gaps)
        why = "messages are missing" if missing and broken.found < broken.expected else "a message is another"
        self._say(
            "chain", broken.after + 1, broken.upto, broken.expected,
            f"the stream does not lead from one anchor to the next: {why};"
            f" {broken.expected} were projected, it has {broken.found}",
            f"The tables have what was projected. {_RESTORE}; see coord.event for what these sequences were.",
            partition=broken.partition,
        )  # fmt: skip

    async def _compare_rows(self) -> None:
        stretch, self._stretch = self._stretch, {}
        if not stretch:
            return
        moments = [stored_at for stored_at, _ in stretch.values()]
        async with self._pool.acquire() as db:
            with translated("audit"):
                rows = await db.fetch(
                    statement("audit_rows"), self._stream, min(stretch), max(stretch),
                    min(moments) - _SLACK, max(moments) + _SLACK,
                )  # fmt: skip
        found = {row["seq"]: row for row in rows}
        self._report.rows += sum(row["rows"] for row in rows)
        for seq, (_, subject) in stretch.items():
            row = found.get(seq)
            if row is None:
                entries = await self._entries(seq)
                if entries:  # an empty frame has none
                    self._say_rows(seq, subject, f"it has {entries} entries and no row")
            elif row["rows"] != row["entries"]:
                self._say_rows(seq, subject, f"{row['rows']} rows for {row['entries']} entries")
            elif row["entries"] != row["upto"]:
                self._say_rows(seq, subject, f"{row['entries']} rows, the last is entry {row['upto'] - 1}")

    async def _entries(self, seq: int) -> int:
        held = await next_on_leader(self._conn, self._stream, ">", seq)
        if held is None or held.seq != seq:
            return 0  # it has left meanwhile
        return len(decode_message(held.subject, held.headers, held.body, seq, held.stored_at))

    def _say_rows(self, seq: int, subject: str, detail: str) -> None:
        self._say(
            "rows", seq, seq, 1, f"{subject[:256]}: {detail}",
            "Somebody changed the tables: `coord projection rebuild --log` puts them right.",
            partition=self._partition(subject),
        )  # fmt: skip

    def _say(
        self,
        kind: Kind,
        first: int,
        last: int,
        messages: int,
        detail: str,
        remedy: str,
        *,
        partition: int | None = None,
    ) -> None:
        self._report.add(
            Damage(
                stream=self._stream,
                kind=kind,
                first_seq=first,
                last_seq=last,
                partition=partition,
                messages=messages,
                detail=detail,
                remedy=remedy,
            )
        )
