"""What arrives for one session of a partition, into batches and to the writer: by calls, nobody is woken for it.

::

    reader ──on_wake──▶ the writer's list of turns ──in one go for all partitions──▶ turn: take, decode, offer
                                                                                       │
         next batch offered ◀── committed: acknowledge, notice, count ◀── settled ◀────┘

A batch is offered as soon as it holds anything and the one before it is settled; it grows until the writer takes it.
While a transaction waits for company (`coord.core.joining`), nothing is decoded before it begins: sixteen
partitions with a fact or two each are then one wake-up instead of as many as there are facts.

What goes wrong in a turn is kept (`check` raises it) and rings the partition's bell: its coroutine ends the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coord import errors, limits
from coord.bus.reading import Reader
from coord.core.checkpoint import Checkpoint
from coord.projector.rows import Batch
from coord.projector.writer import Offer, Writer
from coord.runtime.bell import Bell
from coord.store.checkpoints import Move
from coord.telemetry import logs
from coord.wire.readings import Readings

_log = logs.get("projector")

_TAKE = 256
"""Messages decoded in one turn: about 2 ms.  Of frames fewer (`PROJECT_TURN_ROWS`)."""


class Intake:
    """Of one session; made when its reader has begun."""

    def __init__(
        self,
        source: Reader,
        writer: Writer,
        checkpoint: Checkpoint,
        bell: Bell,
        *,
        readings: Readings | None,
        received: Callable[[int], None],
        committed: Callable[[Batch, Move, float], None],
    ) -> None:
        """`bell`: rung when the session has to look.

        `received`: told of so many messages; `committed`: of each batch, with the seconds since it was offered.
        """
        self.checkpoint = checkpoint
        """As far as this session has committed."""
        self.received_at = 0.0
        """When anything came last (the loop's clock)."""
        self._source = source
        self._writer = writer
        self._bell = bell
        self._readings = readings
        self._received = received
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._pending = self._behind(checkpoint.digest)
        self._offer: Offer | None = None
        self._failed: errors.CoordError | None = None
        self._offered_at = 0.0
        self._ended = self._leaving = self._held = False
        self._anchored_messages = checkpoint.messages
        """The chain's count at its last anchor of this session,"""
        self._anchored_at = self._loop.time()
        """which was written then; at first, where and when the session began."""

    # --- for the session -------------------------------------------------------------------

    def wake(self) -> None:
        """Something has arrived, or there is room again."""
        if not self._ended:
            self._writer.soon(self.turn)

    def check(self) -> None:
        """Raise what has gone wrong."""
        if self._failed is not None:
            raise self._failed

    @property
    def is_idle(self) -> bool:
        """Whether everything that was taken is committed."""
        return self._offer is None and self._pending.is_empty

    def leave(self) -> None:
        """Take nothing any more; the bell rings when everything is committed."""
        self._leaving = True

    def hold(self, checkpoint: Checkpoint | None = None) -> None:
        """Take nothing while the session moves the checkpoint itself; `checkpoint`: it has, and goes on from there."""
        assert self.is_idle, "the writer moves it"
        self._held = checkpoint is None
        if checkpoint is not None:
            self.checkpoint = checkpoint
            self._pending = self._behind(checkpoint.digest)
            self.wake()

    async def end(self) -> None:
        """Forget what nobody has taken, wait for what is being written.

        Its guard protects the tables whatever happens now; only do not leave it behind.  Told
        twice to stop, it is no longer worth waiting for.
        """
        self._ended = True
        offer = self._offer
        if offer is not None and not offer.settled.done() and not self._writer.withdraw(offer):
            await asyncio.wait({offer.settled})

    # --- turns -----------------------------------------------------------------------------

    def turn(self) -> int:
        """Take, decode and offer what has arrived; how many rows that were."""
        if self._ended or self._held or self._failed is not None:
            return 0
        try:
            return self._turn()
        except errors.CoordError as exc:
            self._fail(exc)
        except Exception as exc:  # noqa: BLE001 - a defect of one partition must not stop the turns of the others
            self._fail(self._defect(exc))
        return 0

    def _turn(self) -> int:
        offer = self._offer
        if offer is not None and offer.batch is self._pending and offer.taken.done():
            self._pending = self._behind(self._pending.digest)
        pending, rows = self._pending, 0
        if not self._leaving:
            if self._is_full(pending):
                assert offer is not None, "what is not empty was offered"
                if offer.batch is pending:
                    # As soon as it is taken, the next one can be decoded; when it is settled we come by ourselves.
                    offer.taken.remove_done_callback(self._taken)
                    offer.taken.add_done_callback(self._taken)
            else:
                rows = self._fill(pending)
        if offer is None and not pending.is_empty:
            self._make_offer(pending)
        return rows

    def _fill(self, pending: Batch) -> int:
        source, before = self._source, len(pending)
        deliveries = source.take(_TAKE)
        if deliveries:
            added = pending.fill(deliveries, self._writer.rows_share, limits.PROJECT_TURN_ROWS)
            if added < len(deliveries):
                source.put_back(deliveries[added:])
            self.received_at = self._loop.time()
            self._received(added)
            if not source.is_empty:
                self.wake()
        return len(pending) - before

    def _is_full(self, batch: Batch) -> bool:
        return batch.is_full(self._writer.rows_share) or batch.bytes >= self._writer.bytes_share

    def _make_offer(self, batch: Batch) -> None:
        offer = self._offer = self._writer.offer(
            batch, self.checkpoint, anchored_messages=self._anchored_messages, anchored_at=self._anchored_at
        )
        offer.settled.add_done_callback(self._settled)
        self._offered_at = self._loop.time()

    def _taken(self, _: asyncio.Future[None]) -> None:
        self.wake()

    def _settled(self, done: asyncio.Future[Move]) -> None:
        offer = self._offer
        if self._ended or offer is None or done is not offer.settled or done.cancelled():
            return
        self._offer = None
        failed = done.exception()
        if failed is not None:
            self._fail(failed if isinstance(failed, errors.CoordError) else self._defect(failed))
            return
        try:
            self._go_on(offer, done.result())
        except errors.CoordError as exc:
            self._fail(exc)
        except Exception as exc:  # noqa: BLE001 - as `turn`
            self._fail(self._defect(exc))

    def _go_on(self, offer: Offer, move: Move) -> None:
        self.checkpoint = move.after
        if move.anchor:
            self._anchored_messages, self._anchored_at = move.after.messages, self._loop.time()
        if offer.batch is self._pending:
            self._pending = self._behind(offer.batch.digest)
        self._committed(offer.batch, move, self._loop.time() - self._offered_at)
        if self._failed is not None:
            return
        if not self._pending.is_empty:
            self._make_offer(self._pending)
        if self._leaving:
            self._bell.ring()
        elif not self._source.is_empty:
            self.wake()

    def _behind(self, digest: int) -> Batch:
        checkpoint = self.checkpoint
        return Batch(checkpoint.stream, checkpoint.partition, checkpoint.epoch, digest, self._readings)

    def _fail(self, error: errors.CoordError) -> None:
        if self._failed is None:
            self._failed = error
        offer = self._offer
        if offer is not None:
            self._writer.withdraw(offer)  # at once: before the session hears of it, a lane could take it
        self._bell.ring()

    def _defect(self, exc: BaseException) -> errors.CoordError:
        checkpoint = self.checkpoint
        _log.error("projector.defect", stream=checkpoint.stream, partition=checkpoint.partition, exc_info=exc)
        return errors.CoordError(f"a defect: {type(exc).__name__}: {exc}")
