"""The composition root of a coord process: which services it runs, and on what.

::

    all = projector ─┐
          query ─────┤
          decider ───┼─ beside every one of them: http (probes, metrics), loop_lag, stats
          maintenance┤
          trimmer ───┤
   memory streams ───┘

Each service has its own connections: one that is slow or wedged keeps nobody from the
others'.  The services start side by side and without their broker or database; readiness
says what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.bus.riding import Meeting
from coord.ops import build
from coord.ops import settings as ops_settings
from coord.ops.gauges import StatsService
from coord.ops.processes import Processes
from coord.projector.service import ProjectorService
from coord.query.http import QueryHttp
from coord.query.service import QueryService
from coord.runtime.cores import Cores
from coord.runtime.heap import Heap
from coord.runtime.http import HttpService
from coord.runtime.lag import LoopLag
from coord.runtime.service import Service, ServiceGroup
from coord.server import together
from coord.server.deciders import KINDS
from coord.server.maintenance import Maintenance
from coord.server.memory_streams import MemoryStreams
from coord.server.reader_watch import ReaderWatch
from coord.server.trimmer import Trimmer
from coord.store import migrations, reading
from coord.store.reading import Reads
from coord.telemetry import logs, metrics
from coord.wire.readings import Readings

if TYPE_CHECKING:
    from coord.ops.settings import Settings

_log = logs.get("serve")


class What(StrEnum):
    """What a process serves."""

    ALL = "all"
    PROJECTOR = "projector"
    QUERY = "query"
    DECIDER = "decider"


def services(
    settings: Settings, what: What = What.ALL, *, processes: int = 1, registry: metrics.Metrics | None = None
) -> ServiceGroup:
    """The services of one process, as one.  Nothing runs before it is started.

    `processes`: more than one runs as many projectors in processes of their own, and none in
    this one; raises `SettingsError` when there is nothing to share.
    """
    registry = registry or metrics.default()
    registry.set_build(build.version())
    if processes != 1 and what in {What.QUERY, What.DECIDER}:
        raise errors.SettingsError(f"only projectors share their work over processes: start more {what} services")
    children = Processes(settings, processes, registry=registry) if processes != 1 else None
    page = None if children is None else children.page
    # Projector and deciders of one process read each message once, and mostly are delivered it once.
    together_here = what is What.ALL and children is None
    readings, meeting = (Readings(KINDS), Meeting()) if together_here else (None, None)
    members = _process(settings, registry)
    if settings.http.enabled:
        members.append(HttpService(settings.http, lambda: group.health(), registry=registry, page=page))  # noqa: PLW0108 - made below
    if what in {What.ALL, What.PROJECTOR}:
        members.append(
            children
            or ProjectorService(
                settings.nats,
                settings.database,
                settings.projector,
                readings=readings,
                meeting=meeting,
                registry=registry,
            )
        )
        window_s = ops_settings.window_s(settings)
        if settings.maintenance.enabled:
            members.append(
                Maintenance(
                    settings.nats,
                    ops_settings.side_pool(settings.database, "maintenance"),
                    settings.ages,
                    settings.maintenance,
                    tenant=settings.identity.tenant,
                    window_s=window_s,
                    archive=settings.archive,
                    registry=registry,
                )
            )
        if settings.trim.enabled:
            members.append(
                Trimmer(
                    settings.nats,
                    ops_settings.side_pool(settings.database, "trimmer"),
                    settings.trim,
                    registry=registry,
                )
            )
        members.append(ReaderWatch(ops_settings.side_pool(settings.database, "readers"), registry=registry))
        members.append(MemoryStreams(settings.nats, ops_settings.topology(settings), registry=registry))
    if what in {What.ALL, What.QUERY}:
        members += _querying(settings, registry)
    if what in {What.ALL, What.DECIDER}:
        members += together.deciding(
            settings.nats, settings.presence, readings=readings, meeting=meeting, registry=registry
        )
    if settings.service.stats_every_s:
        members.append(
            StatsService(settings.nats, settings.database, settings.service.stats_every_s, registry=registry)
        )
    group = ServiceGroup(f"coord-{what}", members, registry=registry)
    return group


def _querying(settings: Settings, registry: metrics.Metrics) -> list[Service]:
    """The query service, and its way over HTTP where that is wanted."""
    config = settings.query
    http = QueryHttp(config.http.tokens) if config.http.enabled else None

    def made(conn: Connection) -> QueryService:
        return QueryService(
            conn,
            config,
            pool=_used_ids_pool(settings, registry),
            tables=_tables_pool(settings, registry),
            http=http,
            registry=registry,
        )

    members: list[Service] = [OnConnection("query", settings.nats, made, registry=registry)]
    if http is not None:
        members.append(HttpService(config.http, None, routes=http.routes, name="query-http", registry=registry))
    return members


def _tables_pool(settings: Settings, registry: metrics.Metrics) -> Reads:
    """For questions: a slow one is ended, so that it keeps a connection from nobody."""
    config = ops_settings.side_pool(settings.database, "query")
    statement_s = min(config.statement_timeout_s, limits.QUERY_LOAD_S)
    config = msgspec.structs.replace(
        config,
        pool_max=settings.query.connections,
        statement_timeout_s=statement_s,
        idle_in_transaction_s=min(config.idle_in_transaction_s, statement_s),
    )
    return reading.pools(config, metrics=registry, circuit="database_query")


def _used_ids_pool(settings: Settings, registry: metrics.Metrics) -> Reads:
    """Two connections at most a server, while ids are asked for that may have been used before the log's window."""
    config = msgspec.structs.replace(ops_settings.side_pool(settings.database, "ids"), pool_max=2)
    breaker = msgspec.structs.replace(config.breaker, open_max_s=limits.USED_CIRCUIT_S)
    return reading.pools(config, metrics=registry, circuit="database_ids", breaker=breaker)


