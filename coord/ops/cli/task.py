"""``coord task``: tasks as the tables have them, and submitting, cancelling and retrying one."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coord.ops.cli import past, stored
from coord.ops.cli.base import Context, Exit, command, fact_row, group

app = group("task", "Tasks: list, show with their history, submit, cancel, retry.")

_COLUMNS = [
    "id", "status", "capability", "priority", "submitter", "claimant", "submitted_at", "wait_seconds", "run_seconds",
    "attempts", "error",
]  # fmt: skip

_Id = Annotated[str, typer.Argument(help="The task.")]
_Key = Annotated[str, typer.Option("--key", help="Its key; default: its id.")]
_Tenant = Annotated[str, typer.Option("--tenant", help="Of this fleet; default: identity.tenant.")]
_Agent = Annotated[str, typer.Option("--agent", help="Who speaks; default: identity.agent.")]


@command(app, "ls")
async def ls(
    ctx: Context,
    status: Annotated[
        str,
        typer.Option(
            "--status",
            help="queued, claimed, waiting, completed, rejected, failed, cancelled or expired; default: all.",
        ),
    ] = "",
    capability: Annotated[str, typer.Option("--capability", help="Only of this capability.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="Only submitted or claimed by it.")] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Only of this fleet.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many, newest first.")] = 50,
) -> None:
    """List tasks, newest first, as the database has them."""
    await stored.ls(
        ctx, "tasks", _COLUMNS, "There are no such tasks.",
        tenant=tenant, status=status, capability=capability, agent=agent, limit=limit,
    )  # fmt: skip


@command(app, "get")
async def get(ctx: Context, id: _Id, key: _Key = "", at: past.At = "", tenant: _Tenant = "") -> int:
    """Show a task whole, with everything that was said about it: from the log, older ones from the database."""
    from coord.client.histories import read
    from coord.core import tasks
    from coord.ops.fields import fields_of

    if at:
        return await past.get(ctx, "task", tenant, key or id, id, at)
    async with ctx.bus() as conn:
        task, facts = await read(conn, tenant or ctx.settings.identity.tenant, key or id, id)
    if task is None:
        return await stored.show(ctx, "task", tenant or ctx.settings.identity.tenant, key or id, id)
    _, refused = tasks.fold(facts)
    why = {(fact.seq, fact.index): refusal.code for fact, refusal in refused}
    history = [{**fact_row(fact), "refused": why.get((fact.seq, fact.index))} for fact in facts]
    record = fields_of(task)
    if not ctx.out.is_table:
        ctx.out.record({**record, "history": history})
        return Exit.OK
    ctx.out.record(record)
    ctx.out.text()
    ctx.out.rows(history, ["stored_at", "seq", "event", "agent", "refused"])
    return Exit.OK


@command(app, "submit")
async def submit(
    ctx: Context,
    capability: Annotated[str, typer.Argument(help="What an agent must be able to do.")],
    input: Annotated[str, typer.Option("--input", "-i", help="JSON; @FILE to read it from there.")] = "null",
    id: Annotated[str, typer.Option("--id", help="It exists once under it; default: a new one.")] = "",
    key: _Key = "",
    priority: Annotated[str, typer.Option("--priority", help="critical, normal or batch.")] = "normal",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its result and print that.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Of the wait, seconds.")] = 600.0,
    tenant: _Tenant = "",
    agent: _Agent = "",
) -> None:
    """Submit a task, and print its id."""
    given: dict[str, Any] = {"priority": priority}
    if id:
        given["id"] = id
    if key:
        given["key"] = key
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        handle = await me.submit(capability, _json(input), **given)
        if wait:
            ctx.out.record({"id": handle.id, "result": await handle.result(timeout_s)})
        else:
            ctx.out.record({"id": handle.id, "key": handle.key, "capability": capability, "agent": me.agent})


@command(app, "cancel")
async def cancel(
    ctx: Context,
    id: _Id,
    key: _Key = "",
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever asks.")] = "",
    tenant: _Tenant = "",
    agent: _Agent = "",
) -> int:
    """Cancel a task: only whoever submitted it may, so speak as that --agent."""
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        done = await me.task(id, key=key or None).cancel(reason)
    ctx.out.say(f"{id} is cancelled." if done else f"{id} was not cancelled: it had ended, or is another agent's.")
    return Exit.OK if done else Exit.ERROR


@command(app, "retry")
async def retry(ctx: Context, id: _Id, key: _Key = "", tenant: _Tenant = "", agent: _Agent = "") -> None:
    """Submit a task again that failed, was rejected, cancelled or expired."""
    from coord.client.redriving import redrive

    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        seq = await redrive(me, id, key or None)
    ctx.out.record({"id": id, "seq": seq})


def _json(text: str) -> Any:
    import json

    from coord.errors import SettingsError

    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (ValueError, OSError) as exc:
        raise SettingsError(f"--input: {exc}") from exc
