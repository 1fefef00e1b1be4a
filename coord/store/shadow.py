"""Tables of entities beside the live ones: made, compared with them, and put in their places.

They live in the schema `SCHEMA` under the names of the live ones, so every statement about an entity runs on
either (`coord.store.queries.statement`).  How far they are is a row of the same schema, written with their
rows: whoever is killed goes on where that says.

The swap moves tables between schemas, in milliseconds, and makes the views anew that read them, because a view
knows its tables by number, not by name.  Sessions that have planned a statement on the old table plan it again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

import asyncpg
import msgspec

from coord import errors
from coord.core.past import Point
from coord.core.rebuild import Place, Stretch
from coord.store.pool import Connection, rows_of
from coord.store.queries import statement
from coord.store.rows import EventRow
from coord.store.slow import called
from coord.store.sqlstate import translated

SCHEMA: Final = "coord_rebuild"

_FOLDED: Final = ("task", "workflow", "handoff", "signal", "lock", "flag", "agent_registry")
"""Tables whose rows are folds, known by (tenant, key, id)."""

_KIND: Final = {"agent_registry": "agent"}
"""Of facts, where it is not the table's name."""

_TASK: Final = re.compile(r"\b(coord|coord_rebuild)\.task\b")

_HANGS_ON_IT: Final = "2BP01"
"""dependent_objects_still_exist: of DROP, and of what the swap itself refuses."""


class Progress(msgspec.Struct, kw_only=True):
    """How far a rebuild is.  Mutable: whoever is at it keeps its own up to date."""

    began_at: datetime
    partial: bool
    """Whether only some entities are made anew: those of which something was stored from some point on."""
    oldest: datetime | None
    """From when on the history goes; None: not known yet."""
    token: str
    round: int
    """0: the history; then rounds in which it follows the projector."""
    carried: bool
    """Whether the rows of what began before the history have been taken."""
    fitted: bool
    """Whether rebuilt rows have the bytes of live ones that say the same."""
    place: Place
    """Done of this round, of all partitions."""
    facts: int
    refused: int
    """Facts that the folds refused although they once believed them."""
    active_s: float
    above: list[Place]
    """Where this round began, by partition,"""
    upto: list[Place]
    """and where it ends: a checkpoint each."""
    above_times: list[datetime | None]
    """Broker's clock where the round began, as far as that is known; in round 0 empty."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One table as it is beside as it was rebuilt."""

    relation: str
    live: int
    """Rows."""
    rebuilt: int
    live_hash: str
    """Over all columns of all rows, in no order: 64 bits, in hexadecimal."""
    rebuilt_hash: str
    only_live: int
    only_rebuilt: int
    differ: int
    """Rows of both that are not the same."""

    @property
    def is_equal(self) -> bool:
        """Whether they have the same rows."""
        return self.live_hash == self.rebuilt_hash and not (self.only_live or self.only_rebuilt or self.differ)


# --- making them ---------------------------------------------------------------------------


async def exists(conn: Connection) -> bool:
    """Whether there is a rebuild that was neither swapped nor given up."""
    with translated("rebuild known"):
        return bool(await conn.fetchval(statement("rebuild_known")))


async def create(
    conn: Connection, token: str, upto: Sequence[Place], times: Sequence[datetime | None], *, partial: bool
) -> None:
    """Empty tables beside the live ones, with whatever was added to those; inside a transaction."""
    with translated("rebuild create"):
        await conn.execute(statement("rebuild_create"))
        await conn.execute(statement("rebuild_begin"), token, partial, *_split(upto), list(times))


async def drop(conn: Connection) -> None:
    """Give a rebuild up; nothing happens where there is none."""
    with translated("rebuild drop"):
        await conn.execute(statement("rebuild_drop"))


async def touch(conn: Connection, rows: Sequence[EventRow]) -> None:
    """Note the entities of these facts as touched."""
    with translated("rebuild touch"):
        await conn.execute(statement("rebuild_touch"), *_idents(rows))


async def untouched(conn: Connection, kinds: Sequence[str], since: Point) -> int:
    """Note of which entities the copy has something from `since` on, and take all other rows as they are; how many."""
    with translated("rebuild untouched"):
        await conn.execute(statement("rebuild_touched"), list(kinds), since.time, since.epoch, since.seq)
        taken = [await conn.execute(_about(name, "rebuild_untouched"), _KIND.get(name, name)) for name in _FOLDED]
        taken.append(await conn.execute(statement("rebuild_untouched_agents")))
    return sum(map(rows_of, taken))


async def are_touched(conn: Connection, rows: Sequence[EventRow]) -> list[bool]:
    """Of each fact, whether its entity is noted as touched."""
    with translated("rebuild touched"):
        return [row["touched"] for row in await conn.fetch(statement("rebuild_are_touched"), *_idents(rows))]


