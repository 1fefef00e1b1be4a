"""One suite for nats-server and for the server in memory: what `coord.testing.memory` claims, both do.

What is not here the server in memory does not claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.bus.direct import DirectReader
from coord.bus.patched import Message
from coord.ops.devstack.nats import NatsServer
from coord.runtime import clock
from coord.testing.memory.server import MemoryServer
from coord.wire import headers, republished, subjects
from tests.support.waiting import until

SECOND = 1_000_000_000
MILLI = 1_000_000


class Bus:
    """A server of either kind, and names of the test's own on it."""

    def __init__(self, conn: Connection, restart: Callable[[], Awaitable[None]]) -> None:
        self.conn = conn
        self.restart = restart
        self.name = f"C{secrets.token_hex(5)}"
        self.heard: dict[str, list[Message]] = {}

    def at(self, tail: str) -> str:
        """A subject of the stream's."""
        return f"{self.name}.{tail}"

    async def stream(self, **config: Any) -> None:
        given = {"name": self.name, "subjects": [self.at(">")], "storage": "memory", "allow_direct": True}
        await self.conn.api(f"STREAM.CREATE.{self.name}", given | config)

    async def publish(self, tail: str, body: bytes = b"x", **fields: str) -> dict[str, Any]:
        """The server's answer; `fields` with underscores for dashes."""
        block = headers.encode({name.replace("_", "-"): value for name, value in fields.items()}) if fields else None
        answer = await self.conn.request(self.at(tail), body, headers=block)
        said: dict[str, Any] = msgspec.json.decode(answer.data)
        return said

    async def code(self, tail: str, body: bytes = b"x", **fields: str) -> int:
        """Of the refusal; 0: it was stored."""
        return int((await self.publish(tail, body, **fields)).get("error", {}).get("err_code", 0))

    async def consumer(self, name: str = "c", *, action: str = "create", **config: Any) -> dict[str, Any]:
        given = {"name": name, "durable_name": name, "ack_policy": "explicit", "ack_wait": 60 * SECOND} | config
        return await self.conn.api(
            f"CONSUMER.CREATE.{self.name}.{name}", {"stream_name": self.name, "config": given, "action": action}
        )

    async def info(self, name: str = "c") -> dict[str, Any]:
        return await self.conn.api(f"CONSUMER.INFO.{self.name}.{name}")

    async def listen(self, subject: str | None = None, queue: str = "") -> str:
        inbox = subject or self.conn.new_inbox()
        heard = self.heard.setdefault(inbox + queue, [])
        await self.conn.subscribe(inbox, heard.append, queue=queue)
        return inbox

    async def pull(self, inbox: str, name: str = "c", **asked: Any) -> None:
        """Returns when the server has it, and has answered what it answers at once."""
        body = msgspec.json.encode(asked)
        self.conn.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.{name}", body, reply=inbox)
        await self.conn.flush()

    def seqs(self, inbox: str) -> list[int]:
        """Stream sequences of the deliveries."""
        return [int(m.reply.split(".")[5]) for m in self.heard[inbox] if m.reply.startswith("$JS.ACK.")]

    def said(self, inbox: str) -> list[str]:
        """Status lines."""
        return [
            f"{m.status} {m.headers.get('Description', '')}".strip()
            for m in self.heard[inbox]
            if m.status is not None and not m.reply
        ]

    async def got(self, inbox: str, *seqs: int) -> None:
        await until(lambda: self.seqs(inbox) == list(seqs))

    def settle(self, seq: int, word: bytes, consumer_seq: int = 0) -> None:
        self.conn.publish(f"$JS.ACK.{self.name}.c.1.{seq}.{consumer_seq}.1.0", word)

    async def refused(self, request: str, payload: Any = None) -> int:
        """The code with which an API request is refused."""
        with pytest.raises(errors.BusError) as caught:
            await self.conn.api(request, payload)
        return int(caught.value.details["server_code"])


