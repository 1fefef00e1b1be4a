"""What is said about handoffs: the data of the facts of kind `handoff`, in docs/protocol.md §16.8.

A **handoff** passes a piece of work with its context to one agent, or to whoever has a capability:
the entity (tenant, key, ``handoff``, id).  It goes in *steps*: each has one addressee, who accepts or
declines it; step 1 of one to an agent is the offer itself, every other is stated by ``_handoff``.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.errors import InvalidPayload
from coord.wire.numbers import Count, check_integers
from coord.wire.subjects import check_token
from coord.wire.work import Reference

TOPIC: Final = "handoff"
"""Of pushes.  To an addressee: ``{"what": "offered", "key", "id", "n", "instance", "from", …}`` with what `Offered`
has.  To whoever offered: ``{"what": "accepted"|"declined"|"escalated"|"expired", "key", "id", "instance", …}``."""

Why: TypeAlias = Literal["offered", "declined", "silent", "gone", "nobody"]


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a handoff that the decider states again."""

    offerer: str
    offered_at: float
    n: Count = 0
    addressee: str | None = None
    instance: str | None = None
    since: float = 0.0
    tried: tuple[str, ...] = ()
    escalations: Count = 0
    event_id: str = ""


class Offered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``handoff.offered``: to exactly one of `agent` and `capability`."""

    agent: str | None = None
    capability: str | None = None
    work: Any = None
    context: Any = None
    ref: Reference | None = None
    """Of ``{"work": …, "context": …}`` that is too large for the log; instead of both."""
    reason: str = ""
    timeout_ms: int = limits.HANDOFF_TIMEOUT_MS
    """Whoever has not answered by then has declined."""
    candidates_max: int = limits.HANDOFF_CANDIDATES
    """Agents with the capability that are asked before it escalates."""
    escalate: bool = True
    """Whether it goes to a coordinator where nobody takes it."""
    instance: str | None = None
    """Who is told what becomes of it."""
    restated: Count = 0
    held: Held | None = None
    """With `restated`; believed of a decider."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """``handoff.offered.{n}`` and ``handoff.escalated.{n}``, by the decider: who is asked next, and why."""

    agent: str
    instance: str | None = None
    """Which one of its instances is told; None: all."""
    reason: Why = "offered"
    load: float | None = None
    """Of the instance, as its heartbeats said."""
    candidates: Count = 0
    """How many could have been asked."""


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """``handoff.accepted.{n}``: the addressee of step n has the work now."""

    instance: str | None = None
    note: Any = None


class Declined(msgspec.Struct, frozen=True, omit_defaults=True):
    """``handoff.declined.{n}``: the addressee of step n does not take it."""

    reason: str = ""


class Ended(msgspec.Struct, frozen=True, omit_defaults=True):
    """``handoff.withdrawn`` and ``handoff.expired``."""

    reason: str = ""


def check(said: Offered) -> Offered:
    """Itself, or `InvalidPayload`/`InvalidToken` naming what is wrong."""
    if (said.agent is None) == (said.capability is None):
        raise InvalidPayload("a handoff goes to an agent or to a capability")
    check_token(said.agent or said.capability or "", "agent" if said.agent else "capability")
    if not limits.HANDOFF_TIMEOUT_MIN_MS <= said.timeout_ms <= limits.HANDOFF_TIMEOUT_MAX_MS:
        raise InvalidPayload("timeout_ms is out of range", timeout_ms=said.timeout_ms)
    if not 1 <= said.candidates_max <= limits.HANDOFF_STEPS_MAX:
        raise InvalidPayload(f"candidates_max is 1 to {limits.HANDOFF_STEPS_MAX}", candidates_max=said.candidates_max)
    if len(msgspec.json.encode((said.work, said.context))) > limits.HANDOFF_BYTES:
        raise InvalidPayload(f"work and context have at most {limits.HANDOFF_BYTES} bytes: give more by ref")
    check_integers(said.work, said.context)
    return said
