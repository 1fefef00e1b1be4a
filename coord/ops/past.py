"""States of the past: a key's history from wherever it is, folded up to a point by the folds that everybody uses.

::

    archive ─────┐  where chunks have left the database
    event copy ──┼─▶ in the order of the log ──▶ up to the point ──▶ the projector's judge, fact by fact ──▶ state
    log's window ┘  what the tables do not have yet, or no more

Each fact is read once: the event copy has it up to the partition's checkpoint, the archive what has left that,
the log what follows, and what left the tables before it left the log.  What could not be asked, or has left all
three, is said in `Past.notes`: a history with a hole is never shown as if it had none.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.client import entities
from coord.core.checkpoint import Checkpoint
from coord.core.past import Point, Said, Source
from coord.core.presence import state_after
from coord.core.status import StatusFold
from coord.core.tasks import Refusal
from coord.ops.fields import fields_of
from coord.projector.entities import Judge, fact_of
from coord.projector.states import broker_time
from coord.projector.tableless import FOLDED
from coord.store import history, mending
from coord.store.archive import cold
from coord.store.archive.cold import ColdFile, Wanted
from coord.store.archive.files import Files
from coord.store.config import ArchiveConfig
from coord.store.pool import Connection as StoreConnection
from coord.store.pool import Pool
from coord.store.reading import Reads
from coord.store.rows import EventRow
from coord.telemetry import logs
from coord.wire import status as wire_status
from coord.wire import subjects
from coord.wire.envelope import StoredFact
from coord.wire.log_api import Filter

_log = logs.get("past")

_SNAPSHOTS_MAX: Final = 3
"""Tries to read the tables as of the moment for which the log was asked, or later: a replica may be behind it."""

_EVER: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""Later than any fact."""

_STATUS_EVENTS: Final = (wire_status.WHOLE, wire_status.CHANGE)


class Sources(msgspec.Struct, frozen=True):
    """Where histories are read.  Each is opened only when it is needed."""

    reads: Callable[[], AbstractAsyncContextManager[Pool | Reads]]
    bus: Callable[[], AbstractAsyncContextManager[Connection]]
    archive: ArchiveConfig = ArchiveConfig()
    window: timedelta = timedelta(0)
    """How long the log holds a fact at most; where tables forget sooner it is asked for what they have forgotten."""


async def merged(preferred: AsyncIterable[Said], other: AsyncIterable[Said]) -> AsyncIterator[Said]:
    """Both in the order of the log, as each of them is; what both have comes from the first."""
    left, right = aiter(other), aiter(preferred)
    one, two = await anext(left, None), await anext(right, None)
    while one is not None or two is not None:
        if two is None or (one is not None and one.place < two.place):
            assert one is not None
            yield one
            one = await anext(left, None)
            continue
        if one is not None and one.place == two.place:
            one = await anext(left, None)
        yield two
        two = await anext(right, None)


class _Tail(msgspec.Struct, frozen=True):
    """What the log has behind the tables."""

    checkpoint: Checkpoint | None
    epoch: int
    facts: list[StoredFact]
    last_seq: int | None = None
    """The log's end; None: it was not asked, or not answered."""


class _Tables(msgspec.Struct, frozen=True):
    """The tables at one moment: `conn` is in the transaction that sees it."""

    pool: Pool | Reads
    conn: StoreConnection


