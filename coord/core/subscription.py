"""How a subscription follows the log: live while it can, from the log after every gap.

A subscriber reads two sources.  The *live feed* is the stream's republish: fast, pushed,
and silent about what it lost.  The *log reader* (the query service) answers "what matches
from position p on" and can vouch for an end: everything that matches at or below it has
been returned.  This machine joins the two, so that every matching fact is handed out
exactly once and in log order, or an error says which part is gone::

                 a page, measured after the last loss, that reaches the end
       +----------+ ----------------------------------------------> +------+
  ---> | catching |                                                 | live | --- idle: audit
       |    up    | <---------------------------------------------- +------+ <-- nothing missed
       +----------+   reconnect, overflow, a subject's own gap,
            |         an audit that found something
            v
       trimmed / replaced: an error for the consumer; `seek` is the way on

Why it is right.  *Generation* counts losses of live continuity (a reconnect, an overflow).
A page is joined with the live feed only if it was asked for in the current generation:
then the subscription was in place before the reader measured the end of the log, so a fact
above that end was stored, and therefore republished, after it.  What arrives live during
catch-up is held; at the join, what the page already covered is dropped and the rest goes on.

The position is the first entry *not* taken, ``(sequence, index in the frame)``.  A frame's
entries share a sequence, so a position may stand in the middle of one; after its last
entry the position is the next sequence.  This makes "was it trimmed" one comparison.

What the live feed does not show by itself.  A gap within one subject shows in
``Nats-Last-Sequence``; silence is checked by the idle audit.  A leader of a replicated
stream that dies between storing a fact and republishing it loses that republish for good,
while nobody's connection breaks and later facts arrive (seen: one fact in 28,000, one of six
subscribers, one of 64 kills).  So pages say who leads, a subscription to a replicated log
audits itself though it is busy, and when the leader has changed it reads again from the last
position that was *verified* under the old one, skipping what it knows.  What it finds then
comes late: the only case in which facts leave log order.  Until then the position that is
saved is the verified one.

A subscription may want only some of what matches.  `admit` throws a live message out before it
takes room in the buffer; entries that are `SKIPPED` are passed over when their turn comes.  Either
way the position moves over them, and everything above holds as if they had been taken.

Pure: the time and the jitter are arguments, reading is the caller's.  Nothing here is
bounded by hope: see `Bounds`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from coord import errors, limits

L = TypeVar("L")
"""A live message as received; decoded when it is taken."""
T = TypeVar("T")
"""What the consumer gets."""


class Skipped(Enum):
    """What stands for an entry that the consumer does not want."""

    SKIPPED = "skipped"


SKIPPED: Final = Skipped.SKIPPED


class Position(msgspec.Struct, frozen=True, order=True, gc=False):
    """The first entry not taken yet."""

    seq: int
    index: int = 0


Start: TypeAlias = Position | datetime | Literal["new", "first"]
"""Where to begin: a position, the first fact stored at or after a time, after all, or before all."""

Reason: TypeAlias = Literal["start", "reconnect", "overflow", "subject", "audit", "leader", "seek"]
"""Why a subscription reads from the log."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription may hold in memory, and how often it asks."""

    messages_max: int = limits.SUBSCRIBER_BUFFER_MESSAGES
    bytes_max: int = limits.SUBSCRIBER_BUFFER_BYTES
    resume_below: int = limits.READ_PAGE_FACTS_MAX // 2
    """The next page is asked for when fewer entries than this wait for the consumer."""
    audit_s: float = limits.IDLE_AUDIT_S
    """An idle live subscription audits itself after 1 to 1.5 times this (to a replicated log: a busy one too),"""
    audit_max_s: float = limits.IDLE_AUDIT_MAX_S
    """then after twice that, and so on up to this, until something comes."""
    recent_max: int = limits.SUBSCRIBER_RECENT
    """Live messages of a replicated log remembered until they are verified."""


class Read(msgspec.Struct, frozen=True):
    """A page to be read from the log; hand it back with the answer."""

    start: Start
    generation: int
    audit: bool


