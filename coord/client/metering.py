"""What a publisher counts, and how it reaches the metrics without costing each message.

Plain integers on the way of a message; prometheus children are brought up to date from
them twice a second and at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from coord.client.config import METRICS, SERVICE_CLASSES
from coord.client.receipt import Receipt
from coord.core.outbox import Outbox
from coord.errors import CoordError, Shed
from coord.telemetry import metrics as telemetry
from coord.telemetry.metrics import Metrics
from coord.wire import subjects

if TYPE_CHECKING:
    from coord.bus.publish import AckPipeline, PubAck
    from coord.client.keeping import Keeper

_OBSERVED_MAX: Final = 4_096
"""Durations kept until the next update; more are brought over at once."""


class PublisherStats(msgspec.Struct, frozen=True):
    """Counts since the publisher began; facts and samples unless said otherwise."""

    accepted: int
    acked: int
    failed: int
    """Ended in an error that is not `Shed`."""
    shed: int
    queued: int
    """Accepted and not sent, now."""
    inflight_messages: int
    """Messages sent and not acknowledged, now."""
    resends: int
    """Messages sent again."""
    spooled_messages: int = 0
    """Messages in the spool on disk and not acknowledged, now."""
    spool_failures: int = 0
    """Writes and fsyncs that the disk refused."""
    spool_repeats: int = 0
    """Messages sent from the spool though nobody could say whether they were stored before."""


class Meter:
    """Counts one publisher; `sync` tells the metrics."""

    def __init__(self, metrics: Metrics | None) -> None:
        """`metrics`: where to count; default the process's."""
        self._metrics = metrics or telemetry.default()
        self.accepted = 0
        self.acked = 0
        self.failed = 0
        self.shed = 0
        self._errors: dict[tuple[str, str], int] = {}
        # Per stream: entries acknowledged, and how long their messages took.
        self._acks: dict[str, tuple[list[int], list[float]]] = {}
        self._frame_entries: list[float] = []
        self._shed_told = 0
        self._resends_told = 0
        self._inflight_told = 0
        self._spooled_told = 0
        self._spool_bytes_told = 0
        self._spool_problems_told = 0
        self._spool_failures_told = 0
        self._spool_repeats_told = 0
        self._queued_told = [0] * len(SERVICE_CLASSES)

    def count_ack(self, receipt: Receipt, ack: PubAck, now: float) -> None:
        """A message was acknowledged."""
        self.acked += receipt.count
        found = self._acks.get(ack.stream)
        if found is None:
            found = self._acks[ack.stream] = ([], [])
        counts, durations = found
        counts.append(receipt.count)
        durations.append(now - receipt.sent_at)
        if receipt.label is not None:
            self._frame_entries.append(receipt.count)
        if len(counts) >= _OBSERVED_MAX:
            self._observe()

    def count_error(self, receipt: Receipt, error: CoordError) -> None:
        """A message ended without being stored."""
        if isinstance(error, Shed):
            self.shed += receipt.count
            return
        self.failed += receipt.count
        stream = subjects.TELEMETRY if receipt.home == METRICS else subjects.EVENTS
        self._errors[stream, error.code] = self._errors.get((stream, error.code), 0) + receipt.count

    def sync(self, outbox: Outbox[Receipt], pipeline: AckPipeline, keeper: Keeper | None = None) -> None:
        """Bring the metrics up to date."""
        m = self._metrics
        for (stream, reason), count in self._errors.items():
            m.publish_errors.labels(stream=stream, reason=reason).inc(count)
        self._errors.clear()
        self._observe()
        if self.shed > self._shed_told:
            m.load_shed.labels(reason="publish_queue_full").inc(self.shed - self._shed_told)
            self._shed_told = self.shed
        if pipeline.resends > self._resends_told:
            m.publish_resends.labels(stream=subjects.EVENTS).inc(pipeline.resends - self._resends_told)
            self._resends_told = pipeline.resends
        # Several publishers of one process share these gauges: each adds what changed.
        m.publish_inflight.inc(pipeline.inflight - self._inflight_told)
        self._inflight_told = pipeline.inflight
        for lane in outbox.lanes:
            m.publish_queued.labels(service_class=lane.name).inc(lane.queue.count - self._queued_told[lane.number])
            self._queued_told[lane.number] = lane.queue.count

        if keeper is not None:
            m.publish_spooled.inc(keeper.records - self._spooled_told)
            m.publish_spool_bytes.inc(keeper.size_bytes - self._spool_bytes_told)
            m.publish_spool_problems.inc(keeper.problems - self._spool_problems_told)
            self._spooled_told, self._spool_bytes_told = keeper.records, keeper.size_bytes
            self._spool_problems_told = keeper.problems
            m.publish_spool_failures.inc(keeper.failures - self._spool_failures_told)
            m.publish_spool_repeats.inc(keeper.repeats - self._spool_repeats_told)
            self._spool_failures_told, self._spool_repeats_told = keeper.failures, keeper.repeats
            m.publish_spool_oldest_seconds.set(keeper.oldest_age_s())

    def _observe(self) -> None:
        for stream, (counts, durations) in self._acks.items():
            if counts:
                self._metrics.events_published.labels(stream=stream).inc(sum(counts))
                telemetry.observe_many(self._metrics.publish_duration_seconds.labels(stream=stream), durations)
                counts.clear()
                durations.clear()
        if self._frame_entries:
            telemetry.observe_many(self._metrics.publish_batch_messages, self._frame_entries)
            self._frame_entries.clear()


class CapabilityMeter:
    """Counts what a worker does with tasks of one capability; `sync` tells the metrics."""

    def __init__(self, metrics: Metrics, capability: str) -> None:
        self._metrics = metrics
        self._capability = capability
        self._waits: dict[str, list[float]] = {}
        self._runs: list[float] = []
        self._outcomes: dict[str, int] = {}
        self._preempted = 0

    def began(self, priority: str, waited_s: float) -> None:
        """A task of this priority is about to run."""
        waits = self._waits.get(priority)
        if waits is None:
            waits = self._waits[priority] = []
        waits.append(waited_s)

    def ended(self, outcome: str, ran_s: float) -> None:
        """It is over."""
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1
        self._runs.append(ran_s)
        if len(self._runs) >= _OBSERVED_MAX:
            self.sync()

    def preempted(self) -> None:
        """It is held for something critical."""
        self._preempted += 1

    def sync(self) -> None:
        """Bring the metrics up to date."""
        m, capability = self._metrics, self._capability
        for priority, waits in self._waits.items():
            telemetry.observe_many(m.task_wait_seconds.labels(capability, priority), waits)
            waits.clear()
        telemetry.observe_many(m.task_run_seconds.labels(capability), self._runs)
        self._runs.clear()
        for outcome, count in self._outcomes.items():
            m.task_outcomes.labels(capability, outcome).inc(count)
        self._outcomes.clear()
        if self._preempted:
            m.task_preempted.labels(capability).inc(self._preempted)
            self._preempted = 0
