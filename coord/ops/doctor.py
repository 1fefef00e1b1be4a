"""`coord doctor`: everything that must be right, checked, each red line with its fix.

Without --preflight it asks what a development stack and a production one have in common: is
everything there, of the right version, applied, and flowing.  With --preflight also what only
production needs: durability against power loss, the licensed edition, least privilege,
encryption, room for the streams, limits of the process.

A check never raises: what could not be looked at is `skip` and says why.  Nothing is changed,
except that --probe states one fact and waits until it is a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import resource
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final

import msgspec

from coord import errors
from coord.bus import rpc, topology
from coord.bus.connection import Connection
from coord.client.connect import connect
from coord.ops import build, circuits, expiries, permissions, settings, spools, stats
from coord.ops.checks import Check, State, Subject, fail, ok, skip, there, warn
from coord.ops.judge import judge
from coord.ops.preflight import production
from coord.ops.settings import Loaded, Settings
from coord.store import editions, migrations, reading
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated
from coord.wire import log_api, subjects
from coord.wire.records import Fact

NATS_MIN: Final = (2, 14)
"""CONSUMER.RESET, which the projector needs."""

SKEW_WARN_S: Final = 0.5
SKEW_FAIL_S: Final = 5.0
"""Between this machine's, the broker's and the database's clocks: lags are differences of them."""

RTT_WARN_S: Final = 0.02
DISK_FREE_MIN: Final = 0.1
FILES_MIN: Final = 1_024
PROBE_S: Final = 15.0
_FETCH_S: Final = 3.0


async def examine(
    loaded: Loaded, *, preflight: bool = False, monitor: str | None = None, probe: bool = False
) -> list[Check]:
    """Every check, in the order of printing."""
    found = loaded.settings
    async with contextlib.AsyncExitStack() as exits:
        conn = await _reach_broker(exits, found)
        pool = await _reach_database(exits, found)
        it = Subject(settings=found, conn=conn, pool=pool, preflight=preflight, monitor=monitor)
        spool = await spools.check(found.publisher)
        checks = [*_settings(loaded), *_process(it), *([spool] if spool else [])]
        for area, examination in (
            ("broker", _broker),
            ("streams", _streams),
            ("database", _database),
            ("clocks", _clocks),
            (expiries.AREA, _expiry),
            ("flow", _flow),
            *([("production", production)] if preflight else []),
            *([("probe", _probe)] if probe else []),
        ):
            checks += await _guarded(area, examination, it)
        return checks


def verdict(checks: Iterable[Check]) -> State:
    """The worst of them: fail, warn or ok."""
    states = {check.state for check in checks}
    return "fail" if "fail" in states else "warn" if "warn" in states else "ok"


async def _guarded(area: str, examination: Callable[[Subject], Awaitable[list[Check]]], it: Subject) -> list[Check]:
    try:
        return await examination(it)
    except errors.CoordError as exc:
        if area not in {"broker", "database"} and exc in {it.conn, it.pool}:
            return [skip(area, area, "a server cannot be reached")]  # said by its own area
        return [fail(area, area, f"{exc.message} [{exc.code}]", exc.remedy)]


async def _reach_broker(exits: contextlib.AsyncExitStack, found: Settings) -> Connection | errors.CoordError:
    try:
        conn = await Connection.open(found.nats, name="coord-doctor")
    except errors.CoordError as exc:
        return exc
    exits.push_async_callback(conn.close)
    return conn


async def _reach_database(exits: contextlib.AsyncExitStack, found: Settings) -> Pool | errors.CoordError:
    pool = Pool(settings.side_pool(found.database, "doctor"))
    try:
        await pool.open(wait=True)
    except errors.CoordError as exc:
        return exc
    exits.push_async_callback(pool.close)
    return pool


# --- this process --------------------------------------------------------------------------


def _settings(loaded: Loaded) -> list[Check]:
    checks = [
        Check(
            area="settings",
            name="settings",
            state="ok",
            detail=f"valid; {loaded.file or 'no file'}, {len(loaded.origins)} value(s) set",
        )
    ]
    try:
        settings.topology(loaded.settings)
    except errors.CoordError as exc:
        checks.append(Check(area="settings", name="streams/", state="fail", detail=exc.message, fix=exc.remedy))
    return checks


def _process(it: Subject) -> list[Check]:
    versions = {name: _version(name) for name in ("nats-py", "asyncpg", "msgspec", "uvloop")}
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    checks = [
        Check(
            area="process",
            name="versions",
            state="ok",
            detail=f"coord {build.version()}, Python {platform.python_version()}, {shown}",
        )
    ]
    if versions["uvloop"] is None:
        checks.append(warn("process", "uvloop", "not installed: the event loop is half as fast", "pip install uvloop"))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < FILES_MIN:
        make = fail if it.preflight else warn
        checks.append(
            make(
                "process",
                "open files",
                f"at most {files}",
                f"Raise it: LimitNOFILE={FILES_MIN * 64} in the systemd unit, or `ulimit -n {FILES_MIN * 64}`.",
            )
        )
    else:
        checks.append(Check(area="process", name="open files", state="ok", detail=f"at most {files}"))
    usage = shutil.disk_usage(os.curdir)
    free = usage.free / usage.total
    detail = f"{free:.0%} of this folder's file system is free"
    if free < DISK_FREE_MIN:
        checks.append(warn("process", "disk", detail, "Free some space: logs and the dev stack's data lie here."))
    else:
        checks.append(Check(area="process", name="disk", state="ok", detail=detail))
    return checks


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- the broker ----------------------------------------------------------------------------


