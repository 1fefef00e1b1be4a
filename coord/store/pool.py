"""A pool of asyncpg connections that cannot hang and says how long callers waited.

asyncpg's own pool was left (docs/adr/0010): it hands out dead connections, resets each one
with a round trip on release without a deadline, falls below its minimum when idle, and does
not say how long anybody waited.  Here:

* a caller waits for a *slot*, first come first served, at most `acquire_timeout_s`, then gets
  `Overloaded`;
* the slot's connection is the most recently used idle one, or a new one;
* idle connections are asked `SELECT 1` every `health_after_s`; one that could not be asked in
  the meantime is asked before it is handed out.  Once one turns out to be dead, all that were
  idle at that moment are asked first;
* a database that does not answer is left alone: after a few failures in a row callers are
  refused at once (`DatabaseCircuitOpen`), and one of them at a time tries whether it is back;
* every wait on the network has a deadline: connecting, each statement, a transaction as a
  whole.  Behind a stalled network nothing can be cancelled politely, so the socket is closed
  and the server rolls back.

A connection goes back as it is: sessions share their settings, whoever changes one does so
with SET LOCAL.  One that comes back inside a transaction, after a cancellation or after
losing the server is closed, not repaired.

    slot free ──acquire──▶ idle connection ──asleep too long?──▶ SELECT 1 ──▶ handed out
        ▲                     (none: connect)                      (dead: next)      │
        └──────────────────────────── release: kept, or closed if in doubt ◀─────────┘
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import asyncpg
import msgspec

from coord import errors, limits
from coord.core.breaker import BreakerPolicy
from coord.runtime.circuit import Call, Circuit
from coord.store import slow
from coord.store.config import DatabaseConfig
from coord.store.sqlstate import classify, driver_errors
from coord.telemetry import metrics as telemetry

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

PROJECTOR_SETTINGS: Final[Mapping[str, str]] = {
    "synchronous_commit": "off",
    "coord.direct_compress": "on",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
}
"""Session settings of the projector.

synchronous_commit off is safe there: a crash of the server that loses the last commits loses
their rows and their checkpoint together, and the log still holds the facts (DESIGN §6).
coord.direct_compress is coord's own: whether `copy` may compress large batches on the way in
where the server can (community).
All its statements find rows by a primary key or its first columns, most given as arrays: planned once
(docs/adr/0084), and by index also where a table was empty when that was, or was not analyzed since.
"""

SESSION: Final[Mapping[str, str]] = {
    "search_path": "coord, public",  # time_bucket: the extension's, or the shim in coord
    "timezone": "GMT",  # built in; UTC is a file, which a server in a private prefix may lack
    "jit": "off",  # our statements are short; compiling one takes longer than running it
    # The server notices a vanished client (a partition, a pulled cable) within 25 s.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""Settings of every session."""

_CLIENT_GRACE_S: Final = 2.0
"""The server cancels a statement by itself; the client hangs up this much later."""

_KEEPER_S: Final = 10.0
"""How often idle connections are counted and closed or added."""

_PLAN_AGAIN_S: Final = 0.02
"""How often it is looked whether a slot is free for the plan of a slow statement."""


class PoolStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool is doing now and has done so far."""

    idle: int
    used: int
    waiting: int
    acquired_total: int
    refused_total: int
    """Callers that got `Overloaded`."""
    wait_s_total: float
    wait_s_max: float
    connects_total: int
    connect_errors_total: int
    unhealthy_total: int
    """Idle connections that turned out to be dead."""


class _Idle(msgspec.Struct, frozen=True, eq=False):
    conn: Connection
    since: float
    asked: float
    """When it was last known to live: used, or asked."""


class Pool:
    """Connections to one database.  Safe for one event loop; `open` and `close` may be repeated."""

    def __init__(
        self,
        config: DatabaseConfig,
        *,
        settings: Mapping[str, str] | None = None,
        metrics: telemetry.Metrics | None = None,
        circuit: str = "database_read",
        breaker: BreakerPolicy | None = None,
        prepare: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> None:
        """`settings`: session settings on top of coord's own (`PROJECTOR_SETTINGS`).

        `prepare`: awaited with each new connection, as a part of connecting.

        `circuit`: what its circuit is called in metrics and logs; `breaker`: when it opens, instead of
        what the config says.
        """
        config.validate()
        self.config: Final = config
        self._settings = {
            **SESSION,
            "application_name": config.application_name,
            "statement_timeout": f"{config.statement_timeout_s * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{config.idle_in_transaction_s * 1000:.0f}",
            **(settings or {}),
        }
        self._prepare = prepare
        self._metrics = metrics if metrics is not None else telemetry.default()
        self.circuit: Final = Circuit(
            circuit,
            breaker or config.breaker,
            counts=(errors.DatabaseUnavailable, errors.DatabaseNotReady),
            error=errors.DatabaseCircuitOpen,
            metrics=self._metrics,
        )
        self._slow = slow.SlowQueries(config.slow_query_ms, self._explain, metrics=self._metrics)
        self._slots = asyncio.Semaphore(config.pool_max)
        self._idle: deque[_Idle] = deque()
        """The most recently used on the right."""
        self._used: set[Connection] = set()
        self._suspect_before = float("-inf")
        """Connections idle since before this moment are asked before they are handed out."""
        self._keeper: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._opened = False
        self._shown: dict[str, int] = {}
        self._waiting = 0
        self._acquired = self._refused = self._connects = self._connect_errors = self._unhealthy = 0
        self._wait_s = self._wait_s_max = 0.0

    # --- life ----------------------------------------------------------------------------

    async def open(self, *, wait: bool = True) -> Self:
        """Begin; with `wait`, return only when a connection stands.

        Raises `DatabaseUnavailable` or `DatabaseNotReady` then.  Without `wait` nothing is
        raised here: a service starts before its database.
        """
        if self._opened:
            return self
        self._opened = True
        if wait:
            try:
                await self.check()
            except BaseException:
                self._opened = False
                raise
        self._keeper = asyncio.create_task(self._keep(), name="pool-keeper")
        return self

    async def close(self, timeout_s: float = 5.0) -> None:
        """Take no new callers, wait `timeout_s` for those inside, then hang up."""
        self._opened = False
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        for conn in list(self._used):
            conn.terminate()
        idle = [entry.conn for entry in self._idle]
        self._idle.clear()
        await asyncio.gather(*(_hang_up(conn) for conn in idle))
        await self._slow.close()
        self._show()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- use -----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def acquire(self, timeout_s: float | None = None) -> AsyncIterator[Connection]:
        """A connection for the length of the block.

        Raises `Overloaded` when none becomes free within `timeout_s` (default
        `acquire_timeout_s`), `DatabaseUnavailable` or `DatabaseNotReady` when none can be
        made, `DatabaseCircuitOpen` (a `DatabaseUnavailable`) at once while the database does
        not answer.  A driver's error inside the block leaves it as coord's.
        """
        call = self.circuit.enter()
        try:
            conn = await self._take(self.config.acquire_timeout_s if timeout_s is None else timeout_s, call)
            async with self._lend(conn, call):
                yield conn
        finally:
            call.close()

    @contextlib.asynccontextmanager
    async def _lend(self, conn: Connection, call: Call) -> AsyncIterator[None]:
        keep = False
        try:
            yield
            keep = True
            call.succeeded()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError) as exc:
            error = classify(exc)
            keep = not self._lost(error, call)
            self._metrics.db_errors.labels(op="query").inc()
            raise error from exc
        except errors.CoordError as exc:
            keep = not self._lost(exc, call)
            raise
        except Exception:
            keep = True  # not the connection's fault
            raise
        finally:
            self._give_back(conn, keep=keep)

    @contextlib.asynccontextmanager
    async def transaction(self, timeout_s: float | None = None) -> AsyncIterator[Connection]:
        """One transaction for the length of the block: commits at its end, rolls back on any error.

        `timeout_s` (default `statement_timeout_s`) bounds it as a whole: then the connection is
        closed under it, which ends as `DatabaseUnavailable`.  When that happens during COMMIT,
        whether it was committed is unknown.
        """
        async with self.bounded(timeout_s) as conn:
            transaction = conn.transaction()
            try:
                await transaction.start()
                yield conn
                await transaction.commit()
            except (asyncio.CancelledError, TimeoutError, errors.DatabaseUnavailable):
                conn.terminate()  # a ROLLBACK would wait for an answer too; the server does it by itself
                raise
            except BaseException:
                await _roll_back(conn, transaction)
                raise

    @contextlib.asynccontextmanager
    async def bounded(self, timeout_s: float | None = None) -> AsyncIterator[Connection]:
        """As `acquire`, for as long as a transaction may take: then the connection is closed under the block."""
        limit_s = self.config.statement_timeout_s if timeout_s is None else timeout_s
        async with self.acquire() as conn:
            guard = asyncio.get_running_loop().call_later(limit_s, conn.terminate)
            try:
                yield conn
            finally:
                guard.cancel()

    async def check(self) -> None:
        """Raise unless the database answers a question now: for readiness."""
        async with self.acquire() as conn:
            await conn.fetchval("SELECT 1", timeout=self.config.health_timeout_s)

    @property
    def stats(self) -> PoolStats:
        """Counts, now and since the pool was made."""
        return PoolStats(
            idle=len(self._idle),
            used=len(self._used),
            waiting=self._waiting,
            acquired_total=self._acquired,
            refused_total=self._refused,
            wait_s_total=self._wait_s,
            wait_s_max=self._wait_s_max,
            connects_total=self._connects,
            connect_errors_total=self._connect_errors,
            unhealthy_total=self._unhealthy,
        )

    # --- taking and giving back ----------------------------------------------------------

    async def _take(self, timeout_s: float, call: Call) -> Connection:
        started = time.monotonic()
        if not self._opened:
            raise errors.StoreError("the pool is not open")
        await self._wait_for_slot(timeout_s)
        try:
            if not self._opened:
                raise errors.StoreError("the pool was closed")
            call.renew()  # whoever waited before the circuit opened is refused too
            conn = await self._live_connection(call)
        except BaseException as exc:
            self._slots.release()
            if isinstance(exc, errors.DatabaseUnavailable | errors.DatabaseNotReady):
                call.failed(exc)
            raise
        self._used.add(conn)
        self._empty.clear()
        waited = time.monotonic() - started
        self._acquired += 1
        self._wait_s += waited
        self._wait_s_max = max(self._wait_s_max, waited)
        self._metrics.db_pool_wait_seconds.observe(waited)
        self._show()
        return conn

    async def _wait_for_slot(self, timeout_s: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # free: returns without yielding
            return
        self._waiting += 1
        self._metrics.db_pool_waiting.inc()
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            self._refused += 1
            self._metrics.db_errors.labels(op="acquire").inc()
            raise errors.Overloaded(
                f"all {self.config.pool_max} database connections were in use for {timeout_s:g} s",
                retry_after_s=timeout_s,
            ) from None
        finally:
            self._waiting -= 1
            self._metrics.db_pool_waiting.dec()

    async def _live_connection(self, call: Call) -> Connection:
        while self._idle:
            entry = self._idle.pop()
            if entry.conn.is_closed():
                continue
            if self._is_trusted(entry):
                return entry.conn
            if await self._is_alive(entry):
                call.proved()
                return entry.conn
        conn = await self._connect()
        call.proved()
        return conn

    def _is_trusted(self, entry: _Idle) -> bool:
        age_s = time.monotonic() - entry.asked
        return age_s < self.config.health_after_s and entry.asked > self._suspect_before

    async def _is_alive(self, entry: _Idle) -> bool:
        now = time.monotonic()
        try:
            async with asyncio.timeout(self.config.health_timeout_s):
                await entry.conn.fetchval("SELECT 1")
        except BaseException as exc:
            entry.conn.terminate()
            if not isinstance(exc, driver_errors()):
                raise
            self._unhealthy += 1
            self._suspect_before = now
            self._metrics.db_errors.labels(op="health").inc()
            return False
        return True

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self.config.connect_timeout_s):
                conn = await self._open_connection()
        except asyncpg.exceptions.ClientConfigurationError as exc:
            raise errors.SettingsError(f"database.url: {exc}", url=self.config.safe_url) from exc
        except driver_errors() as exc:
            self._connect_errors += 1
            self._metrics.db_errors.labels(op="connect").inc()
            raise _cannot_connect(exc, self.config) from exc
        self._connects += 1
        conn.add_termination_listener(self._forget)
        return conn

    async def _open_connection(self) -> Connection:
        conn: Connection = await asyncpg.connect(
            self.config.url,
            # Ours cancels; asyncpg's own would only be a second clock.
            timeout=self.config.connect_timeout_s * 2,
            command_timeout=self.config.statement_timeout_s + _CLIENT_GRACE_S,
            server_settings=self._settings,
            connection_class=slow.Timed,
        )
        self._slow.listen(conn)
        if self._prepare is not None:
            try:
                await self._prepare(conn)
            except BaseException:
                conn.terminate()
                raise
        return conn

    async def _explain(self, sql: str, args: tuple[Any, ...]) -> list[str]:
        # Not in the queue: a plan takes nobody's place, and counts as no refusal.  Whoever asks has a deadline.
        while self._slots.locked():  # noqa: ASYNC110 - a semaphore tells only those who queue
            await asyncio.sleep(_PLAN_AGAIN_S)
        async with self.acquire(limits.SLOW_EXPLAIN_S) as conn:
            return await slow.explain(conn, sql, args)

    def _forget(self, conn: object) -> None:
        """The server hung up on a connection, or we did: whoever comes next must not get it."""
        self._idle = deque(entry for entry in self._idle if entry.conn is not conn)

    def _give_back(self, conn: Connection, *, keep: bool) -> None:
        self._used.discard(conn)
        if not self._used:
            self._empty.set()
        if keep and self._opened and not conn.is_closed() and not conn.is_in_transaction():
            now = time.monotonic()
            self._idle.append(_Idle(conn, now, now))
        else:
            conn.terminate()
        self._slots.release()
        self._show()

    def _lost(self, error: errors.CoordError, call: Call) -> bool:
        """Whether `error` puts this connection in doubt, and with it those that are idle."""
        lost = isinstance(error, errors.DatabaseUnavailable) and not isinstance(error, errors.CircuitOpen)
        if lost:
            self._suspect_before = time.monotonic()
        if lost and not _is_one_statements(error):
            call.failed(error)
        elif isinstance(error, errors.StoreError):
            call.succeeded()  # it answered, if only to refuse
        return lost

    def _show(self) -> None:
        # By difference: several pools of one process add up in the same gauge.
        for state, count in (("idle", len(self._idle)), ("used", len(self._used))):
            before = self._shown.get(state, 0)
            if count != before:
                self._metrics.db_pool_connections.labels(state=state).inc(count - before)
                self._shown[state] = count

    # --- keeping the minimum, closing what is not needed ------------------------------------

    async def _keep(self) -> None:
        while True:
            await self._close_surplus()
            await self._ask_idle()
            await self._fill_up()
            await asyncio.sleep(min(_KEEPER_S, self.config.idle_s / 2, self.config.health_after_s / 3))

    async def _close_surplus(self) -> None:
        cutoff = time.monotonic() - self.config.idle_s
        while self._idle and self._idle[0].since < cutoff and self._size > self.config.pool_min:
            await _hang_up(self._idle.popleft().conn)
        self._show()

    async def _ask_idle(self) -> None:
        """Ask those that were not heard of for `health_after_s`; the dead are closed, their time idle goes on."""
        for entry in list(self._idle):
            if self._is_trusted(entry):
                continue
            if self._slots.locked():
                return  # all are wanted, and whoever takes one asks it
            async with self._slots:
                if entry not in self._idle:
                    continue
                place = self._idle.index(entry)
                self._idle.remove(entry)
                if await self._is_alive(entry) and self._opened:
                    asked = _Idle(entry.conn, entry.since, time.monotonic())
                    self._idle.insert(min(place, len(self._idle)), asked)
                else:
                    entry.conn.terminate()
                self._show()

    async def _fill_up(self) -> None:
        while self._size < self.config.pool_min and not self._slots.locked():
            try:
                with self.circuit.guard():  # open: a caller tries whether it is back
                    async with self._slots:
                        conn = await self._connect()
            except errors.CoordError:
                return  # counted; the next caller is told why
            now = time.monotonic()
            self._idle.appendleft(_Idle(conn, now, now))
            self._show()

    @property
    def _size(self) -> int:
        return len(self._idle) + len(self._used)


_ONE_STATEMENTS: Final = ("25P0", "40", "55", "57014")
"""SQLSTATEs of `DatabaseUnavailable` that are about one transaction: idle or running too long, a deadlock, a
lock, a statement's timeout.  The database is well, and nobody else has to stop asking."""


