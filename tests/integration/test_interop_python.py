"""Plain nats-py, as it comes from the package index: no coord in the client at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import nats
import pytest
from nats.aio.client import Client

from tests.support.log import Log, open_log, projector, query_service, rows

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def log(nats_server) -> AsyncIterator[Log]:
    async with open_log(nats_server.url) as log, query_service(nats_server.url):
        yield log


@pytest.fixture
async def nc(nats_server) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url, connect_timeout=30)
    yield client
    await client.close()


async def test_the_shortest_agent_and_all_longer_ones_become_rows(start_nats, migrated_database) -> None:
    server = await start_nats()
    async with open_log(server.url) as log, projector(server.url, migrated_database.url):
        client = await nats.connect(server.url, connect_timeout=30)
        jetstream = client.jetstream(timeout=30)
        tenant = log.tenant

        # Bare, unacknowledged and acknowledged.
        await client.publish(f"coord.ev.{tenant}.me.me.agent.me.status", b'{"load":0.2}')
        await client.flush()
        acked = await jetstream.publish(f"coord.ev.{tenant}.me.a-py.file.a-py.scanned", b'{"lines":3}')

        # CloudEvents headers, JSON and MessagePack, with a trace.
        envelope = {
            "ce-specversion": "1.0",
            "ce-id": "e-1",
            "ce-source": f"/{tenant}/me",
            "ce-type": "com.example.scanned",
            "ce-time": "2026-01-02T03:04:05Z",
            "traceparent": TRACE,
            "Coord-Correlation": "c-1",
            "Nats-Msg-Id": f"{tenant}.me.e-1",
        }
        subject = f"coord.ev.{tenant}.me.b-py.file.b-py.scanned"
        first = await jetstream.publish(subject, b'{"lines":4}', headers=envelope)
        again = await jetstream.publish(subject, b'{"lines":4}', headers=envelope)
        assert (again.duplicate, again.seq) == (True, first.seq)
        packed = msgspec.msgpack.encode({"lines": 5})
        types = {"ce-id": "e-2", "ce-datacontenttype": "application/msgpack"}
        await jetstream.publish(subject, packed, headers=types)

        # A frame of telemetry.
        frame = msgspec.msgpack.encode([1, 1_767_323_045_000_000, [[n * 1_000, n / 10] for n in range(50)]])
        types = {"ce-datacontenttype": "application/vnd.coord.frame+msgpack", "ce-id": "f-1"}
        await jetstream.publish(f"coord.tel.{tenant}.me.cpu", frame, headers=types)
        await client.close()

        query = "SELECT * FROM coord.event ORDER BY seq"
        status, bare, full, other = await rows(migrated_database.url, query, count=4)
        assert (status["agent"], json.loads(status["data"])) == ("me", {"load": 0.2})
        assert (bare["seq"], json.loads(bare["data"])) == (acked.seq, {"lines": 3})
        assert (full["event_id"], full["type"], full["traceparent"]) == ("e-1", "com.example.scanned", TRACE)
        assert full["correlation_id"] == "c-1"
        assert full["occurred_at"].isoformat() == "2026-01-02T03:04:05+00:00"
        assert json.loads(other["data"]) == {"lines": 5}
        samples = await rows(migrated_database.url, "SELECT * FROM coord.metric_sample ORDER BY idx", count=50)
        assert [row["value"] for row in samples] == [n / 10 for n in range(50)]


async def heard(nc: Client) -> None:
    """Return once the server has read what this client said: nats-py's own `flush` may overtake it."""
    inbox = nc.new_inbox()
    echo = await nc.subscribe(inbox, max_msgs=1)
    await nc.publish(inbox, b"")
    await echo.next_msg(timeout=60)


async def test_a_plain_subscription_follows_the_live_feed(log: Log, nc: Client) -> None:
    got: list[Any] = []
    done = asyncio.Event()

    async def on_message(message: Any) -> None:
        got.append((message.subject, message.headers, message.data))
        if len(got) == 2:
            done.set()

    await nc.subscribe(f"coord.live.*.{log.tenant}.*.file.*.*.scanned", cb=on_message)
    await nc.subscribe(f"coord.live.*.{log.tenant}.*.file.*.*.scanned.>", cb=on_message)
    await heard(nc)
    one = await log.state({"n": 1})
    two = await log.state({"n": 2}, event="scanned.deep")
    await log.state({"n": 3}, event="skipped")
    async with asyncio.timeout(60):
        await done.wait()
    got.sort(key=lambda item: int(item[1]["Nats-Sequence"]))
    assert [(int(headers["Nats-Sequence"]), json.loads(data)) for _, headers, data in got] == [
        (one, {"n": 1}),
        (two, {"n": 2}),
    ]
    assert {headers["Nats-Stream"] for _, headers, _ in got} == {"EVENTS"}
    assert got[0][1]["Nats-Subject"] == got[0][0].replace("coord.live.", "coord.log.")


async def test_a_plain_client_reads_the_log_and_sees_errors(log: Log, nc: Client) -> None:
    seq = await log.state({"n": 1})
    subject = f"coord.rpc.{log.tenant}.log.read"
    page = json.loads((await nc.request(subject, json.dumps({"from_seq": seq}).encode(), timeout=60)).data)
    assert [fact["data"] for fact in page["facts"]] == [{"n": 1}]
    refused = await nc.request(subject, b'{"from_seq": 1, "max": 9999}', timeout=60)
    assert refused.headers is not None
    assert refused.headers["Nats-Service-Error-Code"] == "400"
    assert json.loads(refused.data)["code"] == "query.invalid"