@contextlib.asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Connection]:
    connection = await Connection.open(NatsConfig(urls=(url,), reconnect_wait_s=0.02), name="conformance")
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest, nats_server: NatsServer) -> AsyncIterator[Bus]:
    async def never() -> None:
        raise AssertionError("this server is others' too")

    if request.param == "memory":
        server = MemoryServer()
        server.start()
        url = server.url
    else:
        server = None
        url = nats_server.url
    async with _opened(url) as conn:
        made = Bus(conn, never)
        yield made
        if server is None:
            with contextlib.suppress(errors.ApiNotFound):
                await conn.api(f"STREAM.DELETE.{made.name}")
            with contextlib.suppress(errors.ApiNotFound):
                await conn.api(f"STREAM.DELETE.{made.name}B")
    if server is not None:
        server.close()


@pytest.fixture(params=["memory", "nats"])
async def mortal(request: pytest.FixtureRequest, start_nats: Any) -> AsyncIterator[Bus]:
    """A server of this test's own, that can be restarted."""
    memory = MemoryServer()
    if request.param == "memory":
        memory.start()
        url = memory.url

        async def restart() -> None:
            memory.stop()
            memory.start()
    else:
        real = await start_nats()
        url = real.url

        async def restart() -> None:
            real.kill()
            await real.start()

    async with _opened(url) as conn:
        yield Bus(conn, restart)
    memory.close()


# --- subjects and requests -----------------------------------------------------------------


async def test_wildcards_queue_groups_and_nobody(bus: Bus) -> None:
    for pattern in ("a.b", "a.*", "*.b", "a.>", ">", "b", "a", "a.b.>", "a.b.*"):
        await bus.listen(bus.at(pattern))
    workers = [await bus.listen(bus.at("a.b"), queue=f"q{n % 2}") for n in range(4)]
    for _ in range(10):
        bus.conn.publish(bus.at("a.b"))
    await bus.conn.flush()
    counts = {k.removeprefix(bus.name + "."): len(m) for k, m in bus.heard.items() if not k.endswith(("q0", "q1"))}
    assert counts == {"a.b": 10, "a.*": 10, "*.b": 10, "a.>": 10, ">": 10, "b": 0, "a": 0, "a.b.>": 0, "a.b.*": 0}
    assert len(workers) == 4
    assert [len(bus.heard[bus.at("a.b") + q]) for q in ("q0", "q1")] == [10, 10], "one of each group"
    with pytest.raises(errors.ServiceUnavailable):
        await bus.conn.request("nobody.listens")


# --- storing -------------------------------------------------------------------------------


async def test_conditions_and_ids(bus: Bus) -> None:
    await bus.stream(max_msg_size=300)
    first = await bus.publish("a", Nats_Msg_Id="one", Nats_Expected_Last_Subject_Sequence="0")
    assert first == {"stream": bus.name, "seq": 1}
    # The condition is looked at before the id: only where it holds the answer is "duplicate".
    assert await bus.code("a", Nats_Msg_Id="one", Nats_Expected_Last_Subject_Sequence="0") == 10071
    again = await bus.publish("a", Nats_Msg_Id="one", Nats_Expected_Last_Subject_Sequence="1")
    assert again == {"stream": bus.name, "seq": 1, "duplicate": True}
    assert await bus.code("a", Nats_Expected_Last_Subject_Sequence="0") == 10071
    refused = await bus.publish("a", Nats_Expected_Last_Subject_Sequence="7")
    assert refused["error"] == {"code": 400, "err_code": 10071, "description": "wrong last sequence: 1"}
    assert await bus.code("b.c", Nats_Expected_Last_Subject_Sequence="0") == 0
    wild: dict[str, Any] = {"Nats_Expected_Last_Subject_Sequence_Subject": bus.at("b.>")}
    assert await bus.code("b.d", Nats_Expected_Last_Subject_Sequence="0", **wild) == 10071
    assert await bus.code("b.d", Nats_Expected_Last_Subject_Sequence="2", **wild) == 0
    assert await bus.code("a", Nats_Expected_Last_Sequence="2") == 10071
    assert await bus.code("a", Nats_Expected_Last_Sequence="3", Nats_Msg_Id="two") == 0
    assert await bus.code("a", Nats_Expected_Last_Msg_Id="one") == 10070
    assert await bus.code("a", Nats_Expected_Stream="OTHER") == 10060
    assert await bus.code("b.d", **wild) == 10193
    assert await bus.code("a", b"x" * 301) == 10054
    assert await bus.code("a", Nats_Rollup="sub") != 0, "not allowed here"


