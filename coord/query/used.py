"""Which ids were used before, where the log does not know it any more (docs/adr/0081).

The log tells within its window: a submission is stored on the condition that its entity is new.
What has left the window, the tables know.  As long as the log holds all that they know, nobody
needs to ask, and the answer says so.  What ended and began within the window is the log's to tell: the
same work may still join it.

Without a database there are no tables, and the log is all there is.

The tables may be a replica's where that has all that has left the log, which its checkpoints say: what it lacks, the
log still tells.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import asyncpg
import msgspec

from coord import errors, limits
from coord.bus.rpc import Request
from coord.core.handoff import Handoff
from coord.core.tasks import Task
from coord.core.workflow_life import Workflow
from coord.runtime import clock
from coord.store.pool import Connection, Pool
from coord.store.queries import statement
from coord.store.reading import Reads
from coord.store.snapshots import one_moment
from coord.store.sqlstate import translated
from coord.wire import subjects
from coord.wire.log_api import LogInfo
from coord.wire.used import Used, UsedAnswer, UsedKind, UsedRequest

T = TypeVar("T")

_MARGIN: Final = timedelta(seconds=limits.USED_MARGIN_S)
_FOLDS: Final[dict[UsedKind, type[Task | Workflow | Handoff]]] = {
    "task": Task, "workflow": Workflow, "handoff": Handoff,
}  # fmt: skip


class UsedIds:
    """``ids.used``; `info` says what the log holds."""

    def __init__(self, pool: Pool | Reads | None, info: Callable[[], Awaitable[LogInfo]]) -> None:
        self._reads = Reads(pool) if isinstance(pool, Pool) else pool
        self._info = info
        self._oldest: tuple[str, datetime] | None = None
        """The log (when it was made), and when the oldest began that the tables knew, at most the log's first fact:
        what they learn later (they may lag far behind) they learn from what the log held then."""

        self._parted_until = 0.0
        """Until then it is not looked again whether the log is whole: that it is not costs three questions to see."""

        self._first: datetime | None = None
        """When the log's first fact was stored, as of the last look; None: it is empty."""

    async def used(self, request: Request) -> UsedAnswer:
        """Raises `InvalidRequest`, and `StoreError`s: without an answer nobody knows."""
        tenant, _, _ = subjects.parse_rpc(request.subject)
        asked = request.decode(UsedRequest)
        if len(asked.ids) > limits.USED_IDS_MAX:
            raise errors.InvalidRequest(f"at most {limits.USED_IDS_MAX} ids at a time", ids=len(asked.ids))
        reads = self._reads
        if reads is None:
            return UsedAnswer(whole=True)
        if clock.monotonic() >= self._parted_until:
            if await self._is_whole(reads):
                return UsedAnswer(whole=True)
            self._parted_until = clock.monotonic() + limits.USED_WHOLE_S
        if not asked.ids:
            return UsedAnswer()
        keys, ids = zip(*asked.ids, strict=True)
        since = None if self._first is None else self._first + _MARGIN

        async def rows_of(conn: Connection) -> list[asyncpg.Record]:
            with translated("ids that were used"):
                return await conn.fetch(statement(f"used_{asked.kind}"), tenant, list(keys), list(ids), since)

        rows = await self._ask(reads, rows_of)
        return UsedAnswer(used=[_used(asked.kind, row) for row in rows])

    async def _ask(self, reads: Reads, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` on the replica, where that has what the log has no more, else on the primary."""
        if reads.route.server == "replica":
            info = await self._info()
            with contextlib.suppress(errors.StoreError, errors.Overloaded):
                async with reads.transaction(limits.USED_DATABASE_S) as conn:
                    with translated("what has left the log"):
                        await one_moment(conn)
                        created = datetime.fromisoformat(info.created)
                        has_all = await conn.fetchval(
                            statement("has_what_left"), created, info.first_seq - 1, limits.PARTITIONS
                        )
                    if has_all:
                        return await work(conn)
        async with reads.primary.acquire(limits.USED_DATABASE_S) as conn:
            return await work(conn)

    async def _is_whole(self, reads: Reads) -> bool:
        """Whether the log holds the beginning of everything that the tables know."""
        info = await self._info()
        first = self._first = info.first_stored_at
        known = self._oldest
        if first is not None and known is not None and known[0] == info.created and known[1] >= first:
            return True  # without the database, which may be away

        async def oldest_of(conn: Connection) -> datetime | None:
            with translated("the oldest entity"):
                found: datetime | None = await conn.fetchval(statement("oldest_begun"))
            return found

        oldest = await self._ask(reads, oldest_of)
        if first is not None:
            self._oldest = (info.created, first if oldest is None else min(oldest, first))
        return oldest is None or (first is not None and oldest >= first)


def _used(kind: UsedKind, row: Any) -> Used:
    fold = msgspec.msgpack.decode(row["fold"], type=_FOLDS[kind])
    return Used(
        key=row["key"],
        id=row["id"],
        status=row["status"],
        submitter=row["submitter"],
        first_event_id=fold.event_id,
        begun_at=row["begun_at"],
        name=_name(fold),
    )


def _name(fold: Task | Workflow | Handoff) -> str:
    if isinstance(fold, Task):
        return fold.capability
    if isinstance(fold, Workflow):
        return f"{fold.name}@{fold.version}"
    return fold.said.agent or fold.said.capability or ""
