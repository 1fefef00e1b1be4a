"""Publishers in a process of their own, through the SDK, that write down what was acknowledged.

`Speakers` is the scenario's half; this module run as a program is the other.  A *line* is one
ordering key: it states facts numbered from 1, the next only when those before are settled, so
that the log has them in that order whatever is killed.  Half the lines state single facts, the
others twenty to sixty at once, which travel in frames; some are an agent's status, some samples.

What becomes of every message goes into a file, one record of `RECORD` each: `acked` means that
the publisher had its PubAck, `unsure` that it was given up and may be stored or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from coord import errors
from coord.wire import subjects
from coord.wire.envelope import Fact, Sample
from tests.support.forking import Forked
from tests.support.planted import Bug
from tests.support.programs import Program, start

RECORD = struct.Struct("<IBBHIQ")
"""line, stream (0 EVENTS, 1 TELEMETRY), acked (1) or unsure (0), facts, first number, stream sequence."""
STREAMS = (subjects.EVENTS, subjects.TELEMETRY)
_TELL_S = 0.1
_RECORDS_KEPT = 512

LineKind = Literal["note", "task", "agent", "sample"]


class Line(msgspec.Struct, frozen=True):
    """One ordering key."""

    number: int
    kind: LineKind
    agent: int

    @property
    def key(self) -> str:
        """The ordering key; the name of the series for samples."""
        return f"speaker-{self.agent}" if self.kind == "agent" else f"{self.kind}-{self.number}"

    @property
    def stream(self) -> int:
        return int(self.kind == "sample")

    @property
    def partition(self) -> int:
        return subjects.partition(f"speaker-{self.agent}" if self.stream else self.key)


class Speech(msgspec.Struct, frozen=True, kw_only=True):
    """What the program gets as its argument, in JSON."""

    url: str
    """Of the broker, or of every server of a cluster, with commas between them."""
    tenant: str
    seed: int
    records: str
    """The file to write into."""
    agents: int = 8
    notes: int = 96
    tasks: int = 96
    per_s: float = 10_000
    """Facts a second of all lines together; 0: as fast as acknowledgements come."""
    limit: int | None = None
    """End after so many facts."""
    skew_s: float = 0.0
    """How far the agents' clocks are ahead."""
    bug: Bug | None = None

    def lines(self) -> list[Line]:
        """All lines: notes, tasks, one status and one series of samples per agent."""
        counts: dict[LineKind, int] = {
            "note": self.notes, "task": self.tasks, "agent": self.agents, "sample": self.agents
        }  # fmt: skip
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        starts = {kind: kinds.index(kind) for kind in set(kinds)}
        return [Line(i, kind, (i - starts[kind]) % self.agents) for i, kind in enumerate(kinds)]


