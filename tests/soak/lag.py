"""How far the tables are behind what was acknowledged.

Facts go on coming while one looks, and what comes is on its way into the tables for some hundredths of a second.
With a few hundred messages a second something nearly always is, so "everything that is acknowledged now" is in
the tables by chance: a projector that follows at once may be found behind for twenty seconds.  What was
acknowledged when the clock began, and whatever was `LIVE_S` ago, has to be there: that is owed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence

import asyncpg

from coord import limits
from tests.soak.harness import say
from tests.soak.speakers import Speakers
from tests.soak.stack import Checkpoints, behind
from tests.support.crash import ProjectorProcess

LATE_S = limits.TAKEOVER_S
"""What has not caught up after so long is late, and it is said who."""
LIVE_S = 0.5
"""So long a fact that is acknowledged meanwhile may be on its way: ten times what it is when nothing is wrong, and a
tenth of `LATE_S`."""
STUCK_S = 60.0
"""What has not caught up after so long never will."""


Goal = Mapping[tuple[str, int], int]
"""(stream, partition) → the sequence that its checkpoint has to reach."""


class Owed:
    """What the tables have to have at a time: what was acknowledged at first, later what was `LIVE_S` ago."""

    def __init__(self) -> None:
        self._words: deque[tuple[float, Goal]] = deque()

    def told(self, now: float, goal: Goal) -> None:
        """So much was acknowledged by `now`."""
        self._words.append((now, goal))

    def at(self, now: float) -> Goal:
        """What is owed; `told` was called before."""
        words = self._words
        while len(words) > 1 and words[1][0] <= now - LIVE_S:
            words.popleft()
        return words[0][1]


async def caught_up(
    speakers: Speakers,
    checkpoints: Checkpoints,
    timeout_s: float = STUCK_S,
    projectors: Sequence[ProjectorProcess] = (),
) -> float | None:
    """Seconds from now until the tables have all that is owed (`Owed`); None: they never have.

    When nothing more is acknowledged that is everything.
    """
    clock = asyncio.get_running_loop()
    began, said, owed = clock.time(), False, Owed()
    while clock.time() < began + timeout_s:
        told = await speakers.word()
        asked_at = clock.time()
        owed.told(asked_at, told.goal)
        goal = owed.at(asked_at)
        at = await checkpoints.read()
        if at is not None and not behind(at, goal):
            return clock.time() - began
        if not said and clock.time() > began + LATE_S:
            said = True
            for projector in projectors:
                projector.tell()
            late = {f"{s}.{p}": goal[s, p] - (at or {}).get((s, p), 0) for s, p in behind(at or {}, goal)}
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                for session in await checkpoints.sessions():
                    say(f"  {session}")
            say(f"{LATE_S:g} s and not caught up: {'the database does not answer' if at is None else late}")
    return None
