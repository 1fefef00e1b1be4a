"""coord beside other systems that run tasks and workflows: the same no-op work, in turns, on fresh servers.

Each side is a process that hosts handlers, a process that submits, and its server; what a side
is, is said in `coord.ops.bench.beside`, how it is measured in `coord.ops.bench.beside.measuring`:
one at a time, then a window of them under way.  A side that is not installed is skipped, one
that fails is left out; both are said in the report.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, Final

import asyncpg
import msgspec

from coord.errors import CoordError, SettingsError
from coord.ops.bench import machine, servers
from coord.ops.bench.beside import sides
from coord.ops.bench.beside.job import FLOWS, KINDS, STEPS, Effort, Job, Kind
from coord.ops.bench.beside.servers import Served, serving
from coord.ops.bench.beside.sides import BY_NAME, COORD, COORD_HANDLER, COORD_LOCAL, SIDES, Side
from coord.ops.bench.measure import BenchError, Figures, cpu_s, percentile, rounded
from coord.ops.bench.workers import Worker
from coord.ops.devstack import ports
from coord.ops.devstack.stack import DevStackConfig

FORMAT: Final = 1

_MODULE: Final = "coord.ops.bench.beside"
_RESULT_S: Final = 120.0


class TasksPeersConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bench does.  The defaults take less than four minutes on two cores."""

    sides: tuple[str, ...] = sides.NAMES
    rounds: int = 3
    window: int | None = None
    """Under way at once in a flood, on every side; None: what serves each best."""
    synced: bool = False
    """What is acknowledged is on disk, on every side; else it survives every process, but not the machine."""
    effort: Effort = Effort()
    database: DevStackConfig = DevStackConfig(ephemeral=True, nats=False)

    def validate(self) -> None:
        """Raise `SettingsError` for an unknown side or a count that is not positive."""
        if self.rounds < 1 or self.effort.idle < 1:
            raise SettingsError("bench: rounds and the number of idle tasks are at least 1")
        if not self.sides or set(self.sides) - set(sides.NAMES):
            raise SettingsError(f"bench: sides are {', '.join(sides.NAMES)}")

    def scaled(self, share: float) -> TasksPeersConfig:
        """With `share` of every count and duration."""
        effort = self.effort
        return msgspec.structs.replace(
            self,
            effort=Effort(
                idle=max(1, int(effort.idle * share)),
                idle_s=round(effort.idle_s * share, 3),
                warm_up_s=round(effort.warm_up_s * share, 3),
                flood_s=round(effort.flood_s * share, 3),
            ),
        )


class Measured(msgspec.Struct, kw_only=True):
    """One kind of work on one side, all rounds."""

    idle_ms: list[list[float]] = []
    per_s: list[float] = []
    cpu_us: Figures = {}
    """Of each process, and of all of them, for one."""


