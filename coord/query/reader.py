"""Pages of the log, and how their end is vouched for.

A page is read by batched direct get, which any replica may answer.  That makes it fast and
lets it lag, so the end of a page is believed in this order only::

    1. the batch           what matches from the start on, without holes as far as it goes
    2. the leader's info   first_seq: nothing was trimmed before the batch was read;
                           last_seq: the end that will be vouched for
    3. the leader's next   where the batch ran dry: the leader finds nothing more either,
                           hence nothing at or below last_seq is missing
    4. the info again      of a log with copies: it is still the leader of 2, or a leader of
                           before may have answered 3, and nothing is vouched for beyond the batch
    5. the newest match    unless all of it was stored just now: "nothing more" is also what the
                           leader says where it cannot read (`coord.bus.damage`); that is `LogUnreadable`

Infos are shared: requests that arrive while one is under way wait together for the next
one, so a thousand idle audits cost a handful of them.

A filter with an event needs two subjects (with and without detail tokens, see
`coord.wire.subjects.log_filters`); both are read and merged up to the lower of their ends.

The history of an entity or a key, which every look at a task or workflow reads, goes another way while it is
short (`direct.few`), which costs the same in a long log as in a short one.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from coord import errors, limits
from coord.bus import damage, direct
from coord.bus.connection import Connection
from coord.bus.direct import Batch, DirectReader, StoredMessage
from coord.core.retry import CallPolicy
from coord.core.subscription import Position
from coord.telemetry import logs
from coord.wire import subjects
from coord.wire.decode import decode_message
from coord.wire.filters import matches
from coord.wire.log_api import LogInfo
from coord.wire.records import StoredFact

_YIELD_EVERY = 100
_POISON_COST = 10
"""A message that is no fact may have been a frame of 8 MB: it counts like this many entries."""
_BEFORE_EVERYTHING = datetime(1, 1, 2, tzinfo=UTC)
_TIME_TRIES = 20
_TIME_TRY_S = 0.05
_BATCH_S = limits.RPC_TIMEOUT_S / 2
"""How long a batch may stay unanswered; then there is as long for the way round a damaged block."""
_FEW_S = _BATCH_S / 5
"""How long a short history may take: 0.5 s are enough for ten requests, and leave the long way its time."""
_MANY_S = 30.0
"""A history that was not short is not tried again for so long: finding out costs the broker milliseconds."""
_MANY_KEPT = 1_024
"""Such filters that are remembered."""
_COPIES_TRIES = 5
"""Batches of a replicated log before its leader's damage is the last word: any replica may answer."""

_log = logs.get("query")


class LogPage(msgspec.Struct):
    """Decoded messages of the log, in order."""

    facts: list[StoredFact]
    next: Position
    info: LogInfo
    poison: list[Position] = msgspec.field(default_factory=list)
    """Messages and frame entries that are no valid facts."""


