"""The caches of one connected agent: what it keeps, what it tells of that, and what it has before it is asked.

What is asked for most is put on record once a minute, in CURSORS, under the agent's name: the next process of the
agent begins with that.  It is a help, not a truth: of several processes the last to write is believed, and whatever
is wrong with a record costs a few loads.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from coord import errors, limits
from coord.bus.log_ends import Log
from coord.bus.tier import shared_tiers
from coord.cache.config import CacheConfig
from coord.cache.hearing import Caching
from coord.cache.keys import Key
from coord.cache.showing import Showing
from coord.cache.warming import Warming, recorded
from coord.client import context
from coord.client.cursor_message import CursorMessage
from coord.core import workflow_life
from coord.core.warming import RECORD, SCHEDULE, TRIGGER, Trigger, fields_of
from coord.telemetry import logs
from coord.wire import flow

if TYPE_CHECKING:
    from coord.cache.functions import CachedFunction
    from coord.client.connect import Coord
    from coord.wire.records import StoredFact

_log = logs.get("cache")

_RECORD: Final = "_cache-hot"
"""The name of the cursor; no subscription is called so."""


class HotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that an agent's processes asked for most, JSON."""

    keys: list[Any] = []
    holder: str = ""
    """Who wrote it last: a random id per process."""


class Caches:
    """Of one `Coord`.  `close` it before the connection."""

    def __init__(self, coord: Coord, config: CacheConfig | None) -> None:
        config = config or CacheConfig()
        conn, tenant, metrics = coord.connection, coord.tenant, coord.metrics
        below = shared_tiers(conn, tenant, l2=config.l2, l3=config.l3)
        log = Log(conn, tenant) if config.ask_log else None
        self.caching: Final = Caching(conn, tenant, config, metrics, below, log)
        self.cache: Final = self.caching.cache
        self.functions: Final = self.caching.functions
        self.warming: Final = Warming(self.cache, self.functions, metrics, config.warm, _key_in_hand)
        self._coord = coord
        self._ways = frozenset(config.warm)
        self._holder = secrets.token_hex(8)
        self._message = CursorMessage(conn, tenant, coord.agent, _RECORD, HotRecord)
        self._showing = Showing(
            conn, self.cache, tenant, coord.agent, coord.instance, self.functions, self.warming.paid
        )
        self._running: list[asyncio.Task[None]] = []
        self._showing.start()
        self.warming.start()
        if RECORD in self._ways:
            self._start(self._record_for_ever())
        if TRIGGER in self._ways:
            self._start(self._follow_workflows())

    def _start(self, work: Any) -> None:
        self._running.append(asyncio.get_running_loop().create_task(work, name="coord-caches"))

    async def close(self) -> None:
        """Drop everything.  Twice is legal."""
        running, self._running = self._running, []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._showing.close()
        await self.warming.close()
        await self.caching.close()

    async def warm(self, function: CachedFunction[Any], calls: Iterable[tuple[Any, ...]], every_s: float | None) -> int:
        """See `coord.client.connect.Coord.warm`."""
        keys = [function.key(*call) for call in calls]
        if every_s is None:
            return await self.warming.warm(SCHEDULE, keys)
        if every_s <= 0:
            raise errors.SettingsError("warm: every_s must be positive")
        came = await self.warming.warm(SCHEDULE, keys)
        self.warming.every(every_s, keys)
        return came

    # --- the record ----------------------------------------------------------------------

    async def begin(self) -> int:
        """See `coord.client.connect.Coord.begin_warm`.

        What has tags can be kept once notices arrive: that is waited for, but not for ever, as a projector may be away.
        """
        if RECORD not in self._ways:
            return 0
        keys = await self._recorded()
        if keys and self.functions.need_notices:
            await self.caching.open()
            for _ in range(math.ceil(limits.CACHE_WARM_WAIT_S / limits.CACHE_BEHIND_FIRST_S)):
                if self.cache.evictions.is_vouched:
                    break
                await asyncio.sleep(limits.CACHE_BEHIND_FIRST_S)
        return await self.warming.warm(RECORD, keys)

    async def _recorded(self) -> list[Key]:
        try:
            record = await self._message.load()
        except errors.CoordError as exc:
            _log.debug("cache.record_unreadable", error=exc)
            return []
        return [] if record is None else recorded(record.keys)

    async def _record_for_ever(self) -> None:
        while True:
            await asyncio.sleep(limits.CACHE_WARM_RECORD_S)
            await self.put_on_record()

    async def put_on_record(self) -> None:
        """Write what is asked for most, if anything is."""
        keys = self.warming.record()
        if not keys:
            return
        record = HotRecord(keys=list(keys), holder=self._holder)
        try:
            # Of several processes whoever comes last is believed: they ask for the same, by and large.
            if await self._message.put_as_holder(record) is not None:
                await self._message.put(record)
        except errors.CoordError as exc:
            _log.debug("cache.record_not_written", error=exc)

    # --- what workflows will read --------------------------------------------------------

    async def _follow_workflows(self) -> None:
        try:
            async with self._coord.subscribe(kind="workflow", event="started") as facts:
                async for fact in facts:
                    with contextlib.suppress(errors.InvalidPayload):  # its decider says what is wrong with it
                        self.warming.begun(trigger_of(fact))
        except errors.CoordError as exc:
            _log.warning("cache.workflows_not_followed", error=exc)


def trigger_of(fact: StoredFact) -> Trigger:
    """A workflow that starts: runs of one definition are of one sort, and its work is done under its key.

    Raises `InvalidPayload`.
    """
    started = workflow_life.decode(fact, flow.Started)
    try:
        name = msgspec.json.decode(started.definition, type=_Named).name
        given = msgspec.json.decode(started.input)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.InvalidPayload(f"not a workflow's start: {exc}") from exc
    if not 0 < len(name) <= limits.TOKEN_BYTES_MAX:
        raise errors.InvalidPayload("not a workflow's start: its definition has no name")
    fields = fields_of({"id": fact.id, "key": fact.key, "agent": fact.agent})
    if isinstance(given, dict):
        fields |= fields_of({f"input.{member}": value for member, value in _some(given.items())})
    elif isinstance(given, str | int):
        fields |= fields_of({"input": given})
    return Trigger(name, fact.key, fields)


class _Named(msgspec.Struct):
    name: str = ""


def _some(items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """As many members of an input as are looked at."""
    return [item for item, _ in zip(items, range(limits.CACHE_LEARNT_KEYS_MAX), strict=False)]


def _key_in_hand() -> str | None:
    """The ordering key of the fact that the running task handles."""
    cause = context.current()
    return None if cause is None else cause.key
