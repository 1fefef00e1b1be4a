"""The life of one workflow: a fold of its own facts, the same for decider, projector, SDK and tests.

::

                 started              completed
      (nothing) ─────────▶ running ─────────────▶ completed
                            │   │ failed
                            │   ├───────────────▶ failed
               compensating │   │                   ▲
                            ▼   │ cancelled  failed │
                     compensating ──────────────────┘
                            │   ▼
                            └▶ cancelled ──▶ (compensating, compensated: it is still being undone)

What its steps do are facts about tasks, which `coord.core.workflow` folds; this is about the entity
of kind ``workflow``.  The first `started` counts, and the first of completed, failed and cancelled in
log order.  Only the submitter or a decider cancels.

Pure, and no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec

from coord import limits
from coord.core.tasks import Refusal
from coord.errors import InvalidPayload, WireError
from coord.wire import flow
from coord.wire.envelope import StoredFact
from coord.wire.subjects import is_decider

T = TypeVar("T")

Status: TypeAlias = Literal["running", "compensating", "completed", "failed", "cancelled"]

ENDED: Final[frozenset[str]] = frozenset({"completed", "failed", "cancelled"})
"""Terminal; a cancelled one may still be compensated."""

TRANSITIONS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    # (status or "-", event) → what it may become.  A test walks all of them; the diagram in the docs is made of it.
    ("-", "started"): ("running",),
    ("running", "started"): ("running",),  # restated by its decider, near the end of the window
    ("compensating", "started"): ("compensating",),
    ("cancelled", "started"): ("cancelled",),
    ("running", "progress"): ("running",),
    ("running", "decided"): ("running",),
    ("running", "joined"): ("running",),
    ("compensating", "joined"): ("compensating",),
    ("cancelled", "joined"): ("cancelled",),
    ("running", "compensating"): ("compensating",),
    ("cancelled", "compensating"): ("cancelled",),
    ("cancelled", "compensated"): ("cancelled",),
    ("running", "completed"): ("completed",),
    ("running", "failed"): ("failed",),
    ("compensating", "failed"): ("failed",),
    ("running", "cancelled"): ("cancelled",),
    ("compensating", "cancelled"): ("cancelled",),
}

_UNKNOWN: Final = Refusal("workflow.unknown", "no workflow of this id was started")
_EXISTS: Final = Refusal("workflow.exists", "a workflow of this id was started before, and it was another one")
_REPEATED: Final = Refusal("workflow.repeated", "this was stated before")
_FINISHED: Final = Refusal("workflow.finished", "the workflow has ended")
_NOT_SUBMITTER: Final = Refusal("workflow.not_submitter", "only the submitter or a decider may cancel a workflow")
_MALFORMED: Final = Refusal("workflow.malformed", "the body or the subject of this fact is not what its event demands")
_KEY: Final = Refusal("workflow.key", "the key of a workflow is its id")
_OUT_OF_PLACE: Final = Refusal("workflow.out_of_place", "a workflow in this state cannot do that")


class Workflow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A workflow as its own facts leave it.  Mutable: `apply` changes it."""

    tenant: str
    id: str
    status: Status = "running"
    name: str = ""
    """Of its definition, as far as that can be read,"""
    version: str = ""
    submitter: str = ""
    instance: str | None = None
    parent: flow.Parent | None = None
    started_seq: int = 0
    """Of the newest statement of it: the first, or the newest restatement."""
    started_at: float = 0.0
    """Broker's clock, Unix seconds."""
    ended_at: float | None = None
    event_id: str = ""
    payload_hash: str = ""
    correlation_id: str | None = None
    error: str | None = None
    """Of its failure or cancellation: what kind,"""
    message: str | None = None
    """in words,"""
    step: str | None = None
    """and where."""
    undone: bool = False
    """Cancelled: what was completed has been compensated."""
    restated: int = 0
    rerun_of: str | None = None
    """The workflow whose steps it has taken over."""

    @property
    def ended(self) -> bool:
        """Whether its outcome is known."""
        return self.status in ENDED

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact of this workflow; None: believed.  A refused one has changed nothing."""
        event = fact.event
        if not self.started_seq and event != "started":
            return _UNKNOWN
        try:
            if event == "started":
                return self._started(fact)
            if (self.status, event) not in TRANSITIONS:
                return _FINISHED if self.ended else (_OUT_OF_PLACE if event in _EVENTS else _MALFORMED)
            return self._went_on(fact, event)
        except WireError as exc:
            return Refusal(_MALFORMED.code, exc.message)

    def _started(self, fact: StoredFact) -> Refusal | None:
        if fact.key != fact.id:
            return _KEY
        said = decode(fact, flow.Started)
        decided = is_decider(fact.agent)
        if not self.started_seq:
            self._begin(fact, said, decided=decided)
            return None
        if decided and said.restated > self.restated and (not self.ended or self.status == "cancelled"):
            self.started_seq, self.restated = fact.seq, said.restated
            return None
        if payload_hash(said) == self.payload_hash:
            return _REPEATED
        return Refusal(_EXISTS.code, f"{_EXISTS.reason}: {self.event_id}, by {self.submitter}")

    def _begin(self, fact: StoredFact, said: flow.Started, *, decided: bool) -> None:
        carried = _carried(said) if decided and said.restated else None
        self.started_seq, self.started_at = fact.seq, fact.stored_at.timestamp()
        self.submitter, self.instance = fact.agent, said.instance
        self.parent = said.parent if decided else None
        self.event_id, self.payload_hash = fact.event_id, payload_hash(said)
        self.correlation_id = fact.correlation_id
        self.name, self.version = _named(said.definition)
        self.rerun_of = None if said.rerun is None else said.rerun.of[: limits.TOKEN_BYTES_MAX]
        if carried is not None:
            for name in Carried.__struct_fields__:
                setattr(self, name, getattr(carried, name))
            self.restated = said.restated

    def _went_on(self, fact: StoredFact, event: str) -> Refusal | None:
        if event in ("decided", "joined"):
            if len(fact.detail) != 1:
                return _MALFORMED
        elif event == "compensating":
            said = decode(fact, flow.Compensating)
            if self.status == "running":
                self.status = "compensating"
                self.error, self.message, self.step = said.error, said.message, said.step
        elif event == "compensated":
            self.undone = True
        elif event == "completed":
            self._end(fact, "completed")
        elif event == "failed":
            failed = decode(fact, flow.Failed)
            self._end(fact, "failed")
            self.error, self.message, self.step = failed.error, failed.message, failed.step
        elif event == "cancelled":
            cancelled = decode(fact, flow.Cancelled)
            if not is_decider(fact.agent) and fact.agent != self.submitter:
                return _NOT_SUBMITTER
            self._end(fact, "cancelled")
            self.error, self.message = "cancelled", cancelled.reason
        return None

    def _end(self, fact: StoredFact, status: Status) -> None:
        self.status, self.ended_at = status, fact.stored_at.timestamp()


_EVENTS: Final = frozenset(event for _, event in TRANSITIONS)


class Carried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a workflow's own facts had come to before it was stated again."""

    status: Status = "running"
    submitter: str = ""
    instance: str | None = None
    parent: flow.Parent | None = None
    started_at: float = 0.0
    event_id: str = ""
    payload_hash: str = ""
    error: str | None = None
    message: str | None = None
    step: str | None = None
    ended_at: float | None = None