async def test_full_streams_refuse_or_drop(bus: Bus) -> None:
    await bus.stream(max_msgs=2, discard="new")
    assert [await bus.code(t) for t in "abc"] == [0, 0, 10077]
    await bus.conn.api(f"STREAM.DELETE.{bus.name}")
    await bus.stream(max_msgs=2)
    assert [await bus.code(t) for t in "abc"] == [0, 0, 0]
    state = (await bus.conn.api(f"STREAM.INFO.{bus.name}"))["state"]
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (2, 2, 3)
    await bus.conn.api(f"STREAM.DELETE.{bus.name}")
    await bus.stream(max_msgs_per_subject=1, allow_rollup_hdrs=True)
    for tail in ("a", "a", "b", "c.d", "c.e"):
        await bus.publish(tail)
    info = await bus.conn.api(f"STREAM.INFO.{bus.name}", {"subjects_filter": bus.at("c.>")})
    assert info["state"]["subjects"] == {bus.at("c.d"): 1, bus.at("c.e"): 1}
    assert (info["state"]["messages"], info["state"]["num_subjects"]) == (4, 4)
    assert (await bus.conn.api(f"STREAM.PURGE.{bus.name}", {"filter": bus.at("c.*")}))["purged"] == 2
    await bus.publish("b", Nats_Rollup="all")
    state = (await bus.conn.api(f"STREAM.INFO.{bus.name}"))["state"]
    assert (state["messages"], state["first_seq"]) == (1, 6)


async def test_what_is_too_old_leaves(bus: Bus) -> None:
    await bus.stream(max_age=200 * MILLI, duplicate_window=150 * MILLI)
    await bus.publish("a", Nats_Msg_Id="one")
    await bus.consumer()

    async def gone() -> bool:
        info = await bus.conn.api(f"STREAM.INFO.{bus.name}")
        return not info["state"]["messages"] and info["state"]["first_seq"] == 2

    await until(gone)

    async def nothing_pending() -> bool:
        return bool((await bus.info())["num_pending"] == 0)

    async def forgotten() -> int:
        """What is stored in its place, once its id is forgotten too."""
        said = await bus.publish("a", Nats_Msg_Id="one")
        return 0 if said.get("duplicate") else int(said["seq"])

    await until(nothing_pending)
    assert await until(forgotten) == 2


