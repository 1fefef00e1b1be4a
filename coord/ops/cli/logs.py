"""``coord logs``: coord's JSON logs, filtered and made readable."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli.base import Context, Exit, command, group, time_of

if TYPE_CHECKING:
    from datetime import datetime

app = group("logs", "Coord's own JSON logs.")

_SEVERITY = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_COLOURS = {"debug": "dim", "info": "green", "warning": "yellow", "error": "red", "critical": "red"}


@command(app, "filter")
def filter_logs(
    ctx: Context,
    files: Annotated[list[Path] | None, typer.Argument(help="Log files; none or -: stdin.")] = None,
    correlation: Annotated[str | None, typer.Option("--correlation", help="Of this conversation.")] = None,
    causation: Annotated[str | None, typer.Option("--causation", help="Caused by this event id.")] = None,
    trace: Annotated[str | None, typer.Option("--trace", help="Of this trace id, or of a traceparent.")] = None,
    level: Annotated[str, typer.Option("--level", help="At least this severe: debug, info, warning, error.")] = "debug",
    area: Annotated[str | None, typer.Option("--area", help="Of this part, such as projector.")] = None,
    event: Annotated[
        str | None, typer.Option("--event", help="Events of this name or prefix, such as bus. or bus.reconnected.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="From then on: 5m, 2h, or 2026-11-21T04:00Z.")] = None,
    where: Annotated[
        list[str] | None, typer.Option("--where", "-w", metavar="FIELD=VALUE", help="Any field; repeat for more.")
    ] = None,
) -> int:
    """Print the records that match everything given; exits with 4 when none does.

    With -o jsonl (or json) one JSON object a line: files of any length are read as they come.
    Lines that are no JSON objects are passed over, as a service manager's own lines are.
    """
    if level not in _SEVERITY:
        raise typer.BadParameter(f"--level is one of {', '.join(_SEVERITY)}, not {level!r}")
    wanted = {
        "correlation_id": correlation,
        "causation_id": causation,
        "trace_id": _trace_id(trace),
        "area": area,
        **dict(_pair(text) for text in where or []),
    }
    fields = {name: value for name, value in wanted.items() if value is not None}
    earliest = time_of(since, "--since") if since else None
    matched = 0
    for record in _records(files or []):
        if _SEVERITY.get(str(record.get("level")), 20) < _SEVERITY[level] or not _matches(record, fields):
            continue
        if (event and not _is_event(record, event)) or (earliest and not _after(record, earliest)):
            continue
        matched += 1
        if ctx.out.is_table:
            ctx.out.text(_line(ctx, record))
        else:
            ctx.out.line(record)
    return Exit.OK if matched else Exit.NOT_FOUND


def _records(files: list[Path]) -> Iterator[dict[str, Any]]:
    for path in files or [Path("-")]:
        if str(path) == "-":
            yield from _parse(sys.stdin)
            continue
        try:
            with path.open(encoding="utf-8", errors="replace") as stream:
                yield from _parse(stream)
        except OSError as exc:
            raise typer.BadParameter(f"cannot read {path}: {exc.strerror}") from None


def _parse(lines: Iterable[str] | IO[str]) -> Iterator[dict[str, Any]]:
    import msgspec

    for line in lines:
        start = line.find("{")  # journald and containers put something in front
        if start < 0:
            continue
        try:
            record = msgspec.json.decode(line[start:])
        except msgspec.DecodeError:
            continue
        if isinstance(record, dict):
            yield record


def _matches(record: dict[str, Any], fields: dict[str, str]) -> bool:
    return all(name in record and _text(record[name]) == value for name, value in fields.items())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _is_event(record: dict[str, Any], wanted: str) -> bool:
    name = str(record.get("event", ""))
    return name == wanted or name.startswith(wanted if wanted.endswith(".") else f"{wanted}.")


def _after(record: dict[str, Any], earliest: datetime) -> bool:
    from coord.ops import times

    stamp = times.parse(str(record.get("ts", "")))
    return stamp is not None and stamp >= earliest


def _trace_id(text: str | None) -> str | None:
    from coord.telemetry import tracing

    parsed = tracing.parse(text)
    return parsed.trace_id if parsed is not None else text


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--where takes FIELD=VALUE, not {text!r}")
    return name, value


def _line(ctx: Context, record: dict[str, Any]) -> str:
    from coord.ops.cli.output import printable, to_json

    record = dict(record)
    stamp, level, event = (str(record.pop(n, "")) for n in ("ts", "level", "event"))
    exception = record.pop("exception", None)
    fields = " ".join(
        f"{k}={printable(v) if isinstance(v, str) and v and ' ' not in v else printable(to_json(v))}"
        for k, v in record.items()
    )
    mark = ctx.out.style(f"{level:<7}", _COLOURS.get(level, "dim"))
    line = f"{printable(stamp)} {mark} {printable(event)} {fields}".rstrip()
    if exception:
        line += "".join(f"\n    {printable(part)}" for part in str(exception).rstrip().splitlines())
    return line
