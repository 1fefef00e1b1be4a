"""What a stream's partitions have done, told to the metrics once a turn of the loop: a transaction settles many."""

from __future__ import annotations

import asyncio
import time

from coord.projector.rows import Batch
from coord.telemetry.metrics import Metrics, observe_many


class Tally:
    """Of one stream."""

    def __init__(self, metrics: Metrics, stream: str) -> None:
        self._metrics = metrics
        self._stream = stream
        label = f"{stream}.projector"
        self._m_consumed = metrics.events_consumed.labels(consumer=label)
        self._m_acked = metrics.messages_settled.labels(consumer=label, result="ack")
        self._m_flush = metrics.db_flush_duration_seconds.labels(stream=stream)
        self._m_events = metrics.db_rows_written.labels(table="event")
        self._m_samples = metrics.db_rows_written.labels(table="metric_sample")
        self._m_rows = metrics.db_flush_rows.labels(stream=stream)
        self._m_end_to_end = metrics.event_end_to_end_seconds.labels(stream=stream)
        self._scheduled = False
        self._consumed = self._acked = self._events = self._samples = 0
        self._took_s: list[float] = []
        self._rows: list[int] = []
        self._stored_s: list[float] = []

    def received(self, messages: int) -> None:
        """So many were decoded."""
        self._consumed += messages
        self._tell_soon()

    def committed(self, batch: Batch, took_s: float) -> None:
        """A batch is in the tables, so long after it was offered."""
        assert batch.first is not None
        assert batch.last is not None
        self._acked += batch.messages
        self._events += len(batch.events)
        self._samples += len(batch.samples)
        self._took_s.append(took_s)
        self._rows.append(len(batch))
        self._stored_s += batch.first.stored_ns / 1e9, batch.last.stored_ns / 1e9
        self._tell_soon()
        for letter in batch.letters:
            self._metrics.messages_dead_lettered.labels(stream=self._stream, reason=letter.row.code).inc()

    def _tell_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._scheduled = False
        self._m_consumed.inc(self._consumed)
        self._consumed = 0
        if not self._rows:
            return
        now = time.time()
        self._m_acked.inc(self._acked)
        self._m_events.inc(self._events)
        self._m_samples.inc(self._samples)
        observe_many(self._m_flush, self._took_s)
        observe_many(self._m_rows, self._rows)
        observe_many(self._m_end_to_end, [now - stored_s for stored_s in self._stored_s])
        self._acked = self._events = self._samples = 0
        self._took_s, self._rows, self._stored_s = [], [], []
