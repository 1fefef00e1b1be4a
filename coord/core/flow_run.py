"""How a workflow goes on: what follows for its steps from what has just happened.

A `Run` is made for one fact; it changes the flow and gathers what is to be stated.  Everything in
it is a function of the flow and that fact, so whoever folds the same facts states the same.

Stopping.  A step that fails (and is not optional), or a cancellation, stops a workflow: nothing new
begins, waits end, tasks and sub-workflows are cancelled.  A task that can be undone and is being
executed is not broken off: half a step cannot be undone, so its end is waited for.  When nothing
is open any more, what was completed is undone, newest first, one after another.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from coord import errors, limits
from coord.core import flow_inherited, flow_local, rules
from coord.core.deciding import Effect, State
from coord.core.flow_definition import UNDO, Plan, Planned, task_id
from coord.core.flow_state import NULL, OVER, STATED, TAKEN, Flow, Inlined, Live, StepState, reference_in
from coord.core.retry import backoff_of
from coord.core.tasks import Task
from coord.wire import flow as said
from coord.wire import ids
from coord.wire.latch import Awaited, Ending, Resumed
from coord.wire.work import PLACED, Ended, LocalOutcome, Reference, Submission

AGENT: Final = "_workflow"

TOO_LARGE: Final = rules.TOO_LARGE
NOT_A_LIST: Final = "workflow.not_a_list"
TAKEN_CODE: Final = "workflow.task_taken"
DECLINED: Final = "workflow.declined"
TIMEOUT: Final = "workflow.timeout"


def begin(plan: Plan, flow: Flow, rerun: said.Rerun | None = None) -> None:
    """Give a flow that has just started its steps, some of them as another workflow left them."""
    flow.steps = [StepState(missing=len(planned.needs)) for planned in plan.steps]
    flow.left = len(plan.steps)
    if rerun is not None:
        flow_inherited.inherit(plan, flow, rerun)


class Run:
    """What one fact leads to."""

    def __init__(self, live: Live, at: float) -> None:
        """`at`: the broker's time of the fact, Unix seconds."""
        self.live = live
        self.flow = live.flow
        self.plan = live.plan
        self.effects: list[Effect] = []
        self.due: list[tuple[float, int]] = []
        """(when, step) of waits that have begun."""
        self.submitted: list[str] = []
        """Tasks and sub-workflows that the log should soon have."""
        self.at = at
        self.done: dict[str, LocalOutcome] = {}
        """Local steps that were executed before they began here."""
        self._ready: deque[Planned] = deque()

    # --- forward --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the steps that wait for none."""
        steps = self.flow.steps
        for planned in self.plan.steps:
            if not steps[planned.index].missing and not steps[planned.index].inherited:
                self._ready.append(planned)
        self.go_on()

    def go_on(self) -> None:
        """Begin what has become ready, and settle what must not."""
        self._forward()
        self.settle()

    def _forward(self) -> None:
        while self._ready and self.flow.phase == "running":
            self._begin(self._ready.popleft())
        self._ready.clear()
        if self.flow.phase == "running" and not self.flow.left:
            self._complete()

    def _begin(self, planned: Planned) -> None:
        state = self.flow.steps[planned.index]
        if planned.needs and all(self.flow.steps[need].status == "skipped" for need in planned.needs):
            self._end_step(planned, "skipped")
            return
        try:
            if not self.live.holds(planned):
                self._end_step(planned, "skipped")
                return
            members = self.live.fan(planned) if planned.fanned else None
        except errors.PayloadTooLarge as exc:
            self._fail_step(planned, TOO_LARGE, exc.message)
            return
        count = 1
        if planned.fanned:
            if not isinstance(members, list) or len(members) > limits.FLOW_ITEMS_MAX:
                kind = f"{len(members)} members" if isinstance(members, list) else type(members).__name__
                self._fail_step(
                    planned, NOT_A_LIST, f"for_each takes a list of at most {limits.FLOW_ITEMS_MAX}: {kind}"
                )
                return
            count = len(members)
        state.status = "running"
        state.parts = bytearray(count)
        if planned.fanned:
            state.outputs = [NULL] * count
            if not count:
                self._end_step(planned, "completed", b"[]")
                return
        for name in self.flow.taken:
            part = self.plan.part_of(name)
            if part is not None and part[0] is planned and part[1] < count:
                state.parts[part[1]] = TAKEN
        self._fill(planned, state)

    def _fill(self, planned: Planned, state: StepState) -> None:
        """Begin as many parts as may run at once."""
        most = planned.step.max_parallelism if planned.fanned else 1
        while (
            self.flow.phase == "running"
            and state.status == "running"
            and state.begun < len(state.parts)
            and state.begun - state.over < most
        ):
            item = state.begun
            state.begun += 1
            if state.parts[item] == TAKEN:
                why = "somebody else has submitted a task of this id"
                self._end_part(planned, item, error=TAKEN_CODE, message=why, fills=False)
                continue
            try:
                self._begin_part(planned, state, item)
            except errors.PayloadTooLarge as exc:
                self._end_part(planned, item, error=TOO_LARGE, message=exc.message, fills=False)

    def _begin_part(self, planned: Planned, state: StepState, item: int) -> None:
        kind, step = planned.kind, planned.step
        if kind == "signal":
            assert step.signal is not None
            raised = self.flow.signals.get(step.signal)
            if raised is None:
                self._await(planned, state)
            else:
                self.signalled(planned, raised)
            return
        if kind == "sleep":
            assert step.sleep_s is not None
            self._open(state, item)
            self._set_timer(planned, state, step.sleep_s)
            return
        if self.done and planned.after is not None and self.flow.steps[planned.after].status == "completed":
            outcome = self.done.pop(step.name, None)
            if outcome is not None:
                self._done_already(planned, state, outcome)
                return
        given = _bounded(self.live.input_of(planned, item))
        if kind == "decide" and reference_in(given) is not None:
            raise errors.PayloadTooLarge("what is to be decided about travels by reference: name what its rules need")
        child = _child_of(planned, given) if kind == "workflow" else b""
        self._open(state, item)
        if kind == "task":
            self._submit(planned, item, given)
        elif kind == "workflow":
            self._start_child(planned, item, given, child)
            if step.timeout_s is not None and state.due is None:
                self._set_timer(planned, state, step.timeout_s)
        else:
            self._decide(planned, given)

    def _done_already(self, planned: Planned, state: StepState, outcome: LocalOutcome) -> None:
        """A local step was executed by whoever did the one before."""
        if outcome.error is None:
            self._end_part(planned, 0, output=output_of(outcome.output, outcome.ref))
            return
        step = planned.step
        if outcome.final or step.retries == 0:
            self._end_part(planned, 0, error=outcome.error, message=outcome.message)
            return
        # As a task waits for its next execution; what it becomes then is a task.
        state.failures = 1
        self._open(state, 0)
        jitter = int.from_bytes(hashlib.blake2b(f"{self.flow.life.id}/{step.name}".encode(), digest_size=4).digest())
        self._set_timer(
            planned, state, backoff_of(1, jitter / 2**32, first_s=step.backoff_s, most_s=step.backoff_max_s)
        )

    def _open(self, state: StepState, item: int) -> None:
        state.parts[item] = STATED
        self.flow.open += 1

    def _await(self, planned: Planned, state: StepState) -> None:
        """Wait for a signal, and say so: who waits for what is asked of those facts."""
        step = planned.step
        self._open(state, 0)
        if step.timeout_s is not None:
            self._set_timer(planned, state, step.timeout_s)
        self._state(
            "awaited", Awaited(deadline=state.due), f"{step.name}/awaited", kind="signal", id=step.signal,
            detail=(step.name,), once=None,
        )  # fmt: skip

    def _resume(self, planned: Planned, reason: Ending) -> None:
        """Wait no more for a signal that was not raised."""
        step = planned.step
        self._state(
            "resumed", Resumed(reason), f"{step.name}/resumed", kind="signal", id=step.signal, detail=(step.name,),
        )  # fmt: skip

    # --- the end of parts and steps ---------------------------------------------------------

    def part_ended(
        self, planned: Planned, item: int, *, output: bytes = NULL, error: str | None = None,
        message: str | None = None, undoable: bool = False, then: Sequence[LocalOutcome] = (),
    ) -> None:  # fmt: skip
        """A part that was open has ended; `undoable`: it had begun, whatever became of it.

        `then`: what has become of the local steps that its agent went on with.
        """
        self.flow.open -= 1
        if then:
            self.done = {outcome.step: outcome for outcome in then}
        self._end_part(planned, item, output=output, error=error, message=message, undoable=undoable)
        self.go_on()

    def _end_part(
        self, planned: Planned, item: int, *, output: bytes = NULL, error: str | None = None,
        message: str | None = None, undoable: bool = False, fills: bool = True,
    ) -> None:  # fmt: skip
        """`fills`: its place is free for the next part; not where whoever calls goes on to that himself."""
        state = self.flow.steps[planned.index]
        state.parts[item] = OVER
        state.over += 1
        if planned.fanned:
            state.outputs[item] = output
        if planned.step.undo is not None and (error is None or undoable):
            if not planned.fanned:
                state.output = output
            self.flow.done.append((planned.index, item))
        if self.flow.phase != "running":
            return
        if error is not None and not (planned.step.optional and planned.fanned):
            self._fail_step(planned, error, message or "")
        elif state.over == len(state.parts):
            self._end_step(planned, "completed", _together(state) if planned.fanned else output)
        elif planned.fanned and fills:
            self._fill(planned, state)

    def _fail_step(self, planned: Planned, error: str, message: str) -> None:
        state = self.flow.steps[planned.index]
        state.error, state.message = error[:200], message[:2_000]
        if planned.step.optional:
            self._end_step(planned, "failed")
            return
        state.status = "failed"
        self.flow.left -= 1
        self._clear_timer(planned, state)
        self.stop(error, message, planned.step.name)

    def _end_step(self, planned: Planned, status: Any, output: bytes | None = None) -> None:
        state = self.flow.steps[planned.index]
        if output is not None and len(output) > limits.FLOW_BYTES_MAX:
            self._fail_step(planned, TOO_LARGE, f"its output has more than {limits.FLOW_BYTES_MAX} bytes")
            return
        state.status, state.output = status, output
        state.outputs = [] if planned.step.undo is None else state.outputs
        self._clear_timer(planned, state)
        self.flow.left -= 1
        for index in planned.dependents:
            other = self.flow.steps[index]
            other.missing -= 1
            if not other.missing:
                self._ready.append(self.plan.steps[index])

    def signalled(self, planned: Planned, raised: bytes) -> None:
        """The signal that a step waits for is there; an approval must say that it is one."""
        state = self.flow.steps[planned.index]
        if state.parts[0] == STATED:
            self.flow.open -= 1
        if planned.step.approval and not _approved(raised):
            self._end_part(planned, 0, error=DECLINED, message="it was not approved: " + raised.decode()[:500])
        else:
            self._end_part(planned, 0, output=raised)

    def decided(self, planned: Planned, decided: said.Decided) -> None:
        """A decision table has answered."""
        if decided.error is not None:
            self.part_ended(planned, 0, error=decided.error, message=decided.message)
        else:
            self.part_ended(planned, 0, output=bytes(decided.output))

    def joined(self, planned: Planned, item: int, joined: said.Joined) -> None:
        """A sub-workflow has ended."""
        if joined.status == "completed":
            self.part_ended(planned, item, output=bytes(joined.output))
            return
        state = self.flow.steps[planned.index]
        if state.error == TIMEOUT:
            self.part_ended(planned, item, error=TIMEOUT, message="it took too long")
        else:
            self.part_ended(planned, item, error=joined.error or joined.status, message=joined.message)

    def timed(self, planned: Planned) -> None:
        """The time of a step has come: it has slept, or it has taken too long."""
        state = self.flow.steps[planned.index]
        state.due = None
        if planned.kind == "sleep":
            self.part_ended(planned, 0)
            return
        if planned.kind == "task":
            try:
                self._submit(planned, 0, _bounded(self.live.input_of(planned, 0)))
            except errors.PayloadTooLarge as exc:
                self.part_ended(planned, 0, error=TOO_LARGE, message=exc.message)
            return
        state.error, state.message = TIMEOUT, "it took too long"
        if planned.kind == "signal":
            self._resume(planned, "timeout")
            self.part_ended(planned, 0, error=TIMEOUT, message="nobody raised it in time")
            return
        self.cancel_parts(planned)  # each ends as cancelled

    # --- the end of the workflow --------------------------------------------------------------

    def _complete(self) -> None:
        try:
            output = _bounded(self.live.output())
        except errors.PayloadTooLarge as exc:
            self.stop(TOO_LARGE, exc.message, None)
            return
        self.flow.phase, self.flow.succeeds = "ending", True
        self._state("completed", said.Completed(output=msgspec.Raw(output)), "completed")

    def stop(self, error: str, message: str, step: str | None) -> None:
        """Begin nothing more and end what is open; what was completed is undone then."""
        flow = self.flow
        if flow.phase in ("stopping", "undoing"):
            return
        if flow.error is None:
            flow.error, flow.message, flow.step = error[:200], message[:2_000], step
        flow.phase, flow.succeeds = "stopping", False
        for planned in self.plan.steps:
            state = flow.steps[planned.index]
            if state.status == "waiting":
                continue
            if STATED not in state.parts:
                continue
            if planned.kind in ("task", "workflow") and not backs_off(planned, state):
                self.cancel_parts(planned)
            else:
                state.parts[0] = OVER
                flow.open -= 1
                if planned.kind == "signal":
                    self._resume(planned, "cancelled")
            self._clear_timer(planned, state)

    def cancel_parts(self, planned: Planned) -> None:
        """Cancel the tasks or sub-workflows of a step that are open, but for those to be waited for."""
        parts = self.flow.steps[planned.index].parts
        item = parts.find(STATED)
        while item >= 0:
            self.cancel_part(planned, item)
            item = parts.find(STATED, item + 1)

    def cancel_part(self, planned: Planned, item: int) -> None:
        """Cancel one part, unless it is being executed and can be undone."""
        name = task_id(planned, item)
        reason = self.flow.message or "its workflow stops"
        if planned.kind == "workflow":
            child = child_id(self.flow.life.tenant, self.flow.life.id, self.plan, name)
            # Under the child's key: not to be taken for what the child says of a task that is called like this step.
            self._state("cancelled", said.Cancelled(reason=reason), f"child/{name}/cancelled", key=child, id=child)
            return
        task = self.flow.tasks.get(name)
        if task is not None and task.status == "claimed" and planned.step.undo is not None:
            return
        # What was said before the task was submitted, or while it was executed, did not count: another statement.
        attempt = 0 if task is None else 1 + task.claims
        self._state("cancelled", Ended(reason=reason), f"{name}/cancelled", kind="task", id=name, attempt=attempt)

    def settle(self) -> None:
        """Go on with stopping or undoing once nothing is open."""
        flow = self.flow
        if flow.open or flow.undoing is not None:
            return
        if flow.phase == "stopping":
            flow.phase = "undoing"
            if flow.done:
                undo = [task_id(self.plan.steps[index], item) for index, item in reversed(flow.done)]
                told = said.Compensating(
                    error=flow.error or "", message=flow.message, step=flow.step, **_named(undo=undo)
                )
                self._state("compensating", told, "compensating")
        if flow.phase == "undoing":
            self._undo()

    def _undo(self) -> None:
        """The next compensation, or the end."""
        flow = self.flow
        while flow.done:
            part = flow.done.pop()
            name = task_id(self.plan.steps[part[0]], part[1])
            if UNDO + name in flow.taken:
                flow.not_undone.append(name)
                continue
            try:
                self._submit_undo(*part)
            except errors.PayloadTooLarge:
                flow.not_undone.append(name)
                continue
            flow.undoing, flow.undoing_part = name, part
            return
        self._end()

    def _submit_undo(self, index: int, item: int, *, again: bool = False) -> None:
        planned, state = self.plan.steps[index], self.flow.steps[index]
        step, undo = planned.step, planned.step.undo
        assert undo is not None, "only such parts are remembered"
        output = (state.outputs[item] if planned.fanned else state.output) or NULL
        if undo.input is None:
            given = self.live.input_of(planned, item)
            raw = msgspec.json.encode({"input": msgspec.Raw(given), "output": msgspec.Raw(output)})
        else:
            raw = self.live.input_of(planned, item, undo.input, output)
        told = Submission(
            input=msgspec.Raw(_bounded(raw)),
            retries=undo.retries,
            timeout_s=undo.timeout_s,
            backoff_s=step.backoff_s,
            backoff_max_s=step.backoff_max_s,
            priority=step.priority,
            labels=step.labels,
        )
        self._task(
            UNDO + task_id(planned, item), f"{step.name}/undo", told, undo.task, step.priority, item, again=again
        )

    def _end(self) -> None:
        flow = self.flow
        flow.phase = "ending"
        if flow.life.status != "cancelled":
            told = said.Failed(
                error=flow.error or "", message=flow.message, step=flow.step,
                **_named(not_undone=flow.not_undone, undone=flow.undone),
            )  # fmt: skip
            self._state("failed", told, "failed")
        elif flow.undone or flow.not_undone:
            done = said.Compensated(**_named(not_undone=flow.not_undone, undone=flow.undone))
            self._state("compensated", done, "compensated")

    def undone(self, *, well: bool) -> None:
        """The compensation that ran has ended."""
        flow = self.flow
        name, flow.undoing, flow.undoing_part = flow.undoing, None, None
        assert name is not None, "it was stated"
        (flow.undone if well else flow.not_undone).append(name)
        self.settle()

    # --- statements -----------------------------------------------------------------------

    def _submit(self, planned: Planned, item: int, given: bytes, *, again: bool = False) -> None:
        step = planned.step
        assert step.task is not None
        ref = reference_in(given)
        told = Submission(
            input=None if ref is not None else msgspec.Raw(given),
            ref=ref,
            retries=step.retries,
            failures=self.flow.steps[planned.index].failures,
            backoff_s=step.backoff_s,
            backoff_max_s=step.backoff_max_s,
            timeout_s=step.timeout_s,
            deadline=None if step.deadline_s is None else self.at + step.deadline_s,
            priority=step.priority,
            placement=step.placement,
            labels=step.labels,
            preemptible=step.preemptible,
            then=flow_local.offered(planned, self.live),
        )
        queue = step.priority if step.placement is None else PLACED
        self._task(task_id(planned, item), f"{step.name}/submitted", told, step.task, queue, item, again=again)

    def _task(
        self, name: str, step: str, told: Submission, capability: str, queue: str, item: int, *, again: bool
    ) -> None:
        """Submit a task: as the first fact of it, which spares its worker a look; `again`: on no condition."""
        self._state(
            "submitted", told, step, kind="task", id=name, ordinal=item, attempt=int(again),
            once=None if again else "entity", detail=(capability, queue), from_outside=again,
        )  # fmt: skip
        self.submitted.append(name)

    def submit_again(self, name: str) -> None:
        """A submission that was not met in the log: other facts stand where it was to be the first.

        Those count for nothing, and must not hold it up.
        """
        flow = self.flow
        if flow.undoing_part is not None and name.startswith(UNDO):
            self._submit_undo(*flow.undoing_part, again=True)
            return
        part = self.plan.part_of(name)
        if part is None:
            return
        given = self.live.input_of(*part)
        if part[0].kind == "workflow":
            self._start_child(*part, given, _child_of(part[0], given), again=True)
        else:
            self._submit(*part, given, again=True)

    def _start_child(
        self, planned: Planned, item: int, given: bytes, definition: bytes, *, again: bool = False
    ) -> None:
        life, name = self.flow.life, task_id(planned, item)
        child = child_id(life.tenant, life.id, self.plan, name)
        told = said.Started(
            definition=msgspec.Raw(definition),
            input=msgspec.Raw(given),
            parent=said.Parent(life.id, name),
        )
        # As the first fact of it, which spares the decider a look.  The same id again: whether it was stored
        # is not known here, and the broker drops what it has.
        self._state(
            "started", told, f"{planned.step.name}/started", key=child, id=child, ordinal=item,
            once=None if again else "entity", from_outside=again,
        )  # fmt: skip
        self.submitted.append(name)

    def _decide(self, planned: Planned, given: bytes) -> None:
        step = planned.step
        if isinstance(step.decide, str):
            asked = said.Asked(input=msgspec.Raw(given))
            self._state(
                "asked", asked, f"{self.flow.life.id}/{step.name}/asked",  # many ask under that key
                key=step.decide, kind="rules", id=step.decide,
                detail=(self.flow.life.id, step.name),
            )  # fmt: skip
            return
        assert step.decide is not None
        decided = rules.Table(step.decide).decide(msgspec.json.decode(given))
        self._state("decided", decided, f"{step.name}/decided", detail=(step.name,))

    def _set_timer(self, planned: Planned, state: StepState, after_s: float) -> None:
        state.due = self.at + after_s
        self.due.append((state.due, planned.index))
        self._state("set", {"at": state.due}, f"{planned.step.name}/timer", kind="timer", id=planned.step.name)

    def _clear_timer(self, planned: Planned, state: StepState) -> None:
        if state.due is not None:
            state.due = None
            self._state("cancelled", None, f"{planned.step.name}/timer/cancelled", kind="timer", id=planned.step.name)

    def _state(
        self, event: str, data: Any, step: str, *, key: str | None = None, kind: str = "workflow",
        id: str | None = None, detail: tuple[str, ...] = (), attempt: int = 0, ordinal: int = 0,  # noqa: A002
        once: Literal["entity"] | None = None, from_outside: bool = False,
    ) -> None:  # fmt: skip
        """To be stated.

        On no condition, but for tasks: a forged fact, which no reader believes, would hold it up for ever.
        Equal ids, and folds that take the first, see to it that what is stated twice counts once.
        """
        life = self.flow.life
        stated = State(
            tenant=life.tenant, agent=AGENT, key=key or life.id, kind=kind, id=id or life.id, event=event,
            detail=detail, data=data, once=once, version=self.plan.version, step=step, attempt=attempt, ordinal=ordinal,
            from_outside=from_outside, correlation_id=life.correlation_id,
        )  # fmt: skip
        self.effects.append(stated)


