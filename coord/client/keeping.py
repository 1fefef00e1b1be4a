"""Between outbox, spool and pipeline: what is kept without a broker, and sent when there is one.

::

    outbox ──take, keep──▶ spool ──replay──▶ in flight ──settled──▶ done
               ▲  (no broker, or something     │
    in flight ─┘   is still in the spool)      └─ disconnected, refused for now ─▶ spool

While anything in the spool was not sent, everything passes through it: so the order per key
is the outbox's.  What was in flight when the broker went away comes first: it is older.  At
most `limits.SPOOL_AHEAD` records are sent and not acknowledged.

Once.  A record that may have been sent is sent again unasked while the broker still
recognises it.  Later, and after a restart, the log is asked first (`coord.client.inquiry`);
what nobody can say is sent, which may store it twice, and counted (`repeats`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.publish import AckPipeline, PubAck, Publication
from coord.client.config import CRITICAL
from coord.client.inquiry import Answer, Inquiry
from coord.client.receipt import Receipt
from coord.client.spool import Spool, fsync
from coord.core.outbox import Outbox
from coord.core.spool import Record
from coord.runtime import clock
from coord.telemetry import logs

_log = logs.get("spool")

_OVERHEAD_BYTES = limits.HEADERS_BYTES_MAX
"""What a record may have beyond the size its item is accounted with."""

_FOR_EVER_S = 10 * 365 * 86_400.0

_DISK_AGAIN_S = 5.0
"""A disk that refused something is tried again so much later, and after a reconnect."""

_PUT_OFF_FIRST_S = 0.1
_PUT_OFF_MOST_S = 5.0
"""Between two tries at a broker that refuses for now (a full stream, no leader)."""


class Keeper:
    """Drives one spool for one publisher; not thread-safe."""

    def __init__(
        self,
        outbox: Outbox[Receipt],
        pipeline: AckPipeline,
        spool: Spool,
        conn: Connection,
        *,
        pump: Callable[[], None],
        found: Callable[[Receipt, PubAck], None],
    ) -> None:
        """`pump`: call when there may be something to send; `found`: a receipt turned out to be stored."""
        self._outbox = outbox
        self._pipeline = pipeline
        self._spool = spool
        self._pump = pump
        self._found = found
        self._inquiry = Inquiry(conn, pipeline)
        self.repeats = 0
        """Records sent again though nobody could say whether they are stored."""
        self._receipts: dict[int, Receipt] = {}
        """Of this process, or sent by it before, by record: kept and not in flight."""
        self._flying: dict[int, Receipt] = {}
        """Sent by `replay` and not answered."""
        self._first_sent: dict[int, float] = {}
        """When records that are not done were first sent: monotonic seconds, since when the log did not have them."""
        self._missing: set[int] = set()
        """The log was asked, and they were not sent since."""
        self._asking: asyncio.Task[None] | None = None
        self._ahead_max = limits.SPOOL_AHEAD
        self._put_off_s = 0.0
        self._not_before = 0.0
        self._disk_again = 0.0
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

    @property
    def failures(self) -> int:
        """Writes and fsyncs that the disk refused."""
        return self._spool.failures

    def oldest_age_s(self) -> float:
        """How long ago the oldest record was written, by the wall clock; 0 without any."""
        oldest = self._spool.oldest()
        return max(0.0, clock.unix() - oldest.at_ms / 1000) if oldest is not None and oldest.at_ms else 0.0

    # --- into the spool ------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When `take` has something because a linger is over; None also while nothing fits."""
        return self._outbox.next_due_aside() if self._fits(0) else None

    def retry(self) -> None:
        """Reconnected: what the disk or the broker refused is tried again."""
        self._spool.failed = None
        self._not_before = self._put_off_s = 0.0
        self._inquiry.reconnected()

    def take(self, now: float) -> Receipt | None:
        """The next item to be kept; None: nothing waits, the spool is full, or the disk has refused something."""
        if self._spool.failed is not None and now >= self._disk_again:
            self._spool.failed = None
        return self._outbox.take_aside(now, self._fits)

    def _fits(self, size: int) -> bool:
        return self._spool.fits(size + _OVERHEAD_BYTES)

    def keep(self, receipt: Receipt) -> bool:
        """Write a message to the spool and let go of its bytes; False: the disk refused it."""
        sent = receipt.attempts > 0
        number = self._spool.append(
            Record(
                receipt.lane, receipt.home, receipt.group, receipt.count, receipt.event_id, receipt.subject,
                receipt.headers or b"", receipt.body, int(clock.unix() * 1000), sent,
            )
        )  # fmt: skip
        if number is None:
            self._disk_again = clock.monotonic() + _DISK_AGAIN_S
            return False
        if sent:
            self._first_sent[number] = receipt.sent_at
        receipt.spool_number = number
        receipt.headers, receipt.body = None, b""
        self._receipts[number] = receipt
        if receipt.home == CRITICAL:
            self._unsynced.append(receipt)
        else:
            receipt.spooled = True
        if self._syncing is None and (self._unsynced or self._spool.has_full_segments):
            self._syncing = asyncio.get_running_loop().create_task(self._sync(), name="spool-sync")
        return True

    def disconnected(self) -> None:
        """What is in flight is kept too: it goes first, because everything kept later is younger.

        What the spool does not take is the head of its queue again, and so is what was sent after it.
        """
        self._land()
        back: list[Receipt] = []
        for receipt in self._pipeline.pending():
            assert isinstance(receipt, Receipt)
            if receipt.stays:
                continue
            if back or not self._fits(receipt.size) or not self.keep(receipt):
                back.append(receipt)
            self._pipeline.withdraw(receipt)
            self._outbox.set_aside(receipt)
        for receipt in reversed(back):
            self._outbox.give_back(receipt)

    def _let_stay(self) -> None:
        for receipt in self._pipeline.pending():
            assert isinstance(receipt, Receipt)
            receipt.stays = True

    async def _sync(self) -> None:
        """Fsync what is critical, all that came during the last fsync together."""
        try:
            while self._unsynced or self._spool.has_full_segments:
                batch, self._unsynced = self._unsynced, []
                await asyncio.get_running_loop().run_in_executor(None, fsync, self._spool.to_sync())
                for receipt in batch:
                    receipt.spooled = True
        except OSError as exc:
            # After a failed fsync nobody knows what of the file the disk has: write no more of it for now.
            self._unsynced.clear()
            self._disk_again = clock.monotonic() + _DISK_AGAIN_S
            self._spool.give_up_writing(exc, "spool.fsync_failed")
        finally:
            self._syncing = None

    # --- out of it -----------------------------------------------------------------------

    def replay(self, now: float) -> None:
        """Send what may be sent now, oldest first."""
        if self._asking is not None or now < self._not_before:
            return
        while self._spool.unread and len(self._flying) < self._ahead_max and not self._pipeline.is_closed:
            number, record = self._spool.read()
            if self._in_doubt(number, record, now):
                if not self._flying:  # or the newest of a subject would be one of those
                    self._asking = asyncio.get_running_loop().create_task(self._ask(now), name="spool-asking")
                return
            if not self._send(number, record, now):
                return

    def _send(self, number: int, record: Record, now: float) -> bool:
        receipt = self._receipts.get(number)
        known = receipt is not None
        if receipt is None:
            receipt = Receipt(
                deadline_at=now + _FOR_EVER_S, subject=record.subject, lane=record.lane, home=record.home,
                group=record.group, count=record.count, event_id=record.event_id, spool_number=number,
                size=len(record.headers) + len(record.body), awaited=True,
            )  # fmt: skip
        if not self._outbox.readmit(receipt, known=known):
            return False
        if self._may_be_sent(number, record):  # a duplicate is itself
            receipt.attempts = max(1, receipt.attempts)
            receipt.sent_at = receipt.sent_at or now
        self._receipts.pop(number, None)
        receipt.headers, receipt.body = record.headers, record.body
        receipt.deadline_at = now + _FOR_EVER_S  # it leaves the spool only with an answer
        if number in self._missing:
            self._missing.remove(number)
            self._first_sent[number] = now
        self._first_sent.setdefault(number, now)
        self._spool.advance()
        self._flying[number] = receipt
        self._pipeline.submit(receipt, now)
        return True

    def _may_be_sent(self, number: int, record: Record) -> bool:
        return number in self._first_sent or record.sent or number < self._spool.doubt_below

    def _in_doubt(self, number: int, record: Record, now: float) -> bool:
        """Whether it may have been sent so long ago that the broker would not recognise it."""
        if number in self._missing:
            return False
        sent_at = self._first_sent.get(number)
        if sent_at is not None:
            return now - sent_at > limits.SPOOL_ASK_AFTER_S
        return self._may_be_sent(number, record)

    async def _ask(self, now: float) -> None:
        """Find out about the next records that are in doubt."""
        try:
            records: dict[int, Record] = {}
            for number, record in self._spool.following(limits.SPOOL_AHEAD):
                if not self._in_doubt(number, record, now):
                    break
                records[number] = record
            answer = await self._inquiry.ask(records)
        except errors.BusError:
            self._not_before = clock.monotonic() + _PUT_OFF_MOST_S  # unless there is a new connection earlier
            answer, records = Answer(), {}
        finally:
            self._asking = None
        self.repeats += len(answer.unknown)
        if answer.unknown:
            _log.warning("spool.may_repeat", folder=str(self._spool.folder), records=len(answer.unknown))
        for number in records:
            ack = answer.stored.get(number)
            if ack is None:
                self._missing.add(number)
            else:
                self._stored(number, ack)
        self._pump()

    def _stored(self, number: int, ack: PubAck) -> None:
        self._first_sent.pop(number, None)
        self._spool.done(number)
        receipt = self._receipts.pop(number, None)
        if receipt is not None:
            self._outbox.leave_aside(receipt)
            receipt.settle(ack, None)
            self._found(receipt, ack)

    def put_off(self, receipt: Publication) -> bool:
        """The broker refuses one for now: all wait in the spool, in order; False: not one of ours."""
        assert isinstance(receipt, Receipt)
        if receipt.spool_number < 0:
            return False
        self._land()
        self._put_off_s = min(_PUT_OFF_MOST_S, max(_PUT_OFF_FIRST_S, 2 * self._put_off_s))
        # Half of it random: ten thousand agents do not come back in the same moment.
        self._not_before = clock.monotonic() + self._put_off_s * (0.5 + 0.5 * random.random())
        self._ahead_max = 1  # the first to be taken shows that the others may follow
        self._let_stay()  # what is kept from now on is younger
        self._outbox.held = True
        self._pump()
        return True

    def wait_until(self, now: float) -> float | None:
        """When `replay` should be called again, if it waits for the time."""
        return self._not_before if self._spool.unread and now < self._not_before else None

    def _land(self) -> None:
        """What `replay` has sent is not on its way any more: it is in the spool as before."""
        for number, receipt in list(self._flying.items()):
            if not self._pipeline.withdraw(receipt):
                continue  # being compared: that ends by itself
            del self._flying[number]
            self._outbox.set_aside(receipt)
            receipt.headers, receipt.body = None, b""
            self._receipts[number] = receipt
            self._spool.rewind(number)

    def settled(self, receipt: Receipt) -> bool:
        """A record sent by `replay` has its answer; False: it has none, and stays in the spool."""
        self._flying.pop(receipt.spool_number, None)
        if isinstance(receipt.error, errors.BusClosed):
            return False
        self._first_sent.pop(receipt.spool_number, None)
        if receipt.error is not None:
            _log.error("spool.refused", subject=receipt.subject, event_id=receipt.event_id, error=receipt.error)
            self._spool.refused(receipt.spool_number)
        else:
            self._spool.done(receipt.spool_number)
        self._put_off_s = 0.0
        self._ahead_max = min(limits.SPOOL_AHEAD, 2 * self._ahead_max)
        return True

    # --- the end -------------------------------------------------------------------------

    def leave(self) -> None:
        """The publisher closes: what is in flight is kept too, and whoever waits for what is only kept is told so."""
        self._land()
        if self._asking is not None:
            self._asking.cancel()
        receipts, self._receipts = self._receipts, {}
        for receipt in receipts.values():
            self._outbox.leave_aside(receipt)
            receipt.settle(None, errors.StillSpooled(subject=receipt.subject))

    async def close(self) -> None:
        """Close the spool; says what stays in it."""
        tasks = [task for task in (self._syncing, self._asking) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._spool.records:
            _log.warning("spool.left", folder=str(self._spool.folder), records=self._spool.records)
        self._spool.close()
