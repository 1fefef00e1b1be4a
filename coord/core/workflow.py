"""The workflow decider: what follows for workflows from facts about them, their tasks, signals and times.

It folds what bears a workflow's key, and states what comes next::

    workflow.started ──▶ task.submitted …         as far as `needs`, `when` and max_parallelism let
    a task's end     ──▶ task.submitted …, or workflow.completed
                         or task.cancelled …, workflow.compensating, task.submitted (undo_…), workflow.failed
    signal.raised, timer.fired, workflow.decided, workflow.joined   likewise

Nothing polls and nothing waits in a process: what a workflow waits for is a fact, and what it states
is stated once (`coord.core.deciding`).  What is true of a task says `coord.core.tasks`, as for the
task decider; of the workflow itself `coord.core.workflow_life`.

Decision tables are set by facts under their own key, in whichever partition that is.  A workflow asks
with a fact (``rules.asked`` under the table's key), is answered with one (``workflow.decided`` under its
own), and the log's order under the table's key says which version decided.  Sub-workflows are
started and joined in the same way.

It holds the workflows that have not ended, their tasks that have not, and the tables.
"""

# ruff: noqa: A002 - `id` is what an entity's id is called

from __future__ import annotations

import contextlib
import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

import msgspec

from coord import limits
from coord.core import flow_definition, flow_inherited, rules, workflow_life
from coord.core.deciding import NONE, Effect, Folding, Presence, Push, State
from coord.core.flow_definition import UNDO, Plan, Planned, task_id
from coord.core.flow_run import AGENT, TAKEN_CODE, Run, backs_off, begin, child_id, failure_of, output_of
from coord.core.flow_state import NULL, STATED, Flow, Live
from coord.core.rules import RuleSet
from coord.core.tasks import Task
from coord.core.workflow_life import Workflow, decode
from coord.errors import CoordError, InvalidWorkflow, PayloadTooLarge, WireError
from coord.wire import flow as said
from coord.wire import latch
from coord.wire.envelope import StoredFact
from coord.wire.work import LocalOutcome, Reference

TOPIC: Final = "workflow"

_TIMER_GRACE_S: Final = 2.0
"""A timer that has not fired so long after its time is fired here."""

_MEET_S: Final = 3.0
"""A submission that is not in the log so long after what led to it is stated again."""

_EARLY_S: Final = 0.1
"""What has fired so much earlier than a step's time was not its timer."""

_PLANS_MAX: Final = 256
_SIGNALS_MAX: Final = 1_000
_EARLY_KEYS: Final = 5_000
_EARLY_NAMES: Final = 16
_EARLY_BYTES: Final = 4 * limits.KIB
"""Signals that were raised under keys of which no workflow was started yet: so many keys, the newest; so many of
each; and what was said with one."""

_BY_OTHERS: Final = frozenset({"cancelled", "expired", "released"})
"""How a task ends without its agent's word: what it did is not known."""

Ident: TypeAlias = tuple[str, str]
"""(tenant, workflow), or (tenant, table)."""


class _LocalOutcome(LocalOutcome, frozen=True, kw_only=True):
    """Its output as its author wrote it."""

    output: msgspec.Raw = msgspec.Raw(b"null")


class _Outcome(msgspec.Struct, frozen=True):
    """Of a completed task, its output as its author wrote it, and those of the local steps after it."""

    output: msgspec.Raw = msgspec.Raw(b"null")
    ref: Reference | None = None
    then: list[_LocalOutcome] = []


_NOTHING: Final = _Outcome()


class _Said(msgspec.Struct, frozen=True):
    """Of a raised signal, what was said with it (`coord.wire.latch.Raised`)."""

    data: msgspec.Raw = msgspec.Raw(b"null")


class _Dump(msgspec.Struct):
    """A snapshot; only grows."""

    flows: list[Flow] = []
    tables: list[RuleSet] = []
    early: list[tuple[str, str, dict[str, bytes]]] = []
    """(tenant, key, signals raised under it)."""


