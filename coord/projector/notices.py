"""What the projector tells the caches after a commit.

One notice per tenant touched: ``{"stream", "epoch", "partition", "from", "to", "tags"}``.
`from` is the `to` of the tenant's last notice from this partition, so a receiver that sees
another value knows that it missed one; `tags` null means "anything of this partition".
Notices are not stored: a cache that missed one drops what it can no longer vouch for.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.projector.rows import Batch
from coord.wire import subjects


class Notices:
    """Sends the notices of one partition."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._last_to: OrderedDict[str, int] = OrderedDict()

    def restart(self) -> None:
        """Forget the chain: after a takeover the next `from` matches nobody's last `to`."""
        self._last_to.clear()

    def send(self, batch: Batch, old_seq: int, new_seq: int) -> None:
        """Send what `batch` touched.  A lost connection loses notices, which receivers notice."""
        for tenant, tags in batch.tags.items():
            notice = {
                "stream": batch.stream,
                "epoch": batch.epoch,
                "partition": batch.partition,
                "from": self._last_to.get(tenant, old_seq),
                "to": new_seq,
                "tags": None if tags is None else sorted(tags),
            }
            self._last_to[tenant] = new_seq
            self._last_to.move_to_end(tenant)
            try:
                self._conn.publish(subjects.notice(tenant, batch.partition), msgspec.json.encode(notice))
            except errors.BusError:
                self.restart()
                return
        while len(self._last_to) > limits.NOTICE_TENANTS_MAX:
            self._last_to.popitem(last=False)
