"""Reads from a replica, as long as what it shows is new enough; from the primary otherwise.

::

    every `probe` ──▶ primary: how far is your log durable? ──▶ replica: how far have you replayed?
                                        │
                     `coord.core.staleness`: at most so old
                                        │
    a read ──▶ not older than the bound, and it answers ──▶ replica
           └─▶ older, unknown, away, no replica of this primary ──▶ primary

Nobody waits for a replica: a read goes where it can go now.  `Reads.route` says where and why, metrics count
both ways, and each change of the way is logged once.  What must be exact has a `Pool` of its own, or proves by what
it reads that the replica has it (`coord.query.used`).

A read on a replica may end with `DatabaseUnavailable` where it stood in the way of what the replica replays; whoever
can repeat it says `run`, which repeats it on the primary.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final, Literal, Self, TypeAlias, TypeVar

import msgspec

from coord import errors, limits
from coord.core.breaker import BreakerPolicy
from coord.core.staleness import Staleness
from coord.runtime import clock
from coord.store.config import DatabaseConfig
from coord.store.pool import Connection, Pool
from coord.store.queries import statement
from coord.store.sqlstate import driver_errors, translated
from coord.telemetry import logs
from coord.telemetry import metrics as telemetry

T = TypeVar("T")

Server: TypeAlias = Literal["replica", "primary"]

Why: TypeAlias = Literal["fresh", "no_replica", "unknown", "stale", "away", "other"]
"""fresh: within the bound; no_replica: none is configured; unknown: its age is not known yet; stale: beyond the bound;
away: it does not answer; other: it is no replica of this primary, or another one than the one that is known."""

_log = logs.get("store.reading")

_SETTINGS: Final = {"default_transaction_read_only": "on"}


class Route(msgspec.Struct, frozen=True):
    """Where a read goes."""

    server: Server
    why: Why
    age_s: float | None = None
    """How old at most what the replica shows is; None: that is not known."""

    @property
    def reason(self) -> str:
        """Why it goes there, in words."""
        return {
            "fresh": f"at most {self.age_s or 0:.1f} s behind",
            "stale": f"the replica is {self.age_s or 0:.1f} s behind",
            "away": "the replica does not answer",
            "other": "what database.replica_url names is no replica of it, or several",
            "no_replica": "there is no replica",
            "unknown": "how far the replica is behind is not known yet",
        }[self.why]


_ALONE: Final = Route("primary", "no_replica")


def pools(
    config: DatabaseConfig,
    *,
    metrics: telemetry.Metrics | None = None,
    circuit: str = "database_read",
    breaker: BreakerPolicy | None = None,
) -> Reads:
    """Reads as `config` says: of its `replica_url`, if there is one, and of its `url`; the rest is `Pool`'s."""
    primary = Pool(config, metrics=metrics, circuit=circuit, breaker=breaker)
    if not config.replica_url:
        return Reads(primary)
    return Reads(primary, config, metrics=metrics, circuit=f"{circuit}_replica")


