"""The command line against real servers: what each command prints, changes and exits with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import msgspec
import psutil
import pytest
from prometheus_client import CollectorRegistry

from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.ops import projection, serve
from coord.ops.settings import ServiceConfig, Settings, StreamsConfig
from coord.projector import entities
from coord.runtime import assets
from coord.runtime.clock import ManualClock
from coord.runtime.http_config import HttpConfig
from coord.runtime.service import ServiceGroup
from coord.server.maintenance import Maintenance
from coord.store import copy
from coord.store.config import AgesConfig, DatabaseConfig
from coord.store.pool import Pool
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from tests.support.cli import Result, cli, running_cli
from tests.support.rolling import checkpoints_sql
from tests.support.store import event
from tests.support.waiting import until

pytestmark = pytest.mark.slow

Run = Callable[..., Awaitable[Result]]


class Servers(NamedTuple):
    """Where both servers are."""

    nats: str
    database: str


@pytest.fixture
async def empty(start_nats: Any, database: Any) -> Servers:
    """Two servers with nothing in them."""
    server = await start_nats()
    return Servers(server.url, database.url)


@pytest.fixture
async def servers(start_nats: Any, migrated_database: Any) -> Servers:
    """Two servers with coord's streams and schema."""
    server = await start_nats()
    async with await Connection.open(NatsConfig(urls=(server.url,)), name="test") as conn:
        await topology.apply(conn, topology.load(assets.streams_dir(), "development"))
    return Servers(server.url, migrated_database.url)


@pytest.fixture
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`await run("stream", "ls")`: a command on this test's servers."""
    found = request.getfixturevalue("empty" if "empty" in request.fixturenames else "servers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COORD_NATS_URLS", found.nats)
    monkeypatch.setenv("COORD_DATABASE_URL", found.database)
    monkeypatch.setenv("COORD_STREAMS_PROFILE", "development")
    monkeypatch.setenv("COORD_DATABASE_POOL_MIN", "0")
    return cli


@pytest.fixture
async def services(servers: Servers) -> AsyncIterator[ServiceGroup]:
    """Every service of `coord serve all`, ready, in this process."""
    settings = Settings(
        nats=NatsConfig(urls=(servers.nats,)),
        database=DatabaseConfig(url=servers.database, pool_min=1, pool_max=8),
        streams=StreamsConfig(profile="development"),
        http=HttpConfig(port=0),
        service=ServiceConfig(stats_every_s=0.5),
    )
    async with serve.services(settings, registry=Metrics(CollectorRegistry())) as group:
        await group.wait_ready(100)
        yield group


# --- streams and schema --------------------------------------------------------------------


async def test_streams_from_nothing_to_applied(empty: Servers, run: Run) -> None:
    assert (await run("stream", "ls")).err.startswith("There are no streams")
    planned = await run("stream", "plan", "-o", "json", "--exit-code")
    assert planned.code == 3
    assert {(c["label"], c["action"]) for c in planned.json} >= {("EVENTS", "create"), ("EVENTS/projector-7", "create")}
    assert (await run("stream", "ls", "-o", "json")).json == []  # planning changes nothing

    applied = await run("stream", "apply")
    assert applied.code == 0
    assert "+ EVENTS/projector-0 … projector-15" in applied.out
    again = await run("stream", "apply")
    assert (again.code, again.out) == (0, "")
    assert (await run("stream", "plan", "--exit-code")).code == 0

    listed = {s["name"]: s for s in (await run("stream", "ls", "-o", "json")).json}
    assert set(listed) == set(subjects.STREAMS)
    assert listed["EVENTS"]["limit_messages"] == 1_000_000
    info = (await run("stream", "info", "events", "-o", "json")).json
    assert info["config"]["discard"] == "new"
    assert info["consumers"][0]["members"] == 16
    missing = await run("stream", "info", "nope")
    assert (missing.code, missing.out) == (4, "")


async def test_a_destructive_change_needs_the_flag(servers: Servers, run: Run) -> None:
    async with await Connection.open(NatsConfig(urls=(servers.nats,)), name="test") as conn:
        config = (await conn.api("STREAM.INFO.EVENTS"))["config"]
        await conn.api("STREAM.UPDATE.EVENTS", config | {"max_msgs": 5_000_000})
    planned = await run("stream", "plan")
    assert "max_msgs: 5000000 -> 1000000" in planned.out
    assert "destructive" in planned.err
    refused = await run("stream", "apply")
    assert refused.code == 1
    assert "[topology.destructive]" in refused.err
    assert (await run("stream", "apply", "--allow-destructive")).code == 0
    assert (await run("stream", "plan", "--exit-code")).code == 0


