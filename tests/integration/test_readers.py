"""Logins of analysts: what they read, what they do not, and that nothing lets them out of their fleet."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.server.reader_watch import ReaderWatch
from coord.store import copy, queries, roles
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.store import event, pool_of, sample
from tests.support.waiting import until


@pytest.fixture
async def config(either_database: Database) -> DatabaseConfig:
    """A database with facts of two fleets."""
    made = DatabaseConfig(url=either_database.url)
    async with pool_of(made.url) as pool, pool.transaction() as conn:
        await copy.events(conn, [event(i, tenant=("acme", "other")[i % 2], agent=f"a{i % 5}") for i in range(1, 101)])
        await copy.samples(conn, [sample(i, tenant=("acme", "other")[i % 2]) for i in range(1, 21)])
    return made


here = pytest.mark.parametrize("either_database", ["server"], indirect=True)
"""What is the same on plain."""


@pytest.fixture
def login(config: DatabaseConfig) -> Iterator[str]:
    """A name for a login of this test: roles belong to the whole cluster."""
    name = f"t_{secrets.token_hex(6)}"
    yield name
    if any(r.login == name for r in roles.readers(config)):
        roles.forbid(config, name)


def as_login(config: DatabaseConfig, login: str) -> psycopg.Connection[Any]:
    parts = urlsplit(config.url)
    assert parts.hostname
    return psycopg.connect(parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}").geturl(), autocommit=True)


def tenants(conn: psycopg.Connection[Any], view: str) -> dict[str, int]:
    return dict(conn.execute(f"SELECT tenant, count(*) FROM {view} GROUP BY tenant".encode()).fetchall())


def test_a_login_of_one_fleet_reads_that_one_only(config: DatabaseConfig, login: str) -> None:
    made = roles.allow(config, login, tenant="acme", timeout_s=7, connections=2)
    assert (made.tenant, made.can_login, made.connections) == ("acme", True, 2)
    with as_login(config, login) as conn:
        assert tenants(conn, "v_event") == {"acme": 50}, "found by its search_path"
        assert tenants(conn, "coord_tenant.v_metric_sample") == {"acme": 10}
        assert conn.execute("SHOW statement_timeout").fetchone() == ("7s",)
        # A function of its own is not shown rows of others, however cheap it claims to be.
        conn.execute("SET default_transaction_read_only = off")
        conn.execute(
            "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS"
            " $$ BEGIN IF $1 = 'other' THEN RAISE EXCEPTION 'leaked'; END IF; RETURN true; END $$"
        )
        assert conn.execute("SELECT count(*) FROM v_event WHERE pg_temp.leak(tenant)").fetchone() == (50,)
        for refused in (
            "SELECT * FROM coord.v_event",
            "SELECT * FROM coord.event",
            "SELECT * FROM coord.reader",
            "UPDATE coord_tenant.v_event SET tenant = 'other'",
            "DELETE FROM coord_tenant.v_signal",
            "UPDATE coord.reader SET tenant = 'other'",
            "SELECT * FROM coord.maintain('1 day')",
            "SET ROLE coord_reader",
            "CREATE TABLE coord_tenant.mine ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(refused)
    roles.allow(config, login, tenant="other")
    with as_login(config, login) as conn:
        assert tenants(conn, "v_event") == {"other": 50}


@here
def test_a_member_of_the_group_without_a_fleet_reads_nothing(config: DatabaseConfig, login: str) -> None:
    roles.allow(config, login, tenant="acme")
    with psycopg.connect(config.url, autocommit=True) as owner:
        owner.execute("DELETE FROM coord.reader")
    with as_login(config, login) as conn:
        assert tenants(conn, "v_event") == {}
    roles.allow(config, login, tenant="acme")


@here
def test_a_login_of_all_fleets(config: DatabaseConfig, login: str) -> None:
    assert roles.allow(config, login).tenant is None
    with as_login(config, login) as conn:
        assert tenants(conn, "v_event") == {"acme": 50, "other": 50}
        for refused in ("SELECT * FROM coord.event", "SELECT * FROM coord_tenant.v_event", "DELETE FROM coord.v_event"):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)):
                conn.execute(refused)
    roles.allow(config, login, tenant="acme")
    with as_login(config, login) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("SELECT * FROM coord.v_event")


def test_every_view_of_fleets_is_there_for_one_fleet_too(config: DatabaseConfig) -> None:
    with psycopg.connect(config.url) as conn:
        shown = "SELECT table_name, column_name, data_type FROM information_schema.columns AS c WHERE table_schema = %s"
        of_fleets = " AND table_name IN (SELECT table_name FROM information_schema.columns WHERE table_schema = 'coord'"
        of_fleets += " AND column_name = 'tenant') AND starts_with(table_name, 'v_') ORDER BY 1, ordinal_position"
        all_of_them = conn.execute((shown + of_fleets).encode(), ("coord",)).fetchall()
        assert len({r[0] for r in all_of_them}) > 10
        assert conn.execute((shown + of_fleets).encode(), ("coord_tenant",)).fetchall() == all_of_them
        described = (
            "SELECT count(*) FROM pg_description AS d JOIN pg_class AS c ON c.oid = d.objoid WHERE c.relnamespace"
        )
        (comments,) = conn.execute(f"{described} = 'coord_tenant'::regnamespace".encode()).fetchone() or (0,)
        assert comments == len(all_of_them) + len({r[0] for r in all_of_them}), "with the same comments"


@here
def test_who_has_other_rights_is_refused_and_stays_as_it_was(config: DatabaseConfig, login: str) -> None:
    owner = urlsplit(config.url).username
    assert owner
    with pytest.raises(errors.RoleRefused, match="superuser"):
        roles.allow(config, owner, tenant="acme")
    for name in ("coord_reader", "pg_monitor", "Ada", "a;b", ""):
        with pytest.raises(errors.RoleRefused, match="no name"):
            roles.allow(config, name, tenant="acme")
    with pytest.raises(errors.InvalidToken):
        roles.allow(config, login, tenant="no such")
    with psycopg.connect(config.url, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {login}".encode())
        conn.execute(f"GRANT SELECT (data) ON coord.event TO {login}".encode())
    with pytest.raises(errors.RoleRefused, match="beyond") as refused:
        roles.allow(config, login, tenant="acme")
    assert "coord.event" in str(refused.value)
    assert not any(r.login == login for r in roles.readers(config)), "all of it was taken back"
    with pytest.raises(errors.RoleRefused, match="no analyst"):
        roles.forbid(config, login)
    with psycopg.connect(config.url, autocommit=True) as conn:
        conn.execute(f"DROP OWNED BY {login}".encode())
        # What it may become counts too, though as it is it inherits nothing of that.
        conn.execute(f"ALTER ROLE {login} NOINHERIT; GRANT pg_read_all_data TO {login}".encode())
        with pytest.raises(errors.RoleRefused, match="SET ROLE pg_read_all_data"):
            roles.allow(config, login, tenant="acme")
        conn.execute(f"DROP ROLE {login}".encode())


@here
def test_a_login_is_of_one_database(config: DatabaseConfig, login: str, plain_database: Database) -> None:
    roles.allow(config, login, tenant="acme")
    other = DatabaseConfig(url=plain_database.url)
    with pytest.raises(errors.RoleRefused, match="another database"):
        roles.allow(other, login)
    with as_login(config, login) as conn:
        assert tenants(conn, "v_event") == {"acme": 50}
    assert "statement_timeout=1" in roles.allow(config, login, timeout_s=0.0004).settings, "0 would be: never"


async def test_the_command_and_every_question_as_a_login_of_one_fleet(config: DatabaseConfig, login: str) -> None:
    at = ("--database", config.url, "-o", "json")
    made = await cli("db", "role", "set", login, "--tenant", "acme", *at)
    assert (made.code, made.json["reads"]) == (0, "acme"), made.err
    assert login in {r["login"] for r in (await cli("db", "role", "ls", *at)).json}
    parts = urlsplit(config.url)
    url = parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}").geturl()
    operators = {"latency_committed", "projection_lag"}  # of the table itself, and of the projector
    async with pool_of(url, statement_timeout_s=30.0) as pool, pool.acquire() as conn:
        for name in queries.all_queries():
            if name not in operators and "storage" not in queries.get(name).sql:
                await queries.run(conn, name, **({"seq": 1} if name == "dead_letter" else {}))
        counted = await queries.run(conn, "facts_by_event")
        assert sum(r["facts"] for r in counted) == 50
    gone = await cli("db", "role", "rm", login, *at)
    assert gone.code == 0, gone.err
    assert (await cli("db", "role", "rm", login, *at)).code == 1


@here
def test_a_password_is_a_verifier_by_the_time_it_leaves(config: DatabaseConfig, login: str) -> None:
    roles.allow(config, login, tenant="acme", password="it's secret")
    with psycopg.connect(config.url) as conn:
        row = conn.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (login,)).fetchone()
    assert row is not None
    assert row[0].startswith("SCRAM-SHA-256$")


@here
async def test_a_login_that_lifts_its_bound_is_ended_all_the_same(
    config: DatabaseConfig, login: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it catches that, and sets a bound for itself that lasts."""
    monkeypatch.setattr(limits, "READER_GRACE_S", 0.05)
    roles.allow(config, login, tenant="acme", timeout_s=0.1)
    watch = ReaderWatch(config, registry=Metrics(CollectorRegistry()))
    await watch.setup()
    with as_login(config, login) as conn:
        conn.execute("SET default_transaction_read_only = off")
        conn.execute(f"ALTER ROLE {login} SET statement_timeout = 0".encode())
        assert await watch.look() == "", "it is idle"
    # Where this machine is slow the first look may find it so late that its session is ended at once.
    for asked, ended in (
        ("SELECT pg_sleep(600)", (psycopg.errors.QueryCanceled, psycopg.errors.AdminShutdown)),
        (_STUBBORN, (psycopg.errors.AdminShutdown,)),
    ):
        with contextlib.closing(as_login(config, login)) as conn:
            conn.execute("SET statement_timeout = 0")
            asking = asyncio.create_task(asyncio.to_thread(conn.execute, asked.encode()))

            async def is_ended(asking: asyncio.Task[Any] = asking) -> bool:
                await watch.look()
                return asking.done()

            await until(is_ended)
            with pytest.raises(ended):
                await asking
    await watch.teardown()
    assert (watch.metrics.registry.get_sample_value("coord_db_readers_ended_total") or 0) >= 2


_STUBBORN = """
    DO $$ BEGIN
      FOR i IN 1..600 LOOP
        BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END;
      END LOOP;
    END $$
"""
