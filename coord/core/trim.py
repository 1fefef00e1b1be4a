"""When the log's oldest messages leave early, and how far.  Pure: the edge asks and performs.

The log is a window: what is older than `max_age` leaves.  When it fills faster than that, a
trimmer lowers `max_age` for a moment, so that the broker drops the oldest part, and sets it
back.  It never *leaves* it lowered: a lowered age goes on dropping when nobody is there to
look, and would drop what was not projected if everything but the broker and the agents died.

What must not leave is named by *holders*.  Each says the oldest sequence that it still needs;
the message there is a barrier, and the cut is made so that it lies at least `margin_us` of
stored time before the barrier.  The margin is for what happens between the decision and the
end of the lowered age: time goes on, and the cut with it.  A barrier is a place in the log, not
a time, because the broker drops from the front and stops at the first message that is young
enough: a clock that was set back cannot lead past it.

::

    first ─────────── cut ── margin ── barrier ────────── last
    leaves            stays: not needed  │   stays: needed by a holder
                                         └ min over holders of the oldest they need

It does nothing below `begin` of the limits, cuts down to `end`, never makes the age shorter
than the stream's `duplicate_window` or longer than what was configured, and takes nothing at
all when a holder cannot say what it needs.

What the trimmer lowered is written into the stream's metadata in the same update: the age that
was configured, the one set instead, and until when it stays so.  So whoever reads the configuration knows
which age is meant (`intended`), any process can set it back, and an operator who changes the
age meanwhile wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from coord import limits
from coord.errors import SettingsError

CONFIGURED: Final = "coord.trim.configured"
LOWERED: Final = "coord.trim.lowered"
UNTIL: Final = "coord.trim.until"
"""Keys of a stream's metadata while its age is lowered: nanoseconds, nanoseconds, Unix microseconds."""

UNNEEDED: Final = "coord.trim.unneeded-below"
"""A key that stays: when the log was cut last, every holder was done with what is below this sequence."""

AGE_US_MIN: Final = 100_000
"""The shortest age that the broker accepts."""

Why = Literal["held", "unknown", "duplicate_window", "aging"]
"""Why nothing can leave: a holder needs it; a holder cannot say; it must still be recognised as a
duplicate; it is older than the age already and about to go."""


class TrimConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the trimmer.  Times in seconds, marks as parts of the stream's limits."""

    enabled: bool = True
    """Off: the log keeps everything for its `max_age`, and refuses when it is full."""
    begin: float = limits.TRIM_BEGIN
    """At this fill the oldest messages begin to leave,"""
    end: float = limits.TRIM_END
    """down to this one."""
    margin_s: float = limits.TRIM_MARGIN_S
    """Stored time kept before the oldest message that anybody needs."""
    every_s: float = limits.TRIM_EVERY_S
    """How often the fill is looked at."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if not 0 < self.end < self.begin < limits.FILL_ALARM:
            raise SettingsError(f"trim.end must be below trim.begin, and that below {limits.FILL_ALARM:g}")
        if self.margin_s <= 0 or self.every_s <= 0:
            raise SettingsError("trim.margin_s and trim.every_s must be positive")

    @property
    def lowered_s(self) -> float:
        """How long the age stays lowered at most while somebody is there: half of the margin."""
        return self.margin_s / 2


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The log as the broker describes it, times by its clock in Unix microseconds."""

    messages: int
    bytes: int
    max_messages: int
    """0 or below: no limit."""
    max_bytes: int
    first_seq: int
    last_seq: int
    first_us: int
    now_us: int
    max_age_us: int
    """As intended (`intended`); 0: none."""
    duplicate_window_us: int

    @property
    def fill(self) -> float:
        """The fuller of messages and bytes, against their limits; 0 without limits."""
        pairs = ((self.messages, self.max_messages), (self.bytes, self.max_bytes))
        return max((held / limit for held, limit in pairs if limit > 0), default=0.0)


class Need(msgspec.Struct, frozen=True):
    """What one holder says."""

    holder: str
    """Such as ``projector-3``."""
    seq: int
    """The oldest sequence it still needs; one more than the last when it has all of it."""


class Aim(msgspec.Struct, frozen=True):
    """Places in the log whose stored times the edge has to ask for."""

    keep_from: int
    """What is below may leave, and is enough."""
    barrier: int
    """What must stay whatever happens; at or above `keep_from`."""
    holder: str
    """Whose barrier that is."""


class Cut(msgspec.Struct, frozen=True):
    """Lower the age for a moment, so far that what was stored until then leaves."""

    cut_us: int
    barrier: int
    """Nobody needs what is below this sequence."""


