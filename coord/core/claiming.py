"""What a worker does about a delivery: claim it, run what it holds, leave it, or have it settled.

The first delivery of a submission is claimed unseen: the broker refuses the second claim of a
number.  Whatever is delivered again, or was claimed by somebody, is looked at first: here is
what follows from what the log says.

Pure.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from coord.core.tasks import Task


class Claim(msgspec.Struct, frozen=True):
    """State ``claimed.{n}``."""

    n: int


class Hold(msgspec.Struct, frozen=True):
    """Claim n is this instance's already: its acknowledgement was lost."""

    n: int


class Leave(msgspec.Struct, frozen=True):
    """Not ours to run."""

    why: Literal["claimed", "stale", "ended", "unknown"]

    @property
    def settle(self) -> bool:
        """Whether the broker should be told that this delivery is done: it would come again for ever."""
        return self.why != "claimed"


Move: TypeAlias = Claim | Hold | Leave


def decide(task: Task | None, *, agent: str, instance: str, seq: int) -> Move:
    """What to do about the delivery of stream sequence `seq`, the log saying that its task is `task`."""
    if task is None:
        return Leave("unknown")
    if task.status == "claimed" and task.claimant == agent and task.instance == instance:
        return Hold(task.claims)  # though it was stated anew meanwhile: nobody else would run it before its timeout
    if task.submitted_seq != seq:
        return Leave("stale")  # stated anew since: that submission has a delivery of its own
    if task.ended:
        return Leave("ended")
    if task.free:
        return Claim(task.next_claim)
    return Leave("claimed")