async def test_the_schema_from_nothing_to_current(empty: Servers, run: Run) -> None:
    before = await run("db", "status", "-o", "json")
    assert before.code == 3
    assert not before.json["current"]
    unhealthy = await run("status", "-o", "json")
    assert unhealthy.code == 3
    assert "coord's tables are not there" in {p["message"] for p in unhealthy.json["problems"]}
    migrated = await run("db", "migrate", "-o", "json")
    assert migrated.json["applied"]
    assert (await run("db", "migrate", "-o", "json")).json["applied"] == []
    after = await run("db", "status", "-o", "json")
    assert (after.code, after.json["current"]) == (0, True)
    assert (await run("db", "query", "agents", "-o", "json")).json == []
    assert (await run("db", "query", "nonsense")).code == 2


# --- facts ---------------------------------------------------------------------------------


async def test_a_fact_from_publish_to_every_view_of_it(
    services: ServiceGroup, servers: Servers, run: Run, tmp_path: Path
) -> None:
    stated = await run(
        "event", "pub", "task", "t1", "submitted", "--data", '{"x": 1}', "--detail", "demo.batch", "--key", "wf1",
        "--agent", "me", "--tenant", "acme", "--correlation", "conv", "-o", "json",
    )  # fmt: skip
    assert stated.code == 0
    assert stated.json["subject"].endswith("acme.me.wf1.task.t1.submitted.demo.batch")
    again = await run(
        "event", "pub", "task", "t1", "submitted", "--data", '{"x": 1}', "--detail", "demo.batch", "--key", "wf1",
        "--agent", "me", "--tenant", "acme", "--correlation", "conv", "-o", "json",
        "--event-id", stated.json["event_id"],
    )  # fmt: skip
    assert (again.json["seq"], again.json["duplicate"]) == (stated.json["seq"], True)
    async with running_cli("event", "tail", "-n", "2", cwd=tmp_path, env=environ(servers)) as following:
        await following.says("Following tenant default")
        for n in ("a", "b"):
            assert (await run("event", "pub", "agent", n, "status", "--agent", n, "-d", '{"load": 0.2}')).code == 0
        assert await following.ends() == 0
    assert [line.split("  ", 2)[2] for line in following.out] == [
        'a  agent/a status  {"load":0.2}',
        'b  agent/b status  {"load":0.2}',
    ]

    past = await run("event", "tail", "--tenant", "acme", "--start", "first", "--no-follow", "-o", "jsonl")
    assert [(f["key"], f["detail"], f["correlation_id"]) for f in past.lines] == [("wf1", ["demo", "batch"], "conv")]
    human = await run("event", "tail", "--tenant", "acme", "-s", "10m", "--no-follow", "-k", "task", "-e", "submitted")
    assert "me  task/t1 submitted.demo.batch key=wf1" in human.out
    assert (await run("event", "tail", "--tenant", "acme", "-s", "first", "--no-follow", "-e", "other")).out == ""

    async def rows() -> Any:
        return len((await run("db", "query", "recent_events", "-o", "json")).json) == 3

    await until(rows)
    agents = await run("db", "query", "agents", "-p", "tenant=default", "-o", "json")
    assert [a["agent"] for a in agents.json] == ["a", "b"]


async def test_a_durable_tail_goes_on_where_it_stopped(services: ServiceGroup, run: Run) -> None:
    for n in range(4):
        await run("event", "pub", "note", f"n{n}", "written")
    first = await run("event", "tail", "--durable", "me", "--start", "first", "-n", "3", "-o", "jsonl")
    second = await run("event", "tail", "--durable", "me", "--start", "first", "--no-follow", "-o", "jsonl")
    assert [f["id"] for f in first.lines + second.lines] == ["n0", "n1", "n2", "n3"]


async def test_refusals_name_the_rule(services: ServiceGroup, run: Run) -> None:
    wrong_author = await run("event", "pub", "agent", "somebody", "status", "--agent", "me")
    assert (wrong_author.code, wrong_author.out) == (2, "")
    assert "[wire.author]" in wrong_author.err
    assert "[wire.token]" in (await run("event", "pub", "task", "T 1", "submitted")).err


