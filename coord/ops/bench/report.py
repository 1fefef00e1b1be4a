"""Write a report into docs/benchmarks.md: ``python -m coord.ops.bench.report FILE [DOCUMENT]``.

Replaces what stands between the two markers and leaves the rest of the page, which people
write.  So the page's figures are always those of one run::

    coord bench spine -o json > spine.json && python -m coord.ops.bench.report spine.json
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from coord.errors import CoordError, SettingsError
from coord.ops.bench.compare import flat, read
from coord.runtime import assets

BEGIN: Final = "<!-- bench:spine:begin (written by python -m coord.ops.bench.report; do not edit) -->"
END: Final = "<!-- bench:spine:end -->"

_CPU: Final = {"client": "Python", "server": "nats-server", "database": "PostgreSQL"}


def rewrite(document: str, report: Mapping[str, Any]) -> str:
    """The document with the report between its markers; `SettingsError` when it lacks them."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SettingsError(f"the document lacks the line {(END if begin else BEGIN)!r}")
    return f"{head}{BEGIN}\n{render(report)}{END}{tail}"


def render(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    blocks = [_circumstances(report), _figures(report)]
    if report.get("rounds"):
        blocks.append(_rounds(report["rounds"]))
    return "\n".join(blocks)


def _circumstances(report: Mapping[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items() if number)
    load = f"{machine['load_1m_before']} before, {machine['load_1m_after']} after (the bench's own included)"
    rows = {
        "machine": f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']:g} GiB",
        "system": f"{machine['system']}, kernel {machine['kernel']}",
        "load (1 min)": load,
        "versions": f"{report['python']}, {versions}",
        "edition": report["edition"],
        "commit": f"`{report['commit']}`" if report["commit"] else "not a checkout",
        "run": f"{report['started_at']}, {report['took_s']:g} s",
        "settings": ", ".join(f"{name} {_plain(value)}" for name, value in settings.items()),
    }
    return _table(("what", "value"), list(rows.items()))


def _figures(report: Mapping[str, Any]) -> str:
    rounds = flat(report["by_round"])
    rows = [
        (f"`{name}`", _number(value), " · ".join(_number(v) for v in rounds.get(name, ())))
        for name, value in flat(report["figures"]).items()
    ]
    return _table(("figure", "median", "each round"), rows)


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
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value))
    return "default" if value is None else f"{value:,}" if type(value) is int else str(value)


def main(arguments: Sequence[str]) -> int:
    """Rewrite the document; the exit code."""
    if len(arguments) not in {1, 2}:
        print("usage: python -m coord.ops.bench.report FILE [DOCUMENT]", file=sys.stderr)
        return 2
    root = assets.checkout_dir()
    if len(arguments) == 1 and root is None:
        print("Name the document: this is not a checkout.", file=sys.stderr)
        return 2
    document = Path(arguments[1]) if len(arguments) == 2 else Path(root or ".") / "docs" / "benchmarks.md"
    try:
        document.write_text(rewrite(document.read_text(encoding="utf-8"), read(Path(arguments[0]))), encoding="utf-8")
    except CoordError as exc:
        print(f"coord: {exc}", file=sys.stderr)
        return 2
    print(f"Wrote {document}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
