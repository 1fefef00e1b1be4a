"""Answers NATS's own service discovery: ``nats micro ls`` and friends show every SDK agent.

The protocol of NATS's micro services (ADR-32): ``$SRV.PING``, ``$SRV.INFO`` and ``$SRV.STATS``, alone, with a
name, or with a name and an id.  The service's name is the agent's, its id the instance.  Nothing is
asked through it and nothing depends on it; who looks for agents in earnest uses ``agents.find``,
which one process answers for all of them.

Answers go to inboxes only, and so many a second only: 5,000 agents that all answer are the
questioner's wish, made often they would be an attack.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection, Subscription
from coord.bus.patched import Message
from coord.runtime import clock
from coord.wire.presence import Registration

_INBOX: Final = re.compile(r"(_INBOX[A-Za-z0-9_-]*|_R_)\.[^*>\s]+")
_VERBS: Final = frozenset({"PING", "INFO", "STATS"})
_SEMVER: Final = re.compile(r"\d+\.\d+\.\d+\S*")


class Discovery:
    """Of one instance; `registration` may be set at any time."""

    def __init__(self, conn: Connection, tenant: str, agent: str, instance: str) -> None:
        self.registration: Registration | None = None
        self._conn = conn
        self._tenant = tenant
        self._agent = agent
        self._instance = instance
        self._subscriptions: list[Subscription] = []
        self._second = 0
        self._answers = 0
        self._asked = 0
        self._started = ""

    async def open(self) -> None:
        """Listen.  Twice is legal."""
        if self._subscriptions:
            return
        self._started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for subject in ("$SRV.*", f"$SRV.*.{self._agent}", f"$SRV.*.{self._agent}.{self._instance}"):
            self._subscriptions.append(await self._conn.subscribe(subject, self._asked_for))

    async def close(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions.clear()

    def _asked_for(self, message: Message) -> None:
        verb = message.subject.split(".", 2)[1]
        if verb not in _VERBS or not _INBOX.fullmatch(message.reply):
            return
        second = int(clock.monotonic())
        if second != self._second:
            self._second, self._answers = second, 0
        self._answers += 1
        if self._answers > limits.DISCOVERY_ANSWERS_PER_S:
            return
        self._asked += 1
        try:
            self._conn.publish(message.reply, msgspec.json.encode(self._answer(verb)))
        except errors.BusError:
            return  # the questioner asks again

    def _answer(self, verb: str) -> dict[str, Any]:
        about = self.registration or Registration()
        version = about.version if about.version and _SEMVER.fullmatch(about.version) else "0.0.0"
        metadata = {"tenant": self._tenant, **{f"capability.{c}": str(n) for c, n in about.capabilities.items()}}
        answer: dict[str, Any] = {
            "type": f"io.nats.micro.v1.{verb.lower()}_response",
            "name": self._agent,
            "id": self._instance,
            "version": version,
            "metadata": metadata | about.labels,
        }
        if verb == "INFO":
            answer |= {"description": f"coord agent of tenant {self._tenant}", "endpoints": []}
        elif verb == "STATS":
            answer |= {"started": self._started, "endpoints": []}
        return answer