def child_id(tenant: str, parent: str, plan: Plan, name: str) -> str:
    """The id of the sub-workflow that is a part of a workflow."""
    plain = f"{parent}-{name}"
    if len(plain) <= limits.TOKEN_BYTES_MAX:
        return plain
    return f"w-{ids.hashed_id(tenant, parent, plan.version, name, 0, 0)}"


def _child_of(planned: Planned, given: bytes) -> bytes:
    """A sub-workflow's definition; raises `PayloadTooLarge` where it and its input are too large to be started."""
    definition = msgspec.json.encode(planned.step.workflow)
    if len(definition) + len(given) > limits.FLOW_BYTES_MAX:
        size = len(definition) + len(given)
        most = limits.FLOW_BYTES_MAX
        raise errors.PayloadTooLarge(f"its definition and its input have more than {most} bytes", bytes=size)
    return definition


def backs_off(planned: Planned, state: StepState) -> bool:
    """Whether a step waits to be submitted: its execution as a local step failed."""
    return planned.kind == "task" and state.due is not None


def output_of(raw: bytes, ref: Reference | None) -> bytes:
    """What was given by a task, as JSON; by reference as ``{"$ref": …}``."""
    return bytes(raw) if ref is None else msgspec.json.encode(Inlined(ref))


def failure_of(task: Task) -> tuple[str, str]:
    """Why a task has ended without success."""
    return task.error or task.status, task.message or ""


def _together(state: StepState) -> bytes:
    return b"[" + b",".join(state.outputs) + b"]"


def _approved(raised: bytes) -> bool:
    data = msgspec.json.decode(raised)
    return isinstance(data, dict) and data.get("approved") is True


def _bounded(raw: bytes) -> bytes:
    if len(raw) > limits.FLOW_BYTES_MAX:
        raise errors.PayloadTooLarge(f"more than {limits.FLOW_BYTES_MAX} bytes are to be handed on", bytes=len(raw))
    return raw


def _named(**lists: list[str]) -> dict[str, Any]:
    """As many of the tasks as fit into a fact, of the first list first, and how many there are besides."""
    found: dict[str, Any] = {}
    left = limits.FLOW_NAMED_MAX
    for which, names in lists.items():
        found[which] = names[:left]
        left -= len(found[which])
    return found | {"unnamed": sum(map(len, lists.values())) - (limits.FLOW_NAMED_MAX - left)}
