"""The ids that this process gives: 74 random bits drawn once, and a counter.

Two sessions differ by their random bits, and a process that was forked begins one of its own, so nothing is agreed
upon with anybody, and no clock is read: docs/adr/0118.  Whoever reads the log can tell what the next id will be.  That
matters to nobody but an agent that another one wants to keep from stating anything (docs/protocol.md, chapter 14), and
an id that turns out to be taken ends the session.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Final

from coord.wire import ids

_LOW: Final = tuple(f"{n:02x}" for n in range(256))
"""The last two digits: the others are written once for so many ids."""


class EventIds:
    """Callable by any thread.  `random_bits` and `first` are for tests."""

    def __init__(self, random_bits: Callable[[int], int] = secrets.randbits, first: int = 0) -> None:
        self._random_bits = random_bits
        self._lock = threading.Lock()
        self._session = random_bits(ids.SESSION_BITS)
        self._count = first
        """Where the next block begins."""
        self._block: Iterator[str] = iter(())

    def __call__(self) -> str:
        """A fresh id; greater than those before, as long as the session lasts."""
        # An iterator of the interpreter's own, so one step of it is one step for all threads.
        made = next(self._block, None)
        return self._from_next_block() if made is None else made

    def renew(self) -> None:
        """Begin another session."""
        with self._lock:
            self._begin()

    def forked(self) -> None:
        """In a child: what the parent counts is its own.  The lock may be held by a thread that is not here."""
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._session, self._count, self._block = self._random_bits(ids.SESSION_BITS), 0, iter(())

    def _from_next_block(self) -> str:
        with self._lock:
            while (made := next(self._block, None)) is None:  # or another thread was here first
                if self._count > ids.COUNT_MAX:
                    self._begin()
                head = ids.counted_id(self._session, self._count)[: -len(_LOW[0])]
                self._block = map(head.__add__, _LOW)
                self._count += len(_LOW)
            return made


new_event_id: Final = EventIds()
"""Of this process."""

os.register_at_fork(after_in_child=new_event_id.forked)
