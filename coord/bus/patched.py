"""nats-py's client with the eleven things changed that coord cannot live with.

Why a subclass of a pinned version instead of a client of our own: connecting, TLS,
authentication and reconnecting are well kept in nats-py.  What is replaced is the path of
a message from the parser to whoever waits for it (measured on nats-py 2.16):

1. A subject or header that is not UTF-8 raises inside ``_read_loop``, which ends without
   a word: one hostile publisher would deafen every reader.  Here a subject is decoded with
   ``backslashreplace`` and headers stay raw bytes until somebody asks.
2. Every message takes a queue, a coroutine and a task switch.  Here a *direct*
   subscription's receiver runs synchronously, straight from the parser, and gets the bytes;
   who wants a `Message` wraps its callback in `as_messages`.
3. Publishing checks and re-encodes headers on every call.  Here a header block is encoded
   once by its owner.
4. The parser takes a form feed in a subject for the end of the subject and gives the
   connection up, again and again.  Here it reads as the server writes: `coord.bus.parser`.
5. It reads 32 KiB at a time, and its socket is told to stop and go on at every 64.  Here it
   reads what there is: whoever follows a backlog saves a twentieth of its CPU, and so do the servers.
6. What comes wakes a coroutine, which reads it in the loop's next turn; what is sent wakes another one, which writes
   it in the turn after.  Here little is handed on as the socket gives it, and written at the end of the turn in which
   it was sent: two turns fewer for whoever is woken by one message, which is what a task costs that comes alone.
7. All clients ask for a broker that is away ten times a second.  Here each asks ever more rarely, in its own moments.
8. Who connects and is cancelled in the moment in which an attempt fails goes on for ever.  Here that is the end of it.
9. Asked for encryption it sends its password in the clear to a server that offers none, and it takes the certificates
   of its beginning for ever.  Here the one is refused, the other is read again.
10. All connections of a process that were lost together shake hands together, so slowly that servers end half of the
   handshakes.  Here so many do at a time as one process can (`limits.HANDSHAKES_AT_ONCE`); the others wait.
11. Closing waits for a server that stands still, or never ends a handshake, for as long as it does.  Here it can be cut
   short, and who is cancelled while he waits cancels nobody else.

``tests/contract/test_patched_client.py`` guards every private name used here.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

import msgspec
from nats.aio.client import PING_PROTO, Client, Srv
from nats.aio.transport import TcpTransport, Transport
from nats.errors import NoServersError, ProtocolError, SecureConnWantedError

from coord import limits
from coord.bus.creds import CredsFile
from coord.bus.parser import StrictParser
from coord.core import retry
from coord.errors import InvalidEnvelope
from coord.runtime import clock
from coord.wire import headers as wire_headers

_READ_BYTES: Final = 256 * limits.KIB
"""What is read at a time; uvloop takes as much from the socket at once.  Twice that may wait to be parsed."""


class Headers(Mapping[str, str]):
    """The headers of a message, parsed on first use; a malformed block is an empty mapping.

    Whoever must know that a block is malformed reads ``Message.raw_headers``.
    """

    __slots__ = ("_fields", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._fields: dict[str, str] | None = None

    def _parsed(self) -> dict[str, str]:
        if self._fields is None:
            try:
                block = wire_headers.parse(self.raw)
            except InvalidEnvelope:
                self._fields = {}
            else:
                self._fields = dict(block.fields)
                if block.status is not None:
                    # The two names nats-py itself gives the status line.
                    self._fields["Status"] = str(block.status)
                    self._fields["Description"] = block.description
        return self._fields

    def __getitem__(self, key: str) -> str:
        return self._parsed()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed())

    def __len__(self) -> int:
        return len(self._parsed())


class Message(msgspec.Struct, eq=False, gc=False):
    """One received message."""

    subject: str
    """What in it is not UTF-8 is written as backslash escapes."""
    reply: str
    """"" when there is none."""
    data: bytes
    raw_headers: bytes | None
    """The header block as it came; None when there is none."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The parsed headers; empty when there are none or they are malformed."""
        return Headers(self.raw_headers) if self.raw_headers else {}

    @property
    def status(self) -> int | None:
        """The status of a control message (100, 404, 503 …), None for a message with content."""
        raw = self.raw_headers
        # "NATS/1.0 503": a status line has a space where a plain block has CRLF.
        if raw is None or raw[8:9] != b" ":
            return None
        code = raw[9:12]
        return int(code) if code.isdigit() else None

    def __repr__(self) -> str:
        return f"Message({self.subject!r}, reply={self.reply!r}, {len(self.data)} bytes)"


