"""The projector as a service: every partition of EVENTS and TELEMETRY, shared with its replicas.

It starts without its database and without its broker, says that it is not ready, and goes
on when they come.  A partition that is stopped (another stream under its checkpoint) makes
it not ready as well: an operator has to decide.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.replicas import Replicas
from coord.bus.riding import Meeting
from coord.bus.shared import SharedReader
from coord.projector.asks import StatusAsks
from coord.projector.config import ProjectorConfig
from coord.projector.dead_letters import DeadLetterQueue
from coord.projector.ends import Ends
from coord.projector.partition import PartitionProjector
from coord.projector.strays import Strays
from coord.projector.tally import Tally
from coord.projector.writer import Writer, prepare
from coord.runtime import assets
from coord.runtime.clock import in_step
from coord.runtime.instance import instance_name
from coord.runtime.service import Service
from coord.store.config import DatabaseConfig
from coord.store.pool import PROJECTOR_SETTINGS, Pool
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.readings import Readings


class ProjectorService(Service):
    """Projects until stopped; `drain` commits what is in hand and gives every partition back."""

    def __init__(
        self,
        nats: NatsConfig,
        database: DatabaseConfig,
        config: ProjectorConfig | None = None,
        *,
        readings: Readings | None = None,
        meeting: Meeting | None = None,
        registry: Metrics | None = None,
    ) -> None:
        """Nothing is connected before `start`.

        `readings`: of EVENTS, shared with the deciders of this process; `meeting`: where they find what reads it.
        """
        super().__init__("projector", registry=registry)
        self.config = config or ProjectorConfig()
        self.config.validate()
        self.instance = self.config.instance or instance_name()
        self.partitions: list[PartitionProjector] = []
        self._nats = nats
        self._database = database
        self._conn: Connection | None = None
        self._pool: Pool | None = None
        self._writer: Writer | None = None
        self._replicas: Replicas | None = None
        self._mine: frozenset[int] = frozenset()
        self._shared: list[SharedReader] = []
        self._readings = readings
        self._meeting = meeting

    async def setup(self) -> None:
        """Connect to the broker (waiting for it) and start every partition's loop."""
        pool = Pool(
            self._database,
            settings=PROJECTOR_SETTINGS,
            metrics=self.metrics,
            circuit="database_write",
            prepare=prepare,
        )
        self._pool = await pool.open(wait=False)
        self._conn = conn = await Connection.open(
            self._nats, name=f"projector-{self.instance}", role="projector", wait=True, registry=self.metrics
        )
        dlq = DeadLetterQueue(conn, self.metrics)
        writer = self._writer = Writer(
            self._pool,
            dlq,
            self.metrics,
            writers=self.config.writers,
            gap_s=self.config.gap_s,
            rows_max=self.config.batch_rows_max,
            on_stale=StatusAsks(conn),
        )
        for lane in range(self.config.writers):
            self.spawn(f"writer.{lane}", writer.run)
        defined = topology.load(assets.streams_dir())  # consumers are the same in every profile
        for stream in self.config.streams:
            first = len(self.partitions)
            readings = self._readings if stream == subjects.EVENTS else None
            ends, tally = Ends(conn, stream), Tally(self.metrics, stream)
            for p in range(limits.PARTITIONS):
                consumer = defined.get(f"{stream}/projector-{p}")
                partition = PartitionProjector(
                    stream, p, conn, self._pool, writer, self.config, self.metrics, consumer, readings, ends, tally
                )
                self.partitions.append(partition)
                self.spawn(f"{stream}.{p}", partition.run)
            readers = [partition.reader for partition in self.partitions[first:]]
            offers = self._meeting if stream == subjects.EVENTS else None
            spec = defined.get(f"{stream}/projector-0")
            shared = SharedReader(conn, stream, readers, spec, self.metrics, offers=offers)
            self._shared.append(shared)
            self.spawn(f"{stream}.shared", shared.run)
            strays = Strays(stream, conn, self._pool, dlq, self.metrics, partial(self._owns, first))
            self.spawn(f"{stream}.strays", strays.run)
        self._replicas = Replicas(conn, "projector", self.instance, len(self.partitions), self._assign)
        self.spawn("replicas", self._replicas.run)
        self.spawn("watermark", self._show_watermarks)

    def _assign(self, mine: frozenset[int]) -> None:
        self._mine = mine
        for shared in self._shared:
            shared.alone(len(mine) == len(self.partitions))
        for slot, partition in enumerate(self.partitions):
            partition.assign(mine=slot in mine)
        self.changed()

    def _owns(self, slot: int) -> bool:
        return slot in self._mine

    async def _show_watermarks(self) -> None:
        """Broker time up to which everything this replica owns is committed, per stream."""
        while True:
            for stream in self.config.streams:
                times = [
                    p.checkpoint.stored_at.timestamp()
                    for p in self.partitions
                    if p.stream == stream and p.is_projecting and p.checkpoint and p.checkpoint.stored_at
                ]
                if times:
                    self.metrics.projection_watermark.labels(projection=stream).set(min(times))
            await self.clock.sleep(in_step(1.0))

    async def on_drain(self) -> None:
        """Finish the commits under way, then let other replicas take over."""
        for partition in self.partitions:
            partition.close()
        for partition in self.partitions:
            await partition.closed.wait()

    async def teardown(self) -> None:
        """Close the connections."""
        if self._writer is not None:
            self._writer.close()
        if self._conn is not None:
            await self._conn.drain()
        if self._pool is not None:
            await self._pool.close()

    def is_ready(self) -> bool:
        """Whether it is connected, writes, and follows each of its partitions, or waits for an older release."""
        if self._conn is None or not self._conn.is_connected or self._replicas is None:
            return False
        if not self._replicas.members and not self._replicas.older:
            return False
        if self._held_up_s > limits.PROJECT_HELD_UP_S:
            return False
        return all(p.state not in {"retrying", "stopped"} for p in self.partitions)

    @property
    def _held_up_s(self) -> float:
        return 0.0 if self._writer is None else self._writer.held_up_s

    def details(self) -> dict[str, Any]:
        """Members, older ones that are waited for, partitions by state, what waits, and what is wrong with whom."""
        troubled = [p for p in self.partitions if p.error is not None and p.state in {"retrying", "stopped"}]
        return {
            "instance": self.instance,
            "members": sorted(self._replicas.members) if self._replicas else [],
            "waits_for": sorted(self._replicas.older) if self._replicas else [],
            "circuits": {} if self._pool is None else {self._pool.circuit.name: self._pool.circuit.state},
            "partitions": dict(Counter(p.state for p in self.partitions)),
            "held_up_s": round(self._held_up_s, 1),
            "pending": sum(p.pending for p in self.partitions if p.is_projecting),
            "errors": [
                {"stream": p.stream, "partition": p.partition, "state": p.state, **_brief(p.error)} for p in troubled
            ],
        }


def _brief(error: errors.CoordError | None) -> dict[str, str]:
    return {} if error is None else {"code": error.code, "message": error.message, "remedy": error.remedy}
