"""`coord replay` against real servers: what the tables hold afterwards is what the file holds, once."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from coord import errors, limits
from coord.bus.connection import Connection
from coord.ops.replay.bookmark import Bookmarks
from coord.ops.replay.driver import ReplayConfig, Replayer
from coord.ops.replay.formats import detect
from coord.ops.replay.recording import Statement
from coord.ops.replay.source import Source
from tests.support import log as logs
from tests.support.cli import cli
from tests.support.waiting import until

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("COORD_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def recorded(name: str) -> Path:
    """A real recording; skips the test where there is none."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in {DATA} (COORD_TEST_DATA)")
    return path


@pytest.fixture
def url(nats_server: Any) -> str:
    return str(nats_server.url)


@pytest.fixture
async def log(nats_server: Any) -> AsyncIterator[logs.Log]:
    async with logs.open_log(nats_server.url) as log:
        yield log


@pytest.fixture
async def tables(nats_server: Any, migrated_database: Any, log: logs.Log) -> AsyncIterator[asyncpg.Connection]:
    async with logs.projector(nats_server.url, migrated_database.url):
        conn = await asyncpg.connect(migrated_database.url)
        yield conn
        await conn.close()


def talks(path: Path, runs: int, messages: int = 8) -> Path:
    """A recording with two speakers a run and a handoff after each message but the last."""
    with path.open("w") as file:
        for run in range(runs):
            history = [{"name": f"Agent {(run + n) % 3}", "content": f"{run}/{n}"} for n in range(messages)]
            file.write(json.dumps({"question": run, "history": history}) + "\n")
    return path


def per_run(messages: int = 8) -> int:
    return 1 + messages + messages - 1


async def settled(tables: asyncpg.Connection, tenant: str, count: int) -> list[asyncpg.Record]:
    """The tenant's facts, once there are `count` of them (and no more)."""

    async def enough() -> bool:
        return bool(await tables.fetchval("SELECT count(*) >= $2 FROM coord.event WHERE tenant = $1", tenant, count))

    await until(enough, 60)
    rows = await tables.fetch("SELECT * FROM coord.event WHERE tenant = $1 ORDER BY epoch, seq, idx", tenant)
    assert len(rows) == count
    return list(rows)


def statements(source: Source, run: str) -> Iterator[Statement]:
    return (item for item in detect(source).read(source, run) if isinstance(item, Statement))


def replayer(conn: Connection, source: Source, tenant: str, run: str = "r", **more: Any) -> Replayer:
    config = ReplayConfig(tenant=tenant, run=run, **more)
    return Replayer(conn, config, digest=source.digest(), format_name="conversations")


# --- the real recordings -----------------------------------------------------------------------


async def test_the_conversations_are_in_the_tables_as_they_are_in_the_file(
    url: str, log: logs.Log, tables: asyncpg.Connection
) -> None:
    path = recorded("who_and_when_algorithm.jsonl")
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    speakers = [[message["name"] for message in run["history"]] for run in runs]
    changes = sum(a != b for of in speakers for a, b in itertools.pairwise(of))
    messages = sum(map(len, speakers))

    found = await cli("replay", path, "--nats", url, "--tenant", log.tenant, "-o", "json")

    assert found.code == 0, found.err
    assert found.json["stored"] == len(runs) + messages + changes
    rows = await settled(tables, log.tenant, len(runs) + messages + changes)
    assert Counter(f"{r['kind']}.{r['event']}" for r in rows) == {
        "run.recorded": len(runs), "message.sent": messages, "handoff.offered": changes,
    }  # fmt: skip
    assert len({r["agent"] for r in rows}) == len({name for of in speakers for name in of})
    said: dict[str, list[str]] = {}
    for row in rows:
        if row["kind"] == "message":
            said.setdefault(row["key"], []).append(json.loads(row["data"])["content"])
    run_id = found.json["run"]
    for line, run in enumerate(runs, 1):
        assert said[f"{run_id}-{line}"] == [m["content"] for m in run["history"]], "whole, and in order"
    handed = await tables.fetchval("SELECT count(*) FROM coord.v_handoff WHERE tenant = $1", log.tenant)
    assert handed == changes

    again = await cli("replay", path, "--nats", url, "--tenant", log.tenant, "-o", "json")
    assert (again.code, again.json["stored"]) == (0, 0)
    assert "Replayed before" in again.err


