"""What keeps a shared tier in bounds: the oldest leaves, and what is used is written again before it is the oldest.

A stream with a bound of bytes drops its oldest message for a new one: first in, first out, done by the broker at once
and strictly, by nobody that could be away.  Reading changes no order there.  So whoever reads an answer in the older
half of a tier that is nearly full writes it again: it is the youngest then, and what nobody reads leaves.  An answer
is written again once in half the time that one takes through the tier, however often it is read.

::

    first                       aging │ young                     last
      ├── nobody asked: leaves ───────┼────────────────────────────┤
              read here ──────────────┼────────────────▶ written again

Hit rates against exact LRU are in docs/adr/0107 (tests/property/test_aging.py).
"""

from __future__ import annotations

from typing import Final

import msgspec

_FULL_SHARE: Final = 0.9
"""Below this part of its bound nothing has to leave, and nothing is written again."""

_OLD_SHARE: Final = 0.5
"""Of LRU's hits that leaves 0.98 to 0.995, for one write in three to five hits; three quarters: 0.994 to 0.9995, for
one in two to three (docs/adr/0107)."""


class Window(msgspec.Struct, frozen=True, gc=False):
    """What a tier held when it was looked at."""

    first: int
    """Its oldest message's sequence,"""
    last: int
    """and the youngest's."""
    bytes: int
    bytes_max: int

    def is_aging(self, seq: int) -> bool:
        """Whether what is read there is to be written again."""
        if self.bytes < _FULL_SHARE * self.bytes_max:
            return False
        return seq < self.first + _OLD_SHARE * (self.last - self.first)
