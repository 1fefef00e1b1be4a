"""Locks, elections and semaphores: who holds one is a fold of who asked, in log order.

::

               requested.{token}            among the first `permits`
    (nothing) ───────────────────▶ waiting ───────────────────────────▶ held
                                     │ released.{token} (waits no more)   │ released.{token}
                                     ▼ revoked.{token}  (is gone)         ▼ revoked.{token}
                                   (over)                               (over)

The requests that are not over stand in the order of the log, and the first `permits` of them hold.
Nobody chooses, so nobody can choose differently: whoever reads the log knows who holds.

Epoch.  The stream sequence of the request.  It grows with every grant, because grants go in the
order of requests; so whatever is protected can refuse an epoch below the highest it has seen.  Two
epochs of one permit never overlap, by the log's order: one ends before the next one begins.

What a fold cannot know is when somebody died: the lock decider states that (`revoked`), once.
Until it has, the dead one holds.  After it has, somebody who was only thought dead holds no longer, and
what he still does carries the older epoch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, TypeAlias

import msgspec

from coord import limits
from coord.core.deciding import NONE, Effect, Folding, Presence, Push, State
from coord.core.tasks import Refusal, decode
from coord.errors import WireError
from coord.wire import locking as wire
from coord.wire.envelope import StoredFact
from coord.wire.locking import Held, Released, Requested, Revoked, Why

AGENT: Final = "_lock"

_LOOK_EVERY_S: Final = 1.0

_MALFORMED: Final = "lock.malformed"
_TAKEN: Final = Refusal("lock.token_taken", "somebody else asked under this token")
_PERMITS: Final = Refusal("lock.other_permits", "this lock is in use with another number of permits")
_FULL: Final = Refusal("lock.too_many", "too many wait for this lock")
_NOT_HELD: Final = Refusal("lock.not_held", "nobody holds or wants it under this token")
_OVERTAKEN: Final = Refusal("lock.overtaken", "the request was over when it was stated again")
_NOT_HOLDER: Final = Refusal("lock.not_holder", "only whoever asked, or a decider, may say that it is over")

Ident: TypeAlias = tuple[str, str, str]
"""(tenant, key, name)."""


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Somebody holds the lock, or waits for it."""

    token: str
    agent: str
    instance: str | None = None
    epoch: int = 0
    """The fencing number."""
    since: float = 0.0
    """Broker's clock, Unix seconds: when it was asked for,"""
    granted_at: float | None = None
    """and granted; None: it waits."""
    renewed_at: float | None = None
    ttl_s: float | None = None
    seq: int = 0
    """Of the fact that the log has of it."""
    restated: int = 0

    @property
    def expires_at(self) -> float | None:
        """When the lease ends unless it is renewed; None: it waits, or ends with the instance."""
        if self.granted_at is None or self.ttl_s is None:
            return None
        return max(self.granted_at, self.renewed_at or 0.0) + self.ttl_s


