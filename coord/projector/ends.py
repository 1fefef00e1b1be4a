"""What the partitions of one stream ask while they are idle, asked once for all that ask at a time.

An idle partition looks at the end of the log every few seconds and confirms its checkpoint
(`PartitionProjector`).  They look in the same moments, so thirty-two looks are one request to the
broker, one statement, and one wake-up of three processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from coord import errors
from coord.bus.connection import Connection as Bus
from coord.runtime.clock import in_step
from coord.store import checkpoints
from coord.store.checkpoints import Move
from coord.store.pool import Connection

_BUSY_EVERY_S: Final = 1.0
"""How often busy partitions look whether the log's window passes them."""

_EARLY: Final = 1 / 8
"""A look may come such a part of a period early: timers are kept to the millisecond."""


class Looks:
    """When one partition looks at the end of the log: in the same moments as all others (the loop's clock)."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._at = 0.0

    def put_off(self, busy_at: float | None = None) -> None:
        """It was busy then (default: now): not before the next moment."""
        now = asyncio.get_running_loop().time() if busy_at is None else busy_at
        self._at = ((now + _EARLY * self._every_s) // self._every_s + 1) * self._every_s

    def wait_s(self) -> float:
        """How long until the next one."""
        return max(0.0, self._at - asyncio.get_running_loop().time())

    def is_due(self) -> bool:
        """Whether it is time; then the next one is another moment."""
        if self.wait_s() > _EARLY * self._every_s:
            return False
        self.put_off()
        return True


class Ends:
    """Of one stream."""

    def __init__(self, conn: Bus, stream: str) -> None:
        self._conn = conn
        self._stream = stream
        self._asking: asyncio.Task[dict[str, Any]] | None = None
        """Not sent yet: whoever asks now is answered by it."""
        self._planned: list[Callable[[], object]] = []

    def later(self, call: Callable[[], object]) -> None:
        """Call it in the next moment of `_BUSY_EVERY_S`, with all others that asked for it until then.

        Busy partitions are, each by itself, never busy in the same moment: what they ask would be asked by each.
        """
        if not self._planned:
            asyncio.get_running_loop().call_later(in_step(_BUSY_EVERY_S), self._call)
        self._planned.append(call)

    def _call(self) -> None:
        planned, self._planned = self._planned, []
        loop = asyncio.get_running_loop()
        for call in planned:
            loop.call_soon(call)  # each by itself: one's defect is no other's

    async def info(self) -> dict[str, Any]:
        """STREAM.INFO, asked for after this was called.  Raises what `Connection.api` raises."""
        asking = self._asking
        if asking is None:
            asking = self._asking = asyncio.get_running_loop().create_task(self._ask(), name="projector-end")
            asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may be gone
        return await asyncio.shield(asking)

    async def _ask(self) -> dict[str, Any]:
        # A task begins in the next turn of the loop: all that look in this one have asked by then.
        self._asking = None
        return await self._conn.api(f"STREAM.INFO.{self._stream}")


class Confirming:
    """Moves idle partitions' checkpoints: one statement for all that wait for a connection."""

    def __init__(self, turn: Callable[[], AbstractAsyncContextManager[Connection]]) -> None:
        """`turn`: a connection for something short."""
        self._turn = turn
        self._waiting: list[tuple[Move, asyncio.Future[bool]]] = []
        self._job: asyncio.Task[None] | None = None

    async def advance(self, move: Move) -> bool:
        """Move one; False when it is not where the caller believes.  A partition moves once at a time.

        Raises `StoreError`.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        self._waiting.append((move, done))
        if self._job is None or self._job.done():
            self._job = loop.create_task(self._write(), name="projector-idle")
        return await done

    def close(self) -> None:
        """Fail what still waits.  Twice is legal."""
        if self._job is not None:
            self._job.cancel()
        self._fail(self._take(), errors.DatabaseUnavailable("the writer is closed"))

    def _take(self) -> list[tuple[Move, asyncio.Future[bool]]]:
        taken, self._waiting = self._waiting, []
        return taken

    @staticmethod
    def _fail(taken: list[tuple[Move, asyncio.Future[bool]]], error: errors.CoordError) -> None:
        for _, done in taken:
            if not done.done():
                done.set_exception(error)

    async def _write(self) -> None:
        while self._waiting:
            taken: list[tuple[Move, asyncio.Future[bool]]] = []
            try:
                async with self._turn() as conn:
                    taken = self._take()
                    moves = [move for move, done in taken if not done.done()]
                    elsewhere = await checkpoints.advance_all(conn, moves) if moves else []
            except errors.CoordError as exc:
                self._fail(taken or self._take(), exc)
            except BaseException as exc:
                self._fail(taken or self._take(), errors.DatabaseUnavailable(f"the writer was stopped: {exc!r}"))
                raise
            else:
                for move, done in taken:
                    if not done.done():
                        done.set_result(move not in elsewhere)
