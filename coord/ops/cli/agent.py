"""``coord agent``: who is there, what they can do, and having them take no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import options, past
from coord.ops.cli.base import Context, Exit, command, group, missing
from coord.ops.cli.choices import AgentState

if TYPE_CHECKING:
    from coord.bus.connection import Connection
    from coord.wire.agents import Found

app = group("agent", "Agents that are there, as the service hears them; who was there is in coord.agent.")

_Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many instances, by name.")]

_COLUMNS = ["agent", "instance", "state", "claims", "load", "capabilities", "labels", "heard_s"]


@command(app, "ls")
async def ls(
    ctx: Context,
    capability: Annotated[str, typer.Option("--capability", help="Only those that can do this.")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="Only with this label, as name=value.")
    ] = None,
    state: Annotated[AgentState | None, typer.Option("--state", help="Only those; default: all but gone.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many, by agent and instance.")
    ] = 100,
    tenant: options.Tenant = "",
) -> None:
    """List instances of agents with what they hold and can do."""
    asked = {"capability": capability or None, "labels": _labels(label or []), "state": state}
    async with ctx.bus() as conn:
        found, left = await _find(ctx, conn, tenant, asked, limit)
    ctx.out.rows([_row(one) for one in found], _COLUMNS, empty="No agent is there.")
    _say_left(ctx, left)


@command(app, "get")
async def get(
    ctx: Context,
    agent: Annotated[str, typer.Argument(help="Its name.")],
    at: past.At = "",
    limit: _Limit = 100,
    tenant: options.Tenant = "",
) -> int:
    """Show instances of an agent whole, those lately gone at the end; with --at as its facts had left it then."""
    from coord.ops.fields import fields_of

    if at:
        return await past.get(ctx, "agent", tenant, agent, agent, at)
    async with ctx.bus() as conn:
        there, left = await _find(ctx, conn, tenant, {"agent": agent}, limit)
        gone, left_gone = await _find(ctx, conn, tenant, {"agent": agent, "state": "gone"}, limit - len(there))
    if not there and not gone:
        return missing(ctx, f"No instance of {agent} is there, or was lately.")
    if not ctx.out.is_table:
        ctx.out.rows([fields_of(one) for one in (*there, *gone)])
        _say_left(ctx, left + left_gone)
        return Exit.OK
    for number, one in enumerate((*there, *gone)):
        if number:
            ctx.out.text()
        ctx.out.record(fields_of(one))
    _say_left(ctx, left + left_gone)
    return Exit.OK


@command(app, "drain")
async def drain(
    ctx: Context,
    agent: Annotated[str, typer.Argument(help="Its name.")],
    instance: Annotated[str, typer.Option("--instance", help="Only this one; default: all of them.")] = "",
    rejoin: Annotated[bool, typer.Option("--rejoin", help="Have it take work again.")] = False,
    tenant: options.Tenant = "",
) -> int:
    """Have an agent take no more tasks; what it holds it finishes."""
    from coord.bus import rpc
    from coord.errors import UnknownAgent
    from coord.wire import subjects

    async with ctx.bus() as conn:
        where = subjects.rpc(ctx.fleet(tenant), "agents", "drain")
        asked = {"agent": agent, "instance": instance or None, "rejoin": rejoin}
        try:
            told = await rpc.call(conn, where, asked, dict[str, int])
        except UnknownAgent as exc:
            return missing(ctx, f"{exc.message} {exc.remedy}")
    if ctx.out.is_table:
        ctx.out.text(f"told {told['instances']} instance{'' if told['instances'] == 1 else 's'} of {agent}")
    else:
        ctx.out.record(told)
    return Exit.OK


@command(app, "capabilities")
async def capabilities(ctx: Context, tenant: options.Tenant = "") -> None:
    """List what the fleet can do: how much waits and runs, who can, what is starved, which circuits are open."""
    import msgspec

    from coord.bus import rpc
    from coord.core.admission import Board
    from coord.wire import subjects

    async with ctx.bus() as conn:
        where = subjects.rpc(ctx.fleet(tenant), "agents", "capabilities")
        boards = await rpc.call(conn, where, None, dict[str, Board])
    columns = ["capability", "depth", "running", "agents", "capacity", "starved", "circuit", "bound"]
    rows = [{"capability": name, **msgspec.structs.asdict(board)} for name, board in sorted(boards.items())]
    ctx.out.rows(rows, columns, empty="No capability has work or agents.")


async def _find(
    ctx: Context, conn: Connection, tenant: str, asked: dict[str, Any], limit: int
) -> tuple[list[Found], int]:
    """The first `limit` instances by agent and instance, and how many are left."""
    from coord import limits
    from coord.bus import rpc
    from coord.wire import subjects
    from coord.wire.agents import FoundAgents

    where = subjects.rpc(ctx.fleet(tenant), "agents", "find")
    found: list[Found] = []
    after = ("", "")
    while True:
        some = min(max(1, limit - len(found)), limits.AGENTS_FOUND_MAX)
        answer = await rpc.call(conn, where, asked | {"limit": some, "after": after}, FoundAgents)
        found += answer.instances
        if not answer.left or len(found) >= limit:
            left = answer.left + max(0, len(found) - limit)
            return found[:limit], left
        after = found[-1].agent, found[-1].instance


def _say_left(ctx: Context, left: int) -> None:
    if left:
        ctx.out.say(f"And {left:,} more: narrow it down, or raise --limit.")


def _labels(given: list[str]) -> dict[str, str]:
    labels = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not name=value", param_hint="--label")
        labels[name] = value
    return labels


def _row(one: Found) -> dict[str, Any]:
    return {
        "agent": one.agent,
        "instance": one.instance,
        "state": one.state if one.quota is None else f"{one.state} ({one.quota})",
        "claims": one.claims,
        "load": one.load,
        "capabilities": " ".join(f"{name}:{count}" for name, count in one.capabilities.items()),
        "labels": " ".join(f"{name}={value}" for name, value in one.labels.items()),
        "heard_s": one.heard_s,
    }
