"""The outbox against a model: nothing lost, bounds kept, order per key, complete barriers.

The machine emits facts and samples of a few keys and series into lanes with tiny bounds,
lets time pass, disconnects, takes, settles, sheds and expires in any order that hypothesis
can think of, and compares what the outbox did with plain lists.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coord.core.batching import BatchPolicy
from coord.core.lanes import LanePolicy
from coord.core.outbox import Barrier, Outbox
from coord.core.window import Admission, WhenFull
from tests.support.parcels import Parcel, maker

CRITICAL, STATUS, METRICS = 0, 1, 2
DEADLINE_S = 5.0

KEYS = st.sampled_from(["k1", "k2", "k3"])
LABELS = st.sampled_from(["a", "b"])
SIZES = st.integers(1, 60)


make = maker(DEADLINE_S)


def policies() -> list[LanePolicy]:
    def batch(entries: int, linger_s: float) -> BatchPolicy:
        return BatchPolicy(entries_max=entries, size_max=150, linger_s=linger_s, open_max=2)

    return [
        LanePolicy(
            name="critical", when_full=WhenFull.WAIT, queue_entries=6, queue_bytes=400,
            inflight_messages=4, inflight_bytes=300, batch=None, keyed=True,
        ),
        LanePolicy(
            name="status", when_full=WhenFull.WAIT, queue_entries=8, queue_bytes=400,
            inflight_messages=3, inflight_bytes=300, batch=batch(4, 0.1), keyed=True,
        ),
        LanePolicy(
            name="metrics", when_full=WhenFull.SHED, queue_entries=8, queue_bytes=400,
            inflight_messages=2, inflight_bytes=300, batch=batch(5, 1.0), keyed=False,
        ),
    ]  # fmt: skip


class OutboxMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.now = 100.0
        self.outbox: Outbox[Parcel] = Outbox(policies())
        self.accepted: dict[int, tuple[int, str]] = {}  # entry → (class, group)
        self.sizes: dict[int, int] = {}
        self.done: set[int] = set()
        self.inflight: list[Parcel] = []
        self.first_sends: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.barriers: list[tuple[Barrier, set[int]]] = []
        self.next_entry = 0

    # --- what a publisher does -----------------------------------------------------------

    @rule(key=KEYS, size=SIZES)
    def emit_critical(self, key: str, size: int) -> None:
        self._submit(CRITICAL, key, size)

    @rule(key=KEYS, size=SIZES)
    def emit_status_alone(self, key: str, size: int) -> None:
        """Status with an envelope of its own travels alone."""
        self._submit(STATUS, key, size)

    @rule(key=KEYS, label=LABELS, size=SIZES, linger_s=st.sampled_from([None, 0.01]))
    def emit_status(self, key: str, label: str, size: int, linger_s: float | None) -> None:
        entry = self._new_entry(STATUS, key, size)
        batch = self.outbox.place(STATUS, key, label, size, self.now, make, linger_s=linger_s)
        if batch is None:
            self._refused(entry)
            assert self.outbox.lanes[STATUS].queue.count, "an empty queue refuses nothing"
        else:
            batch.entries.append(entry)

    @rule(series=st.sampled_from(["cpu", "mem", "net"]), size=SIZES)
    def emit_sample(self, series: str, size: int) -> None:
        entry = self._new_entry(METRICS, series, size)
        while True:
            batch = self.outbox.place(METRICS, series, series, size, self.now, make)
            if batch is not None:
                batch.entries.append(entry)
                return
            waiting = [e for p in self.outbox.unsent() if p.lane == METRICS for e in p.entries]
            shed = self.outbox.shed(METRICS)
            assert shed is not None, "an empty queue refuses nothing"
            assert set(shed.entries) <= set(waiting)
            assert shed.entries[0] in (waiting[0], min(waiting)), "the oldest goes first"
            self.done.update(shed.entries)

    @rule(series=st.sampled_from(["cpu", "mem"]), size=SIZES, wanted=st.integers(1, 12))
    def emit_samples(self, series: str, size: int, wanted: int) -> None:
        placed = self.outbox.place_many(METRICS, series, series, wanted, size, self.now, make)
        if placed is None:
            assert self.outbox.lanes[METRICS].queue.count, "an empty queue refuses nothing"
            return
        batch, count = placed
        assert 1 <= count <= wanted
        batch.entries += [self._new_entry(METRICS, series, size) for _ in range(count)]

    @rule()
    def take_all(self) -> None:
        self._take_all()

    @rule()
    def take_one(self) -> None:
        item = self.outbox.take(self.now)
        if item is not None:
            self._sent(item)

    @precondition(lambda self: self.inflight)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        item = self.inflight.pop(data.draw(st.integers(0, len(self.inflight) - 1)))
        self.outbox.settle(item)
        self.done.update(item.entries)

    @rule(seconds=st.sampled_from([0.005, 0.05, 0.2, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for item in self.outbox.expire(self.now):
            assert item.deadline_at <= self.now
            self.done.update(item.entries)

    @rule(held=st.booleans())
    def connection_changes(self, held: bool) -> None:
        self.outbox.held = held

    @rule()
    def flush_begins(self) -> None:
        barrier = self.outbox.barrier()
        assert not any(lane.open_batches() for lane in self.outbox.lanes), "a flush waits for no linger"
        self.barriers.append((barrier, set(self.accepted) - self.done))

    # --- what must hold, always ----------------------------------------------------------

    @invariant()
    def nothing_is_lost_and_nothing_appears(self) -> None:
        if not hasattr(self, "outbox"):
            return
        unsent = [e for item in self.outbox.unsent() for e in item.entries]
        flying = [e for item in self.inflight for e in item.entries]
        assert sorted(unsent + flying + list(self.done)) == sorted(self.accepted)
        assert self.outbox.unsettled == len(list(self.outbox.unsent())) + len(self.inflight)

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "outbox"):
            return
        for lane in self.outbox.lanes:
            queued = [i for i in self.outbox.unsent() if i.home == lane.number]
            assert lane.queue.count == sum(i.count for i in queued) <= lane.policy.queue_entries
            assert lane.queue.size == sum(i.size for i in queued) <= lane.policy.queue_bytes
            flying = [i for i in self.inflight if i.lane == lane.number]
            assert lane.inflight.count == len(flying) <= lane.policy.inflight_messages
            assert lane.inflight.size == sum(i.size for i in flying) <= lane.policy.inflight_bytes
            if lane.policy.batch:
                assert len(lane.open_batches()) <= lane.policy.batch.open_max
                assert all(i.count < lane.policy.batch.entries_max for i in lane.open_batches())
            waiting: dict[str, int] = defaultdict(int)
            for item in (*lane.ready, *lane.open_batches()):
                waiting[item.group] += 1
                assert item.lane == lane.number
            assert lane.waiting == (waiting if lane.keyed else {})

    @invariant()
    def a_barrier_is_open_as_long_as_anything_under_it_is(self) -> None:
        if not hasattr(self, "outbox"):
            return
        for barrier, covered in self.barriers:
            assert (barrier.remaining == 0) == (covered <= self.done)

    @invariant()
    def what_is_due_will_be_looked_at(self) -> None:
        if not hasattr(self, "outbox") or self.outbox.held:
            return
        for lane in self.outbox.lanes:
            if lane.open_batches() and not lane.inflight.paused:
                assert self.outbox.next_due() is not None

    def teardown(self) -> None:
        """However it stands: connected and acknowledged, all of it gets done."""
        if not hasattr(self, "outbox"):
            return
        self.outbox.held = False
        self.now += 1.0
        for _ in range(10_000):
            self._take_all()
            if not self.inflight:
                break
            item = self.inflight.pop(0)
            self.outbox.settle(item)
            self.done.update(item.entries)
        assert self.done == set(self.accepted)
        assert all(barrier.remaining == 0 for barrier, _ in self.barriers)
        assert not self.outbox.barriers
        for lane in self.outbox.lanes:
            assert (lane.queue.count, lane.queue.size, lane.inflight.count, lane.inflight.size) == (0, 0, 0, 0)

    # --- helpers -------------------------------------------------------------------------

    def _new_entry(self, service_class: int, group: str, size: int) -> int:
        self.next_entry += 1
        self.accepted[self.next_entry] = (service_class, group)
        self.sizes[self.next_entry] = size
        return self.next_entry

    def _refused(self, entry: int) -> None:
        del self.accepted[entry]

    def _submit(self, lane: int, key: str, size: int) -> None:
        entry = self._new_entry(lane, key, size)
        item = Parcel(lane, lane, key, None, self.now + DEADLINE_S, [entry], 1, size)
        admission = self.outbox.submit(item, self.now)
        if admission is Admission.SEND:
            self._sent(item)
        elif admission is Admission.WAIT:
            self._refused(entry)
            assert self.outbox.lanes[lane].queue.count, "an empty queue refuses nothing"

    def _sent(self, item: Parcel) -> None:
        assert not self.outbox.held, "nothing is taken while disconnected"
        self.inflight.append(item)
        assert item.entries
        assert item.size == sum(self.sizes[e] for e in item.entries)
        policy = self.outbox.lanes[item.home].policy.batch
        if policy and item.label is not None:
            assert item.count == len(item.entries) <= policy.entries_max
            assert item.size <= policy.size_max
        for entry in item.entries:
            service_class, group = self.accepted[entry]
            space = "series" if service_class == METRICS else "key"
            sent = self.first_sends[space, group]
            assert not sent or sent[-1] < entry, f"{space} {group} is sent out of order: {entry} after {sent[-1]}"
            sent.append(entry)

    def _take_all(self) -> None:
        while (item := self.outbox.take(self.now)) is not None:
            self._sent(item)


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=150, stateful_step_count=60)


@given(st.lists(st.tuples(KEYS, st.floats(0, 0.05)), min_size=1, max_size=60))
def test_nobody_waits_longer_than_the_linger_while_there_is_room(emits: list[tuple[str, float]]) -> None:
    lanes = policies()
    lanes[STATUS] = msgspec.structs.replace(lanes[STATUS], inflight_messages=1000, inflight_bytes=10**6)
    outbox: Outbox[Parcel] = Outbox(lanes)
    now = 10.0
    added: dict[int, float] = {}

    def drive(until: float) -> None:
        """What the driver's timer does."""
        while (due := outbox.next_due()) is not None and due <= until:
            while (item := outbox.take(due)) is not None:
                for entry in item.entries:
                    assert max(due, now) - added.pop(entry) <= 0.1 + 1e-9

    for entry, (key, pause) in enumerate(emits):
        drive(now + pause)
        now += pause
        added[entry] = now
        batch = outbox.place(STATUS, key, "a", 1, now, make)
        assert batch is not None
        batch.entries.append(entry)
        while (item := outbox.take(now)) is not None:
            for sent in item.entries:
                del added[sent]
    drive(now + 0.1)
    assert not added


def test_an_idle_lane_sends_at_once_and_a_trickle_is_one_message_per_linger() -> None:
    outbox: Outbox[Parcel] = Outbox(policies())
    sends = []
    for step in range(100):  # one sample every 50 ms for 5 s
        now = 10.0 + step * 0.05
        batch = outbox.place(METRICS, "cpu", "cpu", 1, now, make)
        assert batch is not None
        batch.entries.append(step)
        while (item := outbox.take(now)) is not None:
            sends.append((now, item.count))
            outbox.settle(item)
    assert sends[0] == (10.0, 1), "the first goes at once"
    assert all(count == 5 for _, count in sends[1:]), "then full frames (five entries) or one linger"
