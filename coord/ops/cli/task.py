"""``coord task``: tasks as the tables have them, and submitting, cancelling and retrying one."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import bulk, files, options, past, stored
from coord.ops.cli.base import Context, Exit, command, fact_row, group
from coord.ops.cli.choices import Priority, Strategy, TaskStatus

if TYPE_CHECKING:
    from coord.bus.connection import Connection
    from coord.client.connect import Coord
    from coord.core.tasks import Task

app = group("task", "Tasks: list, show with their history, submit, cancel, retry.")

_COLUMNS = [
    "id", "key", "status", "capability", "priority", "submitter", "claimant", "submitted_at", "wait_seconds",
    "run_seconds", "attempts", "error",
]  # fmt: skip

_MANY = ["id", "key", "status", "capability", "submitter"]

_Id = Annotated[str, typer.Argument(help="The task.")]


@command(app, "ls")
async def ls(
    ctx: Context,
    status: Annotated[TaskStatus | None, typer.Option("--status", help="Only those; default: all.")] = None,
    capability: Annotated[str, typer.Option("--capability", help="Only of this capability.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="Only submitted or claimed by it.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only of this fleet.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """List tasks, newest first, as the database has them."""
    await stored.ls(
        ctx, "tasks", _COLUMNS, "There are no such tasks.",
        tenant=tenant, status=status or "", capability=capability, agent=agent, limit=limit,
    )  # fmt: skip


@command(app, "get")
async def get(ctx: Context, id: _Id, key: options.Key = "", at: past.At = "", tenant: options.Tenant = "") -> int:
    """Show a task whole, with everything that was said about it: from the log, older ones from the database."""
    from coord.client.histories import read
    from coord.core import tasks
    from coord.core.recorded import recorded
    from coord.ops.cli.output import brief, to_json
    from coord.ops.fields import fields_of

    if at:
        return await past.get(ctx, "task", tenant, key or id, id, at)
    async with ctx.bus() as conn:
        task, facts = await read(conn, ctx.fleet(tenant), key or id, id)
        if task is None:
            task = await _to_be(conn, ctx.fleet(tenant), key or id, id)
    if task is None:
        return await stored.show(ctx, "task", ctx.fleet(tenant), key or id, id)
    _, refused = tasks.fold(facts)
    _, records = recorded(facts)
    why = {(fact.seq, fact.index): refusal.code for fact, refusal in refused}
    history = [{**fact_row(fact), "refused": why.get((fact.seq, fact.index))} for fact in facts]
    record = fields_of(task) | {"retries": task.retries, "timeout_s": task.timeout_s}  # what applies, as far as known
    ends = [fact.data for fact in facts if fact.event == "completed" and (fact.seq, fact.index) not in why]
    if task.status == "completed" and ends and isinstance(ends[-1], dict):
        output = ends[-1].get("output") if ends[-1].get("ref") is None else {"$ref": ends[-1]["ref"]}
        record["output"] = brief(to_json(output), 400) if ctx.out.is_table else output
    if records:
        record["steps"] = [{"step": r.step, "claim": r.claim, "run_s": r.run_s} for r in records.values()]
    ctx.out.entity(record, history, ["stored_at", "seq", "event", "agent", "refused"])
    return Exit.OK


@command(app, "submit")
async def submit(
    ctx: Context,
    capability: Annotated[str, typer.Argument(help="What an agent must be able to do.")],
    input: Annotated[str, typer.Option("--input", "-i", help="JSON; @FILE or - (stdin) to read it from there.")] = "",
    id: Annotated[str, typer.Option("--id", help="It exists once under it; default: a new one.")] = "",
    key: options.Key = "",
    priority: Annotated[Priority | None, typer.Option("--priority", help="Default: normal.")] = None,
    retries: Annotated[int | None, typer.Option("--retries", min=0, help="After the first execution.")] = None,
    run_timeout_s: Annotated[float | None, typer.Option("--run-timeout", help="Of one execution, seconds.")] = None,
    deadline_s: Annotated[
        float | None, typer.Option("--deadline", help="Seconds from now; without an outcome by then it is expired.")
    ] = None,
    delay_s: Annotated[float | None, typer.Option("--delay", help="Submit it so many seconds from now.")] = None,
    reuse_for_s: Annotated[
        float | None,
        typer.Option("--reuse", help="Identical work that runs, or was done at most so many seconds ago, answers."),
    ] = None,
    placement: Annotated[
        Strategy | None, typer.Option("--placement", help="How an agent is chosen; default: who is free takes it.")
    ] = None,
    on: Annotated[str, typer.Option("--on", help="Placed on this agent.")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", help="Placed on agents with it, as name=value.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its result and print that.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Of the wait, seconds.")] = 600.0,
    tenant: options.Tenant = "",
    agent: options.Agent = "",
) -> None:
    """Submit a task, and print its id."""
    given: dict[str, Any] = {
        "priority": None if priority is None else str(priority), "retries": retries, "timeout_s": run_timeout_s,
        "deadline_s": deadline_s, "delay_s": delay_s, "reuse_for_s": reuse_for_s,
        "placement": _placement(placement, on, label or []),
    }  # fmt: skip
    given_input = files.json_given(input, "--input")
    if id:
        given["id"] = id
    if key:
        given["key"] = key
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        handle = await me.submit(capability, given_input, **given)
        if wait:
            ctx.out.record({"id": handle.id, "result": await handle.result(timeout_s)})
        else:
            record = {"id": handle.id, "key": handle.key, "capability": capability, "agent": me.agent}
            ctx.out.record({**record, "reused": handle.reused} if reuse_for_s is not None else record)


@command(app, "cancel")
async def cancel(
    ctx: Context,
    id: Annotated[str, typer.Argument(help="The task; default: those that the options select.")] = "",
    key: options.Key = "",
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever asks.")] = "",
    tenant: options.Tenant = "",
    agent: options.Agent = "",
    status: Annotated[TaskStatus | None, typer.Option("--status", help="Many: only those; default: all open.")] = None,
    capability: Annotated[str, typer.Option("--capability", help="Many: only of this capability.")] = "",
    submitter: Annotated[str, typer.Option("--submitter", help="Many: only submitted by it.")] = "",
    older_than: bulk.OlderThan = "",
    limit: bulk.Many = 1_000,
    dry_run: bulk.DryRun = False,
    yes: bulk.Yes = False,
) -> int:
    """Cancel a task, or many: only whoever submitted it may, so speak as that --agent.

    Many are selected as `ls` does it, and cancelled in the names of who submitted them; tasks of workflows are left.
    """
    if _selects(id, status, capability, submitter, older_than):
        found = await stored.listed(
            ctx, "tasks", tenant=ctx.fleet(tenant), status=status or "", capability=capability,
            agent=submitter, open="yes", limit=limit, **bulk.until(older_than),
        )  # fmt: skip
        rows = [row for row in found if submitter in ("", row["submitter"]) and not row["submitter"].startswith("_")]
        code = await bulk.perform(
            ctx, rows, _cancelling(reason), verb="cancelled", columns=_MANY, limit=limit, tenant=tenant,
            speaker=lambda row: agent or str(row["submitter"]), yes=yes, dry_run=dry_run,
        )  # fmt: skip
        left = sum(row["submitter"].startswith("_") for row in found)
        if left:
            ctx.out.say(f"Left alone: {left} tasks of workflows: coord workflow cancel.")
        return code
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        done = await me.task(id, key=key or None).cancel(reason)
        task = await me.task(id, key=key or None).status()
    why = f"it had ended ({task.status})" if task.ended else f"only {task.submitter} may, who submitted it (--agent)"
    text = f"{id} is cancelled." if done else f"{id} was not cancelled: {why}."
    ctx.out.told({"id": id, "cancelled": done, "status": task.status}, text)
    return Exit.OK if done else Exit.ERROR


@command(app, "retry")
async def retry(
    ctx: Context,
    id: Annotated[str, typer.Argument(help="The task; default: those that the options select.")] = "",
    key: options.Key = "",
    tenant: options.Tenant = "",
    agent: options.Agent = "",
    workflow_tasks: Annotated[bool, typer.Option("--workflow-tasks", help="Even one of a workflow, alone.")] = False,
    status: Annotated[
        TaskStatus | None, typer.Option("--status", help="Many: only those; default: failed, rejected, expired.")
    ] = None,
    capability: Annotated[str, typer.Option("--capability", help="Many: only of this capability.")] = "",
    error: Annotated[str, typer.Option("--error", help="Many: only with this kind of error.")] = "",
    older_than: bulk.OlderThan = "",
    limit: bulk.Many = 1_000,
    dry_run: bulk.DryRun = False,
    yes: bulk.Yes = False,
) -> int:
    """Submit a task again that failed, was rejected, cancelled or expired, or many.

    One of a workflow is left alone: the workflow has gone on without it, or undone what it builds on.
    """
    from coord.client.redriving import redrive

    if _selects(id, status, capability, error, older_than):
        rows = await stored.listed(
            ctx, "tasks_dead", tenant=ctx.fleet(tenant), status=status or "", error=error,
            capability=capability, of="" if workflow_tasks else "none", limit=limit, **bulk.until(older_than),
        )  # fmt: skip

        async def again(me: Coord, row: bulk.Row) -> str:
            await redrive(me, row["id"], row["key"], workflow_tasks=workflow_tasks, paced=True)
            return "submitted"

        return await bulk.perform(
            ctx, rows, again, verb="submitted", columns=_MANY, limit=limit, tenant=tenant,
            speaker=lambda _: agent, yes=yes, dry_run=dry_run,
        )  # fmt: skip
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        seq = await redrive(me, id, key or None, workflow_tasks=workflow_tasks)
    ctx.out.record({"id": id, "seq": seq})
    return Exit.OK


def _selects(id: str, *selection: str | None) -> bool:
    """Whether many are meant; raises `InvalidArgument` for both, and for neither."""
    from coord.errors import InvalidArgument

    if bool(id) == any(selection):
        raise InvalidArgument("name one task, or select many: --capability, --status, --older-than, …", task=id or None)
    return not id


def _cancelling(reason: str) -> bulk.Doing:
    async def cancel(me: Coord, row: bulk.Row) -> str:
        return "cancelled" if await me.task(row["id"], key=row["key"]).cancel(reason) else "ended"

    return cancel


async def _to_be(conn: Connection, tenant: str, key: str, id: str) -> Task | None:
    """A task that a timer is still to submit, or was."""
    from coord.client import entities
    from coord.core import timers

    timer = timers.fold(await entities.facts(conn, tenant, key=key, kind="timer", id=id))
    return None if timer is None or timer.status == "fired" else timers.to_be(timer, key, id)


def _placement(strategy: str | None, agent: str, label: list[str]) -> dict[str, Any] | None:
    if agent and strategy:
        raise typer.BadParameter("either a strategy or one agent", param_hint="--placement, --on")
    require = {}
    for text in label:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not name=value", param_hint="--label")
        require[name] = value
    if agent:
        return {"strategy": "agent", "agent": agent, "require": require}
    return {"strategy": strategy or "resources", "require": require} if strategy or require else None