def carried(life: Workflow) -> Carried:
    """Of a workflow that is stated again."""
    return Carried(**{name: getattr(life, name) for name in Carried.__struct_fields__})


def _carried(said: flow.Started) -> Carried:
    try:
        return msgspec.convert(said.carried, Carried)
    except msgspec.ValidationError as exc:
        raise InvalidPayload(f"not what a workflow had come to: {exc}") from exc


class _Named(msgspec.Struct, frozen=True):
    name: str = ""
    version: str = ""


def _named(definition: msgspec.Raw) -> tuple[str, str]:
    try:
        named = msgspec.json.decode(definition, type=_Named)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", ""  # the decider says what is wrong with it
    return named.name[:64], (named.version or "1")[:64]


def fold(facts: list[StoredFact]) -> tuple[Workflow | None, list[tuple[StoredFact, Refusal]]]:
    """One workflow's own facts in log order: what it is now, and what was not believed."""
    life: Workflow | None = None
    refused: list[tuple[StoredFact, Refusal]] = []
    for fact in facts:
        if life is None:
            life = Workflow(tenant=fact.tenant, id=fact.id)
        refusal = life.apply(fact)
        if refusal is not None:
            refused.append((fact, refusal))
    return (life if life is not None and life.started_seq else None), refused


def beginning(facts: Iterable[StoredFact]) -> StoredFact | None:
    """Of one workflow's facts, in log order, the `started` that is believed; None: there is none."""
    for fact in facts:
        if fact.kind == "workflow" and Workflow(tenant=fact.tenant, id=fact.id).apply(fact) is None:
            return fact
    return None


def payload_hash(said: flow.Started) -> str:
    """What makes two starts of one id the same: definition, input, and what they take over."""
    words = bytes(said.definition) + b"\0" + bytes(said.input)
    if said.rerun is not None:
        words += b"\0" + msgspec.json.encode(said.rerun)
    return hashlib.blake2b(words, digest_size=12).hexdigest()


def decode(fact: StoredFact, to: type[T]) -> T:
    """The body as that type, members kept raw as JSON; nothing and null are its defaults."""
    if fact.says_nothing:
        return to()
    try:
        return msgspec.json.decode(fact.body if fact.content == "json" else fact.json_text, type=to)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidPayload(f"not what this event says: {exc}") from exc


def shown(raw: bytes) -> Any:
    """What raw JSON says."""
    return msgspec.json.decode(raw) if raw else None
