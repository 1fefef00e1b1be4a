"""``coord stream``: the streams, and whether they are what streams/ says."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli.base import Context, Exit, command, group

if TYPE_CHECKING:
    from coord.bus.topology import Change, Topology

app = group("stream", "Streams and consumers: what the broker holds, and what streams/ says.")


class Profile(StrEnum):
    """The profiles of streams/."""

    PRODUCTION = "production"
    CLUSTER = "cluster"
    DEVELOPMENT = "development"


ProfileOption = Annotated[
    Profile | None, typer.Option("--profile", help="Which profile of streams/ (default: streams.profile).")
]


@command(app, "ls")
async def ls(ctx: Context) -> None:
    """List coord's streams, how full they are and what they hold."""
    from coord.ops import stats

    async with ctx.bus() as conn:
        streams, unanswered = await stats.streams(conn)
    columns = ["name", "messages", "bytes", "fill", "when_full", "subjects", "consumers", "first_at", "last_at"]
    ctx.out.rows([_row(s) for s in streams], columns, empty="There are no streams: run `coord stream apply`.")
    if unanswered:
        ctx.out.say(f"Nobody answers for {', '.join(unanswered)}: bring back the servers that have them.")


@command(app, "info")
async def info(ctx: Context, name: Annotated[str, typer.Argument(metavar="STREAM", help="Such as EVENTS.")]) -> None:
    """Show one stream: limits, state, consumers and configuration."""
    from coord.ops import stats

    name = name.upper()
    async with ctx.bus() as conn:
        answer = await conn.api(f"STREAM.INFO.{name}")
        consumers = await stats.consumers(conn, name)
    record = _row(stats.stream(answer))
    groups = [_consumer(c) for c in consumers]
    if not ctx.out.is_table:
        ctx.out.record({**record, "consumers": groups, "config": answer["config"]})
        return
    ctx.out.record(record)
    if groups:
        ctx.out.text()
        ctx.out.rows(groups)


@command(app, "plan")
async def plan(
    ctx: Context,
    profile: ProfileOption = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 3 when something differs.")] = False,
) -> int:
    """Show what `apply` would change; changes nothing."""
    from coord.bus import topology

    wanted = _topology(ctx, profile)
    async with ctx.bus() as conn:
        changes = await topology.plan(conn, wanted)
    _show(ctx, changes, "The broker has what streams/ says.")
    if any(c.destructive for c in changes):
        ctx.out.say("Some changes are destructive: `coord stream apply` refuses them without --allow-destructive.")
    return Exit.UNHEALTHY if changes and exit_code else Exit.OK


@command(app, "apply")
async def apply(
    ctx: Context,
    profile: ProfileOption = None,
    allow_destructive: Annotated[
        bool, typer.Option("--allow-destructive", help="Also changes that delete messages or recreate consumers.")
    ] = False,
) -> None:
    """Make the broker's streams and consumers what streams/ says; repeating it changes nothing."""
    from coord.bus import topology

    wanted = _topology(ctx, profile)
    async with ctx.bus() as conn:
        changes = await topology.apply(conn, wanted, allow_destructive=allow_destructive)
    _show(ctx, changes, "Nothing to do: the broker has what streams/ says.")
    if changes:
        ctx.out.say(f"{len(changes)} applied.")


@command(app, "render")
def render(
    ctx: Context,
    label: Annotated[
        str | None, typer.Argument(metavar="[LABEL]", help="EVENTS, or EVENTS/projector-0; default: everything.")
    ] = None,
    profile: ProfileOption = None,
) -> None:
    """Print the JSON that the broker gets, as `nats stream add --config` takes it."""
    from coord.ops.cli.output import to_json

    wanted = _topology(ctx, profile)
    if label is None:
        ctx.out.text(to_json({spec.label: spec.config for spec in wanted.specs}, indent=True))
    else:
        ctx.out.text(to_json(wanted.get(label).config, indent=True))


def _topology(ctx: Context, profile: Profile | None) -> Topology:
    from coord.ops import settings

    if profile is not None:
        ctx.more_options["streams.profile"] = (profile.value, "--profile")
    return settings.topology(ctx.settings)


def _row(stream: Any) -> dict[str, Any]:
    import msgspec

    record = msgspec.structs.asdict(stream)
    record["fill"] = f"{stream.fill:.1%}" if stream.fill else "0%"
    record["when_full"] = "refuse" if record.pop("discard") == "new" else "drop oldest"
    return record


def _consumer(consumer: Any) -> dict[str, Any]:
    import msgspec

    record = msgspec.structs.asdict(consumer)
    del record["stream"]
    return record


def _show(ctx: Context, changes: list[Change], nothing: str) -> None:
    import msgspec

    if not ctx.out.is_table:
        ctx.out.rows([msgspec.to_builtins(c) for c in changes])
        return
    if not changes:
        ctx.out.say(nothing)
    for change in _merged(changes):
        mark = {"create": "+", "update": "~", "recreate": "!"}[change["action"]]
        colour = "red" if change["destructive"] else {"+": "green", "~": "yellow"}.get(mark, "red")
        ctx.out.text(ctx.out.style(f"{mark} {change['label']}", colour))
        for field, (now, then) in change["fields"].items():
            ctx.out.text(f"    {field}: {_brief(now)} -> {_brief(then)}")
        if change["reason"]:
            ctx.out.text(f"    {change['reason']}")


def _merged(changes: list[Change]) -> list[dict[str, Any]]:
    """The changes, with sixteen equal ones of a partitioned consumer said once."""
    import re

    import msgspec

    merged: list[dict[str, Any]] = []
    for change in changes:
        record = msgspec.structs.asdict(change)
        name, number = re.fullmatch(r"(.*?)(-\d+)?", change.label).groups()  # type: ignore[union-attr]
        last = merged[-1] if merged else None
        same = ("action", "fields", "destructive", "reason")
        if number and last and last["name"] == name and all(last[k] == record[k] for k in same):
            last["label"] = f"{last['first']} … {change.label.rpartition('/')[2]}"
        else:
            merged.append({**record, "name": name, "first": change.label})
    return merged


def _brief(value: Any) -> str:
    from coord.ops.cli.output import brief, to_json

    return brief(to_json(value), 100)
