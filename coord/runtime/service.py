"""The life of everything that runs: start, ready, drain, stop; supervised in between.

::

                start()                                  drain()            stop()
    new ──▶ starting ──▶ running ⇄ (ready or not) ──▶ draining ──▶ stopping ──▶ stopped
               │            │                                          ▲
               │ setup      │ a loop raised one of `fatal`             │
               └── fails ───┴──────────────▶ failed ────────────────────┘  stop()

A *service* is one noun that runs ("projector", "query", "http").  A subclass says what it
does in four hooks and never touches tasks itself:

``setup``     acquire: connect, subscribe, read checkpoints.  Raises → `start` raises.
``run``       the main loop; more loops by `spawn`.  Runs until it returns or is cancelled.
``on_drain``  take no new work, finish what is in hand.  Bounded by whoever calls `drain`.
``teardown``  release.  Always called once if `setup` was, even when that failed half way.

Supervision: a loop that raises is logged, counted (``coord_loop_restarts_total``) and run
again after a jittered backoff, for ever: an outage of the database may last a night, and a
process that exits would only be started again into the same outage.  What a restart cannot
mend is named in `fatal`: it ends the service, and with it the process.  A loop that ran well
for `SUPERVISE_RESET_S` starts its backoff anew.

Every loop is owned by a `TaskGroup`, which is owned by the service's one task, which `stop`
awaits: there are no orphans.  Calling `stop` twice, before `start`, or from several places
at once is legal (from one of the service's own loops it is not: raise instead); a stopped
service does not start again.

A `ServiceGroup` is a service made of services: starts them side by side, is ready when all
are, drains all at once, stops them one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, Self

from coord import limits
from coord.core.retry import backoff_s
from coord.errors import CoordError
from coord.runtime.clock import Clock, SystemClock
from coord.telemetry import logs, metrics

_log = logs.get("runtime")

_CANCEL_AGAIN_S = 1.0

LoopBody = Callable[[], Awaitable[None]]


class State(Enum):
    """Where a service is in its life."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Loop:
    """One supervised loop of a service; what `health` shows of it."""

    __slots__ = ("body", "error", "name", "restart", "restarts", "state")

    def __init__(self, name: str, body: LoopBody, *, restart: bool) -> None:
        self.name = name
        self.body = body
        self.restart = restart
        self.state = "new"
        """new, running, backing_off, done, failed."""
        self.restarts = 0
        self.error: BaseException | None = None
        """The last exception, kept while it has not run well since."""

    def health(self) -> dict[str, Any]:
        """State, restarts and the last error."""
        out: dict[str, Any] = {"state": self.state, "restarts": self.restarts}
        if self.error is not None:
            out["error"] = _describe(self.error)
        return out


