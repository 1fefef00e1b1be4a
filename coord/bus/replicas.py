"""Sharing partitions among replicas.

Every replica says twice a second, on a core NATS subject, that it is there; each computes
the same even assignment from whom it hears (`coord.core.assignment`).  This is only for
efficiency.  Two replicas that disagree for a moment are kept apart by the consumer's pin
and, in the end, by the guard of whatever they write.

What guards do not keep apart are two releases of which one cannot read what the other saves or
states.  So whoever is newer *waits* while it hears somebody older: it says nothing, and owns
nothing; the older ones share everything, as if it were not there.  It goes on when the last
of them says goodbye, or is silent for as long as the dead are.

Operators ask ``coord.rpc._.replicas.{service}`` who is there: whoever has listened for a while answers for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.bus.patched import Message
from coord.core import assignment
from coord.runtime.clock import in_step
from coord.telemetry import logs
from coord.wire import subjects
from coord.wire.understood import Understands

_log = logs.get("replicas")

_HEARS_ALL_S: Final = 1.5 * limits.REPLICA_BEAT_S
"""After so long whoever is there was heard."""


class Replicas:
    """Knows which slots this replica should own."""

    def __init__(
        self,
        conn: Connection,
        service: str,
        name: str,
        slots: int,
        on_change: Callable[[frozenset[int]], None],
        *,
        behind: Sequence[str] = (),
        folds: int = assignment.FOLDS,
    ) -> None:
        """`name` among the replicas of `service`; `on_change` is told its slots of 0 to `slots` - 1.

        `behind`: services whose older replicas are waited for, besides one's own: they would not understand what
        this one states.
        """
        self._conn = conn
        self._service = service
        self._name = name
        self._slots = slots
        self._on_change = on_change
        self._services = (service, *behind)
        self._folds = folds
        self._beats: dict[str, dict[str, float]] = {heard: {} for heard in self._services}
        self._folds_of: dict[str, int] = {}
        self._subject = subjects.beat(service, name)
        self._heard_from: float | None = None
        self.members: frozenset[str] = frozenset()
        """Who shares the work; without this one while it waits."""
        self.older: frozenset[str] = frozenset()
        """Whom it waits for."""

    async def run(self) -> None:
        """Beat and listen until cancelled; leaves with a goodbye."""
        heard = [
            await self._conn.subscribe(subjects.beats(service), partial(self._heard, service))
            for service in self._services
        ]
        asked = None
        try:
            asked = await rpc.serve(
                self._conn, subjects.rpc(subjects.OPERATORS, "replicas", self._service), self._answer,
                service="replicas", method=self._service,
            )  # fmt: skip
            self._heard_from = asyncio.get_running_loop().time()
            # Listen first: a newcomer that assigned everything to itself would interrupt others.
            self._say(assignment.here(self._folds))
            await asyncio.sleep(limits.REPLICA_BEAT_S)
            while True:
                self._update()
                if not self.older:
                    self._say(assignment.here(self._folds))
                await asyncio.sleep(in_step(limits.REPLICA_BEAT_S))
        finally:
            self._say(assignment.GONE)
            for subscription in heard:
                await subscription.unsubscribe()
            if asked is not None:
                await asked.close()

    async def _answer(self, _: rpc.Request) -> dict[str, int]:
        """Name → folds of all replicas of this service that are heard, this one among them unless it waits."""
        now = asyncio.get_running_loop().time()
        if self._heard_from is None or now - self._heard_from < _HEARS_ALL_S:
            raise errors.ServiceUnavailable("it has just begun to hear the others")
        there = assignment.alive(self._beats[self._service], now, limits.REPLICA_GONE_S)
        found = {name: self._folds_of[name] for name in there}
        return found if self.older else found | {self._name: self._folds}

    async def understands(self, _: rpc.Request) -> Understands:
        """What all who are heard understand, this one among them; asked by agents."""
        if self._heard_from is None:
            raise errors.ServiceUnavailable("it has not begun to hear the others")
        wait_s = self._heard_from + _HEARS_ALL_S - asyncio.get_running_loop().time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        return Understands(min([self._folds, *self._folds_of.values()]))

    def _say(self, word: bytes) -> None:
        try:
            self._conn.publish(self._subject, word)
        except errors.BusError:
            return  # disconnected: others will miss the beat, as they should

    def _heard(self, service: str, message: Message) -> None:
        name = message.subject.rpartition(".")[2]
        if service == self._service and name == self._name:
            return
        beats = self._beats[service]
        if message.data == assignment.GONE:
            if beats.pop(name, None) is not None:
                self._update()
        else:
            new = name not in beats
            beats[name] = asyncio.get_running_loop().time()
            self._folds_of[name] = assignment.folds_of(message.data)
            if new and (self.members or name in self._older()):
                self._update()

    def _older(self) -> frozenset[str]:
        return assignment.older(self._folds_of, self._folds)

    def _update(self) -> None:
        now = asyncio.get_running_loop().time()
        for beats in self._beats.values():
            for name in beats.keys() - assignment.alive(beats, now, limits.REPLICA_GONE_S):
                del beats[name]
        there = frozenset().union(*self._beats.values())
        for name in self._folds_of.keys() - there:
            del self._folds_of[name]
        older = self._older()
        if older:
            # Of its own service: who does the work meanwhile.
            self._share(frozenset(self._beats[self._service]), older)
            return
        # Who is newer has heard of this one by now, and waits.
        equals = {name for name in self._beats[self._service] if self._folds_of[name] == self._folds}
        self._share(frozenset(equals | {self._name}), older)

    def _share(self, members: frozenset[str], older: frozenset[str]) -> None:
        if (members, older) == (self.members, self.older):
            return
        if older - self.older:
            _log.warning(
                "replicas.waits", service=self._service, older=sorted(older),
                remedy="Stop them: they are of a release that must not work beside this one.",
            )  # fmt: skip
        if older and not self.older:
            self._say(assignment.GONE)
        self.members, self.older = members, older
        mine = assignment.slots_of(self._name, members, self._slots)
        _log.info("replicas.members", service=self._service, members=sorted(members), slots=len(mine))
        self._on_change(mine)