async def test_partitions_republishing_and_direct_gets(bus: Bus) -> None:
    await bus.stream(
        subject_transform={"src": bus.at("in.*.*.>"), "dest": bus.at("log.{{partition(16,2)}}.{{wildcard(1)}}.>")},
        republish={"src": bus.at("log.>"), "dest": f"live{bus.name}.>"},
    )
    live = await bus.listen(f"live{bus.name}.>")
    keys = [secrets.token_hex(n % 9 + 1) for n in range(20)]
    for key in keys:
        await bus.publish(f"in.me.{key}.t.u", b"body", X="y")
    await bus.publish(f"in.me.{keys[0]}.t.u", b"without headers")
    stored = [bus.at(f"log.{subjects.partition(key)}.me.t.u") for key in [*keys, keys[0]]]
    await until(lambda: len(bus.heard[live]) == 21)
    told = [republished.split(m.raw_headers) for m in bus.heard[live]]
    assert [(t.stream, t.subject, t.seq) for t in told] == [(bus.name, s, n) for n, s in enumerate(stored, 1)]
    assert told[0].headers == b"NATS/1.0\r\nX: y\r\n\r\n"
    before = 1 + max(n for n in range(20) if stored[n] == stored[0])
    assert (told[20].headers, told[20].subject_last_seq) == (None, before)
    reader = DirectReader(bus.conn)
    page = await reader.batch(bus.name, bus.at("log.>"), from_seq=3, messages_max=5)
    assert ([m.seq for m in page.messages], page.pending) == ([3, 4, 5, 6, 7], 14)
    assert (page.messages[0].subject, page.messages[0].headers) == (stored[2], b"NATS/1.0\r\nX: y\r\n\r\n")
    page = await reader.batch(bus.name, bus.at("log.>"), from_time=told[19].stored_at, messages_max=50)
    assert [m.seq for m in page.messages][-2:] == [20, 21]
    assert (await reader.batch(bus.name, bus.at("nothing"), messages_max=5)).messages == []
    lasts = await reader.last_of_each(bus.name, bus.at("log.*.me.>"))
    assert [m.seq for m in lasts.messages] == sorted({s: n for n, s in enumerate(stored, 1)}.values())
    assert lasts.pending == 0
    short = await reader.last_of_each(bus.name, bus.at("log.>"), bytes_max=1)
    assert (len(short.messages), short.pending) == (1, len(lasts.messages) - 1)
    assert (await reader.last_of_each(bus.name, bus.at("nothing.>"))).messages == []
    await reader.close()


async def test_single_messages(bus: Bus) -> None:
    assert await bus.refused("STREAM.INFO.NONE") == 10059
    await bus.stream()
    for tail in ("a.1", "b.1", "a.2"):
        await bus.publish(tail, tail.encode(), X=tail)

    async def get(**query: Any) -> tuple[int, str, bytes]:
        found = (await bus.conn.api(f"STREAM.MSG.GET.{bus.name}", query))["message"]
        assert b64decode(found["hdrs"]) == b"NATS/1.0\r\nX: %b\r\n\r\n" % found["subject"].split(".", 1)[1].encode()
        return found["seq"], found["subject"], b64decode(found["data"])

    assert await get(seq=2) == (2, bus.at("b.1"), b"b.1")
    assert await get(last_by_subj=bus.at("a.*")) == (3, bus.at("a.2"), b"a.2")
    assert await get(seq=2, next_by_subj=bus.at("a.>")) == (3, bus.at("a.2"), b"a.2")
    assert await bus.refused(f"STREAM.MSG.GET.{bus.name}", {"seq": 9}) == 10037
    assert await bus.refused(f"STREAM.MSG.GET.{bus.name}", {"last_by_subj": bus.at("z")}) == 10037
    found = await bus.conn.request(f"$JS.API.DIRECT.GET.{bus.name}.{bus.at('b.1')}")
    assert found.data == b"b.1"
    assert (await bus.conn.request(f"$JS.API.DIRECT.GET.{bus.name}.{bus.at('z')}")).status == 404


# --- consumers -----------------------------------------------------------------------------


async def test_consumers_are_made_once(bus: Bus) -> None:
    await bus.stream()
    assert await bus.refused(f"CONSUMER.INFO.{bus.name}.c") == 10014
    made = await bus.consumer(max_deliver=-1)
    assert (made["config"]["max_ack_pending"], made["config"]["max_waiting"]) == (1000, 512)
    await bus.consumer(max_deliver=-1)
    with pytest.raises(errors.BusError) as caught:
        await bus.consumer(max_deliver=3)
    assert caught.value.details["server_code"] == 10148
    assert (await bus.consumer(max_deliver=3, action="update"))["config"]["max_deliver"] == 3
    names = await bus.conn.api(f"CONSUMER.NAMES.{bus.name}")
    assert (names["consumers"], names["total"]) == (["c"], 1)
    inbox = await bus.listen()
    await bus.pull(inbox, batch=1, expires=60 * SECOND)
    await bus.conn.api(f"CONSUMER.DELETE.{bus.name}.c")
    await until(lambda: bus.said(inbox) == ["409 Consumer Deleted"])
    await bus.pull(inbox, batch=1)
    await until(lambda: bus.said(inbox)[1:] == ["503"])
    unknown = {"name": bus.name + "B", "subjects": [bus.name + "B"], "max_mesages": 3}
    assert await bus.refused(f"STREAM.CREATE.{bus.name}B", unknown) == 10025


