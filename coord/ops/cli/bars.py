"""A bar for work that takes a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coord.ops.cli.base import Context


@contextmanager
def bar(ctx: Context, what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows (done, of how many) on stderr where that is a terminal, otherwise nothing; gone when the block ends."""
    if not ctx.out.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=ctx.out.stderr), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
