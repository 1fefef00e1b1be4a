"""Sharing partitions among replicas.

Every replica says twice a second, on a core NATS subject, that it is there; each computes
the same even assignment from whom it hears (`coord.core.assignment`).  This is only for
efficiency.  Two replicas that disagree for a moment are kept apart by the consumer's pin
and, in the end, by the guard of whatever they write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.patched import Message
from coord.core import assignment
from coord.runtime.clock import in_step
from coord.telemetry import logs
from coord.wire import subjects

_log = logs.get("replicas")


class Replicas:
    """Knows which slots this replica should own."""

    def __init__(
        self, conn: Connection, service: str, name: str, slots: int, on_change: Callable[[frozenset[int]], None]
    ) -> None:
        """`name` among the replicas of `service`; `on_change` is told its slots of 0 to `slots` - 1."""
        self._conn = conn
        self._service = service
        self._name = name
        self._slots = slots
        self._on_change = on_change
        self._beats: dict[str, float] = {}
        self._subject = subjects.beat(service, name)
        self.members: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Beat and listen until cancelled; leaves with a goodbye."""
        subscription = await self._conn.subscribe(subjects.beats(self._service), self._heard)
        try:
            # Listen first: a newcomer that assigned everything to itself would interrupt others.
            self._say("here")
            await asyncio.sleep(limits.REPLICA_BEAT_S)
            while True:
                self._say("here")
                self._update()
                await asyncio.sleep(in_step(limits.REPLICA_BEAT_S))
        finally:
            self._say("gone")
            await subscription.unsubscribe()

    def _say(self, word: str) -> None:
        try:
            self._conn.publish(self._subject, word.encode())
        except errors.BusError:
            return  # disconnected: others will miss the beat, as they should

    def _heard(self, message: Message) -> None:
        name = message.subject.rpartition(".")[2]
        if name == self._name:
            return
        if message.data == b"gone":
            if self._beats.pop(name, None) is not None:
                self._update()
        else:
            new = name not in self._beats
            self._beats[name] = asyncio.get_running_loop().time()
            if new and self.members:
                self._update()

    def _update(self) -> None:
        now = asyncio.get_running_loop().time()
        others = assignment.alive(self._beats, now, limits.REPLICA_GONE_S)
        for name in self._beats.keys() - others:
            del self._beats[name]
        members = others | {self._name}
        if members == self.members:
            return
        self.members = members
        mine = assignment.slots_of(self._name, members, self._slots)
        _log.info("replicas.members", service=self._service, members=sorted(members), slots=len(mine))
        self._on_change(mine)
