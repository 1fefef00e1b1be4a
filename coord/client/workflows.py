"""Starting workflows, and what becomes of them.

::

    handle = await c.start_workflow(definition, {"url": …}, id="import-7")
    await handle.signal("approved", {"approved": True})
    result = await handle.result(timeout_s=60)

A start is stored on the condition that it is the first fact of its workflow: whoever starts the same
work again gets the same workflow, other work under that id is `WorkflowExists`.  How it ends is pushed
to whoever started it; whoever waits reads the log too, as for tasks (`coord.client.task_handle`).
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakValueDictionary

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.patched import Message
from coord.client.building import Workflow as Built
from coord.client.event_ids import new_event_id
from coord.client.outcomes import Outcome, Watch
from coord.core import flow_definition, flow_inherited, flow_view, workflow_life
from coord.core.flow_view import View
from coord.core.retry import CallPolicy
from coord.core.workflow_life import Workflow
from coord.wire import arguments, codec, flow, log_api, subjects, understood
from coord.wire.flow import Definition
from coord.wire.latch import Raised
from coord.wire.log_api import Filter, PackedFact, ReadRequest
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.client.connect import Coord

T = TypeVar("T")

_decode_fact = msgspec.msgpack.Decoder(PackedFact).decode
_ASK: Final = CallPolicy()
_FACTS_MAX: Final = 100_000
_DEFINITIONS_MAX: Final = 256
"""Remembered to be sound: checking one of three steps costs a fifth of starting it."""


class FlowOutcome(Outcome, frozen=True):
    """How a workflow ended."""

    step: str | None = None
    """The one that failed."""


class _Told(msgspec.Struct):
    """A push of topic `workflow`."""

    what: str
    id: str = ""
    status: str = ""
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    message: str | None = None
    step: str | None = None


class Workflows:
    """Of one connection."""

    def __init__(self, coord: Coord) -> None:
        self.coord = self._coord = coord
        self._watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
        self._capabilities: dict[bytes, list[str]] = {}
        """By the digests of definitions that were found to be sound."""
        self._unregister = [
            coord.pushes.on("workflow", self._pushed),
            coord.connection.on_reconnected(self._reconnected),
        ]

    def close(self) -> None:
        """Hear no more."""
        for unregister in self._unregister:
            unregister()

    def handle(self, id: str, returns: Any) -> WorkflowHandle[Any]:
        """Of a workflow that somebody started."""
        subjects.check_token(id, "a workflow's id")
        return WorkflowHandle(self, id, self._watch(id, foreign=True), returns)

    async def start(
        self, definition: Definition | Built | Mapping[str, Any], input: Any, *, id: str | None, returns: Any
    ) -> WorkflowHandle[Any]:
        """See `coord.client.connect.Coord.start_workflow`."""
        raw = encoded(definition)
        started = flow.Started(
            definition=msgspec.Raw(raw), input=msgspec.Raw(codec.encode(input)), instance=self._coord.instance
        )
        return await self.begin(id, started, returns)

    async def begin(
        self, id: str | None, started: flow.Started, returns: Any, *, correlation_id: str | None = None,
        anew: bool = False,
    ) -> WorkflowHandle[Any]:  # fmt: skip
        """State a start; `anew`: an id under which the same has ended is another's (`WorkflowExists`)."""
        raw, size = bytes(started.definition), size_of(started)
        if size > limits.FLOW_BYTES_MAX:
            raise errors.PayloadTooLarge(
                "a workflow's definition and input, and what it takes over, are too large together", bytes=size,
                bytes_max=limits.FLOW_BYTES_MAX,
            )  # fmt: skip
        capabilities = self._capabilities_of(raw)
        schema = flow.schema_of(started)
        if schema > 1:
            await self._coord.understood.demand(understood.RERUNS, "reruns of workflows")
        await self._coord.pushes.open()
        for capability in capabilities:
            await self._coord.queues.open(capability)
        name = new_event_id() if id is None else id
        if id is not None:
            await self._coord.used_ids.refuse_workflow(id)
        watch = self._watch(name)
        fact = Fact(
            kind="workflow", id=name, key=name, event="started", data=started, correlation_id=correlation_id,
            schema=schema,
        )  # fmt: skip
        try:
            await self._coord.stating.state(fact, once="entity")
        except errors.WrongLastSequence as refused:
            life = await self._first(name, started, refused, anew=anew)
            if life is None:
                # What is there is nobody's workflow: facts that no reader believes.  The log decides who is first.
                stored = await self._coord.stating.state(fact)
                life = await self._first(name, started, refused, stored.seq)
            if life is None:
                raise errors.UnknownWorkflow("the start is stored, and cannot be read back", workflow=name) from refused
            watch.foreign = life.submitter != self._coord.agent or life.instance != self._coord.instance
        return WorkflowHandle(self, name, watch, returns)

    def _capabilities_of(self, raw: bytes) -> list[str]:
        """Those that it needs; raises `InvalidWorkflow`.  Many workflows have one definition."""
        digest = blake2b(raw, digest_size=16).digest()
        found = self._capabilities.get(digest)
        if found is None:
            found = sorted(flow_definition.plan(flow_definition.decode(raw)).capabilities())
            if len(self._capabilities) >= _DEFINITIONS_MAX:
                del self._capabilities[next(iter(self._capabilities))]
            self._capabilities[digest] = found
        return found

    async def _first(
        self, id: str, mine: flow.Started, refused: errors.WrongLastSequence, seq: int = 0, *, anew: bool = False
    ) -> Workflow | None:
        """The workflow that was there before, if it is the same; `WorkflowExists` if not.  None: there is none.

        `seq`: something is known to be there up to it.  `anew`: one that has ended is not the same.
        """
        for _ in range(limits.STORED_LOOKS_MAX):
            facts = await facts_of(self._coord, id, "workflow")
            life, _ = workflow_life.fold(facts)
            began = workflow_life.beginning(facts)
            if life is not None and began is not None:
                said = workflow_life.decode(began, flow.Started)
                if _same_start(said, mine) and not (anew and life.ended):
                    return life
                raise errors.WorkflowExists(
                    workflow=id, first_event_id=life.event_id, first_seq=began.seq, submitter=life.submitter,
                    definition=f"{life.name}@{life.version}", status=life.status,
                ) from refused  # fmt: skip
            if facts and facts[-1].seq >= seq:
                break
            await asyncio.sleep(limits.STORED_LOOK_AGAIN_S)
        return None

    def _watch(self, id: str, *, foreign: bool = False) -> Watch:
        watch = self._watches.get(id)
        if watch is None:
            watch = self._watches[id] = Watch(id, self._coord.outcomes.alarms, foreign=foreign)
        return watch

    def _pushed(self, body: bytes) -> None:
        try:
            told = msgspec.json.decode(body, type=_Told)
        except msgspec.MsgspecError:
            return
        watch = self._watches.get(told.id)
        if watch is not None and told.what == "ended" and told.status in workflow_life.ENDED:
            watch.hear(
                outcome=FlowOutcome(told.status, told.output, None, told.error, told.message, told.step)  # type: ignore[arg-type]
            )

    def _reconnected(self) -> None:
        for watch in list(self._watches.values()):
            watch.hear()


