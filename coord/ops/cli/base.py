"""What every command shares: the common options, the connections, exit codes, errors in one line.

A command is a function whose first parameter is the `Context`; `command` gives it the common
options, so that ``-o json`` may stand after the verb, where people type it::

    @command(app, "ls")
    async def list_streams(ctx: Context) -> None:
        \"\"\"List the streams.\"\"\"
        async with ctx.bus() as conn: ...

A coroutine runs under uvloop.  An integer returned is the exit code.  Modules of commands
import only typer and this module; everything heavy is imported inside a command, which keeps
``coord --help`` fast.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from enum import IntEnum, StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from coord.ops.cli.output import Format, Output, brief, printable, to_json

if TYPE_CHECKING:
    from datetime import datetime

    from coord.bus.connection import Connection
    from coord.client.connect import Coord
    from coord.errors import CoordError
    from coord.ops.settings import Loaded, Settings
    from coord.store.config import DatabaseConfig
    from coord.store.pool import Pool
    from coord.store.reading import Reads
    from coord.wire.envelope import StoredFact

_PATIENCE_S = 2.0

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


class Exit(IntEnum):
    """What a process tells the shell."""

    OK = 0
    ERROR = 1
    USAGE = 2
    """Wrong arguments or wrong configuration."""
    UNHEALTHY = 3
    """It works, and what it looked at does not."""
    NOT_FOUND = 4
    INTERRUPTED = 130


class Context:
    """One invocation: its common options, and what they lead to."""

    def __init__(
        self,
        *,
        output: StrEnum = Format.TABLE,
        config: Path | None = None,
        nats: str | None = None,
        database: str | None = None,
        debug: bool = False,
    ) -> None:
        self.form = output
        """How data is printed; of a command with formats of its own (`command`), one of those."""
        self.output = Format(output) if output in set(Format) else Format.TABLE
        self.config = config
        self.nats = nats
        self.database = database
        self.debug = debug
        self.out = Output(self.output)
        self.more_options: dict[str, tuple[Any, str]] = {}
        """Further settings that a command takes as options: key → (value, option)."""

    @cached_property
    def loaded(self) -> Loaded:
        """The settings and their origins."""
        from coord.ops import settings

        options: dict[str, tuple[Any, str]] = dict(self.more_options)
        if self.nats is not None:
            options["nats.urls"] = (self.nats, "--nats")
        if self.database is not None:
            options["database.url"] = (self.database, "--database")
        return settings.load(self.config, options=options)

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.loaded.settings

    def fleet(self, tenant: str) -> str:
        """The fleet that is asked about: `tenant`, else the settings', which an answer of nothing then says."""
        if tenant:
            return tenant
        known = self.settings.identity.tenant
        self.out.about = f" (fleet {known}; another one: --tenant)"
        return known

    @contextlib.asynccontextmanager
    async def bus(self) -> AsyncIterator[Connection]:
        """A connection to the broker; `NotConnected` when there is none within two seconds."""
        import msgspec

        from coord.bus.connection import Connection

        nats = self.settings.nats
        # A person waits: a server that is not there is said sooner than a service would give up.
        nats = msgspec.structs.replace(nats, connect_timeout_s=min(nats.connect_timeout_s, _PATIENCE_S))
        conn = await Connection.open(nats, name="coord-cli")
        try:
            yield conn
        finally:
            await conn.close()

    @contextlib.asynccontextmanager
    async def speaking(self, *, tenant: str = "", agent: str = "") -> AsyncIterator[Coord]:
        """`bus`, as an agent; default: who the settings say."""
        import msgspec

        from coord.client.connect import connect

        self.fleet(tenant)
        given = {name: value for name, value in (("tenant", tenant), ("agent", agent)) if value}
        config = msgspec.structs.replace(self.settings.client, **given)
        async with self.bus() as conn, connect(config, connection=conn) as me:
            yield me

    @contextlib.asynccontextmanager
    async def pool(self) -> AsyncIterator[Pool]:
        """A small pool on the database; `DatabaseUnavailable` when it cannot be reached."""
        from coord.store.pool import Pool

        pool = await Pool(self._database()).open(wait=True)
        try:
            yield pool
        finally:
            await pool.close()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Reads]:
        """A small pool for reading: on the replica, if there is one that is fresh enough, which is said."""
        from coord.store import reading

        config = self._database()
        reads = await reading.pools(config).open(wait=True)
        try:
            yield reads
        finally:
            await reads.close()
        if reads.answered is not None and config.replica_url:
            self.out.say(f"From the {reads.answered.server}: {reads.answered.reason}.")

    def _database(self) -> DatabaseConfig:
        import msgspec

        given = self.settings.database
        # Whoever asks waits for the answer himself, and sees how long it takes.
        slow_ms = given.slow_query_ms if self.debug else 0.0
        return msgspec.structs.replace(
            given, pool_min=0, pool_max=3, application_name="coord-cli", slow_query_ms=slow_ms
        )

    def logs(self) -> None:
        """Send this process's own log to stderr: warnings, as a person reads them."""
        from coord.telemetry import logs

        level: Any = "debug" if self.debug else "warning"
        logs.configure(logs.LogConfig(level=level, format="console", libraries_level="error"))


