"""The smallest thing that an `Outbox` takes, for tests that drive one without messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


class Parcel(msgspec.Struct, eq=False):
    """What the publisher's message is to the outbox."""

    lane: int
    home: int
    group: str
    label: Any
    deadline_at: float
    entries: list[Any] = msgspec.field(default_factory=list)
    count: int = 0
    size: int = 0
    ordinal: int = 0


def maker(deadline_s: float) -> Callable[[int, str, Any, float], Parcel]:
    """What an outbox makes new parcels with, to be settled within `deadline_s`."""
    return lambda lane, group, label, now: Parcel(lane, lane, group, label, now + deadline_s)
