"""Doing one thing to many: a selection as `ls` makes it, listed first, done with ``--yes``, and again if need be.

Nothing remembers what was selected: whoever was interrupted says it again, and what was done is not selected any more.
What is to be said in an agent's name is said as that agent, as for a single one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from coord.ops.cli.base import Context, Exit, time_of

if TYPE_CHECKING:
    from coord.client.connect import Coord

Row: TypeAlias = dict[str, Any]
Doing: TypeAlias = Callable[["Coord", Row], Awaitable[str]]
"""Does it to one; says what came of it, in a word."""

OlderThan = Annotated[
    str, typer.Option("--older-than", help="Only submitted or started before: so long ago, as 2h, or a time.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, many are only listed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list what would be done.")]
Many = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many, newest first.")]

_AT_ONCE = 16
_WAIT_S = 60.0
"""After so long in which nothing was taken what is not taken is refused."""


def until(older_than: str) -> dict[str, Any]:
    """The parameter of a query that leaves out what is younger."""
    return {"until": time_of(older_than, "--older-than")} if older_than else {}


async def perform(
    ctx: Context, rows: list[Row], do: Doing, *, verb: str, columns: Sequence[str], limit: int, tenant: str,
    speaker: Callable[[Row], str], yes: bool, dry_run: bool = False,
) -> int:  # fmt: skip
    """Do it to all `rows` and show what came of each; the exit code.

    `verb`: past tense, what `do` says of whom it did it to.  `speaker`: in whose name.
    """
    for row in rows:
        row["result"] = None
    if yes and not dry_run:
        for agent in dict.fromkeys(speaker(row) for row in rows):
            async with ctx.speaking(tenant=tenant, agent=agent) as me:
                await to_all(me, [row for row in rows if speaker(row) == agent], do)
    ctx.out.rows(rows, [*columns, "result"], empty="There are none.")
    if not rows:
        return Exit.OK
    if dry_run or not yes:
        ctx.out.say(f"{len(rows)} would be {verb}." + ("" if dry_run else " Nothing was done: --yes does it."))
        return Exit.OK if dry_run else Exit.ERROR
    done = sum(row["result"] == verb for row in rows)
    over = sum(row["result"] == "ended" for row in rows)
    refused = len(rows) - done - over
    more = f" There may be more than {limit}: say it again." if len(rows) == limit else ""
    ctx.out.say(f"{done} {verb}, {over} had ended, {refused} refused.{more}")
    return Exit.ERROR if refused else Exit.OK


async def to_all(me: Coord, rows: list[Row], do: Doing) -> None:
    """Do it to all of them, some at once; what came of each is its `result`."""
    from coord.errors import CircuitOpen, CoordError, Overloaded
    from coord.runtime import clock

    waiting = iter(rows)
    went_on_at = clock.monotonic()

    async def one(row: Row) -> str:
        """What came of it, or its error's code; where its capability takes no more it waits, while others go on."""
        nonlocal went_on_at
        while True:
            try:
                result = await do(me, row)
            except (Overloaded, CircuitOpen) as exc:
                if clock.monotonic() >= went_on_at + _WAIT_S:
                    return exc.code
                await asyncio.sleep(min(5.0, max(0.1, exc.retry_after_s)))
            except CoordError as exc:
                return exc.code
            else:
                went_on_at = clock.monotonic()
                return result

    async def work() -> None:
        for row in waiting:
            row["result"] = await one(row)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_AT_ONCE, len(rows))):
            group.create_task(work())
