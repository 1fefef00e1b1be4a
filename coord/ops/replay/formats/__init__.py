"""The formats that ``coord replay`` reads; each is one module with its schema.

A format's `read` yields what it found in file order and never raises because of the content:
what it cannot read is a `Problem` with its line.  It reads the source as a stream, so a
recording may be larger than memory where the format has lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from coord.errors import InvalidRecording
from coord.ops.replay.formats import arrivals, conversations, export, otlp, trajectory
from coord.ops.replay.recording import Item
from coord.ops.replay.source import Source


class Format(msgspec.Struct, frozen=True):
    """One kind of recording."""

    name: str
    title: str
    """What it is, in a line."""
    sniff: Callable[[str], bool]
    """Whether a file that begins so is one."""
    read: Callable[[Source, str], Iterator[Item]]
    """Source and run id → its items; ids and keys of what has none of its own begin with the run id."""


FORMATS = {
    each.NAME: Format(each.NAME, each.TITLE, each.sniff, each.read)
    for each in (export, conversations, trajectory, otlp, arrivals)
}
"""By name, in the order in which `detect` asks them."""


def detect(source: Source) -> Format:
    """The format that recognises the file; `InvalidRecording` when none does."""
    head = source.head()
    for known in FORMATS.values():
        if known.sniff(head):
            return known
    raise InvalidRecording("the file is in none of the known formats", formats=", ".join(FORMATS))
