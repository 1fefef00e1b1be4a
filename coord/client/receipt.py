"""What `emit` returns: the way to the acknowledgement, for whoever wants it.

A receipt is the message itself on its way (`coord.bus.publish.Publication`), with what the
outbox needs to know of it.  Samples and status facts that travel in one frame share one
receipt: it is settled when the frame is.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

from coord.bus.publish import Publication


class Receipt(Publication, eq=False):
    """Await it for the `PubAck`; nobody has to.

    Awaiting raises the typed error the publish ended with.  An error that nobody awaited is
    named by the next `flush()`.
    """

    lane: int = 0
    home: int = 0
    group: str = ""
    """The ordering key, or the series."""
    label: Any = None
    """A frame's subject and envelope; None for a single message."""
    entries: list[Any] = []  # noqa: RUF012 - msgspec copies it for every receipt
    """A frame's entries: (µs since `base_us`, data); where `doubles` is set the data alone."""
    doubles: bool = False
    """Its entries are doubles, all at `base_us`: a tuple for each would cost as much as packing it."""
    base_us: int = 0
    count: int = 0
    """Facts or samples it stands for."""
    size: int = 0
    ordinal: int = 0
    spool_number: int = -1
    """Its record in the spool; -1: it never was there."""
    spooled: bool = False
    """Whether it is safe in the spool: written, and if it is critical fsynced."""
    stays: bool = False
    """Whether it stays in memory when the connection goes: something younger is in the spool, or may be."""
    event_id: str = ""
    """The message's `ce-id`; a fact in a frame has ``{event_id}/{index}``.  Empty until a frame is sent."""

    def add(self, at_us: int, data: Any) -> None:
        """Add an entry to a frame that is being filled; times are kept relative to the first."""
        if not self.entries:
            self.base_us = at_us
        elif self.doubles:
            self._spell_out()
        self.entries.append((at_us - self.base_us, data))

    def add_values(self, at_us: int, values: list[Any]) -> None:
        """`add` for values of one time that `coord.client.encoding.are_plain`; they are the receipt's from now on."""
        if self.entries:
            if self.doubles:
                self._spell_out()
            self.entries += zip(repeat(at_us - self.base_us), values)
            return
        self.base_us = at_us
        self.doubles = type(values[0]) is float
        self.entries = values if self.doubles else list(zip(repeat(0), values))

    def _spell_out(self) -> None:
        """Something else joins the doubles: each gets its time."""
        self.doubles = False
        self.entries = list(zip(repeat(0), self.entries))
