"""Publishers that remember what the log acknowledged, and the check that the tables hold exactly that.

A *line* of work is one ordering key: it publishes its facts one after the other, the next only
when the log has acknowledged the one before, and numbers them from 1.  So at any moment, whatever
was killed, the rows of a key are numbers 1 to n without a hole: `Watcher` looks for one all the
time, `verify` compares everything at the end.

Lines are seeded: the same seed states the same facts in the same order per key.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, Self

import asyncpg
import msgspec

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.wire import subjects
from coord.wire.envelope import Encoded, Fact, Sample, encode_fact, encode_frame
from tests.support.waiting import until

T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)

Kind = Literal["lost", "doubled", "disordered", "stray", "wrong", "agent", "checkpoint", "hole"]


class Finding(msgspec.Struct, frozen=True):
    """One way in which the tables are not what the log acknowledged."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class GuaranteeBroken(AssertionError):
    """What the tables hold is not exactly what was acknowledged."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        shown = "\n  ".join(map(str, findings[:20]))
        super().__init__(f"{len(findings)} findings {dict(Counter(f.kind for f in findings))}:\n  {shown}")

    @property
    def kinds(self) -> set[Kind]:
        return {f.kind for f in self.findings}


class Entry(msgspec.Struct, frozen=True):
    """One row that a message must become."""

    stream: str
    agent: str
    key: str
    n: int
    idx: int
    event_id: str
    epoch: int = 0
    seq: int = 0

    @property
    def identity(self) -> tuple[str, int, int, int]:
        return self.stream, self.epoch, self.seq, self.idx

    @property
    def partition(self) -> int:
        return subjects.partition(self.key if self.stream == subjects.EVENTS else self.agent)


class _Message(msgspec.Struct, frozen=True):
    encoded: Encoded
    entries: tuple[Entry, ...]


class Line:
    """One ordering key and who speaks about it."""

    def __init__(self, kind: str, name: str, agent: str, rng: random.Random) -> None:
        self.kind, self.name, self.agent, self.rng = kind, name, agent, rng
        self.n = 0
        self.messages = 0

    def next(self, tenant: str) -> _Message:
        """The next message of this line; its facts' numbers go on where the last one's ended."""
        rng = self.rng
        framed = self.kind != "note" and rng.random() < 0.5
        first, self.n = self.n + 1, self.n + (rng.randint(2, 6) if framed else 1)
        numbers = range(first, self.n + 1)
        self.messages += 1
        event_id = f"{self.name}-{self.messages}"
        where: dict[str, Any] = {"tenant": tenant, "agent": self.agent, "event_id": event_id, "occurred_at": T0}
        stated = [self._state(n) for n in numbers]
        if framed or self.kind == "sample":
            encoded = encode_frame(stated, compress=rng.random() < 0.3, **where)
            ids = [f"{event_id}/{i}" for i in range(len(stated))]
        else:
            fact = stated[0]
            assert isinstance(fact, Fact)
            encoded = encode_fact(fact, content="msgpack" if rng.random() < 0.2 else "json", **where)
            ids = [event_id]
        stream = subjects.TELEMETRY if self.kind == "sample" else subjects.EVENTS
        rows = zip(numbers, ids, strict=True)
        return _Message(
            encoded, tuple(Entry(stream, self.agent, self.name, n, i, id_) for i, (n, id_) in enumerate(rows))
        )

    def _state(self, n: int) -> Any:
        if self.kind == "sample":
            return Sample(series=self.name, value=n)
        event = {"note": "said", "job": "progress", "agent": "status"}[self.kind]
        return Fact(
            kind=self.kind,
            id=self.name,
            event=event,
            data={"n": n, "text": "é" * self.rng.randrange(40), "deep": [{"x": self.rng.random()}]},
            correlation_id=f"c-{self.name}",
        )


MIX = ("note", "job", "note", "agent", "note", "sample")
"""Half single notes, the rest progress in frames, agents about themselves, and samples."""


def make_lines(rng: random.Random, count: int, kinds: tuple[str, ...] = MIX) -> list[Line]:
    lines = []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        name = f"{kind}{i}"
        agent = name if kind in ("agent", "sample") else f"a{i % 7}"
        lines.append(Line(kind, name, agent, random.Random(rng.getrandbits(64))))
    return lines


class Workload:
    """``async with Workload(url, rng) as load``: publishes until `stop`, and knows what was acknowledged."""

    def __init__(
        self,
        url: str,
        rng: random.Random,
        *,
        lines: int = 36,
        per_s: float = 1500,
        tenant: str | None = None,
        kinds: tuple[str, ...] = MIX,
        attempt_s: float = 1.0,
    ) -> None:
        """`attempt_s`: how long an answer is waited for, unless the connection breaks, before all is said again."""
        self.url = url
        self.tenant = tenant or f"t{secrets.token_hex(4)}"
        self.lines = make_lines(rng, lines, kinds)
        self.epochs = {subjects.EVENTS: 1, subjects.TELEMETRY: 1}
        """As the operator numbers them: changed when a stream was made anew."""
        self.acked: list[Entry] = []
        """In order per line."""
        self.unsure: list[Entry] = []
        """Given up without an acknowledgement: may be in the log or not."""
        self.acks = 0
        """Messages, not entries."""
        self.refusals: Counter[int] = Counter()
        """The server's error codes."""
        self.failures: Counter[str] = Counter()
        """Attempts that ended without an answer."""
        self._pause_s = lines / per_s
        self._attempt_s = attempt_s
        self._rng = random.Random(rng.getrandbits(64))
        self._conn: Connection | None = None
        self.acks_max: int | None = None
        """With so many publishers wait until this is raised; at most one message a line more."""
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._progress = asyncio.Condition()

    async def __aenter__(self) -> Self:
        config = NatsConfig(urls=(self.url,), ping_interval_s=1.0, reconnect_wait_s=0.05)
        self._conn = await Connection.open(config, name="workload", wait=True)
        self._tasks = [asyncio.create_task(self._run(line)) for line in self.lines]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(give_up_s=0)
        assert self._conn is not None
        await self._conn.close()

    async def until(self, acks: int, timeout_s: float = 100) -> None:
        """Return once `acks` messages in all were acknowledged."""
        async with asyncio.timeout(timeout_s), self._progress:
            await self._progress.wait_for(lambda: self.acks >= acks)

    async def more(self, acks: int, timeout_s: float = 100) -> None:
        """Return once `acks` more messages were acknowledged."""
        await self.until(self.acks + acks, timeout_s)

    async def stop(self, give_up_s: float = 30) -> None:
        """Let every line finish the message it is at; after `give_up_s` what is left is `unsure`."""
        self._stopping.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=give_up_s or 0.001)
            for task in self._tasks:
                task.cancel()
            ended = await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []
            for result in ended:
                if isinstance(result, Exception):
                    raise result

    async def _run(self, line: Line) -> None:
        while not self._stopping.is_set():
            if self.acks_max is not None and self.acks >= self.acks_max:
                await asyncio.sleep(0.01)
                continue
            message = line.next(self.tenant)
            try:
                await self._publish(message)
            except asyncio.CancelledError:
                self.unsure += [msgspec.structs.replace(e, epoch=self.epochs[e.stream]) for e in message.entries]
                raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rng.expovariate(1 / self._pause_s)):
                    await self._stopping.wait()

    async def _publish(self, message: _Message) -> None:
        """Again and again with the same id, until the log says that it has it."""
        assert self._conn is not None
        encoded = message.encoded
        block = encoded.header_block()
        while True:
            try:
                await self._conn.wait_connected()
                answer = await self._conn.request(
                    encoded.subject, encoded.body, headers=block, timeout_s=self._attempt_s
                )
            except (errors.NotConnected, errors.DeadlineExceeded, errors.ServiceUnavailable) as exc:
                self.failures[exc.code] += 1
                await asyncio.sleep(0.02)
                continue
            ack = msgspec.json.decode(answer.data)
            if "error" in ack:
                self.refusals[ack["error"].get("err_code", 0)] += 1
                await asyncio.sleep(0.02)
                continue
            self.acked += [
                msgspec.structs.replace(e, epoch=self.epochs[e.stream], seq=ack["seq"]) for e in message.entries
            ]
            self.acks += 1
            async with self._progress:
                self._progress.notify_all()
            return


