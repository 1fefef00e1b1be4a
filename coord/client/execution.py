"""One delivery on its way through a worker: claimed, run, its outcome stated.

::

    delivery ── first of its submission ──▶ claimed.{n} ── stored ──▶ handler ──▶ outcome
         │                                      │ refused: somebody was first, or it was cancelled
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
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from coord import errors
from coord.client import context
from coord.client.attempts import Attempt
from coord.client.event_ids import new_event_id
from coord.client.histories import read
from coord.client.tasks import Delivered, Handles, TaskContext, attempt_of
from coord.client.yielding import Gate, within
from coord.core import claiming
from coord.core.flow_local import Line, Moment, begins
from coord.core.tasks import failed_before
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import work
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.client.payloads import Payloads
    from coord.client.slots import Slots
    from coord.client.stating import Statement
    from coord.client.worker import Worker
    from coord.core.tasks import Task

_log = logs.get("worker")

_LOOKS_MAX: Final = 5
"""A task is read so often while what is read turns out to be stale."""

_REFUSALS_MAX: Final = 3

_AGAIN_S: Final = 0.05
_AGAIN_MOST_S: Final = 5.0

Ended = Literal["cancelled", "lost", "drained"]

_OPEN: Final = Gate()
"""Of all that may not be held: nobody closes it."""


class Execution:
    """See the module.  Made for a delivery that has a slot; `begin` or `look` starts it."""

    __slots__ = (
        "_aio_task", "_in_hand", "_outcome_sent", "_refusals", "_sequel", "attempt", "began_at", "claim", "ctx",
        "ended_because", "fact", "gate", "handles", "preemptible", "queue", "said", "seq", "slots", "started", "worker",
    )  # fmt: skip

    def __init__(
        self,
        worker: Worker,
        slots: Slots,
        handles: Handles,
        queue: str,
        fact: StoredFact,
        said: Delivered,
        entity: str,
    ) -> None:
        """`entity`: `subjects.entity_prefix` of the fact."""
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
        self.preemptible = queue == "batch" and handles.may_be_held(said)
        self.gate = Gate() if self.preemptible else _OPEN
        self.ctx: TaskContext | None = None
        self.ended_because: Ended | None = None
        self._aio_task: asyncio.Task[None] | None = None
        self._in_hand = False
        """What runs it has come to its first line: cancelled before that, it would end without a word."""
        self._outcome_sent = False
        self.attempt: Attempt | None = None
        """Of the handler that runs, or ran last."""
        self._refusals = 0
        """Of the claim's number, though the task seems to be free."""
        self._sequel = worker.stating.sequel(fact, entity)

    @property
    def place(self) -> tuple[str, str]:
        """(key, id) of its task."""
        return self.fact.key, self.fact.id

    # --- claiming ------------------------------------------------------------------------

    def begin(self) -> None:
        """Claim, unseen, a task of which there was its submission only: where that is so no more, it is looked at."""
        self._state_claim(1, attempt=1 + failed_before(self.fact, self.said), unseen=True)

    def begin_as(self, task: Task) -> None:
        """Claim a task that was read just now and was free; when it is not any more, the broker refuses."""
        self._state_claim(task.next_claim, attempt=attempt_of(task))

    def look(self, *, until_known: bool = False) -> None:
        """Read the task first; `until_known`: it may be claimed by this instance, which has to find out."""
        looking = self._look(until_known=until_known)
        self._aio_task = asyncio.get_running_loop().create_task(looking, name=f"task-{self.fact.id}")

    def _state_claim(self, n: int, *, attempt: int, unseen: bool = False) -> None:
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
                self._refusals += not unseen  # then anything may have been stated, not only a claim
                self.look()
            elif isinstance(statement.error, errors.PublishTimeout):
                self.look(until_known=True)  # it may be stored: then it is held until the task's timeout
            else:
                _log.warning("worker.claim_failed", task=self.fact.id, error=statement.error)
                self.worker.left(self)

        claim, body = self.worker.claim(self.handles, self.said)
        last = self.seq if unseen else None
        self._state("claimed", claim, detail=str(n), once=not judged, last=last, then=stored, body=body)

    def _state(
        self,
        event: str,
        said: Any,
        *,
        detail: str = "",
        event_id: str | None = None,
        once: bool = False,
        last: int | None = None,
        then: Callable[[Statement], None],
        body: bytes | None = None,
    ) -> None:
        """State a fact about the task, caused by its submission; `last`: only if that is its newest fact."""
        stating, fact = self.worker.stating, self.fact
        if self._sequel is not None:
            stating.follow(
                self._sequel, event, said, detail=detail, event_id=event_id, once=once, last=last, then=then, body=body
            )
            return
        unusual = Fact(
            kind="task", id=fact.id, key=fact.key, event=event, detail=(detail,) if detail else (), data=said,
            event_id=event_id, correlation_id=fact.correlation_id or fact.event_id, causation_id=fact.event_id,
            traceparent=fact.traceparent,
        )  # fmt: skip
        stating.send(unusual, once="event" if once and last is None else None, then=then, last=last)

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
            except Exception as exc:  # noqa: BLE001 - a defect of ours must not keep its slot for ever
                _log.error("worker.defect", task=self.fact.id, exc_info=exc)
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
        elif worker.has_run(self, move.n):
            worker.left(self)  # it comes again after ack_wait, when the reader has caught up
        else:
            self.claim = move.n
            self._start(attempt_of(task), held=True)

    async def verify(self) -> None:
        """End the handler if its claim is not held any more: this process was away, or stood still."""
        task, wait_s = None, _AGAIN_S
        while self.started and not (self._outcome_sent or self.is_ending):
            try:
                async with self.worker.looks:
                    task, _ = await read(self.worker.conn, self.worker.tenant, *self.place)
                break
            except errors.CoordError as exc:
                if not exc.retryable:
                    raise
            await asyncio.sleep(wait_s)  # the service may be back later than the broker
            wait_s = min(2 * wait_s, _AGAIN_MOST_S)
        lost = task is not None and (task.status != "claimed" or task.claims != self.claim)
        if lost and self.started and not self._outcome_sent:
            _log.warning("worker.claim_lost", task=self.fact.id, claim=self.claim)
            self.end("lost")

    # --- running -------------------------------------------------------------------------

    def _start(self, attempt: int, *, held: bool = False) -> None:
        if self.ended_because is not None:
            self._leave_unbegun()
            return
        self.started = True
        self.worker.began(self)
        self.ctx = TaskContext(
            self.worker.coord, self.fact, self.said, claim=self.claim, attempt=attempt, sequel=self._sequel, held=held
        )
        running = self.attempt = Attempt(self, self.handles, self.said, self.ctx, self.fact.content)
        self.began_at = running.began_at
        self._aio_task = self.worker.loop.create_task(self._run(running), name=f"task-{self.fact.id}")
        if self.preemptible:
            self.worker.refill(self.handles.capability)  # something critical may be taken though no slot is free

    def _leave_unbegun(self) -> None:
        if self.ended_because == "drained":
            self.worker.give_back(self.fact, self.claim, "drained")
        self.worker.left(self)

    def end(self, because: Ended) -> None:
        """End the handler at its next await; nothing is stated, but that a drained task is returned."""
        if self.ended_because is not None or self._outcome_sent:
            return
        self.ended_because = because
        if self.ctx is not None:
            self.ctx.cancelled.set()
        if self._in_hand and self._aio_task is not None:
            self._aio_task.cancel()

    def overrun(self) -> None:
        """It has run for as long as it may: end the handler at its next await."""
        assert self.attempt is not None, "only one that runs overruns"
        if self.attempt.overrun() and not self._outcome_sent and self._aio_task is not None:
            self._aio_task.cancel()

    @property
    def overruns_at(self) -> float | None:
        """When `overrun` is to be called, monotonic; None: a timer sees to it, or nothing runs."""
        return None if self.attempt is None else self.attempt.overruns_at

    @property
    def is_ending(self) -> bool:
        """Whether it is being ended from outside."""
        return self.ended_because is not None

    @property
    def payloads(self) -> Payloads:
        """Where large inputs and outputs are."""
        return self.worker.payloads

    async def _run(self, running: Attempt) -> None:
        self._in_hand = True
        if self.is_ending:  # since its claim was stored, in the same turn of the loop
            self._leave_unbegun()
            return
        token = context.follow(self.fact)
        plain = copy_context() if self.said.then else None
        try:
            event, said = await running.outcome()
            if plain is not None and isinstance(said, work.Completed):
                said = await self._go_on(said, plain)
        except asyncio.CancelledError:
            if self.ended_because == "drained":
                await self._settle()
            elif self.ended_because is None:  # the loop is going down, or somebody cancelled us
                self.ended_because = "drained"
            if self.ended_because == "drained":
                self.worker.give_back(self.fact, self.claim, "drained")
            self.worker.left(self)
            return
        except Exception as exc:  # noqa: BLE001 - a defect of ours must not look like a handler that never ends
            _log.error("worker.defect", task=self.fact.id, exc_info=exc)
            event, said = running.failed("coord.defect", f"{type(exc).__name__}: {exc}")
        finally:
            if self.ctx is not None:
                self.ctx.over()
            context.restore(token)
        if self.ended_because in ("cancelled", "lost"):  # it would not be believed
            self.worker.left(self)
            return
        await self._state_outcome(event, said)

    async def _go_on(self, first: work.Completed, plain: Context) -> work.Completed:
        """Do the local steps that were offered with the task, as far as that goes: the outcome of all of them.

        `plain`: context variables as no handler has changed them.  Whatever breaks it off, what was done is told.
        """
        done: list[work.LocalOutcome] = []
        try:
            if self.ctx is not None:
                self.ctx.over()  # it is another one's by the time that all of them are done
                if self.ctx.has_spoken:
                    await self.ctx.settled()
            await self._line(first, plain, done)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.ended_because != "drained" or current is None:
                raise
            current.uncancel()
        except Exception as exc:  # noqa: BLE001 - our defect, or an offer that makes no sense: the decider goes on
            _log.error("worker.local_step_unclear", task=self.fact.id, done=len(done), exc_info=exc)
        return msgspec.structs.replace(first, then=done) if done else first

    async def _line(self, first: work.Completed, plain: Context, done: list[work.LocalOutcome]) -> None:
        if first.ref is not None or self.said.redrive or not self.fact.agent.startswith("_"):
            return  # no decider's offer, or a workflow that is over
        line = Line(self.fact.id, bytes(first.output))
        for local in self.said.then:
            handles = self.worker.handles(local.task)
            at = self._moment(handles, local)
            given = begins(line, local, at)
            if given is None or handles is None:
                return
            slots = self.worker.slots(local.task)
            if slots is not self.slots:
                slots.take(self)
                self.worker.refill(local.task)  # what waits for the slot is taken back, if it was the last
            try:
                ended = await self._local(local, handles, given, plain.copy())
            finally:
                if slots is not self.slots:
                    slots.leave(self)
                    self.worker.refill(local.task)
            outcome = msgspec.structs.replace(ended, after_s=round(at.after_s, 6))
            done.append(outcome)
            line.ended(outcome, bytes(outcome.output) if outcome.error is None else b"null")

    def _moment(self, handles: Handles | None, local: work.LocalStep) -> Moment:
        """What decides whether a local step that `handles` would do is begun."""
        worker = self.worker
        slot = yields = handles is not None
        able = handles is not None and handles.fits(local)
        crowded = worker.crowded(self.handles.capability)
        if handles is not None and handles.capability != self.handles.capability:
            spare = worker.spare(handles.capability)
            slot, crowded = spare > 0, crowded or spare <= 1
        if handles is not None and self.preemptible:
            yields = handles.preemptible is not False
        return Moment(
            claim=self.claim, after_s=clock.monotonic() - self.began_at, able=able,
            leaving=worker.leaving or self.is_ending or self.gate.closed, slot=slot,
            crowded=crowded and self.said.priority != "critical", yields=yields,
        )  # fmt: skip

    async def _local(
        self, local: work.LocalStep, handles: Handles, given: bytes, variables: Context
    ) -> work.LocalOutcome:
        """Execute one local step."""
        head = self.said
        said = Delivered(
            input=msgspec.Raw(given), timeout_s=local.timeout_s, retries=local.retries, priority=head.priority,
            labels=local.labels,
        )  # fmt: skip
        self.ctx = TaskContext(self.worker.coord, self.fact, said, claim=self.claim, attempt=1, local=local)
        attempt = self.attempt = Attempt(self, handles, said, self.ctx)
        event, ended = await within(variables, attempt.outcome())
        self.worker.did_local(handles.capability, event, attempt.run_s())
        match ended:
            case work.Completed():
                return work.LocalOutcome(step=local.step, output=ended.output, ref=ended.ref, run_s=ended.run_s)
            case work.Rejected():
                return work.LocalOutcome(
                    step=local.step, error="rejected", message=ended.reason, final=True, run_s=ended.run_s
                )
            case _:
                return work.LocalOutcome(
                    step=local.step, error=ended.error, message=ended.message, final=ended.final, run_s=ended.run_s
                )

    # --- the outcome ---------------------------------------------------------------------

    async def _settle(self) -> None:
        """Have what the handler said stored before what ends its claim; nothing breaks that off any more."""
        assert self.ctx is not None
        self._outcome_sent = True
        if self.ctx.has_spoken:
            self.ctx.over()
            await self.ctx.settled()

    async def _state_outcome(self, event: str, said: Any) -> None:
        await self._settle()
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
