"""Bélády's bound: how many of these requests a cache could have answered that knows the future.

What is asked for again last, or is evicted before it is asked for again, is not kept (Bélády 1966, with bypassing and
evictions from outside).  Exact for entries of one size; whatever else shortens an entry's life, such as a time to live,
only makes a real cache fall further below it.
"""

from __future__ import annotations

import heapq
import math
from array import array


def best_hits(events: array[int], capacity: int) -> int:
    """The most hits that a cache of so many entries can have.

    `events`: a key's number where it is asked for, its complement (``~key``) where it is evicted.
    """
    following = _next_uses(events)
    kept: dict[int, float] = {}
    """Key → where it is asked for next."""
    furthest: list[tuple[float, int]] = []
    """The same as a heap, negated; what is no longer so is skipped when it comes up."""
    hits = 0
    for event, after in zip(events, following, strict=True):
        if event < 0:
            kept.pop(~event, None)
            continue
        hits += kept.pop(event, None) is not None
        if math.isinf(after) or capacity < 1:
            continue
        if len(kept) >= capacity:
            while kept.get(furthest[0][1]) != -furthest[0][0]:
                heapq.heappop(furthest)
            if -furthest[0][0] <= after:
                continue
            del kept[heapq.heappop(furthest)[1]]
        kept[event] = after
        heapq.heappush(furthest, (-after, event))
    return hits


def asked(events: array[int]) -> int:
    """How many of them are requests."""
    return sum(event >= 0 for event in events)


def _next_uses(events: array[int]) -> list[float]:
    """For each event where its key is asked for next with nothing evicting it before; infinity: nowhere."""
    found = [math.inf] * len(events)
    upcoming: dict[int, int] = {}
    for n in range(len(events) - 1, -1, -1):
        event = events[n]
        if event < 0:
            upcoming.pop(~event, None)
        else:
            found[n] = upcoming.get(event, math.inf)
            upcoming[event] = n
    return found