class WorkflowDecider(Folding):
    """Of one partition; a `coord.core.deciding.Decider`."""

    name = "workflows"
    kinds = frozenset({"workflow", "task", "signal", "timer", "rules"})

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[Ident, Live] = {}
        self._tables: dict[Ident, RuleSet] = {}
        self._ready: dict[Ident, rules.Table] = {}
        """Tables that were asked, compiled."""
        self._plans: dict[bytes, Plan] = {}
        """By the definition's bytes: many workflows have one definition."""
        self._due: list[tuple[float, Ident, int]] = []
        """A heap of (when, workflow, step): times that have to come."""
        self._unmet: deque[tuple[float, Ident, str]] = deque()
        """(when to look, workflow, part): what the log should have by then."""
        self._early: dict[Ident, dict[str, bytes]] = {}
        self._recalled: Workflow | None = None

    def get(self, tenant: str, id: str) -> Flow | None:
        """A workflow that has not ended, not to be changed."""
        live = self._live.get((tenant, id))
        return None if live is None else live.flow

    # --- facts ----------------------------------------------------------------------------

    def forgot(self, fact: StoredFact) -> bool:
        """A workflow that is started and is not open may be one that has ended."""
        return fact.kind == "workflow" and fact.event == "started" and (fact.tenant, fact.key) not in self._live

    def recall(self, facts: list[StoredFact]) -> None:
        """What is known of a workflow that is started once more."""
        if facts and facts[0].kind == "workflow":
            self._recalled = workflow_life.fold(facts)[0]

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact."""
        kind = fact.kind
        if kind == "rules":
            return self._rules(fact)
        live = self._live.get((fact.tenant, fact.key))
        if kind == "workflow":
            return self._workflow(fact, live)
        if live is None:
            if kind == "signal" and fact.event == "raised" and fact.key != latch.KEY:
                self._keep(fact)
            return NONE  # of no workflow, or of one that has ended
        if kind == "task":
            return self._task(fact, live)
        return self._signal(fact, live) if kind == "signal" else self._timer(fact, live)

    def _done(self, run: Run) -> list[Effect]:
        """What a run has led to."""
        life = run.flow.life
        ident = (life.tenant, life.id)
        for due, step in run.due:
            heapq.heappush(self._due, (due, ident, step))
        for name in run.submitted:
            self._unmet.append((run.at + _MEET_S, ident, name))
        return run.effects

    # --- the workflow itself ----------------------------------------------------------------

    def _workflow(self, fact: StoredFact, live: Live | None) -> Iterable[Effect]:
        if live is None:
            if fact.event == "started":
                return self._started(fact)
            if fact.agent != AGENT:
                self.refused["workflow.not_open"] += 1
            return NONE
        life = live.flow.life
        status = life.status
        refusal = life.apply(fact)
        if refusal is not None:
            self.refused[refusal.code] += 1
            return NONE
        event = fact.event
        if event == "decided":
            return self._decided(fact, live)
        if event == "joined":
            return self._joined(fact, live)
        if event == "cancelled":
            return self._cancelled(fact, live)
        if event == "compensated" or (life.ended and life.status != status):
            return self._ended(fact, live)
        return NONE

    def _started(self, fact: StoredFact) -> Iterable[Effect]:
        recalled, self._recalled = self._recalled, None
        life = Workflow(tenant=fact.tenant, id=fact.id)
        if recalled is not None and recalled.id == fact.id and recalled.tenant == fact.tenant:
            life = recalled
        first = not life.started_seq
        refusal = life.apply(fact)
        if refusal is not None:
            self.refused[refusal.code] += 1
            return NONE
        begun = decode(fact, said.Started)
        flow = Flow(life=life, definition=bytes(begun.definition), input=bytes(begun.input))
        try:
            plan = self._plan(flow.definition)
            if begun.rerun is not None:
                flow_inherited.check(plan, begun.rerun)
        except CoordError as exc:
            return _refused(flow, exc)
        if not first:
            return NONE  # it has ended, it may be while it was on its way to be stated again
        if life.restated:
            return self._carried_on(flow, plan, begun)
        live = self._live[fact.tenant, fact.id] = Live(flow, plan)
        flow.signals = self._early.pop((fact.tenant, fact.id), {})
        begin(plan, flow, begun.rerun)
        run = Run(live, fact.stored_at.timestamp())
        run.start()
        return self._done(run)

    def _carried_on(self, flow: Flow, plan: Plan, begun: said.Started) -> Iterable[Effect]:
        """Its facts have left the window, and the decider's memory: it was stated again with what they came to."""
        try:
            carried = msgspec.convert(begun.carried["flow"], Flow)
        except (msgspec.MsgspecError, TypeError, KeyError):
            self.refused["workflow.malformed"] += 1
            return NONE
        carried.life, carried.definition, carried.input = flow.life, flow.definition, flow.input
        carried.rerun = begun.rerun
        self._adopt(Live(carried, plan))
        return NONE

    def _plan(self, definition: bytes) -> Plan:
        plan = self._plans.get(definition)
        if plan is None:
            plan = flow_definition.plan(flow_definition.decode(definition))
            if len(self._plans) >= _PLANS_MAX:
                del self._plans[next(iter(self._plans))]
            self._plans[definition] = plan
        return plan

    def _cancelled(self, fact: StoredFact, live: Live) -> Iterable[Effect]:
        flow = live.flow
        told = _told(flow, fact)
        if flow.phase == "ending" and not flow.succeeds:
            return [*told, *self._forget(live)]  # all that can be undone has been
        run = Run(live, fact.stored_at.timestamp())
        run.stop("cancelled", flow.life.message or "", None)
        run.settle()
        effects = self._done(run)
        if flow.phase == "ending" and not (flow.undone or flow.not_undone):
            effects += self._forget(live)
        return [*told, *effects]

    def _ended(self, fact: StoredFact, live: Live) -> Iterable[Effect]:
        told = _told(live.flow, fact) if fact.event != "compensated" else NONE
        return [*told, *self._forget(live, fact)]

    def _forget(self, live: Live, fact: StoredFact | None = None) -> Iterable[Effect]:
        """Nothing more follows: the parent is told, under its own key."""
        life = live.flow.life
        del self._live[life.tenant, life.id]
        if life.parent is None:
            return NONE
        joined = said.Joined(workflow=life.id, status=_outcome(life), error=life.error, message=life.message)
        if fact is not None and fact.event == "completed":
            joined = msgspec.structs.replace(joined, output=decode(fact, said.Completed).output)
        stated = State(
            tenant=life.tenant, agent=AGENT, key=life.parent.id, kind="workflow", id=life.parent.id, event="joined",
            detail=(life.parent.task,), data=joined, once=None, version=live.plan.version,
            step=f"joined/{life.parent.task}/{life.id}", correlation_id=life.correlation_id,
        )  # fmt: skip
        return (stated,)

    def _decided(self, fact: StoredFact, live: Live) -> Iterable[Effect]:
        planned = live.plan.by_name.get(fact.detail[0])
        if planned is None or planned.kind != "decide" or not _is_open(live, planned, 0):
            return NONE
        run = Run(live, fact.stored_at.timestamp())
        run.decided(planned, decode(fact, said.Decided))
        return self._after(run)

    def _joined(self, fact: StoredFact, live: Live) -> Iterable[Effect]:
        part = live.plan.part_of(fact.detail[0])
        if part is None or part[0].kind != "workflow" or not _is_open(live, *part):
            return NONE
        joined = decode(fact, said.Joined)
        life = live.flow.life
        if joined.workflow != child_id(life.tenant, life.id, live.plan, fact.detail[0]):
            return NONE
        run = Run(live, fact.stored_at.timestamp())
        run.joined(*part, joined)
        return self._after(run)

    def _after(self, run: Run) -> Iterable[Effect]:
        """What a run has led to; a cancelled workflow of which nothing is left to be undone is forgotten."""
        effects = self._done(run)
        flow = run.flow
        if flow.phase == "ending" and flow.life.status == "cancelled" and not (flow.undone or flow.not_undone):
            effects += self._forget(run.live)
        return effects

    # --- tasks ------------------------------------------------------------------------------

    def _task(self, fact: StoredFact, live: Live) -> Iterable[Effect]:
        flow = live.flow
        task = flow.tasks.get(fact.id)
        if task is None:
            return self._submitted(fact, live) if fact.event == "submitted" else NONE
        claimed = task.status == "claimed"
        if task.apply(fact) is not None:
            return NONE  # the task decider counts it
        if not task.ended:
            if flow.phase == "running" or fact.event in ("claimed", "progress", "recorded"):
                return NONE
            return self._freed(fact, live)
        del flow.tasks[fact.id]
        run = Run(live, fact.stored_at.timestamp())
        if fact.id.startswith(UNDO):
            run.undone(well=task.status == "completed")
            return self._after(run)
        part = live.plan.part_of(fact.id)
        assert part is not None, "only tasks of steps are kept"
        if task.status == "completed":
            told = _outcome_of(fact)
            run.part_ended(*part, output=output_of(told.output, told.ref), then=told.then)
        else:
            error, message = failure_of(task)
            unknown = fact.event in _BY_OTHERS and (claimed or task.deaths > 0)
            run.part_ended(*part, error=error, message=message, undoable=unknown)
        return self._after(run)

    def _submitted(self, fact: StoredFact, live: Live) -> Iterable[Effect]:
        """A task has come into being under the workflow's key."""
        flow = live.flow
        undoes = flow.undoing is not None and fact.id == UNDO + flow.undoing
        part = live.plan.part_of(fact.id)
        is_open = undoes or (part is not None and _is_open(live, *part))
        if fact.agent != AGENT:
            return self._taken(fact, live, part, is_open=is_open)
        if not is_open:
            return NONE  # it has ended and was submitted again
        task = Task(tenant=fact.tenant, key=fact.key, id=fact.id)
        if task.apply(fact) is not None:
            return NONE
        task.submission = msgspec.structs.replace(task.submission, input=None)
        flow.tasks[fact.id] = task
        return self._freed(fact, live) if flow.phase == "stopping" else NONE

    def _taken(
        self, fact: StoredFact, live: Live, part: tuple[Planned, int] | None, *, is_open: bool
    ) -> Iterable[Effect]:
        """Somebody else submits a task under this key: where its id is a step's, ours will never be."""
        flow = live.flow
        if Task(tenant=fact.tenant, key=fact.key, id=fact.id).apply(fact) is not None:
            return NONE
        if not is_open:
            of_step = part is not None or (fact.id.startswith(UNDO) and live.plan.part_of(fact.id[len(UNDO) :]))
            if of_step and fact.id not in flow.taken and len(flow.taken) < _SIGNALS_MAX:
                flow.taken.append(fact.id)
            return NONE
        run = Run(live, fact.stored_at.timestamp())
        if part is None:
            run.undone(well=False)
        else:
            run.part_ended(*part, error=TAKEN_CODE, message="somebody else has submitted a task of this id")
        return self._after(run)

    def _freed(self, fact: StoredFact, live: Live) -> Iterable[Effect]:
        """A task may be executed (again) while its workflow stops: not any more."""
        part = live.plan.part_of(fact.id)
        if part is None or live.flow.phase != "stopping":
            return NONE
        run = Run(live, fact.stored_at.timestamp())
        run.cancel_part(*part)
        return run.effects

    # --- signals and times ----------------------------------------------------------------

    def _signal(self, fact: StoredFact, live: Live) -> Iterable[Effect]:
        flow = live.flow
        if fact.event != "raised" or fact.id in flow.signals or len(flow.signals) >= _SIGNALS_MAX:
            return NONE
        raised = _raised(fact)
        if len(raised) > limits.FLOW_BYTES_MAX:
            self.refused["workflow.too_large"] += 1
            return NONE
        flow.signals[fact.id] = raised
        run = Run(live, fact.stored_at.timestamp())
        for planned in live.plan.steps:
            if planned.step.signal == fact.id and _is_open(live, planned, 0):
                run.signalled(planned, raised)
        run.go_on()
        return self._after(run)

    def _keep(self, fact: StoredFact) -> None:
        """A signal under the key of a workflow that may be started later."""
        ident = (fact.tenant, fact.key)
        signals = self._early.setdefault(ident, {})
        raised = _raised(fact)
        if len(signals) < _EARLY_NAMES and len(raised) <= _EARLY_BYTES:
            signals.setdefault(fact.id, raised)
        if len(self._early) > _EARLY_KEYS:
            del self._early[next(iter(self._early))]

    def _timer(self, fact: StoredFact, live: Live) -> Iterable[Effect]:
        if fact.event != "fired":
            return NONE
        planned = live.plan.by_name.get(fact.id)
        if planned is None:
            return NONE
        due = live.flow.steps[planned.index].due
        if due is None or fact.stored_at.timestamp() < due - _EARLY_S:
            return NONE
        run = Run(live, fact.stored_at.timestamp())
        run.timed(planned)
        return self._after(run)

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:  # noqa: ARG002 - time is all that matters
        """Fire the timers that nobody has fired."""
        effects: list[Effect] = []
        while self._due and self._due[0][0] + _TIMER_GRACE_S <= now:
            due, ident, step = heapq.heappop(self._due)
            live = self._live.get(ident)
            if live is None or live.flow.steps[step].due != due:
                continue
            name = live.plan.steps[step].step.name
            fired = State(
                tenant=ident[0], agent=AGENT, key=ident[1], kind="timer", id=name, event="fired", once=None,
                data={"at": due}, version=live.plan.version, step=f"{name}/fired", from_outside=True,
            )  # fmt: skip
            effects.append(fired)
        while self._unmet and self._unmet[0][0] <= now:
            _, ident, name = self._unmet.popleft()
            live = self._live.get(ident)
            if live is not None and name not in live.flow.tasks and _is_awaited(live, name):
                run = Run(live, now)
                with contextlib.suppress(PayloadTooLarge):  # of a release that took what is elsewhere for missing
                    run.submit_again(name)
                effects += run.effects
        return effects

    def reconcile(self, now: float) -> Iterable[Effect]:
        """Caught up: what is to be cancelled is cancelled again, and submissions are looked for."""
        self._unmet.clear()
        for ident, live in self._live.items():
            self._unmet.extend((now + _MEET_S, ident, name) for name in _awaited(live))
        effects: list[Effect] = []
        for live in self._live.values():
            flow = live.flow
            if flow.phase != "stopping":
                continue
            run = Run(live, now)
            for name, task in flow.tasks.items():
                part = live.plan.part_of(name)
                if part is not None and task.status != "claimed":
                    run.cancel_part(*part)
            effects += run.effects
        return effects

    # --- decision tables --------------------------------------------------------------------

    def _rules(self, fact: StoredFact) -> Iterable[Effect]:
        ident = (fact.tenant, fact.id)
        if fact.event == "asked" and fact.key == fact.id:
            if len(fact.detail) == 2:
                try:
                    return (self._answer(fact, ident),)
                except (WireError, InvalidWorkflow):
                    self.refused[rules.INVALID] += 1
            return NONE
        table = self._tables.get(ident)
        if table is None:
            if len(self._tables) >= limits.RULE_TABLES_MAX:
                self.refused[rules.INVALID] += 1
                return NONE
            table = RuleSet(*ident)
        refusal = table.apply(fact)
        if refusal is not None:
            self.refused[refusal.code] += 1
        elif table.seq:
            self._tables[ident] = table
            if table.seq == fact.seq:
                self._ready.pop(ident, None)
            elif fact.event == "set":
                # Stated again too late: whoever begins to read there must not take it for what holds.
                return (_set_again(table, fact.seq),)
        return NONE

    def _answer(self, fact: StoredFact, ident: Ident) -> State:
        workflow, step = fact.detail
        known = self._tables.get(ident)
        if known is None:
            decided = said.Decided(
                table=fact.id, error=rules.NO_TABLE, message=f"no decision table {fact.id} has been set"
            )
        else:
            ready = self._ready.get(ident)
            if ready is None:
                ready = self._ready[ident] = rules.Table(known.said)
            given = msgspec.json.decode(decode(fact, said.Asked).input)
            decided = ready.decide(given, fact.id)
        return State(
            tenant=fact.tenant, agent=AGENT, key=workflow, kind="workflow", id=workflow, event="decided",
            detail=(step,), data=decided, once=None, version=f"rules/{fact.id}", step=f"{step}/decided",
            correlation_id=fact.correlation_id,
        )  # fmt: skip

    # --- the window and snapshots -----------------------------------------------------------

    def edge(self, seq: int) -> Iterable[Effect]:
        """Workflows and tables stated below `seq` are stated again, with what has become of them."""
        effects: list[Effect] = []
        for live in self._live.values():
            if live.flow.life.started_seq < seq and not live.flow.oversized:
                stated = _restated(live)
                if stated is None:
                    live.flow.oversized = True
                else:
                    effects.append(stated)
        effects += [_set_again(table) for table in self._tables.values() if table.seq < seq]
        return effects

    def oldest(self) -> int | None:
        """The oldest start of a workflow, and the oldest table, that the log has to keep."""
        seqs = [live.flow.life.started_seq for live in self._live.values() if not live.flow.oversized]
        return min([*seqs, *(table.seq for table in self._tables.values())], default=None)

    def open_count(self) -> int:
        """Workflows that have not ended."""
        return len(self._live)

    def dump(self) -> Any:
        """The workflows that have not ended, and the tables."""
        early = [(*ident, signals) for ident, signals in self._early.items()]
        return _Dump([live.flow for live in self._live.values()], list(self._tables.values()), early)

    def load(self, dumped: Any) -> None:
        """Become them."""
        self._live.clear()
        self._ready.clear()
        self._due.clear()
        self._unmet.clear()
        found = msgspec.convert(dumped, _Dump)
        self._early = {(tenant, key): signals for tenant, key, signals in found.early}
        self._tables = {(table.tenant, table.id): table for table in found.tables}
        for flow in found.flows:
            self._adopt(Live(flow, self._plan(flow.definition)))

    def _adopt(self, live: Live) -> None:
        life = live.flow.life
        ident = (life.tenant, life.id)
        self._live[ident] = live
        for index, state in enumerate(live.flow.steps):
            if state.due is not None:
                heapq.heappush(self._due, (state.due, ident, index))


