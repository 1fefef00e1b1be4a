"""``coord db``: the database's schema, and questions to it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coord.ops.cli import advise, archive, policies, query, role
from coord.ops.cli.base import Context, Exit, command, group

if TYPE_CHECKING:
    from coord.store.editions import Edition

app = group("db", "The database: migrations, edition, named questions.")
app.add_typer(archive.app)
app.add_typer(role.app)
policies.add_to(app)
query.add_to(app)
advise.add_to(app)


class Upto(StrEnum):
    """How far to migrate."""

    PRE = "pre"
    ALL = "all"


@command(app, "migrate")
def migrate(
    ctx: Context,
    upto: Annotated[
        Upto, typer.Option("--upto", help="pre: before the new code starts; all: once the old code is gone.")
    ] = Upto.ALL,
) -> None:
    """Apply pending migrations, then policies, views and roles for the database's edition."""
    from coord.store import migrations

    report = migrations.migrate(ctx.settings.database, ctx.settings.ages, ctx.settings.archive, upto=upto.value)
    ctx.out.record(
        {
            "edition": str(report.edition),
            "applied": list(report.applied),
            "pending": list(report.pending),
            "notes": list(report.notes),
        }
    )
    _say_lacks(ctx, report.edition)


@command(app, "status")
def status(ctx: Context) -> int:
    """Show the edition and which migrations are applied; exits with 3 when they are not this release's."""
    from coord.store import migrations

    found = migrations.status(ctx.settings.database)
    rows = [
        {"file": a.file, "state": "applied", "applied_at": a.applied_at, "applied_by": a.applied_by}
        for a in found.applied
    ] + [{"file": file, "state": "pending", "applied_at": None, "applied_by": None} for file in found.pending]
    if ctx.out.is_table:
        ctx.out.rows(rows, empty="No migration is known.")
        ctx.out.say(f"Edition {found.edition}.")
        _say_lacks(ctx, found.edition)
    else:
        ctx.out.record(
            {
                "edition": found.edition.name,
                "postgres": found.edition.postgres,
                "timescaledb": found.edition.timescaledb,
                "lacks": list(found.edition.lacks),
                "current": found.is_current,
                "migrations": rows,
                "problems": list(found.problems),
            }
        )
    for problem in found.problems:
        ctx.out.say(f"{problem}")
    if found.pending:
        ctx.out.say("Migrations are pending: run `coord db migrate`.")
    return Exit.OK if found.is_current else Exit.UNHEALTHY


def _say_lacks(ctx: Context, edition: Edition) -> None:
    lacks: tuple[Any, ...] = edition.lacks
    if lacks:
        ctx.out.say(f"This edition lacks: {'; '.join(lacks)}.")
