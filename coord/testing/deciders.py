"""A process that decides, as `coord.server.session` does: its steps in virtual time around the real deciders.

The rules of a session are those of docs/adr/0050: it begins from a snapshot, owes what it demands until
it has caught up, states under derived ids, and takes a snapshot of a sequence only once
the log has everything that the facts up to it led to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from coord.core.claiming import decide as decide_about_delivery
from coord.core.deciding import Arm, Decider, Effect, Owed, Push, Settle, State, is_again
from coord.core.desk import Desk
from coord.core.flags import FlagDecider
from coord.core.scheduling import PlacementDecider
from coord.core.tasks import fold, is_open, may_be_second
from coord.server.deciders import deciders
from coord.testing.broker import PARTITIONS, Ack, Refused, Stored, once_of
from coord.testing.loop import Process, Thread, sleep
from coord.testing.placing import Holder, Sight
from coord.wire import ids, subjects, work
from coord.wire.envelope import Fact, StoredFact

if TYPE_CHECKING:
    from coord.testing.fleet import Member
    from coord.testing.simulation import World

_TICK_S = 0.5
_PIN_S = 3.0
_TELL_S = 60.0
_ARM_TRIES = 3


def packed(states: Iterable[Decider]) -> bytes:
    """A snapshot, as it is stored."""
    return msgspec.msgpack.encode({decider.name: decider.dump() for decider in states})


def folded(states: Iterable[Decider]) -> bytes:
    """Of that, what follows from the partition's facts.

    How agents fared is what a process has seen of all of them, and a flag that was removed is forgotten near the
    window's edge, with how often it was changed.
    """
    kept = {decider.name: decider.dump() for decider in states if not isinstance(decider, PlacementDecider)}
    known = [flag for flag in kept[FlagDecider.name].flags if flag.said is not None]
    kept[FlagDecider.name] = sorted((flag.id, flag.seq, flag.by, flag.at) for flag in known)
    return msgspec.msgpack.encode(kept)


def restored(states: bytes, partition: int, desk: Desk | None = None) -> list[Decider]:
    """Deciders that become what was packed."""
    found, dumped = deciders(partition, desk), msgspec.msgpack.decode(states)
    for decider in found:
        decider.load(dumped[decider.name])
    return found


def event_id_of(state: State) -> str:
    """The id of a decision: the same from whoever decides it."""
    return ids.derive_id(state.tenant, state.key, state.version, state.step, state.attempt, state.ordinal)


class DeciderProcess(Process):
    """Runs a session for each partition whose pin it has."""

    def __init__(self, name: str, world: World, skew_s: float) -> None:
        super().__init__(name, world.loop, world.faults)
        self.world = world
        self.skew_s = skew_s
        self.sight = Sight()
        self.desk = Desk()
        self.sessions: dict[int, Session] = {}
        self._arms: dict[tuple[str, str], Arm] = {}
        """By timer: what is to be done next; while something is being done about it, only the last counts."""
        self.begin()

    @property
    def unix(self) -> float:
        """Its own clock."""
        return self.world.broker.unix + self.skew_s

    def begin(self) -> None:
        """Start, or start again."""
        self.alive = True
        self.sight, self.desk = Sight(self.faults.rng.random()), Desk()
        self.sessions = {}
        self._arms = {}
        incarnation = self.incarnation
        # Until it has heard everybody who is there, whoever it has not heard of may be alive.
        self.loop.at(5.0, lambda: self._settled(incarnation))
        for partition in range(PARTITIONS):
            self.spawn(self._own(partition))

    def crashed(self) -> None:
        """Something starts it again."""
        self.loop.at(self.faults.rng.choice([0.3, 3.0]), self.begin)

    def _settled(self, incarnation: int) -> None:
        if self.alive and incarnation == self.incarnation:
            for holder in sorted(self.world.gone):
                self.sight.goes(holder, self.loop.now)
            for member in self.world.members:
                if member.alive and member.holder not in self.world.gone:
                    self.sight.comes(member, self.loop.now)

    def deciding(self) -> list[Decider]:
        """Those of all partitions that it has."""
        return [decider for session in self.sessions.values() for decider in session.deciders]

    def comes(self, member: Member) -> None:
        """A member of the fleet beats."""
        self.sight.comes(member, self.loop.now)

    def gone(self, holder: Holder) -> None:
        """An instance is said to be no more."""
        self.sight.goes(holder, self.loop.now)
        for session in self.sessions.values():
            if session.owed is None:
                session.outside([e for d in session.deciders for e in d.gone(*holder, self.unix)])

    def back(self, holder: Holder) -> None:
        """It beats again."""
        self.sight.dead.discard(holder)

    def arm(self, arm: Arm) -> None:
        """As `coord.server.timers.Arming` does it: in the order of demands for one timer, a few times."""
        place = (arm.key, arm.id)
        busy = place in self._arms
        self._arms[place] = arm
        if not busy:
            self.spawn(self._arm(place))

    def _arm(self, place: tuple[str, str]) -> Thread:
        done = None
        while done is not self._arms[place]:
            done = self._arms[place]
            for _ in range(_ARM_TRIES):
                if (yield self.world.broker.request(partial(self.world.broker.schedules.arm, done))) is not None:
                    break
                yield sleep(1.0)
        del self._arms[place]

    def _own(self, partition: int) -> Thread:
        broker = self.world.broker
        rng = self.world.rng
        while True:
            held = broker.pins.get(partition)
            steals = self.faults.active and rng.random() < 0.02
            if held is None or steals or self.loop.now - held[1] > _PIN_S:
                session = self.sessions[partition] = Session(self, partition)
                broker.pins[partition] = session, self.loop.now
                yield from session.run()
                self.sessions.pop(partition, None)
                if broker.pins.get(partition, (None,))[0] is session:
                    del broker.pins[partition]
            yield sleep(0.2 + rng.random())


class Session:
    """One partition, from a snapshot until it fails or loses the pin."""

    def __init__(self, process: DeciderProcess, partition: int) -> None:
        self.process = process
        self.world = process.world
        self.broker = process.world.broker
        self.partition = partition
        self.deciders = deciders(partition, process.desk)
        self.position = 0
        self.owed: Owed | None = Owed()
        self.failed = False
        self._revision = 0
        self._late: list[Settle | Push] = []
        self._unanswered: Counter[int] = Counter()
        self._notices_at = 0.0
        self._lenient = False
        self._leaderless = False

    def run(self) -> Thread:
        """Until it may decide no more; somebody else may begin before that."""
        broker, process = self.broker, self.process
        answer = yield broker.request(lambda: (broker.snapshots.get(self.partition), len(broker.log)))
        if answer is None:
            return
        snapshot, target = answer
        if snapshot is not None:
            self._revision, self.position, states = snapshot
            self.deciders = restored(states, self.partition, process.desk)
        process.spawn(self._save_now_and_then())
        ticked = 0.0
        while not self.failed and not self._lost():
            batch = yield broker.follow(self.partition, self.position, _TICK_S)
            for stored in batch:
                self._fold(stored)
            if self.owed is not None and (not batch or self.position >= target):
                self._catch_up()
            if self.owed is None and self.world.loop.now - ticked >= _TICK_S:
                ticked = self.world.loop.now
                self.world.show(process.sight)
                now = process.unix
                self.outside([e for d in self.deciders for e in d.tick(now, process.sight)])
        self.failed = True

    def _lost(self) -> bool:
        """Whether it has noticed that the pin is somebody else's: up to three seconds late."""
        now, pins = self.world.loop.now, self.broker.pins
        if pins.get(self.partition, (None,))[0] is self:
            pins[self.partition] = self, now
            return False
        self._notices_at = self._notices_at or now + self.world.rng.choice([0.0, 0.3, 3.0])
        return now >= self._notices_at

    # --- facts -------------------------------------------------------------------------------

    def _fold(self, stored: Stored) -> None:
        fact = stored.fact
        if self.owed is not None:
            self.owed.meet(fact)
        for effect in fold_one(self.deciders, stored, self.broker.history):
            self._perform(effect, fact)
        self.position = fact.seq

    def outside(self, effects: Iterable[Effect]) -> None:
        """What a death, time or the end of catching up led to."""
        for effect in effects:
            self._perform(effect, None)

    def _catch_up(self) -> None:
        owed, self.owed = self.owed, None
        assert owed is not None, "it catches up once"
        for state in owed.take():
            self._state(state, self.position)
        late, self._late = self._late, []
        # What was owed to the broker may be out of date: a worker that is given what is claimed looks, and leaves it.
        self._lenient = True
        self.outside(late)
        self._lenient = False
        self.outside([e for d in self.deciders for e in d.reconcile(self.process.unix)])

    # --- effects -----------------------------------------------------------------------------

    def _perform(self, effect: Effect, fact: StoredFact | None) -> None:
        position = self.position if fact is None else fact.seq
        if isinstance(effect, State):
            if fact is not None and effect.causation_id is None:
                effect = msgspec.structs.replace(effect, causation_id=fact.event_id)
            if self.owed is not None:
                self.owed.demand(effect)
            else:
                self._state(effect, self.position + 1)  # of the fact that is being folded, or none
        elif self.owed is not None:
            told = isinstance(effect, Push) or (isinstance(effect, Settle) and effect.how != "extend")
            if told and fact is not None and fact.stored_at.timestamp() >= self.process.unix - _TELL_S:
                self._late.append(effect)  # type: ignore[arg-type]  # as `told` says
        elif isinstance(effect, Settle):
            if not self._lenient:
                self.world.referee.settles(effect, position)
            settle = effect
            self.broker.hop(lambda: self.broker.settle(settle))
        elif isinstance(effect, Push):
            self.world.referee.tells(effect, position)
            self.world.push(effect)
        elif isinstance(effect, Arm):
            self.process.arm(effect)
        elif effect.queue != work.PLACED:  # there is no such queue
            self.broker.hop(lambda: self.broker.open(subjects.queue(effect.tenant, effect.capability, effect.queue)))

    def _state(self, state: State, seq: int) -> None:
        self._unanswered[seq] += 1
        self.process.spawn(self._stated(state, seq))

    def _stated(self, state: State, seq: int) -> Thread:
        if self._leaderless or self.process.faults.leaderless():
            # The log's stream takes nothing more of this session; that of the snapshots does.
            self._leaderless = True
            yield sleep(2.0)
            self.failed = True
        if self.failed:
            return
        data = state.data
        if state.merge_seq is not None:
            base = self.broker.log[state.merge_seq - 1].fact.data
            said = msgspec.to_builtins(data)
            data = {**base, **said} if isinstance(base, dict) else said
        fact = Fact(
            kind=state.kind, id=state.id, event=state.event, data=data, key=state.key, detail=state.detail,
            correlation_id=state.correlation_id, causation_id=state.causation_id,
        )  # fmt: skip
        event_id = event_id_of(state)
        answer = yield from self.broker.publish(state.agent, fact, event_id, once_of(state), tries=1)
        if isinstance(answer, Refused) and may_be_second(state):
            there = yield from self.broker.read(state.kind, state.key, state.id)
            if is_open(there, event_id):
                answer = yield from self.broker.publish(state.agent, fact, event_id, None, tries=1)
        if answer is None:
            self.failed = True  # whether it is stored is not known: the next session finds out
            return
        if isinstance(answer, Refused):
            self._judge(state, event_id)
        elif isinstance(answer, Ack) and not state.from_outside:
            self.world.referee.stated(state, answer.seq)
        self._unanswered[seq] -= 1

    def _judge(self, state: State, event_id: str) -> None:
        found = self.broker.first_of(state)
        if found is None or found.event_id == event_id or found.agent != state.agent or state.from_outside:
            return
        # Or it was stated again before it was met; or what followed from it overtook it, on its way after an outage.
        if found.event == state.event and not is_again(found.event_id, state):
            self.world.wrong(
                f"two decisions: {state.event} of {state.kind} {state.id}, stated by {found.event_id} first"
            )

    # --- snapshots ---------------------------------------------------------------------------

    def is_answered(self, seq: int) -> bool:
        """Whether the log has everything that the facts up to this one led to."""
        return not any(count and at <= seq for at, count in self._unanswered.items())

    def _save_due(self) -> bool:
        return not self.failed

    def _save_now_and_then(self) -> Thread:
        broker, saved = self.broker, -1
        while not self.failed:
            yield sleep(self.world.snapshot_s * (0.5 + self.world.rng.random()))
            if self.owed is not None or self.position == saved:
                continue
            states, seq = packed(self.deciders), self.position
            while not (self.is_answered(seq) or self.failed):
                yield sleep(0.05)
            if not self._save_due():
                return

            def save(states: bytes = states, seq: int = seq) -> int | None:
                revision, stored, _ = broker.snapshots.get(self.partition, (0, 0, b""))
                if revision != self._revision or stored > seq:
                    return -1
                broker.snapshots[self.partition] = revision + 1, seq, states
                return revision + 1

            revision = yield broker.request(save)
            if revision is None or revision < 0:
                self.failed = True  # somebody else wrote one, or nobody knows
                return
            self._revision, saved = revision, seq


def fold_one(found: list[Decider], stored: Stored, history: Any) -> list[Effect]:
    """One fact, by all of those whose kind it is."""
    fact = stored.fact
    ours = [decider for decider in found if fact.kind in decider.kinds]
    if not stored.first and any(decider.forgot(fact) for decider in ours):
        before = history(fact.kind, fact.key, fact.id, below=fact.seq)
        if before:
            for decider in ours:
                decider.recall(before)
    return [effect for decider in ours for effect in decider.apply(fact)]


def settle_for_worker(world: World, queue: str, seq: int, key: str, id: str) -> None:  # noqa: A002
    """``task.settle``: ack what is nobody's any more; the log is asked, not the worker."""
    task, _ = fold(world.broker.history("task", key, id))
    move = decide_about_delivery(task, agent="", instance="", seq=seq)
    if getattr(move, "settle", False):
        world.broker.hop(lambda: world.broker.settle(Settle(queue, seq, "ack")))
