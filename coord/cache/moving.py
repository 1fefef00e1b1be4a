"""Answers of one process that facts move on instead of evicting them; `coord.core.moving` decides.

A notice only puts an answer off: what the facts make of it is worked out when somebody asks, so that a notice costs
what evicting costs, and what nobody reads is never moved.  Until then its facts wait with it, some of them
(`limits.CACHE_MOVE_DUE_MAX`), within the bytes of L1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, Final, TypeAlias

import msgspec

from coord import errors, limits
from coord.cache.counting import Counting
from coord.cache.memory import Entry, MemoryCache
from coord.core.eviction import Evicted, Evictions, Marks, TagRules
from coord.core.moving import UNREADABLE, At, Message, Moves, Told
from coord.telemetry import logs
from coord.wire import republished, subjects
from coord.wire.notices import Notice
from coord.wire.records import StoredFact

_log = logs.get("cache")

Step: TypeAlias = Callable[[Any, StoredFact], Any]
"""What a fact makes of an answer: a new value, from these two alone."""

_PLACED_BYTES: Final = 400
"""Of an answer that can be moved, besides its value;"""
_PLACE_BYTES: Final = 160
"""and for each partition that it depends on."""


class Way(msgspec.Struct, frozen=True):
    """How facts move the answers of one function."""

    step: Step
    returns: type[Any] | tuple[type[Any], ...] | None = None
    """Of what type an answer is."""


class Standing:
    """Where one answer stands, and what it lacks: `Entry.moving`."""

    __slots__ = ("at", "due", "way")

    def __init__(self, way: Way, at: At) -> None:
        self.way = way
        self.at = at
        self.due: list[Told] = []

    @property
    def bytes(self) -> int:
        """Held beside the value, without what is due."""
        return _PLACED_BYTES + _PLACE_BYTES * len(self.at.places)


class Moving:
    """Of one cache."""

    def __init__(self, l1: MemoryCache, evictions: Evictions, rules: TagRules, counts: Counting) -> None:
        self.moves: Final = Moves(rules, int(l1.bytes_max * limits.CACHE_MOVE_SHARE))
        self._l1 = l1
        self._evictions = evictions
        self._counts = counts
        self._is_on = False

    def begin(self) -> None:
        """Some function's answers are to be moved: follow the notices from now on.  Twice is legal."""
        if not self._is_on:
            self._is_on = True
            for source, place in self._evictions.places(("*",)).items():
                self.moves.begin(source, place)

    # --- what is heard -------------------------------------------------------------------

    def lost(self) -> None:
        """Notices may be missed, or may have been."""
        self.moves.lost()

    def hear(self, subject: bytes, headers: bytes, body: bytes) -> None:
        """A fact, as the broker republishes it."""
        try:
            part = republished.split(headers or None)
            if part.stream != subjects.EVENTS or subjects.live_to_stored(subject.decode()) != part.subject:
                raise errors.InvalidEnvelope("not what the broker republishes")
        except (errors.WireError, UnicodeDecodeError):
            self._counts.unreadable()
            return
        self.moves.hear(Message(part.subject, part.headers, body, part.seq, part.stored_at))

    def beat(self, notice: Notice) -> None:
        """A session that was not known begins: what is stored after that is told of."""
        if self._is_on:
            self.moves.begin((notice.stream, notice.partition), (notice.epoch, notice.to))

    def notice(self, notice: Notice, evicted: Iterable[Evicted]) -> Collection[Hashable]:
        """The keys that this notice need not evict; they lack what it tells of until somebody asks for them."""
        if not self._is_on:
            return ()
        named = [one for one in evicted if one.reason == "notice"]
        told = self.moves.tell(notice, unbroken=bool(named))
        spared: set[Hashable] = set()
        tags = {tag for one in named for tag in one.tags}
        for key in {key for tag in tags for key in self._l1.tagged(tag)}:
            entry = self._l1.look(key)
            if entry is None or not isinstance(entry.moving, Standing):
                continue  # nothing moves it, or making room for another took it
            why = told if isinstance(told, str) else self._put_off(key, entry, entry.moving, notice, told)
            if why:
                self._counts.moved(why)
            else:
                spared.add(key)
        return spared

    def _put_off(self, key: Hashable, entry: Entry, standing: Standing, notice: Notice, told: list[Told]) -> str:
        """Have the facts wait for whoever asks; else why it has to go."""
        moved = self.moves.touch(standing.at, entry.tags, notice, told)
        if isinstance(moved, str):
            return moved
        standing.at = moved.at
        if not moved.facts:
            self._counts.moved("spared")
            return ""
        if len(standing.due) + len(moved.facts) > limits.CACHE_MOVE_DUE_MAX:
            return "unread"
        standing.due += moved.facts
        size = sum([one.message.size for one in moved.facts if one.message is not None])
        return "" if self._l1.put_off(key, size) else "unread"

    # --- what comes of it ----------------------------------------------------------------

    def settle(self, key: Hashable) -> None:
        """Make what was put off what it is now; where that fails it is gone, and somebody has to load it."""
        entry = self._l1.due(key)
        if entry is None:
            return
        standing: Standing = entry.moving
        due, standing.due = standing.due, []
        made = self._made(standing.way, entry.value, due)
        if self._l1.due(key) is not entry:
            return  # what the step did evicted it
        if isinstance(made, _Failed):
            self._counts.moved(made.why)
            self._l1.drop(key, "notice")
        elif self._l1.put_back(key, made, standing.bytes):
            self._counts.moved("moved", len(due))
        else:
            self._counts.moved("too_large")

    def catch_up(self, value: Any, tags: tuple[str, ...], marks: Marks | None, way: Way) -> tuple[Any, Standing] | None:
        """What a value that was loaded up to `marks` is by now, and where it stands; None: that is not known."""
        if value is None:
            return None
        moved = self.moves.place(tags, marks)
        if isinstance(moved, str):
            self._counts.moved(moved)
            return None
        made = self._made(way, value, moved.facts)
        if isinstance(made, _Failed):
            self._counts.moved(made.why)
            return None
        if moved.facts:
            self._counts.moved("moved", len(moved.facts))
        return made, Standing(way, moved.at)

    def _made(self, way: Way, value: Any, due: Iterable[Told]) -> Any:
        """The value behind these facts, or `_Failed`."""
        for told in due:
            assert told.message is not None, "what was not heard evicts"
            facts = told.message.facts(told.count)
            if facts is None:
                return _Failed(UNREADABLE)
            for fact in facts:
                try:
                    value = way.step(value, fact)
                except Exception as exc:  # noqa: BLE001 - whatever it is, loading helps
                    _log.warning("cache.not_moved", step=getattr(way.step, "__qualname__", "?"), error=exc)
                    return _Failed("raised")
                if value is None:
                    return _Failed("nothing")
                if way.returns is not None and not isinstance(value, way.returns):
                    return _Failed("wrong_type")
        return value


class _Failed(msgspec.Struct, frozen=True):
    why: str
