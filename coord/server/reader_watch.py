"""Ends statements of analysts' logins that take longer than they may.

A login of one fleet has a `statement_timeout` (`coord db role set --timeout`), which it can lift for itself:
PostgreSQL lets everybody.  The bound is also written where the login cannot change it (coord.reader), and this looks
every few seconds who is beyond it: his statement is cancelled, and where that was not enough, his session ended.

Every replica looks; they share nothing, and what is ended twice is ended.
"""

from __future__ import annotations

import random
from typing import Final

from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.runtime.clock import Clock
from coord.runtime.service import Service
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics

_log = logs.get("readers")


class ReaderWatch(Service):
    """See the module.  It starts without its database."""

    def __init__(
        self, database: DatabaseConfig, *, registry: Metrics | None = None, clock: Clock | None = None
    ) -> None:
        """`database`: as somebody who may see and end others' statements.

        That is a superuser, or who was granted pg_read_all_stats and pg_signal_backend.
        """
        super().__init__("reader-watch", registry=registry, clock=clock)
        # Not the pool that operators watch: counted in a registry nobody shows.
        self._pool: Final = Pool(database, metrics=Metrics(CollectorRegistry()))
        self._said = ""
        """What cannot be done and why, until it can: said once."""
        self._rng = random.Random()

    async def setup(self) -> None:
        """Nothing has to be there yet."""
        await self._pool.open(wait=False)

    async def run(self) -> None:
        """Look, sleep; what is away is asked again at the next look."""
        while not self.draining.is_set():
            try:
                self._say(await self.look())
            except errors.CoordError as exc:
                self._say(exc.code, exc)
            await self.clock.sleep(limits.READER_WATCH_S * (0.5 + self._rng.random()))

    async def look(self) -> str:
        """End what is beyond its bound; why that is not to be had, or nothing."""
        async with self._pool.acquire() as conn:
            with translated("readers' statements"):
                known = await conn.fetchrow(statement("reader_watched"))
                if known is None or not known["wanted"]:
                    return ""
                if not known["may"]:
                    return "rights"
                for row in await conn.fetch(statement("reader_overdue"), limits.READER_GRACE_S):
                    self.metrics.db_readers_ended.inc()
                    _log.warning("readers.ended", login=row["login"], pid=row["pid"], seconds=round(row["seconds"], 1))
        return ""

    async def teardown(self) -> None:
        """Close the connection."""
        await self._pool.close()

    def _say(self, why: str, error: Exception | None = None) -> None:
        if why and why != self._said:
            remedy = "GRANT pg_read_all_stats, pg_signal_backend TO this user" if why == "rights" else None
            _log.warning("readers.not_watched", why=why, error=error, remedy=remedy)
        self._said = why
