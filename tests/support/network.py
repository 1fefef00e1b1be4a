"""A line between a client and a server that can be cut and mended."""

from __future__ import annotations

import asyncio
from typing import Self


class _End(asyncio.Protocol):
    """One end of a connection that passes through; `other` is the opposite one."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.line.transports.add(transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.transport is not None:
            self.line.transports.discard(self.transport)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.abort()


class _Client(_End):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        if self.line.whole:
            self.line.dial(self)
        else:
            self.transport.abort()


class Line:
    """Listens on `port` and passes everything to a server on another, until it is cut."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.whole = True
        self.transports: set[asyncio.Transport] = set()
        self._to = port
        self._dials: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection and let no new one through."""
        self.whole = False
        for transport in list(self.transports):
            transport.abort()

    def mend(self) -> None:
        """Let new connections through."""
        self.whole = True

    def dial(self, client: _End) -> None:
        dial = asyncio.create_task(self._dial(client))
        self._dials.add(dial)
        dial.add_done_callback(self._dials.discard)

    async def _dial(self, client: _End) -> None:
        assert client.transport is not None
        try:
            _, server = await asyncio.get_running_loop().create_connection(lambda: _End(self), "127.0.0.1", self._to)
        except OSError:
            client.transport.abort()
            return
        client.other, server.other = server, client
        assert server.transport is not None
        if not self.whole or client.transport.is_closing():
            server.transport.abort()
            client.transport.abort()
        for one, other in ((client, server), (server, client)):
            for data in one.early:
                assert other.transport is not None
                other.transport.write(data)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Client(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for dial in self._dials:
            dial.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        await self._server.wait_closed()
