"""From a driver's error to coord's: three questions, answered by SQLSTATE.

* Is it the *row*?  → `DatabaseRefused`: the same row will be refused again, others will not.
  The projector looks for it by halving the batch.
* Is it the *moment*?  → `DatabaseUnavailable`: the same statement may succeed later.
* Does the database *lack* something an operator gives (a table, a right, a login)?
  → `DatabaseNotReady`.

What is left is a defect of coord: `StoreError`.  Codes are those of PostgreSQL's appendix A;
the longest prefix in the table wins.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import sys
from collections.abc import Iterator
from typing import Any, Final

import asyncpg

from coord import errors

CLASSES: Final[dict[str, type[errors.StoreError]]] = {
    "": errors.StoreError,
    "08": errors.DatabaseUnavailable,  # connection exception
    "0A": errors.DatabaseNotReady,  # feature not supported: the licence, or the server's version
    "22": errors.DatabaseRefused,  # data exception: no such character, date, number, JSON
    "23": errors.DatabaseRefused,  # integrity constraint violation
    "25006": errors.DatabaseUnavailable,  # read-only transaction: this server is a standby now
    "25P03": errors.DatabaseUnavailable,  # idle in transaction too long
    "25P04": errors.DatabaseUnavailable,  # transaction took too long
    "28": errors.DatabaseLoginRefused,
    "3D": errors.DatabaseLoginRefused,  # the database does not exist
    "3F": errors.DatabaseNotReady,  # the schema does not exist
    "40": errors.DatabaseUnavailable,  # deadlock, serialization failure
    "42501": errors.DatabaseNotReady,  # insufficient privilege
    "42703": errors.DatabaseNotReady,  # undefined column: not migrated
    "42704": errors.DatabaseNotReady,  # undefined object
    "42883": errors.DatabaseNotReady,  # undefined function
    "42P01": errors.DatabaseNotReady,  # undefined table
    "53": errors.DatabaseUnavailable,  # disk full, out of memory, too many connections
    "54": errors.DatabaseRefused,  # program limit: JSON too deep or too long, an index row too large
    "55": errors.DatabaseUnavailable,  # object not in prerequisite state: locked, in use
    "57": errors.DatabaseUnavailable,  # operator intervention: shutdown, statement timeout
    "58": errors.DatabaseUnavailable,  # system error: input/output
    "F0": errors.DatabaseNotReady,  # configuration file error
    "P0": errors.DatabaseRefused,  # RAISE EXCEPTION: a trigger, which coord has none of, does not want this row
    "XX": errors.DatabaseUnavailable,  # internal error, corruption: not the row's fault
}
"""SQLSTATE or a prefix of it → what it is to coord."""

_LOGIN: Final = re.compile(
    r"FATAL: .*(authentication failed|no pg_hba\.conf entry|(role|database) \".*\" does not exist)"
    "|no password supplied"
)
"""What libpq says, without a code, of a server that does not let somebody in; in other languages it is the moment's."""

_CERTIFICATE: Final = re.compile(
    "certificate verify failed|alert (bad |unsupported |unknown )?(certificate|ca)|CERTIFICATE_REQUIRED"
    "|certificate (file|for|is not|was not)|private key file|hostname mismatch",
    re.IGNORECASE,
)
"""What OpenSSL and libpq say of a certificate, ours or theirs, that is not as it should be."""

_ALWAYS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,  # DataError is one
    asyncpg.InternalClientError,
    OSError,  # TimeoutError and ssl.SSLError are
    EOFError,
    UnicodeEncodeError,
    OverflowError,
)


def driver_errors(*others: type[BaseException]) -> tuple[type[BaseException], ...]:
    """What a database operation may raise: everything `classify` knows, and `others`.

    Errors of psycopg where it is imported, which only maintenance does (a tenth of a second): nobody else can meet one.
    """
    error = getattr(_psycopg(), "Error", None)
    return (*_ALWAYS, *others) if error is None else (*_ALWAYS, *others, error)


def classify(exc: BaseException, op: str = "") -> errors.CoordError:
    """The coord error for what a database operation raised; a `CoordError` stays what it is.

    `op` names the operation in the error's details.  An exception that is no database error is
    a `StoreError`: a defect, not to be retried.
    """
    if isinstance(exc, errors.CoordError):
        return exc
    details = {"op": op} if op else {}
    sqlstate = getattr(exc, "sqlstate", None)
    if isinstance(sqlstate, str):
        return _kind(sqlstate)(_text(exc), sqlstate=sqlstate, **details)
    # Errors of the client have no SQLSTATE.  DataError: a value that does not fit its type.
    if isinstance(exc, asyncpg.DataError | UnicodeEncodeError | OverflowError):
        return errors.DatabaseRefused(_text(exc), **details)
    of_libpq = isinstance(exc, getattr(_psycopg(), "OperationalError", ()))
    if isinstance(exc, TimeoutError):
        return errors.DatabaseUnavailable("no answer in time", **details)
    if (isinstance(exc, ssl.SSLError) or of_libpq) and _CERTIFICATE.search(str(exc)):
        return errors.DatabaseNotTrusted(_text(exc), **details)
    if of_libpq and _LOGIN.search(str(exc)):
        return errors.DatabaseLoginRefused(_text(exc), **details)
    if of_libpq or isinstance(exc, OSError | EOFError):
        return errors.DatabaseUnavailable(_text(exc), **details)
    if isinstance(exc, asyncpg.InternalClientError):
        # What asyncpg says when the server's farewell reached it between two statements.
        return errors.DatabaseUnavailable(f"the connection is of no use any more: {_text(exc)}", **details)
    if isinstance(exc, asyncpg.InterfaceError) and "closed" in str(exc):
        return errors.DatabaseUnavailable(_text(exc), **details)
    return errors.StoreError(f"{type(exc).__name__}: {_text(exc)}", **details)


@contextlib.contextmanager
def translated(op: str) -> Iterator[None]:
    """Around an operation: what the driver raises leaves the block as coord's error."""
    try:
        yield
    except driver_errors() as exc:
        raise classify(exc, op) from exc


def _psycopg() -> Any:
    return sys.modules.get("psycopg")


def _kind(sqlstate: str) -> type[errors.StoreError]:
    for length in (5, 2, 0):
        kind = CLASSES.get(sqlstate[:length])
        if kind is not None:
            return kind
    raise AssertionError("the empty prefix is in the table")


def _text(exc: BaseException) -> str:
    return str(exc).strip() or type(exc).__name__
