"""The process's environment variables that are no settings.

Apart from `coord.ops.settings`, which reads COORD_ settings, only this module looks: both
stand in one package, so that "who reads the environment?" has one answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def variables() -> Mapping[str, str]:
    """The environment as it is now."""
    return os.environ


def debug() -> bool:
    """Whether COORD_DEBUG asks for tracebacks."""
    return os.environ.get("COORD_DEBUG", "") not in {"", "0"}


def notify_socket() -> str | None:
    """Where systemd listens for READY=1 (``Type=notify``); None when it did not start this process."""
    return os.environ.get("NOTIFY_SOCKET")


def watchdog_s() -> float | None:
    """Within which time systemd wants a sign of life (``WatchdogSec=``); None when it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) > 0 else None


def cores() -> int:
    """How many cores this process may use: at least one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
