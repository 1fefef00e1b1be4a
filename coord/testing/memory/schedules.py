"""When a scheduled message is due: ``@at``, ``@every`` and cron with six fields (ADR-51 of NATS)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_ALIASES: Final = {
    "@yearly": "0 0 0 1 1 *", "@annually": "0 0 0 1 1 *", "@monthly": "0 0 0 1 * *", "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *", "@midnight": "0 0 0 * * *", "@hourly": "0 0 * * * *",
}  # fmt: skip
_RANGES: Final = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_MONTHS: Final = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11,
    "dec": 12,
}  # fmt: skip
_DAYS: Final = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_YEARS_AHEAD: Final = 5


class BadZone(Exception):
    """No such time zone, or none is allowed here."""


class Schedule(Protocol):
    """When something is due."""

    def first(self, now: float) -> float | None:
        """When, of one that is set now (Unix seconds); None: never."""

    def next(self, due: float) -> float | None:
        """When again, after it was due; None: never."""


class At:
    """Once; at once where it has passed."""

    def __init__(self, at: float) -> None:
        self._at = at

    def first(self, now: float) -> float | None:
        """See `Schedule`."""
        return max(self._at, now)

    def next(self, due: float) -> float | None:  # noqa: ARG002 - once is once
        """See `Schedule`."""
        return None


class Every:
    """Again and again."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s

    def first(self, now: float) -> float | None:
        """See `Schedule`."""
        return now + self._period_s

    def next(self, due: float) -> float | None:
        """See `Schedule`."""
        return due + self._period_s


class Cron:
    """By the calendar of a zone; a day fits if it fits both fields, or one of two that are both restricted."""

    def __init__(self, text: str, zone: tzinfo) -> None:
        fields = text.split()
        if len(fields) != 6:
            raise ValueError(text)
        self._zone = zone
        names: tuple[dict[str, int], ...] = ({}, {}, {}, {}, _MONTHS, _DAYS)
        self._sets = [_field(f, *span, known) for f, span, known in zip(fields, _RANGES, names, strict=True)]
        self._any_day = [f[0] in "*?" for f in (fields[3], fields[5])]

    def first(self, now: float) -> float | None:
        """See `Schedule`."""
        return self.next(now)

    def next(self, due: float) -> float | None:
        """See `Schedule`."""
        seconds, minutes, hours, _, months, _ = self._sets
        at = datetime.fromtimestamp(int(due) + 1, self._zone)
        last = at.year + _YEARS_AHEAD
        while at.year <= last:
            if at.month not in months:
                following = at.replace(day=1, hour=0, minute=0, second=0) + timedelta(days=32)
                at = following.replace(day=1)
            elif not self._day(at):
                at = at.replace(hour=0, minute=0, second=0) + timedelta(days=1)
            elif at.hour not in hours:
                at = _real(at.replace(minute=0, second=0), 3600)
            elif at.minute not in minutes:
                at = _real(at.replace(second=0), 60)
            elif at.second not in seconds:
                at = _real(at, 1)
            else:
                return at.timestamp()
        return None

    def _day(self, at: datetime) -> bool:
        in_month, in_week = at.day in self._sets[3], at.isoweekday() % 7 in self._sets[5]
        return in_month and in_week if any(self._any_day) else in_month or in_week


def _real(at: datetime, seconds: int) -> datetime:
    """So much later by the clock of the world: an hour that a zone leaves out is left out."""
    return datetime.fromtimestamp(at.timestamp() + seconds, at.tzinfo)


def _field(text: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = int(step_text) if slash else 1
        if span in {"*", "?"}:
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = _number(start, names)
            last = _number(end, names) if dash else high if slash else first
        if not (low <= first <= last <= high and step > 0):
            raise ValueError(text)
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(text: str, names: dict[str, int]) -> int:
    return names[text.lower()] if text.lower() in names else int(text)


def parse(text: str, zone: str | None) -> Schedule:
    """What the header says; raises `ValueError`, or `BadZone`."""
    if text.startswith("@at "):
        if zone is not None:
            raise BadZone(zone)
        return At(datetime.fromisoformat(text[4:].strip()).timestamp())
    if text.startswith("@every "):
        if zone is not None:
            raise BadZone(zone)
        period_s = go_duration(text[7:].strip())
        if period_s < 1:
            raise ValueError(text)
        return Every(period_s)
    try:
        return Cron(_ALIASES.get(text, text), UTC if zone is None else ZoneInfo(zone))
    except (ZoneInfoNotFoundError, OSError) as exc:
        raise BadZone(zone) from exc


def go_duration(text: str) -> float:
    """Seconds, of ``1h30m``, ``1500ms``; raises `ValueError`."""
    found = _DURATION.findall(text)
    if not found or "".join(n + unit for n, unit in found) != text:
        raise ValueError(text)
    return sum(float(n) * _UNITS_S[unit] for n, unit in found)
