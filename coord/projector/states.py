"""What the broker says about a stream, as checkpoints are judged by."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from coord.core.checkpoint import StreamState


def stream_state(info: dict[str, Any], *, with_time: bool = False) -> StreamState:
    """Of a STREAM.INFO; `with_time`: its last message's."""
    state = info["state"]
    return StreamState(
        created=broker_time(info["created"]),
        first_seq=state["first_seq"],
        last_seq=state["last_seq"],
        at_checkpoint=broker_time(state["last_ts"]) if with_time and state["messages"] else None,
    )


def broker_time(text: str) -> datetime:
    """The broker's RFC 3339 with nanoseconds, truncated to microseconds as checkpoints are."""
    head, dot, fraction = text.removesuffix("Z").partition(".")
    micro = fraction[:6].ljust(6, "0") if dot else "000000"
    return datetime.fromisoformat(f"{head}.{micro}+00:00")
