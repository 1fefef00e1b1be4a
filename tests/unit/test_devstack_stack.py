"""The dev stack with real servers: found again, killed, left behind, ended with its parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import asyncpg
import msgspec
import pytest

from coord.errors import EnvironmentProblem
from coord.ops.devstack import DevStack, DevStackConfig, PostgresOptions, find, nats, places, process
from tests.support.servers import run_sync
from tests.support.waiting import until

FAST = PostgresOptions(fsync=False, shared_buffers="32MB", max_connections=20)

OWNER_SCRIPT = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from coord.ops.devstack import DevStack, DevStackConfig, PostgresOptions

    async def main():
        options = PostgresOptions(fsync=False, shared_buffers="32MB", max_connections=20)
        async with DevStack(DevStackConfig(data_dir=Path(sys.argv[1]), postgres_options=options)):
            print("up", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
""")


@pytest.fixture
def folder(reachable_dir):
    return reachable_dir / "stack"


def config(folder: Path, **fields: object) -> DevStackConfig:
    return DevStackConfig(data_dir=folder, postgres_options=FAST, **fields)  # type: ignore[arg-type]


async def fetch(url: str, query: str) -> object:
    conn = await asyncpg.connect(url)
    try:
        return await conn.fetchval(query)
    finally:
        await conn.close()


async def wait_gone(*refs: process.ProcessRef | None) -> None:
    async def gone() -> bool:
        return not any(ref and ref.alive() for ref in refs)

    await process.wait_until(gone, 100)


async def test_a_second_start_finds_the_first_and_leaves_it_alone(folder):
    said: list[str] = []
    async with DevStack(config(folder), say=said.append) as first:
        async with DevStack(config(folder), say=said.append) as second:
            assert second.attached
            assert second.nats_url == first.nats_url
            assert second.database_url == first.database_url
            assert second.edition == first.edition
            with pytest.raises(EnvironmentProblem, match="not this process's"):
                await second.kill_nats()
        assert find(folder) == first.state
        assert await fetch(first.database_url, "SELECT 1") == 1
        with pytest.raises(EnvironmentProblem, match="another database"):
            await DevStack(config(folder, database_url="postgresql://x@127.0.0.1:1/x")).start()
        state = first.state
    assert find(folder) is None
    assert state.nats
    assert state.database
    await wait_gone(state.nats.process, state.database.process)


async def test_both_servers_come_back_after_a_kill_with_what_was_committed(folder):
    async with DevStack(DevStackConfig(data_dir=folder)) as stack:  # fsync on: this is the crash it is for
        conn = await asyncpg.connect(stack.database_url)
        await conn.execute("CREATE TABLE x (v int); INSERT INTO x VALUES (1)")
        pids = stack.nats_pid, stack.postgres_pid
        await stack.kill_postgres()
        await stack.kill_nats()
        assert stack.nats_pid is None
        assert stack.postgres_pid is None
        conn.terminate()
        with pytest.raises(OSError):
            await asyncpg.connect(stack.database_url, timeout=20)
        await asyncio.gather(stack.restart_nats(), stack.restart_postgres())
        assert await fetch(stack.database_url, "SELECT count(*) FROM x") == 1
        assert await until(lambda: nats.server_info(int(stack.nats_url.rpartition(":")[2])))
        assert not {stack.nats_pid, stack.postgres_pid} & {*pids, None}
        await stack.restart_postgres()
        assert await fetch(stack.database_url, "SELECT count(*) FROM x") == 1


async def test_data_survives_a_stop(folder):
    async with DevStack(config(folder, nats=False)) as stack:
        await fetch(stack.database_url, "CREATE TABLE x ()")
    async with DevStack(config(folder, nats=False)) as stack:
        assert await fetch(stack.database_url, "SELECT count(*) FROM x") == 0
        with pytest.raises(EnvironmentProblem, match="no nats-server"):
            _ = stack.nats_url


async def test_an_ephemeral_stack_leaves_nothing():
    async with DevStack(DevStackConfig(ephemeral=True, postgres_options=FAST)) as stack:
        data_dir, home = stack.data_dir, stack.state.database and stack.state.database.home
        assert data_dir.is_dir()
        assert home
        assert Path(home).is_dir()
    assert not data_dir.exists()
    assert not Path(home).exists()
    await stack.stop()  # legal twice


async def test_postgres_never_runs_as_root(folder):
    async with DevStack(config(folder, nats=False)) as stack:
        assert Path(f"/proc/{stack.postgres_pid}").stat().st_uid != 0
        assert await fetch(stack.database_url, "SHOW listen_addresses") == "127.0.0.1"
        assert await fetch(stack.database_url, "SHOW track_commit_timestamp") == "on"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_servers_end_with_their_parent_and_the_next_start_works(folder, how):
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER_SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True, env=env
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        state = find(folder)
        assert state
        assert state.nats
        assert state.database
        owner.send_signal(how)
        owner.wait()
    assert find(folder) is None
    assert (folder / "stack.json").exists()
    run_sync(wait_gone(state.nats.process, state.database.process))

    async def again() -> None:
        async with DevStack(config(folder)) as stack:
            assert not stack.attached
            assert await fetch(stack.database_url, "SELECT 1") == 1

    run_sync(again())


