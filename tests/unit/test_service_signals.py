"""SIGTERM: drain within bounds, a second one at once, exit codes that say what happened."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from coord import errors
from coord.ops import environment
from coord.runtime import signals
from tests.support.waiting import until
from tests.unit.test_service import Probe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


async def test_a_signal_drains_then_stops() -> None:
    service = Probe()
    received = signals.Interrupts()
    running = asyncio.create_task(signals.run(service, received=received))
    await service.running.wait()
    received.send(signal.SIGTERM)
    assert await running == signals.EXIT_OK
    assert service.log[-2:] == ["probe.drain", "probe.teardown"]


async def test_the_operating_systems_signal_arrives() -> None:
    service = Probe()
    running = asyncio.create_task(signals.run(service))
    await service.running.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == signals.EXIT_OK


async def test_a_second_signal_cuts_the_drain_short() -> None:
    service = Probe()
    service.drain_gate = asyncio.Event()
    received = signals.Interrupts()
    running = asyncio.create_task(signals.run(service, received=received, drain_s=1_000))
    await service.running.wait()
    received.send(signal.SIGINT)
    await until(lambda: "probe.drain" in service.log)
    received.send(signal.SIGINT)
    assert await asyncio.wait_for(running, 60) == signals.EXIT_ERROR
    assert service.log[-1] == "probe.teardown"


async def test_a_drain_that_takes_too_long_is_cut_and_said_by_the_exit_code() -> None:
    service = Probe()
    service.drain_gate = asyncio.Event()
    received = signals.Interrupts()
    running = asyncio.create_task(signals.run(service, received=received, drain_s=0.0))
    await service.running.wait()
    received.send(signal.SIGTERM)
    assert await asyncio.wait_for(running, 60) == signals.EXIT_ERROR
    assert service.log[-1] == "probe.teardown"


async def test_a_signal_while_starting_ends_the_start() -> None:
    service = Probe()
    service.setup_gate = asyncio.Event()
    received = signals.Interrupts()
    running = asyncio.create_task(signals.run(service, received=received))
    await until(lambda: service.log)
    received.send(signal.SIGTERM)
    assert await asyncio.wait_for(running, 60) == signals.EXIT_OK
    assert service.log == ["probe.setup", "probe.teardown"]


async def test_what_keeps_it_from_starting_is_raised() -> None:
    service = Probe()
    service.setup_error = errors.EnvironmentProblem("port taken")
    with pytest.raises(errors.EnvironmentProblem):
        await signals.run(service, received=signals.Interrupts())


async def test_a_failure_is_raised_after_everything_is_released() -> None:
    service = Probe()
    service.fatal = (ValueError,)
    service.run_errors = [ValueError("broken")]
    with pytest.raises(ValueError, match="broken"):
        await signals.run(service, received=signals.Interrupts())
    assert service.log[-1] == "probe.teardown"


@contextlib.contextmanager
def systemd(folder: Path) -> Iterator[tuple[str, Callable[[], Awaitable[bytes]]]]:
    """The address of a notification socket, and the next word that comes there."""
    address = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.setblocking(False)
        yield address, lambda: asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 100), 60)


async def test_systemd_is_told_ready_and_stopping(tmp_path: Path) -> None:
    with systemd(tmp_path) as (address, said):
        service = Probe()
        received = signals.Interrupts()
        ready = asyncio.Event()
        running = asyncio.create_task(
            signals.run(service, received=received, notify_socket=address, on_ready=ready.set)
        )
        assert await said() == b"READY=1"
        await ready.wait()
        received.send(signal.SIGTERM)
        assert await said() == b"STOPPING=1"
        await running


async def test_systemds_watchdog_is_fed_while_the_loop_lives(tmp_path: Path) -> None:
    with systemd(tmp_path) as (address, said):
        service = Probe()
        received = signals.Interrupts()
        running = asyncio.create_task(signals.run(service, received=received, notify_socket=address, watchdog_s=0.02))
        fed = 0
        while fed < 3:
            fed += await said() == b"WATCHDOG=1"
        received.send(signal.SIGTERM)
        assert await running == signals.EXIT_OK


def test_what_systemd_says_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert environment.watchdog_s() == 30
    for nothing in ("", "0", "soon"):
        monkeypatch.setenv("WATCHDOG_USEC", nothing)
        assert environment.watchdog_s() is None