# --- helpers ----------------------------------------------------------------------------------


def _is_open(live: Live, planned: Planned, item: int) -> bool:
    parts = live.flow.steps[planned.index].parts
    return item < len(parts) and parts[item] == STATED


def _is_awaited(live: Live, name: str) -> bool:
    """Whether a task or sub-workflow was to begin and has not ended."""
    if name.startswith(UNDO):
        return live.flow.undoing == name[len(UNDO) :]
    part = live.plan.part_of(name)
    return part is not None and part[0].kind in ("task", "workflow") and _is_open(live, *part)


def _awaited(live: Live) -> Iterator[str]:
    """Tasks that were to be submitted and were not met."""
    flow = live.flow
    if flow.undoing is not None and UNDO + flow.undoing not in flow.tasks:
        yield UNDO + flow.undoing
    for planned in live.plan.steps:
        parts = flow.steps[planned.index].parts
        if planned.kind != "task" or STATED not in parts or backs_off(planned, flow.steps[planned.index]):
            continue
        for item, part in enumerate(parts):
            if part == STATED and task_id(planned, item) not in flow.tasks:
                yield task_id(planned, item)


def _outcome(life: Workflow) -> said.Outcome:
    if life.status in ("completed", "cancelled"):
        return life.status
    return "failed"


