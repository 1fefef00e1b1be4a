"""Times to and from PostgreSQL at a third of what asyncpg takes for them.

asyncpg compares every timestamptz that it encodes with two infinities: 0.7 µs each, and the rows of the two big
tables have two each, so that was more than all their other columns together.  Here a time becomes the number
of microseconds that the protocol has, in 0.3 µs.

What it never does: guess.  A time without a zone is a `TypeError`, and there are no infinities: the first and
the last moment that Python can say are themselves, where asyncpg writes infinities.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from coord.store.pool import Connection

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""PostgreSQL's."""

_MICROSECOND: Final = timedelta(microseconds=1)

_INFINITIES: Final = {2**63 - 1: datetime.max, -(2**63): datetime.min}  # noqa: DTZ901 - as asyncpg has them


def to_postgres(time: datetime) -> tuple[int]:
    """An aware time, as asyncpg's format ``tuple`` has a timestamptz."""
    return ((time - _EPOCH) // _MICROSECOND,)


def from_postgres(value: tuple[int]) -> datetime:
    """The time in UTC, as asyncpg itself would give it; `OverflowError` beyond what Python can say."""
    micros = value[0]
    return _INFINITIES[micros] if micros in _INFINITIES else _EPOCH + timedelta(microseconds=micros)


async def teach(conn: Connection) -> None:
    """Have `conn` write and read timestamptz by these; one round trip.

    For connections that write many rows: one that reads many is better off with asyncpg's decoder.
    """
    await conn.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=to_postgres, decoder=from_postgres, format="tuple"
    )
