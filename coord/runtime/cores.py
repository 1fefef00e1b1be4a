"""How this process comes by a core: without pushing anybody off one (Linux's ``SCHED_BATCH``).

What coord, agents and servers do for a task is short, and each wakes the next.  By default a thread that wakes up
takes the core of whoever runs there at once, so on busy cores a message is handled alone, between two changes of
threads and with cold caches.  A thread of this policy waits until who runs sleeps, or has had its turn (3 ms), and
then finds what has come meanwhile together.  Where a core is free, nothing changes.

Its share of the cores is the same, and no privilege is needed.  Where there is no such policy, or it may not be
set, everything stays as it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from coord.runtime.lasting import Lasting
from coord.telemetry import logs, metrics

_log = logs.get("runtime")


@contextlib.contextmanager
def in_batch() -> Iterator[None]:
    """In the block this thread has the policy, and so have threads and processes that it starts, for good.

    Whoever has set another policy before, let it be.
    """
    if not (hasattr(os, "SCHED_BATCH") and _set(os.SCHED_BATCH, instead_of=os.SCHED_OTHER)):
        yield
        return
    try:
        yield
    finally:
        _set(os.SCHED_OTHER, instead_of=os.SCHED_BATCH)


def _set(policy: int, *, instead_of: int) -> bool:
    try:
        if os.sched_getscheduler(0) != instead_of:
            return False
        os.sched_setscheduler(0, policy, os.sched_param(0))
    except OSError as exc:  # a sandbox forbids it, or a C library answers ENOSYS to both
        _log.info("cores.policy_not_set", error=exc.strerror or str(exc))
        return False
    return True


class Cores(Lasting):
    """Keeps the event loop's thread, and what it starts, at the policy while it runs."""

    def __init__(self, *, registry: metrics.Metrics | None = None) -> None:
        super().__init__("cores", in_batch, registry=registry)
