"""The server: connections, subjects, requests; what JetStream is asked for goes to `JetStream`.

Everything happens on the event loop of whoever opened it, in the order in which it was written; a message
takes no time.  Two accounts: users named ``system`` hear ``$SYS.ACCOUNT.*.CONNECT`` and
``DISCONNECT``, everybody else shares the other one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from typing import Final
from urllib.parse import ParseResult

import msgspec
from nats.aio.transport import Transport

from coord import limits
from coord.bus import patched
from coord.testing.memory import protocol
from coord.testing.memory.interest import Interest
from coord.testing.memory.jetstream import JetStream

SYSTEM_USER: Final = "system"
"""Of the system account, with any password."""

MAX_PAYLOAD: Final = 8 * limits.MIB
"""As coord's servers have it (deploy/nats.conf)."""

_NO_RESPONDERS: Final = protocol.status(503)


class _Subscription:
    __slots__ = ("client", "left", "queue", "sid", "subject")

    def __init__(self, client: _Client, subject: str, queue: str, sid: str) -> None:
        self.client, self.subject, self.queue, self.sid = client, subject, queue, sid
        self.left = 0
        """Messages until it ends; 0: it does not."""


class _Account:
    def __init__(self, name: str) -> None:
        self.name = name
        self.interest: Interest[_Subscription] = Interest()
        self.turns = 0


class _Client:
    """One connection, the server's half."""

    def __init__(self, server: MemoryServer, number: int) -> None:
        self.server = server
        self.id = number
        self.name = ""
        self.account: _Account | None = None
        self.subscriptions: dict[str, _Subscription] = {}
        self.open = True
        self.reader = asyncio.StreamReader(limit=2**30)
        self._parser = protocol.Parser()
        self._received: list[bytes] = []
        self._out: list[bytes] = []

    # --- what it says ------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes of its, to be looked at in the loop's next turn."""
        if not self._received:
            asyncio.get_running_loop().call_soon(self._take)
        self._received.append(data)

    def _take(self) -> None:
        data, self._received = b"".join(self._received), []
        if not self.open:
            return
        try:
            for command in self._parser.feed(data):
                self._do(command)
        except protocol.BadCommand:
            self.send(b"-ERR 'Unknown Protocol Operation'\r\n")
            self.close("Protocol Violation")

    def _do(self, command: protocol.Command) -> None:
        if not self.open:
            return  # closed by what came before
        match command:
            case protocol.Publish():
                self.server.publish(self, command)
            case protocol.Ping():
                self.send(b"PONG\r\n")
            case protocol.Subscribe(subject, queue, sid):
                self._subscribe(_Subscription(self, subject, queue, sid))
            case protocol.Unsubscribe(sid, messages_max):
                self._unsubscribe(sid, messages_max)
            case protocol.Connect(options):
                self.name = str(options.get("name") or "")
                self.account = self.server.account("$SYS" if options.get("user") == SYSTEM_USER else "$G")
                self.server.joined(self)

    def _subscribe(self, subscription: _Subscription) -> None:
        if self.account is not None:
            self.subscriptions[subscription.sid] = subscription
            self.account.interest.add(subscription.subject, subscription)

    def _unsubscribe(self, sid: str, messages_max: int) -> None:
        subscription = self.subscriptions.get(sid)
        if subscription is None or self.account is None:
            return
        if messages_max:
            subscription.left = messages_max
            return
        del self.subscriptions[sid]
        self.account.interest.discard(subscription.subject, subscription)

    # --- what it is told -----------------------------------------------------------------------

    def deliver(self, to: _Subscription, subject: str, reply: str, headers: bytes | None, body: bytes) -> None:
        """One message."""
        self.send(protocol.message(subject, to.sid, reply, headers, body))
        if to.left:
            to.left -= 1
            if not to.left:
                self._unsubscribe(to.sid, 0)

    def send(self, data: bytes) -> None:
        """Bytes to it; those of one turn of the loop arrive together."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        data, self._out = b"".join(self._out), []
        if self.open:
            self.reader.feed_data(data)

    def close(self, reason: str) -> None:
        """The connection ends.  Twice is legal."""
        if not self.open:
            return
        if self._out:
            self._flush()
        self.open = False
        self.reader.feed_eof()
        if self.account is not None:
            for subscription in self.subscriptions.values():
                self.account.interest.discard(subscription.subject, subscription)
        self.subscriptions.clear()
        self.server.left(self, reason)


class _Transport(Transport):
    """The client's half of a connection: what nats-py takes for a socket."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._client: _Client | None = None

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002
        self._client = self._server.accept()

    async def connect_tls(self, *_: object, **__: object) -> None:
        raise ConnectionError("a server in memory has no TLS")

    def write(self, payload: bytes) -> None:
        self._there().receive(bytes(payload))

    def writelines(self, payload: list[bytes]) -> None:
        self._there().receive(b"".join(payload))

    async def read(self, buffer_size: int) -> bytes:  # noqa: ARG002 - there is no socket to be read bit by bit
        return await self._there().reader.read(2**20)

    async def readline(self) -> bytes:
        return await self._there().reader.readline()

    async def drain(self) -> None:
        await asyncio.sleep(0)

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        if self._client is not None:
            self._client.close("Client Closed")

    def at_eof(self) -> bool:
        return self._client is None or self._client.reader.at_eof()

    def __bool__(self) -> bool:
        return self._client is not None and self._client.open

    def _there(self) -> _Client:
        if self._client is None or (not self._client.open and self._client.reader.at_eof()):
            raise ConnectionResetError("the connection is closed")
        return self._client


