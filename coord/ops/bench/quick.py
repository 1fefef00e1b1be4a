"""One side alone, for whoever works on it: what a row costs to project, in seconds instead of minutes.

The same backlogs and projector as `coord bench spine --part project`.  CPU columns are what to
look at while the machine does other things: the projector's own is exact to the microsecond,
nats-server's and PostgreSQL's come in ticks of 10 ms (so 20,000 rows are 0.5 µs a row).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

from coord.ops.bench import machine, projecting, servers
from coord.ops.bench.measure import rounded
from coord.ops.devstack.stack import DevStackConfig

FORMAT: Final = 1


async def project(
    stack: DevStackConfig,
    say: Callable[[str], None],
    *,
    kinds: Sequence[projecting.Kind],
    rows: int,
    rounds: int,
    bare: bool,
    profile: str | None = None,
) -> dict[str, Any]:
    """Drain backlogs of `rows` each; returns the report.  `bare`: COPY by hand beside it."""
    circumstances = machine.Circumstances()
    async with servers.database(stack, say) as database, servers.broker() as nats:
        assert nats.pid is not None
        counts = projecting.Counts(framed=rows, singles=rows)
        figures, runs = await projecting.projecting(
            nats.url, nats.pid, database.config, database.pid, counts, rounds, say,
            kinds=kinds, bare=bare, profile=profile,
        )  # fmt: skip
        versions = await servers.versions(nats, database.config)
    return circumstances.report(
        "project",
        FORMAT,
        versions=versions,
        edition=database.edition,
        settings={"rows": rows, "rounds": rounds, "kinds": list(kinds)},
        figures={name: rounded(statistics.median(values)) for name, values in figures.items()},
        rounds={name: [run.record() for run in of] for name, of in runs.items()},
    )


def table(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each side: medians of the rounds, CPU in microseconds a row, and how far the rounds lie apart."""
    rows = []
    for name, runs in report["rounds"].items():
        row: dict[str, Any] = {"side": name, "rate": f"{statistics.median(run['per_s'] for run in runs):,.0f}/s"}
        for who in ("client", "server", "database"):
            found = [run.get(f"{who}_cpu_us", 0.0) for run in runs]
            row[f"{who}_cpu_us"] = round(statistics.median(found), 2)
        found = [run.get("client_cpu_us", 0.0) for run in runs]
        row["client_min_max"] = f"{min(found):.2f}–{max(found):.2f}"
        rows.append(row)
    return rows