async def check_alike(conn: Connection) -> None:
    """Raise `RebuildRefused` when live tables have other columns or indexes than those that are made."""
    with translated("rebuild changed"):
        changed = [row["name"] for row in await conn.fetch(statement("rebuild_changed"))]
    if changed:
        raise errors.RebuildRefused(
            f"{changed[0]} was changed since the rebuild began, by a migration perhaps: --drop it and begin anew"
        )


async def carry(conn: Connection, oldest: datetime) -> int:
    """Take the rows of entities that began before `oldest` as they are: what led to them is not there; how many."""
    with translated("rebuild carry"):
        older = await conn.fetchval(statement("rebuild_older"), oldest)
        await conn.execute(statement("rebuild_make_way"), oldest, older)
        return sum(row["carried"] for row in await conn.fetch(statement("rebuild_carry"), oldest, older))


async def prune(conn: Connection, kept: timedelta) -> int:
    """Remove what retention has removed from the live tables; how many rows."""
    with translated("rebuild prune"):
        return sum(row["pruned"] for row in await conn.fetch(statement("rebuild_prune"), kept))


# --- progress ------------------------------------------------------------------------------


async def progress(conn: Connection) -> Progress:
    """How far it is."""
    with translated("rebuild progress"):
        row = await conn.fetchrow(statement("rebuild_progress"))
    if row is None:
        raise errors.RebuildRefused("coord_rebuild says nothing about a rebuild: something else is in that schema")
    return Progress(
        began_at=row["began_at"],
        partial=row["partial"],
        oldest=row["oldest"],
        token=row["token"],
        round=row["round"],
        carried=row["carried"],
        fitted=row["fitted"],
        place=(row["epoch"], row["seq"]),
        facts=row["facts"],
        refused=row["refused"],
        active_s=row["active_s"],
        above=list(zip(row["from_epochs"], row["from_seqs"], strict=True)),
        upto=list(zip(row["upto_epochs"], row["upto_seqs"], strict=True)),
        above_times=row["from_times"],
    )


async def take(conn: Connection, token: str) -> None:
    """Go on with it; whoever was at it gets `RebuildTakenOver`."""
    with translated("rebuild take"):
        await conn.execute(statement("rebuild_take"), token)


async def advance(conn: Connection, token: str, place: Place, *, facts: int, refused: int, active_s: float) -> None:
    """Say how far it is, in the transaction of the rows; `RebuildTakenOver` when another goes on with it."""
    with translated("rebuild advance"):
        found = await conn.fetchval(statement("rebuild_advance"), token, *place, facts, refused, active_s)
    if found is None:
        raise errors.RebuildTakenOver


async def next_round(conn: Connection, token: str, upto: Sequence[Place], times: Sequence[datetime | None]) -> None:
    """The round is done; the next one goes on to `upto`."""
    with translated("rebuild round"):
        found = await conn.fetchval(statement("rebuild_round"), token, *_split(upto), list(times))
    if found is None:
        raise errors.RebuildTakenOver


async def extend_round(conn: Connection, token: str, upto: Sequence[Place], times: Sequence[datetime | None]) -> None:
    """A round of which nothing is done yet goes on to `upto`."""
    with translated("rebuild round"):
        found = await conn.fetchval(statement("rebuild_extend"), token, *_split(upto), list(times))
    if found is None:
        raise errors.RebuildTakenOver


async def begin_at(conn: Connection, oldest: datetime | None, *, carried: bool) -> None:
    """Note from when on the history goes, and whether what is older has been taken."""
    with translated("rebuild oldest"):
        await conn.execute(statement("rebuild_oldest"), oldest, carried)


# --- the history ---------------------------------------------------------------------------


async def stretches(conn: Connection, kinds: Sequence[str], since: datetime) -> list[Stretch]:
    """What the copy of the log has of facts of these kinds; it is looked through as a whole."""
    with translated("rebuild stretches"):
        rows = await conn.fetch(statement("rebuild_stretches"), list(kinds), since)
    return [
        Stretch(
            epoch=row["epoch"],
            first=row["first"],
            last=row["last"],
            rows=row["rows"],
            since=row["since"],
            until=row["since"] + timedelta(minutes=10),
        )
        for row in rows
    ]


async def rows(
    conn: Connection,
    kinds: Sequence[str],
    epoch: int,
    first: int,
    last: int,
    since: datetime,
    until: datetime,
    *,
    above: Sequence[int],
    upto: Sequence[int],
    touched: bool,
    batch_rows: int,
) -> AsyncIterator[list[Any]]:
    """Facts in the order of the log, `batch_rows` at a time, as rows of `coord.store.rows.EventRow`'s order.

    `above`, `upto`: sequences by partition.  Inside a transaction.
    """
    name = "rebuild_rows_touched" if touched else "rebuild_rows"
    with translated("rebuild rows"):
        cursor = await conn.cursor(
            statement(name), list(kinds), epoch, first, last, since, until, list(above), list(upto)
        )
        while found := await cursor.fetch(batch_rows):
            yield found


