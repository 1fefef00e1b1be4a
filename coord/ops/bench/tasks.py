"""The bench of tasks: submitted, claimed, done and told to the submitter, with all of coord running beside.

One process is ``coord serve``, one or more host the agents, this one submits; nats-server and
PostgreSQL are the fourth and fifth.  Everything is temporary and on free ports of loopback.

idle        one task at a time, a pause before each: submit to start, submit to result
flood       as many as a window takes, for the rate, by turns with the same work by hand (`BareTasks`); how long
            acknowledgements take meanwhile, of the flood itself and of a submitter in a process of its own
workflows   of three steps: one at a time, and as many as half a window takes
always      both floods again, smaller, with nats-server syncing to disk before it acknowledges anything;
r3          and with three servers, each with a copy
critical    critical tasks' wait, alone and beside ten times more batch work than is done, and work nobody can do
shares      how many of each priority are begun while all have some waiting
kill        agents that hold tasks are killed (-9): until others have begun them
scale       the same rate of tasks with ever more agents connected and beating: CPU of coord and
            nats-server a task
overhead    tasks of ten milliseconds of CPU, and workflows of them, as many as the cores take: what share of all
            CPU is not theirs; what an idle second costs

All of that takes less than two minutes on two cores.  `TasksConfig.full` adds fleets of 100 and of 5,000 agents, who
need a minute and a half to come, and the overhead at rates that leave the cores time; no other figure changes by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from statistics import median
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from coord import limits
from coord.client.connect import Coord, connect
from coord.errors import SettingsError
from coord.ops.bench import machine, servers
from coord.ops.bench.bare_tasks import BareTasks
from coord.ops.bench.flows import flood as flows_flood
from coord.ops.bench.flows import workflows
from coord.ops.bench.measure import BenchError, Clock, Figures, cpu_s, percentile, quiet_heap, rounded, windowed_s
from coord.ops.bench.overhead import overhead
from coord.ops.bench.servers import Database
from coord.ops.bench.spine import ALWAYS
from coord.ops.bench.task_worker import TENANT
from coord.ops.bench.trio import Trio, trio
from coord.ops.bench.urgent import critical, shares
from coord.ops.bench.workers import Job, Worker
from coord.ops.devstack.nats import NatsServer
from coord.ops.devstack.stack import DevStackConfig
from coord.wire import work

FORMAT: Final = 1

Say: TypeAlias = Callable[[str], None]

Part: TypeAlias = Literal[
    "idle", "flood", "workflows", "always", "r3", "critical", "shares", "kill", "scale", "overhead"
]
PARTS: Final[tuple[Part, ...]] = get_args(Part)

_RESULT_S: Final = 120.0
"""A result that takes longer is a failure of the bench."""

SCALES: Final = (10, 1_000)
FULL_SCALES: Final = (10, 100, 1_000, 5_000)
_AGENTS_A_PROCESS: Final = 1_000
_SETTLE_S: Final = 1.5 * limits.SEAT_AGAIN_S
"""After agents have come: their first heartbeats are a second apart, and they find out how many of them wait,"""
_SETTLE_FEW_S: Final = 2.5 * limits.HEARTBEAT_S
"""which those who are no crowd need not."""
_WARM_UP_S: Final = 1.0
"""Of that, at the end: the rate is there already when it is measured."""


class TasksConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bench does.  The defaults take less than two minutes on two cores."""

    full: bool = False
    """What takes longer, too: `FULL_SCALES`, and the overhead at a rate."""

    idle: int = 300
    """Tasks one at a time."""
    idle_pause_s: float = 0.01
    flood: int = 8_000
    """Tasks of each round of the flood."""
    window: int = 512
    """How many of them wait for their result at a time."""
    rounds: int = 3
    safe: int = 1_500
    """Tasks of the flood with syncs, and with copies; of workflows a fifth."""
    critical_s: float = 6
    """For so long critical tasks come, alone and beside the others (of fewer than a hundred, the worst is the p99);"""
    unserved: int = 2_000
    """and so many wait of a capability that nobody has."""
    shares: int = 480
    """Tasks of each priority that wait when an agent comes."""
    kills: int = 4
    """Processes killed,"""
    held: int = 10
    """each holding so many tasks."""
    scales: tuple[int, ...] = ()
    """Agents connected, ever more; empty: `SCALES`, with `full` `FULL_SCALES`, whose last take 1 GiB."""
    scale_start_s: float = 60
    """All together they are to have come within this; scales that take longer are left out, and named."""
    scale_per_s: float = 200
    scale_s: float = 3
    overhead: int = 400
    """Tasks of ten milliseconds at once; of workflows of three of them a quarter."""
    overhead_s: float = 2
    """For so long nothing at all is done, and, with `full`, they are submitted at a rate."""
    parts: tuple[Part, ...] = PARTS
    sync_interval: str | None = None
    """nats-server's; None: its default."""
    database: DevStackConfig = DevStackConfig(ephemeral=True, nats=False)

    @property
    def fleets(self) -> list[int]:
        """How many agents are connected, ever more."""
        return sorted(self.scales or (FULL_SCALES if self.full else SCALES))

    def validate(self) -> None:
        """Raise `SettingsError` when a count is not positive or a part unknown."""
        for name in ("idle", "flood", "window", "rounds", "safe", "unserved", "shares", "kills", "held", "overhead"):
            if getattr(self, name) < 1:
                raise SettingsError(f"bench: {name} is at least 1")
        if not self.parts or set(self.parts) - set(PARTS) or not all(n > 0 for n in self.scales):
            raise SettingsError(f"bench: parts are {', '.join(PARTS)}; scales are numbers of agents")

    def scaled(self, share: float) -> TasksConfig:
        """With `share` of every count; agents stay."""
        names = ("idle", "flood", "safe", "unserved", "shares", "kills", "overhead")
        return msgspec.structs.replace(
            self,
            scale_s=self.scale_s * share,
            critical_s=self.critical_s * share,
            overhead_s=self.overhead_s * share,
            **{name: max(1, int(getattr(self, name) * share)) for name in names},
        )


