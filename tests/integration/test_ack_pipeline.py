"""The pipeline of acknowledgements by itself: resends, refusals that may pass, late answers and noise."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.bus.patched import Message
from coord.bus.publish import AckPipeline
from coord.core.retry import RetryPolicy
from coord.wire import headers as wire_headers
from coord.wire import subjects
from tests.support.waiting import until

QUICK = RetryPolicy(attempt_s=0.5, attempt_max_s=0.5, deadline_s=60.0, refused_wait_s=30.0, backoff_s=0.02)
"""Resends soon, and has time for an answer however slow the machine is."""
HASTY = RetryPolicy(attempt_s=0.1, attempt_max_s=0.1, deadline_s=3.0, refused_wait_s=1.0, backoff_s=0.02)
"""For those whose deadline has to pass."""
PATIENT = RetryPolicy(attempt_s=30.0, attempt_max_s=30.0, deadline_s=60.0, refused_wait_s=30.0, backoff_s=0.02)
"""Resends what was refused, and nothing because an answer is late."""


@pytest.fixture
async def pipeline(request: pytest.FixtureRequest, nats_server, seen) -> AsyncIterator[AckPipeline]:
    policy = getattr(request, "param", QUICK)
    async with (
        await Connection.open(NatsConfig(urls=(nats_server.url,)), name="pipeline") as conn,
        await AckPipeline.open(conn, policy, inflight_max=50) as pipeline,
    ):
        yield pipeline


hasty = pytest.mark.parametrize("pipeline", [HASTY], ids=["hasty"], indirect=True)
patient = pytest.mark.parametrize("pipeline", [PATIENT], ids=["patient"], indirect=True)


async def test_optimistic_concurrency_refuses_with_a_type_of_its_own(pipeline, seen) -> None:
    tenant, entity = f"t{secrets.token_hex(4)}", "t1"
    subject = subjects.FactSubject(tenant, "a1", entity, "task", entity, "claimed", ("1",))
    expect = {
        wire_headers.EXPECTED_LAST_SUBJECT_SEQ: "0",
        wire_headers.EXPECTED_LAST_SUBJECT: subjects.event_filter(tenant, entity, "task", entity, "claimed", ("1",)),
    }
    winner = await pipeline.send(subject.publish, b"1", expect, msg_id="m1" + tenant)
    with pytest.raises(errors.WrongLastSequence) as lost:
        await pipeline.send(subject.publish, b"2", expect, msg_id="m2" + tenant)
    assert lost.value.details["server_code"] == 10071
    assert [m.seq for m in await seen.messages("EVENTS", subject.stored)] == [winner.seq]


async def answering(conn: Connection, subject: str, *answers: bytes | None) -> list[str]:
    """Answer publishes to a subject that no stream has, one by one (None: not at all); the replies' subjects."""
    replies: list[str] = []

    def answer(message: Message) -> None:
        replies.append(message.reply)
        body = answers[min(len(replies), len(answers)) - 1]
        if body is not None:
            conn.publish(message.reply, body)

    await conn.subscribe(subject, answer)
    await conn.flush()
    return replies


async def test_a_lost_ack_is_asked_for_again_with_the_same_message(pipeline, seen) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    replies = await answering(seen.conn, subject, None, b'{"stream":"S","seq":7,"duplicate":true}')
    ack = await pipeline.send(subject, b"x", msg_id="m")
    assert (ack.stream, ack.seq, ack.duplicate) == ("S", 7, True)
    assert len(replies) == len(set(replies)) >= 2, "answers to a resend can be told apart"
    assert pipeline._duplicates.asked == 0, "a duplicate on a resend is what is expected"


async def test_a_late_answer_to_the_first_send_is_still_the_first_sends(pipeline, seen) -> None:
    """`duplicate` to the first send means a collision even when a resend is already out."""
    subject = f"test.{secrets.token_hex(4)}"
    replies = await answering(seen.conn, subject, None)
    publication = pipeline.send(subject, b"x", msg_id="m")
    await until(lambda: len(replies) >= 2)
    seen.conn.publish(replies[0], b'{"stream":"NOSUCH","seq":7,"duplicate":true}')
    with pytest.raises(errors.IdCollision):
        await publication
    seen.conn.publish(replies[1], b'{"stream":"S","seq":7}')  # too late: nobody is harmed
    await seen.conn.flush()
    assert pipeline.inflight == 0


