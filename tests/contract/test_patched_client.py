"""What coord relies on in nats-py's private parts and in the server: fails on an upgrade that changes it."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import termios

import pytest

from coord import errors, limits
from coord.bus import patched
from coord.bus.connection import Connection, NatsConfig
from coord.bus.patched import Message, PatchedClient
from tests.support.standing import standing_still
from tests.support.waiting import until


@pytest.fixture
async def conn(nats_server):
    connection = await Connection.open(NatsConfig(urls=(nats_server.url,)), name="test")
    yield connection
    await connection.close()


def unread(transport: asyncio.Transport) -> int:
    """Bytes that have come and that nobody has read."""
    found = array.array("i", [0])
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, found)
    return found[0]


async def receive(conn: Connection, subject: str, count: int, act) -> list[Message]:
    got: list[Message] = []
    done = asyncio.Event()

    def on_message(message: Message) -> None:
        got.append(message)
        if len(got) >= count:
            done.set()

    subscription = await conn.subscribe(subject, on_message)
    await conn.flush()
    await act()
    async with asyncio.timeout(60):
        await done.wait()
    await subscription.unsubscribe()
    return got


def test_private_names_exist() -> None:
    client = PatchedClient(print)
    for name in ("_pending", "_pending_data_size", "_flush_queue", "_subs", "_sid", "stats", "_max_payload"):
        assert hasattr(client, name), name
    for name in ("_send_command", "_flush_pending"):
        assert callable(getattr(client, name)), name


async def test_a_server_alone_is_no_cluster(conn) -> None:
    """That three are is in tests/faults/test_cluster.py."""
    assert not conn.is_clustered
    assert "max_payload" in conn.client._server_info


async def test_publish_arrives_with_headers_and_in_order(conn) -> None:
    subject = conn.new_inbox()

    async def act() -> None:
        for i in range(1000):
            conn.publish(subject, str(i).encode(), headers=b"NATS/1.0\r\nA: %d\r\n\r\n" % i)

    got = await receive(conn, subject, 1000, act)
    assert [int(m.data) for m in got] == list(range(1000))
    assert [m.headers["A"] for m in got] == [str(i) for i in range(1000)]
    assert got[0].status is None


async def test_what_was_sent_before_an_inbox_is_retired_comes_and_nothing_after_it(conn, monkeypatch) -> None:
    monkeypatch.setattr(patched, "_RETIRED_S", 0.0)
    got: list[bytes] = []
    inbox = conn.new_inbox()
    listening = conn.listen(inbox, lambda _subject, _reply, _headers, data: got.append(data))
    conn.publish(inbox, b"before")
    listening.retire()
    conn.publish(inbox, b"after")
    await conn.flush()
    assert got == [b"before"]
    for _ in range(3):
        conn.listen(inbox, lambda *_: None).retire()
    assert len(conn.client.receivers) == 1, "the others' time was over"


async def test_white_space_in_a_subject_does_not_end_the_connection(conn, nats_server) -> None:
    """The server takes any byte but blanks, tabs and line ends."""
    odd = [bytes([b]) for b in range(1, 256) if b not in b" \t\r\n.*>"]

    def send_raw() -> None:
        with socket.create_connection(("127.0.0.1", nats_server.port)) as raw:
            raw.recv(4096)
            raw.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
            for byte in odd:
                raw.sendall(b"PUB odd.a%bb reply%b.x 2\r\nhi\r\n" % (byte, byte))
                raw.sendall(b"HPUB odd.a%bb 12 14\r\nNATS/1.0\r\n\r\nhi\r\n" % byte)
            raw.sendall(b"PING\r\n")
            raw.recv(4096)

    epoch = conn.epoch
    got = await receive(conn, "odd.>", 2 * len(odd), lambda: asyncio.to_thread(send_raw))
    assert [m.subject for m in got[::2]] == [(b"odd.a%bb" % b).decode("utf-8", "backslashreplace") for b in odd]
    assert {m.data for m in got} == {b"hi"}
    assert conn.epoch == epoch


async def test_hostile_bytes_do_not_end_the_read_loop(conn, nats_server) -> None:
    """A subject and headers that are not UTF-8, sent by a raw socket."""

    def send_raw() -> None:
        with socket.create_connection(("127.0.0.1", nats_server.port)) as raw:
            raw.recv(4096)
            raw.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
            raw.sendall(b"PUB hostile.\xff\xfe 2\r\nhi\r\n")
            header = b"NATS/1.0\r\nX: \xff\xfe\r\n\r\n"
            raw.sendall(b"HPUB hostile.b %d %d\r\n%bhi\r\n" % (len(header), len(header) + 2, header))
            raw.sendall(b"PUB hostile.c 4\r\nlast\r\nPING\r\n")
            raw.recv(4096)

    async def act() -> None:
        await asyncio.to_thread(send_raw)

    got = await receive(conn, "hostile.>", 3, act)
    assert got[0].subject == "hostile.\\xff\\xfe"
    assert dict(got[1].headers) == {}
    assert got[1].raw_headers is not None
    assert b"\xff" in got[1].raw_headers
    assert got[2].data == b"last"


async def test_what_has_come_is_read_in_large_pieces(conn, nats_server) -> None:
    """nats-py's own would be 32 KiB; a reconnect has a new reader."""
    for _ in range(2):
        subject, client = conn.new_inbox(), conn.client
        sizes: list[int] = []
        parse = client._ps.parse

        async def measured(data: bytes = b"", parse=parse, sizes=sizes) -> None:
            sizes.append(len(data))
            await parse(data)

        client._ps.parse = measured
        other = await Connection.open(NatsConfig(urls=(nats_server.url,)), name="other")

        async def act(other=other, subject=subject, client=client) -> None:
            socket_of = client._transport._io_writer.transport
            socket_of.pause_reading()
            for _ in range(64):
                other.publish(subject, b"x" * 8192)
            await other.flush()
            await until(lambda: unread(socket_of) > 40 * limits.KIB)
            socket_of.resume_reading()

        await receive(conn, subject, 64, act)
        client._ps.parse = parse
        assert max(sizes) > 32 * limits.KIB
        await other.close()
        epoch = conn.epoch
        client._transport._io_writer.transport.abort()
        await until(lambda epoch=epoch: conn.epoch > epoch and conn.is_connected)  # type: ignore[misc]


