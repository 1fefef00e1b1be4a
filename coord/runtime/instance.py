"""Names of processes."""

from __future__ import annotations

import os
import re
import secrets
import socket


def instance_name() -> str:
    """A name that no other process has, nor this one under another: host, process, chance; fit for a subject."""
    host = re.sub(r"[^a-z0-9_-]", "-", socket.gethostname().lower())[:32]
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