async def tasks_peers(config: TasksPeersConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it; returns the report, plain values only.  Raises `BenchError` when no side could be measured."""
    config.validate()
    circumstances = machine.Circumstances()
    wanted = [side for side in SIDES if side.name in config.sides]
    skipped = {side.name: f"not installed: {what}" for side in wanted if (what := side.missing())}
    for name, why in skipped.items():
        say(f"  {name} is skipped, {why} (make bench-tasks-peers installs it)")
    found: dict[str, dict[Kind, Measured]] = {}
    versions: dict[str, str | None] = {}
    async with servers.database(config.database, say) as database:
        for number in range(1, config.rounds + 1):
            for side in wanted:
                if side.name in skipped:
                    continue
                try:
                    await _turn(side, config, database, found.setdefault(side.name, {}))
                except (CoordError, OSError, asyncpg.PostgresError) as exc:  # one side's failure is not the others'
                    skipped[side.name] = f"failed in round {number}: {exc}"
                    say(f"    {number}/{config.rounds} {side.name:<20} {skipped[side.name]}")
                    continue
                say(f"    {number}/{config.rounds} {side.name:<20} {_spoken(found[side.name])}")
        found = {name: kinds for name, kinds in found.items() if name not in skipped}
        if not found:
            raise BenchError("no side could be measured", **skipped)
        versions = await _versions(database)
        edition = database.edition
    for side in wanted:
        if side.name in found:
            versions |= side.versions()
    figures = {name: _figures(kinds) for name, kinds in found.items()}
    return circumstances.report(
        "tasks-peers",
        FORMAT,
        versions=versions,
        edition=edition,
        settings=_settings(config),
        skipped=skipped,
        figures={name: {n: rounded(statistics.median(v)) for n, v in of.items()} for name, of in figures.items()}
        | {"beside": against(figures)},
        by_round={name: {n: [rounded(x) for x in v] for n, v in of.items()} for name, of in figures.items()},
    )


async def _turn(side: Side, config: TasksPeersConfig, database: servers.Database, into: dict[Kind, Measured]) -> None:
    """One round of one side."""
    async with serving(side.server, database, synced=config.synced) as served:
        job = Job(
            role="work", peer=side.module, variant=side.variant, url=served.url, database_url=served.database_url,
            port=ports.choose(), kinds=side.kinds, effort=config.effort,
            window=config.window or side.window, window_flows=config.window or side.window_flows,
        )  # fmt: skip
        async with Worker(job, name=f"{side.name} work", module=_MODULE) as worker:
            if served.introduce is not None:
                await served.introduce(job.port)
            submit = msgspec.structs.replace(job, role="submit")
            async with Worker(submit, name=f"{side.name} submit", module=_MODULE) as submitter:
                for kind in side.kinds:
                    await _kind(submitter, worker, served, into.setdefault(kind, Measured()))


async def _kind(submitter: Worker, worker: Worker, served: Served, into: Measured) -> None:
    """Hear what the submitter measures; the others' CPU time is read between its last two lines."""
    alone = await submitter.result(_RESULT_S)
    await submitter.result(_RESULT_S)
    before = served.cpu_s() | {"worker": cpu_s(worker.pid)}
    flood = await submitter.result(_RESULT_S)
    after = served.cpu_s() | {"worker": cpu_s(worker.pid)}
    into.idle_ms.append(alone["idle_ms"])
    into.per_s.append(flood["count"] / flood["seconds"])
    spent = {name: after[name] - before[name] for name in after} | {"submitter": flood["cpu_s"]}
    for name, seconds in spent.items() | {("all", sum(spent.values()))}:
        into.cpu_us.setdefault(name, []).append(seconds / flood["count"] * 1e6)


def _figures(kinds: Mapping[Kind, Measured]) -> Figures:
    """Named after the kind; the percentiles are those of all rounds together."""
    figures: Figures = {}
    for kind, measured in kinds.items():
        figures[f"{kind}_per_s"] = measured.per_s
        ordered = sorted(ms for of_round in measured.idle_ms for ms in of_round)
        figures |= {f"{kind}_ms.p{p}": [percentile(ordered, p / 100)] for p in (50, 99)}
        figures |= {f"{kind}_cpu_us.{name}": values for name, values in sorted(measured.cpu_us.items())}
    if flows := [kind for kind in kinds if kind in FLOWS]:
        figures["steps_per_s"] = max(
            ([per_s * STEPS[kind] for per_s in kinds[kind].per_s] for kind in flows), key=statistics.median
        )
    return figures


LOWER: Final = tuple(f"{kind}_ms.p{p}" for kind in KINDS for p in (50, 99))
HIGHER: Final = (*(f"{kind}_per_s" for kind in KINDS), "steps_per_s")


def against(figures: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    """How many times as good coord is as the best of the others, figure by figure: above 1 it is better.

    `stored`: of those that keep what became of a task, as coord does.  `all`: of all.  `local`: of all, where coord's
    steps are local ones; `handler`: where they are recorded steps of a handler, as the others' are.
    """
    medians = {name: {n: statistics.median(v) for n, v in of.items()} for name, of in figures.items()}
    own, local, handler = (medians.pop(name, {}) for name in (COORD, COORD_LOCAL, COORD_HANDLER))
    stored = {name: of for name, of in medians.items() if BY_NAME[name].stored}
    return {
        "stored": _best(own, stored),
        "all": _best(own, medians),
        "local": _best(local, medians),
        "handler": _best(handler, medians),
    }


def _best(own: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for figure in (*HIGHER, *LOWER):
        values = [of[figure] for of in others.values() if figure in of]
        if figure in own and values:
            found[figure] = rounded(min(values) / own[figure] if figure in LOWER else own[figure] / max(values))
    return found


def _spoken(kinds: Mapping[Kind, Measured]) -> str:
    parts = [
        f"{kind} {measured.per_s[-1]:,.0f}/s, p50 {statistics.median(measured.idle_ms[-1]):.2f} ms"
        for kind, measured in kinds.items()
    ]
    return "; ".join(parts)


def _settings(config: TasksPeersConfig) -> dict[str, Any]:
    """The bench's, and what each server was told about what it acknowledges."""
    found = servers.settings(config)
    del found["sides"]
    effort = msgspec.structs.asdict(found.pop("effort"))
    windows = {name: config.window or max(BY_NAME[name].window, BY_NAME[name].window_flows) for name in config.sides}
    return (
        found
        | effort
        | {
            "window": windows,
            "nats_sync_interval": "always" if config.synced else None,
            "synchronous_commit_of_peers": "on" if config.synced else "off",
            "restate_wal_fsync": config.synced,
            "temporal_database": "file" if config.synced else "memory",
        }
    )


async def _versions(database: servers.Database) -> dict[str, str | None]:
    async with servers.broker() as nats:
        return await servers.versions(nats, database.config)
