"""The query service: answers agents' questions about the log, the tables and used ids, beside any number of replicas.

All instances listen in one queue group, so each request reaches one of them; an instance
holds nothing but answers that it keeps for a while, and stopping one loses nothing but the
requests it was working on, which their callers repeat.
"""

from __future__ import annotations

from typing import Any

import msgspec

from coord.bus import rpc
from coord.bus.connection import Connection
from coord.query import catalogue
from coord.query.answering import Answering
from coord.query.api import LogApi, QuestionApi
from coord.query.config import QueryConfig
from coord.query.http import QueryHttp
from coord.query.queueing import Queueing
from coord.query.reader import LogReader
from coord.query.tenants import Tenants
from coord.query.used import UsedIds
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.store.pool import Pool
from coord.store.reading import Reads
from coord.telemetry import metrics
from coord.wire import subjects


class QueryService(Service):
    """See the module.  The connection is the caller's and outlives the service."""

    def __init__(
        self,
        conn: Connection,
        config: QueryConfig | None = None,
        *,
        pool: Pool | Reads | None = None,
        tables: Reads | None = None,
        http: QueryHttp | None = None,
        clock: Clock | None = None,
        registry: metrics.Metrics | None = None,
    ) -> None:
        """`pool`: tells, or a replica of it, which ids were used before the log's window; opened and closed here.

        `tables`: the same for questions to the tables; None: there are none to ask.  `http`: answers them too.
        """
        super().__init__("query", clock=clock, registry=registry)
        self.config = config or QueryConfig()
        self._conn = conn
        self._pool = pool
        self._tables = tables
        self._http = http
        self.tenants = Tenants(
            conn,
            msgspec.structs.replace(self.config.cache, tags=dict(catalogue.RULES)),
            tenants_max=self.config.tenants_max,
            requests_max=self.config.concurrency,
            metrics=self.metrics,
        )
        self._reader = LogReader(conn)
        self.answering: Answering | None = None
        """Who answers questions to the tables, once that began."""
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
            await self._serve(subjects.rpc_all(service, method), handler, service, method)
        if self._tables is not None:
            await self._tables.open(wait=False)
            queueing = Queueing(self.config.connections, self.metrics)
            self.answering = answering = Answering(self.tenants, self._tables, queueing, self.clock, self.metrics)
            questions = QuestionApi(answering, lambda: self._conn.max_payload)
            await self._serve(subjects.QUESTIONS_ALL, questions.ask, "query", "any")
            if self._http is not None:
                self._http.begin(answering)

    async def _serve(self, subject: str, handler: rpc.Handler, service: str, method: str) -> None:
        self._endpoints.append(
            await rpc.serve(
                self._conn,
                subject,
                handler,
                service=service,
                method=method,
                concurrency=self.config.concurrency,
                waiting=self.config.waiting,
                registry=self.metrics,
            )
        )

    async def on_drain(self) -> None:
        """Answer what was accepted and take no more."""
        if self._http is not None:
            await self._http.end()
        for endpoint in self._endpoints:
            await endpoint.drain()

    async def teardown(self) -> None:
        """Stop listening."""
        for endpoint in self._endpoints:
            await endpoint.close()
        if self._http is not None:
            await self._http.end()
        await self.tenants.close()
        if self._tables is not None:
            await self._tables.close()
        await self._reader.close()
        if self._pool is not None:
            await self._pool.close()

    def is_ready(self) -> bool:
        """Whether requests reach it."""
        return self._conn.is_connected and not self.draining.is_set()

    def details(self) -> dict[str, Any]:
        """What is being worked on."""
        return {"active": sum(endpoint.active for endpoint in self._endpoints), "tenants": len(self.tenants)}