async def test_data_from_a_file(services: ServiceGroup, run: Run, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"from": "file"}')
    assert (await run("event", "pub", "note", "n1", "written", "-d", f"@{tmp_path}/data.json")).code == 0
    facts = (await run("event", "tail", "-s", "first", "--no-follow", "-o", "jsonl")).lines
    assert facts[0]["data"] == {"from": "file"}
    assert (await run("event", "pub", "note", "n1", "written", "-d", "@missing")).code == 2


# --- health --------------------------------------------------------------------------------


async def if_well(running: Awaitable[Result]) -> Result | None:
    """What a command found, if that was nothing bad."""
    found = await running
    print(found.out, found.err)
    return found if found.code == 0 else None


async def test_status_top_and_doctor_of_a_system_that_is_well(services: ServiceGroup, run: Run) -> None:
    await run("event", "pub", "agent", "me", "status", "--agent", "me")
    healthy = await until(lambda: if_well(run("status")))  # an instance is there once its beat was heard
    assert "healthy" in healthy.out
    assert "EVENTS/projector ×16" in healthy.out

    async def seen() -> Result | None:
        found = await if_well(run("top", "--once", "-i", "0.5", "-o", "json"))
        return found if found and found.json["instances"] else None

    once = await until(seen)
    assert {r["stream"] for r in once.json["rates"]["streams"]} == set(subjects.STREAMS)
    assert "MSGS/S" in (await run("top", "--once", "-i", "0.5")).out

    examined = await until(lambda: if_well(run("doctor", "--probe", "-o", "json")))
    states = {(c["area"], c["name"]): c["state"] for c in examined.json}
    assert states["probe", "publish to row"] == "ok"
    assert states["streams", "as in streams/"] == "ok"
    assert states["flow", "query service"] == "ok"
    assert "fail" not in states.values()


async def test_preflight_names_what_production_needs(services: ServiceGroup, run: Run, request: Any) -> None:
    examined = await run("doctor", "--preflight", "-o", "json")
    assert examined.code == 3
    failed = {c["name"]: c["fix"] for c in examined.json if c["state"] == "fail"}
    assert {"streams.profile", "authentication"} <= set(failed)
    assert all(c["fix"] for c in examined.json if c["state"] in {"warn", "fail"})
    text = await run("doctor", "--preflight")
    assert "-> Give coord and each agent a user of its own" in text.out


async def test_preflight_reads_durability_from_the_monitoring_pages(
    start_nats: Any, servers: Servers, run: Run
) -> None:
    for interval, state in (("always", "ok"), ("2m", "fail")):
        server = await start_nats(sync_interval=interval)
        examined = await run("doctor", "--preflight", "--monitor", server.http_url, "-o", "json")
        found = {c["name"]: c["state"] for c in examined.json if c["area"] == "production"}
        assert found["sync_interval"] == state
        assert found["room"] == "ok"


async def test_doctor_finds_what_is_missing(empty: Servers, run: Run) -> None:
    examined = await run("doctor", "-o", "json")
    assert examined.code == 3
    fixes = {c["name"]: c["fix"] for c in examined.json if c["state"] == "fail"}
    assert "coord stream apply" in fixes["as in streams/"]
    assert "coord db migrate" in fixes["migrations"]


async def test_a_database_that_nobody_projects_into_is_not_current(servers: Servers, run: Run) -> None:
    """As after a restore, or where `coord serve` writes into another one: its checkpoints say that nothing waits."""
    async with await Connection.open(NatsConfig(urls=(servers.nats,)), name="test") as conn:
        created = (await conn.api("STREAM.INFO.EVENTS"))["created"]
    db = await asyncpg.connect(servers.database)
    await db.execute(checkpoints_sql(datetime.now(UTC)))
    old = "stream_created = $1, seq = 0, stored_at = NULL, pending = 0, updated_at = now() - interval '5 min'"
    await db.execute(f"UPDATE coord.checkpoint SET {old} WHERE stream = 'EVENTS'", datetime.fromisoformat(created))
    await db.close()
    assert {row["state"] for row in (await run("projection", "status", "--stream", "events", "-o", "json")).json} == {
        "current"
    }
    assert (await run("event", "pub", "note", "n1", "written")).code == 0
    rows = (await run("projection", "status", "--stream", "events", "-o", "json")).json
    (behind,) = (row for row in rows if row["state"] != "current")
    assert (behind["partition"], behind["state"]) == (subjects.partition("n1"), "behind")
    assert (behind["pending"], behind["lag_seconds"] < 300) == (None, True)
    unhealthy = await run("status")
    assert unhealthy.code == 3
    assert "Nobody projects into this database" in unhealthy.out


