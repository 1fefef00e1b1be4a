"""Handoffs: work with its context, passed to an agent or to whoever has a capability.

::

    handoff = await c.handoff({"ticket": 7}, to="billing", reason="a refund", context={"lang": "de"})
    taken_by = await handoff.accepted(timeout_s=60)


    @agent.handoff
    async def take(work: Any, ctx: coord.HandoffContext) -> None:
        if busy():
            raise coord.Decline("too much to do")
        await ctx.accept()  # it is this agent's from here on
        ...

A handler that returns has accepted; one that raises before it did has declined.  Offers and answers
are pushed; whoever offered also reads the log when he hears nothing.  Whoever is asked and hears nothing
was silent: the next one is asked.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

import msgspec

from coord import errors, limits
from coord.client.entities import facts
from coord.client.event_ids import new_event_id
from coord.core import handoff as core
from coord.core.handoff import Handoff
from coord.telemetry import logs
from coord.wire import codec
from coord.wire import handing as wire
from coord.wire.handing import Accepted, Declined, Ended, Offered
from coord.wire.records import Fact
from coord.wire.work import Reference

if TYPE_CHECKING:
    from coord.client.connect import Coord

_log = logs.get("handoff")

HandoffHandler: TypeAlias = Callable[[Any, "HandoffContext"], Awaitable[None]]


class _Told(msgspec.Struct, rename={"from_": "from"}):
    """A push of topic `handoff`."""

    what: str = ""
    key: str = ""
    id: str = ""
    n: int = 0
    instance: str | None = None
    from_: str = ""
    capability: str | None = None
    work: Any = None
    context: Any = None
    ref: Reference | None = None
    reason: str = ""
    tried: tuple[str, ...] = ()
    escalated: bool = False
    by: str = ""


class HandoffHandle:
    """An offered handoff.  Keep it for as long as you want to be told of it."""

    def __init__(self, handoffs: Handoffs, key: str, id: str) -> None:
        self.key = key
        self.id = id
        self._handoffs = handoffs
        self._taken_by: str | None = None
        self._error: errors.CoordError | None = None
        self._doubtful = False
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"HandoffHandle({self.id!r})"

    async def accepted(self, timeout_s: float | None = None) -> str:
        """Wait until somebody has accepted; returns who.

        Raises `HandoffExpired` when nobody is left to be asked, or it was withdrawn, and `DeadlineExceeded`
        after `timeout_s` (None: for as long as it takes); it goes on whatever happens here.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._outcome()
        except TimeoutError as exc:
            raise errors.DeadlineExceeded("nobody has accepted yet", handoff=self.id, timeout_s=timeout_s) from exc

    async def withdraw(self, reason: str = "") -> bool:
        """Take it back; False: it has ended, somebody may have it."""
        fact = Fact(kind="handoff", id=self.id, key=self.key, event="withdrawn", data=Ended(reason))
        stored = await self._handoffs.coord.stating.state(fact)
        handoff = await self._handoffs.read(self.key, self.id, stored.seq)
        if handoff is None or handoff.status != "withdrawn":
            return False
        self.hear(_Told(what="withdrawn", reason=reason))
        return True

    async def status(self) -> Handoff:
        """As the log has it now: who is asked, who was."""
        handoff = await self._handoffs.read(self.key, self.id)
        if handoff is None:
            raise errors.HandoffExpired("the log knows of no such handoff", handoff=self.id)
        return handoff

    async def _outcome(self) -> str:
        wait_s = limits.RESULT_AUDIT_FIRST_S
        while True:
            if self._taken_by is not None:
                return self._taken_by
            if self._error is not None:
                raise self._error
            heard = True
            if not self._doubtful:
                self._news.clear()
                try:
                    async with asyncio.timeout(wait_s):
                        await self._news.wait()
                except TimeoutError:
                    heard, self._doubtful = False, True
            if self._doubtful:
                self._doubtful = False
                await self._audit()
            wait_s = limits.RESULT_AUDIT_FIRST_S if heard else min(2 * wait_s, limits.RESULT_AUDIT_MAX_S)

    async def _audit(self) -> None:
        try:
            handoff = await self._handoffs.read(self.key, self.id)
        except errors.CoordError as exc:
            if not exc.retryable:
                raise
            return
        if handoff is not None and handoff.ended:
            self.hear(_Told(what=handoff.status, by=handoff.addressee or "", reason=handoff.reason))

    def hear(self, told: _Told) -> None:
        """Something became of it."""
        if told.what == "accepted":
            self._taken_by = told.by
        elif told.what in ("expired", "withdrawn"):
            self._error = errors.HandoffExpired(handoff=self.id, reason=told.reason)
        self._news.set()

    def doubt(self) -> None:
        """Something may have been missed."""
        self._doubtful = True
        self._news.set()


