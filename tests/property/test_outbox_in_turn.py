"""Of a key one message in flight: the outbox against a model, beside a spool, before a log whose leaders die."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from coord.core.outbox import Outbox
from coord.core.window import Admission
from tests.property.test_batching import CRITICAL, DEADLINE_S, METRICS, STATUS, OutboxMachine, make, policies
from tests.support.parcels import Parcel


class InTurnMachine(OutboxMachine):
    """The machine of test_batching in turn and, now and then, pipelined; with a spool like the publisher's.

    While there is no broker everything goes into the spool; then what is in it is sent, and
    everything accepted goes through it, until it was all sent.  `keeping`: whether there is one.
    """

    @initialize(keeping=st.booleans())
    def start(self, keeping: bool) -> None:
        super().start()
        self.keeping = keeping
        self.was_pipelined = False
        self.spool: list[Parcel] = []
        self.replayed: list[Parcel] = []
        self.outbox.go_in_turn([])

    # --- modes ---------------------------------------------------------------------------

    @rule()
    def pipelined_for_a_while(self) -> None:
        self.outbox.go_pipelined()
        self.was_pipelined = True
        assert not self.outbox.in_turn

    @rule()
    def in_turn_again(self) -> None:
        self.outbox.go_in_turn(self.inflight)
        assert self.outbox.in_turn

    # --- a broker that goes and comes, a disk that takes some or nothing ---------------------

    @rule(held=st.just(False))
    def connection_changes(self, held: bool) -> None:
        """Here `goes` and `comes` do that."""

    @rule(room=st.integers(0, 4))
    def goes(self, room: int) -> None:
        self.outbox.held = True
        if not self.keeping:
            return
        for parcel in self.replayed:
            self.outbox.set_aside(parcel)
            self.inflight.remove(parcel)
        self.spool[:0] = self.replayed
        self.replayed.clear()
        back: list[Parcel] = []
        for parcel in self.inflight:
            if back or len(self.spool) >= room:
                back.append(parcel)
            else:
                self.spool.append(parcel)
            self.outbox.set_aside(parcel)
        self.inflight.clear()
        for parcel in reversed(back):
            self._unsend(parcel)
            self.outbox.give_back(parcel)

    @precondition(lambda self: self.keeping and self.outbox.held)
    @rule(wanted=st.integers(1, 5), refused=st.booleans())
    def is_kept(self, wanted: int, refused: bool) -> None:
        for _ in range(wanted):
            parcel = self.outbox.take_aside(self.now, lambda size: size < 1_000)
            if parcel is None:
                return
            self._first_send(parcel)
            self.spool.append(parcel)
        if refused and self.spool:
            parcel = self.outbox.take_aside(self.now, lambda size: True)
            if parcel is not None:
                self.outbox.give_back(parcel)

    @rule(ahead=st.integers(1, 4))
    def comes(self, ahead: int) -> None:
        while self.spool and (parcel := self.outbox.take_aside(self.now, lambda size: True)) is not None:
            self._first_send(parcel)
            self.spool.append(parcel)
        while self.spool and len(self.replayed) < ahead and self.outbox.readmit(self.spool[0], known=True):
            self._flies(parcel := self.spool.pop(0))
            self.replayed.append(parcel)
        self.outbox.held = bool(self.spool)

    @precondition(lambda self: self.inflight)
    @rule(data=st.data(), pumped=st.booleans())
    def settle(self, data: st.DataObject, pumped: bool) -> None:
        if pumped and not self.outbox.held:
            self._take_all()
        parcel = self.inflight.pop(data.draw(st.integers(0, len(self.inflight) - 1)))
        if parcel in self.replayed:
            self.replayed.remove(parcel)
        may_go = self.outbox.settle(parcel)
        self.done.update(parcel.entries)
        if pumped and not may_go and not self.outbox.held:
            assert self.outbox.take(self.now) is None, "settle says when something may be sent"

    # --- what must hold ------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_and_nothing_appears(self) -> None:
        if not hasattr(self, "outbox"):
            return
        unsent = list(self.outbox.unsent())
        entries = [e for parcel in (*unsent, *self.inflight, *self.spool) for e in parcel.entries]
        assert sorted(entries + list(self.done)) == sorted(self.accepted)
        assert self.outbox.unsettled == len(unsent) + len(self.inflight) + len(self.spool)

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "outbox"):
            return
        waiting: list[dict[str, int]] = [defaultdict(int) for _ in self.outbox.lanes]
        for parcel in self.outbox.unsent():
            waiting[parcel.lane][parcel.group] += 1
        for lane in self.outbox.lanes:
            queued = [i for i in self.outbox.unsent() if i.home == lane.number]
            assert (lane.queue.count, lane.queue.size) == (sum(i.count for i in queued), sum(i.size for i in queued))
            flying = [i for i in self.inflight if i.lane == lane.number]
            assert lane.inflight.count == len(flying) <= lane.policy.inflight_messages
            assert lane.inflight.size == sum(i.size for i in flying) <= lane.policy.inflight_bytes
            assert lane.waiting == (waiting[lane.number] if lane.keyed else {})

    @invariant()
    def what_is_due_will_be_looked_at(self) -> None:
        """Unless it waits for its key's turn: then for an ack."""
        if not hasattr(self, "outbox") or self.outbox.held:
            return
        for lane in self.outbox.lanes:
            flying = {i.group for i in self.inflight if (i.home == METRICS) == (lane.number == METRICS)}
            # Its key's turn may be that of a message in another lane, which is parked there.
            resumed = {group for other in self.outbox.lanes if other.turns is lane.turns for group in other.resumed}
            if not lane.inflight.paused and any(
                batch.group not in flying and batch.group not in resumed for batch in lane.open_batches()
            ):
                assert self.outbox.next_due() is not None

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        self.now += 1.0
        for _ in range(1_000):
            self.comes(ahead=4)
            self._take_all()
            if not self.inflight:
                break
            parcel = self.inflight.pop(0)
            if parcel in self.replayed:
                self.replayed.remove(parcel)
            self.outbox.settle(parcel)
            self.done.update(parcel.entries)
        assert not self.spool
        super().teardown()
        for lane in self.outbox.lanes:
            assert not lane.resumed
            assert lane.turns is None or not (lane.turns.under_way or lane.turns.parked)

    # --- helpers -------------------------------------------------------------------------

    def _sent(self, item: Parcel) -> None:
        self._flies(item)
        self.inflight.remove(item)
        super()._sent(item)

    def _flies(self, parcel: Parcel) -> None:
        if self.outbox.in_turn:
            of_keys = parcel.home != METRICS
            of_its_group = [i for i in self.inflight if i.group == parcel.group and (i.home != METRICS) == of_keys]
            assert not of_its_group, "it is not its turn"
        self.inflight.append(parcel)

    def _first_send(self, parcel: Parcel) -> None:
        """Into the spool is the way out: from there it goes in the spool's order."""
        held, self.outbox.held = self.outbox.held, False
        super()._sent(parcel)
        self.inflight.remove(parcel)
        self.outbox.held = held

    def _unsend(self, parcel: Parcel) -> None:
        """It is back in its queue: what comes out next of its key, unless pipelined a later one was settled first."""
        space = "series" if parcel.home == METRICS else "key"
        sent = self.first_sends[space, parcel.group]
        at = sent.index(parcel.entries[0])
        assert set(sent[at:]) <= self.done | set(parcel.entries)
        assert sent[at:] == parcel.entries or not self.outbox.in_turn or self.was_pipelined
        del sent[at:]