async def test_a_user_that_may_too_little_is_told_what(start_nats: Any, run: Run, servers: Servers) -> None:
    extra = """
    authorization { users: [ { user: u, password: p, permissions: {
      publish: { allow: [ "$JS.API.>", "$SYS.REQ.USER.INFO" ], deny: "$JS.API.STREAM.UPDATE.EVENTS" },
      subscribe: [ "_INBOX.>" ] } } ] }
    """
    server = await start_nats(extra=extra)
    url = server.url.replace("nats://", "nats://u:p@")
    examined = await run("doctor", "--nats", url, "-o", "json")
    found = next(c for c in examined.json if c["name"] == "permissions")
    assert found["state"] == "fail"
    assert "publish coord.notice" in found["detail"]
    assert "publish $JS.API.STREAM.UPDATE.EVENTS" in found["detail"]  # the trimmer's
    assert "u:p@" not in examined.out


async def test_dead_letters_are_listed_and_shown_whole(services: ServiceGroup, servers: Servers, run: Run) -> None:
    async with await Connection.open(NatsConfig(urls=(servers.nats,)), name="test") as conn:
        # As a hostile client would: a fact about somebody else, with a body that is no text.
        conn.publish("coord.ev.acme.mallory.victim.agent.victim.status", b'{"load": \xff\x1b[2J}')
        await conn.flush()

    async def listed() -> Any:
        return (await run("dlq", "ls", "-o", "json")).json

    (letter,) = await until(listed)
    assert letter["agent"] == "mallory"
    assert (await run("dlq", "ls", "--code", "wire.other", "-o", "json")).json == []
    table = await run("dlq", "ls", "--tenant", "acme")
    assert f"coord dlq show {letter['seq']} --stream EVENTS" in table.err
    whole = await run("dlq", "show", str(letter["seq"]))
    assert whole.code == 0
    assert "\x1b" not in whole.out
    assert "victim" in whole.out
    assert (await run("dlq", "show", str(letter["seq"]), "-o", "json")).json["reason"] == letter["reason"]
    assert (await run("dlq", "show", "999999")).code == 4
    assert "dead letters" in (await run("status")).out


async def test_the_gauges_show_what_the_servers_hold(services: ServiceGroup, run: Run) -> None:
    await run("event", "pub", "note", "n1", "written")
    registry = services.metrics.registry

    def gauge(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    await until(lambda: gauge("coord_stream_messages", stream="EVENTS") == 1)
    await until(lambda: gauge("coord_consumer_pending_messages", stream="EVENTS", consumer="projector") == 0)
    await until(lambda: gauge("coord_stream_limit_messages", stream="EVENTS") == 1_000_000)
    await until(lambda: gauge("coord_dead_letters", stream="EVENTS") == 0)
    await until(lambda: gauge("coord_service_up", service="projector") == 1)


async def test_what_is_too_old_is_removed_at_intervals(migrated_database: Any) -> None:
    config = DatabaseConfig(url=migrated_database.url, pool_min=0)
    old, new = datetime.now(UTC) - timedelta(days=40), datetime.now(UTC)
    async with await Pool(config).open() as pool, pool.transaction() as conn:
        await copy.events(conn, [event(1, at=old), event(2, at=new)])

    async def left() -> int:
        conn = await asyncpg.connect(migrated_database.url)
        try:
            count: int = await conn.fetchval("SELECT count(*) FROM coord.event")
        finally:
            await conn.close()
        return count

    async with await Pool(config).open() as pool, pool.acquire() as conn:
        # It was begun two days ago: two o'clock has passed since.
        await conn.execute(
            "INSERT INTO coord.maintenance_step (started_at, ended_at, rows, batches, job, relation, unit, result)"
            " VALUES (now() - interval '2 days', now() - interval '2 days', 0, 0, 'night', '', 'rows', 'done')"
        )
        await conn.execute(checkpoints_sql(new))
    clock = ManualClock()
    ages = AgesConfig(retain_days=30)
    async with Maintenance(None, config, ages, clock=clock, registry=Metrics(CollectorRegistry())) as service:
        await clock.until_asleep()
        assert await left() == 2
        clock.advance_to_next()
        await until(lambda: service.steps)
        await clock.until_asleep()  # for the next time
    assert await left() == 1


# --- a stream that is not the same any more ------------------------------------------------


async def rows_of(url: str) -> list[tuple[int, int]]:
    conn = await asyncpg.connect(url)
    try:
        return [(r["epoch"], r["seq"]) for r in await conn.fetch("SELECT epoch, seq FROM coord.event ORDER BY 1, 2")]
    finally:
        await conn.close()


async def test_an_operator_opens_a_new_epoch(services: ServiceGroup, servers: Servers, run: Run) -> None:
    for n in range(3):
        await run("event", "pub", "note", "same", "written", "--detail", f"n{n}")

    async def projected() -> bool:
        return len(await rows_of(servers.database)) == 3

    await until(projected)
    assert (await run("projection", "status")).code == 0
    async with await Pool(DatabaseConfig(url=servers.database, pool_min=0)).open() as pool, pool.transaction() as db:
        await entities.project(db, [[event(1, id="open", key="open", detail="work.normal", data="{}")]])
    well = await run("projection", "new-epoch", "EVENTS", "--yes")
    assert (well.code, "[projection.not_stopped]" in well.err) == (1, True)

    async with await Connection.open(NatsConfig(urls=(servers.nats,)), name="test") as conn:
        await conn.api("STREAM.DELETE.EVENTS")
    await run("stream", "apply")
    for n in range(2):
        await run("event", "pub", "note", "same", "written", "--detail", f"m{n}")

    async def stopped() -> Any:
        return (await run("status")).code == 3 and not services.ready

    await until(stopped)
    found = await run("projection", "status", "--stream", "EVENTS", "-o", "json")
    assert found.code == 3
    assert {r["code"] for r in found.json} == {"projection.stream_replaced"}
    assert "coord projection new-epoch" in found.err
    unasked = await run("projection", "new-epoch", "EVENTS")
    assert (unasked.code, unasked.out) == (1, "")

    opened = await run("projection", "new-epoch", "events", "--yes", "-o", "json")
    assert opened.code == 0
    assert {(r["epoch"], r["seq"]) for r in opened.json} == {(2, 0)}
    assert "task: 1 lost with the log that held them" in opened.err
    assert [r["id"] for r in (await run("task", "ls", "--status", "lost", "-o", "json")).json] == ["open"]
    await services.wait_ready(100)

    async def went_on() -> bool:
        return await rows_of(servers.database) == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]

    await until(went_on)
    assert (await run("projection", "status")).code == 0


