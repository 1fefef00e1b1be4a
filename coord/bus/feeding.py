"""Hands deliveries of all partitions to the readers they belong to, and tells those whom it pays to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from coord import limits
from coord.bus.pull import Lender, PinnedReader
from coord.bus.puller import Delivery

_BACKLOG_DIGITS: Final = 4
"""At least a thousand messages follow a delivery whose number of them has so many digits."""


class Feeding:
    """Of the readers of one service, which are in the order of their partitions."""

    def __init__(self, lender: Lender, readers: Sequence[PinnedReader]) -> None:
        """`lender`: who feeds; a reader that is lent to another takes nothing."""
        self._lender = lender
        self._by_token = {str(p).encode(): reader for p, reader in enumerate(readers)}
        self.tokens: Final = frozenset(self._by_token)
        """Of the partitions."""
        self._untold: set[PinnedReader] = set()
        """Who was fed the first messages of many, and was not told yet."""

    def feed(self, token: bytes, delivery: Delivery) -> PinnedReader | None:
        """Give it to the reader of the partition that `token` names; who took it, None where nobody did."""
        reader = self._by_token[token]
        waiting = reader.feed(delivery, self._lender)
        if not waiting:
            return None
        if delivery.ack[-_BACKLOG_DIGITS:].isdigit():
            # A backlog: one wake-up of a reader for many messages.
            if waiting == limits.GATHER_CROWD:
                self._untold.discard(reader)
                reader.tell()
            elif waiting == 1:
                self._tell_later(reader)
        elif waiting in (1, limits.GATHER_CROWD) or reader in self._untold:
            self.tell()
            reader.tell()
        return reader

    def tell(self) -> None:
        """Tell all who were not told yet."""
        for reader in self._untold:
            if reader.is_lent:
                reader.tell()
        self._untold.clear()

    def _tell_later(self, reader: PinnedReader) -> None:
        if not self._untold:
            asyncio.get_running_loop().call_later(limits.GATHER_LINGER_S, self.tell)
        self._untold.add(reader)
