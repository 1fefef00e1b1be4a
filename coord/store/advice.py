"""What the database counts, gathered for `coord.core.advice`.

Reads statistics and catalogs only.  The indexes that should be there are those of sql/schema.sql.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Final

import asyncpg
import msgspec

from coord import limits
from coord.core.advice import Chunks, Disk, Index, Known, Table
from coord.runtime.assets import sql_dir
from coord.store import editions
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.sqlstate import translated

_INDEX: Final = re.compile(r"^CREATE (?:UNIQUE )?INDEX (?P<name>\w+) ON coord\.\w+[^;]*;", re.MULTILINE)

_WHOLE_CHUNKS: Final = 8
"""The newest ones, by which the rate is told: two days."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says, and where its data lies."""

    known: Known
    data_directory: str | None
    """None: it does not tell us."""


async def gather(
    conn: Connection, *, memory: int | None = None, capacity: int | None = None, retain_days: float | None = None
) -> Server:
    """All that `advise` is told; nothing is changed.

    `memory`: bytes that may cache the database; None: what the server is set to believe (effective_cache_size).
    `capacity`: bytes the database may take in all; None: not known.  `retain_days`: None: nothing is dropped.
    """
    edition = await editions.detect_async(conn)
    with translated("advise"):
        chunks = await conn.fetch(statement("advise_chunks")) if edition.timescaledb is not None else []
        named = json.dumps({row["chunk"]: row["relation"] for row in chunks})
        indexes = await conn.fetch(statement("advise_indexes"), named)
        tables = await conn.fetch(statement("advise_tables"), named)
        server = await conn.fetchrow(statement("advise_server"))
        days = await conn.fetch(statement("advise_days"), limits.ADVISE_DAYS)
    assert server is not None, "a row for the database one is in"
    used = int(server["used"])
    disk = Disk(
        used=used,
        room=None if capacity is None else max(0, capacity - used),
        bytes_per_fact=(days[-1]["bytes_per_fact"] or 0.0) if days else 0.0,
        facts_by_day=[row["facts"] for row in days],
        retain_days=retain_days,
    )
    known = Known(
        observed_s=server["observed_s"],
        memory=memory or server["memory"],
        indexes=[
            Index(
                relation=row["relation"],
                name=row["name"],
                scans=row["scans"],
                bytes=row["bytes"],
                unique=row["is_unique"],
                valid=row["valid"],
                definition=row["definition"],
            )
            for row in indexes
        ],
        wanted=wanted_indexes(),
        tables=[Table(**dict(row)) for row in tables],
        chunks=_chunks(chunks),
        disk=disk,
    )
    return Server(known=known, data_directory=server["data_directory"])


@cache
def wanted_indexes() -> Mapping[str, str]:
    """Name → statement of every index of sql/schema.sql; those of primary keys come with their tables."""
    text = (sql_dir() / "schema.sql").read_text("utf-8")
    return {found["name"]: found[0].rstrip(";") for found in _INDEX.finditer(text)}


def _chunks(rows: list[asyncpg.Record]) -> list[Chunks]:
    found: dict[str, list[asyncpg.Record]] = {}
    for row in rows:
        found.setdefault(row["relation"], []).append(row)
    return [
        Chunks(relation=name, interval_s=of[0]["interval_s"], count=len(of), bytes_per_s=_rate(of))
        for name, of in found.items()
    ]


def _rate(chunks: list[asyncpg.Record]) -> float:
    """Bytes a second of the busiest of the newest whole chunks in the row store: that one has to fit too."""
    whole = [c for c in chunks if c["is_whole"] and c["bytes"] is not None][:_WHOLE_CHUNKS]
    return max((c["bytes"] / c["seconds"] for c in whole), default=0.0)