class Entry(msgspec.Struct, Generic[T], frozen=True):
    """One fact of a page."""

    seq: int
    index: int
    size: int
    value: T | Skipped


class Page(msgspec.Struct, Generic[T], frozen=True):
    """The log reader's answer: every match from the read's start up to, not including, `next`."""

    entries: Sequence[Entry[T]]
    next: Position
    first_seq: int
    """The window's first sequence, measured after the entries were read."""
    last_seq: int
    """The log's last sequence, measured before the end was confirmed."""
    created: str
    """When the stream was created: tells a log that was made anew."""
    leader: str = ""
    """Who leads a replicated stream, and since when; empty when it has no replicas."""

    @property
    def complete(self) -> bool:
        """Whether it reaches the end of the log."""
        return self.next.seq > self.last_seq


class Stats(msgspec.Struct):
    """What happened so far; only grows."""

    taken: int = 0
    poison: int = 0
    """Entries that could not be decoded; the projector dead-letters them."""
    filtered: int = 0
    """Live messages, and entries of frames and pages, that the consumer's condition threw out."""
    repeats: int = 0
    """Live messages that a page had already covered."""
    overflows: int = 0
    """Live messages dropped because the consumer is slow; they are read from the log instead."""
    pages: int = 0
    audits: int = 0
    audits_found: int = 0
    """Audits that found a fact the live feed had not brought."""
    late: int = 0
    """Facts that a change of leader kept from the live feed: handed out behind later ones."""


class _Waiting(NamedTuple, Generic[L, T]):
    """Something in the buffer: a live message (`raw`) or one decoded entry of a page."""

    seq: int
    size: int
    raw: L | None
    value: T | Skipped | None
    end: Position