class HandoffContext:
    """What a handler is offered, and how it answers.

    ``sender``: the agent that offers it, with ``reason`` and ``context``.  ``capability``: None where this agent was
    asked by name.  ``tried``: who was asked before.  ``escalated``: whether it came because nobody below took it.
    ``key``, ``id``: of the handoff.  ``answered``: whether it was.
    """

    def __init__(self, handoffs: Handoffs, told: _Told) -> None:
        self.key = told.key
        self.id = told.id
        self.sender = told.from_
        """Who offers it."""
        self.reason = told.reason
        self.capability = told.capability
        """None: it was offered to this agent by name."""
        self.context: Any = told.context
        self.tried = told.tried
        """Who was asked before."""
        self.escalated = told.escalated
        """Whether it came here because nobody below took it."""
        self.answered = False
        self._handoffs = handoffs
        self._n = told.n

    async def accept(self, note: Any = None) -> None:
        """It is this agent's from here on; whoever offered it is told, with `note`.  Twice is legal.

        Raises `HandoffOver` when it is somebody else's meanwhile: leave it.
        """
        if self.answered:
            return
        said = Accepted(self._handoffs.coord.instance, note)
        seq = await self._answer("accepted", said)
        handoff = await self._handoffs.read(self.key, self.id, seq)
        mine = self._handoffs.coord
        if handoff is None or (handoff.status, handoff.n, handoff.addressee, handoff.instance) != (
            "accepted", self._n, mine.agent, mine.instance,
        ):  # fmt: skip
            raise errors.HandoffOver(handoff=self.id)

    async def decline(self, reason: str = "") -> None:
        """It is not for this agent: the next one is asked.  After an answer nothing happens."""
        if not self.answered:
            await self._answer("declined", Declined(reason))

    async def _answer(self, event: str, data: Accepted | Declined) -> int:
        self.answered = True
        fact = Fact(kind="handoff", id=self.id, key=self.key, event=event, detail=(str(self._n),), data=data)
        try:
            # Without a condition: what a stranger states under this step, which nobody believes, must not forestall it.
            return (await self._handoffs.coord.stating.state(fact)).seq
        except BaseException:
            self.answered = False  # it may be said again: the first that is stored counts
            raise


