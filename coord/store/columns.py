"""Arrays of plain values as asyncpg encodes them soonest.

asyncpg asks of each element of an array whether it is an array itself, by two abstract base classes: 0.3 µs an
element in Python, three times what encoding it takes, and a row of `coord.task` is thirty elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class Column(list[Any]):
    """What a statement takes as an array; holds no arrays.

    asyncpg goes through it twice: to look for arrays in it, then to encode it.  The first time nothing is shown
    to it.  Did it go once, the server would refuse an array with fewer elements than it says it has
    (`tests/contract/test_columns.py`).  For one statement, and nobody else.
    """

    __slots__ = ("_looked",)

    def __init__(self, values: Iterable[Any]) -> None:
        super().__init__(values)
        self._looked = False

    def __iter__(self) -> Iterator[Any]:
        """Nothing every other time, beginning with the first."""
        self._looked = not self._looked
        return iter(()) if self._looked else super().__iter__()
