"""Signals: raised once, awaited from anywhere, before or after.

::

    await c.signals.raise_("memory-ready", {"shards": 4})
    data = await c.signals.wait("memory-ready", timeout_s=30)

    async with c.signals.starting(needs=["log-ready"], provides=["memory-ready"]):
        ...  # runs when log-ready is raised; memory-ready is raised when it is left without an error

Whoever waits states that, so that everybody sees who waits for what, and is told by a push.  A push is
at most once: whoever hears nothing reads the log, after two seconds, then ever more rarely.

A wait says what will be raised after it (`provides`).  Agents that wait for each other are told
so: `SignalDeadlock` names who waits for what.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from coord import errors, limits
from coord.client.entities import each, facts
from coord.core import signals as core
from coord.core.signals import Latch
from coord.runtime import clock
from coord.wire import latch as wire
from coord.wire.latch import Awaited, Edge, Ending, Mode, Raised, Resumed
from coord.wire.log_api import Filter
from coord.wire.records import Fact, StoredFact

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.stating import Statement

KEY: Final = wire.KEY

OnDeadlock = Literal["raise", "wait"]


class _Told(msgspec.Struct):
    """A push of topic `signal`."""

    what: str = ""
    id: str = ""
    wait: str = ""
    data: Any = None
    more: bool = False
    cycle: tuple[Edge, ...] = ()


class _Waiting:
    """One call that waits."""

    def __init__(self, token: str, names: tuple[str, ...], mode: Mode) -> None:
        self.token = token
        self.names = names
        self.mode = mode
        self.found: dict[str, Any] = {}
        self.cycle: tuple[Edge, ...] = ()
        self.doubtful = True
        """The log has to be read."""
        self.news = asyncio.Event()
        self.said: dict[str, Statement] = {}
        """By signal: that it waits."""

    @property
    def missing(self) -> list[str]:
        """Signals that are not raised, as far as is known here."""
        return [name for name in self.names if name not in self.found]

    @property
    def over(self) -> bool:
        """Whether enough of them are."""
        return bool(self.found) if self.mode == "any" else len(self.found) == len(self.names)


class Signals:
    """Of one connection: ``c.signals``."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord
        self._waitings: dict[str, _Waiting] = {}
        self._count = itertools.count(1)
        self._closed = False
        self._unregister = [
            coord.pushes.on(wire.TOPIC, self._pushed),
            coord.connection.on_reconnected(self._doubt),
        ]

    def close(self) -> None:
        """Hear no more."""
        self._closed = True
        for unregister in self._unregister:
            unregister()

    # --- raising ---------------------------------------------------------------------------

    async def raise_(self, name: str, data: Any = None, *, key: str = KEY) -> bool:
        """Raise a signal, for good; False: it was raised before, and its data stays what it was.

        `data`: what those who wait are told.  `key`: of the piece of work it belongs to; default: the
        tenant's own.  Raises what stating a fact raises.
        """
        fact = Fact(kind="signal", id=name, key=key, event="raised", data=Raised(data=data))
        try:
            await self._coord.stating.state(fact, once="event")
        except errors.WrongLastSequence:
            latch = core.fold(await self._of(name, key, "raised"))
            if latch is not None and latch.raised:
                return False
            await self._coord.stating.state(fact)  # what stands there is not believed
        return True

    # --- waiting ---------------------------------------------------------------------------

    async def wait(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        key: str = KEY,
        provides: Iterable[str] = (),
        on_deadlock: OnDeadlock = "raise",
    ) -> Any:
        """Wait until a signal is raised, at once if it was; returns the data it was raised with.

        `provides`: signals of the same key that this agent raises afterwards: so a cycle is found.
        `on_deadlock`: ``wait`` goes on waiting where agents wait for each other; somebody else may raise.

        Raises `SignalDeadlock`, `DeadlineExceeded` after `timeout_s` (None: never), and what stating raises.
        """
        found = await self._wait((name,), "all", timeout_s, key, provides, on_deadlock)
        return found[name]

    async def wait_all(
        self,
        *names: str,
        timeout_s: float | None = None,
        key: str = KEY,
        provides: Iterable[str] = (),
        on_deadlock: OnDeadlock = "raise",
    ) -> dict[str, Any]:
        """`wait` until all of these are raised; returns their data."""
        return await self._wait(names, "all", timeout_s, key, provides, on_deadlock)

    async def wait_any(
        self,
        *names: str,
        timeout_s: float | None = None,
        key: str = KEY,
        provides: Iterable[str] = (),
        on_deadlock: OnDeadlock = "raise",
    ) -> dict[str, Any]:
        """`wait` until one of these is raised; returns the data of that one, or of those known to be."""
        return await self._wait(names, "any", timeout_s, key, provides, on_deadlock)

    @contextlib.asynccontextmanager
    async def starting(
        self,
        *,
        needs: Iterable[str] = (),
        provides: Iterable[str] = (),
        timeout_s: float | None = None,
        key: str = KEY,
    ) -> AsyncIterator[dict[str, Any]]:
        """Wait for all of `needs`, run the block, then raise all of `provides`.

        Agents that do so, started in any order, come up in the order of what they need.  Raises what `wait`
        raises; if the block raises, nothing is raised.
        """
        needed, provided = tuple(needs), tuple(provides)
        found = await self.wait_all(*needed, timeout_s=timeout_s, key=key, provides=provided) if needed else {}
        yield found
        for name in provided:
            await self.raise_(name, key=key)

    # --- looking ---------------------------------------------------------------------------

    async def get(self, name: str, *, key: str = KEY) -> Latch | None:
        """A signal as the log has it now; None: the log knows of none.  Raises what asking the service raises."""
        return core.fold(await facts(self._coord.connection, self._coord.tenant, key=key, kind="signal", id=name))

    async def ls(self, *, key: str | None = KEY) -> list[Latch]:
        """All signals of a key (None: of all keys) that the log knows of, with who waits for them."""
        found: dict[tuple[str, str], Latch] = {}
        async for fact in each(self._coord.connection, self._coord.tenant, Filter(key=key, kind="signal")):
            place = (fact.key, fact.id)
            if place not in found:
                found[place] = Latch(tenant=fact.tenant, key=fact.key, id=fact.id)
            found[place].apply(fact)
        return [latch for latch in found.values() if latch.raised or latch.waits]

    # --- inside ----------------------------------------------------------------------------

    async def _wait(
        self,
        names: tuple[str, ...],
        mode: Mode,
        timeout_s: float | None,
        key: str,
        provides: Iterable[str],
        on_deadlock: OnDeadlock,
    ) -> dict[str, Any]:
        names = tuple(dict.fromkeys(names))
        if not names:
            raise errors.InvalidRequest("wait for at least one signal")
        deadline = None if timeout_s is None else clock.unix() + timeout_s
        said = wire.check(
            Awaited(names=names, mode=mode, instance=self._coord.instance, deadline=deadline, provides=tuple(provides))
        )
        waiting = _Waiting(f"{self._coord.instance}-{next(self._count)}", names, mode)
        holding = ("signal", waiting.token)
        self._waitings[waiting.token] = waiting
        reason: Ending = "cancelled"
        try:
            async with asyncio.timeout(timeout_s):
                await self._coord.pushes.open()
                self._coord.beating.hold(holding)  # the wait ends with the instance
                for name in names:
                    waiting.said[name] = self._send(name, key, "awaited", waiting, said)
                for statement in waiting.said.values():
                    await statement
                waiting.doubtful = False
                await self._until_over(waiting, key, on_deadlock)
            reason = "any" if mode == "any" else ""
        except TimeoutError as exc:
            reason = "timeout"
            raise errors.DeadlineExceeded(
                "a signal was not raised in time", missing=waiting.missing, timeout_s=timeout_s
            ) from exc
        except errors.SignalDeadlock:
            reason = "deadlocked"
            raise
        finally:
            self._coord.beating.release(holding)
            del self._waitings[waiting.token]
            self._leave(waiting, key, reason)
        return waiting.found

    async def _until_over(self, waiting: _Waiting, key: str, on_deadlock: OnDeadlock) -> None:
        wait_s = limits.RESULT_AUDIT_FIRST_S
        while not waiting.over:
            if waiting.cycle and on_deadlock == "raise":
                raise errors.SignalDeadlock(f"agents wait for each other: {wire.words(waiting.cycle)}")
            heard = True
            if not waiting.doubtful:
                waiting.news.clear()
                try:
                    async with asyncio.timeout(wait_s):
                        await waiting.news.wait()
                except TimeoutError:
                    heard, waiting.doubtful = False, True
            if waiting.doubtful and not waiting.over:
                waiting.doubtful = False
                await self._audit(waiting, key)
            wait_s = limits.RESULT_AUDIT_FIRST_S if heard else min(2 * wait_s, limits.RESULT_AUDIT_MAX_S)

    async def _audit(self, waiting: _Waiting, key: str) -> None:
        """Read the log; what cannot be read now is read the next time."""
        for name in waiting.missing:
            try:
                # Not all of its facts: thousands may wait for it, and each would read what all of them have said.
                latch = core.fold(await self._of(name, key, "raised"))
                stuck = [] if latch is not None and latch.raised else await self._of(name, key, "deadlocked")
            except errors.CoordError as exc:
                if not exc.retryable:
                    raise
                return
            if latch is not None and latch.raised:
                waiting.found[name] = latch.data
            elif any(fact.detail == (waiting.token,) for fact in stuck):
                waiting.cycle = waiting.cycle or (Edge(self._coord.agent, name, waiting.token),)

    async def _of(self, name: str, key: str, event: str) -> list[StoredFact]:
        return await facts(self._coord.connection, self._coord.tenant, key=key, kind="signal", id=name, event=event)

    def _leave(self, waiting: _Waiting, key: str, reason: Ending) -> None:
        """Say of what is not raised that nobody waits for it here, for as long as it takes."""
        for name in waiting.missing:
            said = waiting.said.get(name)
            if said is None:
                continue
            if said.done:
                self._resume(waiting, name, key, reason)
            else:  # stored before its beginning the end would end nothing
                said.awaited = True
                said.then = lambda _, name=name: self._resume(waiting, name, key, reason)

    def _resume(self, waiting: _Waiting, name: str, key: str, reason: Ending) -> None:
        def told(statement: Statement) -> None:
            if statement.error is not None and statement.error.retryable and not self._closed:
                loop.call_later(limits.RESULT_AUDIT_FIRST_S, self._resume, waiting, name, key, reason)

        loop = asyncio.get_running_loop()
        if not self._closed:
            with contextlib.suppress(errors.CoordError):
                self._send(name, key, "resumed", waiting, Resumed(reason), then=told)

    def _send(self, name: str, key: str, event: str, waiting: _Waiting, data: Any, **more: Any) -> Statement:
        fact = Fact(kind="signal", id=name, key=key, event=event, detail=(waiting.token,), data=data)
        return self._coord.stating.send(fact, **more)

    def _pushed(self, body: bytes) -> None:
        try:
            told = msgspec.json.decode(body, type=_Told)
        except msgspec.MsgspecError:
            return
        waiting = self._waitings.get(told.wait)
        if waiting is None:
            return
        if told.what == "raised" and told.more:
            waiting.doubtful = True
        elif told.what == "raised" and told.id in waiting.names:
            waiting.found[told.id] = told.data
        elif told.what == "deadlocked":
            waiting.cycle = told.cycle
        waiting.news.set()

    def _doubt(self) -> None:
        for waiting in self._waitings.values():
            waiting.doubtful = True
            waiting.news.set()