class Service:
    """See the module.  Subclass it; the public methods are not meant to be overridden."""

    fatal: tuple[type[BaseException], ...] = ()
    """Exceptions of a loop that end the service instead of starting the loop again."""

    def __init__(self, name: str, *, clock: Clock | None = None, registry: metrics.Metrics | None = None) -> None:
        """`name`: lower case, a metric label; `clock` and `registry` default to the process's."""
        self.name = name
        self.clock: Clock = clock or SystemClock()
        self.metrics = registry or metrics.default()
        self.draining = asyncio.Event()
        """Set once no new work may be taken; loops look at it or wait for it."""
        self.failure: BaseException | None = None
        """What ended the service."""
        self._state = State.NEW
        self._loops: dict[str, Loop] = {}
        self._group: asyncio.TaskGroup | None = None
        self._owner: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._stop_lock = asyncio.Lock()
        self._set_up = False
        self._torn_down = False
        self._changed = asyncio.Event()
        self.metrics.service_up.labels(service=name).set_function(lambda: float(self.ready))

    # --- for the subclass ----------------------------------------------------------------

    async def setup(self) -> None:
        """Acquire what is needed.  May take as long as it likes; cancelled by `stop`."""

    async def run(self) -> None:
        """The main loop, supervised.  The default has nothing to do."""
        await self.draining.wait()

    async def on_drain(self) -> None:
        """Finish what is in hand.  `draining` is set already."""

    async def teardown(self) -> None:
        """Release everything; loops have ended."""

    def is_ready(self) -> bool:
        """Whether it does its work now.  Asked while running only; must be cheap."""
        return True

    def details(self) -> dict[str, Any]:
        """What `health` says beyond state and loops; plain values."""
        return {}

    def spawn(self, name: str, body: LoopBody, *, restart: bool = True) -> Loop:
        """Run `body()` as a supervised loop called `name`, from `setup` or later.

        `restart=False`: an exception ends the loop, logged and counted, and is not tried again.
        """
        loop = Loop(name, body, restart=restart)
        self._loops[name] = loop
        if self._group is not None and not self._stopping.is_set():
            self._launch(self._group, loop)
        return loop

    def changed(self) -> None:
        """Say that readiness may have changed, for whoever waits in `wait_ready`."""
        self._changed.set()

    # --- life ----------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._state

    @property
    def ready(self) -> bool:
        """Running and doing its work; false while it drains."""
        return self._state is State.RUNNING and self.is_ready()

    def health(self) -> dict[str, Any]:
        """One plain record: name, state, ready, loops with restarts and errors, details."""
        out: dict[str, Any] = {"name": self.name, "state": self._state.value, "ready": self.ready}
        if self._loops:
            out["loops"] = {loop.name: loop.health() for loop in self._loops.values()}
        if self.failure is not None:
            out["failure"] = _describe(self.failure)
        return out | self.details()

    async def start(self) -> None:
        """Set up and start the loops; returns when they run (`wait_ready` waits for more).

        Raises what `setup` raised, after `teardown`.  A service starts once.
        """
        if self._state is not State.NEW:
            if self._stopping.is_set():
                return  # stopped before it was started: that is legal and wins
            raise RuntimeError(f"{self.name} was started before")
        self._enter(State.STARTING)
        self._set_up = True
        try:
            await self._unless_stopped(self.setup())
        except BaseException as exc:
            if isinstance(exc, Exception):
                self.failure = exc
            await self._abandon_start()
            raise
        if self._stopping.is_set():
            await self._abandon_start()
            return
        # No await from here on: a start that is cancelled has either begun nothing or succeeded.
        self._owner = asyncio.create_task(self._own(), name=f"{self.name}.owner")
        self._enter(State.RUNNING)
        _log.info("service.started", name=self.name)

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Return once `ready`.  Raises `TimeoutError`, or the failure that ended the service.

        Readiness that changes without `changed()` being called is noticed within 50 ms.
        """
        async with asyncio.timeout(timeout_s):
            while not self.ready:
                if self.failure is not None:
                    raise self.failure
                if self._state in {State.STOPPING, State.STOPPED, State.FAILED}:
                    raise RuntimeError(f"{self.name} is {self._state.value}")
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._changed.wait()

    async def wait(self) -> None:
        """Return when the service has stopped; raises the failure that ended it."""
        await self._ended.wait()
        if self.failure is not None:
            raise self.failure

    async def drain(self) -> None:
        """Take no new work and finish what is in hand.  Twice is legal; never starts the stop."""
        if self._state is State.RUNNING:
            self._enter(State.DRAINING)
            self.draining.set()
            await self.on_drain()
        else:
            self.draining.set()

    async def stop(self) -> None:
        """End the loops and release everything, at once: `drain` first to lose nothing in hand.

        Legal twice, before `start`, and while `start` or `drain` is under way.  Never raises
        because of what the service did: that is in `failure`.
        """
        self._stopping.set()
        self.draining.set()
        async with self._stop_lock:
            if self._state in {State.STOPPED, State.NEW}:
                self._enter(State.STOPPED)
                self._ended.set()
                return
            if self._state is State.STARTING:
                await self._ended.wait()
                return
            failed = self._state is State.FAILED
            if not failed:
                self._enter(State.STOPPING)
            if self._owner is not None and not await self._cancel_loops(self._owner):
                _log.error("service.stuck", name=self.name, loops=self._unfinished())
            await self._tear_down()
            if not failed:
                self._enter(State.STOPPED)
                _log.info("service.stopped", name=self.name)
            self._ended.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.drain()
        finally:
            await self.stop()

    # --- inside --------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        self._state = state
        self.changed()

    async def _unless_stopped(self, work: Awaitable[None]) -> None:
        """Await `work`, cancelling it when `stop` is called meanwhile."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            await cancel(task)
        if not task.cancelled():
            task.result()

    async def _cancel_loops(self, owner: asyncio.Task[None]) -> bool:
        """End the loops; whether they ended within STOP_S."""
        owner.cancel()
        deadline = time.monotonic() + limits.STOP_S
        while not owner.done() and time.monotonic() < deadline:
            await asyncio.wait({owner}, timeout=min(_CANCEL_AGAIN_S, limits.STOP_S))
            for task in self._tasks:
                task.cancel()  # see `cancel`
        return owner.done()

    async def _abandon_start(self) -> None:
        try:
            await self._tear_down()
        finally:  # also when it is cancelled once more: whoever stops it waits for that
            self._enter(State.FAILED if self.failure is not None else State.STOPPED)
            self._ended.set()

    async def _own(self) -> None:
        """Own the loops.  Ends when cancelled by `stop`, or when a loop raised something fatal."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._loops.setdefault("run", Loop("run", self.run, restart=True))
                for loop in list(self._loops.values()):
                    self._launch(group, loop)
                await asyncio.get_running_loop().create_future()  # until `stop` cancels
        except BaseExceptionGroup as exc:
            self.failure = _first(exc)
            _log.error("service.failed", name=self.name, error=self.failure)
            self.draining.set()
            self._enter(State.FAILED)
            self._ended.set()
        finally:
            self._group = None

    def _launch(self, group: asyncio.TaskGroup, loop: Loop) -> None:
        task = group.create_task(self._supervise(loop), name=f"{self.name}.{loop.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _supervise(self, loop: Loop) -> None:
        rng = random.Random()
        failures = 0
        while True:
            loop.state = "running"
            began = self.clock.monotonic()
            try:
                await loop.body()
            except self.fatal as exc:
                loop.state, loop.error = "failed", exc
                raise
            except Exception as exc:  # noqa: BLE001 - a supervisor: it logs and counts
                if self.clock.monotonic() - began >= limits.SUPERVISE_RESET_S:
                    failures = 0
                failures += 1
                loop.error = exc
                _log.error("service.loop_failed", name=self.name, loop=loop.name, failures=failures, exc_info=exc)
                if not loop.restart:
                    loop.state = "failed"
                    self.changed()
                    return
            else:
                loop.state, loop.error = "done", None
                return
            loop.state = "backing_off"
            self.changed()
            wait_s = backoff_s(failures, rng, first_s=limits.SUPERVISE_FIRST_S, most_s=limits.SUPERVISE_MAX_S)
            await self.clock.sleep(wait_s)
            loop.restarts += 1
            self.metrics.loop_restarts.labels(service=self.name, loop=loop.name).inc()

    async def _tear_down(self) -> None:
        if not self._set_up or self._torn_down:
            return
        self._torn_down = True
        try:
            async with asyncio.timeout(self._release_s()):
                await self.teardown()
        except Exception as exc:  # noqa: BLE001 - logged; the others must still be stopped
            _log.error("service.teardown_failed", name=self.name, exc_info=exc)

    def _release_s(self) -> float | None:
        """How long `teardown` may take; None: it sees to that itself."""
        return limits.STOP_S

    def _unfinished(self) -> list[str]:
        return [loop.name for loop in self._loops.values() if loop.state in {"running", "backing_off"}]


class ServiceGroup(Service):
    """Several services as one.  A member that fails fails the group.

    Members start side by side: one that waits for the database keeps no other from working,
    nor the probes from saying so.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[Service],
        *,
        clock: Clock | None = None,
        registry: metrics.Metrics | None = None,
    ) -> None:
        """`members` stop in the opposite of this order."""
        super().__init__(name, clock=clock, registry=registry)
        self.members = tuple(members)
        self.fatal = (Exception,)

    async def setup(self) -> None:
        """Start the members; the first that cannot start stops the others."""
        try:
            async with asyncio.TaskGroup() as group:
                for member in self.members:
                    group.create_task(member.start(), name=f"{member.name}.start")
        except BaseExceptionGroup as exc:
            raise _first(exc) from None
        for member in self.members:
            self.spawn(f"member:{member.name}", member.wait)

    def is_ready(self) -> bool:
        """Whether every member is."""
        return all(member.ready for member in self.members)

    async def on_drain(self) -> None:
        """Drain all members at the same time."""
        results = await asyncio.gather(*(member.drain() for member in self.members), return_exceptions=True)
        for member, result in zip(self.members, results, strict=True):
            if isinstance(result, BaseException):
                _log.error("service.drain_failed", name=member.name, exc_info=result)

    def _release_s(self) -> None:
        """Each member has its own time: one that is stuck takes none of the others'."""

    async def teardown(self) -> None:
        """Stop the members, last started first."""
        for member in reversed(self.members):
            await member.stop()

    def health(self) -> dict[str, Any]:
        """The group's own state and each member's record."""
        out: dict[str, Any] = {"name": self.name, "state": self._state.value, "ready": self.ready}
        if self.failure is not None:
            out["failure"] = _describe(self.failure)
        return out | {"services": [member.health() for member in self.members]}


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel `task` until it has ended; never raises what it raised.

    Once is not always enough: Python's own `asyncio.wait_for` before 3.12 swallows a
    cancellation that meets the end of what it waits for, nats-py connects through it, and a
    connection that is tried for ever would then go on for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_S)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real exception of a group, however deep."""
    exc: BaseException = group
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def _describe(exc: BaseException) -> dict[str, Any]:
    if isinstance(exc, CoordError):
        return {"code": exc.code, "message": exc.message, "remedy": exc.remedy}
    return {"code": "coord.defect", "message": f"{type(exc).__name__}: {exc}"}
