"""Cached answers that facts move on, instead of evicting them: which facts, and when it is certain; no cache.

A function that says how a fact changes its answer (``moved_by=``) need not be called again for each.  Two things are
heard, and neither is enough alone::

    live fact ─▶ what it says, long before it is committed; may be lost, repeated, or never be believed
    notice    ─▶ which messages of (from, to] were stored, and what each touched; says nothing of what they hold

An answer moves when the notice comes that would evict it.  The notice accounts for every fact that touched the
answer's tags; if what each of them says was heard, the answer becomes what a load at that place would bring: all
facts behind the place where it was, in the log's order, each once.  Whatever is missing, doubtful or out of order
evicts it, as everything did before.  So nothing here has to find out what the live feed lost: a fact that was lost, or
came late, or is of a kind that nobody listens for, is one that the notice names and nobody heard.

A load under way when facts are committed may end with a snapshot from before them.  The notices since are
remembered, in bounds (`_Chain`), and it is moved on as it ends, if they go back as far as its snapshot.

Places of different partitions cannot be compared, and the facts of one tag may be of several: an answer takes facts by
the order of the whole log, and one that comes behind a later one of another partition evicts it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

import msgspec

from coord import limits
from coord.core.eviction import Marks, Place, Source, TagRules, sources_of
from coord.wire import notices, subjects
from coord.wire.decode import decode_message
from coord.wire.notices import Notice
from coord.wire.records import StoredFact

UNPLACED: Final = "unplaced"
"""The loader did not say up to where its snapshot goes, or the notices since are not remembered."""
UNNAMED: Final = "unnamed"
"""The notice is of too many messages to name each."""
UNHEARD: Final = "unheard"
"""A fact was not heard: lost, late, forgotten, or of a kind that nobody listens for."""
DISORDER: Final = "disorder"
"""A fact stands before one of another partition that is in the answer."""
UNREADABLE: Final = "unreadable"
"""Not all of a message was believed, or not as we read it."""

_BEGINNING: Final[Place] = (1, 0)
_TOLD_BYTES: Final = 512
"""What is remembered of one message of a notice, without what it says: measured, rounded up."""
_HEARD_BYTES: Final = 768
"""The same of a live message besides its bytes: the object, its texts, its slots."""


class Message:
    """A live message: decoded when somebody wants it, once for all."""

    __slots__ = ("_facts", "body", "headers", "seq", "size", "stored_at", "subject")

    def __init__(self, subject: str, headers: bytes | None, body: bytes, seq: int, stored_at: datetime) -> None:
        """`subject`: the stored one; `headers`: the author's."""
        self.subject = subject
        self.headers = headers
        self.body = body
        self.seq = seq
        self.stored_at = stored_at
        self.size = _HEARD_BYTES + len(subject) + len(headers or b"") + 3 * len(body)
        """Bytes: as it came, and about what it takes when it is decoded."""
        self._facts: tuple[StoredFact, ...] | None = None

    def facts(self, count: int) -> tuple[StoredFact, ...] | None:
        """Its facts, of which so many were stored; None if these are not all of them, as we read it."""
        if self._facts is None:
            read = decode_message(self.subject, self.headers, self.body, self.seq, self.stored_at)
            self._facts = tuple([one for one in read if isinstance(one, StoredFact)])
        return self._facts if len(self._facts) == count else None


class Told(msgspec.Struct, frozen=True, eq=False):
    """A message of which facts were stored, by a notice's word."""

    seq: int
    count: int
    tags: frozenset[str]
    """What they touched, with what the configuration makes of it."""
    message: Message | None
    """What it says; None: that was not heard."""


class At(msgspec.Struct, frozen=True):
    """Where an answer stands."""

    places: dict[Source, Place]
    """Up to where it has seen each partition that its tags depend on."""
    seq: int
    """No fact before this one can be put behind what is in it."""


class Moved(msgspec.Struct, frozen=True):
    """What becomes of an answer that a notice touches."""

    at: At
    facts: tuple[Told, ...]
    """To be applied to it, in this order; none: it has seen all of them."""


class _Chain:
    """What was stored of one partition behind a place, without a gap."""

    __slots__ = ("since", "told")

    def __init__(self, since: Place) -> None:
        self.since = since
        self.told: deque[Told] = deque()


