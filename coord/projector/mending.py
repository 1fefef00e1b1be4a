"""The copy of the log compared with the log's window, and made whole from it: rows that are missing or others.

A page of the log is decoded as the projector decodes it and laid beside what the tables have of it, in the
database, where JSON is compared as JSON.  What is missing is put in with the broker's time, what is another is
put in its place; a page is one transaction, so whoever is killed begins again and finds less to do.  Only messages
at or below a partition's checkpoint are looked at, and nobody writes those any more: the projector goes on meanwhile.

Nothing is published: a message that cannot be believed is written to `coord.dead_letter` if it is not there, and
to no stream.  A fact that has a dead letter has no row.

What is in a piece of the archive, or old enough to be dropped, is left alone and counted: the rows may be in the files
only, and would be there twice; what was verified would be dropped as it was, without what was put right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection as Bus
from coord.bus.direct import DirectReader, StoredMessage, next_on_leader
from coord.bus.pull import Delivery
from coord.core.archive import Relation
from coord.core.rebuild import Place
from coord.projector.rows import Batch
from coord.projector.states import stream_state
from coord.store import checkpoints, copy, mending, rollups
from coord.store.archive import pieces
from coord.store.pool import Connection, Pool
from coord.store.rows import EventRow, SampleRow
from coord.wire import subjects

_PAGE_MESSAGES: Final = 10_000
"""Compared with one statement: it looks through the minutes around them."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_Row = TypeVar("_Row", EventRow, SampleRow)
Told = Callable[[int, int], None]
"""(sequences done, of how many)."""


class Mended(msgspec.Struct, kw_only=True):
    """What was found.  Mutable: it grows page by page."""

    stream: str
    messages: int = 0
    """That were compared."""
    rows: int = 0
    """That they hold."""
    missing: int = 0
    """Rows that were not there, and are now."""
    changed: int = 0
    """Rows that said something else, or stood twice, and are as the log has them now."""
    left: int = 0
    """Rows that were not compared: the archive has them, or they are old enough to be dropped."""


async def mend(
    bus: Bus, pool: Pool, stream: str, *, kept: timedelta | None = None, told: Told = lambda _done, _total: None
) -> Mended:
    """Make the copy of one stream's window whole; `pool`: two connections at least, with the projector's settings.

    `kept`: the age at which rows leave the table; None: never.  Raises `RebuildRefused` when nothing of the stream as
    it is now was projected, `ArchiveBusy` when somebody is at the archive, which waits meanwhile, and what the bus and
    the store raise; pages that were done stay done.
    """
    async with pieces.locked(pool):
        return await _mend(bus, pool, stream, kept, told)


async def _mend(bus: Bus, pool: Pool, stream: str, kept: timedelta | None, told: Told) -> Mended:
    async with pool.acquire() as conn:
        known = await checkpoints.read_all(conn, stream)
        begun = await mending.epochs_begun(conn, stream)
    state = stream_state(await bus.api(f"STREAM.INFO.{stream}"))
    places: dict[int, tuple[Place, int]] = {
        one.partition: ((one.epoch, begun.get((one.partition, one.epoch), 0)), one.seq)
        for one in known
        if one.stream_created == state.created and (one.epoch == 1 or (one.partition, one.epoch) in begun)
    }
    if not places:
        raise errors.RebuildRefused(f"nothing of {stream} as it is now was projected", stream=stream)
    found = Mended(stream=stream)
    first, last = max(state.first_seq, 1), min(state.last_seq, max(upto for _, upto in places.values()))
    reader = DirectReader(bus)
    try:
        seq = first
        while seq <= last:
            page = await _page(bus, reader, stream, seq)
            if not page:
                break
            await _compare(pool, found, page, places, kept)
            seq = page[-1].seq + 1
            told(min(seq, last + 1) - first, last + 1 - first)
    finally:
        await reader.close()
    return found


async def _page(bus: Bus, reader: DirectReader, stream: str, seq: int) -> list[StoredMessage]:
    """The next messages; none: the leader says that there are none."""
    page: list[StoredMessage] = []
    while len(page) < _PAGE_MESSAGES:
        messages = (await reader.batch(stream, ">", from_seq=seq, messages_max=limits.READ_PAGE_FACTS_MAX)).messages
        if not messages:
            held = await next_on_leader(bus, stream, ">", seq)
            if held is None:
                break
            messages = [held]
        page += messages
        seq = page[-1].seq + 1
    return page


async def _compare(
    pool: Pool,
    found: Mended,
    page: list[StoredMessage],
    places: Mapping[int, tuple[Place, int]],
    kept: timedelta | None,
) -> None:
    batches: dict[int, Batch] = {}
    for message in page:
        partition = _partition(message.subject)
        if partition not in places:
            continue  # a stray, or a partition that was never projected
        (epoch, above), upto = places[partition]
        if not above < message.seq <= upto:
            continue
        stored_ns = (message.stored_at - _EPOCH) // _MICROSECOND * 1000
        batch = batches.setdefault(partition, Batch(found.stream, partition, epoch))
        batch.add(Delivery(message.seq, stored_ns, message.subject, message.headers, message.body))
        found.messages += 1
    events = [row for batch in batches.values() for row in batch.events]
    samples = [row for batch in batches.values() for row in batch.samples]
    found.rows += len(events) + len(samples)
    async with pool.transaction(limits.REBUILD_STATEMENT_S) as conn:
        events = await _in_table("event", conn, events, kept)
        samples = await _in_table("metric_sample", conn, samples, kept)
        found.left += sum(len(b.events) + len(b.samples) for b in batches.values()) - len(events) - len(samples)
        await copy.dead_letters(conn, [letter.row for batch in batches.values() for letter in batch.letters])
        for changed, missing in (await mending.events(conn, events), await mending.samples(conn, samples)):
            found.changed += changed
            found.missing += missing
            if changed or missing:
                # Rollups have counted what stood there: they count it anew.
                times = [*(row[0] for row in events), *(row[0] for row in samples)]
                await rollups.forget(conn, min(times))


async def _in_table(relation: Relation, conn: Connection, rows: list[_Row], kept: timedelta | None) -> list[_Row]:
    """The rows whose place is the table alone."""
    if not rows:
        return rows
    oldest = _EPOCH if kept is None else await pieces.clock(conn) - kept
    first, last = min(row[0] for row in rows), max(row[0] for row in rows)
    listed = await pieces.listed(conn, relation)
    spans = [piece.span for piece in listed if piece.start <= last and first < piece.end]
    return [row for row in rows if row[0] >= oldest and not any(span.start <= row[0] < span.end for span in spans)]


def _partition(subject: str) -> int:
    """-1: its subject names none."""
    token = subject.split(".", 3)[2:3]
    return int(token[0]) if token and token[0] in subjects.PARTITION_TOKENS else -1