# --- what the tables hold ----------------------------------------------------------------

_EVENTS = """
SELECT 'EVENTS' AS stream, epoch, seq, idx, partition, agent, key, event_id, (data ->> 'n')::int AS n
FROM coord.event WHERE tenant = $1 AND data ? 'n' ORDER BY epoch, seq, idx
"""
_SAMPLES = """
SELECT 'TELEMETRY' AS stream, epoch, seq, idx, partition, agent, series AS key, NULL AS event_id, value::int AS n
FROM coord.metric_sample WHERE tenant = $1 ORDER BY epoch, seq, idx
"""
_AGENTS = "SELECT agent, epoch, seq, idx, state, (status ->> 'n')::int AS n FROM coord.agent WHERE tenant = $1"
_BEYOND = """
SELECT r.stream, r.partition, r.epoch, r.seq, c.epoch AS at_epoch, c.seq AS at_seq
FROM (
  SELECT 'EVENTS' AS stream, partition, epoch, seq FROM coord.event WHERE tenant = $1
  UNION ALL
  SELECT 'TELEMETRY', partition, epoch, seq FROM coord.metric_sample WHERE tenant = $1
) AS r
JOIN coord.checkpoint AS c ON c.stream = r.stream AND c.partition = r.partition
WHERE (r.epoch, r.seq) > (c.epoch, c.seq)
LIMIT 20
"""
_HOLES = """
SELECT key, count(*) AS rows, max((data ->> 'n')::int) AS n
FROM coord.event WHERE tenant = $1 AND data ? 'n' GROUP BY key
HAVING count(*) <> max((data ->> 'n')::int)
UNION ALL
SELECT series, count(*), max(value::int)
FROM coord.metric_sample WHERE tenant = $1 GROUP BY series
HAVING count(*) <> max(value::int)
"""


