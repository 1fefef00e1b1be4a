"""``coord replay --as-tasks``: a recording done again as tasks and workflows, by agents in this process.

Arrivals are submitted once for each way of choosing an agent (`PLACEMENTS`), one way after the other, to a
fleet of which half the agents are half as fast.  A handler sleeps for as long as its tokens took,
divided by the speed, so what is measured is waiting and not computing.

Ids follow from the run and the line: a replay that was cut off goes on with what has no end yet, and
one that is complete has nothing to do.  What came of it is read in the tables, where everybody else
looks for it too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.client.agent import Agent
from coord.client.config import ClientConfig
from coord.client.connect import Coord, connect
from coord.client.handoff import HandoffContext
from coord.client.tasks import TaskContext
from coord.ops.replay import work
from coord.ops.replay.work import Request, Talk
from coord.runtime import clock

PULL: Final = "pull"

_ACCEPT_MS: Final = 5_000
"""A whole fleet in one process answers late when the machine is busy; that it is slow is not to look like refusing."""

PLACEMENTS: Final[dict[str, dict[str, Any] | None]] = {
    PULL: None,
    "round_robin": {"strategy": "round_robin", "accept_ms": _ACCEPT_MS},
    "least_connections": {"strategy": "least_connections", "accept_ms": _ACCEPT_MS},
    "response_time": {"strategy": "response_time", "accept_ms": _ACCEPT_MS},
    "resources": {"strategy": "resources", "accept_ms": _ACCEPT_MS},
    "label": {"strategy": "label", "label": "speed", "values": ["fast", "slow"], "accept_ms": _ACCEPT_MS},
}
"""Ways of choosing an agent for a request: by name, what `submit` is told."""

PINNED: Final = "agent"
"""The way of conversations: a message is its speaker's."""

SUBMITTER: Final = "replay"
SLOW: Final = 2.0
"""How much longer the slow half of the fleet takes."""

_LOOK_S: Final = 0.1

Progress = Callable[[int], None]
"""Told how many more have ended."""


class TaskedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a recording is done again."""

    tenant: str
    run: str
    speed: float | None = 60.0
    """Arrivals come, and tokens are generated, so many times as fast; None: all at once, and nothing takes time."""
    token_ms: float = 20.0
    """How long one token takes, at the recorded speed: 50 tokens a second."""
    agents: int = 4
    """Of a fleet for arrivals; each does one at a time."""
    timeout_s: float = 600.0
    """How long the whole of it may take after the last submission."""

    @property
    def token_s(self) -> float:
        """Of one token, as it is replayed."""
        return 0.0 if self.speed is None else self.token_ms / 1000 / self.speed

    def capability(self, placement: str) -> str:
        """Tasks of one way: of the run's own, so that nobody else takes them."""
        return f"replay-{self.run}-{placement}"

    def prefix(self, placement: str) -> str:
        """What the keys of its tasks begin with."""
        return f"{self.run}-{placement}-"


