"""What stands around an `Intake` where no broker does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coord.bus.pull import Delivery


class Prefetched:
    """A reader's buffer; of `coord.bus.reading.Reader` what an `Intake` uses."""

    def __init__(self, deliveries: Sequence[Delivery] = ()) -> None:
        self.buffer = list(deliveries)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"an intake uses {name}")

    def take(self, messages_max: int) -> list[Delivery]:
        """See `Reader`."""
        taken, self.buffer = self.buffer[:messages_max], self.buffer[messages_max:]
        return taken

    def put_back(self, deliveries: list[Delivery]) -> None:
        """See `Reader`."""
        self.buffer[:0] = deliveries

    @property
    def is_empty(self) -> bool:
        """See `Reader`."""
        return not self.buffer


class Breaking:
    """Readings with a defect at one message."""

    def __init__(self, seq: int) -> None:
        self.seq = seq

    def of(self, delivery: Delivery) -> None:
        """As of an unusual message, but for that one."""
        if delivery.seq == self.seq:
            raise MemoryError
