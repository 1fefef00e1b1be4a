"""Feature flags: changed by facts, evaluated here.

::

    await c.flags.set("new-ranker", percentage=10, rules=[FlagRule(labels={"region": "eu"})], note="trial")
    if await c.flags.enabled("new-ranker", subject=user):
        ...

Asked for the first time, the flags are read from the log and followed from then on; after that
`enabled` asks nobody.  A change is everywhere as soon as the live subscription has brought it, a few
milliseconds; who was away catches up from the log.  Every change stays in the log and the
tables: who, when, what, why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from coord import errors, limits
from coord.client.entities import facts
from coord.core import flags as core
from coord.core.flags import Flag
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import arguments
from coord.wire import flagging as wire
from coord.wire.flagging import FlagRule, FlagSet, Removed
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.subscriber import Subscription

_log = logs.get("flags")

_LOAD_AGAIN_S: Final = 5.0
"""How soon it is tried again to read the flags when that failed."""


class Flags:
    """Of one connection: ``c.flags``."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord
        self._flags: dict[str, Flag] = {}
        self._subscription: Subscription | None = None
        self._follower: asyncio.Task[None] | None = None
        self._loading: asyncio.Lock = asyncio.Lock()
        self._loaded = False
        self._load_at = float("-inf")
        self._news = asyncio.Event()
        self._read_to = 0

    async def enabled(
        self, name: str, *, subject: str | None = None, labels: Mapping[str, str] | None = None, default: bool = False
    ) -> bool:
        """Whether a flag is on for `subject` (a user, a document, …; default: this agent).

        `labels`: default: those that this agent is registered with.  `default`: for a flag that nobody set, and
        for as long as the flags cannot be read; raises nothing.
        """
        if not self._loaded:
            await self._load()
        flag = self._flags.get(name)
        if flag is None or flag.said is None:
            return default
        if labels is None:
            registration = self._coord.beating.registration
            labels = {} if registration is None else registration.labels
        agent = self._coord.agent
        return core.enabled(name, flag.said, agent if subject is None else subject, agent=agent, labels=labels)

    async def set(
        self,
        name: str,
        *,
        enabled: bool = True,
        percentage: float = 100.0,
        rules: Iterable[FlagRule] = (),
        salt: str = "",
        note: str = "",
    ) -> Flag:
        """Set all of a flag; returns it.  The first of `rules` that fits decides, else `percentage`.

        `percentage`: 0 to 100, of subjects, always the same ones; a larger one adds to them.  `rules`: `FlagRule`s, or
        mappings of their members.  `salt`: another one draws others.

        Raises `InvalidPayload`, and what stating a fact raises.
        """
        arguments.is_a(rules, Iterable, "rules", "several FlagRules")
        rules = tuple(rules)
        for rule in rules:  # one without a condition that was meant would be on for everybody
            unknown = set(rule) - set(FlagRule.__struct_fields__) if isinstance(rule, Mapping) else ()
            if unknown:
                said_so = f"a flag's rule has {', '.join(FlagRule.__struct_fields__)}"
                raise errors.InvalidPayload(said_so, unknown=sorted(map(str, unknown)))
        said = FlagSet(enabled=enabled, percentage=percentage, rules=rules, salt=salt, note=note)
        return await self._state(name, "set", wire.check(arguments.as_kind(said, FlagSet, "a flag")))

    async def remove(self, name: str, *, note: str = "") -> None:
        """From now on whoever asks for it gets his default."""
        await self._state(name, "removed", Removed(note))

    async def ls(self) -> list[Flag]:
        """The flags that are set, by name.  Raises what asking the query service raises."""
        await self._load(strict=True)
        return [flag for _, flag in sorted(self._flags.items()) if flag.said is not None]

    async def history(self, name: str) -> list[StoredFact]:
        """Every change of a flag that the log holds; older ones are in the table `coord.event`."""
        return await facts(self._coord.connection, self._coord.tenant, key=wire.KEY, kind="flag", id=name)

    async def close(self) -> None:
        """Follow no more."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        if self._subscription is not None:
            await self._subscription.close()

    # --- inside ----------------------------------------------------------------------------

    async def _state(self, name: str, event: str, data: FlagSet | Removed) -> Flag:
        await self._load(strict=True)
        fact = Fact(kind="flag", id=name, key=wire.KEY, event=event, data=data)
        stored = await self._coord.stating.state(fact)
        try:
            async with asyncio.timeout(limits.API_TIMEOUT_S):
                while self._read_to < stored.seq:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as exc:
            raise errors.DeadlineExceeded("the flag was changed, but is not seen here yet", flag=name) from exc
        return self._flags[name]

    async def _load(self, *, strict: bool = False) -> None:
        async with self._loading:
            if self._loaded or (not strict and clock.monotonic() < self._load_at):
                return
            try:
                if self._subscription is None:
                    # It begins with what the log holds; what was read at once below is not folded twice.
                    self._subscription = self._coord.subscribe(key=wire.KEY, kind="flag", start="first")
                    self._follower = asyncio.get_running_loop().create_task(self._follow(self._subscription))
                for fact in await facts(self._coord.connection, self._coord.tenant, key=wire.KEY, kind="flag"):
                    self._fold(fact)
                self._loaded = True
            except errors.CoordError as exc:
                self._load_at = clock.monotonic() + _LOAD_AGAIN_S
                if strict:
                    raise
                _log.warning("flags.not_read", error=exc)

    async def _follow(self, subscription: Subscription) -> None:
        while True:
            try:
                async for fact in subscription:
                    self._fold(fact)
                return
            except errors.CoordError as exc:
                _log.warning("flags.not_followed", error=exc)
                await asyncio.sleep(_LOAD_AGAIN_S)

    def _fold(self, fact: StoredFact) -> None:
        if fact.seq <= self._read_to:
            return
        flag = self._flags.get(fact.id)
        if flag is None:
            flag = self._flags[fact.id] = Flag(tenant=fact.tenant, key=fact.key, id=fact.id)
        flag.apply(fact)
        self._read_to = fact.seq
        self._news.set()
