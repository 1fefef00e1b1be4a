"""``coord bench query``: what an answer of the query service takes, and whether slow tenants hold up fast ones.

One instance in a process of its own, beside a projector; questions about what is in the tables, asked by callers that
ask again as soon as they are answered:

hit         kept answers; ``same``: "it still holds" (an ETag, 304), over NATS and over HTTP
miss        another question each time, which the database is asked
direct      the same SQL by asyncpg, rows fetched: what an agent with a connection of its own would do
fairness    tenants that ask misses, alone, and beside tenants whose questions wait for a lock on every connection
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec
from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus import rpc
from coord.bus.connection import Connection, NatsConfig
from coord.client.connect import connect
from coord.ops.bench import machine, servers
from coord.ops.bench.measure import BenchError, cpu_s, percentile, quiet_heap, rounded
from coord.ops.bench.query_worker import Answering
from coord.ops.bench.workers import Job, Worker
from coord.ops.devstack.stack import DevStackConfig
from coord.query import catalogue
from coord.telemetry.metrics import Metrics
from coord.wire import headers, subjects
from coord.wire.envelope import Fact

FORMAT: Final = 1
_SECRET: Final = secrets.token_hex(8)
_NOTES: Final = 8
"""Ordering keys of each tenant."""
_PATIENCE_S: Final = 60.0
_SLOW_AT_ONCE: Final = 8
"""Questions of a slow tenant."""
_HEADERS: Final = headers.encode({"Content-Type": "application/json", "Coord-Deadline-Ms": "5000"})

Ask: TypeAlias = Callable[[int], Awaitable[None]]
"""Of one caller, the n-th question."""


class QueryingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and for how long.  The defaults take half a minute."""

    tenants: int = 8
    slow: int = 4
    """Tenants besides, whose questions take long."""
    callers: int = 8
    facts: int = 40
    """Of each note: rows of an answer."""
    rounds: int = 2
    seconds: float = 1.2
    """Of each round of each sort."""
    fair_s: float = 3.0
    """How long fast tenants ask, alone and beside slow ones."""
    profile: str | None = None
    database: DevStackConfig

    def scaled(self, scale: float) -> QueryingConfig:
        """Durations and counts times `scale`; 1.0 is the whole."""
        return msgspec.structs.replace(
            self,
            rounds=max(1, round(self.rounds * min(1.0, scale))),
            seconds=max(0.1, self.seconds * scale),
            fair_s=max(0.5, self.fair_s * scale),
        )


