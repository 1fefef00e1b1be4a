"""How the tasks of one capability fare, and the circuit that follows from it.

::

                 failed ≥ half of ≥ 20 in 30 s             10 s, doubled each time up to 5 min
      closed ───────────────────────────────────▶ opened ──────────────────────────────────▶ probing
        ▲  ▲                                         ▲                                         │ │
        │  └─────────────────────────────────────────┼──── three ended, none failed ───────────┘ │
        │                                            └──────────────── one failed ───────────────┘

While it is open submissions fail fast in the SDK (`subjects.board` says so); tasks that are in the
log already are still tried.  While it probes, a few are let through.  Only failures count:
a rejected task is its submitter's mistake, a task whose agent died is tried elsewhere.

The partition of the capability's name decides, for all partitions: it is told how they fare
(`Watch.fares`) and states ``capability.opened.{n}``, ``probing.{n}`` and ``closed.{n}``, each once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.core.deciding import NONE, Effect, Folding, Presence, State
from coord.core.tasks import Refusal
from coord.core.watch import Fare, Watch
from coord.wire.envelope import StoredFact
from coord.wire.subjects import partition

AGENT: Final = "_capability"

Circuit: TypeAlias = Literal["closed", "open", "probing"]

TRANSITIONS: Final[dict[tuple[str, str], Circuit]] = {
    ("closed", "opened"): "open",
    ("probing", "opened"): "open",
    ("open", "probing"): "probing",
    ("probing", "closed"): "closed",
    ("open", "closed"): "closed",
}

_MALFORMED: Final = Refusal("capability.malformed", "a circuit's facts are under its capability, and numbered")
_STALE: Final = Refusal("capability.stale", "the circuit is not where this would lead on from")

_SETTLE_S: Final = 3 * limits.BOARD_EVERY_S
"""After its start a decider hears sums that have been counted for long."""


class _Window(msgspec.Struct):
    """What ended lately: (when, completed, failed) by tick."""

    seen: tuple[int, int] | None = None
    """The counts at the last look; None: whatever they are, they are old."""
    slots: deque[tuple[float, int, int]] = msgspec.field(default_factory=deque)
    completed: int = 0
    failed: int = 0

    def take(self, fare: Fare, now: float) -> None:
        """Note what ended since the last time."""
        seen, self.seen = self.seen, (fare.completed, fare.failed)
        if seen is not None:
            # Counts begin anew when a partition changes hands: a difference below zero says nothing.
            done, failed = max(0, fare.completed - seen[0]), max(0, fare.failed - seen[1])
            if done or failed:
                self.slots.append((now, done, failed))
                self.completed += done
                self.failed += failed
        while self.slots and self.slots[0][0] < now - limits.CAPABILITY_WINDOW_S:
            _, done, failed = self.slots.popleft()
            self.completed -= done
            self.failed -= failed

    def clear(self) -> None:
        """Forget what ended; the next difference is from now on."""
        self.slots.clear()
        self.completed = self.failed = 0

    @property
    def ended(self) -> int:
        return self.completed + self.failed


class CapabilityState(msgspec.Struct, omit_defaults=True):
    """The circuit of one capability, as its facts leave it."""

    tenant: str
    capability: str
    circuit: Circuit = "closed"
    n: int = 0
    """Times that it opened."""
    in_a_row: int = 0
    """Since it was closed last."""
    since: float = 0.0
    """The broker's clock, of the last change."""

    @property
    def open_s(self) -> float:
        """How long it stays open."""
        return min(limits.CAPABILITY_OPEN_S * 2.0 ** min(max(self.in_a_row - 1, 0), 16), limits.CAPABILITY_OPEN_MAX_S)

    def apply(self, event: str, n: int, at: float) -> bool:
        """Fold one fact; whether it was believed."""
        to = TRANSITIONS.get((self.circuit, event))
        if to is None or n != (self.n + 1 if event == "opened" else self.n):
            return False
        self.circuit, self.n, self.since = to, n, at
        self.in_a_row = 0 if to == "closed" else self.in_a_row + (event == "opened")
        return True

    def fold(self, fact: StoredFact) -> Refusal | None:
        """Fold one fact about it; None: believed.  A refused one has changed nothing."""
        detail = fact.detail[0] if fact.detail else ""
        if fact.key != fact.id or not detail.isascii() or not detail.isdecimal() or len(detail) > 9:
            return _MALFORMED
        return None if self.apply(fact.event, int(detail), fact.stored_at.timestamp()) else _STALE

    def decide(self, window: _Window, now: float) -> str | None:
        """The event that is due; None: none."""
        if self.circuit == "closed":
            enough = window.ended >= limits.CAPABILITY_OUTCOMES_MIN
            return "opened" if enough and window.failed >= limits.CAPABILITY_FAILING * window.ended else None
        if self.circuit == "open":
            return "probing" if now >= self.since + self.open_s else None
        if window.failed:
            return "opened"
        return "closed" if window.completed >= limits.CAPABILITY_PROBES else None


class _Dump(msgspec.Struct):
    circuits: list[CapabilityState] = []


class CapabilityDecider(Folding):
    """The circuits whose capability's name belongs to partition `p`; a `coord.core.deciding.Decider`."""

    name = "capabilities"
    kinds = frozenset({"capability"})

    def __init__(self, p: int) -> None:
        super().__init__()
        self._p = p
        self._states: dict[tuple[str, str], CapabilityState] = {}
        self._windows: dict[tuple[str, str], _Window] = {}
        self._settles: float | None = None
        """Until then what is told for the first time is taken for old."""

    def states(self) -> Iterable[CapabilityState]:
        """All circuits that were ever open."""
        return self._states.values()

    def apply(self, fact: StoredFact) -> Iterable[Effect]:
        """Fold one change of a circuit."""
        at = (fact.tenant, fact.id)
        state = self._states.get(at)
        if state is None:
            if len(self._states) >= limits.CAPABILITIES_MAX:
                return NONE
            state = CapabilityState(fact.tenant, fact.id)
        if state.fold(fact) is None:
            self._states[at] = state
            if window := self._windows.get(at):
                window.clear()
        return NONE

    def tick(self, now: float, presence: Presence) -> Iterable[Effect]:
        """Look how the capabilities fare."""
        if not isinstance(presence, Watch):
            return NONE
        if self._settles is None:
            self._settles = now + _SETTLE_S
        effects: list[Effect] = []
        for at, fare in presence.fares():
            if partition(at[1]) != self._p:
                continue
            window = self._windows.get(at)
            if window is None:
                if len(self._windows) >= limits.CAPABILITIES_MAX:
                    continue
                window = self._windows[at] = _Window((0, 0) if now > self._settles else None)
            window.take(fare, now)
            state = self._states.get(at) or CapabilityState(*at)
            if event := state.decide(window, now):
                effects.append(_state(state, event))
        return effects

    def dump(self) -> Any:
        """The circuits."""
        return msgspec.to_builtins(_Dump([s for s in self._states.values() if s.n]))

    def load(self, dumped: Any) -> None:
        """The circuits again."""
        self._states = {(s.tenant, s.capability): s for s in msgspec.convert(dumped, _Dump).circuits}

    def open_count(self) -> int:
        """Circuits that are not closed."""
        return sum(1 for state in self._states.values() if state.circuit != "closed")


def _state(state: CapabilityState, event: str) -> State:
    n = state.n + 1 if event == "opened" else state.n
    return State(
        tenant=state.tenant, agent=AGENT, key=state.capability, kind="capability", id=state.capability, event=event,
        detail=(str(n),), data={"n": n}, once="own", step=event, attempt=n, from_outside=True,
    )  # fmt: skip
