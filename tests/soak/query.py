"""Agents of two tenants ask several query services, while these, the projector, NATS and PostgreSQL are killed.

Each answer says up to where it goes.  Afterwards it is held against the log as the tables have it: the facts of that
tenant and key up to there, no other and none missing; nothing of another tenant; not later than its deadline; and at
the end, when all is quiet, the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Iterable

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection, NatsConfig
from coord.client.connect import Coord, connect
from coord.ops.bench.measure import rss_bytes
from coord.ops.bench.query_worker import Answering
from coord.ops.bench.workers import Worker
from coord.wire import subjects
from coord.wire.envelope import Fact
from coord.wire.query_api import QueryAnswer, QueryRequest, Since, Watermark
from tests.soak.harness import Job, Result, Scenario, folder, rng_of, say
from tests.soak.stack import Stack, settled
from tests.support.crash import ProjectorProcess

SCENARIO = Scenario(
    name="query",
    title="agents of two tenants ask three query services; kills of these, of projector, NATS and PostgreSQL in turns",
    bound_s=400,
    rank=66,
)

TENANTS = ("acme", "other")
INSTANCES = 3
ROUNDS = 12
KEYS = 12
ASKERS = 8
_PER_S = 25.0
_ROUND_S = (2.0, 5.0)
_LATE_S = 2.0
"""What an answer, or a refusal, may come later than its deadline: the machine's."""
_TRIES = 60
_GROWTH_MAX = 2 * limits.QUERY_TENANT_BYTES + 24 * limits.MIB
"""Of an instance, once it has answered: what two tenants' answers may take, and what comes and goes."""


class Told(msgspec.Struct, frozen=True):
    """One answer."""

    tenant: str
    key: str
    seqs: tuple[int, ...]
    """Of its rows."""
    to: int
    """Up to where it goes, in the key's partition."""
    wanted: int
    """What it had to have seen; 0: nothing."""
    tenants: frozenset[str]
    """Whose facts its rows are, as these say."""
    modified: bool


class Asker:
    """Asks about one key after the other, as a plain client: some again, some about what was just said."""

    def __init__(self, conn: Connection, rng: random.Random, keys: int, acked: dict[tuple[str, str], int]) -> None:
        self._conn = conn
        self._rng = rng
        self._keys = keys
        self._acked = acked
        self._had: dict[tuple[str, str], tuple[str, Told]] = {}
        self.told: list[Told] = []
        self.refused: dict[str, int] = {}
        self.late: list[float] = []
        """Seconds beyond the deadline."""

    async def run(self, over: asyncio.Event) -> None:
        """Until told to stop."""
        while not over.is_set():
            try:
                await self.ask(self._rng.choice(TENANTS), f"k{self._rng.randrange(self._keys)}")
            except errors.CoordError as exc:
                self.refused[exc.code] = self.refused.get(exc.code, 0) + 1
                await asyncio.sleep(0.05)

    async def ask(self, tenant: str, key: str, *, newest: bool = False, timeout_s: float | None = None) -> Told:
        """One question; raises what it was refused with."""
        rng = self._rng
        etag, had = self._had.get((tenant, key), (None, None)) if rng.random() < 0.5 else (None, None)
        wanted = self._acked.get((tenant, key), 0) if newest or rng.random() < 0.3 else 0
        asked = QueryRequest(
            params={"key": key}, rows=limits.QUERY_PAGE_ROWS_MAX, etag=etag,
            min_watermark=Since(key, wanted) if wanted else None,
        )  # fmt: skip
        given_s = rng.choice((0.2, 1.0, 5.0)) if timeout_s is None else timeout_s
        began = time.monotonic()
        try:
            where = subjects.rpc(tenant, "query", "history")
            answer = await rpc.call(self._conn, where, asked, QueryAnswer, timeout_s=given_s, content="json")
        finally:
            self.late.append(time.monotonic() - began - given_s)
        told = _told(tenant, key, answer, wanted, had)
        self._had[tenant, key] = (answer.etag, told)
        self.told.append(told)
        return told