async def test_the_arrivals_are_in_the_tables_as_they_are_in_the_file(
    url: str, log: logs.Log, tables: asyncpg.Connection
) -> None:
    path = recorded("azure_llm_inference_2023_code.csv")
    rows = path.read_text().splitlines()[1:]
    found = await cli("replay", path, "--nats", url, "--tenant", log.tenant, "-o", "json")
    assert found.code == 0, found.err
    stored = await settled(tables, log.tenant, len(rows))
    tokens = sum(int(row.split(",")[2]) for row in rows)
    assert sum(json.loads(r["data"])["GeneratedTokens"] for r in stored) == tokens
    assert {r["occurred_at"].strftime("%H:%M") for r in stored} == {row.split(" ")[1][:5] for row in rows}


# --- interruptions -----------------------------------------------------------------------------


async def test_a_replay_that_is_cut_off_goes_on_and_doubles_nothing(
    url: str, log: logs.Log, tables: asyncpg.Connection, tmp_path: Path, rng: random.Random
) -> None:
    source = Source(talks(tmp_path / "talks", runs=400))
    total = 400 * per_run()
    async with logs.query_service(url):
        for _ in range(3):
            mark = await bookmark_of(log)
            begun = mark.ahead if mark else 1_050
            await cut_off(replayer(log.conn, source, log.tenant), source, begun + rng.randrange(1, 400))
            assert (await bookmark_of(log)).ahead > begun
        last = replayer(log.conn, source, log.tenant)
        assert await last.run(statements(source, "r"), lambda _: None)
    assert last.tally.done == total
    rows = await settled(tables, log.tenant, total)
    assert len({r["event_id"] for r in rows}) == total
    in_order(rows)


async def cut_off(of: Replayer, source: Source, count: int) -> None:
    """Replay until statement `count` is read, and die: up to a thousand before it are under way."""

    def some() -> Iterator[Statement]:
        yield from itertools.islice(statements(source, "r"), count)
        raise _CutOff

    with pytest.raises(ExceptionGroup) as died:
        await of.run(some(), lambda _: None)
    assert died.group_contains(_CutOff)


class _CutOff(Exception):
    pass


async def bookmark_of(log: logs.Log, run: str = "r") -> Any:
    return await Bookmarks(log.conn, log.tenant, run).load()


def in_order(rows: list[asyncpg.Record]) -> None:
    """Each conversation is told in the order of its file."""
    heard: dict[str, int] = {}
    for row in rows:
        if row["kind"] == "message":
            index = json.loads(row["data"])["index"]
            assert index == heard.get(row["key"], -1) + 1, row["key"]
            heard[row["key"]] = index


async def test_what_was_under_way_is_looked_for_in_the_log_when_the_broker_has_forgotten_its_ids(
    start_nats: Any, tmp_path: Path
) -> None:
    """The duplicate window does not help: the broker is told to remember for 100 ms."""
    server = await start_nats()
    async with logs.open_log(server.url) as log, logs.query_service(server.url):
        await shorten_duplicate_window(log)
        source = Source(talks(tmp_path / "talks", runs=100))
        first = replayer(log.conn, source, log.tenant)
        await cut_off(first, source, 1_300)
        mark = await bookmark_of(log)
        probes = await forgotten(log)  # behind all that was under way
        stored = (await log.conn.api("STREAM.INFO.EVENTS"))["state"]["messages"] - probes
        assert 0 < stored < 1_300
        assert mark.done < mark.ahead

        second = replayer(log.conn, source, log.tenant)
        assert await second.run(statements(source, "r"), lambda _: None)

        info = await log.conn.api("STREAM.INFO.EVENTS")
        assert info["state"]["messages"] == 100 * per_run() + probes
        assert second.tally.done == 100 * per_run()
        assert second.tally.resumed_at + second.tally.already == stored


