"""On what it was measured: enough to judge the figures, nothing that names the machine."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from coord.errors import SettingsError
from coord.ops.build import version
from coord.runtime import assets

_MEASURED = ("asyncpg", "msgspec", "nats-py", "uvloop")


def machine() -> dict[str, Any]:
    """Cores, processor, memory, kernel, system, and how busy it was just now."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "system": _field("/etc/os-release", "PRETTY_NAME", "=").strip('"') or platform.system(),
    }


def load_1m() -> float:
    """Processes that wanted to run, on average over the last minute; includes our own."""
    return round(os.getloadavg()[0], 2)


class Elsewhere:
    """How busy the machine was with other things since this object was made: what disturbs every figure.

    Ask once all the bench's own processes have ended and were waited for: only then are they
    known to be ours.
    """

    def __init__(self) -> None:
        self._busy_s = _busy_s()
        self._own_s = _own_s()
        self._began = time.perf_counter()

    def cores(self) -> float:
        """Cores that others used on average, time stolen by the hypervisor included."""
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        return round(max(0.0, others_s) / (time.perf_counter() - self._began), 2)


class Circumstances:
    """Under what a bench ran, from its making to its `report`."""

    def __init__(self) -> None:
        self._started_at = datetime.now(UTC)
        self._began = time.perf_counter()
        self._load_before = load_1m()
        self._elsewhere = Elsewhere()

    def report(self, bench: str, form: int, **more: Any) -> dict[str, Any]:
        """The head of a report of `bench` in format `form`; `more`: what was measured."""
        return {
            "bench": bench,
            "format": form,
            "started_at": self._started_at.isoformat(timespec="seconds"),
            "took_s": round(time.perf_counter() - self._began, 1),
            "machine": machine()
            | {"load_1m_before": self._load_before, "cores_used_elsewhere": self._elsewhere.cores()},
            "python": python(),
            "commit": commit(),
        } | more


def python() -> str:
    """Implementation and version."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def versions(*, nats_server: str | None, postgres: str, timescaledb: str | None) -> dict[str, str | None]:
    """What took part; `nats_server`: None where there was no broker."""
    found: dict[str, str | None] = {"coord": version(), "nats-server": nats_server}
    found |= {"postgres": postgres, "timescaledb": timescaledb}
    return found | {name: metadata.version(name) for name in _MEASURED}


def commit() -> str | None:
    """The checkout's commit, "+" behind it when shipped files differ from it; None outside a checkout."""
    root = assets.checkout_dir()
    if root is None:
        return None
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "coord", "sql", "streams")
    return head + ("+" if changed else "")


def in_checkout(*parts: str, instead: str) -> Path:
    """A file of the checkout; outside one `SettingsError`, which says what to do `instead`."""
    root = assets.checkout_dir()
    if root is None:
        raise SettingsError(f"this is not a checkout: {instead}")
    return root.joinpath(*parts)


def _busy_s() -> float:
    """CPU seconds that all cores together were not idle."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, _first_line("/proc/stat").split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """CPU seconds of this process and of all that it, or theirs, waited for."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _first_line(path: str) -> str:
    with Path(path).open(encoding="ascii") as file:
        return file.readline()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, timeout=10, check=True
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _field(path: str, name: str, separator: str = ":") -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        found, _, value = line.partition(separator)
        if found.strip() == name:
            return value.strip()
    return ""
