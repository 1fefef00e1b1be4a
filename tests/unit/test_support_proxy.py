"""The proxy that fault tests break the network with really breaks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import Proxy


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that sends everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def echoes(self, data: bytes, timeout_s: float = 60.0) -> bytes:
        """What comes back of `data`: all of it, or what came before the end."""
        self.writer.write(data)
        got = b""
        async with asyncio.timeout(timeout_s):
            while len(got) < len(data):
                try:
                    more = await self.reader.read(1000)
                except ConnectionError:
                    break
                if not more:
                    break
                got += more
        return got


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    yield client
    client.writer.transport.abort()


async def test_passes_everything_in_pieces_and_late(proxy: Proxy, client: Client) -> None:
    assert await client.echoes(b"hello") == b"hello"
    proxy.piece_bytes = 1
    assert await client.echoes(b"x" * 500) == b"x" * 500
    proxy.piece_bytes, proxy.delay_s = 65536, 0.02
    started = asyncio.get_running_loop().time()
    assert await client.echoes(b"late") == b"late"
    assert asyncio.get_running_loop().time() - started >= 0.04  # there and back


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_stall_passes_nothing_until_it_is_over(proxy: Proxy, client: Client, direction) -> None:
    proxy.stall(direction)
    with pytest.raises(TimeoutError):
        await client.echoes(b"one", 0.05)
    proxy.resume()
    assert await client.echoes(b"two") in {b"one", b"onetwo", b"two"}


async def test_cuts_at_once_and_in_the_middle_of_a_message(proxy: Proxy, client: Client) -> None:
    proxy.cut_after("down", 7)
    assert await client.echoes(b"0123456789") == b"0123456"
    again = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    assert await again.echoes(b"whole") == b"whole"
    proxy.cut()
    assert await again.echoes(b"x") == b""
    again.writer.transport.abort()
    assert proxy.connections == 2


async def test_refuses_or_is_deaf_to_new_connections(proxy: Proxy) -> None:
    proxy.refuse()
    refused = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    assert await refused.echoes(b"x") == b""
    proxy.refuse(False)
    proxy.deafen()
    deaf = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    with pytest.raises(TimeoutError):
        await deaf.echoes(b"x", 0.05)
    for client in (refused, deaf):
        client.writer.transport.abort()


def test_stands_in_front_of_a_database() -> None:
    proxy = Proxy("127.0.0.1", 5432)
    proxy.port = 7
    assert proxy.in_front_of("postgresql://coord@db.example:5432/x?a=b") == "postgresql://coord@127.0.0.1:7/x?a=b"
    assert proxy.in_front_of("postgresql://db.example/x") == "postgresql://127.0.0.1:7/x"