class WorkflowHandle(Generic[T]):
    """A started workflow.  Keep it for as long as you want to be told how it ends."""

    def __init__(self, flows: Workflows, id: str, watch: Watch, returns: Any) -> None:
        self.flows = flows
        self._coord = flows.coord
        self.id = id
        self._watch = watch
        self._returns = returns

    def __repr__(self) -> str:
        return f"WorkflowHandle({self.id!r})"

    @property
    def done(self) -> bool:
        """Whether its end is known here."""
        return self._watch.outcome is not None

    async def result(self, timeout_s: float | None = None) -> T:
        """Wait for its end: its output, as the type that was given as `returns`.

        Raises `WorkflowFailed` (`step` and `error` say where and what), `WorkflowCancelled`, or `DeadlineExceeded`
        after `timeout_s` (None: for as long as it takes).  The workflow goes on whatever happens here.  What travelled
        by reference is fetched: `ApiNotFound` where it is not kept any more.
        """
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await self._outcome()
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(
                "the workflow has not ended yet", workflow=self.id, timeout_s=timeout_s
            ) from exc
        if outcome.status != "completed":
            kind = errors.WorkflowCancelled if outcome.status == "cancelled" else errors.WorkflowFailed
            step = outcome.step if isinstance(outcome, FlowOutcome) else None
            raise kind(outcome.message or None, workflow=self.id, step=step, error=outcome.error)
        raw = await self._coord.payloads.whole(bytes(outcome.output))
        result: T = codec.decode_as(raw, "json", None, self._returns)
        return result

    async def status(self) -> View:
        """The workflow and its steps as the log has them now; raises `UnknownWorkflow`, and what asking raises."""
        found = flow_view.view(await facts_of(self._coord, self.id))
        if found is None:
            raise errors.UnknownWorkflow(workflow=self.id)
        return found

    async def cancel(self, reason: str = "") -> bool:
        """Cancel it: nothing more begins, and what was completed is undone.  False: it has ended, or ended first.

        Only whoever started it may; raises `NotSubmitter`, `UnknownWorkflow`, and what stating a fact raises.
        """
        life = await self._life()
        if life.submitter != self._coord.agent:
            raise errors.NotSubmitter(workflow=self.id, submitter=life.submitter)
        if life.ended:
            return False
        said = flow.Cancelled(reason=reason)
        fact = Fact(kind="workflow", id=self.id, key=self.id, event="cancelled", data=said)
        stored = await self._coord.stating.state(fact)
        for _ in range(limits.STORED_LOOKS_MAX):  # what answers may lag behind what was just stored
            found = await facts_of(self._coord, self.id, "workflow")
            if any(fact.seq == stored.seq for fact in found):
                return all(fact.seq != stored.seq for fact, _ in workflow_life.fold(found)[1])
            await asyncio.sleep(limits.STORED_LOOK_AGAIN_S)
        raise errors.DeadlineExceeded("the log does not show what was just stored", workflow=self.id)

    async def signal(self, name: str, data: Any = None) -> None:
        """Raise a signal under its key: what a step with ``signal`` waits for.

        An approval takes ``{"approved": True}``.  The first raising counts, also before the step waits.  Raises
        `UnknownWorkflow`, `UnknownSignal` where no step of it ever waits for that and nobody has waited for it under
        the workflow's key (``c.signals.raise_(name, data, key=id)`` raises what nobody waits for yet), `WorkflowOver`
        where it has ended without it, and what stating a fact raises.
        """
        facts = await facts_of(self._coord, self.id, "workflow")
        life, _ = workflow_life.fold(facts)
        if life is None:
            raise errors.UnknownWorkflow(workflow=self.id)
        known = flow_view.signals_of(facts)
        if life.ended or (known is not None and name not in known):
            about = [fact for fact in await facts_of(self._coord, self.id, "signal") if fact.id == name]
            is_awaited = any(fact.event == "awaited" and not fact.agent.startswith("_") for fact in about)
            if life.ended and not is_awaited and all(fact.event != "raised" for fact in about):
                raise errors.WorkflowOver(workflow=self.id, status=life.status, signal=name)
            if not life.ended and not is_awaited:
                raise errors.UnknownSignal(workflow=self.id, signal=name, signals=sorted(known or ()))
        await self._coord.stating.state(
            Fact(kind="signal", id=name, key=self.id, event="raised", data=Raised(data=data))
        )

    async def approve(self, name: str, **data: Any) -> None:
        """Say yes to the approval that waits for the signal `name`."""
        await self.signal(name, {**data, "approved": True, "by": self._coord.agent})

    async def decline(self, name: str, **data: Any) -> None:
        """Say no to it: its step fails."""
        await self.signal(name, {**data, "approved": False, "by": self._coord.agent})

    # --- waiting --------------------------------------------------------------------------

    async def _life(self) -> Workflow:
        life, _ = workflow_life.fold(await facts_of(self._coord, self.id, "workflow"))
        if life is None:
            raise errors.UnknownWorkflow(workflow=self.id)
        return life

    async def _outcome(self) -> Outcome:
        watch = self._watch
        live = None
        if watch.foreign and watch.outcome is None:
            own = subjects.entity_filter(self._coord.tenant, self.id, "workflow", self.id)
            live = await self._coord.connection.subscribe(subjects.stored_to_live(own), self._on_live)
            watch.suspicious = True
        wait_s = limits.RESULT_AUDIT_FIRST_S
        try:
            while True:
                if watch.outcome is not None:
                    return watch.outcome
                heard = True
                if not watch.suspicious:
                    heard = await watch.changed(wait_s)
                    wait_s = limits.RESULT_AUDIT_FIRST_S if heard else min(2 * wait_s, limits.RESULT_AUDIT_MAX_S)
                if not self.done and (watch.suspicious or not heard):
                    watch.suspicious = False
                    await self._audit()
        finally:
            if live is not None:
                await live.unsubscribe()

    def _on_live(self, _message: Message) -> None:
        self._watch.hear()

    async def _audit(self) -> None:
        """Read the log; what cannot be read now is read the next time."""
        try:
            facts = await facts_of(self._coord, self.id, "workflow")
        except errors.CoordError as exc:
            if not exc.retryable:
                raise
            return
        outcome = outcome_of(facts)
        if outcome is not None:
            self._watch.hear(outcome=outcome)


