"""A TCP proxy in front of a server, to break the network on purpose: stall, lose, cut, refuse.

Directions: `up` is client → server, `down` is server → client.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal, Self

Direction = Literal["up", "down"]


class Proxy:
    """``async with Proxy("127.0.0.1", port) as proxy``: connect to `proxy.url`."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.connections = 0
        """Accepted, ever."""
        self._to = (host, port)
        self._open: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._refusing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.resume()

    @property
    def url(self) -> str:
        """Where NATS clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    def stall(self, *directions: Direction) -> None:
        """Keep connections open and pass nothing (default: in both directions)."""
        for direction in directions or ("up", "down"):
            self._open[direction].clear()

    def resume(self) -> None:
        """What waited passes, and everything after it."""
        for event in self._open.values():
            event.set()

    def cut(self) -> None:
        """Reset every connection; what was on its way is lost."""
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections at once."""
        self._refusing = refusing

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        self._start(self._pump(reader, there_writer, self._open["up"]))
        self._start(self._pump(there_reader, writer, self._open["down"]))

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passing: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await passing.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort()
        self._writers.discard(sink)
