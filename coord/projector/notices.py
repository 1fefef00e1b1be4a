"""What the projector tells the caches after a commit.

One notice per tenant touched (`coord.wire.notices`).  `from` is the `to` of the tenant's last
notice from this partition, so a receiver that sees another value knows that it missed one.
Notices are not stored: a cache that missed one drops what it can no longer vouch for.

One that was lost with nothing behind it would be missed for as long as the tenant is silent.  So
a beat tells everybody's caches now and then in which session of notices the partition is, and a
session ends whenever a notice may be lost: with its projector's, and with a failed publish.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict

from coord import errors, limits
from coord.bus.connection import Connection
from coord.core.checkpoint import Checkpoint
from coord.projector.rows import Batch
from coord.wire import notices, subjects, times
from coord.wire.notices import Notice


class Notices:
    """Sends the notices of one partition."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._last_to: OrderedDict[str, int] = OrderedDict()
        self._session = ""
        self._place = (0, -1)
        """Epoch and sequence up to where nobody but we have committed since the session began."""
        self._beat_at = 0.0
        self._conn_epoch = conn.epoch
        self.restart()

    def begin(self, checkpoint: Checkpoint) -> None:
        """This is the checkpoint as it was just read: if it is not where we left it, somebody else has committed."""
        if self._place != (checkpoint.epoch, checkpoint.seq):
            self.restart()

    def restart(self) -> None:
        """Forget the chain: notices may be lost, by us or by who had the partition before.  The next beat is due."""
        self._last_to.clear()
        self._session = secrets.token_hex(6)
        self._beat_at = 0.0

    def beat(self, checkpoint: Checkpoint, now: float) -> None:
        """Tell all caches which session this is, if that is due; `now`: monotonic seconds.

        `checkpoint`: moved by us alone since `begin`.
        """
        self._look_at_connection()
        self._place = (checkpoint.epoch, checkpoint.seq)
        if now < self._beat_at:
            return
        notice = Notice(
            stream=checkpoint.stream,
            epoch=checkpoint.epoch,
            partition=checkpoint.partition,
            session=self._session,
            from_=checkpoint.seq,
            to=checkpoint.seq,
            tags=[],
            created=times.format_time(checkpoint.stream_created),
        )
        try:
            self._conn.publish(subjects.notice(subjects.UNKNOWN, checkpoint.partition), notices.encode(notice))
        except errors.BusError:
            return  # due again
        self._beat_at = now + limits.NOTICE_BEAT_S

    def send(self, batch: Batch, old_seq: int, new_seq: int) -> None:
        """Send what `batch` touched.  A lost connection loses notices, which receivers notice."""
        self._look_at_connection()
        stored = batch.stored
        for tenant, tags in batch.tags.items():
            named = None if tags is None else sorted(tags)
            facts = stored.get(tenant)
            notice = Notice(
                stream=batch.stream,
                epoch=batch.epoch,
                partition=batch.partition,
                session=self._session,
                from_=self._last_to.get(tenant, old_seq),
                to=new_seq,
                tags=named,
                facts=notices.UNSAID if named is None or facts is None else notices.said(facts, named),
            )
            self._last_to[tenant] = new_seq
            self._last_to.move_to_end(tenant)
            try:
                self._conn.publish(subjects.notice(tenant, batch.partition), notices.encode(notice))
            except errors.BusError:
                self.restart()
                return
        self._place = (batch.epoch, new_seq)
        while len(self._last_to) > limits.NOTICE_TENANTS_MAX:
            self._last_to.popitem(last=False)

    def _look_at_connection(self) -> None:
        # What was handed to a connection that broke may never have left.
        if self._conn.epoch != self._conn_epoch:
            self._conn_epoch = self._conn.epoch
            self.restart()
