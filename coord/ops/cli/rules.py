"""``coord rules``: decision tables that workflows ask, changed while they run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import files, options, past
from coord.ops.cli.base import Context, command, group

if TYPE_CHECKING:
    from coord.core.rules import RuleSet

app = group("rules", "Decision tables that workflows ask, changed by facts while they run.")

_COLUMNS = ["table", "version", "rules", "threshold", "inputs", "seq"]

_Name = Annotated[str, typer.Argument(help="Of the table, as a step's `decide` has it.")]


@command(app, "set")
async def set_(
    ctx: Context,
    name: _Name,
    table: Annotated[str, typer.Argument(help="A TOML or JSON file, - (stdin, JSON), or the JSON itself.")],
    version: Annotated[str, typer.Option("--version", help="Of the table; default: what it says.")] = "",
    agent: options.Agent = "",
    tenant: options.Tenant = "",
) -> None:
    """Set a decision table, or replace it, once it is found to be one; later decisions are by it."""
    from coord.core import flow_files

    text = sys.stdin.read() if table == "-" else table if table[:1] in "{[" else files.text_of(Path(table))
    parsed = flow_files.parse_table(text, is_json=not table.endswith(".toml"))
    async with ctx.speaking(tenant=tenant, agent=agent) as me:
        known = await me.rules.set(name, parsed, version=version or None)
    ctx.out.rows([_row(known)], _COLUMNS)


@command(app, "ls")
async def ls(ctx: Context, tenant: options.Tenant = "") -> None:
    """List the decision tables that are set, as the log has them."""
    async with ctx.speaking(tenant=tenant) as me:
        tables = await me.rules.ls()
    ctx.out.rows([_row(table) for table in tables], _COLUMNS, empty="No decision table is set.")


@command(app, "get")
async def get(ctx: Context, name: _Name, at: past.At = "", tenant: options.Tenant = "") -> int:
    """Show a decision table with everything that was said about it, now or as it was."""
    return await past.get(ctx, "rules", tenant, name, name, at)


def _row(table: RuleSet) -> dict[str, Any]:
    said = table.said
    return {
        "table": table.id, "version": said.version, "rules": len(said.rules), "threshold": said.threshold,
        "inputs": said.inputs, "seq": table.seq,
    }  # fmt: skip
