"""The report of `coord bench tasks-peers` as two tables: a row for each side, not one for each figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from coord.ops.bench.beside.job import STEPS
from coord.ops.bench.beside.sides import COORD

Table = tuple[Sequence[str], list[Sequence[str]]]
"""Heads and rows."""

_TASKS: Final = ("side", "tasks/s", "each round", "p50 ms", "p99 ms", "CPU µs a task", "coord's rate ÷ its")
_FLOWS: Final = (
    "side", "one step/s", "p50 ms", "p99 ms", "three steps/s", "p50 ms", "p99 ms", "steps/s", "CPU µs a step",
    "coord's steps/s ÷ its",
)  # fmt: skip


def tables(report: Mapping[str, Any], number: Callable[[float], str]) -> list[Table]:
    """Tasks, workflows, coord beside the best of the others, and who was left out."""
    sides: dict[str, dict[str, Any]] = {name: of for name, of in report["figures"].items() if name != "beside"}
    own = sides.get(COORD, {})

    def ratio(figure: str, of: Mapping[str, Any]) -> str:
        return number(own[figure] / of[figure]) if figure in own and of is not own else ""

    def alone(kind: str, of: Mapping[str, Any]) -> list[str]:
        return [number(of[f"{kind}_ms.p{p}"]) for p in (50, 99)]

    tasks: list[Sequence[str]] = []
    flows: list[Sequence[str]] = []
    for name, of in sides.items():
        if "task_per_s" in of:
            rounds = " · ".join(number(v) for v in report["by_round"][name]["task_per_s"])
            cpu = number(of["task_cpu_us.all"])
            tasks.append(
                [f"`{name}`", number(of["task_per_s"]), rounds, *alone("task", of), cpu, ratio("task_per_s", of)]
            )
        if "steps_per_s" in of:
            cpu = number(of["three_steps_cpu_us.all"] / STEPS["three_steps"])
            flows.append(
                [
                    f"`{name}`",
                    *(number(of["one_step_per_s"]), *alone("one_step", of)),
                    *(number(of["three_steps_per_s"]), *alone("three_steps", of)),
                    *(number(of["steps_per_s"]), cpu, ratio("steps_per_s", of)),
                ]
            )
    found: list[Table] = [(_TASKS, tasks)] if tasks else []
    if flows:
        found.append((_FLOWS, flows))
    found += _best(report["figures"].get("beside", {}), number)
    if report.get("skipped"):
        found.append((("left out", "why"), [(f"`{name}`", why) for name, why in report["skipped"].items()]))
    return found


def _best(beside: Mapping[str, Mapping[str, float]], number: Callable[[float], str]) -> list[Table]:
    columns = {
        "that keep outcomes": "stored",
        "all": "all",
        "all, coord with local steps": "local",
        "all, coord with steps of a handler": "handler",
    }
    of = [beside.get(name, {}) for name in columns.values()]
    named = list(dict.fromkeys(name for column in of for name in column))
    if not named:
        return []
    heads = ("coord ÷ the best of the others (times: the reverse)", *columns)
    rows = [[f"`{name}`", *(number(column[name]) if name in column else "" for column in of)] for name in named]
    return [(heads, list(rows))]