# --- declaring commands --------------------------------------------------------------------

_COMMON = "Common options"


def _output_option(forms: type[StrEnum]) -> tuple[Any, Any]:
    option = typer.Option("--output", "-o", help="How data is printed on stdout.", rich_help_panel=_COMMON)
    return Annotated[forms, option], forms("table")


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "output": _output_option(Format),
    "config": (
        Annotated[
            Path | None,
            typer.Option(
                "--config", "-c", metavar="FILE", help="Settings file (COORD_CONFIG).", rich_help_panel=_COMMON
            ),
        ],
        None,
    ),
    "nats": (
        Annotated[
            str | None,
            typer.Option("--nats", metavar="URLS", help="NATS servers (COORD_NATS_URLS).", rich_help_panel=_COMMON),
        ],
        None,
    ),
    "database": (
        Annotated[
            str | None,
            typer.Option("--database", metavar="URL", help="Database (COORD_DATABASE_URL).", rich_help_panel=_COMMON),
        ],
        None,
    ),
    "debug": (
        Annotated[
            bool, typer.Option("--debug", help="Tracebacks and debug logs (COORD_DEBUG=1).", rich_help_panel=_COMMON)
        ],
        False,
    ),
}


def group(name: str, text: str) -> typer.Typer:
    """A noun: an app whose commands are its verbs."""
    return typer.Typer(name=name, help=text, no_args_is_help=True, pretty_exceptions_enable=False)


def command(
    app: typer.Typer,
    name: str | None = None,
    *,
    forms: type[StrEnum] = Format,
    is_program: bool = True,
    **options: Any,
) -> Callable[[Function], Function]:
    """Register a function as a command with the common options; see the module.

    `forms`: what -o may be, where that is more than `Format`; the function finds it in `Context.form`.  `is_program`:
    a coroutine is run as `coord.run` does; False: it sets collector and policy itself, as services do by settings.
    """

    def register(function: Function) -> Function:
        app.command(name, **options)(_with_common_options(function, forms=forms, is_program=is_program))
        return function

    return register


def callback(app: typer.Typer, **options: Any) -> Callable[[Function], Function]:
    """Register a function as what a noun does when no verb follows."""

    def register(function: Function) -> Function:
        invoke = _with_common_options(function, noun=True)
        app.callback(invoke_without_command=True, **options)(invoke)
        return function

    return register