class _Told:
    """What callers of one sort were told, and how long it took them."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self.refused = 0
        self.seconds = self.service_s = 0.0

    def figures(self) -> dict[str, float]:
        took = sorted(self.took_s)
        if not took:
            raise BenchError("nobody was answered", refused=self.refused)
        found = {
            "per_s": rounded(len(took) / self.seconds),
            "p50_ms": rounded(percentile(took, 0.5) * 1e3),
            "p99_ms": rounded(percentile(took, 0.99) * 1e3),
        }
        if self.service_s:
            found["service_cpu_us"] = rounded(self.service_s / len(took) * 1e6)
        return found | ({"refused": self.refused} if self.refused else {})


class _Bench:
    """Servers, the instance, and what asks it."""

    def __init__(self, config: QueryingConfig, conn: Connection, db: asyncpg.Pool[Any], worker: Worker) -> None:
        self.config = config
        self.conn = conn
        self.db = db
        self.worker = worker
        self.tenants = [f"t{n}" for n in range(config.tenants)]
        self.numbers = itertools.count(1)
        self._etags: dict[str, str] = {}

    def subject(self, caller: int, name: str = "history") -> str:
        return subjects.rpc(self.tenants[caller % len(self.tenants)], "query", name)

    async def ask(self, subject: str, **asked: Any) -> dict[str, Any]:
        """One request as a plain client sends it; the answer, or the error it is."""
        message = await self.conn.request(subject, msgspec.json.encode(asked), headers=_HEADERS, timeout_s=_PATIENCE_S)
        answer: dict[str, Any] = msgspec.json.decode(message.data)
        if "Nats-Service-Error-Code" in message.headers:
            raise rpc.rebuild(answer)
        return answer

    # --- sorts of questions ------------------------------------------------------------------

    async def hit(self, caller: int) -> None:
        await self.conn.request(self.subject(caller), _asked(caller), headers=_HEADERS, timeout_s=_PATIENCE_S)

    async def same(self, caller: int) -> None:
        subject = self.subject(caller)
        answer = await self.ask(subject, params={"key": _note(caller)}, etag=self._etags.get(subject))
        self._etags[subject] = answer["etag"]

    async def miss(self, caller: int) -> None:
        params = {"key": _note(caller), "since": f"2020-01-01T00:00:00.{next(self.numbers):06}Z"}
        await self.ask(self.subject(caller), params=params)

    async def direct(self, caller: int) -> None:
        question = catalogue.get("history")
        values = question.bind(self.tenants[caller % len(self.tenants)], {"key": _note(caller)})
        rows = await self.db.fetch(question.query.for_asyncpg, *values)
        if len(rows) != self.config.facts:
            raise BenchError("the tables lack rows", rows=len(rows))

    # --- callers -----------------------------------------------------------------------------

    async def asked(self, told: _Told, asks: list[Ask], seconds: float) -> None:
        """Each of `asks` is a caller, who asks again as soon as he is answered."""

        async def caller(number: int, ask: Ask) -> None:
            while (now := time.perf_counter()) < until:
                try:
                    await ask(number)
                except (errors.Overloaded, errors.DeadlineExceeded):
                    told.refused += 1
                    await asyncio.sleep(0.01)
                else:
                    told.took_s.append(time.perf_counter() - now)

        with quiet_heap():
            began, cpu = time.perf_counter(), cpu_s(self.worker.pid)
            until = began + seconds
            await asyncio.gather(*(caller(n, ask) for n, ask in enumerate(asks)))
            told.seconds += time.perf_counter() - began
            told.service_s += cpu_s(self.worker.pid) - cpu


def _note(caller: int) -> str:
    return f"n{caller % _NOTES}"


def _asked(caller: int) -> bytes:
    return b'{"params":{"key":"%s"}}' % _note(caller).encode()


class _Http:
    """One connection that stays, from the first request on."""

    def __init__(self, url: str) -> None:
        self._host, _, self._port = url.removeprefix("http://").rpartition(":")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._etag = ""

    async def hit(self, caller: int) -> None:
        status, _ = await self._get(caller, "")
        if status != 200:
            raise BenchError("no answer over HTTP", status=status)

    async def same(self, caller: int) -> None:
        _, self._etag = await self._get(caller, f"if-none-match: {self._etag}\r\n" if self._etag else "")

    async def _get(self, caller: int, more: str) -> tuple[int, str]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, int(self._port))
        reader, writer = self._streams
        head = f"GET /v1/query/history?key={_note(caller)} HTTP/1.1\r\nhost: bench\r\n"
        writer.write(f"{head}authorization: Bearer {_SECRET}-{caller}\r\n{more}\r\n".encode())
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        await reader.readexactly(int(fields.get("content-length", 0)))
        return int(first.split()[1]), fields.get("etag", "")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def query(config: QueryingConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and return the report."""
    circumstances = machine.Circumstances()
    async with servers.database(config.database, say) as database, servers.broker() as nats:
        async with _bench(config, nats.url, database.config.url) as bench:
            say("asking")
            figures = await _sorts(bench, say)
            figures["fairness"] = await _fairness(bench, say)
        versions = await servers.versions(nats, database.config)
    return circumstances.report(
        "query", FORMAT, settings=servers.settings(config), figures=figures, versions=versions, edition=database.edition
    )


@contextlib.asynccontextmanager
async def _bench(config: QueryingConfig, nats_url: str, database_url: str) -> AsyncIterator[_Bench]:
    tenants = [f"t{n}" for n in range(config.tenants)]
    tokens = tuple(f"{tenants[n % len(tenants)]}:{_SECRET}-{n}" for n in range(config.callers))
    job = Answering(nats_url=nats_url, database_url=database_url, tokens=tokens, profile=config.profile)
    async with (
        Worker(Job(role="projector", nats_url=nats_url, database_url=database_url)),
        Worker(job, name="query", module="coord.ops.bench.query_worker") as worker,
        await Connection.open(NatsConfig(urls=(nats_url,)), name="bench") as conn,
        asyncpg.create_pool(database_url, min_size=config.callers, max_size=config.callers) as db,
    ):
        bench = _Bench(config, conn, db, worker)
        for tenant in tenants:
            await _filled(nats_url, tenant, config.facts)
        for n in range(max(_NOTES, len(tenants))):
            await _projected(bench, n)
        yield bench


