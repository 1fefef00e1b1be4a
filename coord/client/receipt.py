"""What `emit` returns: the way to the acknowledgement, for whoever wants it.

A receipt is the message itself on its way (`coord.bus.publish.Publication`), with what the
outbox needs to know of it.  Samples and status facts that travel in one frame share one
receipt: it is settled when the frame is.
"""

from __future__ import annotations

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
    """A frame's entries: (µs since `base_us`, data)."""
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