async def test_what_a_dead_stack_left_running_is_ended_by_id(folder):
    folder.mkdir()
    left = process.spawn("left", ["sleep", "600"], log=folder / "log", cwd=folder)
    other = process.spawn("other", ["sleep", "600"], log=folder / "log", cwd=folder)
    try:
        assert left.ref
        assert other.ref
        dead = {"pid": 2**22 + 5, "started": "1"}
        reused = {"pid": other.pid, "started": "1"}  # the id is another process's by now
        state = {
            "owner": dead,
            "data_dir": str(folder),
            "nats": {"url": "u", "http_url": "h", "process": msgspec.to_builtins(left.ref)},
            "database": {"url": "u", "edition": "plain", "note": "", "process": reused},
        }
        (folder / "stack.json").write_text(json.dumps(state))
        said: list[str] = []
        async with DevStack(config(folder, database=False), say=said.append):
            assert left.exit_code is not None
            assert other.exit_code is None
        assert said == [f"Ending process {left.pid}, left behind by a stack that died."]
    finally:
        left.kill()
        other.kill()


async def test_garbage_in_the_state_file_is_no_obstacle(folder):
    folder.mkdir()
    (folder / "stack.json").write_text("{")
    async with DevStack(config(folder, database=False)) as stack:
        assert stack.nats_pid


async def test_a_start_that_fails_leaves_nothing_running(folder):
    stack = DevStack(config(folder, database_url="postgresql://coord@127.0.0.1:1/none"))
    with pytest.raises(EnvironmentProblem, match="check --database") as caught:
        await stack.start()
    assert "\n" not in str(caught.value)
    assert stack.nats_pid is None
    assert find(folder) is None
    async with DevStack(config(folder, database=False)) as again:
        assert not again.attached


async def test_a_given_database_is_used_and_never_touched(folder, database):
    async with DevStack(config(folder, nats=False, database_url=database.url)) as stack:
        assert stack.database_url == database.url
        assert stack.edition == database.edition
        assert stack.postgres_pid is None
        with pytest.raises(EnvironmentProblem, match="not this process's"):
            await stack.restart_postgres()
    assert await fetch(database.url, "SELECT 1") == 1


async def test_data_of_another_major_version_names_the_fix(folder):
    async with DevStack(config(folder, nats=False)) as stack:
        home = stack.state.database and stack.state.database.home
    assert home
    (Path(home) / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EnvironmentProblem, match="PostgreSQL 9's"):
        await DevStack(config(folder, nats=False)).start()


async def test_a_cluster_that_was_cut_off_while_being_made_is_made_again(folder):
    (folder / "postgres" / "data.part").mkdir(parents=True)
    (folder / "postgres" / "data.part" / "PG_VERSION").write_text("17\n")
    folder.chmod(0o711)
    async with DevStack(config(folder, nats=False)) as stack:
        assert stack.state.database
        assert stack.state.database.home == str(folder / "postgres")
        assert await fetch(stack.database_url, "SELECT 1") == 1
    assert not (folder / "postgres" / "data.part").exists()


async def test_the_plain_edition_works_where_only_the_wheel_is(folder):
    said: list[str] = []
    async with DevStack(config(folder, nats=False, source="plain"), say=said.append) as stack:
        assert stack.edition == "plain"
        assert "without TimescaleDB" in stack.edition_note
    assert any("plain PostgreSQL" in line for line in said)


async def test_data_made_by_the_fallback_stays_with_it(folder, postgres):
    if postgres.edition == "plain":
        pytest.skip("there is nothing but the fallback here")
    async with DevStack(config(folder, nats=False, source="plain")) as stack:
        await fetch(stack.database_url, "CREATE TABLE x ()")
    said: list[str] = []
    async with DevStack(config(folder, nats=False), say=said.append) as stack:
        assert stack.edition == "plain"
        assert await fetch(stack.database_url, "SELECT count(*) FROM x") == 0
    assert any("remove it for TimescaleDB" in line for line in said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the database as somebody else")
async def test_an_unreachable_folder_puts_the_database_elsewhere_and_says_so(reachable_dir, monkeypatch):
    private, elsewhere = reachable_dir / "private", reachable_dir / "elsewhere"
    private.mkdir(mode=0o700)
    monkeypatch.setattr(places, "SYSTEM_DATA", elsewhere)
    said: list[str] = []
    async with DevStack(config(private / "stack", nats=False), say=said.append) as stack:
        home = stack.state.database and stack.state.database.home
        assert home
        assert Path(home).is_relative_to(elsewhere)
        assert any(home in line for line in said)
    async with DevStack(config(private / "stack", nats=False)) as stack:
        assert stack.state.database
        assert stack.state.database.home == home


async def test_a_programs_failure_is_one_line_with_its_words(tmp_path):
    with pytest.raises(EnvironmentProblem, match=r"Trying: sh ended with exit code 3: it broke") as caught:
        process.run(["sh", "-c", "echo it >&2; echo broke >&2; exit 3"], what="Trying")
    assert "\n" not in str(caught.value)
    with pytest.raises(EnvironmentProblem, match="cannot run"):
        process.run([tmp_path / "missing"], what="Trying")
    with pytest.raises(EnvironmentProblem, match="took longer"):
        process.run(["sleep", "30"], what="Trying", timeout_s=0.05)
