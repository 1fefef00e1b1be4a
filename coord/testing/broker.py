"""A model of JetStream: one log with conditions and deduplication, queues, pins and snapshots.

What it does is what the contract tests show of the server (tests/contract): a condition is looked at before an
id; an ack of what was not delivered does nothing; a nak of it neither; what is not
settled within ack_wait comes again.  A crash of the broker keeps the log and the schedules, and forgets, of the
queues, some acks and deliveries, or all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Literal, TypeAlias

import msgspec

from coord import limits
from coord.core.deciding import Settle, State
from coord.testing.loop import Faults, Loop, Op, Process, Resume, Thread
from coord.testing.schedules import Schedules
from coord.wire import subjects
from coord.wire.authors import Author, rule_for
from coord.wire.envelope import Fact, StoredFact, decode_message, encode_fact

TENANT = "sim"
PARTITIONS = 2
"""Of the simulation: coord's, folded together."""

T0 = datetime(2026, 11, 21, 10, tzinfo=UTC)
T0_UNIX = T0.timestamp()

Once: TypeAlias = Literal["entity", "event", "own"] | int | None
"""See `coord.core.deciding.State`; a number: the newest fact of the entity is the one of that sequence."""


class Ack(msgspec.Struct, frozen=True):
    """What a publish is answered with."""

    seq: int
    duplicate: bool = False


class Refused(msgspec.Struct, frozen=True):
    """Somebody was first."""


class Delivery(msgspec.Struct, frozen=True):
    """Of a queue."""

    queue: str
    fact: StoredFact
    first: bool
    """Stated on the condition that it is the first of its entity."""


class Stored(msgspec.Struct, frozen=True):
    """One message."""

    fact: StoredFact
    first: bool
    partition: int


class _Queue:
    def __init__(self, name: str) -> None:
        self.name = name
        self.todo: deque[int] = deque()
        self.pending: dict[int, float] = {}
        """Delivered and not settled: when it comes again."""
        self.again: deque[int] = deque()
        self.acked: list[int] = []
        self.waiting: deque[_Pull] = deque()


class _Pull:
    __slots__ = ("expires", "incarnation", "open", "process", "resume")

    def __init__(self, process: Process, resume: Resume, expires: float) -> None:
        self.process, self.resume, self.expires = process, resume, expires
        self.incarnation = process.incarnation
        self.open = True


def once_of(state: State) -> Once:
    """The condition of a statement: what deciders alone may state, nobody can keep them from stating."""
    if state.once == "event" and rule_for(state.kind, state.event).author is Author.DECIDER:
        return "own"
    return state.once


