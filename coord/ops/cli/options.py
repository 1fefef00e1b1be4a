"""Options that many commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Agent = Annotated[str, typer.Option("--agent", help="Who speaks; default: identity.agent.")]
Key = Annotated[str, typer.Option("--key", help="Its key; default: its id.")]
Tenant = Annotated[str, typer.Option("--tenant", help="Of this fleet; default: identity.tenant.")]
