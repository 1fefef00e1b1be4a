"""Facts read from the log one by one, from the leader: what deciders must know of an entity's past.

For the few cases in which a decider cannot tell from what it holds.  Whoever reads many facts
uses `coord.bus.direct.DirectReader`.
"""

from __future__ import annotations

from coord import errors, limits
from coord.bus import direct
from coord.bus.connection import Connection
from coord.bus.direct import StoredMessage
from coord.wire import subjects
from coord.wire.envelope import StoredFact, decode_message


async def at(conn: Connection, seq: int) -> StoredFact | None:
    """The single fact at a stream sequence; None when it has left the log, or is not to be believed."""
    stored = await direct.next_on_leader(conn, subjects.EVENTS, subjects.LOG_ALL, seq)
    return None if stored is None or stored.seq != seq else _fact(stored)


async def first(conn: Connection, filter_subject: str) -> StoredFact | None:
    """The oldest fact that matches; None when there is none, or it is not to be believed."""
    stored = await direct.next_on_leader(conn, subjects.EVENTS, filter_subject, 1)
    return None if stored is None else _fact(stored)


async def entity(
    conn: Connection, tenant: str, key: str, kind: str, id_: str, *, below: int | None = None
) -> list[StoredFact]:
    """An entity's facts in order, those below a sequence if one is given; the oldest `RECALL_FACTS_MAX`.

    Raises what `Connection.api` raises.
    """
    filter_subject = subjects.entity_filter(tenant, key, kind, id_)
    facts: list[StoredFact] = []
    for known in await _few(conn, filter_subject) or ():
        if below is None or known.seq < below:
            facts += [f for f in _decoded(known) if isinstance(f, StoredFact)]
    if facts:
        return facts
    seq = 0
    while len(facts) < limits.RECALL_FACTS_MAX:
        stored = await direct.next_on_leader(conn, subjects.EVENTS, filter_subject, seq + 1)
        if stored is None or (below is not None and stored.seq >= below):
            break
        seq = stored.seq
        facts += [f for f in _decoded(stored) if isinstance(f, StoredFact)]
    return facts


async def _few(conn: Connection, filter_subject: str) -> list[StoredMessage] | None:
    """All that match, where they are few; None: they have to be read one by one."""
    reader = direct.DirectReader(conn)
    try:
        found = await direct.few(conn, reader, subjects.EVENTS, filter_subject, messages_max=limits.RECALL_FACTS_MAX)
    except (errors.BusError, errors.DeadlineExceeded):
        return None
    finally:
        await reader.close()
    return None if found is None else found[1]


def _decoded(stored: StoredMessage) -> list[object]:
    return list(decode_message(stored.subject, stored.headers, stored.body, stored.seq, stored.stored_at))


def _fact(stored: StoredMessage) -> StoredFact | None:
    found = _decoded(stored)
    return found[0] if len(found) == 1 and isinstance(found[0], StoredFact) else None
