"""A process that stands still.

SIGSTOP is sent at once and obeyed a little later: each thread stops when it is next interrupted, which on two busy
cores was up to 6 ms after `os.kill` had returned, and half of the time one still ran.  In that time a broker
acknowledges what was meant to be left without an answer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

OBEYED_S = 30.0


def stop(pid: int) -> None:
    """SIGSTOP, and back when all threads stand; SIGCONT is the caller's."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + OBEYED_S
    while not all(_stands(one) for one in Path(f"/proc/{pid}/task").iterdir()):
        if time.monotonic() > until:
            raise TimeoutError(f"process {pid} does not stop")
        os.sched_yield()


@contextlib.contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """It does nothing in the block, and goes on after it."""
    try:
        stop(pid)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _stands(thread: Path) -> bool:
    try:
        told = (thread / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True  # it ended meanwhile
    return told.rpartition(")")[2].split()[0] in "Tt"
