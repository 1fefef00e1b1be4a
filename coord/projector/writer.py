"""One transaction for all partitions that have something to commit, or nothing of it.

::

    partition ──offer──▶ waiting, first come first served ──lane free──▶ taken ─▶ one transaction ─▶ settled
                 (its batch may grow until it is taken)                              │
                            a guard matched nothing: that one fails, the others again ◀┤
                            a row was refused: by halves, down to the one batch        ◀┘

A few facts of tasks and workflows go the short way, in one statement (`coord.projector.at_once`); where that writes
nothing, and for all else, the long way is taken.

The order inside matters and stands in `_transaction`: rows first, the guarded checkpoints
last.  When a partition's guard matches no row, somebody else committed it: everything rolls
back, and the others are written again without it.  `coord.core.joining` decides how many
batches a transaction takes and when it begins.

A batch with dead letters waits for their copies in the DLQ before it is written, and nobody
waits for it meanwhile: a broker that is silent must neither keep a transaction open nor hold
up other partitions.

A row that the database refuses because of its content must not stop its partition.  The
batch it is in is found by halving, then written again alone with savepoints, halving what was
refused until single rows remain; those become dead letters.  The common case pays nothing.

A fact that the fold of its entity refuses (`coord.projector.entities`) becomes a dead letter too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from itertools import chain as flat
from operator import itemgetter
from typing import Any

import msgspec

from coord import errors, limits
from coord.core import chain
from coord.core.checkpoint import Checkpoint
from coord.core.joining import Pace, how_many, share
from coord.core.upkeep import late_since
from coord.projector import at_once, entities
from coord.projector.dead_letters import DeadLetterQueue
from coord.projector.ends import Confirming
from coord.projector.rows import Batch, stored_time
from coord.store import at_once as store_at_once
from coord.store import checkpoints, copy, rollups, timestamps
from coord.store.checkpoints import Move
from coord.store.pool import Connection, Pool
from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS, AgentRow, EventRow, SampleRow
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics

_log = logs.get("projector")

Place = tuple[int, int]
"""(stream sequence, index in frame)."""

_SEARCH_ROWS = 500
"""Rows searched in one transaction: were all refused, 10,000 would take longer than one may."""

Turn = Callable[[], int]
"""What a partition does when something has arrived; how many rows that were."""

Write = Callable[[Connection, Sequence[Any]], Awaitable[object]]

assert EVENT_COLUMNS[2:4] == SAMPLE_COLUMNS[2:4] == ("seq", "idx"), "see _place_of_row"


_stored_at = itemgetter(EVENT_COLUMNS.index("stored_at"))
assert EVENT_COLUMNS.index("stored_at") == SAMPLE_COLUMNS.index("stored_at")


async def prepare(conn: Connection) -> None:
    """What each new connection does before its first transaction, instead of in it.

    Learning types and planning take PostgreSQL and asyncpg 50 ms: after a start, a takeover or a lost
    connection they would come when facts wait already.
    """
    await timestamps.teach(conn)
    with contextlib.suppress(errors.StoreError):  # no tables yet: whoever writes says so
        await copy.prepare(conn)
        await checkpoints.prepare(conn)
        await store_at_once.prepare(conn)


class Offer:
    """A batch on its way into the tables.  Its partition may add to it until it is `taken`."""

    __slots__ = ("anchored_at", "anchored_messages", "batch", "before", "letters_told", "settled", "taken")

    def __init__(self, batch: Batch, before: Checkpoint, anchored_messages: int, anchored_at: float) -> None:
        assert batch.first is None or batch.first.seq > before.seq, "it is in the tables already"
        self.batch = batch
        self.before = before
        self.anchored_messages = anchored_messages
        """The chain's count at its last anchor,"""
        self.anchored_at = anchored_at
        """which was written then (the loop's clock)."""
        loop = asyncio.get_running_loop()
        self.taken: asyncio.Future[None] = loop.create_future()
        """Done when nothing may be added any more."""
        self.settled: asyncio.Future[Move] = loop.create_future()
        """The step its checkpoint made, or why it did not."""
        self.letters_told = 0
        """Dead letters whose copies are in the DLQ."""

    def move(self, now: float) -> Move:
        """The step that its checkpoint makes with its rows."""
        batch, before = self.batch, self.before
        last = batch.last
        assert last is not None, "an empty batch is never committed"
        after = msgspec.structs.replace(
            checkpoints.moved(before, seq=last.seq, stored_at=stored_time(last.stored_ns)),
            digest=batch.digest,
            messages=before.messages + batch.messages,
        )
        due = chain.anchor_due(after.messages - self.anchored_messages, now - self.anchored_at)
        return Move(before, after, last.pending, anchor=due)

    def close(self) -> None:
        """From now on nothing is added."""
        if not self.taken.done():
            self.taken.set_result(None)

    def fail(self, error: errors.CoordError) -> None:
        """Nothing of it is in the tables, except where the error leaves that open."""
        self.close()
        if not self.settled.done():
            self.settled.set_exception(error)
            self.settled.exception()  # its partition may be gone


