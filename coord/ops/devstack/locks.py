"""Locks between processes: held by the kernel, so a crash releases them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from coord import limits
from coord.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_POLL_S = 0.1


class FileLock:
    """An exclusive lock on a file, from `acquire` to `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._fd is not None

    def acquire(self) -> bool:
        """Take it if nobody has it; False when somebody has.  Never waits."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def release(self) -> None:
        """Give it back.  Releasing twice is legal."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@contextlib.contextmanager
def locked(path: Path, *, what: str, timeout_s: float = limits.DEV_LOCK_S) -> Iterator[None]:
    """Hold the lock on `path`; blocks this thread while another process has it.

    Raises `EnvironmentProblem`, saying `what` is waited for, after `timeout_s`.
    """
    lock = FileLock(path)
    deadline = time.monotonic() + timeout_s
    while not lock.acquire():
        if time.monotonic() > deadline:
            raise EnvironmentProblem(f"Another process has held {path} for {timeout_s:g} s ({what}): end it.")
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        lock.release()
