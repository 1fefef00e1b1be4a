"""What a cache loads before it is asked, and whether that pays: pure decisions.

A *way* is one reason to warm: the record of a process before this one, the schedule, a trigger's past, what a forecast
says.  Each has a `Payoff` of its own: of the values it brought, how many were read before they left?  A way whose
values are not is switched off for a while, and then tried again with few.  A value counts for its first read only:
whatever came after would have been a hit without it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from coord import limits
from coord.wire.cache_api import Paid

NameT = TypeVar("NameT", bound=Hashable)

RECORD: Final = "record"
TRIGGER: Final = "trigger"
FORECAST: Final = "forecast"
SCHEDULE: Final = "schedule"
WAYS: Final = (RECORD, TRIGGER, FORECAST, SCHEDULE)

Key: TypeAlias = tuple[Hashable, ...]
"""A template's text and the values in it (`coord.cache.keys`)."""


class Payoff:
    """Of one way.  Times in seconds of any clock that does not go back."""

    def __init__(self, way: str) -> None:
        """Of `way`: what somebody names, or was asked for before, may come at once; a guess is on trial first."""
        self.way = way
        self._loads = self._values = self._bytes = self._used = self._unused = 0
        self._lately_used = self._lately_unused = 0.0
        self._off_until: float | None = None
        self._rest_s = limits.CACHE_WARM_REST_S
        self._trial: int | None = limits.CACHE_HOT_KEYS if way in {RECORD, SCHEDULE} else limits.CACHE_WARM_TRIAL
        """Values that a way on trial may bring, until it is known what became of them."""

    def may(self, now: float) -> bool:
        """Whether one more value may be brought."""
        if self._off_until is not None:
            if now < self._off_until:
                return False
            self._off_until = None
            self._trial = limits.CACHE_WARM_TRIAL
            self._lately_used = self._lately_unused = 0.0
        return self._trial is None or self._trial > 0

    def brought(self, bytes_held: int, *, loaded: bool) -> None:
        """A value is kept; `loaded`: a loader was called for it."""
        self._values += 1
        self._bytes += bytes_held
        self._loads += loaded
        if self._trial is not None:
            self._trial -= 1

    def wasted(self, now: float) -> None:
        """A loader was called for nothing: it failed, or what it brought could not be kept."""
        self._loads += 1
        if self._trial is not None:
            self._trial -= 1
        self._lately_unused += 1
        self._judge(now)

    def settled(self, now: float, *, used: bool) -> None:
        """A value was read for the first time, or left without that."""
        if used:
            self._used += 1
            self._lately_used += 1
        else:
            self._unused += 1
            self._lately_unused += 1
        self._judge(now)

    def _judge(self, now: float) -> None:
        lately = self._lately_used + self._lately_unused
        if lately < limits.CACHE_WARM_TRIAL or self._off_until is not None:
            return
        if self._lately_used < limits.CACHE_WARM_LEAST * lately:
            self._off_until = now + self._rest_s
            self._rest_s = min(2 * self._rest_s, limits.CACHE_WARM_REST_MAX_S)
            self._trial = None
            return
        self._trial = None
        self._rest_s = limits.CACHE_WARM_REST_S
        if lately >= 4 * limits.CACHE_WARM_TRIAL:  # what was long ago says little
            self._lately_used /= 2
            self._lately_unused /= 2

    def paid(self, now: float) -> Paid:
        """All of it."""
        return Paid(
            way=self.way, is_on=self._off_until is None or now >= self._off_until, loads=self._loads,
            values=self._values, bytes=self._bytes, used=self._used, unused=self._unused,
        )  # fmt: skip


# --- what will be asked for ------------------------------------------------------------------


def likely(count: float, half_life_s: float, life_s: float) -> float:
    """How likely a name is read within `life_s`, if it is asked for as often as of late, at random.

    `count`: reads, each half as much with every half life that has passed (`coord.core.hot`): at a steady rate
    that comes to rate x half life / ln 2.
    """
    if math.isinf(half_life_s):
        return 1.0 if count > 0 else 0.0
    rate = count * math.log(2) / half_life_s
    return -math.expm1(-rate * life_s)


class Candidate(msgspec.Struct, Generic[NameT], frozen=True):
    """Something that is not here and could be."""

    name: NameT
    chance: float
    """That it is read in time, 0 to 1 (`likely`)."""
    bytes: int
    """It will hold, as far as is known; 0: unknown."""


def pick(candidates: Iterable[Candidate[NameT]], loads_max: int, bytes_max: int) -> list[NameT]:
    """The likeliest first, as far as loads and bytes go; nothing less likely than `limits.CACHE_WARM_CHANCE`."""
    found: list[NameT] = []
    room = bytes_max
    ordered = sorted(candidates, key=lambda candidate: (-candidate.chance, candidate.bytes))
    for candidate in ordered:
        if len(found) >= loads_max or candidate.chance < limits.CACHE_WARM_CHANCE:
            break
        if candidate.bytes <= room:
            room -= candidate.bytes
            found.append(candidate.name)
    return found