async def _broker(it: Subject) -> list[Check]:
    conn = there(it.conn)
    about = await stats.broker(conn)
    version = tuple(int(part) for part in about.version.split("-")[0].split(".")[:2])
    checks = [
        ok("broker", "reachable", f"{about.url}, round trip {about.rtt_s * 1e3:.2f} ms")
        if about.rtt_s < RTT_WARN_S
        else warn(
            "broker", "reachable", f"{about.url}, round trip {about.rtt_s * 1e3:.0f} ms",
            "Run coord in the broker's network: every claim waits for this.",
        ),
        ok("broker", "version", f"nats-server {about.version}")
        if version >= NATS_MIN
        else fail(
            "broker", "version", f"nats-server {about.version}", f"Install {NATS_MIN[0]}.{NATS_MIN[1]} or later."
        ),
    ]  # fmt: skip
    account = await conn.api("INFO")
    checks.append(ok("broker", "JetStream", f"{account['streams']} streams, {account['consumers']} consumers"))
    largest = max(spec.config.get("max_msg_size", 0) for spec in settings.topology(it.settings).streams)
    if conn.max_payload < largest:
        checks.append(
            fail(
                "broker", "max_payload", f"{conn.max_payload} bytes, but a stream takes messages of {largest}",
                f"Set max_payload: {largest} in nats-server's configuration.",
            )
        )  # fmt: skip
    checks.append(await permissions.check(conn, it.settings))
    return checks


async def _streams(it: Subject) -> list[Check]:
    conn = there(it.conn)
    wanted = settings.topology(it.settings)
    changes = await topology.plan(conn, wanted)
    if not changes:
        log = wanted.get(subjects.EVENTS).config
        window = f"the log {log['max_bytes'] / 2**30:,.1f} GiB or {log['max_age'] / 3.6e12:g} h"
        return [ok("streams", "as in streams/", f"{len(wanted.specs)} streams and consumers, {_profile(it)}, {window}")]
    missing = [c.label for c in changes if c.action == "create"]
    detail = f"{len(missing)} missing, {len(changes) - len(missing)} differ ({_profile(it)}): {_some(changes)}"
    return [fail("streams", "as in streams/", detail, "See `coord stream plan`, then run `coord stream apply`.")]


def _profile(it: Subject) -> str:
    return f"profile {it.settings.streams.profile}"


def _some(changes: list[topology.Change]) -> str:
    labels = [c.label for c in changes[:3]]
    return ", ".join(labels) + (", …" if len(changes) > len(labels) else "")


# --- the database --------------------------------------------------------------------------


async def _database(it: Subject) -> list[Check]:
    pool = there(it.pool)
    async with pool.acquire() as conn:
        edition = await editions.detect_async(conn)
    checks = [ok("database", "reachable", f"{pool.config.safe_url}, PostgreSQL {edition.postgres}")]
    lacks = "; ".join(edition.lacks)
    detail = f"{edition}{f'; lacks {lacks}' if lacks else ''}"
    if it.preflight and edition.name == "plain":
        checks.append(fail("database", "edition", detail, "Install TimescaleDB, then `coord db migrate`."))
    elif it.preflight and edition.name != "community":
        checks.append(
            warn("database", "edition", detail, "Use TimescaleDB Community, for compression and continuous aggregates.")
        )
    else:
        checks.append(ok("database", "edition", detail))
    found = await asyncio.to_thread(migrations.status, it.settings.database)
    if found.is_current:
        checks.append(ok("database", "migrations", f"{len(found.applied)} applied, none pending"))
    else:
        what = [*found.problems, *(f"{file} is pending" for file in found.pending)]
        fix = (
            "Run this release's files only; applied ones are never edited."
            if found.problems
            else "Run `coord db migrate`."
        )
        checks.append(fail("database", "migrations", "; ".join(what), fix))
        return checks
    async with pool.acquire() as conn:
        with translated("doctor"):
            lacking = await conn.fetch(statement("doctor_privileges"))
            row = (await conn.fetch(statement("doctor_database")))[0]
    if lacking:
        names = ", ".join(f"{r['privilege']} on {r['relation']}" for r in lacking)
        checks.append(fail("database", "privileges", f"{row['role']} lacks {names}", "Grant them to coord's role."))
    else:
        checks.append(ok("database", "privileges", f"role {row['role']} has what the projector needs"))
    if not row["reader_exists"]:
        checks.append(
            warn(
                "database",
                "coord_reader",
                "analysts' role does not exist",
                "CREATE ROLE coord_reader NOLOGIN as a superuser; `coord db migrate`.",
            )
        )
    free = row["connections_max"] - row["connections"]
    if free < it.settings.database.pool_max:
        checks.append(
            warn(
                "database", "connections",
                f"{free} of {row['connections_max']} are free, one process takes up to {it.settings.database.pool_max}",
                "Lower database.pool_max, or raise max_connections.",
            )
        )  # fmt: skip
    return [*checks, *await _replica(it)]


