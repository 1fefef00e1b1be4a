"""Bring a database to the schema this release expects, or say why not.

One run, under an advisory lock of the database, so that any number may be started at once::

    lock ─▶ edition ─▶ ledger ─▶ pending migrations, one transaction each ─▶ editions, rollups, policies,
                                                                             views, roles: one transaction

Migrations are numbered files, applied once and never edited: the ledger (coord.migration)
keeps each one's SHA-256 and a run refuses to go on when a file is not what was applied, is
missing, or is unknown to this release.  Everything in the second half is written to be
applied again and again; it is where a database follows its edition and its settings.

`pre` migrations are for before the new code starts, `post` ones for after the old code is
gone.  Phase "pre" applies everything up to the last pending `pre`, phase "all" everything.

Synchronous, because it runs before anything else does; from a coroutine, use
`asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
import psycopg
from psycopg import sql as composing

from coord import errors, limits
from coord.core import upkeep
from coord.runtime.assets import sql_dir
from coord.store import editions, rollup_files, rollup_sql, scripts
from coord.store.alone import NUMBERS
from coord.store.config import AgesConfig, ArchiveConfig, DatabaseConfig
from coord.store.editions import Edition
from coord.store.queries import statement
from coord.store.scripts import Migration
from coord.store.sqlstate import classify, driver_errors

Upto = Literal["pre", "all"]
_Conn: TypeAlias = psycopg.Connection[Any]

_LOCK: Final = NUMBERS["migration"]
_LOCK_POLL_S: Final = 0.1

_REFRESH: Final = "CALL refresh_continuous_aggregate(%s, NULL, time_bucket(%s::interval, now()))"

_BLOCK_LINE: Final = re.compile(r"inline_code_block line (\d+)")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did."""

    edition: Edition
    applied: tuple[str, ...]
    """Files applied now, in order."""
    pending: tuple[str, ...]
    """Files left for a later phase."""
    notes: tuple[str, ...]
    """What a person should know: warnings of the server, why it is not another edition."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger."""

    number: int
    name: str
    phase: str
    sha256: str
    applied_at: Any
    applied_by: str
    duration_ms: int

    @property
    def file(self) -> str:
        """The name its file had."""
        return f"{self.number:04d}_{self.phase}_{self.name}.sql"


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How a database stands to this release."""

    edition: Edition
    applied: tuple[Applied, ...]
    pending: tuple[str, ...]
    problems: tuple[str, ...]
    """Files that differ from what was applied, each in a sentence naming it."""

    @property
    def is_current(self) -> bool:
        """Whether this release can work with it."""
        return not self.pending and not self.problems


def migrate(
    config: DatabaseConfig,
    ages: AgesConfig | None = None,
    archive: ArchiveConfig | None = None,
    *,
    upto: Upto = "all",
    late: Literal["refuse", "defer"] = "refuse",
    folder: Path | None = None,
    wait_s: float = limits.MIGRATION_WAIT_S,
) -> Report:
    """Apply what is pending; return what was done.  Repeating it is safe and changes nothing.

    `archive`: None leaves what the database knows about its archive.  `folder` replaces sql/
    (tests).  `wait_s` bounds the wait for another run on this database.

    `late`: what becomes of a retention that is shorter than the projector is behind.  It is refused, or left out
    with a note, for a process that is about to project what is late.

    Raises `RetentionRefused` then, and `SettingsError` when ages do not fit the edition.  Raises
    `MigrationFailed` naming the file; what came before it stays applied, and nothing of a failed
    file does, unless it is marked no-transaction.  Raises `DatabaseUnavailable` or
    `DatabaseNotReady` when there is nobody to talk to.
    """
    config.validate()
    ages = ages if ages is not None else AgesConfig()
    ages.validate()
    if archive is not None:
        archive.validate()
    folder = folder if folder is not None else sql_dir()
    migrations = scripts.load_migrations(folder / "migrations")
    with connect(config) as conn, _locked(conn, wait_s):
        warnings = _listen(conn)
        edition, notes = editions.prepare(conn, config.edition)
        short = editions.too_short(edition, ages, archive)
        if short is not None:
            raise errors.SettingsError(short)
        _run_script(conn, folder / "ledger.sql")
        applied = _ledger(conn)
        problems = compare(migrations, applied)
        if problems:
            raise errors.MigrationFailed(problems[0], problems=len(problems))
        todo, later = split(migrations[len(applied) :], upto)
        for migration in todo:
            _apply(conn, migration)
        if applied and upto == "pre":
            notes += _early(todo)
        refused = upkeep.refused(_waiting_s(conn), ages.retain_days)
        if refused is not None and late == "refuse":
            raise errors.RetentionRefused(refused)
        if refused is not None:
            notes.append(f"no retention for now: {refused}")
            ages = msgspec.structs.replace(ages, retain_days=None)
        _apply_repeatable(conn, folder, edition, ages, archive)
        if edition.name == "community":
            _fill(conn, folder)
        return Report(
            edition=edition,
            applied=tuple(m.file for m in todo),
            pending=tuple(m.file for m in later),
            notes=(*notes, *warnings),
        )


def status(config: DatabaseConfig, *, folder: Path | None = None) -> Status:
    """How the database stands to this release; changes nothing."""
    config.validate()
    migrations = scripts.load_migrations((folder if folder is not None else sql_dir()) / "migrations")
    with connect(config) as conn:
        edition = editions.detect(conn)
        row = conn.execute("SELECT to_regclass('coord.migration') IS NOT NULL").fetchone()
        applied = _ledger(conn) if row is not None and row[0] else []
        return Status(
            edition=edition,
            applied=tuple(applied),
            pending=tuple(m.file for m in migrations[len(applied) :]),
            problems=tuple(compare(migrations, applied)),
        )


def compare(migrations: list[Migration], applied: list[Applied]) -> list[str]:
    """Where the ledger and the files contradict each other, each in a sentence naming the file."""
    problems: list[str] = []
    for position, row in enumerate(applied):
        if row.number != position + 1:
            problems.append(f"the ledger lacks number {position + 1:04d} before {row.file}")
            break
        if position >= len(migrations):
            problems.append(f"{row.file} was applied by a newer release of coord: upgrade this one")
        elif migrations[position].file != row.file:
            problems.append(f"{migrations[position].file} was applied under the name {row.file}")
        elif migrations[position].sha256 != row.sha256:
            problems.append(
                f"{row.file} was edited after it was applied on {row.applied_at:%Y-%m-%d}: restore it, write a new one"
            )
    return problems


def split(pending: list[Migration], upto: Upto) -> tuple[list[Migration], list[Migration]]:
    """What to apply now, and what later."""
    if upto == "all":
        return pending, []
    last = max((i for i, m in enumerate(pending) if m.phase == "pre"), default=-1) + 1
    return pending[:last], pending[last:]


def _early(todo: list[Migration]) -> list[str]:
    """What a person should know of `post` migrations that had to be applied before a later `pre` one."""
    posts = [m.file for m in todo if m.phase == "post"]
    return [f"{', '.join(posts)}: applied while older processes may run; stop them now"] if posts else []


# --- applying ----------------------------------------------------------------------------


def _apply(conn: _Conn, migration: Migration) -> None:
    started = time.monotonic()
    try:
        if migration.transaction:
            with conn.transaction():
                conn.execute(migration.sql.encode())
                _record(conn, migration, started)
        else:
            for number, statement in enumerate(scripts.statements(migration.sql), 1):
                _one(conn, migration, number, statement)
            _record(conn, migration, started)
    except driver_errors() as exc:
        raise _failed(migration.file, exc) from exc


def _one(conn: _Conn, migration: Migration, number: int, statement: str) -> None:
    try:
        conn.execute(statement.encode())
    except psycopg.Error as exc:
        raise _failed(f"{migration.file}, statement {number}", exc) from exc


def _record(conn: _Conn, migration: Migration, started: float) -> None:
    conn.execute(
        "INSERT INTO coord.migration (number, name, phase, sha256, duration_ms) VALUES (%s, %s, %s, %s, %s)",
        (
            migration.number,
            migration.name,
            migration.phase,
            migration.sha256,
            int((time.monotonic() - started) * 1000),
        ),
    )


def _apply_repeatable(
    conn: _Conn, folder: Path, edition: Edition, ages: AgesConfig, archive: ArchiveConfig | None
) -> None:
    with conn.transaction():
        if archive is not None:
            conn.execute("SELECT set_config('coord.archive', %s, true)", (archive.safe_url,))
        for name, days in (
            ("coord.hot", ages.hot_days),
            ("coord.retain", ages.retain_days),
            ("coord.minutes", ages.minutes_days),
            ("coord.hours", ages.hours_days),
        ):
            value = "" if days is None else f"{days * 24:g} hours"
            conn.execute("SELECT set_config(%s, %s, true)", (name, value))
        for name, text in repeatable(folder, edition):
            _run_by_statement(conn, name, text) if name.startswith("policies/") else _run(conn, name, text)


def repeatable(folder: Path, edition: Edition) -> list[tuple[str, str]]:
    """What is applied on every run, in order: the file it is, or comes from, and its SQL.

    Raises `MigrationFailed` naming file and line of a rollup that is not as it should be.
    """
    community = edition.name == "community"
    made: list[tuple[str, str]] = []
    for rollup in rollup_files.load(folder / "rollups"):
        kept = rollup_sql.continuous_aggregates(rollup) if community else rollup_sql.tables(rollup)
        made.append((f"rollups/{rollup.name}.sql", f"{kept}\n{rollup_sql.views(rollup, community=community)}"))
    named = editions.SCRIPTS[edition.name]
    return [
        *_files(folder, *(name for name in named if not name.startswith("policies/"))),
        *_files(folder, "functions/*.sql"),
        *made,
        *_files(folder, *(name for name in named if name.startswith("policies/")), "views/*.sql", "roles/*.sql"),
    ]


def _waiting_s(conn: _Conn) -> float:
    """Age of the oldest message that waits to be projected, as far as this database knows."""
    there = conn.execute("SELECT to_regclass('coord.checkpoint') IS NOT NULL").fetchone()
    if there != (True,):
        return 0.0
    row = conn.execute(statement("projection_behind").encode()).fetchone()
    assert row is not None, "one row, always"
    return float(row[0])


def _fill(conn: _Conn, folder: Path) -> None:
    """community: have continuous aggregates that are new count what there is, once.

    Their policy only looks back as far as rows may still change, and a refresh runs in no transaction.  The mark in
    coord.rollup says that it was done: whoever is killed in between does it again.
    """
    rollups = rollup_files.load(folder / "rollups")
    # The aggregate's own policy may be at it, for as long as its first run takes.  Nothing comes after this.
    conn.execute("SET lock_timeout = 0")
    done = {row[0] for row in conn.execute("SELECT name FROM coord.rollup").fetchall()} if rollups else set()
    for rollup in rollups:
        for level, width in rollup_files.WIDTHS.items():
            name = rollup.table(level)
            if name in done:
                continue
            try:
                if conn.execute("SELECT coord.oldest(%s) IS NOT NULL", (rollup.source,)).fetchone() == (True,):
                    conn.execute(_REFRESH, (rollup_sql.qualified(name), width))
                conn.execute(statement("rollup_filled").encode(), (name,))
            except psycopg.Error as exc:
                raise _failed(f"rollups/{rollup.name}.sql, the first refresh of {name}", exc) from exc


def _files(folder: Path, *patterns: str) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            yield f"{path.parent.name}/{path.name}", scripts.script(path)


def _run_script(conn: _Conn, path: Path) -> None:
    _run(conn, f"{path.parent.name}/{path.name}", scripts.script(path))


def _run(conn: _Conn, name: str, text: str) -> None:
    try:
        conn.execute(text.encode())
    except driver_errors() as exc:
        raise _failed(name, exc) from exc


def _run_by_statement(conn: _Conn, name: str, text: str) -> None:
    """For what operators edit: a mistake is told by its line.  The caller's transaction undoes the rest."""
    for line, one in scripts.numbered(text):
        try:
            conn.execute(one.encode())
        except psycopg.Error as exc:
            raise _failed(f"{name}, line {line + _line_within(one, exc)}", exc) from exc