class Bench:
    """Servers, the fleet's process and the submitter, while a bench runs."""

    def __init__(
        self, config: TasksConfig, nats: NatsServer | Trio, database: Database, fleet: Worker, c: Coord, say: Say
    ) -> None:
        self.config = config
        self.nats = nats
        self.database = database
        self.fleet = fleet
        self.c = c
        self.say = say
        self._ids = 0

    def id(self) -> str:
        """A task's, not used before."""
        self._ids += 1
        return f"t{self._ids}"

    def agents(self, handler: Literal["no-op", "work", "nap", "hold"], *, agents: int = 1, capacity: int = 1) -> Worker:
        """A process of agents: enter it.  It is killed in the end: a thousand take seconds to say goodbye."""
        job = Job(role="agents", nats_url=self.nats.url, handler=handler, agents=agents, capacity=capacity)
        return Worker(job, abrupt=True)

    def submitter(self, handler: Literal["no-op", "nap"], *, per_s: float, priority: work.Priority) -> Worker:
        """A process that submits at a rate: enter it."""
        return Worker(Job(role="submitter", nats_url=self.nats.url, handler=handler, per_s=per_s, priority=priority))

    def clock(self) -> Clock:
        """Counts from now on: CPU of nats-server, of the database, and of this process."""
        pids = self.nats.pids if isinstance(self.nats, Trio) else self.nats.pid
        return Clock(server=pids, database=self.database.pid)


async def tasks(config: TasksConfig, say: Say) -> dict[str, Any]:
    """Run it; returns the report, plain values only.

    Raises `EnvironmentProblem`, and `BenchError` when a task had no outcome or another one than it should.
    """
    config.validate()
    circumstances = machine.Circumstances()
    figures: Figures = {}
    async with servers.database(config.database, say) as database:
        versions: dict[str, str | None] = {}
        for part in config.parts:
            began = time.perf_counter()
            say(part)
            await servers.emptied(database.config)
            async with _broker(part, config) as nats, _bench(config, nats, database, say) as bench:
                if isinstance(nats, NatsServer):
                    versions = await servers.versions(nats, database.config)
                found = await _PARTS[part](bench)
                for name, values in found.items():
                    say(f"    {name:<34} {rounded(median(values)):>12,}")
                figures |= found
            say(f"    {'(seconds)':<34} {time.perf_counter() - began:>12.1f}")
        edition = database.edition
    return circumstances.report(
        "tasks",
        FORMAT,
        versions=versions,
        edition=edition,
        settings=servers.settings(config),
        figures={name: rounded(median(values)) for name, values in figures.items()},
        by_round={name: [rounded(v) for v in values] for name, values in figures.items()},
    )


def _broker(part: Part, config: TasksConfig) -> AbstractAsyncContextManager[NatsServer | Trio]:
    if part == "r3":
        return trio(config.sync_interval)
    return servers.broker(ALWAYS if part == "always" else config.sync_interval)


