"""How the tasks of two capabilities fare, for the circuits: made up, since twenty outcomes are many for a run.

One never fails.  The other does, from some moment on until some time after the faults are over; then it is well again,
so its circuit has opened, and closes in the end.  Each process hears of it late, and begins to count anew whenever a
partition changes hands.
"""

from __future__ import annotations

from random import Random
from typing import Final

from coord.core.watch import Fare
from coord.testing.placing import Sight

WELL: Final = "dye"
ILL: Final = "bake"
"""Their circuits are decided about in the partitions 1 and 0 of coord, which are those of a simulation, too."""

_PER_S: Final = 6.0
_ILL_S: Final = 30.0
"""After the faults: somebody has to follow the partition, and twenty have to end."""


class Fares:
    """Of one run; in most of them nothing of that ends at all."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.counted = rng.random() < 0.15
        self.ill_from = rng.random() * 10.0
        self.ill_until = float("inf")
        """Seconds of the run."""

    def rest(self, now: float) -> None:
        """Nothing goes wrong any more but this."""
        self.ill_until = now + _ILL_S

    def failed(self, capability: str, now: float) -> int:
        """Executions by then."""
        ill_s = max(0.0, min(now, self.ill_until) - self.ill_from) if capability == ILL else 0.0
        return int(ill_s * _PER_S)

    def show(self, sight: Sight, tenant: str, now: float) -> None:
        """What one process hears."""
        if not self.counted:
            return
        if sight.counts_from is None or self.rng.random() < 0.01:
            sight.counts_from = now
        heard_s = max(sight.counts_from, now - sight.late_s)
        for capability in (WELL, ILL):
            failed = self.failed(capability, heard_s) - self.failed(capability, sight.counts_from)
            ended = int(heard_s * _PER_S) - int(sight.counts_from * _PER_S)
            sight.fare_of[tenant, capability] = Fare(completed=max(0, ended - failed), failed=failed)
