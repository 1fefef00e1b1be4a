"""``get … --at``: an entity as it was, with the facts that made it so; for every noun that has one."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import contextlib
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli.base import Context, Exit, fact_row, missing

if TYPE_CHECKING:
    from coord.core.past import Point, Said
    from coord.ops.past import Judged, Past
    from coord.projector.entities import Judge

At = Annotated[
    str,
    typer.Option(
        "--at", metavar="TIME|SEQ", help="As it was then: 5m (ago), 2026-11-21T04:00Z, a sequence, or EPOCH:SEQ."
    ),
]


def point(text: str) -> Point:
    """The point that `--at` names; empty: now."""
    from coord.core import past
    from coord.ops import times

    if not text:
        return past.Point()
    found = past.sequence(text)
    if found is not None:
        if found.epoch is None and len(text.strip()) == 8 and times.parse(text.strip()) is not None:
            raise typer.BadParameter(
                f"{text} is a sequence and a day: say EPOCH:SEQ, or the day with dashes", param_hint="--at"
            )
        return found
    try:
        return past.Point(time=times.since(text))
    except ValueError as exc:
        raise typer.BadParameter(f"{exc}, nor a sequence", param_hint="--at") from None


def history(ctx: Context, tenant: str, key: str, at: str, *, kind: str | None = None, id: str | None = None) -> Past:
    """The history of a key up to `--at`, read where this command's settings say."""
    from coord.ops import settings
    from coord.ops.past import Past, Sources

    window = timedelta(seconds=settings.window_s(ctx.settings))
    sources = Sources(ctx.reading, ctx.bus, ctx.settings.archive, window)
    until = point(at)
    found = Past(sources, ctx.fleet(tenant), key, until, kind=kind, id=id)
    if until.time is not None and until.time > datetime.now(UTC):
        found.notes.append("That time has not come: this is what it comes to so far.")
    return found


async def get(ctx: Context, kind: str, tenant: str, key: str, id: str, at: str) -> int:
    """Show an entity as the facts up to `--at` leave it; the exit code."""
    from coord import limits
    from coord.ops.past import Judges
    from coord.ops.past import state as state_of
    from coord.projector.tableless import FOLDED

    found = history(ctx, tenant, key, at, kind=kind, id=id)
    judges = Judges(found)
    shown: deque[Judged] = deque(maxlen=limits.HISTORY_SHOWN_MAX)
    heeds = FOLDED[kind].heeds
    async with contextlib.aclosing(found.facts(None if heeds is None else sorted(heeds))) as facts:
        async for said in facts:
            shown.append(judges.judge(said))
    judges.end()
    judge = judges.get(kind, id)
    state = {} if judge is None else state_of(judge)
    if kind == "agent":
        state = {**await _agent(found, [one.said for one in shown]), **state}
        if judge is not None:
            state["state"] = judge.fold.agent.state  # who registered is what its instances are
    if not state:
        say(ctx, found)
        return nothing(ctx, found, kind, id, at)
    show(ctx, found, state, shown)
    return Exit.OK


async def workflow(ctx: Context, tenant: str, id: str, at: str) -> int:
    """Show a workflow and its steps as the facts up to `--at` leave them; the exit code."""
    from coord import limits
    from coord.core import flow_view
    from coord.ops.past import Judges, record
    from coord.ops.past import state as state_of

    found = history(ctx, tenant, id, at)
    judges = Judges(found)
    shown: deque[Judged] = deque(maxlen=limits.HISTORY_SHOWN_MAX)
    kept: list[Said] = []
    async with contextlib.aclosing(found.facts()) as facts:
        async for said in facts:
            fact = said.fact
            if fact.kind == "workflow":
                shown.append(judges.judge(said))
            if fact.kind in ("workflow", "task", "signal", "timer") and fact.event != "progress":
                kept.append(said)
                if len(kept) > limits.ENTITY_FACTS_MAX:
                    found.notes.append(f"It has more than {limits.ENTITY_FACTS_MAX:,} facts: later ones are left out.")
                    break
    judges.end()
    judge = judges.get("workflow", id)
    view = None
    if judge is not None and judge.begun is not None:
        view = flow_view.view([said.fact for said in kept if said.epoch >= judge.begun[0]])
    if view is None or judge is None:
        say(ctx, found)
        return nothing(ctx, found, "workflow", id, at)
    show(ctx, found, {**record(view), "life": state_of(judge)}, shown)
    return Exit.OK


