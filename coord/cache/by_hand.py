"""What is evicted by hand, told to the tenant's other processes, and heard from them.

The record of eras is written first (`coord.cache.eras`), then one message says all that was evicted meanwhile.  So a
process that begins either hears the message, or looks at the record after it was written; and who hears it believes
nothing of those eras until it has read the record.  A message that is lost, or that nobody may send, is made up for by
the next look at the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Final

from coord import errors, limits
from coord.cache import entries, eras
from coord.cache.tiers import Tiers
from coord.wire.cache_api import ByHand, read_by_hand

_PIECE: Final = 500
"""Keys that are looked through without a pause: a millisecond."""


class ByHands:
    """Of one process.  `close` it before the tiers."""

    def __init__(
        self,
        tiers: Tiers | None,
        *,
        keys: Callable[[], Iterable[Hashable]],
        forget: Callable[[Hashable], object],
        evict: Callable[[Collection[str] | None], object],
    ) -> None:
        """`keys`: of what is in memory; `forget` drops what is under one, `evict` what has such tags; None: any."""
        self.say: Callable[[ByHand], None] | None = None
        """Sends a message to all of the tenant's processes; raises `CoordError`."""
        self._tiers = tiers
        self._kept = keys
        self._forget = forget
        self._evict = evict
        self._name = secrets.token_hex(8)
        self._tags: dict[str, None] = {}
        self._keys: dict[str, None] = {}
        self._everything = False
        self._task: asyncio.Task[None] | None = None
        self._dropping: set[asyncio.Task[None]] = set()
        self._closed = False
        if tiers is not None:
            tiers.eras.ended = self._found

    # --- telling -------------------------------------------------------------------------

    def tell(self, tags: Iterable[str] = (), keys: Iterable[bytes] = (), *, everything: bool = False) -> None:
        """This was evicted here.  Without an event loop others find it in the record."""
        self._add(tags, [key.hex() for key in keys], everything=everything)
        if self._task is None and not self._closed:
            with contextlib.suppress(RuntimeError):
                self._task = asyncio.get_running_loop().create_task(self._tell(), name="coord-cache-by-hand")

    async def _tell(self) -> None:
        while self._everything or self._tags or self._keys:
            told = ByHand(by=self._name, tags=tuple(self._tags), keys=tuple(self._keys), everything=self._everything)
            self._tags, self._keys, self._everything = {}, {}, False
            recorded = self._tiers is None or await self._tiers.recorded()
            if self.say is not None:
                with contextlib.suppress(errors.CoordError):
                    self.say(told)
            if not recorded:
                # It is out of the processes' own memory.  What the tiers have is told of when it is recorded.
                await asyncio.sleep(limits.CACHE_ERAS_S)
                self._add(told.tags, told.keys, everything=told.everything)
        self._task = None

    def _add(self, tags: Iterable[str], keys: Iterable[str], *, everything: bool) -> None:
        self._tags.update(dict.fromkeys(tags))
        self._keys.update(dict.fromkeys(keys))
        self._everything |= everything
        if len(self._tags) > limits.CACHE_ASKED_TAGS_MAX or len(self._keys) > limits.CACHE_TOLD_KEYS_MAX:
            self._tags, self._keys, self._everything = {}, {}, True

    # --- hearing -------------------------------------------------------------------------

    def hear(self, body: bytes) -> bool:
        """A message of another process; False: that is none."""
        try:
            said = read_by_hand(body)
            digests = [bytes.fromhex(key) for key in said.keys]
            keys = [entries.key_of(key) for key in digests]
        except (errors.WireError, errors.InvalidCacheKey, ValueError):
            return False
        if said.by == self._name:
            return True
        if self._tiers is not None:
            whats = [*map(eras.of_tag, said.tags), *map(eras.of_key, digests)]
            self._tiers.eras.told([*whats, eras.TAGGED] if said.everything else whats)
        for key in keys:
            self._forget(key)
        if said.everything:
            self._evict(None)
        elif said.tags:
            self._evict(said.tags)
        return True

    def _found(self, whats: Collection[str]) -> None:
        """In the record, and nobody had told."""
        if eras.EVERYTHING in whats:
            for key in self._kept():
                self._forget(key)
        if not {eras.EVERYTHING, eras.TAGGED, eras.BIRTH}.isdisjoint(whats):
            self._evict(None)
        elif tags := eras.tags_of(whats):
            self._evict(tags)
        if (digests := eras.keys_of(whats)) and not self._closed:
            task = asyncio.get_running_loop().create_task(self._drop(digests), name="coord-cache-by-hand-keys")
            self._dropping.add(task)
            task.add_done_callback(self._dropping.discard)

    async def _drop(self, digests: Collection[str]) -> None:
        for number, key in enumerate(self._kept(), 1):
            with contextlib.suppress(errors.InvalidCacheKey):
                if eras.of_key(entries.key_bytes(key)) in digests:
                    self._forget(key)
            if number % _PIECE == 0:
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Let what was just evicted be recorded and told, briefly.  Twice is legal."""
        self._closed = True
        task, self._task = self._task, None
        tasks = {*self._dropping, *(() if task is None else (task,))}
        if task is not None:
            await asyncio.wait({task}, timeout=2 * limits.CACHE_TIER_S)
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
