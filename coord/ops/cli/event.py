"""``coord event``: follow the log, and state a fact by hand."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from coord.ops.cli import past
from coord.ops.cli.base import Context, Exit, command, group, time_of
from coord.ops.cli.files import whole_file
from coord.ops.cli.output import to_json

if TYPE_CHECKING:
    from coord.client.subscriber import StartAt, Subscription
    from coord.wire.records import StoredFact

app = group("event", "Facts: follow them, read a key's history, state one by hand.")

_DATA_BYTES_MAX = 1024 * 1024
_QUIET_S = 0.3
_LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)

Tenant = Annotated[str | None, typer.Option("--tenant", "-t", help="Whose fleet (identity.tenant).")]
Agent = Annotated[str | None, typer.Option("--agent", "-a", help="Who speaks (identity.agent).")]


@command(app, "tail")
async def tail(
    ctx: Context,
    kind: Annotated[str | None, typer.Option("--kind", "-k", help="Only of this kind, such as task.")] = None,
    event: Annotated[str | None, typer.Option("--event", "-e", help="Only this event, such as completed.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Only about this entity.")] = None,  # noqa: A002
    key: Annotated[str | None, typer.Option("--key", help="Only of this ordering key.")] = None,
    author: Annotated[str | None, typer.Option("--author", help="Only by this agent.")] = None,
    start: Annotated[
        str, typer.Option("--start", "-s", help="new, first, a sequence, 5m (ago) or 2026-11-21T04:00Z.")
    ] = "new",
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Stop after so many.")] = None,
    follow: Annotated[bool, typer.Option(help="Go on with what comes; --no-follow stops at the end.")] = True,
    durable: Annotated[
        str | None, typer.Option("--durable", help="Go on where this name stopped last time; --start only at first.")
    ] = None,
    tenant: Tenant = None,
) -> int:
    """Print facts as they are stored, from now on or from a place in the past.

    One line a fact; with `-o jsonl` (or json) one JSON object a line. The past is read through
    the query service, so `coord serve` has to run for it.
    """
    from coord.client.subscriber import subscribe
    from coord.errors import LogTrimmed

    _identify(ctx, tenant, None)
    identity = ctx.settings.identity
    place = _start(start)
    if place == "new" and not follow:
        raise typer.BadParameter("--no-follow needs a --start in the past")
    async with ctx.bus() as conn:
        facts = subscribe(
            conn,
            tenant=identity.tenant,
            as_agent=identity.agent,
            key=key,
            kind=kind,
            id=id,
            event=event,
            agent=author,
            start=place,
            durable=durable,
            config=ctx.settings.subscriber,
        )
        async with facts:
            if follow and ctx.out.is_table:
                ctx.out.say(f"Following tenant {identity.tenant}; Ctrl-C ends it.")
            shown = 0
            while count is None or shown < count:
                try:
                    fact = await _next(facts, follow=follow)
                except LogTrimmed as exc:
                    ctx.out.say(f"coord: {exc.message} [{exc.code}] - going on at {exc.details.get('first_seq')}.")
                    facts.seek(int(exc.details["first_seq"]))
                    continue
                if fact is None:
                    break
                _print(ctx, fact)
                shown += 1
            facts.finish()
    return Exit.OK


@command(app, "pub")
async def pub(
    ctx: Context,
    kind: Annotated[str, typer.Argument(help="Kind of entity, such as task.")],
    id: Annotated[str, typer.Argument(help="Which one.")],  # noqa: A002
    event: Annotated[str, typer.Argument(help="What happened, past tense, such as submitted.")],
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="JSON; @FILE or - (stdin) to read it from there.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Ordering key; default: the id.")] = None,
    detail: Annotated[str, typer.Option("--detail", help="Further subject tokens, with dots between.")] = "",
    event_id: Annotated[str | None, typer.Option("--event-id", help="Deduplication id; default: a new one.")] = None,
    correlation: Annotated[str | None, typer.Option("--correlation", help="The conversation it belongs to.")] = None,
    causation: Annotated[str | None, typer.Option("--causation", help="Event id of its cause.")] = None,
    traceparent: Annotated[str | None, typer.Option("--traceparent", help="W3C trace context to carry.")] = None,
    tenant: Tenant = None,
    agent: Agent = None,
) -> None:
    """State one fact and print where the log stored it."""
    from coord.client.connect import connect
    from coord.wire.records import Fact

    _identify(ctx, tenant, agent)
    fact = Fact(
        kind=kind,
        id=id,
        event=event,
        data=_data(data),
        key=key,
        detail=tuple(filter(None, detail.split("."))),
        event_id=event_id,
        correlation_id=correlation,
        causation_id=causation,
        traceparent=traceparent,
    )
    async with ctx.bus() as conn, connect(ctx.settings.client, connection=conn) as me:
        receipt = await me.emit(fact)
        ack = await receipt
        subject = fact.subject(me.tenant, me.agent)
    ctx.out.record(
        {
            "stream": ack.stream,
            "seq": ack.seq,
            "event_id": receipt.event_id,
            "duplicate": ack.duplicate,
            "partition": subject.partition,
            "subject": subject.publish,
        }
    )


@command(app, "history")
async def history(
    ctx: Context,
    key: Annotated[str, typer.Argument(help="The ordering key: of a workflow or a task its id, of an agent its name.")],
    kind: Annotated[str | None, typer.Option("--kind", "-k", help="Only of this kind, such as task.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Only about this entity.")] = None,  # noqa: A002
    at: past.At = "",
    tenant: Tenant = None,
) -> int:
    """Print everything that was said under a key, from the database, the archive and the log, and what it comes to.

    In the order of the log, each fact once, as its entity's fold judges it: what is refused changed nothing.  With
    `-o jsonl` one fact a line, in bounded memory; with `-o json` the facts and the entities as they leave them.
    """
    return await past.everything(ctx, tenant or "", key, at, kind=kind, id=id)


@command(app, "export")
async def export(
    ctx: Context,
    since: Annotated[
        str | None, typer.Option("--since", help="Stored from then on: 5m (ago) or 2026-11-21T04:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Stored before then.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only of this ordering key.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", "-k", help="Only of this kind, such as task.")] = None,
    file: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write there; it appears when it is whole.")
    ] = None,
    tenant: Tenant = None,
) -> None:
    """Write facts out of the database, one JSON object a line; `coord replay` reads them.

    In the order of the log, all that the table has unless --since and --until bound it.
    """
    from coord.store import export as exported

    _identify(ctx, tenant, None)
    first = None if since is None else time_of(since, "--since")
    last = None if until is None else time_of(until, "--until")
    count = 0
    with _whole_file(file) as stream:
        async with ctx.reading() as reads:
            rows = exported.events(
                reads,
                tenant=ctx.settings.identity.tenant,
                since=first or _LONG_AGO,
                until=last or _NEVER,
                key=key,
                kind=kind,
            )
            async for row in rows:
                stream.write(to_json(_exported(row)) + "\n")
                count += 1
    ctx.out.say(f"{count:,} facts")


def _exported(row: Any) -> dict[str, Any]:
    import msgspec

    record = dict(row)
    record["index"] = record.pop("idx")
    record["detail"] = record["detail"].split(".") if record["detail"] else []
    record["data"] = msgspec.Raw(record["data"].encode())
    return record


@contextlib.contextmanager
def _whole_file(path: Path | None) -> Iterator[TextIO]:
    """stdout, or a file that gets its name when all of it is written."""
    if path is None:
        yield sys.stdout
        return
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as stream:
        yield stream


def _identify(ctx: Context, tenant: str | None, agent: str | None) -> None:
    if tenant is not None:
        ctx.more_options["identity.tenant"] = (tenant, "--tenant")
    if agent is not None:
        ctx.more_options["identity.agent"] = (agent, "--agent")


def _start(text: str) -> StartAt:
    from coord.ops import times

    if text in {"new", "first"}:
        return text  # type: ignore[return-value]
    if text.isdecimal():
        return int(text)
    try:
        return times.since(text)
    except ValueError as exc:
        raise typer.BadParameter(f"--start: {exc}, nor new, first or a sequence") from None


async def _next(facts: Subscription, *, follow: bool) -> StoredFact | None:
    """The next fact; None at the end of the log when not following."""
    if follow:
        return await anext(facts, None)
    waiting = asyncio.ensure_future(anext(facts, None))
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=_QUIET_S)
            if not waiting.done() and facts.live:
                return None
        return waiting.result()
    finally:
        if not waiting.done():
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting


def _data(text: str | None) -> Any:
    if text is None:
        return None
    import msgspec

    raw = text.encode()
    if text == "-":
        raw = sys.stdin.buffer.read(_DATA_BYTES_MAX + 1)
    elif text.startswith("@"):
        try:
            with Path(text[1:]).open("rb") as stream:
                raw = stream.read(_DATA_BYTES_MAX + 1)
        except OSError as exc:
            raise typer.BadParameter(f"--data: cannot read {text[1:]}: {exc.strerror}") from None
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as exc:
        raise typer.BadParameter(f"--data is no JSON: {exc}; text needs quotes: '\"text\"'") from None


def _print(ctx: Context, fact: StoredFact) -> None:
    from coord.ops.cli.output import brief, moment

    if not ctx.out.is_table:
        ctx.out.line(_record(fact))
        return
    out = ctx.out
    what = f"{fact.kind}/{fact.id} {out.style('.'.join((fact.event, *fact.detail)), 'cyan')}"
    key = f" key={fact.key}" if fact.key != fact.id else ""
    body = "" if fact.json_text == "null" else f"  {brief(fact.json_text, 200)}"
    out.text(f"{out.style(moment(fact.stored_at), 'dim')}  {fact.seq}  {fact.agent}  {what}{key}{body}")
    out.stdout.flush()


def _record(fact: StoredFact) -> dict[str, Any]:
    import msgspec

    return {
        "seq": fact.seq,
        "index": fact.index,
        "stored_at": fact.stored_at,
        "occurred_at": fact.occurred_at,
        "tenant": fact.tenant,
        "agent": fact.agent,
        "key": fact.key,
        "kind": fact.kind,
        "id": fact.id,
        "event": fact.event,
        "detail": list(fact.detail),
        "partition": fact.partition,
        "event_id": fact.event_id,
        "type": fact.type,
        "schema": fact.schema,
        "correlation_id": fact.correlation_id,
        "causation_id": fact.causation_id,
        "traceparent": fact.traceparent,
        "data": msgspec.Raw(fact.json_text.encode()),
    }