async def test_little_is_handed_on_as_it_comes_and_in_order_with_what_is_more(conn) -> None:
    """Without the reading coroutine; what follows a line that is no message, or is much, is that one's."""
    subject, tasks = conn.new_inbox(), []
    got: list[bytes] = []

    def on_message(message: Message) -> None:
        got.append(message.data)
        tasks.append(asyncio.current_task())

    await conn.subscribe(subject, on_message)
    await conn.flush()
    conn.publish(subject, b"alone")
    await until(lambda: got)
    assert tasks == [None]
    sent = [b"%d " % n + b"x" * size for n, size in enumerate([1, 100_000, 1, 1, 40_000, 300_000, 1, 2] * 8)]
    for n, body in enumerate(sent):
        conn.publish(subject, body)
        if n % 5 == 0:
            await conn.flush()  # a PONG comes between them
        elif n % 7 == 0:
            await asyncio.sleep(0)
    await conn.flush()
    assert got[1:] == sent
    assert None in tasks[1:]
    assert not all(task is None for task in tasks)
    # What the socket gives twice in one turn, of which the first was much.
    got.clear()
    sid = conn.client._sid
    for body in (b"x" * 100_000, b"y"):
        conn.client._transport._io_reader.feed_data(b"MSG a %d %d\r\n%b\r\n" % (sid, len(body), body))
    await until(lambda: len(got) == 2)
    assert got[1] == b"y"