async def oldest(conn: Connection, until: datetime) -> datetime:
    """When the first fact of the copy was stored, given in which ten minutes."""
    with translated("rebuild first"):
        return await conn.fetchval(statement("rebuild_first"), until)  # type: ignore[no-any-return]


async def lost_epochs(conn: Connection) -> list[tuple[int, datetime, list[int]]]:
    """Epochs that began with another log: which, when that was decided, and for which partitions."""
    with translated("rebuild epochs"):
        return [tuple(row) for row in await conn.fetch(statement("rebuild_epochs"))]


# --- comparing and swapping ------------------------------------------------------------------


async def other_folds(conn: Connection, batch_rows: int) -> AsyncIterator[tuple[str, list[asyncpg.Record]]]:
    """Relation, and (tenant, key, id, live, rebuilt): rows of the same fact whose saved folds are other bytes."""
    with translated("rebuild folds"):
        for name in _FOLDED:
            cursor = await conn.cursor(_about(name, "rebuild_folds"))
            while found := await cursor.fetch(batch_rows):
                yield name, found


async def fit_hashes(conn: Connection) -> None:
    """Give folds that differ in the hash of the first words alone the bytes of the live ones."""
    with translated("rebuild fit"):
        for name in ("task", "workflow"):
            await conn.execute(_about(name, "rebuild_fit_hashes"))


async def set_folds(conn: Connection, relation: str, rows: Sequence[Sequence[Any]]) -> None:
    """Save other bytes for the same folds: (tenant, key, id, fold) each."""
    with translated("rebuild set folds"):
        await conn.execute(_about(relation, "rebuild_set_folds"), *zip(*rows, strict=True))


async def fit(conn: Connection) -> None:
    """Note that all folds that say the same are the same bytes."""
    with translated("rebuild fit"):
        await conn.execute(statement("rebuild_fit"))


async def compare(conn: Connection) -> list[Compared]:
    """Each table beside its twin; of one snapshot, if the transaction has one."""
    with translated("rebuild compare"):
        rows = await conn.fetch(statement("rebuild_compare"))
    return [
        Compared(
            relation=row["relation"],
            live=row["live"],
            rebuilt=row["rebuilt"],
            live_hash=f"{int(row['live_sum']) % 2**64:016x}",
            rebuilt_hash=f"{int(row['rebuilt_sum']) % 2**64:016x}",
            only_live=row["only_live"],
            only_rebuilt=row["only_rebuilt"],
            differ=row["differ"],
        )
        for row in rows
    ]


async def lock(conn: Connection, wait_s: float) -> None:
    """Have the live tables for this transaction alone; `DatabaseUnavailable` when somebody does not let go of one."""
    with translated("rebuild lock"):
        await conn.execute(f"SET LOCAL lock_timeout = {wait_s * 1000:.0f}")
        await conn.execute(statement("rebuild_lock"))


async def swap(conn: Connection) -> None:
    """The rebuilt tables take the places of the live ones; in the transaction of `lock`.

    Raises `RebuildRefused` naming what hangs on a live table and would be lost with it.
    """
    try:
        await check_alike(conn)
        with translated("rebuild swap"):
            await conn.execute(statement("rebuild_swap"))
            await conn.execute(statement("rebuild_drop"))
    except errors.StoreError as exc:
        if exc.details.get("sqlstate") == _HANGS_ON_IT:
            raise errors.RebuildRefused(exc.message) from exc
        raise


async def plan_freely(conn: Connection) -> None:
    """For this transaction: plans as for anybody, not by index alone, and memory to sort and hash in."""
    with translated("rebuild plan"):
        await conn.execute("SET LOCAL enable_seqscan = on")
        await conn.execute("SET LOCAL plan_cache_mode = auto")
        await conn.execute("SET LOCAL work_mem = '64MB'")


@cache
def _about(relation: str, name: str) -> str:
    """A statement that is written for tasks and their twins, for another table."""
    return called(_TASK.sub(rf"\1.{relation}", statement(name)), name)


def _idents(rows: Sequence[EventRow]) -> list[list[str]]:
    return [[row[column] for row in rows] for column in (8, 5, 7, 9)]  # type: ignore[misc]


def _split(places: Sequence[Place]) -> tuple[list[int], list[int]]:
    return [epoch for epoch, _ in places], [seq for _, seq in places]
