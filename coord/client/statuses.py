"""Following other agents' statuses: changes are put together, and what is missing is asked for.

::

    async for status in c.statuses():
        print(status.agent, status.state, "(stale)" if status.stale else "")

A follower that begins in the middle, or from which a statement was kept, asks the agent on
``coord.ask.{tenant}.{agent}.status`` to state all of it: after a moment (many followers miss
the same statement, and one question is enough), then after 1 s, 2 s and so on up to 30 s, for
as long as it is missing.  Until then the last status it could vouch for is shown as stale.

It remembers `limits.STATUS_AGENTS_MAX` agents; beyond that it forgets whom it has not heard of
longest, and asks when it hears of them again.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from datetime import datetime
from typing import Any, Final, Self

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.client.subscriber import Subscription
from coord.core.retry import backoff_s
from coord.core.status import StatusFold
from coord.wire import status, subjects
from coord.wire.records import StoredFact
from coord.wire.where import where

STATEMENTS: Final = where.event.is_in([status.WHOLE, status.CHANGE])
"""Which of the facts about agents are said about their status."""

_FIRST_ASK_S: Final = 0.2
"""Within this the first question is asked: meanwhile somebody else's may be answered."""

_ASKS_AT_ONCE: Final = 256
"""Questions sent before others get a turn: a follower that begins in the middle misses everybody."""
_ASK_AGAIN_S: Final = 0.05

_rng = random.Random()


class AgentStatus(msgspec.Struct, frozen=True):
    """What one agent says about itself."""

    agent: str
    state: Any
    """Decoded; None while only changes of it are known."""
    stale: bool
    """Whether it has said more, which cannot be shown yet."""
    stored_at: datetime
    """When the log had the statement that made it so."""


class Statuses:
    """See the module.  Made by `Coord.statuses`; one consumer at a time."""

    def __init__(
        self, conn: Connection, tenant: str, subscription: Subscription, *, agents_max: int = limits.STATUS_AGENTS_MAX
    ) -> None:
        """`subscription`: of the tenant's facts of kind `agent`."""
        self.asked = 0
        """Questions sent."""
        self.forgotten = 0
        """Agents forgotten because there were too many."""
        self._conn = conn
        self._tenant = tenant
        self._subscription = subscription
        self._agents_max = agents_max
        self._folds: OrderedDict[str, StatusFold] = OrderedDict()
        self._asking: dict[str, tuple[float, int]] = {}
        """Agent → when to ask it (again), and how often it was asked."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AgentStatus:
        while True:
            fact = await anext(self._subscription)
            found = self._take(fact)
            if found is not None:
                return found

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """As `Subscription.wait_ready`."""
        await self._subscription.wait_ready(timeout_s)

    async def __aenter__(self) -> Self:
        await self._subscription.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, within_s: float = limits.API_TIMEOUT_S) -> None:
        """Stop following, within that time.  Twice is legal."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._asking.clear()
        await self._subscription.close(within_s)

    def ask(self, agent: str) -> None:
        """Ask an agent to state its status now; what it says arrives as everything does."""
        try:
            self._conn.publish(subjects.ask(self._tenant, agent, "status"))
        except errors.BusError:
            return  # disconnected: asked again later
        self.asked += 1

    def _take(self, fact: StoredFact) -> AgentStatus | None:
        """The agent's status where `fact` changed what is to be shown."""
        if fact.event not in {status.WHOLE, status.CHANGE}:
            return None
        fold = self._folds.get(fact.id)
        if fold is None:
            fold = self._folds[fact.id] = StatusFold()
            self._bound()
        self._folds.move_to_end(fact.id)
        was_stale = fold.stale
        outcome = fold.take(_statement(fact))
        if not fold.stale:
            self._asking.pop(fact.id, None)
        elif fact.id not in self._asking:
            self._ask_at(fact.id, _now() + _rng.uniform(0.0, _FIRST_ASK_S), 0)
        if outcome == "applied" or fold.stale is not was_stale:
            return AgentStatus(fact.id, fold.state, fold.stale, fact.stored_at)
        return None

    def _bound(self) -> None:
        if len(self._folds) > self._agents_max:
            agent, _ = self._folds.popitem(last=False)
            self._asking.pop(agent, None)
            self.forgotten += 1

    # --- asking --------------------------------------------------------------------------

    def _ask_at(self, agent: str, at: float, attempts: int) -> None:
        self._asking[agent] = (at, attempts)
        if self._timer is None or at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = asyncio.get_running_loop().call_at(at, self._ask_due)

    def _ask_due(self) -> None:
        self._timer = None
        now = _now()
        due = [agent for agent, (at, _) in self._asking.items() if at <= now]
        for agent in due[:_ASKS_AT_ONCE]:
            attempts = self._asking[agent][1] + 1
            self.ask(agent)
            wait_s = backoff_s(attempts, _rng, first_s=2 * limits.STATUS_ASK_FIRST_S, most_s=limits.STATUS_ASK_MAX_S)
            self._asking[agent] = (now + wait_s, attempts)
        if self._asking:
            self._timer_at = max(now + _ASK_AGAIN_S, min(at for at, _ in self._asking.values()))
            self._timer = asyncio.get_running_loop().call_at(self._timer_at, self._ask_due)


def _statement(fact: StoredFact) -> status.Statement | None:
    if fact.event == status.WHOLE:
        return status.read_whole(fact.json_text)
    try:
        return status.read_change(fact.json_text)
    except errors.InvalidPayload:
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