async def test_behind_which_message_a_lost_tail_goes_on(servers: Servers) -> None:
    async with await Connection.open(NatsConfig(urls=(servers.nats,)), name="test") as conn:
        for n in range(20):
            subject = ".".join(("coord", "ev", "acme", "a", f"k{n}", "note", f"n{n}", "written"))
            await conn.request(subject, b"{}")
        await conn.api("STREAM.MSG.DELETE.EVENTS", {"seq": 10})
        times = {}
        for seq in (1, 7, 9, 11, 20):
            found = await conn.api("STREAM.MSG.GET.EVENTS", {"seq": seq})
            times[seq] = projection._moment(found["message"]["time"])
        state = await projection._state(conn, "EVENTS")
        for seq, moment in times.items():
            assert await projection._last_not_after(conn, "EVENTS", state, moment) == seq
        before = times[1].replace(year=2020)
        assert await projection._last_not_after(conn, "EVENTS", state, before) == 0


# --- processes -----------------------------------------------------------------------------


def environ(servers: Servers) -> dict[str, str]:
    return {
        "COORD_NATS_URLS": servers.nats,
        "COORD_DATABASE_URL": servers.database,
        "COORD_STREAMS_PROFILE": "development",
        "COORD_HTTP_PORT": "0",
        "COORD_DATABASE_POOL_MIN": "1",
        "COORD_SERVICE_DRAIN_S": "100",
    }


async def get(url: str, path: str) -> tuple[int, bytes]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    raw = await reader.read()
    writer.close()
    return int(raw.split()[1]), raw.partition(b"\r\n\r\n")[2]


async def test_serve_prepares_serves_and_drains(empty: Servers, tmp_path: Path) -> None:
    async with running_cli("serve", "all", "--apply", cwd=tmp_path, env=environ(empty)) as process:
        url = json.loads(await process.says("http.listening"))["url"]

        async def ready() -> bool:
            return (await get(url, "/readyz"))[0] == 200

        await until(ready)
        assert (await get(url, "/healthz"))[0] == 200
        status, body = await get(url, "/metrics")
        assert status == 200
        assert b'coord_service_up{service="projector"} 1.0' in body
        assert b"coord_build_info" in body
        process.send(signal.SIGTERM)
        assert await process.ends() == 0
    records = [json.loads(line) for line in process.err]
    assert all(r["service"] == "coord-all" and r["ts"] and r["level"] and r["event"] for r in records)
    assert "prepare.done" in {r["event"] for r in records}
    assert records[-1]["event"] == "process.ended"
    assert process.out == []


