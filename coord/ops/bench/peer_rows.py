"""A message of EVENTS as a row of `coord.event`, the way somebody with twenty lines to spend writes it.

Nothing is checked: not the subject, not the envelope, not that the body is JSON.  The first
message that lacks a header ends the peer that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from coord.store.rows import EventRow


def row(subject: str, headers: Mapping[str, str], body: bytes, seq: int, stored_at: datetime) -> EventRow:
    """Columns in the order of `EVENT_COLUMNS`."""
    _, _, partition, tenant, key, kind, id_, agent, event, *detail = subject.split(".")
    return (
        stored_at, 1, seq, 0, int(partition), tenant, agent, key, kind, id_, event, ".".join(detail),
        headers["ce-id"], headers["ce-type"], 1, datetime.fromisoformat(headers["ce-time"]),
        None, None, None, body.decode(),
    )  # fmt: skip
