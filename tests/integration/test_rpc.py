"""Requests and answers: errors keep their type, work is bounded, answers go to inboxes only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection, NatsConfig
from coord.core.retry import CallPolicy
from coord.telemetry.metrics import Metrics
from coord.wire import headers as wire_headers
from tests.support.waiting import until


class Echo(msgspec.Struct):
    text: str
    times: int = 1


@pytest.fixture
async def conn(nats_server) -> AsyncIterator[Connection]:
    async with await Connection.open(NatsConfig(urls=(nats_server.url,)), name="test") as conn:
        yield conn


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> str:
    return f"test.rpc.{abs(hash(request.node.nodeid))}"


async def serve(conn: Connection, subject: str, handler: rpc.Handler, **options: Any) -> rpc.Endpoint:
    return await rpc.serve(
        conn, subject, handler, service="test", method="m", registry=Metrics(CollectorRegistry()), **options
    )


async def echo(request: rpc.Request) -> dict[str, Any]:
    wanted = request.decode(Echo)
    return {"text": wanted.text * wanted.times, "content": request.content}


@pytest.mark.parametrize("content", ["json", "msgpack"])
async def test_both_contents_are_answered_in_kind(conn: Connection, subject: str, content: rpc.Content) -> None:
    endpoint = await serve(conn, subject, echo)
    answer = await rpc.call(conn, subject, {"text": "ä", "times": 2}, dict[str, Any], content=content)
    assert answer == {"text": "ää", "content": content}
    await endpoint.close()


async def test_an_error_arrives_as_the_class_that_was_raised(conn: Connection, subject: str) -> None:
    raised: list[errors.CoordError] = [
        errors.LogTrimmed(wanted=5, first_seq=9),
        errors.Overloaded("full", retry_after_s=2.5, depth=7),
        errors.NoPermission("nein: ä\r\nX: y", subject="x"),
    ]

    async def refuse(request: rpc.Request) -> None:
        raise raised[request.decode(dict[str, int])["n"]]

    endpoint = await serve(conn, subject, refuse)
    for n, error in enumerate(raised):
        for content in ("json", "msgpack"):
            with pytest.raises(type(error)) as got:
                await rpc.call(conn, subject, {"n": n}, dict[str, Any], content=content)
            assert type(got.value) is type(error)
            assert (got.value.message, got.value.details) == (error.message, error.details)
    with pytest.raises(errors.Overloaded) as overloaded:
        await rpc.call(conn, subject, {"n": 1}, dict[str, Any])
    assert overloaded.value.retry_after_s == 2.5
    await endpoint.close()


def test_every_error_of_the_tree_survives_the_way() -> None:
    for code, kind in rpc._by_code().items():
        error = rpc.rebuild({"code": code, "message": "m", "details": {"a": 1}})
        assert type(error) is kind
        assert error.code == code
        assert error.details["a"] == 1
        str(error)
    unknown = rpc.rebuild({"code": "from.the.future", "message": "m"})
    assert isinstance(unknown, errors.RemoteError)
    assert unknown.details["remote_code"] == "from.the.future"
    rpc.rebuild({"code": None, "details": "no map"})


async def test_a_defect_is_an_error_for_its_caller_only(conn: Connection, subject: str) -> None:
    async def broken(request: rpc.Request) -> Any:
        if request.decode(dict[str, int])["n"]:
            return object()
        raise ZeroDivisionError

    endpoint = await serve(conn, subject, broken)
    for n in (0, 1):
        with pytest.raises(errors.CoordError) as got:
            await rpc.call(conn, subject, {"n": n}, dict[str, Any])
        assert got.value.code == "coord.error"
        assert "ZeroDivision" not in str(got.value)
    assert endpoint.active == 0
    await endpoint.close()


async def test_work_is_bounded_then_waits_then_is_refused(conn: Connection, subject: str) -> None:
    running = most = 0
    go = asyncio.Event()

    async def slow(_: rpc.Request) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        return 1

    endpoint = await serve(conn, subject, slow, concurrency=3, waiting=4)
    calls = [asyncio.create_task(rpc.call(conn, subject, {}, int)) for _ in range(10)]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    await until(lambda: sum(call.done() for call in calls) == 3)
    assert {type(call.exception()) for call in calls if call.done()} == {errors.Overloaded}
    assert endpoint.active == 7
    assert done
    go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results.count(1) == 7
    assert most == 3
    await endpoint.close()


async def test_nobody_works_for_a_caller_who_has_left(conn: Connection, subject: str) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def forever(_: rpc.Request) -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    endpoint = await serve(conn, subject, forever)
    while not begun.is_set():  # a second is long enough for that, unless the machine stands still
        with pytest.raises(errors.DeadlineExceeded):
            await rpc.call(conn, subject, {}, dict[str, Any], timeout_s=1.0)
    async with asyncio.timeout(60):
        await cancelled.wait()
    await until(lambda: endpoint.active == 0)
    await endpoint.close()


@pytest.mark.parametrize(
    "reply",
    [
        "coord.ev.acme.victim.k.task.t.completed",
        "$JS.API.STREAM.PURGE.EVENTS",
        "_INBOX",
        "_INBOXER>.x",
        "_INBOX.*",
        "inbox.a",
        "",
    ],
)
async def test_only_inboxes_are_answered(conn: Connection, subject: str, reply: str) -> None:
    """A reply subject is not checked against the asker's permissions: the responder would lend its own."""
    worked = False

    async def work(_: rpc.Request) -> int:
        nonlocal worked
        worked = True
        return 1

    endpoint = await serve(conn, subject, work)
    conn.publish(subject, b"{}", reply=reply)
    await until(lambda: endpoint.refused_replies == 1)
    await conn.flush()
    assert not worked
    await endpoint.close()


