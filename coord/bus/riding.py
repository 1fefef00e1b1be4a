"""Readers of one service, fed by the shared consumer of another: a process is delivered a fact once.

Deciders and projector of one process read the same log.  While each has a shared consumer of its own
(`coord.bus.shared`), the broker delivers each fact twice, and the process takes it apart twice::

    deciders' own consumer ── has fed all that the projector's has had ──▶ a ride: the projector's
             ▲                                                             consumer feeds the deciders, too
             └──────────── put off: at once, and behind what was fed ◀──────────┘

Nobody waits for the other.  A consumer asks for more as its own service has room, as if it carried nobody; when it
cannot, the riders are put off and make a consumer of their own.  A rider that has no room is put off, too.  What waits
in the riders is bounded by what each may have when it reads by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from coord import limits
from coord.bus.feeding import Feeding
from coord.bus.pull import PinnedReader
from coord.bus.puller import Delivery
from coord.wire.filters import matches

if TYPE_CHECKING:
    from coord.bus.shared import SharedConsumer

_KIND_AT: Final = 5
"""Of a stored subject's tokens: ``coord.log.{p}.{tenant}.{key}.{kind}.…``."""


class Meeting:
    """Where the services of one process that read EVENTS find each other."""

    def __init__(self) -> None:
        self.carrier: SharedConsumer | None = None
        """What feeds the projector's readers, while one consumer does."""


class Wanted:
    """What a consumer's filters let through, looked up by kind: each selects by the kind, and most by nothing else."""

    def __init__(self, filters: Sequence[str]) -> None:
        """`filters`: of any partition; one that names no kind is a programmer error."""
        self._whole: set[bytes] = set()
        self._some: dict[bytes, list[str]] = {}
        for one in filters:
            tokens = one.split(".")
            kind = tokens[_KIND_AT].encode()
            assert kind not in (b"*", b">"), "a filter of all kinds"
            if tokens[_KIND_AT + 1 :] == [">"]:
                self._whole.add(kind)
            else:
                self._some.setdefault(kind, []).append(one)

    def __contains__(self, subject: bytes) -> bool:
        tokens = subject.split(b".", _KIND_AT + 1)
        if len(tokens) <= _KIND_AT + 1:
            return False
        kind = tokens[_KIND_AT]
        if kind in self._whole:
            return True
        filters = self._some.get(kind)
        if filters is None:
            return False
        text = subject.decode("utf-8", "backslashreplace")
        return any(matches(one, text) for one in filters)


class Ride:
    """One ride of a service's readers, from waiting to board until they are put off; a `Lender` of theirs."""

    def __init__(
        self,
        carrier: SharedConsumer,
        own: SharedConsumer,
        readers: Sequence[PinnedReader],
        wanted: Wanted,
        changed: asyncio.Event,
    ) -> None:
        """Wait for the moment in which `own`, which feeds `readers`, has fed all that `carrier` has had.

        `changed` is set when they board, and when they are put off.
        """
        self.aboard = False
        """Whether they were fed by the carrier; also after they were put off."""
        self.is_over = False
        self._carrier = carrier
        self._own = own
        self._readers = readers
        self._wanted = wanted
        self._changed = changed
        self._feeding = Feeding(self, readers)
        self._had = carrier.position
        """No message that they want and that the carrier has had lies behind this sequence."""
        self._end = 0
        """The carrier's position when they were put off."""
        carrier.ride = self
        own.leaving = self

    # --- being what feeds them -----------------------------------------------------------------

    @property
    def position(self) -> int:
        """Everything up to this sequence was fed to whom it belongs to."""
        return self._end if self.is_over else self._carrier.position

    @property
    def carrier(self) -> str:
        """Whose consumer it is."""
        return self._carrier.whose

    @property
    def broken(self) -> None:
        """Whatever is wrong puts them off."""
        return

    def held_by(self, now: float) -> list[PinnedReader]:  # noqa: ARG002
        """Nobody waits for them."""
        return []

    def room_again(self) -> None:
        """Nobody has waited for it."""

    async def nothing_on_its_way(self) -> bool:
        """Whether all that the stream has, for them and for others, has arrived."""
        return not self.is_over and await self._carrier.nothing_on_its_way()

    # --- called from the read loop -------------------------------------------------------------

    def board(self) -> None:
        """Let the carrier feed them from now on, if they have all that it has had, and it is not far behind."""
        own, carrier = self._own, self._carrier
        if self.aboard or self.is_over or own.position < self._had or not carrier.expects:
            return
        if own.position - carrier.position > limits.RIDE_AHEAD_MAX:
            return
        own.leaving = None
        own.stop()
        for reader in self._readers:
            reader.pass_on(own, self)
        self.aboard = True
        self._changed.set()

    def passing(self, subject: bytes, token: bytes, delivery: Delivery) -> None:
        """The carrier has had this."""
        if subject not in self._wanted:
            return
        if not self.aboard:
            self._had = delivery.seq
            self.board()
            return
        reader = self._feeding.feed(token, delivery)
        if reader is not None and not reader.has_room:
            self.put_off(delivery.seq)

    def put_off(self, position: int) -> None:
        """They are fed no more; everything up to `position` was.  Twice is legal."""
        if self.is_over:
            return
        self._end = position
        self.is_over = True
        self._carrier.ride = None
        self._own.leaving = None
        self._feeding.tell()
        if self.aboard:
            # Not for one that only waits: who ends it looks already, and looking ends it. Were he told, he would look
            # again at once, for ever, and the loop would stand still.
            self._changed.set()

    async def end(self) -> None:
        """As `put_off`, at the readers' own wish."""
        self.put_off(self._carrier.position)
