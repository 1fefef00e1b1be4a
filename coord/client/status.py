"""An agent's own status, said by changes.

::

    await c.status.update(load=0.4, task="t1")  # states what changed, and nothing if nothing did
    await c.status.update(unset=["task"])
    await c.status.replace({"load": 0.1})  # members it does not have are removed

A statement is whole (``agent.status``) when it is the first, after so many changes or so much
time, when the one before it may not have been stored, and when a reader asks on
``coord.ask.{tenant}.{agent}.status``; else it is a change (``agent.changed``).  The decisions
are `coord.core.status.StatusSender`'s; this module numbers, states, and answers.

Whoever asks gets no answer of its own: the whole status is stated into the log, where it
mends every reader at once, at most once in `limits.STATUS_ASK_FIRST_S` however many ask.  So
nothing has to be answered to an inbox, and asking needs no right but that one subject.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from coord import errors, limits
from coord.core.status import Said, StatusSender
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import subjects
from coord.wire.records import Fact

if TYPE_CHECKING:
    from coord.bus.connection import Connection, Subscription
    from coord.client.publisher import Publisher
    from coord.client.receipt import Receipt

_log = logs.get("status")


class OwnStatus:
    """See the module.  `Coord.status` is one; statements leave in the order of the calls."""

    def __init__(
        self,
        conn: Connection,
        publisher: Publisher,
        *,
        whole_every: int = limits.STATUS_WHOLE_EVERY,
        whole_after_s: float = limits.STATUS_WHOLE_AFTER_S,
    ) -> None:
        self._conn = conn
        self._publisher = publisher
        # 48 random bits: two runs of one agent must not share a name, and clocks go back.
        self._sender = StatusSender(secrets.token_urlsafe(6), whole_every=whole_every, whole_after_s=whole_after_s)
        self._turn = asyncio.Lock()
        self._unsettled: deque[Receipt] = deque()
        self._asks: Subscription | None = None
        self._answer: asyncio.TimerHandle | None = None
        self._check: asyncio.TimerHandle | None = None
        self._whole_at = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.answered = 0
        """Whole statuses stated because somebody asked."""

    @property
    def state(self) -> dict[str, Any]:
        """What was stated last: a copy."""
        return self._sender.state

    async def update(
        self, changes: Mapping[str, Any] | None = None, /, *, unset: Iterable[str] = (), **members: Any
    ) -> Receipt | None:
        """Set `members` (and `changes`, for names that are no identifiers), remove those in `unset`.

        Returns the receipt of the statement, None when nothing changed.  A value is any JSON;
        null is a value.  Raises `InvalidPayload` or `PayloadTooLarge` for what cannot be
        said, and then nothing has changed; `Overloaded` and `BusClosed` as `emit` does: then
        the state has changed and the next statement brings it whole.
        """
        given = {**(changes or {}), **members}
        return await self._state(lambda now: self._sender.change(given, unset, now))

    async def replace(self, state: Mapping[str, Any], /) -> Receipt | None:
        """Make `state` the whole status; states only what differs.  Otherwise as `update`."""
        return await self._state(lambda now: self._sender.replace(state, now))

    async def restate(self) -> Receipt | None:
        """State all of it once more; None when nothing was said yet."""
        return await self._state(self._sender.whole)

    async def _state(self, decide: Callable[[float], Said | None]) -> Receipt | None:
        async with self._turn:
            if self._closed:
                raise errors.BusClosed
            if self._asks is None:
                # Before the first statement: whoever reads it may ask.
                subject = subjects.ask(self._publisher.tenant, self._publisher.agent, "status")
                self._asks = await self._conn.subscribe(subject, lambda _: self._asked())
            self._look_for_losses()
            said = decide(clock.monotonic())
            if said is None:
                return None
            agent = self._publisher.agent
            try:
                receipt = await self._publisher.emit(Fact(kind="agent", id=agent, event=said.event, data=said.data))
            except BaseException:
                self._sender.lost()
                raise
            if said.reason is not None:
                self._whole_at = clock.monotonic()
            if not self._unsettled or self._unsettled[-1] is not receipt:  # a frame has one for all
                self._unsettled.append(receipt)
            self._check_later()
            return receipt

    # --- what was not stored -------------------------------------------------------------

    def _look_for_losses(self) -> bool:
        """Drop what is settled; True when some of it was not stored, and the next statement is whole."""
        lost = False
        # Oldest first: what failed behind one that is still under way is seen when that is settled.
        while self._unsettled and self._unsettled[0].done:
            lost |= self._unsettled.popleft().error is not None
        if lost:
            self._sender.lost()
        return lost

    def _check_later(self) -> None:
        """Look again when all that is under way is settled: an agent that says no more must not stay wrong."""
        if self._check is None and not self._closed:
            wait_s = self._publisher.config.retry.deadline_s + 1.0
            self._check = asyncio.get_running_loop().call_later(wait_s, self._checked)

    def _checked(self) -> None:
        self._check = None
        if self._look_for_losses():
            self._start_restating()
        elif self._unsettled:
            self._check_later()

    # --- being asked ---------------------------------------------------------------------

    def _asked(self) -> None:
        if self._answer is not None or self._closed:
            return  # the answer on its way is everybody's
        wait_s = max(0.0, self._whole_at + limits.STATUS_ASK_FIRST_S - clock.monotonic())
        self._answer = asyncio.get_running_loop().call_later(wait_s, self._answer_now)

    def _answer_now(self) -> None:
        self._answer = None
        self.answered += 1
        self._start_restating()

    def _start_restating(self) -> None:
        task = asyncio.get_running_loop().create_task(self._restate(), name="status-restate")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _restate(self) -> None:
        try:
            await self.restate()
        except errors.CoordError as exc:
            _log.warning("status.not_stated", error=exc)  # whoever is still missing it asks again
            self._check_later()

    async def close(self) -> None:
        """Answer no more.  Twice is legal."""
        self._closed = True
        for handle in (self._answer, self._check):
            if handle is not None:
                handle.cancel()
        self._answer = self._check = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        asks, self._asks = self._asks, None
        if asks is not None:
            await asks.unsubscribe()
