"""Editions: what the database's licence allows, and how coord gets one contract out of it.

`community` (TimescaleDB under the TSL), `apache` (TimescaleDB without it: Debian's packages)
and `plain` (PostgreSQL alone, development only) have the same tables, views and functions;
sql/editions/ and sql/policies/ make the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from coord import errors
from coord.store.config import AgesConfig, ArchiveConfig, EditionName
from coord.store.pool import Connection
from coord.store.queries import statement
from coord.store.sqlstate import translated

if TYPE_CHECKING:
    import psycopg

SCRIPTS: Final[Mapping[EditionName, tuple[str, ...]]] = {
    "community": (
        "editions/hypertables.sql",
        "editions/community.sql",
        "editions/archive.sql",
        "editions/archive_hypertables.sql",
        "policies/community.sql",
    ),
    "apache": (
        "editions/hypertables.sql",
        "editions/archive.sql",
        "editions/archive_hypertables.sql",
        "policies/apache.sql",
        "policies/by_coord.sql",
    ),
    "plain": (
        "editions/plain.sql",
        "editions/archive.sql",
        "editions/archive_plain.sql",
        "policies/plain.sql",
        "policies/by_coord.sql",
    ),
}
"""What each edition applies after the migrations, in order."""

TIMESCALEDB_MIN: Final[Mapping[str, tuple[int, int]]] = {"community": (2, 20), "apache": (2, 13)}
"""Oldest TimescaleDB: the columnstore's names are from 2.18, its sparse indexes from 2.20; by_range from 2.13."""

POSTGRES_MIN: Final = 15


class Edition(msgspec.Struct, frozen=True, kw_only=True):
    """What a database is."""

    name: EditionName
    postgres: str
    timescaledb: str | None
    """Version of the extension in this database; None in `plain`."""
    direct_compress: bool
    """Whether COPY can write compressed batches (community, 2.21 and later)."""
    commit_timestamps: bool
    """track_commit_timestamp: whether latencies can be told to the commit."""

    @property
    def lacks(self) -> tuple[str, ...]:
        """What this edition does not give, in words for `coord doctor`."""
        lacks: list[str] = []
        if self.name == "plain":
            lacks.append("TimescaleDB: no chunks, so old rows are deleted one batch at a time; for development only")
        if self.name != "community":
            lacks.append("compression: rows take about ten times the space after the hot age")
            lacks.append("retention and rollups by the server: coord's maintenance does them")
        elif not self.direct_compress:
            lacks.append("direct-compress COPY (TimescaleDB 2.21)")
        if not self.commit_timestamps:
            lacks.append("track_commit_timestamp: latencies are told to the start of the write, not to its commit")
        return tuple(lacks)

    @property
    def latency_query(self) -> str:
        """The question that tells publish-to-queryable latencies best here.

        Commit times belong to row versions: rows that COPY compressed on the way in have none.
        """
        exact = self.commit_timestamps and not self.direct_compress
        return "latency_committed" if exact else "latency_projected"

    def __str__(self) -> str:
        extension = f", TimescaleDB {self.timescaledb}" if self.timescaledb else ""
        return f"{self.name} (PostgreSQL {self.postgres}{extension})"


def detect(conn: psycopg.Connection[Any]) -> Edition:
    """What this database is now.  Creates nothing."""
    return _edition(_facts(conn))


async def detect_async(conn: Connection) -> Edition:
    """What this database is now, asked through a pool's connection."""
    with translated("detect edition"):
        row = await conn.fetchrow(statement("edition"))
    assert row is not None, "one row, always"
    return _edition(dict(row))


def prepare(
    conn: psycopg.Connection[Any], want: Literal["auto", "community", "apache", "plain"] = "auto"
) -> tuple[Edition, list[str]]:
    """Create the extension where it is wanted and can be; what the database is then, and notes.

    `conn` must be in autocommit mode.  Raises `MigrationFailed` when the database is not, and
    cannot be made, what is wanted or what coord needs.
    """
    facts = _facts(conn)
    notes: list[str] = []
    if facts["timescaledb"] is None and want != "plain":
        note = _create_extension(conn, facts)
        if note:
            notes.append(note)
        facts = _facts(conn)
    edition = _edition(facts)
    if want not in {"auto", edition.name}:
        raise errors.MigrationFailed(
            f"the settings want edition {want}, the database is {edition}", reason="; ".join(notes) or None
        )
    _check_versions(edition)
    return edition, notes


def too_short(edition: Edition, ages: AgesConfig, archive: ArchiveConfig | None) -> str | None:
    """What of these ages this edition's rollups cannot live with; None: they can.

    community: a refresh counts the last days anew where rows have changed, and what was dropped there has changed: of
    what it does not find nothing would be left.  How far they look back is said in sql/policies/community.sql, which
    refuses a retention for the same reason.
    """
    if edition.name != "community":
        return None
    hot = ages.hot_days
    if ages.minutes_days < max(hot, 1):
        return f"ages.minutes_days ({ages.minutes_days:g}) must not be below 1: hours are counted so far back again"
    if ages.hours_days < max(hot, 4):
        return f"ages.hours_days ({ages.hours_days:g}) must not be below 4: days are counted so far back again"
    if archive is None or not archive.url or archive.drop_days is None or archive.drop_days > max(hot, 4):
        return None
    return (
        f"archive.drop_days ({archive.drop_days:g}) must exceed 4 and ages.hot_days ({hot:g}) in this edition:"
        " continuous aggregates count so many days again"
    )


def _create_extension(conn: psycopg.Connection[Any], facts: Mapping[str, Any]) -> str | None:
    """Why TimescaleDB could not be had; None when it was."""
    from psycopg.errors import InsufficientPrivilege

    if facts["available"] is None:
        return "TimescaleDB is not installed on this server"
    if not facts["preloaded"]:
        # Trying all the same would make the server hang up.
        return "TimescaleDB is installed but not loaded: set shared_preload_libraries = 'timescaledb' and restart"
    try:
        conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public")
    except InsufficientPrivilege:
        return "TimescaleDB may not be created by this user: CREATE EXTENSION timescaledb as a superuser, then migrate"
    return None


def _check_versions(edition: Edition) -> None:
    if int(edition.postgres.split(".")[0].split()[0].rstrip("abcdefghijklmnopqrstuvwxyz")) < POSTGRES_MIN:
        raise errors.MigrationFailed(f"PostgreSQL {edition.postgres} is too old: coord needs {POSTGRES_MIN}")
    needed = TIMESCALEDB_MIN.get(edition.name)
    if needed is None or edition.timescaledb is None:
        return
    major, minor = edition.timescaledb.split("-")[0].split(".")[:2]
    if (int(major), int(minor)) < needed:
        raise errors.MigrationFailed(
            f"TimescaleDB {edition.timescaledb} is too old: edition {edition.name} needs {needed[0]}.{needed[1]}"
        )


def _facts(conn: psycopg.Connection[Any]) -> dict[str, Any]:
    from psycopg.rows import dict_row

    with translated("detect edition"), conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(statement("edition").encode()).fetchone()
    assert row is not None, "one row, always"
    return row


def _edition(facts: Mapping[str, Any]) -> Edition:
    extension: str | None = facts["timescaledb"]
    name: EditionName = "plain"
    if extension is not None:
        name = "apache" if facts["license"] == "apache" else "community"
    return Edition(
        name=name,
        postgres=str(facts["postgres"]).split(" ")[0],
        timescaledb=extension,
        direct_compress=name == "community" and facts["direct_compress"],
        commit_timestamps=facts["commit_timestamps"],
    )
