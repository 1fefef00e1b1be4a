"""An agent at work: its capabilities' slots, what pulls for them, what runs in them.

Made by `Agent.start`.  One per agent and connection; every number it holds is bounded by the
capacity that the agent declared.

Leaving.  `drain` stops pulling, gives back what was delivered and not begun, lets what runs finish
for `drain_s`, then ends and returns it: others begin it at once.  All of that has one deadline, whatever
the broker does.  A worker that is killed says nothing; its claims move because its connection died.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.client.execution import Execution
from coord.client.histories import read
from coord.client.metering import CapabilityMeter
from coord.client.pulling import Delivery, Puller
from coord.client.quotas import FACTS_OF_A_TASK, Allowance
from coord.client.slots import Slots
from coord.client.tasks import Delivered
from coord.core.seats import State
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import headers, subjects, work
from coord.wire.decode import decode_message
from coord.wire.presence import Quotas as DeclaredQuotas
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.client.agent import Agent
    from coord.client.connect import Coord
    from coord.client.tasks import Handles
    from coord.core.tasks import Task

_log = logs.get("worker")

_FIRST: Final = f"{headers.EXPECTED_LAST_SUBJECT_SEQ}: 0\r\n{headers.EXPECTED_LAST_SUBJECT}: "
_OPEN_AGAIN_S: Final = 1.0
_WATCH_S: Final = 0.5
"""How often a worker that holds something looks whether it stood still."""

_LONG_S: Final = 0.3
"""Whoever has held something for so long does not leave pulls at the broker that outlive it."""


class WorkerStats(msgspec.Struct):
    """What was counted since the start."""

    claimed: int = 0
    completed: int = 0
    failed: int = 0
    rejected: int = 0
    returned: int = 0
    """Given back: surplus, or because the worker drains."""
    skipped: int = 0
    """Delivered, and somebody else's or ended."""
    preempted: int = 0
    local: int = 0
    """Local steps of workflows that were executed with the tasks before them."""


