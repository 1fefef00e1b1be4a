"""Loopback ports that nobody holds.

They are taken from below the kernel's ephemeral range.  A port out of that range can be given
to any outgoing connection while its server is down, and a client that reconnects in a loop can
even be connected to itself.
"""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from coord.errors import EnvironmentProblem

LOOPBACK = "127.0.0.1"
_LOWEST = 10_240
_TRIES = 200

share: tuple[int, int] = (0, 1)
"""Which part of the range `choose` looks in, of how many: a server that was killed has its port back when it is
started again, unless somebody was given it meanwhile.  Processes that kill servers side by side take a part each."""


def choose(preferred: int = 0, *, taken: frozenset[int] = frozenset()) -> int:
    """`preferred` when it is free, else any free port not in `taken`.

    Between this and the server's bind somebody else may take it: the caller tries again.
    Raises `EnvironmentProblem` when none is found.
    """
    if preferred and preferred not in taken and is_free(preferred):
        return preferred
    part, parts = share
    size = (_ephemeral_low() - _LOWEST) // parts
    lowest = _LOWEST + part * size
    for _ in range(_TRIES):
        port = lowest + secrets.randbelow(size)
        if port not in taken and is_free(port):
            return port
    raise EnvironmentProblem(
        f"No free port on {LOOPBACK} from {lowest} to {lowest + size}: stop something that listens."
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _ephemeral_low() -> int:
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        low = 32_768
    return low if low > _LOWEST + 1_000 else 65_536
