"""How far projectors are: where the partitions of a stream end, and their checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import asyncpg

from coord import errors, limits
from coord.bus.connection import Connection
from coord.wire import subjects


async def partition_ends(conn: Connection, stream: str) -> dict[int, int]:
    """The last stream sequence of each partition that has a message."""
    ends: dict[int, int] = {}
    for p in range(limits.PARTITIONS):
        last = {"last_by_subj": subjects.partition_filter(stream, p)}
        with contextlib.suppress(errors.ApiNotFound):  # a small backlog leaves partitions empty
            found = await conn.api(f"STREAM.MSG.GET.{stream}", last)
            ends[p] = int(found["message"]["seq"])
    return ends


async def checkpoints(db: asyncpg.Connection[asyncpg.Record], stream: str) -> dict[int, int]:
    """The sequence of each partition's checkpoint; a partition that was never projected is missing."""
    found = await db.fetch("SELECT partition, seq FROM coord.checkpoint WHERE stream = $1", stream)
    return {row["partition"]: row["seq"] for row in found}


def reached(ends: Mapping[int, int], by: Mapping[int, int]) -> bool:
    """Whether every end is at or below its partition's checkpoint."""
    return all(by.get(p, 0) >= end for p, end in ends.items())