class Moves:
    """What one process heard of facts.  Deterministic: the same calls give the same answers."""

    def __init__(self, rules: TagRules, bytes_max: int) -> None:
        """`bytes_max`: half of it for what waits for its notice, half for what is remembered of notices."""
        self._rules = rules
        self._bytes_max = bytes_max // 2
        self._heard_bytes = self._told_bytes = 0
        self._epoch = 0
        """Of the log that is heard: one that is made anew counts from 1 again."""
        self._heard: OrderedDict[int, Message] = OrderedDict()
        """Sequence → what waits for its notice; the oldest first."""
        self._chains: dict[Source, _Chain] = {}
        self._remembered: deque[Source] = deque()
        """Of each fact in the chains, in the order in which it was told of."""

    @property
    def bytes(self) -> int:
        """Held now, as counted."""
        return self._heard_bytes + self._told_bytes

    # --- what happens --------------------------------------------------------------------

    def lost(self) -> None:
        """Notices may be missed: nothing that was heard is good for anything."""
        self._heard.clear()
        self._chains.clear()
        self._remembered.clear()
        self._heard_bytes = self._told_bytes = 0

    def hear(self, message: Message) -> None:
        """A live fact.  A repeat changes nothing: a place in the log holds one message for ever."""
        if message.seq not in self._heard:
            self._heard[message.seq] = message
            self._heard_bytes += message.size
            while self._heard_bytes > self._bytes_max:
                self._heard_bytes -= self._heard.popitem(last=False)[1].size

    def begin(self, source: Source, place: Place) -> None:
        """Whatever is stored of this partition behind `place` will be told of."""
        if source[0] == subjects.EVENTS:
            self._forget(source)
            self._chains[source] = _Chain(place)
            if place[0] > self._epoch:
                self._epoch = place[0]
                self._heard.clear()
                self._heard_bytes = 0

    def tell(self, notice: Notice, *, unbroken: bool) -> list[Told] | str:
        """A notice: what it says was stored; else why that is not known, which only evicting helps against.

        `unbroken`: nothing was missed between the one before and this one, and it names what was touched.
        """
        source, place = (notice.stream, notice.partition), (notice.epoch, notice.to)
        stored = notices.stored(notice) if unbroken else None
        chain = self._chains.get(source)
        if stored is None or chain is None or not chain.since[0] == notice.epoch == self._epoch:
            self.begin(source, place)
            return UNNAMED
        told = [Told(one.seq, one.count, self._rules.touched(one.tags), self._take(one.seq)) for one in stored]
        chain.told.extend(told)
        self._remembered.extend([source] * len(told))
        self._told_bytes += sum([_size(one) for one in told])
        self._make_room()
        return told

    # --- what it means -------------------------------------------------------------------

    def place(self, tags: Collection[str], marks: Marks | None) -> Moved | str:
        """Where an answer stands that was loaded from a snapshot up to `marks`, and the facts that it lacks.

        Else why that cannot be known.  Whatever notices told of until now is among them, or in the snapshot.
        """
        if not marks:
            return UNPLACED
        places: dict[Source, Place] = {}
        lacks: list[Told] = []
        for source in sources_of(tags):
            chain, mark = self._chains.get(source), marks.get(source, _BEGINNING)
            if chain is None or mark < chain.since or mark[0] != chain.since[0]:
                return UNPLACED
            places[source] = mark
            for one in reversed(chain.told):
                if one.seq <= mark[1]:
                    break
                if not one.tags.isdisjoint(tags):
                    lacks.append(one)
        if len({place[0] for place in places.values()}) > 1:  # sequences of two logs
            return UNPLACED
        lacks.sort(key=_seq)
        return _moved(At(places, max(place[1] for place in places.values())), lacks)

    def touch(self, at: At, tags: Collection[str], notice: Notice, told: Iterable[Told]) -> Moved | str:
        """What a notice that touches one of `tags` does to an answer; else why it has to go."""
        source = (notice.stream, notice.partition)
        before = at.places.get(source)
        if before is None or before[0] != notice.epoch:
            return UNPLACED
        new = [one for one in told if one.seq > before[1] and not one.tags.isdisjoint(tags)]
        place = max(before, (notice.epoch, notice.to))
        return _moved(At(at.places | {source: place}, at.seq), new)

    # --- inside --------------------------------------------------------------------------

    def _take(self, seq: int) -> Message | None:
        message = self._heard.pop(seq, None)
        if message is not None:
            self._heard_bytes -= message.size
        return message

    def _make_room(self) -> None:
        """What was told of first is forgotten."""
        while self._remembered and (
            self._told_bytes > self._bytes_max or len(self._remembered) > limits.CACHE_MOVE_FACTS_MAX
        ):
            chain = self._chains[self._remembered.popleft()]
            gone = chain.told.popleft()
            self._told_bytes -= _size(gone)
            chain.since = (chain.since[0], gone.seq)

    def _forget(self, source: Source) -> None:
        chain = self._chains.pop(source, None)
        if chain is not None and chain.told:
            self._told_bytes -= sum([_size(one) for one in chain.told])
            self._remembered = deque([one for one in self._remembered if one != source])


def _moved(at: At, facts: list[Told]) -> Moved | str:
    if any(one.message is None for one in facts):
        return UNHEARD
    if not facts:
        return Moved(at, ())
    if facts[0].seq <= at.seq:
        return DISORDER
    return Moved(At(at.places, facts[-1].seq), tuple(facts))


def _seq(told: Told) -> int:
    return told.seq


def _size(told: Told) -> int:
    return _TOLD_BYTES + (0 if told.message is None else told.message.size)