def _refused(flow: Flow, exc: CoordError) -> list[Effect]:
    """A definition that is none: the workflow fails with what is wrong, and is not held."""
    life = flow.life
    step = exc.details.get("step")
    told = said.Failed(error=exc.code, message=str(exc)[:2_000], step=step if isinstance(step, str) else None)
    stated = State(
        tenant=life.tenant, agent=AGENT, key=life.id, kind="workflow", id=life.id, event="failed", data=told, once=None,
        version=f"{life.name}@{life.version}", step="refused", correlation_id=life.correlation_id,
    )  # fmt: skip
    if life.instance is None:
        return [stated]
    body: dict[str, Any] = {"what": "ended", "id": life.id, "instance": life.instance, "status": "failed"}
    body |= {"error": told.error, "message": told.message, "step": told.step}
    return [stated, Push(life.tenant, life.submitter, life.instance, TOPIC, body)]


def _outcome_of(fact: StoredFact) -> _Outcome:
    """Of a completed task."""
    try:
        return decode(fact, _Outcome)
    except WireError:
        return _NOTHING


def _raised(fact: StoredFact) -> bytes:
    """What was said with a signal, as JSON."""
    try:
        return bytes(decode(fact, _Said).data)
    except WireError:
        return NULL


def _told(flow: Flow, fact: StoredFact) -> Iterable[Effect]:
    """Whoever started it is told how it ended."""
    life = flow.life
    if life.instance is None:
        return NONE
    body: dict[str, Any] = {"what": "ended", "id": life.id, "instance": life.instance, "status": life.status}
    if life.status == "completed":
        body["output"] = decode(fact, said.Completed).output
    else:
        body |= {"error": life.error, "message": life.message, "step": life.step}
    return (Push(life.tenant, life.submitter, life.instance, TOPIC, body),)


