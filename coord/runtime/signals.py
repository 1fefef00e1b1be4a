"""From SIGTERM to the end of the process, within `DRAIN_S`.

::

    first SIGTERM or SIGINT   drain (not ready any more, finish what is in hand), then stop
    a second one              stop now
    drain_s is over           stop now, said in the log and by the exit code

Whatever is cut short is in the log still: nothing that was acknowledged depends on a drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

from coord import limits
from coord.runtime.service import Service, cancel
from coord.telemetry import logs

_log = logs.get("runtime")

OS_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

EXIT_OK: Final = 0
EXIT_ERROR: Final = 1
"""A service failed, or what was in hand could not be finished in time."""


class Interrupts:
    """Counts the signals that ask this process to end."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.received: str = ""
        """Name of the first: "SIGTERM", "SIGINT"."""

    def send(self, os_signal: int) -> None:
        """Note one, as if the operating system had sent it."""
        if self.first.is_set():
            self.second.set()
        else:
            self.received = signal.Signals(os_signal).name
            self.first.set()


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Receive SIGTERM and SIGINT for the time of the block, in the running loop."""
    loop = asyncio.get_running_loop()
    received = Interrupts()
    for os_signal in OS_SIGNALS:
        loop.add_signal_handler(os_signal, received.send, os_signal)
    try:
        yield received
    finally:
        for os_signal in OS_SIGNALS:
            loop.remove_signal_handler(os_signal)


async def run(
    service: Service,
    *,
    drain_s: float = limits.DRAIN_S,
    received: Interrupts | None = None,
    on_ready: Callable[[], None] | None = None,
    notify_socket: str | None = None,
    watchdog_s: float | None = None,
) -> int:
    """Start `service`, run it until a signal or its failure, end it; returns an exit code.

    `drain_s`: from the signal to the end, in seconds.  `received`: for a caller that has
    installed `interrupts` already.  `on_ready`: called once, when it is ready first.
    `notify_socket`: systemd's (NOTIFY_SOCKET), told when ready, when stopping and, at half of
    `watchdog_s`, that the event loop lives.  Raises what kept `service` from starting, or
    what ended it.
    """
    with contextlib.ExitStack() as stack:
        if received is None:
            received = stack.enter_context(interrupts())
        asked = asyncio.ensure_future(received.first.wait())
        life = asyncio.ensure_future(_live(service, on_ready, notify_socket))
        watchdog = asyncio.ensure_future(_watchdog(notify_socket, watchdog_s))
        try:
            await asyncio.wait({asked, life}, return_when=asyncio.FIRST_COMPLETED)
            if not received.first.is_set():
                return await _ended_by_itself(service, life)
            _log.info("process.draining", os_signal=received.received, drain_s=drain_s)
            notify(notify_socket, "STOPPING=1")
            drained = await _drain(service, received, max(0.0, drain_s - limits.STOP_S))
            await service.stop()
        finally:
            for task in (asked, life, watchdog):
                await cancel(task)
            await service.stop()
        _log.info("process.ended", drained=drained)
        return EXIT_OK if drained and service.failure is None else EXIT_ERROR


async def _live(service: Service, on_ready: Callable[[], None] | None, notify_socket: str | None) -> None:
    await service.start()
    with contextlib.suppress(RuntimeError):  # it was stopped before it was ever ready
        await service.wait_ready()
        notify(notify_socket, "READY=1")
        if on_ready is not None:
            on_ready()
    await service.wait()


async def _watchdog(notify_socket: str | None, watchdog_s: float | None) -> None:
    """A wedged event loop says nothing, and systemd starts the process again."""
    while notify_socket is not None and watchdog_s is not None:
        notify(notify_socket, "WATCHDOG=1")
        await asyncio.sleep(watchdog_s / 2)


async def _ended_by_itself(service: Service, life: asyncio.Future[None]) -> int:
    try:
        await life
    finally:
        await service.stop()
    return EXIT_OK


async def _drain(service: Service, received: Interrupts, within_s: float) -> bool:
    """Drain until done, out of time, or told again; whether it was done."""
    draining = asyncio.ensure_future(service.drain())
    again = asyncio.ensure_future(received.second.wait())
    try:
        await asyncio.wait({draining, again}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        again.cancel()
    if not draining.done():
        why = "second signal" if received.second.is_set() else f"not finished within {within_s:g} s"
        _log.warning("process.drain_cut", why=why)
        draining.cancel()
        await asyncio.wait({draining}, timeout=1.0)
        return False
    error = draining.exception()
    if error is not None:
        _log.error("process.drain_failed", exc_info=error)
        return False
    return True


def notify(address: str | None, state: str) -> None:
    """Tell systemd (``Type=notify``) at its socket `address`; None is nobody."""
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.sendall(state.encode())
