"""What a notice evicts, and what may still be kept: pure decisions, no cache.

A *generation* counts the evictions that this process has received.  A load notes the generation
in which it begins.  What it brings may be kept only if none of its tags was evicted since, whatever
the order in which things end; an entry that was kept is dropped when one of its tags is evicted.
So no entry is ever older than the last eviction of its tags that was received::

                      notice of tag t ──▶ generation 8: entries of t are dropped
    load of t begins (7) ───────────────────────▶ ends: handed over, not kept
                            load of t begins (8) ──────▶ ends: kept

Notices may be lost.  Each says from where to where it goes (`from`, `to`) and in which session of its
partition; a beat says the session alone.  Another session than the last, or a `from` that is not the last
`to`, is a *gap*: something of that partition may have been missed, so all that may depend on it is evicted.
While nobody vouches for the notices to arrive (not connected, or nothing heard since) nothing is kept.

Which partition a tag belongs to is known of ``key:…`` (its facts are in one) and ``series:…`` (telemetry);
any other tag may be touched from every partition of EVENTS.

A replica of the database may lag behind the notices.  A load that says up to where its snapshot goes is
measured against the positions at which its tags were evicted (`required`, `is_behind`).

What another process kept, or this one before it was started again, says up to where it goes, too.  It is believed
only where that can be proved (`proves`): this process has heard of every partition that the tags depend on, the
answer has seen each of them at least up to where that began, and has all that was evicted since.  By hand something is
evicted at no place: then only what this process loaded itself since is believed (`is_pardoned`).

A log that was made anew counts from 1 again.  So a place is an epoch and a sequence, and places are compared as such:
one of an older epoch is older, whatever its sequence.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from coord import limits
from coord.wire import subjects
from coord.wire.notices import Notice

Source: TypeAlias = tuple[str, int]
"""(stream, partition)."""

Place: TypeAlias = tuple[int, int]
"""(epoch, sequence) in a source."""

Marks: TypeAlias = Mapping[Source, Place]
"""Up to where a snapshot of the tables goes."""

BEGINNING: Final[Place] = (1, 0)
"""Of every source."""

_KEY: Final = "key:"
_SERIES: Final = "series:"


class Watermark(msgspec.Struct, frozen=True):
    """A fact that a read wants to see: its ordering key and the sequence that publishing it returned."""

    key: str
    """The fact's ordering key (telemetry: the agent)."""
    seq: int
    stream: str = subjects.EVENTS
    epoch: int | None = None
    """In which incarnation of the log that is, from an answer's marks; publishing does not return it.  Where the tables
    are in a later one they have all of this one that they ever will.  None: it is not known (`Evictions.has`)."""

    @property
    def source(self) -> Source:
        """Where it is."""
        return (self.stream, subjects.partition(self.key))


class Evicted(msgspec.Struct, frozen=True):
    """What a cache has to drop."""

    reason: str
    """notice, backlog (a notice that names nothing), gap, session, lost, or manual."""
    tags: frozenset[str] = frozenset()
    """Entries with one of these,"""
    source: Source | None = None
    """or that may depend on this partition,"""
    everything: bool = False
    """or all that have tags."""


class _Heard(msgspec.Struct):
    session: str
    to: Place | None
    """Where the last notice ended; None while only beats were heard."""
    seen: Place
    """Up to where the partition is known to be committed,"""
    created: str = ""
    """and of which stream (`Notice.created`); "" while no beat has said it."""


class _Mark(msgspec.Struct, frozen=True):
    generation: int
    place: Place
    """The furthest at which a partition was evicted."""


class _TagMark(msgspec.Struct):
    generation: int
    places: dict[Source, Place]
    """The furthest at which it was evicted from each partition; none: by hand.

    Of one that many partitions touch (``kind:task``) no place is forgotten for the next one's: what is forgotten is
    required of all tags."""


EVERY_PARTITION: Final = frozenset((subjects.EVENTS, p) for p in range(limits.PARTITIONS))
"""Of EVENTS: any of them may touch most tags."""