def _told(tenant: str, key: str, answer: QueryAnswer, wanted: int, had: Told | None) -> Told:
    places = msgspec.json.decode(answer.watermark, type=Watermark)
    to = places[subjects.EVENTS][subjects.partition(key)][1]
    if not answer.modified:
        assert had is not None, "nothing was shown that could still hold"
        return msgspec.structs.replace(had, to=to, wanted=wanted, modified=False)
    rows = [msgspec.json.decode(row) for row in answer.rows]
    whose = frozenset(row["data"]["tenant"] for row in rows)
    return Told(tenant, key, tuple(row["seq"] for row in rows), to, wanted, whose, modified=True)


def check(result: Result, told: Iterable[Told], facts: dict[tuple[str, str], list[int]]) -> int:
    """Each answer against the facts of its tenant and key, in the log's order; how many there were."""
    count = 0
    for one in told:
        count += 1
        if one.tenants - {one.tenant}:
            result.found("foreign", f"{one.tenant} was shown facts of {', '.join(one.tenants)}")
        if one.to < one.wanted:
            result.found("behind", f"{one.key}: an answer up to {one.to} that had to have {one.wanted}")
        true = tuple(seq for seq in facts.get((one.tenant, one.key), ()) if seq <= one.to)
        if one.seqs != true:
            what = "rows" if one.modified else "still holds"
            result.found("wrong", f"{one.tenant} {one.key} up to {one.to} ({what}): {one.seqs[-5:]} for {true[-5:]}")
    return count


class Stating:
    """States facts of both tenants until told to stop, whoever is away."""

    def __init__(self, clients: dict[str, Coord], rng: random.Random, keys: int, per_s: float) -> None:
        self._clients = clients
        self._rng = rng
        self._keys = keys
        self._pause_s = 1 / per_s
        self.acked: dict[tuple[str, str], int] = {}
        """(tenant, key) → the newest fact that is in the log."""
        self.facts = self.unsure = 0

    async def run(self, over: asyncio.Event) -> None:
        """Until told to stop."""
        while not over.is_set():
            await self.say(self._rng.choice(TENANTS), f"k{self._rng.randrange(self._keys)}")
            await asyncio.sleep(self._pause_s)

    async def say(self, tenant: str, key: str) -> None:
        """One fact."""
        try:
            ack = await self._clients[tenant].publish(Fact(kind="note", id=key, event="said", data={"tenant": tenant}))
        except errors.CoordError:
            self.unsure += 1
        else:
            self.facts += 1
            self.acked[tenant, key] = max(ack.seq, self.acked.get((tenant, key), 0))

    @property
    def ends(self) -> dict[tuple[str, int], int]:
        """Up to where the tables have to come."""
        found: dict[tuple[str, int], int] = {}
        for (_, key), seq in self.acked.items():
            slot = (subjects.EVENTS, subjects.partition(key))
            found[slot] = max(seq, found.get(slot, 0))
        return found


class Instances:
    """Instances of the query service, each in a process of its own."""

    def __init__(self, stack: Stack, stack_of: contextlib.AsyncExitStack) -> None:
        self._job = Answering(nats_url=stack.nats_url, database_url=stack.database_url, tokens=())
        self._stack = stack_of
        self.running: list[Worker] = []
        self.first_rss: dict[int, int] = {}

    async def start(self) -> None:
        """One more."""
        worker = Worker(self._job, name="query", module="coord.ops.bench.query_worker")
        self.running.append(await self._stack.enter_async_context(worker))

    async def kill(self, rng: random.Random) -> None:
        """One of them, and another comes in its place."""
        self.running.pop(rng.randrange(len(self.running))).kill()
        await self.start()

    def warm(self) -> None:
        """From now on their memory is watched."""
        for worker in self.running:
            self.first_rss.setdefault(worker.pid, rss_bytes(worker.pid))

    def growth(self) -> int:
        """Of the one that has grown the most."""
        watched = [w.pid for w in self.running if w.pid in self.first_rss]
        return max((rss_bytes(pid) - self.first_rss[pid] for pid in watched), default=0)


