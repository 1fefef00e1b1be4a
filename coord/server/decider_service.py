"""The deciders as a service: every partition of the log, shared with the other processes that run one.

It starts without its broker, says that it is not ready, and goes on when that comes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

from coord import errors, limits
from coord.bus import rpc, topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.replicas import Replicas
from coord.bus.riding import Meeting
from coord.bus.shared import SharedReader
from coord.core.deciding import Decider, Presence
from coord.core.desk import Desk
from coord.core.task_decider import TaskDecider
from coord.runtime import assets
from coord.runtime.clock import in_step
from coord.runtime.instance import instance_name
from coord.runtime.service import Service
from coord.server.deciders import Factory, deciders
from coord.server.deciding import PartitionDecider
from coord.server.effects import Performer
from coord.server.queues import Queues
from coord.server.timers import Arming
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.readings import Readings

_log = logs.get("deciders")

_GAUGES_S = 1.0


class Everybody:
    """A presence that doubts everything: nobody is ever known to be gone."""

    def lives(self, tenant: str, agent: str, instance: str) -> bool:  # noqa: ARG002
        """Always."""
        return True


class DeciderService(Service):
    """Decides until stopped; `drain` snapshots and gives every partition back."""

    def __init__(
        self,
        nats: NatsConfig,
        *,
        presence: Presence | None = None,
        factory: Factory | None = None,
        readings: Readings | None = None,
        meeting: Meeting | None = None,
        registry: Metrics | None = None,
    ) -> None:
        """`presence`: who is there; None: leases are extended whoever holds them.

        `factory`: the deciders of a partition; default: `coord.server.deciders`.  `readings`: shared with the
        projector of this process; `meeting`: where its consumer is found, which may feed them, too.
        """
        super().__init__("deciders", registry=registry)
        self._readings = readings
        self._meeting = meeting
        self.instance = instance_name()
        self.partitions: list[PartitionDecider] = []
        self._nats = nats
        self._presence: Presence = Everybody() if presence is None else presence  # an empty table is falsy
        self._desk = desk = Desk()
        self._factory: Factory = factory or (lambda p: deciders(p, desk))
        self._conn: Connection | None = None
        self._performer: Performer | None = None
        self._queues: Queues | None = None
        self._arming: Arming | None = None
        self._shared: SharedReader | None = None
        self._replicas: Replicas | None = None

    async def setup(self) -> None:
        """Connect to the broker (waiting for it) and start every partition's loop."""
        self._conn = conn = await Connection.open(
            self._nats, name=f"deciders-{self.instance}", role="deciders", wait=True, registry=self.metrics
        )
        self._performer = await Performer.open(conn, self.metrics)
        self._queues = Queues(conn, self.metrics)
        self._performer.on_open = self._queues.demand
        performer = self._performer
        self._arming = Arming(conn, self.metrics, lambda state: performer.state(state, _left))
        self._performer.on_arm = self._arming.demand
        self.spawn("rpc", self._serve)
        self.spawn("queues", self._queues.run)
        self.spawn("sweep", self._sweep)
        defined = topology.load(assets.streams_dir())  # consumers are the same in every profile
        for p in range(limits.PARTITIONS):
            consumer = defined.get(f"EVENTS/decider-{p}")
            partition = PartitionDecider(
                p, conn, self._performer, self._presence, self._factory, self.metrics, consumer, now=self._unix,
                readings=self._readings,
            )  # fmt: skip
            self.partitions.append(partition)
            self.spawn(f"partition.{p}", partition.run)
        readers = [partition.reader for partition in self.partitions]
        spec = defined.get("EVENTS/decider-0")
        self._shared = SharedReader(conn, subjects.EVENTS, readers, spec, self.metrics, seeks=self._meeting)
        self.spawn("shared", self._shared.run)
        # An older projector would not understand what newer deciders state; newer ones read what older ones do.
        self._replicas = Replicas(
            conn, "deciders", self.instance, len(self.partitions), self._assign, behind=("projector",)
        )
        self.spawn("replicas", self._replicas.run)
        self.spawn(
            "understands", partial(self._tell, subjects.rpc_all("service", "understands"), self._replicas.understands)
        )
        self.spawn("reads", partial(self._tell, subjects.rpc(subjects.OPERATORS, "deciders", "read"), self._whose))
        self.spawn("look", self._look)
        self.spawn("gauges", self._show)

    def _unix(self) -> float:
        return self.clock.now().timestamp()

    def _assign(self, mine: frozenset[int]) -> None:
        if self._shared is not None:
            self._shared.alone(len(mine) == len(self.partitions))
        for partition in self.partitions:
            partition.assign(mine=partition.partition in mine)
        self.changed()

    # --- for others of this process ------------------------------------------------------------

    def gone(self, tenant: str, agent: str, instance: str, now: float, left: bool = False) -> None:  # noqa: FBT001, FBT002
        """An instance is no more (Unix seconds), `left`: and has said so itself; tell every decider that runs."""
        for partition in self.partitions:
            partition.gone(tenant, agent, instance, now, left)

    def holds(self, holder: tuple[str, str, str]) -> bool:
        """Whether (tenant, agent, instance) holds a task, as far as partitions are owned here."""
        return any(isinstance(d, TaskDecider) and d.holds(holder) for d in self.deciders())

    def deciders(self) -> Iterable[Decider]:
        """Those of owned partitions that have caught up."""
        return [d for p in self.partitions if p.is_running for d in p.deciders]

    # --- loops -----------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Answer requests, as soon as the log exists."""
        assert self._queues is not None
        while True:
            try:
                await self._queues.start()
            except errors.CoordError as exc:
                _log.warning("deciders.rpc_waits", error=exc)
                await self._queues.stop()
                await self.clock.sleep(1.0)
                continue
            return

    async def _tell(self, subject: str, answer: rpc.Handler) -> None:
        """Answer whoever asks there, until cancelled."""
        assert self._conn is not None
        *_, service, method = subject.split(".")
        endpoint = await rpc.serve(self._conn, subject, answer, service=service, method=method, registry=self.metrics)
        try:
            await asyncio.Event().wait()
        finally:
            await endpoint.close()

    async def _whose(self, _: rpc.Request) -> str:
        """By whose consumer the deciders read, for operators: their own says nothing then; "" where it does."""
        return "" if self._shared is None else self._shared.carrier

    async def _sweep(self) -> None:
        assert self._queues is not None
        while True:
            await self.clock.sleep(limits.QUEUE_UNUSED_S / 6)
            try:
                await self._queues.sweep()
            except errors.CoordError as exc:
                _log.warning("deciders.sweep_failed", error=exc)

    async def _look(self) -> None:
        while True:
            await self.clock.sleep(in_step(limits.DECIDER_TICK_S))
            for partition in self.partitions:
                partition.look()

    async def _show(self) -> None:
        while True:
            held: Counter[str] = Counter()
            for decider in self.deciders():
                held[decider.name] += decider.open_count()
            if self._performer is not None:
                self._performer.show()
            self.metrics.decider_snapshot_bytes.set(sum(p.snapshot_bytes for p in self.partitions))
            for at in list(self._desk.counts):
                self.metrics.placements.labels(*at).inc(self._desk.counts.pop(at))
            for name, count in held.items():
                self.metrics.decider_open.labels(decider=name).set(count)
            await self.clock.sleep(in_step(_GAUGES_S))

    async def on_drain(self) -> None:
        """Answer what was asked, snapshot, and let other processes take over."""
        if self._queues is not None:
            await self._queues.stop()
        for partition in self.partitions:
            partition.close()
        for partition in self.partitions:
            await partition.closed.wait()

    async def teardown(self) -> None:
        """Close the connection."""
        if self._arming is not None:
            await self._arming.close()
        if self._performer is not None:
            await self._performer.close()
        if self._conn is not None:
            await self._conn.drain()

    def is_ready(self) -> bool:
        """Whether it is connected and each of its partitions is being followed, or it waits for an older release."""
        if self._conn is None or not self._conn.is_connected or self._replicas is None:
            return False
        if not self._replicas.members and not self._replicas.older:
            return False
        return all(p.phase not in {"retrying", "catching_up"} for p in self.partitions)

    def details(self) -> dict[str, Any]:
        """Members, older ones that are waited for, partitions by phase, and what is wrong with whom."""
        troubled = [p for p in self.partitions if p.error is not None and p.phase == "retrying"]
        return {
            "instance": self.instance,
            "members": sorted(self._replicas.members) if self._replicas else [],
            "waits_for": sorted(self._replicas.older) if self._replicas else [],
            "partitions": dict(Counter(p.phase for p in self.partitions)),
            "errors": [
                {"partition": p.partition, "code": p.error.code, "message": p.error.message}
                for p in troubled
                if p.error is not None
            ],
        }


def _left(_error: errors.CoordError | None) -> None:
    """What could not be stated is demanded again."""
