"""``coord flag``: feature flags, and who changed them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import options, past
from coord.ops.cli.base import Context, Exit, command, group, missing

if TYPE_CHECKING:
    from coord.core.flags import Flag

app = group("flag", "Feature flags: changed by facts, evaluated where they are asked.")

_COLUMNS = ["flag", "enabled", "percentage", "rules", "by", "at", "note"]

_Name = Annotated[str, typer.Argument(help="Of the flag.")]


@command(app, "set")
async def set_(
    ctx: Context,
    name: _Name,
    off: Annotated[bool, typer.Option("--off", help="For everybody, whatever else is given.")] = False,
    percentage: Annotated[
        float, typer.Option("--percentage", "-p", min=0, max=100, help="Of the subjects no rule is for.")
    ] = 100.0,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="On for agents with it, as name=value.")
    ] = None,
    for_agent: Annotated[list[str] | None, typer.Option("--for-agent", help="On for this agent.")] = None,
    for_subject: Annotated[list[str] | None, typer.Option("--for-subject", help="On for this subject.")] = None,
    note: Annotated[str, typer.Option("--note", help="Why.")] = "",
    agent: options.Agent = "",
    tenant: options.Tenant = "",
) -> None:
    """Set all of a flag; agents see it within a second.  Whom a rule names has it on, others by the percentage."""
    from coord.wire.flagging import FlagRule

    rules = [FlagRule(labels=_label(text)) for text in label or []]
    if for_agent:
        rules.append(FlagRule(agents=tuple(for_agent)))
    if for_subject:
        rules.append(FlagRule(subjects=tuple(for_subject)))
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        flag = await me.flags.set(name, enabled=not off, percentage=percentage, rules=rules, note=note)
    ctx.out.rows([_row(flag)], _COLUMNS)


@command(app, "rm")
async def rm(
    ctx: Context,
    name: _Name,
    note: Annotated[str, typer.Option("--note", help="Why.")] = "",
    agent: options.Agent = "",
    tenant: options.Tenant = "",
) -> int:
    """Remove a flag: whoever asks for it gets his default."""
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        if name not in [flag.id for flag in await me.flags.ls()]:
            return missing(ctx, f"No flag {name} is set.")
        await me.flags.remove(name, note=note)
    ctx.out.told({"flag": name, "removed": True}, f"Removed {name}.")
    return Exit.OK


@command(app, "ls")
async def ls(ctx: Context, agent: options.Agent = "", tenant: options.Tenant = "") -> None:
    """List the flags that are set, and who set them."""
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        flags = await me.flags.ls()
    ctx.out.rows([_row(flag) for flag in flags], _COLUMNS, empty="No flag is set.")


@command(app, "get")
async def get(ctx: Context, name: _Name, at: past.At = "", tenant: options.Tenant = "") -> int:
    """Show a flag with everything that was said about it, now or as it was."""
    from coord.wire.flagging import KEY

    return await past.get(ctx, "flag", tenant, KEY, name, at)


def _row(flag: Flag) -> dict[str, Any]:
    import msgspec

    assert flag.said is not None, "only flags that are set are shown"
    at = datetime.fromtimestamp(flag.at, UTC)
    return {
        "flag": flag.id,
        "enabled": flag.said.enabled,
        "percentage": flag.said.percentage,
        "rules": [msgspec.to_builtins(rule) for rule in flag.said.rules],
        "by": flag.by,
        "at": at,
        "note": flag.said.note,
    }


def _label(text: str) -> dict[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not name=value", param_hint="--label")
    return {name: value}