async def run(job: Job) -> Result:
    """See the module."""
    rounds = job.of(job.rounds, ROUNDS, 4)
    result = Result(rounds=rounds)
    over = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack_of:
        home = stack_of.enter_context(folder(job, "query"))
        stack = await stack_of.enter_async_context(Stack.open(home))
        clients = {
            tenant: await stack_of.enter_async_context(connect(stack.nats_url, tenant=tenant, agent="speaker"))
            for tenant in TENANTS
        }
        stating = Stating(clients, rng_of(job, "facts"), KEYS, _PER_S)
        instances = Instances(stack, stack_of)
        await asyncio.gather(*(instances.start() for _ in range(INSTANCES)))
        projector = await stack.projector(bug=job.bug)
        await projector.ready(60)
        for tenant, n in itertools.product(TENANTS, range(KEYS)):
            await stating.say(tenant, f"k{n}")
        askers = []
        for n in range(ASKERS):
            opened = await Connection.open(NatsConfig(urls=(stack.nats_url,)), name=f"asker-{n}")
            conn = await stack_of.enter_async_context(opened)
            askers.append(Asker(conn, rng_of(job, f"asker {n}"), KEYS, stating.acked))
        tasks = [asyncio.create_task(stating.run(over)), *(asyncio.create_task(one.run(over)) for one in askers)]
        await asyncio.sleep(_ROUND_S[1])
        instances.warm()
        await _rounds(job, result, stack, projector, instances, rounds)
        over.set()
        await asyncio.gather(*tasks)
        await settled(stack, stating.ends)
        await at_last(result, askers[0], TENANTS, KEYS)
        growth = instances.growth()
        db = await stack.database()
        rows = await db.fetch("SELECT tenant, key, seq FROM coord.event WHERE kind = 'note' ORDER BY epoch, seq, idx")
        await db.close()
    facts: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        facts.setdefault((row["tenant"], row["key"]), []).append(row["seq"])
    _verdict(result, askers, stating, facts, growth)
    return result


async def _rounds(
    job: Job, result: Result, stack: Stack, projector: ProjectorProcess, instances: Instances, rounds: int
) -> None:
    rng = rng_of(job, "moments")
    for n, victim in zip(range(rounds), itertools.cycle(("instance", "projector", "nats", "postgres")), strict=False):
        await asyncio.sleep(rng.uniform(*_ROUND_S))
        say(f"round {n + 1}/{rounds}: {victim} is killed")
        if victim == "instance":
            await instances.kill(rng)
        elif victim == "projector":
            projector.kill()
            projector = await stack.projector(bug=job.bug)
        elif victim == "nats":
            stack.nats.kill()
            await stack.nats.start()
        else:
            await stack.postgres.kill()
            await stack.postgres.start()
        kills = f"kills {victim}"
        result.volume[kills] = result.volume.get(kills, 0) + 1
    await asyncio.sleep(_ROUND_S[1])


async def at_last(result: Result, asker: Asker, tenants: Iterable[str], keys: int) -> None:
    """Every key once more, as new as it is: somebody answers, within a while."""
    for tenant, n in itertools.product(tenants, range(keys)):
        said: list[errors.CoordError] = []
        while len(said) < _TRIES:
            try:
                await asker.ask(tenant, f"k{n}", newest=True, timeout_s=5.0)
                break
            except errors.CoordError as exc:
                said.append(exc)
                await asyncio.sleep(0.5)
        else:
            result.found("unanswered", f"{tenant} k{n}: {said[-1]}")


def _verdict(
    result: Result, askers: list[Asker], stating: Stating, facts: dict[tuple[str, str], list[int]], growth: int
) -> None:
    told = [one for asker in askers for one in asker.told]
    checked = check(result, told, facts)
    late = max(itertools.chain.from_iterable(asker.late for asker in askers))
    if late > _LATE_S:
        result.found("late", f"an answer or refusal came {late:.2f} s after its deadline")
    if growth > _GROWTH_MAX:
        result.found("memory", f"an instance has grown by {growth} bytes")
    if not checked or not any(not one.modified for one in told):
        result.found("nothing", "nobody was answered, or nothing ever held still")
    result.volume |= {
        "answers": checked, "still holds": sum(not one.modified for one in told), "facts": stating.facts,
        "unsure": stating.unsure, "refusals": sum(sum(asker.refused.values()) for asker in askers),
    }  # fmt: skip
    refused: dict[str, int] = {}
    for asker in askers:
        for code, count in asker.refused.items():
            refused[code] = refused.get(code, 0) + count
    result.details |= {
        "refused": refused, "late_s_most": round(late, 3), "rss_growth_mib_most": round(growth / limits.MIB, 1)
    }  # fmt: skip
