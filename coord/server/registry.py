"""The registry: who is there, who can do what, answered from memory.

``coord.rpc.{tenant}.agents.find``          instances by capability, labels and state
``coord.rpc.{tenant}.agents.capabilities``  the boards of the tenant's capabilities
``coord.rpc._.agents.boards``               those of all tenants, for operators
``coord.rpc.{tenant}.agents.drain``         have an agent (or one instance) drain or rejoin

The tenant is the subject's, which the broker's permissions check; nobody sees another's agents.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.core.admission import Board
from coord.core.board import Sums
from coord.core.presence import PresenceTable, Row
from coord.runtime import clock
from coord.server.presence import PresenceBoard
from coord.telemetry.metrics import Metrics
from coord.wire import presence as wire
from coord.wire import subjects
from coord.wire.agents import Found, FoundAgents

_HEARS_ALL_S: Final = 1.5 * limits.BOARD_EVERY_S
"""After so long every process that is there has said what it knows."""


class Find(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is looked for; what is None is not asked about."""

    capability: str | None = None
    agent: str | None = None
    labels: dict[str, str] = {}
    """All of them."""
    state: Literal["alive", "suspect", "gone", "draining", "quarantined"] | None = None
    """None: all that are there, whatever else they are."""
    limit: int = limits.AGENTS_FOUND
    after: tuple[str, str] | None = None
    """(agent, instance): the first ones behind it in this order, and how many are left; None: any, which costs less."""


class Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to tell."""

    agent: str
    instance: str | None = None
    """None: all of its instances."""
    rejoin: bool = False


class Boards(msgspec.Struct, frozen=True):
    """Whose boards are asked for."""

    capability: str | None = None
    """None: those of all that have work or agents, counted anew."""


class Registry:
    """See the module."""

    def __init__(self, conn: Connection, presence: PresenceBoard, sums: Sums) -> None:
        self._conn = conn
        self._presence = presence
        self._sums = sums
        self._from = float("inf")

    async def serve(self, registry: Metrics) -> list[rpc.Endpoint]:
        """Listen for the requests of all tenants."""
        self._from = clock.monotonic()
        methods = (
            (subjects.rpc_all("agents", "find"), self.find),
            (subjects.rpc_all("agents", "capabilities"), self.capabilities),
            (subjects.rpc_all("agents", "drain"), self.drain),
            (subjects.rpc(subjects.OPERATORS, "agents", "boards"), self.boards),
        )
        return [
            await rpc.serve(
                self._conn, subject, handler, service="agents", method=subject.rpartition(".")[2], registry=registry
            )
            for subject, handler in methods
        ]

    async def find(self, request: rpc.Request) -> FoundAgents:
        """Instances that match, by agent and instance."""
        asked = request.decode(Find)
        if not 1 <= asked.limit <= limits.AGENTS_FOUND_MAX:
            raise errors.InvalidRequest(f"limit is 1 to {limits.AGENTS_FOUND_MAX}", limit=asked.limit)
        tenant, _, _ = subjects.parse_rpc(request.subject)
        now = clock.monotonic()
        matching = self._matching(self._presence.table, tenant, asked)
        if asked.after is None:
            rows = list(itertools.islice(matching, asked.limit + 1))
            left = max(0, len(rows) - asked.limit)
            rows = sorted(rows[: asked.limit], key=_place)
        else:
            behind = [row for row in matching if _place(row) > asked.after]
            rows = heapq.nsmallest(asked.limit, behind, key=_place)
            left = len(behind) - len(rows)
        return FoundAgents([_found(row, now) for row in rows], bool(left), left)

    def _matching(self, table: PresenceTable, tenant: str, asked: Find) -> Iterator[Row]:
        rows = table.instances(tenant, asked.agent) if asked.agent else table.rows(tenant, asked.capability)
        for row in rows:
            about = row.about or wire.Registration()
            if asked.capability is not None and asked.capability not in about.capabilities:
                continue
            if asked.labels.items() - about.labels.items():
                continue
            if asked.state is None:
                if row.state == "gone":
                    continue
            elif asked.state != (_shown(row)):
                continue
            yield row

    async def capabilities(self, request: rpc.Request) -> dict[str, Board]:
        """The boards of the tenant's capabilities; of one, which each submitter asks for, as it was said last."""
        tenant, _, _ = subjects.parse_rpc(request.subject)
        said: Boards | None = request.decode(Boards | None)  # type: ignore[arg-type]  # null, for all
        if said is not None and said.capability is not None:
            place = tenant, said.capability
            return {place[1]: self._sums.board(place, self._presence.table, clock.unix())}
        self._sums.count(self._presence.table)
        boards = self._sums.boards(self._presence.table, clock.unix(), tenant=tenant)
        return {capability: board for (_, capability), board in boards.items()}

    async def boards(self, _: rpc.Request) -> list[tuple[str, str, Board]]:
        """(tenant, capability, board) of all of them."""
        if clock.monotonic() - self._from < _HEARS_ALL_S:
            raise errors.ServiceUnavailable("it has just begun to hear the other processes")
        self._sums.count(self._presence.table)
        boards = self._sums.boards(self._presence.table, clock.unix())
        return [(*place, board) for place, board in boards.items()]

    async def drain(self, request: rpc.Request) -> dict[str, int]:
        """Tell an agent; it says so itself when it has heard."""
        asked = request.decode(Drain)
        tenant, _, _ = subjects.parse_rpc(request.subject)
        told = [
            row
            for row in self._presence.table.instances(tenant, subjects.check_token(asked.agent, "agent"))
            if row.state != "gone" and asked.instance in (None, row.instance)
        ]
        if not told:
            raise errors.UnknownAgent(agent=asked.agent, instance=asked.instance or "")
        body = {"what": "rejoin" if asked.rejoin else "drain", "instance": asked.instance}
        self._conn.publish(subjects.push(tenant, asked.agent, wire.TOPIC), msgspec.json.encode(body))
        return {"instances": len(told)}


def _place(row: Row) -> tuple[str, str]:
    return row.agent, row.instance


def _shown(row: Row) -> str:
    if row.state != "alive":
        return row.state
    return "quarantined" if row.quarantined else "draining" if row.beat.draining else "alive"


def _found(row: Row, now: float) -> Found:
    beat, about = row.beat, row.about or wire.Registration()
    fields: dict[str, Any] = {
        name: getattr(about, name) for name in ("capabilities", "labels", "model", "version", "cost", "coordinator")
    }
    return Found(
        agent=row.agent,
        instance=row.instance,
        state=_shown(row),
        load=beat.load,
        claims=beat.claims,
        running=beat.running,
        memory_mib=beat.memory_mib,
        heard_s=round(now - row.heard, 3),
        quotas=about.quotas,
        quota=row.barred.quota if row.barred is not None else None,
        **fields,
    )
