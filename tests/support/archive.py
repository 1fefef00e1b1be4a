"""What the archive's tests share: a database with rows of several days, and file systems that fail."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from coord.store import copy
from coord.store.archive.cold import Wanted, facts
from coord.store.archive.files import Files
from coord.store.config import ArchiveConfig
from coord.store.pool import Pool
from coord.store.rows import EventRow
from tests.support.store import event, sample

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

TRICKY = (
    {"detail": "", "event_id": 'a "quoted" id', "data": '{"text": "it\'s \\"so\\"\\n, he said"}'},
    {"event_id": "a\nline\r\nand another", "correlation_id": "", "data": "null"},
    {"event_id": "\\N", "causation_id": "\\.", "data": None},
    {"event_id": "naïve ✓ 𝄞", "traceparent": "00-ab", "data": '"\\u0001 \\\\ ,;"'},
    {"event_id": "\x01", "causation_id": "a\x02b\x01", "traceparent": "\x01\x01\x02", "correlation_id": "\x02"},
    {"occurred_at": datetime(1, 1, 1, tzinfo=UTC), "data": "1.50"},
    {"occurred_at": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "data": "[]"},
)
"""Values that a text format may trip over."""


def config(folder: Path | str, **fields: Any) -> ArchiveConfig:
    """An archive in a folder that takes and drops whatever is older than a day; nothing is purged."""
    usual: dict[str, Any] = {"url": str(folder), "after_days": 1, "drop_days": 1, "keep_days": 100_000}
    return ArchiveConfig(**(usual | fields))


def rows(count: int, *, tenants: int = 2, kinds: int = 3, step: timedelta = timedelta(minutes=7)) -> list[EventRow]:
    """Facts of several tenants, kinds and days, some in frames, tricky values among them."""
    return [
        event(
            seq := 1 + number // 2,
            idx=number % 2,
            at=BEGIN + step * number,
            tenant=f"tenant{number % tenants}",
            kind=f"kind{number % kinds}",
            key=f"key{number % 5}",
            epoch=1 if seq < count // 3 else 2,
            **({"event_id": f"e{number}", "data": f'{{"n": {number}}}'} | TRICKY[number % len(TRICKY)]),
        )
        for number in range(count)
    ]


async def fill(pool: Pool, facts: list[EventRow], samples: int = 0) -> None:
    """Put facts and samples into the tables."""
    async with pool.transaction() as conn:
        await copy.events(conn, facts)
        await copy.samples(conn, [sample(n, at=BEGIN + timedelta(minutes=9 * n)) for n in range(samples)])


async def in_table(pool: Pool) -> Counter[tuple[int, int, int]]:
    """Places in the log of the rows in coord.event, each with how often."""
    async with pool.acquire() as conn:
        return Counter(tuple(row) for row in await conn.fetch("SELECT epoch, seq, idx FROM coord.event"))


async def cold(pool: Pool, files: Files) -> Counter[tuple[int, int, int]]:
    """Places in the log of the rows that are only in the archive."""
    return places(await cold_rows(pool, files))


def places(facts: list[EventRow]) -> Counter[tuple[int, int, int]]:
    """Places in the log of rows."""
    return Counter((row[1], row[2], row[3]) for row in facts)


async def everything(pool: Pool) -> list[tuple[Any, ...]]:
    """Every column of every row of coord.event, in the order of the log; JSON as text."""
    async with pool.acquire() as conn:
        found = await conn.fetch(
            "SELECT stored_at, epoch, seq, idx, partition, tenant, agent, key, kind, id, event, detail, event_id, type,"
            " schema, occurred_at, projected_at, correlation_id, causation_id, traceparent, data::text"
            " FROM coord.event ORDER BY epoch, seq, idx"
        )
    return [tuple(row) for row in found]


async def cold_rows(pool: Pool, files: Files, wanted: Wanted | None = None) -> list[EventRow]:
    """Facts of the archive."""
    return [row async for page in facts(pool, files, wanted) for row in page]


def seen_by_duckdb(folder: Path) -> list[tuple[Any, ...]]:
    """(tenant, day, kind, epoch, seq, idx) of all files, as DuckDB finds them by itself."""
    if not list(folder.glob("event/tenant=*/*/*/*.parquet")):
        return []
    found = duckdb.sql(
        f"SELECT tenant, day, kind, epoch, seq, idx FROM read_parquet('{folder}/event/**/*.parquet',"
        " hive_partitioning = true) ORDER BY epoch, seq, idx"
    )
    assert found is not None
    return found.fetchall()


class Killed(Exception):
    """The process ends here, as far as the archive can tell."""


class Mortal(Files):
    """A folder on which the process ends at the operation with a given number, before or after it."""

    dies_at = 0
    after = False
    exits = False
    """The process really ends."""
    operations = 0

    @contextlib.contextmanager
    def _count(self) -> Iterator[None]:
        self.operations += 1
        due = self.operations == self.dies_at
        if due and not self.after:
            self._die()
        yield
        if due and self.after:
            self._die()

    def _die(self) -> None:
        if self.exits:
            os._exit(9)
        raise Killed

    def sink(self, path: str) -> Any:
        with self._count():
            return super().sink(path)

    def sync(self, path: str) -> None:
        with self._count():
            super().sync(path)

    def move(self, source: str, target: str) -> None:
        with self._count():
            super().move(source, target)

    def read(self, path: str) -> Any:
        with self._count():
            return super().read(path)

    def remove(self, path: str) -> None:
        with self._count():
            super().remove(path)

    def remove_folder(self, path: str) -> None:
        with self._count():
            super().remove_folder(path)


class Full(Files):
    """A folder on a disk that is full after so many bytes."""

    bytes_left = 0

    def sink(self, path: str) -> Any:
        return _FullSink(super().sink(path), self)


class _FullSink:
    def __init__(self, sink: Any, disk: Full) -> None:
        self._sink = sink
        self._disk = disk

    def write(self, data: Any) -> int:
        self._disk.bytes_left -= len(data)
        if self._disk.bytes_left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._sink.write(data))

    def close(self) -> None:
        self._sink.close()
