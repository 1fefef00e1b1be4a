"""One message in a hundred cannot be believed: each is parked with its reason, the others are projected.

What is sent is known to the byte, so the dead letters are exactly the poison: no more, no fewer,
with the code that was meant; a frame with a bad entry yields its good siblings.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import msgspec

from coord.bus.connection import Connection, NatsConfig
from tests.soak.harness import Job, Result, Scenario, folder, rng_of, say
from tests.soak.lag import STUCK_S, caught_up
from tests.soak.speakers import Speakers, Speech, speaking
from tests.soak.stack import Checkpoints, Stack
from tests.soak.verdict import judge
from tests.support.waiting import until

SCENARIO = Scenario(name="poison", title="1 % of all facts are poison", bound_s=600, rank=50)

FACTS = 1_000_000
_TENANT = "poisoned"
_FRAME = (
    b"NATS/1.0\r\nce-specversion: 1.0\r\nce-type: t\r\nce-datacontenttype: application/vnd.coord.frame+msgpack\r\n\r\n"
)
_BASE_US = 1_770_000_000_000_000

Message = tuple[str, bytes | None, bytes]


def _frame(*entries: object) -> bytes:
    return msgspec.msgpack.encode([1, _BASE_US, list(entries)])


POISON: dict[str, Callable[[int], Message]] = {
    "wire.payload": lambda i: (f"coord.ev.{_TENANT}.mallory.k{i % 64}.note.n.said", None, b'{"cut": [1, 2'),
    "wire.schema_unknown": lambda i: (
        f"coord.ev.{_TENANT}.mallory.mallory.agent.mallory.status",
        b"NATS/1.0\r\nce-specversion: 1.0\r\nce-type: t\r\nCoord-Schema: 99\r\n\r\n",
        b"{}",
    ),
    "wire.author": lambda i: (f"coord.ev.{_TENANT}.mallory.other.agent.other.status", None, b'{"load": 1}'),
    "wire.frame_not_allowed": lambda i: (
        f"coord.ev.{_TENANT}.mallory.k{i % 64}.note.n.said",
        _FRAME,
        _frame([0, {"a": 1}]),
    ),
    "wire.frame": lambda i: (
        f"coord.ev.{_TENANT}.mallory.k{i % 64}.task.t.progress",
        _FRAME,
        msgspec.msgpack.encode({"n": i}),
    ),
}
"""The code that the dead letter must have → what is sent."""


async def run(job: Job) -> Result:
    facts = job.of(job.facts, FACTS, 1000)
    result = Result()
    with folder(job, "poison") as home:
        async with Stack.open(home) as stack:
            await (await stack.projector(bug=job.bug)).ready(60)
            speech = Speech(
                url=stack.nats_url, tenant="sound", seed=job.seed, records=str(home / "records"), per_s=20_000
            )
            async with (
                speaking(speech, home / "speakers.log") as speakers,
                await Connection.open(NatsConfig(urls=(stack.nats_url,)), name="mallory") as conn,
            ):
                sent = await _poison(conn, speakers, rng_of(job, "poison"), facts)
                told = await speakers.finish()
                checkpoints = Checkpoints(stack.database_url)
                took = await caught_up(speakers, checkpoints)
                checkpoints.close()
                if took is None:
                    result.found("stuck", f"not caught up after {STUCK_S:g} s")
            db = await stack.database()
            await _compare(result, db, sent)
            result.volume["rows"], findings = await judge(db, [speech])
            await db.close()
            result.add(findings)
    result.volume |= {"facts": told.acked, "poison": len(sent)}
    return result


async def _poison(conn: Connection, speakers: Speakers, rng: random.Random, facts: int) -> dict[int, str]:
    """Publish one poisonous message for every 99 facts; stream sequence → the code it must be parked with."""
    sent: dict[int, str] = {}
    number = 0
    while speakers.told.acked < facts:
        due = speakers.told.acked // 99
        while number < due:
            burst = range(number, min(due, number + 64))
            picked = [rng.choice(list(POISON)) for _ in burst]
            answers = await asyncio.gather(
                *(_send(conn, POISON[code](i)) for i, code in zip(burst, picked, strict=True))
            )
            sent |= dict(zip(answers, picked, strict=True))
            number = burst.stop
        await speakers.word()
    say(f"{len(sent):,} poisonous messages between {speakers.told.acked:,} facts")
    return sent


async def _send(conn: Connection, message: Message) -> int:
    subject, headers, body = message
    answer = msgspec.json.decode((await conn.request(subject, body, headers=headers, timeout_s=10)).data)
    return int(answer["seq"])


async def _compare(result: Result, db: object, sent: dict[int, str]) -> None:
    async def parked() -> dict[int, str]:
        rows = await db.fetch("SELECT seq, code FROM coord.dead_letter WHERE stream = 'EVENTS'")  # type: ignore[attr-defined]
        return {row["seq"]: row["code"] for row in rows}

    async def all_there() -> bool:
        return len(await parked()) >= len(sent)

    try:
        await until(all_there, 30, every_s=0.2)
    except AssertionError:
        pass  # the comparison says what is missing
    there = await parked()
    result.details["codes"] = dict(Counter(there.values()))
    for seq, code in sent.items():
        if there.get(seq) != code:
            result.found("poison", f"sequence {seq} should be parked as {code}, and is {there.get(seq)}")
    for seq in there.keys() - sent.keys():
        result.found("stray", f"sequence {seq} is parked as {there[seq]}, and was sound")
    rows = await db.fetchval("SELECT count(*) FROM coord.event WHERE tenant = $1", _TENANT)  # type: ignore[attr-defined]
    if rows:
        result.found("believed", f"{rows} poisonous messages became rows")
