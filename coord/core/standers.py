"""Whom the service wakes: it alone knows where idle workers stand by, what waits, and who waits for it.

A worker that is told of a crowd stands by (`coord.core.seats`), so each process counts whom it told, and says it
with its part of the board.  What is counted is an account and not a census: being told adds one, being woken takes
away as many as probably come, and more than there are workers do not count.  It bounds what is spent and decides
nothing else: where it is too low, as many as there are seats are woken all the same at each look.

Pure: time is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from coord import limits

Place = tuple[str, str]
"""(tenant, capability)."""

_SURE: Final = 0.95
"""Each message wakes one of those who stand by, drawn by lots: three for each leave one in twenty out.  Of all who are
wanted no more are sure to come at one look; the next one sees to the others."""


class Queued(NamedTuple):
    """What the broker says of the queues of a capability."""

    waiting: int
    """Pulls that wait at that queue at which the fewest do."""
    pending: int
    """Tasks that were given to nobody yet, of all queues.  Where pulls wait at all of them, none."""
    again: int = 0
    """Tasks that somebody had claimed, and nobody has: the broker does not count them as pending."""

    @property
    def wanting(self) -> int:
        """Tasks that nobody has."""
        return self.pending + self.again


class _Account:
    __slots__ = ("at", "looked_at", "pending", "standing")

    def __init__(self) -> None:
        self.at = self.looked_at = 0.0
        self.standing = 0
        self.pending = False
        """Tasks waited at the last look."""


class Standers:
    """What one process knows.  All times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._told: dict[Place, tuple[int, float]] = {}
        """Whom this process told to stand by: how often, ever, and when last."""
        self._heard: dict[str, tuple[float, dict[Place, int]]] = {}
        """How often others had, when they last said so, and when that was."""
        self._accounts: dict[Place, _Account] = {}

    # --- who stands by --------------------------------------------------------------------

    def tell(self, place: Place, now: float) -> None:
        """A worker was told of a crowd, so it stands by."""
        count, _ = self._told.get(place, (0, 0.0))
        if count or len(self._told) < limits.CAPABILITIES_MAX:
            self._told[place] = count + 1, now
        self._add(place, 1, now)

    def said(self, now: float) -> list[tuple[str, str, int]]:
        """What the other processes are to know."""
        self._told = {p: told for p, told in self._told.items() if now - told[1] < limits.STANDERS_S}
        return [(*place, count) for place, (count, _) in self._told.items()]

    def hear(self, name: str, said: Iterable[tuple[str, str, int]], now: float) -> None:
        """Another process's `said`: what is lost is made good by the next one."""
        self._heard = {n: heard for n, heard in self._heard.items() if now - heard[0] < limits.STANDERS_S}
        counts = {(tenant, capability): count for tenant, capability, count in said}
        _, before = self._heard.get(name, (now, {}))
        self._heard[name] = now, counts
        for place, count in counts.items():
            known = before.get(place, 0)
            if count != known:
                self._add(place, count - known if count > known else count, now)

    def _add(self, place: Place, count: int, now: float) -> None:
        account = self._accounts.get(place)
        if account is None:
            if len(self._accounts) >= limits.CAPABILITIES_MAX:
                return
            account = self._accounts[place] = _Account()
        account.at = now
        account.standing = min(account.standing + max(0, count), limits.QUEUE_WAITING_MAX)

    # --- whom to wake ---------------------------------------------------------------------

    def due(self, agents: Mapping[Place, int], queued: Mapping[Place, int], now: float) -> list[Place]:
        """Where to look at the queues: where workers stand by, in turn if many do; once a second if no work waits.

        `agents`: instances that would take a task; `queued`: tasks that nobody has.  A process that is young was not
        there when others were told: until all of them have looked again it presumes that all agents stand by, wherever
        work waits.
        """
        self._accounts = {p: a for p, a in self._accounts.items() if now - a.at < limits.STANDERS_S}
        if now - self._began < limits.STANDERS_S:
            for place, count in queued.items():
                if count and agents.get(place) and place not in self._accounts:
                    self._add(place, agents[place], self._began)
        found = [
            place for place, account in self._accounts.items()
            if queued.get(place) or (account.at > self._began and now - account.looked_at >= limits.BOARD_EVERY_S)
        ]  # fmt: skip
        if len(found) > limits.STANDERS_PLACES:
            found = sorted(found, key=lambda place: self._accounts[place].looked_at)[: limits.STANDERS_PLACES]
        for place in found:
            self._accounts[place].looked_at = now
        return found

    def wakes(self, place: Place, found: Queued, agents: int) -> int:
        """How many messages to send, of which each wakes one of those who stand by, or nobody.

        As many as seats are empty, or as tasks wait if these are more.  Where the seats are taken, what waits is
        on its way, or cannot be delivered.
        """
        account = self._accounts.get(place)
        if account is None:
            return 0
        standing = min(account.standing, agents) if agents else account.standing
        empty = limits.QUEUE_SEATS - found.waiting
        wanted = max(empty, found.wanting) if empty > 0 else 0
        sent = _messages(wanted, standing)
        if found.wanting and account.pending:  # fewer stand by than are counted, so too few were drawn
            sent = max(sent, 3 * min(wanted, standing))
        account.pending = found.wanting > 0
        if standing:
            account.standing = int(standing * math.exp(-sent / standing))
        # Plain clients' pulls say nothing of their agents, and an account may be too low: some are always tried.
        return min(max(sent, min(wanted, limits.QUEUE_SEATS)), limits.WAKES_A_LOOK)


def _messages(wanted: int, standing: int) -> int:
    """How many it takes for `wanted` of `standing` to be drawn."""
    if not wanted or not standing:
        return 0
    return math.ceil(-standing * math.log1p(-min(wanted / standing, _SURE)))
