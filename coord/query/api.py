"""The methods over NATS: from a request to an answer that fits into one message.

The tenant comes from the request's subject, which the broker's permissions guard; a filter
has only tokens to fill in, so no request can look beyond its tenant.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import msgspec

from coord import errors, limits
from coord.bus.rpc import Request
from coord.core.subscription import Position
from coord.query.answering import Answering, packed
from coord.query.reader import LogPage, LogReader
from coord.wire import log_api, subjects
from coord.wire.log_api import LogInfo, Page, ReadRequest
from coord.wire.query_api import QueryRequest
from coord.wire.records import StoredFact

_OVERHEAD_BYTES = 4 * limits.KIB
"""An answer's own fields and headers."""


class LogApi:
    """``log.read`` and ``log.info``; `answer_bytes_max()` is what the broker takes in one message."""

    def __init__(self, reader: LogReader, answer_bytes_max: Callable[[], int]) -> None:
        self._reader = reader
        self._answer_bytes_max = answer_bytes_max

    async def info(self, _: Request) -> LogInfo:
        """``log.info``: what the log holds.  The same for every tenant: sequences are the log's."""
        return await self._reader.info()

    async def read(self, request: Request) -> Page:
        """``log.read``: see `coord.wire.log_api.ReadRequest` and `Page`."""
        tenant, _, _ = subjects.parse_rpc(request.subject)
        wanted = request.decode(ReadRequest)
        start = _start(wanted)
        if not 1 <= wanted.max <= limits.READ_PAGE_FACTS_MAX:
            raise errors.QueryError(f"max is 1 to {limits.READ_PAGE_FACTS_MAX}", max=wanted.max)
        page = await self._reader.read(wanted.filter.stored(tenant), start, messages_max=wanted.max)
        encode = log_api.to_json if request.content == "json" else log_api.to_msgpack
        return _fit(page, encode, wanted.max, self._answer_bytes_max() - _OVERHEAD_BYTES)


class QuestionApi:
    """``query.{name}``: see `coord.wire.query_api`."""

    def __init__(self, answering: Answering, answer_bytes_max: Callable[[], int]) -> None:
        self._answering = answering
        self._answer_bytes_max = answer_bytes_max

    async def ask(self, request: Request) -> Any:
        """One page of the answer to the question that the subject names; raises what `Answering.answer` raises."""
        tenant, _, name = subjects.parse_rpc(request.subject)
        asked = request.decode(QueryRequest)
        room = self._answer_bytes_max() - _OVERHEAD_BYTES
        if request.content == "json":
            return await self._answering.answer(tenant, name, asked, room, request.until)
        # A short number takes less as text than in MessagePack.
        return packed(await self._answering.answer(tenant, name, asked, room // 2, request.until))


def _start(wanted: ReadRequest) -> Position | datetime | Literal["new", "first"]:
    given = [x for x in (wanted.from_seq, wanted.from_time, wanted.from_) if x is not None]
    if len(given) != 1:
        raise errors.QueryError("give exactly one of from_seq, from_time and from")
    if wanted.from_seq is None and wanted.from_index:
        raise errors.QueryError("from_index goes with from_seq")
    if wanted.from_seq is not None:
        if wanted.from_seq < 1 or not 0 <= wanted.from_index <= limits.FRAME_ENTRIES_MAX:
            raise errors.QueryError(f"from_seq is at least 1, from_index 0 to {limits.FRAME_ENTRIES_MAX}")
        return Position(wanted.from_seq, wanted.from_index)
    if wanted.from_time is not None:
        if wanted.from_time.tzinfo is None:
            raise errors.QueryError("from_time needs an offset, such as Z")
        return wanted.from_time
    assert wanted.from_ is not None
    return wanted.from_


def _fit(page: LogPage, encode: Callable[[StoredFact], bytes], facts_max: int, bytes_max: int) -> Page:
    """As many facts as one answer holds; a page that is cut says where to go on."""
    room = min(bytes_max, limits.READ_PAGE_BYTES_MAX)
    encoded: list[msgspec.Raw] = []
    cut: Position | None = None
    for fact in page.facts:
        raw = encode(fact)
        if len(encoded) == facts_max or (encoded and len(raw) > room):
            cut = Position(fact.seq, fact.index)
            break
        if len(raw) > bytes_max:
            raise errors.PayloadTooLarge(
                "this fact does not fit into one answer; in MessagePack it is smallest",
                seq=fact.seq,
                index=fact.index,
                bytes=len(raw),
                bytes_max=bytes_max,
            )
        encoded.append(msgspec.Raw(raw))
        room -= len(raw)
    following = cut or page.next
    return Page(
        facts=encoded,
        next_seq=following.seq,
        next_index=following.index,
        up_to=following.seq - 1,
        first_seq=page.info.first_seq,
        last_seq=page.info.last_seq,
        created=page.info.created,
        leader=page.info.leader,
        skipped=sum(at < following for at in page.poison),
    )
