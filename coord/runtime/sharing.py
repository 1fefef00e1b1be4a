"""Waiting for what a task does for several callers."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from coord import errors

T = TypeVar("T")


async def shared(task: asyncio.Future[T]) -> T:
    """What `task` returns or raises; a caller that is cancelled does not take it from the others.

    Raises `BusClosed` when the task itself was cancelled, which its owner does on closing: to its callers,
    whom nobody cancelled, a bare `CancelledError` would look like their own.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if not task.cancelled() or (caller is not None and caller.cancelling()):
            raise
        raise errors.BusClosed("it was closed meanwhile") from None