async def _replica(it: Subject) -> list[Check]:
    config = settings.side_pool(it.settings.database, "doctor")
    if not config.replica_url:
        return []
    async with reading.pools(config) as reads:
        route = reads.route
    if route.server == "replica":
        return [ok("database", "replica", route.reason)]
    fix = "Look at its log and at pg_stat_replication; reads go to the primary meanwhile."
    return [warn("database", "replica", f"reads go to the primary: {route.reason}", fix)]


# --- clocks --------------------------------------------------------------------------------


async def _clocks(it: Subject) -> list[Check]:
    checks = []
    for name, ask, server in (("broker", _broker_now, it.conn), ("database", _database_now, it.pool)):
        if isinstance(server, errors.CoordError):
            checks.append(skip("clocks", name, "it cannot be reached"))
            continue
        started = time.perf_counter()
        theirs = await ask(server)
        took_s = time.perf_counter() - started
        if theirs is None:
            checks.append(skip("clocks", name, "there is no stream to ask"))
            continue
        # Half of the round trip cannot be told from skew.
        skew_s = max(0.0, abs((datetime.now(UTC) - theirs).total_seconds()) - took_s)
        detail = f"differs from this machine's by {skew_s * 1e3:.0f} ms"
        fix = "Run NTP or chrony on both machines: lags and latencies are differences of these clocks."
        make = fail if skew_s > SKEW_FAIL_S else warn if skew_s > SKEW_WARN_S else None
        checks.append(make("clocks", name, detail, fix) if make else ok("clocks", name, detail))
    return checks


async def _broker_now(conn: Any) -> datetime | None:
    try:
        info = await conn.api(f"STREAM.INFO.{subjects.EVENTS}")
    except errors.ApiNotFound:
        return None
    return datetime.fromisoformat(info["ts"])


async def _database_now(pool: Any) -> datetime | None:
    async with pool.acquire() as conn:
        with translated("doctor"):
            now: datetime = (await conn.fetch(statement("doctor_database")))[0]["now"]
    return now


async def _expiry(it: Subject) -> list[Check]:
    return await expiries.check(it, datetime.now(UTC))


# --- whether facts flow --------------------------------------------------------------------


async def _flow(it: Subject) -> list[Check]:
    snapshot = await stats.collect(it.conn, it.pool)
    state: dict[str, State] = {"error": "fail", "warning": "warn"}
    seen = {"broker", "database"} if snapshot.failures else set()
    checks = [
        Check(area="flow", name=p.what, state=state[p.severity], detail=p.message, fix=p.remedy)
        for p in judge(snapshot)
        if p.what not in seen and not p.message.startswith("it does not exist")  # said above
    ]
    if snapshot.instances:
        checks.append(ok("flow", "projectors", f"{len(snapshot.instances)} running"))
    checks += [ok("flow", f"projection {p.stream}", f"{p.pending} messages wait") for p in snapshot.projection]
    if not isinstance(it.conn, errors.CoordError):
        checks.append(await _query_service(it, it.conn))
    checks.append(await circuits.check(it.settings.http))
    return checks


async def _query_service(it: Subject, conn: Connection) -> Check:
    subject = subjects.rpc(it.settings.identity.tenant, "log", "info")
    try:
        await rpc.call(conn, subject, {}, log_api.LogInfo, timeout_s=_FETCH_S)
    except errors.CoordError as exc:
        return warn("flow", "query service", f"{exc.message} [{exc.code}]", "Start one: `coord serve all`.")
    return ok("flow", "query service", "answers")


async def _probe(it: Subject) -> list[Check]:
    """State one fact and wait for its row: the whole way, once."""
    conn, pool = there(it.conn), there(it.pool)
    client = msgspec.structs.replace(it.settings.client, agent="doctor")
    name = secrets.token_hex(8)
    started = time.perf_counter()
    async with connect(client, connection=conn) as me:
        ack = await me.publish(Fact(kind="probe", id=name, event="checked", data={"by": "coord doctor"}))
    acked_s = time.perf_counter() - started
    while time.perf_counter() - started < PROBE_S:
        async with pool.acquire() as db:
            with translated("probe"):
                row = await db.fetchrow(statement("doctor_probe"), client.tenant, name)
        if row is not None:
            took_s = time.perf_counter() - started
            return [
                ok("probe", "publish to row", f"acked in {acked_s * 1e3:.1f} ms, a row after {took_s * 1e3:.0f} ms")
            ]
        await asyncio.sleep(0.01)
    return [
        fail(
            "probe", "publish to row", f"fact {ack.seq} is no row after {PROBE_S:g} s", "See `coord projection status`."
        )
    ]