async def everything(
    ctx: Context, tenant: str, key: str, at: str, *, kind: str | None = None, id: str | None = None
) -> int:
    """Print all facts of a key up to `--at`, and the entities as they leave them; the exit code."""
    from coord import limits
    from coord.errors import QueryError
    from coord.ops.past import Judges
    from coord.ops.past import state as state_of

    found = history(ctx, tenant, key, at, kind=kind, id=id)
    judges = Judges(found)
    rows: list[dict[str, Any]] = []
    whole = ctx.out.form == "json"
    async with contextlib.aclosing(found.facts()) as facts:
        async for said in facts:
            fact = said.fact
            about = {"kind": fact.kind, "id": fact.id, "index": fact.index}
            one = {**about, **row(judges.judge(said))}
            if whole:
                rows.append(one)
                if len(rows) > limits.ENTITY_FACTS_MAX:
                    raise QueryError("these are too many facts for one document: -o jsonl", facts_max=len(rows) - 1)
            elif ctx.out.is_table:
                ctx.out.text(_line(ctx, one))
            else:
                ctx.out.line(one)
    if judges.passed:
        found.notes.append(
            f"{judges.passed:,} facts are about more entities than are folded at once: they are not judged."
        )
    judges.end()
    known = [(of, name, judge) for (of, name), judge in judges.judges.items() if judge.known]
    if whole:
        states = [{"kind": of, "id": name, "state": state_of(judge)} for of, name, judge in known]
        sources = {str(source): count for source, count in found.found.items()}
        ctx.out.record({"facts": rows, "entities": states, "sources": sources, "notes": found.notes})
    elif ctx.out.is_table and known:
        ctx.out.text()
        states = [{"kind": of, "id": name, "state": _brief(judge)} for of, name, judge in known]
        ctx.out.rows(states, ["kind", "id", "state"])
    say(ctx, found)
    if sum(found.found.values()):
        return Exit.OK
    if found.unanswered is not None:
        ctx.out.say(f"Whether there are facts under the key {key} is not known.")
        return Exit.UNHEALTHY
    return missing(ctx, f"There are no facts under the key {key}{_among(kind, id)}{f' by {at}' if at else ''}.")


def _among(kind: str | None, id: str | None) -> str:
    return "" if kind is None and id is None else f" about {' '.join(filter(None, (kind, id)))}"


def _line(ctx: Context, one: dict[str, Any]) -> str:
    from coord.ops.cli.output import brief, moment, to_json

    out = ctx.out
    said = "" if one["data"] is None else f"  {brief(to_json(one['data']), 200)}"
    refused = "" if one["refused"] is None else f"  {out.style('refused: ' + one['refused'], 'red')}"
    what = f"{one['kind']}/{one['id']} {out.style(one['event'], 'cyan')}"
    return f"{out.style(moment(one['stored_at']), 'dim')}  {one['seq']}  {one['agent']}  {what}{refused}{said}"


def _brief(judge: Judge) -> str:
    """A state in a few words: its status, or what it holds."""
    if judge.lost:
        return "lost"
    fold = judge.fold
    status = getattr(fold, "status", None)
    if status is not None:
        return str(status)
    raised = getattr(fold, "raised", None)
    if raised is not None:
        return "raised" if raised else f"{len(fold.waits)} wait"
    if hasattr(fold, "holders"):
        return f"{len(fold.holders)} hold, {len(fold.waiting)} wait"
    if hasattr(fold, "there"):
        return f"{len(fold.there)} there"
    said = getattr(fold, "said", None)
    if said is None:
        return "removed"
    return f"version {said.version}" if hasattr(said, "version") else "on" if said.enabled else "off"


def show(ctx: Context, found: Past, state: dict[str, Any], shown: deque[Judged]) -> None:
    """A state, the facts that made it so, and where they were."""
    rows = [row(one) for one in shown]
    columns = ["stored_at", "seq", "event", "agent", "source", "refused"]
    sources = {str(source): count for source, count in found.found.items()}
    ctx.out.entity(state, rows, columns, sources=sources, notes=found.notes)
    say(ctx, found)


def row(one: Judged) -> dict[str, Any]:
    """A fact as a line of a history."""
    refused = None if one.refusal is None else one.refusal.code
    return {**fact_row(one.said.fact), "epoch": one.said.epoch, "source": one.said.source, "refused": refused}


def say(ctx: Context, found: Past) -> None:
    """Where the facts were, and what is missing, on stderr."""
    names = {"archive": "the archive", "table": "the event copy", "log": "the log"}
    counts = [f"{found.found[source]:,} from {name}" for source, name in names.items() if found.found[source]]  # type: ignore[index]
    if counts:
        ctx.out.say(f"Facts: {', '.join(counts)}.")
    for note in found.notes:
        ctx.out.say(note)


def nothing(ctx: Context, found: Past, kind: str, id: str, at: str) -> int:
    """Say that there was none, or that this cannot be known now."""
    what = "decision table" if kind == "rules" else kind
    if found.unanswered is not None:
        ctx.out.say(f"Whether there is a {what} {id} is not known.")
        return Exit.UNHEALTHY
    then = f"There was no {what} {id} at {at}, as far as facts are kept."
    return missing(ctx, then if at else f"There is no {what} {id}.")


async def _agent(found: Past, said: list[Said]) -> dict[str, Any]:
    """What an agent said of itself, which its registrations are not."""
    from coord.ops.past import agent_state

    status, spoken = await found.status()
    both = sorted([*said, *spoken], key=lambda one: one.place)
    if not both:
        return {}
    return {
        "state": agent_state(both),
        "last_seen": both[-1].fact.stored_at,
        "status": status.state,
        "status_stale": status.stale,
    }
