"""Tables of entities made anew from history, beside the live ones, and put in their places.

::

    begin ──▶ round 0: the history, in the order of the log, folded as the projector folds ──▶ what is older is carried
                │ killed: the rows and the place are one transaction; whoever resumes goes on there     │
                ▼                                                                                       ▼
    rounds: what was projected meanwhile, until little is left ──▶ compare: one snapshot, all columns, by hash
                                                                     │
    swap: nobody writes entities ─▶ the last facts ─▶ schemas exchanged, views made anew ─▶ COMMIT

A round goes from one checkpoint of each partition to a later one.  Whatever is at or below a checkpoint is in
`coord.event`, because both were committed together; what is above it is left for the next round.  So the projector
never waits, but for the swap.

**The same rows.**  The folds are those of `coord.projector.entities`, one epoch a batch, so a fact is judged as it
was.  The copy has what was said, not in which words: jsonb orders members and knows no spaces.  So saved folds that
say the same in other bytes are the same, and `compare` gives the rebuilt row the bytes of the live one; with it the
hash of the words in which a task or a workflow was begun, by which a repetition of them is known.

**No side effects.**  Nothing here has a connection to the broker: no notice, no question, no dead letter.  A fact
that a fold refuses although it believed it once is counted and left out.

**What began before the history** that is there (retention has dropped it, and no archive has it) keeps its live row.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

import msgspec

from coord import errors, limits
from coord.core import rebuild
from coord.core.checkpoint import Checkpoint
from coord.core.locks import Lock
from coord.core.past import Point
from coord.core.rebuild import Place, Range, Slice
from coord.projector import entities, recorded
from coord.projector.recorded import KINDS, Recorded
from coord.projector.rows import agent_row
from coord.projector.tables import TABLES
from coord.store import checkpoints, copy, shadow, timestamps
from coord.store import entities as store
from coord.store.archive.files import Files
from coord.store.config import DatabaseConfig
from coord.store.pool import PROJECTOR_SETTINGS, Connection, Pool
from coord.store.rows import EventRow
from coord.store.shadow import SCHEMA, Compared, Progress
from coord.store.snapshots import one_moment
from coord.telemetry import logs
from coord.wire import subjects

_log = logs.get("rebuild")

_REFUSED_LOGGED: Final = 20

_NOT_NOW: Final = frozenset({"55P03", "40P01", "40001"})
"""SQLSTATEs of a swap that may be tried again: a lock that was not to be had, a deadlock, a conflict."""

_DECODE: Final = {table.name: msgspec.msgpack.Decoder(table.fold).decode for table in TABLES.values()}

Told = Callable[[int, int], None]
"""(facts done of the round, about how many there are)."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild has made so far."""

    facts: int
    """About entities, that were folded: since it began, by whomever."""
    refused: int
    carried: int
    """Rows taken as they are, by this process: what led to them is not in the history."""
    rounds: int
    seconds: float
    """In which it worked."""


@asynccontextmanager
async def pools(database: DatabaseConfig) -> AsyncIterator[tuple[Pool, Pool]]:
    """Connections as a rebuild has them: one that writes as the projector does, and some that read."""
    patient = msgspec.structs.replace(
        database,
        pool_min=0,
        pool_max=2,
        statement_timeout_s=limits.REBUILD_STATEMENT_S,
        idle_in_transaction_s=limits.REBUILD_STATEMENT_S,
        application_name="coord-rebuild",
    )
    writer = Pool(patient, settings=PROJECTOR_SETTINGS, circuit="database_write", prepare=timestamps.teach)
    async with writer, Pool(patient) as reader:
        yield writer, reader