def _source_of(tag: str) -> Source | None:
    """The one partition that may touch `tag`; None: any of EVENTS."""
    if tag.startswith(_SERIES):
        return (subjects.TELEMETRY, subjects.partition(tag[len(_SERIES) :].partition(".")[0]))
    return (subjects.EVENTS, subjects.partition(tag[len(_KEY) :])) if tag.startswith(_KEY) else None


def depends_on(tag: str, source: Source) -> bool:
    """Whether what is committed in a partition may touch `tag`."""
    own = _source_of(tag)
    return source[0] == subjects.EVENTS if own is None else source == own


def sources_of(tags: Iterable[str]) -> frozenset[Source]:
    """The partitions that may touch one of the tags."""
    found: set[Source] = set()
    for tag in tags:
        own = _source_of(tag)
        found |= EVERY_PARTITION if own is None else {own}
    return frozenset(found)


class Evictions:
    """What one process has heard.  Deterministic: the same calls give the same answers."""

    def __init__(self, rules: TagRules | None = None) -> None:
        self.generation = 0
        """Grows by one with every eviction."""
        self.gaps = 0
        """Times that something may have been missed."""
        self.beats = 0
        self._rules = rules or TagRules({})
        self._connected = False
        self._heard_any = False
        self._heard: dict[Source, _Heard] = {}
        self._tags: OrderedDict[str, _TagMark] = OrderedDict()
        self._forgotten = 0
        """The youngest generation of a tag that is remembered no more,"""
        self._forgotten_places: dict[Source, Place] = {}
        """and where those were evicted."""
        self._wide: dict[Source, _Mark] = {}
        self._everything = 0
        self._by_hand: OrderedDict[Hashable, int] = OrderedDict()
        """Tags and keys that were evicted by hand, and the generations;"""
        self._by_hand_before = 0
        """and the youngest of those that are remembered no more, or of all."""

    # --- what happens --------------------------------------------------------------------

    @property
    def is_vouched(self) -> bool:
        """Whether notices arrive: what has tags may be kept."""
        return self._connected and self._heard_any

    @property
    def heard(self) -> int:
        """Partitions of which the session is known."""
        return len(self._heard)

    def connected(self) -> Evicted:
        """The subscription is there, and whatever is said from now on is heard."""
        self._connected = True
        return self._all("lost")

    def disconnected(self) -> Evicted:
        """Notices may be missed from now on."""
        self._connected = False
        return self._all("lost")

    def beat(self, notice: Notice) -> Evicted | None:
        """Everybody's: which session a partition is in."""
        self.beats += 1
        self._heard_any = True
        source, place = (notice.stream, notice.partition), (notice.epoch, notice.to)
        known = self._heard.get(source)
        if known is not None and known.session == notice.session and known.seen[0] == notice.epoch:
            known.seen = max(known.seen, place)
            known.created = notice.created
            return None
        self._follow(source, _Heard(notice.session, None, place, notice.created))
        return self._gap(source, place, "session")

    def notice(self, notice: Notice) -> list[Evicted]:
        """This tenant's: what was committed.  What is to be dropped, in this order."""
        self._heard_any = True
        source, place = (notice.stream, notice.partition), (notice.epoch, notice.to)
        known = self._heard.get(source)
        # A session that was heard of by a beat alone has said nothing since: else it would have been heard.
        unbroken = (
            known is not None
            and known.session == notice.session
            and (known.to is None or known.to == (notice.epoch, notice.from_))
        )
        same = known is not None and known.session == notice.session and known.seen[0] == notice.epoch
        self._follow(source, _Heard(notice.session, place, place, known.created if known and same else ""))
        if not unbroken:
            return [self._gap(source, place, "gap")]
        if notice.tags is None:
            return [self._partition_wide(source, place, "backlog")]
        return [self._named(self._rules.touched(notice.tags), source, place, "notice")]

    def manual(self, tags: Iterable[str]) -> Evicted:
        """Somebody asks for it."""
        found = self._named(frozenset(tags), None, (0, 0), "manual")
        for tag in found.tags:
            self._remember_by_hand(tag)
        return found

    def manual_all(self) -> Evicted:
        """The same of all that has tags."""
        found = self._all("manual")
        self._by_hand_before = self.generation
        return found

    def manual_key(self, key: Hashable) -> None:
        """One answer is wanted no more, whatever tags it has."""
        self.generation += 1
        self._remember_by_hand(key)

    def _remember_by_hand(self, what: Hashable) -> None:
        self._by_hand[what] = self.generation
        self._by_hand.move_to_end(what)
        while len(self._by_hand) > limits.CACHE_EVICTED_TAGS_MAX:
            _, generation = self._by_hand.popitem(last=False)
            self._by_hand_before = max(self._by_hand_before, generation)

    # --- what may be kept ----------------------------------------------------------------

    def is_current(self, tags: Collection[str], begun: int) -> bool:
        """Whether none of the tags was evicted since generation `begun`: whoever asks now may share that load."""
        if begun == self.generation or not tags:
            return True
        if self._everything > begun or self._forgotten > begun:
            return False
        return not any(self._since(tag, begun) for tag in tags)

    def may_keep(self, tags: Collection[str], begun: int) -> bool:
        """Whether what a load that began in generation `begun` brings may be kept under these tags."""
        return not tags or (self.is_vouched and self.is_current(tags, begun))

    # --- what was kept elsewhere ---------------------------------------------------------

    def proves(self, tags: Collection[str], marks: Marks) -> bool:
        """Whether an answer that has seen everything up to `marks` is known to be as good as one loaded now.

        Without tags nothing evicts it.
        """
        if not tags:
            return True
        sources = sources_of(tags)
        if not self.is_vouched or not all(source in self._heard for source in sources):
            return False
        required = self.required(tags)
        return not is_behind(marks, {source: place for source, place in required.items() if source in sources})

    def is_evicted(self, tags: Iterable[str], marks: Marks) -> bool:
        """Whether something that names one of the tags is known that `marks` lack: not proving it is no mischance."""
        own = [mark.places for mark in map(self._tags.get, tags) if mark is not None]
        return any(is_behind(marks, places) for places in own)

    def is_pardoned(self, what: Iterable[Hashable], begun: int = 0) -> bool:
        """Whether none of these tags and keys was evicted by hand since generation `begun`; 0: ever."""
        return self._by_hand_before <= begun and not any(self._by_hand.get(one, 0) > begun for one in what)

    def pardon(self) -> None:
        """Nothing is left anywhere of what was loaded before the last eviction by hand."""
        self._by_hand.clear()
        self._by_hand_before = 0

    def places(self, tags: Collection[str]) -> dict[Source, Place]:
        """Up to where everything that touches the tags was heard: what may be kept now is as good as of there.

        That holds because a projector's notices and beats come in the order in which it sent them.
        """
        if not self.is_vouched:
            return {}
        return {source: self._heard[source].seen for source in sources_of(tags) if source in self._heard}

    def log(self, tags: Collection[str]) -> str:
        """Of which stream that is heard, `Notice.created`; "": it is not known, or not one."""
        said = {self._heard[source].created for source in sources_of(tags) if source in self._heard}
        return said.pop() if len(said) == 1 else ""

    def _since(self, tag: str, begun: int) -> bool:
        mark = self._tags.get(tag)
        if mark is not None and mark.generation > begun:
            return True
        return any(wide.generation > begun and depends_on(tag, source) for source, wide in self._wide.items())

    def required(self, tags: Iterable[str]) -> dict[Source, Place]:
        """Up to where a snapshot must go, so that it has all by which these tags were evicted so far."""
        needed = dict(self._forgotten_places)
        for tag in tags:
            found = [(source, wide.place) for source, wide in self._wide.items() if depends_on(tag, source)]
            if (own := self._tags.get(tag)) is not None:
                found += own.places.items()
            for source, place in found:
                needed[source] = max(needed.get(source, BEGINNING), place)
        return needed

    def hears(self, source: Source) -> bool:
        """Whether what is committed in a partition is heard of."""
        return self.is_vouched and source in self._heard

    def is_reached(self, watermark: Watermark) -> bool:
        """Whether the fact is known to be committed, with all that its commit evicts evicted."""
        known = self._heard.get(watermark.source)
        return self.is_vouched and known is not None and self.has(known.seen, watermark)

    def has(self, place: Place, watermark: Watermark) -> bool:
        """Whether what goes up to `place` of the watermark's partition has seen the fact.

        Of a watermark without an epoch it is not known of which log it is: no place of an older one than was heard of
        counts, and in a newer one it is the sequence that does.
        """
        if watermark.epoch is not None:
            return place >= (watermark.epoch, watermark.seq)
        known, wide = self._heard.get(watermark.source), self._wide.get(watermark.source)
        newest = max(0 if known is None else known.seen[0], 0 if wide is None else wide.place[0])
        return place[0] >= newest and place[1] >= watermark.seq

    # --- inside --------------------------------------------------------------------------

    def _follow(self, source: Source, heard: _Heard) -> None:
        if source not in self._heard and len(self._heard) >= limits.CACHE_SOURCES_MAX:
            del self._heard[next(iter(self._heard))]
        self._heard[source] = heard

    def _named(self, tags: frozenset[str], source: Source | None, place: Place, reason: str) -> Evicted:
        if not tags:
            return Evicted(reason)
        self.generation += 1
        for tag in tags:
            mark = self._tags.get(tag)
            if mark is None:
                mark = self._tags[tag] = _TagMark(self.generation, {})
            mark.generation = self.generation
            if source is not None:  # a repeat, or one that is late, says less than is known
                mark.places[source] = max(mark.places.get(source, place), place)
            self._tags.move_to_end(tag)
        while len(self._tags) > limits.CACHE_EVICTED_TAGS_MAX:
            _, old = self._tags.popitem(last=False)
            self._forgotten = max(self._forgotten, old.generation)
            for gone, before in old.places.items():
                # Whatever is loaded from now on must have it, whether it has the tag or not.
                self._forgotten_places[gone] = max(self._forgotten_places.get(gone, BEGINNING), before)
        return Evicted(reason, tags=tags)

    def _gap(self, source: Source, place: Place, reason: str) -> Evicted:
        self.gaps += 1
        return self._partition_wide(source, place, reason)

    def _partition_wide(self, source: Source, place: Place, reason: str) -> Evicted:
        self.generation += 1
        if source not in self._wide and len(self._wide) >= limits.CACHE_SOURCES_MAX:
            return self._all(reason)
        before = self._wide.get(source)
        self._wide[source] = _Mark(self.generation, place if before is None else max(place, before.place))
        return Evicted(reason, source=source)

    def _all(self, reason: str) -> Evicted:
        self.generation += 1
        self._everything = self.generation
        if reason != "manual":
            self._heard.clear()
            self._heard_any = False
        return Evicted(reason, everything=True)


