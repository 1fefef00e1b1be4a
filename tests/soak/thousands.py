"""5,000 connected agents under faults: a large process killed, the broker restarted, coord restarted, 2,000 that leave.

Agents live in a few processes, each with a connection of its own.  While tasks are under way

* a process with 2,000 of them is killed, and started again;
* the broker is killed and started again with everybody connected;
* all of coord (one process) is killed and started again, under an open loop of tasks;
* 2,000 agents are told to drain at once, and to come back; and then the 2,000 leave, as after SIGTERM.

Every task has to end, and nobody who drains may begin one.  How many are begun again, what is stated of presence and
how late coord answers is counted: of the first two nothing where the machine has time for its agents.  The log is
counted by the broker (`subjects_filter`), and never followed: nobody subscribes to everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

import coord
from coord import errors
from coord.bus.connection import NatsConfig
from coord.ops.bench.measure import BenchError, cpu_s
from coord.telemetry.metrics import Metrics
from tests.soak.harness import Job, Result, Scenario, folder, percentile, say
from tests.soak.stack import Stack
from tests.soak.thousands_hosts import CAPABILITY, Host, Hosted, hosting
from tests.support import crew

SCENARIO = Scenario(
    name="thousands",
    title="5,000 connected agents: a process of 2,000 killed, the broker and coord restarted, 2,000 leaving at once",
    bound_s=900,
    rank=19,
)

AGENTS = 5_000
HELD = 1_000
"""Tasks under way when something happens."""
TENANT = "thousands"
_ASK_EVERY_S = 0.25
_SETTLE_S = 6.0
_END_S = 150.0
"""Within this all tasks end after a fault."""


class Fleet:
    """What a phase needs."""

    def __init__(self, stack: Stack, home: Path, c: coord.Coord) -> None:
        self.stack, self.home, self.c = stack, home, c
        self.hosts: dict[str, Host] = {}
        self.server: crew.Member | None = None
        self._stacks: dict[str, contextlib.AsyncExitStack] = {}
        self._ids = 0

    async def come(self, name: str, agents: int) -> None:
        one = Hosted(url=self.stack.nats_url, tenant=TENANT, name=name, agents=agents, folder=str(self.home))
        stack = self._stacks[name] = contextlib.AsyncExitStack()
        self.hosts[name] = await stack.enter_async_context(hosting(one, self.home / f"{name}.log"))

    async def gone(self, name: str) -> None:
        del self.hosts[name]
        await self._stacks.pop(name).aclose()

    async def serve(self) -> float:
        """Start all of coord; the seconds until it is ready."""
        began = time.monotonic()
        job = crew.Job(
            urls=(self.stack.nats_url,), tenant=TENANT, folder=str(self.home), role="server", name="serve",
            database=self.stack.database_url, everything=True,
        )  # fmt: skip
        self.server = await crew.start(job, self.home / "serve.log")
        assert await self.server.ready(100)
        return time.monotonic() - began

    async def close(self) -> None:
        for name in list(self.hosts):
            await self.gone(name)
        if self.server is not None:
            await self.server.close()

    def id(self) -> str:
        self._ids += 1
        return f"t{self._ids}"

    async def hold(self, tasks: int, seconds: float) -> list[Any]:
        """Have so many naps under way."""
        return list(await asyncio.gather(*(self.c.submit(CAPABILITY, seconds, id=self.id()) for _ in range(tasks))))

    async def begun(self, handles: list[Any], timeout_s: float = 60) -> dict[str, str]:
        """Wait until all of them run; by task, whose they are."""
        wanted = {handle.id for handle in handles}
        async with asyncio.timeout(timeout_s):
            while not wanted <= (holders := self.holders()).keys():  # noqa: ASYNC110 - files say it
                await asyncio.sleep(0.1)
        return {task: holders[task] for task in wanted}

    def ran(self) -> list[tuple[str, str, int, float, str]]:
        """(began or ended, task, claim, when, agent) of all executions."""
        lines = [line.split() for file in self.home.glob("*.ran") for line in file.read_text().splitlines()]
        return [(what, task, int(claim), float(at), agent) for what, task, claim, at, agent in lines]

    def holders(self) -> dict[str, str]:
        return {task: agent for what, task, _, _, agent in sorted(self.ran(), key=lambda r: r[3]) if what == "began"}

    async def presence(self) -> Counter[str]:
        """Facts about agents in the log, by event, as the broker counts their subjects."""
        found: Counter[str] = Counter()
        offset = 0
        while True:
            asked = {"subjects_filter": f"coord.log.*.{TENANT}.*.agent.>", "offset": offset}
            answer = await self.c.connection.api("STREAM.INFO.EVENTS", asked)
            subjects = answer["state"].get("subjects") or {}
            for subject, count in subjects.items():
                found[subject.split(".")[8]] += count
            offset += len(subjects)
            if not subjects or offset >= answer.get("total", 0):
                return found

    async def connected(self) -> int:
        """Connections that the broker has; -1 while it does not answer."""
        try:
            return await asyncio.to_thread(_connections, f"{self.stack.nats.http_url}/varz")
        except OSError:
            return -1

    async def all_connected(self, agents: int, timeout_s: float = 120) -> float:
        began = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while await self.connected() < agents:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return time.monotonic() - began

    async def heard(self) -> int:
        """Agents that coord counts as able to take naps."""
        board = (await self.c.capabilities()).get(CAPABILITY)
        return 0 if board is None else board.agents

    async def all_heard(self, agents: int, timeout_s: float = 120) -> float:
        began = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(errors.CoordError):
                    if await self.heard() >= agents:
                        return time.monotonic() - began
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def phase(fleet: Fleet, result: Result, name: str) -> AsyncIterator[dict[str, Any]]:
    """What a fault costs: CPU by process, facts about agents, how coord answers meanwhile."""
    pids: dict[str, int | None] = {"nats": fleet.stack.nats.pid, "coord": fleet.server.pid if fleet.server else None}
    pids |= {host: one.pid for host, one in fleet.hosts.items()}
    before = {what: cpu_s(pid) for what, pid in pids.items() if pid is not None}
    facts = await fleet.presence()
    asking = asyncio.create_task(_asking(fleet))
    began = time.monotonic()
    found: dict[str, Any] = {}
    try:
        yield found
    finally:
        found["seconds"] = round(time.monotonic() - began, 1)
        asking.cancel()
        answers, silent = await asking
        pids |= {"nats": fleet.stack.nats.pid, "coord": fleet.server.pid if fleet.server else None}
        spent: dict[str, float] = {}
        for what, pid in pids.items():
            with contextlib.suppress(BenchError):  # it is dead
                now = cpu_s(pid or 0)
                spent[what] = round(now - before[what] if now >= before[what] else now, 1)
        found["cpu_s"] = spent
        found["presence_facts"] = dict(+(await fleet.presence() - facts))
        found["asked"] = len(answers)
        found["unanswered"] = silent
        found["answer_ms_p50"] = round(percentile(answers, 0.5), 1)
        found["answer_ms_max"] = round(max(answers, default=0.0), 1)
        result.details[name] = found
        say(name, found)


async def _asking(fleet: Fleet) -> tuple[list[float], int]:
    """Ask coord how the capabilities fare, again and again."""
    answers: list[float] = []
    silent = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            began = time.perf_counter()
            try:
                await fleet.c.capabilities()
                answers.append((time.perf_counter() - began) * 1e3)
            except errors.CoordError:
                silent += 1
            await asyncio.sleep(_ASK_EVERY_S)
    return answers, silent


async def run(job: Job) -> Result:
    agents = job.of(job.facts, AGENTS, 50)
    many = agents * 2 // 5
    held = max(10, agents * HELD // AGENTS)
    result = Result(volume={"agents": agents, "held": held})
    with folder(job, "thousands") as home:
        async with Stack.open(home) as stack:
            config = NatsConfig(urls=(stack.nats_url,), ping_interval_s=1.0)
            async with coord.connect(config, tenant=TENANT, agent="boss", metrics=Metrics(CollectorRegistry())) as c:
                fleet = Fleet(stack, home, c)
                try:
                    await fleet.serve()
                    async with phase(fleet, result, "coming"):
                        await fleet.come("many", many)
                        await fleet.come("others", (agents - many) // 2)
                        await fleet.come("more", agents - many - (agents - many) // 2)
                        await fleet.all_heard(agents)
                    for step in (_killed, _broker, _serve, _drained, _left):
                        await asyncio.sleep(_SETTLE_S)
                        await step(fleet, result, agents, many, held)
                finally:
                    await fleet.close()
    return result


async def _killed(fleet: Fleet, result: Result, agents: int, many: int, held: int) -> None:
    """A process with two of five agents is killed; what it held has to begin elsewhere."""
    handles = await fleet.hold(held, 12.0)
    holders = await fleet.begun(handles)
    dead = {task for task, agent in holders.items() if agent.startswith("many-")}
    async with phase(fleet, result, "killed") as found:
        at = time.time()
        fleet.hosts["many"].kill()
        await _all_end(result, "killed", handles)
        moved = [(when - at) * 1e3 for what, task, _, when, _ in fleet.ran()
                 if what == "began" and task in dead and when > at]  # fmt: skip
        found |= {"held": len(dead), "moved": len(moved), "moved_ms_p50": round(percentile(moved, 0.5)),
                  "moved_ms_p99": round(percentile(moved, 0.99))}  # fmt: skip
        found["again"] = _again(result, fleet, handles, "killed")
        await asyncio.sleep(_SETTLE_S)
        found["heard"] = await fleet.heard()
    await fleet.gone("many")
    async with phase(fleet, result, "come again"):
        await fleet.come("many", many)
        await fleet.all_heard(agents)


async def _broker(fleet: Fleet, result: Result, agents: int, many: int, held: int) -> None:
    """The broker is killed and started again with everybody connected and tasks under way."""
    handles = await fleet.hold(held, 10.0)
    await fleet.begun(handles)
    async with phase(fleet, result, "broker") as found:
        began = time.monotonic()
        fleet.stack.nats.kill()
        await asyncio.sleep(2.0)
        await fleet.stack.nats.start()
        found["up_s"] = round(time.monotonic() - began, 1)
        found["connected_s"] = round(await fleet.all_connected(agents), 1)
        found["heard_s"] = round(found["connected_s"] + await fleet.all_heard(agents), 1)
        late = time.monotonic()
        await _all_end(result, "broker", handles)
        found["ended_s"] = round(time.monotonic() - late, 1)
        found["again"] = _again(result, fleet, handles, "broker")
        found["first_task_s"] = await _tasks_flow(fleet)
        await asyncio.sleep(2 * _SETTLE_S)


async def _serve(fleet: Fleet, result: Result, agents: int, many: int, held: int) -> None:
    """All of coord is killed and started again; tasks come at 50 a second."""
    handles = await fleet.hold(held, 10.0)
    await fleet.begun(handles)
    async with phase(fleet, result, "coord") as found:
        assert fleet.server is not None
        loop = asyncio.create_task(_open_loop(fleet, 50.0))
        await asyncio.sleep(2.0)
        at = time.time()
        fleet.server.kill()
        await fleet.server.close()
        await asyncio.sleep(1.0)
        found["ready_s"] = round(await fleet.serve(), 1)
        ready = time.time()
        found["heard_s"] = round(await fleet.all_heard(agents), 1)
        await asyncio.sleep(_SETTLE_S)
        loop.cancel()
        more = await loop
        await _all_end(result, "coord", handles + more)
        mine = {handle.id for handle in more}
        begins = sorted(when for what, task, _, when, _ in fleet.ran() if what == "began" and task in mine)
        gaps = [(b - a, a - at) for a, b in itertools.pairwise(begins)]
        found["longest_gap_s"], found["gap_from_kill_s"] = (round(v, 2) for v in max(gaps))
        found["first_after_ready_s"] = round(min((b for b in begins if b > ready), default=ready) - ready, 2)
        found["again"] = _again(result, fleet, handles + more, "coord")
        await asyncio.sleep(_SETTLE_S)


async def _drained(fleet: Fleet, result: Result, agents: int, many: int, held: int) -> None:
    """An operator drains 2,000 agents at once, and lets them come back."""
    handles = await fleet.hold(held, 8.0)
    await fleet.begun(handles)
    names = [f"many-{i}" for i in range(many)]
    for rejoin in (False, True):
        async with phase(fleet, result, "rejoined" if rejoin else "drained") as found:
            began = time.monotonic()
            room = asyncio.Semaphore(64)

            async def one(name: str, room: asyncio.Semaphore = room, rejoin: bool = rejoin) -> int:
                async with room:
                    try:
                        return await fleet.c.drain_agent(name, rejoin=rejoin)
                    except errors.UnknownAgent:  # stated to be gone, on a machine that starves it
                        return 0

            told = await asyncio.gather(*(one(name) for name in names))
            found["told_s"], found["told"] = round(time.monotonic() - began, 1), sum(told)
            if not rejoin:
                await _all_end(result, "drained", handles)
                found["again"] = _again(result, fleet, handles, "drained")
                after = await fleet.hold(held // 2, 0.1)
                await _all_end(result, "drained", after)
                at_drained = [a for t, a in (await fleet.begun(after)).items() if a.startswith("many-")]
                if at_drained:
                    result.found("wrong", f"{len(at_drained)} tasks were begun by agents that drain")
            await asyncio.sleep(_SETTLE_S)


async def _left(fleet: Fleet, result: Result, agents: int, many: int, held: int) -> None:
    """2,000 agents of one process leave together while tasks are under way."""
    handles = await fleet.hold(held, 3.0)
    await fleet.begun(handles)
    async with phase(fleet, result, "left") as found:
        told = await fleet.hosts["many"].leave()
        found |= {"left_s": round(told.seconds, 1), "left_cpu_s": round(told.cpu_s, 1),
                  "slowest_s": round(told.slowest_s, 1), "failed": told.failed}  # fmt: skip
        await _all_end(result, "left", handles)
        found["again"] = _again(result, fleet, handles, "left")
        await asyncio.sleep(_SETTLE_S)
        found["heard"] = await fleet.heard()
    await fleet.gone("many")


def _connections(url: str) -> int:
    with urllib.request.urlopen(url, timeout=2.0) as answer:
        return int(json.loads(answer.read())["connections"])


async def _tasks_flow(fleet: Fleet) -> float:
    began = time.monotonic()
    (handle,) = await fleet.hold(1, 0.0)
    await handle.result(timeout_s=_END_S)
    return round(time.monotonic() - began, 2)


async def _open_loop(fleet: Fleet, per_s: float) -> list[Any]:
    handles: list[Any] = []
    waiting: set[asyncio.Task[Any]] = set()
    began = time.monotonic()
    try:
        while True:
            await asyncio.sleep(max(0.0, began + len(waiting) / per_s - time.monotonic()))
            waiting.add(asyncio.create_task(fleet.c.submit(CAPABILITY, 0.05, id=fleet.id())))
    except asyncio.CancelledError:
        handles = list(await asyncio.gather(*waiting))
    return handles


async def _all_end(result: Result, where: str, handles: list[Any]) -> None:
    async def one(handle: Any) -> bool:
        try:
            await handle.result(timeout_s=_END_S)
        except errors.CoordError as exc:
            result.found("stuck", f"{where}: {handle.id}: {exc.code}")
            return False
        return True

    await asyncio.gather(*(one(handle) for handle in handles))


def _again(result: Result, fleet: Fleet, handles: list[Any], where: str) -> int:
    """How many tasks were begun more than once: on a machine that starves them, agents that live are taken for dead."""
    mine = {handle.id for handle in handles}
    begins = Counter(task for what, task, *_ in fleet.ran() if what == "began" and task in mine)
    if missing := mine - begins.keys():
        result.found("lost", f"{where}: {len(missing)} tasks ended and never began")
    return sum(1 for count in begins.values() if count > 1)