async def test_what_makes_no_sense_in_little_ends_the_connection_which_comes_back(conn) -> None:
    epoch, client = conn.epoch, conn.client
    got: list[bytes] = []
    subject = conn.new_inbox()
    await conn.subscribe(subject, lambda m: got.append(m.data))
    nonsense = b"MSG a %d 4\r\nonce\r\nHMSG a 1 b 14 12\r\nNATS/1.0\r\n\r\nhi\r\n" % client._sid
    client._transport._io_reader.feed_data(nonsense)
    await until(lambda: conn.epoch > epoch and conn.is_connected)
    conn.publish(subject, b"again")
    await until(lambda: b"again" in got)
    assert got == [b"once", b"again"]


async def test_what_is_sent_in_one_turn_is_written_at_once(conn) -> None:
    socket_of = conn.client._transport._io_writer.transport
    subject = conn.new_inbox()
    written: list[int] = []
    write = socket_of.write

    class Counting:
        def __getattr__(self, name: str):
            return getattr(socket_of, name)

        def write(self, data: bytes) -> None:
            written.append(len(data))
            write(data)

    writer = conn.client._transport._io_writer
    writer._transport = Counting()
    try:
        for _ in range(3):
            conn.publish(subject, b"together")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(written) == 1
        assert conn.outgoing_bytes == 0
    finally:
        writer._transport = socket_of


async def test_a_failing_callback_is_counted_and_ends_nothing(conn) -> None:
    subject = conn.new_inbox()
    got = []

    def on_message(message: Message) -> None:
        got.append(message)
        if len(got) == 1:
            raise ValueError("defect")

    await conn.subscribe(subject, on_message)
    conn.publish(subject, b"1")
    conn.publish(subject, b"2")
    await conn.flush()
    assert [m.data for m in got] == [b"1", b"2"]
    assert conn.callback_errors == 1


async def test_request_answer_no_responders_and_deadline(conn) -> None:
    subject = conn.new_inbox()
    await conn.subscribe(subject, lambda m: conn.publish(m.reply, b"pong"))
    assert (await conn.request(subject, b"ping")).data == b"pong"
    with pytest.raises(errors.ServiceUnavailable):
        await conn.request(conn.new_inbox(), b"anybody?")
    silent = conn.new_inbox()
    await conn.subscribe(silent, lambda m: None)
    with pytest.raises(errors.DeadlineExceeded):
        await conn.request(silent, b"hello?", timeout_s=0.05)


async def test_a_question_is_asked_again_where_that_is_allowed(conn, monkeypatch) -> None:
    subject, asked = conn.new_inbox(), []

    def answer(message: Message) -> None:
        asked.append(message)
        if len(asked) == 3:
            conn.publish(message.reply, b"pong")

    await conn.subscribe(subject, answer)
    assert (await conn.request(subject, b"ping", timeout_s=30, again_s=0.01)).data == b"pong"
    assert len(asked) >= 3
    asked.clear()
    with pytest.raises(errors.DeadlineExceeded):
        await conn.request(subject, b"ping", timeout_s=0.05)
    await until(lambda: asked)
    await conn.flush()
    assert len(asked) == 1

    repeats = []

    async def request(subject: str, body: bytes, *, timeout_s: float, again_s: float | None) -> Message:
        repeats.append(again_s)
        return Message(subject, "", b"{}", None)

    monkeypatch.setattr(conn, "request", request)
    for question in ("INFO", "STREAM.INFO.EVENTS", "CONSUMER.RESET.S.c", "STREAM.MSG.GET.S", "CONSUMER.CREATE.S.c.>"):
        await conn.api(question)
    assert None not in repeats
    repeats.clear()
    for change in ("STREAM.UPDATE.INFO", "STREAM.PURGE.INFO", "CONSUMER.UNPIN.S.c", "CONSUMER.DELETE.S.c"):
        await conn.api(change)
    assert repeats == [None] * 4


async def test_too_large_is_refused_before_the_broker_cuts_us_off(conn) -> None:
    with pytest.raises(errors.MessageTooLarge):
        conn.publish("x", b"x" * (conn.max_payload + 1))
    with pytest.raises(errors.MessageTooLarge):
        conn.publish("x", b"x" * conn.max_payload, headers=b"NATS/1.0\r\nA: b\r\n\r\n")
    await conn.flush()


