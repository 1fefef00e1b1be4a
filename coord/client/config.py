"""Settings of a client: how it reaches the broker, who it speaks as, how it publishes.

Every field has a default that suits an agent; nothing here reads the environment or a file
(`coord.ops.settings` does, for coord's own processes).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from coord import limits
from coord.bus.connection import NatsConfig
from coord.cache.config import CacheConfig
from coord.core.batching import BatchPolicy
from coord.core.lanes import LanePolicy
from coord.core.retry import RetryPolicy
from coord.core.window import WhenFull
from coord.errors import SettingsError
from coord.wire.codec import Content

CRITICAL, STATUS, METRICS = 0, 1, 2
"""The lanes, by priority."""

SERVICE_CLASSES = ("critical", "status", "metrics")
"""Their names, as `coord.wire.authors` gives them to kinds of facts."""

_INFLIGHT_SHARES = (2, 4, 4)
"""Half of the in-flight bound is for critical facts, a quarter each for status and metrics."""


class PublisherConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How facts and samples are published.  Bounds are per client; "per class" is said where meant."""

    content: Content = "json"
    """Encoding of single facts that are emitted; frames are always MessagePack, what coordinates (tasks, …) is JSON."""
    inflight_messages: int = limits.PUBLISH_INFLIGHT_MESSAGES
    """Unacknowledged messages: half for critical, a quarter each for status and metrics."""
    inflight_bytes: int = limits.PUBLISH_INFLIGHT_BYTES
    """Unacknowledged bytes, split in the same way."""
    queue_entries: int = limits.PUBLISH_QUEUE_ENTRIES
    """Facts or samples accepted and not yet sent, per class."""
    queue_bytes: int = limits.PUBLISH_QUEUE_BYTES
    """The same in bytes, per class."""
    overload_wait_s: float = limits.OVERLOAD_WAIT_S
    """How long `emit` of a critical fact waits for room in a full queue before `Overloaded`."""
    order: Literal["auto", "always", "pipelined"] = "auto"
    """Whether a message waits until the one before it *of its key or series* is acknowledged.

    ``pipelined``: no; several of a key are on their way together, and a replicated log whose leader dies may store
    them in another order.  ``always``: yes; a key has one message per round trip (facts and samples that travel in
    frames wait together, so their frames grow), other keys are not affected.  ``auto``: yes where the server is part
    of a cluster.  What it costs: docs/benchmarks.md."""
    adaptive: bool = False
    """Wait for company only where company came of late; False: always as long as the ``…_linger_ms`` say.

    Less delay while little is said, up to a seventh more CPU per fact when saturated (docs/benchmarks.md)."""
    status_linger_ms: int = 100
    """How long a status fact waits for company, at most; an idle publisher sends at once."""
    progress_linger_ms: int = 10
    """The same for ``progress``, which somebody may be watching."""
    status_entries: int = limits.FRAME_ENTRIES_MAX
    """Facts of one status frame."""
    metrics_linger_ms: int = 1_000
    """How long a sample waits for company, at most."""
    metrics_entries: int = 100
    """Samples of one frame."""
    frame_bytes: int = limits.EVENT_BYTES_MAX
    """Bytes of one frame; at most the broker's max_payload less the headers."""
    compress_bytes: int = limits.COMPRESS_BYTES
    """Frames of so many bytes and more travel as zstd, where that makes them a tenth smaller; 0: none do."""
    open_frames: int = 1_024
    """Keys (status) or series (metrics) with a frame being filled, per class."""
    retry: RetryPolicy = RetryPolicy()
    spool: str | None = None
    """Directory for what is accepted while there is no broker; None: it waits in memory, up to its deadline."""
    spool_bytes: int = limits.SPOOL_BYTES
    """Bytes of its files; when it is full, what comes waits in the queues."""
    drain_s: float = limits.DRAIN_S
    """How long leaving ``async with`` takes at most: for what runs, for acks, for the goodbye; then it gives up and
    says so."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        self.retry.validate()
        if self.inflight_messages < 4 or self.inflight_bytes < 4 or self.queue_entries < 1 or self.queue_bytes < 1:
            raise SettingsError("publish: queues hold at least one entry, and four messages may be in flight")
        if min(self.status_linger_ms, self.progress_linger_ms, self.metrics_linger_ms) < 0:
            raise SettingsError("publish: a linger must not be negative")
        if max(self.status_linger_ms, self.progress_linger_ms, self.metrics_linger_ms) >= self.retry.deadline_s * 1000:
            raise SettingsError("publish: a linger must be below the deadline")
        if self.spool_bytes < limits.SPOOL_SEGMENT_BYTES:
            raise SettingsError("publish: a spool has at least one segment", bytes_min=limits.SPOOL_SEGMENT_BYTES)
        if self.compress_bytes < 0:
            raise SettingsError("publish: compress_bytes must not be negative; 0 turns compression off")
        if self.overload_wait_s < 0 or self.drain_s < 0:
            raise SettingsError("publish: times must not be negative")
        for policy in self.lanes(limits.FRAME_BYTES_MAX):
            if policy.batch is not None:
                policy.batch.validate()

    def lanes(self, max_payload: int) -> list[LanePolicy]:
        """The outbox's lanes, for a broker that takes messages of `max_payload` bytes."""
        frame_bytes = max(1, min(self.frame_bytes, max_payload - limits.HEADERS_BYTES_MAX))

        def lane(number: int, batch: BatchPolicy | None, when_full: WhenFull) -> LanePolicy:
            return LanePolicy(
                name=SERVICE_CLASSES[number],
                when_full=when_full,
                queue_entries=self.queue_entries,
                queue_bytes=self.queue_bytes,
                inflight_messages=max(1, self.inflight_messages // _INFLIGHT_SHARES[number]),
                inflight_bytes=max(1, self.inflight_bytes // _INFLIGHT_SHARES[number]),
                batch=batch,
                keyed=number != METRICS,
            )

        def batch(entries: int, linger_ms: int) -> BatchPolicy:
            return BatchPolicy(
                entries_max=entries,
                size_max=frame_bytes,
                linger_s=linger_ms / 1000,
                open_max=self.open_frames,
                adaptive=self.adaptive,
            )

        return [
            lane(CRITICAL, None, WhenFull.WAIT),
            lane(STATUS, batch(self.status_entries, self.status_linger_ms), WhenFull.WAIT),
            lane(METRICS, batch(self.metrics_entries, self.metrics_linger_ms), WhenFull.SHED),
        ]


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything `coord.connect` needs."""

    nats: NatsConfig = NatsConfig()
    tenant: str = "default"
    agent: str | None = None
    """Who this client speaks as; None: ``{host}-{pid}``, good for trying out.

    Give a stable name in production: it is the agent's identity in every table.
    """
    publisher: PublisherConfig = PublisherConfig()
    cache: CacheConfig = CacheConfig()

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        self.nats.validate()
        self.publisher.validate()
        self.cache.validate()
