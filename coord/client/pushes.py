"""What an agent is told: one subscription, handed out by topic.

Deciders push what concerns an agent (an outcome, a cancellation, a handoff, a lock) at most
once and store nothing of it: a push makes good news fast, the log makes it sure.  Whoever must
not miss something reads the log now and then (`coord.client.task_handle` does).

Handlers are called synchronously in the read loop, with the body as it came; they must not block.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from coord.bus.connection import Connection, Subscription
from coord.bus.patched import Message
from coord.wire import subjects

Handler: TypeAlias = Callable[[bytes], None]


class Pushes:
    """Of one agent on one connection.  `open` it once handlers are in place; `close` before the connection."""

    def __init__(self, conn: Connection, tenant: str, agent: str) -> None:
        self._conn = conn
        self._filter = subjects.pushes(tenant, agent)
        self._topic_at = len(self._filter) - 1  # the filter ends with "*"
        self._handlers: dict[str, list[Handler]] = {}
        self._subscription: Subscription | None = None
        self._known = False
        """The broker has the subscription."""
        self._opening = asyncio.Lock()

    def on(self, topic: str, handler: Handler) -> Callable[[], None]:
        """Call `handler(body)` for each push of `topic`; returns what ends that."""
        self._handlers.setdefault(topic, []).append(handler)

        def unregister() -> None:
            handlers = self._handlers.get(topic, [])
            if handler in handlers:
                handlers.remove(handler)

        return unregister

    async def open(self) -> None:
        """Subscribe, once; returns when the broker knows, so that nothing said after is missed."""
        if self._known:
            return
        await self.begin()
        if self._conn.is_connected:
            await self._conn.flush()
        self._known = True

    async def begin(self) -> None:
        """Subscribe, once: the broker knows before it answers anything that is sent after this."""
        async with self._opening:
            if self._subscription is None:
                self._subscription = await self._conn.subscribe(self._filter, self._receive)

    def answered(self) -> None:
        """The broker has answered something that was sent after `begin`: `open` need not ask."""
        self._known = self._subscription is not None

    def _receive(self, message: Message) -> None:
        for handler in tuple(self._handlers.get(message.subject[self._topic_at :], ())):
            handler(message.data)

    async def close(self) -> None:
        """Hear no more.  Twice is legal."""
        self._known = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()
