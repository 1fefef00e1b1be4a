"""How this process comes by a core: without pushing anybody off one (Linux's ``SCHED_BATCH``).

What coord, agents and servers do for a task is short, and each wakes the next.  By default a thread that wakes up
takes the core of whoever runs there at once, so on busy cores a message is handled alone, between two changes of
threads and with cold caches.  A thread of this policy waits until who runs sleeps, or has had its turn, and
then finds what has come meanwhile together.  Where a core is free, nothing changes.

A turn is 1 to 3 ms by default.  Since Linux 6.12 a thread may say how long its own is: those of this policy take
`limits.CPU_TURN_S`.  Before, and on other processors than are listed here, turns stay as they are.

Its share of the cores is the same, and no privilege is needed.  Where there is no such policy, or it may not be
set, everything stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import platform
import struct
from collections.abc import Iterator
from typing import Final

from coord import limits
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
        if policy == os.SCHED_BATCH:
            _take_turns(policy, limits.CPU_TURN_S)
    except OSError as exc:  # a sandbox forbids it, or a C library answers ENOSYS to both
        _log.info("cores.policy_not_set", error=exc.strerror or str(exc))
        return False
    return True


_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
"""The system call's number by processor: the C library has a name for it since glibc 2.41 only."""
_ATTR: Final = struct.Struct("=IIQiIQQQ")
"""sched_attr's first version: size, policy, flags, nice, priority, runtime (of these policies a turn, ns), two more."""


def _take_turns(policy: int, turn_s: float) -> None:
    """Let this thread run for so long before another one has its turn; another policy ends that."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or struct.calcsize("P") != 8:
        return
    try:
        import ctypes
    except ImportError:  # a Python that was built without libffi
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attr = _ATTR.pack(_ATTR.size, policy, 0, nice, 0, int(turn_s * 1e9), 0, 0)
    # A kernel that does not know turns ignores them; one that refuses leaves everything as it is.
    ctypes.CDLL(None, use_errno=True).syscall(number, 0, attr, 0)


class Cores(Lasting):
    """Keeps the event loop's thread, and what it starts, at the policy while it runs."""

    def __init__(self, *, registry: metrics.Metrics | None = None) -> None:
        super().__init__("cores", in_batch, registry=registry)