async def _filled(nats_url: str, tenant: str, facts: int) -> None:
    """A tenant's notes, in the log."""
    where = NatsConfig(urls=(nats_url,))
    async with connect(where, tenant=tenant, agent="speaker", metrics=Metrics(CollectorRegistry())) as client:
        said = [Fact(kind="note", id=f"n{n}", event="said", data={"n": m, "text": "x" * 100})
                for n in range(_NOTES) for m in range(facts)]  # fmt: skip
        await asyncio.gather(*map(client.publish, said))


async def _projected(bench: _Bench, caller: int) -> None:
    """Until the instance has it all, and keeps it: it has heard of every partition, and asked again nothing is read."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            params = {"key": _note(caller)}
            first = await bench.ask(bench.subject(caller), params=params)
            again = await bench.ask(bench.subject(caller), params=params)
            if len(first["rows"]) == bench.config.facts and first["read_at"] == again["read_at"]:
                return
            await asyncio.sleep(0.1)


async def _sorts(bench: _Bench, say: Callable[[str], None]) -> dict[str, Any]:
    config = bench.config
    https = [_Http(bench.worker.told["url"]) for _ in range(config.callers)]
    sides: dict[str, list[Ask]] = {
        "nats_hit": [bench.hit] * config.callers,
        "nats_hit_alone": [bench.hit],
        "nats_same": [bench.same] * config.callers,
        "http_hit": [one.hit for one in https],
        "http_same": [one.same for one in https],
        "miss": [bench.miss] * config.callers,
        "miss_alone": [bench.miss],
        "direct": [bench.direct] * config.callers,
        "direct_alone": [bench.direct],
    }
    told = {name: _Told() for name in sides}
    for _ in range(config.rounds):
        for name, asks in sides.items():
            await bench.asked(told[name], asks, config.seconds)
            for one in https:
                one.close()  # the instance does not wait for who is silent
    figures: dict[str, Any] = {name: one.figures() for name, one in told.items()}
    for name in ("direct", "direct_alone"):
        figures[name].pop("service_cpu_us", None)
    for name, figure in figures.items():
        say(f"  {name:<16}" + "  ".join(f"{what} {value:g}" for what, value in figure.items()))
    return figures | {
        "hit_rate_ratio_to_direct": rounded(figures["nats_hit"]["per_s"] / figures["direct"]["per_s"]),
        "miss_rate_ratio_to_direct": rounded(figures["miss"]["per_s"] / figures["direct"]["per_s"]),
        "hit_p50_ratio_to_direct": rounded(figures["nats_hit_alone"]["p50_ms"] / figures["direct_alone"]["p50_ms"]),
    }


async def _fairness(bench: _Bench, say: Callable[[str], None]) -> dict[str, Any]:
    """Fast tenants alone, then beside slow ones, whose questions wait for a table that somebody has locked."""
    config = bench.config
    asks: list[Ask] = [bench.miss] * config.tenants
    alone, beside = _Told(), _Told()
    await bench.asked(alone, asks, config.fair_s)
    slow_asked = 0
    enough = asyncio.Event()

    async def slow(tenant: str) -> None:
        nonlocal slow_asked
        while not enough.is_set():
            slow_asked += 1
            with contextlib.suppress(errors.CoordError):
                await bench.ask(subjects.rpc(tenant, "query", "tasks"), params={"limit": next(bench.numbers)})
            await asyncio.sleep(0.01)

    async with bench.db.acquire() as conn, conn.transaction():
        await conn.execute("LOCK TABLE coord.task IN ACCESS EXCLUSIVE MODE")
        slows = [asyncio.create_task(slow(f"slow{n}")) for n in range(config.slow) for _ in range(_SLOW_AT_ONCE)]
        await asyncio.sleep(min(1.0, config.fair_s / 2))
        await bench.asked(beside, asks, config.fair_s)
        enough.set()
    await asyncio.gather(*slows)
    found = {"fast_alone": alone.figures(), "fast_beside_slow": beside.figures()}
    for name, figures in found.items():
        say(f"  {name:<16}" + "  ".join(f"{what} {value:g}" for what, value in figures.items()))
    return found | {"slow_asked": slow_asked}
