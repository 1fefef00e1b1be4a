"""The log as a subscription reads it: pages through the query service, a few at a time per connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from weakref import WeakKeyDictionary

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.core.subscription import SKIPPED, Entry, Page, Position, Read
from coord.wire import log_api, subjects
from coord.wire.log_api import Filter, PackedFact, ReadRequest
from coord.wire.records import StoredFact

_slots: WeakKeyDictionary[Connection, asyncio.Semaphore] = WeakKeyDictionary()
"""After a reconnect every subscription of a connection wants to read at once."""

_decode_fact = msgspec.msgpack.Decoder(PackedFact).decode


class LogSource:
    """What matches one filter of one tenant."""

    def __init__(
        self,
        conn: Connection,
        tenant: str,
        filter_: Filter,
        page_facts: int,
        accepts: Callable[[StoredFact], bool] | None = None,
    ) -> None:
        """`accepts`: which of the facts are wanted; the others stay in their places as `SKIPPED`."""
        self.subject = subjects.rpc(tenant, "log", "read")
        self._conn = conn
        self._filter = filter_
        self._page_facts = page_facts
        self._accepts = accepts

    async def page(self, read: Read) -> Page[StoredFact]:
        """The page that the machine asked for.

        Raises what the service answered (`LogTrimmed`, `Overloaded`, …), `ServiceUnavailable`,
        `DeadlineExceeded`, `NotConnected`, `BusClosed`.  An audit gives up early: live
        messages wait for it.
        """
        timeout_s = limits.AUDIT_TIMEOUT_S if read.audit else limits.RPC_TIMEOUT_S
        slots = _slots.setdefault(self._conn, asyncio.Semaphore(limits.SUBSCRIBER_READS))
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await slots.acquire()
        except TimeoutError as exc:
            raise errors.DeadlineExceeded("the log was not read in time", subject=self.subject) from exc
        try:
            left_s = max(0.001, deadline - asyncio.get_running_loop().time())
            answer = await rpc.call(self._conn, self.subject, self._request(read), log_api.Page, timeout_s=left_s)
        finally:
            slots.release()
        try:
            entries = [self._entry(raw) for raw in answer.facts]
        except (msgspec.DecodeError, errors.WireError) as exc:
            raise errors.RemoteError("a fact of the answer cannot be read", subject=self.subject) from exc
        following = Position(answer.next_seq, answer.next_index)
        return Page(entries, following, answer.first_seq, answer.last_seq, answer.created, answer.leader)

    def _request(self, read: Read) -> ReadRequest:
        start, count = read.start, self._page_facts
        if isinstance(start, Position):
            return ReadRequest(filter=self._filter, from_seq=start.seq, from_index=start.index, max=count)
        if isinstance(start, datetime):
            return ReadRequest(filter=self._filter, from_time=start, max=count)
        return ReadRequest(filter=self._filter, from_=start, max=count)

    def _entry(self, raw: msgspec.Raw) -> Entry[StoredFact]:
        fact = _decode_fact(raw).unpack()
        if self._accepts is not None and not self._accepts(fact):
            return Entry(fact.seq, fact.index, 0, SKIPPED)
        return Entry(fact.seq, fact.index, len(raw), fact)