TestInTurn = InTurnMachine.TestCase
TestInTurn.settings = settings(max_examples=150, stateful_step_count=60)


class Log:
    """A log whose leader dies: of what is on its way a part is stored, in any order; the others are lost."""

    def __init__(self, rng: random.Random) -> None:
        self.stored: list[Parcel] = []
        self._rng = rng
        self._known: set[int] = set()

    def store(self, parcel: Parcel) -> None:
        if id(parcel) not in self._known:  # its id: a repeat is recognised
            self._known.add(id(parcel))
            self.stored.append(parcel)

    def leader_dies(self, inflight: list[Parcel]) -> None:
        """What the publisher repeats arrives in another order than it was first sent."""
        for parcel in self._rng.sample(inflight, self._rng.randint(0, len(inflight))):
            self.store(parcel)


def disorder(seed: int, *, in_turn: bool) -> int:
    """How many facts a log with dying leaders stores before an earlier one of their key."""
    rng = random.Random(seed)
    outbox: Outbox[Parcel] = Outbox(policies())
    if in_turn:
        outbox.go_in_turn([])
    log, inflight, said, now = Log(rng), deque[Parcel](), 0, 0.0
    while said < 2_000 or outbox.unsettled:
        now += rng.expovariate(200.0)
        if said < 2_000:
            said += _say(outbox, inflight, rng, said + 1, now)
        while (parcel := outbox.take(now)) is not None:
            inflight.append(parcel)
        if rng.random() < 0.02:
            log.leader_dies(list(inflight))
            rng.shuffle(inflight)
        while inflight and rng.random() < 0.5:
            parcel = inflight.popleft()
            log.store(parcel)
            outbox.settle(parcel)
    last: dict[str, int] = defaultdict(int)
    early = 0
    for parcel in log.stored:
        early += sum(n < last[parcel.group] for n in parcel.entries)
        last[parcel.group] = max(last[parcel.group], *parcel.entries)
    assert sorted(n for parcel in log.stored for n in parcel.entries) == list(range(1, said + 1))
    return early


