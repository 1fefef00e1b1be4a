"""Who may state what: the table (kind, event) → author, service class, frames, schema.

Part of the table can be decided from the subject alone: that an agent speaks about itself,
that a decider's fact comes from a decider.  ``check`` does that, for every reader.  Who
holds a claim or submitted a task is known only to whoever folds the entity's history:
those rules (CLAIMANT, SUBMITTER, ADDRESSEE) are checked in the folds, and here only for
not being a decider's name.

Kinds in the table are *reserved*: an event of theirs that is not listed is refused, so
that a name which will mean something later cannot be squatted today.  Every other kind is
an application's: any agent may state it, as a single message.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import Final, Literal

import msgspec

from coord.errors import FrameNotAllowed, KeyMismatch, Unauthorised, UnknownSchema
from coord.wire.subjects import FactSubject, is_decider
from coord.wire.understood import GROWN

ServiceClass = Literal["critical", "status", "metrics"]


class Author(enum.Enum):
    """Who may state a fact."""

    ANYONE = "anyone"
    SELF = "self"  # the agent whose id the entity has
    DECIDER = "decider"  # an agent whose name begins with "_"
    CLAIMANT = "claimant"  # whoever holds the entity's current claim (decided by the fold)
    SUBMITTER = "submitter"  # whoever stated the entity's first fact (decided by the fold)
    ADDRESSEE = "addressee"  # whoever the entity was addressed to (decided by the fold)


class Rule(msgspec.Struct, frozen=True):
    """What holds for one (kind, event)."""

    author: Author
    service_class: ServiceClass = "critical"
    frames: bool = False
    """Whether it may travel in frames: only what has no terminal meaning may."""
    schema: int | None = 1
    """The newest payload version this release knows; None: any (the application's own)."""
    deciders: bool = False
    """Whether a decider may state it too (a workflow's decider submits tasks)."""


_A = Author
TABLE: Final[dict[tuple[str, str], Rule]] = {
    # An agent about itself, and the presence decider about it.
    ("agent", "registered"): Rule(_A.SELF),
    ("agent", "status"): Rule(_A.SELF, "status", frames=True),
    ("agent", "changed"): Rule(_A.SELF, "status", frames=True),
    ("agent", "draining"): Rule(_A.SELF),
    ("agent", "left"): Rule(_A.SELF),
    ("agent", "suspected"): Rule(_A.DECIDER),
    ("agent", "gone"): Rule(_A.DECIDER),
    ("agent", "returned"): Rule(_A.DECIDER),
    ("agent", "quarantined"): Rule(_A.DECIDER),
    ("agent", "released"): Rule(_A.DECIDER),
    # A task: submitted.{capability}.{priority}, claimed.{n}, returned.{n}, released.{n}, placed.{n}.
    ("task", "submitted"): Rule(_A.ANYONE, deciders=True),
    ("task", "claimed"): Rule(_A.CLAIMANT),
    ("task", "progress"): Rule(_A.CLAIMANT, "status", frames=True),
    ("task", "recorded"): Rule(_A.CLAIMANT),
    ("task", "completed"): Rule(_A.CLAIMANT),
    ("task", "failed"): Rule(_A.CLAIMANT),
    ("task", "rejected"): Rule(_A.CLAIMANT),
    ("task", "returned"): Rule(_A.CLAIMANT),
    ("task", "released"): Rule(_A.DECIDER),
    ("task", "cancelled"): Rule(_A.SUBMITTER, deciders=True),
    ("task", "expired"): Rule(_A.DECIDER),
    ("task", "placed"): Rule(_A.DECIDER),
    # A workflow.
    ("workflow", "started"): Rule(_A.ANYONE, schema=GROWN, deciders=True),
    ("workflow", "progress"): Rule(_A.DECIDER, "status", frames=True),
    ("workflow", "completed"): Rule(_A.DECIDER),
    ("workflow", "failed"): Rule(_A.DECIDER),
    ("workflow", "cancelled"): Rule(_A.SUBMITTER, deciders=True),
    ("workflow", "compensating"): Rule(_A.DECIDER),
    ("workflow", "compensated"): Rule(_A.DECIDER),
    ("workflow", "decided"): Rule(_A.DECIDER),
    ("workflow", "joined"): Rule(_A.DECIDER),
    # The ordered rules that a decision step of a workflow asks.
    ("rules", "set"): Rule(_A.ANYONE, deciders=True),
    ("rules", "asked"): Rule(_A.DECIDER),
    # A piece of work with its context, passed on.
    ("handoff", "offered"): Rule(_A.ANYONE, deciders=True),
    ("handoff", "accepted"): Rule(_A.ADDRESSEE),
    ("handoff", "declined"): Rule(_A.ADDRESSEE),
    ("handoff", "withdrawn"): Rule(_A.SUBMITTER, deciders=True),
    ("handoff", "escalated"): Rule(_A.DECIDER),
    ("handoff", "expired"): Rule(_A.DECIDER),
    # A durable latch, and who waits for it.
    ("signal", "raised"): Rule(_A.ANYONE, deciders=True),
    ("signal", "awaited"): Rule(_A.ANYONE, deciders=True),
    ("signal", "resumed"): Rule(_A.ANYONE, deciders=True),
    ("signal", "deadlocked"): Rule(_A.DECIDER),
    # A lock, an election or a semaphore: who has it is a fold of these, in log order.
    ("lock", "requested"): Rule(_A.ANYONE, deciders=True),  # stated again, near the end of the window
    ("lock", "released"): Rule(_A.ANYONE),
    ("lock", "revoked"): Rule(_A.DECIDER),
    # A timer: asked for by anyone, fired by the timer decider.
    ("timer", "set"): Rule(_A.ANYONE, schema=GROWN, deciders=True),
    ("timer", "cancelled"): Rule(_A.SUBMITTER, deciders=True),
    ("timer", "fired"): Rule(_A.DECIDER),
    ("timer", "skipped"): Rule(_A.DECIDER),
    # A feature flag.
    ("flag", "set"): Rule(_A.ANYONE, deciders=True),  # as above
    ("flag", "removed"): Rule(_A.ANYONE, deciders=True),
    # How the tasks of one capability fare: its circuit.
    ("capability", "opened"): Rule(_A.DECIDER),
    ("capability", "probing"): Rule(_A.DECIDER),
    ("capability", "closed"): Rule(_A.DECIDER),
    # A step of the maintenance of the tables.
    ("maintenance", "stepped"): Rule(_A.DECIDER),
}

RESERVED_KINDS: Final = frozenset(kind for kind, _ in TABLE)

APPLICATION: Final = Rule(Author.ANYONE, schema=None)
"""The rule of every kind that is not reserved."""

APPLICATION_PROGRESS: Final = Rule(Author.ANYONE, "status", frames=True, schema=None)
"""The rule of its `progress` events: the one that may travel in frames."""


def rule_for(kind: str, event: str) -> Rule:
    """The rule of (kind, event); `Unauthorised` for an unlisted event of a reserved kind."""
    rule = TABLE.get((kind, event))
    if rule is not None:
        return rule
    if kind in RESERVED_KINDS:
        raise Unauthorised(f"{event!r} is not an event of the reserved kind {kind!r}", kind=kind, event=event)
    return APPLICATION_PROGRESS if event == "progress" else APPLICATION


@lru_cache(maxsize=1024)
def is_allowed(kind: str, event: str, schema: int, *, decider: bool) -> bool:
    """Whether `check` allows such a single message whatever its key and id; where not, `check` says what it thinks."""
    rule = TABLE.get((kind, event))
    if rule is None or kind == "agent" or rule.author is Author.SELF:
        return False
    return (rule.deciders or rule.author is Author.DECIDER if decider else rule.author is not Author.DECIDER) and (
        rule.schema is None or schema <= rule.schema
    )


def check(subject: FactSubject, *, schema: int = 1, framed: bool = False) -> Rule:
    """Check what the subject alone can decide and return the rule.

    Raises `KeyMismatch`, `Unauthorised`, `UnknownSchema` or `FrameNotAllowed`.
    """
    kind, event, agent = subject.kind, subject.event, subject.agent
    rule = rule_for(kind, event)
    if kind == "agent" and subject.key != subject.id:
        raise KeyMismatch(key=subject.key, id=subject.id)
    if is_decider(agent):
        if rule.author is not Author.DECIDER and not rule.deciders:
            raise Unauthorised(f"a decider may not state {kind}.{event}", agent=agent)
    elif rule.author is Author.DECIDER:
        raise Unauthorised(f"only a decider may state {kind}.{event}", agent=agent)
    elif rule.author is Author.SELF and agent != subject.id:
        raise Unauthorised(f"only the agent itself may state {kind}.{event}", agent=agent, id=subject.id)
    if rule.schema is not None and schema > rule.schema:
        raise UnknownSchema(schema=schema, known=rule.schema, kind=kind, event=event)
    if framed and not rule.frames:
        raise FrameNotAllowed(kind=kind, event=event)
    return rule
