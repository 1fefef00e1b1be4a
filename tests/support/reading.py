"""Reading as coord's services do: told that something has arrived, then taking it."""

from __future__ import annotations

import asyncio
from typing import Any

from coord.bus.pull import Delivery
from coord.bus.reading import Reader
from coord.runtime.bell import Bell


async def receive(
    reader: Reader, messages_max: int, timeout_s: float, *, unless: asyncio.Future[Any] | None = None
) -> list[Delivery]:
    """What has arrived; empty when nothing came within `timeout_s`, before `unless` was done or a session was over.

    Raises what `take` and `check_silence` do.
    """
    if reader.is_empty:
        reader.check_silence()
        bell = Bell()
        reader.on_wake = bell.ring
        await bell.wait(min(timeout_s, reader.patience_s), *(() if unless is None else (unless,)))
        reader.check_silence()
    return reader.take(messages_max)