def is_behind(marks: Marks, required: Mapping[Source, Place]) -> bool:
    """Whether a snapshot lacks something of what is required.  A partition without a checkpoint is at the beginning."""
    return any(marks.get(source, BEGINNING) < place for source, place in required.items())


class TagRules:
    """A configuration's map from subject patterns to tags.

    A pattern is ``{kind}.{id}`` of the entities a fact is about, each a token or ``*``; a tag may hold
    ``{kind}`` and ``{id}``.  Notices do not name the events of facts, so a pattern cannot either.
    """

    def __init__(self, rules: Mapping[str, Iterable[str]]) -> None:
        self._by_kind: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        for pattern, tags in rules.items():
            kind, _, id_ = pattern.partition(".")
            self._by_kind.setdefault(kind, []).append((id_, tuple(tags)))

    def touched(self, tags: Iterable[str]) -> frozenset[str]:
        """These tags and what the rules make of them."""
        found = set(tags)
        if self._by_kind:
            for tag in tuple(found):
                kind, _, id_ = tag.partition(":")
                if kind not in {"key", "kind", "series"}:
                    found.update(self._made(kind, id_))
        return frozenset(found)

    def _made(self, kind: str, id_: str) -> Iterable[str]:
        for wanted, tags in (*self._by_kind.get(kind, ()), *self._by_kind.get("*", ())):
            if wanted in {"*", id_}:
                for tag in tags:
                    yield tag.replace("{kind}", kind).replace("{id}", id_)
