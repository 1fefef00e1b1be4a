"""A broker behind TLS that wants a certificate: all arrives as without, also what is read and written by calls.

Who asks for encryption says nothing without it, and shows the certificates that its files have when it connects.

The certificates in `tls/` are for 127.0.0.1 and these tests alone; nobody has their authority's key any more.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import ssl
import urllib.request
from pathlib import Path

import msgspec
import pytest

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.bus.patched import Message
from coord.ops import expiries
from tests.support.waiting import until

HERE = Path(__file__).with_name("tls")
OF_THE_SERVER = f"""
tls {{
  cert_file: "{HERE / "server.pem"}"
  key_file: "{HERE / "server-key.pem"}"
  ca_file: "{HERE / "ca.pem"}"
  verify: true
}}
"""


def config(url: str) -> NatsConfig:
    return NatsConfig(
        urls=(url,),
        tls_ca_file=str(HERE / "ca.pem"),
        tls_cert_file=str(HERE / "client.pem"),
        tls_key_file=str(HERE / "client-key.pem"),
    )


@pytest.fixture
async def server(start_nats):
    return await start_nats(extra=OF_THE_SERVER)


@pytest.fixture
async def conn(server):
    connection = await Connection.open(config(server.url), name="test")
    yield connection
    await connection.close()


async def test_what_the_server_has_shown_says_when_it_ends(conn: Connection) -> None:
    assert conn.certificate is not None
    term = expiries.of_certificate(conn.certificate)
    assert (str(term.begins), str(term.ends)) == ("2026-11-23 04:59:23+00:00", "2126-10-30 04:59:23+00:00")


async def test_messages_of_any_size_arrive_once_and_in_order(conn: Connection, rng: random.Random) -> None:
    assert isinstance(conn.client._transport._io_writer.get_extra_info("ssl_object"), ssl.SSLObject)  # type: ignore[union-attr]
    subject, got, by_calls = conn.new_inbox(), list[bytes](), list[bool]()

    def on_message(message: Message) -> None:
        got.append(message.data)
        by_calls.append(asyncio.current_task() is None)

    await conn.subscribe(subject, on_message)
    await conn.flush()
    sent = [b"%d " % n + b"x" * rng.choice((0, 1, 100, 16_000, 40_000, 300_000)) for n in range(200)]
    for n, body in enumerate(sent):
        conn.publish(subject, body)
        if n % 20 == 0:
            await conn.flush()
        elif n % 3 == 0:
            await asyncio.sleep(0)
    await conn.flush()
    for n in range(10):  # little that comes alone is handed on at once, whatever came before
        sent.append(b"little %d" % n)
        conn.publish(subject, sent[-1])
        await conn.flush()
    assert got == sent
    assert all(by_calls[-10:])
    assert not all(by_calls)


async def test_facts_are_acknowledged_also_by_a_connection_that_was_lost(conn: Connection) -> None:
    await conn.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s"], "storage": "file"})
    for first in (1, 501):
        answers = await asyncio.gather(*(conn.request("s", b"%d" % n) for n in range(500)))
        assert [json.loads(answer.data)["seq"] for answer in answers] == list(range(first, first + 500))
        if first == 1:
            epoch = conn.epoch
            conn.client._transport._io_writer.transport.abort()  # type: ignore[union-attr]
            await until(lambda epoch=epoch: conn.epoch > epoch and conn.is_connected)  # type: ignore[misc]


async def test_nobody_comes_in_without_a_certificate(server) -> None:
    nobody = msgspec.structs.replace(config(server.url), tls_cert_file=None, tls_key_file=None, connect_timeout_s=0.5)
    with pytest.raises(errors.NotConnected):
        await Connection.open(nobody, name="test")


async def test_a_broker_that_is_deaf_to_a_handshake_holds_nobody_up() -> None:
    hung_up = asyncio.Event()

    async def hear_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"deaf","version":"2.12.0","max_payload":1048576,"tls_required":true}\r\n')
        await reader.read()
        writer.close()
        hung_up.set()

    async with await asyncio.start_server(hear_nothing, "127.0.0.1", 0) as deaf:
        url = f"nats://127.0.0.1:{deaf.sockets[0].getsockname()[1]}"
        somebody = msgspec.structs.replace(config(url), connect_timeout_s=0.2)
        with pytest.raises(errors.NotConnected):
            await Connection.open(somebody, name="test")
        await hung_up.wait()


@pytest.mark.parametrize("asked", ["tls", "nats"])
async def test_without_encryption_nothing_is_said(asked: str) -> None:
    """Where somebody in between takes the word of TLS out of what the server says, he shall not get the password."""
    heard, hung_up = bytearray(), asyncio.Event()

    async def in_between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true}\r\n')
        while block := await reader.read(1024):
            heard.extend(block)
            writer.write(b"PONG\r\n")
        writer.close()
        hung_up.set()

    listening = await asyncio.start_server(in_between, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    files = config("").tls_ca_file if asked == "nats" else None
    meant = NatsConfig(
        urls=(f"{asked}://127.0.0.1:{port}",), user="a", password="secret", tls_ca_file=files, connect_timeout_s=0.3
    )
    with pytest.raises(errors.BrokerNotTrusted):
        await Connection.open(meant, name="test")
    listening.close()
    await hung_up.wait()
    assert not heard


async def test_certificates_that_were_renewed_are_shown_from_the_next_connection_on(server, tmp_path: Path) -> None:
    cert, key = tmp_path / "mine.pem", tmp_path / "mine-key.pem"
    shutil.copy(HERE / "client.pem", cert)
    shutil.copy(HERE / "client-key.pem", key)
    mine = msgspec.structs.replace(config(server.url), tls_cert_file=str(cert), tls_key_file=str(key))
    conn = await Connection.open(mine, name="test")

    async def again() -> str:
        """Lose the connection; whom the server sees in the next one."""
        epoch = conn.epoch
        conn.client._transport._io_writer.transport.abort()  # type: ignore[union-attr]
        await until(lambda: conn.epoch > epoch and conn.is_connected)
        shown = await asyncio.to_thread(urllib.request.urlopen, f"{server.http_url}/connz?auth=1&subs=0")
        return str(json.loads(shown.read())["connections"][0]["tls_peer_certs"][0]["subject"])

    assert await again() == "CN=client"
    shutil.copy(HERE / "server.pem", cert)  # half of a pair, for as long as the other is not written
    assert await again() == "CN=client"
    shutil.copy(HERE / "server-key.pem", key)
    assert await again() == "CN=server"
    await conn.close()


async def test_certificates_that_cannot_be_used_are_the_operators(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    for name in ("absent.pem", "ca.pem"):
        with pytest.raises(errors.SettingsError, match=name):
            await Connection.open(NatsConfig(tls_ca_file=str(tmp_path / name)), name="test")


async def test_who_is_not_let_in_is_told(start_nats) -> None:
    server = await start_nats(extra="authorization { user: coord, password: right }")
    wrong = NatsConfig(urls=(server.url,), user="coord", password="wrong", connect_timeout_s=0.3)
    with pytest.raises(errors.BrokerLoginRefused) as refused:
        await Connection.open(wrong, name="test")
    assert "wrong" not in str(refused.value)
