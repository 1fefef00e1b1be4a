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
from coord.client.entities import each, window
from coord.core import locks as core
from coord.core.locks import Lock
from coord.wire import locking as wire
from coord.wire.locking import Released, Requested
from coord.wire.log_api import Filter
from coord.wire.records import Fact

if TYPE_CHECKING:
    from coord.client.connect import Coord
    from coord.client.stating import Statement


class _Told(msgspec.Struct):
    """A push of topic `lock`."""

    what: str = ""
    token: str = ""
    epoch: int = 0
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
        self._asked: Statement | None = None
        """What was said under that token."""
        self._epoch = 0
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
                    self._asked = self._locks.send(self, token, "requested", self._said)
                    self._epoch = (await self._asked).seq
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
        self.held = held = Held(self.name, self._epoch)
        return held

    async def release(self) -> None:
        """Give it back; whoever is next has it within a millisecond.  Twice is legal.

        Without a broker it returns after two seconds, and it is given back when there is one.
        """
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
            if self.held is not None:
                told = await self._locks.revoked(self, token, self._epoch)
            else:
                told = await self._told_by_the_log(token)
        except errors.CoordError as exc:
            if not exc.retryable:
                raise
            return False
        if token != self._token:
            return False
        if told is not None:
            self.hear(told)
        return True

    async def _told_by_the_log(self, token: str) -> _Told | None:
        lock = await self._locks.little(self)
        if lock is not None:
            request = lock.requests.get(token)
            if request is None:
                return _Told("revoked", token)
            return _Told("granted", token, request.epoch) if request in lock.holders else None
        # So much was said of this lock that reading all of it takes longer than holding it: its decider is asked.
        told = await self._locks.revoked(self, token, self._epoch)
        if told is None:
            self._granted = False
            await self._locks.send(self, token, "requested", self._said)
        return told

    def hear(self, told: _Told) -> None:
        """Something was said about this request."""
        if told.what == "granted":
            self._granted, self._epoch = True, told.epoch or self._epoch
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
        asked, self._asked = self._asked, None
        if token:
            await self._locks.give_back(self, token, asked)

    @property
    def key(self) -> str:
        """What it is ordered with."""
        return self._key


class Locks:
    """Of one connection."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord
        self._lockings: dict[str, Locking] = {}
        self._count = itertools.count(1)
        self._jobs: set[asyncio.Task[None]] = set()
        self._unregister = [
            coord.pushes.on(wire.TOPIC, self._pushed),
            coord.connection.on_reconnected(self._reconnected),
        ]

    def close(self) -> None:
        """Hear no more."""
        for unregister in self._unregister:
            unregister()
        for job in self._jobs:
            job.cancel()

    def locking(
        self, name: str, permits: int, key: str | None, ttl_s: float | None, timeout_s: float | None
    ) -> Locking:
        """See `Coord.lock`, `elect` and `semaphore`."""
        said = wire.check(Requested(instance=self._coord.instance, permits=permits, ttl_s=ttl_s))
        return Locking(self, name, key, said, timeout_s)

    async def get(self, name: str, *, key: str | None = None) -> Lock | None:
        """A lock as the log has it now: `holders`, `waiting`; None: the log knows of none."""
        place = name if key is None else key
        lock: Lock | None = None
        async for fact in each(self._coord.connection, self._coord.tenant, Filter(key=place, kind="lock", id=name)):
            if lock is None:
                lock = Lock(tenant=fact.tenant, key=fact.key, id=fact.id)
            lock.apply(fact)
        return lock

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

    async def little(self, locking: Locking) -> Lock | None:
        """A lock as the log has it now; None: too much was said of it."""
        which = Filter(key=locking.key, kind="lock", id=locking.name)
        at_most = limits.LOCK_AUDIT_FACTS_MAX
        found = await window(self._coord.connection, self._coord.tenant, which, facts_max=at_most)
        if not found.whole or len(found.facts) > at_most:
            return None
        lock = Lock(tenant=self._coord.tenant, key=locking.key, id=locking.name)
        for fact in found.facts:
            lock.apply(fact)
        return lock

    async def revoked(self, locking: Locking, token: str, epoch: int) -> _Told | None:
        """That a grant was taken away; None: the log does not say so."""
        which = Filter(key=locking.key, kind="lock", id=locking.name, agent=core.AGENT, event="revoked")
        try:
            found = [fact async for fact in each(self._coord.connection, self._coord.tenant, which, from_seq=epoch)]
        except errors.LogTrimmed:
            found = [fact async for fact in each(self._coord.connection, self._coord.tenant, which)]
        is_over = any(fact.detail == (token, str(epoch)) for fact in found)
        return _Told("revoked", token) if is_over else None

    async def give_back(self, locking: Locking, token: str, asked: Statement | None) -> None:
        """Say that a request is over, for as long as it takes; returns when it was said, at the latest after a while.

        What is not said keeps everybody else from the lock for as long as this instance lives.
        """
        self._lockings.pop(token, None)
        job = self._spawn(self._give_back(locking, token, asked))
        await asyncio.wait({job}, timeout=limits.LOCK_GIVE_BACK_S)

    async def _give_back(self, locking: Locking, token: str, asked: Statement | None) -> None:
        wait_s = limits.LOCK_GIVE_BACK_S
        try:
            while asked is not None:
                with contextlib.suppress(errors.CoordError):
                    if not asked.done:
                        await asked  # stored behind its own end it would be a request of nobody
                    await self.send(locking, token, "released", Released())
                    return
                if self._coord.connection.is_closed:
                    return
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, limits.RESULT_AUDIT_MAX_S)
        finally:
            self._coord.beating.release(("lock", token))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

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
                self._spawn(self._look(locking, token))

    async def _look(self, locking: Locking, token: str) -> None:
        """Whether what is held was taken away meanwhile; a broker that has just come back may not say so at once."""
        wait_s = limits.LOCK_LOOK_AGAIN_S
        with contextlib.suppress(errors.CoordError):
            while self._lockings.get(token) is locking and not await locking.audit(token):
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, limits.RESULT_AUDIT_MAX_S)