class Row(msgspec.Struct, frozen=True):
    """One row of a workload's tenant, of either table."""

    stream: str
    epoch: int
    seq: int
    idx: int
    partition: int
    agent: str
    key: str
    event_id: str | None
    n: int

    @property
    def identity(self) -> tuple[str, int, int, int]:
        return self.stream, self.epoch, self.seq, self.idx


def compare(rows: Iterable[Row], acked: Iterable[Entry], unsure: Iterable[Entry] = ()) -> list[Finding]:
    """Every acknowledged entry a row, once, by position and by id; in order per key; and nothing else."""
    rows, acked = list(rows), list(acked)
    found: list[Finding] = []
    by_identity = {row.identity: row for row in rows}
    for what, count in (
        ("position", Counter(r.identity for r in rows)),
        ("event id", Counter((r.agent, r.event_id) for r in rows if r.event_id is not None)),
        ("number", Counter((r.stream, r.key, r.n) for r in rows)),
    ):
        found += [Finding("doubled", f"{c} rows of {what} {value}") for value, c in count.items() if c > 1]
    for entry in acked:
        row = by_identity.get(entry.identity)
        if row is None:
            found.append(Finding("lost", f"{entry}"))
        elif (row.agent, row.key, row.n) != (entry.agent, entry.key, entry.n) or (
            entry.stream == subjects.EVENTS and row.event_id != entry.event_id
        ):
            found.append(Finding("wrong", f"{row} is not {entry}"))
    known = {e.identity for e in acked}
    maybe = {(e.stream, e.key, e.n) for e in unsure}
    found += [
        Finding("stray", f"{row}")
        for row in rows
        if row.identity not in known and (row.stream, row.key, row.n) not in maybe
    ]
    by_key: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: (r.epoch, r.seq, r.idx)):
        by_key[row.stream, row.key].append(row)
        owner = row.key if row.stream == subjects.EVENTS else row.agent
        if row.partition != subjects.partition(owner):
            found.append(Finding("wrong", f"{row} is in another partition than its key"))
    for key, line in by_key.items():
        numbers = [row.n for row in line]
        if numbers != sorted(numbers):
            found.append(Finding("disordered", f"{key}: {numbers}"))
    return found


async def read_rows(db: asyncpg.Connection, tenant: str) -> list[Row]:
    """Everything of a workload that is in the tables."""
    return [Row(**dict(r)) for sql in (_EVENTS, _SAMPLES) for r in await db.fetch(sql, tenant)]