def _with_common_options(
    function: Callable[..., Any], *, noun: bool = False, forms: type[StrEnum] = Format, is_program: bool = True
) -> Callable[..., None]:
    """`function` as typer wants it: a signature with its own and the common options."""
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for n, (annotation, default) in (_OPTIONS | {"output": _output_option(forms)}).items()
    ]
    if noun:
        parameters.insert(0, inspect.Parameter("_verb", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    def invoke(**values: Any) -> None:
        verb: typer.Context | None = values.pop("_verb", None)
        context = Context(**{name: values.pop(name) for name in _OPTIONS})
        if verb is None or verb.invoked_subcommand is None:
            _invoke(function, context, values, is_program=is_program)
        else:
            _refuse_misplaced(verb, verb.invoked_subcommand)

    invoke.__name__ = function.__name__
    invoke.__doc__ = function.__doc__
    invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    invoke.__annotations__ = {p.name: p.annotation for p in parameters}
    return invoke


def _refuse_misplaced(noun: typer.Context, verb: str) -> None:
    """What stands before the verb is the noun's alone: nobody would read it, and nobody would say so."""
    for option in noun.command.params:
        source = noun.get_parameter_source(option.name or "")
        if source is not None and source.name == "COMMANDLINE":
            place = f"{noun.command_path} {verb} {option.opts[0]} …"
            raise typer.BadParameter(f"it goes after the verb: {place}", noun)


def _invoke(function: Callable[..., Any], context: Context, values: dict[str, Any], *, is_program: bool) -> None:
    from coord.errors import CoordError, InvalidArgument, UnusableFile
    from coord.ops import environment

    debug = context.debug = context.debug or environment.debug()
    try:
        result = function(context, **values)
        if inspect.iscoroutine(result):
            context.logs()
            result = run(result, is_program=is_program)
    except CoordError as exc:
        if debug:
            raise
        fail(context.out, exc)
        raise typer.Exit(exit_code(exc)) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read us has had enough, as `| head` does; the interpreter must not flush again.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        raise typer.Exit(Exit.OK) from None
    except typer.BadParameter as exc:
        if context.output not in (Format.JSON, Format.JSONL):
            raise
        fail(context.out, InvalidArgument(exc.format_message()))
        raise typer.Exit(Exit.USAGE) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as exc:
        if debug:
            raise
        if isinstance(exc, OSError) and exc.filename is not None:
            # It has a name, so somebody named it: no defect of the command's.
            fail(context.out, UnusableFile(exc.strerror, file=str(exc.filename)))
            raise typer.Exit(Exit.USAGE) from None
        context.out.say(
            f"coord: internal error: {type(exc).__name__}: {exc} - run again with --debug and report what it prints"
        )
        raise typer.Exit(Exit.ERROR) from None
    if result:
        raise typer.Exit(int(result))


def time_of(text: str, option: str) -> datetime:
    """The moment that an option names: so long ago, or a time (`coord.ops.times`)."""
    from coord.ops import times

    try:
        return times.since(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{option}: {exc}") from None


def fact_row(fact: StoredFact) -> dict[str, Any]:
    """A fact as a line of its entity's history."""
    return {
        "stored_at": fact.stored_at,
        "seq": fact.seq,
        "event": ".".join((fact.event, *fact.detail)),
        "agent": fact.agent,
        "data": fact.data,
    }


def run(main: Coroutine[Any, Any, T], *, is_program: bool) -> T:
    """Run a coroutine as `coord.run` does, or on its loop alone."""
    from coord.runtime import cores, heap, running

    if not is_program:
        return running.run_alone(main)
    with heap.looking_seldom(collects=False), cores.in_batch():  # most are over before it has paid
        return running.run_alone(main)


# --- errors --------------------------------------------------------------------------------


def fail(out: Output, error: CoordError) -> None:
    """Say an error in one line: what, which, and what to do; with -o json or jsonl as JSON."""
    if out.form in (Format.JSON, Format.JSONL):
        from coord.telemetry.logs import redact

        record = error.as_dict()
        out.say(to_json({**record, "details": {name: redact(name, said) for name, said in record["details"].items()}}))
        return
    details = "".join(f" {k}={_short(v)}" for k, v in error.details.items())
    # Several problems of the settings are several lines.
    message = "\n".join(map(printable, error.message.splitlines()))
    remedy = f" - {error.remedy}" if error.remedy else ""
    out.say(f"coord: {message}{details} [{error.code}]{remedy}")


def missing(ctx: Context, text: str) -> Exit:
    """Say that what was asked for is not there, as errors are said where data is JSON; the exit code."""
    if ctx.output in (Format.JSON, Format.JSONL):
        from coord.errors import NothingFound

        fail(ctx.out, NothingFound(text))
    else:
        ctx.out.say(f"{text}{ctx.out.about}")
    return Exit.NOT_FOUND


def _short(value: Any) -> str:
    from coord.telemetry.logs import redact

    return brief(str(redact("", value)), 120)


def exit_code(error: CoordError) -> Exit:
    """2 for arguments and settings, 4 for what does not exist, 3 for what is not there or stopped, 1 otherwise."""
    from coord import errors

    wrong = (
        errors.SettingsError,
        errors.InvalidArgument,
        errors.UnusableFile,
        errors.QueryError,
        errors.WireError,
        errors.InvalidWorkflow,
        errors.BrokerLoginRefused,
        errors.DatabaseLoginRefused,
    )
    if isinstance(error, wrong):
        return Exit.USAGE
    unknown = (
        errors.ApiNotFound,
        errors.UnknownTask,
        errors.UnknownWorkflow,
        errors.UnknownSignal,
        errors.UnknownAgent,
    )
    if isinstance(error, unknown):
        return Exit.NOT_FOUND
    absent = (
        errors.NotConnected,
        errors.ApiUnavailable,
        errors.DatabaseUnavailable,
        errors.DatabaseNotReady,
        errors.ServiceUnavailable,
        errors.ServiceTooOld,
        errors.ProjectionStopped,
    )
    return Exit.UNHEALTHY if isinstance(error, absent) else Exit.ERROR