class Lock(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One lock as its facts leave it.  Mutable: `apply` changes it."""

    tenant: str
    key: str
    id: str
    """Its name."""
    permits: int = 1
    requests: dict[str, Request] = {}
    """By token, in the order of their epochs."""
    begun_seq: int = 0
    """What was stated from here on has been folded: a request of then that is not known is over; 0: nothing was."""

    @property
    def holders(self) -> list[Request]:
        """Who holds it."""
        return list(islice(self.requests.values(), self.permits))

    @property
    def waiting(self) -> list[Request]:
        """Who waits, the next one first."""
        return list(islice(self.requests.values(), self.permits, None))

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact of this lock; None: believed.  A refused one has changed nothing."""
        token = fact.detail[0] if fact.detail else ""
        if not token:
            return Refusal(_MALFORMED, "whose request it is, is missing")
        try:
            if fact.event == "requested":
                return self._request(fact, token, wire.check(decode(fact, Requested)))
            if fact.event == "released":
                decode(fact, Released)
                return self._end(fact, token)
            if fact.event == "revoked":
                return self._end(fact, token, decode(fact, Revoked).epoch)
        except WireError as exc:
            return Refusal(_MALFORMED, exc.message)
        return Refusal(_MALFORMED, "no such event of a lock")

    def _request(self, fact: StoredFact, token: str, said: Requested) -> Refusal | None:
        at = fact.stored_at.timestamp()
        held = said.held if fact.agent == AGENT else None
        known = self.requests.get(token)
        if known is not None:
            if held is not None:
                return self._again(known, held, fact.seq, said.restated)
            if known.agent != fact.agent:
                return _TAKEN
            known.renewed_at = at
            return None
        if held is not None and 0 < self.begun_seq <= held.epoch:
            return _OVERTAKEN
        if self.requests and said.permits != self.permits:
            return _PERMITS
        if len(self.requests) >= limits.LOCK_REQUESTS_MAX:
            return _FULL
        if not self.requests:
            self.permits = said.permits
        ttl_s = limits.LOCK_TTL_S if said.instance is None and said.ttl_s is None else said.ttl_s
        request = Request(
            token=token, agent=fact.agent, instance=said.instance, epoch=fact.seq, since=at, ttl_s=ttl_s, seq=fact.seq
        )
        if held is not None:
            request.restated = said.restated
            _become(request, held)
        self.requests[token] = request
        self.begun_seq = self.begun_seq or fact.seq
        if held is not None:
            self._stand_as_they_stood()
        self._grant(at)
        return None

    def _again(self, known: Request, held: Held, seq: int, restated: int) -> Refusal | None:
        """The decider says of a request that is known how it stands."""
        if held.epoch != known.epoch:
            if not self._may_be(known, held.epoch):
                return _OVERTAKEN
            _become(known, held)
            self._stand_as_they_stood()
            self._grant(held.since)
        known.seq, known.restated = seq, max(known.restated, restated)
        return None

    def _may_be(self, request: Request, epoch: int) -> bool:
        """Whether what was taken for a request renewed one of that epoch, which was made before the log begins here."""
        return not request.restated and epoch < self.begun_seq

    def _stand_as_they_stood(self) -> None:
        """In the order in which they were asked for; who is behind others then was granted nothing."""
        self.requests = dict(sorted(self.requests.items(), key=lambda item: item[1].epoch))
        for waits in self.waiting:
            waits.granted_at = None

    def _end(self, fact: StoredFact, token: str, epoch: int = 0) -> Refusal | None:
        request = self.requests.get(token)
        if request is None:
            return _NOT_HELD
        if epoch and request.epoch and epoch != request.epoch and not self._may_be(request, epoch):
            return _OVERTAKEN  # given back meanwhile, and asked for again under the same token
        if fact.agent not in (request.agent, AGENT):
            return _NOT_HOLDER
        del self.requests[token]
        self._grant(fact.stored_at.timestamp())
        return None

    def _grant(self, at: float) -> None:
        for request in islice(self.requests.values(), self.permits):
            if request.granted_at is None:
                request.granted_at = at


def _become(request: Request, held: Held) -> None:
    for name in Held.__struct_fields__:
        setattr(request, name, getattr(held, name))


def fold(facts: Iterable[StoredFact]) -> Lock | None:
    """One lock's history in log order; None without facts."""
    lock: Lock | None = None
    for fact in facts:
        if lock is None:
            lock = Lock(tenant=fact.tenant, key=fact.key, id=fact.id)
        lock.apply(fact)
    return lock


class _Dump(msgspec.Struct):
    """A snapshot; only grows."""

    locks: list[Lock] = []
    begun_seq: int = 0


class LockDecider(Folding):
    """Of one partition; a `coord.core.deciding.Decider`.  It holds the locks that somebody holds or wants."""

    name = "locks"
    kinds = frozenset({"lock"})

    def __init__(self) -> None:
        super().__init__()
        self._locks: dict[Ident, Lock] = {}
        self._begun_seq = 0
        """Of the first fact that it believed."""
        self._held: dict[tuple[str, str, str], set[tuple[Ident, str]]] = {}
        """(tenant, agent, instance) → its requests."""
        self._due: list[tuple[float, Ident, str, int]] = []
        """A heap of (when to look, lock, token, epoch): leases that end."""
        self._looked_at = 0.0

    def get(self, tenant: str, key: str, name: str) -> Lock | None:
        """A lock that is in use; not to be changed."""
        return self._locks.get((tenant, key, name))

    # --- facts -----------------------------------------------------------------------------

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact of a lock."""
        ident = (fact.tenant, fact.key, fact.id)
        lock = self._locks.get(ident)
        if lock is None:
            lock = Lock(tenant=fact.tenant, key=fact.key, id=fact.id, begun_seq=self._begun_seq)
        token = fact.detail[0] if fact.detail else ""
        before = lock.requests.get(token)
        held_before = {request.token for request in lock.holders}
        refusal = lock.apply(fact)
        if refusal is not None:
            self.refused[refusal.code] += 1
            return self._refuse(lock, fact, token, refusal)
        self._begun_seq = self._begun_seq or fact.seq
        if lock.requests:
            self._locks[ident] = lock
        else:
            self._locks.pop(ident, None)
        effects: list[Effect] = []
        request = lock.requests.get(token)
        if request is not None and before is None and request.instance is not None:
            self._held.setdefault((fact.tenant, request.agent, request.instance), set()).add((ident, token))
        if request is None and before is not None:
            self._let_go(ident, before)
            if fact.event == "revoked":
                effects.append(_told(lock, before, "revoked", reason=decode(fact, Revoked).reason))
        if before is not None and request is not None and fact.agent != AGENT and request in lock.holders:
            effects.append(_told(lock, request, "granted"))  # who asks again was told nothing, or renews
        if before is None or request is None:
            effects += [self._granted(ident, lock, r) for r in lock.holders if r.token not in held_before]
        return effects

    def _refuse(self, lock: Lock, fact: StoredFact, token: str, refusal: Refusal) -> Iterable[Effect]:
        if refusal is _OVERTAKEN and fact.event == "requested":
            # Whoever begins to read there must not take it for open.
            late = decode(fact, Requested).held
            assert late is not None, "otherwise it is not too late"
            return (_revoke(lock, Request(token=token, agent="", epoch=late.epoch), "gone", fact.seq),)
        if fact.event != "requested" or refusal.code == _MALFORMED or fact.agent == AGENT:
            return NONE
        asked = Request(token=token, agent=fact.agent, instance=decode(fact, Requested).instance)
        return (_told(lock, asked, "refused", code=refusal.code, reason=refusal.reason),)

    def _granted(self, ident: Ident, lock: Lock, request: Request) -> Push:
        if request.expires_at is not None:
            heapq.heappush(self._due, (request.expires_at, ident, request.token, request.epoch))
        return _told(lock, request, "granted")

    def _let_go(self, ident: Ident, request: Request) -> None:
        if request.instance is None:
            return
        holder = (ident[0], request.agent, request.instance)
        held = self._held.get(holder, set())
        held.discard((ident, request.token))
        if not held:
            self._held.pop(holder, None)

    # --- deaths and time -------------------------------------------------------------------

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:  # noqa: ARG002
        """Whatever an instance holds or waits for is over."""
        return self._revoke_all((tenant, agent, instance))

    def _revoke_all(self, holder: tuple[str, str, str]) -> list[Effect]:
        return [
            _revoke(self._locks[ident], self._locks[ident].requests[token], "gone")
            for ident, token in sorted(self._held.get(holder, ()))
        ]

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        """Leases that have ended; requests whose instance is gone."""
        effects: list[Effect] = []
        while self._due and self._due[0][0] <= now:
            _, ident, token, epoch = heapq.heappop(self._due)
            lock = self._locks.get(ident)
            request = None if lock is None else lock.requests.get(token)
            if lock is None or request is None or request.epoch != epoch or request.expires_at is None:
                continue
            if request.expires_at <= now:
                effects.append(_revoke(lock, request, "expired"))
            heapq.heappush(self._due, (max(request.expires_at, now + _LOOK_EVERY_S), ident, token, epoch))
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            for holder in self._held:
                if not presence.lives(*holder):
                    effects += self._revoke_all(holder)
        return effects

    # --- the window ------------------------------------------------------------------------

    def edge(self, seq: int) -> Iterable[Effect]:
        """Requests that were made long ago are stated again, as they are."""
        for lock in list(self._locks.values()):
            for request in list(lock.requests.values()):
                if request.seq < seq:
                    yield _again(lock, request)

    def oldest(self) -> int | None:
        """Of the requests that are not over."""
        return min((r.seq for lock in self._locks.values() for r in lock.requests.values()), default=None)

    # --- snapshots -------------------------------------------------------------------------

    def dump(self) -> Any:
        """The locks in use."""
        return _Dump(list(self._locks.values()), self._begun_seq)

    def load(self, dumped: Any) -> None:
        """The same again."""
        self._locks, self._held, self._due = {}, {}, []
        said = msgspec.convert(dumped, _Dump)
        self._begun_seq = said.begun_seq
        for lock in said.locks:
            ident = (lock.tenant, lock.key, lock.id)
            self._locks[ident] = lock
            for request in lock.requests.values():
                if request.instance is not None:
                    holder = (lock.tenant, request.agent, request.instance)
                    self._held.setdefault(holder, set()).add((ident, request.token))
                if request.expires_at is not None:
                    self._due.append((request.expires_at, ident, request.token, request.epoch))
        heapq.heapify(self._due)

    def open_count(self) -> int:
        """Locks in use."""
        return len(self._locks)


def _told(lock: Lock, request: Request, what: str, **more: Any) -> Push:
    body = {
        "what": what, "key": lock.key, "id": lock.id, "token": request.token, "epoch": request.epoch,
        "instance": request.instance, **more,
    }  # fmt: skip
    return Push(lock.tenant, request.agent, request.instance, wire.TOPIC, body)


def _revoke(lock: Lock, request: Request, reason: Why, behind: int = 0) -> State:
    """`behind`: of what was stated again too late; it may have been revoked before."""
    return State(
        tenant=lock.tenant, agent=AGENT, key=lock.key, kind="lock", id=lock.id, event="revoked",
        detail=(request.token, str(request.epoch)), data={"reason": reason, "epoch": request.epoch},
        once=None if behind else "own", step=f"revoked.{lock.id}.{request.token}", attempt=request.epoch,
        ordinal=behind, from_outside=True,
    )  # fmt: skip


def _again(lock: Lock, request: Request) -> State:
    n = request.restated + 1
    held = Held(**{name: getattr(request, name) for name in Held.__struct_fields__})
    said = Requested(instance=request.instance, permits=lock.permits, ttl_s=request.ttl_s, restated=n, held=held)
    return State(
        tenant=lock.tenant, agent=AGENT, key=lock.key, kind="lock", id=lock.id, event="requested",
        detail=(request.token, str(request.epoch), str(n)), data=msgspec.to_builtins(said), once="own",
        step=f"requested.{lock.id}.{request.token}", attempt=request.epoch, ordinal=n, from_outside=True,
    )  # fmt: skip
