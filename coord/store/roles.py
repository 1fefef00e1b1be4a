"""Logins of analysts: who may read, which fleet, and within which bounds.

A login reads either every fleet, through the views of schema coord (role coord_reader), or one,
through those of schema coord_tenant (role coord_tenant_reader and its row in coord.reader;
sql/roles/).  It can write nothing, because it has no right to; its statements end after a while,
it has few connections, and its transactions are read-only unless it says otherwise.

Each change is one transaction, whose last statement asks the database what the login can reach:
where that is more than it should, because the login is a member of something or was granted
tables by hand, everything is taken back.

Roles and who is in them are the server's, not a database's: a login is made for one database.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec
import psycopg
from psycopg import sql as composing

from coord import errors, limits
from coord.store.config import DatabaseConfig
from coord.store.migrations import connect
from coord.store.queries import statement
from coord.store.sqlstate import translated
from coord.wire import subjects

_Conn: TypeAlias = psycopg.Connection[Any]

_LOGIN: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_RESERVED: Final = frozenset({"coord_reader", "coord_tenant_reader", "public", "none", "current_user", "session_user"})


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """A login that reads."""

    login: str
    tenant: str | None
    """The fleet it reads; None: all."""
    can_login: bool
    connections: int
    """At a time; -1: unbounded."""
    settings: tuple[str, ...]
    """What was set for it in this database, `name=value`."""


def allow(
    config: DatabaseConfig,
    login: str,
    *,
    tenant: str | None = None,
    password: str | None = None,
    timeout_s: float = limits.READER_STATEMENT_TIMEOUT_S,
    connections: int = limits.READER_CONNECTIONS,
) -> Reader:
    """Make `login` one that reads `tenant`, or everything; it is created where there is none.

    `password`: None leaves what it has, which is none at first.  It leaves this process as a SCRAM
    verifier.  Repeating it with other values changes them.

    Raises `RoleRefused` when the name is no name for a login, when the login has rights beyond
    reading or is one of another database of this server, or when this user may not make it;
    `InvalidToken` when the tenant is none.
    """
    _check(login, tenant, timeout_s, connections)
    name = composing.Identifier(login)
    with connect(config) as conn, translated("db role"), _all_or_nothing(conn, login):
        _check_groups(conn)
        found = conn.execute(statement("reader_rights").encode(), {"login": login}).fetchone()
        if found is None:
            conn.execute(composing.SQL("CREATE ROLE {}").format(name))
        elif found[0]:
            raise errors.RoleRefused(f"{login} {found[0]}: it would read everything, or write")
        if elsewhere := conn.execute(statement("reader_elsewhere").encode(), {"login": login}).fetchall():
            raise errors.RoleRefused(
                f"{login} is a login of another database: what it may read there would change with what it may here",
                databases=", ".join(row[0] for row in elsewhere[:5]),
            )
        bound = composing.SQL("ALTER ROLE {} LOGIN CONNECTION LIMIT {}")
        conn.execute(bound.format(name, composing.Literal(connections)))
        if password is not None:
            verifier = conn.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256")
            conn.execute(composing.SQL("ALTER ROLE {} PASSWORD {}").format(name, composing.Literal(verifier.decode())))
        _settings(conn, name, tenant, timeout_s)
        _membership(conn, name, login, tenant, timeout_s)
        beyond = conn.execute(
            statement("reader_reach").encode(), {"login": login, "fleet": tenant is not None}
        ).fetchall()
        if beyond:
            raise errors.RoleRefused(
                f"{login} has rights beyond reading what it should", on=", ".join(r[0] for r in beyond[:5])
            )
    return next(r for r in readers(config) if r.login == login)


def forbid(config: DatabaseConfig, login: str) -> None:
    """Remove a login that `allow` made, with everything it was allowed here.

    Raises `RoleRefused` when there is none, or when it owns something somewhere.
    """
    _check(login, None, 1, 1)
    with connect(config) as conn, translated("db role"), _all_or_nothing(conn, login):
        if conn.execute(statement("reader_rights").encode(), {"login": login}).fetchone() is None:
            raise errors.RoleRefused(f"there is no role {login}")
        if not any(r.login == login for r in _readers(conn)):
            raise errors.RoleRefused(f"{login} is no analyst's login: it is not removed")
        name = composing.Identifier(login)
        conn.execute(statement("reader_unset").encode(), {"login": login})
        conn.execute(composing.SQL("REVOKE coord_reader, coord_tenant_reader FROM {}").format(name))
        conn.execute(composing.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(_database(conn), name))
        conn.execute(composing.SQL("DROP ROLE {}").format(name))


def readers(config: DatabaseConfig) -> list[Reader]:
    """The logins that read here, by name."""
    with connect(config) as conn, translated("db role"):
        return _readers(conn)


def _readers(conn: _Conn) -> list[Reader]:
    rows = conn.execute(statement("readers").encode()).fetchall()
    return [
        Reader(login=login, tenant=tenant, can_login=can_login, connections=connections, settings=tuple(settings or ()))
        for login, tenant, can_login, connections, settings in rows
    ]


def _check(login: str, tenant: str | None, timeout_s: float, connections: int) -> None:
    if not _LOGIN.fullmatch(login) or login in _RESERVED or login.startswith("pg_"):
        raise errors.RoleRefused(f"{login!r} is no name for a login: a-z first, then also 0-9, '_' and '-', 63 at most")
    if tenant is not None:
        subjects.check_token(tenant, "tenant")
    if timeout_s <= 0 or connections < 1:
        raise errors.RoleRefused("the timeout is positive, and connections are at least 1")


def _check_groups(conn: _Conn) -> None:
    if conn.execute(statement("reader_can_be_made").encode()).fetchone() != (True,):
        raise errors.RoleRefused(
            "the readers' roles or tables are missing: run `coord db migrate` as who may make roles"
        )


def _settings(conn: _Conn, name: composing.Identifier, tenant: str | None, timeout_s: float) -> None:
    path = "coord, public" if tenant is None else "coord_tenant, coord, public"
    database = _database(conn)
    conn.execute(composing.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, name))
    head = composing.SQL("ALTER ROLE {} IN DATABASE {} SET ").format(name, database)
    for setting, value in (
        ("statement_timeout", str(max(1, round(timeout_s * 1000)))),  # 0 would be: never
        ("idle_in_transaction_session_timeout", f"{limits.READER_IDLE_S * 1000:.0f}"),
        ("default_transaction_read_only", "on"),
    ):
        conn.execute(head + composing.SQL("{} = {}").format(composing.SQL(setting), composing.Literal(value)))
    conn.execute(head + composing.SQL("search_path = " + path))


def _database(conn: _Conn) -> composing.Identifier:
    row = conn.execute("SELECT current_database()").fetchone()
    assert row is not None, "one row, always"
    return composing.Identifier(row[0])


def _membership(conn: _Conn, name: composing.Identifier, login: str, tenant: str | None, timeout_s: float) -> None:
    """Of one of the two groups, and in the table where it is of the second."""
    if tenant is None:
        conn.execute(statement("reader_unset").encode(), {"login": login})
        conn.execute(composing.SQL("REVOKE coord_tenant_reader FROM {}").format(name))
        conn.execute(composing.SQL("GRANT coord_reader TO {}").format(name))
        return
    conn.execute(statement("reader_set").encode(), {"login": login, "tenant": tenant, "statement_s": timeout_s})
    conn.execute(composing.SQL("REVOKE coord_reader FROM {}").format(name))
    conn.execute(composing.SQL("GRANT coord_tenant_reader TO {}").format(name))


@contextlib.contextmanager
def _all_or_nothing(conn: _Conn, login: str) -> Iterator[None]:
    """A transaction; what this user may not do, and what stands in the way, are `RoleRefused`."""
    try:
        with conn.transaction():
            yield
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.DependentObjectsStillExist) as exc:
        said = exc.diag.message_primary or str(exc)
        detail = f" ({exc.diag.message_detail})" if exc.diag.message_detail else ""
        raise errors.RoleRefused(f"{login}: {said}{detail}") from exc
