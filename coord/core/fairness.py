"""Whose turn it is at the database: places shared between tenants, so that slow questions hold up nobody else's.

::

    enter ──▶ waits, of its tenant, first come first served ──▶ granted a place ──▶ done (`leave`)
                   ▲              │ until its deadline                │
                   │              ▼                                   │ longer than `quick_s`: it is *long*
                   │           expired                                ▼
                   └───────────────────────────────── recalled: others have fewer places than its tenant,
                                                      or the long ones hold those that are kept for quick ones

* A free place goes to the tenant that holds the fewest, of these to whoever was served least, in seconds of places.
  A tenant that was away has no credit: it begins where the least served of those present is.
* Nobody knows beforehand how long a question takes.  So each begins as a quick one, and becomes long by taking long:
  then the last of its tenant and name tells (task assignment by guessing size, Harchol-Balter 2002).  Long ones get all
  places but `spare`: quick ones always find some that are free within `quick_s`.
* Places that nobody else wants are lent.  What is lent is recalled: of the tenant that holds the most, the youngest
  long one, which has the least to lose; it begins anew when its turn comes.  A tenant that holds one more than another
  at most loses none, so the oldest of each goes on, and nothing starves.

Pure: `now` is an argument, seconds of one monotonic clock.  `step` has to be called after each change, and at the
moment it names.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeAlias

import msgspec

_TENANTS_MAX: Final = 1_024
_NAMES_MAX: Final = 4_096
"""Of which is remembered what they took."""


class Room:
    """Who may enter, where the number inside is bounded: one more only while more is free than one's own take.

    The dynamic threshold of shared switch buffers (Choudhury and Hahne 1998): alone a tenant gets half, beside n others
    that want as much a share of n + 2, and one share stays free for whoever comes next.
    """

    __slots__ = ("_inside", "_size", "total")

    def __init__(self, size: int) -> None:
        self._size = size
        self._inside: dict[str, int] = {}
        self.total = 0

    def enter(self, tenant: str) -> bool:
        """Whether it may; then it has to `leave`."""
        mine = self._inside.get(tenant, 0)
        if self._size - self.total <= mine:
            return False
        self._inside[tenant] = mine + 1
        self.total += 1
        return True

    def leave(self, tenant: str) -> None:
        """One of its left."""
        self.total -= 1
        left = self._inside[tenant] - 1
        if left:
            self._inside[tenant] = left
        else:
            del self._inside[tenant]

    def of(self, tenant: str) -> int:
        """How many of its are inside."""
        return self._inside.get(tenant, 0)


State: TypeAlias = Literal["waiting", "running", "over"]


class Until(msgspec.Struct, weakref=True, eq=False):
    """Up to when anybody wants something."""

    at: float = 0.0

    def wanted(self, at: float) -> None:
        """Somebody wants it until then."""
        self.at = max(self.at, at)


class Turn:
    """One question that wants a place, or has one."""

    __slots__ = ("granted_at", "long", "name", "recalled", "since", "state", "tenant", "until")

    def __init__(self, tenant: str, name: str, now: float, until: Until, *, long: bool) -> None:
        self.tenant = tenant
        self.name = name
        self.long = long
        self.since = now
        """It has waited since."""
        self.until = until
        """Whoever comes later and wants the same raises it."""
        self.state: State = "waiting"
        self.granted_at = 0.0
        self.recalled = False


class Step(msgspec.Struct, frozen=True):
    """What follows from what has happened; each turn is in its new state already."""

    granted: list[Turn] = []
    recalled: list[Turn] = []
    """They wait again: what they have begun has to be ended."""
    expired: list[Turn] = []
    look_at: float | None = None
    """When `step` has to be called at the latest; None: not by itself."""


class Places:
    """See the module."""

    def __init__(self, places: int, *, quick_s: float, wait_s: float, waiting_max: int) -> None:
        """`quick_s`: what takes longer is long.  `waiting_max`: in all, shared as in a `Room`.

        `wait_s`: nobody waits longer at a time, so that whoever asked is told while he can still do something else.
        """
        self.places: Final = places
        self.long_max: Final = places - (max(1, places // 4) if places > 1 else 0)
        """Places that long ones get while others want some."""
        self._quick_s = quick_s
        self._wait_s = wait_s
        self._room = Room(waiting_max)
        self._waiting: dict[tuple[str, bool], deque[Turn]] = {}
        """(tenant, long) → its turns, the first first."""
        self._running: dict[str, list[Turn]] = {}
        """Tenant → its turns, the oldest first."""
        self._served: OrderedDict[str, float] = OrderedDict()
        """Tenant → seconds of places, or what stands for them."""
        self._long: OrderedDict[tuple[str, str], bool] = OrderedDict()
        """(tenant, name) → whether the last one was."""

    # --- what happens ------------------------------------------------------------------------

    def enter(self, tenant: str, name: str, now: float, until: Until) -> Turn | None:
        """One more question of a tenant; None: too many wait."""
        if not self._room.enter(tenant):
            return None
        if not self._is_here(tenant):
            floor = min((self._served_until(other, now) for other in self._here()), default=0.0)
            self._served[tenant] = max(self._served.get(tenant, floor), floor)
            self._served.move_to_end(tenant)
            while len(self._served) > _TENANTS_MAX:
                self._served.popitem(last=False)
        turn = Turn(tenant, name, now, until, long=self._long.get((tenant, name), False))
        self._waiting.setdefault((tenant, turn.long), deque()).append(turn)
        return turn

    def leave(self, turn: Turn, now: float, *, ended: bool = True) -> None:
        """It has what it wanted, or nobody wants it any more; twice is legal.  `ended`: how long it took tells."""
        if turn.state == "waiting":
            self._unwait(turn)
        elif turn.state == "running":
            self._stop(turn, now)
            if ended:
                self._remember(turn, long=now >= turn.granted_at + self._quick_s)
        turn.state = "over"

    def step(self, now: float) -> Step:
        """What follows, now."""
        made = Step()
        made.expired.extend(self._expire(now))
        for slow in self._all_running():
            if not slow.long and now >= slow.granted_at + self._quick_s:
                slow.long = True
                self._remember(slow, long=True)
        while True:
            if (turn := self._next(now)) is not None:
                self._grant(turn, now)
                made.granted.append(turn)
            elif (victim := self._victim()) is not None:
                self._recall(victim, now)
                made.recalled.append(victim)
            else:
                made.expired.extend(self._expire(now))  # what was recalled, and nobody wants any more
                return msgspec.structs.replace(made, look_at=self._look_at())

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def held(self, tenant: str) -> int:
        """Places that it has."""
        return len(self._running.get(tenant, ()))

    def _expire(self, now: float) -> list[Turn]:
        late = [t for line in self._waiting.values() for t in line if self._ends(t) <= now]
        for turn in late:
            self._unwait(turn)
            turn.state = "over"
        return late

    # --- whose turn --------------------------------------------------------------------------

    def _next(self, now: float) -> Turn | None:
        """Who gets the next free place."""
        running = list(self._all_running())
        if len(running) >= self.places:
            return None
        may_be_long = sum(t.long for t in running) < self.long_max
        heads = [line[0] for (_, long), line in self._waiting.items() if may_be_long or not long]
        return min(heads, key=lambda t: (self.held(t.tenant), self._served_until(t.tenant, now), t.since), default=None)

    def _victim(self) -> Turn | None:
        """Whose place is wanted more by somebody who waits; None: nobody's, or there is a free one."""
        running = list(self._all_running())
        long = [t for t in running if t.long]
        if len(long) > self.long_max and any(not is_long for _, is_long in self._waiting):
            return self._youngest(long)
        wanting = [tenant for tenant, is_long in self._waiting if is_long]
        if not wanting or (len(running) < self.places and len(long) < self.long_max):
            return None
        least = min(map(self.held, wanting))
        return self._youngest(t for t in long if self.held(t.tenant) >= least + 2)

    def _youngest(self, among: Iterable[Turn]) -> Turn | None:
        return max(among, key=lambda t: (self.held(t.tenant), t.granted_at), default=None)

    def _look_at(self) -> float | None:
        due = [t.granted_at + self._quick_s for t in self._all_running() if not t.long]
        due += [self._ends(t) for line in self._waiting.values() for t in line]
        return min(due, default=None)

    def _ends(self, turn: Turn) -> float:
        return min(turn.until.at, turn.since + self._wait_s)

    # --- keeping books -----------------------------------------------------------------------

    def _grant(self, turn: Turn, now: float) -> None:
        self._unwait(turn)
        turn.state, turn.granted_at = "running", now
        self._running.setdefault(turn.tenant, []).append(turn)

    def _recall(self, turn: Turn, now: float) -> None:
        self._stop(turn, now)
        turn.state, turn.since, turn.recalled = "waiting", now, True
        self._waiting.setdefault((turn.tenant, True), deque()).appendleft(turn)

    def _stop(self, turn: Turn, now: float) -> None:
        mine = self._running[turn.tenant]
        mine.remove(turn)
        if not mine:
            del self._running[turn.tenant]
        if turn.tenant in self._served:
            self._served[turn.tenant] += max(0.0, now - turn.granted_at)

    def _take_out(self, turn: Turn) -> None:
        line = self._waiting[turn.tenant, turn.long]
        line.remove(turn)
        if not line:
            del self._waiting[turn.tenant, turn.long]

    def _unwait(self, turn: Turn) -> None:
        self._take_out(turn)
        if not turn.recalled:  # it takes nobody's room: there are no more of these than places
            self._room.leave(turn.tenant)

    def _remember(self, turn: Turn, *, long: bool) -> None:
        self._long[turn.tenant, turn.name] = long
        self._long.move_to_end((turn.tenant, turn.name))
        while len(self._long) > _NAMES_MAX:
            self._long.popitem(last=False)
        if long:
            self._lengthen(turn)

    def _lengthen(self, like: Turn) -> None:
        """Those like it that wait are not tried as quick ones any more: one was enough."""
        line = self._waiting.get((like.tenant, False), ())
        for turn in [t for t in line if t.name == like.name]:
            self._take_out(turn)
            turn.long = True
            self._waiting.setdefault((turn.tenant, True), deque()).append(turn)

    def _served_until(self, tenant: str, now: float) -> float:
        """What it has had, with what is under way."""
        return self._served.get(tenant, 0.0) + sum(now - t.granted_at for t in self._running.get(tenant, ()))

    def _all_running(self) -> Iterator[Turn]:
        for mine in self._running.values():
            yield from mine

    def _is_here(self, tenant: str) -> bool:
        return tenant in self._running or (tenant, False) in self._waiting or (tenant, True) in self._waiting

    def _here(self) -> set[str]:
        return self._running.keys() | {tenant for tenant, _ in self._waiting}
