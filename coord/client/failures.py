"""What ended without being stored and whom nobody has told of yet: what the next flush names.

Bounded: the first ten thousand are kept with their receipts, so that one somebody awaits
later is not named again; more are only counted.
"""

from __future__ import annotations

from typing import Final

from coord import errors, limits
from coord.client.receipt import Receipt

_KEPT_MAX: Final = 10_000
"""Failed receipts kept; they have let go of their bytes."""


class Named:
    """A bounded list of receipts, and how many more there were."""

    __slots__ = ("dropped", "receipts")

    def __init__(self) -> None:
        self.receipts: list[Receipt] = []
        self.dropped = 0

    def add(self, receipt: Receipt) -> None:
        """Name one more, or count it."""
        if len(self.receipts) < _KEPT_MAX:
            self.receipts.append(receipt)
        else:
            self.dropped += 1

    def merge(self, other: Named) -> None:
        """Take over another list."""
        for receipt in other.receipts:
            self.add(receipt)
        self.dropped += other.dropped


class Failures:
    """What ended without being stored: errors, and apart from them what policy shed."""

    __slots__ = ("failed", "shed")

    def __init__(self) -> None:
        self.failed = Named()
        self.shed = Named()

    def add(self, receipt: Receipt) -> None:
        """A receipt that ended in an error."""
        (self.shed if isinstance(receipt.error, errors.Shed) else self.failed).add(receipt)

    def merge(self, other: Failures) -> None:
        """Take over what somebody else had found."""
        self.failed.merge(other.failed)
        self.shed.merge(other.shed)

    def forget_awaited(self) -> None:
        """Whoever awaited a receipt has been told."""
        for named in (self.failed, self.shed):
            named.receipts = [receipt for receipt in named.receipts if not receipt.awaited]

    def error(self) -> errors.FlushFailed | None:
        """The error that names them; None when there are none."""
        receipts = self.failed.receipts + self.shed.receipts
        count = len(receipts) + self.failed.dropped + self.shed.dropped
        if not count:
            return None
        named = [(r.subject, r.error) for r in receipts[: limits.FLUSH_FAILURES_NAMED_MAX] if r.error is not None]
        return errors.FlushFailed(named, count - len(named))