@pytest.mark.parametrize("reply", ["_INBOX.abc.1", "_INBOX_a1.abc", "_INBOX_a-1.x"])
async def test_private_inboxes_are_answered(conn: Connection, subject: str, reply: str) -> None:
    got = asyncio.Event()
    await conn.subscribe(reply, lambda _: got.set())
    endpoint = await serve(conn, subject, echo)
    conn.publish(subject, b'{"text":"x"}', reply=reply)
    async with asyncio.timeout(60):
        await got.wait()
    await endpoint.close()


def test_imported_services_answer_inboxes_of_their_own_form() -> None:
    assert rpc._INBOX.fullmatch("_R_.abc.def")  # what the server makes of an inbox of another account
    assert not rpc._INBOX.fullmatch("$JS.ACK.EVENTS.x.1.1.1.1.0")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "text/xml"}, "rpc.invalid"),
        ({"Coord-Deadline-Ms": "soon"}, "rpc.invalid"),
        ({"Coord-Deadline-Ms": "²"}, "rpc.invalid"),
        ({"Content-Type": "application/msgpack"}, "rpc.invalid"),
        (b"NATS/1.0\r\nno colon\r\n\r\n", "wire.envelope"),
        (b"NATS/1.0\r\n\xff\xfe: x\r\n\r\n", "wire.envelope"),
    ],
)
async def test_unreadable_headers_are_answered_with_an_error(
    conn: Connection, subject: str, headers: dict[str, str] | bytes, code: str
) -> None:
    endpoint = await serve(conn, subject, echo)
    block = headers if isinstance(headers, bytes) else wire_headers.encode(headers)
    message = await conn.request(subject, b'{"text":"x"}', headers=block)
    decode = msgspec.msgpack.decode if "msgpack" in message.headers["content-type"] else msgspec.json.decode
    assert decode(message.data)["code"] == code
    assert message.headers["Nats-Service-Error"]
    await endpoint.close()


async def test_a_request_and_an_answer_that_are_too_large(conn: Connection, subject: str) -> None:
    endpoint = await serve(conn, subject, echo)
    with pytest.raises(errors.InvalidRequest):
        await rpc.call(conn, subject, {"text": "x" * limits.RPC_REQUEST_BYTES_MAX}, dict[str, Any])
    with pytest.raises(errors.PayloadTooLarge):
        await rpc.call(conn, subject, {"text": "x" * 1000, "times": 9_000}, dict[str, Any])
    await endpoint.close()


