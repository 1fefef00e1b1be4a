"""Puts the statements of a recording into a log: paced, in order per key, and only once.

Order: within a key the next statement is published when the one before it is stored, so
neither a lost connection nor a full stream can turn them round; different keys go side by
side, up to `limits.REPLAY_AHEAD` statements in all.

Once: every statement has an event id that the file determines, so that within the stream's
duplicate window a second copy is dropped by the broker.  Beyond it the bookmark tells what
is stored already; what was under way when a replay died is looked for in the log.  A
replay that is complete says so and publishes nothing.

Every agent of the recording speaks for itself: over one connection, which therefore needs the
permission to publish for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.client.log_source import LogSource
from coord.core.retry import CallPolicy
from coord.core.subscription import Position, Read
from coord.ops.replay.bookmark import Bookmark, Bookmarks
from coord.ops.replay.recording import Statement
from coord.ops.replay.speakers import Speakers
from coord.runtime.retrying import retrying
from coord.wire import ids
from coord.wire.log_api import Filter
from coord.wire.records import Fact, StoredFact

_STRETCH = 2 * limits.REPLAY_AHEAD
"""Statements that one bookmark announces."""


class ReplayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a recording is replayed."""

    tenant: str
    run: str
    """Names this replay: its bookmark, its ids and its keys."""
    speed: float | None = None
    """1: as recorded, 10: ten times as fast; None: as fast as it goes."""
    shift: bool = False
    """Move recorded times so that the first is now."""
    patience_s: float = limits.REPLAY_PATIENCE_S
    """How long one statement, or the bookmark, is tried again while the broker is away or full."""


class Tally(msgspec.Struct):
    """What became of the statements."""

    resumed_at: int = 0
    """Statements that earlier replays of this run had stored for certain."""
    stored: int = 0
    already: int = 0
    """Found stored already, by the broker or in the log."""

    @property
    def done(self) -> int:
        """Statements that are in the log now."""
        return self.resumed_at + self.stored + self.already


def event_id(run: str, statement: Statement) -> str:
    """The recorded event id, or one derived from run, line and ordinal."""
    fact = statement.fact
    if fact.event_id is not None:
        return fact.event_id
    key = fact.id if fact.key is None else fact.key
    return ids.hashed_id(run, key, "replay/1", str(statement.line), 1, statement.ordinal)


