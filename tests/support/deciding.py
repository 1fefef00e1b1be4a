"""Tasks by hand: what a submitter and a worker send, on one plain connection."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from coord import errors
from coord.bus import rpc
from coord.bus.connection import Connection, NatsConfig
from coord.bus.patched import Message
from coord.core import tasks
from coord.core.retry import CallPolicy
from coord.core.tasks import Task
from coord.server import history
from coord.wire import headers, subjects
from coord.wire.envelope import Fact, encode_fact

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
_PATIENT = CallPolicy(retries_max=None, deadline_s=60)
"""Who decides is ready before he answers."""


class Hand:
    """States facts, pulls deliveries and hears pushes, for any agent."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        self.conn = conn
        self.tenant = tenant
        self.pushes: list[tuple[str, dict[str, Any]]] = []
        """(agent.topic, body)."""
        self.pushed = asyncio.Event()
        self.deliveries: list[tuple[str, int, int]] = []
        """(queue consumer, stream sequence, how often)."""
        self._ids = itertools.count(1)
        self._inboxes: dict[str, str] = {}

    @classmethod
    async def open(cls, url: str, tenant: str = "acme") -> Self:
        """On a connection of its own; `url`: one, or several with commas between."""
        hand = cls(await Connection.open(NatsConfig(urls=tuple(url.split(","))), name="hand"), tenant)
        await hand.conn.subscribe(f"{subjects.PUSH_PREFIX}{tenant}.>", hand._pushed)
        return hand

    def _pushed(self, message: Message) -> None:
        _, _, _, agent, topic = message.subject.split(".")
        self.pushes.append((f"{agent}.{topic}", msgspec.json.decode(message.data)))
        self.pushed.set()

    def told(self, agent: str, what: str) -> list[dict[str, Any]]:
        """What an agent was told of tasks."""
        return [body for to, body in self.pushes if to == f"{agent}.task" and body["what"] == what]

    # --- facts -------------------------------------------------------------------------------

    async def state(
        self, agent: str, id_: str, event: str, *detail: str, once: str | None = None, kind: str = "task",
        key: str | None = None, data: Any = None,
    ) -> int:  # fmt: skip
        """State a fact; its sequence.  `once`: "entity" or "event"."""
        fact = Fact(kind=kind, id=id_, event=event, detail=detail, data={} if data is None else data, key=key)
        message = encode_fact(
            fact, tenant=self.tenant, agent=agent, event_id=f"{id_}-{next(self._ids)}-{id(self):x}", occurred_at=NOW
        )
        fields = message.headers
        if once is not None:
            place = (self.tenant, key or id_, kind, id_)
            fields[headers.EXPECTED_LAST_SUBJECT_SEQ] = "0"
            fields[headers.EXPECTED_LAST_SUBJECT] = (
                subjects.entity_filter(*place) if once == "entity" else subjects.event_filter(*place, event, detail)
            )
        answer = await self.conn.request(message.subject, message.body, headers=headers.encode(fields))
        found = msgspec.json.decode(answer.data, type=dict[str, Any])
        if "error" in found:
            raise errors.WrongLastSequence(found["error"]["description"])
        return int(found["seq"])

    async def submit(
        self, id_: str, capability: str = "work", queue: str = "normal", *, agent: str = "me", **said: Any
    ) -> int:
        """Submit once."""
        return await self.state(agent, id_, "submitted", capability, queue, once="entity", data=said)

    async def claim(self, id_: str, n: int, agent: str = "w1", instance: str | None = "i1") -> int:
        """Claim once."""
        return await self.state(agent, id_, "claimed", str(n), once="event", data={"instance": instance})

    async def complete(self, id_: str, agent: str = "w1", **said: Any) -> int:
        """Complete."""
        return await self.state(agent, id_, "completed", data=said)

    async def task(self, id_: str) -> Task | None:
        """What the log says of a task."""
        return tasks.fold(await history.entity(self.conn, self.tenant, id_, "task", id_))[0]

    async def events(self, id_: str) -> list[str]:
        """What the log has of a task, in order: ``submitted``, ``claimed.1`` …."""
        facts = await history.entity(self.conn, self.tenant, id_, "task", id_)
        # Of a submission the capability says nothing new.
        return [f.event if f.event == "submitted" else ".".join((f.event, *f.detail)) for f in facts]

    # --- queues ------------------------------------------------------------------------------

    async def open_queues(self, capability: str = "work", policy: CallPolicy = _PATIENT) -> dict[str, str]:
        """Ask for a capability's queues."""
        answer = await rpc.call(
            self.conn,
            subjects.rpc(self.tenant, "task", "open"),
            {"capability": capability},
            dict[str, Any],
            timeout_s=60,
            policy=policy,
        )
        found: dict[str, str] = answer["queues"]
        return found

    async def pull(self, capability: str = "work", queue: str = "normal", batch: int = 1_000) -> None:
        """Take deliveries for a minute."""
        consumer = subjects.queue(self.tenant, capability, queue)
        inbox = self._inboxes.get(consumer)
        if inbox is None:
            inbox = self._inboxes[consumer] = self.conn.new_inbox()
            await self.conn.subscribe(inbox, lambda message: self._delivered(consumer, message))
        body = b'{"batch":%d,"expires":60000000000}' % batch
        self.conn.publish(f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{consumer}", body, reply=inbox)
        await self.conn.flush()

    def _delivered(self, consumer: str, message: Message) -> None:
        if message.reply.startswith("$JS.ACK."):
            place = message.reply.split(".")
            self.deliveries.append((consumer, int(place[5]), int(place[4])))

    def times(self, seq: int) -> int:
        """How often the submission of that sequence was delivered."""
        return sum(1 for _, s, _ in self.deliveries if s == seq)

    async def ack_pending(self, capability: str = "work", queue: str = "normal") -> int:
        """Deliveries that nobody settled."""
        consumer = subjects.queue(self.tenant, capability, queue)
        info = await self.conn.api(f"CONSUMER.INFO.EVENTS.{consumer}")
        return int(info["num_ack_pending"])

    async def close(self) -> None:
        await asyncio.sleep(0)
        await self.conn.close()