class Worker:
    """See the module."""

    def __init__(self, agent: Agent, coord: Coord) -> None:
        self.agent = agent
        self.coord = coord
        self.conn = coord.connection
        self.loop = asyncio.get_running_loop()  # to be told which one runs takes a system call
        self.tenant = coord.tenant
        self.name = coord.agent
        self.instance = coord.instance
        self._claims: dict[tuple[int | None, float | None], tuple[work.Claim, bytes]] = {}
        """What its claims say, written once, by what they say of retries and timeout."""
        self.stating = coord.stating
        self.payloads = coord.payloads
        self.stats = WorkerStats()
        self.draining = False
        self._meters: dict[str, CapabilityMeter] = {}
        self._handles = agent.handles
        self._slots = {capability: Slots(count) for capability, count in agent.capabilities.items()}
        self._pullers: dict[str, Puller] = {}
        self._executions: dict[tuple[str, str], Execution] = {}
        """By (key, id): what has a slot, or an outcome on its way."""
        self.looks = asyncio.Semaphore(limits.TASK_LOOKS_MAX)
        """Taken while a task is read."""
        self._ran: dict[tuple[str, str], int] = {}
        """By (key, id), of the newest: the claim under which a handler was run to its end here."""
        self._jobs: set[asyncio.Task[None]] = set()
        self._opening: set[str] = set()
        self._unregister = self.coord.pushes.on("task", self._pushed)
        self._beating = coord.beating
        self._unregisters = [
            self._beating.describe(self.load),
            self._beating.rests(self.rest_s),
            self._beating.on_change(self._paused),
            self.conn.on_reconnected(self._verify_soon),
        ]
        self.allowance = Allowance(agent.quotas)
        if agent.quotas.facts_per_s is not None:
            coord.allowance = self.allowance
        self._later: asyncio.TimerHandle | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._watched_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    # --- life ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Say what this agent can do, then begin to pull."""
        await self.coord.pushes.begin()
        agent = self.agent
        quotas = DeclaredQuotas(agent.quotas.inflight, agent.quotas.facts_per_s, agent.quotas.memory_mib)
        for capability, handler in agent.handoffs.items():
            await self.coord.handoffs.receive(handler, capability=capability)
        able = dict.fromkeys((c for c in agent.handoffs if c is not None), 1) | agent.capabilities
        # Known to deliveries before anybody hears of this agent: what is placed on it may come at once.
        self._pullers = {capability: self._puller(capability) for capability in self._slots}
        await self._beating.register(
            capabilities=able, labels=agent.labels, coordinator=agent.coordinator, quotas=quotas
        )
        for capability, puller in self._pullers.items():
            stands = await puller.look_first()
            if not stands:
                await self.coord.queues.open(capability)
            puller.open(stands=stands)

    def _puller(self, capability: str) -> Puller:
        return Puller(
            self.conn,
            self.tenant,
            capability,
            free=partial(self._free, capability),
            deliver=partial(self._delivered, capability),
            missing=partial(self._missing, capability),
            urgent=lambda: self._slots[capability].yielding() is not None,
            paced=self._beating.paced,
        )

    async def drain(self, drain_s: float | None = None, *, by: float = float("inf")) -> None:
        """Take nothing more, finish or give back what is held, and stop.  Twice is legal.

        What runs has `drain_s` (default: the agent's, or 16 s); with what it takes to give back the rest, all has
        ended `STOP_S` later.  `by`: and at that moment (monotonic) at the latest, of which part is kept for that.
        """
        if self._closed:
            return
        self.draining = True
        if drain_s is None:
            drain_s = limits.DRAIN_S - limits.STOP_S if self.agent.drain_s is None else self.agent.drain_s
        now = clock.monotonic()
        by = min(by, now + drain_s + limits.STOP_S)
        stop_s = min(limits.STOP_S - limits.LAST_WORDS_S, max(0.0, by - now) / 2)
        finish_by = min(now + drain_s, by - stop_s)
        await asyncio.gather(*(puller.pause(finish_by - now) for puller in self._pullers.values()))
        for execution in list(self._executions.values()):
            if not execution.started:
                execution.end("drained")
        if not await self._is_idle_by(finish_by):
            for execution in list(self._executions.values()):
                execution.end("drained")
            if not await self._is_idle_by(by - stop_s / 2):
                _log.warning("worker.not_drained", agent=self.name, tasks=len(self._executions))
        await self.stating.settled(max(0.0, by - clock.monotonic()))
        await self.close()

    async def _is_idle_by(self, by: float) -> bool:
        """Whether nothing is held any more, at that moment (monotonic) at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, by - clock.monotonic())):
                await self._idle.wait()
        return self._idle.is_set()

    async def close(self) -> None:
        """Stop at once.  Twice is legal."""
        if self._closed:
            return
        self._closed = True
        self._unregister()
        for unregister in self._unregisters:
            unregister()
        self._beating.release(self)
        for timer in (self._later, self._watcher):
            if timer is not None:
                timer.cancel()
        await asyncio.gather(*(puller.close() for puller in self._pullers.values()))
        for execution in list(self._executions.values()):
            execution.end("lost")
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        for meter in self._meters.values():
            meter.sync()

    async def wait(self) -> None:
        """Return when nothing is held."""
        await self._idle.wait()

    def handles(self, capability: str) -> Handles | None:
        """What executes tasks of a capability here; None: nothing does."""
        return self._handles.get(capability)

    @property
    def leaving(self) -> bool:
        """Whether nothing more is begun: it drains, or is held."""
        return self.draining or self._beating.paused

    def claim(self, handles: Handles, said: work.Submission) -> tuple[work.Claim, bytes]:
        """What the claim of a task says, and that as a body: of its handler what the submission leaves open."""
        bounds = (
            handles.retries if said.retries is None else None,
            handles.timeout_s if said.timeout_s is None else None,
        )
        found = self._claims.get(bounds)
        if found is None:
            claim = work.Claim(self.instance, *bounds)
            found = self._claims[bounds] = claim, self.stating.body(claim)
        return found

    def did_local(self, capability: str, outcome: str, run_s: float) -> None:
        """A local step was executed with the task before it."""
        self.stats.local += 1
        self._meter(capability).ended(outcome, run_s)

    def slots(self, capability: str) -> Slots:
        """Of a capability that is handled here."""
        return self._slots[capability]

    def spare(self, capability: str) -> int:
        """Slots of a capability for which nothing is on its way either."""
        return self._slots[capability].free - self._pullers[capability].asked

    def crowded(self, capability: str) -> bool:
        """Whether nothing more can be taken, so that something may wait for what is held."""
        return self._free(capability) <= 0

    @property
    def held(self) -> int:
        """Tasks that have a slot, or an outcome that is not stored yet."""
        return len(self._executions)

    def seat(self, capability: str) -> State:
        """Whether it waits at the queues of a capability while it is idle, or stands by."""
        return self._pullers[capability].seat

    def load(self) -> dict[str, Any]:
        """What heartbeats say: the fullest capability's share of slots taken, and what is held."""
        running = {capability: slots.used for capability, slots in self._slots.items()}
        shares = [slots.used / slots.capacity for slots in self._slots.values()]
        return {
            "load": round(max(shares, default=0.0), 3),
            "claims": len(self._executions),
            "running": running,
            "memory_mib": round(self.allowance.memory_mib(), 1),
        }

    def rest_s(self) -> float:
        """How rarely it may beat: only who stands by everywhere, and is handed nothing, is waited for by nobody."""
        if self.agent.handoffs:
            return 0.0
        return min((puller.rest_s for puller in self._pullers.values()), default=0.0)

    # --- deliveries ----------------------------------------------------------------------

    def _paused(self) -> None:
        """Whether something may be taken has changed."""
        for puller in self._pullers.values():
            puller.refill()  # takes its waits back where nothing is free

    def _free(self, capability: str) -> int:
        if self._beating.paused:
            return 0  # told to drain, or quarantined: nothing more is taken until that is over
        wait_s = self.allowance.wait_s(len(self._executions))
        if wait_s > 0:
            self._look_later(wait_s)
            return 0
        free = self._slots[capability].free
        quotas = self.agent.quotas
        if quotas.inflight is None and quotas.facts_per_s is None:
            return free
        most = self.allowance.tasks()
        if quotas.inflight is not None:
            most = min(most, quotas.inflight - len(self._executions))
        asked = sum(puller.asked for other, puller in self._pullers.items() if other != capability)
        return min(free, int(most - asked))

    def _look_later(self, wait_s: float) -> None:
        """Pull again when the quotas allow it; where a task must end first, its end does so."""
        if self._later is None and wait_s != float("inf"):
            self._later = asyncio.get_running_loop().call_later(wait_s, self._look_now)

    def _look_now(self) -> None:
        self._later = None
        self._paused()

    def _delivered(self, capability: str, delivery: Delivery) -> None:
        """One delivery, in the read loop."""
        stored_at = datetime.fromtimestamp(delivery.stored_ns / 1e9, UTC)
        fact = decode_message(delivery.subject, delivery.headers, delivery.body, delivery.seq, stored_at)[0]
        if not isinstance(fact, StoredFact):
            return  # a dead letter: nobody can run it
        entity = subjects.entity_prefix(fact.tenant, fact.key, fact.kind, fact.id)
        self._take(capability, delivery.queue, fact, entity, first=_is_first(delivery, entity))

    def _take(
        self, capability: str, queue: str, fact: StoredFact, entity: str, *, first: bool, seen: Task | None = None
    ) -> None:
        """Take a delivery, if there is room.

        `entity`: the prefix of its entity.  `first`: nobody can have claimed it; `seen`: it was read, and is free.
        """
        try:
            said = fact.decode(Delivered) if fact.body else Delivered()
        except errors.WireError:
            self.settle(queue, fact)  # refused by every fold: it is no task
            return
        place = (fact.key, fact.id)
        if place in self._executions:
            self.stats.skipped += 1  # again, while it is held here
            return
        slots = self._slots[capability]
        execution = Execution(self, slots, self._handles[capability], queue, fact, said, entity)
        most = self.agent.quotas.inflight
        full = most is not None and len(self._executions) >= most
        if full or self.draining or self._beating.paused or not slots.take(execution):
            self._start(self._give_back_unclaimed(fact, first=first))
            return
        self._executions[place] = execution
        if most is not None or seen is not None:
            self._paused()  # what the pullers may take is less, and not all of them know why
        if self._watcher is None:
            self._watched_at = clock.monotonic()
            self._watcher = asyncio.get_running_loop().call_later(_WATCH_S, self._watch)
        self.allowance.spend(FACTS_OF_A_TASK)
        if len(self._executions) == 1:  # of more it was said already
            self._idle.clear()
            self._beating.hold(self)
        if seen is not None:
            execution.begin_as(seen)
        elif first and not said.redrive and not said.restated:
            execution.begin()
        else:
            execution.look()

    async def _give_back_unclaimed(self, fact: StoredFact, *, first: bool) -> None:
        """Say that a delivery was not claimed, so that it is delivered to somebody else at once."""
        n = 1
        if not first:
            task, _ = await read(self.conn, self.tenant, fact.key, fact.id)
            if task is None or not task.free or task.submitted_seq != fact.seq:
                return
            n = task.next_claim
        self.give_back(fact, n, "surplus")

    def give_back(self, fact: StoredFact, claim: int, reason: str) -> None:
        """State ``returned.{n}``."""
        self.stats.returned += 1
        said = work.Returned(instance=self.instance, reason=reason)
        data = Fact(kind="task", id=fact.id, key=fact.key, event="returned", detail=(str(claim),), data=said)
        self.stating.send(data)

    def settle(self, queue: str, fact: StoredFact) -> None:
        """Have a delivery acknowledged that is nobody's any more: it would come again for ever."""
        self.stats.skipped += 1
        name = subjects.queue(self.tenant, fact.detail[0], queue)
        which = {"queue": name, "seq": fact.seq, "key": fact.key, "id": fact.id}
        self._start(rpc.call(self.conn, subjects.rpc(self.tenant, "task", "settle"), which, Any, content="json"))

    # --- executions ----------------------------------------------------------------------

    def _verify_soon(self) -> None:
        """After a reconnect, or when this process stood still: some claims may have been given to others."""
        for execution in list(self._executions.values()):
            if execution.started:
                self._start(execution.verify())

    def _watch(self) -> None:
        """Notice that this process stood still for longer than an instance may be silent."""
        now = clock.monotonic()
        stood_still = now - self._watched_at > _WATCH_S + limits.GONE_AFTER * limits.HEARTBEAT_S / 2
        self._watched_at = now
        holds = bool(self._executions)
        self._watcher = asyncio.get_running_loop().call_later(_WATCH_S, self._watch) if holds else None
        holds_long = False
        for execution in self._executions.values():
            holds_long |= execution.started and execution.began_at < now - _LONG_S
            if execution.overruns_at is not None and execution.overruns_at <= now:
                execution.overrun()
        for puller in self._pullers.values():
            puller.hasten(hasty=holds_long)
        for meter in self._meters.values():
            meter.sync()
        if stood_still:
            self._verify_soon()

    def finishing(self, execution: Execution) -> None:
        """Its handler is done: the slot is free."""
        execution.slots.leave(execution)
        self.refill(execution.handles.capability)

    def refill(self, capability: str) -> None:
        """Look what may be pulled now."""
        self._pullers[capability].refill()

    def _meter(self, capability: str) -> CapabilityMeter:
        meter = self._meters.get(capability)
        if meter is None:
            meter = self._meters[capability] = CapabilityMeter(self.coord.metrics, capability)
        return meter

    def began(self, execution: Execution) -> None:
        """Its handler is about to run."""
        self.stats.claimed += 1
        waited_s = clock.unix() - execution.fact.stored_at.timestamp()
        self._meter(execution.handles.capability).began(execution.queue, max(0.0, waited_s))

    def has_run(self, execution: Execution, claim: int) -> bool:
        """Whether a handler was run to its end under that claim: who reads that it is held reads what was."""
        return self._ran.get(execution.place) == claim

    def preempted(self, execution: Execution) -> None:
        """It is held for something critical."""
        self.stats.preempted += 1
        self._meter(execution.handles.capability).preempted()

    def left(self, execution: Execution, *, outcome: str | None = None) -> None:
        """It is over."""
        capability = execution.handles.capability
        if execution.started:
            ended = "returned" if execution.ended_because == "drained" else "dropped"
            self._meter(capability).ended(outcome or ended, clock.monotonic() - execution.began_at)
            self._ran.pop(execution.place, None)
            self._ran[execution.place] = execution.claim
            if len(self._ran) > limits.TASKS_RAN_MAX:
                del self._ran[next(iter(self._ran))]
        execution.attempt = None  # each knows the other: together they would stay until the collector finds them
        if self._executions.get(execution.place) is execution:
            del self._executions[execution.place]
        if outcome in ("completed", "failed", "rejected"):
            setattr(self.stats, outcome, getattr(self.stats, outcome) + 1)
        elif outcome is None:
            self.finishing(execution)
        if self.agent.quotas.inflight is not None:
            self._paused()
        if not self._executions:
            self._idle.set()
            self._beating.release(self)

    # --- what it is told -----------------------------------------------------------------

    def _pushed(self, body: bytes) -> None:
        try:
            told = msgspec.json.decode(body, type=_Told)
        except msgspec.MsgspecError:
            return
        if told.instance is not None and told.instance != self.instance:
            return
        if told.what == "cancel":
            execution = self._executions.get((told.key, told.id))
            if execution is not None and told.claim in (None, execution.claim):
                execution.end("cancelled")
        elif told.what == "placed":
            self._start(self._placed(told))

    async def _placed(self, told: _Told) -> None:
        """The scheduler chose this agent: the submission is read from the log and taken like a delivery."""
        task, facts = await read(self.conn, self.tenant, told.key, told.id)
        if task is None or not task.free:
            return
        for fact in facts:
            if fact.seq != task.submitted_seq:
                continue
            if task.capability in self._slots:
                entity = subjects.entity_prefix(fact.tenant, fact.key, fact.kind, fact.id)
                self._take(task.capability, task.queue, fact, entity, first=False, seen=task)
            else:
                self.give_back(fact, task.next_claim, "capability")

    def _missing(self, capability: str) -> None:
        if capability not in self._opening:
            self._opening.add(capability)
            self._start(self._open_again(capability))

    async def _open_again(self, capability: str) -> None:
        try:
            await self.coord.queues.open(capability, again=True)
        finally:
            await asyncio.sleep(_OPEN_AGAIN_S)
            self._opening.discard(capability)
        self._pullers[capability].refill()

    def _start(self, job: Any) -> None:
        task = asyncio.get_running_loop().create_task(_logged(job), name="worker-job")
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)


class _Told(msgspec.Struct):
    what: str
    key: str = ""
    id: str = ""
    claim: int | None = None
    instance: str | None = None


async def _logged(job: Any) -> None:
    try:
        await job
    except errors.CoordError as exc:
        _log.warning("worker.job_failed", error=exc)


def _is_first(delivery: Delivery, entity: str) -> bool:
    """Whether the broker vouches that this submission is the first fact of its task: nobody has claimed it."""
    if delivery.delivered != 1 or delivery.headers is None:
        return False
    return f"{_FIRST}{entity}.>\r\n".encode() in delivery.headers
