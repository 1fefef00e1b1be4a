"""A projector in a process of its own, to be killed, stopped and continued at will.

``ProjectorProcess`` is the test's half.  The other half is this module run as a program: a
plain `ProjectorService` that says on stdout when it is ready and which partitions it holds, and
that can be told to kill itself with SIGKILL at a chosen *crash point*:

    copied      rows are copied, the checkpoint is not moved        ┐
    advanced    both are written, COMMIT is not sent                │ one transaction
    committing  COMMIT is sent, its answer is not read              ┘
    committed   committed, not acknowledged to the broker
    acked       acknowledged, no notice sent

The points are wrapped around coord's functions here; coord itself knows nothing of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import msgspec

from coord.projector.config import ProjectorConfig
from tests.support import programs
from tests.support.forking import Forked
from tests.support.planted import Bug, plant

Point = Literal["copied", "advanced", "committing", "committed", "acked"]
POINTS: tuple[Point, ...] = get_args(Point)


class Crash(msgspec.Struct, frozen=True):
    """Die when `point` is passed for the `nth` time."""

    point: Point
    nth: int = 1


class Job(msgspec.Struct, frozen=True):
    """What the program gets as its argument, in JSON."""

    nats_url: str
    """Of the broker, or of every server of a cluster, with commas between them."""
    database_url: str
    config: ProjectorConfig
    crash: Crash | None = None
    pool_max: int = 8
    ping_interval_s: float = 2.0
    bug: Bug | None = None
    """A bug to have, so that it can be found."""


class ProjectorProcess(programs.Program):
    """The test's half."""

    def __init__(self, process: Forked) -> None:
        super().__init__(process)
        self.crashed_at: str | None = None
        """The crash point it died at."""
        self.owned: set[tuple[str, int]] = set()
        """(stream, partition) it holds the pin of."""
        self._ready = False

    def hear(self, line: bytes) -> None:
        word, *rest = line.decode().split()
        if word == "ready":
            self._ready = True
        elif word == "pinned":
            self.owned.add((rest[0], int(rest[1])))
        elif word == "lost":
            self.owned.discard((rest[0], int(rest[1])))
        elif word == "crash":
            self.crashed_at = rest[0]

    async def ready(self, timeout_s: float = 100) -> None:
        """Return once it is connected and follows every partition; fail if it ended before."""
        await self._until(lambda: self._ready, timeout_s)
        assert self._ready, "the projector ended before it was ready"

    async def owns(self, count: int, timeout_s: float = 100) -> None:
        """Return once it holds exactly `count` partitions."""
        try:
            await self._until(lambda: len(self.owned) == count, timeout_s)
        except TimeoutError:
            raise AssertionError(f"it holds {len(self.owned)} partitions, not {count}") from None

    def kill(self) -> None:
        """SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def terminate(self) -> None:
        """SIGTERM: drain."""
        self._process.terminate()

    def pause(self) -> None:
        """SIGSTOP: it exists, keeps its connections, and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def tell(self) -> None:
        """Have it write into its log where every partition is and what every task waits for."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)

    async def ended(self, timeout_s: float = 100) -> int:
        """Wait for its end; the exit code (-9: killed)."""
        async with asyncio.timeout(timeout_s):
            code = await self._process.wait()
            await self._reader
        return code


@contextlib.asynccontextmanager
async def projector_process(job: Job, log: Path) -> AsyncIterator[ProjectorProcess]:
    """Start one; it is killed at the end if it still runs.  Its own words go to `log`."""
    running = ProjectorProcess(await programs.start("tests.support.crash", job, log))
    try:
        yield running
    finally:
        await running.close()


# --- the program -------------------------------------------------------------------------


def _say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _die(point: Point) -> NoReturn:
    _say("crash", point)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _arm(crash: Crash) -> None:
    """Wrap the function that passes `crash.point`."""
    from asyncpg.transaction import Transaction

    from coord.bus.pull import PinnedReader
    from coord.store import checkpoints, copy

    passed = 0

    def here() -> bool:
        nonlocal passed
        passed += 1
        return passed == crash.nth

    copy_events, advance_all = copy.events, checkpoints.advance_all
    commit, ack = Transaction.commit, PinnedReader.ack

    async def copied(*args: Any) -> None:
        await copy_events(*args)
        if here():
            _die("copied")

    async def advanced(conn: Any, moves: Any) -> Any:
        elsewhere = await advance_all(conn, moves)
        if here():
            _die("advanced")
        return elsewhere

    def nested(transaction: Any) -> bool:
        return bool(transaction._nested)

    async def committing(self: Transaction) -> None:
        task = asyncio.ensure_future(commit(self))
        if not nested(self) and here():
            for _ in range(10):  # until the transport has written it
                await asyncio.sleep(0)
            _die("committing")
        await task

    def committed(self: PinnedReader, delivery: Any) -> None:
        if here():
            _die("committed")
        ack(self, delivery)

    def acked(self: PinnedReader, delivery: Any) -> None:
        ack(self, delivery)
        if here():
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._conn.flush())
            task.add_done_callback(lambda _: _die("acked"))

    if crash.point == "copied":
        copy.events = copied  # type: ignore[assignment]
    elif crash.point == "advanced":
        checkpoints.advance_all = advanced
    elif crash.point == "committing":
        Transaction.commit = committing  # type: ignore[method-assign]
    elif crash.point == "committed":
        PinnedReader.ack = committed  # type: ignore[method-assign]
    else:
        PinnedReader.ack = acked  # type: ignore[method-assign]


def _tell_partitions() -> None:
    from coord.projector.partition import PartitionProjector

    set_state = PartitionProjector._set

    def told(self: PartitionProjector, state: Any) -> None:
        before = self.state
        set_state(self, state)
        if "pinned" in {before, state} and before != state:
            _say("pinned" if state == "pinned" else "lost", self.stream, self.partition)

    PartitionProjector._set = told  # type: ignore[method-assign]


def _tell_all(service: Any) -> None:
    """Where every partition is, and what every task waits for, into the log: for whoever asks with SIGUSR1."""
    for p in service.partitions:
        seq = p.checkpoint.seq if p.checkpoint else None
        print(os.getpid(), p.stream, p.partition, p.state, seq, p.pending, p.error, file=sys.stderr)
    for task in asyncio.all_tasks():
        print(os.getpid(), task.get_name(), " > ".join(_awaits(task.get_coro())), file=sys.stderr)
    sys.stderr.flush()


def _awaits(awaited: Any) -> Iterator[str]:
    """Who awaits whom, outermost first: a task's own stack shows only the first of them."""
    while (frame := getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)) is not None:
        yield f"{frame.f_code.co_name}:{frame.f_lineno}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


async def _main(job: Job) -> None:
    from coord.bus.connection import NatsConfig
    from coord.projector.service import ProjectorService
    from coord.store.config import DatabaseConfig

    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    loop.add_reader(0, lambda: os._exit(3))  # our parent is gone
    service = ProjectorService(
        NatsConfig(urls=tuple(job.nats_url.split(",")), ping_interval_s=job.ping_interval_s),
        DatabaseConfig(url=job.database_url, pool_min=1, pool_max=job.pool_max),
        job.config,
    )
    loop.add_signal_handler(signal.SIGUSR1, _tell_all, service)
    async with service:
        await service.wait_ready(100)
        _say("ready")
        await end.wait()
        await service.drain()


def main() -> None:
    """Run a projector until SIGTERM, or until its crash point."""
    import uvloop

    from coord import limits
    from coord.telemetry import logs

    logs.configure(logs.LogConfig(), service="projector")
    job = msgspec.json.decode(sys.argv[1], type=Job)
    limits.STRAYS_EVERY_S = 0.5  # type: ignore[misc]
    _tell_partitions()
    if job.crash is not None:
        _arm(job.crash)
    if job.bug is not None:
        plant(job.bug)
    uvloop.run(_main(job))


if __name__ == "__main__":
    main()
