"""Waiting for something to become true, with a deadline instead of a guess how long it takes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any


async def until(condition: Callable[[], Any | Awaitable[Any]], timeout_s: float = 100.0, every_s: float = 0.005) -> Any:
    """Return the first true value of `condition()` (awaited if need be); fail loudly after `timeout_s`."""
    value: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                asked = condition()
                value = await asked if inspect.isawaitable(asked) else asked
                if value:
                    return value
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s; the last value was {value!r}") from None