# --- what follows what -----------------------------------------------------------------------

_Part: TypeAlias = tuple[bool, Hashable]
"""(True, a field of the trigger) or (False, the value itself)."""

Shape: TypeAlias = tuple[_Part, ...]
"""A key in which what a trigger said of itself stands as the name of what it said."""

_INT_BITS_MAX: Final = 256
"""As in keys."""

_SEEN_AGAIN: Final = 8
"""Runs of a trigger after which counts are halved: what it does now counts, not what it did once."""


class Trigger(msgspec.Struct, frozen=True):
    """Something began."""

    name: str
    """What sort of thing: runs of the same name are expected to read alike."""
    run: str
    """Which one; what is read for it says so."""
    fields: Mapping[str, Hashable]
    """What it says of itself: keys that hold one of these values are expected to do so again."""


class _Run(msgspec.Struct):
    name: str
    fields: dict[Hashable, str]
    shapes: set[Shape]
    began: float


class _Past(msgspec.Struct):
    runs: float = 0.0
    shapes: dict[Shape, float] = {}


class Learner:
    """Which keys are read after which triggers.  Deterministic; everything in it is bounded."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._pasts: OrderedDict[str, _Past] = OrderedDict()

    def begin(self, trigger: Trigger, now: float) -> list[Key]:
        """Watch this run; what runs of its sort have read in most cases, those first that were read most often."""
        self.pass_time(now)
        if trigger.run in self._runs:
            return []  # it is said again
        while len(self._runs) >= limits.CACHE_LEARNT_RUNS_MAX:
            self._end(next(iter(self._runs)))
        # Of two fields with one value the first stands for both.
        fields: dict[Hashable, str] = {}
        for name, value in trigger.fields.items():
            fields.setdefault(value, name)
        self._runs[trigger.run] = _Run(trigger.name, fields, set(), now)
        past = self._pasts.get(trigger.name)
        if past is None or past.runs < limits.CACHE_LEARNT_RUNS_LEAST:
            return []
        usual = [(count, shape) for shape, count in past.shapes.items() if count >= past.runs / 2]
        usual.sort(key=lambda item: -item[0])
        keys = [_filled(shape, trigger.fields) for _, shape in usual]
        return list(dict.fromkeys(key for key in keys if key is not None))  # two shapes may come to one key

    def read(self, run: str, key: Key, now: float) -> None:
        """A key was asked for on behalf of a run."""
        self.pass_time(now)
        watched = self._runs.get(run)
        if watched is not None and len(watched.shapes) < limits.CACHE_LEARNT_KEYS_MAX:
            watched.shapes.add((
                (False, key[0]),
                *(
                    (True, watched.fields[part]) if part in watched.fields else (False, part)
                    for part in key[1:]
                ),
            ))  # fmt: skip

    def watches(self, run: str) -> bool:
        """Whether what is read for this run is learnt from."""
        return run in self._runs

    def pass_time(self, now: float) -> None:
        """Learn of runs that are over: of what is read later they are not the reason."""
        while self._runs:
            run, watched = next(iter(self._runs.items()))
            if now - watched.began < limits.CACHE_LEARNT_RUN_S:
                return
            self._end(run)

    def _end(self, run: str) -> None:
        ended = self._runs.pop(run)
        past = self._pasts.setdefault(ended.name, _Past())
        self._pasts.move_to_end(ended.name)
        if len(self._pasts) > limits.CACHE_LEARNT_TRIGGERS_MAX:
            self._pasts.popitem(last=False)
        past.runs += 1
        for shape in ended.shapes:
            past.shapes[shape] = past.shapes.get(shape, 0.0) + 1
        if past.runs >= _SEEN_AGAIN:
            past.runs /= 2
            past.shapes = {shape: count / 2 for shape, count in past.shapes.items() if count >= 1}
        if len(past.shapes) > limits.CACHE_LEARNT_KEYS_MAX:
            kept = sorted(past.shapes.items(), key=lambda item: -item[1])[: limits.CACHE_LEARNT_KEYS_MAX]
            past.shapes = dict(kept)


def _filled(shape: Shape, fields: Mapping[str, Hashable]) -> Key | None:
    """The key for a trigger that says this of itself; None: it does not say all of it."""
    found: list[Hashable] = []
    for is_field, value in shape:
        if not is_field:
            found.append(value)
        elif value in fields:
            found.append(fields[str(value)])
        else:
            return None
    return tuple(found)


def fields_of(said: Mapping[str, object]) -> dict[str, Hashable]:
    """What a trigger says of itself that may stand in a key: texts, and integers as keys have them."""
    found: dict[str, Hashable] = {}
    for name, value in said.items():
        if type(value) is str and 0 < len(value) <= limits.CACHE_KEY_BYTES_MAX:
            found[name] = value
        elif type(value) is int and value.bit_length() <= _INT_BITS_MAX:
            found[name] = ("int", str(value))
    return found