class Reads:
    """Two pools with one face.  Safe for one event loop; `open` and `close` may be repeated."""

    def __init__(
        self,
        primary: Pool,
        replica: DatabaseConfig | None = None,
        *,
        metrics: telemetry.Metrics | None = None,
        circuit: str = "database_replica",
    ) -> None:
        """`primary` is opened and closed here; `replica`: its `replica_url` and bound count; None: there is none."""
        self.primary: Final = primary
        self._metrics = metrics if metrics is not None else telemetry.default()
        self._replica: Pool | None = None
        self._bound_s = 0.0
        if replica is not None:
            self._bound_s = replica.replica_staleness_max_s
            there = msgspec.structs.replace(replica, url=replica.replica_url)
            self._replica = Pool(
                there, settings=_SETTINGS, metrics=metrics, circuit=circuit, prepare=self._look_before_use
            )
        self._staleness = Staleness()
        self._system_id: int | None = None
        """Of the primary's cluster."""
        self._started_at: datetime | None = None
        """The replica's server, the one of all connections to it."""
        self._trouble: Why | None = None
        """Why the replica is of no use, beside its age."""
        self._prober: asyncio.Task[None] | None = None
        self.answered: Route | None = None
        """Where the newest read went."""
        self._counted = {server: self._metrics.db_reads.labels(server=server) for server in ("replica", "primary")}

    # --- life -------------------------------------------------------------------------------

    async def open(self, *, wait: bool = True) -> Self:
        """Begin; with `wait`, return when a connection to the primary stands and the replica was looked at.

        Raises what `Pool.open` does, of the primary; then nothing is open.
        """
        if self._prober is not None:
            return self
        await self.primary.open(wait=wait)
        if self._replica is not None:
            await self._replica.open(wait=False)
            if wait:
                await self._look_at_first()
            self._prober = asyncio.create_task(self._probe_for_ever(), name="replica-prober")
        return self

    async def close(self) -> None:
        """Stop looking, close both."""
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await prober
        if self._replica is not None:
            await self._replica.close()
        await self.primary.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- use --------------------------------------------------------------------------------

    @property
    def route(self) -> Route:
        """Where a read that begins now goes."""
        if self._replica is None:
            return _ALONE
        age_s = self._staleness.age_s(clock.monotonic())
        if self._trouble is not None:
            return Route("primary", self._trouble, age_s)
        if age_s is None:
            return Route("primary", "unknown")
        return Route("replica", "fresh", age_s) if age_s <= self._bound_s else Route("primary", "stale", age_s)

    @contextlib.asynccontextmanager
    async def acquire(self, timeout_s: float | None = None) -> AsyncIterator[Connection]:
        """A connection for reading, for the length of the block; raises what `Pool.acquire` does."""
        async with self._on(lambda pool: pool.acquire(timeout_s)) as conn:
            yield conn

    @contextlib.asynccontextmanager
    async def transaction(self, timeout_s: float | None = None) -> AsyncIterator[Connection]:
        """A transaction for reading, for the length of the block; raises what `Pool.transaction` does."""
        async with self._on(lambda pool: pool.transaction(timeout_s)) as conn:
            yield conn

    async def run(self, work: Callable[[Connection], Awaitable[T]], timeout_s: float | None = None) -> T:
        """Do `work` where reads go, and once more on the primary where a replica's connection fails under it."""
        if self.route.server == "replica":
            try:
                async with self.acquire(timeout_s) as conn:
                    return await work(conn)
            except errors.DatabaseUnavailable as exc:
                _log.info("reads.repeated", error=exc)
                self._noted(Route("primary", "away"))
                self._counted["primary"].inc()
                async with self.primary.acquire(timeout_s) as conn:
                    return await work(conn)
        async with self.acquire(timeout_s) as conn:
            return await work(conn)

    @contextlib.asynccontextmanager
    async def _on(self, lend: Callable[[Pool], AbstractAsyncContextManager[Connection]]) -> AsyncIterator[Connection]:
        route = self._noted(self.route)
        if self._replica is None:
            self._counted["primary"].inc()
            async with lend(self.primary) as conn:
                yield conn
            return
        async with contextlib.AsyncExitStack() as stack:
            found: Connection | None = None
            if route.server == "replica":
                try:
                    found = await stack.enter_async_context(lend(self._replica))
                    route = self._noted(self.route)  # it may have waited, and the replica grown too old
                    if route.server == "primary":
                        found = None
                        await stack.aclose()
                except (errors.DatabaseUnavailable, errors.DatabaseNotReady, errors.Overloaded) as exc:
                    if not isinstance(exc, errors.Overloaded):
                        self._in_trouble("away", exc)
                    route = self._noted(Route("primary", "away", route.age_s))
            if found is None:
                found = await stack.enter_async_context(lend(self.primary))
            self._counted[route.server].inc()
            yield found

    def _noted(self, route: Route) -> Route:
        """Logged where it is another way than that of the read before."""
        before, self.answered = self.answered, route
        if self._replica is not None and (before is None or before.server != route.server):
            age_s = None if route.age_s is None else round(route.age_s, 3)
            _log.info("reads.from", server=route.server, why=route.why, age_s=age_s, age_max_s=self._bound_s)
        return route

    # --- looking ----------------------------------------------------------------------------

    async def _probe_for_ever(self) -> None:
        every_s = min(max(self._bound_s / 4, limits.REPLICA_PROBE_MIN_S), limits.REPLICA_PROBE_MAX_S)
        while True:
            await asyncio.sleep(every_s)
            await self._probe()

    async def _look_at_first(self) -> None:
        """Have the replica's age, if it replays within a moment what the primary has now."""
        await self._probe()
        until = clock.monotonic() + limits.REPLICA_FIRST_LOOK_S
        while self._trouble is None and not self._staleness.is_known and clock.monotonic() < until:
            await asyncio.sleep(limits.REPLICA_FIRST_LOOK_S / 20)
            await self._ask_replica()

    async def _probe(self) -> None:
        """Ask the primary, then the replica; what does not answer leaves what is known as it is, growing older."""
        asked_at = clock.monotonic()
        with contextlib.suppress(*driver_errors(errors.CoordError)):
            async with self.primary.acquire(limits.REPLICA_PROBE_MAX_S) as conn:
                found = await conn.fetchrow(statement("replica_primary"), timeout=self.primary.config.health_timeout_s)
                if found is not None and found["position"] is not None:
                    self._is_of(found["system_id"])
                    self._staleness.lead_s = found["lead_s"]
                    self._staleness.primary(asked_at, found["position"])
        await self._ask_replica()
        self._show()

    async def _ask_replica(self) -> None:
        assert self._replica is not None, "nobody looks where there is none"
        try:
            async with self._replica.acquire(limits.REPLICA_PROBE_MAX_S) as conn:
                await self._look(conn)
        except driver_errors(errors.CoordError) as exc:
            self._in_trouble("away", exc)

    def _is_of(self, system_id: int) -> None:
        """The primary is of this cluster; of another one than before: nothing is known of its replica."""
        if self._system_id not in (None, system_id):
            self._staleness.forget()
        self._system_id = system_id

    async def _look_before_use(self, conn: Connection) -> None:
        """Of each new connection: a replica that was restarted may show less than it did."""
        with translated("a replica's position"):
            if not await self._look(conn, is_new=True):
                raise errors.DatabaseUnavailable("the replica shows less than it did, or it is another one")

    async def _look(self, conn: Connection, *, is_new: bool = False) -> bool:
        """Note what the server shows; whether it is the replica, and shows no less than it did.

        There is one age, so all connections are of one server: another one takes its place when none is left.
        """
        assert self._replica is not None, "whose connection it is"
        found = await conn.fetchrow(statement("replica_replayed"), timeout=self.primary.config.health_timeout_s)
        if found is None or found["position"] is None or self._system_id not in (None, found["system_id"]):
            self._in_trouble("other", None)
            return False
        if found["started_at"] != self._started_at:
            stats = self._replica.stats
            if self._started_at is not None and not (is_new and stats.idle + stats.used == 0):
                self._in_trouble("other", None)
                conn.terminate()
                return False
            self._started_at = found["started_at"]
            self._staleness.another_replica()
        self._trouble = None
        return self._staleness.replica(found["position"])

    def _in_trouble(self, why: Why, exc: BaseException | None) -> None:
        if self._trouble == "other" and why == "away":
            return  # that is why no connection stands
        if self._trouble != why:
            _log.warning("reads.replica_unusable", why=why, error=exc)
        self._trouble = why

    def _show(self) -> None:
        route = self.route
        self._metrics.db_replica_usable.set(route.server == "replica")
        if route.age_s is not None:
            self._metrics.db_replica_age_seconds.set(route.age_s)