class Told(msgspec.Struct, frozen=True):
    """What the program says every 100 ms."""

    acked: int
    """Facts."""
    unsure: int
    messages: int
    ends: list[int]
    """Per stream and partition: the highest sequence acknowledged."""
    failures: dict[str, int]
    shed: int
    resends: int
    done: bool = False
    """The last word."""

    @property
    def goal(self) -> dict[tuple[str, int], int]:
        """(stream, partition) → the sequence that its checkpoint must reach."""
        return {(STREAMS[i // 16], i % 16): seq for i, seq in enumerate(self.ends) if seq}


class Speakers(Program):
    """The scenario's half: `told` is the program's latest word."""

    def __init__(self, speech: Speech, process: Forked) -> None:
        self.speech = speech
        self.told = Told(0, 0, 0, [], {}, 0, 0)
        super().__init__(process)

    def hear(self, line: bytes) -> None:
        self.told = msgspec.json.decode(line, type=Told)

    async def until(self, acked: int, timeout_s: float) -> bool:
        """Return once `acked` facts were acknowledged; False after `timeout_s`, or when they end before."""
        with contextlib.suppress(TimeoutError):
            await self._until(lambda: self.told.acked >= acked, timeout_s)
        return self.told.acked >= acked

    async def told_of_failure(self, timeout_s: float) -> bool:
        """Return once some emit has ended with an error; False after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await self._until(lambda: bool(self.told.failures), timeout_s)
        return bool(self.told.failures)

    async def word(self) -> Told:
        """The next word, said after this was asked."""
        async with self._news:
            before = self.told
            await self._news.wait_for(lambda: self.told is not before or self._ended)
        return self.told

    def pace(self, per_s: float) -> None:
        """From now on so many facts a second (0: no limit)."""
        self._tell(f"pace {per_s}")

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")

    async def finish(self, timeout_s: float = 90) -> Told:
        """Let every line settle what it is at, and end; what is acknowledged stands in the file then."""
        if not self._ended:
            with contextlib.suppress(ConnectionError):
                self._tell("stop")
        async with asyncio.timeout(timeout_s):
            code = await self._process.wait()
            await self._reader
        assert code == 0, f"the speakers ended with {code}"
        assert self.told.done, "the speakers ended without their last word"
        return self.told


@contextlib.asynccontextmanager
async def speaking(speech: Speech, log: Path) -> AsyncIterator[Speakers]:
    """Start them; they are killed at the end if they still run.  Their own words go to `log`."""
    running = Speakers(speech, await start("tests.soak.speakers", speech, log))
    try:
        yield running
    finally:
        await running.close()


def records(path: Path) -> Iterator[tuple[int, int, int, int, int, int]]:
    """The records of a file, in the order in which they were settled."""
    with path.open("rb") as file:
        while piece := file.read(RECORD.size * 10_000):
            yield from RECORD.iter_unpack(piece)


# --- the program -------------------------------------------------------------------------


class _Program:
    def __init__(self, speech: Speech, out: BinaryIO) -> None:
        self.speech = speech
        self.lines = speech.lines()
        self.stopping = asyncio.Event()
        self.acked = self.unsure = self.messages = self.shed = 0
        self.failures: dict[str, int] = {}
        self.ends = [0] * 32
        self._out = out
        self._buffer: list[bytes] = []
        self._rate = speech.per_s
        self._due = time.monotonic()
        self._clients: list[Any] = []

    async def run(self) -> None:
        from coord.bus.connection import NatsConfig
        from coord.client.connect import connect

        nats = NatsConfig(urls=tuple(self.speech.url.split(",")), ping_interval_s=1.0)
        async with contextlib.AsyncExitStack() as stack:
            for i in range(self.speech.agents):
                client = connect(nats, tenant=self.speech.tenant, agent=f"speaker-{i}", wait=True)
                self._clients.append(await stack.enter_async_context(client))
            teller = asyncio.create_task(self._tell())
            async with asyncio.TaskGroup() as group:
                for line in self.lines:
                    group.create_task(self._run(line))
            teller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await teller
        self.flush()
        self.say(done=True)

    async def _run(self, line: Line) -> None:
        rng = random.Random(f"{self.speech.seed}/{line.number}")
        client = self._clients[line.agent]
        n = 1
        while not self.stopping.is_set():
            count = 1 if line.kind in ("note", "agent") else rng.randint(20, 60)
            await self._turn(count)
            if self.stopping.is_set():
                return
            receipts = []
            for number in range(n, n + count):
                while True:
                    try:
                        receipts.append(await client.emit(self._state(line, number, rng)))
                        break
                    except errors.Overloaded as exc:  # nothing was accepted
                        self._failed(exc)
            for receipt in dict.fromkeys(receipts):
                facts = receipts.count(receipt)
                await self._settle(line, n, facts, receipt)
                n += facts

    def _state(self, line: Line, n: int, rng: random.Random) -> Fact | Sample:
        if line.kind == "sample":
            return Sample(series=line.key, value=n)
        data = {"n": n, "text": "é" * rng.randrange(12)}
        at = None
        if self.speech.skew_s:
            from datetime import UTC, datetime, timedelta

            at = datetime.now(UTC) + timedelta(seconds=self.speech.skew_s)
        event = {"note": "said", "task": "progress", "agent": "status"}[line.kind]
        return Fact(kind=line.kind, id=line.key, event=event, data=data, occurred_at=at)

    async def _settle(self, line: Line, first: int, facts: int, receipt: Any) -> None:
        try:
            ack = await receipt
        except errors.Shed:
            self.shed += facts
            self._record(line, first, facts, 0, acked=False)
        except errors.CoordError as exc:
            self._failed(exc)
            self.unsure += facts
            self._record(line, first, facts, 0, acked=False)
        else:
            self.acked += facts
            slot = line.stream * 16 + line.partition
            self.ends[slot] = max(self.ends[slot], ack.seq)
            self._record(line, first, facts, ack.seq, acked=True)
            if self.speech.limit is not None and self.acked >= self.speech.limit:
                self.stopping.set()
        self.messages += 1

    def _failed(self, error: errors.CoordError) -> None:
        name = error.code
        if type(error) is errors.PublishRefused:  # no type of its own: the broker's number says what it was
            name += f" {error.details.get('server_code')}"
        self.failures[name] = self.failures.get(name, 0) + 1

    def _record(self, line: Line, first: int, facts: int, seq: int, *, acked: bool) -> None:
        self._buffer.append(RECORD.pack(line.number, line.stream, acked, facts, first, seq))
        if len(self._buffer) >= _RECORDS_KEPT:
            self.flush()

    def flush(self) -> None:
        self._out.write(b"".join(self._buffer))
        self._out.flush()
        self._buffer.clear()

    async def _turn(self, count: int) -> None:
        """Wait until `count` more facts keep the pace; a line that was held up catches nothing up."""
        if not self._rate:
            await asyncio.sleep(0)
            return
        now = time.monotonic()
        self._due = max(self._due, now - 1.0) + count / self._rate
        if self._due > now:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._due - now):
                    await self.stopping.wait()

    async def _tell(self) -> None:
        while True:
            self.say()
            await asyncio.sleep(_TELL_S)

    def say(self, *, done: bool = False) -> None:
        resends = sum(c.stats.resends for c in self._clients)
        told = Told(self.acked, self.unsure, self.messages, self.ends, self.failures, self.shed, resends, done)
        os.write(1, msgspec.json.encode(told) + b"\n")

    def obey(self) -> None:
        """A word on standard input; its end means that the parent is gone."""
        said = os.read(0, 4096)
        if not said:
            os._exit(3)
        for word in said.decode().splitlines():
            if word == "stop":
                self.stopping.set()
            elif word.startswith("pace "):
                self._rate = float(word.split()[1])


async def _main(speech: Speech) -> None:
    with Path(speech.records).open("ab") as out:
        program = _Program(speech, out)
        asyncio.get_running_loop().add_reader(0, program.obey)
        await program.run()


def main() -> None:
    import uvloop

    from coord.telemetry import logs
    from tests.support.planted import plant

    logs.configure(logs.LogConfig(), service="speakers")
    speech = msgspec.json.decode(sys.argv[1], type=Speech)
    if speech.bug is not None:
        plant(speech.bug)
    uvloop.run(_main(speech))


if __name__ == "__main__":
    main()
