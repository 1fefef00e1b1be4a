"""``coord workflow``: definitions and their templates, and workflows that run or ran."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import bulk, files, options, past, stored
from coord.ops.cli.base import Context, Exit, command, group
from coord.ops.cli.choices import Drawing, WorkflowStatus

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.core.flow_view import View
    from coord.wire.flow import Definition

app = group("workflow", "Workflows: new from a template, start, follow, signal, cancel.")

_COLUMNS = [
    "id", "name", "version", "status", "submitter", "started_at", "seconds", "tasks", "tasks_open", "step", "error",
    "rerun_of",
]  # fmt: skip

_Id = Annotated[str, typer.Argument(help="Of the workflow.")]
_Parameters = Annotated[list[str] | None, typer.Option("--param", "-p", help="Of the template, as name=value.")]


@command(app, "new")
def new(
    ctx: Context,
    template: Annotated[str, typer.Option("--from", help="A template of coord's, or a file; default: list them.")] = "",
    param: _Parameters = None,
    to: Annotated[Path | None, typer.Option("--file", "-f", help="Write it there; default: print it.")] = None,
) -> None:
    """Make a definition from a template: TOML, to be kept and edited; with -o json as JSON, which `start` takes too."""
    import msgspec

    from coord.core import flow_files
    from coord.errors import UnusableFile

    if not template:
        ctx.out.rows(_templates(), ["template", "what", "parameters"])
        return
    text = flow_files.filled(_template(template), _given(param or []))
    defined = flow_files.parse(text)
    if to is None:
        if ctx.out.is_table:
            ctx.out.text(text.rstrip())
        else:
            ctx.out.record(msgspec.to_builtins(defined))
        return
    if to.exists():
        raise UnusableFile("there is such a file already", file=str(to))
    files.write_text(to, text)
    record = {"file": str(to), "workflow": f"{defined.name}@{defined.version}"}
    ctx.out.told(record, f"Wrote {to}: coord workflow start {to}")


@command(app, "start")
async def start(
    ctx: Context,
    definition: Annotated[str, typer.Argument(help="A TOML or JSON file, or a template's name.")],
    id: Annotated[str, typer.Option("--id", help="It exists once under it; default: a new one.")] = "",
    input: Annotated[str, typer.Option("--input", "-i", help="JSON; @FILE or - (stdin) to read it from there.")] = "",
    param: _Parameters = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its result and print that.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Of the wait, seconds.")] = 600.0,
    tenant: options.Tenant = "",
    agent: options.Agent = "",
) -> None:
    """Start a workflow, and print its id."""
    defined = _definition(definition, param or [])
    given = files.json_given(input, "--input")
    async with _client(ctx, tenant, agent) as me:
        handle = await me.start_workflow(defined, given, id=id or None)
        if wait:
            ctx.out.record({"id": handle.id, "result": await handle.result(timeout_s)})
        else:
            ctx.out.record({"id": handle.id, "workflow": f"{defined.name}@{defined.version}", "agent": me.agent})


@command(app, "rerun")
async def rerun(
    ctx: Context,
    id: _Id,
    since: Annotated[
        list[str] | None,
        typer.Option("--from", help="A step to run again, with all after it; default: only what has not ended."),
    ] = None,
    new_id: Annotated[str, typer.Option("--id", help="Of the new one; default: ID-r2, or the next that is free.")] = "",
    definition: Annotated[
        str, typer.Option("--definition", help="A newer one: a TOML or JSON file, or a template; default: its own.")
    ] = "",
    input: Annotated[str, typer.Option("--input", "-i", help="JSON; @FILE or -; default: the original's.")] = "",
    param: _Parameters = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Start nothing: say what would run.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its result and print that.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Of the wait, seconds.")] = 600.0,
    tenant: options.Tenant = "",
    agent: options.Agent = "",
) -> None:
    """Start a new workflow that takes over what another one's steps gave; that one is never touched.

    Steps that have not ended there, or were undone, run again without being named.
    """
    from msgspec import UNSET

    from coord.client import rerunning

    defined = _definition(definition, param or []) if definition else None
    given: Any = files.json_given(input, "--input") if input else UNSET
    async with _client(ctx, tenant, agent) as me:
        prepared = await rerunning.prepare(me, id, since, definition=defined, input=given, moves=not dry_run)
        about = {"rerun_of": id, "taken_over": prepared.taken_over, "runs": prepared.runs}
        if dry_run:
            ctx.out.record({"id": None, **about})
            return
        handle = await rerunning.start(me.workflow(id), prepared, id=new_id or None)
        if wait:
            ctx.out.record({"id": handle.id, **about, "result": await handle.result(timeout_s)})
        else:
            ctx.out.record({"id": handle.id, **about, "agent": me.agent})


@command(app, "ls")
async def ls(
    ctx: Context,
    status: Annotated[WorkflowStatus | None, typer.Option("--status", help="Only those; default: all.")] = None,
    name: Annotated[str, typer.Option("--name", help="Only of this definition.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="Only started by it.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only of this fleet.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """List workflows, newest first, as the database has them; `get` reads the log, to the moment."""
    await stored.ls(
        ctx, "workflows", _COLUMNS, "There are no such workflows.",
        tenant=tenant, status=status or "", name=name, submitter=agent, limit=limit,
    )  # fmt: skip


@command(app, "get")
async def get(ctx: Context, id: _Id, at: past.At = "", tenant: options.Tenant = "") -> int:
    """Show a workflow and how far each of its steps is; one that has left the log as the database has it."""
    from coord.errors import UnknownWorkflow
    from coord.ops.fields import fields_of

    if at:
        return await past.workflow(ctx, tenant, id, at)
    try:
        async with _client(ctx, tenant) as me:
            view = await me.workflow(id).status()
    except UnknownWorkflow:
        return await stored.show(ctx, "workflow", ctx.fleet(tenant), id, id)
    life = view.life
    if not ctx.out.is_table:
        ctx.out.record({**fields_of(view), "life": fields_of(life)})
        return Exit.OK
    from coord.ops.cli.output import brief, to_json

    ctx.out.record(
        {
            "id": life.id,
            "workflow": f"{life.name}@{life.version}",
            "status": life.status,
            "submitter": life.submitter,
            "started": _moment(life.started_at),
            "ended": None if life.ended_at is None else _moment(life.ended_at),
            "parent": None if life.parent is None else life.parent.id,
            "rerun_of": life.rerun_of,
            "rerun_from": " ".join(view.rerun_from) or None,
            "error": life.error,
            "message": life.message,
            "step": life.step,
            "output": None if life.status != "completed" else brief(to_json(view.output), 400),
        }
    )
    ctx.out.text()
    ctx.out.rows(_steps(view), ["step", "kind", "status", "parts", "local", "waits_since", "decided"])
    return Exit.OK


@command(app, "graph")
async def graph(
    ctx: Context,
    what: Annotated[str, typer.Argument(help="A TOML or JSON file, a template's name, or the id of a workflow.")],
    format: Annotated[Drawing, typer.Option("--format", help="As text that others draw, or as a picture.")] = (
        Drawing.MERMAID
    ),
    to: Annotated[Path | None, typer.Option("--file", "-f", help="Write it there; default: print it.")] = None,
    tenant: options.Tenant = "",
) -> None:
    """Draw a definition, or a workflow with how far its steps are."""
    from coord.core import flow_graph
    from coord.errors import InvalidWorkflow

    view: View | None = None
    if _is_definition(what):
        defined = _definition(what, [])
    else:
        async with _client(ctx, tenant) as me:
            view = await me.workflow(what).status()
        if view.definition is None:
            raise InvalidWorkflow("this workflow was started with what is no definition", workflow=what)
        defined = view.definition
    drawn = flow_graph.mermaid(defined, view) if format is Drawing.MERMAID else flow_graph.svg(defined, view)
    if to is not None:
        files.write_text(to, drawn)
        ctx.out.told({"file": str(to), "format": format}, f"Wrote {to}.")
    elif ctx.out.is_table:
        ctx.out.text(drawn.rstrip())
    else:
        ctx.out.record({"format": format, "graph": drawn})


@command(app, "signal")
async def signal(
    ctx: Context,
    id: _Id,
    name: Annotated[str, typer.Argument(help="Of the signal that a step waits for.")],
    data: Annotated[str, typer.Option("--data", "-d", help="JSON; @FILE or - (stdin) to read it from there.")] = "",
    approve: Annotated[bool, typer.Option("--approve", help='Say {"approved": true}.')] = False,
    decline: Annotated[bool, typer.Option("--decline", help='Say {"approved": false}.')] = False,
    tenant: options.Tenant = "",
    agent: options.Agent = "",
) -> None:
    """Raise a signal that a step of a workflow waits for."""
    from coord.errors import InvalidArgument

    said = files.json_given(data, "--data")
    if approve and decline:
        raise InvalidArgument("either --approve or --decline")
    async with _client(ctx, tenant, agent) as me:
        if approve or decline:
            said = {**(said if isinstance(said, dict) else {}), "approved": approve, "by": me.agent}
        await me.workflow(id).signal(name, said)
    ctx.out.told({"id": id, "signal": name, "data": said}, f"Raised {name} for {id}.")


@command(app, "cancel")
async def cancel(
    ctx: Context,
    id: Annotated[str, typer.Argument(help="The workflow; default: those that the options select.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="In words.")] = "",
    tenant: options.Tenant = "",
    agent: options.Agent = "",
    status: Annotated[
        WorkflowStatus | None, typer.Option("--status", help="Many: only those; default: all open.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Many: only of this definition.")] = "",
    submitter: Annotated[str, typer.Option("--submitter", help="Many: only started by it.")] = "",
    older_than: bulk.OlderThan = "",
    limit: bulk.Many = 1_000,
    dry_run: bulk.DryRun = False,
    yes: bulk.Yes = False,
) -> int:
    """Cancel a workflow, or many: nothing more begins, and what was completed is undone.

    Only who started it may, so it is said in that agent's name.  Many are selected as `ls` does it; sub-workflows are
    cancelled with their parents.
    """
    from coord.errors import InvalidArgument

    selection = (status, name, submitter, older_than)
    if bool(id) == any(selection):
        raise InvalidArgument(
            "name one workflow, or select many: --name, --status, --older-than, …", workflow=id or None
        )
    if not id:
        found = await stored.listed(
            ctx, "workflows", tenant=ctx.fleet(tenant), status=status or "", name=name,
            submitter=submitter, open="yes", limit=limit, **bulk.until(older_than),
        )  # fmt: skip

        async def stop(me: Coord, row: bulk.Row) -> str:
            return "cancelled" if await me.workflow(row["id"]).cancel(reason) else "ended"

        return await bulk.perform(
            ctx, [row for row in found if not row["submitter"].startswith("_")], stop, verb="cancelled",
            columns=["id", "name", "version", "status", "submitter"], limit=limit, tenant=tenant,
            speaker=lambda row: agent or str(row["submitter"]), yes=yes, dry_run=dry_run,
        )  # fmt: skip
    async with _client(ctx, tenant) as me:
        view = await me.workflow(id).status()
    submitter = view.life.submitter
    if submitter.startswith("_"):
        parent = view.life.parent.id if view.life.parent is not None else None
        raise InvalidArgument("a sub-workflow is cancelled with its parent", parent=parent)
    async with _client(ctx, tenant, agent or submitter) as me:
        cancelled = await me.workflow(id).cancel(reason)
        now = (await me.workflow(id).status()).life.status
    text = f"Cancelled {id}." if cancelled else f"{id} was not cancelled: it had ended ({now})."
    ctx.out.told({"id": id, "cancelled": cancelled, "status": now}, text)
    return Exit.OK if cancelled else Exit.ERROR


# --- helpers ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _client(ctx: Context, tenant: str, agent: str = "") -> AsyncIterator[Coord]:
    import msgspec

    from coord.client.connect import connect

    given = {name: value for name, value in (("tenant", tenant), ("agent", agent)) if value}
    config = msgspec.structs.replace(ctx.settings.client, **given)
    async with ctx.bus() as conn, connect(config, connection=conn) as me:
        yield me


def _templates() -> list[dict[str, Any]]:
    from coord.core import flow_files
    from coord.runtime import assets

    found = []
    for path in sorted(assets.workflows_dir().glob("*.toml")):
        text = path.read_text()
        names = " ".join(f"{name}={value}" for name, value in flow_files.parameters(text).items())
        found.append({"template": path.stem, "what": flow_files.described(text), "parameters": names})
    return found


def _template(name: str) -> str:
    from coord.errors import InvalidArgument
    from coord.runtime import assets

    path = Path(name)
    if not path.is_file():
        path = assets.workflows_dir() / f"{Path(name).name}.toml"
    if not path.is_file():
        names = sorted(known.stem for known in assets.workflows_dir().glob("*.toml"))
        raise InvalidArgument("there is no such template or file", template=name, templates=names)
    return files.text_of(path)


def _is_definition(what: str) -> bool:
    from coord.runtime import assets

    return Path(what).suffix in (".toml", ".json") or (assets.workflows_dir() / f"{what}.toml").is_file()


def _definition(what: str, param: list[str]) -> Definition:
    from coord.core import flow_files

    if what.endswith(".json"):
        return flow_files.parse(_template(what), is_json=True)
    return flow_files.parse(flow_files.filled(_template(what), _given(param)))


def _given(param: list[str]) -> dict[str, str]:
    from coord.errors import InvalidArgument

    given = {}
    for pair in param:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InvalidArgument("a parameter is given as name=value", given=pair)
        given[name] = value
    return given


def _moment(unix_s: float) -> str:
    from datetime import UTC, datetime

    from coord.ops.cli.output import moment

    return moment(datetime.fromtimestamp(unix_s, UTC))


def _with(local: dict[str, Any]) -> str:
    """Of a local step: with which task, by whom, and how long it took."""
    took = "" if local["run_s"] is None else f", {local['run_s']:.3g} s"
    return f"with {local['task']} by {local['agent']}{took}"


def _by_table(decided: dict[str, Any]) -> str:
    """Of a decision: which table, which version (of one that was never set: none), which rule."""
    table = decided["table"] or "rules"
    version = "" if decided["version"] is None else f"@{decided['version']}"
    return f"{table}{version}" + ("" if decided["rule"] is None else f", rule {decided['rule']}")


def _steps(view: View) -> list[dict[str, Any]]:
    rows = []
    for step in view.steps:
        ended = sum(
            status in ("completed", "failed", "rejected", "cancelled", "expired") for status in step.parts.values()
        )
        decided = step.decided
        rows.append(
            {
                "step": step.name,
                "kind": step.kind,
                "status": "taken over" if step.taken_over and step.status == "completed" else step.status,
                "parts": f"{ended}/{len(step.parts)}" if len(step.parts) > 1 else None,
                "local": None if step.local is None else _with(step.local),
                "waits_since": None if step.waits_since is None else _moment(step.waits_since),
                "decided": None if decided is None else _by_table(decided),
            }
        )
    return rows
