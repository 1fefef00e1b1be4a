"""The parser hands on exactly what the server wrote, however the socket cuts it into pieces."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from coord.bus.patched import PatchedClient
from coord.bus.pull import PinnedReader, as_published
from coord.wire import headers

Told = tuple[bytes, bytes, bytes, bytes]


class Client(PatchedClient):
    """Remembers what it was told, instead of being connected."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        super().__init__(self.errors.append)
        self.told: list[Any] = []
        self.receivers[b"7"] = lambda *message: self.told.append(message)

    async def _process_ping(self) -> None:
        self.told.append("PING")

    async def _process_pong(self) -> None:
        self.told.append("PONG")

    async def _process_err(self, err_msg: str) -> None:
        self.told.append(err_msg)


def feed(client: Client, pieces: list[bytes], directly: Iterable[bool] = (True, False)) -> None:
    """`directly`: which pieces, in turn, are handed on as the socket gives them, and only what is left is awaited."""

    async def parse() -> None:
        for piece, direct in zip(pieces, itertools.cycle(directly), strict=False):
            rest = client._ps.parse_messages(piece) if direct else piece
            if rest or not direct:
                await client._ps.parse(rest)

    asyncio.run(parse())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({p % (len(data) + 1) for p in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(ends)]


# Any byte may stand in a subject but what divides and what ends a line.
names = st.binary(min_size=1, max_size=12).map(lambda b: b.translate(None, b" \t\r\n") or b"x")
payloads = st.binary(max_size=40) | st.sampled_from(
    [b"MSG a 7 2\r\nhi\r\n", b"PING\r\n", b"\r\n", b"HMSG a 7 b 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", b"x" * 70_000]
)
blocks = st.just(b"NATS/1.0\r\n\r\n") | st.binary(max_size=20).map(lambda b: b"NATS/1.0\r\nA: " + b + b"\r\n\r\n")


@st.composite
def written(draw: st.DrawFn) -> tuple[bytes, Any]:
    """Bytes of the server, and what a client must be told; nothing for a subscription that is gone."""
    kind = draw(st.sampled_from(["MSG", "HMSG", "HMSG", "PING", "PONG", "+OK", "-ERR"]))
    if kind == "PING":
        return b"PING\r\n", "PING"
    if kind == "PONG":
        return b"PONG \r\n", "PONG"
    if kind == "+OK":
        return b"+OK\r\n", None
    if kind == "-ERR":
        return b"-ERR 'Stale Connection'\r\n", "'stale connection'"
    subject, reply, body = draw(names), draw(st.just(b"") | names), draw(payloads)
    sid = draw(st.sampled_from([b"7", b"7", b"7", b"70"]))
    gap = draw(st.sampled_from([b" ", b" ", b" ", b"\t", b"  "]))
    middle = [reply] if reply else []
    if kind == "MSG":
        line = gap.join([b"MSG", subject, sid, *middle, b"%d" % len(body)])
        return line + b"\r\n" + body + b"\r\n", (subject, reply, b"", body) if sid == b"7" else None
    block = draw(blocks)
    line = gap.join([b"HMSG", subject, sid, *middle, b"%d" % len(block), b"%d" % (len(block) + len(body))])
    return line + b"\r\n" + block + body + b"\r\n", (subject, reply, block, body) if sid == b"7" else None


directly = st.lists(st.booleans(), min_size=1, max_size=4)


@given(st.lists(written(), max_size=8), st.lists(st.integers(0, 10**6), max_size=12), directly)
@example(
    [(b"HMSG a 7 b 12 14\r\nNATS/1.0\r\n\r\nhi\r\n", (b"a", b"b", b"NATS/1.0\r\n\r\n", b"hi"))], list(range(60)), [True]
)
def test_what_is_written_is_told_however_it_is_cut_and_handed_on(stream, places, directly):
    client = Client()
    feed(client, cut(b"".join(data for data, _ in stream), places), directly)
    assert client.told == [told for _, told in stream if told is not None]
    messages = [told for told in client.told if isinstance(told, tuple)]
    assert (client.stats["in_msgs"], client.stats["in_bytes"]) == (len(messages), sum(len(m[3]) for m in messages))
    assert not client._ps.buf
    assert not client.errors


@given(st.binary(max_size=60), st.lists(st.integers(0, 10**6), max_size=4), directly)
def test_nonsense_ends_the_connection_or_waits_for_more(noise, places, directly):
    for data in (noise, b"HMSG " + noise, b"MSG a 7 " + noise, b"HMSG a 7 " + noise + b"\r\n"):
        client = Client()
        try:
            feed(client, cut(data, places), directly)
        except ProtocolError:
            pass  # nats-py reconnects
        assert not client.errors


@pytest.mark.parametrize("line", [b"HMSG a 7 b 14 12\r\nNATS/1.0\r\n\r\nhi\r\n", b"WAT\r\n", b"MSG a 7\r\n", b"\r\n"])
@pytest.mark.parametrize("direct", [True, False])
def test_a_line_without_sense(line, direct):
    with pytest.raises(ProtocolError):
        feed(Client(), [line], [direct])


def test_a_line_without_end_is_bounded():
    client = Client()
    with pytest.raises(ProtocolError):
        feed(client, [b"INFO " + b"x" * 65_536] * 17)


def test_a_large_message_is_not_looked_at_before_it_is_there():
    client = Client()
    body = bytes(4 * 2**20)
    data = b"MSG a 7 %d\r\n%b\r\n" % (len(body), body)
    feed(client, [data[i : i + 65_536] for i in range(0, len(data), 65_536)])
    assert client.told == [(b"a", b"", b"", body)]


def test_a_receiver_that_fails_costs_its_message_only():
    client = Client()
    client.receivers[b"8"] = lambda *_: 1 / 0  # type: ignore[assignment]
    feed(client, [b"MSG a 8 0\r\n\r\nMSG b 7 0\r\n\r\n"])
    assert client.told == [(b"b", b"", b"", b"")]
    assert [type(e) for e in client.errors] == [ZeroDivisionError]


# --- a pinned delivery's headers ----------------------------------------------------------


class Bus:
    is_connected = True

    def on_disconnected(self, listener: Any) -> Any:
        return lambda: None

    def publish(self, *args: Any, **options: Any) -> None: ...


pieces = st.sampled_from(
    [b"NATS/1.0", b"NATS/1.0\r\n", b"\r\n", b"\r", b"A: b", b"Nats-Pin-Id: p1", b"Nats-Pin-Id: ", b""]
)


@given(st.lists(pieces | st.binary(max_size=6), max_size=6).map(b"".join), st.sampled_from([b"p1", b"p2"]))
@example(b"NATS/1.0\r\nA: b\r\n", b"p1")
@example(b"NATS/1.0\r\n", b"p1")
@example(b"NATS/1.0", b"p1")
def test_headers_of_a_delivery_are_as_they_were_published(head, pin):
    """The reader knows the line that its deliveries end with; `as_published` looks for any."""
    reader = PinnedReader(Bus(), "EVENTS", "projector-5")  # type: ignore[arg-type]
    reader._pin, reader._pin_line = "p1", b"\r\n%b: p1\r\n\r\n" % headers.PIN_ID.encode()
    for block in (head + b"Nats-Pin-Id: " + pin + b"\r\n\r\n", head):
        for reply in (b"$JS.ACK.EVENTS.projector-5.1.7.1.9.4", b"$JS.ACK.EVENTS.projector-5.2.7.1.9.4",
                      b"$JS.ACK.d.acc.EVENTS.projector-5.1.7.1.9.4.rnd"):  # fmt: skip
            reader._order = type(reader._order)(0)
            asyncio.run(arrive(reader, b"s\xff", reply, block))
            (delivery,) = reader._buffer
            assert delivery.raw_headers == as_published(block or None)
            assert (delivery.seq, delivery.stored_ns, delivery.pending) == (7, 9, 4)
            assert (delivery.subject, delivery.data) == ("s\\xff", b"body")
            reader._buffer.clear()


async def arrive(reader: PinnedReader, subject: bytes, reply: bytes, block: bytes) -> None:
    reader._arrived(subject, reply, block, b"body")