async def test_serve_waits_for_servers_that_are_not_there_and_ends_all_the_same(tmp_path: Path) -> None:
    nowhere = Servers("nats://127.0.0.1:1", "postgresql://127.0.0.1:1/coord")
    async with running_cli("serve", "projector", cwd=tmp_path, env=environ(nowhere)) as process:
        url = json.loads(await process.says("http.listening"))["url"]
        status, body = await get(url, "/readyz")
        assert status == 503
        assert not json.loads(body)["ready"]
        assert (await get(url, "/healthz"))[0] == 200  # restarting would not help
        process.send(signal.SIGTERM)
        assert await process.ends() == 0
    async with running_cli("serve", "--apply", cwd=tmp_path, env=environ(nowhere)) as process:
        await process.says("process.starting")
        process.send(signal.SIGINT)
        assert await process.ends() == 0


async def test_serve_says_a_taken_port_in_one_line(servers: Servers, tmp_path: Path) -> None:
    held = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    taken = environ(servers) | {"COORD_HTTP_PORT": str(port)}
    async with running_cli("serve", cwd=tmp_path, env=taken) as process:
        assert await process.ends() == 1
    held.close()
    talk = [line for line in process.err if not line.startswith("{")]
    assert len(talk) == 1
    assert "COORD_HTTP_PORT" in talk[0]


async def test_dev_starts_everything_is_found_and_leaves_nothing_running(reachable_dir: Path, run_here: Run) -> None:
    folder = reachable_dir / "stack"
    ports = ("--nats-port", "0", "--database-port", "0", "--http-port", "0")
    async with running_cli("dev", "--path", folder, *ports, cwd=reachable_dir) as process:
        await process.says("coord status")
        state = json.loads((folder / "stack.json").read_text())
        pids = [state["nats"]["process"]["pid"], state["database"]["process"]["pid"]]
        found = await run_here("dev", "--path", folder)
        assert found.code == 0
        assert f"running already (pid {process.pid})" in found.err
        assert "/metrics" in found.err
        env = (await run_here("dev", "env", "--path", folder, "-o", "json")).json
        assert env["COORD_NATS_URLS"] == state["nats"]["url"]
        exports = (await run_here("dev", "env", "--path", folder)).out
        assert f"export COORD_DATABASE_URL={state['database']['url']}" in exports
        stated = await run_here("event", "pub", "note", "n1", "written", "--nats", env["COORD_NATS_URLS"])
        assert stated.code == 0

        async def row() -> Any:
            query = ("db", "query", "recent_events", "-o", "json", "--database", env["COORD_DATABASE_URL"])
            return (await run_here(*query)).json

        await until(row)
        killed = pids
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

        async def others() -> list[int] | None:
            state = json.loads((folder / "stack.json").read_text())
            now = [state[name]["process"]["pid"] for name in ("nats", "database")]
            return None if set(now) & set(killed) else now

        pids = await until(others)
        again = await run_here("event", "pub", "note", "n2", "written", "--nats", env["COORD_NATS_URLS"])
        assert again.code == 0
        process.send(signal.SIGINT)
        assert await process.ends() == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert (await run_here("dev", "env", "--path", folder)).code == 4
    log = [json.loads(line) for line in (folder / "coord.log").read_text().splitlines()]
    assert log[-1]["event"] == "process.ended"
    assert log[-1]["drained"] is True


async def test_dev_with_a_database_of_ones_own(database: Any, tmp_path: Path, run_here: Run) -> None:
    options = ("--path", tmp_path / "stack", "--nats-port", "0", "--http-port", "0", "--database", database.url)
    async with running_cli("dev", *options, cwd=tmp_path) as process:
        await process.says("coord status")
        assert await process.says(database.url)
        assert (await run_here("db", "status", "--database", database.url)).code == 0  # it was migrated
        process.send(signal.SIGTERM)
        assert await process.ends() == 0
    assert not (tmp_path / "stack" / "postgres").exists()


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A command in an empty folder, with nothing configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return cli


def test_the_settings_used_here_are_the_shipped_ones() -> None:
    # What the tests above override must stay possible together.
    settings = msgspec.structs.replace(Settings(), database=DatabaseConfig(pool_min=1, pool_max=8))
    settings.validate()
