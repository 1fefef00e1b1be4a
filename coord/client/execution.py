"""One delivery on its way through a worker: claimed, run, its outcome stated.

::

    delivery ── first of its submission ──▶ claimed.{n} ── stored ──▶ handler ──▶ outcome
         │                                      │ refused: somebody was first
         └── any other ──▶ read the task ◀──────┘
                              │
                              └──▶ claim the next number, or leave it (`coord.core.claiming`)

The slot is taken when the delivery comes and freed when the outcome is on its way; from then on
the window of `Stating` is the bound.  An outcome that the broker does not take is stated again,
under the same event id, for as long as there is a connection.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from coord import errors, limits
from coord.client import context
from coord.client.event_ids import new_event_id
from coord.client.histories import read
from coord.client.tasks import Delivered, Handles, TaskContext, attempt_of
from coord.client.yielding import Gate, through
from coord.core import claiming
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import work
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.client.slots import Slots
    from coord.client.stating import Statement
    from coord.client.worker import Worker
    from coord.core.tasks import Task

_log = logs.get("worker")

_LOOKS_MAX: Final = 5
"""A task is read so often while what is read turns out to be stale."""

_REFUSALS_MAX: Final = 3

_COARSE_S: Final = 5.0
"""Longer time limits are kept to within half a second; the grace of a claim is two (`limits.TASK_TIMEOUT_GRACE_S`)."""

_AGAIN_S: Final = 0.05
_AGAIN_MOST_S: Final = 5.0

Ended = Literal["cancelled", "lost", "drained"]


class Execution:
    """See the module.  Made for a delivery that has a slot; `begin` or `look` starts it."""

    __slots__ = (
        "_aio_task", "_outcome_sent", "_overran", "_refusals", "_sequel", "began_at", "claim", "ctx", "ended_because",
        "fact", "gate", "handles", "overruns_at", "preemptible", "queue", "said", "seq", "slots", "started", "worker",
    )  # fmt: skip

    def __init__(
        self, worker: Worker, slots: Slots, handles: Handles, queue: str, fact: StoredFact, said: Delivered
    ) -> None:
        self.worker = worker
        self.slots = slots
        self.handles = handles
        self.queue = queue
        self.fact = fact
        self.said = said
        self.seq = fact.seq
        self.claim = 0
        self.started = False
        """Whether its handler runs."""
        self.began_at = 0.0
        self.preemptible = queue == "batch" and (
            said.preemptible if handles.preemptible is None else handles.preemptible
        )
        self.gate = Gate()
        self.ctx: TaskContext | None = None
        self.ended_because: Ended | None = None
        self._aio_task: asyncio.Task[None] | None = None
        self._outcome_sent = False
        self.overruns_at: float | None = None
        """Monotonic; None: a timer of its own sees to it."""
        self._overran = False
        self._refusals = 0
        """Of the claim's number, though the task seems to be free."""
        self._sequel = worker.stating.sequel(fact)

    @property
    def place(self) -> tuple[str, str]:
        """(key, id) of its task."""
        return self.fact.key, self.fact.id

    # --- claiming ------------------------------------------------------------------------

    def begin(self) -> None:
        """Claim a task that nobody can have claimed yet, unseen."""
        self._state_claim(1, attempt=1)

    def begin_as(self, task: Task) -> None:
        """Claim a task that was read just now and was free; when it is not any more, the broker refuses."""
        self._state_claim(task.next_claim, attempt=attempt_of(task))

    def look(self, *, until_known: bool = False) -> None:
        """Read the task first; `until_known`: it may be claimed by this instance, which has to find out."""
        looking = self._look(until_known=until_known)
        self._aio_task = asyncio.get_running_loop().create_task(looking, name=f"task-{self.fact.id}")

    def _state_claim(self, n: int, *, attempt: int) -> None:
        self._refusals = self._refusals if n == self.claim else 0
        self.claim = n
        # A claim that nobody believes (stated too early, by whomever) makes the broker refuse the one that would be
        # believed.  Then it is stated without the condition, and the log says who was first.
        judged = self._refusals >= _REFUSALS_MAX

        def stored(statement: Statement) -> None:
            if statement.error is None and not judged:
                self._start(attempt)
            elif statement.error is None:
                self.look(until_known=True)
            elif isinstance(statement.error, errors.WrongLastSequence):
                self._refusals += 1
                self.look()
            elif isinstance(statement.error, errors.PublishTimeout):
                self.look(until_known=True)  # it may be stored: then it is held until the task's timeout
            else:
                _log.warning("worker.claim_failed", task=self.fact.id, error=statement.error)
                self.worker.left(self)

        self._state("claimed", self.worker.claim, detail=str(n), once=not judged, then=stored)

    def _state(
        self,
        event: str,
        said: Any,
        *,
        detail: str = "",
        event_id: str | None = None,
        once: bool = False,
        then: Callable[[Statement], None],
    ) -> None:
        """State a fact about the task, caused by its submission."""
        stating, fact = self.worker.stating, self.fact
        if self._sequel is not None:
            stating.follow(self._sequel, event, said, detail=detail, event_id=event_id, once=once, then=then)
            return
        unusual = Fact(
            kind="task", id=fact.id, key=fact.key, event=event, detail=(detail,) if detail else (), data=said,
            event_id=event_id, correlation_id=fact.correlation_id or fact.event_id, causation_id=fact.event_id,
            traceparent=fact.traceparent,
        )  # fmt: skip
        stating.send(unusual, once="event" if once else None, then=then)

    async def _look(self, *, until_known: bool) -> None:
        """Read the task, and do what follows; what is read may be stale, then a claim is refused again."""
        worker, task = self.worker, None
        wait_s = _AGAIN_S
        for tried in itertools.count(1):
            try:
                async with worker.looks:
                    task, _ = await read(worker.conn, worker.tenant, *self.place)
                if task is not None or tried >= _LOOKS_MAX:
                    break
            except errors.BusClosed:
                worker.left(self)
                return
            except errors.CoordError as exc:
                if not (exc.retryable and (until_known or tried < _LOOKS_MAX)):
                    # It comes again after ack_wait.
                    _log.warning("worker.look_failed", task=self.fact.id, error=exc)
                    worker.left(self)
                    return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _AGAIN_MOST_S)
        move = claiming.decide(task, agent=worker.name, instance=worker.instance, seq=self.seq)
        if isinstance(move, claiming.Leave):
            if move.settle:
                worker.settle(self.queue, self.fact)
            worker.left(self)
        elif isinstance(move, claiming.Claim):
            if move.n == self.claim:  # refused just now: the reader lags, or see `_state_claim`
                await asyncio.sleep(_AGAIN_S)
            self._aio_task = None
            self._state_claim(move.n, attempt=attempt_of(task))
        else:
            self.claim = move.n
            self._start(attempt_of(task))

    async def verify(self) -> None:
        """End the handler if its claim is not held any more: this process was away, or stood still."""
        task, _ = await read(self.worker.conn, self.worker.tenant, *self.place)
        lost = task is not None and (task.status != "claimed" or task.claims != self.claim)
        if lost and self.started and not self._outcome_sent:
            _log.warning("worker.claim_lost", task=self.fact.id, claim=self.claim)
            self.end("lost")

    # --- running -------------------------------------------------------------------------

    def _start(self, attempt: int) -> None:
        if self.ended_because is not None:
            if self.ended_because == "drained":
                self.worker.give_back(self.fact, self.claim, "drained")
            self.worker.left(self)
            return
        self.started = True
        self.worker.began(self)
        self.began_at = clock.monotonic()
        self.ctx = TaskContext(self.worker.coord, self.fact, self.said, claim=self.claim, attempt=attempt)
        self._aio_task = asyncio.get_running_loop().create_task(self._run(self.ctx), name=f"task-{self.fact.id}")
        if self.preemptible:
            self.worker.refill(self.handles.capability)  # something critical may be taken though no slot is free

    def end(self, because: Ended) -> None:
        """End the handler at its next await; nothing is stated, but that a drained task is returned."""
        if self.ended_because is not None or self._outcome_sent:
            return
        self.ended_because = because
        if self.ctx is not None:
            self.ctx.cancelled.set()
        if self.started and self._aio_task is not None:
            self._aio_task.cancel()

    def overrun(self) -> None:
        """It has run for as long as it may: end the handler at its next await."""
        self.overruns_at = None
        if not self._overran and not self._outcome_sent and self._aio_task is not None:
            self._overran = True
            self._aio_task.cancel()

    async def _run(self, ctx: TaskContext) -> None:
        token = context.follow(self.fact)
        try:
            event, said = await self._outcome(ctx)
        except asyncio.CancelledError:
            if self.ended_because is None:  # the loop is going down, or somebody cancelled us
                self.ended_because = "drained"
            if self.ended_because == "drained":
                self.worker.give_back(self.fact, self.claim, "drained")
            self.worker.left(self)
            return
        except Exception as exc:  # noqa: BLE001 - a defect of ours must not look like a handler that never ends
            _log.error("worker.defect", task=self.fact.id, exc_info=exc)
            event, said = self._failed(ctx, "coord.defect", f"{type(exc).__name__}: {exc}")
        finally:
            context.restore(token)
        if self.ended_because in ("cancelled", "lost"):  # it would not be believed
            self.worker.left(self)
            return
        await self._state_outcome(event, said)

    async def _outcome(self, ctx: TaskContext) -> tuple[str, Any]:
        """Run the handler: the event that says how it ended, and its data."""
        claim, handles = self.claim, self.handles
        try:
            value = await self._input() if handles.takes_input else None
        except errors.CoordError as exc:
            if exc.retryable:
                return self._failed(ctx, exc.code, exc.message)
            return "rejected", work.Rejected(claim=claim, reason=f"the input cannot be read: {exc.message}", run_s=0.0)
        limit_s = self._limit_s(ctx)
        # A timer for each of many short executions would cost more than it brings: the worker looks every half second.
        self.overruns_at = self.began_at + limit_s if limit_s > _COARSE_S else None
        limit = asyncio.timeout(limit_s) if self.overruns_at is None else None
        try:
            if limit is None:
                output = await self._call(ctx, value)
            else:
                async with limit:
                    output = await self._call(ctx, value)
        except errors.Reject as exc:
            return "rejected", work.Rejected(claim=claim, reason=exc.message, run_s=self._run_s())
        except TimeoutError as exc:
            if limit is None or not limit.expired():
                return self._failed(ctx, type(exc).__name__, str(exc))
            return self._failed(ctx, "timeout", "the handler ran longer than it may")
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._overran and self.ended_because is None and current is not None:
                current.uncancel()
                return self._failed(ctx, "timeout", "the handler ran longer than it may")
            if self.ended_because is not None or (current is not None and current.cancelling()):
                raise
            return self._failed(ctx, "CancelledError", "the handler cancelled itself")
        except Exception as exc:  # noqa: BLE001 - whatever a handler raises is an outcome
            _log.info("worker.task_failed", task=self.fact.id, capability=ctx.capability, exc_info=exc)
            return self._failed(ctx, *_described(exc))
        run_s = self._run_s()
        try:
            body = handles.encode(output)
            ref = None
            if len(body) > limits.TASK_INLINE_BYTES:
                ref, body = await self.worker.payloads.put(body), b"null"
        except errors.PayloadTooLarge as exc:
            return self._failed(ctx, "result.too_large", str(exc), final=True)
        except errors.WireError as exc:
            return self._failed(ctx, "result.type", exc.message, final=True)
        except errors.CoordError as exc:
            return self._failed(ctx, exc.code, exc.message)
        return "completed", work.Completed(claim=claim, output=msgspec.Raw(body), ref=ref, run_s=run_s)

    async def _input(self) -> Any:
        if self.said.ref is not None:
            return self.handles.decode(await self.worker.payloads.get(self.said.ref), self.said.ref.content)
        return self.handles.decode(bytes(self.said.input), self.fact.content)

    async def _call(self, ctx: TaskContext, value: Any) -> Any:
        handles = self.handles
        arguments = (value,) if handles.takes_input else ()
        named = {handles.context_name: ctx} if handles.context_name is not None else {}
        handler = handles.call(*arguments, **named)
        return await (through(self.gate, handler) if self.preemptible else handler)  # type: ignore[arg-type]

    def _limit_s(self, ctx: TaskContext) -> float:
        limit_s = self.said.timeout_s
        if self.handles.timeout_s is not None:
            limit_s = min(limit_s, self.handles.timeout_s)
        now = clock.unix()
        if self.said.deadline is not None:
            limit_s = min(limit_s, max(0.0, self.said.deadline - now))
        ctx.bound(now + limit_s)
        return limit_s

    def _run_s(self) -> float:
        return round(clock.monotonic() - self.began_at, 6)

    def _failed(self, ctx: TaskContext, error: str, message: str, *, final: bool = False) -> tuple[str, work.Failed]:
        retries = self.handles.retries
        final = final or (retries is not None and ctx.attempt > retries)
        said = work.Failed(
            claim=self.claim, error=error[:256], message=message[:4096], run_s=self._run_s(), final=final
        )
        return "failed", said

    # --- the outcome ---------------------------------------------------------------------

    async def _state_outcome(self, event: str, said: Any) -> None:
        assert self.ctx is not None
        self._outcome_sent = True
        if self.ctx.has_spoken:
            await self.ctx.settled()
        self.worker.finishing(self)
        if self.worker.stating.is_full:
            await self._state_outcome_later(event, said, new_event_id(), 0.0)
        else:
            self._send_outcome(event, said, new_event_id(), _AGAIN_S)

    def _send_outcome(self, event: str, said: Any, event_id: str, wait_s: float) -> None:
        """State the outcome; when it may not be stored, state it again after `wait_s`, in a task of its own."""

        def stored(statement: Statement) -> None:
            if statement.error is None:
                self.worker.left(self, outcome=event)
            else:
                failed(statement.error)

        def failed(error: errors.CoordError) -> None:
            if not error.retryable:
                _log.error("worker.outcome_refused", task=self.fact.id, outcome=event, error=error)
                self.worker.left(self, outcome=event)
                return
            _log.warning("worker.outcome_not_stored", task=self.fact.id, outcome=event, error=error)
            again = self._state_outcome_later(event, said, event_id, wait_s)
            self._aio_task = asyncio.get_running_loop().create_task(again, name=f"task-{self.fact.id}")

        try:
            self._state(event, said, event_id=event_id, then=stored)
        except errors.CoordError as exc:
            failed(exc)

    async def _state_outcome_later(self, event: str, said: Any, event_id: str, wait_s: float) -> None:
        """State it when there is room, however long that takes."""
        await asyncio.sleep(wait_s)
        while True:
            try:
                await self.worker.stating.room()
                break
            except errors.Overloaded as exc:
                _log.warning("worker.outcome_not_stored", task=self.fact.id, outcome=event, error=exc)
        self._send_outcome(event, said, event_id, min(2 * max(wait_s, _AGAIN_S), _AGAIN_MOST_S))


def _described(exc: Exception) -> tuple[str, str]:
    if isinstance(exc, errors.CoordError):
        return exc.code, str(exc)
    return type(exc).__name__, str(exc)
