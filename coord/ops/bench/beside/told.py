"""How a worker tells a submitter that a task has run, where a system has no results: a datagram on loopback.

It costs next to nothing and is not durable: in that system's favour.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

_HOST: Final = "127.0.0.1"
_BUFFER_BYTES: Final = 4 * 2**20
"""Of the receiver: a window of datagrams must not overflow it."""


class Told(asyncio.DatagramProtocol):
    """The submitter's side: who waits for which id."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, asyncio.Future[None]] = {}

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - asyncio's signature
        """Wake who waits for it."""
        waiting = self._waiting.pop(data, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def expect(self, id: str) -> asyncio.Future[None]:  # noqa: A002 - what a task's id is called, everywhere
        """Done once a worker has told that `id` has run."""
        waiting = self._waiting[id.encode()] = asyncio.get_running_loop().create_future()
        return waiting


@contextlib.asynccontextmanager
async def listening(port: int) -> AsyncIterator[Told]:
    """Listen while the block lasts."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.setblocking(False)
    sock.bind((_HOST, port))
    transport, told = await asyncio.get_running_loop().create_datagram_endpoint(Told, sock=sock)
    try:
        yield told
    finally:
        transport.close()


class Teller:
    """The worker's side."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect((_HOST, port))

    def tell(self, id: str) -> None:  # noqa: A002 - as above
        """Say that `id` has run; nothing when nobody wants to know any more."""
        with contextlib.suppress(ConnectionRefusedError):
            self._socket.send(id.encode())

    def close(self) -> None:
        """Say nothing any more."""
        self._socket.close()
