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

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

from coord.wire.envelope import StoredFact
from coord.wire.ids import derive_id


class Reuse(msgspec.Struct, frozen=True):
    """That a submission is of shared work: `coord.core.reuse.instead` says which task it is."""

    for_s: float
    """What was done no longer before answers,"""
    at: float
    """at that time, Unix seconds."""


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
    merge_seq: int | None = None
    """`data` is what replaces members of the data of the message at this sequence, which holds what a decider
    does not keep."""
    once: Literal["entity", "event", "own"] | None
    """It must be the first fact of its entity, or the first of this event (and detail) of its entity by whomever,
    or the first of it by this decider (and so it is for every event that deciders alone may state: anybody can put
    a forged one into the log, and nobody believes it).  None: its fold takes it once."""
    version: str = "1"
    """Of the definition that decided it: part of the derived id, with `step`, `attempt` and `ordinal`."""
    step: str
    attempt: int = 0
    ordinal: int = 0
    from_outside: bool = False
    """Whether a death or the passing of time led to it: another process may say it in other words."""
    reuse: Reuse | None = None
    """Of a task that shares its work: it may be that of a later generation, under the same event id."""
    causation_id: str | None = None
    """The fact that it answers."""
    correlation_id: str | None = None
    schema: int = 1
    """Of `data`."""


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
    together: bool = False
    """Its receiver takes several at once: an array of them, by the topic's plural."""


class Arm(msgspec.Struct, frozen=True):
    """Schedule a timer on the server; the same (tenant, key, kind, id) again replaces it."""

    tenant: str
    key: str
    kind: str
    id: str
    schedule: str | None
    """JetStream's: ``@at …``, ``@every …`` or cron; None: remove it."""
    data: Any = None
    zone: str | None = None
    """Of a cron schedule; None: UTC."""
    absent: bool = False
    """Only if there is none."""


class Open(msgspec.Struct, frozen=True):
    """A capability has work: its queues must exist, that of this submission from it on."""

    tenant: str
    capability: str
    queue: str
    seq: int


Effect: TypeAlias = State | Settle | Push | Arm | Open
"""What a decider answers with.  `State` is always performed; the others only once caught up."""

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
    refused: Counter[str]
    """Facts that it did not believe, by code; the loop takes them out."""

    def forgot(self, fact: StoredFact) -> bool:
        """Whether it would have to be shown what came before this fact of its entity (`recall`) to judge it.

        Asked for facts that the broker did not vouch to be the first of their entity, which a
        decider that keeps only what is open may have known and forgotten.
        """
        ...

    def recall(self, facts: list[StoredFact]) -> None:
        """The entity's history before the fact that comes next, in order."""
        ...

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact; never raises because of what it says."""
        ...

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        """An instance is no more (Unix seconds)."""
        ...

    def leaves(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        """An instance is no more, and has said so itself: the facts that it stated before may not be folded yet."""
        ...

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        """Time passes: called about every second once caught up, with Unix seconds."""
        ...

    def reconcile(self, now: float) -> Iterable[Effect]:
        """Just caught up with the log: what its state demands that may not have been done."""
        ...

    def edge(self, seq: int) -> Iterable[Effect]:
        """What is below this sequence leaves the log soon: state again what open work needs of it."""
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

    def open_count(self) -> int:
        """How many entities it holds."""
        ...


class Folding:
    """What most deciders do not need: a base with the hooks that may be left out."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()

    def forgot(self, fact: StoredFact) -> bool:  # noqa: ARG002
        """Nothing has to be recalled."""
        return False

    def recall(self, facts: list[StoredFact]) -> None:
        """Nothing was asked for."""

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:  # noqa: ARG002
        """Nobody's death matters."""
        return NONE

    def leaves(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:
        """No more is no more."""
        return self.gone(tenant, agent, instance, now)

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:  # noqa: ARG002
        """Time does not matter."""
        return NONE

    def reconcile(self, now: float) -> Iterable[Effect]:  # noqa: ARG002
        """Whatever was not done was stated, and is told by the log."""
        return NONE

    def edge(self, seq: int) -> Iterable[Effect]:  # noqa: ARG002
        """Nothing of the log is needed."""
        return NONE

    def oldest(self) -> int | None:
        """Nothing of the log is needed."""
        return None

    def open_count(self) -> int:
        """Not counted."""
        return 0


Place: TypeAlias = tuple[str, str, str, str, str | None, tuple[str, ...]]
"""What a `State` is the first of: tenant, key, kind, id, and event and detail where it is of those."""


def place_of(stated: State) -> Place:
    """Of a statement to be made."""
    entity = (stated.tenant, stated.key, stated.kind, stated.id)
    return (*entity, None, ()) if stated.once == "entity" else (*entity, stated.event, stated.detail)


def is_again(event_id: str, stated: State) -> bool:
    """Whether this is the id of the same beginning, stated again because it was not met in time, and stored first."""
    if stated.once != "entity":
        return False
    again = stated.attempt + 1
    return event_id == derive_id(stated.tenant, stated.key, stated.version, stated.step, again, stated.ordinal)


class Owed:
    """Statements that facts demanded and that were not met in the log yet: what is left once caught up is stated.

    So folding a history again publishes nothing that it already holds.  In order; at most one of
    a place.
    """

    def __init__(self) -> None:
        self._by_place: dict[Place, State] = {}

    def __len__(self) -> int:
        return len(self._by_place)

    def demand(self, stated: State) -> None:
        """A fact led to this."""
        self._by_place.setdefault(place_of(stated), stated)

    def meet(self, fact: StoredFact) -> None:
        """This is in the log."""
        if self._by_place:
            entity = (fact.tenant, fact.key, fact.kind, fact.id)
            self._by_place.pop((*entity, None, ()), None)
            self._by_place.pop((*entity, fact.event, fact.detail), None)

    def take(self) -> list[State]:
        """What is owed, in the order in which it was demanded; nothing is afterwards."""
        owed, self._by_place = list(self._by_place.values()), {}
        return owed
