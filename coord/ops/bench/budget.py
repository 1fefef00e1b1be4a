"""The budget: what a fact may cost in counts, whatever the machine; tests/bench/budget.toml.

CI fails on these and on no figure of time: bytecodes, bytes of memory, messages, round trips and
bytes, for one fact, of the five paths of `coord.ops.bench.paths`.  ``coord bench budget`` prints
them beside their bounds, ``--write`` renews the bounds when a change is worth its price.

Bytecodes and memory belong to one version of Python: on another one they are printed, not judged.
"""

from __future__ import annotations

import math
import platform
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from coord.errors import SettingsError
from coord.ops.bench import machine, paths, servers
from coord.ops.devstack.stack import DevStackConfig

OF_PYTHON: Final = frozenset({"bytecodes", "memory_in_flight", "memory_in_hand"})
"""Counts that depend on the version of Python."""

_SLACK: Final = {
    "bytecodes": 1.10,
    "memory_in_flight": 1.15,
    "memory_in_hand": 1.25,
    "nats_bytes_received": 1.35,
    "database_round_trips_a_thousand": 6.0,
}
_SLACK_PROJECTING: Final = 1.30
"""Of a projector's bytecodes: how many transactions it takes is a little up to chance, even so."""
_SLACK_TIMES: Final = 1.12
"""Of a frame's bytes: the slower the machine, the further apart and the longer are its samples' times."""
_SLACK_ELSE: Final = 1.03
"""How far above what was measured a renewed bound is: how far two runs of one commit lie apart, and a little."""

_HEAD: Final = """\
# What one fact, sample or row may cost, in counts that are the same on every machine.
# `coord bench budget` measures and compares; the suite does too and fails beyond a bound.
# A change that is worth more: `coord bench budget --write`, which keeps the reasons; the commit says what it buys.

"""


class Bound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one count of one path."""

    bound: float
    measured: float
    """When the bound was written."""
    reason: str


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    python: str
    """major.minor that bytecodes and memory belong to."""
    paths: dict[str, dict[str, Bound]]


def python() -> str:
    """This one's, as the file says it."""
    return ".".join(platform.python_version_tuple()[:2])


def default_file() -> Path:
    """The checkout's; `SettingsError` outside one."""
    return machine.in_checkout("tests", "bench", "budget.toml", instead="name the budget's file")


def read(file: Path) -> Budget:
    """The budget in `file`; `SettingsError` when it is none."""
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), Budget)
    except OSError as exc:
        raise SettingsError(f"cannot read {file}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise SettingsError(f"{file} is no budget: {exc}") from exc


async def measured(stack: DevStackConfig, say: Callable[[str], None]) -> dict[str, paths.Counts]:
    """What each path costs now, on servers of its own."""
    async with servers.database(stack, say) as database, servers.broker() as nats:
        return await paths.measure(nats.url, database.config)


def compare(budget: Budget, found: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row for each count: measured, bound, verdict ("within", "over", "unbounded", "other python")."""
    rows = []
    for path in [*found, *(p for p in budget.paths if p not in found)]:
        bounds, counts = budget.paths.get(path, {}), found.get(path, {})
        for name in [*counts, *(n for n in bounds if n not in counts)]:
            value, bound = counts.get(name), bounds.get(name)
            rows.append(
                {
                    "path": path,
                    "count": name,
                    "measured": None if value is None else _four_digits(value),
                    "bound": bound.bound if bound else None,
                    "verdict": _verdict(name, value, bound, budget.python),
                }
            )
    return rows


def _verdict(name: str, value: float | None, bound: Bound | None, of_python: str) -> str:
    if value is None:
        return "not measured"
    if bound is None:
        return "unbounded"
    if name in OF_PYTHON and of_python != python():
        return "other python"
    return "within" if value <= bound.bound else "over"


FAILING: Final = frozenset({"over", "unbounded", "not measured"})
"""Verdicts that fail: a count without a bound, or a bound without a count, guards nothing."""


def renewed(budget: Budget | None, found: Mapping[str, Mapping[str, float]]) -> Budget:
    """Bounds for what was measured just now, with the reasons that stand."""
    old = budget.paths if budget else {}

    def bound(path: str, name: str, value: float) -> Bound:
        before = old.get(path, {}).get(name)
        return Bound(
            bound=_ceiling(value * _slack(path, name)),
            measured=_four_digits(value),
            reason=before.reason if before else "say why it is what it is",
        )

    return Budget(
        python=python(), paths={p: {n: bound(p, n, v) for n, v in counts.items()} for p, counts in found.items()}
    )


def render(budget: Budget) -> str:
    """The file's text."""
    lines = [_HEAD, f'python = "{budget.python}"\n']
    for path, counts in budget.paths.items():
        for name, bound in counts.items():
            reason = msgspec.json.encode(bound.reason).decode()
            lines.append(
                f"\n[paths.{path}.{name}]\nbound = {bound.bound!r}\nmeasured = {bound.measured!r}\nreason = {reason}\n"
            )
    return "".join(lines)


def _slack(path: str, name: str) -> float:
    if name == "bytecodes" and path.startswith("project"):
        return _SLACK_PROJECTING
    if name in {"bytes_sent", "bytes_stored"} and path == "publish_frame":
        return _SLACK_TIMES
    return _SLACK.get(name, _SLACK_ELSE)


def _ceiling(value: float) -> float:
    """The next number of three digits above."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.6g}")


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")