async def test_api_errors_are_typed(conn) -> None:
    with pytest.raises(errors.ApiNotFound):
        await conn.api("STREAM.INFO.NOPE")
    assert "streams" in await conn.api("STREAM.NAMES")


async def test_subscriptions_survive_a_server_that_is_killed_and_restarted(start_nats) -> None:
    server = await start_nats()
    conn = await Connection.open(NatsConfig(urls=(server.url,)), name="test")
    lost, back = asyncio.Event(), asyncio.Event()
    conn.on_disconnected(lost.set)
    conn.on_reconnected(back.set)
    got: asyncio.Queue[bytes] = asyncio.Queue()
    await conn.subscribe("t", lambda m: got.put_nowait(m.data))
    async with asyncio.timeout(60):
        server.kill()
        await lost.wait()
        with pytest.raises(errors.NotConnected):
            conn.publish("t", b"lost")
        await server.start()
        await back.wait()
        conn.publish("t", b"again")
        assert await got.get() == b"again"
    await conn.close()


async def test_a_client_closed_by_an_error_comes_back(conn, nats_server) -> None:
    """Any -ERR but two closes nats-py's client for good; the connection must outlive it."""
    back = asyncio.Event()
    conn.on_reconnected(back.set)
    got: asyncio.Queue[bytes] = asyncio.Queue()
    subject = conn.new_inbox()
    await conn.subscribe(subject, lambda m: got.put_nowait(m.data))
    conn.client.write_publish("x", "", None, b"x" * (conn.max_payload + 10))  # past our own check
    async with asyncio.timeout(60):
        await back.wait()
        conn.publish(subject, b"again")
        assert await got.get() == b"again"


async def test_what_is_subscribed_while_a_new_client_connects_is_heard_once(conn, nats_server, monkeypatch) -> None:
    connecting, go, back = asyncio.Event(), asyncio.Event(), asyncio.Event()
    connect = PatchedClient._process_connect_init

    async def held(client: PatchedClient) -> None:
        connecting.set()
        await go.wait()
        await connect(client)

    monkeypatch.setattr(PatchedClient, "_process_connect_init", held)
    conn.on_reconnected(back.set)
    got: list[bytes] = []
    subject, other = conn.new_inbox(), conn.new_inbox()
    before = await conn.subscribe(other, lambda m: got.append(m.data))
    async with asyncio.timeout(60):
        await conn.client.close()
        await connecting.wait()
        made = await conn.subscribe(subject, lambda m: got.append(m.data))
        again = await conn.subscribe(other, lambda m: got.append(m.data))
        await before.unsubscribe()
        go.set()
        await back.wait()
        conn.publish(subject, b"once")
        conn.publish(other, b"too")
        await conn.flush()
        assert got == [b"once", b"too"]
        for one in (made, again):
            await one.unsubscribe()
        conn.publish(subject, b"never")
        await conn.flush()
        assert got == [b"once", b"too"]


async def test_a_close_that_is_cancelled_leaves_nobody_waiting(conn, monkeypatch) -> None:
    monkeypatch.setattr(conn.client, "close", asyncio.Event().wait)
    told: list[bool] = []
    conn.on_disconnected(lambda: told.append(conn.is_closed))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await conn.close()
    assert told == [True]
    monkeypatch.undo()
    await conn.client.close()


async def test_a_deadline_is_kept_though_an_attempt_fails_in_the_same_moment(nats_server, monkeypatch) -> None:
    tried = 0

    async def attempt(_: PatchedClient) -> None:
        """As one below `asyncio.wait_for`, which tells of the failure alone then."""
        nonlocal tried
        tried += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionResetError from None

    monkeypatch.setattr(PatchedClient, "_process_connect_init", attempt)
    config = NatsConfig(urls=(nats_server.url,), connect_timeout_s=0.1)
    opening = asyncio.create_task(Connection.open(config, name="test"))
    await asyncio.wait({opening}, timeout=30)
    assert opening.done()
    assert isinstance(opening.exception(), errors.NotConnected)
    assert tried == 1


