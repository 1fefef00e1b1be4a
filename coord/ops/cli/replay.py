"""``coord replay``: put a recorded run into the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli.bars import bar
from coord.ops.cli.base import Context, Exit, command
from coord.ops.cli.replay_tasks import USUAL, replay_as_tasks

if TYPE_CHECKING:
    from coord.ops.replay.formats import Format
    from coord.ops.replay.recording import Statement
    from coord.ops.replay.source import Source
    from coord.ops.replay.survey import Survey


def add_to(app: typer.Typer) -> None:
    """Register the command at the root."""
    command(app, "replay")(replay)


async def replay(
    ctx: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The recording.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="NAME",
            help="conversations, arrivals, trajectory, otlp, export; auto: by its look.",
        ),
    ] = "auto",
    speed: Annotated[
        str | None,
        typer.Option(
            "--speed", metavar="SPEED", help="max (default; with --as-tasks: 60), recorded, or a factor such as 10."
        ),
    ] = None,
    shift: Annotated[bool, typer.Option("--shift", help="Move recorded times so that the first is now.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out lines that cannot be read; otherwise nothing is published.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be published, and publish nothing.")
    ] = False,
    run_id: Annotated[
        str | None,
        typer.Option("--run-id", metavar="NAME", help="Replay the same file again under another name and other keys."),
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Whose fleet (identity.tenant).")] = None,
    as_tasks: Annotated[
        bool,
        typer.Option("--as-tasks", help="Do it again: arrivals as tasks, conversations as workflows; say who waited."),
    ] = False,
    placement: Annotated[
        str,
        typer.Option("--placement", metavar="NAMES", help="With --as-tasks, of arrivals: each of these in turn."),
    ] = USUAL,
    agents: Annotated[
        int, typer.Option("--agents", min=1, max=1000, help="With --as-tasks, of arrivals: how many work.")
    ] = 4,
    token_ms: Annotated[
        float, typer.Option("--token-ms", min=0, max=60_000, help="With --as-tasks: how long one token takes.")
    ] = 20.0,
    limit: Annotated[int, typer.Option("--limit", min=0, help="With --as-tasks: only so many lines; 0: all.")] = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="With --as-tasks: draw who waited.")
    ] = None,
) -> int:
    """Put a recorded run into the log, each fact once, however often it is interrupted.

    A replay that was cut off goes on where it stopped; one that is complete is not done twice.
    """
    from coord.ops.replay.driver import ReplayConfig, Replayer
    from coord.ops.replay.formats import detect
    from coord.ops.replay.source import Source
    from coord.ops.replay.survey import checked, survey

    if tenant is not None:
        ctx.more_options["identity.tenant"] = (tenant, "--tenant")
    fleet = ctx.settings.identity.tenant
    factor = _speed(speed or ("60" if as_tasks else "max"))
    source = Source(file)
    known = detect(source) if form == "auto" else _format(form)
    digest = source.digest()
    run = _run_id(run_id, digest)
    found = survey(checked(known, source, run, fleet))
    _say_problems(ctx, found, skip_bad=skip_bad)
    if dry_run:
        ctx.out.record(_summary(file, known, run, fleet, found))
        return Exit.ERROR if found.bad and not skip_bad else Exit.OK
    _refuse(found, skip_bad=skip_bad)
    if as_tasks:
        from coord.ops.replay.as_tasks import TaskedConfig

        tasked = TaskedConfig(tenant=fleet, run=run, speed=factor, token_ms=token_ms, agents=agents)
        statements = _statements(known, source, run, fleet)
        return await replay_as_tasks(ctx, known.name, statements, tasked, names=placement, most=limit, plot=plot)
    async with ctx.bus() as conn:
        config = ReplayConfig(tenant=fleet, run=run, speed=factor, shift=shift)
        replayer = Replayer(conn, config, digest=digest, format_name=known.name)
        with bar(ctx, "replaying") as show:
            statements = _statements(known, source, run, fleet)
            new = await replayer.run(statements, lambda tally: show(tally.done, found.statements))
    if not new:
        ctx.out.say(f"Replayed before, as run {run}; --run-id NAME replays it again, under other keys.")
    tally = replayer.tally
    ctx.out.record(
        _summary(file, known, run, fleet, found)
        | {"resumed_at": tally.resumed_at, "stored": tally.stored, "already_stored": tally.already}
    )
    return Exit.OK


def _statements(known: Format, source: Source, run: str, tenant: str) -> Iterator[Statement]:
    from coord.ops.replay.recording import Statement
    from coord.ops.replay.survey import checked

    return (item for item in checked(known, source, run, tenant) if isinstance(item, Statement))


def _format(name: str) -> Format:
    from coord.ops.replay.formats import FORMATS

    if name not in FORMATS:
        raise typer.BadParameter(f"--format: {name!r} is not one of auto, {', '.join(FORMATS)}")
    return FORMATS[name]


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    if text == "recorded":
        return 1.0
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1e9:
        raise typer.BadParameter(f"--speed: {text!r} is neither max, recorded nor a factor such as 10")
    return factor


def _run_id(given: str | None, digest: str) -> str:
    from coord.errors import InvalidToken
    from coord.wire import subjects

    if given is None:
        return digest[:8]
    try:
        subjects.check_token(given, "run id")
    except InvalidToken as exc:
        raise typer.BadParameter(f"--run-id: {exc.message}") from None
    if len(given) > 32 or given.startswith("_"):
        raise typer.BadParameter("--run-id: at most 32 characters, the first of them no '_': keys begin with it")
    return given


def _say_problems(ctx: Context, found: Survey, *, skip_bad: bool) -> None:
    for problem in found.problems:
        ctx.out.say(f"{'left out: ' if skip_bad else ''}{problem}")
    if found.bad > len(found.problems):
        ctx.out.say(f"… and {found.bad - len(found.problems):,} more")


def _refuse(found: Survey, *, skip_bad: bool) -> None:
    from coord.errors import InvalidRecording

    if found.bad and not skip_bad:
        lines = "line" if found.bad == 1 else "places"
        raise InvalidRecording(f"{found.bad:,} {lines} cannot be read; nothing was published")


def _summary(file: Path, known: Format, run: str, tenant: str, found: Survey) -> dict[str, Any]:
    return {
        "file": str(file),
        "format": known.name,
        "run": run,
        "tenant": tenant,
        "statements": found.statements,
        "agents": found.agents,
        "keys": found.keys,
        "events": found.events,
        "left_out": found.left_out,
        "bad": found.bad,
        "first_at": found.first_at,
        "last_at": found.last_at,
    }
