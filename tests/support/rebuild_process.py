"""A rebuild in a process of its own that kills itself with SIGKILL at a chosen point.

Run as a program: ``python -m tests.support.rebuild_process DATABASE_URL POINT NTH``.  The points::

    created     the tables are made, not committed
    batch       a batch's rows are written, not committed         committed   and committed
    carried     what is older was taken, not committed
    fitted      folds have other bytes, not committed             compared    and committed
    locked      nobody else writes entities                       caught_up   the last facts are in
    swapped     the tables have changed places, not committed

They are wrapped around coord's functions here; coord itself knows nothing of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from coord import limits
from coord.projector import rebuild
from coord.projector.rebuild import Rebuilder
from coord.store import shadow
from coord.store.config import DatabaseConfig
from tests.support import forking

POINTS: Final = (
    "created", "batch", "committed", "carried", "fitted", "compared", "locked", "caught_up", "swapped",
)  # fmt: skip


async def killed(url: str, point: str) -> int:
    """Run one that dies there; its exit status."""
    nth = {"batch": 2, "committed": 3}.get(point, 1)
    process = await forking.python("-m", "tests.support.rebuild_process", url, point, str(nth))
    return await process.wait()


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL is not survived")


def _wrap(owner: Any, name: str, nth: int, *, before: bool = False) -> None:
    """Die when `name` is called for the `nth` time, before or after it."""
    wrapped: Callable[..., Any] = getattr(owner, name)
    called = 0

    async def dying(*args: Any, **fields: Any) -> Any:
        nonlocal called
        called += 1
        if before and called == nth:
            _die()
        result = await wrapped(*args, **fields)
        if called == nth:
            _die()
        return result

    setattr(owner, name, dying)


def _arm(point: str, nth: int) -> None:
    owner, name, before = {
        "created": (shadow, "create", False),
        "batch": (Rebuilder, "_write", False),
        "committed": (Rebuilder, "_write", True),
        "carried": (shadow, "carry", False),
        "fitted": (shadow, "fit", False),
        "compared": (Rebuilder, "compare", False),
        "locked": (shadow, "lock", False),
        "caught_up": (Rebuilder, "_fit_some", False),
        "swapped": (shadow, "swap", False),
    }[point]
    _wrap(owner, name, nth, before=before)


async def _main(url: str, point: str, nth: int) -> None:
    limits.REBUILD_BATCH_ROWS = 70  # type: ignore[misc]  # many batches of a short history
    limits.REBUILD_SLICE_ROWS = 150  # type: ignore[misc]
    _arm(point, nth)
    async with rebuild.pools(DatabaseConfig(url=url)) as (writer, reader):
        rebuilder = Rebuilder(writer, reader)
        await rebuilder.begin()
        await rebuilder.build()
        await rebuilder.compare()
        await rebuilder.swap()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
