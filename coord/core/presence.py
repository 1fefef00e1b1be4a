"""Who is there: what heartbeats, lost connections and time say about instances of agents.

::

                 beat                        overdue, or its connection died
     (unknown) ────────▶ alive ─────────────────────────────────────────────▶ suspect
                          ▲ ▲                        beat                      │   │
                          │ └──────────────────────────────────────────────────┘   │ silent,
                          │  beat                                                   │ or not back
                          └─────────────────────── gone ◀───────────────────────────┘
                                                     ▲──── bye, from anywhere

An instance that died with its process is `gone` `limits.DISCONNECT_GRACE_S` after the server
said that its connection ended; a hung or cut-off one `limits.GONE_AFTER` heartbeats after the
last.  The grace is for clients that reconnect.

Doubt is life.  What may be our own blindness is nobody's death:

* for `PRESENCE_SETTLE_S` after our start, and after our own connection came back, nobody is
  overdue, and for longer while others come back; while it is down, or what we send to ourselves
  does not come back, neither;
* a tick that comes late means that *we* stood still: all that waits in the socket is read
  before anybody is overdue;
* what we hear is as old as what we say to ourselves through the broker: nobody is overdue by that much;
* that a connection died is told on another way than what was said on it: nobody is gone before all was heard that the
  broker had by then, a goodbye among it;
* connections that end because the server ends say nothing, and neither do many at once
  (`DISCONNECT_MASS`): their heartbeats decide.  Where most of the others are connected still and
  none of them comes back, it was their process that died;
* a heartbeat that was under way when its sender died does not save it: on the connection
  that died it proves nothing, unless it answers the question that is asked then.

Pure: time is an argument (monotonic seconds), what is to be done is returned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.core.watch import NO_FARE, Barred, Fare, Usage, Watch
from coord.wire import presence as wire
from coord.wire.presence import Heartbeat, Quotas, Registration

State: TypeAlias = Literal["alive", "suspect", "gone"]
Reason: TypeAlias = Literal["disconnected", "silent", "bye", "returned", "overdue"]

TRANSITIONS: Final[dict[tuple[str, str], State]] = {
    # (state or "-", what happens) → state.  The decision is here; when something happens, in the table below.
    ("-", "beat"): "alive",
    ("alive", "beat"): "alive",
    ("alive", "overdue"): "suspect",
    ("alive", "silent"): "gone",  # between two looks
    ("alive", "closed"): "suspect",
    ("suspect", "beat"): "alive",
    ("suspect", "back"): "alive",
    ("suspect", "closed"): "suspect",
    ("suspect", "silent"): "gone",
    ("gone", "beat"): "alive",
    ("alive", "bye"): "gone",
    ("suspect", "bye"): "gone",
    ("gone", "bye"): "gone",
}

# --- of agents, as the log says ------------------------------------------------------------

STATE_AFTER: Final[dict[str, str]] = {
    "registered": "alive",
    "status": "alive",
    "changed": "alive",
    "draining": "draining",
    "left": "left",
    "suspected": "suspect",
    "gone": "gone",
    "returned": "alive",
    "quarantined": "quarantined",
    "released": "alive",
}
"""Event of kind `agent` → the agent's state afterwards.