async def test_no_server_is_an_error_in_time() -> None:
    with socket.socket() as taken:  # and nobody listens: no server of another test can come there
        taken.bind(("127.0.0.1", 0))
        config = NatsConfig(urls=(f"nats://127.0.0.1:{taken.getsockname()[1]}",), connect_timeout_s=0.3)
        with pytest.raises(errors.NotConnected):
            await Connection.open(config, name="test")


@pytest.mark.parametrize("said", [b"x" * 200_000, b"INFO {no\r\n", b"INFO []\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_who_is_no_server_is_asked_again(said: bytes) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write(said if asked < 3 else b'INFO {"server_id":"a","version":"2.12.0","max_payload":1048576}\r\n')
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as somebody, asyncio.timeout(60):
        url = f"nats://127.0.0.1:{somebody.sockets[0].getsockname()[1]}"
        conn = await Connection.open(
            NatsConfig(urls=(url,), reconnect_wait_s=0.01, connect_timeout_s=1.0), name="test", wait=True
        )
        assert asked == 3
        await conn.close()


async def test_a_process_shakes_hands_for_a_few_of_its_connections_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKES_AT_ONCE", 3)
    now = most = comes = refused = 0
    writers: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most, comes, refused
        now, comes = now + 1, comes + 1
        most = max(most, now)
        if comes % 5 == 0:  # a handshake that fails lets the next one begin, too
            now, refused = now - 1, refused + 1
            writer.close()
            return
        writer.write(b'INFO {"server_id":"a","version":"2.12.0","max_payload":1048576,"headers":true}\r\n')
        writers.add(writer)
        shaking = True
        while line := await reader.readline():
            if line == b"PING\r\n":
                await asyncio.sleep(0.002 if shaking else 0)
                now -= shaking
                shaking = False
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as somebody, asyncio.timeout(60):
        url = f"nats://127.0.0.1:{somebody.sockets[0].getsockname()[1]}"
        config = NatsConfig(urls=(url,), reconnect_wait_s=0.01, connect_timeout_s=5.0)
        conns = await asyncio.gather(*(Connection.open(config, name=f"{n}", wait=True) for n in range(20)))
        for _ in range(2):
            lost = list(writers)
            writers.clear()
            for writer in lost:
                writer.transport.abort()
            await until(lambda: len(writers) >= 20 and now == 0 and all(conn.is_connected for conn in conns))
        await asyncio.gather(*(conn.close() for conn in conns))
    assert most == 3
    assert refused


async def test_a_broker_that_stands_still_keeps_nobody_from_leaving(start_nats, monkeypatch) -> None:
    monkeypatch.setattr(limits, "CONNECTION_CLOSE_S", 0.1)
    server = await start_nats()
    conn = await Connection.open(NatsConfig(urls=(server.url,)), name="test")
    with standing_still(server.pid):
        for _ in range(32):  # more than the sockets take
            conn.publish("t", b"x" * 1_000_000)
        async with asyncio.timeout(30):
            await conn.close()


async def test_who_has_much_unsent_leaves_a_broker_that_stands_still_for_another(start_nats, monkeypatch) -> None:
    monkeypatch.setattr(limits, "CONNECTION_CLOSE_S", 0.1)
    still, other = await start_nats(), await start_nats()
    config = NatsConfig(urls=(still.url, other.url), ping_interval_s=0.1, reconnect_wait_s=0.01)
    conn = await Connection.open(config, name="test")
    if conn.client.connected_url.netloc != still.url.removeprefix("nats://"):  # type: ignore[union-attr]
        still, other = other, still
    moved = asyncio.Event()
    conn.on_reconnected(moved.set)
    with standing_still(still.pid):
        for _ in range(32):  # more than the sockets take
            conn.publish("t", b"x" * 1_000_000)
        async with asyncio.timeout(30):
            await moved.wait()
        await conn.flush()
        await conn.close()