class MemoryServer:
    """See the module: `start` it, connect to `url`, `stop` it.  Of one event loop."""

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self._host = f"memory-{next(self._numbers)}.invalid"
        self.url = f"nats://{self._host}:4222"
        """For `NatsConfig` and `coord.connect`; only this process understands it."""
        self.id = f"MEMORY{secrets.token_hex(8).upper()}"
        self._accounts = {name: _Account(name) for name in ("$G", "$SYS")}
        self._clients: dict[int, _Client] = {}
        self._ids = itertools.count(1)
        self._banned: set[str] = set()
        self.running = False
        self.jetstream = JetStream(self)

    # --- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Take connections, again after a `stop` with everything that was stored."""
        patched.transports[self._host] = lambda: _Transport(self)
        self.running = True
        self.jetstream.start()

    def stop(self) -> None:
        """Hang up on everybody and take nobody; what was acknowledged is kept.  As ``kill -9`` it is sudden."""
        self.running = False
        for client in list(self._clients.values()):
            client.close("Server Shutdown")
        self.jetstream.stop()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        patched.transports.pop(self._host, None)

    def cut(self, name: str, *, for_good: bool = False) -> int:
        """End the connections whose names begin so, as when their process died; how many there were.

        `for_good`: nobody of that name is let in again.
        """
        found = [client for client in self._clients.values() if client.name.startswith(name)]
        if for_good:
            self._banned.add(name)
        for client in found:
            client.close("Client Closed")
        return len(found)

    # --- connections -----------------------------------------------------------------------

    def accept(self) -> _Client:
        """A new connection; raises `ConnectionRefusedError` when stopped."""
        if not self.running:
            raise ConnectionRefusedError("the server in memory is stopped")
        client = _Client(self, next(self._ids))
        self._clients[client.id] = client
        info = {
            "server_id": self.id, "server_name": self._host, "version": "2.15.1", "proto": 1, "headers": True,
            "max_payload": MAX_PAYLOAD, "client_id": client.id, "host": self._host, "port": 4222, "jetstream": True,
        }  # fmt: skip
        client.send(b"INFO " + json.dumps(info).encode() + b"\r\n")
        return client

    def account(self, name: str) -> _Account:
        """One of the two."""
        return self._accounts[name]

    def joined(self, client: _Client) -> None:
        """It has said who it is."""
        if any(client.name.startswith(name) for name in self._banned):
            client.close("Authentication Failure")
            return
        self._advise(client, "CONNECT")

    def left(self, client: _Client, reason: str) -> None:
        """Its connection has ended."""
        self._clients.pop(client.id, None)
        if client.account is not None:
            self._advise(client, "DISCONNECT", reason)

    def _advise(self, client: _Client, what: str, reason: str = "") -> None:
        assert client.account is not None
        body = {
            "type": f"io.nats.server.advisory.v1.client_{what.lower()}",
            "server": {"id": self.id, "name": self._host},
            "client": {"id": client.id, "name": client.name, "acc": client.account.name},
            "reason": reason,
        }
        subject = f"$SYS.ACCOUNT.{client.account.name}.{what}"
        self._route(self._accounts["$SYS"], subject, "", None, msgspec.json.encode(body))

    # --- messages ----------------------------------------------------------------------------

    def publish(self, client: _Client, said: protocol.Publish) -> None:
        """What a client published: to whoever listens, and to JetStream."""
        account = client.account
        if account is None:
            return
        heard = self._route(account, said.subject, said.reply, said.headers, said.body)
        if account.name == "$G":
            heard = self.jetstream.published(said.subject, said.reply, said.headers, said.body) or heard
        if not heard and said.reply:
            self._route(account, said.reply, "", _NO_RESPONDERS, b"")

    def say(self, to: str, headers: bytes | None, body: bytes, *, subject: str = "", reply: str = "") -> bool:
        """For JetStream: a message to whoever listens to `to`, shown as of `subject`; whether anybody does."""
        return self._route(self._accounts["$G"], to, reply, headers, body, shown=subject)

    def wanted(self, subject: str) -> bool:
        """For JetStream: whether anybody listens."""
        return bool(self._accounts["$G"].interest.match(subject))

    def _route(
        self, account: _Account, to: str, reply: str, headers: bytes | None, body: bytes, *, shown: str = ""
    ) -> bool:
        heard = account.interest.match(to)
        subject = shown or to
        queues: dict[str, list[_Subscription]] = {}
        for subscription in heard:
            if subscription.queue:
                queues.setdefault(subscription.queue, []).append(subscription)
            else:
                subscription.client.deliver(subscription, subject, reply, headers, body)
        for members in queues.values():
            account.turns += 1  # the server draws lots; taking turns is a way of doing so
            one = members[account.turns % len(members)]
            one.client.deliver(one, subject, reply, headers, body)
        return bool(heard)
