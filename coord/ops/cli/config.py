"""``coord config``: which settings apply, and why."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coord.ops.cli.base import Context, command, group
from coord.ops.cli.output import Format

app = group("config", "Settings: what applies, where it comes from.")


@command(app, "show")
def show(
    ctx: Context,
    section: Annotated[str | None, typer.Argument(help="Only this section, such as nats.")] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Where each value comes from.")] = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
) -> None:
    """Show the settings that apply, secrets masked."""
    from coord.errors import SettingsError

    rows = [row for row in ctx.loaded.rows() if section is None or row.key.startswith(f"{section}.")]
    if not rows:
        raise SettingsError(f"there is no section {section!r}")
    if changed:
        rows = [row for row in rows if row.changed]
    shown = [{"key": r.key, "value": r.value, "origin": str(r.origin)} for r in rows]
    if ctx.output is Format.TABLE:
        for line in shown:  # as a file has it, not as a person counts: 9464, not 9,464
            line["value"] = str(line["value"]) if type(line["value"]) in (int, float) else line["value"]
    if origin:
        ctx.out.rows(shown, empty="Everything is a default.")
    elif ctx.output is Format.TABLE:
        ctx.out.rows(shown, ["key", "value"], empty="Everything is a default.")
    else:
        nested: dict[str, Any] = {}
        for row in rows:
            *tables, field = row.key.split(".")
            place = nested
            for table in tables:
                place = place.setdefault(table, {})
            place[field] = row.value
        ctx.out.record(nested)


@command(app, "check")
def check(ctx: Context) -> None:
    """Check the settings and streams/ against each other; says every problem with its place."""
    from coord.ops import settings

    topology = settings.topology(ctx.settings)
    where = ctx.loaded.file or "no file"
    record = {"valid": True, "file": ctx.loaded.file, "streams_and_consumers": len(topology.specs)}
    ctx.out.told(record, f"Settings are valid ({where}); {len(topology.specs)} streams and consumers.")
