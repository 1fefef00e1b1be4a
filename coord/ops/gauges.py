"""The gauges of ``/metrics`` that nobody counts on the way: streams, consumers, tables."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry

from coord.bus.connection import Connection, NatsConfig
from coord.ops import judge
from coord.ops.settings import side_pool
from coord.ops.stats import PROJECTED, ProjectionStats, Snapshot, collect
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics

_log = logs.get("stats")


_ANSWER_S: Final = 5.0
"""How long one statement may take: while a database that hangs is waited for, gauges stay what they were."""


class StatsService(Service):
    """Refreshes the gauges of streams, consumers and tables while a process serves."""

    def __init__(
        self,
        nats: NatsConfig,
        database: DatabaseConfig,
        every_s: float,
        *,
        registry: Metrics | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__("stats", registry=registry, clock=clock)
        self.snapshot: Snapshot | None = None
        """The last one."""
        self._projected: tuple[ProjectionStats, ...] = ()
        self._projected_at = self.clock.now()
        """What the database said last, and when."""
        self._nats = nats
        self._database = database
        self._every_s = every_s

    async def run(self) -> None:
        """Ask, show, sleep.  What is away is counted and asked again."""
        # Its own pool is not what operators watch: counted in a registry nobody shows.
        pool = await Pool(_impatient(self._database), metrics=Metrics(CollectorRegistry())).open(wait=False)
        conn: Connection | None = None
        try:
            while not self.draining.is_set():
                if conn is None:
                    conn = await Connection.open(self._nats, name="coord-stats", role="stats", wait=True)
                self.snapshot = await collect(conn, pool, listen=False, now=self.clock.now())
                self._show(self.snapshot)
                await self.clock.sleep(self._every_s)
        finally:
            await pool.close()
            if conn is not None:
                await conn.close()

    def is_ready(self) -> bool:
        """Always: whether the others are well is not this service's to say."""
        return True

    def _show(self, snapshot: Snapshot) -> None:
        m = self.metrics
        for problem in snapshot.failures:
            m.stats_errors.labels(source=problem.what).inc()
            _log.debug("stats.unavailable", source=problem.what, error=problem.message)
        for s in snapshot.streams:
            self._set(m.stream_messages, s.messages, s.name)
            self._set(m.stream_bytes, s.bytes, s.name)
            self._set(m.stream_limit_messages, s.limit_messages, s.name)
            self._set(m.stream_limit_bytes, s.limit_bytes, s.name)
        for c in snapshot.consumers:
            self._set(m.consumer_pending_messages, c.pending, c.stream, c.name)
            self._set(m.consumer_ack_pending_messages, c.ack_pending, c.stream, c.name)
        if snapshot.projection:
            self._projected, self._projected_at = snapshot.projection, snapshot.at
        since_s = (snapshot.at - self._projected_at).total_seconds()
        for p in self._projected:
            lag_s = judge.lag_seconds(p, snapshot.stream(p.stream), since_s)
            if lag_s is not None:
                self._set(m.consumer_lag_seconds, lag_s, p.stream, "projector")
        if snapshot.database is not None and snapshot.database.migrated:
            for stream in PROJECTED:
                letters = sum(d.letters for d in snapshot.dead_letters if d.stream == stream)
                self._set(m.dead_letters, letters, stream)

    @staticmethod
    def _set(gauge: Any, value: float, *labels: str) -> None:
        gauge.labels(*labels).set(value)


def _impatient(database: DatabaseConfig) -> DatabaseConfig:
    config = side_pool(database, "stats")
    statement_s = min(config.statement_timeout_s, _ANSWER_S)
    idle_s = min(config.idle_in_transaction_s, statement_s)
    return msgspec.structs.replace(config, statement_timeout_s=statement_s, idle_in_transaction_s=idle_s)