class LogReader:
    """Reads EVENTS over one connection.  `close` it before the connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._direct = DirectReader(conn)
        self._info = SharedInfo(conn)
        self._watched = damage.Watched()
        self._uncounted = _Uncounted()
        self._many = _Many()

    async def close(self) -> None:
        """Stop what is under way.  Twice is legal."""
        await self._info.close()
        await self._direct.close()

    async def info(self) -> LogInfo:
        """What the log holds, asked of the leader after this call began."""
        return await self._info.get()

    async def read(
        self,
        filters: tuple[str, ...],
        start: Position | datetime | Literal["new", "first"],
        *,
        messages_max: int = limits.READ_PAGE_FACTS_MAX,
        bytes_max: int = limits.READ_PAGE_BYTES_MAX,
    ) -> LogPage:
        """The facts that match any of the disjoint `filters` from `start` on.

        At most `messages_max` messages, `bytes_max` bytes of them, and hardly more entries
        of frames than `messages_max`; the page says where to go on.

        Raises `LogTrimmed` when the start has left the window, `LogReplaced` when it is
        beyond the log's end, `LogUnreadable` when the broker cannot read what follows, and `BusError`s.
        """
        if start == "first" and len(filters) == 1 and subjects.is_of_one_key(filters[0]):
            found = await self._few(filters[0], messages_max, bytes_max)
            if found is not None:
                return found
        before = await self._info.get()
        self._watched.saw(before.last_seq, asyncio.get_running_loop().time())
        position = await self._position(start, before)
        _check(position, before)
        if position.seq > before.last_seq:
            return LogPage([], position, before)
        batches = await asyncio.gather(*(self._batch(f, position.seq, messages_max, bytes_max) for f in filters))
        info = await self._info.get()
        _check(position, info)
        messages: list[StoredMessage] = []
        bound = info.last_seq
        for filter_subject, batch in zip(filters, batches, strict=True):
            bound = min(bound, await self._bound(filter_subject, batch, position.seq, info))
            messages += batch.messages
        messages = sorted((m for m in messages if m.seq <= bound), key=lambda m: m.seq)
        return await _page(messages, position, bound, info, messages_max)

    async def _few(self, filter_subject: str, messages_max: int, bytes_max: int) -> LogPage | None:
        """The whole history of an entity or a key, or None where that takes the long way."""
        now = asyncio.get_running_loop().time()
        if self._many.covers((filter_subject, messages_max), now):
            return None
        try:
            found = await direct.few(
                self._conn, self._direct, subjects.EVENTS, filter_subject, messages_max=messages_max, timeout_s=_FEW_S
            )
        except (errors.BusError, errors.DeadlineExceeded):
            found = None
        if found is None or sum(len(m.body) for m in found[1]) > bytes_max:
            self._many.add((filter_subject, messages_max), now)
            return None
        answer, messages = found
        info = log_info(answer)
        return await _page(messages, Position(info.first_seq), info.last_seq, info, messages_max)

    async def _batch(self, filter_subject: str, seq: int, messages_max: int, bytes_max: int) -> Batch:
        async def batch(wanted: str) -> Batch:
            return await self._direct.batch(
                subjects.EVENTS, wanted, from_seq=seq, messages_max=messages_max, bytes_max=bytes_max,
                timeout_s=_BATCH_S,
            )  # fmt: skip

        now = asyncio.get_running_loop().time()
        if not self._uncounted.covers(seq, now):
            with contextlib.suppress(errors.DeadlineExceeded):
                return await batch(filter_subject)
        everything = await batch(">")
        self._uncounted.confirm(seq, now)
        reached = everything.messages[-1].seq if everything.messages else None
        wanted = [m for m in everything.messages if matches(filter_subject, m.subject)]
        return Batch(wanted, everything.pending, reached)

    async def _bound(self, filter_subject: str, batch: Batch, from_seq: int, info: LogInfo) -> int:
        """Everything that matches at or below this is in `batch`, which may gain messages here."""
        reached = batch.reached or (batch.messages[-1].seq if batch.messages else from_seq - 1)
        last_seq = info.last_seq
        if batch.pending:
            return reached
        if reached >= last_seq:
            return last_seq
        found = await direct.next_on_leader(self._conn, subjects.EVENTS, filter_subject, reached + 1)
        if found is None or found.seq > last_seq:
            same = not info.leader or (await self._info.get()).leader == info.leader
            if found is not None or not same or self._watched.covers(reached + 1):
                return last_seq if same else reached
            return await self._confirmed(filter_subject, batch, reached, info)
        # The replica that answered the batch lags: go on from what the leader has.
        batch.messages.append(found)
        return found.seq

    async def _confirmed(self, filter_subject: str, batch: Batch, reached: int, info: LogInfo) -> int:
        """The leader says that nothing follows `reached`: the log's end, unless it could not read that far."""
        after = await damage.readable_again(self._conn, subjects.EVENTS, filter_subject, reached + 1, info.last_seq)
        if after is None:
            return info.last_seq
        if batch.messages or batch.reached:
            return reached  # what was read first; the next page begins at the damage
        if info.leader:
            for _ in range(_COPIES_TRIES):
                with contextlib.suppress(errors.DeadlineExceeded):
                    found = await self._direct.batch(
                        subjects.EVENTS, filter_subject, from_seq=reached + 1, messages_max=1, timeout_s=_BATCH_S / 5
                    )
                    if found.messages and found.messages[0].seq <= info.last_seq:
                        batch.messages.append(found.messages[0])
                        return found.messages[0].seq
        _log.error("query.log_unreadable", filter=filter_subject, from_seq=reached + 1, first_seq=after)
        raise errors.LogUnreadable(wanted=reached + 1, first_seq=after, last_seq=info.last_seq)

    async def _position(self, start: Position | datetime | Literal["new", "first"], info: LogInfo) -> Position:
        if isinstance(start, Position):
            return start
        if start == "first":
            return Position(info.first_seq)
        if start == "new":
            return Position(info.last_seq + 1)
        assert isinstance(start, datetime)
        return await self._position_at(start, info)

    async def _position_at(self, time: datetime, info: LogInfo) -> Position:
        """The first sequence stored at or after `time`."""
        time = max(time, _BEFORE_EVERYTHING)
        for _ in range(_TIME_TRIES):
            if info.last_stored_at is None or time > info.last_stored_at + timedelta(microseconds=1):
                return Position(info.last_seq + 1)
            if info.first_seq > info.last_seq:
                raise errors.LogTrimmed("nothing is left since then", wanted=time.isoformat(), first_seq=info.first_seq)
            # Of everything, for a reason that `_batch` knows.
            batch = await self._direct.batch(subjects.EVENTS, ">", from_time=time, messages_max=1)
            info = await self._info.get()
            if batch.messages:
                first = batch.messages[0]
                if first.seq <= info.first_seq and info.first_seq > 1 and time < first.stored_at:
                    raise errors.LogTrimmed(
                        "the window begins after this time",
                        wanted=time.isoformat(),
                        first_seq=info.first_seq,
                        first_stored_at=first.stored_at.isoformat(),
                    )
                return Position(first.seq)
            # The leader has messages that late, this replica does not have them yet.
            await asyncio.sleep(_TIME_TRY_S)
        raise errors.ApiUnavailable("no replica has caught up with the leader", stream=subjects.EVENTS)