A table, so that the projector, the decider and the documentation cannot disagree.  Events that
are not listed leave the state as it is.
"""

STATES: Final = frozenset(STATE_AFTER.values())

_OF_ONE: Final = frozenset({"suspected", "gone"})


class _Others(msgspec.Struct):
    others: int = 0


_OTHERS: Final = msgspec.json.Decoder(_Others)


def state_after(event: str, data: str | None = None) -> str | None:
    """The agent's state after this fact, whose data are this JSON; None: as before.

    The end of one instance is not the agent's while others of its name are there, as the data say.
    """
    if event in _OF_ONE and data is not None:
        try:
            if _OTHERS.decode(data).others:
                return None
        except msgspec.MsgspecError:
            return STATE_AFTER[event]
    return STATE_AFTER.get(event)


# --- instances, as heard -------------------------------------------------------------------

Ident: TypeAlias = tuple[str, str, str]
"""(tenant, agent, instance)."""


class Change(msgspec.Struct, frozen=True):
    """An instance is in another state now."""

    tenant: str
    agent: str
    instance: str
    state: State
    reason: Reason


class Row(msgspec.Struct):
    """One instance, as this process hears it."""

    tenant: str
    agent: str
    instance: str
    heard: float
    """Monotonic, of the last heartbeat, or later: since when it could have beaten."""
    state: State = "alive"
    overdue: bool = False
    """Suspect since its heartbeats are, and not only because its connection ended."""
    beat: Heartbeat = Heartbeat()
    due_s: float = limits.HEARTBEAT_IDLE_S
    """How soon the next one comes, as the last one said."""
    body: bytes = b""
    """The last heartbeat as it came: most are the same again, and are not decoded."""
    about: Registration | None = None
    place: str | None = None
    """Where its connection is, as it said last."""
    connections: set[str] = set()
    """Of it, that the server has told of; empty where nothing was heard."""
    closed_at: float | None = None
    """Its last connection died; None: not, or it came back."""
    closed_on: int | None = None
    """The number of the connection that died."""
    gone_at: float | None = None
    barred: Barred | None = None
    """Its agent is quarantined, whatever it says itself."""

    @property
    def takes(self) -> bool:
        """Whether it would take a task: it is there, and neither drains nor is quarantined."""
        return self.state != "gone" and not self.beat.draining and not self.quarantined

    @property
    def quarantined(self) -> bool:
        """Whether it is to take nothing: as the log says, or as it was told."""
        return self.barred is not None or self.beat.quarantined

    @property
    def ident(self) -> Ident:
        """Its key."""
        return self.tenant, self.agent, self.instance


def rest_s(present: int) -> float:
    """How many seconds whoever stands by may be silent where so many are there: their beats are bounded together."""
    return min(max(present / limits.RESTING_BEATS_PER_S, limits.HEARTBEAT_IDLE_S), limits.HEARTBEAT_EVERY_MAX_S)


class PresenceTable(Watch):
    """All instances that this process has heard of.  See the module."""

    def __init__(
        self,
        now: float,
        *,
        settle_s: float = limits.PRESENCE_SETTLE_S,
        instances_max: int = limits.PRESENCE_INSTANCES_MAX,
    ) -> None:
        self._rows: dict[Ident, Row] = {}
        self._per_agent: dict[tuple[str, str], set[str]] = {}
        self._of_tenant: dict[str, dict[Ident, Row]] = {}
        self._able: dict[tuple[str, str], dict[Ident, Row]] = {}
        """(tenant, capability) → instances that can do it, gone ones too."""
        self._swept_at = now - 1.0
        self._full_until: dict[tuple[str, str], float] = {}
        """Agents with too many instances, and when it is looked again whether some of them are gone."""
        self._pending: dict[Ident, Row] = {}
        """Connections that died, until the grace is over."""
        self._back_at = float("-inf")
        """One of them came back last."""
        self._instances_max = instances_max
        self._settle_s = settle_s
        self._settles = now + settle_s
        self._blind = False
        self._saw_at = float("-inf")
        """We came back last."""
        self._ticked = now
        self._present = 0
        """Rows that are not gone."""
        self._next_at = now
        """Nobody is overdue, or forgotten, before."""
        self.version = 0
        """Another one when who is there, in which state, able to do what and willing to has changed."""
        self.ignored = 0
        """Heartbeats of instances beyond the bounds, or that could not be read."""
        self.fare_of: dict[tuple[str, str], Fare] = {}
        """Set by whoever sums over partitions and processes."""
        self.claims_of: dict[tuple[str, ...], int] = {}
        """(tenant, agent) → claims it holds, likewise; those of `bounded_apart` by themselves, too."""
        self.rate_of: dict[tuple[str, str], float] = {}
        """(tenant, agent) → facts it states per second, where somebody counts."""
        self._barred: Mapping[tuple[str, str], Barred] = {}
        self._resting: set[Ident] = set()
        """Instances that say they are quarantined."""

    def __len__(self) -> int:
        return len(self._rows)

    # --- what is asked ---------------------------------------------------------------------

    def get(self, tenant: str, agent: str, instance: str) -> Row | None:
        """One instance; not to be changed."""
        return self._rows.get((tenant, agent, instance))

    def rows(self, tenant: str | None = None, capability: str | None = None) -> Iterator[Row]:
        """All instances, or a tenant's, or those that can do something; not to be changed."""
        if tenant is None:
            found: Iterable[Row] = self._rows.values()
        elif capability is None:
            found = self._of_tenant.get(tenant, {}).values()
        else:
            found = self._able.get((tenant, capability), {}).values()
        for row in found:
            if capability is None or (row.about is not None and capability in row.about.capabilities):
                yield row

    def capabilities(self) -> Iterator[tuple[tuple[str, str], Iterable[Row]]]:
        """(tenant, capability) → who can do it."""
        for at, able in self._able.items():
            yield at, able.values()

    def instances(self, tenant: str, agent: str) -> Iterator[Row]:
        """Those of one agent."""
        for instance in self._per_agent.get((tenant, agent), ()):
            yield self._rows[tenant, agent, instance]

    @property
    def present(self) -> int:
        """Instances that are not gone."""
        return self._present

    def heard(self, tenant: str, agent: str, instance: str) -> bool:
        """See `Watch`."""
        return (tenant, agent, instance) in self._rows

    def lives(self, tenant: str, agent: str, instance: str) -> bool:
        """See `Watch`."""
        row = self._rows.get((tenant, agent, instance))
        if row is not None:
            return row.state != "gone"
        return self.doubts or len(self._per_agent.get((tenant, agent), ())) >= limits.PRESENCE_PER_AGENT_MAX

    def state(self, tenant: str, agent: str, instance: str) -> str:
        """See `Watch`; alive while nothing is known for certain."""
        row = self._rows.get((tenant, agent, instance))
        if row is not None:
            # That a connection ended says nothing: it is gone within the grace, or comes back, or falls silent.
            return "alive" if row.state == "suspect" and not row.overdue else row.state
        return "alive" if self.lives(tenant, agent, instance) else "unknown"

    @property
    def doubts(self) -> bool:
        """See `Watch`."""
        return self._blind or self._ticked < self._settles or len(self._rows) >= self._instances_max

    @property
    def news(self) -> object:
        """See `Watch`."""
        return self.version, self.doubts

    def fares(self) -> Iterable[tuple[tuple[str, str], Fare]]:
        """See `Watch`."""
        return self.fare_of.items()

    def fare(self, tenant: str, capability: str) -> Fare:
        """How one capability fares."""
        return self.fare_of.get((tenant, capability), NO_FARE)

    def usage(self, tenant: str, agent: str) -> Usage:
        """See `Watch`."""
        at = (tenant, agent)
        memory = max((row.beat.memory_mib or 0.0 for row in self.instances(tenant, agent)), default=0.0)
        return Usage(self.claims_of.get(at, 0), self.rate_of.get(at, 0.0), memory)

    def usage_of(self, tenant: str, agent: str, instances: Collection[str]) -> Usage:
        """See `Watch`."""
        rows = [row for name in instances if (row := self._rows.get((tenant, agent, name))) is not None]
        held = sum(self.claims_of.get((tenant, agent, name), 0) for name in instances)
        return Usage(held, memory_mib=max((row.beat.memory_mib or 0.0 for row in rows), default=0.0))

    @property
    def barred(self) -> Mapping[tuple[str, str], Barred]:
        """See `Watch`."""
        return self._barred

    def bar(self, agents: Mapping[tuple[str, str], Barred]) -> None:
        """These are quarantined, and nobody else, as whoever sums over partitions and processes knows."""
        if agents == self._barred:
            return
        for at in agents.keys() | self._barred.keys():
            for row in self.instances(*at):
                row.barred = agents.get(at)
        self._barred = dict(agents)
        self.version += 1

    def at_odds(self, tenant: str, agent: str, *, quarantined: bool) -> bool:
        """See `Watch`."""
        rows = self.instances(tenant, agent)
        return any(row.beat.quarantined != quarantined for row in rows if row.state == "alive")

    def resting(self) -> set[tuple[str, str]]:
        """See `Watch`."""
        return {(tenant, agent) for tenant, agent, _ in self._resting}

    def with_quotas(self) -> dict[tuple[str, str], Quotas]:
        """(tenant, agent) → what its instances that are there say it may use."""
        return {
            (row.tenant, row.agent): row.about.quotas
            for row in self._rows.values()
            if row.about is not None and row.about.quotas is not None and row.about.quotas.bound and row.state != "gone"
        }

    def bounded_apart(self) -> frozenset[Ident]:
        """Instances that are there and bound how many tasks they hold, where others of the agent bound nothing."""
        found = set()
        for at in self.with_quotas():
            there = [row for row in self.instances(*at) if row.state != "gone"]
            bound = [row for row in there if row.about is not None and _bounds_tasks(row.about.quotas)]
            if len(bound) < len(there):
                found |= {(row.tenant, row.agent, row.instance) for row in bound}
        return frozenset(found)

    # --- what is heard ---------------------------------------------------------------------

    def beat(self, tenant: str, agent: str, instance: str, body: bytes, now: float) -> Change | None:
        """A heartbeat came; returns what changed by it."""
        row = self._rows.get((tenant, agent, instance))
        if row is not None and body == row.body and row.state == "alive":
            row.heard = now  # nearly all of them
            return None
        said = wire.decode_heartbeat(body)
        if said is None or (row is None and not self._has_room(tenant, agent, now)):
            self.ignored += 1
            return None
        if row is None:
            if said.bye:
                return Change(tenant, agent, instance, "gone", "bye")
            row = self._add(Row(tenant, agent, instance, now, connections=set()))
        if row.heard <= self._saw_at:  # or as if it had been heard then, of who beats rarely
            self._returned(now)
        took = row.takes
        came_back = row.closed_at is None or said.here or said.connection is None or said.connection != row.closed_on
        row.heard, row.beat, row.body, row.due_s = now, said, b"" if said.here else body, said.due_s
        row.place = said.place or row.place
        if said.quarantined:
            self._resting.add(row.ident)
        else:
            self._resting.discard(row.ident)
        self._next_at = min(self._next_at, _changes_at(row))
        self.version += took != row.takes
        self._about(row, said)
        if said.bye:
            return self._enter(row, "bye", "bye", now)
        if not came_back:
            return None
        return self._back(row, "beat", now)

    def connected(self, tenant: str, agent: str, instance: str, connection: str, now: float) -> Change | None:
        """The server says that a connection of that instance began."""
        row = self._rows.get((tenant, agent, instance))
        if row is None:
            return None  # it has said nothing yet
        if len(row.connections) < 8:
            row.connections.add(connection)
        if row.heard <= self._saw_at:
            self._returned(now)
        row.heard = max(row.heard, now) if row.state != "gone" else row.heard
        return self._back(row, "back", now) if row.state == "suspect" else None

    def disconnected(
        self, tenant: str, agent: str, instance: str, connection: str, now: float, *, died: bool = True
    ) -> Change | None:
        """The server says that one ended; `died`: as that of a process does that is no more.

        Returns the change to suspect: whether it is still there is to be asked.
        """
        row = self._rows.get((tenant, agent, instance))
        if row is None or row.state == "gone" or self._blind:
            return None  # blind: the broker itself is ending, and what came back we may not have heard
        row.connections.discard(connection)
        if row.connections or not died:
            return None
        if row.closed_at is None:
            row.closed_at, row.closed_on = now, row.beat.connection
            self._pending[row.ident] = row
        return self._enter(row, "closed", "disconnected", now)

    @property
    def is_blind(self) -> bool:
        """Whether nothing can be heard."""
        return self._blind

    @property
    def pending(self) -> int:
        """Connections that died, in their grace."""
        return len(self._pending)

    def blind(self) -> None:
        """Our own connection is lost: until `sees` nobody is overdue."""
        self._blind = True
        self.deaf()

    def deaf(self) -> None:
        """The server's news may have been missed: what was heard of connections means nothing any more."""
        self._forgive()
        for row in self._rows.values():
            row.connections.clear()  # what became of them, nobody will tell

    def sees(self, now: float) -> None:
        """Our own connection is back: everybody gets the time to beat."""
        self._blind = False
        self._saw_at = now
        self._forgive()  # who came back before we did was not heard
        self._settles = max(self._settles, now + self._settle_s)
        for row in self._rows.values():
            if row.due_s > self._settle_s and row.state != "gone":
                row.heard = now  # it beats more rarely than that, and may have beaten in vain

    def _returned(self, now: float) -> None:
        """Somebody was cut off, too, and is heard again: others are on their way."""
        until = min(now + limits.GONE_AFTER * limits.HEARTBEAT_S, self._saw_at + limits.PRESENCE_RETURN_S)
        self._settles = max(self._settles, until)

    def _forgive(self) -> None:
        for row in self._pending.values():
            row.closed_at = row.closed_on = None
        self._pending.clear()

    # --- time ------------------------------------------------------------------------------

    def due_at(self) -> float | None:
        """When the next grace is over; None: nothing is pending."""
        first = next(iter(self._pending.values()), None)
        return None if first is None or first.closed_at is None else first.closed_at + limits.DISCONNECT_GRACE_S

    def suspended(self) -> Iterable[Row]:
        """Those whose grace is not over."""
        return self._pending.values()

    def lost(self, now: float, heard_to: float = float("inf")) -> list[Change]:
        """The dead connections whose grace is over; call it at `due_at`.

        `heard_to`: what the broker had by then was heard, a goodbye among it.  Whose connection ended later may have
        said one that is still under way.
        """
        if self._blind:
            return []
        if len(self._pending) >= max(limits.DISCONNECT_MASS, self._present // 4):
            first_at = min(row.closed_at or now for row in self._pending.values())
            if self._back_at >= first_at or 2 * len(self._pending) >= self._present:
                self._forgive()  # others will follow: they stay suspect, and beat or not
                return []
            if now < first_at + limits.DISCONNECT_MASS_GRACE_S:
                return []
        ended = []
        for row in self._pending.values():
            assert row.closed_at is not None, "pending rows have lost a connection"
            if now < row.closed_at + limits.DISCONNECT_GRACE_S or heard_to < row.closed_at:
                break
            ended.append(row)
        for row in ended:
            del self._pending[row.ident]
        return [change for row in ended if (change := self._enter(row, "silent", "disconnected", now))]

    def tick(self, now: float, lag_s: float = 0.0) -> list[Change]:
        """Time passes: who is overdue.  Call it every `limits.PRESENCE_TICK_S`.

        `lag_s`: how old what we hear is: what was said later we need not have heard yet.
        """
        stood_still = now - self._ticked > limits.PRESENCE_STALL_S
        self._ticked = now
        if stood_still:
            self._settles = max(self._settles, now + limits.GONE_AFTER * limits.HEARTBEAT_S)
        if self._blind or now < max(self._settles, self._next_at):
            return []
        changes, forgotten = [], []
        self._next_at = float("inf")  # what is heard later puts it off; `beat` and `_enter` say where it comes sooner
        for row in self._rows.values():
            silent_s = now - lag_s - row.heard
            if row.state == "gone":
                if row.gone_at is not None and now - row.gone_at > limits.PRESENCE_KEPT_S:
                    forgotten.append(row)
                    continue
            elif silent_s >= row.due_s * limits.SUSPECT_AFTER:
                what: Reason = "silent" if silent_s >= row.due_s * limits.GONE_AFTER else "overdue"
                change = self._enter(row, what, what, now)
                if change:
                    changes.append(change)
                if row.state == "suspect" and not row.overdue:
                    row.overdue = True
                    self.version += 1
            self._next_at = min(self._next_at, _changes_at(row))
        for row in forgotten:
            self._remove(row)
        return changes

    # --- rows ------------------------------------------------------------------------------

    def _enter(self, row: Row, what: str, reason: Reason, now: float) -> Change | None:
        state = TRANSITIONS.get((row.state, what))
        if state is None or state == row.state:
            return None
        self._present += (row.state == "gone") - (state == "gone")
        row.state, row.overdue = state, False
        self.version += 1
        if state != "suspect":
            self._pending.pop(row.ident, None)
            row.closed_at = row.closed_on = None
        row.gone_at = now if state == "gone" else None
        self._next_at = min(self._next_at, _changes_at(row))
        if state == "gone":
            row.connections.clear()
        return Change(row.tenant, row.agent, row.instance, state, reason)

    def _back(self, row: Row, what: str, now: float) -> Change | None:
        if self._pending.pop(row.ident, None) is not None:
            self._back_at = now
        row.closed_at = row.closed_on = None
        return self._enter(row, what, "returned", now)

    def _has_room(self, tenant: str, agent: str, now: float) -> bool:
        if len(self._rows) >= self._instances_max:
            if now < self._swept_at + 1.0:
                return False
            self._swept_at = now
            for row in [row for row in self._rows.values() if row.state == "gone"]:
                self._remove(row)  # shown for as long as there is room
            if len(self._rows) >= self._instances_max:
                return False
        others = self._per_agent.get((tenant, agent))
        if others is None or len(others) < limits.PRESENCE_PER_AGENT_MAX:
            return True
        if now < self._full_until.get((tenant, agent), 0.0):
            return False  # a flood of new instances must not cost a search each
        gone = [row for row in self.instances(tenant, agent) if row.state == "gone"]
        for row in gone:
            self._remove(row)
        if not gone:
            self._full_until[tenant, agent] = now + 1.0
        return bool(gone)

    def _add(self, row: Row) -> Row:
        row.barred = self._barred.get((row.tenant, row.agent))
        self._rows[row.ident] = row
        self._of_tenant.setdefault(row.tenant, {})[row.ident] = row
        self._present += 1
        self.version += 1
        self._per_agent.setdefault((row.tenant, row.agent), set()).add(row.instance)
        return row

    def _remove(self, row: Row) -> None:
        self._unindex(row)
        self.version += 1
        self._rows.pop(row.ident, None)
        self._pending.pop(row.ident, None)
        self._resting.discard(row.ident)
        tenants = self._of_tenant.get(row.tenant, {})
        tenants.pop(row.ident, None)
        if not tenants:
            self._of_tenant.pop(row.tenant, None)
        others = self._per_agent.get((row.tenant, row.agent))
        if others is not None:
            others.discard(row.instance)
            if not others:
                del self._per_agent[row.tenant, row.agent]
                self._full_until.pop((row.tenant, row.agent), None)

    def _about(self, row: Row, said: Heartbeat) -> None:
        if said.about is None or said.about == row.about:
            return
        self._unindex(row)
        self.version += 1
        row.about = said.about
        for capability in said.about.capabilities:
            self._able.setdefault((row.tenant, capability), {})[row.ident] = row

    def _unindex(self, row: Row) -> None:
        for capability in row.about.capabilities if row.about is not None else ():
            able = self._able.get((row.tenant, capability))
            if able is not None:
                able.pop(row.ident, None)
                if not able:
                    del self._able[row.tenant, capability]


def _changes_at(row: Row) -> float:
    """When time alone changes its state, or has it forgotten."""
    if row.state == "gone":
        return float("inf") if row.gone_at is None else row.gone_at + limits.PRESENCE_KEPT_S
    return row.heard + row.due_s * (limits.GONE_AFTER if row.overdue else limits.SUSPECT_AFTER)


def _bounds_tasks(quotas: Quotas | None) -> bool:
    return quotas is not None and quotas.inflight is not None