def _line_within(statement: str, exc: psycopg.Error) -> int:
    """How many lines behind its first the mistake is: by the position the server names, or a block's line."""
    position = exc.diag.statement_position
    if position is not None:
        return statement[: int(position) - 1].count("\n")
    within = _BLOCK_LINE.search(exc.diag.context or "")
    if within is None or "$$" not in statement:
        return 0
    return statement[: statement.index("$$")].count("\n") + int(within[1]) - 1


def _failed(where: str, exc: BaseException) -> errors.StoreError:
    error = classify(exc)
    if isinstance(exc, psycopg.OperationalError) and getattr(exc, "sqlstate", None) is None:
        return errors.DatabaseUnavailable(f"{where}: the connection broke: {error.message}")
    details = {"sqlstate": error.details["sqlstate"]} if "sqlstate" in error.details else {}
    hint = getattr(getattr(exc, "diag", None), "message_hint", None)
    if hint:
        details["hint"] = hint
    return errors.MigrationFailed(f"{where}: {error.message}", **details)


# --- the connection ----------------------------------------------------------------------


@contextlib.contextmanager
def connect(config: DatabaseConfig) -> Iterator[_Conn]:
    """A connection of an owner: autocommit, bounded waits for locks, statements without a bound.

    Raises `DatabaseUnavailable` or `DatabaseNotReady` when there is nobody to talk to.
    """
    try:
        conn = psycopg.connect(
            config.url,
            autocommit=True,
            prepare_threshold=None,  # every statement runs once
            connect_timeout=max(2, round(config.connect_timeout_s)),  # libpq takes whole seconds, 2 at least
            application_name=f"{config.application_name}-migrate",
        )
    except psycopg.Error as exc:
        error = classify(exc)
        kind = type(error) if isinstance(error, errors.DatabaseNotReady) else errors.DatabaseUnavailable
        raise kind(f"cannot connect to the database: {error.message}", url=config.safe_url) from exc
    with conn:
        for name, value in (
            ("lock_timeout", f"{limits.MIGRATION_LOCK_TIMEOUT_S * 1000:.0f}"),
            ("statement_timeout", "0"),
            ("client_min_messages", "warning"),
            # Not the default "$user", public: for a user called coord that is schema coord.
            ("search_path", "public"),
            ("timezone", "GMT"),
        ):
            conn.execute(composing.SQL("SET {} = {}").format(composing.Identifier(name), composing.Literal(value)))
        yield conn


@contextlib.contextmanager
def _locked(conn: _Conn, wait_s: float) -> Iterator[None]:
    """Hold the advisory lock.

    Asked for again and again instead of waited for: a session that waits holds a snapshot, and
    CREATE INDEX CONCURRENTLY in the other one would wait for that in turn.
    """
    deadline = time.monotonic() + wait_s
    while True:
        row = conn.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
        if row is not None and row[0]:
            break
        if time.monotonic() >= deadline:
            raise errors.DatabaseUnavailable(f"another migration of this database has not ended within {wait_s:g} s")
        time.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.Error):  # a broken connection has released it
            conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def _listen(conn: _Conn) -> list[str]:
    """Collect the server's warnings."""
    warnings: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.message_primary:
            warnings.append(diagnostic.message_primary)

    conn.add_notice_handler(note)
    return warnings


def _ledger(conn: _Conn) -> list[Applied]:
    rows = conn.execute(
        "SELECT number, name, phase, sha256, applied_at, applied_by, duration_ms FROM coord.migration ORDER BY number"
    ).fetchall()
    return [
        Applied(number=n, name=name, phase=phase, sha256=sha, applied_at=at, applied_by=by, duration_ms=ms)
        for n, name, phase, sha, at, by, ms in rows
    ]
