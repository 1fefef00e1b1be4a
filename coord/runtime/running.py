"""How a process of coord's own, an agent's or a submitter's runs its coroutine: `coord.run`.

``asyncio.run`` with three things that a library may not do behind its user's back, and a program should: uvloop,
where it is installed, a collector that looks seldom (`coord.runtime.heap`), and a policy by which it pushes nobody
off a core (`coord.runtime.cores`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from coord.runtime import cores, heap

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a program of a fleet: as ``asyncio.run``, on uvloop where it is installed, seldom collecting, in batch.

    Returns what `main` returns and raises what it raises; collector and policy are then as before.  Not from a thread
    in which a loop runs: `RuntimeError`; and in one thread at a time, for the collector is the process's.  `debug`:
    asyncio's.

    The collector looks through young objects after every 20,000 that were made and not freed,
    instead of 700, and not at all through what there is at the start.  What only it can free, which is cycles, stays
    a moment longer; a program that makes large ones in numbers, of arrays or documents, is better off with
    ``asyncio.run``, or calls ``gc.set_threshold`` inside `main`.

    On Linux this thread, and what it starts, runs at ``SCHED_BATCH``: on cores that are all busy it waits for whoever
    runs to sleep, or to have had its turn, some milliseconds.  A program that must not wait so long, as one with a
    sound card, is better off with ``asyncio.run``, too.
    """
    with heap.looking_seldom(), cores.in_batch():
        return run_alone(main, debug=debug)


def run_alone(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Its loop and nothing else: for whoever sets the rest by services (`Heap`, `Cores`)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass  # as it should be
    else:  # said before a loop is made that nothing would close
        main.close()
        raise RuntimeError("coord.run is for a thread in which no loop runs: await it there")
    with asyncio.Runner(debug=debug, loop_factory=loop_factory()) as runner:
        return runner.run(main)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, or None (asyncio's own) where it is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
