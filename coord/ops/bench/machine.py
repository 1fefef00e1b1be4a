"""On what it was measured: enough to judge the figures, nothing that names the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

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


def python() -> str:
    """Implementation and version."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def versions(*, nats_server: str, postgres: str, timescaledb: str | None) -> dict[str, str | None]:
    """What took part."""
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
