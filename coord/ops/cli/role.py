"""``coord db role``: logins of analysts, of one fleet or of all."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from coord import limits
from coord.ops.cli.base import Context, command, group

if TYPE_CHECKING:
    from coord.store.roles import Reader

app = group("role", "Logins that read the views: of one fleet, or of all; read-only, and with bounds.")


@command(app, "set")
def allow(
    ctx: Context,
    login: Annotated[str, typer.Argument(help="The role it logs in as; made where there is none.")],
    tenant: Annotated[
        str | None, typer.Option("--tenant", "-t", help="The one fleet it may read; without: all of them.")
    ] = None,
    password: Annotated[
        bool, typer.Option("--password", help="Ask for its password, or read it from a line of stdin.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="A statement ends after so long.")
    ] = limits.READER_STATEMENT_TIMEOUT_S,
    connections: Annotated[
        int, typer.Option("--connections", metavar="N", help="At most so many at a time.")
    ] = limits.READER_CONNECTIONS,
) -> None:
    """Let a login read the views, and nothing else; say it again to change something."""
    from coord.store import roles

    secret = _password() if password else None
    made = roles.allow(
        ctx.settings.database, login, tenant=tenant, password=secret, timeout_s=timeout_s, connections=connections
    )
    ctx.out.record(_row(made))


@command(app, "ls")
def ls(ctx: Context) -> None:
    """List the logins that read here, and what they may."""
    from coord.store import roles

    ctx.out.rows([_row(r) for r in roles.readers(ctx.settings.database)], empty="No login reads here.")


@command(app, "rm")
def forbid(ctx: Context, login: Annotated[str, typer.Argument(help="The login.")]) -> None:
    """Remove a login that reads."""
    from coord.store import roles

    roles.forbid(ctx.settings.database, login)
    ctx.out.say(f"{login} is removed.")


def _row(reader: Reader) -> dict[str, object]:
    return {
        "login": reader.login,
        "reads": "all fleets" if reader.tenant is None else reader.tenant,
        "connections": reader.connections,
        "settings": list(reader.settings),
    }


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    said = sys.stdin.readline().rstrip("\n")
    if not said:
        raise typer.BadParameter("--password reads a line of stdin, and there is none")
    return said