def projector_services(settings: Settings, *, registry: metrics.Metrics) -> ServiceGroup:
    """What one of several projector processes runs: its parent has the probes and the rest."""
    registry.set_build(build.version())
    projector = ProjectorService(settings.nats, settings.database, settings.projector, registry=registry)
    return ServiceGroup("coord-projector", [*_process(settings, registry), projector], registry=registry)


def _process(settings: Settings, registry: metrics.Metrics) -> list[Service]:
    """What every process has of its own."""
    members: list[Service] = [Heap(registry=registry), LoopLag(registry=registry)]
    if settings.service.cpu_policy == "batch":
        members.append(Cores(registry=registry))
    return members


async def prepare(settings: Settings) -> tuple[list[topology.Change], migrations.Report]:
    """Apply streams/ and sql/, waiting for the broker and the database to be there.

    What is wrong and will not pass by itself (a destructive change, an edited migration) is raised.
    """
    wanted = ops_settings.topology(settings)
    conn = await Connection.open(settings.nats, name="coord-prepare", wait=True)
    try:
        changes = await _until_there(lambda: topology.apply(conn, wanted))
    finally:
        await conn.close()
    # A retention that is too short now must not keep the projector from catching up.
    migrate = partial(migrations.migrate, settings.database, settings.ages, settings.archive, late="defer")
    report = await _until_there(lambda: asyncio.to_thread(migrate))
    for note in report.notes:
        _log.warning("prepare.note", note=note)
    _log.info(
        "prepare.done",
        streams_changed=len(changes),
        migrations_applied=list(report.applied),
        edition=report.edition.name,
        lacks=list(report.edition.lacks),
    )
    return changes, report


async def _until_there(attempt: Callable[[], Any]) -> Any:
    while True:
        try:
            return await attempt()
        except errors.CoordError as exc:
            if not exc.retryable:
                raise
            _log.warning("prepare.waiting", error=exc)
        await asyncio.sleep(limits.SUPERVISE_MAX_S / 5)


class OnConnection(Service):
    """A service that wants an open connection, with one of its own; waits for the broker."""

    fatal = (Exception,)

    def __init__(
        self,
        name: str,
        nats: NatsConfig,
        make: Callable[[Connection], Service],
        *,
        registry: metrics.Metrics | None = None,
    ) -> None:
        """`make` builds the service once its connection stands."""
        super().__init__(f"{name}-host", registry=registry)
        self._nats = nats
        self._make = make
        self._conn: Connection | None = None
        self._inner: Service | None = None

    async def setup(self) -> None:
        """Connect, then start the inner service."""
        self._conn = await Connection.open(self._nats, name=self.name, role=self.name, wait=True)
        self._inner = self._make(self._conn)
        await self._inner.start()
        self.spawn("inner", self._inner.wait)

    async def on_drain(self) -> None:
        """Drain the inner service; the connection stays until `teardown`."""
        if self._inner is not None:
            await self._inner.drain()

    async def teardown(self) -> None:
        """Stop the inner service, then close its connection."""
        if self._inner is not None:
            await self._inner.stop()
        if self._conn is not None:
            await self._conn.drain()

    def is_ready(self) -> bool:
        """Whether the inner service is."""
        return self._inner is not None and self._inner.ready

    def details(self) -> dict[str, Any]:
        """The inner service's record."""
        return {"service": self._inner.health()} if self._inner is not None else {}