def outcome_of(facts: list[StoredFact]) -> FlowOutcome | None:
    """How a workflow ended, from its own facts in log order; None: it has not."""
    life: Workflow | None = None
    for fact in facts:
        life = life or Workflow(tenant=fact.tenant, id=fact.id)
        if life.apply(fact) is not None or fact.event not in workflow_life.ENDED:
            continue
        if fact.event == "completed":
            return FlowOutcome("completed", workflow_life.decode(fact, flow.Completed).output)
        status = "cancelled" if fact.event == "cancelled" else "failed"
        return FlowOutcome(status, error=life.error, message=life.message, step=life.step)  # type: ignore[arg-type]
    return None


async def facts_of(coord: Coord, id: str, kind: str | None = None) -> list[StoredFact]:
    """Facts under a workflow's key that the log holds, in its order: all, or those of a kind.

    Raises what `rpc.call` raises: `ServiceUnavailable`, `DeadlineExceeded`, `NotConnected`, …
    """
    service = subjects.rpc(coord.tenant, "log", "read")
    which = Filter(key=id, kind=kind)
    request = ReadRequest(filter=which, from_="first", max=limits.READ_PAGE_FACTS_MAX)
    found: list[StoredFact] = []
    while True:
        page = await rpc.call(coord.connection, service, request, log_api.Page, policy=_ASK)
        found += [_decode_fact(raw).unpack() for raw in page.facts]
        if page.next_seq > page.last_seq or len(found) >= _FACTS_MAX:
            return found
        request = ReadRequest(filter=which, from_seq=page.next_seq, from_index=page.next_index)


