"""Handoffs: the fold of one, and who is asked next.

::

              offered (to an agent)            accepted.{n}, by the addressee
    (nothing) ─────────────────────▶ offered ──────────────────────────────────▶ accepted
        │                            ▲    │ declined.{n}
        │ offered (to a capability)  │    ▼
        └──────────────────────────▶ seeking ── expired ──▶ expired
              offered.{n}, escalated.{n}  ▲ │
                                          └─┘         (offered, seeking) ── withdrawn ──▶ withdrawn

Who is asked next depends on who is there, which no log says: so the decider states it, once per
step, and from then on everybody knows the same.  Of those who have the capability and were not
asked yet, the least loaded; when enough of them declined, were silent or gone, the coordinator of
the last one asked (what agents register as theirs), then the coordinator's own, up to the top; where
nobody was there to be asked, the offerer's.  When nobody is left it expires: ``expired.{n}`` says that there is no
step n, and is not believed where there was one.

Who is asked by name may not be there yet: whichever instance of it comes while the offer is open is told then.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.core.deciding import NONE, Effect, Folding, Presence, Push, State
from coord.core.presence import PresenceTable, Row
from coord.core.tasks import Refusal, decode
from coord.errors import WireError
from coord.wire import handing as wire
from coord.wire import work
from coord.wire.envelope import StoredFact
from coord.wire.handing import Accepted, Declined, Ended, Held, Offered, Step, Why

AGENT: Final = "_handoff"

Status: TypeAlias = Literal["offered", "seeking", "accepted", "withdrawn", "expired"]

ENDED: Final = frozenset({"accepted", "withdrawn", "expired"})

TRANSITIONS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    # (status or "-", event) → what it may become.  "step": offered.{n} by the decider.
    ("-", "offered"): ("offered", "seeking"),
    ("seeking", "step"): ("offered",),
    ("offered", "step"): ("offered",),  # whoever was asked was silent, or is gone
    ("seeking", "escalated"): ("offered",),
    ("offered", "escalated"): ("offered",),
    ("offered", "accepted"): ("accepted",),
    ("offered", "declined"): ("seeking",),
    ("offered", "withdrawn"): ("withdrawn",),
    ("seeking", "withdrawn"): ("withdrawn",),
    ("offered", "expired"): ("expired",),
    ("seeking", "expired"): ("expired",),
}

_MALFORMED: Final = "handoff.malformed"
_TOLD: Final = Refusal("handoff.told", "it took place elsewhere and is told here: nobody is asked")
_UNKNOWN: Final = Refusal("handoff.unknown", "no handoff of this id was offered")
_EXISTS: Final = Refusal("handoff.exists", "a handoff of this id was offered before, and it was another one")
_REPEATED: Final = Refusal("handoff.repeated", "this was offered before")
_FINISHED: Final = Refusal("handoff.finished", "the handoff has ended")
_OVERTAKEN: Final = Refusal("handoff.overtaken", "silence or a death led to it, and something else was stated first")
_NOT_ADDRESSEE: Final = Refusal("handoff.not_addressee", "only whoever is asked in this step may answer")
_NOT_OFFERER: Final = Refusal("handoff.not_offerer", "only whoever offered it, or a decider, may withdraw it")
_STEP: Final = Refusal("handoff.step", "it is not the next step")
_FULL: Final = Refusal("handoff.too_many", "too many handoffs are open")

Ident: TypeAlias = tuple[str, str, str]
"""(tenant, key, id)."""


_ASKS: Final = frozenset(Offered.__struct_fields__) - {"reason"}
"""What only somebody says who wants an answer: with any of it, `to` is a mistake that its author must hear of."""


def _is_told(fact: StoredFact) -> bool:
    """Whether it only says ``to`` whom something went, as recorded conversations do."""
    try:
        said = decode(fact, dict)
    except WireError:
        return False
    return fact.event == "offered" and said.get("to") is not None and all(said.get(name) is None for name in _ASKS)


class Handoff(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One handoff as its facts leave it.  Mutable: `apply` changes it."""

    tenant: str
    key: str
    id: str
    status: Status = "seeking"
    said: Offered = Offered()
    offerer: str = ""
    offered_at: float = 0.0
    """Broker's clock, Unix seconds."""
    n: int = 0
    """The step; 0: nobody was asked yet."""
    addressee: str | None = None
    """Who is asked, or has accepted; None: nobody is."""
    instance: str | None = None
    since: float = 0.0
    """When its status, or the step, began."""
    tried: tuple[str, ...] = ()
    """Who was asked, in order."""
    escalations: int = 0
    """How often it went to a coordinator."""
    reason: str = ""
    """Of the last refusal, withdrawal or expiry."""
    ended_at: float | None = None
    seq: int = 0
    """Of the offer that the log has."""
    event_id: str = ""
    """Of the first one."""
    payload_hash: str = ""
    """Of what was offered; empty: the fold is of a release that kept none."""

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self.status in ENDED

    @property
    def answer_by(self) -> float:
        """When the step, or the search for somebody to ask, is given up."""
        return self.since + self.said.timeout_ms / 1000

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact of this handoff; None: believed.  A refused one has changed nothing."""
        try:
            if fact.event == "offered" and (not fact.agent.startswith("_") or len(fact.detail) != 1):
                return self._offered(fact, wire.check(decode(fact, Offered)))
            if not self.seq:
                return _UNKNOWN
            if self.ended:
                return _OVERTAKEN if fact.agent == AGENT else _FINISHED
            return self._open(fact)
        except WireError as exc:
            return _TOLD if _is_told(fact) else Refusal(_MALFORMED, exc.message)

    def _offered(self, fact: StoredFact, said: Offered) -> Refusal | None:
        at = fact.stored_at.timestamp()
        held = said.held if fact.agent == AGENT else None
        if self.seq:
            if held is not None and said.restated > self.said.restated and not self.ended:
                self.said, self.seq = said, fact.seq
                return None
            if payload_hash(said) == self.payload_hash:
                return _REPEATED
            return Refusal(_EXISTS.code, f"{_EXISTS.reason}: {self.event_id}, by {self.offerer}")
        if fact.detail and held is None:
            return Refusal(_MALFORMED, "an offer has no detail tokens")
        self.said, self.seq, self.payload_hash = said, fact.seq, payload_hash(said)
        self.offerer, self.offered_at, self.since, self.event_id = fact.agent, at, at, fact.event_id
        if held is not None:
            for name in Held.__struct_fields__:
                setattr(self, name, getattr(held, name))
        elif said.agent is not None:
            self.n, self.addressee, self.tried = 1, said.agent, (said.agent,)
        self.status = "seeking" if self.addressee is None else "offered"
        return None

    def _open(self, fact: StoredFact) -> Refusal | None:
        at, event = fact.stored_at.timestamp(), fact.event
        if event in ("withdrawn", "expired"):
            if event == "withdrawn" and fact.agent != self.offerer and not fact.agent.startswith("_"):
                return _NOT_OFFERER
            if event == "expired" and fact.detail and work.number(fact.detail) != self.n + 1:
                return _OVERTAKEN  # that step there was: somebody was asked meanwhile
            self.status, self.reason = event, decode(fact, Ended).reason  # type: ignore[assignment]
            self.ended_at = at
            return None
        n = work.number(fact.detail)
        if n is None:
            return Refusal(_MALFORMED, "the number of the step is missing")
        if event in ("offered", "escalated"):
            if n != self.n + 1:
                return _STEP
            said = decode(fact, Step)
            self.n, self.addressee, self.instance, self.since = n, said.agent, said.instance, at
            self.status, self.tried = "offered", (*self.tried, said.agent)
            self.escalations += event == "escalated"
            return None
        if self.status != "offered" or n != self.n or fact.agent != self.addressee:
            return _NOT_ADDRESSEE
        if event == "accepted":
            self.instance = decode(fact, Accepted).instance
            self.status, self.since, self.ended_at = "accepted", at, at
            return None
        if event == "declined":
            self.reason = decode(fact, Declined).reason
            self.status, self.since, self.addressee, self.instance = "seeking", at, None, None
            return None
        return Refusal(_MALFORMED, "no such event of a handoff")


def fold(facts: Iterable[StoredFact]) -> Handoff | None:
    """One handoff's history in log order; None: it was never offered.

    Where its offer has left the log, what was answered while the decider stated it again stands before that: it is
    judged once more by what was stated, or what has ended would be open.
    """
    handoff: Handoff | None = None
    unknown: list[StoredFact] = []
    for fact in facts:
        if handoff is None:
            handoff = Handoff(tenant=fact.tenant, key=fact.key, id=fact.id)
        handoff.apply(fact)
        if not handoff.seq:
            unknown.append(fact)
        elif unknown:
            for earlier in unknown:
                handoff.apply(earlier)
            unknown.clear()
    return handoff if handoff is not None and handoff.seq else None


def payload_hash(said: Offered) -> str:
    """What makes two offers of one id the same: to whom, the work and its context."""
    digest = None if said.ref is None else said.ref.digest  # of both, where they are large
    given = msgspec.json.encode((said.agent, said.capability, said.work, said.context, digest))
    plain = msgspec.json.encode(msgspec.json.decode(given), order="deterministic")  # keys were said in any order
    return hashlib.blake2b(plain, digest_size=12).hexdigest()


# --- who is asked next ---------------------------------------------------------------------


def next_step(handoff: Handoff, presence: PresenceTable, why: Why) -> tuple[str, Step] | None:
    """(event, who) of the next step; None: nobody is left, or nobody is there yet."""
    if handoff.n >= limits.HANDOFF_STEPS_MAX:
        return None
    capability = handoff.said.capability
    asked = len(handoff.tried) - handoff.escalations
    if capability is not None and not handoff.escalations and asked < handoff.said.candidates_max:
        rows = [row for row in presence.rows(handoff.tenant, capability) if _may(row, handoff)]
        if rows:
            best = min(rows, key=lambda row: (row.beat.load, _draw(handoff, row)))
            agents = {row.agent for row in rows}
            return "offered", Step(best.agent, best.instance, why, best.beat.load, len(agents))
        if not handoff.tried:
            return None  # nobody is there yet
    return _escalation(handoff, presence, why)


def _escalation(handoff: Handoff, presence: PresenceTable, why: Why) -> tuple[str, Step] | None:
    if not handoff.said.escalate:
        return None
    for below in (*reversed(handoff.tried), handoff.offerer):
        above = _coordinator(presence, handoff.tenant, below)
        if above is not None and above not in handoff.tried and above != handoff.offerer:
            return "escalated", Step(above, None, why)
    return None


def _coordinator(presence: PresenceTable, tenant: str, agent: str) -> str | None:
    named = {
        row.about.coordinator
        for row in presence.instances(tenant, agent)
        if row.about is not None and row.about.coordinator is not None
    }
    return min(named, default=None)


def _may(row: Row, handoff: Handoff) -> bool:
    return row.state == "alive" and row.takes and row.agent not in handoff.tried and row.agent != handoff.offerer


def _draw(handoff: Handoff, row: Row) -> bytes:
    """Among equals: another one for each handoff."""
    return hashlib.blake2b(f"{handoff.id}\0{row.agent}\0{row.instance}".encode(), digest_size=8).digest()


# --- the decider ---------------------------------------------------------------------------


class _Dump(msgspec.Struct):
    """A snapshot; only grows."""

    handoffs: list[Handoff] = []


_TOLD_A_LOOK: Final = 256
"""Offers of which those are told at one look who have just come,"""
_TOLD_EACH: Final = limits.HANDOFFS_AT_ONCE // 2
"""and so many each, since who thinks about too many declines the others: the rest follows at the next."""


class _Named(msgspec.Struct):
    """Offers to one agent, by its name: to all instances of it that are there, and to those that come."""

    offers: dict[Ident, None] = {}
    """In the order of the log."""
    met: set[str] = set()
    """Instances that are there, and heard of the offers or are owed them."""
    owed: dict[str, list[Ident]] = {}
    """Instance → what it is still to be told, the first at the end."""

    def look(self, there: Iterable[Row]) -> None:
        """Who has come is owed all offers; so is who has gone, when it is back."""
        rows = sorted(there, key=lambda row: row.instance)
        for row in rows:
            if row.state == "alive" and row.instance not in self.met:
                self.owed[row.instance] = list(reversed(self.offers))
        self.met = {row.instance for row in rows if row.state != "gone" and row.instance in self.met} | self.owed.keys()

    def take(self) -> list[tuple[str, Ident]]:
        """Some of what is owed."""
        taken = []
        for instance, owed in list(self.owed.items()):
            some = [owed.pop() for _ in range(min(_TOLD_EACH, len(owed)))]
            taken += [(instance, ident) for ident in some if ident in self.offers]
            if not owed:
                del self.owed[instance]
        return taken


class HandoffDecider(Folding):
    """Of one partition; a `coord.core.deciding.Decider`.  It holds the handoffs that are open.

    Who is there it knows from the first `tick` on, which comes before anything is decided.
    """

    name = "handoffs"
    kinds = frozenset({"handoff"})

    def __init__(self) -> None:
        super().__init__()
        self._handoffs: dict[Ident, Handoff] = {}
        self._due: list[tuple[float, Ident, int]] = []
        """A heap of (when to look, handoff, step)."""
        self._seeking: set[Ident] = set()
        """To a capability that nobody has."""
        self._asked: dict[tuple[str, str, str], set[Ident]] = {}
        """(tenant, agent, instance) → what it is asked."""
        self._named: dict[tuple[str, str], _Named] = {}
        """(tenant, agent) → what it is asked by its name, whichever instance answers."""
        self._looked: int | None = None
        """The version of presence of which all who had come were told."""
        self._presence: PresenceTable | None = None
        self._recalled: tuple[Ident, Handoff] | None = None

    def get(self, tenant: str, key: str, id: str) -> Handoff | None:  # noqa: A002 - an entity's id
        """An open handoff; not to be changed."""
        return self._handoffs.get((tenant, key, id))

    # --- facts -----------------------------------------------------------------------------

    def forgot(self, fact: StoredFact) -> bool:
        """An offer of something that is not open may be of something that has ended."""
        return fact.event == "offered" and (fact.tenant, fact.key, fact.id) not in self._handoffs

    def recall(self, facts: list[StoredFact]) -> None:
        """What is known of a handoff that is offered once more."""
        handoff = fold(facts)
        if handoff is not None:
            self._recalled = (handoff.tenant, handoff.key, handoff.id), handoff

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact of a handoff."""
        ident = (fact.tenant, fact.key, fact.id)
        handoff = self._handoffs.get(ident)
        recalled, self._recalled = self._recalled, None
        if handoff is None and recalled is not None and recalled[0] == ident:
            handoff = recalled[1]
        if handoff is None:
            if len(self._handoffs) >= limits.HANDOFFS_MAX:
                self.refused[_FULL.code] += 1
                return NONE
            handoff = Handoff(tenant=fact.tenant, key=fact.key, id=fact.id)
        seq, asked, instance = handoff.seq, handoff.addressee, handoff.instance
        refusal = handoff.apply(fact)
        if refusal is not None:
            self.refused[refusal.code] += 1
            return NONE
        if seq and handoff.seq != seq:
            return NONE  # stated again
        if asked is not None:
            self._unask((fact.tenant, asked), instance, ident)
        self._seeking.discard(ident)
        if handoff.ended:
            self._handoffs.pop(ident, None)
            return self._ended(handoff, fact)
        self._handoffs[ident] = handoff
        return self._goes_on(ident, handoff, fact)

    def _goes_on(self, ident: Ident, handoff: Handoff, fact: StoredFact) -> Iterable[Effect]:
        heapq.heappush(self._due, (handoff.answer_by, ident, handoff.n))
        if handoff.status == "offered":
            self._ask(ident, handoff)
            effects: list[Effect] = [_offer(handoff)]
            if fact.event == "escalated":
                effects.append(_tell(handoff, "escalated", to=handoff.addressee))
            return effects
        effects = [_tell(handoff, "declined", by=fact.agent, reason=handoff.reason)] if fact.event == "declined" else []
        effects += self._next(ident, handoff, "declined" if fact.event == "declined" else "offered")
        return effects

    def _ended(self, handoff: Handoff, fact: StoredFact) -> Iterable[Effect]:
        if handoff.status == "accepted":
            note = decode(fact, Accepted).note
            return (_tell(handoff, "accepted", by=handoff.addressee, note=note),)
        effects: list[Effect] = []
        if handoff.status == "expired":
            effects.append(_tell(handoff, "expired", reason=handoff.reason))
        if handoff.addressee is not None:  # whoever thinks about it need not
            body = {"what": "over", "key": handoff.key, "id": handoff.id, "n": handoff.n, "instance": handoff.instance}
            effects.append(Push(handoff.tenant, handoff.addressee, handoff.instance, wire.TOPIC, body))
        return effects

    # --- who is next -----------------------------------------------------------------------

    def _next(self, ident: Ident, handoff: Handoff, why: Why) -> list[Effect]:
        """Ask the next one; where nobody is there yet, wait for one, until it is given up."""
        if self._presence is None:
            self._seeking.add(ident)  # the first tick asks
            return []
        step = next_step(handoff, self._presence, why)
        if step is not None:
            return [_step(handoff, *step)]
        if handoff.said.capability is not None and not handoff.tried:
            self._seeking.add(ident)
            return []
        return [_expired(handoff, why)]

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:  # noqa: ARG002
        """Whoever was asked is no more: the next one is."""
        effects: list[Effect] = []
        for ident in sorted(self._asked.get((tenant, agent, instance), ())):
            effects += self._next(ident, self._handoffs[ident], "gone")
        return effects

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        """Steps without an answer; capabilities that somebody has now."""
        effects: list[Effect] = []
        if isinstance(presence, PresenceTable):
            self._presence = presence
        while self._due and self._due[0][0] <= now:
            _, ident, n = heapq.heappop(self._due)
            handoff = self._handoffs.get(ident)
            if handoff is None or handoff.n != n or handoff.answer_by > now:
                continue
            heapq.heappush(self._due, (now + handoff.said.timeout_ms / 1000, ident, n))
            effects += self._late(ident, handoff)
        effects += self._tell_who_came()
        for ident in sorted(self._seeking):
            handoff = self._handoffs[ident]
            step = None if self._presence is None else next_step(handoff, self._presence, "offered")
            if step is not None:
                effects.append(_step(handoff, *step))
        return effects

    def _late(self, ident: Ident, handoff: Handoff) -> list[Effect]:
        if handoff.status == "offered":
            return self._next(ident, handoff, "silent" if self._is_there(handoff) else "nobody")
        if ident in self._seeking and self._presence is not None and next_step(handoff, self._presence, "offered"):
            return []  # somebody has just come
        # Nobody has the capability: that is for the offerer's coordinator.
        above = None if self._presence is None else _escalation(handoff, self._presence, "nobody")
        return [_expired(handoff, "nobody") if above is None else _step(handoff, *above)]

    def _is_there(self, handoff: Handoff) -> bool:
        """Whether whoever was asked is heard of; who is not may be a plain client, or a name with a slip."""
        if self._presence is None or self._presence.doubts or handoff.addressee is None:
            return True
        return any(row.state != "gone" for row in self._presence.instances(handoff.tenant, handoff.addressee))

    def _tell_who_came(self) -> list[Effect]:
        """Of what is asked by name: what was pushed before somebody came reached nobody."""
        effects: list[Effect] = []
        if self._presence is None or self._presence.version == self._looked:
            return effects
        is_all = True
        for at, named in self._named.items():
            if len(effects) >= _TOLD_A_LOOK:
                return effects
            named.look(self._presence.instances(*at))
            effects += [_offer(self._handoffs[ident], to=instance) for instance, ident in named.take()]
            is_all = is_all and not named.owed
        self._looked = self._presence.version if is_all else None
        return effects

    def _ask(self, ident: Ident, handoff: Handoff) -> None:
        """Keep in mind who is asked."""
        assert handoff.addressee is not None, "of an offer"
        at = (handoff.tenant, handoff.addressee)
        if handoff.instance is not None:
            self._asked.setdefault((*at, handoff.instance), set()).add(ident)
            return
        named = self._named.get(at)
        if named is None:
            named = self._named[at] = _Named({}, set(), {})
            self._looked = None
            if self._presence is not None:  # those are told with all of its name
                named.look(self._presence.instances(*at))
                named.owed.clear()
        named.offers[ident] = None

    def _unask(self, agent: tuple[str, str], instance: str | None, ident: Ident) -> None:
        if instance is None:
            named = self._named.get(agent)
            if named is not None:
                named.offers.pop(ident, None)
                if not named.offers:
                    del self._named[agent]
            return
        holder = (*agent, instance)
        asked = self._asked.get(holder, set())
        asked.discard(ident)
        if not asked:
            self._asked.pop(holder, None)

    # --- the window, snapshots ---------------------------------------------------------------

    def edge(self, seq: int) -> Iterable[Effect]:
        """Offers that were made long ago are stated again, as they stand."""
        return (_again(handoff) for handoff in list(self._handoffs.values()) if handoff.seq < seq)

    def oldest(self) -> int | None:
        """Of the offers that are open."""
        return min((handoff.seq for handoff in self._handoffs.values()), default=None)

    def dump(self) -> Any:
        """The open ones."""
        return _Dump(list(self._handoffs.values()))

    def load(self, dumped: Any) -> None:
        """The same again; what nobody answered meanwhile is looked at, and who is asked by name told once more."""
        self._handoffs, self._due, self._seeking, self._asked, self._named = {}, [], set(), {}, {}
        self._presence = self._looked = None  # whoever is there then has come
        for handoff in msgspec.convert(dumped, _Dump).handoffs:
            ident = (handoff.tenant, handoff.key, handoff.id)
            self._handoffs[ident] = handoff
            self._due.append((handoff.answer_by, ident, handoff.n))
            if handoff.status == "seeking":
                self._seeking.add(ident)
            else:
                self._ask(ident, handoff)
        heapq.heapify(self._due)

    def open_count(self) -> int:
        """Open handoffs."""
        return len(self._handoffs)