class Handoffs:
    """Of one connection: offers made, and offers received."""

    def __init__(self, coord: Coord) -> None:
        self.coord = coord
        self._handles: WeakValueDictionary[tuple[str, str], HandoffHandle] = WeakValueDictionary()
        self._handlers: dict[str | None, HandoffHandler] = {}
        self._thinking: dict[tuple[str, str, int], asyncio.Task[None]] = {}
        self._answered: dict[tuple[str, str, int], None] = {}
        """Steps that were thought about here, the oldest first: an offer may be told once more."""
        self._unregister = [
            coord.pushes.on(wire.TOPIC, self._pushed),
            coord.connection.on_reconnected(self._doubt),
        ]

    async def offer(
        self,
        work: Any,
        *,
        to: str | None = None,
        capability: str | None = None,
        reason: str = "",
        context: Any = None,
        id: str | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
        escalate: bool = True,
    ) -> HandoffHandle:
        """See `Coord.handoff`."""
        raw = codec.encode({"work": work, "context": context}, bytes_max=limits.TASK_OUTPUT_BYTES_MAX)
        ref = None
        if len(raw) > limits.HANDOFF_BYTES - 64:
            ref, work, context = await self.coord.payloads.put(raw), None, None
        if timeout_s is not None and not math.isfinite(timeout_s):
            raise errors.InvalidPayload("timeout_s is a number of seconds", timeout_s=str(timeout_s))
        timeout_ms = limits.HANDOFF_TIMEOUT_MS if timeout_s is None else round(timeout_s * 1000)
        said = wire.check(
            Offered(
                agent=to, capability=capability, work=work, context=context, ref=ref, reason=reason,
                timeout_ms=timeout_ms, escalate=escalate, instance=self.coord.instance,
            )
        )  # fmt: skip
        name = new_event_id() if id is None else id
        place = (name if key is None else key, name)
        if id is not None:
            await self.coord.used_ids.refuse_handoff(*place)
        await self.coord.pushes.open()
        handle = self._handles.get(place)
        if handle is None:
            handle = self._handles[place] = HandoffHandle(self, *place)
        fact = Fact(kind="handoff", id=name, key=key, event="offered", data=said)
        try:
            await self.coord.stating.state(fact, once="entity")
        except errors.WrongLastSequence as refused:
            first = await self.read(*place)
            if first is None:  # something stands there that is no offer
                await self.coord.stating.state(fact)
            elif first.payload_hash != core.payload_hash(_as_stored(said)):
                raise errors.HandoffExists(
                    handoff=name,
                    key=place[0],
                    first_event_id=first.event_id,
                    offerer=first.offerer,
                    status=first.status,
                ) from refused
            handle.doubt()  # it was offered before: what became of it, the log says
        return handle

    async def receive(self, handler: HandoffHandler, *, capability: str | None = None) -> None:
        """Let `handler` answer offers of a capability; None: all that no other handler is for."""
        self._handlers[capability] = handler
        await self.coord.pushes.open()

    async def read(self, key: str, id: str, seq: int = 0) -> Handoff | None:
        """A handoff as the log has it, with what was stored at `seq`."""
        for _ in range(limits.STORED_LOOKS_MAX):
            found = await facts(self.coord.connection, self.coord.tenant, key=key, kind="handoff", id=id)
            if not seq or any(fact.seq >= seq for fact in found):
                return core.fold(found)
            await asyncio.sleep(limits.STORED_LOOK_AGAIN_S)
        raise errors.DeadlineExceeded("the log does not show what was just stored", handoff=id)

    async def close(self) -> None:
        """Hear no more; what handlers think about is ended, and asked of others."""
        for unregister in self._unregister:
            unregister()
        thinking = list(self._thinking.values())
        for task in thinking:
            task.cancel()
        await asyncio.gather(*thinking, return_exceptions=True)

    # --- what is told ----------------------------------------------------------------------

    def _pushed(self, body: bytes) -> None:
        try:
            told = msgspec.json.decode(body, type=_Told)
        except msgspec.MsgspecError:
            return
        if told.instance is not None and told.instance != self.coord.instance:
            return
        if told.what == "offered":
            self._offered(told)
        elif told.what == "over":
            thinking = self._thinking.get((told.key, told.id, told.n))
            if thinking is not None:
                thinking.cancel()
        else:
            handle = self._handles.get((told.key, told.id))
            if handle is not None:
                handle.hear(told)

    def _offered(self, told: _Told) -> None:
        place = (told.key, told.id, told.n)
        handler = self._handlers.get(told.capability) or self._handlers.get(None)
        if place in self._thinking or place in self._answered or handler is None:
            return  # told twice, or another program of this agent's name is for it
        context = HandoffContext(self, told)
        full = len(self._thinking) >= limits.HANDOFFS_AT_ONCE or self.coord.beating.paused
        job = context.decline("it takes nothing more now") if full else self._think(handler, told, context)
        task = asyncio.get_running_loop().create_task(_quietly(job, told.id))
        self._thinking[place] = task
        task.add_done_callback(lambda _: self._thought(place))

    def _thought(self, place: tuple[str, str, int]) -> None:
        self._thinking.pop(place, None)
        self._answered[place] = None
        if len(self._answered) > limits.HANDOFFS_REMEMBERED:
            del self._answered[next(iter(self._answered))]

    async def _think(self, handler: HandoffHandler, told: _Told, context: HandoffContext) -> None:
        work = told.work
        try:
            if told.ref is not None:
                whole = msgspec.json.decode(await self.coord.payloads.get(told.ref))
                work, context.context = whole["work"], whole["context"]
            await handler(work, context)
            await context.accept()
        except errors.Decline as exc:
            await context.decline(exc.message)
        except errors.HandoffOver:
            _log.info("handoff.over", id=told.id)
        except Exception as exc:  # noqa: BLE001 - a handler of the application's
            _log.warning("handoff.handler_failed", id=told.id, exc_info=exc)
            await context.decline(f"{type(exc).__name__}: {exc}"[:500])

    def _doubt(self) -> None:
        for handle in list(self._handles.values()):
            handle.doubt()


def _as_stored(said: Offered) -> Offered:
    """What the log has of it: types of the agent's own as JSON says them."""
    given = codec.encode((said.work, said.context))
    work, context = msgspec.json.decode(given)
    return msgspec.structs.replace(said, work=work, context=context)


async def _quietly(job: Awaitable[None], id: str) -> None:
    try:
        await job
    except errors.CoordError as exc:
        _log.warning("handoff.not_answered", id=id, error=exc)