def encoded(definition: Definition | Built | Mapping[str, Any]) -> bytes:
    """A definition as JSON; raises `InvalidWorkflow` for what is none, `InvalidPayload` for what cannot be sent."""
    if isinstance(definition, Mapping):
        definition = flow_definition.convert(definition)
    takes = "a coord.Workflow, a definition, or the mapping that one is in a file"
    arguments.is_a(definition, (Built, Definition), "definition", takes, errors.InvalidWorkflow)
    defined = definition.unchecked() if isinstance(definition, Built) else definition
    try:
        return msgspec.json.encode(defined)
    except (TypeError, ValueError, RecursionError) as exc:
        raise errors.InvalidPayload(f"a definition that cannot be sent: {exc}") from exc


def size_of(started: flow.Started) -> int:
    """Bytes of what its author says."""
    taken = 0 if started.rerun is None else len(msgspec.json.encode(started.rerun))
    return len(started.definition) + len(started.input) + taken


def _same_start(there: flow.Started, mine: flow.Started) -> bool:
    """Whether two starts are of the same work; what a step of another workflow gave is what it gave."""
    if not (_same(there.definition, mine.definition) and _same(there.input, mine.input)):
        return False
    one, other = there.rerun, mine.rerun
    if one is None or other is None:
        return one is other
    return flow_inherited.without_outputs(one) == flow_inherited.without_outputs(other)


def _same(one: bytes, other: bytes) -> bool:
    return bytes(one) == bytes(other) or msgspec.json.decode(one) == msgspec.json.decode(other)
