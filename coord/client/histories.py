"""One task as the log has it: its facts, read by the query service and folded.

For whoever has to be sure: a worker before it claims what was delivered again, a submitter that
waits and heard nothing.  Costs one request (about 1 ms); what ended long ago is no longer in the log.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import msgspec

from coord import limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.core import tasks
from coord.core.retry import CallPolicy
from coord.core.tasks import Task
from coord.wire import log_api, subjects
from coord.wire.log_api import Filter, PackedFact, ReadRequest
from coord.wire.records import StoredFact

_decode_fact = msgspec.msgpack.Decoder(PackedFact).decode
_ASK = CallPolicy()


async def facts_of(conn: Connection, tenant: str, key: str, id: str | None = None) -> list[StoredFact]:
    """All facts of a task (or, without `id`, of all tasks of a key) that the log holds, in its order.

    Of more than `limits.TASK_FACTS_MAX` without the older progress.

    Raises what `rpc.call` raises: `ServiceUnavailable`, `DeadlineExceeded`, `NotConnected`, …
    """
    service = subjects.rpc(tenant, "log", "read")
    which = Filter(key=key, kind="task", id=id)
    request = ReadRequest(filter=which, from_="first", max=limits.READ_PAGE_FACTS_MAX)
    found: list[StoredFact] = []
    while True:
        page = await rpc.call(conn, service, request, log_api.Page, policy=_ASK)
        found += [_decode_fact(raw).unpack() for raw in page.facts]
        if len(found) >= limits.TASK_FACTS_MAX:
            found = _without_old_progress(found)
        if page.next_seq > page.last_seq or len(found) >= limits.TASK_FACTS_MAX:
            return found
        request = ReadRequest(filter=which, from_seq=page.next_seq, from_index=page.next_index)


def _without_old_progress(facts: list[StoredFact]) -> list[StoredFact]:
    """Nothing is judged by it; of a task that tells its progress for long the rest would not be read."""
    behind = len(facts) - limits.TASK_FACTS_MAX // 2
    return [fact for fact in facts[:behind] if fact.event != "progress"] + facts[behind:]


async def read(conn: Connection, tenant: str, key: str, id: str) -> tuple[Task | None, list[StoredFact]]:
    """A task, folded (None: the log knows of none), and its facts."""
    facts = await facts_of(conn, tenant, key, id)
    return tasks.fold(facts)[0], facts