async def test_filters_positions_and_what_a_reply_says(bus: Bus) -> None:
    await bus.stream()
    for tail in ("a.1", "b.1", "a.2", "c.1", "a.3"):
        await bus.publish(tail)
    await bus.consumer(filter_subject=bus.at("a.*"), deliver_policy="by_start_sequence", opt_start_seq=2)
    await bus.consumer("d", filter_subjects=[bus.at("a.1"), bus.at("c.>")])
    await bus.consumer("e", deliver_policy="new", ack_policy="none")
    one, two, new = await bus.listen(), await bus.listen(), await bus.listen()
    await bus.pull(one, batch=9, no_wait=True)
    await bus.pull(two, "d", batch=9, no_wait=True)
    await bus.pull(new, "e", batch=9, expires=60 * SECOND)
    await bus.publish("z")
    await bus.got(one, 3, 5)
    await bus.got(two, 1, 4)
    await bus.got(new, 6)
    await until(lambda: len(bus.heard[one]) == 3)
    first, second, end = bus.heard[one]
    assert first.subject == bus.at("a.2")
    tokens = first.reply.split(".")
    assert (tokens[2:7], tokens[8]) == ([bus.name, "c", "1", "3", "1"], "1")
    assert second.reply.split(".")[8] == "0"
    assert (end.status, bus.said(one)) == (404, ["404 No Messages"]), "a request that does not wait and wanted more"
    info = await bus.info()
    assert (info["num_ack_pending"], info["num_pending"], info["delivered"]["stream_seq"]) == (2, 0, 5)


async def test_requests_that_wait_and_that_do_not(bus: Bus) -> None:
    await bus.stream()
    await bus.consumer(max_ack_pending=2, max_waiting=2)
    inbox, other = await bus.listen(), await bus.listen()
    await bus.pull(inbox, batch=1, no_wait=True)
    await until(lambda: bus.said(inbox) == ["404 No Messages"])
    await bus.pull(inbox, batch=1, expires=50 * MILLI)
    await until(lambda: bus.said(inbox)[1:] == ["408 Request Timeout"])
    for _ in range(3):
        await bus.pull(other, batch=2, expires=60 * SECOND)
    await until(lambda: bus.said(other) == ["409 Exceeded MaxWaiting"])
    for _ in range(4):
        await bus.publish("a")
    await until(lambda: len(bus.seqs(other)) == 2)
    bus.settle(1, b"+ACK")
    bus.settle(2, b"+TERM no good")
    await until(lambda: bus.seqs(other) == [1, 2, 3, 4])


async def test_acknowledgements(bus: Bus) -> None:
    await bus.stream()
    await bus.consumer()
    for _ in range(4):
        await bus.publish("a")
    bus.settle(1, b"+ACK")  # nobody was given it: that does nothing
    inbox = await bus.listen()
    await bus.pull(inbox, batch=50, expires=60 * SECOND)
    await bus.got(inbox, 1, 2, 3, 4)
    bus.settle(2, b"+ACK")
    bus.settle(3, b"-NAK")  # without a consumer sequence: ignored
    bus.settle(4, b"-NAK", 4)
    await bus.got(inbox, 1, 2, 3, 4, 4)
    assert bus.heard[inbox][-1].reply.split(".")[4:7] == ["2", "4", "5"], "delivered twice, under a new number"
    bus.settle(4, b'-NAK {"delay": %d}' % (100 * MILLI), 5)
    bus.settle(1, b"+ACK")
    await bus.got(inbox, 1, 2, 3, 4, 4, 4)
    bus.settle(4, b"")
    await until(lambda: _pending(bus, 1))
    info = await bus.info()
    assert (info["ack_floor"]["stream_seq"], info["num_redelivered"]) == (2, 0)
    bus.settle(3, b"+ACK")
    await until(lambda: _pending(bus, 0))
    assert (await bus.info())["ack_floor"] | {"last_active": ""} == {
        "consumer_seq": 6, "stream_seq": 4, "last_active": ""
    }  # fmt: skip


