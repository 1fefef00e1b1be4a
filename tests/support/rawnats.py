"""NATS spoken over a bare socket: what a hostile or broken client sends and a proper one refuses to.

Subjects, header blocks and bodies are bytes and go out as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Self


class RawNats:
    """``async with RawNats(port) as raw``: publish anything, and learn what the broker made of it."""

    def __init__(self, port: int) -> None:
        self.errors: list[str] = []
        """What the server said with -ERR; most end the connection, and the next publish makes a new one."""
        self.answers: dict[int, dict[str, Any]] = {}
        """Number of the publish → PubAck, or {"status": 503} where no stream took it."""
        self.published = 0
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self._pongs = 0

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._hang_up()

    async def publish(
        self, subject: bytes | str, body: bytes = b"", headers: bytes | None = None, *, reply: bytes | str | None = None
    ) -> int:
        """Send one PUB or HPUB; the number under which its answer will be found.

        `reply`: default an inbox of ours; "" for none.
        """
        if self._writer is None or self._writer.is_closing():
            await self._hang_up()
            await self._connect()
        number, self.published = self.published, self.published + 1
        subject = subject if isinstance(subject, bytes) else subject.encode()
        to = b"_RAW.%d" % number if reply is None else reply if isinstance(reply, bytes) else reply.encode()
        assert self._writer is not None
        if headers is None:
            self._writer.write(b"PUB %b %b %d\r\n%b\r\n" % (subject, to, len(body), body))
        else:
            sizes = (len(headers), len(headers) + len(body))
            self._writer.write(b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, to, *sizes, headers, body))
        with contextlib.suppress(OSError):
            await self._writer.drain()
        return number

    async def settle(self, *numbers: int, timeout_s: float = 100) -> None:
        """Return once the server has read everything, and has answered these publishes or hung up."""
        with contextlib.suppress(OSError):
            pongs = self._pongs
            assert self._writer is not None
            if not self._writer.is_closing():  # uvloop takes nothing for a connection that the server has ended
                self._writer.write(b"PING\r\n")
            await self._until(lambda: self._pongs > pongs, timeout_s)
            await self._until(lambda: all(n in self.answers for n in numbers), timeout_s)

    async def _until(self, condition: Any, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                assert self._listener is not None
                if self._listener.done():
                    return
                self._heard.clear()
                heard = asyncio.ensure_future(self._heard.wait())
                await asyncio.wait({heard, self._listener}, return_when=asyncio.FIRST_COMPLETED)
                heard.cancel()

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        await self._reader.readline()  # INFO
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "raw"}
        self._writer.write(b"CONNECT %b\r\nSUB _RAW.* 1\r\n" % json.dumps(options).encode())
        self._listener = asyncio.create_task(self._listen(self._reader))
        await self.settle()

    async def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        if self._listener is not None:
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                word, *rest = line.split()
                if word in (b"MSG", b"HMSG"):
                    payload = (await reader.readexactly(int(rest[-1]) + 2))[:-2]
                    header = int(rest[-2]) if word == b"HMSG" else 0
                    number = int(rest[0].rpartition(b".")[2])
                    self.answers[number] = json.loads(payload[header:]) if payload[header:] else {"status": 503}
                elif word == b"PING":
                    assert self._writer is not None
                    self._writer.write(b"PONG\r\n")
                elif word == b"PONG":
                    self._pongs += 1
                elif word == b"-ERR":
                    self.errors.append(line.decode("latin-1").strip())
                self._heard.set()
