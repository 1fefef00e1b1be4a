"""Facts of the log by entity, kind or key, for whoever folds them himself.

Costs one request a page (about 1 ms).  For one task there is `coord.client.histories`.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from itertools import takewhile
from typing import Literal

import msgspec

from coord import limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.core.retry import CallPolicy
from coord.wire import log_api, subjects
from coord.wire.log_api import Filter, PackedFact, ReadRequest
from coord.wire.records import StoredFact

_decode_fact = msgspec.msgpack.Decoder(PackedFact).decode
_ASK = CallPolicy()


class Window(msgspec.Struct, frozen=True):
    """What the log's window holds of something."""

    facts: list[StoredFact]
    created: str
    """When the stream was created: another value is another log."""
    whole: bool
    """Whether these are all that were wanted; otherwise the oldest."""
    last_seq: int
    """The log's end."""


async def facts(
    conn: Connection,
    tenant: str,
    *,
    key: str | None = None,
    kind: str | None = None,
    id: str | None = None,
    event: str | None = None,
    facts_max: int = limits.ENTITY_FACTS_MAX,
) -> list[StoredFact]:
    """All such facts that the log holds, in its order, at most about `facts_max`; what is None matches all.

    Raises what `rpc.call` raises: `ServiceUnavailable`, `DeadlineExceeded`, `NotConnected`, …
    """
    which = Filter(key=key, kind=kind, id=id, event=event)
    return (await window(conn, tenant, which, facts_max=facts_max)).facts


async def window(
    conn: Connection,
    tenant: str,
    which: Filter,
    *,
    from_seq: int | None = None,
    until_seq: int | None = None,
    until: datetime | None = None,
    facts_max: int = limits.ENTITY_FACTS_MAX,
) -> Window:
    """Facts that the log holds, from a sequence or its beginning on, in its order.

    `until_seq`: none behind that sequence; `until`: nor from the first on that was stored later; None: to its end.

    Raises `LogTrimmed` when the log begins behind `from_seq`, `LogReplaced` when it ends before it, and what
    `rpc.call` raises.
    """
    service = subjects.rpc(tenant, "log", "read")
    start: Literal["first"] | None = "first" if from_seq is None else None
    request = ReadRequest(filter=which, from_=start, from_seq=from_seq, max=limits.READ_PAGE_FACTS_MAX)
    found: list[StoredFact] = []
    while True:
        page = await rpc.call(conn, service, request, log_api.Page, policy=_ASK)
        facts = [_decode_fact(raw).unpack() for raw in page.facts]
        wanted = list(takewhile(lambda fact: not _is_behind(fact, until_seq, until), facts))
        found += wanted
        at_end = page.next_seq > page.last_seq or len(wanted) < len(facts)
        at_end = at_end or (until_seq is not None and page.up_to >= until_seq)
        if at_end or len(found) >= facts_max:
            return Window(found, page.created, at_end, page.last_seq)
        request = ReadRequest(filter=which, from_seq=page.next_seq, from_index=page.next_index)


async def each(
    conn: Connection, tenant: str, which: Filter, *, from_seq: int | None = None
) -> AsyncIterator[StoredFact]:
    """All such facts that the log holds, for whoever folds them and keeps none; raises as `window` does."""
    while True:
        found = await window(conn, tenant, which, from_seq=from_seq, facts_max=limits.READ_PAGE_FACTS_MAX)
        for fact in found.facts:
            yield fact
        if found.whole:
            return
        from_seq = found.facts[-1].seq + 1


def _is_behind(fact: StoredFact, seq: int | None, time: datetime | None) -> bool:
    return (seq is not None and fact.seq > seq) or (time is not None and fact.stored_at > time)
