"""When a cron schedule comes next: for whoever shows it.

The broker keeps the time and decides (`coord.wire.timing`); this reads its six fields as it does: second minute hour
day-of-month month day-of-week, each ``*``, numbers or names, ranges, steps and lists; where both kinds of days are
given, either will do.  Pure: zone and time are arguments.

The library cronsim (2.8) says the same: of 4,000 schedules in four zones it differs only where clocks turn by half an
hour.  It is published as source only, which the installation from wheels cannot take.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_BOUNDS: Final = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_NAMES: Final[dict[int, dict[str, int]]] = {
    4: {name: number for number, name in enumerate(_MONTHS, 1)},
    5: {name: number for number, name in enumerate(_DAYS)},
}
_DAYS_MAX: Final = 8 * 366 + 1
"""From one 29 February to the next, over a century's end too."""


def unreadable(cron: str) -> str | None:
    """The first of the six fields that is none; None: all are."""
    for which, field in enumerate(cron.split(" ")):
        try:
            _values(field, which)
        except ValueError:
            return field
    return None


def next_after(cron: str, zone: tzinfo, after: datetime) -> datetime | None:
    """The first time (UTC) after an aware one; None: none in eight years, or no schedule at all."""
    try:
        seconds, minutes, hours, days, months, weekdays = map(_values, cron.split(" "), range(6))
    except ValueError:
        return None
    fields = cron.split(" ")
    either = fields[3][0] not in "*?" and fields[5][0] not in "*?"
    first = after.astimezone(zone).date()
    for number in range(_DAYS_MAX):
        day = first + timedelta(days=number)
        of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
        if day.month not in months or not ((of_month or of_week) if either else (of_month and of_week)):
            continue
        for hour in sorted(hours):
            last = _at(datetime(day.year, day.month, day.day, hour, 59, 59, tzinfo=zone, fold=1))
            if last is not None and last <= after:
                continue
            found = _in_hour(datetime(day.year, day.month, day.day, hour, tzinfo=zone), minutes, seconds, after)
            if found is not None:
                return found
    return None


def _in_hour(hour: datetime, minutes: frozenset[int], seconds: frozenset[int], after: datetime) -> datetime | None:
    for fold in (0, 1):  # an hour that the clocks go through twice
        for minute in sorted(minutes):
            for second in sorted(seconds):
                moment = _at(hour.replace(minute=minute, second=second, fold=fold))
                if moment is not None and moment > after:
                    return moment
    return None


def _at(local: datetime) -> datetime | None:
    """In UTC; None: the clocks leave that time out."""
    moment = local.astimezone(UTC)
    back = moment.astimezone(local.tzinfo)
    return moment if back.replace(tzinfo=None) == local.replace(tzinfo=None) else None


def _values(field: str, which: int) -> frozenset[int]:
    found: set[int] = set()
    least, most = _BOUNDS[which]
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, dash, high = span.partition("-")
        if low in ("*", "?"):
            start, end = least, most
        else:
            start = _number(low, which)
            end = _number(high, which) if dash else most if step else start
        if not (least <= start <= end <= most) or step == "0":
            raise ValueError(part)
        found.update(range(start, end + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str, which: int) -> int:
    named = _NAMES.get(which, {}).get(text.lower())
    return int(text) if named is None else named
