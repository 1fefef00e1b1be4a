"""Ten million damaged messages through the projector's decoder, and a hundred thousand through real servers.

In process: each message becomes rows or dead letters, nothing else; the decoder raises nothing,
and never says `wire.invalid`, which is its word for a defect of its own.  Through the servers:
whatever the broker stored is in a table or parked, each message accounted for by its sequence,
and what honest agents state meanwhile is in the tables as if nobody else were there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import random
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import asyncpg

from coord.bus.connection import Connection, NatsConfig
from coord.wire import subjects
from coord.wire.envelope import Poison, StoredFact, StoredSample, decode_message
from tests.soak.harness import Job, Result, Scenario, folder, rng_of, say
from tests.soak.lag import caught_up
from tests.soak.speakers import Speech, speaking
from tests.soak.stack import Checkpoints, Stack
from tests.soak.verdict import judge
from tests.support.mutants import ANY, mutant, mutate_bytes, publish_mutants, specimens
from tests.support.rawnats import RawNats
from tests.support.waiting import until

SCENARIO = Scenario(
    name="fuzz",
    title="damaged payloads, subjects and headers: through the decoder, and through real servers beside honest agents",
    bound_s=1200,
    rank=60,
)

PAYLOADS = 10_000_000
THROUGH_SERVERS = 100_000
_PIECE = 50_000
_STORED_AT = datetime(2026, 5, 1, tzinfo=UTC)


async def run(job: Job) -> Result:
    payloads = job.of(job.facts, PAYLOADS, 1000)
    result = Result(rounds=0)
    await _in_process(job, result, payloads)
    await _through_servers(job, result, max(500, payloads * THROUGH_SERVERS // PAYLOADS))
    return result


# --- in process --------------------------------------------------------------------------


async def _in_process(job: Job, result: Result, payloads: int) -> None:
    rng = rng_of(job, "fuzz")
    pieces = [(rng.getrandbits(64), min(_PIECE, payloads - start)) for start in range(0, payloads, _PIECE)]
    fates: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        running = [loop.run_in_executor(pool, decode_piece, *piece) for piece in pieces]
        for i, done in enumerate(asyncio.as_completed(running)):
            counts, broken = await done
            fates += counts
            for text in broken:
                result.found("raised", text)
            if i % 40 == 39:
                say(f"{(i + 1) * _PIECE:,} of {payloads:,} decoded")
    result.volume["payloads"] = payloads
    result.details["fates"] = dict(fates.most_common())
    if fates["wire.invalid"]:
        result.found("defect", f"{fates['wire.invalid']} times the decoder had a defect", fates["wire.invalid"])
    if payloads >= 10_000 and len(fates) < 8:
        result.found("blunt", f"the payloads are too much alike: {dict(fates)}")


def decode_piece(seed: int, count: int) -> tuple[Counter[str], list[str]]:
    """Decode `count` damaged messages; what became of them, and what should not have."""
    rng = random.Random(seed)
    base = [(stored_subject(s), headers, body) for s, headers, body in specimens(rng, "mutants")]
    fates: Counter[str] = Counter()
    broken: list[str] = []
    for i in range(count):
        subject, headers, body = _damaged(rng, rng.choice(base))
        try:
            entries = decode_message(subject.decode("utf-8", "backslashreplace"), headers, body, i + 1, _STORED_AT)
            for entry in entries:
                fates[_fate(entry)] += 1
        except Exception as exc:  # what it must never do
            if len(broken) < 5:
                broken.append(f"seed {seed} message {i}: {type(exc).__name__}: {exc}; {subject!r} {headers!r} {body!r}")
            fates["raised"] += 1
    return fates, broken


def _fate(entry: Any) -> str:
    if isinstance(entry, StoredFact):
        return "fact"
    if isinstance(entry, StoredSample):
        return "sample"
    assert isinstance(entry, Poison), type(entry)
    return entry.error.code


def _damaged(rng: random.Random, specimen: tuple[bytes, bytes | None, bytes]) -> tuple[bytes, bytes | None, bytes]:
    subject, headers, body = mutant(rng, specimen)
    if rng.random() < 0.1:  # nothing of a proper message at all
        body = mutate_bytes(rng, rng.randbytes(rng.randrange(64)), ANY)
    return subject, headers, body


def stored_subject(published: bytes) -> bytes:
    """The subject that the broker would store a proper one under."""
    head, kind, tenant, agent, *rest = published.decode().split(".")
    if kind == "tel":
        return ".".join((head, "tlog", str(subjects.partition(agent)), tenant, agent, *rest)).encode()
    key, entity, name, *event = rest
    return ".".join((head, "log", str(subjects.partition(key)), tenant, key, entity, name, agent, *event)).encode()


# --- through the servers -----------------------------------------------------------------


async def _through_servers(job: Job, result: Result, count: int) -> None:
    rng = rng_of(job, "servers")
    with folder(job, "fuzz") as home:
        async with Stack.open(home) as stack:
            projector = await stack.projector()
            await projector.ready(60)
            speech = Speech(
                url=stack.nats_url, tenant="honest", seed=job.seed, records=str(home / "records"), per_s=1500,
                notes=24, tasks=24,
            )  # fmt: skip
            async with speaking(speech, home / "speakers.log") as speakers, RawNats(stack.nats.port) as raw:
                if not await speakers.until(500, 30):
                    result.found("few", "the honest agents state nothing")
                began = time.monotonic()
                await publish_mutants(raw, rng, count)
                said = time.monotonic() - began
                told = await speakers.finish()
                checkpoints = Checkpoints(stack.database_url)
                if await caught_up(speakers, checkpoints) is None:
                    result.found("stuck", "the honest agents' facts are not all in the tables")
                checkpoints.close()
                result.details["connections_ended_by_broker"] = len(raw.errors)
            if not projector.owned:
                result.found("dead", "the projector ended")
            db = await stack.database()
            stored = await account_for_all(result, stack.nats_url, db)
            rows, findings = await judge(db, [speech], dead_letters=True)
            await db.close()
            result.add(findings)
    result.volume |= {"through_servers": count, "stored": stored, "honest_facts": told.acked, "rows": rows}
    result.details["sent_in_s"] = round(said, 1)


_ACCOUNTED = """
SELECT seq FROM coord.event WHERE $1 = 'EVENTS'
UNION SELECT seq FROM coord.metric_sample WHERE $1 = 'TELEMETRY'
UNION SELECT seq FROM coord.dead_letter WHERE stream = $1
"""


async def account_for_all(result: Result, url: str, db: asyncpg.Connection[asyncpg.Record]) -> int:
    """Each stored message is in a table or parked (an empty frame is a message without entries); how many there are."""
    total = 0
    async with await Connection.open(NatsConfig(urls=(url,)), name="soak-look") as conn:
        for stream in (subjects.EVENTS, subjects.TELEMETRY):
            state = (await conn.api(f"STREAM.INFO.{stream}"))["state"]
            assert state["first_seq"] <= 1, "the window moved: nothing can be accounted for"
            total += state["messages"]
            missing: set[int] = set()

            async def gone(stream: str = stream, last: int = state["last_seq"]) -> bool:
                nonlocal missing
                there = {row["seq"] for row in await db.fetch(_ACCOUNTED, stream)}
                missing = set(range(1, last + 1)) - there
                return not missing

            try:
                await until(gone, 30, every_s=0.5)
            except AssertionError:
                for seq in sorted(missing)[:5]:
                    text = f"{stream} {seq} is neither in a table nor parked"
                    result.found("unaccounted", text, len(missing))
    return total