def _offer(handoff: Handoff, *, to: str | None = None) -> Push:
    """`to`: the instance that has just come; None: whoever is asked."""
    instance = to or handoff.instance
    said = msgspec.to_builtins(msgspec.structs.replace(handoff.said, held=None, restated=0, instance=None))
    body = {
        **said, "what": "offered", "key": handoff.key, "id": handoff.id, "n": handoff.n, "instance": instance,
        "from": handoff.offerer, "tried": handoff.tried[:-1], "escalated": bool(handoff.escalations),
    }  # fmt: skip
    assert handoff.addressee is not None
    return Push(handoff.tenant, handoff.addressee, instance, wire.TOPIC, body)


def _tell(handoff: Handoff, what: str, **more: Any) -> Push:
    """The offerer."""
    told = handoff.said.instance
    body = {"what": what, "key": handoff.key, "id": handoff.id, "n": handoff.n, "instance": told, **more}
    return Push(handoff.tenant, handoff.offerer, told, wire.TOPIC, body)


def _step(handoff: Handoff, event: str, step: Step) -> State:
    n = handoff.n + 1
    return State(
        tenant=handoff.tenant, agent=AGENT, key=handoff.key, kind="handoff", id=handoff.id, event=event,
        detail=(str(n),), data=msgspec.to_builtins(step), once="own", step=f"step.{handoff.id}", attempt=n,
        from_outside=True,
    )  # fmt: skip


def _expired(handoff: Handoff, why: Why) -> State:
    n = handoff.n + 1
    return State(
        tenant=handoff.tenant, agent=AGENT, key=handoff.key, kind="handoff", id=handoff.id, event="expired",
        detail=(str(n),), data={"reason": why}, once="own", step=f"expired.{handoff.id}", attempt=n, from_outside=True,
    )  # fmt: skip


def _again(handoff: Handoff) -> State:
    n = handoff.said.restated + 1
    held = Held(**{name: getattr(handoff, name) for name in Held.__struct_fields__})
    said = msgspec.structs.replace(handoff.said, restated=n, held=held)
    return State(
        tenant=handoff.tenant, agent=AGENT, key=handoff.key, kind="handoff", id=handoff.id, event="offered",
        detail=("again", str(n)), data=msgspec.to_builtins(said), once="own", step=f"again.{handoff.id}", attempt=n,
        from_outside=True,
    )  # fmt: skip
