"""Asking about the tables without a database: ``await c.query("tasks", status="dead")`` (docs/howto/query.md).

An answer can be asked again for nothing: `unless=` an answer that one has, the service says that it still holds, and
the same one is returned.  Its `marks` make it one that `cached` can keep and evict: ``coord.Loaded(a.rows, a.marks)``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec

from coord import limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.core.eviction import Watermark
from coord.core.retry import CallPolicy
from coord.wire import subjects
from coord.wire.query_api import QueryAnswer, QueryRequest, Since, Value
from coord.wire.query_api import Watermark as Places

_ASK = CallPolicy(retries_max=1)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A page of an answer."""

    columns: list[tuple[str, str]]
    """(name, PostgreSQL's type)."""
    rows: list[dict[str, Any]]
    """Times are text as in RFC 3339."""
    etag: str
    read_at: datetime
    """When the tables were read, by the service's clock: the answer is at least so new."""
    marks: dict[tuple[str, int], tuple[int, int]]
    """(stream, partition) → (epoch, sequence) that the tables had."""
    next: str | None = None
    """What `after` is for the page that follows; None: there is none."""
    moved: bool = False
    """The answer has changed since the page before: rows may come twice, or not at all."""


class Querying:
    """What asks for one agent."""

    __slots__ = ("_conn", "_tenant")

    def __init__(self, conn: Connection, tenant: str) -> None:
        self._conn = conn
        self._tenant = tenant

    async def __call__(
        self,
        question: str,
        /,
        *,
        rows: int = limits.QUERY_PAGE_ROWS,
        after: str | None = None,
        unless: Answer | None = None,
        min_watermark: Watermark | None = None,
        timeout_s: float = limits.RPC_TIMEOUT_S,
        **params: Value,
    ) -> Answer:
        """One page of the answer to `question` with these parameters; `coord query` lists the questions.

        `rows`: of this page, 1,000 at most; `after`: `next` of the page before.  `unless`: an answer to the same page:
        where that still holds it is returned, and was not sent again.  `min_watermark`: a fact that the answer must
        have seen; waits for it for four seconds at most.

        Raises `UnknownQuestion`, `QueryError` for parameters, `TablesBehind`, `Overloaded`, `ServiceUnavailable`,
        `DeadlineExceeded`, `NotConnected`, and `StoreError`s.
        """
        where = subjects.rpc(self._tenant, "query", question)
        since = None
        if min_watermark is not None:
            since = Since(min_watermark.key, min_watermark.seq, min_watermark.stream, min_watermark.epoch)
        asked = QueryRequest(
            params=params, rows=rows, after=after, etag=None if unless is None else unless.etag, min_watermark=since
        )
        found = await rpc.call(self._conn, where, asked, QueryAnswer, timeout_s=timeout_s, content="json", policy=_ASK)
        marks = {
            (stream, partition): place
            for stream, places in msgspec.json.decode(found.watermark, type=Places).items()
            for partition, place in places.items()
        }
        if found.modified or unless is None:
            return Answer(
                columns=found.columns,
                rows=[msgspec.json.decode(row) for row in found.rows],
                etag=found.etag,
                read_at=found.read_at,
                marks=marks,
                next=found.next,
                moved=found.moved,
            )
        # It is as good as if it had been read there; of other partitions it is known that they do not matter.
        return msgspec.structs.replace(unless, etag=found.etag, read_at=found.read_at, marks={**unless.marks, **marks})

    async def pages(
        self, question: str, /, *, rows: int = limits.QUERY_PAGE_ROWS, **params: Value
    ) -> AsyncIterator[Answer]:
        """All pages, one after the other; each says whether the answer has `moved` since the one before."""
        after: str | None = None
        while True:
            page = await self(question, rows=rows, after=after, **params)  # type: ignore[arg-type]  # none is called so
            yield page
            after = page.next
            if after is None:
                return