def _say(outbox: Outbox[Parcel], inflight: deque[Parcel], rng: random.Random, n: int, now: float) -> int:
    """Say fact number `n` of some key, alone or in a frame; 0 when there is no room for it."""
    key, lane = f"k{rng.randrange(4)}", rng.randrange(2)
    if lane == STATUS and rng.random() < 0.7:
        batch = outbox.place(STATUS, key, "a", 1, now, make)
        if batch is not None:
            batch.entries.append(n)
        return int(batch is not None)
    parcel = Parcel(lane, lane, key, None, now + 100 * DEADLINE_S, [n], 1, 1)
    admission = outbox.submit(parcel, now)
    if admission is Admission.SEND:
        inflight.append(parcel)
    return int(admission is not Admission.WAIT)


@pytest.mark.parametrize("seed", range(8))
def test_in_turn_a_dying_leader_cannot_change_the_order_of_a_key(seed: int) -> None:
    assert disorder(seed, in_turn=True) == 0
    assert disorder(seed, in_turn=False) > 0, "else this test would notice nothing"


def test_a_key_that_waits_keeps_no_other_key_waiting() -> None:
    outbox: Outbox[Any] = Outbox(policies())
    outbox.go_in_turn([])
    first = Parcel(0, 0, "slow", None, 10.0, [1], 1, 1)
    assert outbox.submit(first, 0.0) is Admission.SEND
    second = Parcel(0, 0, "slow", None, 10.0, [2], 1, 1)
    assert outbox.submit(second, 0.0) is Admission.QUEUED
    assert outbox.take(0.0) is None
    assert outbox.submit(Parcel(0, 0, "other", None, 10.0, [3], 1, 1), 0.0) is Admission.SEND
    assert outbox.settle(first), "now there is something to take"
    assert outbox.take(0.0) is second


def test_a_batch_grows_while_its_key_waits() -> None:
    outbox: Outbox[Any] = Outbox(policies())
    outbox.go_in_turn([])
    alone = Parcel(STATUS, STATUS, "k", None, 10.0, [0], 1, 1)
    assert outbox.submit(alone, 0.0) is Admission.SEND
    for n in (1, 2, 3):
        batch = outbox.place(STATUS, "k", "a", 1, float(n), make)
        assert batch is not None
        batch.entries.append(n)
        assert outbox.take(float(n)) is None, "its linger is over, but it is not its turn"
    assert outbox.next_due() is None
    assert outbox.settle(alone)
    taken = outbox.take(3.0)
    assert taken is not None
    assert taken.entries == [1, 2, 3]


def test_a_batch_that_was_put_off_is_sent_however_its_key_becomes_free() -> None:
    def put_off() -> tuple[Outbox[Any], Parcel]:
        outbox: Outbox[Any] = Outbox(policies())
        outbox.go_in_turn([])
        alone = Parcel(STATUS, STATUS, "k", None, 2.0, [0], 1, 1)
        assert outbox.submit(alone, 0.0) is Admission.SEND
        return outbox, alone

    def add(outbox: Outbox[Any]) -> Parcel:
        batch: Parcel | None = outbox.place(STATUS, "k", "a", 1, 0.0, make)
        assert batch is not None
        batch.entries.append(1)
        assert outbox.take(1.0) is None, "it is not its turn"
        return batch

    outbox, _ = put_off()
    batch = add(outbox)
    outbox.go_pipelined()
    assert outbox.take(1.0) is batch

    outbox, _ = put_off()
    batch = add(outbox)
    outbox.held = True
    assert outbox.take_aside(1.0, lambda size: True) is batch, "into the spool it goes at once"

    outbox, alone = put_off()
    parked = Parcel(STATUS, STATUS, "k", None, 2.0, [1], 1, 1)
    assert outbox.submit(parked, 0.0) is Admission.QUEUED
    batch = add(outbox)
    assert outbox.settle(alone)
    assert outbox.expire(3.0) == [parked], "between its turn and being sent"
    assert outbox.take(3.0) is batch

    outbox, _ = put_off()
    first, second = (Parcel(CRITICAL, CRITICAL, "j", None, 9.0, [n], 1, 1) for n in (0, 1))
    assert outbox.submit(first, 0.0) is Admission.SEND
    assert outbox.submit(second, 0.0) is Admission.QUEUED
    later: Parcel | None = outbox.place(STATUS, "j", "a", 1, 0.0, make)
    assert later is not None
    later.entries.append(2)
    assert outbox.take(1.0) is None, "the one is parked, the other put off"
    assert outbox.settle(first)
    assert outbox.next_due() is None, "the turn is that of what is parked in the other lane"
    assert outbox.take(1.0) is second
    assert outbox.take(1.0) is None
    assert outbox.settle(second)
    assert outbox.take(1.0) is later


