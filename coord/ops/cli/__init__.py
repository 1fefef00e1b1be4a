"""The ``coord`` command: nouns, then verbs.

Data goes to stdout (``-o table|json|jsonl|csv``), talk to stderr; an error is one line there, with -o json or
jsonl a JSON object (code, message, remedy, details, …).  Exit codes: 0 done, 1 error,
2 usage or settings, 3 unhealthy, 4 not found.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

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

app = typer.Typer(
    name="coord",
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
    _tree()(args=list(argv) if argv is not None else sys.argv[1:], prog_name="coord")


@functools.cache
def _tree() -> Callable[..., Any]:
    """All commands, as typer makes them of functions: 60 ms of CPU, once for a process that runs several."""
    return get_command(app)