def rows_of(status: str) -> int:
    """How many rows a statement wrote, as its status tells: 3 of ``INSERT 0 3`` and of ``COPY 3``."""
    return int(status.rpartition(" ")[2])


def _is_one_statements(error: errors.CoordError) -> bool:
    return str(error.details.get("sqlstate", "")).startswith(_ONE_STATEMENTS)


def _cannot_connect(exc: BaseException, config: DatabaseConfig) -> errors.CoordError:
    error = classify(exc, "connect")
    text = "no answer" if isinstance(exc, TimeoutError) else error.message
    details = {k: v for k, v in error.details.items() if k == "sqlstate"}
    kind = type(error) if isinstance(error, errors.DatabaseNotReady) else errors.DatabaseUnavailable
    return kind(f"cannot connect to the database: {text}", url=config.safe_url, **details)


async def _roll_back(conn: Connection, transaction: asyncpg.transaction.Transaction) -> None:
    if conn.is_closed() or not conn.is_in_transaction():
        return
    try:
        await transaction.rollback()
    except BaseException as exc:
        conn.terminate()
        if not isinstance(exc, driver_errors()):
            raise


async def _hang_up(conn: Connection) -> None:
    """Close politely, but not for long."""
    with contextlib.suppress(*driver_errors()):
        await conn.close(timeout=1.0)
