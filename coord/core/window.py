"""A bound on how much may be outstanding, in count and in bytes, with hysteresis.

One class serves twice: as the **in-flight window** (messages sent and not yet acknowledged)
and as the **queue bound** (entries accepted and not yet sent).  Once a window refuses, it
goes on refusing until it has drained to its low marks; otherwise every ack would wake one
waiter for one message, and a full system would spend its time on switching.

::

        take() refused                      release() reaches both low marks
    OPEN ──────────────▶ PAUSED ──────────────────────────────────────────▶ OPEN

Never: a bound exceeded by more than one message.  A single item larger than the whole
window passes when nothing else is outstanding, because refusing it for ever would be a hang.
"""

from __future__ import annotations

import enum

from coord.errors import SettingsError

RESUME_AT = 0.75
"""Low marks as a part of the bounds: the last quarter is refilled in one go."""


class WhenFull(enum.Enum):
    """What a class of service does with more than its queue holds."""

    WAIT = "wait"
    """The caller waits for room; after a time it is refused (`Overloaded`)."""
    SHED = "shed"
    """The oldest that was not sent yet makes room, and is counted."""


class Admission(enum.Enum):
    """The answer to "may this come in?"."""

    SEND = "send"
    """Accepted, accounted in flight: hand it to the connection now."""
    QUEUED = "queued"
    """Accepted: it is sent when its turn comes."""
    WAIT = "wait"
    """Not accepted: wait for room and ask again."""
    SHED = "shed"
    """Not accepted: shed the oldest, then ask again."""


class Window:
    """Counts what is outstanding; see the module.  `count` and `size` (bytes) are what is."""

    __slots__ = ("count", "count_low", "count_max", "paused", "size", "size_low", "size_max")

    def __init__(self, count_max: int, size_max: int, resume_at: float = RESUME_AT) -> None:
        """Raise `SettingsError` when a bound is not positive or `resume_at` is outside (0, 1]."""
        if count_max < 1 or size_max < 1:
            raise SettingsError("a window must admit at least one message and one byte", count=count_max, size=size_max)
        if not 0 < resume_at <= 1:
            raise SettingsError("a window resumes where it paused or below: 0 < resume_at <= 1", resume_at=resume_at)
        self.count_max = count_max
        self.size_max = size_max
        self.count_low = int(count_max * resume_at)
        self.size_low = int(size_max * resume_at)
        self.count = 0
        self.size = 0
        self.paused = False

    def take(self, count: int, size: int) -> bool:
        """Account `count` items of `size` bytes if they fit; False pauses the window."""
        if self.paused:
            return False
        new_count = self.count + count
        new_size = self.size + size
        if (new_count > self.count_max or new_size > self.size_max) and self.count:
            self.paused = True
            return False
        self.count = new_count
        self.size = new_size
        return True

    def restore(self, count: int, size: int) -> None:
        """Account again what `release` has just given back, whatever else came in between."""
        self.count += count
        self.size += size

    def release(self, count: int, size: int) -> bool:
        """Give back what `take` accounted; True when this opened a paused window."""
        self.count -= count
        self.size -= size
        assert self.count >= 0 <= self.size, "released more than was taken"
        if self.paused and self.count <= self.count_low and self.size <= self.size_low:
            self.paused = False
            return True
        return False


class DrainRate:
    """How fast a queue drains, smoothed, so that a refusal can say when to come back."""

    __slots__ = ("_at", "_done", "per_s")

    def __init__(self) -> None:
        self.per_s = 0.0
        self._done = 0
        self._at: float | None = None

    def observe(self, done: int, now: float) -> None:
        """`done`: how many items had left the queue in all, at time `now` (seconds, any origin)."""
        if self._at is None or done < self._done:
            self._at, self._done = now, done
            return
        elapsed = now - self._at
        if elapsed <= 0:
            return
        rate = (done - self._done) / elapsed
        # Half the weight on the last second: a stall shows within a second or two.
        weight = min(1.0, 0.5 * elapsed)
        self.per_s += weight * (rate - self.per_s)
        self._at, self._done = now, done

    def retry_after_s(self, excess: int, *, least_s: float = 0.1, most_s: float = 30.0) -> float:
        """Seconds until `excess` items will have left, within [least_s, most_s]; most_s when nothing moves."""
        if self.per_s <= 0 or excess / self.per_s > most_s:
            return most_s
        return max(least_s, excess / self.per_s)
