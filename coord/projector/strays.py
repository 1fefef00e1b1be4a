"""Messages that no partition has: stored and acknowledged, and outside every partition's filter.

The server transforms a subject only if it is one that may be published to.  A wildcard for a
token (``coord.ev.acme.a1.*.note.n.said``) passes the stream's pattern and is stored as it is.
No consumer of a partition delivers it, so without this loop its author would be told that it
is stored and nobody else anything.

There is hardly ever one, so it has no consumer and no checkpoint.  The replica that should
own partition 0 asks the stream's leader now and then for the next one and parks it.  Parking
it twice changes nothing: a letter's identity is its position in the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.direct import StoredMessage, leadership, next_on_leader
from coord.bus.pull import Delivery
from coord.projector.dead_letters import DeadLetterQueue
from coord.projector.rows import Batch
from coord.store import checkpoints, copy
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects

_log = logs.get("projector")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Strays:
    """Parks the strays of one stream while `is_mine` says so."""

    def __init__(
        self,
        stream: str,
        conn: Connection,
        pool: Pool,
        dlq: DeadLetterQueue,
        metrics: Metrics,
        is_mine: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._filter = subjects.stray_filter(stream)
        self._conn = conn
        self._pool = pool
        self._dlq = dlq
        self._metrics = metrics
        self._is_mine = is_mine
        self._epoch = 0
        self._seq = 0
        """Everything up to here has been looked at, in this epoch."""
        self._end: tuple[str, int] | None = None
        """Who led a stream with copies, and its end, when there was no stray the last time."""

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            if self._is_mine():
                try:
                    await self.sweep()
                except errors.CoordError as exc:
                    # The partitions say it louder; here it is only later.
                    _log.debug("projector.strays_unknown", stream=self._stream, error=str(exc))
            await asyncio.sleep(limits.STRAYS_EVERY_S)

    async def sweep(self) -> int:
        """Park what has come since the last time, a bounded number; how many that were.

        Raises what the bus and the store raise; what was parked until then stays parked.
        """
        info = await self._conn.api(f"STREAM.INFO.{self._stream}")
        async with self._pool.acquire() as db:
            checkpoint = await checkpoints.read(db, self._stream, 0)
            # The stream must be the one of the epoch: its strays have that epoch in their identity.
            if checkpoint is None or checkpoint.stream_created != datetime.fromisoformat(info["created"]):
                return 0
            if checkpoint.epoch != self._epoch:
                prefix = self._filter.removesuffix(">")
                self._seq = await db.fetchval(statement("last_stray"), self._stream, checkpoint.epoch, prefix)
                self._epoch = checkpoint.epoch
                self._end = None
        last_seq, leader = info["state"]["last_seq"], leadership(info)
        before, self._end = self._end, None
        parked = 0
        while self._seq < last_seq and parked < limits.STRAYS_PER_SWEEP:
            message = await next_on_leader(self._conn, self._stream, self._filter, self._seq + 1)
            if message is None:
                if leader:
                    # Who said so may be a leader of before, for whom the end is not yet there: see `leadership`.
                    self._end = leader, last_seq
                    last_seq = before[1] if before is not None and before[0] == leader else self._seq
                self._seq = max(self._seq, last_seq)
                break
            await self._park(message)
            self._seq = message.seq
            parked += 1
        return parked

    async def _park(self, message: StoredMessage) -> None:
        stored_ns = (message.stored_at - _EPOCH) // _MICROSECOND * 1000
        batch = Batch(self._stream, 0, self._epoch)
        batch.add(Delivery(message.seq, stored_ns, message.subject, message.headers, message.body))
        await self._dlq.publish(batch.letters)
        async with self._pool.transaction() as db:
            await copy.dead_letters(db, [letter.row for letter in batch.letters])
        for letter in batch.letters:
            self._metrics.messages_dead_lettered.labels(stream=self._stream, reason=letter.row.code).inc()
            _log.warning(
                "projector.stray", stream=self._stream, seq=message.seq, subject=message.subject, code=letter.row.code
            )


_MICROSECOND = datetime.resolution