class SubscriptionMachine(Generic[L, T]):
    """See the module.

    `expand` decodes a live message; None in its answer is a poison entry.  `admit` looks at one
    before that: None when nothing of it is wanted, else what `expand` is to get.
    """

    def __init__(
        self,
        start: Start,
        *,
        expand: Callable[[L], Sequence[T | Skipped | None]],
        admit: Callable[[L], L | None] | None = None,
        jitter: Callable[[], float],
        bounds: Bounds | None = None,
        created: str | None = None,
        on_catch_up: Callable[[Reason], None] = lambda _: None,
    ) -> None:
        """`jitter()` is in [0, 1); `created` is the stream's creation time a saved position belongs to."""
        self.bounds = bounds or Bounds()
        self.stats = Stats()
        self.failure: errors.CoordError | None = None
        """Raised to the consumer once everything before it is taken; see `acknowledge`."""
        self.created = created
        self._expand = expand
        self._admit = admit
        self._jitter = jitter
        self._on_catch_up = on_catch_up
        self._start: Start = start
        self._tail: Position | None = start if isinstance(start, Position) else None
        self._connected = True
        self._joined = False
        self._reading: Read | None = None
        self._generation = 0
        self._ignore_below = 0
        self._audit_at = 0.0
        self._quiet_audits = 0
        self._candidate: Position | None = None
        self._ready: deque[_Waiting[L, T]] = deque()
        self._ready_bytes = 0
        self._held: deque[tuple[int, int, int, L]] = deque()
        self._held_bytes = 0
        self._opened: deque[tuple[T, Position]] = deque()
        self._leader = ""
        self._verified: Position | None = self._tail
        self._floor: Position | None = None
        self._recent: deque[int] = deque()
        self._known: frozenset[int | tuple[int, int]] = frozenset()
        self._known_below = 0
        self._handed: Position | None = self._tail
        self._finished: Position | None = self._tail
        self._unfinished = False
        on_catch_up("start")

    # --- what it is ----------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether facts are handed out as they are published."""
        return self._joined

    @property
    def resolved(self) -> bool:
        """Whether the start is fixed: from here on nothing is missed silently."""
        return self._joined or self._tail is not None

    @property
    def waiting(self) -> int:
        """Entries and live messages that the consumer has not taken (a frame counts once until opened)."""
        return len(self._ready) + len(self._opened)

    @property
    def held(self) -> int:
        """Live messages held back until catch-up reaches them."""
        return len(self._held)

    @property
    def done(self) -> Position | None:
        """First position the consumer has not finished with: what a durable subscription saves."""
        busy = self._unfinished or self._ready or self._opened
        done = self._finished if busy else self._tail
        # A fact that comes late lies below positions that are finished already.
        limit = self._floor or (self._verified if self._leader else None)
        return done if done is None or limit is None else min(done, limit)

    @property
    def replicated(self) -> bool:
        """Whether the log has replicas, so that a change of its leader matters."""
        return bool(self._leader)

    @property
    def audit_at(self) -> float | None:
        """When `want` will ask for an audit, if nothing happens before; None while it would not."""
        return self._audit_at if self._joined and self._connected and self.failure is None else None

    # --- the live feed -------------------------------------------------------------------

    def disconnected(self) -> None:
        """The connection is lost: live continuity ends here."""
        self._connected = False
        self._lost("reconnect")

    def connected(self) -> None:
        """The connection and its subscriptions are back."""
        self._connected = True
        self._lost("reconnect")

    def receive(self, seq: int, subject_last_seq: int, size: int, raw: L, now: float) -> None:
        """A live message: its sequence, the one before it on the same subject (0: none), its bytes."""
        if self.failure is not None:
            return
        if self._joined and not self._auditing:
            self._follow(seq, subject_last_seq, size, raw, now)
        else:
            self._hold(seq, subject_last_seq, size, raw)

    def _follow(self, seq: int, subject_last_seq: int, size: int, raw: L, now: float) -> None:
        tail = self._tail
        if tail is not None:
            if seq < tail.seq:
                self.stats.repeats += 1
                return
            if subject_last_seq >= tail.seq:
                self._lost("subject")
                self._hold(seq, subject_last_seq, size, raw)
                return
        admitted = raw if self._admit is None else self._admit(raw)
        if admitted is not None and self._full(size):
            self._overflow()
            return
        end = Position(seq + 1)
        if admitted is None:
            self.stats.filtered += 1
        else:
            self._ready.append(_Waiting(seq, size, admitted, None, end))
            self._ready_bytes += size
        self._begin(Position(seq))
        self._tail = end
        self._quiet_audits = 0
        if self._leader:
            self._remember(seq)
        else:
            self._audit_at = self._next_audit(now)

    def _remember(self, seq: int) -> None:
        self._recent.append(seq)
        if len(self._recent) > self.bounds.recent_max:
            self._verified = Position(self._recent.popleft() + 1)

    def _hold(self, seq: int, subject_last_seq: int, size: int, raw: L) -> None:
        if self._full(size):
            self._overflow()
            return
        self._held.append((seq, subject_last_seq, size, raw))
        self._held_bytes += size

    def _full(self, size: int) -> bool:
        return (
            len(self._ready) + len(self._held) >= self.bounds.messages_max
            or self._ready_bytes + self._held_bytes + size > self.bounds.bytes_max
        )

    def _overflow(self) -> None:
        # What already waits for the consumer is in order and stays; only the newest is given up.
        self.stats.overflows += 1 + len(self._held)
        self._lost("overflow")

    def _lost(self, reason: Reason) -> None:
        """Live continuity ended: whatever is held may have a hole behind it."""
        self._generation += 1
        self._clear_held()
        self._candidate = None
        if not self._joined:
            return
        self._joined = False
        self._on_catch_up(reason)
        if self._tail is None:
            # Joined without a reader, and nothing has come since: nobody knows from where to read.
            self.failure = errors.ServiceUnavailable(
                "the live feed broke before this subscription knew its position, "
                "because no log reader had answered; facts may be missing",
            )

    def _clear_held(self) -> None:
        self._held.clear()
        self._held_bytes = 0

    # --- the log reader ------------------------------------------------------------------

    @property
    def _auditing(self) -> bool:
        return self._reading is not None and self._reading.audit

    def want(self, now: float) -> Read | None:
        """The page to read now, or None.  One at a time: answer with `page` or `read_failed`."""
        if self._reading is not None or self.failure is not None or not self._connected:
            return None
        if self._joined:
            if now < self._audit_at:
                return None
            self.stats.audits += 1
        elif self.waiting > self.bounds.resume_below:
            return None
        self._reading = Read(self._read_start(), self._generation, self._joined)
        return self._reading

    def _read_start(self) -> Start:
        if self._tail is not None:
            return self._tail
        return "new" if self._joined else self._start

    def page(self, read: Read, page: Page[T], now: float) -> None:
        """The answer to `read`."""
        self._reading = None
        if read.generation < self._ignore_below or self.failure is not None:
            return
        self.stats.pages += 1
        self.failure = self._refusal(read, page)
        if self.failure is not None:
            self._joined = False
            self._clear_held()
            return
        self.created = page.created
        if self._joined and self._tail is None:
            self._anchor(read, page, now)
            return
        if read.audit and page.entries:
            self.stats.audits_found += 1
            if not (page.leader and page.complete):  # of a busy feed: what was on its way
                self._on_catch_up("audit")
        self._quiet_audits = self._quiet_audits + 1 if read.audit and not page.entries else 0
        self._append(page)
        if self._doubtful(read, page):
            return
        self._joined = False
        if page.complete and read.generation == self._generation:
            self._join(now)

    def _refusal(self, read: Read, page: Page[T]) -> errors.CoordError | None:
        wanted = read.start.seq if isinstance(read.start, Position) else 0
        if (self.created is not None and page.created != self.created) or page.last_seq + 1 < wanted:
            return errors.LogReplaced(
                wanted=wanted, first_seq=page.first_seq, last_seq=page.last_seq, created=page.created
            )
        if 0 < wanted < page.first_seq:
            return errors.LogTrimmed(wanted=wanted, first_seq=page.first_seq)
        return None

    def _append(self, page: Page[T]) -> None:
        entries = page.entries
        for number, entry in enumerate(entries):
            if entry.seq in self._known or (entry.seq, entry.index) in self._known:
                continue
            self.stats.late += entry.seq < self._known_below
            after = entries[number + 1].seq if number + 1 < len(entries) else page.next.seq
            end = Position(entry.seq, entry.index + 1) if after == entry.seq else Position(entry.seq + 1)
            self._ready.append(_Waiting(entry.seq, entry.size, None, entry.value, end))
            self._ready_bytes += entry.size
        self._begin(Position(entries[0].seq, entries[0].index) if entries else page.next)
        self._tail = page.next
        if page.next.seq >= self._known_below:
            self._known, self._known_below = frozenset(), 0

    def _doubtful(self, read: Read, page: Page[T]) -> bool:
        """Whether a change of leader may have kept something from the live feed; then it is read again."""
        leader, self._leader = self._leader, page.leader
        if not leader or page.leader == leader or read.start == self._verified:
            self._verified = page.next
            self._recent.clear()
            return False
        self._known = frozenset([*self._recent, *((entry.seq, entry.index) for entry in page.entries)])
        self._known_below = page.next.seq + (page.next.index > 0)
        self._recent.clear()
        self._floor = self._floor or self._verified
        self._tail = self._verified
        self._lost("leader")
        return True

    def _begin(self, position: Position) -> None:
        """The start is known now, if it was not."""
        if self._tail is None:
            self._tail = self._verified = self._handed = self._finished = position

    def _join(self, now: float) -> None:
        self._joined = True
        self._audit_at = self._next_audit(now)
        held, self._held = self._held, deque()
        self._held_bytes = 0
        for message in held:
            self.receive(*message, now)  # holds again what comes after a gap within a subject

    def _anchor(self, read: Read, page: Page[T], now: float) -> None:
        # Joined live before any reader answered, and nothing came yet.  The end an audit saw is
        # safe to resume from only when the next audit still sees an unbroken live feed: by then
        # whatever was stored below that end has long been republished.
        if read.generation == self._generation:
            if self._candidate is not None and not self._held:
                self._begin(self._candidate)
            self._candidate = page.next
        self._join(now)

    def read_failed(self, read: Read, now: float) -> None:
        """`read` was not answered.  A failed audit changes nothing; catch-up asks again."""
        self._reading = None
        if read.audit and self._joined:
            self._join(now)

    def refused(self, read: Read, error: errors.CoordError) -> None:
        """The reader refused `read`, and would again: its start has left the window, for instance."""
        self._reading = None
        if read.generation < self._ignore_below:
            return
        self._joined = False
        self._clear_held()
        self.failure = error

    def join_without_reader(self, now: float) -> bool:
        """Go live though no reader answers, where that loses nothing (`start="new"`); else False."""
        if self._start != "new" or self._tail is not None or self._joined or self.failure is not None:
            return False
        if not self._connected:
            return False
        self._join(now)
        return True

    def last_look(self, now: float) -> Read | None:
        """Before a subscription to a replicated log closes: the page that verifies what was live."""
        self._reading = None
        self._audit_at = now
        return self.want(now) if self._joined and self._leader and self.done != self._tail else None

    def _next_audit(self, now: float) -> float:
        wait_s = min(self.bounds.audit_s * 2.0 ** min(self._quiet_audits, 30), self.bounds.audit_max_s)
        return now + max(wait_s, self.bounds.audit_s) * (1.0 + 0.5 * self._jitter())

    # --- the consumer --------------------------------------------------------------------

    def finish(self) -> None:
        """The consumer is done with everything it has taken."""
        self._finished = self._handed
        self._unfinished = False
        if self._floor is not None and not (self._ready or self._opened or self._known):
            self._floor = None

    def take(self) -> T | None:
        """The next entry in order, or None when none waits.  It counts as unfinished until `finish`."""
        while not self._opened:
            if not self._ready:
                return None
            self._open(self._ready.popleft())
        value, self._handed = self._opened.popleft()
        self._unfinished = True
        self.stats.taken += 1
        return value

    def _open(self, waiting: _Waiting[L, T]) -> None:
        self._ready_bytes -= waiting.size
        entries: Sequence[T | Skipped | None]
        if waiting.value is SKIPPED:
            entries = (SKIPPED,)
        elif waiting.value is not None:
            self._opened.append((waiting.value, waiting.end))
            return
        else:
            assert waiting.raw is not None
            entries = self._expand(waiting.raw)
        good = [
            (Position(waiting.seq, index + 1), value)
            for index, value in enumerate(entries)
            if value is not None and value is not SKIPPED
        ]
        filtered = sum(value is SKIPPED for value in entries)
        self.stats.filtered += filtered
        self.stats.poison += len(entries) - len(good) - filtered
        for number, (end, value) in enumerate(good, start=1):
            self._opened.append((value, end if number < len(good) else waiting.end))
        if not good:
            self._handed = waiting.end
            if not self._unfinished:
                self._finished = waiting.end

    def acknowledge(self) -> errors.CoordError | None:
        """The failure, now that the consumer learns of it.  One that can be retried is forgotten."""
        failure = self.failure
        if failure is not None and failure.retryable:
            self.failure = None
            self._start = "new"
        return failure

    def seek(self, start: Start) -> None:
        """Forget everything held and go on from `start`: the way on after `LogTrimmed`."""
        self._generation += 1
        self._ignore_below = self._generation
        self._clear_held()
        self._ready.clear()
        self._opened.clear()
        self._ready_bytes = 0
        self._unfinished = False
        self._joined = False
        self._candidate = None
        self._start = start
        self._tail = self._handed = self._finished = start if isinstance(start, Position) else None
        self._verified, self._floor, self._leader = self._tail, None, ""
        self._recent.clear()
        self._known, self._known_below = frozenset(), 0
        self.failure = None
        self.created = None
        self._on_catch_up("seek")