def test_what_waits_for_its_turn_expires_too() -> None:
    outbox: Outbox[Any] = Outbox(policies())
    outbox.go_in_turn([])
    parcels = [Parcel(0, 0, "k", None, 5.0 + n, [n], 1, 1) for n in range(3)]
    assert [outbox.submit(parcel, 0.0) for parcel in parcels] == [Admission.SEND, Admission.QUEUED, Admission.QUEUED]
    assert outbox.take(0.0) is None
    assert outbox.expire(6.5) == [parcels[1]]
    assert outbox.settle(parcels[0])
    assert outbox.expire(7.5) == [parcels[2]]
    assert outbox.take(7.5) is None
    assert outbox.unsettled == 0


@pytest.mark.parametrize(("first", "second"), [(CRITICAL, CRITICAL), (CRITICAL, STATUS), (STATUS, CRITICAL)])
@pytest.mark.parametrize("in_turn", [True, False])
def test_what_was_in_flight_and_cannot_be_kept_is_the_next_of_its_key(first: int, second: int, in_turn: bool) -> None:
    outbox: Outbox[Any] = Outbox(policies())
    if in_turn:
        outbox.go_in_turn([])
    parcels = [Parcel(lane, lane, "k", None, 10.0, [n], 1, 1) for n, lane in enumerate((first, second))]
    assert outbox.submit(parcels[0], 0.0) is Admission.SEND
    outbox.held = not in_turn  # so that it has to wait
    assert outbox.submit(parcels[1], 0.0) is Admission.QUEUED
    assert outbox.take(0.0) is None, "it waits for its turn"
    outbox.held = True
    outbox.set_aside(parcels[0])
    outbox.give_back(parcels[0])
    outbox.held = False
    order = []
    while (parcel := outbox.take(0.0)) is not None:
        order.append(parcel)
        outbox.settle(parcel)
    assert order == parcels
    assert outbox.unsettled == 0
    assert not any(lane.waiting or lane.inflight.count or lane.queue.count for lane in outbox.lanes)


def test_a_key_and_a_series_of_one_name_do_not_wait_for_each_other() -> None:
    outbox: Outbox[Any] = Outbox(policies())
    outbox.go_in_turn([])
    assert outbox.submit(Parcel(0, 0, "cpu", None, 5.0, [0], 1, 1), 0.0) is Admission.SEND
    batch = outbox.place(METRICS, "cpu", "cpu", 1, 0.0, make)
    assert batch is not None
    assert outbox.take(0.0) is batch


def test_of_samples_that_wait_for_their_turn_the_oldest_are_shed() -> None:
    outbox: Outbox[Any] = Outbox(policies())
    outbox.go_in_turn([])
    batches = []
    for n in range(4):
        batch = outbox.place(METRICS, "cpu", n, 1, 0.0, make)  # another label: a batch of its own
        assert batch is not None
        batches.append(batch)
        taken = outbox.take(0.0)
        assert taken is (batch if n == 0 else None)
    assert outbox.settle(batches[0]), "it is the turn of the second"
    assert [outbox.shed(METRICS) for _ in range(2)] == batches[1:3]
    assert outbox.take(2.0) is batches[3]


def test_what_waits_for_its_turn_is_kept_before_what_came_later() -> None:
    outbox: Outbox[Any] = Outbox(policies())
    outbox.go_in_turn([])
    parcels = [Parcel(0, 0, "k", None, 5.0, [n], 1, 1) for n in range(4)]
    for parcel in parcels[:3]:
        outbox.submit(parcel, 0.0)
    assert outbox.take(0.0) is None
    outbox.held = True
    outbox.submit(parcels[3], 0.0)
    assert [outbox.take_aside(0.0, lambda size: True) for _ in range(4)] == [*parcels[1:], None]
    assert not outbox.readmit(parcels[1], known=True), "the first is in flight"
    assert outbox.settle(parcels[0]), "somebody keeps the next"
    assert outbox.readmit(parcels[1], known=True)


def test_closing_drops_what_waits_for_its_turn_too() -> None:
    outbox: Outbox[Any] = Outbox(policies())
    outbox.go_in_turn([])
    parcels = [Parcel(0, 0, "k", None, 5.0, [n], 1, 1) for n in range(3)]
    for parcel in parcels:
        outbox.submit(parcel, 0.0)
    assert outbox.take(0.0) is None
    assert list(outbox.unsent()) == outbox.drain() == parcels[1:]
    assert not outbox.settle(parcels[0])
    assert outbox.unsettled == 0
