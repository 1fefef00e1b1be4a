"""Points in time as people type them: ``5m`` ago, ``2026-11-21T04:00Z``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def since(text: str, now: datetime | None = None) -> datetime:
    """The moment that `text` names: so long ago, or an ISO 8601 time (UTC where no zone is given).

    Raises `ValueError` when it is neither.
    """
    now = now or datetime.now(UTC)
    if match := _AGO.fullmatch(text.strip()):
        try:
            return now - timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
        except OverflowError:
            raise ValueError(f"{text!r} is longer ago than the year 1") from None
    moment = parse(text.strip())
    if moment is None:
        raise ValueError(f"{text!r} is neither a duration such as 5m nor a time such as 2026-11-21T04:00Z")
    return moment


def parse(text: str) -> datetime | None:
    """An ISO 8601 time, aware (UTC where no zone is given); None when it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
