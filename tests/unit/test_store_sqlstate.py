"""Which of coord's errors a driver's error becomes."""

from __future__ import annotations

import asyncio
import ssl

import asyncpg
import psycopg
import pytest

from coord import errors
from coord.store.sqlstate import classify, translated


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("22021", errors.DatabaseRefused),  # not in the encoding: NUL
        ("22P02", errors.DatabaseRefused),  # invalid JSON
        ("22P05", errors.DatabaseRefused),  # \u0000 in JSON
        ("23502", errors.DatabaseRefused),
        ("23514", errors.DatabaseRefused),
        ("54001", errors.DatabaseRefused),  # JSON nested too deep
        ("54000", errors.DatabaseRefused),
        ("P0001", errors.DatabaseRefused),  # RAISE EXCEPTION in somebody's trigger
        ("08006", errors.DatabaseUnavailable),
        ("08P01", errors.DatabaseUnavailable),
        ("25006", errors.DatabaseUnavailable),
        ("25P03", errors.DatabaseUnavailable),
        ("40001", errors.DatabaseUnavailable),
        ("40P01", errors.DatabaseUnavailable),
        ("53100", errors.DatabaseUnavailable),
        ("53300", errors.DatabaseUnavailable),
        ("55P03", errors.DatabaseUnavailable),
        ("57014", errors.DatabaseUnavailable),
        ("57P01", errors.DatabaseUnavailable),
        ("57P03", errors.DatabaseUnavailable),
        ("58030", errors.DatabaseUnavailable),
        ("XX000", errors.DatabaseUnavailable),
        ("XX001", errors.DatabaseUnavailable),
        ("28P01", errors.DatabaseLoginRefused),
        ("3D000", errors.DatabaseLoginRefused),
        ("3F000", errors.DatabaseNotReady),
        ("42501", errors.DatabaseNotReady),
        ("42P01", errors.DatabaseNotReady),
        ("42703", errors.DatabaseNotReady),
        ("42883", errors.DatabaseNotReady),
        ("0A000", errors.DatabaseNotReady),
        ("25P02", errors.StoreError),
        ("42601", errors.StoreError),
        ("TS001", errors.StoreError),
    ],
)
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_by_sqlstate(sqlstate: str, kind: type[errors.StoreError], driver: str) -> None:
    exc: Exception = asyncpg.PostgresError("boom") if driver == "asyncpg" else psycopg.Error("boom")
    exc.sqlstate = sqlstate  # type: ignore[attr-defined]
    error = classify(exc, "copy")
    assert type(error) is kind
    assert error.details == {"sqlstate": sqlstate, "op": "copy"}
    assert "boom" in str(error)


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (asyncpg.DataError("value out of range"), errors.DatabaseRefused),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), errors.DatabaseRefused),
        (OverflowError("int too big"), errors.DatabaseRefused),
        (TimeoutError(), errors.DatabaseUnavailable),
        (ConnectionRefusedError(111, "refused"), errors.DatabaseUnavailable),
        (asyncio.IncompleteReadError(b"", 1), errors.DatabaseUnavailable),
        (asyncpg.ConnectionDoesNotExistError("connection was closed"), errors.DatabaseUnavailable),
        (asyncpg.InterfaceError("connection is closed"), errors.DatabaseUnavailable),
        (asyncpg.InternalClientError("cannot switch to state 15"), errors.DatabaseUnavailable),
        (psycopg.OperationalError("the connection is lost"), errors.DatabaseUnavailable),
        (psycopg.OperationalError('FATAL:  password authentication failed for user "u"'), errors.DatabaseLoginRefused),
        (psycopg.OperationalError('FATAL:  database "d" does not exist'), errors.DatabaseLoginRefused),
        (psycopg.OperationalError("fe_sendauth: no password supplied"), errors.DatabaseLoginRefused),
        (ssl.SSLCertVerificationError("hostname mismatch"), errors.DatabaseNotTrusted),
        (
            ssl.SSLError("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired"),
            errors.DatabaseNotTrusted,
        ),
        (ssl.SSLError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), errors.DatabaseUnavailable),
        (psycopg.OperationalError("SSL error: certificate verify failed"), errors.DatabaseNotTrusted),
        (psycopg.OperationalError("SSL error: tlsv1 alert unknown ca"), errors.DatabaseNotTrusted),
        (asyncpg.InterfaceError("another operation is in progress"), errors.StoreError),
        (KeyError("x"), errors.StoreError),
    ],
)
def test_without_sqlstate(exc: Exception, kind: type[errors.StoreError]) -> None:
    assert type(classify(exc)) is kind


def test_coords_own_errors_stay() -> None:
    error = errors.CheckpointMoved()
    assert classify(error) is error


def test_translated_chains_the_cause_and_leaves_others_alone() -> None:
    with pytest.raises(errors.DatabaseUnavailable) as caught, translated("read"):
        raise TimeoutError
    assert isinstance(caught.value.__cause__, TimeoutError)
    with pytest.raises(KeyError), translated("read"):
        raise KeyError


def test_only_what_may_pass_is_retryable() -> None:
    assert errors.DatabaseUnavailable.retryable
    assert errors.DatabaseNotReady.retryable  # after the operator has acted
    assert not errors.DatabaseRefused.retryable
    assert not errors.StoreError.retryable