async def _pending(bus: Bus, count: int) -> bool:
    return bool((await bus.info())["num_ack_pending"] == count)


async def test_what_is_not_acknowledged_comes_again(bus: Bus) -> None:
    await bus.stream()
    await bus.consumer(ack_wait=150 * MILLI, max_deliver=3)
    await bus.publish("a")
    inbox = await bus.listen()
    await bus.pull(inbox, batch=50, expires=60 * SECOND)
    await bus.got(inbox, 1, 1, 1)  # and no more than three times
    counts = [m.reply.split(".")[4] for m in bus.heard[inbox]]
    assert counts == ["1", "2", "3"]


async def test_acknowledging_all_and_beginning_again(bus: Bus) -> None:
    await bus.stream()
    await bus.consumer(ack_policy="all")
    await bus.consumer("n", deliver_policy="new")
    for _ in range(5):
        await bus.publish("a")
    inbox = await bus.listen()
    await bus.pull(inbox, batch=5, expires=60 * SECOND)
    await bus.got(inbox, 1, 2, 3, 4, 5)
    bus.settle(3, b"+ACK", 3)
    await until(lambda: _pending(bus, 2))
    reset = await bus.conn.api(f"CONSUMER.RESET.{bus.name}.c")
    assert (reset["reset_seq"], reset["num_pending"]) == (4, 2)
    reset = await bus.conn.api(f"CONSUMER.RESET.{bus.name}.c", {"seq": 2})
    assert reset["delivered"]["consumer_seq"] == 0
    again = await bus.listen()
    await bus.pull(again, batch=2, expires=60 * SECOND)
    await bus.got(again, 2, 3)
    assert [m.reply.split(".")[4:7] for m in bus.heard[again]] == [["1", "2", "1"], ["1", "3", "2"]]
    assert await bus.refused(f"CONSUMER.RESET.{bus.name}.n", {"seq": 1}) == 10204


async def test_bytes_are_bounded(bus: Bus) -> None:
    await bus.stream()
    await bus.consumer()
    for size in (100, 100, 9_000):
        await bus.publish("a", b"x" * size)
    inbox, last = await bus.listen(), await bus.listen()
    await bus.pull(inbox, batch=9, max_bytes=4_000, expires=60 * SECOND)
    await bus.got(inbox, 1, 2)
    await until(lambda: [s[:3] for s in bus.said(inbox)] == ["409"])
    assert "MaxBytes" in bus.said(inbox)[0].replace(" ", "")
    await bus.pull(last, batch=1, max_bytes=20_000, expires=60 * SECOND)
    await bus.got(last, 3)
    await until(lambda: bus.said(last) == ["409 Batch Completed"])


