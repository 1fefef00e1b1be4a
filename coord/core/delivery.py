"""In which order deliveries of a pinned pull consumer may be believed.

A partition's stream sequences have holes (other partitions' facts), so a lost delivery
cannot be seen in them.  The consumer's own sequence can: after ``CONSUMER.RESET`` it
begins at 1 and rises by one with every delivery, redeliveries included (probed on
nats-server 2.15.1; `tests/contract/test_pinned_pull.py` guards it).  Hence:

* the next consumer sequence, a newer stream sequence → ACCEPT
* the next consumer sequence, a stream sequence seen before → DUPLICATE (a redelivery)
* a session's first delivery from before where we asked the server to begin → GAP: somebody else
  has reset the consumer since
* any other consumer sequence → GAP: something was delivered and never arrived

After a GAP nothing may be believed until the consumer was reset to checkpoint + 1.
"""

from __future__ import annotations

import enum


class Verdict(enum.Enum):
    """What to do with one delivery."""

    ACCEPT = "accept"
    DUPLICATE = "duplicate"
    GAP = "gap"


class DeliveryOrder:
    """Follows one session of deliveries: from one reset to the next.

    `position` is the stream sequence up to which everything of this partition was accepted
    (or was committed before the session began).  The server was asked for what follows `behind`,
    which may be less.
    """

    __slots__ = ("behind", "consumer_seq", "is_broken", "position")

    def __init__(self, position: int, *, behind: int | None = None) -> None:
        self.position = position
        self.behind = position if behind is None else behind
        self.consumer_seq = 0
        self.is_broken = False

    def judge(self, consumer_seq: int, stream_seq: int) -> Verdict:
        """Judge one delivery and move on.  Once broken, a session stays broken."""
        if self.is_broken or consumer_seq != self.consumer_seq + 1:
            self.is_broken = True
            return Verdict.GAP
        self.consumer_seq = consumer_seq
        if stream_seq <= self.position:
            self.is_broken = consumer_seq == 1 and stream_seq <= self.behind
            return Verdict.GAP if self.is_broken else Verdict.DUPLICATE
        self.position = stream_seq
        return Verdict.ACCEPT
