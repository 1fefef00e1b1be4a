"""What maintenance may do now, and how much of it at a time.  Pure: times and counts in, decisions out.

Three rules keep the tables whole while maintenance works on them:

* **held**: while the projector is behind by more than half the hot age, nothing is compressed or dropped: what it
  still has to write belongs to times that would be gone;
* **refused**: what would keep rows for a shorter time than the projector is behind is a mistake, not a wish;
* **paced**: a step is a transaction of about 10,000 rows, and after it ingest has at least as long as it took.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from coord import limits

DAY_S: Final = 86_400.0

_AT: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


def held(waiting_s: float, silent_s: float, hot_days: float) -> str | None:
    """Why compression and retention wait; None: they need not.

    `waiting_s`: age of the oldest that waits to be projected.  `silent_s`: since nobody projects, and nobody
    knows what waits.
    """
    bound_s = hot_days * DAY_S / 2
    if waiting_s > bound_s:
        return f"the projector is {_span(waiting_s)} behind, more than half the hot age ({_span(bound_s)})"
    if silent_s > bound_s:
        return f"nobody has projected for {_span(silent_s)}, more than half the hot age ({_span(bound_s)})"
    return None


def refused(lag_s: float, retain_days: float | None) -> str | None:
    """Why a retention is no retention to have now; None: it may be had."""
    if retain_days is None or lag_s < retain_days * DAY_S:
        return None
    return (
        f"rows would be dropped after {_span(retain_days * DAY_S)}, and the projector is {_span(lag_s)} behind:"
        " what it writes would be dropped before anybody could read it"
    )


def unrolled(shown: datetime | None, cutoff: datetime) -> str:
    """Why rows stay though they are older than `cutoff`: the rollups are whole up to `shown`."""
    reached = "nowhere yet" if shown is None else f"to {shown:%Y-%m-%d %H:%M}"
    return f"the rollups have come {reached}: rows until {cutoff:%Y-%m-%d %H:%M} would be dropped uncounted"


def is_due(now: datetime, last: datetime | None, at: str, tried: datetime | None = None) -> bool:
    """Whether the nightly work is due: `at` ("02:00", UTC) has passed since what was last done of it was begun.

    Never done before: it waits for the next `at`, as a restart at noon would otherwise begin it at noon.
    `tried`: when it was last begun, done or not; not again within `limits.MAINTENANCE_RETRY_S`.
    """
    if tried is not None and last is not None and last < tried:
        rested = (now - tried).total_seconds() >= limits.MAINTENANCE_RETRY_S
        return rested and is_due(now, last, at)
    hour, minute = parse_at(at)
    newest = now.astimezone(UTC).replace(hour=hour, minute=minute, second=0, microsecond=0)
    if newest > now:
        newest -= timedelta(days=1)
    return last is not None and last < newest


def next_due(now: datetime, last: datetime | None, at: str) -> datetime:
    """When it is due next; `now` where it is overdue."""
    if is_due(now, last, at):
        return now
    hour, minute = parse_at(at)
    following = now.astimezone(UTC).replace(hour=hour, minute=minute, second=0, microsecond=0)
    return following if following > now else following + timedelta(days=1)


def parse_at(at: str) -> tuple[int, int]:
    """Hour and minute; ValueError when it is no time of day."""
    match = _AT.fullmatch(at)
    if match is None:
        raise ValueError(f"a time of day is HH:MM, not {at!r}")
    return int(match[1]), int(match[2])


def next_width_s(width_s: float, rows: int, *, least_s: float, batch_rows: int = limits.MAINTAIN_BATCH_ROWS) -> float:
    """How much time the next step of a rollup covers, after one of `width_s` found `rows`: aims at `batch_rows`.

    Changes by a factor of four at most.  Not below `least_s`, nor above a week.
    """
    factor = 4.0 if rows <= 0 else min(4.0, max(0.25, batch_rows / rows))
    wanted = width_s * factor
    steps = max(1, math.floor(wanted / least_s))
    return min(steps * least_s, limits.ROLLUP_WIDTH_MAX_S)


def next_roll_s(rows: int, elapsed_s: float, every_s: float) -> float:
    """How long until rollups are moved on again, after `rows` came within `elapsed_s`: about a batch's worth of facts.

    What no rollup has yet, every view counts as it is asked: where facts come fast, that must not become much.
    `limits.ROLLUP_EVERY_MIN_S` at least; infinite: they come so slowly that the next look, after `every_s`, is enough.
    """
    wanted = limits.ROLLUP_LIVE_ROWS * elapsed_s / rows if rows > 0 else math.inf
    return max(limits.ROLLUP_EVERY_MIN_S, wanted) if wanted <= every_s else math.inf


def settle_s(again_s: float) -> float:
    """How far rollups stay behind what is complete where they are moved every `again_s`: by as much again."""
    return min(limits.ROLLUP_SETTLE_S, max(limits.ROLLUP_SETTLE_MIN_S, again_s))


def late_since(oldest: datetime, checkpoint: datetime | None) -> datetime | None:
    """From when on rollups count again because of facts that follow `checkpoint`, a fact's time; None: they need not.

    `oldest`: when the oldest of them was stored.  A rollup stays `limits.ROLLUP_SETTLE_MIN_S` behind the checkpoints at
    least.  What is older than that was stored by a broker whose clock was set back, and may belong to a time that was
    counted.
    """
    if checkpoint is None or oldest >= checkpoint - timedelta(seconds=limits.ROLLUP_SETTLE_MIN_S):
        return None
    return oldest


def pause_s(step_s: float, least_s: float = limits.MAINTAIN_PAUSE_S) -> float:
    """How long ingest has after a step that took `step_s`: half of the time, and more while steps are short."""
    return max(least_s, step_s)


def _span(seconds: float) -> str:
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * DAY_S else f"{seconds / DAY_S:.1f} d"