class Blocked(msgspec.Struct, frozen=True):
    """The log should be trimmed, and cannot."""

    why: Why
    holder: str = ""
    """Whose need it is, where `why` is `held`."""


def aim(window: Window, needs: Iterable[Need] | None, config: TrimConfig) -> Aim | Blocked | None:
    """Up to where the log may and should be cut; None when it is not full enough.

    `needs`: one per holder; None or empty when a holder cannot say.
    """
    if window.fill < config.begin or not window.messages:
        return None
    oldest = min(needs or (), key=lambda need: need.seq, default=None)
    if oldest is None:
        return Blocked("unknown")
    span = window.last_seq - window.first_seq + 1
    wanted = int(span * (1 - config.end / window.fill))
    # Somebody who has all of it needs what comes next; the last message stands for that.
    barrier = min(oldest.seq, window.last_seq)
    keep_from = min(window.first_seq + wanted, barrier)
    # A cut costs the broker the same whatever it takes: none for the few a slow holder lets go.
    if keep_from - window.first_seq < max(1, int(span * limits.TRIM_LEAST)):
        return Blocked("held", oldest.holder)
    return Aim(keep_from, barrier, oldest.holder)


def cut(window: Window, found: Aim, *, keep_from_us: int, barrier_us: int, config: TrimConfig) -> Cut | Blocked:
    """What leaves, once the stored times of both places are known."""
    wanted = keep_from_us - 1
    allowed = barrier_us - int(config.margin_s * 1e6)
    recognised = window.now_us - max(window.duplicate_window_us, AGE_US_MIN)
    cut_us = min(wanted, allowed, recognised)
    if cut_us < window.first_us:
        if recognised < window.first_us:
            return Blocked("duplicate_window")
        return Blocked("held", found.holder)
    if window.max_age_us and window.now_us - cut_us >= window.max_age_us:
        return Blocked("aging")
    return Cut(cut_us, found.barrier)


# --- the stream's configuration ----------------------------------------------------------------


def lowered(config: Mapping[str, Any], cut: Cut, *, now_us: int, until_us: int) -> dict[str, Any]:
    """`config`, the broker's own at `now_us`, with the age that makes `cut`, and how to undo it."""
    base = restored(config)
    age_ns = (now_us - cut.cut_us) * 1_000
    marks = {
        CONFIGURED: str(base.get("max_age", 0)),
        LOWERED: str(age_ns),
        UNTIL: str(until_us),
        UNNEEDED: str(max(cut.barrier, unneeded_below(config))),
    }
    return {**base, "max_age": age_ns, "metadata": {**(base.get("metadata") or {}), **marks}}


def restored(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the age that is meant, as if no trimmer had lowered it."""
    metadata = dict(config.get("metadata") or {})
    for key in (CONFIGURED, LOWERED, UNTIL):
        metadata.pop(key, None)
    found = {**config, "max_age": intended(config)}
    if config.get("metadata") is not None:
        found["metadata"] = metadata
    return found


def intended(config: Mapping[str, Any]) -> int:
    """The `max_age` that is meant, in nanoseconds: what was configured before a trimmer lowered it.

    An age that is not the one the trimmer set is somebody's decision since.
    """
    metadata = config.get("metadata") or {}
    current = int(config.get("max_age") or 0)
    return _number(metadata.get(CONFIGURED), current) if _number(metadata.get(LOWERED), -1) == current else current


def lowered_until(config: Mapping[str, Any]) -> int | None:
    """Until when (Unix microseconds, the broker's clock) the age may stay as low as it is; None when it is not."""
    metadata = config.get("metadata") or {}
    if not {CONFIGURED, LOWERED, UNTIL} & metadata.keys():
        return None
    return _number(metadata.get(UNTIL), 0)


def is_left_behind(until_us: int, *, now_us: int, lowered_s: float) -> bool:
    """Whether whoever lowered the age until then died over it: its time is over, or too far away.

    Further away than it ever was, that is: the broker's clock was set back.  The log must not go on
    losing what it should keep until the clock is there again.
    """
    return not 0 <= until_us - now_us <= 2 * lowered_s * 1e6


def unneeded_below(config: Mapping[str, Any]) -> int:
    """What is below this sequence and has left early was not needed; 0 when nothing ever left early."""
    return _number((config.get("metadata") or {}).get(UNNEEDED), 0)


def _number(text: Any, otherwise: int) -> int:
    # Anybody may write metadata.
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 20 else otherwise