class _Many:
    """Filters, and how many messages were wanted, whose history was not short a while ago.

    They take the long way without a try.
    """

    def __init__(self) -> None:
        self._until: dict[tuple[str, int], float] = {}

    def covers(self, asked: tuple[str, int], now: float) -> bool:
        return self._until.get(asked, now) > now

    def add(self, asked: tuple[str, int], now: float) -> None:
        self._until.pop(asked, None)
        if len(self._until) >= _MANY_KEPT:
            del self._until[next(iter(self._until))]  # the oldest
        self._until[asked] = now + _MANY_S


class _Uncounted:
    """Where the broker does not answer what is asked by subject: from a damaged block to some way behind it.

    It cannot count there what a filter lets through.  It need not count to give everything, so
    that is asked for and filtered here.  How far that goes nobody says: a stretch is tried without
    waiting for an answer that does not come, twice as long each time, and forgotten after a minute.
    """

    def __init__(self) -> None:
        self._low = self._high = -1
        self._until = 0.0

    def covers(self, seq: int, now: float) -> bool:
        return self._low <= seq <= self._high and now < self._until

    def confirm(self, seq: int, now: float) -> None:
        """Asked by subject from `seq` on it did not answer, or was not asked; asked for everything it did."""
        if self.covers(seq, now):
            return
        if now >= self._until or seq < self._low:
            self._low = self._high = seq
        self._high = max(self._high, seq + 2 * (seq - self._low) + limits.READ_PAGE_FACTS_MAX)
        self._until = now + damage.FRESH_S


class SharedInfo:
    """The leader's view of EVENTS; whoever asks gets one that was asked for after that."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._running: asyncio.Task[LogInfo] | None = None
        self._following: asyncio.Task[LogInfo] | None = None

    async def get(self) -> LogInfo:
        """Raises `ApiUnavailable`, `ApiNotFound`, `DeadlineExceeded`, `NotConnected`."""
        if self._following is None:
            self._following = asyncio.create_task(self._follow(self._running), name="log-info")
            # Every caller may have left by the time it fails.
            self._following.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Shielded: one caller that leaves must not take the answer from the others.
        return await asyncio.shield(self._following)

    async def _follow(self, running: asyncio.Task[LogInfo] | None) -> LogInfo:
        if running is not None:
            await asyncio.wait({running})
        # From here on a caller needs a newer answer than this one.
        self._running, self._following = self._following, None
        return log_info(await self._conn.api(f"STREAM.INFO.{subjects.EVENTS}", policy=CallPolicy()))

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = [task for task in (self._running, self._following) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def log_info(answer: dict[str, Any]) -> LogInfo:
    """From the answer to STREAM.INFO."""
    state = answer["state"]
    first, last, count = int(state["first_seq"]), int(state["last_seq"]), int(state["messages"])
    return LogInfo(
        # A stream that never held anything says 0.
        first_seq=first if count else last + 1,
        last_seq=last,
        first_stored_at=_time(state["first_ts"]) if count else None,
        last_stored_at=_time(state["last_ts"]) if last else None,
        created=str(answer["created"]),
        leader=direct.leadership(answer),
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _check(position: Position, info: LogInfo) -> None:
    if position.seq < info.first_seq:
        raise errors.LogTrimmed(wanted=position.seq, first_seq=info.first_seq)
    if position.seq > info.last_seq + 1:
        raise errors.LogReplaced(
            wanted=position.seq, first_seq=info.first_seq, last_seq=info.last_seq, created=info.created
        )


async def _page(messages: list[StoredMessage], position: Position, bound: int, info: LogInfo, work_max: int) -> LogPage:
    """Decode, but no more than one answer can use: a small frame may hold a thousand entries and 8 MB."""
    page = LogPage([], position, info)
    work = 0
    for number, message in enumerate(messages):
        if work >= work_max:
            page.next = max(Position(messages[number - 1].seq + 1), position)
            return page
        poison = len(page.poison)
        entries = decode_message(message.subject, message.headers, message.body, message.seq, message.stored_at)
        for entry in entries:
            at = Position(entry.seq, entry.index)
            if at < position:
                continue
            if isinstance(entry, StoredFact):
                page.facts.append(entry)
            else:
                page.poison.append(at)
        before, work = work, work + len(entries) + _POISON_COST * (len(page.poison) - poison)
        if work // _YIELD_EVERY != before // _YIELD_EVERY:
            await asyncio.sleep(0)  # other requests are waiting
    page.next = max(Position(bound + 1), position)
    return page
