"""``coord bench``: what the spine reaches on this machine, against the same work by hand."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from coord.ops.cli.base import Context, command, group

if TYPE_CHECKING:
    from coord.ops.bench.held import Sample

app = group("bench", "Measure: ratios to bare nats-py and asyncpg, latencies, CPU per fact.")


class Part(StrEnum):
    """What to measure."""

    PUBLISH = "publish"
    PROJECT = "project"
    LATENCY = "latency"


@command(app, "spine")
async def spine(
    ctx: Context,
    part: Annotated[
        list[Part] | None,
        typer.Option("--part", help="Only this; repeat for more. latency: to a SELECT, to subscribers."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of each side; a figure is their median.")] = 3,
    scale: Annotated[float, typer.Option("--scale", min=0.0001, help="Multiplies every count and duration.")] = 1.0,
    subscribers: Annotated[int, typer.Option("--subscribers", min=1, help="Connected, each by itself.")] = 1_000,
    sync_interval: Annotated[
        str | None, typer.Option("--sync-interval", help="nats-server's, such as always; default: its own.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every part under sync_interval always too, not publishing alone.")
    ] = False,
) -> None:
    """Publish, project, ask and subscribe on servers of its own, in less than two minutes (--full: five).

    Free ports, temporary files; nothing is left. One report on stdout: keep it with -o json.
    docs/benchmarks.md says what each figure is.
    """
    from coord.ops import environment
    from coord.ops.bench.spine import PARTS, SpineConfig
    from coord.ops.bench.spine import spine as run
    from coord.ops.devstack.stack import DevStackConfig

    _on_own_servers(ctx)
    config = SpineConfig(
        parts=tuple(p.value for p in part) if part else PARTS,
        rounds=rounds,
        subscribers=subscribers,
        sync_interval=sync_interval,
        full=full,
        database=DevStackConfig.from_env(environment.variables(), ephemeral=True, nats=False),
    ).scaled(scale)
    _print(ctx, await run(config, ctx.out.say))


class Backlog(StrEnum):
    """What is projected: frames of samples, frames of facts, single facts."""

    SAMPLES = "samples"
    PROGRESS = "progress"
    SINGLES = "singles"


@command(app, "project")
async def project(
    ctx: Context,
    kinds: Annotated[
        list[Backlog] | None, typer.Argument(metavar="[samples|progress|singles]…", help="Of what; default: each.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=100, help="Of each backlog.")] = 40_000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Drains of each backlog.")] = 5,
    copy: Annotated[bool, typer.Option("--copy", help="COPY by hand beside it, for the ratio.")] = False,
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="cProfile's data of the last drain, instead.")
    ] = None,
) -> None:
    """Drain backlogs with one projector: CPU a row in half a minute, for whoever makes it cheaper."""
    from coord.ops import environment
    from coord.ops.bench import quick
    from coord.ops.devstack.stack import DevStackConfig

    _on_own_servers(ctx)
    report = await quick.project(
        DevStackConfig.from_env(environment.variables(), ephemeral=True, nats=False),
        ctx.out.say,
        kinds=[k.value for k in kinds or Backlog],
        rows=rows,
        rounds=rounds,
        bare=copy,
        profile=None if profile is None else str(profile),
    )
    if ctx.out.is_table:
        ctx.out.rows(quick.table(report))
    else:
        ctx.out.record(report)


class TaskPart(StrEnum):
    """What to measure of tasks."""

    IDLE = "idle"
    FLOOD = "flood"
    WORKFLOWS = "workflows"
    ALWAYS = "always"
    R3 = "r3"
    CRITICAL = "critical"
    SHARES = "shares"
    KILL = "kill"
    SCALE = "scale"
    OVERHEAD = "overhead"


@command(app, "tasks")
async def tasks(
    ctx: Context,
    part: Annotated[list[TaskPart] | None, typer.Option("--part", help="Only this; repeat for more.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of the flood; a figure is their median.")] = 3,
    scale: Annotated[float, typer.Option("--scale", min=0.001, help="Multiplies every count and duration.")] = 1.0,
    agents: Annotated[
        list[int] | None,
        typer.Option("--agents", min=1, help="Agents connected; repeat. [10, 1000; --full: 100, 5000 too]"),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Also 100 and 5,000 agents, and overhead at low rates."),
    ] = False,
    sync_interval: Annotated[
        str | None, typer.Option("--sync-interval", help="nats-server's, such as always; default: its own.")
    ] = None,
) -> None:
    """Tasks from submission to result, with projector and deciders running, in less than two minutes.

    Free ports, temporary files; nothing is left.  docs/benchmarks.md says what each figure is.
    """
    import msgspec

    from coord.ops import environment
    from coord.ops.bench.tasks import PARTS, TasksConfig
    from coord.ops.bench.tasks import tasks as run
    from coord.ops.devstack.stack import DevStackConfig

    _on_own_servers(ctx)
    config = TasksConfig(
        parts=tuple(p.value for p in part) if part else PARTS,
        full=full,
        rounds=rounds,
        sync_interval=sync_interval,
        database=DevStackConfig.from_env(environment.variables(), ephemeral=True, nats=False),
    ).scaled(scale)
    if agents:
        config = msgspec.structs.replace(config, scales=tuple(agents))
    _print(ctx, await run(config, ctx.out.say))


@command(app, "peers")
async def peers(
    ctx: Context,
    facts: Annotated[int, typer.Option("--facts", min=16, help="Single facts in the backlog.")] = 120_000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of each; a figure is their median.")] = 3,
    batch: Annotated[int, typer.Option("--batch", min=1, max=10_000, help="Of the peers' pulls.")] = 500,
) -> None:
    """Set the projector beside FastStream and nats-sinks, which write the same facts into the same table.

    Needs the extra `bench`.  docs/benchmarks.md says what was written for them and what they lack.
    """
    from coord.ops import environment
    from coord.ops.bench.peers import PeersConfig
    from coord.ops.bench.peers import peers as run
    from coord.ops.devstack.stack import DevStackConfig

    _on_own_servers(ctx)
    config = PeersConfig(
        facts=facts,
        rounds=rounds,
        batch=batch,
        database=DevStackConfig.from_env(environment.variables(), ephemeral=True, nats=False),
    )
    _print(ctx, await run(config, ctx.out.say))


@command(app, "tasks-peers")
async def tasks_peers(
    ctx: Context,
    side: Annotated[
        list[str] | None, typer.Option("--side", help="Only this (coord, dbos, …); repeat for more.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of each; a figure is their median.")] = 3,
    scale: Annotated[float, typer.Option("--scale", min=0.001, help="Multiplies every count and duration.")] = 1.0,
    window: Annotated[
        int | None, typer.Option("--window", min=1, help="Under way at once, on every side; default: each one's best.")
    ] = None,
    synced: Annotated[bool, typer.Option("--synced", help="What is acknowledged is on disk, on every side.")] = False,
) -> None:
    """Set tasks and workflows beside taskiq-nats, procrastinate, DBOS, Restate and Temporal: no-op work, in turns.

    Needs the extra `bench`, and restate-server beside this Python: `make bench-tasks-peers` installs both.  What is
    missing is skipped.  docs/benchmarks.md says what was written for each and what it lacks.
    """
    from coord.ops import environment
    from coord.ops.bench.beside import sides
    from coord.ops.bench.tasks_peers import TasksPeersConfig
    from coord.ops.bench.tasks_peers import tasks_peers as run
    from coord.ops.devstack.stack import DevStackConfig

    _on_own_servers(ctx)
    config = TasksPeersConfig(
        sides=tuple(side) if side else sides.NAMES,
        rounds=rounds,
        window=window,
        synced=synced,
        database=DevStackConfig.from_env(environment.variables(), ephemeral=True, nats=False),
    ).scaled(scale)
    _print(ctx, await run(config, ctx.out.say))


@command(app, "soak")
async def soak(
    ctx: Context,
    facts: Annotated[int, typer.Option("--facts", min=100, help="In all.")] = 10_000_000,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Projectors, which share the partitions.")] = 1,
    disk_gib_max: Annotated[float, typer.Option("--disk-gib", help="End beyond so much disk.")] = 15.0,
    sync_interval: Annotated[
        str | None, typer.Option("--sync-interval", help="nats-server's, such as always; default: its own.")
    ] = None,
) -> int:
    """Push ten million facts through: each must be a row once, the projector's memory must stay flat.

    Two to twenty minutes; wants 10.5 GiB of free disk in TMPDIR, and takes about half of it.

    Exits with 3 when memory did not hold.
    """
    from coord.ops import environment
    from coord.ops.bench.soak import SoakConfig
    from coord.ops.bench.soak import soak as run
    from coord.ops.cli.base import Exit
    from coord.ops.devstack.stack import DevStackConfig

    _on_own_servers(ctx)
    config = SoakConfig(
        facts=facts,
        processes=processes,
        disk_gib_max=disk_gib_max,
        sync_interval=sync_interval,
        database=DevStackConfig.from_env(environment.variables(), ephemeral=True, nats=False),
    )
    with _Following(ctx, facts) as following:
        report = await run(config, ctx.out.say, following.tick)
    _print(ctx, report)
    return Exit.UNHEALTHY if False in report["held"].values() else Exit.OK


class _Following:
    """A running soak as a person sees it: a bar at a terminal, elsewhere a line every ten seconds."""

    def __init__(self, ctx: Context, facts: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=ctx.out.stderr)
        self._lines = not console.is_terminal
        self._say = ctx.out.say
        self._said_s = 0.0
        self._bar = Progress(
            TextColumn("  projected"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[mib]:,.0f} MiB"),
            console=console,
            disable=self._lines,
            transient=True,
        )
        self._facts = facts
        self._task = self._bar.add_task("", total=facts, mib=0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tick(self, sample: Sample) -> None:
        """What was seen just now."""
        mib = max(sample.rss, default=0) / 2**20
        if not self._lines:
            self._bar.update(self._task, completed=sample.projected, mib=mib)
        elif sample.at_s - self._said_s >= 10:
            self._said_s = sample.at_s
            self._say(f"  {sample.projected:,} of {self._facts:,} projected, {mib:,.0f} MiB")


def _print(ctx: Context, report: dict[str, Any]) -> None:
    """The report, or for a person its figures."""
    import msgspec

    from coord.ops.bench.compare import flat

    if not ctx.out.is_table:
        ctx.out.record(report)
        return
    values, each = flat(report["figures"]), flat(report.get("by_round", {}))
    ctx.out.rows(
        [
            {"figure": name, "median": values[name], "each_round": msgspec.json.encode(each.get(name)).decode()}
            for name in values
        ]
    )


def _on_own_servers(ctx: Context) -> None:
    """Refuse anybody else's, and clean up on SIGTERM as on Ctrl-C: a soak leaves gigabytes otherwise."""
    import asyncio
    import signal

    if ctx.nats is not None or ctx.database is not None:
        raise typer.BadParameter("the bench empties tables and streams: it uses servers of its own only")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)


