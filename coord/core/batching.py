"""When entries that wait to travel together are sent: by count, by bytes, by time.

A **batch** holds entries of one group (the ordering key of facts, the series of samples)
that share one label (subject and envelope), because a frame has one subject and one set of
headers.  A group has at most one open batch: an entry with another label closes it first,
so what one group emits keeps its order.

::

               first entry                     entries_max | size_max | other label | open_max
    (nothing) ────────────▶ OPEN ────────────────────────────────────────────────────────▶ SEALED
                             │  linger over, and there is room to send                        ▲
                             └────────────────────────────────────────────────────────────────┘

A batch whose linger is over stays open for as long as nothing can be sent, and so grows by
itself under load up to its class's limits.  How long a batch lingers, up to its class's
limit, is `coord.core.pacing`'s to say where the policy is adaptive.  The Batcher never looks
at a clock: `now` is an argument (seconds of one monotonic clock).
"""

from __future__ import annotations

import heapq
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from coord import limits
from coord.errors import SettingsError

AT_ONCE: Final = float("-inf")
"""Due before anything that has a time."""


class BatchPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a batch of one class of service is sealed."""

    entries_max: int
    """Entries of one frame."""
    size_max: int
    """Bytes of one frame, by the estimate its entries were added with."""
    linger_s: float
    """How long the first entry waits for company, unless `Batcher.start` is told otherwise."""
    open_max: int
    """Groups with an open batch; beyond it the oldest is sealed."""
    adaptive: bool = False
    """Whether `linger_s` is a limit and `coord.core.pacing` says how much of it is waited."""

    def validate(self) -> None:
        """Raise `SettingsError` when a field is out of range."""
        if not 1 <= self.entries_max <= limits.FRAME_ENTRIES_MAX:
            raise SettingsError(f"publish: a frame holds 1 to {limits.FRAME_ENTRIES_MAX} entries")
        if not 1 <= self.size_max <= limits.FRAME_MESSAGE_BYTES_MAX:
            raise SettingsError(f"publish: a frame holds 1 to {limits.FRAME_MESSAGE_BYTES_MAX} bytes")
        if self.linger_s < 0 or self.open_max < 1:
            raise SettingsError("publish: linger must not be negative, and at least one batch may be open")


class Batch(Protocol):
    """What a Batcher needs of a batch; the publisher's receipts are batches."""

    group: str
    label: Any
    count: int
    size: int
    ordinal: int


BatchT = TypeVar("BatchT", bound=Batch)


class Batcher(Generic[BatchT]):
    """The open batches of one class of service; see the module.

    `open` maps a group to its open batch, in the order they were opened.
    """

    __slots__ = ("_due", "open", "policy")

    def __init__(self, policy: BatchPolicy) -> None:
        self.policy = policy
        self.open: dict[str, BatchT] = {}
        # (due at, ordinal, group): names a batch without keeping it alive; entries of batches
        # that were sealed earlier are skipped when their time comes.
        self._due: list[tuple[float, int, str]] = []

    def joins(self, group: str, label: Any, size: int) -> BatchT | None:
        """The open batch that takes an entry of `size` bytes, or None: seal what is open and start one."""
        batch = self.open.get(group)
        if batch is None or batch.size + size > self.policy.size_max:
            return None
        if batch.label is not label and batch.label != label:  # mostly it is the same object
            return None
        return batch

    def room(self, batch: BatchT | None, size_each: int) -> int:
        """How many entries of one size go into this batch (None: a new one) before it is full; at least one."""
        filled, size = (batch.count, batch.size) if batch is not None else (0, 0)
        return max(1, min(self.policy.entries_max - filled, (self.policy.size_max - size) // size_each))

    def grow(self, batch: BatchT, count: int, size: int) -> bool:
        """Account entries that `joins` and `room` allowed; True when the batch is full: pop and send it."""
        batch.size += size
        batch.count += count
        return batch.count >= self.policy.entries_max

    def start(self, batch: BatchT, now: float, linger_s: float | None = None) -> BatchT | None:
        """Open a batch for its group; returns the oldest one, popped, when too many were open."""
        assert batch.group not in self.open, "a group has one open batch"
        oldest = None
        if len(self.open) >= self.policy.open_max:
            oldest = self.open.pop(next(iter(self.open)))
        self.open[batch.group] = batch
        due_at = now + (self.policy.linger_s if linger_s is None else linger_s)
        heapq.heappush(self._due, (due_at, batch.ordinal, batch.group))
        return oldest

    def pop(self, group: str) -> BatchT | None:
        """Take a group's open batch out, to be sent."""
        return self.open.pop(group, None)

    def put_off(self, batch: BatchT) -> None:
        """The batch that `peek_due` gave is not due before `wake`; it may be popped."""
        due_at, ordinal, _ = heapq.heappop(self._due)
        assert ordinal == batch.ordinal, f"another one is due ({due_at})"

    def wake(self, batch: BatchT) -> bool:
        """A batch that was put off is due; False: it is not open any more."""
        if self.open.get(batch.group) is not batch:
            return False
        heapq.heappush(self._due, (AT_ONCE, batch.ordinal, batch.group))
        return True

    def pop_all(self) -> list[BatchT]:
        """Take every open batch out, oldest first."""
        batches = list(self.open.values())
        self.open.clear()
        self._due.clear()
        return batches

    def peek_due(self, now: float) -> BatchT | None:
        """The open batch that is due longest at `now`; it stays open until it is popped."""
        self._forget_sealed()
        if not self._due or self._due[0][0] > now:
            return None
        return self.open[self._due[0][2]]

    def next_due(self) -> float | None:
        """When the next open batch is due (may be in the past); None when none is open."""
        self._forget_sealed()
        return self._due[0][0] if self._due else None

    def _forget_sealed(self) -> None:
        due = self._due
        if not self.open:
            due.clear()
        while due:
            _, ordinal, group = due[0]
            batch = self.open.get(group)
            if batch is not None and batch.ordinal == ordinal:
                return
            heapq.heappop(due)
