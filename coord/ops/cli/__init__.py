"""The ``coord`` command: nouns, then verbs.

Data goes to stdout (``-o table|json|jsonl|csv``), talk to stderr; an error is one line there, with -o json or
jsonl a JSON object (code, message, remedy, details, …).  Exit codes: 0 done, 1 error,
2 usage or settings, 3 unhealthy, 4 not found.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command
from typer.models import CommandInfo, TyperInfo

from coord.ops.cli import (
    agent,
    bench,
    bench_cache,
    bench_store,
    cache,
    chaos,
    config,
    db,
    demo,
    dev,
    dlq,
    doctor,
    event,
    flag,
    handoff,
    lock,
    logs,
    projection,
    query,
    replay,
    rules,
    serve,
    signal,
    spool,
    status,
    stream,
    task,
    timer,
    workflow,
)


class _Root(TyperGroup):
    """What typer says of a choice that there is not begins with words of a library's."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """As typer's, with the message that coord's people know."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as exc:
            exc.message = exc.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="coord",
    cls=_Root,
    help="One log for a fleet of agents: NATS JetStream in front, TimescaleDB behind.",
    epilog="Exit codes: 0 done, 1 error, 2 usage or settings, 3 unhealthy, 4 not found.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
demo.add_to(app)
app.add_typer(dev.app)
serve.add_to(app)
status.add_to(app)
doctor.add_to(app)
replay.add_to(app)
query.add_to(app)
_NOUNS = (
    event, agent, task, stream, db, dlq, projection, spool, logs, config, bench, chaos, workflow, handoff, signal,
    rules, timer, lock, flag, cache,
)  # fmt: skip
bench_cache.add_to(bench.app)
bench_store.add_to(bench.app)
for noun in _NOUNS:
    app.add_typer(noun.app)


def _version(wanted: bool) -> None:
    if wanted:
        from coord.ops.build import version

        print(f"coord {version()}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """See `app`."""


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point of ``coord``; exits the process."""
    args = list(argv) if argv is not None else sys.argv[1:]
    try:
        _tree(next((word for word in args[:1] if word in _words()), None))(args=args, prog_name="coord")
    except SystemExit as exc:
        if not isinstance(exc.__context__, BrokenPipeError) and not _has_left():
            raise
    # Whoever read the help has had enough, as `| head` does: nothing went wrong, and nothing is to be flushed.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def _has_left() -> bool:
    """Whether nobody reads stdout any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    except ValueError:  # closed, by a command that has seen it
        return False
    return False


@functools.cache
def _tree(word: str | None) -> Callable[..., Any]:
    """The commands under one first word, or all, as typer makes them of functions: all take 60 ms of CPU."""
    if word is None:
        return get_command(app)
    found = _words()[word]
    some = copy.copy(app)
    some.registered_commands = [found] if isinstance(found, CommandInfo) else []
    some.registered_groups = [found] if isinstance(found, TyperInfo) else []
    return get_command(some)


@functools.cache
def _words() -> dict[str, CommandInfo | TyperInfo]:
    """What a command begins with."""
    nouns = {str(group.typer_instance.info.name): group for group in app.registered_groups if group.typer_instance}
    return nouns | {str(command.name): command for command in app.registered_commands if command.name}
