"""How often Python's collector looks for cycles: seldom, in a process that makes none to speak of.

By default it walks through all that is young after every 700 new objects, which a service makes in two
milliseconds: facts under way, rows, futures.  Hardly any of them is part of a cycle, so the looking was 6 % of
coord's CPU in a flood of tasks.  After 20,000 a look takes a millisecond and finds the same: what an exception's
traceback or a cancelled task held on to, a few MiB at most.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

from coord.runtime.lasting import Lasting
from coord.telemetry import metrics

_YOUNG: Final = 20_000
"""Objects made, less those freed, between two looks at the young ones; Python's default is 700."""


@contextlib.contextmanager
def looking_seldom(*, collects: bool = True) -> Iterator[None]:
    """Have the process's collector look seldom in the block; afterwards it is as it was.

    What is there already (modules, settings) is left out of every look, unless somebody froze something before.
    Whoever set it so before, let it be.  `collects`: what is garbage already is freed first, which takes a tenth of a
    second after many imports.
    """
    before = gc.get_threshold()
    if before[0] >= _YOUNG or before[0] == 0:  # 0: never
        yield
        return
    # Whoever froze something before would find it thawed afterwards: there is one pile of what is frozen.
    freezes = not gc.get_freeze_count()
    if freezes:
        if collects:
            gc.collect()
        gc.freeze()
    gc.set_threshold(_YOUNG, *before[1:])
    try:
        yield
    finally:
        if freezes:
            gc.unfreeze()
        gc.set_threshold(*before)


class Heap(Lasting):
    """Has the process's collector look seldom while it runs; afterwards it is as it was."""

    def __init__(self, *, registry: metrics.Metrics | None = None) -> None:
        super().__init__("heap", looking_seldom, registry=registry)
