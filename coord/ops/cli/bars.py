"""A bar for work that takes a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coord.ops.cli.base import Context

_SAID_EVERY_S = 10.0


@contextmanager
def bar(ctx: Context, what: str, *, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Shows (done, of how many) on stderr where that is a terminal, otherwise nothing; gone when the block ends.

    `unit`: of what; then also how many a second, and elsewhere than on a terminal a line now and then.
    """
    if not ctx.out.stderr.isatty():
        yield _lines(ctx, what, unit) if unit else lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    columns: list[ProgressColumn] = [TextColumn(what), BarColumn(), MofNCompleteColumn()]
    if unit:
        columns.append(TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=ctx.out.stderr), transient=True) as progress:
        task = progress.add_task("", total=None, rate="")

        def told(done: int, total: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, completed=done, total=total, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield told


def _lines(ctx: Context, what: str, unit: str) -> Callable[[int, int], None]:
    began = said = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < _SAID_EVERY_S or not done:
            return
        said = now
        rate = done / (now - began)
        left = f", {max(total - done, 0) / rate:,.0f} s left" if total > done else ""
        ctx.out.say(f"{what}: {done:,} of {max(total, done):,} {unit}, {rate:,.0f}/s{left}")

    return told
