"""An agent that works: what it can do, how much of it at once, and the functions that do it.

::

    agent = coord.Agent("summarizer", capabilities={"summarize": 8}, labels={"region": "eu"})


    @agent.task("summarize", timeout_s=120, retries=3)
    async def summarize(doc: Doc, ctx: coord.TaskContext) -> Summary: ...


    await agent.run("nats://127.0.0.1:4222")  # until SIGTERM, then it drains

Or inside a program of your own: ``async with agent.connect(url) as worker`` or, on a connection
that is open already, ``worker = await agent.start(c)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import NoneType
from typing import Any, TypeVar, overload

import msgspec

from coord import errors, limits
from coord.client.connect import Coord, agent_name, connect
from coord.client.handoff import HandoffHandler
from coord.client.quotas import Quotas
from coord.client.tasks import Handler, Handles, declare
from coord.client.worker import Worker
from coord.runtime.signals import interrupts
from coord.wire import arguments, subjects

H = TypeVar("H", bound=Handler)
N = TypeVar("N", bound=HandoffHandler)


class Agent:
    """An agent that works: what it can do, how much of it at once, and the functions that do it.

    A declaration: it can be started on any number of connections, in any process.  ``agent.run(url)`` works until
    SIGTERM, ``async with agent.connect(url)`` while a block runs, ``await agent.start(c)`` on an open connection.
    """

    def __init__(
        self,
        name: str,
        *,
        capabilities: Mapping[str, int] | None = None,
        labels: Mapping[str, str] | None = None,
        needs: Iterable[str] = (),
        provides: Iterable[str] = (),
        coordinator: str | None = None,
        quotas: Quotas | None = None,
        drain_s: float | None = None,
    ) -> None:
        """Declare it.

        `name`: who it is, the same in every process that does the same.  `capabilities`: tasks at once by
        what they are; a capability that only a handler names has 1.  `labels`: region, model, cost, for
        placement and whoever looks.  `needs`: signals that are raised before it starts; `provides`: those that
        it raises then, so agents that are started in any order come up in the right one.  `coordinator`: the
        agent above it, which gets the handoffs that nobody below takes.  `quotas`: what it limits itself to.
        `drain_s`: how long what runs may take when it is told to stop; then it is ended and given back, and 4 s later
        the agent has left.  Default: what its connection has for leaving, less these 4 s: 16 s.

        Raises `InvalidToken`, `SettingsError`.
        """
        arguments.is_a(quotas, (Quotas, NoneType), "quotas", "a coord.Quotas", errors.SettingsError)
        for argument, names in (("needs", needs), ("provides", provides)):
            arguments.is_a(names, Iterable, argument, "names of signals", errors.SettingsError)
        self.name = agent_name(name)
        self.capabilities: dict[str, int] = {}
        self.labels = _labels(labels or {})
        self.needs = (needs,) if isinstance(needs, str) else tuple(needs)
        self.provides = (provides,) if isinstance(provides, str) else tuple(provides)
        self.coordinator = None if coordinator is None else agent_name(coordinator)
        self.handoffs: dict[str | None, HandoffHandler] = {}
        """Who answers handoffs, by capability; None: all others."""
        self.quotas = Quotas() if quotas is None else quotas
        self.quotas.validate()
        self.drain_s = drain_s
        self.handles: dict[str, Handles] = {}
        takes = "a mapping of names to how many tasks at once, such as {'summarize': 8}"
        given = arguments.mapping(capabilities, takes, "capabilities", errors.SettingsError)
        for capability, capacity in given.items():
            self._declare(capability, capacity)

    def _declare(self, capability: str, capacity: Any) -> None:
        subjects.check_token(capability, "capability")
        if not isinstance(capacity, int) or not 1 <= capacity <= limits.CAPACITY_MAX:
            raise errors.SettingsError(f"a capacity is 1 to {limits.CAPACITY_MAX}", capability=capability)
        self.capabilities[capability] = capacity

    def task(
        self,
        capability: str,
        *,
        timeout_s: float | None = None,
        retries: int | None = None,
        preemptible: bool | None = None,
    ) -> Callable[[H], H]:
        """Declare the handler of a capability: an async function of the input and, if it likes, a `TaskContext`.

        `timeout_s` of one execution (at most 7 days) and `retries` after the first (at most 1,000): for
        submissions that say none, more or less than the defaults of 600 s and 3.  `preemptible`: whether a batch task
        is held at its next await while something critical runs in its slot (the time counts); default: as the
        submission says, whose word counts unless this is False.

        What it returns is the task's output.  What it raises: `coord.Reject`: no attempt can succeed;
        anything else: retried, with backoff.
        """
        known = sys._getframe(1).f_locals  # noqa: SLF001 - annotations may name what is local to the caller

        def register(call: H) -> H:
            if capability in self.handles:
                raise errors.SettingsError("this capability has a handler already", capability=capability)
            self.handles[capability] = declare(
                capability, call, timeout_s=timeout_s, retries=retries, preemptible=preemptible, known=known
            )
            if capability not in self.capabilities:
                self._declare(capability, 1)
            return call

        return register

    @overload
    def handoff(self, call: N, /) -> N: ...

    @overload
    def handoff(self, capability: str | None = None, /) -> Callable[[N], N]: ...

    def handoff(self, what: Any = None, /) -> Any:
        """Declare who answers handoffs: ``@agent.handoff``, or ``@agent.handoff("review")`` for a capability.

        An async function of the work and a `HandoffContext`.  It accepts by ``ctx.accept()`` or by returning,
        declines by raising `coord.Decline`, or anything else before it has accepted.  Without a capability it
        answers all offers that no other handler is for.
        """

        def register(call: N, capability: str | None = None) -> N:
            if capability is not None:
                subjects.check_token(capability, "capability")
            if capability in self.handoffs:
                raise errors.SettingsError("these handoffs have a handler already", capability=capability)
            self.handoffs[capability] = call
            return call

        if callable(what):
            return register(what)
        return lambda call: register(call, what)

    async def start(self, c: Coord) -> Worker:
        """Work on an open connection, whose agent must be this one; closing it drains the worker.

        Raises `SettingsError` where a declared capability has no handler, and `SignalDeadlock` where agents need
        each other to start.
        """
        if c.agent != self.name:
            raise errors.SettingsError("the connection speaks as another agent", agent=c.agent, wanted=self.name)
        missing = sorted(self.capabilities.keys() - self.handles.keys())
        if missing or not (self.capabilities or self.handoffs):
            raise errors.SettingsError("every capability of a working agent has a handler", missing=missing)
        starting = c.signals.starting(needs=self.needs, provides=self.provides) if self.needs or self.provides else None
        async with starting or contextlib.nullcontext():
            worker = Worker(self, c)
            c.workers.append(worker)
            try:
                await worker.start()
            except BaseException:  # nobody has it: what it was given by then is given back
                await worker.drain(0)
                c.workers.remove(worker)
                raise
        return worker

    @contextlib.asynccontextmanager
    async def connect(self, to: Any = None, /, **options: Any) -> AsyncIterator[Worker]:
        """Connect and work while the block runs; leaving it drains.  Arguments are `coord.connect`'s."""
        async with connect(to, agent=self.name, **options) as c:
            yield await self.start(c)

    async def run(self, to: Any = None, /, **options: Any) -> None:
        """Connect and work until SIGTERM or SIGINT, then drain; a second signal ends it at once."""
        options.setdefault("wait", True)
        async with self.connect(to, **options) as worker:
            with interrupts() as received:
                await received.first.wait()
                worker.coord.leave_within()
                draining = asyncio.ensure_future(worker.drain())
                second = asyncio.ensure_future(received.second.wait())
                await asyncio.wait({draining, second}, return_when=asyncio.FIRST_COMPLETED)
                second.cancel()
                if not draining.done():
                    draining.cancel()
                    await asyncio.gather(draining, return_exceptions=True)
                    worker.coord.leave_within(0)
                    await worker.close()


def _labels(given: Mapping[str, str]) -> dict[str, str]:
    try:
        said = arguments.mapping(given, "a mapping of texts", "labels", errors.SettingsError)
        return msgspec.convert(dict(said), dict[str, str])
    except msgspec.ValidationError as exc:
        raise errors.SettingsError(f"labels are texts: {exc}") from exc
