"""What a busy machine adds to a measured time: processes that want to run and have to wait for a core."""

from __future__ import annotations

from pathlib import Path


class Contention:
    """From now on: the seconds that these processes could have run and did not, because others had the cores.

    A promise of so many seconds is about a machine that has a core to spare.  Without this, a
    test of it would fail on a busy one, or have to allow more everywhere.  Of each process its
    first thread counts, which is where its event loop runs; of the processes the one that waited
    longest, so that nothing is deducted twice.  The second number of Linux's /proc/…/schedstat;
    where there is none, nothing is deducted.
    """

    def __init__(self, *pids: int) -> None:
        self._before = {pid: _waited_ns(pid) for pid in pids}

    @property
    def seconds(self) -> float:
        """So far; of processes that are still there."""
        return max(max(0, _waited_ns(pid) - before) for pid, before in self._before.items()) / 1e9


def _waited_ns(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
