"""coord's streams on a test's broker."""

from __future__ import annotations

from typing import Any

from coord.bus import topology
from coord.bus.connection import Connection
from coord.runtime import assets


async def apply_topology(conn: Connection, profile: str = "development", **streams: dict[str, Any]) -> None:
    """streams/ as in `profile`; `EVENTS={…}` overrides fields of a stream."""
    wanted = topology.load(assets.streams_dir(), profile)
    for stream, fields in streams.items():
        wanted = wanted.with_fields(stream, **fields)
    await topology.apply(conn, wanted)
