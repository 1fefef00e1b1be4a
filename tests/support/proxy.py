"""A TCP proxy in front of a server, to break the network on purpose.

It can stall (keep connections open and pass nothing), cut (reset, at once or in the middle of a
message), delay, pass bytes in small pieces, refuse new connections, or be deaf to them.

Directions: `up` is client → server, `down` is server → client.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Literal, Self
from urllib.parse import urlsplit

Direction = Literal["up", "down"]


class Proxy:
    """``async with Proxy("127.0.0.1", port) as proxy``: connect to `proxy.url` or `proxy.in_front_of(url)`."""

    def __init__(self, host: str, port: int) -> None:
        self.port = 0
        self.connections = 0
        """Accepted, ever."""
        self.delay_s = 0.0
        """How long every piece is held back; order is kept."""
        self.piece_bytes = 65536
        """The most that is passed at a time: 1 tears every message and every length field apart."""
        self._to = (host, port)
        self._open: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._left: dict[Direction, int | None] = {"up": None, "down": None}
        self._refusing = False
        self._deaf = False
        self._cuts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.resume()

    @property
    def url(self) -> str:
        """Where NATS clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    def in_front_of(self, url: str) -> str:
        """`url` (of a database) with this proxy's address instead of the server's."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}{'@' if user else ''}127.0.0.1:{self.port}").geturl()

    def stall(self, *directions: Direction) -> None:
        """Keep connections open and pass nothing (default: in both directions)."""
        for direction in directions or ("up", "down"):
            self._open[direction].clear()

    def resume(self) -> None:
        """What waited passes, and everything after it; new connections are taken again."""
        self._refusing = self._deaf = False
        self._left = {"up": None, "down": None}
        for event in self._open.values():
            event.set()

    def cut(self) -> None:
        """Reset every connection, also those that are being made; what was on its way is lost."""
        self._cuts += 1
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()

    def cut_after(self, direction: Direction, count: int) -> None:
        """Reset every connection once `count` more bytes went that way: mid-message, most likely."""
        self._left[direction] = count

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections at once."""
        self._refusing = refusing

    def deafen(self, deaf: bool = True) -> None:
        """Accept new connections and never say a word."""
        self._deaf = deaf

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
        if self._deaf:
            self._writers.add(writer)
            return
        cuts = self._cuts
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        if cuts != self._cuts:
            writer.transport.abort()
            there_writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        self._start(self._pump(reader, there_writer, "up"))
        self._start(self._pump(there_reader, writer, "down"))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                for start in range(0, len(data), self.piece_bytes):
                    if not await self._pass(data[start : start + self.piece_bytes], sink, direction):
                        break
        sink.transport.abort()
        self._writers.discard(sink)

    async def _pass(self, piece: bytes, sink: asyncio.StreamWriter, direction: Direction) -> bool:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._open[direction].wait()
        left = self._left[direction]
        if left is not None:
            sink.write(piece[:left])
            self._left[direction] = max(0, left - len(piece))
            if left <= len(piece):
                with contextlib.suppress(OSError):
                    await sink.drain()
                self._left[direction] = None
                self.cut()
                return False
        else:
            sink.write(piece)
        await sink.drain()
        return True
