"""The query service: answers agents' questions about the log and used ids, beside any number of replicas.

All instances listen in one queue group, so each request reaches one of them; an instance
holds no state, and stopping one loses nothing but the requests it was working on, which
their callers repeat.
"""

from __future__ import annotations

from typing import Any

import msgspec

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.query.api import LogApi
from coord.query.reader import LogReader
from coord.query.used import UsedIds
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.store.pool import Pool
from coord.store.reading import Reads
from coord.telemetry import metrics
from coord.wire import subjects


class QueryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the query service."""

    concurrency: int = limits.RPC_CONCURRENCY
    """Requests worked on at a time."""
    waiting: int = limits.RPC_WAITING
    """Requests that wait for their turn; more are refused with `Overloaded`."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        if self.concurrency < 1 or self.waiting < 0:
            raise errors.SettingsError("query: concurrency is at least 1, waiting at least 0")


class QueryService(Service):
    """See the module.  The connection is the caller's and outlives the service."""

    def __init__(
        self,
        conn: Connection,
        config: QueryConfig | None = None,
        *,
        pool: Pool | Reads | None = None,
        clock: Clock | None = None,
        registry: metrics.Metrics | None = None,
    ) -> None:
        """`pool`: tells, or a replica of it, which ids were used before the log's window; opened and closed here."""
        super().__init__("query", clock=clock, registry=registry)
        self.config = config or QueryConfig()
        self._conn = conn
        self._pool = pool
        self._reader = LogReader(conn)
        self._endpoints: list[rpc.Endpoint] = []

    async def setup(self) -> None:
        """Listen for the requests of all tenants."""
        if self._pool is not None:
            await self._pool.open(wait=False)
        api = LogApi(self._reader, lambda: self._conn.max_payload)
        used = UsedIds(self._pool, self._reader.info)
        for service, method, handler in (
            ("log", "read", api.read), ("log", "info", api.info), ("ids", "used", used.used)
        ):  # fmt: skip
            endpoint = await rpc.serve(
                self._conn,
                subjects.rpc_all(service, method),
                handler,
                service=service,
                method=method,
                concurrency=self.config.concurrency,
                waiting=self.config.waiting,
                registry=self.metrics,
            )
            self._endpoints.append(endpoint)

    async def on_drain(self) -> None:
        """Answer what was accepted and take no more."""
        for endpoint in self._endpoints:
            await endpoint.drain()

    async def teardown(self) -> None:
        """Stop listening."""
        for endpoint in self._endpoints:
            await endpoint.close()
        await self._reader.close()
        if self._pool is not None:
            await self._pool.close()

    def is_ready(self) -> bool:
        """Whether requests reach it."""
        return self._conn.is_connected and not self.draining.is_set()

    def details(self) -> dict[str, Any]:
        """What is being worked on."""
        return {"active": sum(endpoint.active for endpoint in self._endpoints)}