class Past:
    """One key's history up to a point, or a part of it."""

    def __init__(
        self,
        sources: Sources,
        tenant: str,
        key: str,
        point: Point = Point(),
        *,
        kind: str | None = None,
        id: str | None = None,
    ) -> None:
        self.tenant = tenant
        self.key = key
        self.point = point
        self.found: Counter[Source] = Counter()
        """Facts by where they were read."""
        self.notes: list[str] = []
        """What is missing, or may be, in words."""
        self.unanswered: errors.CoordError | None = None
        """Why a source could not be asked, the last of them: what was not found may be there all the same."""
        self.lost: dict[int, datetime] = {}
        """Epochs that began with another log, and when: known once facts are read."""
        self._sources = sources
        self._kind = kind
        self._id = id
        self._wanted = Wanted()

    async def facts(self, events: Sequence[str] | None = None) -> AsyncGenerator[Said]:
        """The facts in the order of the log, none twice; only these `events`, if any are given.

        Use it inside `contextlib.aclosing`: a connection is in use until it ends.  Raises what the database
        raises once it has answered.
        """
        async with contextlib.aclosing(self._all(events)) as everything:
            async for said in everything:
                if self._is_beyond(said):
                    return
                self.found[said.source] += 1
                yield said

    async def status(self) -> tuple[StatusFold, list[Said]]:
        """An agent's status at the point, and the facts by which it was said: the newest, as many as it takes."""
        rows_max = 2 * limits.STATUS_WHOLE_EVERY
        said: list[Said] = []
        async with contextlib.AsyncExitStack() as stack:
            pool = await self._database(stack)
            async with self._at_one_moment(pool) as (tail, tables):
                if tables is not None:
                    pool = tables.pool
                    rows = await history.statuses(tables.conn, self.tenant, self.key, self.point, rows_max=rows_max)
                    said = [Said(row[1], fact_of(row), "table") for row in rows]
            both = merged(_listed(said), _listed(_said(tail, _STATUS_EVENTS)))
            said = [one async for one in both if not self._is_beyond(one)]
            if pool is not None and all(one.fact.event != wire_status.WHOLE for one in said):
                async with pool.acquire() as conn:
                    front = _said(await self._front(conn, tail), _STATUS_EVENTS)
                archived = self._archived(await self._cold(pool), _STATUS_EVENTS)
                newest: deque[Said] = deque(maxlen=rows_max)
                async for one in merged(merged(_listed(said), archived), _listed(front)):
                    if not self._is_beyond(one):
                        newest.append(one)
                said = list(newest)
        fold = StatusFold()
        for one in said:
            text = one.fact.json_text
            if one.fact.event == wire_status.WHOLE:
                fold.take(wire_status.read_whole(text))
            else:
                with contextlib.suppress(errors.InvalidPayload):
                    fold.take(wire_status.read_change(text))
        return fold, said

    async def _all(self, events: Sequence[str] | None) -> AsyncGenerator[Said]:
        async with contextlib.AsyncExitStack() as stack:
            pool = await self._database(stack)
            tail, tables = await stack.enter_async_context(self._at_one_moment(pool))
            found = _listed(_said(tail, events))
            if tables is not None:
                self.lost = await history.lost(tables.conn, self.key)
                rows = history.facts(
                    tables.conn, self.tenant, self.key, kind=self._kind, id=self._id, until=self._until(), events=events
                )
                # The table comes first: none of its chunks is dropped from then on, and the archive has the others.
                first = await anext(rows, None)
                files = await self._cold(tables.pool)
                in_log = _said(await self._front(tables.conn, tail), events) + _said(tail, events)
                found = merged(merged(_from_table(first, rows), self._archived(files, events)), _listed(in_log))
            async for said in found:
                yield said

    @contextlib.asynccontextmanager
    async def _at_one_moment(self, pool: Pool | Reads | None) -> AsyncIterator[tuple[_Tail, _Tables | None]]:
        """What the log has behind the tables, and the tables as of then or later; None: without a database."""
        for _ in range(_SNAPSHOTS_MAX):
            tail = await self._tail(pool)
            if pool is None:
                yield tail, None
                return
            async with pool.transaction(limits.EXPORT_S) as conn:
                await history.begin(conn)
                if _follows(await history.checkpoint(conn, self.key), tail.checkpoint):
                    yield tail, _Tables(pool, conn)
                    return
            pool = pool.primary if isinstance(pool, Reads) else pool
        raise errors.StoreError("the tables change their epoch while they are read; try again")

    def _is_beyond(self, said: Said) -> bool:
        return self.point.ends_before(said.place, said.fact.stored_at)

    def _note(self, text: str) -> None:
        if text not in self.notes:  # the second try may meet it again
            self.notes.append(text)

    def _until(self) -> datetime | None:
        """Facts stored later than that need not be read: the broker's clock steps back by no more."""
        return None if self.point.time is None else self.point.time + limits.CLOCK_STEP

    async def _database(self, stack: contextlib.AsyncExitStack) -> Pool | Reads | None:
        try:
            return await stack.enter_async_context(self._sources.reads())
        except errors.StoreError as exc:
            self.unanswered = exc
            self._note(f"The database cannot be asked ({exc.message}): this is what the log's window holds.")
            return None

    async def _cold(self, pool: Pool | Reads) -> list[ColdFile]:
        """The files with facts of it: of chunks that have left the database, or may while it is read."""
        one_more = timedelta(microseconds=1)
        until = self._until()
        self._wanted = Wanted(
            tenant=self.tenant,
            key=self.key,
            kinds=None if self._kind is None else (self._kind,),
            id=self._id,
            until=None if until is None else until + one_more,
        )
        has_archive = bool(self._sources.archive.url)
        async with pool.acquire() as conn:
            found = await cold.listed(conn, self._wanted, overlapping=has_archive)
        if has_archive:
            return found
        if found:
            self._note("Facts may be in the archive, and archive.url does not say where that is.")
        return []

    async def _archived(self, found: list[ColdFile], events: Sequence[str] | None) -> AsyncGenerator[Said]:
        if not found:
            return
        files = await asyncio.to_thread(Files.open, self._sources.archive)
        async for page in cold.pages(files, found, self._wanted):
            for row in page:
                if events is None or row[10] in events:
                    yield Said(row[1], fact_of(row), "archive")

    # --- the log ----------------------------------------------------------------------------

    async def _tail(self, pool: Pool | Reads | None) -> _Tail:
        """What the log has behind the checkpoint, where the point is behind that too.  Names the point's epoch.

        Raises `QueryError` when the point is in an epoch that is not there.
        """
        checkpoint = None
        if pool is not None:
            async with pool.acquire() as conn:
                checkpoint = await history.checkpoint(conn, self.key)
        elif self.point.epoch not in (None, 1):
            raise errors.QueryError("which log an epoch was is in the database, and that cannot be asked")
        epoch = 1 if checkpoint is None else checkpoint.epoch
        tail = _Tail(checkpoint, epoch, [])
        if _is_behind(self.point, checkpoint):
            try:
                async with self._sources.bus() as conn:
                    tail = await self._window(conn, checkpoint)
            except errors.CoordError as exc:
                if isinstance(exc, errors.SettingsError):
                    raise
                self.unanswered = exc
                since = "anything" if checkpoint is None else f"what was stored after {checkpoint.stored_at}"
                self._note(f"The log cannot be asked for {since} ({exc.message}).")
        self.point = self.point.within(tail.epoch)
        self._check_is_there(tail)
        return tail

    def _check_is_there(self, tail: _Tail) -> None:
        """What is beyond everything is not the present, though it would be answered with that."""
        if self.point.seq is None or self.point.epoch is None:
            return
        # A log that was not asked may have been replaced: once.
        newest = tail.epoch if tail.last_seq is not None else tail.epoch + 1
        if self.point.epoch > newest:
            raise errors.QueryError(f"epoch {self.point.epoch} has not begun: {tail.epoch} is the newest that is known")
        if tail.last_seq is not None and (self.point.epoch, self.point.seq) > (tail.epoch, tail.last_seq):
            self._note(f"The log goes up to {tail.last_seq:,} only: this is what it comes to so far.")

    async def _window(self, conn: Connection, checkpoint: Checkpoint | None) -> _Tail:
        which = Filter(key=self.key, kind=self._kind, id=self._id)
        if checkpoint is None:
            found = await entities.window(conn, self.tenant, which)
            return _Tail(None, 1, self._checked(found), found.last_seq)
        try:
            found = await entities.window(conn, self.tenant, which, from_seq=checkpoint.seq + 1)
        except errors.LogReplaced:
            found = await entities.window(conn, self.tenant, which)
        except errors.LogTrimmed as exc:
            self._note(f"Facts between the tables and the log are gone: {exc.message}.")
            found = await entities.window(conn, self.tenant, which)
        if broker_time(found.created) == checkpoint.stream_created:
            return _Tail(checkpoint, checkpoint.epoch, self._checked(found), found.last_seq)
        self._note("The log was replaced, and the new one is not projected yet (`coord projection status`).")
        found = await entities.window(conn, self.tenant, which)
        return _Tail(checkpoint, checkpoint.epoch + 1, self._checked(found), found.last_seq)

    async def _front(self, conn: StoreConnection, tail: _Tail) -> _Tail:
        """What the log still has of the time before the oldest that the tables have; call it after they were read.

        Nothing, unless they forget sooner than the log: by their ages, or by somebody's hand.
        """
        mark, nothing = tail.checkpoint, msgspec.structs.replace(tail, facts=[])
        if mark is None or mark.stored_at is None or tail.epoch != mark.epoch:
            return nothing  # the log was read as a whole, or nothing tells which of it is projected
        oldest = await history.oldest(conn)
        if oldest is not None and oldest <= mark.stored_at - self._sources.window:
            return nothing
        begun = await mending.epochs_begun(conn, subjects.EVENTS)
        above = begun.get((mark.partition, mark.epoch), 0 if mark.epoch == 1 else mark.seq)
        upto = _EVER if oldest is None else oldest
        which = Filter(key=self.key, kind=self._kind, id=self._id)
        try:
            async with self._sources.bus() as bus:
                found = await entities.window(
                    bus, self.tenant, which, until_seq=mark.seq, until=upto + limits.CLOCK_STEP
                )
        except errors.CoordError as exc:
            if isinstance(exc, errors.SettingsError):
                raise
            self.unanswered = exc
            before = "" if oldest is None else f" before {oldest}"
            self._note(f"The log cannot be asked for what was stored{before} and has left the tables ({exc.message}).")
            return nothing
        if broker_time(found.created) != mark.stream_created:
            return nothing
        facts = [fact for fact in self._checked(found) if fact.seq > above and fact.stored_at < upto]
        return msgspec.structs.replace(tail, facts=facts)

    def _checked(self, found: entities.Window) -> list[StoredFact]:
        if not found.whole:
            self._note(f"The log holds more than {len(found.facts):,} facts of it that are not in the tables.")
        return found.facts


