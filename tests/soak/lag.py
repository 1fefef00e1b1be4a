"""How far the tables are behind what was acknowledged."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import asyncpg

from coord import limits
from tests.soak.harness import say
from tests.soak.speakers import Speakers
from tests.soak.stack import Checkpoints, behind
from tests.support.crash import ProjectorProcess

LATE_S = limits.TAKEOVER_S
"""What has not caught up after so long is late, and it is said who."""
STUCK_S = 60.0
"""What has not caught up after so long never will."""


async def caught_up(
    speakers: Speakers,
    checkpoints: Checkpoints,
    timeout_s: float = STUCK_S,
    projectors: Sequence[ProjectorProcess] = (),
) -> float | None:
    """Seconds from now until the tables have all that is acknowledged by then; None: they never have."""
    began, said = time.monotonic(), False
    while time.monotonic() < began + timeout_s:
        told = await speakers.word()
        at = await checkpoints.read()
        if at is not None and not behind(at, told.goal):
            return time.monotonic() - began
        if not said and time.monotonic() > began + LATE_S:
            said = True
            for projector in projectors:
                projector.tell()
            late = {f"{s}.{p}": told.goal[s, p] - (at or {}).get((s, p), 0) for s, p in behind(at or {}, told.goal)}
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                for session in await checkpoints.sessions():
                    say(f"  {session}")
            say(f"{LATE_S:g} s and not caught up: {'the database does not answer' if at is None else late}")
    return None
