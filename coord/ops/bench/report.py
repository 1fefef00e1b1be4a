"""Write a report into docs/benchmarks.md: ``coord bench report FILE``.

Replaces what stands between the two markers of the report's bench (`BENCHES`) and leaves
the rest of the page, which people write.  So the figures of a section are always those of one run::

    coord bench spine -o json > spine.json && coord bench report spine.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from coord.errors import SettingsError
from coord.ops.bench import machine, questions
from coord.ops.bench.beside import page
from coord.ops.bench.compare import flat, read

BENCHES: Final = ("spine", "peers", "soak", "tasks-peers", "store", "queries")
"""Whose reports have a place on the page."""

_HELD: Final[dict[bool | None, str]] = {True: "yes", False: "**no**", None: "too short to tell"}

_CPU: Final = {"client": "Python", "server": "nats-server", "database": "PostgreSQL"}


def markers(bench: str) -> tuple[str, str]:
    """The lines between which a bench's report stands."""
    return f"<!-- bench:{bench}:begin (written by `coord bench report`: do not edit) -->", f"<!-- bench:{bench}:end -->"


def rewrite(document: str, report: Mapping[str, Any]) -> str:
    """The document with the report between its markers; `SettingsError` when it lacks them."""
    if report.get("bench") not in BENCHES:
        raise SettingsError(f"the page has a place for reports of {', '.join(BENCHES)}, not of {report.get('bench')}")
    begin_line, end_line = markers(report["bench"])
    head, begin, rest = document.partition(begin_line)
    _, end, tail = rest.partition(end_line)
    if not begin or not end:
        raise SettingsError(f"the document lacks the line {(end_line if begin else begin_line)!r}")
    return f"{head}{begin_line}\n{render(report)}{end_line}{tail}"


def render(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    if report["bench"] == "tasks-peers":
        return "\n".join([_circumstances(report), *(_table(*table) for table in page.tables(report, _number))])
    if report["bench"] == "queries":
        return "\n".join([_circumstances(report), _questions(report)])
    blocks = [_circumstances(report), _figures(report)]
    if report.get("held"):
        blocks.append(_table(("held", ""), [(f"`{name}`", _HELD[value]) for name, value in report["held"].items()]))
    if report.get("rounds"):
        blocks.append(_rounds(report["rounds"]))
    return "\n".join(blocks)


def _circumstances(report: Mapping[str, Any]) -> str:
    host, settings = report["machine"], report["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items() if number)
    others = f"{host['cores_used_elsewhere']} cores on average; load {host['load_1m_before']} before the run"
    rows = {
        "machine": f"{host['cores']} cores of {host['cpu']}, {host['memory_gib']:g} GiB",
        "system": f"{host['system']}, kernel {host['kernel']}",
        "used by others meanwhile": others,
        "versions": f"{report['python']}, {versions}",
        "edition": report["edition"],
        "commit": f"`{report['commit']}`" if report["commit"] else "not a checkout",
        "run": f"{report['started_at']}, {report['took_s']:g} s",
        "settings": ", ".join(f"{name} {_plain(value)}" for name, value in settings.items()),
    }
    return _table(("what", "value"), list(rows.items()))


def _figures(report: Mapping[str, Any]) -> str:
    figures = flat(report["figures"])
    if not report.get("by_round"):
        return _table(("figure", "value"), [(f"`{name}`", _number(value)) for name, value in figures.items()])
    rounds = flat(report["by_round"])
    rows = [
        (f"`{name}`", _number(value), " · ".join(_number(v) for v in rounds.get(name, ())))
        for name, value in figures.items()
    ]
    return _table(("figure", "median", "each round"), rows)


def _questions(report: Mapping[str, Any]) -> str:
    """A row a named question, the dashboards' first, the slowest of each kind first."""
    heads = ("question", "ms at the median", "p99", "bound", "rows", "read for it", "how")
    rows = [
        (
            f"`{row['question']}`",
            _number(row["p50_ms"]) if row["held"] else f"**{_number(row['p50_ms'])}**",
            _number(row["p99_ms"]),
            f"{row['bound_ms']:,}",
            f"{row['rows']:,}",
            f"{row['read']:,}",
            row["plan"],
        )
        for row in questions.table(report)
    ]
    return _table(heads, rows)


def _rounds(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """What each side cost: the round with the middle rate."""
    rows = []
    for name, runs in rounds.items():
        run = sorted(runs, key=lambda r: r["per_s"])[len(runs) // 2]
        cpu = [_number(run[f"{who}_cpu_us"]) if f"{who}_cpu_us" in run else "" for who in _CPU]
        rows.append((f"`{name}`", f"{run['count']:,.0f}", f"{run['per_s']:,.0f}", *cpu))
    return _table(("side", "count", "per s", *(f"{who} µs" for who in _CPU.values())), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # The first column is a name, the others are numbers, except where there are only two.
    marks = ["---"] + ["---" if len(heads) == 2 else "--:"] * (len(heads) - 1)
    lines = [heads, marks, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: float) -> str:
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2f}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_plain(v)}" for name, v in value.items())
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value))
    return "default" if value is None else f"{value:,}" if type(value) is int else str(value)


def write(found: Path, document: Path | None = None) -> Path:
    """Put the report in file `found` into `document` (default: the checkout's page); returns which.

    Raises `SettingsError` when there is no such document or no such report.
    """
    page = document or machine.in_checkout("docs", "benchmarks.md", instead="name the document")
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as exc:
        raise SettingsError(f"cannot read {page}: {exc.strerror}") from exc
    page.write_text(rewrite(text, read(found)), encoding="utf-8")
    return page
