"""Between outbox, spool and pipeline: what is kept without a broker, and sent when there is one.

::

    outbox ──take, keep──▶ spool ──replay──▶ in flight ──settled──▶ done
             (no broker, or something is still in the spool)

While anything in the spool was not sent, everything passes through it: so the order per key
is the outbox's.  At most `limits.SPOOL_AHEAD` records are sent and not acknowledged.
"""

from __future__ import annotations

import asyncio

from coord import errors, limits
from coord.bus.publish import AckPipeline
from coord.client.config import CRITICAL
from coord.client.receipt import Receipt
from coord.client.spool import Spool, fsync
from coord.core.outbox import Outbox
from coord.core.spool import Record
from coord.telemetry import logs

_log = logs.get("spool")

_OVERHEAD_BYTES = limits.HEADERS_BYTES_MAX
"""What a record may have beyond the size its item is accounted with."""

_FOR_EVER_S = 10 * 365 * 86_400.0


class Keeper:
    """Drives one spool for one publisher; not thread-safe."""

    def __init__(self, outbox: Outbox[Receipt], pipeline: AckPipeline, spool: Spool) -> None:
        self._outbox = outbox
        self._pipeline = pipeline
        self._spool = spool
        self._receipts: dict[int, Receipt] = {}
        """Of this process, by record: kept and not sent."""
        self._ahead = 0
        self._unsynced: list[Receipt] = []
        self._syncing: asyncio.Task[None] | None = None

    @property
    def active(self) -> bool:
        """Whether something in the spool was not sent yet."""
        return self._spool.unread

    @property
    def records(self) -> int:
        """Messages that are in the spool and not done."""
        return self._spool.records

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return self._spool.size_bytes

    @property
    def problems(self) -> int:
        """Segments of which a part could not be read."""
        return self._spool.problems

    def next_due(self) -> float | None:
        """When `take` has something because a linger is over; None also while nothing fits."""
        return self._outbox.next_due_aside() if self._fits(0) else None

    def retry(self) -> None:
        """Reconnected: if the disk refused something, it is asked again next time."""
        self._spool.failed = None

    def take(self, now: float) -> Receipt | None:
        """The next item to be kept; None: nothing waits, or the spool is full."""
        return self._outbox.take_aside(now, self._fits)

    def _fits(self, size: int) -> bool:
        return self._spool.fits(size + _OVERHEAD_BYTES)

    def keep(self, receipt: Receipt) -> bool:
        """Write a message to the spool and let go of its bytes; False: the disk refused it."""
        number = self._spool.append(
            Record(
                receipt.lane, receipt.home, receipt.group, receipt.count, receipt.event_id, receipt.subject,
                receipt.headers or b"", receipt.body,
            )
        )  # fmt: skip
        if number is None:
            return False
        receipt.spool_number = number
        receipt.headers, receipt.body = None, b""
        self._receipts[number] = receipt
        if receipt.home == CRITICAL:
            self._unsynced.append(receipt)
            if self._syncing is None:
                self._syncing = asyncio.get_running_loop().create_task(self._sync(), name="spool-sync")
        else:
            receipt.spooled = True
        return True

    async def _sync(self) -> None:
        """Fsync what is critical, all that came during the last fsync together."""
        try:
            while self._unsynced:
                batch, self._unsynced = self._unsynced, []
                descriptor = self._spool.to_sync()
                if descriptor is not None:
                    await asyncio.get_running_loop().run_in_executor(None, fsync, descriptor)
                for receipt in batch:
                    receipt.spooled = True
        except OSError as exc:
            _log.error("spool.fsync_failed", error=str(exc))
        finally:
            self._syncing = None

    def replay(self, now: float) -> None:
        """Send what may be sent now, oldest first."""
        while self._spool.unread and self._ahead < limits.SPOOL_AHEAD and not self._pipeline.is_closed:
            number, record = self._spool.read()
            receipt = self._receipts.get(number)
            known = receipt is not None
            if receipt is None:
                receipt = Receipt(
                    deadline_at=now + _FOR_EVER_S, subject=record.subject, lane=record.lane, home=record.home,
                    group=record.group, count=record.count, event_id=record.event_id, spool_number=number,
                    size=len(record.headers) + len(record.body), awaited=True,
                )  # fmt: skip
            if not self._outbox.readmit(receipt, known=known):
                return
            self._receipts.pop(number, None)
            receipt.headers, receipt.body = record.headers, record.body
            receipt.deadline_at = now + _FOR_EVER_S  # it leaves the spool only with an answer
            self._spool.advance()
            self._ahead += 1
            self._pipeline.submit(receipt, now)

    def settled(self, receipt: Receipt) -> bool:
        """A record sent by `replay` has its answer; False: it has none, and stays in the spool."""
        self._ahead -= 1
        if isinstance(receipt.error, errors.BusClosed):
            return False
        if receipt.error is not None:
            _log.error("spool.refused", subject=receipt.subject, event_id=receipt.event_id, error=receipt.error)
            self._spool.refused(receipt.spool_number)
        else:
            self._spool.done(receipt.spool_number)
        return True

    def leave(self) -> None:
        """The publisher closes: whoever waits for what is only kept is told so."""
        receipts, self._receipts = self._receipts, {}
        for receipt in receipts.values():
            self._outbox.leave_aside(receipt)
            receipt.settle(None, errors.StillSpooled(subject=receipt.subject))

    async def close(self) -> None:
        """Close the spool; says what stays in it."""
        if self._syncing is not None:
            await asyncio.gather(self._syncing, return_exceptions=True)
        if self._spool.records:
            _log.warning("spool.left", folder=str(self._spool.folder), records=self._spool.records)
        self._spool.close()
