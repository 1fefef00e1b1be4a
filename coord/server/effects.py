"""Performs what deciders answer with: facts published once, deliveries settled, agents told.

A `State` goes out with its derived id and its condition, pipelined.  What the broker answers:

=====================  ==========================================================================
stored                 it is a fact now
``duplicate``          it was stated before, by us or by another process that decided the same
10071                  somebody was first: the stored fact is read.  The same id: it was stated
                       before.  Another author's: a race that the fold settles, and has.  Another id
                       of the same decider: an alarm, because two decisions differ.  Facts that no
                       reader believes, before what a timer submits: it is stated without its condition
any other refusal      the session ends; whoever begins the next decides the same again
=====================  ==========================================================================

`Settle` and `Push` are core messages: sent when the connection stands, lost when it does not.
Who lives by them is served another way (ack_wait, the log), later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import msgspec
from prometheus_client import Counter

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.publish import AckPipeline, Publication
from coord.core import reuse
from coord.core.deciding import Arm, Effect, Open, Push, Settle, State, is_again
from coord.core.tasks import is_open, may_be_second
from coord.runtime import clock
from coord.server import history
from coord.server.statements import Encoder, first_filter
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import ids, subjects

_log = logs.get("deciders")

_encode_json = msgspec.json.Encoder().encode

_ACK: Final = b"+ACK"
_EXTEND: Final = b"+WPI"

Done: TypeAlias = Callable[[errors.CoordError | None], None]
"""Told once what became of a statement: None when the log has it, the error when nobody knows."""


class Statement(Publication, eq=False):
    """A decision on its way."""

    state: State | None = None
    event_id: str = ""
    then: Done | None = None


class Performer:
    """Of one process: all of its partitions state, settle and tell through one.  `open` it, `close` it."""

    def __init__(self, conn: Connection, pipeline: AckPipeline, metrics: Metrics) -> None:
        self.on_open: Callable[[Open], None] | None = None
        """What makes queues."""
        self.on_arm: Callable[[Arm, Done], None] | None = None
        """What arms timers."""
        self._conn = conn
        self._pipeline = pipeline
        self._metrics = metrics
        self._naks: dict[str, list[Settle]] = {}
        """By queue: waiting for the consumer's sequence."""
        self._jobs: set[asyncio.Task[None]] = set()
        self._counted = dict.fromkeys((*_HOWS, "push"), 0)
        """Since `show`: a counter's lock costs as much as the message."""
        self._together: dict[str, list[bytes]] = {}
        """By subject: pushes of this turn of the loop, whose receivers take several at once."""
        self._outcomes: dict[tuple[str, str], Counter] = {}
        """Of statements, by decider and outcome: finding one costs five times what counting does."""
        self._encoder = Encoder()
        self._rooms: list[Callable[[], None]] = []
        pipeline.on_settled = self._on_settled

    @classmethod
    async def open(cls, conn: Connection, metrics: Metrics) -> Performer:
        """On a connection that stays the caller's."""
        return cls(conn, await AckPipeline.open(conn, inflight_max=2 * limits.DECIDER_INFLIGHT), metrics)

    @property
    def is_full(self) -> bool:
        """Whether those who fold should wait: see `when_room`."""
        return self._pipeline.inflight >= limits.DECIDER_INFLIGHT

    def when_room(self, then: Callable[[], None]) -> None:
        """Call `then` once, when half of what is in flight has been answered."""
        self._rooms.append(then)

    def show(self) -> None:
        """Move what was counted into the metrics; called about every second."""
        counted, self._counted = self._counted, dict.fromkeys(self._counted, 0)
        self._metrics.decider_pushes.inc(counted.pop("push"))
        for how, count in counted.items():
            self._metrics.messages_settled.labels(consumer="queues", result=how).inc(count)

    async def close(self) -> None:
        """What has no answer fails with `BusClosed`.  Twice is legal."""
        for job in list(self._jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._pipeline.close()

    # --- what is not repeated ----------------------------------------------------------------

    def perform(self, effect: Effect) -> None:
        """Anything but a `State`.  Raises `NotConnected`, `BusClosed`."""
        if type(effect) is Settle:
            self._settle(effect)
        elif type(effect) is Push:
            self._push(effect)
        elif type(effect) is Open:
            if self.on_open is not None:
                self.on_open(effect)
        elif type(effect) is Arm:
            if self.on_arm is not None:
                self.on_arm(effect, _told_nobody)
        else:
            raise TypeError(f"not an effect of this kind: {effect!r}")

    def _settle(self, settle: Settle) -> None:
        how = settle.how
        self._counted[how] += 1
        if how == "ack":
            self._conn.publish(subjects.delivery_ack(settle.queue, settle.seq), _ACK)
        elif how == "extend":
            self._conn.publish(subjects.delivery_ack(settle.queue, settle.seq), _EXTEND)
        else:
            waiting = self._naks.get(settle.queue)
            if waiting is not None:
                waiting.append(settle)
            else:
                self._naks[settle.queue] = [settle]
                self._spawn(self._nak(settle.queue))

    async def _nak(self, queue: str) -> None:
        """The broker wants the consumer's sequence with a nak: read it once for all that wait."""
        try:
            info = await self._conn.api(f"CONSUMER.INFO.{subjects.EVENTS}.{queue}")
        except errors.CoordError as exc:
            # They come again after ack_wait.
            _log.info("deciders.nak_lost", queue=queue, error=exc)
            self._naks.pop(queue, None)
            return
        consumer_seq, delivered_to = int(info["delivered"]["consumer_seq"]), int(info["delivered"]["stream_seq"])
        for settle in self._naks.pop(queue, ()):
            if settle.seq > delivered_to:
                continue  # it waits in the queue: nobody was given it
            word = b"-NAK" if settle.delay_s <= 0 else b'-NAK {"delay": %d}' % int(settle.delay_s * 1e9)
            try:
                self._conn.publish(subjects.delivery_ack(queue, settle.seq, consumer_seq), word)
            except errors.BusError:
                return

    def _push(self, push: Push) -> None:
        body = push.body if isinstance(push.body, bytes) else _encode_json(push.body)
        if len(body) > self._conn.max_payload:
            _log.warning("deciders.push_too_large", bytes=len(body), topic=push.topic)
            return  # at most once: the log has it
        self._counted["push"] += 1
        subject = f"{_PUSH}{push.tenant}.{push.agent}.{push.topic}"
        if not (push.together and self._conn.is_connected):
            self._conn.publish(subject, body)
            return
        if not self._together:
            self._conn.before_write(self._push_together)
        waiting = self._together.get(subject)
        if waiting is None:
            waiting = self._together[subject] = []
        waiting.append(body)

    def _push_together(self) -> None:
        """What was to be told in this turn of the loop: to each who takes several at once, in few messages."""
        together, self._together = self._together, {}
        for subject, bodies in together.items():
            for several in _of_size(bodies, limits.PUSH_TOGETHER_BYTES):
                with contextlib.suppress(errors.CoordError):  # at most once: the log has it; others get theirs
                    if len(several) == 1:
                        self._conn.publish(subject, several[0])
                    else:
                        self._conn.publish(f"{subject}s", b"[%b]" % b",".join(several))

    def _spawn(self, work: Any) -> None:
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    # --- facts -------------------------------------------------------------------------------

    def state(self, state: State, then: Done) -> None:
        """State it once; `then` is called when the log has it, or with the error when it may not."""
        if state.merge_seq is not None:
            self._spawn(self._merge(state, then))
        else:
            self._submit(state, state.data, then)

    async def _merge(self, state: State, then: Done) -> None:
        assert state.merge_seq is not None
        try:
            fact = await history.at(self._conn, state.merge_seq)
            if fact is None:
                then(None)  # it has left the log meanwhile: there is nothing to be stated of it
                return
            base = fact.data
            data = msgspec.to_builtins(state.data)
            merged = {**base, **data} if isinstance(base, dict) else data
        except errors.CoordError as exc:
            then(exc)
            return
        self._submit(state, merged, then)

    def _submit(self, state: State, data: Any, then: Done) -> None:
        event_id = ids.derive_id(state.tenant, state.key, state.version, state.step, state.attempt, state.ordinal)
        try:
            message = self._encoder.encode(state, data, event_id)
        except errors.WireError as exc:
            # A decider's defect: no retry would mend it, and the partition must go on.
            self._count(state, "invalid")
            _log.error(
                "deciders.invalid_statement", decider=state.agent, stated=state.event, step=state.step, error=exc
            )
            then(None)
            return
        now = clock.monotonic()  # the pipeline's clock
        statement = Statement(
            deadline_at=now + self._pipeline.policy.deadline_s,
            subject=message.subject,
            headers=message.headers,
            body=message.body,
            state=state,
            event_id=event_id,
            then=then,
        )
        statement.awaited = True
        self._pipeline.submit(statement, now)

    def _on_settled(self, publication: Publication) -> None:
        if self._rooms and self._pipeline.inflight <= limits.DECIDER_INFLIGHT // 2:
            rooms, self._rooms = self._rooms, []
            for room in rooms:
                room()
        assert isinstance(publication, Statement), "nobody else submits to this pipeline"
        state, then, publication.then = publication.state, publication.then, None
        assert state is not None
        assert then is not None
        error = publication.error
        if error is None:
            assert publication.ack is not None
            self._count(state, "repeated" if publication.ack.duplicate else "stated")
            then(None)
        elif isinstance(error, errors.WrongLastSequence):
            self._spawn(self._judge(state, publication.event_id, then))
        elif isinstance(error, errors.IdCollision):
            # The id is ours, the words are not: said by another process of a cause outside the log, or an alarm.
            self._differs(state, "its id is taken by other words")
            then(None)
        else:
            self._count(state, "failed")
            then(error)

    async def _judge(self, state: State, event_id: str, then: Done) -> None:
        """Somebody was first with this: find out whether it was the same decision."""
        try:
            if may_be_second(state):
                there = await history.entity(self._conn, state.tenant, state.key, state.kind, state.id)
                if is_open(there, event_id):
                    self._submit(msgspec.structs.replace(state, once=None), state.data, then)
                    return
                if state.reuse is not None:
                    later = reuse.instead(there, event_id, reuse_for_s=state.reuse.for_s, at=state.reuse.at)
                    if later is not None:
                        self._submit(msgspec.structs.replace(state, id=later), state.data, then)
                        return
            fact = await history.first(self._conn, first_filter(state))
        except errors.CoordError as exc:
            then(exc)
            return
        if fact is not None and (fact.event_id == event_id or is_again(fact.event_id, state)):
            self._count(state, "repeated")
        elif fact is not None and (fact.agent != state.agent or fact.event != state.event):
            self._count(state, "overtaken")  # by another's; or by what followed from it, which was not sent twice
        elif fact is None:
            self._count(state, "overtaken")  # it left the log, or is not to be believed: the fold has judged it
        else:
            self._differs(state, "another decision stands in the log", found=fact.event_id, seq=fact.seq)
        then(None)

    def _differs(self, state: State, why: str, **details: Any) -> None:
        if state.from_outside:
            self._count(state, "overtaken")
            return
        self._count(state, "conflict")
        _log.error(
            "deciders.conflict", why=why, decider=state.agent, tenant=state.tenant, key=state.key, id=state.id,
            stated=state.event, step=state.step, **details,
        )  # fmt: skip

    def _count(self, state: State, outcome: str) -> None:
        place = (state.agent, outcome)
        counter = self._outcomes.get(place)
        if counter is None:
            counter = self._outcomes[place] = self._metrics.decider_statements.labels(
                decider=state.agent, outcome=outcome
            )
        counter.inc()


_HOWS: Final = ("ack", "nak", "extend")
_PUSH: Final = subjects.PUSH_PREFIX


def _of_size(bodies: list[bytes], bytes_max: int) -> Iterator[list[bytes]]:
    """In their order; one that is larger stands alone."""
    several: list[bytes] = []
    size = 0
    for body in bodies:
        if several and size + len(body) > bytes_max:
            yield several
            several, size = [], 0
        several.append(body)
        size += len(body)
    if several:
        yield several


def _told_nobody(error: errors.CoordError | None) -> None:
    """Whoever arms a timer outside of a fold waits for nothing."""