def _follows(now: Checkpoint | None, asked: Checkpoint | None) -> bool:
    """Whether tables with the checkpoint `now` have what the log was not asked for, which was `asked` before."""
    if asked is None:
        return True
    return now is not None and now.epoch == asked.epoch and now.seq >= asked.seq


def _is_behind(point: Point, checkpoint: Checkpoint | None) -> bool:
    """Whether facts that are not in the tables can belong to a history up to `point`."""
    if checkpoint is None or point.is_now:
        return True
    if point.time is not None:
        return checkpoint.stored_at is None or point.time >= checkpoint.stored_at
    assert point.seq is not None, "a point is a time or a sequence"
    return (point.epoch or checkpoint.epoch, point.seq) > (checkpoint.epoch, checkpoint.seq)


def _said(tail: _Tail, events: Sequence[str] | None) -> list[Said]:
    return [Said(tail.epoch, fact, "log") for fact in tail.facts if events is None or fact.event in events]


async def _listed(those: Sequence[Said]) -> AsyncIterator[Said]:
    for one in those:
        yield one


async def _from_table(first: EventRow | None, rows: AsyncIterator[EventRow]) -> AsyncGenerator[Said]:
    if first is None:
        return
    yield Said(first[1], fact_of(first), "table")
    async for row in rows:
        yield Said(row[1], fact_of(row), "table")