class Broker:
    """See the module."""

    def __init__(self, loop: Loop, faults: Faults, rng: Random) -> None:
        self.loop = loop
        self.faults = faults
        self.rng = rng
        self.log: list[Stored] = []
        self.down_until = -1.0
        self.on_stored: list[Callable[[Stored], None]] = []
        self.entities: dict[tuple[str, str, str], list[int]] = {}
        self._events: dict[tuple[Any, ...], int] = {}
        self._ids: dict[str, int] = {}
        self._queues: dict[str, _Queue] = {}
        self._submitted: dict[str, list[int]] = {}
        self._by_partition: list[list[int]] = [[] for _ in range(PARTITIONS)]
        self._followers: list[tuple[int, int, Callable[[], None]]] = []
        self.snapshots: dict[int, tuple[int, int, bytes]] = {}
        """Partition → (revision, as of which sequence, states)."""
        self.pins: dict[int, tuple[Any, float]] = {}
        """Partition → (who has it, when it was last heard of)."""
        self.schedules = Schedules(self)

    @property
    def unix(self) -> float:
        """The broker's clock."""
        return T0_UNIX + self.loop.now

    # --- the network -----------------------------------------------------------------------

    def hop(self, call: Callable[[], None]) -> None:
        """A message to or from the broker."""
        delay_s = self.faults.hop_s()
        if delay_s is not None:
            self.loop.at(delay_s, call)

    def request(self, do: Callable[[], Any], timeout_s: float = 2.0) -> Op:
        """Ask the broker; the answer is None when none came."""

        def op(process: Process, resume: Resume) -> None:
            answered = False
            incarnation = process.incarnation

            def answer(value: Any) -> None:
                nonlocal answered
                if not answered:
                    answered = True
                    resume(value)

            def arrive() -> None:
                if process.incarnation != incarnation and self.rng.random() < 0.7:
                    return  # it was still in a buffer of whoever died
                if self.loop.now >= self.down_until:
                    value = do()
                    self.hop(lambda: answer(value))

            # A connection keeps the order of what is sent on it, and what it loses are answers (or all of it).
            delay_s = 1e-6 if (took := self.faults.hop_s()) is None else took
            process.sent_until = max(process.sent_until + 1e-6, self.loop.now + delay_s)
            self.loop.at(process.sent_until - self.loop.now, arrive)
            if self.faults.twice():
                self.hop(arrive)
            process.loop.at(max(timeout_s, process.sent_until - self.loop.now + 0.5), lambda: answer(None))

        return op

    # --- the log ----------------------------------------------------------------------------

    def publish(self, agent: str, fact: Fact, event_id: str, once: Once, tries: int = 3) -> Thread:
        """State a fact under one id, again if no answer comes; returns an `Ack`, `Refused` or None."""
        for _ in range(tries):
            answer = yield self.request(lambda: self.append(agent, fact, event_id, once))
            if answer is not None:
                return answer
        return None

    def append(self, agent: str, fact: Fact, event_id: str, once: Once, *, remembered: bool = True) -> Ack | Refused:
        """Store it, unless its id is known (where ids are `remembered`) or somebody was first."""
        subject = fact.subject(TENANT, agent)
        now = T0 + timedelta(seconds=self.loop.now)
        encoded = encode_fact(fact, tenant=TENANT, agent=agent, event_id=event_id, occurred_at=now)
        entity = (fact.key or fact.id, fact.kind, fact.id)
        place = (*entity, fact.event, tuple(fact.detail))
        own = (*place, agent)
        taken = {"entity": entity in self.entities, "event": place in self._events, "own": own in self._events}
        if isinstance(once, int):
            if self.entities.get(entity, [0])[-1] != once:
                return Refused()
        elif once is not None and taken[once]:
            return Refused()
        known = self._ids.get(encoded.msg_id) if remembered else None
        if known is not None:
            return Ack(known, duplicate=True)
        seq = len(self.log) + 1
        (stored,) = decode_message(subject.stored, encoded.header_block(), encoded.body, seq, now)
        assert isinstance(stored, StoredFact), "what was encoded can be decoded"
        message = Stored(stored, once == "entity", subjects.partition(stored.key) % PARTITIONS)
        self.log.append(message)
        self._ids[encoded.msg_id] = seq
        self.entities.setdefault(entity, []).append(seq)
        self._events.setdefault(place, seq)
        self._events.setdefault(own, seq)
        self._by_partition[message.partition].append(seq)
        self._queue_up(stored)
        for told in self.on_stored:
            told(message)
        self._wake()
        return Ack(seq)

    def history(self, kind: str, key: str, id: str, *, below: int | None = None) -> list[StoredFact]:  # noqa: A002
        """An entity's facts as they are now."""
        seqs = self.entities.get((key, kind, id), ())
        return [self.log[seq - 1].fact for seq in seqs if below is None or seq < below]

    def first_of(self, state: State) -> StoredFact | None:
        """What stands in the place of a statement: the first fact of its entity, or of its event (there, its own)."""
        entity = (state.key, state.kind, state.id)
        if state.once == "entity":
            found = self.entities.get(entity, [0])[0]
        else:
            place = (*entity, state.event, state.detail)
            found = self._events.get((*place, state.agent) if once_of(state) == "own" else place, 0)
        return self.log[found - 1].fact if found else None

    def read(self, kind: str, key: str, id: str) -> Thread:  # noqa: A002
        """`history`, over the network, asked for until it comes."""
        while True:
            facts = yield self.request(lambda: self.history(kind, key, id))
            if facts is not None:
                return facts

    def follow(self, partition: int, position: int, timeout_s: float) -> Op:
        """What the partition has behind `position`: a few of it, at once or as soon as there is any."""

        def op(process: Process, resume: Resume) -> None:
            done = False

            def answer() -> None:
                nonlocal done
                if not done:
                    done = True
                    resume(self._behind(partition, position))

            if self._by_partition[partition] and self._by_partition[partition][-1] > position:
                process.loop.at(0.0005 + self.rng.random() * 0.002, answer)
            else:
                self._followers.append((partition, position, answer))
                process.loop.at(timeout_s, answer)

        return op

    def _behind(self, partition: int, position: int) -> list[Stored]:
        if self.loop.now < self.down_until:
            return []
        seqs = self._by_partition[partition]
        at = len(seqs)
        while at and seqs[at - 1] > position:
            at -= 1
        return [self.log[seq - 1] for seq in seqs[at : at + self.rng.choice([1, 3, 50])]]

    def _wake(self) -> None:
        followers, self._followers = self._followers, []
        for partition, position, answer in followers:
            if self._by_partition[partition] and self._by_partition[partition][-1] > position:
                self.loop.at(0.0005 + self.rng.random() * 0.002, answer)
            else:
                self._followers.append((partition, position, answer))

    # --- queues -----------------------------------------------------------------------------

    def open(self, name: str) -> None:
        """Make a queue that is not there, with all that the log has for it."""
        if name not in self._queues:
            queue = self._queues[name] = _Queue(name)
            queue.todo.extend(self._submitted.get(name, ()))

    def pull(self, name: str, expires_s: float) -> Op:
        """One delivery, or None when none came in time.  What a hung process asked for stays asked."""

        def op(process: Process, resume: Resume) -> None:
            expires = self.loop.now + expires_s
            pull = _Pull(process, resume, expires)

            def expire() -> None:
                if pull.open:
                    pull.open = False
                    resume(None)

            def arrive() -> None:
                queue = self._queues.get(name)
                if queue is not None and self.loop.now >= self.down_until:
                    queue.waiting.append(pull)
                    self._serve(queue)

            self.hop(arrive)
            # The client gives up a little after the broker: what comes between is not lost.
            self.loop.at(expires_s + 0.5, expire)

        return op

    def settle(self, settle: Settle) -> None:
        """A word about a delivery has arrived."""
        queue = self._queues.get(settle.queue)
        if queue is None or self.loop.now < self.down_until:
            return
        seq = settle.seq
        if seq not in queue.pending and seq not in queue.again:
            return  # not delivered: the server ignores it
        if settle.how == "ack":
            queue.pending.pop(seq, None)
            if seq in queue.again:
                queue.again.remove(seq)
            queue.acked.append(seq)
        elif seq in queue.pending:
            delay_s = limits.QUEUE_ACK_WAIT_S if settle.how == "extend" else settle.delay_s
            self._comes_again(queue, seq, delay_s)

    def unsettled(self) -> dict[str, list[int]]:
        """What the queues still hold."""
        held = {q.name: [*q.todo, *q.again, *q.pending] for q in self._queues.values()}
        return {name: seqs for name, seqs in held.items() if seqs}

    def _queue_up(self, fact: StoredFact) -> None:
        if fact.kind == "task" and fact.event == "submitted" and len(fact.detail) == 2:
            name = subjects.queue(TENANT, *fact.detail)
            self._submitted.setdefault(name, []).append(fact.seq)
            if name in self._queues:
                self._queues[name].todo.append(fact.seq)
                self._serve(self._queues[name])

    def _comes_again(self, queue: _Queue, seq: int, delay_s: float) -> None:
        due = queue.pending[seq] = self.loop.now + delay_s

        def look() -> None:
            if self._queues.get(queue.name) is queue and queue.pending.get(seq) == due:
                del queue.pending[seq]
                queue.again.append(seq)
                self._serve(queue)

        self.loop.at(delay_s, look)

    def _serve(self, queue: _Queue) -> None:
        while queue.waiting and (queue.again or queue.todo) and self.loop.now >= self.down_until:
            pull = queue.waiting.popleft()
            process = pull.process
            if not pull.open or pull.expires < self.loop.now or process.incarnation != pull.incarnation:
                continue
            seq = queue.again.popleft() if queue.again else queue.todo.popleft()
            self._comes_again(queue, seq, limits.QUEUE_ACK_WAIT_S)
            message = self.log[seq - 1]
            self.hop(lambda pull=pull, message=message: _deliver(pull, queue.name, message))  # type: ignore[misc]

    # --- faults -----------------------------------------------------------------------------

    def crash(self, down_s: float) -> None:
        """Go away for so long, and come back with the log and less of the queues."""
        self.down_until = self.loop.now + down_s
        for pinned, _ in self.pins.values():
            pinned.failed = True  # its connection is lost
        forget_all = self.rng.random() < 0.2
        for name, queue in list(self._queues.items()):
            if forget_all:
                del self._queues[name]
                continue
            for seq in queue.acked[-3:]:
                if self.rng.random() < 0.5:
                    queue.acked.remove(seq)
                    queue.pending[seq] = -1.0
            for seq in list(queue.pending):
                if self.rng.random() < 0.5:
                    del queue.pending[seq]
                    queue.again.append(seq)
                else:
                    self._comes_again(queue, seq, limits.QUEUE_ACK_WAIT_S)
            queue.waiting.clear()
        self.loop.at(down_s, self._back)

    def _back(self) -> None:
        for queue in self._queues.values():
            self._serve(queue)
        self._wake()


def _deliver(pull: _Pull, name: str, message: Stored) -> None:
    if pull.open:
        pull.open = False
        pull.resume(Delivery(name, message.fact, message.first))
