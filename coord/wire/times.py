"""Times on the wire: RFC 3339 text in headers, Unix microseconds in frames.

Everywhere else a time is an aware datetime in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from coord.errors import InvalidEnvelope

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

TIME_MIN: Final = datetime(1, 1, 2, tzinfo=UTC)
TIME_MAX: Final = datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC)
"""A day inside the calendar at both ends: such a time exists in every zone, and database
drivers do not take it for an infinity."""
_US: Final = timedelta(microseconds=1)
UNIX_US_EXACT: Final = 2**32 * 1_000_000
"""Below 2^32 s (the year 2106), doubles lie closer than a microsecond: `datetime.fromtimestamp` is exact,
and cheaper than adding to an epoch."""

_MANY: Final = 8
"""From so many on it pays to let msgspec look at the type it is to make."""

_fromtimestamp = datetime.fromtimestamp
_convert = msgspec.convert


def from_unix_us(unix_us: int) -> datetime:
    """The UTC time of a Unix time in microseconds; OverflowError outside TIME_MIN to TIME_MAX."""
    if 0 <= unix_us < UNIX_US_EXACT:
        return _fromtimestamp(unix_us / 1e6, UTC)
    moment = EPOCH + timedelta(0, 0, unix_us)
    if not TIME_MIN <= moment <= TIME_MAX:
        raise OverflowError("outside the calendar")
    return moment


def from_unix_us_all(unix_us: list[int]) -> list[datetime]:
    """`from_unix_us` of many at once, for a tenth of the time each; OverflowError if one is out of range."""
    if len(unix_us) < _MANY or min(unix_us) < 0 or max(unix_us) >= UNIX_US_EXACT:
        return [from_unix_us(us) for us in unix_us]
    return _convert([us / 1e6 for us in unix_us], list[datetime], strict=False)


def to_unix_us(moment: datetime) -> int:
    """Unix microseconds of an aware time; `InvalidEnvelope` for a naive one or one outside TIME_MIN to TIME_MAX."""
    if moment.tzinfo is None:
        raise InvalidEnvelope("a time needs a zone", time=moment.isoformat())
    if not TIME_MIN <= moment <= TIME_MAX:
        raise InvalidEnvelope("a time outside the calendar", time=moment.isoformat())
    return (moment - EPOCH) // _US


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond; `InvalidEnvelope` for a naive time."""
    if moment.tzinfo is None:
        raise InvalidEnvelope("a time needs a zone", time=moment.isoformat())
    try:
        utc = moment.astimezone(UTC)
    except OverflowError as exc:
        raise InvalidEnvelope("a time outside the calendar", time=moment.isoformat()) from exc
    if not TIME_MIN <= utc <= TIME_MAX:
        raise InvalidEnvelope("a time outside the calendar", time=moment.isoformat())
    return utc.isoformat()[:-6] + "Z"


# From Python 3.14 on `fromisoformat` takes 24:00:00 for the next midnight; what a time is must not depend on who reads
# it.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ]((?!24)\d\d:\d\d:)(\d\d)(\.\d{1,32})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> datetime:
    """An RFC 3339 timestamp as an aware UTC datetime, truncated to microseconds.

    A leap second becomes the last microsecond before it.  Raises `InvalidEnvelope` for
    anything else, a time without offset or outside TIME_MIN to TIME_MAX among it.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise InvalidEnvelope("not an RFC 3339 timestamp with an offset", time=text[:64])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        # What RFC 3339 allows and Python does not: lower case and the leap second.
        day, minutes, seconds, fraction, offset = found.groups()
        if seconds == "60":
            seconds, fraction = "59", ".999999"
        try:
            moment = datetime.fromisoformat(f"{day}T{minutes}{seconds}{fraction or ''}{offset.upper()}")
        except ValueError as exc:
            raise InvalidEnvelope("a time that does not exist", time=text[:64]) from exc
    if moment.tzinfo is not UTC:
        try:
            moment = moment.astimezone(UTC)
        except OverflowError as exc:
            raise InvalidEnvelope("a time outside the calendar", time=text[:64]) from exc
    if not TIME_MIN <= moment <= TIME_MAX:
        raise InvalidEnvelope("a time outside the calendar", time=text[:64])
    return moment