# --- folding --------------------------------------------------------------------------------


class Judged(msgspec.Struct, frozen=True):
    """A fact of a history, and what its entity's fold says of it."""

    said: Said
    refusal: Refusal | None
    """None: it was believed, or is about nothing that is folded."""


class Judges:
    """Judges all entities of one key, each by its own fold."""

    def __init__(self, history: Past) -> None:
        """`history`: whose facts they are; it knows when logs were replaced."""
        self._history = history
        self._epoch = 0
        self.judges: dict[tuple[str, str], Judge] = {}
        """By kind and id; of the first `limits.HISTORY_ENTITIES_MAX`."""
        self.passed = 0
        """Facts about entities beyond those."""

    def judge(self, said: Said) -> Judged:
        """Fold the next fact."""
        fact = said.fact
        self._enter(said.epoch)
        if fact.kind not in FOLDED:
            return Judged(said, None)
        judge = self.judges.get((fact.kind, fact.id))
        if judge is None:
            if len(self.judges) >= limits.HISTORY_ENTITIES_MAX:
                self.passed += 1
                return Judged(said, None)
            judge = self.judges[fact.kind, fact.id] = Judge(fact.kind, (fact.tenant, fact.key, fact.id))
        return Judged(said, judge.apply(said.epoch, fact))

    def end(self) -> None:
        """All facts up to the point were judged: what was lost between the last of them and the point is lost."""
        point = self._history.point
        for epoch, opened_at in self._history.lost.items():
            by_time = point.time is None or opened_at <= point.time
            if by_time if point.epoch is None else epoch <= point.epoch:
                self._enter(epoch)

    def _enter(self, epoch: int) -> None:
        if self._epoch < epoch and any(self._epoch < one <= epoch for one in self._history.lost):
            for judge in self.judges.values():
                judge.lose()
        self._epoch = max(self._epoch, epoch)

    def get(self, kind: str, id: str) -> Judge | None:
        """Of one entity; None: it was not there."""
        found = self.judges.get((kind, id))
        return found if found is not None and found.known else None


def agent_state(said: Sequence[Said]) -> str | None:
    """An agent's state after these facts about it, in the order of the log; None: they do not say."""
    state = None
    for one in said:
        state = state_after(one.fact.event, one.fact.json_text) or state
    return state


def record(fold: Any) -> dict[str, Any]:
    """A state as fields to print: all of its own, and of what it is made of those that say something.

    Without the hash of what its author sent: the copies keep JSON's values, not its bytes.
    """
    return {name: value for name, value in fields_of(fold).items() if name != "payload_hash"}


def state(judge: Judge) -> dict[str, Any]:
    """What an entity is, as fields to print; `lost` where its log was replaced while it was open, as in the tables."""
    return {**record(judge.fold), **({"status": "lost"} if judge.lost else {})}
