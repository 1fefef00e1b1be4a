"""Which run of an agent this is: one connection's own token.

An agent is a name; several processes may carry it, and one that restarts is another instance.
Claims, heartbeats and answers name the instance, so that the end of one process gives back
what that process held and nothing else.
"""

from __future__ import annotations

import secrets


def new_instance() -> str:
    """A fresh token of 16 characters (64 random bits)."""
    return secrets.token_hex(8)


def connection_name(tenant: str, agent: str, instance: str) -> str:
    """What the broker shows of the connection: its news of a lost connection says whose it was."""
    return f"coord:{tenant}:{agent}:{instance}"
