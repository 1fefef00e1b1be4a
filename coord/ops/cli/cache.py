"""``coord cache``: what the caches of a fleet hold, how they fare, and evicting by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import options
from coord.ops.cli.base import Context, Exit, command, group

if TYPE_CHECKING:
    from coord.wire.cache_api import CacheAnswer, What

app = group("cache", "Caches of the fleet's processes: each that is there answers for itself.")

_NOBODY = "No cache answered: none is there, or --wait was too short."

_STATS = [
    "tier", "hit_rate", "target", "hits", "misses", "stale", "joined", "loads", "load_errors", "kept", "bytes",
    "bytes_max", "notices", "gaps", "facts_moved",
]  # fmt: skip

_Agent = Annotated[str, typer.Option("--agent", help="Only this agent's.")]
_Instance = Annotated[str, typer.Option("--instance", help="Only this process.")]
_Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="At most so many, of each process.")]
_Wait = Annotated[float, typer.Option("--wait", min=0.05, max=60, help="Seconds that answers are waited for.")]
_Processes = Annotated[
    int | None, typer.Option("--processes", min=1, help="As soon as so many have answered, wait no longer.")
]


@command(app, "stats")
async def stats(
    ctx: Context,
    each: Annotated[bool, typer.Option("--each", help="Each process for itself, not all together.")] = False,
    ways: Annotated[bool, typer.Option("--warming", help="Instead: what warming cost and brought.")] = False,
    agent: _Agent = "",
    instance: _Instance = "",
    wait: _Wait = 1.0,
    processes: _Processes = None,
    tenant: options.Tenant = "",
) -> int:
    """Show how each tier fares: hits beside what they should be, what is held, what left and why (-o json)."""
    from coord.ops import caches

    answers = await _ask(ctx, "stats", wait, processes, tenant, agent=agent, instance=instance)
    if ways:
        columns = ["agent", "instance", "way", "is_on", "loads", "values", "bytes", "used", "unused", "hits_per_load"]
        ctx.out.rows(caches.way_rows(answers), columns, empty="Nothing was warmed." if answers else _NOBODY)
    elif each:
        ctx.out.rows(caches.stats_rows(answers), ["agent", "instance", *_STATS], empty=_NOBODY)
    else:
        ctx.out.rows(caches.total_rows(answers), ["processes", *_STATS], empty=_NOBODY)
    return Exit.OK


@command(app, "top")
async def top(
    ctx: Context,
    evictors: Annotated[bool, typer.Option("--evictors", help="Instead of keys: the tags that evict most.")] = False,
    limit: _Limit = 20,
    agent: _Agent = "",
    instance: _Instance = "",
    wait: _Wait = 1.0,
    processes: _Processes = None,
    tenant: options.Tenant = "",
) -> int:
    """Show the keys asked for most and who holds them, of the last minutes: estimates, from samples."""
    from coord.ops import caches

    answers = await _ask(ctx, "top", wait, processes, tenant, agent=agent, instance=instance, limit=limit)
    if evictors:
        ctx.out.rows(caches.evictor_rows(answers, limit), ["tag", "entries", "processes"], empty=_NOBODY)
        return Exit.OK
    rows = caches.key_rows(answers, limit)
    if ctx.out.is_table:
        rows = [row | {"held": " ".join(f"{tier}:{count}" for tier, count in row["held"].items())} for row in rows]
    ctx.out.rows(rows, ["key", "reads", "processes", "held", "bytes", "age_s"], empty=_NOBODY)
    return Exit.OK


@command(app, "get")
async def get(
    ctx: Context,
    key: Annotated[str, typer.Argument(help="A key as `top` shows it; * and ? stand for anything.")],
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only what has this tag, or one of them.")] = None,
    value: Annotated[bool, typer.Option("--value", help="How the values begin, besides.")] = False,
    limit: _Limit = 20,
    agent: _Agent = "",
    instance: _Instance = "",
    wait: _Wait = 1.0,
    processes: _Processes = None,
    tenant: options.Tenant = "",
) -> int:
    """Show who holds a key: how old it is, how long it stays fresh, what would evict it."""
    from coord.ops import caches

    answers = await _ask(
        ctx, "get", wait, processes, tenant,
        agent=agent, instance=instance, limit=limit, keys=key, tags=tuple(tag or ()), values=value,
    )  # fmt: skip
    rows = caches.entry_rows(answers)
    columns = ["agent", "instance", "tier", "key", "bytes", "reads", "age_s", "fresh_s", "tags"]
    if ctx.out.is_table:
        rows = [row | {"tags": " ".join(row["tags"])} for row in rows]
    ctx.out.rows(rows, [*columns, "value"] if value else columns, empty=f"Nobody holds {key}." if answers else _NOBODY)
    if any(answer.more for answer in answers):
        ctx.out.say(f"Some hold more than {limit} of them: narrow it down, or raise --limit.")
    return Exit.OK if rows else Exit.NOT_FOUND


@command(app, "evict")
async def evict(
    ctx: Context,
    tags: Annotated[list[str] | None, typer.Argument(help="What has one of these tags.")] = None,
    key: Annotated[str, typer.Option("--key", help="Or this key, as `top` shows it; * and ? are anything.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Or all there is.")] = False,
    agent: _Agent = "",
    instance: _Instance = "",
    wait: _Wait = 1.0,
    processes: _Processes = None,
    tenant: options.Tenant = "",
) -> int:
    """Drop answers by hand, in the processes that hear it; what is being loaded is not kept either."""
    given = [bool(tags), bool(key), everything]
    if sum(given) != 1:
        raise typer.BadParameter("give tags, --key or --all: one of them")
    answers = await _ask(
        ctx, "evict", wait, processes, tenant,
        agent=agent, instance=instance, keys=key, tags=tuple(tags or ()), everything=everything,
    )  # fmt: skip
    if not answers:
        ctx.out.say(_NOBODY)
        return Exit.NOT_FOUND
    gone = {"processes": len(answers), "entries": sum(answer.gone for answer in answers)}
    if ctx.out.is_table:
        ctx.out.text(f"evicted {gone['entries']} entries of {gone['processes']} processes")
    else:
        ctx.out.record(gone)
    return Exit.OK


async def _ask(
    ctx: Context, what: What, wait_s: float, processes: int | None, tenant: str, **asked: Any
) -> list[CacheAnswer]:
    from coord.ops import caches
    from coord.wire.cache_api import CacheAsk

    question = CacheAsk(asker="", what=what, **asked)
    async with ctx.bus() as conn:
        return await caches.ask(conn, ctx.fleet(tenant), question, wait_s=wait_s, processes=processes)
