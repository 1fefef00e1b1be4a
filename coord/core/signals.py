"""Signals: the fold of one latch, what follows from waits and raises, and how a cycle of waits is found.

::

                 raised                    awaited.{wait}            raised, resumed.{wait}
    (nothing) ──────────▶ raised          ───────────────▶ waiting ───────────────────────▶ (over)
                          for good                          │   ▲
                                                            └───┘ deadlocked.{wait}: it cannot end by itself

A wait that comes after the raise is over at once; so whoever waits is told whatever came first.

Deadlock.  A wait says what its author will raise afterwards (`provides`).  A signal that is not
raised is *stuck* when everybody who provides it waits, and all of them are stuck; a wait for
all is stuck when one of its signals is, a wait for any when all of them are.  A signal that
nobody said to provide is not: somebody outside may raise it.  What is stuck is the
greatest set for which that holds, and it contains a cycle: that is what is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from coord import limits
from coord.core.deciding import NONE, Effect, Folding, Presence, Push, State
from coord.core.tasks import Refusal, decode
from coord.errors import WireError
from coord.wire import latch as wire
from coord.wire.envelope import StoredFact
from coord.wire.latch import Awaited, Deadlocked, Edge, Ending, Mode, Raised, Resumed
from coord.wire.numbers import check_integers

AGENT: Final = "_signal"

_MALFORMED: Final = "signal.malformed"
_NOT_WAITER: Final = Refusal("signal.not_waiter", "only whoever waits, or a decider, may say that the wait is over")
_WAIT_TAKEN: Final = Refusal("signal.wait_taken", "somebody else waits under this token")
_FULL: Final = Refusal("signal.too_many", "too many wait for this signal")
_NO_WAIT: Final = Refusal("signal.no_wait", "nobody waits for it under this token")

_LOOK_EVERY_S: Final = 5.0

Ident: TypeAlias = tuple[str, str, str]
"""(tenant, key, name)."""

WaitIdent: TypeAlias = tuple[str, str, str]
"""(tenant, key, wait)."""


class Wait(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Somebody waits for one signal, alone or among others."""

    wait: str
    """Its token."""
    agent: str
    instance: str | None = None
    since: float = 0.0
    """Broker's clock, Unix seconds."""
    names: tuple[str, ...] = ()
    mode: Mode = "all"
    provides: tuple[str, ...] = ()
    deadline: float | None = None
    deadlock: str | None = None
    """The cycle in words, where one was found."""
    seq: int = 0
    """Of the fact that the log has of it,"""
    first_seq: int = 0
    """and of the first one."""
    restated: int = 0


