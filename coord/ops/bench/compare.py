"""Two reports side by side: which figure changed, and by how much.

The baseline, tests/bench/baseline.json, holds one report of each bench, with machine and commit:
what a new report is compared with when no other is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from coord.errors import SettingsError
from coord.ops.bench import machine

_SAME_BELOW = 0.05
"""Relative change below which a figure counts as the same: two runs of one commit differ by as much."""

_CIRCUMSTANCES = ("format", "machine", "python", "versions", "edition", "settings")
_PASSING = frozenset({"load_1m_before", "cores_used_elsewhere"})


def read(path: Path) -> dict[str, Any]:
    """A report that `coord bench … -o json` wrote; `SettingsError` when it is none."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except OSError as exc:
        raise SettingsError(f"cannot read {path}: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise SettingsError(f"{path} is not JSON: {exc}") from exc
    if not isinstance(found, dict) or not isinstance(found.get("figures"), dict):
        raise SettingsError(f"{path} is not a report of `coord bench`: it has no figures")
    if not isinstance(found.get("bench"), str):
        raise SettingsError(f"{path} does not say of which bench it is a report")
    return found


def baseline_file() -> Path:
    """The checkout's; `SettingsError` outside one."""
    return machine.in_checkout("tests", "bench", "baseline.json", instead="name two reports")


def baseline(bench: str, file: Path | None = None) -> dict[str, Any]:
    """The kept report of `bench`; `SettingsError` when there is none."""
    where = file or baseline_file()
    found: dict[str, Any] | None = _kept(where).get(bench)
    if found is None:
        raise SettingsError(f"{where} has no report of {bench}: keep one with `coord bench keep`")
    return found


def keep(report: Mapping[str, Any], file: Path | None = None) -> Path:
    """Make `report` the baseline of its bench; returns the file."""
    where = file or baseline_file()
    # Ten thousand looks at memory are no figures.
    slim = {name: value for name, value in report.items() if name != "samples"}
    kept = (_kept(where) if where.exists() else {}) | {slim["bench"]: slim}
    where.write_bytes(msgspec.json.format(msgspec.json.encode(dict(sorted(kept.items()))), indent=1) + b"\n")
    return where


def _kept(file: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except OSError as exc:
        raise SettingsError(f"cannot read {file}: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise SettingsError(f"{file} is no baseline: {exc}") from exc


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each figure that either has: both values, their ratio, the change, the verdict."""
    if before.get("bench") != after.get("bench"):
        raise SettingsError(f"a report of {before.get('bench')} and one of {after.get('bench')} have nothing in common")
    a, b = flat(before["figures"]), flat(after["figures"])
    return [_row(name, a.get(name), b.get(name)) for name in [*a, *(n for n in b if n not in a)]]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What else differs: figures are comparable as far as these are the same."""
    a, b = ({name: report.get(name) for name in _CIRCUMSTANCES} for report in (before, after))
    return [
        f"{name}: {x} → {y}"
        for (name, x), y in ((item, flat(b).get(item[0])) for item in flat(a).items())
        if x != y and name.rpartition(".")[2] not in _PASSING
    ]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def lower_is_better(figure: str) -> bool:
    """Whether a figure is a cost: milliseconds, microseconds and overhead are, and what a soak takes."""
    if figure.startswith("soak."):
        return not figure.endswith("facts_per_s")
    if figure.startswith("beside."):
        return False
    if figure.startswith("coordination_overhead"):
        return not figure.endswith("_per_s")
    return any(part.removesuffix("_always").endswith(("_ms", "_us")) for part in figure.split("."))


def _row(name: str, a: float | None, b: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {"figure": name, "a": a, "b": b, "ratio": None, "change": None, "verdict": "only in one"}
    if a is None or b is None:
        return row
    if not a:
        return row | {"verdict": "same" if a == b else "not comparable"}
    change = b / a - 1
    better = (change < 0) == lower_is_better(name)
    verdict = "same" if abs(change) < _SAME_BELOW else "better" if better else "worse"
    return row | {"ratio": round(b / a, 3), "change": f"{change:+.1%}", "verdict": verdict}
