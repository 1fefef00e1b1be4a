"""What may be said of a submission, for type checkers: `Coord.submit` says what each means, and its default."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypedDict

from coord.core.placement import Placement
from coord.wire.work import Priority


class SubmitOptions(TypedDict, total=False):
    """All but `id` and `returns`."""

    key: str | None
    priority: Priority | None
    retries: int | None
    timeout_s: float | None
    backoff_s: float | None
    backoff_max_s: float | None
    deadline: datetime | None
    deadline_s: float | None
    placement: Placement | dict[str, Any] | None
    labels: dict[str, str] | None
    preemptible: bool | None
    progress: bool | None
    reuse_for_s: float | None
    at: datetime | None
    delay_s: float | None
