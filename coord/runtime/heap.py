"""How often Python's collector looks for cycles: seldom, in a process that makes none to speak of.

By default it walks through all that is young after every 700 new objects, which a service makes in two
milliseconds: facts under way, rows, futures.  Hardly any of them is part of a cycle, so the looking was 6 % of
coord's CPU in a flood of tasks.  After 20,000 a look takes a millisecond and finds the same: what an exception's
traceback or a cancelled task held on to, a few MiB at most.
"""

from __future__ import annotations

import gc
from typing import Final

from coord.runtime.service import Service
from coord.telemetry import metrics

_YOUNG: Final = 20_000
"""Objects made, less those freed, between two looks at the young ones; Python's default is 700."""


class Heap(Service):
    """Has the process's collector look seldom while it runs; afterwards it is as it was."""

    def __init__(self, *, registry: metrics.Metrics | None = None) -> None:
        super().__init__("heap", registry=registry)
        self._before: tuple[int, int, int] | None = None

    async def setup(self) -> None:
        """From now on; what is there already (modules, settings) is left out of every look."""
        if gc.get_threshold()[0] >= _YOUNG:
            return  # whoever set it so, let it be
        self._before = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, *self._before[1:])

    async def teardown(self) -> None:
        """As it was."""
        before, self._before = self._before, None
        if before is not None:
            gc.unfreeze()
            gc.set_threshold(*before)
