"""Rounds, medians, percentiles, and CPU seconds of processes that are not ours."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from coord.errors import CoordError, EnvironmentProblem

_PROC: Final = Path("/proc")
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_UTIME: Final = 11
"""Of the fields behind the program's name: utime, stime, cutime, cstime follow each other."""
_PPID: Final = 1


class BenchError(CoordError):
    """A benchmark's side did not do what it was asked to: there is no figure."""

    code = "bench.failed"


class Run(msgspec.Struct, kw_only=True):
    """One round of one side."""

    count: int
    """Facts, samples or rows."""
    seconds: float
    """By the clock."""
    client_cpu_s: float = 0.0
    """Of the process that publishes or projects."""
    server_cpu_s: float = 0.0
    """Of nats-server; has ticks of 10 ms."""
    database_cpu_s: float = 0.0
    """Of PostgreSQL, all processes."""
    more: dict[str, float] = {}
    """What else was counted."""

    @property
    def per_s(self) -> float:
        """Rate."""
        return self.count / self.seconds

    def record(self) -> dict[str, float]:
        """For the report: rates and CPU microseconds for each fact."""
        found: dict[str, float] = {
            "count": self.count,
            "seconds": round(self.seconds, 4),
            "per_s": round(self.per_s, 1),
        }
        for name in ("client", "server", "database"):
            cpu_s: float = getattr(self, f"{name}_cpu_s")
            if cpu_s:
                found[f"{name}_cpu_us"] = round(cpu_s / self.count * 1e6, 3)
        return found | {name: round(value, 4) for name, value in self.more.items()}


Figures = dict[str, list[float]]
"""Each figure's value in every round; the figure is their median."""

Side = Callable[[], Awaitable[Run]]


async def alternate(rounds: int, sides: Mapping[str, Side], say: Callable[[str], None]) -> dict[str, list[Run]]:
    """Each side once in turn, `rounds` times: what the machine does meanwhile hits all alike."""
    found: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            run = await side()
            found[name].append(run)
            say(f"    {number}/{rounds} {name:<14} {run.per_s:>12,.0f}/s  ({run.count:,} in {run.seconds:.2f} s)")
    return found


def ratios(above: Sequence[Run], below: Sequence[Run]) -> list[float]:
    """Each round's ratio of rates."""
    return [a.per_s / b.per_s for a, b in zip(above, below, strict=True)]


def rates(runs: Sequence[Run]) -> list[float]:
    """Each round's rate."""
    return [run.per_s for run in runs]


def cpu_us(runs: Sequence[Run]) -> list[float]:
    """Each round's CPU microseconds for one fact, client and server together."""
    return [(run.client_cpu_s + run.server_cpu_s) / run.count * 1e6 for run in runs]


def rounded(value: float) -> float:
    """A figure as a report has it: three places, none from a hundred on."""
    return round(value, 3) if abs(value) < 100 else float(round(value))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; `ordered` is sorted and not empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def percentiles(windows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Each window's p50, p90, p99, p999 and worst, exactly: every value is kept.

    Raises `BenchError` for a window in which nothing was measured.
    """
    found: dict[str, list[float]] = {"p50": [], "p90": [], "p99": [], "p999": [], "max": []}
    for window in windows:
        if not window:
            raise BenchError("nothing was measured")
        ordered = sorted(window)
        for values, share in zip(found.values(), (0.5, 0.9, 0.99, 0.999, 1.0), strict=True):
            values.append(percentile(ordered, share))
    return found


# --- time and CPU --------------------------------------------------------------------------


class Clock:
    """Wall and CPU time from one moment to another: `stop` once, then read."""

    def __init__(self, *, server: int | Sequence[int] | None = None, database: int | None = None) -> None:
        """`server` (one, or those of a cluster), `database`: process ids whose CPU time is to be read as well."""
        self._servers = () if server is None else (server,) if isinstance(server, int) else tuple(server)
        self._database = database
        self._before = self._cpu()
        self._own = time.process_time()
        self._began = time.perf_counter()
        self.seconds = self.client_cpu_s = self.server_cpu_s = self.database_cpu_s = 0.0

    def stop(self) -> None:
        """End of the measured part, as far as the clock and this process are concerned."""
        self.seconds = time.perf_counter() - self._began
        self.client_cpu_s = time.process_time() - self._own
        self.settle()

    def settle(self) -> None:
        """Read the servers' CPU time again, after what they still do behind the last ack."""
        now = self._cpu()
        self.server_cpu_s, self.database_cpu_s = (b - a for a, b in zip(self._before, now, strict=True))

    def run(self, count: int, **more: float) -> Run:
        """The round that ended."""
        return Run(
            count=count,
            seconds=self.seconds,
            client_cpu_s=self.client_cpu_s,
            server_cpu_s=self.server_cpu_s,
            database_cpu_s=self.database_cpu_s,
            more=more,
        )

    def _cpu(self) -> tuple[float, float]:
        return (
            sum(map(cpu_s, self._servers)),
            cpu_s(self._database, children=True) if self._database else 0.0,
        )


def cpu_s(pid: int, *, children: bool = False) -> float:
    """CPU seconds a process has used so far, in ticks of 10 ms; `children`: also those it has and had.

    Raises `EnvironmentProblem` where there is no /proc, `BenchError` when there is no such process.
    """
    while True:
        fields = _stat(pid)
        if fields is None:
            if not (_PROC / "self" / "stat").exists():
                raise EnvironmentProblem(
                    "The bench reads CPU times from /proc, which this system lacks: run it on Linux."
                )
            raise BenchError("a server has ended while it was measured", pid=pid)
        own, had = (sum(map(int, fields[at : at + 2])) for at in (_UTIME, _UTIME + 2))
        if not children:
            return own * _TICK_S
        has = 0
        for other in _PROC.iterdir():
            if other.name.isdigit() and (found := _stat(int(other.name))) and int(found[_PPID]) == pid:
                has += sum(map(int, found[_UTIME : _UTIME + 2]))
        after = _stat(pid)
        if after is not None and sum(map(int, after[_UTIME + 2 : _UTIME + 4])) == had:
            return (own + had + has) * _TICK_S
        # Meanwhile one ended, and would be in neither of both.


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        pages = int((_PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold anything, spaces and parentheses too.
    return text.rpartition(")")[2].split()


# --- a steady process ----------------------------------------------------------------------


@contextmanager
def quiet_heap() -> Iterator[None]:
    """Leave what was prepared for the measured part to itself: the collector must not walk through it.

    The collector stays on for what the measured part allocates.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def settle(seconds: float = 0.2) -> None:
    """Let servers finish what they do behind an acknowledgement (compressing a block, checkpointing)."""
    await asyncio.sleep(seconds)


async def windowed_s(count: int, window: int, one: Callable[[], Awaitable[None]]) -> float:
    """Call `one` so many times, never more than `window` at once; the seconds until the last has returned.

    Whoever measures does so in a `quiet_heap`, made before any clock is read: the collection is not the work's.
    """
    room = asyncio.Semaphore(max(1, window))

    async def held() -> None:
        try:
            await one()
        finally:
            room.release()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            await room.acquire()
            group.create_task(held())
    return time.perf_counter() - began
