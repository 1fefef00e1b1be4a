"""The capability board and the registry: what every process with deciders says and answers about the fleet.

Four times a second: add up the parts (`coord.core.board`), say what changed a lot, and wake workers that
stand by (`coord.server.standing`); once a second tell the other processes this one's part, and say all.
Requests (`coord.server.registry`) are answered by any of the processes, from memory: each hears every heartbeat.

Also counts here: the facts of agents that declared a quota of facts per second, by following
what the log republishes of theirs.  Whoever declared none costs nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection, NatsConfig, Subscription
from coord.bus.patched import Message
from coord.core import board
from coord.core.capability import CapabilityDecider
from coord.core.deciding import Decider
from coord.core.presence_decider import PresenceDecider
from coord.core.task_decider import TaskDecider
from coord.runtime import clock
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.server.presence import PresenceBoard
from coord.server.registry import Registry
from coord.server.standing import Standing
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.presence import Quotas

_log = logs.get("board")

_PARTS = msgspec.json.Decoder(board.Part)


class BoardService(Service):
    """See the module.  It starts without its broker, and waits for it."""

    def __init__(
        self,
        nats: NatsConfig,
        presence: PresenceBoard,
        deciders: Callable[[], Iterable[Decider]],
        *,
        clock: Clock | None = None,
        registry: Metrics | None = None,
    ) -> None:
        """`deciders`: those of this process that have caught up."""
        super().__init__("board", clock=clock, registry=registry)
        self.sums = board.Sums(secrets.token_hex(8))
        self._nats = nats
        self._presence = presence
        self._deciders = deciders
        self._conn: Connection | None = None
        self._endpoints: list[rpc.Endpoint] = []
        self._standing: Standing | None = None
        self._heard: Subscription | None = None
        self._counted: Counter[tuple[str, str]] = Counter()
        """Facts of watched agents since the last look."""
        self._following: dict[tuple[str, str], Subscription] = {}
        self._counted_version = -1
        """What was counted is of this version of the table:"""
        self._quotas: dict[tuple[str, str], Quotas] = {}
        """agents with quotas,"""
        self._apart: frozenset[tuple[str, str, str]] = frozenset()
        """instances that bound themselves beside others of their name that do not,"""
        self._states: Counter[str] = Counter()
        """and how many instances are in which state."""
        self._looked_at = 0.0

    async def run(self) -> None:
        """Add up, say, sleep."""
        conn = await self._open()
        table = self._presence.table
        said_at = 0.0
        while not self.draining.is_set():
            now = clock.monotonic()
            due = now - said_at >= limits.BOARD_EVERY_S
            if due and table.version != self._counted_version:
                self._counted_version = table.version
                self.sums.count(table)
                self._quotas = table.with_quotas()
                self._apart = table.bounded_apart()
                self._states = Counter(row.state for row in table.rows())
            mine = self._part()
            self.sums.hear(self.sums.name, mine, now)
            self.sums.add_up(table, now)
            boards = self.sums.boards(table, clock.unix())
            if due:
                said_at = now
                self._say(conn, subjects.beat("board", self.sums.name), mine)
                self._show(boards)
                await self._follow(conn, now)
            if self.sums.speaks and self._standing is not None:
                wanting = {place: fare for place, fare in table.fare_of.items() if fare.queued}
                self._standing.look(
                    self.sums.agents(),
                    {place: fare.queued for place, fare in wanting.items()},
                    {place: fare.again for place, fare in wanting.items()},
                )
            for place, one in self.sums.news(boards, all_of_them=due).items():
                if self.sums.speaks:
                    self._say(conn, subjects.board(*place), one)
            await asyncio.sleep(clock.in_step(limits.PRESENCE_TICK_S))

    async def _open(self) -> Connection:
        if self._conn is None:
            self._conn = await Connection.open(
                self._nats, name="coord-board", role="board", wait=True, registry=self.metrics
            )
        if self._heard is None:
            self._heard = await self._conn.subscribe(subjects.beats("board"), self._hear)
            self._standing = Standing(self._conn, self.metrics, self._presence.table)
            endpoints = await Registry(self._conn, self._presence, self.sums).serve(self.metrics)
            self._endpoints = [*endpoints, await self._standing.serve()]
            self.changed()
        return self._conn

    def is_ready(self) -> bool:
        """Whether requests reach it."""
        return self._conn is not None and self._conn.is_connected and bool(self._endpoints)

    async def on_drain(self) -> None:
        """Take this process's part back, before others have its partitions; answer what was accepted."""
        if self._conn is not None:
            self._say(self._conn, subjects.beat("board", self.sums.name), board.Part(bye=True))
        for endpoint in self._endpoints:
            await endpoint.drain()

    async def teardown(self) -> None:
        """Close the connection."""
        for endpoint in self._endpoints:
            await endpoint.close()
        if self._standing is not None:
            await self._standing.close()
        if self._conn is not None:
            await self._conn.drain()

    # --- parts and sums --------------------------------------------------------------------

    def _part(self) -> board.Part:
        running = list(self._deciders())
        tasks = [d for d in running if isinstance(d, TaskDecider)]
        circuits = [state for d in running if isinstance(d, CapabilityDecider) for state in d.states()]
        quarantined = [agent for d in running if isinstance(d, PresenceDecider) for agent in d.quarantined()]
        fares, usage, quotas = [d.fares for d in tasks], [d.usage() for d in tasks], frozenset(self._quotas)
        held = [(*holder, count) for holder in self._apart if (count := sum(d.holds(holder) for d in tasks))]
        mine = board.part(fares, usage, circuits, quotas, quarantined, held)
        if self._standing is None:
            return mine
        return msgspec.structs.replace(mine, stood=self._standing.standers.said(clock.monotonic()))

    def _hear(self, message: Message) -> None:
        name = message.subject.rpartition(".")[2]
        if name == self.sums.name:
            return
        try:
            said = _PARTS.decode(message.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        now = clock.monotonic()
        if self.sums.hear(name, said, now) and self._standing is not None:
            self._standing.standers.hear(name, said.stood, now)

    def _say(self, conn: Connection, subject: str, what: Any) -> None:
        try:
            conn.publish(subject, msgspec.json.encode(what))
        except errors.BusError:
            return  # whoever misses it takes the next one

    def _show(self, boards: dict[board.Place, Any]) -> None:
        found = Counter(one.circuit for one in boards.values())
        found["starved"] = sum(one.starved for one in boards.values())
        found["all"] = len(boards)
        for state in ("all", "starved", "closed", "open", "probing"):
            self.metrics.capabilities.labels(state=state).set(found[state])
        self.metrics.capability_depth_max.set(max((one.depth for one in boards.values()), default=0))
        for state in ("alive", "suspect", "gone"):
            self.metrics.presence_instances.labels(state=state).set(self._states[state])

    # --- facts per second ------------------------------------------------------------------

    async def _follow(self, conn: Connection, now: float) -> None:
        """Count the facts of those that declared how many they may state."""
        table = self._presence.table
        wanted = [agent for agent, quotas in self._quotas.items() if quotas.facts_per_s is not None]
        elapsed_s = now - self._looked_at
        self._looked_at = now
        table.rate_of = {agent: self._counted[agent] / elapsed_s for agent in self._following}
        self._counted.clear()
        for agent in self._following.keys() - set(wanted):
            await self._following.pop(agent).unsubscribe()
        for agent in wanted[: limits.QUOTA_AGENTS_MAX]:
            if agent not in self._following:
                self._following[agent] = await self._count(conn, agent)

    async def _count(self, conn: Connection, agent: tuple[str, str]) -> Subscription:
        def one(_: bytes, __: bytes, ___: bytes, ____: bytes) -> None:
            self._counted[agent] += 1

        # With details or without: whatever the agent states.
        return await conn.subscribe_bytes(subjects.live_filter(agent[0], agent=agent[1]), one)