class Rebuilder:
    """One rebuild of one database; `begin`, `build`, `compare`, `swap`.  Only one may be at it at a time."""

    def __init__(
        self,
        writer: Pool,
        reader: Pool,
        *,
        files: Files | None = None,
        kept: timedelta | None = None,
        told: Told | None = None,
    ) -> None:
        """`files`: of the archive.  `kept`: how long retention keeps what has ended; None: for ever.

        `told`: after each batch.
        """
        self._writer = writer
        self._reader = reader
        self._recorded = Recorded(reader, files)
        self._kept = kept
        self._told = told or (lambda _done, _total: None)
        self._token = secrets.token_hex(8)
        self._progress: Progress | None = None
        self._carried = 0
        self._round_facts = 0
        self._unfitted: defaultdict[str, set[store.Ident]] = defaultdict(set)
        """Table → entities that were written since `_fit`."""
        self._has_fitted = False
        """Whether this process knows what was written since: one that has taken over does not."""
        self._logged = 0

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._now

    @property
    def made(self) -> Made:
        """What has been made so far."""
        p = self._now
        return Made(facts=p.facts, refused=p.refused, carried=self._carried, rounds=p.round, seconds=p.active_s)

    @property
    def _now(self) -> Progress:
        assert self._progress is not None, "begin comes first"
        return self._progress

    # --- beginning -----------------------------------------------------------------------

    async def begin(self, since: Point | None = None) -> bool:
        """Begin, or go on with one that was begun: then True, and `since` is what it was begun with.

        `since`: make anew only the entities of which something was stored from then on, each from its whole
        history, and take the rows of all others as they are.  Default: all.

        Raises `RebuildRefused` when nothing was ever projected.
        """
        self._carried, self._has_fitted = 0, False
        self._unfitted.clear()
        async with self._writer.transaction(limits.REBUILD_STATEMENT_S) as conn:
            await one_moment(conn, writes=True)
            known = await shadow.exists(conn)
            if known:
                await shadow.check_alike(conn)
                await shadow.take(conn, self._token)
            else:
                await shadow.plan_freely(conn)
                upto, times = _places(await checkpoints.read_all(conn, subjects.EVENTS))
                if not any(epoch for epoch, _ in upto):
                    raise errors.RebuildRefused("nothing of EVENTS was ever projected: there is no history")
                if since is not None:
                    since = since.within(max(upto)[0])
                await shadow.create(conn, self._token, upto, times, partial=since is not None)
                if since is not None:
                    async for rows in self._recorded.touched(since):
                        await shadow.touch(conn, rows)
                    self._carried += await shadow.untouched(conn, KINDS, since)
            self._progress = await shadow.progress(conn)
        return known

    async def drop(self) -> None:
        """Give up whatever was begun."""
        async with self._writer.transaction() as conn:
            await shadow.drop(conn)

    # --- rounds --------------------------------------------------------------------------

    async def build(self) -> Made:
        """Fold the history, then follow the projector until little is left to do.

        Raises `RebuildBehind` when the projector is faster for good, `RebuildTakenOver` when another process goes
        on with this rebuild, and what the store raises; run again it goes on.
        """
        for number in range(limits.REBUILD_ROUNDS_MAX):
            await self._round()
            if not self._now.carried:
                await self._carry()
            await self._next_round()
            if number and self._round_facts <= limits.REBUILD_TAIL_ROWS:
                return self.made
        raise errors.RebuildBehind(rounds=self._now.round, facts_left=self._round_facts)

    async def _next_round(self) -> None:
        async with self._writer.transaction() as conn:
            upto, times = _places(await checkpoints.read_all(conn, subjects.EVENTS))
            await shadow.next_round(conn, self._token, upto, times)
            self._progress = await shadow.progress(conn)

    async def _round(self) -> None:
        now = self._now
        self._round_facts = 0
        async with self._reader.acquire() as conn:
            lost = await shadow.lost_epochs(conn)
        slices = await self._history(now) if now.round == 0 else None
        total = sum(one.rows for one in slices or ())
        by_epoch = {one.epoch: one for one in rebuild.ranges(now.above, now.upto)}
        for epoch in sorted(by_epoch.keys() | {epoch for epoch, _, _ in lost if epoch <= max(now.upto)[0]}):
            if now.place[0] > epoch:
                continue
            if now.place[0] < epoch:
                await self._enter(epoch, [(at, which) for e, at, which in lost if e == epoch])
            if epoch not in by_epoch:
                continue
            range_ = by_epoch[epoch]
            mine = [one for one in slices if one.epoch == epoch] if slices is not None else [recorded.tail(now, range_)]
            for one in mine:
                await self._slice(one, range_, total)

    async def _history(self, now: Progress) -> list[Slice]:
        """What there is to read, from where it goes on."""
        slices, oldest = await self._recorded.plan(now)
        if now.oldest is None and oldest is not None:
            async with self._writer.transaction() as conn:
                await shadow.begin_at(conn, oldest, carried=False)
            now.oldest = oldest
        return slices

    async def _enter(self, epoch: int, lost: Sequence[tuple[datetime, list[int]]]) -> None:
        """An epoch begins: what was open in a log that was replaced is lost, as it was then."""
        now = self._now
        if now.fitted and any(above < epoch <= upto for (above, _), (upto, _) in zip(now.above, now.upto, strict=True)):
            # What it begins is judged by words that a fitted row has and its facts have not.
            raise errors.RebuildRefused("an epoch began after the tables were compared: --drop them", epoch=epoch)
        async with self._writer.transaction(limits.REBUILD_STATEMENT_S) as conn:
            for at, partitions in lost:
                gone = {p for p in partitions if now.above[p][0] < epoch <= now.upto[p][0]}
                if gone:
                    await store.lose(conn, _of(gone), at=at, schema=SCHEMA)
            await shadow.advance(conn, self._token, (epoch, 0), facts=0, refused=0, active_s=0.0)
        now.place = (epoch, 0)

    async def _slice(self, one: Slice, range_: Range, total: int) -> None:
        """Read ahead on one connection while the other writes."""
        began = time.monotonic()
        async for rows in recorded.ahead(self._recorded.rows(self._now, one, range_)):
            async with self._writer.transaction(limits.REBUILD_STATEMENT_S) as conn:
                refused = await self._write(conn, rows)
                place, seconds = (rows[-1][1], rows[-1][2]), time.monotonic() - began
                await shadow.advance(conn, self._token, place, facts=len(rows), refused=refused, active_s=seconds)
            self._count(place, len(rows), refused, seconds)
            began = time.monotonic()
            self._told(self._round_facts, total)

    def _count(self, place: Place, facts: int, refused: int, seconds: float) -> None:
        now = self._now
        now.place, now.facts, now.refused = place, now.facts + facts, now.refused + refused
        now.active_s += seconds
        self._round_facts += facts

    # --- folding -------------------------------------------------------------------------

    async def _write(self, conn: Connection, rows: list[EventRow]) -> int:
        """Bring the tables up to date with `rows`, of one epoch; how many of them the folds refused."""
        dropped = 0
        while True:
            written, (refused,) = await entities.folded(conn, [rows], SCHEMA)
            if not refused:
                break
            dropped += len(refused)
            self._say(refused)
            rows = [row for row in rows if (row[2], row[3]) not in refused]
        for table, made in written:
            await store.save(conn, table.name, made, SCHEMA)
            if self._now.fitted:
                self._unfitted[table.name].update(row[:3] for row in made)
        await copy.upsert_agents(conn, [agent_row(row) for row in rows if row[8] == "agent"], SCHEMA)
        return dropped

    def _say(self, refused: dict[entities.Place, errors.CoordError]) -> None:
        for (seq, idx), error in refused.items():
            if self._logged < _REFUSED_LOGGED:
                self._logged += 1
                _log.warning("rebuild.refused", seq=seq, idx=idx, code=error.code, reason=error.message)

    async def _carry(self) -> None:
        async with self._writer.transaction(limits.REBUILD_STATEMENT_S) as conn:
            await one_moment(conn, writes=True)
            await shadow.plan_freely(conn)
            oldest = self._now.oldest
            if oldest is not None:
                await shadow.check_alike(conn)
                self._carried += await shadow.carry(conn, oldest)
            await shadow.begin_at(conn, oldest, carried=True)
        self._now.carried = True

    # --- comparing and swapping ----------------------------------------------------------

    async def compare(self) -> list[Compared]:
        """The live tables beside the rebuilt ones, at one moment; nobody waits for it.  `build` comes first."""
        assert self._now.round, "the history is not folded yet"
        async with self._writer.transaction(limits.REBUILD_STATEMENT_S) as conn:
            now = await self._fit(conn)
            compared = await shadow.compare(conn)
        self._fitted(now)
        return compared

    async def swap(self) -> None:
        """Put the rebuilt tables in the places of the live ones.

        Raises `RebuildRefused` when something hangs on a live table that would be lost with it, `RebuildBehind` when
        somebody does not let go of one, or too much is projected meanwhile; the rebuild is as it was then.
        """
        for attempt in range(limits.REBUILD_SWAP_TRIES):
            if attempt:
                await asyncio.sleep(min(1.0 + 0.2 * attempt, 5.0))
            await self.build()
            if not self._has_fitted or sum(map(len, self._unfitted.values())) > limits.REBUILD_TAIL_ROWS:
                async with self._writer.transaction(limits.REBUILD_STATEMENT_S) as conn:
                    now = await self._fit(conn)
                self._fitted(now)
            try:
                await self._swap_now()
            except errors.DatabaseUnavailable as exc:
                if exc.details.get("sqlstate") not in _NOT_NOW:
                    raise
                _log.info("rebuild.waits", error=str(exc), attempt=attempt)
            else:
                return
        raise errors.RebuildBehind("somebody does not let go of a table", tries=limits.REBUILD_SWAP_TRIES)

    async def _swap_now(self) -> None:
        async with self._writer.transaction(limits.REBUILD_SWAP_S) as conn:
            await conn.execute(f"SET LOCAL statement_timeout = {limits.REBUILD_SWAP_S * 1000:.0f}")
            await conn.execute("SET LOCAL idle_in_transaction_session_timeout = 5000")
            await shadow.plan_freely(conn)
            await shadow.lock(conn, limits.REBUILD_LOCK_S)
            await self._catch_up(conn)
            await self._fit_some(conn)
            await shadow.swap(conn)

    async def _catch_up(self, conn: Connection) -> Progress:
        """Fold the last facts that this transaction sees; afterwards both tables are at the same checkpoints."""
        upto, times = _places(await checkpoints.read_all(conn, subjects.EVENTS))
        await shadow.extend_round(conn, self._token, upto, times)
        now = await shadow.progress(conn)
        facts = refused = 0
        for range_ in rebuild.ranges(now.above, now.upto):
            if any(low == -1 < high for low, high in zip(range_.above, range_.upto, strict=True)):
                raise errors.RebuildBehind("an epoch began meanwhile", epoch=range_.epoch)
            async for rows in recorded.read(conn, now, recorded.tail(now, range_), range_):
                refused += await self._write(conn, rows)
                facts += len(rows)
        await shadow.advance(conn, self._token, (0, 0), facts=facts, refused=refused, active_s=0.0)
        await shadow.next_round(conn, self._token, upto, times)
        return await shadow.progress(conn)

    # --- the same in other bytes -----------------------------------------------------------

    async def _fit(self, conn: Connection) -> Progress:
        """Have the rebuilt tables at one moment with the live ones, and their folds in the live ones' bytes."""
        await one_moment(conn, writes=True)
        await shadow.plan_freely(conn)
        now = await self._catch_up(conn)
        if self._kept is not None:
            await shadow.prune(conn, self._kept)
        await shadow.fit_hashes(conn)  # nearly all of them; the rest is looked at one by one
        async for relation, found in shadow.other_folds(conn, limits.REBUILD_BATCH_ROWS):
            equal = [(*ident, live) for *ident, live, rebuilt in found if _say_the_same(relation, live, rebuilt)]
            if equal:
                await shadow.set_folds(conn, relation, equal)
        await shadow.fit(conn)
        return now

    def _fitted(self, now: Progress) -> None:
        self._progress, now.fitted, self._has_fitted = now, True, True
        self._unfitted.clear()

    async def _fit_some(self, conn: Connection) -> None:
        """The same for what has changed since."""
        for relation, idents in self._unfitted.items():
            asked = sorted(idents)
            live = await store.load(conn, relation, asked)
            made = await store.load(conn, relation, asked, SCHEMA)
            equal = [
                (*ident, live[ident][1])
                for ident, (place, fold) in made.items()
                if ident in live and live[ident][0] == place and _say_the_same(relation, live[ident][1], fold)
            ]
            if equal:
                await shadow.set_folds(conn, relation, equal)


# --- pieces --------------------------------------------------------------------------------


def _of(partitions: set[int]) -> Callable[[str], bool]:
    return lambda key: subjects.partition(key) in partitions


def _places(known: Sequence[Checkpoint]) -> tuple[list[Place], list[datetime | None]]:
    places: list[Place] = [(0, 0)] * limits.PARTITIONS
    times: list[datetime | None] = [None] * limits.PARTITIONS
    for one in known:
        places[one.partition], times[one.partition] = (one.epoch, one.seq), one.stored_at
    return places, times


def _say_the_same(relation: str, live: bytes, rebuilt: bytes) -> bool:
    """Whether two saved folds are one.

    Also where only the hash of the words differs in which an entity was begun: the copy has what was said, not how.
    And where a lock that was free for a while is known to be older than what is left of the history.
    """
    theirs, mine = _DECODE[relation](live), _DECODE[relation](rebuilt)
    if "payload_hash" in theirs.__struct_fields__ and mine.event_id == theirs.event_id:
        mine.payload_hash = theirs.payload_hash
    if isinstance(mine, Lock) and 0 < theirs.begun_seq < mine.begun_seq:
        mine.begun_seq = theirs.begun_seq
    return bool(mine == theirs)