class Tasked:
    """One replay as tasks, over one connection that may speak for all of its agents."""

    def __init__(self, conn: Connection, config: TaskedConfig, progress: Progress) -> None:
        self._conn = conn
        self._config = config
        self._progress = progress

    # --- arrivals --------------------------------------------------------------------------

    async def requests(self, found: Iterable[Request], placement: str, done: frozenset[str]) -> int:
        """Submit each when it arrives, and wait until all have ended; how many did not succeed.

        `done`: ids that have ended in an earlier replay of this run.
        """
        config = self._config
        capability, prefix = config.capability(placement), config.prefix(placement)
        left = [one for one in found if f"{prefix}{one.row}" not in done]
        if not left:
            return 0
        agents = [_worker(n, capability) for n in range(config.agents)]
        async with self._fleet(agents, capability), self._client(SUBMITTER) as c:
            room = asyncio.Semaphore(limits.REPLAY_TASKS)
            began, first_s = asyncio.get_running_loop().time(), left[0].after_s
            async with asyncio.TaskGroup() as group:
                sent = []
                for one in left:
                    if config.speed is not None:
                        due = began + (one.after_s - first_s) / config.speed
                        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                    await room.acquire()
                    sent.append(group.create_task(self._request(c, one, placement, room)))
            return sum(not task.result() for task in sent)

    async def _request(self, c: Coord, one: Request, placement: str, room: asyncio.Semaphore) -> bool:
        config = self._config
        try:
            handle = await c.submit(
                config.capability(placement),
                {"row": one.row, "run_s": one.tokens * config.token_s},
                id=f"{config.prefix(placement)}{one.row}",
                priority=one.priority,
                placement=PLACEMENTS[placement],
            )
            return await self._ended(handle.result(timeout_s=config.timeout_s))
        finally:
            room.release()

    # --- conversations ---------------------------------------------------------------------

    async def talks(self, found: Iterable[Talk], done: frozenset[str]) -> int:
        """Start each conversation, a few at a time, and wait until all have ended; how many did not succeed."""
        config = self._config
        capability, prefix = config.capability(PINNED), config.prefix(PINNED)
        left = [talk for talk in found if f"{prefix}{talk.line}" not in done]
        if not left:
            return 0
        names = sorted({said.speaker for talk in left for said in talk.messages})
        async with self._fleet([_speaker(name, capability) for name in names], capability):
            async with self._client(SUBMITTER) as c, asyncio.TaskGroup() as group:
                room = asyncio.Semaphore(limits.REPLAY_TALKS)
                sent = [group.create_task(self._talk(c, talk, room)) for talk in left]
            return sum(not task.result() for task in sent)

    async def _talk(self, c: Coord, talk: Talk, room: asyncio.Semaphore) -> bool:
        config = self._config
        async with room:
            definition, given = work.workflow(talk, config.capability(PINNED), config.token_s)
            handle = await c.start_workflow(definition, given, id=f"{config.prefix(PINNED)}{talk.line}")
            return await self._ended(handle.result(timeout_s=config.timeout_s))

    # --- both --------------------------------------------------------------------------------

    async def _ended(self, result: Any) -> bool:
        try:
            await result
        except (errors.TaskError, errors.WorkflowError):
            return False
        finally:
            self._progress(1)
        return True

    @contextlib.asynccontextmanager
    async def _client(self, agent: str) -> AsyncIterator[Coord]:
        config = ClientConfig(tenant=self._config.tenant, agent=agent)
        async with connect(config, connection=self._conn) as c:
            yield c

    @contextlib.asynccontextmanager
    async def _fleet(self, agents: list[Agent], capability: str) -> AsyncIterator[None]:
        """Agents at work, and known to whoever places tasks."""
        async with contextlib.AsyncExitStack() as stack:
            for agent in agents:
                c = await stack.enter_async_context(self._client(agent.name))
                await agent.start(c)
            asks = await stack.enter_async_context(self._client(SUBMITTER))
            await self._heard_of(asks, capability, len(agents))
            yield

    async def _heard_of(self, c: Coord, capability: str, count: int) -> None:
        ends_at = clock.monotonic() + limits.REPLAY_PATIENCE_S
        while len(await c.agents(capability=capability, limit=count)) < count:
            if clock.monotonic() > ends_at:
                raise errors.DeadlineExceeded("the fleet is not heard of: are the deciders running?", agents=count)
            await asyncio.sleep(_LOOK_S)


def _worker(n: int, capability: str) -> Agent:
    """An agent that takes as long as the request says; every second one longer."""
    slow = bool(n % 2)
    agent = Agent(f"replay-{n}", capabilities={capability: 1}, labels={"speed": "slow" if slow else "fast"})

    @agent.task(capability)
    async def generate(given: dict[str, Any]) -> None:
        await asyncio.sleep(given["run_s"] * (SLOW if slow else 1.0))

    return agent


def _speaker(name: str, capability: str) -> Agent:
    """An agent of a conversation: it says its message, then hands over to the next one."""
    agent = Agent(name, capabilities={capability: limits.REPLAY_TALKS})

    @agent.task(capability)
    async def say(given: dict[str, Any], ctx: TaskContext) -> dict[str, Any]:
        await asyncio.sleep(given["run_s"])
        if given["to"] is not None:
            # Once, however often the step is executed.
            handle = await ctx.coord.handoff(
                {"message": given["n"]}, to=given["to"], reason="next to speak", id=f"h{given['n']}", key=ctx.key
            )
            await handle.accepted()
        return {"speaker": name, "to": given["to"]}

    @agent.handoff
    async def listen(_work: Any, ctx: HandoffContext) -> None:
        await ctx.accept()

    return agent
