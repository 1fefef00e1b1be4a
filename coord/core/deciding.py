"""What a decider is: a fold over the facts of one partition that answers with effects.

A **decider** is pure.  It is given facts in the order of the log, and answers each with what is
to be done about it: facts to state, deliveries to settle, people to tell.  The loop around it
(`coord.server.deciding`) does that and knows nothing else.

::

    facts of one partition, in log order ──apply──▶ state
                                             │
           presence, time ──gone, tick──▶    └──▶ effects:  State   a fact, once
                                                            Settle  a delivery of a queue
                                                            Push    to an agent, at most once
                                                            Arm     a timer

Exactly once.  What a decider states about fact N is a function of the facts up to N of that key.
A `State` is published with an id derived from what it is (`step`, `attempt`, `ordinal`) and on
the condition that it is the first of its kind (`once`), so two deciders, or one that folds
the same facts again after a crash, state it once.  What comes from outside the log, the
death of an agent or the passing of time, may only lead to such facts: whoever comes later
folds the fact, not the cause.

`Settle` and `Push` are not repeated when facts are folded again (`Decider.caught_up`): a decider
says then what its whole state demands (`reconcile`).

A decider holds what is open, not what is done: its memory is bounded by open work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

from coord.wire.envelope import StoredFact


class State(msgspec.Struct, frozen=True, kw_only=True):
    """State a fact, once."""

    tenant: str
    agent: str
    """The decider's name: begins with ``_``."""
    key: str
    kind: str
    id: str
    event: str
    detail: tuple[str, ...] = ()
    data: Any = None
    once: Literal["entity", "event"]
    """It must be the first fact of its entity, or the first of this event (and detail) of its entity."""
    version: str = "1"
    """Of the definition that decided it: part of the derived id, with `step`, `attempt` and `ordinal`."""
    step: str
    attempt: int = 0
    ordinal: int = 0
    causation_id: str | None = None
    """The fact that it answers."""
    correlation_id: str | None = None


class Settle(msgspec.Struct, frozen=True):
    """Answer the broker about one delivery of a queue.  Idempotent; lost ones are made good by `tick`."""

    queue: str
    """The consumer's name: `coord.wire.subjects.queue`."""
    seq: int
    """The stream sequence of the submission that was delivered."""
    how: Literal["ack", "nak", "extend"]
    delay_s: float = 0.0
    """nak: before it is delivered again."""


class Push(msgspec.Struct, frozen=True):
    """Tell an agent, at most once: who must not miss it follows the log."""

    tenant: str
    agent: str
    instance: str | None
    """None: all of its instances."""
    topic: str
    """A token: `task`, `handoff`, `lock`, …"""
    body: Any
    """JSON."""


class Arm(msgspec.Struct, frozen=True):
    """Schedule a timer on the server; the same (tenant, key, kind, id) again replaces it."""

    tenant: str
    key: str
    kind: str
    id: str
    schedule: str | None
    """JetStream's: ``@at …``, ``@every …`` or cron; None: remove it."""
    data: Any = None


class Open(msgspec.Struct, frozen=True):
    """A capability has work: its queues must exist, from this submission on."""

    tenant: str
    capability: str
    seq: int


Effect: TypeAlias = State | Settle | Push | Arm | Open

NONE: Final[tuple[Effect, ...]] = ()
"""Nothing to do: what most facts are answered with."""


class Presence(Protocol):
    """Who is there, as this process sees it."""

    def lives(self, tenant: str, agent: str, instance: str) -> bool:
        """Whether that instance was heard of recently, or may still be: doubt is True."""
        ...


class Decider(Protocol):
    """See the module.  One per kind of machine and partition; not shared."""

    name: str
    """Of its snapshot and in metrics: a token."""
    kinds: frozenset[str]
    """Facts of other kinds are not shown to it."""

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact; never raises because of what it says."""
        ...

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        """An instance is no more (Unix seconds)."""
        ...

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        """Time passes: called about every second once caught up, with Unix seconds."""
        ...

    def reconcile(self, now: float) -> Iterable[Effect]:
        """Just caught up with the log: what its state demands that may not have been done."""
        ...

    def dump(self) -> Any:
        """Its state, as values that MessagePack takes; copies, or values that are never changed."""
        ...

    def load(self, dumped: Any) -> None:
        """Become what was dumped by this or an older release."""
        ...

    def oldest(self) -> int | None:
        """The smallest stream sequence that its open work needs to stay in the log; None: nothing."""
        ...