@command(app, "compare")
def compare(
    ctx: Context,
    reports: Annotated[
        list[Path], typer.Argument(metavar="[A.json] B.json", help="Reports; without A the kept baseline is A.")
    ],
) -> None:
    """Show how the figures of B differ from those of A, and what else does.

    The baseline is tests/bench/baseline.json: `coord bench keep` writes it.
    """
    from coord.ops.bench import compare as bench

    if len(reports) > 2:
        raise typer.BadParameter("two reports at most")
    b = bench.read(reports[-1])
    a = bench.read(reports[0]) if len(reports) == 2 else bench.baseline(b["bench"])
    ctx.out.rows(bench.compare(a, b), empty="No figures.")
    for line in bench.differences(a, b):
        ctx.out.say(f"Not the same in both: {line}")


@command(app, "keep")
def keep(
    ctx: Context,
    reports: Annotated[list[Path], typer.Argument(metavar="FILE.json…", help="Reports, one of each bench.")],
) -> None:
    """Make reports the baseline that `coord bench compare` knows."""
    from coord.ops.bench import compare as bench

    for file in reports:
        ctx.out.say(f"Kept {file} in {bench.keep(bench.read(file))}.")


@command(app, "budget")
async def budget(
    ctx: Context,
    write: Annotated[bool, typer.Option("--write", help="Renew the bounds; their reasons stay.")] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE.toml", help="Default: the checkout's tests/bench/budget.toml."),
    ] = None,
) -> int:
    """Count what a fact costs and compare with the budget: bytecodes, memory, messages, round trips, bytes.

    Counts are the same on every machine.  Exits with 3 when one is beyond its bound.
    """
    from coord.ops import environment
    from coord.ops.bench import budget as bench
    from coord.ops.cli.base import Exit
    from coord.ops.devstack.stack import DevStackConfig

    _on_own_servers(ctx)
    where = file or bench.default_file()
    bounds = None if write and not where.exists() else bench.read(where)
    found = await bench.measured(
        DevStackConfig.from_env(environment.variables(), ephemeral=True, nats=False), ctx.out.say
    )
    if write:
        bounds = bench.renewed(bounds, found)
        where.write_text(bench.render(bounds), encoding="utf-8")
        ctx.out.say(f"Wrote {where}.")
    assert bounds is not None
    rows = bench.compare(bounds, found)
    ctx.out.rows(rows)
    return Exit.UNHEALTHY if any(row["verdict"] in bench.FAILING for row in rows) else Exit.OK


@command(app, "report")
def report(
    ctx: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="A report of `coord bench spine -o json`.")],
    document: Annotated[
        Path | None, typer.Option("--document", metavar="FILE.md", help="Default: the checkout's docs/benchmarks.md.")
    ] = None,
) -> None:
    """Write the figures into the page of benchmarks, between its markers."""
    from coord.ops.bench.report import write

    ctx.out.say(f"Wrote {write(file, document)}.")