@contextlib.asynccontextmanager
async def _bench(config: TasksConfig, nats: NatsServer | Trio, database: Database, say: Say) -> AsyncIterator[Bench]:
    fleet = Job(role="fleet", nats_url=nats.url, database_url=database.config.url)
    async with Worker(fleet, abrupt=True) as worker, connect(nats.url, tenant=TENANT, agent="submitter") as c:
        yield Bench(config, nats, database, worker, c, say)


# --- the parts -------------------------------------------------------------------------------


async def idle(bench: Bench) -> Figures:
    """One task at a time."""
    started: list[float] = []
    done: list[float] = []
    async with bench.agents("no-op", capacity=8):
        for n in range(bench.config.idle + _WARM_UP):
            await asyncio.sleep(bench.config.idle_pause_s)
            at, clock = time.time(), time.perf_counter()
            handle = await bench.c.submit("no-op", id=bench.id(), returns=float)
            began = await handle.result(timeout_s=_RESULT_S)
            if n >= _WARM_UP:
                done.append((time.perf_counter() - clock) * 1e3)
                started.append((began - at) * 1e3)
    return _percentiles("submit_to_start_ms", started) | _percentiles("submit_to_result_ms", done)


_WARM_UP: Final = 30


async def flood(bench: Bench) -> Figures:
    """As many as the window takes."""
    rates: list[float] = []
    bare_rates: list[float] = []
    acks: list[float] = []
    cpu: Figures = {}
    config = bench.config
    # Two agents: one process hosts them, as one would on two cores.
    async with (
        bench.agents("no-op", agents=2, capacity=128) as workers,
        BareTasks(bench.nats.url, window=config.window) as bare,
    ):
        await _flood(bench, config.flood // 4, [])
        await bare.run(config.flood // 4)
        for _ in range(config.rounds):
            with quiet_heap():
                coord_s, agents_s, clock = cpu_s(bench.fleet.pid), cpu_s(workers.pid), bench.clock()
                took_s = await _flood(bench, config.flood, acks)
                clock.stop()
            rates.append(config.flood / took_s)
            spent = {
                "submitter": clock.client_cpu_s,
                "agents": cpu_s(workers.pid) - agents_s,
                "coord": cpu_s(bench.fleet.pid) - coord_s,
                "nats": clock.server_cpu_s,
                "database": clock.database_cpu_s,
            }
            for name, seconds in spent.items() | {("all", sum(spent.values()))}:
                cpu.setdefault(f"task_cpu_us.{name}", []).append(seconds / config.flood * 1e6)
            bare_rates.append(config.flood / await bare.run(config.flood))
        async with bench.submitter("no-op", per_s=_PROBES_PER_S, priority="normal") as other:
            await _flood(bench, config.flood, [])
            told = await other.ended(_RESULT_S)
    found = {
        "tasks_per_s": rates,
        "bare.tasks_per_s": bare_rates,
        "tasks_to_bare": [rate / alone for rate, alone in zip(rates, bare_rates, strict=True)],
    } | dict(sorted(cpu.items()))
    return found | _percentiles("command_ack_ms", told["acks_ms"]) | _percentiles("flood_ack_ms", acks)


_PROBES_PER_S: Final = 50.0
"""Of the submitter beside the flood."""


async def _flood(bench: Bench, count: int, acks: list[float]) -> float:
    """Submit `count` tasks, never more than the window without a result; the seconds until the last one."""

    async def one() -> None:
        clock = time.perf_counter()
        handle = await bench.c.submit("no-op", id=bench.id(), returns=float)
        acks.append((time.perf_counter() - clock) * 1e3)
        await handle.result(timeout_s=_RESULT_S)

    return await windowed_s(count, bench.config.window, one)


async def always(bench: Bench) -> Figures:
    """What is acknowledged is on the disk."""
    return await _safely(bench, "always")


async def r3(bench: Bench) -> Figures:
    """What is acknowledged is in the memory of two servers at least."""
    return await _safely(bench, "r3")


async def _safely(bench: Bench, name: str) -> Figures:
    count = bench.config.safe
    async with bench.agents("no-op", agents=2, capacity=128):
        await _flood(bench, count // 5 + 1, [])
        flows = count // 5 + 1
        with quiet_heap():
            took_s = await _flood(bench, count, [])
            flows_s = await flows_flood(bench, flows)
    return {f"{name}.tasks_per_s": [count / took_s], f"{name}.workflows_per_s": [flows / flows_s]}


async def kill(bench: Bench) -> Figures:
    """Kill processes that hold tasks; how long until others have begun them."""
    config = bench.config
    moved: list[float] = []
    async with bench.agents("hold", capacity=4 * config.held):
        for _ in range(config.kills):
            # The one to be killed takes them all: the other agent has no room while these last.
            async with bench.agents("hold", capacity=4 * config.held) as victim:
                handles = [await bench.c.submit("hold", id=bench.id(), returns=float) for _ in range(2 * config.held)]
                held = [h for h in handles if await _held_by(h, str(victim.pid))]
                at = time.time()
                victim.kill()
                began = await asyncio.gather(*(h.result(timeout_s=_RESULT_S) for h in held))
                moved += [(b - at) * 1e3 for b in began]
                for handle in handles:
                    await handle.cancel("the bench has what it wanted")
    if not moved:
        raise BenchError("no killed process held a task")
    return _percentiles("moved_after_kill_ms", moved)


async def _held_by(handle: Any, pid: str) -> bool:
    """Wait until somebody has claimed the task; whether it was that process."""
    async with asyncio.timeout(_RESULT_S):
        while (task := await handle.status()).claimant is None:  # noqa: ASYNC110 - it is the log that is asked
            await asyncio.sleep(0.01)
    return f"-{pid}-" in task.claimant


async def scale(bench: Bench) -> Figures:
    """One rate of tasks, ever more agents."""
    config = bench.config
    found: Figures = {}
    measured: list[float] = []
    memory, left_s = 0.0, config.scale_start_s
    async with contextlib.AsyncExitStack() as stack:
        here = 0
        for agents in config.fleets:
            began = time.perf_counter()
            try:
                async with asyncio.timeout(left_s):
                    while here < agents:
                        some = min(agents - here, _AGENTS_A_PROCESS)
                        worker = await stack.enter_async_context(bench.agents("no-op", agents=some))
                        memory = max(memory, worker.told.get("agent_bytes", 0.0))
                        here += some
            except TimeoutError:
                bench.say(f"    {agents} agents had not come after {config.scale_start_s:g} s: left out")
                break
            left_s -= time.perf_counter() - began
            settle_s = _SETTLE_S if agents >= limits.QUEUE_CROWD else _SETTLE_FEW_S
            await asyncio.sleep(max(0.0, min(settle_s, 2 * config.scale_s) - _WARM_UP_S))
            await _steadily(bench, config.scale_per_s, _WARM_UP_S)
            before, clock = _cpu_s(bench.fleet.pid), bench.clock()
            count = await _steadily(bench, config.scale_per_s, config.scale_s)
            clock.stop()
            coord_us = (_cpu_s(bench.fleet.pid) - before) / count * 1e6
            nats_us = clock.server_cpu_s / count * 1e6
            measured.append(coord_us + nats_us)
            of = f"agents_scale.{agents}"
            found |= {f"{of}.cpu_us": [measured[-1]], f"{of}.coord_us": [coord_us], f"{of}.nats_us": [nats_us],
                      f"{of}.agent_kib": [memory / 1024], f"{of}.growth": [measured[-1] / measured[0] - 1]}  # fmt: skip
    if not measured:
        raise BenchError(f"not even {config.fleets[0]} agents came within {config.scale_start_s:g} s")
    return found | {"agents_scale.growth": [measured[-1] / measured[0] - 1]}


async def _steadily(bench: Bench, per_s: float, seconds: float) -> int:
    """Submit at a rate, whatever becomes of them (open loop); returns how many, once all have a result."""
    count = max(1, int(per_s * seconds))
    began = time.perf_counter()
    results: list[asyncio.Task[Any]] = []
    for n in range(count):
        await asyncio.sleep(max(0.0, began + n / per_s - time.perf_counter()))
        handle = await bench.c.submit("no-op", id=bench.id(), returns=float)
        results.append(asyncio.ensure_future(handle.result(timeout_s=_RESULT_S)))
    await asyncio.gather(*results)
    return count


# --- helpers ---------------------------------------------------------------------------------


def _percentiles(name: str, values: list[float]) -> Figures:
    ordered = sorted(values)
    return {f"{name}.p50": [percentile(ordered, 0.5)], f"{name}.p99": [percentile(ordered, 0.99)]}


def _cpu_s(*pids: int) -> float:
    return sum(cpu_s(pid) for pid in pids)


_PARTS: Final[dict[str, Callable[[Bench], Awaitable[Figures]]]] = {
    "idle": idle,
    "flood": flood,
    "workflows": workflows,
    "always": always,
    "r3": r3,
    "critical": critical,
    "shares": shares,
    "kill": kill,
    "scale": scale,
    "overhead": overhead,
}
