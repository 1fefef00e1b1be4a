"""One message of a group in flight at a time: who is under way, and who waits for whose turn.

A replicated log may store what is in flight together in another order when its leader dies:
each message is then repeated for itself.  Where the order matters, a group's next message
waits until the one before is settled.

::

               begin               end                    take it
    (nothing) ───────▶ under way ───────▶ group resumed ──────────▶ under way, the next one
                          │  park: a later item of the group, in order
                          └──────────▶ parked

While a group is under way its open batch is *put off*: it is not sealed because of the time
and goes on growing, as if nothing could be sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Turns(Generic[ItemT]):
    """See the module.  A constant amount of work per message."""

    __slots__ = ("parked", "put_off", "under_way")

    def __init__(self) -> None:
        self.under_way: dict[str, int] = {}
        """Group → its messages in flight: one, or as many as there were when the turns began."""
        self.parked: dict[str, deque[ItemT]] = {}
        """Group → its items that would be sent, were it their turn; older than all others of it in queues."""
        self.put_off: dict[str, ItemT] = {}
        """Group → its open batch whose linger is over."""

    def begin(self, group: str) -> None:
        """A message of the group is in flight."""
        self.under_way[group] = self.under_way.get(group, 0) + 1

    def end(self, group: str) -> bool:
        """One is not any more; True when that was the last."""
        left = self.under_way.get(group, 1) - 1
        if left:
            self.under_way[group] = left
            return False
        self.under_way.pop(group, None)
        return True

    def park(self, group: str, item: ItemT) -> None:
        """It waits behind those of its group that are parked."""
        parked = self.parked.get(group)
        if parked is None:
            self.parked[group] = deque((item,))
        else:
            parked.append(item)

    def next_of(self, group: str) -> ItemT:
        """The group's oldest parked item, taken out."""
        parked = self.parked[group]
        item = parked.popleft()
        if not parked:
            del self.parked[group]
        return item

    def drop_while(self, passed: Callable[[ItemT], bool]) -> tuple[list[ItemT], list[str]]:
        """Take out each group's oldest for as long as `passed`: them, and the groups that have none left."""
        dropped: list[ItemT] = []
        emptied: list[str] = []
        for group, parked in self.parked.items():
            while parked and passed(parked[0]):
                dropped.append(parked.popleft())
            if not parked:
                emptied.append(group)
        for group in emptied:
            del self.parked[group]
        return dropped, emptied