async def beyond_checkpoint(db: asyncpg.Connection, tenant: str) -> list[Finding]:
    """Rows that are not covered by their partition's checkpoint: they would be projected again."""
    return [Finding("checkpoint", f"{r['stream']}.{r['partition']} {dict(r)}") for r in await db.fetch(_BEYOND, tenant)]


async def holes(db: asyncpg.Connection, tenant: str) -> list[Finding]:
    """Keys of which a number is missing below one that is there."""
    found = await db.fetch(_HOLES, tenant, timeout=20)
    return [Finding("hole", f"{r['key']}: {r['rows']} rows up to number {r['n']}") for r in found]


async def findings(db: asyncpg.Connection, load: Workload) -> list[Finding]:
    """Everything that is wrong now, in one snapshot; before the projector has caught up, some is `lost`."""
    async with db.transaction(isolation="repeatable_read", readonly=True):
        found = compare(await read_rows(db, load.tenant), load.acked, load.unsure)
        found += await beyond_checkpoint(db, load.tenant)
        agents = {r["agent"]: r for r in await db.fetch(_AGENTS, load.tenant)}
    last: dict[str, Entry] = {}
    for entry in load.acked:
        if entry.stream == subjects.EVENTS and entry.key == entry.agent:
            last[entry.agent] = max(last.get(entry.agent, entry), entry, key=lambda e: (e.epoch, e.seq, e.idx))
    for agent, entry in last.items():
        row = agents.get(agent)
        if row is None or (row["epoch"], row["seq"], row["idx"], row["n"]) < (
            entry.epoch,
            entry.seq,
            entry.idx,
            entry.n,
        ):
            found.append(Finding("agent", f"{agent} is {row and dict(row)}, last acknowledged {entry}"))
    return found


async def verify(url: str, load: Workload, *, timeout_s: float = 100) -> list[Row]:
    """Wait until everything acknowledged is in the tables, then demand exactly that.

    Returns the rows.  Raises `GuaranteeBroken`: at once when something is there that must not be,
    after `timeout_s` when something is still missing.
    """
    db: asyncpg.Connection = await connect(url)
    deadline = asyncio.get_running_loop().time() + timeout_s
    want = len(load.acked)
    try:
        while True:
            late = asyncio.get_running_loop().time() > deadline
            count = await db.fetchval(
                "SELECT (SELECT count(*) FROM coord.event WHERE tenant = $1)"
                " + (SELECT count(*) FROM coord.metric_sample WHERE tenant = $1)",
                load.tenant,
            )
            if count < want and not late:
                await asyncio.sleep(0.05)
                continue
            found = await findings(db, load)
            if not found:
                return await read_rows(db, load.tenant)
            if late or {f.kind for f in found} - {"lost", "agent"}:
                raise GuaranteeBroken(found)
            await asyncio.sleep(0.05)
    finally:
        await db.close()


class Watcher:
    """Looks at the tables all the time: no key has a hole, no row is beyond its checkpoint.

    One statement a look, hence one snapshot.  While the database is away it waits for it.
    """

    def __init__(self, url: str, tenant: str) -> None:
        self.looks = 0
        self.found: list[Finding] = []
        self._url = url
        self._tenant = tenant
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._task is not None
        if kind is None:
            await until(lambda: self.looks)  # on a busy machine all may be over before the first
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise when anything was ever wrong, or nothing was ever seen."""
        if self.found:
            raise GuaranteeBroken(self.found)
        assert self.looks, "the watcher never saw the tables"

    async def _watch(self) -> None:
        while True:
            # InternalClientError: the server's farewell arrived between two statements.
            with contextlib.suppress(
                OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError
            ):
                db = await asyncpg.connect(self._url, timeout=10)
                try:
                    while True:
                        await self._look(db)
                        await asyncio.sleep(0.05)
                finally:
                    db.terminate()
            await asyncio.sleep(0.05)

    async def _look(self, db: asyncpg.Connection) -> None:
        self.found += await holes(db, self._tenant)
        self.found += await beyond_checkpoint(db, self._tenant)
        self.looks += 1


async def connect(url: str, timeout_s: float = 100) -> asyncpg.Connection:
    """A connection to a database that may be restarting."""

    async def attempt() -> asyncpg.Connection | None:
        try:
            return await asyncpg.connect(url, timeout=10)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return None

    connection: asyncpg.Connection = await until(attempt, timeout_s, every_s=0.05)
    return connection
