"""The caches of the query service: one for each fleet that asks, as notices are.

A fleet's answers, and what evicts them, are its own: no key, tag or notice of one is ever looked at for another.  The
number of fleets is bounded: who has not asked for longest makes room, and has its answers read again.  So is
what one of them has under way: half of what there is room for while it is alone, a share beside others
(`coord.core.fairness.Room`); the next request is refused while others are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final

from coord import errors
from coord.bus.connection import Connection
from coord.bus.log_ends import Log
from coord.bus.tier import shared_tiers
from coord.cache.config import CacheConfig
from coord.cache.hearing import Caching
from coord.cache.loading import Cache
from coord.cache.showing import Showing
from coord.core.fairness import Room
from coord.telemetry.metrics import Metrics

_AGENT: Final = "_query"
"""Who answers operators for these caches (`coord cache`)."""


class _Tenant:
    def __init__(self, caching: Caching, showing: Showing) -> None:
        self.caching = caching
        self.showing = showing

    async def close(self) -> None:
        await self.showing.close()
        await self.caching.close()


class Tenants:
    """See the module.  `close` it before the connection."""

    def __init__(
        self, conn: Connection, config: CacheConfig, *, tenants_max: int, requests_max: int, metrics: Metrics
    ) -> None:
        """`config`: of each fleet's cache; `requests_max`: of all fleets at a time."""
        self._conn = conn
        self._config = config
        self._tenants_max = tenants_max
        self._metrics = metrics
        self._room = Room(requests_max)
        self._instance = secrets.token_hex(8)
        self._known: OrderedDict[str, _Tenant] = OrderedDict()
        """Who asked last, last."""
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._known)

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[Cache]:
        """A fleet's cache, for one request.  Raises `Overloaded` while it has too many."""
        if not self._room.enter(tenant):
            self._metrics.query_refused.labels("requests").inc()
            raise errors.Overloaded("too many questions of this fleet are under way", requests=self._room.of(tenant))
        try:
            one = self._known.get(tenant) or self._add(tenant)
            self._known.move_to_end(tenant)
            with contextlib.suppress(errors.BusError):  # without notices the tables are asked, and nothing is kept
                await one.caching.open()
            yield one.caching.cache
        finally:
            self._room.leave(tenant)

    def _add(self, tenant: str) -> _Tenant:
        if len(self._known) >= self._tenants_max:
            idle = next((name for name in self._known if not self._room.of(name)), None)
            if idle is None:
                raise errors.Overloaded("too many fleets ask at once", tenants_max=self._tenants_max)
            self._close(self._known.pop(idle))
        tiers = shared_tiers(self._conn, tenant, l2=self._config.l2, l3=self._config.l3)
        log = Log(self._conn, tenant) if tiers else None
        caching = Caching(self._conn, tenant, self._config, self._metrics, tiers, log)
        one = _Tenant(caching, Showing(self._conn, caching.cache, tenant, _AGENT, self._instance))
        one.showing.start()
        self._known[tenant] = one
        return one

    def _close(self, one: _Tenant) -> None:
        task = asyncio.get_running_loop().create_task(one.close(), name="query-forget-tenant")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Drop everything.  Twice is legal."""
        while self._known:
            self._close(self._known.popitem()[1])
        await asyncio.gather(*self._closing)
