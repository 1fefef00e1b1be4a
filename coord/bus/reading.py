"""What reads one partition of a stream, in order, behind a sequence: with a consumer or without.

`coord.bus.pull.PinnedReader` is the usual one; `coord.bus.unled.UnledReader` reads while that one's consumer
has no leader.  Whoever holds a reader cannot tell which it is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from coord.bus.pull import Delivery


class Reader(Protocol):
    """A session of reading: `start`, then `take` when told to until it raises, then `stop`."""

    duplicates: int
    """Deliveries that came again, and were left out."""
    on_wake: Callable[[], None] | None
    """Called when something has arrived that was waited for, or broke: `take` in another turn of the loop."""

    async def start(self, seq: int, *, created: datetime | None = None) -> None:
        """Begin a session at stream sequence `seq` (≥ 1; one past the end is legal).

        `created`: when the stream was that `seq` is of.
        """

    @property
    def patience_s(self) -> float:
        """How soon whoever takes without waiting should `check_silence`, if nothing comes until then."""

    def check_silence(self) -> None:
        """Raise what is broken, also a silence that is too long."""

    def take(self, messages_max: int) -> list[Delivery]:
        """What has arrived, in order: at most `messages_max`; without waiting.

        Raises when the session is broken: begin again from the checkpoint.
        """

    def put_back(self, deliveries: list[Delivery]) -> None:
        """Return the last of what was taken, before anything else is awaited: they come first next time."""

    def passed(self, seq: int) -> None:
        """Its owner knows that nothing of the partition is left up to `seq`, delivered or not."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be received."""

    def ack(self, delivery: Delivery) -> None:
        """Everything up to this one is committed; for whom it concerns."""

    async def stop(self) -> None:
        """End the session and forget what has arrived.  Twice is legal."""

    async def close(self) -> None:
        """Stop for good."""