def _restated(live: Live) -> State | None:
    flow = live.flow
    life = flow.life
    carried = msgspec.to_builtins(workflow_life.carried(life))
    carried["flow"] = msgspec.to_builtins(msgspec.structs.replace(flow, definition=b"", input=NULL, rerun=None))
    told = said.Started(
        definition=msgspec.Raw(flow.definition), input=msgspec.Raw(flow.input), instance=life.instance,
        parent=life.parent, rerun=flow.rerun, restated=life.restated + 1, carried=carried,
    )  # fmt: skip
    if len(msgspec.json.encode(told)) > limits.EVENT_BYTES_MAX - limits.KIB:
        return None
    return State(
        tenant=life.tenant, agent=AGENT, key=life.id, kind="workflow", id=life.id, event="started", data=told,
        once=None, version=live.plan.version, step="restated", attempt=life.restated + 1, from_outside=True,
        correlation_id=life.correlation_id, schema=said.schema_of(told),
    )  # fmt: skip


def _set_again(table: RuleSet, behind: int = 0) -> State:
    """`behind`: what was stated again too late, and has to be made good."""
    told = msgspec.structs.replace(table.said, restated=table.said.restated + 1)
    return State(
        tenant=table.tenant, agent=AGENT, key=table.id, kind="rules", id=table.id, event="set",
        detail=(str(table.seq), str(told.restated)), data=told, once=None, version=f"rules/{table.id}",
        step=f"restated/{table.seq}", attempt=told.restated, ordinal=behind, from_outside=True,
    )  # fmt: skip