class Replayer:
    """One replay of one recording."""

    def __init__(self, conn: Connection, config: ReplayConfig, *, digest: str, format_name: str) -> None:
        self.tally = Tally()
        self._conn = conn
        self._config = config
        self._digest = digest
        self._format = format_name
        self._patience = CallPolicy(retries_max=None, deadline_s=config.patience_s)
        """For publishing and for the bookmark: both are recognised when they come twice."""
        self._bookmarks = Bookmarks(conn, config.tenant, config.run)
        self._speakers = Speakers(conn, config.tenant)
        self._slots = asyncio.Semaphore(limits.REPLAY_AHEAD)
        self._tails: dict[str, asyncio.Task[None]] = {}
        self._finished: set[int] = set()
        self._done = 0
        self._stretches: deque[tuple[int, datetime]] = deque()
        self._mark: Bookmark
        self._saving = asyncio.Lock()

    async def run(self, statements: Iterable[Statement], progress: Callable[[Tally], None]) -> bool:
        """Replay; False when an earlier replay of this run is complete, and nothing is to do.

        `statements`: all of the recording, from the first on.  Raises what publishing raises,
        `ReplayUncertain`, `ReplayTakenOver`, and `InvalidRecording` when the run's bookmark is
        another recording's.
        """
        numbered = enumerate(statements)
        known = await self._bookmarks.load()
        if known is not None and known.digest != self._digest:
            raise errors.InvalidRecording(f"run {self._config.run} is another recording's; choose another --run-id")
        if known is not None and known.complete:
            self.tally.resumed_at = known.done
            return False
        pending = await self._begin(known, numbered)
        progress(self.tally)
        try:
            async with asyncio.TaskGroup() as group:
                saver = group.create_task(self._save_now_and_then(progress))
                await self._publish_all(group, pending)
                await asyncio.gather(*self._tails.values())
                saver.cancel()
        except* errors.CoordError as failed:
            await self._remember()
            raise _first(failed) from None
        finally:
            await self._speakers.close()
        await self._save(complete=True)
        progress(self.tally)
        return True

    # --- where to begin --------------------------------------------------------------------

    async def _begin(
        self, known: Bookmark | None, numbered: Iterator[tuple[int, Statement]]
    ) -> Iterator[tuple[int, Statement]]:
        """Take over the bookmark; returns what may have to be published, from the first such on."""
        now = datetime.now(UTC)
        if known is None:
            self._mark = Bookmark(digest=self._digest, format=self._format, since=now, started_at=now, saved_at=now)
            first = next(numbered, None)
            if first is None:
                return iter(())
            if self._config.shift and (at := first[1].at) is not None:
                shift_us = (now - at) // timedelta(microseconds=1)
                self._mark = msgspec.structs.replace(self._mark, shift_us=shift_us)
            return _chain([first], numbered)
        self._mark = await self._bookmarks.save(known)
        self._done = self.tally.resumed_at = known.done
        # Until we have looked, what the last replay had under way is uncertain for us too.
        self._stretches.append((known.done, known.since))
        uncertain: list[tuple[int, Statement]] = []
        for number, statement in numbered:
            if number >= known.done:
                uncertain.append((number, statement))
            if number + 1 >= known.ahead:
                break
        stored = await self._find({event_id(self._config.run, s) for _, s in uncertain}, known)
        for number, statement in uncertain:
            if event_id(self._config.run, statement) in stored:
                self.tally.already += 1
                self._finish(number)
        left = [(n, s) for n, s in uncertain if event_id(self._config.run, s) not in stored]
        return _chain(left, numbered)

    async def _find(self, event_ids: set[str], known: Bookmark) -> set[str]:
        """Which of these event ids are in the log since the bookmark's `since`."""
        if not event_ids:
            return set()
        source = LogSource(self._conn, self._config.tenant, Filter(), limits.READ_PAGE_FACTS_MAX)
        found: set[str] = set()
        start: datetime | Position = known.since - timedelta(seconds=limits.CLOCKS_APART_S)
        try:
            while True:
                page = await source.page(Read(start, 0, audit=False))
                facts = (e.value for e in page.entries if isinstance(e.value, StoredFact))
                found.update(fact.event_id for fact in facts if fact.event_id in event_ids)
                if page.complete:
                    return found
                start = page.next
        except errors.CoordError as exc:
            # The broker still knows the ids of what was sent a moment ago.
            if datetime.now(UTC) - known.saved_at < timedelta(seconds=limits.DUPLICATE_WINDOW_S / 2):
                return set()
            raise errors.ReplayUncertain(statements=len(event_ids), reason=str(exc)) from exc

    # --- publishing ------------------------------------------------------------------------

    async def _publish_all(self, group: asyncio.TaskGroup, pending: Iterator[tuple[int, Statement]]) -> None:
        pace = _Pace(self._config.speed)
        for number, statement in pending:
            await pace.wait_for(statement.at)
            if number >= self._mark.ahead:
                await self._announce(number)
            await self._slots.acquire()
            fact = self._fact(statement)
            key = fact.id if fact.key is None else fact.key
            task = group.create_task(self._publish(number, statement.agent, fact, key, self._tails.get(key)))
            self._tails[key] = task

    async def _publish(self, number: int, agent: str, fact: Fact, key: str, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait({before})
                if before.cancelled() or before.exception() is not None:
                    return  # what follows it must not overtake it; the group is ending
            if await self._store(agent, fact):
                self.tally.stored += 1
            else:
                self.tally.already += 1
            self._finish(number)
        finally:
            self._slots.release()
            if self._tails.get(key) is asyncio.current_task():
                del self._tails[key]

    async def _store(self, agent: str, fact: Fact) -> bool:
        """Publish until it is stored, for as long as trying again can help and patience lasts.

        False when somebody had stored it before.
        """
        attempts = 0

        async def publish() -> bool:
            nonlocal attempts
            attempts += 1
            async with self._speakers.speaker(agent) as speaker:
                ack = await speaker.publish(fact)
            # What a broker already has after we have tried before is most likely ours.
            return attempts > 1 or not ack.duplicate

        return await retrying(publish, self._patience)

    def _fact(self, statement: Statement) -> Fact:
        fact = statement.fact
        occurred_at = fact.occurred_at or statement.at
        if occurred_at is None:
            occurred_at = self._mark.started_at
        elif self._mark.shift_us:
            try:
                occurred_at += timedelta(microseconds=self._mark.shift_us)
            except OverflowError:
                raise errors.InvalidRecording(f"line {statement.line}: its time cannot be moved so far") from None
        return msgspec.structs.replace(fact, event_id=event_id(self._config.run, statement), occurred_at=occurred_at)

    # --- the bookmark ----------------------------------------------------------------------

    def _finish(self, number: int) -> None:
        self._finished.add(number)
        while self._done in self._finished:
            self._finished.discard(self._done)
            self._done += 1

    async def _announce(self, number: int) -> None:
        """Say that the stretch from `number` on is begun, before it is."""
        async with self._saving:
            self._stretches.append((number, datetime.now(UTC)))
            await self._put(ahead=number + _STRETCH)

    async def _save(self, *, complete: bool = False) -> None:
        async with self._saving:
            await self._put(ahead=self._mark.ahead, complete=complete)

    async def _put(self, *, ahead: int, complete: bool = False) -> None:
        while len(self._stretches) > 1 and self._stretches[1][0] <= self._done:
            self._stretches.popleft()
        since = self._stretches[0][1] if self._stretches else self._mark.since
        moved = msgspec.structs.replace(self._mark, done=self._done, ahead=ahead, since=since, complete=complete)
        self._mark = await retrying(lambda: self._bookmarks.save(moved), self._patience)

    async def _save_now_and_then(self, progress: Callable[[Tally], None]) -> None:
        while True:
            await asyncio.sleep(limits.REPLAY_SAVE_EVERY_S)
            progress(self.tally)
            if self._done > self._mark.done:
                await self._save()

    async def _remember(self) -> None:
        """Save what is stored before giving up, if the broker still answers."""
        try:
            async with asyncio.timeout(limits.API_TIMEOUT_S):
                await self._save()
        except (errors.CoordError, TimeoutError):
            pass  # the bookmark as it is is right too, only older


class _Pace:
    """Waits until a recorded moment comes, at some speed."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._origin: tuple[datetime, float] | None = None

    async def wait_for(self, at: datetime | None) -> None:
        if self._speed is None or at is None:
            return
        loop = asyncio.get_running_loop()
        if self._origin is None:
            self._origin = (at, loop.time())
        due = self._origin[1] + (at - self._origin[0]).total_seconds() / self._speed
        wait_s = due - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)


def _chain(
    first: list[tuple[int, Statement]], rest: Iterator[tuple[int, Statement]]
) -> Iterator[tuple[int, Statement]]:
    yield from first
    yield from rest


def _first(group: BaseExceptionGroup[errors.CoordError]) -> errors.CoordError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, errors.CoordError)
    return found