class Latch(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One signal as its facts leave it.  Mutable: `apply` changes it."""

    tenant: str
    key: str
    id: str
    """Its name."""
    raised_at: float | None = None
    """Broker's clock; None: it is not raised."""
    raised_by: str | None = None
    data: Any = None
    """Of the first raise."""
    raised_seq: int = 0
    """Of the fact that the log has of it."""
    restated: int = 0
    waits: dict[str, Wait] = {}
    """Who waits for it now, by token."""
    begun_seq: int = 0
    """What was stated from here on has been folded: a wait of then that is not known is over; 0: nothing was."""

    @property
    def raised(self) -> bool:
        """Whether it is."""
        return self.raised_at is not None

    def apply(self, fact: StoredFact) -> Refusal | None:
        """Fold the next fact of this signal; None: believed.  A refused one has changed nothing."""
        try:
            if fact.event == "raised":
                return self._raise(fact, decode(fact, Raised))
            token = fact.detail[0] if fact.detail else ""
            if fact.event == "awaited" and token:
                return self._await(fact, token, wire.check(decode(fact, Awaited)))
            if fact.event == "resumed" and token:
                return self._resume(fact, token, decode(fact, Resumed))
            if fact.event == "deadlocked" and token:
                return self._deadlock(token, decode(fact, Deadlocked))
        except WireError as exc:
            return Refusal(_MALFORMED, exc.message)
        return Refusal(_MALFORMED, "no such event of a signal, or without its wait")

    def _raise(self, fact: StoredFact, said: Raised) -> Refusal | None:
        own = fact.agent == AGENT and said.raised_at is not None
        if self.raised:
            if own and said.restated > self.restated:
                self.raised_seq, self.restated = fact.seq, said.restated
            return None
        if said.data is not None:
            check_integers(said.data)  # it is kept
        self.raised_at, self.raised_by = fact.stored_at.timestamp(), fact.agent
        if own:
            self.raised_at, self.raised_by, self.restated = said.raised_at, said.raised_by, said.restated
        self.data, self.raised_seq = said.data, fact.seq
        self.waits = {}
        return None

    def _await(self, fact: StoredFact, token: str, said: Awaited) -> Refusal | None:
        own = fact.agent == AGENT and said.agent is not None
        known = self.waits.get(token)
        if known is not None:
            if own and said.restated > known.restated:
                known.seq, known.restated = fact.seq, said.restated
                return None
            return None if known.agent == fact.agent else _WAIT_TAKEN
        if self.raised:
            return None
        if own and 0 < self.begun_seq <= said.first_seq:
            return _NO_WAIT
        if len(self.waits) >= limits.SIGNAL_WAITS_MAX:
            return _FULL
        agent, since = fact.agent, fact.stored_at.timestamp()
        if own:
            agent, since = said.agent or agent, since if said.since is None else said.since
        self.begun_seq = self.begun_seq or fact.seq
        self.waits = {
            **self.waits,
            token: Wait(
                wait=token, agent=agent, instance=said.instance, since=since, names=said.names or (self.id,),
                mode=said.mode, provides=said.provides, deadline=said.deadline, seq=fact.seq,
                first_seq=said.first_seq if own else fact.seq, restated=said.restated,
            ),
        }  # fmt: skip
        return None

    def _resume(self, fact: StoredFact, token: str, _said: Resumed) -> Refusal | None:
        wait = self.waits.get(token)
        if wait is None:
            return None if self.raised else _NO_WAIT
        if fact.agent not in (wait.agent, AGENT):
            return _NOT_WAITER
        self.waits = {name: one for name, one in self.waits.items() if name != token}
        return None

    def _deadlock(self, token: str, said: Deadlocked) -> Refusal | None:
        wait = self.waits.get(token)
        if wait is None:
            return None if self.raised else _NO_WAIT
        wait.deadlock = wire.words(said.cycle)
        return None


def fold(facts: Iterable[StoredFact]) -> Latch | None:
    """One signal's history in log order: what it is now; None without facts."""
    latch: Latch | None = None
    for fact in facts:
        if latch is None:
            latch = Latch(tenant=fact.tenant, key=fact.key, id=fact.id)
        latch.apply(fact)
    return latch


# --- cycles --------------------------------------------------------------------------------


def find_cycle(
    start: Wait,
    providers: Callable[[str], Iterable[Wait]],
    raised: Callable[[str], bool],
    looks_max: int = limits.DEADLOCK_WAITS_MAX,
) -> tuple[Edge, ...]:
    """The cycle on which `start` waits, or which it waits for; empty when it can end.

    `providers`: the waits of one key whose authors raise that signal afterwards.  At most `looks_max` waits are
    looked at: beyond that nothing is claimed.
    """
    reached: dict[str, Wait] = {start.wait: start}
    frontier = [start]
    while frontier:
        wait = frontier.pop()
        for name in wait.names:
            for other in () if raised(name) else providers(name):
                if other.wait not in reached:
                    if len(reached) >= looks_max:
                        return ()
                    reached[other.wait] = other
                    frontier.append(other)
    stuck = _stuck(reached, providers, raised)
    if start.wait not in stuck:
        return ()
    path: list[Edge] = []
    at: dict[str, int] = {}
    wait = start
    while wait.wait not in at:
        at[wait.wait] = len(path)
        name = min(n for n in wait.names if _is_stuck(n, stuck, providers, raised))
        path.append(Edge(wait.agent, name, wait.wait, wait.instance))
        wait = min(providers(name), key=lambda one: one.wait)
    cycle = path[at[wait.wait] :]
    first = min(range(len(cycle)), key=lambda i: (cycle[i].agent, cycle[i].name, cycle[i].wait))
    return (*cycle[first:], *cycle[:first])  # the same cycle in the same words, whoever closed it


def _stuck(
    waits: Mapping[str, Wait], providers: Callable[[str], Iterable[Wait]], raised: Callable[[str], bool]
) -> set[str]:
    """The greatest set of these in which nobody can go on unless another one does."""
    stuck = set(waits)
    while True:
        free = {
            token
            for token in stuck
            if not (any if waits[token].mode == "all" else all)(
                _is_stuck(name, stuck, providers, raised) for name in waits[token].names
            )
        }
        if not free:
            return stuck
        stuck -= free


def _is_stuck(
    name: str, stuck: set[str], providers: Callable[[str], Iterable[Wait]], raised: Callable[[str], bool]
) -> bool:
    if raised(name):
        return False
    those = list(providers(name))
    return bool(those) and all(one.wait in stuck for one in those)


# --- the decider ---------------------------------------------------------------------------


class _Dump(msgspec.Struct):
    """A snapshot; only grows."""

    latches: list[Latch] = []
    begun_seq: int = 0


class SignalDecider(Folding):
    """Of one partition; a `coord.core.deciding.Decider`.

    It holds every latch that is raised or awaited: those of `coord.wire.latch.KEY` for good, those of other
    keys for `limits.SIGNAL_KEPT_S` after they were raised, `limits.SIGNAL_LATCHES_MAX` in all.
    """

    name = "signals"
    kinds = frozenset({"signal"})

    def __init__(self) -> None:
        super().__init__()
        self._latches: dict[Ident, Latch] = {}
        self._begun_seq = 0
        """Of the first fact that it believed."""
        self._provides: dict[Ident, dict[str, Wait]] = {}
        """Signal → the waits after which it is raised, by token."""
        self._pending: dict[WaitIdent, set[str]] = {}
        """Wait → its signals that are known to be awaited."""
        self._held: dict[tuple[str, str, str], set[tuple[Ident, str]]] = {}
        """(tenant, agent, instance) → what it waits for."""
        self._looked_at = 0.0

    def get(self, tenant: str, key: str, name: str) -> Latch | None:
        """A latch that is raised or awaited; not to be changed."""
        return self._latches.get((tenant, key, name))

    def waits(self) -> Iterable[tuple[Latch, Wait]]:
        """Who waits for what."""
        return ((latch, wait) for latch in self._latches.values() for wait in latch.waits.values())

    # --- facts -----------------------------------------------------------------------------

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one fact of a signal."""
        ident = (fact.tenant, fact.key, fact.id)
        latch = self._latches.get(ident)
        if latch is None:
            latch = Latch(tenant=fact.tenant, key=fact.key, id=fact.id, begun_seq=self._begun_seq)
        was_raised, waited = latch.raised, latch.waits
        refusal = latch.apply(fact)
        if refusal is not None:
            self.refused[refusal.code] += 1
            if refusal is _NO_WAIT and fact.event == "awaited":
                # Stated again too late: whoever begins to read there must not take it for a wait.
                return (_over(ident, fact.detail[0], "gone", fact.seq),)
            return NONE
        self._begun_seq = self._begun_seq or fact.seq
        if latch.raised or latch.waits:
            self._latches[ident] = latch
        else:
            self._latches.pop(ident, None)
        if fact.event == "raised":
            return NONE if was_raised else self._raised(ident, latch, waited)
        token = fact.detail[0]
        if fact.event == "awaited":
            return self._awaited(ident, latch, token, fact, known=token in waited)
        if fact.event == "resumed" and token in waited:
            return self._resumed(ident, waited[token], decode(fact, Resumed).reason)
        if fact.event == "deadlocked":
            if token not in latch.waits:  # raised before it was said
                return self._rest_of(ident, token)
            return (_told(latch, latch.waits[token], "deadlocked", cycle=decode(fact, Deadlocked).cycle),)
        return NONE

    def _rest_of(self, ident: Ident, token: str) -> Iterable[Effect]:
        """What a wait is stated for last may be raised by then: whether the others can be is looked at all the same."""
        tenant, key, _ = ident
        pending = self._pending.get((tenant, key, token))
        if not pending:
            return NONE
        return self._whole(tenant, key, self._latches[tenant, key, min(pending)].waits[token], pending)

    def _whole(self, tenant: str, key: str, wait: Wait, pending: set[str]) -> Iterable[Effect]:
        """A wait is looked at when it has been stated for all that is not raised."""
        if pending.issuperset(n for n in wait.names if not self._is_raised(tenant, key, n)):
            return self._deadlocks(tenant, key, wait)
        return NONE

    def _raised(self, ident: Ident, latch: Latch, waited: dict[str, Wait]) -> Iterable[Effect]:
        latch.data = _kept(latch.data)
        effects: list[Effect] = [_told_raised(latch, wait) for wait in waited.values()]
        for wait in waited.values():
            if not self._forget(ident, wait) and wait.deadlock is not None and wait.mode == "all":
                # That cycle is broken here.  What else it waits for may be another one's, which nobody was told of.
                effects += self._rest_of(ident, wait.wait)
        if len(self._latches) > limits.SIGNAL_LATCHES_MAX:
            self._evict()
        return effects

    def _awaited(self, ident: Ident, latch: Latch, token: str, fact: StoredFact, *, known: bool) -> Iterable[Effect]:
        if latch.raised:  # before the wait: over at once
            said = decode(fact, Awaited)
            told = _told_raised(latch, Wait(wait=token, agent=said.agent or fact.agent, instance=said.instance))
            return (told, *self._rest_of(ident, token))
        wait = latch.waits[token]
        if known:
            return NONE
        tenant, key, name = ident
        for provided in wait.provides:
            self._provides.setdefault((tenant, key, provided), {})[token] = wait
        pending = self._pending.setdefault((tenant, key, token), set())
        pending.add(name)
        if wait.instance is not None:
            self._held.setdefault((tenant, wait.agent, wait.instance), set()).add((ident, token))
        return self._whole(tenant, key, wait, pending)

    def _resumed(self, ident: Ident, wait: Wait, reason: Ending) -> Iterable[Effect]:
        tenant, key, _ = ident
        over = self._forget(ident, wait)
        effects: list[Effect] = []
        if reason in ("gone", "cancelled") and over:
            # It will raise nothing: whoever waits for the others that would is looked at again.
            for provided in wait.provides:
                latch = self._latches.get((tenant, key, provided))
                for other in () if latch is None else latch.waits.values():
                    effects += self._deadlocks(tenant, key, other)
        return effects

    def _forget(self, ident: Ident, wait: Wait) -> bool:
        """A wait for one signal is over; whether it is over for all of its signals."""
        tenant, key, name = ident
        if wait.instance is not None:
            holder = (tenant, wait.agent, wait.instance)
            held = self._held.get(holder, set())
            held.discard((ident, wait.wait))
            if not held:
                self._held.pop(holder, None)
        pending = self._pending.get((tenant, key, wait.wait), set())
        pending.discard(name)
        if pending:
            return False
        self._pending.pop((tenant, key, wait.wait), None)
        for provided in wait.provides:
            those = self._provides.get((tenant, key, provided), {})
            those.pop(wait.wait, None)
            if not those:
                self._provides.pop((tenant, key, provided), None)
        return True

    # --- cycles ----------------------------------------------------------------------------

    def _is_raised(self, tenant: str, key: str, name: str) -> bool:
        latch = self._latches.get((tenant, key, name))
        return latch is not None and latch.raised

    def _deadlocks(self, tenant: str, key: str, wait: Wait) -> list[Effect]:
        cycle = find_cycle(
            wait,
            lambda name: self._provides.get((tenant, key, name), {}).values(),
            lambda name: self._is_raised(tenant, key, name),
        )
        if not cycle:
            return []
        edges = {(edge.wait, edge.name): edge for edge in cycle}
        if all(edge.wait != wait.wait for edge in cycle):
            # It waits for those who wait for each other.
            edges.update({(wait.wait, name): Edge(wait.agent, name, wait.wait, wait.instance) for name in wait.names})
        return [
            State(
                tenant=tenant, agent=AGENT, key=key, kind="signal", id=name, event="deadlocked", detail=(token,),
                data=msgspec.to_builtins(Deadlocked(cycle)), once="event", step=f"deadlocked.{name}.{token}",
                from_outside=True,  # of several cycles another process may name another one
            )
            for token, name in edges
            if self._is_hopeful(tenant, key, name, token)
        ]  # fmt: skip

    def _is_hopeful(self, tenant: str, key: str, name: str, token: str) -> bool:
        """Whether that is a wait that nobody was told of that it is deadlocked."""
        latch = self._latches.get((tenant, key, name))
        return latch is not None and token in latch.waits and latch.waits[token].deadlock is None

    # --- deaths and time -------------------------------------------------------------------

    def gone(self, tenant: str, agent: str, instance: str, now: float) -> Iterable[Effect]:  # noqa: ARG002
        """The waits of an instance are over."""
        return [_over(ident, token, "gone") for ident, token in sorted(self._held.get((tenant, agent, instance), ()))]

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        """Waits whose deadline has passed, or whose waiter is gone; signals of work that is long over."""
        if now - self._looked_at < _LOOK_EVERY_S:
            return NONE
        self._looked_at = now
        effects: list[Effect] = []
        for (tenant, agent, instance), waits in self._held.items():
            if not presence.lives(tenant, agent, instance):
                effects += [_over(ident, token, "gone") for ident, token in sorted(waits)]
        old: list[Ident] = []
        for ident, latch in self._latches.items():
            effects += [
                _over(ident, wait.wait, "timeout")
                for wait in latch.waits.values()
                if wait.deadline is not None and wait.deadline + _LOOK_EVERY_S < now
            ]
            if latch.raised_at is not None and ident[1] != wire.KEY and latch.raised_at + limits.SIGNAL_KEPT_S < now:
                old.append(ident)
        for ident in old:
            del self._latches[ident]
        return effects

    def _evict(self) -> None:
        """Too many: the oldest that is raised goes, one of a piece of work before one of the tenant's."""
        raised = [ident for ident, latch in self._latches.items() if latch.raised]
        passing = (ident for ident in raised if ident[1] != wire.KEY)
        del self._latches[next(passing, raised[0])]
        self.refused["signal.forgotten"] += 1

    # --- the window ------------------------------------------------------------------------

    def edge(self, seq: int) -> Iterable[Effect]:
        """State again what is raised and who waits."""
        for latch in list(self._latches.values()):
            if latch.raised and latch.raised_seq < seq:
                yield _raised_again(latch)
            for wait in latch.waits.values():
                if wait.seq < seq:
                    yield _awaited_again(latch, wait)

    def oldest(self) -> int | None:
        """Of the facts that latches and waits were stated by."""
        raised = (latch.raised_seq for latch in self._latches.values() if latch.raised)
        waits = (wait.seq for latch in self._latches.values() for wait in latch.waits.values())
        return min((*raised, *waits), default=None)

    # --- snapshots -------------------------------------------------------------------------

    def dump(self) -> Any:
        """The latches."""
        return _Dump(list(self._latches.values()), self._begun_seq)

    def load(self, dumped: Any) -> None:
        """The same again."""
        self.__init__()  # type: ignore[misc]
        said = msgspec.convert(dumped, _Dump)
        self._begun_seq = said.begun_seq
        for latch in said.latches:
            ident = (latch.tenant, latch.key, latch.id)
            self._latches[ident] = latch
            for wait in latch.waits.values():
                for provided in wait.provides:
                    self._provides.setdefault((latch.tenant, latch.key, provided), {})[wait.wait] = wait
                self._pending.setdefault((latch.tenant, latch.key, wait.wait), set()).add(latch.id)
                if wait.instance is not None:
                    self._held.setdefault((latch.tenant, wait.agent, wait.instance), set()).add((ident, wait.wait))

    def open_count(self) -> int:
        """Latches."""
        return len(self._latches)


_MORE: Final = "\0more"
"""Stands for data that is too large to be kept and told."""


def _kept(data: Any) -> Any:
    return data if len(msgspec.json.encode(data)) <= limits.SIGNAL_TOLD_BYTES else _MORE


def _told_raised(latch: Latch, wait: Wait) -> Push:
    if latch.data == _MORE:
        return _told(latch, wait, "raised", more=True)
    return _told(latch, wait, "raised", data=latch.data)


def _told(latch: Latch, wait: Wait, what: str, **more: Any) -> Push:
    body = {"what": what, "key": latch.key, "id": latch.id, "wait": wait.wait, "instance": wait.instance, **more}
    return Push(latch.tenant, wait.agent, wait.instance, wire.TOPIC, msgspec.to_builtins(body))


def _over(ident: Ident, token: str, reason: Ending, behind: int = 0) -> State:
    """`behind`: of what was stated again too late; its end may have been stated before."""
    tenant, key, name = ident
    return State(
        tenant=tenant, agent=AGENT, key=key, kind="signal", id=name, event="resumed", detail=(token,),
        data={"reason": reason}, once=None if behind else "own", step=f"resumed.{name}.{token}", attempt=behind,
        from_outside=True,
    )  # fmt: skip


def _raised_again(latch: Latch) -> State:
    n = latch.restated + 1
    said = {"raised_at": latch.raised_at, "raised_by": latch.raised_by, "restated": n}
    return State(
        tenant=latch.tenant, agent=AGENT, key=latch.key, kind="signal", id=latch.id, event="raised", detail=(str(n),),
        data=said, merge_seq=latch.raised_seq, once="own", step=f"raised.{latch.id}", attempt=n, from_outside=True,
    )  # fmt: skip


def _awaited_again(latch: Latch, wait: Wait) -> State:
    n = wait.restated + 1
    said = Awaited(
        names=wait.names, mode=wait.mode, instance=wait.instance, deadline=wait.deadline, provides=wait.provides,
        since=wait.since, agent=wait.agent, first_seq=wait.first_seq, restated=n,
    )  # fmt: skip
    return State(
        tenant=latch.tenant, agent=AGENT, key=latch.key, kind="signal", id=latch.id, event="awaited",
        detail=(wait.wait, str(n)), data=msgspec.to_builtins(said), once="own",
        step=f"awaited.{latch.id}.{wait.wait}", attempt=n, from_outside=True,
    )  # fmt: skip
