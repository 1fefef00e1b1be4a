"""The chain of what was projected: one number that every message of a partition has gone into.

Each partition carries a running digest of all messages it has projected, in their order.  It
stands beside the checkpoint, moves in the same transaction, and is written down now and then
as an *anchor*.  Between two anchors anybody can read the same messages from the stream and
must arrive at the same digest: a message that is missing, doubled, out of order or changed by
a single bit does not.

The digest of an empty chain is 0.  A message makes of digest ``d``::

    crc32(sequence as 8 bytes · length of subject, of headers, of body as 4 bytes each · subject · headers · body, d)

with zlib's CRC-32, big-endian integers, the subject as it is stored (``coord.log.7.…``, text as
coord decodes it), and the headers as `canonical_headers` has them.  Nothing else goes in: not
where a batch ended, not who projected it, not when.

What happens to a chain:

===============================  ========================================================
a new session, a takeover        goes on from the checkpoint's digest; what was not
                                 committed never was in it
the end of the log is followed   the checkpoint's sequence moves, digest and count stay
TELEMETRY accepts a gap          anchors on both sides of the gap, with one digest and one
                                 count: nothing of the chain lies between
a new epoch                      a new chain: digest 0, count 0, an anchor where it begins
===============================  ========================================================

How a reader checks.  Take the anchors of one (stream, partition, epoch) by sequence, and the
checkpoint behind the last.  For two neighbours a and b with ``stream.first_seq <= a.seq + 1``
read the partition's messages with ``a.seq < seq <= b.seq`` from the stream, in order (its
filter is `coord.wire.subjects.partition_filter`), and `extend` a.digest by each: the outcome
is b.digest, and there are b.messages - a.messages of them.  Segments that the window has
begun to drop cannot be checked.  Each segment begins from what is written down, so damage to
one shows in no other.

CRC-32 and not a cryptographic hash: it finds every change of up to 32 neighbouring bits and
misses other damage once in 4 billion times, at half the price; whoever could forge the log
could forge the table beside it (docs/adr/0032).
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from coord import limits

EMPTY: Final = 0
"""The digest of a chain without messages."""

_lengths = struct.Struct(">QIII").pack


def extend(digest: int, seq: int, subject: str, headers: bytes | None, body: bytes) -> int:
    """The digest after one more message.  `headers`: canonical, None when there are none."""
    name = subject.encode("utf-8", "surrogatepass")
    block = headers or b""
    return crc32(b"".join((_lengths(seq, len(name), len(block), len(body)), name, block, body)), digest)


def canonical_headers(stored: bytes | None) -> bytes | None:
    """A header block, as the stream has it, in the form that goes into the chain.

    The projector's deliveries do not show a block's last two bytes, whatever they were (see
    `coord.bus.pull.as_published`).  So they are no part of the chain: a block with a proper end
    stays as it is, one that has another end loses it, one without a field is none.
    """
    if stored is None:
        return None
    head = stored[:-2]
    if head == b"NATS/1.0\r\n":
        return None
    return head + b"\r\n" if head.endswith(b"\r\n") else head


def anchor_due(messages: int, elapsed_s: float) -> bool:
    """Whether a commit writes an anchor: so many messages, and so long, after the partition's last one."""
    return messages >= limits.ANCHOR_MESSAGES or (messages > 0 and elapsed_s >= limits.ANCHOR_EVERY_S)
