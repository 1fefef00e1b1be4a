"""How long an open batch waits for company: measured, between nothing and its class's limit.

Waiting pays when somebody comes: a second entry in a frame saves a message, its ack and their
CPU time.  Where nobody comes it is delay for nothing.  So each group (key, series) is asked
what the full limit would have brought: a **spell** begins with an entry, ends one limit
later or as soon as it has seen `COMPANY_MAX` more, and its **company** is how many those
were.  This counts arrivals, not batches: what is seen does not depend on how long was
waited, so there is no loop that could swing.

===============================================  =================================================
smoothed company C of the group                  effective linger
===============================================  =================================================
C ≥ `COMES` (until C < `CEASES`)                 the limit: batches grow as far as limits let them
otherwise                                        min(limit, 2 D): in the order of what is queued anyway
===============================================  =================================================

D is the **queueing delay** that was measured: how much later than due batches are sent (no
room in the in-flight window, a busy event loop), and by how much an ack takes longer than
the quickest of late.  Both are smoothed like TCP's round trip (RFC 6298, α = 1/8); the
quickest of late is the smallest of ten to twenty seconds, so that a changed route is believed in time
(BBR does so, draft-cardwell-iccrg-bbr-congestion-control, section 4.1.2).

A group that was never seen has the company that new groups had of late: facts without a key
are groups of one entry each, and it would be vain to wait for any of them.  The very first
groups are taken to have company, so that nothing is sent in pieces before anything was
measured; what a group's own first spell brings replaces what was assumed.

Nothing here looks at a clock: `now` is an argument, in seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

COMPANY_MAX: Final = 2
"""Entries more than the first at which a spell has seen enough: a burst is believed after a
handful of entries, and forgotten as quickly."""

WEIGHT: Final = 0.25
"""Of the last spell.  Nothing to plenty in three spells (at most nine entries), back in six."""

COMES: Final = 0.875
"""Company from which on the whole limit is waited: one, less what smoothing leaves of a start at zero."""

CEASES: Final = 0.625
"""Company below which it is not any more: more than one empty spell below `COMES`, so that
one entry that is late changes nothing."""

DELAY_WEIGHT: Final = 0.125
"""Of the last measured delay; RFC 6298's α."""

QUEUED_GAIN: Final = 2.0
"""How much of the queueing delay is waited: with half a limit of queue it is the whole limit, as if it
were fixed.  Without, a caller that is slowed by its own many messages never shows the
company it would have if it were not: a third more CPU per fact at saturation with 4,096 keys."""

QUICKEST_S: Final = 10.0
"""How long the quickest ack is remembered, at least; at most twice that."""


class _Group:
    """What is known of one group."""

    __slots__ = ("began_at", "company", "counted", "ended", "fresh", "used", "waits")

    def __init__(self, now: float, company: float) -> None:
        self.began_at = now
        self.counted = 1
        self.company = company
        self.waits = company >= COMES
        self.ended = False
        """The spell is over and accounted; the next entry begins one."""
        self.fresh = True
        """No spell of it has ended yet."""
        self.used = False
        """Seen again since it was last in line to be forgotten."""


class Pace:
    """The effective linger of one lane's groups; see the module."""

    __slots__ = (
        "_before_s",
        "_first_spells",
        "_groups",
        "_groups_max",
        "_late_s",
        "_newcomers",
        "_quickest_s",
        "_since",
        "_slower_s",
    )

    def __init__(self, groups_max: int) -> None:
        """`groups_max`: groups remembered; beyond it one that was silent for long is forgotten (CLOCK)."""
        # Ordered, because a dict looks for its first entry behind all that left from its front.
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._groups_max = groups_max
        self._newcomers = float(COMPANY_MAX)
        # (when it is surely over, batch sealed and all; group): the first spell of a group that stays silent.
        self._first_spells: deque[tuple[float, str]] = deque(maxlen=groups_max)
        self._late_s = 0.0
        self._slower_s = 0.0
        self._quickest_s = float("inf")
        self._before_s = float("inf")
        self._since = float("-inf")

    @property
    def delay_s(self) -> float:
        """The measured queueing delay: D of the module."""
        return self._late_s + self._slower_s

    def company(self, group: str) -> float:
        """How many more come within the limit, smoothed, at most `COMPANY_MAX`."""
        known = self._groups.get(group)
        return self._newcomers if known is None else known.company

    def linger_s(self, group: str, limit_s: float) -> float:
        """How long a batch of `group` that opens now should wait: within [0, `limit_s`]."""
        known = self._groups.get(group)
        if known.waits if known is not None else self._newcomers >= COMES:
            return limit_s
        return min(limit_s, QUEUED_GAIN * (self._late_s + self._slower_s))

    # --- what is measured ------------------------------------------------------------------

    def opened(self, group: str, now: float, limit_s: float) -> float:
        """An entry of `group` came that joined no open batch; returns what `linger_s` says now."""
        if self._first_spells and self._first_spells[0][0] <= now:
            self._end_first_spells(now)
        known = self._groups.get(group)
        if known is None:
            known = self._remember(group, now, limit_s)
        elif known.ended or now - known.began_at >= limit_s or known.counted > COMPANY_MAX:
            if not known.ended:
                self._end(known)
            known.ended = False
            known.began_at = now
            known.counted = 1
            known.used = True
        else:
            known.counted += 1
            known.used = True
        return limit_s if known.waits else min(limit_s, QUEUED_GAIN * (self._late_s + self._slower_s))

    def sealed(self, group: str, count: int) -> None:
        """A batch was closed with `count` entries in it."""
        if count == 1:
            return
        known = self._groups.get(group)
        if known is not None:
            known.counted += count - 1  # `opened` has counted the first

    def late(self, by_s: float) -> None:
        """A batch was sent so much later than it was due."""
        self._late_s += DELAY_WEIGHT * (max(0.0, by_s) - self._late_s)

    def acked(self, took_s: float, now: float) -> None:
        """A message, sent once, was acknowledged after `took_s`."""
        if now - self._since >= QUICKEST_S:
            self._before_s = self._quickest_s
            self._quickest_s = took_s
            self._since = now
        elif took_s < self._quickest_s:
            self._quickest_s = took_s
        slower_s = took_s - min(self._quickest_s, self._before_s)
        self._slower_s += DELAY_WEIGHT * (max(0.0, slower_s) - self._slower_s)

    # --- below: how ------------------------------------------------------------------------

    def _remember(self, group: str, now: float, limit_s: float) -> _Group:
        groups = self._groups
        if len(groups) >= self._groups_max:
            # Second chance: to move each group when it is used would cost all of them what only this one needs.
            first, oldest = groups.popitem(last=False)
            while oldest.used:
                oldest.used = False
                groups[first] = oldest
                first, oldest = groups.popitem(last=False)
        known = groups[group] = _Group(now, self._newcomers)
        self._first_spells.append((now + 2 * limit_s, group))
        return known

    def _end(self, known: _Group) -> None:
        company = min(COMPANY_MAX, known.counted - 1)
        if known.fresh:
            known.fresh = False
            self._newcomers += WEIGHT * (company - self._newcomers)
            known.company = float(company)
            known.waits = company >= COMES
            return
        known.company += WEIGHT * (company - known.company)
        known.waits = known.company >= (CEASES if known.waits else COMES)

    def _end_first_spells(self, now: float) -> None:
        """Believe groups that stay silent: each is looked at once."""
        first = self._first_spells
        while first and first[0][0] <= now:
            known = self._groups.get(first.popleft()[1])
            if known is not None and known.fresh:
                self._end(known)
                known.ended = True
