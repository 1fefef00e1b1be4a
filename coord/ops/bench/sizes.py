"""What a fact takes on disk, by edition: its row, its indexes, its share of the tables of entities.

Facts of a fleet (`made`) at a hundred a second, as many as fit into the time; sizes as the server tells them,
less those of the empty tables.  In `community` the chunks are then compressed, as its policy does after the
hot age, and measured again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import msgspec

from coord.core.upkeep import DAY_S
from coord.ops.bench import made
from coord.ops.bench.servers import Database

FACTS_PER_S: Final = 100.0
"""Of the fleet whose days are reckoned."""

_COMPRESS: Final = "SELECT compress_chunk(c, if_not_compressed => true) FROM show_chunks('coord.event') AS c"


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes for each fact."""

    edition: str
    facts: int
    event: float
    """In `event`, with its indexes: in the row store;"""
    warm: float | None
    """and compressed, where the server can."""
    entities: float
    """In all other tables."""

    @property
    def event_kept(self) -> float:
        """What most of the facts that are kept take."""
        return self.event if self.warm is None else self.warm

    @property
    def gb_per_day(self) -> float:
        """What a day of `FACTS_PER_S` takes for as long as it is kept, entities and all."""
        return (self.event_kept + self.entities) * FACTS_PER_S * DAY_S / 1e9


async def sizes(database: Database, facts: int, say: Callable[[str], None]) -> Sizes:
    """Fill the empty tables and weigh them."""
    conn: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(database.config.url, command_timeout=300)
    try:
        before = await _weigh(conn)
        now = datetime.now(UTC)
        shape = made.Shape(rows=facts, begin=now - timedelta(seconds=facts / FACTS_PER_S), until=now)
        rows = await made.fill(database.config.url, shape)
        after = await _weigh(conn)
        grown = {name: after[name] - before.get(name, 0) for name in after}
        warm = None
        if database.edition == "community":
            await conn.fetch(_COMPRESS)
            warm = ((await _weigh(conn))["event"] - before["event"]) / rows
    finally:
        await conn.close()
    event = grown.pop("event") / rows
    found = Sizes(
        edition=database.edition, facts=rows, event=event, warm=warm, entities=sum(grown.values()) / rows
    )  # fmt: skip
    say(
        f"  {found.edition}: {found.event_kept:,.0f} bytes a fact, {found.gb_per_day:.2f} GB a day at {FACTS_PER_S:g}/s"
    )
    return found


async def _weigh(conn: asyncpg.Connection[asyncpg.Record]) -> dict[str, int]:
    return {row["relation"]: row["bytes"] for row in await conn.fetch("SELECT relation, bytes FROM coord.v_storage")}
