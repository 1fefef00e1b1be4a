"""Where the log's window ends soon: what open work came from there has to be stated again.

A submission that ages out vanishes from its queue without a word, and the trimmer lets nothing
go that open work came from.  So work that stays open for long is moved to the log's end,
before either::

    first ──── EDGE_SPAN of what is held ────┬──────────────────── last
               near, when EDGE_FILL is passed│
    first ──── older than EDGE_AGE ──┬───────────────────────────── last
               near, always          │

Pure: the edge asks for the sequence of a time.
"""

from __future__ import annotations

from coord import limits
from coord.core.trim import Window


def horizon_us(window: Window, oldest_us: int) -> int | None:
    """What was stored before this (Unix microseconds) is near the end of its age; None: not even the oldest is.

    `oldest_us`: when the oldest message that open work needs was stored.
    """
    if window.max_age_us <= 0:
        return None
    horizon = window.now_us - int(limits.EDGE_AGE * window.max_age_us)
    return horizon if oldest_us < horizon else None


def by_fill(window: Window) -> int:
    """What is below this sequence the trimmer wants to let go soon; 0: nothing."""
    if window.fill < limits.EDGE_FILL:
        return 0
    return window.first_seq + int(limits.EDGE_SPAN * (window.last_seq - window.first_seq + 1))
