"""Counts that are the same on every machine: bytecodes, memory, bytes and turns on a wire.

What is counted runs in the thread that counts.  The proxies and whatever else belongs to the
bench run in a thread of their own (`Aside`), whose bytecodes are nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import tracemalloc
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import FrameType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import uvloop

T = TypeVar("T")

_PIECE_BYTES: Final = 262_144
_LOOPBACK: Final = "127.0.0.1"


class Opcodes:
    """Counts the bytecodes this thread executes; a hundred times slower meanwhile."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is executed in the block, by frames entered or resumed in it."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, _event: str, _argument: object) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, _frame: FrameType, event: str, _argument: object) -> Any:
        if event == "opcode":
            self.count += 1
        return self._step


class Held:
    """Memory that was allocated in a block and is still there when it is weighed: what is in hand or in flight."""

    def __init__(self) -> None:
        self.bytes = 0

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Look at allocations made in the block, by any thread; `weigh` inside it."""
        gc.collect()
        tracemalloc.start()
        try:
            yield
        finally:
            tracemalloc.stop()

    def weigh(self) -> None:
        """How much of it is there now, garbage collected first."""
        gc.collect()
        self.bytes = tracemalloc.get_traced_memory()[0]


class Aside(AbstractAsyncContextManager["Aside"]):
    """An event loop in a thread of its own, for all that must not be counted."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bench-aside", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it there and wait here, which costs next to nothing."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


class Wire(AbstractAsyncContextManager["Wire"]):
    """A TCP proxy that counts, and can hold back what the server says.

    Runs aside; its numbers may be read from anywhere.
    """

    def __init__(self, aside: Aside, url: str) -> None:
        """In front of the server of `url`."""
        parts = urlsplit(url)
        self._parts = parts
        self._aside = aside
        self.sent = 0
        """Bytes, client → server."""
        self.received = 0
        """Bytes, server → client, that were let through."""
        self.turns = 0
        """How often a server answered after a client had spoken: round trips, of all connections together."""
        self._port = 0
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The server's, by way of here."""
        user, at, _ = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{user}{at}{_LOOPBACK}:{self._port}").geturl()

    async def __aenter__(self) -> Self:
        await self._aside.run(self._start())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._aside.run(self._stop())

    async def hold(self) -> None:
        """Let nothing through to clients until `release`."""
        await self._aside.run(self._set_open(False))

    async def release(self) -> None:
        """What was held passes."""
        await self._aside.run(self._set_open(True))

    async def quiet(self, seconds: float = 0.25, timeout_s: float = 120.0) -> None:
        """Return when nothing has passed for so long."""

        async def still() -> None:
            async with asyncio.timeout(timeout_s):
                before = (-1, -1)
                while before != (self.sent, self.received):
                    before = (self.sent, self.received)
                    await asyncio.sleep(seconds)

        await self._aside.run(still())

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, _LOOPBACK, 0)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _set_open(self, is_open: bool) -> None:
        if is_open:
            self._open.set()
        else:
            self._open.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
            spoke = _Spoke()
            try:
                up = asyncio.create_task(self._up(reader, server_writer, spoke))
                down = asyncio.create_task(self._down(server_reader, writer, spoke))
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                await asyncio.wait({up, down})
                server_writer.close()
        writer.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, spoke: _Spoke) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            self.sent += len(piece)
            spoke.client = True
            writer.write(piece)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, spoke: _Spoke) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            await self._open.wait()
            self.received += len(piece)
            if spoke.client:
                spoke.client = False
                self.turns += 1
            writer.write(piece)
            await writer.drain()


class _Spoke:
    """Whether the client has said something since the server last did, on one connection."""

    __slots__ = ("client",)

    def __init__(self) -> None:
        self.client = False