async def test_without_the_query_service_what_is_uncertain_is_not_guessed(
    log: logs.Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(talks(tmp_path / "talks", runs=100))
    await cut_off(replayer(log.conn, source, log.tenant), source, 1_300)
    monkeypatch.setattr(limits, "DUPLICATE_WINDOW_S", 0.0)
    with pytest.raises(errors.ReplayUncertain):
        await replayer(log.conn, source, log.tenant).run(statements(source, "r"), lambda _: None)


async def shorten_duplicate_window(log: logs.Log) -> None:
    config = (await log.conn.api("STREAM.INFO.EVENTS"))["config"]
    await log.conn.api("STREAM.UPDATE.EVENTS", config | {"duplicate_window": 100_000_000})


async def forgotten(log: logs.Log) -> int:
    """Return once the broker takes a second message of one id; how many it took."""
    stored = 0

    async def stored_again() -> bool:
        nonlocal stored
        block = b"NATS/1.0\r\nNats-Msg-Id: probe\r\n\r\n"
        answer = await log.conn.request(log.subject(kind="probe"), b"{}", headers=block, timeout_s=60)
        stored += not json.loads(answer.data).get("duplicate", False)
        return stored > 1

    await until(stored_again, every_s=0.11)
    return stored


async def test_two_recordings_under_one_name_are_told_apart(log: logs.Log, tmp_path: Path) -> None:
    one = Source(talks(tmp_path / "one", runs=1))
    two = Source(talks(tmp_path / "two", runs=2))
    assert await replayer(log.conn, one, log.tenant).run(statements(one, "r"), lambda _: None)
    with pytest.raises(errors.InvalidRecording, match="another recording"):
        await replayer(log.conn, two, log.tenant).run(statements(two, "r"), lambda _: None)


async def test_the_older_of_two_replays_of_one_recording_gives_way(log: logs.Log, tmp_path: Path) -> None:
    source = Source(talks(tmp_path / "talks", runs=1))
    async with asyncio.timeout(60):
        older, newer = (Bookmarks(log.conn, log.tenant, "r") for _ in range(2))
        assert await older.load() is None
        first = replayer(log.conn, source, log.tenant)
        assert await first.run(statements(source, "r"), lambda _: None)
        mark = await newer.load()
        assert mark is not None
        await newer.save(mark)
        with pytest.raises(errors.ReplayTakenOver):
            await older.save(mark)


# --- the command -------------------------------------------------------------------------------


async def test_nothing_is_published_of_a_recording_with_a_bad_line(url: str, log: logs.Log, tmp_path: Path) -> None:
    path = talks(tmp_path / "talks", runs=3)
    with path.open("a") as file:
        file.write("{}\n")
    arguments = ("replay", path, "--nats", url, "--tenant", log.tenant, "-o", "json")
    refused = await cli(*arguments)
    assert refused.code != 0
    assert "line 4" in refused.err
    assert await bookmark_of(log) is None
    dry = await cli(*arguments, "--dry-run", "--skip-bad")
    assert (dry.code, dry.json["bad"], dry.json["statements"]) == (0, 1, 3 * per_run())
    assert await bookmark_of(log) is None
    taken = await cli(*arguments, "--skip-bad")
    assert (taken.code, taken.json["stored"]) == (0, 3 * per_run())


async def test_a_recording_is_paced(url: str, log: logs.Log, tmp_path: Path) -> None:
    """Two arrivals an hour apart, at 36,000 times the speed: 0.1 s."""
    path = tmp_path / "arrivals.csv"
    path.write_text("TIMESTAMP,n\n2026-01-01 00:00:00,1\n2026-01-01 01:00:00,2\n")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    found = await cli("replay", path, "--nats", url, "--tenant", log.tenant, "--speed", "36000", "-o", "json")
    assert (found.code, found.json["stored"]) == (0, 2)
    assert loop.time() - begun >= 0.1


async def test_an_export_replayed_and_exported_again_is_the_same(
    url: str, log: logs.Log, tables: asyncpg.Connection, migrated_database: Any, tmp_path: Path
) -> None:
    path = talks(tmp_path / "talks", runs=20)
    other = f"{log.tenant}b"
    common = ("--nats", url, "--database", migrated_database.url)
    assert (await cli("replay", path, *common, "--tenant", log.tenant)).code == 0
    await settled(tables, log.tenant, 20 * per_run())
    first = tmp_path / "first.jsonl"
    assert (await cli("event", "export", *common, "--tenant", log.tenant, "--to", first)).code == 0
    found = await cli("replay", first, *common, "--tenant", other, "-o", "json")
    assert (found.code, found.json["format"], found.json["stored"]) == (0, "export", 20 * per_run()), found.err
    await settled(tables, other, 20 * per_run())
    again = await cli("event", "export", *common, "--tenant", other)
    assert again.code == 0
    assert same(again.lines) == same([json.loads(line) for line in first.read_text().splitlines()])
    assert not list(tmp_path.glob(".*")), "no unfinished file is left"


def same(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Per key, in order, without what is the log's."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        fact = {k: v for k, v in line.items() if k not in {"seq", "index", "stored_at", "tenant"}}
        by_key.setdefault(line["key"], []).append(fact)
    return by_key