@hasty
async def test_silence_ends_at_the_deadline_with_the_number_of_attempts(pipeline, seen) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    replies = await answering(seen.conn, subject, None)
    with pytest.raises(errors.PublishTimeout) as timeout:
        await pipeline.send(subject, b"x", msg_id="m")
    assert timeout.value.details["attempts"] >= 3
    await until(lambda: len(replies) == timeout.value.details["attempts"])
    assert timeout.value.details["last_refusal"] is None


@patient
@pytest.mark.parametrize(
    "answer", [b"", b"hello", b"[]", b'{"stream":1}', b'{"error":1}', b'{"error":{"err_code":"x"}}', b'"error"']
)
async def test_an_answer_that_is_no_ack_is_an_error_and_not_a_hang(pipeline, seen, answer: bytes) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    await answering(seen.conn, subject, answer)
    with pytest.raises(errors.PublishRefused):
        await pipeline.send(subject, b"x", msg_id="m")
    assert pipeline._conn.callback_errors == 0


@patient
async def test_unknown_refusals_keep_the_servers_code(pipeline, seen) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    await answering(seen.conn, subject, b'{"error":{"code":400,"err_code":10999,"description":"new rule"},"seq":0}')
    with pytest.raises(errors.PublishRefused, match="new rule") as refused:
        await pipeline.send(subject, b"x", msg_id="m")
    assert refused.value.details["server_code"] == 10999


@patient
async def test_a_broker_that_is_electing_is_waited_for(pipeline, seen) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    electing = b'{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}'
    await answering(seen.conn, subject, electing, electing, b'{"stream":"error","seq":3,"domain":"hub"}')
    ack = await pipeline.send(subject, b"x", msg_id="m")
    assert (ack.stream, ack.seq, ack.domain) == ("error", 3, "hub")


IN_PROCESS = b'{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"},"seq":0}'


async def test_an_earlier_copy_on_its_way_to_the_replicas_is_no_refusal(pipeline, seen) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    await answering(seen.conn, subject, None, IN_PROCESS, b'{"stream":"S","seq":3,"duplicate":true}')
    assert (await pipeline.send(subject, b"x", msg_id="m")).seq == 3


@hasty
async def test_what_stays_in_process_until_the_deadline_may_be_stored(pipeline, seen) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    await answering(seen.conn, subject, *[IN_PROCESS] * 50)
    with pytest.raises(errors.PublishTimeout):
        await pipeline.send(subject, b"x", msg_id="m")


async def test_somebody_elses_message_of_the_same_id_in_process_is_compared(pipeline, seen) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    await answering(seen.conn, subject, IN_PROCESS, b'{"stream":"S","seq":3,"duplicate":true}')
    with pytest.raises(errors.IdCollision):
        await pipeline.send(subject, b"x", msg_id="m")


async def test_noise_on_the_inbox_is_ignored(pipeline, seen) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    replies = await answering(seen.conn, subject, None)
    publication = pipeline.send(subject, b"x", msg_id="m")
    await until(lambda: replies)
    prefix = replies[0].rpartition(".")[0]
    for token in ("x", "999999", "1-x-y", "-", "\u00e9", "1e9"):
        seen.conn.publish(f"{prefix}.{token}", b'{"stream":"S","seq":1}')
    seen.conn.publish(replies[0], b'{"stream":"S","seq":2}')
    assert (await publication).seq == 2
    assert pipeline._conn.callback_errors == 0


@hasty
async def test_what_is_in_flight_is_bounded(pipeline, seen) -> None:
    subject = f"test.{secrets.token_hex(4)}"
    await answering(seen.conn, subject, None)
    publications = [pipeline.send(subject, b"x") for _ in range(50)]
    with pytest.raises(errors.Overloaded):
        pipeline.send(subject, b"x")
    results = await asyncio.gather(*publications, return_exceptions=True)
    assert {type(r) for r in results} == {errors.PublishTimeout}
    assert pipeline.inflight == 0
