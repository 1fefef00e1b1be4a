"""Facts that coordinate: stated at once, on a condition, with the answer where it was asked for.

Submissions, claims and outcomes are not the publisher's business: nobody queues or batches
them, most carry a condition (`once`), and what follows is decided by the broker's answer.
They go straight to an `AckPipeline` of their own; the bound is `inflight_max`, beyond which
`state` waits.

``once="entity"``: it must be the first fact of its entity; ``once="event"``: the first of this
event (and detail) of it, by whomever.  Who comes second gets `WrongLastSequence`.  Whoever is
told so may have been first himself, if the broker forgot that it had acknowledged (a message
id is remembered for two minutes): read the entity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, Self, TypeAlias

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.publish import AckPipeline, PubAck, Publication
from coord.client import context
from coord.client.config import PublisherConfig
from coord.client.encoding import Encoder, Message, Sequel
from coord.client.event_ids import new_event_id
from coord.runtime import clock
from coord.wire import subjects
from coord.wire.prepared import condition
from coord.wire.records import Fact, StoredFact

Once: TypeAlias = Literal["entity", "event"] | None


class Statement(Publication, eq=False):
    """One fact on its way: await it for its `PubAck`, or be called."""

    event_id: str = ""
    then: Callable[[Statement], None] | None = None
    """Called once, synchronously, when `ack` or `error` is set."""


class Stating:
    """Of one agent on one connection.  Make one with `open`; `close` it before the connection."""

    def __init__(self, pipeline: AckPipeline, tenant: str, agent: str, config: PublisherConfig) -> None:
        self.tenant = tenant
        self.agent = agent
        self._pipeline = pipeline
        self._deadline_s = config.retry.deadline_s
        # Inputs, outputs and records are JSON by the time that they are stated: they go into the body as they are.
        self._encoder = Encoder(tenant, agent, msgspec.structs.replace(config, content="json"))
        self._inflight_max = config.inflight_messages
        self._room = asyncio.Event()
        self._room.set()
        pipeline.on_settled = self._settled

    @classmethod
    async def open(cls, conn: Connection, tenant: str, agent: str, config: PublisherConfig | None = None) -> Self:
        """On a connection that stays the caller's."""
        config = config or PublisherConfig()
        pipeline = await AckPipeline.open(conn, config.retry, inflight_max=config.inflight_messages)
        return cls(pipeline, tenant, agent, config)

    @property
    def inflight(self) -> int:
        """Statements without an answer yet."""
        return self._pipeline.inflight

    @property
    def is_full(self) -> bool:
        """Whether `room` would wait."""
        return self._pipeline.inflight >= self._inflight_max

    async def state(self, fact: Fact, *, once: Once = None) -> PubAck:
        """State `fact` and wait until it is stored.

        Raises the `WireError` a reader would refuse it with, `WrongLastSequence` where `once`
        is not so, and what else a publish raises (`StreamFull`, `PublishTimeout`, …).
        """
        await self.room()
        return await self.send(fact, once=once)

    async def room(self) -> None:
        """Return when another statement may be sent; `Overloaded` when that takes too long."""
        if not self.is_full:
            return
        try:
            async with asyncio.timeout(limits.OVERLOAD_WAIT_S):
                while self.is_full:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError as exc:
            raise errors.Overloaded("too many unacknowledged statements", inflight=self._pipeline.inflight) from exc

    def send(
        self,
        fact: Fact,
        *,
        once: Once = None,
        then: Callable[[Statement], None] | None = None,
        entity: str | None = None,
        last: int | None = None,
    ) -> Statement:
        """Hand `fact` to the broker now; raises the `WireError` a reader would refuse it with.

        The caller bounds what is in flight (`room`, or slots of its own).  `entity`: `subjects.entity_of` the
        fact, where the caller knows it.  `last`: instead of `once`, its entity's newest fact must be that at this
        sequence.
        """
        if context.current() is not None:
            fact = self._encoder.caused(fact)
        more = ""
        if once is not None or last is not None:
            if entity is None:
                entity = subjects.entity_prefix(
                    self.tenant, fact.id if fact.key is None else fact.key, fact.kind, fact.id
                )
            first = f"{entity}.>" if once != "event" else ".".join((entity, "*", fact.event, *fact.detail))
            more = condition(first, last or 0)
        return self._submit(self._encoder.single(fact, self._encoder.shape(fact), more), then)

    def sequel(self, fact: StoredFact, entity: str | None = None) -> Sequel | None:
        """What `follow` needs of a fact that was read; None: what it causes has to be sent by `send`.

        `entity`: `subjects.entity_prefix` of it, where the caller has it.
        """
        return self._encoder.sequel(fact, entity)

    def body(self, data: Any) -> bytes:
        """The body of a fact that says this, for `follow`: for whoever says the same again and again."""
        return self._encoder.body(data)

    def follow(
        self,
        sequel: Sequel,
        event: str,
        data: Any,
        *,
        detail: str = "",
        event_id: str | None = None,
        once: bool = False,
        last: int | None = None,
        then: Callable[[Statement], None] | None = None,
        body: bytes | None = None,
    ) -> Statement:
        """`send` a fact about the entity of one that was read, caused by it: every task has two.

        `detail`: valid tokens joined by dots.  `event_id`: `new_event_id`'s, where it may have to be sent again.
        `once`: as ``once="event"``; `last`: as there.  `body`: `self.body` of the data, where it was made before.
        """
        if last is not None:
            more = condition(f"{sequel.entity}.>", last)
        else:
            more = condition(f"{sequel.entity}.*.{event}{'.' if detail else ''}{detail}", 0) if once else ""
        message = self._encoder.follow(sequel, event, detail, data, event_id or new_event_id(), more, body)
        return self._submit(message, then)

    def _submit(self, message: Message, then: Callable[[Statement], None] | None) -> Statement:
        now = clock.monotonic()
        statement = Statement(
            deadline_at=now + self._deadline_s,
            subject=message.subject,
            headers=message.headers,
            body=message.body,
            awaited=then is not None,  # then somebody is told
            event_id=message.event_id,
            then=then,
        )
        self._pipeline.submit(statement, now)
        return statement

    def _settled(self, publication: Publication) -> None:
        if not self._room.is_set() and not self.is_full:
            self._room.set()
        assert isinstance(publication, Statement), "nobody else submits to this pipeline"
        if publication.error is not None and isinstance(publication.error, errors.IdCollision):
            new_event_id.renew()
        then, publication.then = publication.then, None
        if then is not None:
            then(publication)

    async def settled(self, timeout_s: float) -> bool:
        """Wait until everything stated has an answer; False: not within `timeout_s`."""
        pending = [statement for statement in self._pipeline.pending() if not statement.done]
        if not pending:
            return True
        waits = [asyncio.ensure_future(_outcome(statement)) for statement in pending]
        _, late = await asyncio.wait(waits, timeout=timeout_s)
        for wait in late:
            wait.cancel()
        return not late

    async def close(self) -> None:
        """What has no answer fails with `BusClosed`.  Twice is legal."""
        await self._pipeline.close()


async def _outcome(statement: Publication) -> None:
    try:
        await statement
    except errors.CoordError:
        return  # told to whoever stated it
