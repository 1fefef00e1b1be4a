"""Asking again: the one place that repeats a question.

::

    page = await retrying(lambda: ask(question), CallPolicy())  # three times more at most
    await retrying(save, CallPolicy(retries_max=None, deadline_s=120))  # for two minutes

`coord.core.retry.CallPolicy` says how often, when and how long; only errors that are `retryable` are
repeated, and only what its caller knows may be asked twice.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coord import errors
from coord.core.retry import CallPolicy
from coord.runtime.clock import Clock, SystemClock

T = TypeVar("T")

_rng = random.Random()
_CLOCK = SystemClock()


async def retrying(
    ask: Callable[[], Awaitable[T]], policy: CallPolicy, *, rng: random.Random = _rng, clock: Clock = _CLOCK
) -> T:
    """What `ask` returns; asked again while it raises what is retryable and `policy` allows it.

    Raises the last attempt's error.
    """
    attempt, began = 0, clock.monotonic()
    while True:
        attempt += 1
        try:
            return await ask()
        except errors.CoordError as exc:
            wait_s = policy.wait_s(attempt, exc, rng, clock.monotonic() - began)
            if wait_s is None:
                raise
        await clock.sleep(wait_s)
