"""The agents of a recording, each speaking for itself."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from coord import limits
from coord.bus.connection import Connection
from coord.client.config import ClientConfig
from coord.client.connect import Coord, connect


class Speakers:
    """Agents with an open publisher, over one connection; the longest silent is closed for a new one.

    `limits.REPLAY_SPEAKERS` stay open, and those in use, which what is under way bounds.
    """

    def __init__(self, conn: Connection, tenant: str) -> None:
        self._conn = conn
        self._tenant = tenant
        self._open: OrderedDict[str, Speaker] = OrderedDict()

    def speaker(self, agent: str) -> Speaker:
        """Enter it to speak as `agent`."""
        found = self._open.get(agent)
        if found is None:
            found = self._open[agent] = Speaker(self, agent)
        self._open.move_to_end(agent)
        return found

    async def connect(self, agent: str) -> Coord:
        """Open a publisher of `agent`."""
        return await connect(ClientConfig(tenant=self._tenant, agent=agent), connection=self._conn)

    async def close_surplus(self) -> None:
        """Close idle speakers beyond the bound."""
        # Taken out all at once: while one is being closed, others come back into use, or end and come here too.
        surplus = len(self._open) - limits.REPLAY_SPEAKERS
        silent = [name for name, speaker in self._open.items() if not speaker.users][: max(0, surplus)]
        for speaker in [self._open.pop(name) for name in silent]:
            await speaker.close()

    async def close(self) -> None:
        """Close all."""
        while self._open:
            _, speaker = self._open.popitem()
            await speaker.close()


class Speaker:
    """One agent; its publisher is open from the first time somebody enters it."""

    def __init__(self, owner: Speakers, agent: str) -> None:
        self.users = 0
        """Who is within its block now."""
        self._owner = owner
        self._agent = agent
        self._coord: Coord | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Coord:
        self.users += 1
        try:
            async with self._opening:
                if self._coord is None:
                    self._coord = await self._owner.connect(self._agent)
        except BaseException:
            self.users -= 1
            raise
        return self._coord

    async def __aexit__(self, *_: object) -> None:
        self.users -= 1
        if not self.users:
            await self._owner.close_surplus()

    async def close(self) -> None:
        """Close its publisher; nobody uses it."""
        coord, self._coord = self._coord, None
        if coord is not None:
            await coord.close(report=False)
