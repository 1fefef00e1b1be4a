"""Locks, elections and semaphores with fencing epochs.

::

    async with c.lock("index") as held:
        await store.write(data, epoch=held.epoch)  # whatever is protected refuses an older epoch

    async with c.elect("planner") as led:
        await led.lost.wait()  # until somebody else may lead

    async with c.semaphore("gpu", 3):
        ...

Who asks first has it first.  A holder that dies loses it at once, a hung one within seconds (it
does not beat); what it still does then carries an older epoch, and `lost` is set as soon as it
hears.  After a reconnect it reads the log: what it holds is its own as long as nobody said otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine
from typing import TYPE_CHECKING

import msgspec

from coord import errors, limits
from coord.client.entities import facts
from coord.core import locks as core
from coord.core.locks import Lock
from coord.wire import locking as wire
from coord.wire.locking import Released, Requested
from coord.wire.records import Fact

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.stating import Statement


class _Told(msgspec.Struct):
    """A push of topic `lock`."""

    what: str = ""
    token: str = ""
    code: str = ""
    reason: str = ""


class Held:
    """A lock that is held, or was."""

    def __init__(self, name: str, epoch: int) -> None:
        self.name = name
        self.epoch = epoch
        """Grows with every grant of this lock: what it protects refuses a smaller one than it has seen."""
        self.lost = asyncio.Event()
        """Set when it was taken away: this instance was thought gone, or its lease ended."""

    def __repr__(self) -> str:
        return f"Held({self.name!r}, epoch={self.epoch}{', lost' if self.lost.is_set() else ''})"


class Locking:
    """A lock to be taken: ``async with``, or `acquire` and `release`.  Not to be entered twice at a time."""

    def __init__(self, locks: Locks, name: str, key: str | None, said: Requested, timeout_s: float | None) -> None:
        self.name = name
        self.held: Held | None = None
        """None: it is not held here."""
        self._locks = locks
        self._key = name if key is None else key
        self._said = said
        self._timeout_s = timeout_s
        self._token = ""
        self._granted = False
        self._refused: _Told | None = None
        self._doubtful = False
        self._news = asyncio.Event()

    async def acquire(self) -> Held:
        """Wait until it is held.

        Raises `DeadlineExceeded` after `timeout_s`, `LockRefused` when it is in use with another number of
        permits or too many wait, and what stating a fact raises.  Cancelled or raising, it waits no more.  Who
        was thought gone meanwhile (its process stood still) has lost its place, and asks again.
        """
        if self._token:
            raise errors.InvalidRequest("this lock is being taken, or is held, here", lock=self.name)
        said = "the broker has not answered"
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    self._token = token = self._locks.enter(self)
                    self._granted, self._refused, self._doubtful = False, None, False
                    await self._locks.ready(token)
                    stored = await self._locks.send(self, token, "requested", self._said)
                    said = "the lock is held by somebody else"
                    if await self._until_granted(token):
                        break
                    await self._over()
        except TimeoutError as exc:
            await self._over()
            raise errors.DeadlineExceeded(said, lock=self.name, timeout_s=self._timeout_s) from exc
        except BaseException:
            await self._over()
            raise
        self.held = held = Held(self.name, stored.seq)
        return held

    async def release(self) -> None:
        """Give it back; whoever is next has it within a millisecond.  Twice is legal."""
        self.held = None
        if self._token:
            await self._over()

    async def __aenter__(self) -> Held:
        return await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    # --- inside ----------------------------------------------------------------------------

    async def _until_granted(self, token: str) -> bool:
        """Whether it is held now; False: it was, or was waited for, and is not any more."""
        wait_s = limits.RESULT_AUDIT_FIRST_S
        while True:
            if self._doubtful:  # what was granted may be over: also then the log is asked
                self._doubtful = not await self.audit(token)
            if self._refused is not None:
                if self._refused.what == "revoked":
                    return False
                raise errors.LockRefused(self._refused.reason, lock=self.name, reason=self._refused.code)
            if self._granted and not self._doubtful:
                return True
            heard = True
            self._news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                heard, self._doubtful = False, True
            wait_s = limits.RESULT_AUDIT_FIRST_S if heard else min(2 * wait_s, limits.RESULT_AUDIT_MAX_S)

    async def audit(self, token: str) -> bool:
        """Read the log: is it held here?  False: that cannot be read now."""
        try:
            lock = await self._locks.get(self.name, key=self._key)
        except errors.CoordError as exc:
            if not exc.retryable:
                raise
            return False
        request = None if lock is None else lock.requests.get(token)
        if lock is None or token != self._token:
            return False
        if request is None:
            self.hear(_Told("revoked", token))
        elif request in lock.holders:
            self.hear(_Told("granted", token))
        return True

    def hear(self, told: _Told) -> None:
        """Something was said about this request."""
        if told.what == "granted":
            self._granted = True
        elif told.what in ("refused", "revoked"):
            if self.held is not None and told.what == "revoked":
                self.held.lost.set()
            self._refused = told
        self._news.set()

    def doubt(self) -> None:
        """Something may have been missed."""
        self._doubtful = True
        self._news.set()

    async def _over(self) -> None:
        token, self._token = self._token, ""
        if not token:
            return
        # If this is not stored, the decider finds out that the instance is gone, or it is asked again.
        try:
            with contextlib.suppress(errors.CoordError):
                await asyncio.shield(_stored(self._locks.send(self, token, "released", Released())))
        finally:
            self._locks.leave(token)

    @property
    def key(self) -> str:
        """What it is ordered with."""
        return self._key


async def _stored(statement: Statement) -> None:
    await statement


class Locks:
    """Of one connection."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord
        self._lockings: dict[str, Locking] = {}
        self._count = itertools.count(1)
        self._audits: set[asyncio.Task[None]] = set()
        self._unregister = [
            coord.pushes.on(wire.TOPIC, self._pushed),
            coord.connection.on_reconnected(self._reconnected),
        ]

    def close(self) -> None:
        """Hear no more."""
        for unregister in self._unregister:
            unregister()
        for audit in self._audits:
            audit.cancel()

    def locking(
        self, name: str, permits: int, key: str | None, ttl_s: float | None, timeout_s: float | None
    ) -> Locking:
        """See `Coord.lock`, `elect` and `semaphore`."""
        said = wire.check(Requested(instance=self._coord.instance, permits=permits, ttl_s=ttl_s))
        return Locking(self, name, key, said, timeout_s)

    async def get(self, name: str, *, key: str | None = None) -> Lock | None:
        """A lock as the log has it now: `holders`, `waiting`; None: the log knows of none."""
        place = name if key is None else key
        return core.fold(await facts(self._coord.connection, self._coord.tenant, key=place, kind="lock", id=name))

    # --- for lockings ----------------------------------------------------------------------

    def enter(self, locking: Locking) -> str:
        """A token for a request."""
        token = f"{self._coord.instance}-{next(self._count)}"
        self._lockings[token] = locking
        return token

    async def ready(self, token: str) -> None:
        """It will be told, and beats: what it asks for ends with the instance."""
        await self._coord.pushes.open()
        self._coord.beating.hold(("lock", token))
        await self._coord.stating.room()

    def leave(self, token: str) -> None:
        """The request is over."""
        self._lockings.pop(token, None)
        self._coord.beating.release(("lock", token))

    def send(self, locking: Locking, token: str, event: str, data: Requested | Released) -> Statement:
        """State something about a request."""
        fact = Fact(kind="lock", id=locking.name, key=locking.key, event=event, detail=(token,), data=data)
        return self._coord.stating.send(fact)

    def _pushed(self, body: bytes) -> None:
        try:
            told = msgspec.json.decode(body, type=_Told)
        except msgspec.MsgspecError:
            return
        locking = self._lockings.get(told.token)
        if locking is not None:
            locking.hear(told)

    def _reconnected(self) -> None:
        for token, locking in self._lockings.items():
            locking.doubt()
            if locking.held is not None:
                audit = asyncio.get_running_loop().create_task(_quietly(locking.audit(token)))
                self._audits.add(audit)
                audit.add_done_callback(self._audits.discard)


async def _quietly(audit: Coroutine[None, None, bool]) -> None:
    with contextlib.suppress(errors.CoordError):
        await audit
