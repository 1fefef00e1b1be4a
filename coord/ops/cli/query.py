"""``coord query``: the named questions, answered as a table, JSON, CSV, Parquet or Arrow; of any size."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, TextIO, cast

import typer

from coord.ops.cli.base import Context, command
from coord.ops.cli.files import whole_file

if TYPE_CHECKING:
    from coord.ops.cli.answers import Writer
    from coord.store.answers import Answer
    from coord.store.queries import Query


class AnswerFormat(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


_BINARY: Final = frozenset({AnswerFormat.PARQUET, AnswerFormat.ARROW})
_TIMES: Final = frozenset({"since", "until"})


def add_to(app: typer.Typer) -> None:
    """Register it there."""
    command(app, "query", forms=AnswerFormat)(query)


async def query(
    ctx: Context,
    name: Annotated[str | None, typer.Argument(help="Which question; none: list them.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter; repeat for more. Times: 2h (ago), too."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write there; it appears when it is whole.")
    ] = None,
    about: Annotated[bool, typer.Option("--about", help="Explain the question instead of asking it.")] = False,
) -> None:
    """Ask one of the named questions of sql/queries, or list them.

    Answers may be of any size: rows are written as the database gives them.
    """
    from coord.store import answers, queries

    if name is None:
        ctx.out.rows([_listed(q) for q in queries.all_queries().values()])
        return
    question = queries.get(name)
    if about:
        _explain(ctx, question)
        return
    given = dict(_pair(text) for text in parameter or [])
    question.bind(given)  # refuse before connecting
    form = AnswerFormat(ctx.form)
    with _target(form, file) as stream:
        async with ctx.reading() as reads, answers.answer(reads, question, given, estimate=file is not None) as answer:
            count = await _copy(ctx, answer, _writer(ctx, form, stream, answer, given), bar=file is not None)
    if file is not None:
        ctx.out.say(f"{count:,} rows")
    elif form is AnswerFormat.TABLE and not count:
        ctx.out.say("No rows.")


async def _copy(ctx: Context, answer: Answer, writer: Writer, *, bar: bool) -> int:
    """Write the answer; how many rows it had."""
    from coord.ops.cli import bars

    count = 0
    with bars.bar(ctx, answer.query.name) if bar else contextlib.nullcontext(lambda _done, _total: None) as show:
        async for rows in answer.batches():
            writer.write(cast("Any", rows))
            count += len(rows)
            show(count, max(count, answer.rows_about or 0))
        writer.close()
    return count


def _writer(ctx: Context, form: AnswerFormat, stream: Any, answer: Answer, given: dict[str, str]) -> Writer:
    from coord.ops.cli import answers as writers
    from coord.ops.cli.output import to_json

    if form in _BINARY:
        kind = writers.ParquetWriter if form is AnswerFormat.PARQUET else writers.ArrowWriter
        return kind(stream, answer.columns, {"coord.question": answer.query.name, "coord.parameters": to_json(given)})
    if form is AnswerFormat.JSON:
        return writers.JsonWriter(stream, answer.columns)
    if form is AnswerFormat.JSONL:
        return writers.JsonLinesWriter(stream, answer.columns)
    if form is AnswerFormat.CSV:
        return writers.CsvWriter(stream, answer.columns)
    return writers.TableWriter(stream, answer.columns, ctx.out.style)


@contextlib.contextmanager
def _target(form: AnswerFormat, file: Path | None) -> Iterator[TextIO | BinaryIO]:
    """Where the answer goes: stdout, or a file that gets its name once it is whole."""
    if file is not None:
        with whole_file(file) as unfinished:
            if form in _BINARY:
                with unfinished.open("wb") as data:
                    yield data
            else:
                with unfinished.open("w", encoding="utf-8") as text:
                    yield text
        return
    if form not in _BINARY:
        yield sys.stdout
        return
    stdout = getattr(sys.stdout, "buffer", None)
    if stdout is None or sys.stdout.isatty():
        raise typer.BadParameter(f"{form} is not for a terminal: --to FILE, or a pipe")
    yield stdout
    stdout.flush()


def _listed(question: Query) -> dict[str, Any]:
    return {
        "name": question.name,
        "answers": question.title,
        "parameters": list(question.parameters),
        "dashboard": question.dashboard,
    }


def _explain(ctx: Context, question: Query) -> None:
    record = {
        **_listed(question),
        "explanation": question.explanation,
        "parameters": {n: f"{p.doc} = {p.default or repr('')}" for n, p in question.parameters.items()},
        "sql": question.sql,
    }
    if not ctx.out.is_table:
        ctx.out.record(record)
        return
    ctx.out.text(question.title)
    ctx.out.text(question.explanation)
    for name, parameter in question.parameters.items():
        ctx.out.text(f"  -p {name}=…  {parameter.doc} (default: {parameter.default or 'empty'})")


def _pair(text: str) -> tuple[str, str]:
    from datetime import UTC

    from coord.ops import times

    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--param takes NAME=VALUE, not {text!r}")
    if name in _TIMES and value[-1:].isalpha() and value[:1].isdigit():
        with contextlib.suppress(ValueError):  # then PostgreSQL is asked what it makes of it
            value = times.since(value).astimezone(UTC).isoformat()
    return name, value
