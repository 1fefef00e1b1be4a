"""``coord timer``: timers, schedules and delayed tasks, and when each comes next."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import options, past
from coord.ops.cli.base import Context, Exit, command, fact_row, group, missing

if TYPE_CHECKING:
    from datetime import datetime

    from coord.core.timers import Timer

app = group("timer", "Timers: what fires once or again and again, delayed tasks, and when each comes next.")

_COLUMNS = ["id", "setter", "when", "next_at", "then", "fires", "skipped", "fired_at"]

_Id = Annotated[str, typer.Argument(help="Of the timer; a delayed task's is the task's.")]


@command(app, "ls")
async def ls(
    ctx: Context,
    agent: Annotated[str, typer.Option("--agent", help="Only set by it; default: by anybody, workflows too.")] = "",
    tasks: Annotated[bool, typer.Option("--tasks", help="Only those that submit a task: delayed, or a schedule.")] = (
        False
    ),
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many, the next first.")] = 50,
    tenant: options.Tenant = "",
) -> None:
    """List the timers that are set, the next to fire first, as the log has them."""
    async with ctx.speaking(tenant=tenant) as me:
        timers = await me.timers.ls()
    rows = [row(timer) for timer in timers if agent in ("", timer.setter) and (_submits(timer) or not tasks)]
    rows.sort(key=lambda shown: (shown["next_at"] is None, shown["next_at"], shown["id"]))
    ctx.out.rows(rows[:limit], _COLUMNS, empty="No such timer is set.")
    if len(rows) > limit:
        ctx.out.say(f"There are {len(rows)}: narrow it down, or raise --limit.")


@command(app, "get")
async def get(ctx: Context, id: _Id, key: options.Key = "", at: past.At = "", tenant: options.Tenant = "") -> int:
    """Show a timer whole, when it comes next, and everything that was said about it, now or as it was."""
    from coord.client import entities
    from coord.core import timers
    from coord.ops.fields import fields_of

    tenant = ctx.fleet(tenant)
    if at:
        return await past.get(ctx, "timer", tenant, key or id, id, at)
    async with ctx.bus() as conn:
        facts = await entities.facts(conn, tenant, key=key or id, kind="timer", id=id)
    timer = timers.fold(facts)
    if timer is None:
        return await past.get(ctx, "timer", tenant, key or id, id, at)  # it may have left the log
    record = {**row(timer), **fields_of(timer)}
    history = [fact_row(fact) for fact in facts]
    ctx.out.entity(record, history)
    return Exit.OK


@command(app, "cancel")
async def cancel(
    ctx: Context,
    id: _Id,
    key: options.Key = "",
    reason: Annotated[str, typer.Option("--reason", help="In words.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="Who speaks; default: who set it.")] = "",
    tenant: options.Tenant = "",
) -> int:
    """Cancel a timer, a schedule or a delayed task: nothing of it follows any more.

    Only who set it may, so it is said in that agent's name.
    """
    from coord.errors import InvalidArgument

    async with ctx.speaking(tenant=tenant) as me:
        timer = await me.timers.get(id, key=key or None)
    if timer is None:
        return missing(ctx, f"The log holds no timer {id}.")
    if timer.setter.startswith("_"):
        raise InvalidArgument("this is a workflow's: cancel that", workflow=timer.key)
    cancelled = False
    if timer.status == "set":
        async with ctx.speaking(tenant=tenant, agent=agent or timer.setter) as me:
            cancelled = await me.timers.cancel(id, key=key or None, reason=reason)
    status = "cancelled" if cancelled or timer.status == "cancelled" else "fired"
    ctx.out.told(
        {"id": id, "cancelled": cancelled, "status": status},
        f"Cancelled {id}." if cancelled else f"{id} is not set: it was {status} before.",
    )
    return Exit.OK if cancelled else Exit.ERROR


def row(timer: Timer) -> dict[str, Any]:
    """A timer as a line."""
    return {
        "id": timer.id,
        "key": timer.key,
        "status": timer.status,
        "setter": timer.setter,
        "when": _when(timer),
        "next_at": _next(timer),
        "then": _then(timer),
        "set_at": _moment(timer.set_at),
        "fires": timer.fires,
        "skipped": timer.skipped,
        "fired_at": None if timer.fired_at is None else _moment(timer.fired_at),
    }


def _submits(timer: Timer) -> bool:
    return timer.said.then is not None and timer.said.then.submit is not None


def _when(timer: Timer) -> str:
    said = timer.said
    most = "" if said.times_max is None else f", {said.times_max} times"
    if said.overlap != "allow":
        most += f", {said.overlap} while one runs"
    if said.every_s is not None:
        return f"every {said.every_s:g} s{most}"
    if said.cron is not None:
        return f"cron {said.cron} {said.zone or 'UTC'}{most}"
    return "once"


def _then(timer: Timer) -> str | None:
    then = timer.said.then
    if then is not None and then.submit is not None:
        name = (then.submit.id or timer.id) if timer.once else f"{timer.id}-{timer.number + 1}"
        return f"task {name} for {then.submit.capability}"
    if then is not None and then.raise_ is not None:
        return f"signal {then.raise_.name}"
    return None


def _next(timer: Timer) -> datetime | None:
    """When it fires next; None: never, or the broker alone knows."""
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    from coord.core import cron

    if timer.status != "set":
        return None
    said = timer.said
    if said.cron is None:
        return None if timer.next_at is None else _moment(timer.next_at)
    try:
        zone = ZoneInfo(said.zone or "UTC")
    except (OSError, ValueError, KeyError):
        return None
    return cron.next_after(said.cron, zone, datetime.now(UTC))


def _moment(unix_s: float) -> datetime:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix_s, UTC)