transports: Final[dict[str, Callable[[], Transport]]] = {}
"""Hosts that are reached by other means than TCP: a server in memory (`coord.testing`) puts itself here."""

_LITTLE_BYTES: Final = 32 * limits.KIB
"""So much at a time is handed on without the reading coroutine; with more others of the loop have their turn first."""

_RETIRED_S: Final = 5.0
"""What a server had sent before it was told that a subscription ends has come by then; it was in the sockets."""

Callback = Callable[[Message], None]

Receiver = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes subject, reply, header block and payload as they came; what is absent is empty."""


def as_message(subject: bytes, reply: bytes, headers: bytes, data: bytes) -> Message:
    """What a receiver is given, as a `Message`."""
    return Message(subject.decode("utf-8", "backslashreplace"), reply.decode("latin-1"), data, headers or None)


def as_messages(callback: Callback) -> Receiver:
    """The receiver that hands on a `Message`."""

    def receive(subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        # `as_message` written out: every ack of a publisher comes along here.
        callback(Message(subject.decode("utf-8", "backslashreplace"), reply.decode("latin-1"), data, headers or None))

    return receive


class _Replayed:
    """What nats-py needs of a subscription to make it again after a reconnect; its own has a queue and three events.

    An agent has a dozen: 3 KiB and 60 µs each.
    """

    __slots__ = ("_queue", "_subject")

    _max_msgs = _received = 0
    _wait_for_msgs_task = _message_iterator = _pending_next_msgs_calls = None

    def __init__(self, subject: str, queue: str) -> None:
        self._subject = subject
        self._queue = queue


_Doors: TypeAlias = WeakValueDictionary[str, asyncio.Semaphore]

_doors: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Doors]] = WeakKeyDictionary()
"""By server: whose handshakes are under way, for as long as somebody shakes hands there, or waits to."""


def _door(server: str) -> asyncio.Semaphore:
    doors = _doors.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    return doors.setdefault(server, asyncio.Semaphore(limits.HANDSHAKES_AT_ONCE))


def _cancellations() -> int:
    """How often the running task was asked to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class _Tcp(TcpTransport):
    """nats-py's, but its end comes, whatever the server does and however many wait for it."""

    async def wait_closed(self) -> None:
        """Return when it has ended, within `limits.CONNECTION_CLOSE_S`: then what is unsent is given up.

        nats-py waits so before it reconnects, and would for as long as a server stands still that does not take it.
        And a stream's end is one future for all: whoever is cancelled while he waits cancels himself alone here.
        """
        ending = asyncio.ensure_future(super().wait_closed())  # type: ignore[no-untyped-call]
        ending.add_done_callback(_heard)
        await asyncio.wait([ending], timeout=limits.CONNECTION_CLOSE_S)
        if not ending.done():
            self.abort()
            await asyncio.wait([ending])
        ending.result()

    def abort(self) -> None:
        """Give up what is unsent: whoever waits for that to be taken, or for the end, goes on."""
        if self._io_writer is not None:
            self._io_writer.transport.abort()


def _heard(ended: asyncio.Future[None]) -> None:
    if not ended.cancelled():
        ended.exception()  # or the loop says that nobody asked, where who waited was cancelled


