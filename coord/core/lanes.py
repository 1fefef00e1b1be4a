"""A class of service: its bounds, and what of it waits and is on its way."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from coord import limits
from coord.core.batching import Batcher, BatchPolicy
from coord.core.pacing import Pace
from coord.core.turns import Turns
from coord.core.window import DrainRate, WhenFull, Window


class Item(Protocol):
    """What the outbox needs of an item: a single message, or a batch (entries of one label)."""

    group: str
    label: Any
    count: int
    """Facts or samples in it."""
    size: int
    """Bytes it is accounted with; fixed once it is sealed."""
    ordinal: int
    """Set here: its place among everything accepted."""
    lane: int
    """Whose in-flight window it takes."""
    home: int
    """Whose queue bound it takes."""
    deadline_at: float


ItemT = TypeVar("ItemT", bound=Item)


class LanePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """One class of service."""

    name: str
    when_full: WhenFull
    queue_entries: int
    queue_bytes: int
    inflight_messages: int
    inflight_bytes: int
    batch: BatchPolicy | None
    """None: every item is a message of its own."""
    keyed: bool
    """Groups are keys, ordered across all keyed lanes; False: groups belong to this lane alone."""


class Lane(Generic[ItemT]):
    """The state of one class of service."""

    __slots__ = (
        "batcher",
        "drain_rate",
        "inflight",
        "keyed",
        "name",
        "number",
        "pace",
        "policy",
        "queue",
        "ready",
        "resumed",
        "taken",
        "taken_at",
        "turns",
        "waiting",
        "when_full",
    )

    def __init__(self, number: int, policy: LanePolicy) -> None:
        self.number = number
        self.policy = policy
        self.name = policy.name
        self.when_full = policy.when_full
        self.keyed = policy.keyed
        shed = policy.when_full is WhenFull.SHED
        # Shedding makes room for exactly what comes in: no lower mark, or a quarter would go at once.
        self.queue = Window(policy.queue_entries, policy.queue_bytes, *([1.0] if shed else []))
        self.inflight = Window(policy.inflight_messages, policy.inflight_bytes)
        self.ready: deque[ItemT] = deque()
        self.batcher: Batcher[ItemT] | None = Batcher(policy.batch) if policy.batch else None
        self.pace = Pace(limits.PUBLISH_PACED_GROUPS) if policy.batch and policy.batch.adaptive else None
        """How long batches linger; None: as long as the policy says."""
        self.waiting: dict[str, int] = {}
        """Keyed lanes: group → items of it in `ready`, parked or open."""
        self.resumed: deque[str] = deque()
        """Groups with parked items whose turn it is."""
        self.turns: Turns[ItemT] | None = None
        """Whose turn it is, where of each group one message is in flight at most; keyed lanes share theirs."""
        self.taken = 0
        """Entries that have left the queue, ever."""
        self.taken_at = float("-inf")
        """When the last item left it."""
        self.drain_rate = DrainRate()

    def open_batches(self) -> Sequence[ItemT]:
        """The batches that still take entries, oldest first."""
        return list(self.batcher.open.values()) if self.batcher else []