async def test_pins(bus: Bus) -> None:
    pinned: dict[str, Any] = {"ack_policy": "none", "priority_groups": ["w"], "priority_policy": "pinned_client"}
    await bus.stream()
    await bus.consumer(**pinned, priority_timeout=60 * SECOND)
    one, two = await bus.listen(), await bus.listen()
    await bus.pull(one, batch=1, group="w", expires=60 * SECOND)
    await bus.pull(two, batch=5, group="w", expires=60 * SECOND)
    await bus.publish("a", X="y")
    await bus.got(one, 1)
    pin = bus.heard[one][0].headers["Nats-Pin-Id"]
    assert bus.heard[one][0].raw_headers == b"NATS/1.0\r\nX: y\r\nNats-Pin-Id: %b\r\n\r\n" % pin.encode()
    assert (await bus.info())["priority_groups"][0]["pinned_client_id"] == pin
    await bus.pull(one, batch=1, group="w", id=pin, expires=60 * SECOND)
    await bus.publish("a")
    await bus.got(one, 1, 2)
    assert bus.seqs(two) == []
    await bus.pull(one, batch=1, group="w", id="x" * 22, expires=60 * SECOND)
    await until(lambda: [s[:3] for s in bus.said(one)] == ["423"])
    await bus.pull(one, batch=1, expires=60 * SECOND)
    await until(lambda: [s[:3] for s in bus.said(one)] == ["423", "400"])
    await bus.conn.api(f"CONSUMER.UNPIN.{bus.name}.c", {"group": "w"})
    await bus.publish("a")
    await bus.got(two, 3)
    await bus.conn.api(f"CONSUMER.UNPIN.{bus.name}.c", {"group": "w"})
    await bus.pull(one, batch=1, group="w", expires=60 * SECOND)
    for _ in range(2):
        await bus.publish("a")
    await bus.got(one, 1, 2, 4)
    await until(lambda: bus.said(two) == ["423 Nats-Wrong-Pin-Id"])
    assert bus.seqs(two) == [3]
    await bus.consumer("d", **pinned, priority_timeout=300 * MILLI, deliver_policy="new")
    first, second = await bus.listen(), await bus.listen()
    await bus.pull(first, "d", batch=1, group="w", expires=60 * SECOND)
    await bus.pull(second, "d", batch=5, group="w", expires=60 * SECOND)
    await bus.publish("a")
    await bus.got(first, 6)
    await bus.publish("a")
    await bus.got(second, 7)  # nobody renewed the pin


# --- schedules -----------------------------------------------------------------------------


def _at(unix: float) -> str:
    return "@at " + datetime.fromtimestamp(unix, UTC).isoformat().replace("+00:00", "Z")


async def _scheduled(bus: Bus, due: float, target: dict[str, Any]) -> bool:
    """One that is put in another's place, and one that is taken back; False: too slowly, the first was due before."""
    assert await bus.code("set.x", b"old", Nats_Schedule=_at(due), **target) == 0
    assert await bus.code("set.x", b"new", Nats_Schedule=_at(due), X="y", **target) == 0  # in its place
    assert await bus.code("set.z", b"never", Nats_Schedule=_at(due), **target) == 0
    await bus.conn.api(f"STREAM.PURGE.{bus.name}", {"filter": bus.at("set.z")})
    return clock.unix() < due


async def test_scheduled_messages_and_streams_that_take_them_in(bus: Bus) -> None:
    other = bus.name + "B"
    rule = {"src": bus.at("due.*"), "dest": other + ".{{wildcard(1)}}.fired"}
    source = {"name": bus.name, "subject_transforms": [rule]}
    target: dict[str, Any] = {"Nats_Schedule_Target": bus.at("due.x"), "Nats_Schedule_TTL": "60s"}
    for delay_s in (0.2, 2.0, 20.0):
        await bus.stream(allow_msg_schedules=True, allow_msg_ttl=True, allow_rollup_hdrs=True)
        await bus.conn.api(f"STREAM.CREATE.{other}", {"name": other, "storage": "memory", "sources": [source]})
        if await _scheduled(bus, clock.unix() + delay_s, target):
            break
        for stream in (other, bus.name):
            await bus.conn.api(f"STREAM.DELETE.{stream}")
    assert await bus.code("set.x", Nats_Schedule="every now and then", **target) == 10189
    assert await bus.code("set.x", Nats_Schedule="0 0 9 * * *", Nats_Schedule_Time_Zone="No/Where", **target) == 10223

    async def taken_in() -> dict[str, Any] | None:
        with contextlib.suppress(errors.ApiNotFound):
            found = await bus.conn.api(f"STREAM.MSG.GET.{other}", {"last_by_subj": f"{other}.x.fired"})
            message: dict[str, Any] = found["message"]
            return message
        return None

    message = await until(taken_in)
    assert (b64decode(message["data"]), message["seq"]) == (b"new", 1)
    fields = dict(headers.parse(b64decode(message["hdrs"])).fields)
    assert fields["X"] == "y"
    assert fields["Nats-Stream-Source"].split(" ")[0] == bus.name
    assert not [name for name in fields if name.startswith("Nats-Schedule-T")]
    left = await bus.conn.api(f"STREAM.INFO.{bus.name}", {"subjects_filter": ">"})
    assert list(left["state"]["subjects"]) == [bus.at("due.x")], "what fired once is gone, what it said is not"