class PatchedClient(Client):
    """See the module's docstring; everything not named there is nats-py's."""

    def __init__(self, on_callback_error: Callable[[BaseException], None]) -> None:
        super().__init__()
        self._ps: StrictParser = StrictParser(self)
        self.receivers: dict[bytes, Receiver] = {}
        """By subscription id, as the server writes it."""
        self.receiver_failed = on_callback_error
        self._writing = False
        """What is sent is written at the end of this turn,"""
        self._before_write: list[Callable[[], None]] = []
        """and these are called before that."""
        self._retired: deque[tuple[float, bytes]] = deque()
        """Until when receivers of what has been retired are kept (the loop's clock), oldest first."""
        self.tls: Callable[[], ssl.SSLContext | None] | None = None
        """What makes the context of each encrypted connection; None, or for None: the system's."""
        self.creds: CredsFile | None = None
        """Who we are, where a file says it."""
        self.must_encrypt = False
        """Whether to say nothing, the password least of all, to a server that does not encrypt."""
        self._unreadable: ProtocolError | None = None
        """What was found wrong outside of the reading coroutine, which is to end the connection."""
        self._cancelled_before = 0
        """How often whoever connects had been cancelled when it began to."""
        self._shaking: asyncio.Semaphore | None = None
        """Its handshake is under way, and counted there."""

    # --- connecting ----------------------------------------------------------------------

    async def connect(self, *args: Any, **options: Any) -> None:
        """As nats-py's; a cancellation ends it, whatever else ends in the same moment."""
        self._cancelled_before = _cancellations()
        await super().connect(*args, **options)

    async def _connect_to_server(self, s: Srv) -> None:
        """By TCP, or as its scheme says, unless its host is one of `transports`."""
        make = transports.get(s.uri.hostname or "")
        if make is None:
            if s.uri.scheme in ("ws", "wss"):
                await super()._connect_to_server(s)
                return
            make = _Tcp
        s.last_attempt = clock.monotonic()
        self._transport = make()
        await self._transport.connect(s.uri, _READ_BYTES, self.options["connect_timeout"])

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """Asked for at each attempt: the files that it is made of may be others by then."""
        made = None if self.tls is None else self.tls()
        return made if made is not None else super().ssl_context

    def _setup_nkeys_connect(self) -> None:
        """nats-py reads the file, too, but what it cannot read then ends its loop, and the process waits for ever."""
        assert self.creds is not None, "nobody else names a file"
        self._signature_cb, self._user_jwt_cb = self.creds.sign, self.creds.jwt

    def _connect_command(self) -> bytes:
        if self.must_encrypt and not self._server_info.get("tls_required"):
            raise SecureConnWantedError
        return super()._connect_command()

    async def _select_next_server(self) -> None:
        """Reach the server whose turn comes first: one that could not be reached is left alone for ever longer.

        nats-py asks every `reconnect_time_wait`, whoever asks: a fleet of 5,000 would ask a broker that is away 50,000
        times a second, and come back in one moment.
        """
        while True:
            if _cancellations() > self._cancelled_before:
                # `asyncio.wait_for` (before Python 3.12) tells of an attempt that failed in the moment in which it was
                # cancelled, and not of the cancellation: the attempts would have no end.
                raise asyncio.CancelledError
            if not self._server_pool:
                raise NoServersError
            jitter = random.random()
            wait_s, server = min(((self._wait_s(s, jitter), s) for s in self._server_pool), key=lambda found: found[0])
            self._server_pool.remove(server)
            self._server_pool.append(server)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            try:
                await self._enter(server)
                await self._connect_to_server(server)
            except BaseException as exc:  # whatever it is, it is told and tried again, as nats-py does
                self._leave()
                if not isinstance(exc, Exception):
                    raise
                server.last_attempt = clock.monotonic()
                server.reconnects += 1
                self._err = exc
                await self._error_cb(exc)
                continue
            self._current_server = server
            return

    async def _enter(self, server: Srv) -> None:
        """Wait until this handshake may begin; where another server may be asked, for as long as one may take."""
        self._leave()
        door = _door(server.uri.netloc)
        async with asyncio.timeout(self.options["connect_timeout"] if len(self._server_pool) > 1 else None):
            await door.acquire()
        self._shaking = door

    def _leave(self) -> None:
        """The handshake is over, however it ended."""
        door, self._shaking = self._shaking, None
        if door is not None:
            door.release()

    def _wait_s(self, server: Srv, jitter: float) -> float:
        """For how long a server is to be left alone; `jitter` from 0 to 1."""
        if not server.reconnects or server.last_attempt is None:
            return 0.0
        first_s = float(self.options["reconnect_time_wait"])
        apart_s = retry.backoff_of(
            server.reconnects, jitter, first_s=first_s, most_s=first_s * limits.RECONNECT_WAITS_MAX
        )
        left_s = server.last_attempt + apart_s - clock.monotonic()
        return min(max(0.0, left_s), apart_s)  # nats-py notes failures, too, by a clock that may be another one

    async def _process_connect_init(self) -> None:
        """Close the socket when the handshake fails, or is given up.

        nats-py goes on to the next attempt and leaves it half open, until the collector finds it; or waits to be told
        of its end, for ever where TLS was begun: then TLS's protocol is told, and the stream's, which it asks, is not.
        """
        try:
            await super()._process_connect_init()
        except BaseException as exc:
            transport, self._transport = self._transport, None
            if transport is not None:
                transport.close()  # type: ignore[no-untyped-call]
            if isinstance(exc, (ValueError, TypeError, LookupError, AttributeError)) and not isinstance(exc, OSError):
                # What was read is no server's INFO; nats-py would not try again, and say nothing.
                raise ProtocolError(f"whoever answers is no NATS server: {exc}") from exc
            raise
        finally:
            self._leave()

    def abort(self) -> None:
        """Give up what is unsent; see `_Tcp.abort`."""
        if isinstance(self._transport, _Tcp):
            self._transport.abort()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        """Send PING behind everything written before, so that its PONG means what `flush` promises.

        nats-py writes it straight to the transport, past what waits for the flusher: a
        `flush` right after `subscribe` then returned before the server knew the subscription.
        """
        self._pongs.append(future if future is not None else asyncio.get_running_loop().create_future())
        self._send(PING_PROTO)

    # --- receiving -----------------------------------------------------------------------

    async def _read_loop(self) -> None:
        """Read as much as there is, up to `_READ_BYTES`; everything else is nats-py's."""
        transport = self._transport
        self._unreadable = None
        if isinstance(transport, TcpTransport) and (reader := transport._io_reader) is not None:  # noqa: SLF001
            reader._limit = _READ_BYTES  # type: ignore[attr-defined]  # noqa: SLF001
            feed = reader.feed_data

            async def read(buffer_size: int) -> bytes:  # noqa: ARG001 - nats-py says 32 KiB
                data = await reader.read(_READ_BYTES)
                if self._unreadable is not None:
                    raise self._unreadable
                return data

            def fed(data: bytes) -> None:
                if len(data) <= _LITTLE_BYTES and not reader._buffer and self._transport is transport:  # type: ignore[attr-defined]  # noqa: SLF001
                    data = self._hand_on(data)
                    if not data:
                        return
                feed(data)

            transport.read = read  # type: ignore[method-assign]
            reader.feed_data = fed  # type: ignore[method-assign, assignment]
        await super()._read_loop()

    def _hand_on(self, data: bytes) -> bytes:
        """Take what has just come as far as it is messages; what is left is the reading coroutine's."""
        if self._ps.busy or not self.is_connected:
            return data
        try:
            return self._ps.parse_messages(data)
        except ProtocolError as exc:
            self._unreadable = exc
            return data

    async def subscribe_direct(self, subject: str, receiver: Receiver, queue: str = "") -> int:
        """Subscribe with a synchronous receiver, called from the parser; returns the subscription's id.

        Subjects are not validated here: callers build them with `coord.wire.subjects`.
        """
        sid = self.listen_direct(subject, receiver, queue)
        self._subs[sid] = _Replayed(subject, queue)  # type: ignore[assignment]
        return sid

    async def unsubscribe_direct(self, sid: int) -> None:
        """Forget a subscription; messages already on their way are dropped.  Twice is legal."""
        if self.receivers.pop(b"%d" % sid, None) is None:
            return
        self._subs.pop(sid, None)
        if self.is_connected:
            self._send(f"UNSUB {sid}\r\n".encode())

    def listen_direct(self, subject: str, receiver: Receiver, queue: str = "") -> int:
        """As `subscribe_direct`, on this connection only: gone after a reconnect.  Written like what is published.

        What comes and goes with each task is to cost nothing but its line: no queue, no wake-up of another coroutine.
        """
        self._sid += 1
        sid = self._sid
        self.receivers[b"%d" % sid] = receiver
        self._send(f"SUB {subject} {queue} {sid}\r\n".encode())
        return sid

    def retire_direct(self, sid: int) -> None:
        """End `listen_direct` without waiting: what the server has sent by then is taken for `_RETIRED_S`."""
        key = b"%d" % sid
        if not self.is_connected:
            self.receivers.pop(key, None)
            return
        self._send(f"UNSUB {sid}\r\n".encode())
        now, retired = asyncio.get_running_loop().time(), self._retired
        while retired and retired[0][0] <= now:
            self.receivers.pop(retired.popleft()[1], None)
        retired.append((now + _RETIRED_S, key))

    # --- sending -------------------------------------------------------------------------

    def write_publish(self, subject: str, reply: str, headers: bytes | None, body: bytes) -> None:
        """Append one PUB or HPUB to the outgoing buffer and wake the flusher.

        The caller has checked `is_connected` and the size; the buffer is bounded by the
        caller's in-flight window.
        """
        if headers is None:
            command = b"".join((f"PUB {subject} {reply} {len(body)}\r\n".encode(), body, b"\r\n"))
        else:
            size = len(headers)
            line = f"HPUB {subject} {reply} {size} {size + len(body)}\r\n".encode()
            command = b"".join((line, headers, body, b"\r\n"))
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(body)
        self._send(command)

    def _send(self, command: bytes) -> None:
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._writing:
            self._write_soon()

    def before_write(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, before what is sent in this turn is written; it may send more."""
        self._before_write.append(callback)
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        """Write what was sent in the last turn; where the peer does not keep up, the flusher does, and waits for it."""
        before, self._before_write = self._before_write, []
        try:
            while before:
                try:
                    before.pop(0)()
                except Exception as exc:  # noqa: BLE001 - a defect of its owner: what is sent is written all the same
                    self.receiver_failed(exc)
        except BaseException:  # it may raise itself: what is left, and what was sent, in the next turn
            self._writing = False
            self._before_write[:0] = before
            self._write_soon()
            raise
        self._writing = False
        if self._before_write:  # asked for by those who were called
            self._write_soon()
        if not self._pending or not self.is_connected:
            return
        transport = self._transport
        if isinstance(transport, TcpTransport) and (writer := transport._io_writer) is not None:  # noqa: SLF001
            socket = writer.transport
            if not socket.get_write_buffer_size() and not socket.is_closing():
                pending, self._pending, self._pending_data_size = self._pending, [], 0
                socket.write(b"".join(pending))
                return
        queue = self._flush_queue
        if queue is not None and queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())

    def discard_outgoing(self) -> None:
        """Forget what was never written; call while disconnected.

        nats-py keeps it and sends it first after a reconnect, ahead of older messages that
        were written and lost: that would turn the order of a key around.
        """
        self._pending = []
        self._pending_data_size = 0