class Writer:
    """Commits what the partitions of a process offer, in `writers` lanes.

    `run` is one lane; somebody has to own it.  Waiting offers are bounded by the partitions:
    each has one at a time.
    """

    def __init__(
        self,
        pool: Pool,
        dlq: DeadLetterQueue,
        metrics: Metrics,
        *,
        writers: int = limits.PROJECT_WRITERS,
        gap_s: float = limits.PROJECT_GAP_S,
        rows_max: int = limits.PROJECT_BATCH_ROWS,
        on_stale: Callable[[Sequence[tuple[str, str]]], None] = lambda _: None,
    ) -> None:
        """`on_stale`: told after a commit which agents' statuses, (tenant, agent), lack a change."""
        self.writers = writers
        self._pool = pool
        self._dlq = dlq
        self._metrics = metrics
        self._rows_max = rows_max
        self._on_stale = on_stale
        self._pace = Pace(gap_s, min(limits.PROJECT_CROWD_ROWS, rows_max), limits.PROJECT_COMPANY_ROWS)
        self._partitions = 0
        self._waiting: deque[Offer] = deque()
        self._wake = asyncio.Event()
        self._turns_due: dict[Turn, None] = {}
        """In the order in which they were asked for."""
        self._turning = False
        """They come in the next turn of the loop."""
        self._pausing = False
        """A lane waits for company, and has them come before it begins."""
        self._kept = at_once.Kept()
        self._taking = asyncio.Lock()
        self._slots = asyncio.Semaphore(writers)
        """All partitions begin, and fall idle, in the same second: they must not want a connection each."""
        self._begun: dict[object, float] = {}
        """What is being written, since when (the loop's clock)."""
        self._confirming = Confirming(self.turn)
        self._telling: set[asyncio.Task[None]] = set()

    # --- for partitions ------------------------------------------------------------------

    def join(self) -> None:
        """A partition begins to make batches; `leave` when it ends."""
        self._partitions += 1

    def leave(self) -> None:
        """It makes none any more."""
        self._partitions -= 1

    def soon(self, turn: Turn) -> None:
        """Call it soon, with others': in the next turn of the loop.

        While a transaction waits for company that is rare, just before it begins, if it is asked for once until then.
        """
        again = turn in self._turns_due
        self._turns_due[turn] = None
        if again or not self._pausing:
            self._call_soon()

    @property
    def rows_share(self) -> int:
        """Rows after which a partition's batch is full: the memory of a process is bounded, not of each partition."""
        least = min(limits.PROJECT_SHARE_ROWS_MIN, self._rows_max)
        return share(limits.PROJECT_OPEN_ROWS, self._partitions, least=least, most=self._rows_max)

    @property
    def bytes_share(self) -> int:
        """The same in bytes, as decoded."""
        return share(limits.PROJECT_OPEN_BYTES, self._partitions, least=1, most=limits.PROJECT_BATCH_BYTES)

    def offer(
        self, batch: Batch, before: Checkpoint, *, anchored_messages: int | None = None, anchored_at: float = 0.0
    ) -> Offer:
        """Have `batch` committed on top of `before`; await the offer's `settled` for the outcome.

        That raises `CheckpointMoved`, `DatabaseUnavailable`, `NotConnected` (the DLQ could not
        be reached) or another `StoreError`: nothing of the batch is in the tables then, except
        when the connection broke during COMMIT or while a small transaction was written, or its
        lane was stopped during either: the checkpoint tells.
        """
        anchored = before.messages if anchored_messages is None else anchored_messages
        offer = Offer(batch, before, anchored, anchored_at)
        self._waiting.append(offer)
        self._wake.set()
        return offer

    def withdraw(self, offer: Offer) -> bool:
        """Forget an offer that was not taken yet; False when it was."""
        if offer.taken.done():
            return False
        self._waiting.remove(offer)
        offer.close()
        offer.settled.cancel()
        return True

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Connection]:
        """A connection for something short that all partitions may want at once: no more at a time than lanes."""
        async with self._slots, self._pool.acquire() as conn:
            yield conn

    async def advance(self, checkpoint: Checkpoint, moved: Checkpoint) -> None:
        """Move an idle partition's checkpoint without rows."""
        if not await self._confirming.advance(Move(checkpoint, moved, 0)):
            raise checkpoints.checkpoint_moved(checkpoint)

    async def pass_gap(self, checkpoint: Checkpoint, moved: Checkpoint) -> None:
        """Move over sequences that are gone for ever."""
        async with self._pool.transaction() as conn:
            await checkpoints.pass_gap(conn, checkpoint, moved)

    @property
    def held_up_s(self) -> float:
        """For how long what is written for longest has been on its way: a database may take it and say no more."""
        return asyncio.get_running_loop().time() - min(self._begun.values()) if self._begun else 0.0

    # --- lanes ---------------------------------------------------------------------------

    async def run(self) -> None:
        """One lane: take what waits, write it, until cancelled.

        What it has in hand then fails, as retryable; so does what waits when `close` is called.
        """
        while True:
            async with self._taking:
                offers = await self._take()
            lane = object()
            self._begun[lane] = asyncio.get_running_loop().time()
            try:
                await self._write(offers)
            finally:
                del self._begun[lane]

    def close(self) -> None:
        """Fail what still waits: no lane will take it."""
        self._confirming.close()
        for task in self._telling:
            task.cancel()
        while self._waiting:
            self._waiting.popleft().fail(errors.DatabaseUnavailable("the writer is closed"))

    async def _take(self) -> list[Offer]:
        """The next transaction's offers, at least one; closed to additions."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            if not self._waiting:
                await self._wake.wait()
                continue
            wait_s = self._pace.wait_s(loop.time(), sum(len(offer.batch) for offer in self._waiting))
            if wait_s:
                await self._pause(wait_s)
            weights = ((len(offer.batch), offer.batch.bytes) for offer in self._waiting)
            count = how_many(weights, rows_max=self._rows_max, bytes_max=limits.PROJECT_BATCH_BYTES)
            offers = [offer for offer in (self._waiting.popleft() for _ in range(count)) if self._may_write(offer)]
            if offers:
                self._pace.begin(loop.time(), sum(len(offer.batch) for offer in offers))
                return offers

    async def _pause(self, wait_s: float) -> None:
        self._pausing = self._pace.is_calm
        try:
            await asyncio.sleep(wait_s)
        finally:
            if self._pausing:
                self._pausing = False
                self._take_turns()

    def _take_turns(self) -> None:
        """All that are due, but no more rows than others should wait for at a time."""
        self._turning = False
        due, self._turns_due = self._turns_due, {}
        rows = 0
        while due and rows < limits.PROJECT_TURN_ROWS:
            turn = next(iter(due))
            del due[turn]
            rows += turn()
        if due:
            self._turns_due = due | self._turns_due  # before those who have had theirs, and want another
            self._call_soon()

    def _call_soon(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._take_turns)

    def _may_write(self, offer: Offer) -> bool:
        """Close it; False when its dead letters have to be told first, which is begun then."""
        offer.close()
        if offer.letters_told == len(offer.batch.letters):
            return True
        task = asyncio.get_running_loop().create_task(self._tell(offer), name="projector-letters")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return False

    async def _tell(self, offer: Offer) -> None:
        """Publish its dead letters, then offer it again."""
        try:
            await self._dlq.publish(offer.batch.letters)
        except errors.CoordError as exc:
            offer.fail(exc)
        except asyncio.CancelledError:
            offer.fail(errors.DatabaseUnavailable("the writer is closed"))
            raise
        except Exception as exc:  # noqa: BLE001 - a defect must not leave a partition waiting for ever
            offer.fail(_defect(exc))
        else:
            offer.letters_told = len(offer.batch.letters)
            if not offer.settled.done():  # its lane was stopped meanwhile
                self._waiting.appendleft(offer)  # it has waited long enough
                self._wake.set()

    # --- transactions --------------------------------------------------------------------

    async def _write(self, offers: list[Offer]) -> None:
        """Settle every one of `offers`: written, failed, or (with new dead letters) waiting again."""
        try:
            while offers:
                try:
                    moves = await self._transaction(offers)
                except _Moved as exc:
                    offers = self._without(exc.moves, offers)
                    continue
                except _Unbelieved as exc:
                    offers = self._parked(exc.refused, offers)
                    continue
                except errors.DatabaseRefused:
                    await self._refused(offers)
                    return
                for offer, move in zip(offers, moves, strict=True):
                    if not offer.settled.done():
                        offer.settled.set_result(move)
                return
        except errors.CoordError as exc:
            for offer in offers:
                offer.fail(exc)
        except asyncio.CancelledError:
            for offer in offers:
                offer.fail(errors.DatabaseUnavailable("the writer was stopped"))
            raise
        except Exception as exc:  # noqa: BLE001 - as `_tell`; it says which when the partition retries
            for offer in offers:
                offer.fail(_defect(exc))

    async def _transaction(self, offers: Sequence[Offer]) -> list[Move]:
        now = asyncio.get_running_loop().time()
        moves = [offer.move(now) for offer in offers]
        batches = [offer.batch for offer in offers]
        since = min(filter(None, map(_late_since, offers)), default=None)
        is_short = since is None and at_once.is_small(batches, moves)
        if is_short and await at_once.write(self._pool, self._kept, batches, moves):
            self._metrics.db_commit_rows.observe(sum(map(len, batches)))
            return moves
        self._kept.forget(batches)
        async with self._pool.transaction() as conn:
            await copy.events(conn, _joined([b.events for b in batches]))
            await copy.samples(conn, _joined([b.samples for b in batches]))
            refused = await entities.project(conn, [b.events for b in batches])
            if any(refused):
                raise _Unbelieved(refused)
            stale = await copy.upsert_agents(conn, _joined([b.agents() for b in batches]))
            await copy.dead_letters(conn, [letter.row for b in batches for letter in b.letters])
            if since is not None:
                await rollups.late(conn, since)
            elsewhere = await checkpoints.advance_all(conn, moves)
            if elsewhere:
                raise _Moved(elsewhere)
        self._metrics.db_commit_rows.observe(sum(map(len, batches)))
        if stale:
            self._on_stale(stale)
        return moves

    def _without(self, moves: Sequence[Move], offers: list[Offer]) -> list[Offer]:
        """Fail those whose checkpoint another replica has moved; the others are left."""
        gone = {(m.before.stream, m.before.partition) for m in moves}
        left = []
        for offer in offers:
            if (offer.before.stream, offer.before.partition) in gone:
                offer.fail(checkpoints.checkpoint_moved(offer.before))
            else:
                left.append(offer)
        return left

    def _parked(self, refused: Sequence[dict[Place, errors.CoordError]], offers: list[Offer]) -> list[Offer]:
        """Turn facts that are not believed into dead letters: their batches come again when those are told."""
        for offer, places in zip(offers, refused, strict=True):
            if places:
                offer.batch.park(places)
        return [offer for offer in offers if self._may_write(offer)]

    async def _refused(self, offers: list[Offer]) -> None:
        """The database refused a row of one of `offers`: find whose, and turn it into a dead letter."""
        if len(offers) > 1:
            middle = len(offers) // 2
            await self._write(offers[:middle])
            await self._write(offers[middle:])
            return
        (offer,) = offers
        await self._park_refused(offer.batch)
        if offer.letters_told == len(offer.batch.letters):
            raise errors.StoreError("the database refuses a batch, and no row of it", **_where(offer))
        if self._may_write(offer):
            raise AssertionError("there are letters to be told")

    async def _park_refused(self, batch: Batch) -> None:
        """Find the rows whose content the database refuses and turn them into dead letters."""
        refused: dict[Place, errors.CoordError] = {}
        for rows, write, place in (
            (batch.events, copy.events, _place_of_row),
            (batch.samples, copy.samples, _place_of_row),
            (batch.agents(), copy.upsert_agents, _place_of_agent),
        ):
            for start in range(0, len(rows), _SEARCH_ROWS):
                async with self._pool.transaction() as conn:
                    refused |= await _refused(conn, rows[start : start + _SEARCH_ROWS], write, place)
        batch.park(refused)


def _late_since(offer: Offer) -> datetime | None:
    """See `upkeep.late_since`."""
    batch = offer.batch
    oldest = min(flat(map(_stored_at, batch.events), map(_stored_at, batch.samples)), default=None)
    return None if oldest is None else late_since(oldest, offer.before.stored_at)


def _joined(parts: list[list[Any]]) -> list[Any]:
    if len(parts) == 1:
        return parts[0]
    return list(flat.from_iterable(parts))


def _defect(exc: Exception) -> errors.CoordError:
    _log.error("projector.defect", exc_info=exc)
    return errors.CoordError(f"a defect: {type(exc).__name__}: {exc}")


def _where(offer: Offer) -> dict[str, Any]:
    return {"stream": offer.before.stream, "partition": offer.before.partition}


async def _refused(
    conn: Connection, rows: Sequence[Any], write: Write, place: Callable[[Any], Place]
) -> dict[Place, errors.CoordError]:
    """Which of `rows` are refused, by halving; nothing is written."""
    if not rows:
        return {}
    try:
        async with conn.transaction():  # a savepoint
            await write(conn, rows)
            raise _Undo
    except _Undo:
        return {}
    except errors.DatabaseRefused as exc:
        if len(rows) == 1:
            return {place(rows[0]): exc}
    middle = len(rows) // 2
    return await _refused(conn, rows[:middle], write, place) | await _refused(conn, rows[middle:], write, place)


def _place_of_row(row: EventRow | SampleRow) -> Place:
    return row[2], row[3]


def _place_of_agent(row: AgentRow) -> Place:
    return row.seq, row.idx


class _Undo(Exception):
    pass


class _Unbelieved(Exception):
    def __init__(self, refused: Sequence[dict[Place, errors.CoordError]]) -> None:
        super().__init__(refused)
        self.refused = refused


class _Moved(Exception):
    def __init__(self, moves: Sequence[Move]) -> None:
        super().__init__(moves)
        self.moves = moves