async def test_a_stream_takes_in_what_another_stored_under_the_subject_that_it_asks_for(bus: Bus) -> None:
    other = bus.name + "B"
    rule = {"src": bus.at("due.*"), "dest": other + ".{{wildcard(1)}}.fired"}
    await bus.stream(allow_msg_schedules=True, allow_msg_ttl=True, allow_rollup_hdrs=True, subject_transform=rule)
    source = {"name": bus.name, "filter_subject": f"{other}.*.fired"}
    await bus.conn.api(f"STREAM.CREATE.{other}", {"name": other, "storage": "memory", "sources": [source]})
    assert await bus.code("set.x", b"1", Nats_Schedule=_at(clock.unix()), Nats_Schedule_Target=bus.at("due.x")) == 0
    assert await bus.code("due.y", b"2") == await bus.code("another", b"3") == 0

    async def taken_in() -> set[str]:
        answer = await bus.conn.api(f"STREAM.INFO.{other}", {"subjects_filter": ">"})
        return set(answer["state"].get("subjects") or ())

    async def both() -> bool:
        return len(await taken_in()) >= 2

    await until(both)
    assert await taken_in() == {f"{other}.x.fired", f"{other}.y.fired"}


async def test_it_is_known_at_once_whether_anybody_listens(bus: Bus) -> None:
    subject = bus.conn.new_inbox()
    assert not await bus.conn.is_heard(subject, b"one")
    await bus.listen(subject, queue="several")
    assert await bus.conn.is_heard(subject, b"two")
    await until(lambda: len(bus.heard[subject + "several"]) == 1)
    message = bus.heard[subject + "several"][0]
    bus.conn.publish(message.reply, b"late")  # nobody expects it any more
    assert await bus.conn.is_heard(subject, b"three")


# --- a server that is started again --------------------------------------------------------


async def test_a_restart_keeps_what_was_acknowledged_and_forgets_what_is_in_memory(mortal: Bus) -> None:
    await mortal.stream(storage="file")
    await mortal.consumer(ack_wait=300 * MILLI)
    await mortal.consumer("m", ack_policy="none", mem_storage=True)
    for _ in range(3):
        assert await mortal.code("a") == 0
    inbox = await mortal.listen()
    await mortal.pull(inbox, batch=3, expires=60 * SECOND)
    await mortal.got(inbox, 1, 2, 3)
    mortal.settle(2, b"+ACK")
    await until(lambda: _pending(mortal, 2))
    await asyncio.sleep(0.3)  # a server that is killed forgets the acks of its last moments
    await mortal.restart()
    await mortal.conn.wait_connected(60)

    async def back() -> bool:
        with contextlib.suppress(errors.BusError):
            return bool((await mortal.conn.api(f"STREAM.INFO.{mortal.name}"))["state"]["messages"] == 3)
        return False

    await until(back)
    await mortal.pull(inbox, batch=5, expires=60 * SECOND)
    await until(lambda: {1, 3} <= set(mortal.seqs(inbox)[3:]))
    assert await mortal.refused(f"CONSUMER.INFO.{mortal.name}.m") == 10014
    assert await mortal.code("a", Nats_Expected_Last_Sequence="3") == 0