async def test_drain_answers_what_was_accepted(conn: Connection, subject: str) -> None:
    go = asyncio.Event()

    async def slow(_: rpc.Request) -> str:
        await go.wait()
        return "done"

    endpoint = await serve(conn, subject, slow)
    call = asyncio.create_task(rpc.call(conn, subject, {}, str))
    await until(lambda: endpoint.active == 1)
    draining = asyncio.create_task(endpoint.drain())
    await until(lambda: endpoint._subscription is not None and endpoint._subscription._sid is None)
    with pytest.raises(errors.ServiceUnavailable):
        await rpc.call(conn, subject, {}, str)
    go.set()
    assert await call == "done"
    await draining
    await endpoint.close()
    await endpoint.close()


# --- the circuit before a service ------------------------------------------------------------


async def test_a_service_that_is_away_is_not_asked_by_everybody_and_is_found_again(conn: Connection) -> None:
    subject = f"coord.rpc.t{secrets.token_hex(4)}.echo.say"
    for _ in range(limits.CIRCUIT_FAILURES_MAX):
        with pytest.raises(errors.ServiceUnavailable):
            await rpc.call(conn, subject, {}, dict)
    refused = await until(lambda: refusal(conn, subject))
    assert 0 < refused.retry_after_s <= limits.CIRCUIT_OPEN_MAX_S
    assert "rpc.unavailable" in refused.message
    # Another service of the same connection is another class of what is outside.
    with pytest.raises(errors.ServiceUnavailable):
        await rpc.call(conn, subject.replace("echo", "other"), {}, dict)

    async def echo(_: rpc.Request) -> dict[str, str]:
        return {"said": "it"}

    endpoint = await rpc.serve(conn, subject, echo, service="echo", method="say")
    try:
        assert await rpc.call(conn, subject, {}, dict, policy=CallPolicy()) == {"said": "it"}
        assert conn.circuit("rpc_echo").state == "closed"
    finally:
        await endpoint.close()


async def refusal(conn: Connection, subject: str, timeout_s: float = 5.0) -> errors.CircuitOpen | None:
    """How the circuit refuses a call; None where this one was the probe, as after the machine stood still."""
    try:
        await rpc.call(conn, subject, {}, dict, timeout_s=timeout_s)
    except errors.CircuitOpen as refused:
        return refused
    except (errors.ServiceUnavailable, errors.DeadlineExceeded):
        return None
    raise AssertionError("it was answered")


async def test_silence_counts_too(conn: Connection) -> None:
    subject = f"coord.rpc.t{secrets.token_hex(4)}.mute.say"
    mute = await conn.subscribe(subject, lambda _: None)
    try:
        for _ in range(limits.CIRCUIT_FAILURES_MAX):
            with pytest.raises(errors.DeadlineExceeded):
                await rpc.call(conn, subject, {}, dict, timeout_s=0.02)
        assert await until(lambda: refusal(conn, subject, 0.02))
    finally:
        await mute.unsubscribe()


async def test_who_may_not_hear_answers_is_told_at_once(start_nats) -> None:
    """The login's own inboxes are others than those that it asks with: the commonest mistake of a first day."""
    allowed = '{ publish: ">", subscribe: "_INBOX_a.>" }'
    server = await start_nats(
        extra=f"authorization {{ users: [ {{ user: a, password: p, permissions: {allowed} }} ] }}"
    )
    config = NatsConfig(urls=(server.url,), user="a", password="p")
    async with await Connection.open(config, name="test") as conn:
        for _ in range(2):
            with pytest.raises(errors.NoPermission, match="inbox_prefix"):
                await conn.request("some.service", timeout_s=300)


async def test_a_connection_that_is_lost_while_it_begins_to_answer_answers_when_it_is_back(
    conn: Connection, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(timeout_s: float = 0.0) -> None:
        raise errors.NotConnected

    with monkeypatch.context() as patched:
        patched.setattr(conn, "flush", lost)
        endpoint = await serve(conn, subject, echo)
    assert (await rpc.call(conn, subject, {"text": "x"}, Echo)).text == "x"
    await endpoint.close()
