"""What a tier below L1 is to those who use it; `coord.bus.tier` is one."""

from __future__ import annotations

from typing import Protocol


class Held(Protocol):
    """What a tier has under a name."""

    @property
    def seq(self) -> int:
        """Which write it was: later ones have higher numbers."""

    @property
    def body(self) -> bytes:
        """As it was put."""


class Tier(Protocol):
    """Bytes under names, shared by processes, bounded.  Every method raises `CoordError`s alone."""

    name: str
    """l2 or l3."""
    life_s: float
    """The longest that it keeps anything."""

    async def get(self, name: str, /) -> Held | None:
        """The last that was put and has not left."""

    async def put(self, name: str, body: bytes, /, *, ttl_s: float, over: int | None = None) -> int | None:
        """Which write it was; None: something else than `over` was there (0: something).  `over` None: whatever."""

    async def drop(self, name: str, /) -> None:
        """Have nothing there."""

    async def look(self) -> int | None:
        """Find out how full it is: the bytes it holds, of everybody; None: it does not say."""

    def is_aging(self, seq: int, /) -> bool:
        """Whether what is read there should be put again, or it will leave."""
