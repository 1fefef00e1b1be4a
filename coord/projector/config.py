"""Settings of the projector."""

from __future__ import annotations

import msgspec

from coord import limits
from coord.errors import SettingsError


class ProjectorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one projector process.  The defaults suit two to eight cores."""

    streams: tuple[str, ...] = ("EVENTS", "TELEMETRY")
    """What to project; a deployment may split the two over processes."""
    writers: int = limits.PROJECT_WRITERS
    """Transactions at a time; each takes one connection of the pool, and all partitions that wait."""
    gap_s: float = limits.PROJECT_GAP_S
    """From the beginning of one transaction to that of the next, while few rows wait, and up to twice that while
    few come; 0: none."""
    batch_rows_max: int = limits.PROJECT_BATCH_ROWS
    """A transaction is closed when it has so many rows, or when the one before has committed."""
    pull_messages_max: int = limits.PULL_MESSAGES
    """Messages asked for ahead, per partition."""
    pull_bytes_max: int = limits.PULL_BYTES
    """The same in bytes."""
    idle_checkpoint_s: float = limits.CHECKPOINT_IDLE_S
    """How often the checkpoint of an idle partition follows the end of the log, which finds what is not delivered too.

    Below 2 s that may end the session of a partition that only waits behind a stuck neighbour (`GATHER_STALL_S`).
    """
    retry_first_s: float = limits.RETRY_FIRST_S
    retry_max_s: float = limits.RETRY_MAX_S
    """Backoff while the database or the broker is away."""
    instance: str | None = None
    """Name among the replicas; default: made from host, pid and a random suffix."""

    def validate(self) -> None:
        """Raise `SettingsError` when the fields do not fit together."""
        unknown = set(self.streams) - {"EVENTS", "TELEMETRY"}
        if unknown or not self.streams:
            raise SettingsError(f"projector.streams must name EVENTS, TELEMETRY or both, not {sorted(unknown)}")
        for name in ("writers", "batch_rows_max", "pull_messages_max", "pull_bytes_max"):
            if getattr(self, name) < 1:
                raise SettingsError(f"projector.{name} must be at least 1")
        if not 0 <= self.gap_s < 1:
            raise SettingsError("projector.gap_s must be at least 0 and below 1")
        if self.idle_checkpoint_s <= 0:
            raise SettingsError("projector.idle_checkpoint_s must be positive")
        if not 0 < self.retry_first_s <= self.retry_max_s:
            raise SettingsError("projector.retry_first_s must be positive and at most retry_max_s")
