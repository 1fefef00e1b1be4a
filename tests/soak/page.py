"""docs/fault-ledger.md: the block in it that is written from the results in docs/fault-ledger/."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.soak.harness import Result

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/fault-ledger.md"
RESULTS = ROOT / "docs/fault-ledger"
_BEGIN = "<!-- soak:begin (written by `make soak`: do not edit) -->"
_END = "<!-- soak:end -->"
_HEAD = (
    "| scenario | outcome | volume | rounds | lost | doubled | out of order | worst catch-up s | took s | seed | run |",
    "| --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --- |",
)


def keep(result: Result) -> None:
    """Leave a result for the page; the scenario's last one is replaced."""
    RESULTS.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"
    (RESULTS / f"{result.scenario}.json").write_bytes(text)


def kept() -> list[Result]:
    """All results there are, in the order of their scenarios."""
    from tests.soak.__main__ import scenarios

    order = {s.name: i for i, s in enumerate(scenarios().values())}
    found = [msgspec.json.decode(path.read_bytes(), type=Result) for path in RESULTS.glob("*.json")]
    return sorted((r for r in found if r.scenario in order), key=lambda r: order[r.scenario])


def write() -> None:
    """Put the results into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text(before + _BEGIN + "\n" + render(kept()) + _END + after, encoding="utf-8")


def render(results: list[Result]) -> str:
    """The table, one row a scenario, and under it who ran it on what, and every finding."""
    runs = {_run_of(r): None for r in results}
    numbers = {run: i for i, run in enumerate(runs, 1)}
    lines = list(_HEAD)
    lines += [_row(r, numbers[_run_of(r)]) for r in results]
    lines.append("")
    lines += [f"{i}. {run}" for run, i in numbers.items()]
    found = [f"* `{r.scenario}`: {f.kind}: {f.text}" for r in results for f in r.findings]
    found += [f"* `{r.scenario}` was skipped: {r.skipped}" for r in results if r.skipped]
    if found:
        lines += ["", "What was found:", "", *found]
    return "\n".join(lines) + "\n"


def summary(result: Result) -> str:
    """One line about one result."""
    said = [f"{count:,} {what.replace('_', ' ')}" for what, count in result.volume.items() if count]
    if result.worst_catch_up_s is not None:
        said.append(f"worst catch-up {result.worst_catch_up_s:g} s")
    if result.lost is not None:
        said.append(f"lost {result.lost}, doubled {result.doubled}, out of order {result.disordered}")
    return "; ".join(said)


def _row(r: Result, run: int) -> str:
    volume = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in r.volume.items() if count)
    scaled = "" if r.scale == 1 else f" (scale {r.scale:g})"
    cells = [
        f"`{r.scenario}`{scaled}", r.outcome, volume, _number(r.rounds or None), _number(r.lost), _number(r.doubled),
        _number(r.disordered), _number(r.worst_catch_up_s), f"{r.duration_s:,.0f}", str(r.seed), str(run),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _run_of(r: Result) -> str:
    m = r.machine
    cores = f"{m.get('cores')} cores of {m.get('cpu')}, {m.get('memory_gib')} GiB"
    on = f"{cores}, {m.get('system')}, kernel {m.get('kernel')}"
    return f"{r.at[:10]}, commit `{r.commit}`, {on}"
