"""What is accepted, what may be sent next, and when all of it is settled.

The whole of a publisher's decisions, without its I/O: the driver (`coord.client.publisher`)
offers items, sends what `take` returns and reports what was settled.

Three **lanes**, one per class of service, each with a queue bound and an in-flight window of
its own.  The windows are separate on purpose: however many frames are in flight, a critical
fact finds its own window, and a flood of critical facts starves no status.

::

    submit / place ─▶ queue (ready items, open batches) ──take──▶ in flight ──settle──▶ done
         │                     │  expire, shed, drain                                    ▲
         ▼                     └─────────────────────────────────────────────────────────┘
    WAIT or SHED: not accepted

Order.  Items of one group (facts: the key) are taken in the order they were accepted, across
the keyed lanes too: a critical fact lets its key's waiting status go first, in its own lane,
and status whose key has a critical fact waiting queues up behind it.  So first sends keep
the order per key; what a resend does to it is the pipeline's story.

In turn (`go_in_turn`).  Of each group one message is in flight at most, and the next goes
when it is settled, so that no resend can change the order (`coord.core.turns`).  What waits
for its turn counts as queued; it is sent before what became ready later, and keeps nobody of
another group waiting.

Barrier.  `barrier()` seals every open batch and covers all that was accepted before; its
`remaining` reaches zero when all of it is done: acknowledged, refused, shed or expired.

Nothing is ever lost between the states: `unsettled` counts what is accepted and not done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic

from coord.core.batching import AT_ONCE
from coord.core.lanes import ItemT, Lane, LanePolicy
from coord.core.turns import Turns
from coord.core.window import Admission, WhenFull


class Barrier:
    """Covers what was accepted before it was made; `remaining` is how much of that is not done."""

    __slots__ = ("remaining", "upto")

    def __init__(self, upto: int, remaining: int) -> None:
        self.upto = upto
        self.remaining = remaining


class Outbox(Generic[ItemT]):
    """See the module.  Lanes are numbered by priority: 0 is served first."""

    def __init__(self, policies: Sequence[LanePolicy]) -> None:
        self.lanes: tuple[Lane[ItemT], ...] = tuple(Lane(i, p) for i, p in enumerate(policies))
        self._keyed = tuple(lane for lane in self.lanes if lane.keyed)
        self.held = False
        """True: `take` gives nothing (disconnected); accepting goes on up to the queue bounds."""
        self.unsettled = 0
        self.barriers: list[Barrier] = []
        self._ordinal = 0

    @property
    def in_turn(self) -> bool:
        """Whether of each group one message is in flight at most."""
        return self.lanes[0].turns is not None

    def go_in_turn(self, inflight: Iterable[ItemT]) -> None:
        """From now on of each group one message is in flight at most; `inflight`: what is.  Twice is legal."""
        if self.in_turn:
            return
        of_keys: Turns[ItemT] = Turns()
        for lane in self.lanes:
            lane.turns = of_keys if lane.keyed else Turns()
        for item in inflight:
            turns = self.lanes[item.lane].turns
            assert turns is not None
            turns.begin(item.group)

    def go_pipelined(self) -> None:
        """From now on messages of a group may be in flight together.  Twice is legal."""
        self._unpark()
        for lane in self.lanes:
            lane.turns = None

    # --- accepting -----------------------------------------------------------------------

    def submit(self, item: ItemT, now: float, *, reserved: bool = False, linger_s: float | None = None) -> Admission:
        """Offer a single message.  SEND: it is accounted in flight, send it now; QUEUED: `take` gives it later.

        `reserved`: its room in the queue was accounted by `reserve`.  `linger_s`: how long it
        would have waited for company, at most, had the lane not been idle.
        """
        lane = self.lanes[item.lane]
        if not reserved:
            if self._may_pass(lane, item) and lane.inflight.take(1, item.size):
                self._accept(item)
                if lane.pace is not None and linger_s is not None:
                    lane.pace.opened(item.group, now, linger_s)
                lane.taken += item.count
                lane.taken_at = now
                if lane.turns is not None:
                    lane.turns.begin(item.group)
                return Admission.SEND
            if not lane.queue.take(item.count, item.size):
                return Admission.WAIT if lane.when_full is WhenFull.WAIT else Admission.SHED
        self._accept(item)
        self._enqueue(lane, item)
        return Admission.QUEUED

    def place(
        self,
        lane_number: int,
        group: str,
        label: Any,
        size: int,
        now: float,
        make: Callable[[int, str, Any, float], ItemT],
        *,
        linger_s: float | None = None,
        reserved: bool = False,
    ) -> ItemT | None:
        """Account an entry of `size` bytes in its group's batch and return that batch; None: the queue is full.

        The caller appends the entry before it calls anything else here: the batch may be
        full, and the next `take` gives it away.  `make(lane, group, label, now)` opens a
        batch: an item with this lane and home, count and size 0.
        """
        lane = self.lanes[lane_number]
        if not reserved and not lane.queue.take(1, size):
            return None
        batcher = lane.batcher
        assert batcher is not None, "this lane sends single messages"
        batch = batcher.joins(group, label, size)
        if batch is None:
            batch = self._open(lane, make(lane_number, group, label, now), now, linger_s)
        if batcher.grow(batch, 1, size):
            self._seal(lane, batch)
        return batch

    def place_many(
        self,
        lane_number: int,
        group: str,
        label: Any,
        wanted: int,
        size_each: int,
        now: float,
        make: Callable[[int, str, Any, float], ItemT],
    ) -> tuple[ItemT, int] | None:
        """`place` for up to `wanted` entries of one size, as many as one batch takes: (batch, how many)."""
        lane = self.lanes[lane_number]
        batcher = lane.batcher
        assert batcher is not None, "this lane sends single messages"
        batch = batcher.joins(group, label, size_each)
        count = min(wanted, batcher.room(batch, size_each), lane.queue.count_max)
        if not lane.queue.take(count, count * size_each):
            return None
        if batch is None:
            batch = self._open(lane, make(lane_number, group, label, now), now, None)
        if batcher.grow(batch, count, count * size_each):
            self._seal(lane, batch)
        return batch, count

    def hasten(self, item: ItemT) -> None:
        """Somebody waits for this one: if it is still open, seal it, so that `take` gives it at once."""
        lane = self.lanes[item.lane]
        if lane.batcher is not None and lane.batcher.open.get(item.group) is item:
            self._seal(lane, item)

    def crowded(self, lane_number: int) -> bool:
        """Whether whoever can wait should: nothing may be sent now, or half of the queue is taken."""
        lane = self.lanes[lane_number]
        queue = lane.queue
        return self.held or lane.inflight.paused or 2 * queue.count > queue.count_max or 2 * queue.size > queue.size_max

    def end_lingers(self, lane_number: int) -> None:
        """Seal a lane's open batches: somebody waits for their room."""
        lane = self.lanes[lane_number]
        if lane.batcher is not None:
            self._ready(lane, lane.batcher.pop_all())

    def reserve(self, lane_number: int, count: int, size: int) -> bool:
        """Take room in a queue on behalf of somebody who waited for it."""
        return self.lanes[lane_number].queue.take(count, size)

    def unreserve(self, lane_number: int, count: int, size: int) -> None:
        """Give back what `reserve` took: whoever waited went away."""
        self.lanes[lane_number].queue.release(count, size)

    def idle(self, lane_number: int, now: float, linger_s: float | None = None, group: str | None = None) -> bool:
        """Whether a lane has nothing to wait for: what comes now is sent at once, alone.

        Nothing queued, nothing in flight, and the last send as long ago as one linger: a
        steady trickle is still one message per linger.  With `group` and an adaptive lane
        it is the linger that group has now.
        """
        lane = self.lanes[lane_number]
        if lane.queue.count or lane.inflight.count or self.held:
            return False
        if linger_s is None:
            linger_s = lane.policy.batch.linger_s if lane.policy.batch else 0.0
        if lane.pace is not None and group is not None:
            linger_s = lane.pace.linger_s(group, linger_s)
        return now - lane.taken_at >= linger_s

    # --- sending -------------------------------------------------------------------------

    def take(self, now: float) -> ItemT | None:
        """The next item to send, accounted in flight; None when nothing may be sent now."""
        if self.held:
            return None
        for lane in self.lanes:
            if lane.turns is not None:
                waited = self._take_in_turn(lane, lane.turns, now)
                if waited is None:
                    continue
                item = waited
            else:
                if not lane.ready and not self._seal_due(lane, now):
                    continue
                item = lane.ready[0]
                if not lane.inflight.take(1, item.size):
                    continue
                lane.ready.popleft()
            self._leave_queue(item)
            lane.taken += item.count
            lane.taken_at = now
            return item
        return None

    def take_aside(self, now: float, fits: Callable[[int], bool]) -> ItemT | None:
        """While `held`: the next item to be kept elsewhere; in no queue and not in flight until `readmit`.

        None when there is none, or the next is larger than what `fits`.
        """
        self._unpark()
        for lane in self.lanes:
            if not lane.ready and not self._seal_due(lane, now):
                continue
            item = lane.ready[0]
            if not fits(item.size):
                return None
            lane.ready.popleft()
            self._leave_queue(item)
            lane.taken += item.count
            lane.taken_at = now
            return item
        return None

    def next_due_aside(self) -> float | None:
        """`next_due` for `take_aside`: held or not."""
        held, self.held = self.held, False
        try:
            return self.next_due()
        finally:
            self.held = held

    def readmit(self, item: ItemT, *, known: bool) -> bool:
        """Account in flight what was kept elsewhere; False: no room, or not its turn.

        `known`: `take_aside` gave it.
        """
        lane = self.lanes[item.lane]
        if lane.turns is not None and item.group in lane.turns.under_way:
            return False
        if not lane.inflight.take(1, item.size):
            return False
        if lane.turns is not None:
            lane.turns.begin(item.group)
        if not known:
            self._accept(item)
        return True

    def give_back(self, item: ItemT) -> None:
        """What was set or taken aside could not be kept: it is the next of its queue again."""
        self.lanes[item.home].queue.restore(item.count, item.size)
        lane = self.lanes[item.lane]
        if lane.keyed:
            lane = self._line_up(lane, item)
        parked = lane.turns.parked.get(item.group) if lane.turns is not None else None
        (lane.ready if parked is None else parked).appendleft(item)

    def set_aside(self, item: ItemT) -> bool:
        """What is in flight is kept elsewhere until `readmit`; True when `take` may have something now."""
        lane = self.lanes[item.lane]
        resumed = lane.inflight.release(1, item.size)
        freed = lane.turns is not None and self._end_turn(lane.turns, item)
        return freed or resumed

    def leave_aside(self, item: ItemT) -> None:
        """What `take_aside` gave stays elsewhere: nobody here waits for it any more."""
        self._done(item)

    def next_due(self) -> float | None:
        """When `take` has something because a linger is over; None: not because of time."""
        if self.held:
            return None
        earliest: float | None = None
        for lane in self.lanes:
            if lane.batcher is None or not lane.batcher.open or lane.inflight.paused:
                continue
            due = lane.batcher.next_due()
            if due is not None and (earliest is None or due < earliest):
                earliest = due
        return earliest

    # --- settling ------------------------------------------------------------------------

    def settle(self, item: ItemT) -> bool:
        """An item in flight is done, one way or the other; True when `take` or `readmit` may have something now."""
        lane = self.lanes[item.lane]
        resumed = lane.inflight.release(1, item.size)
        self._done(item)
        if lane.turns is not None and self._end_turn(lane.turns, item):
            return True
        return resumed or (bool(lane.ready) and not lane.inflight.paused)

    def acked(self, lane_number: int, attempts: int, took_s: float, now: float) -> None:
        """A lane's message was acknowledged `took_s` after its first send: what it says of the queueing delay."""
        pace = self.lanes[lane_number].pace
        if pace is not None and attempts == 1:  # Karn: otherwise nobody knows which of them was acknowledged
            pace.acked(took_s, now)

    def shed(self, lane_number: int) -> ItemT | None:
        """Drop the oldest item of a lane that was not sent yet; None when there is none."""
        lane = self.lanes[lane_number]
        if lane.turns is not None and lane.turns.parked:
            group = next(iter(lane.turns.parked))
            item = lane.turns.next_of(group)
            self._forget_resumed(group, lane.turns)
            return self._dropped([item])[0]
        if lane.ready:
            return self._dropped([lane.ready.popleft()])[0]
        if lane.batcher is not None and lane.batcher.open:
            oldest = next(iter(lane.batcher.open.values()))
            lane.batcher.pop(oldest.group)
            return self._dropped([oldest])[0]
        return None

    def expire(self, now: float) -> list[ItemT]:
        """Drop what was accepted, never sent, and has passed its deadline.

        Looks from the oldest on and stops at the first that has time left; the few that a
        promotion has put behind younger ones expire with those, or in flight.
        """
        dropped = self._expired_parked(now)
        for lane in self.lanes:
            ready = lane.ready
            while ready and ready[0].deadline_at <= now:
                dropped.append(ready.popleft())
            if lane.batcher is not None:
                for batch in list(lane.batcher.open.values()):
                    if batch.deadline_at > now:
                        break
                    lane.batcher.pop(batch.group)
                    dropped.append(batch)
        return self._dropped(dropped)

    def drain(self) -> list[ItemT]:
        """Drop everything that was not sent yet: the publisher closes."""
        self._unpark()
        dropped: list[ItemT] = []
        for lane in self.lanes:
            dropped += lane.ready
            lane.ready.clear()
            if lane.batcher is not None:
                dropped += lane.batcher.pop_all()
        return self._dropped(dropped)

    def barrier(self) -> Barrier:
        """Seal all open batches and cover everything accepted so far; see the module."""
        for lane in self.lanes:
            self.end_lingers(lane.number)
        barrier = Barrier(self._ordinal, self.unsettled)
        if barrier.remaining:
            self.barriers.append(barrier)
        return barrier

    def drop_barrier(self, barrier: Barrier) -> None:
        """Nobody waits for it any more.  Twice is legal."""
        if barrier in self.barriers:
            self.barriers.remove(barrier)

    def observe(self, now: float) -> None:
        """Let the drain rates follow; call about once a second while anything is queued."""
        for lane in self.lanes:
            lane.drain_rate.observe(lane.taken, now)

    def retry_after_s(self, lane_number: int) -> float:
        """When a refused caller should come back: when the queue will have drained to its low mark."""
        lane = self.lanes[lane_number]
        return lane.drain_rate.retry_after_s(lane.queue.count - lane.queue.count_low)

    def unsent(self) -> Iterator[ItemT]:
        """Everything accepted and not sent: what waits for its turn, then the others lane by lane."""
        for turns in self._all_turns():
            for parked in turns.parked.values():
                yield from parked
        for lane in self.lanes:
            yield from lane.ready
            yield from lane.open_batches()

    # --- below: how ------------------------------------------------------------------------

    def _may_pass(self, lane: Lane[ItemT], item: ItemT) -> bool:
        """Whether a message may go out at once without overtaking anything of its lane or key."""
        if lane.ready or self.held:
            return False
        if lane.turns is not None and item.group in lane.turns.under_way:
            return False
        if lane.keyed:
            for other in self._keyed:  # a plain loop: this is on the path of every fact
                if item.group in other.waiting:
                    return False
        return True

    def _accept(self, item: ItemT) -> None:
        self._ordinal += 1
        item.ordinal = self._ordinal
        self.unsettled += 1

    def _enqueue(self, lane: Lane[ItemT], item: ItemT) -> None:
        """Queue a message behind what its key has waiting in other keyed lanes."""
        if lane.batcher is not None:
            batch = lane.batcher.pop(item.group)
            if batch is not None:
                self._ready(lane, [batch])
        if lane.keyed:
            lane = self._line_up(lane, item)
        lane.ready.append(item)

    def _line_up(self, lane: Lane[ItemT], item: ItemT) -> Lane[ItemT]:
        """The lane in which an item waits, and all of its key with it; it is counted there."""
        for other in self._keyed:
            if other.number > lane.number and item.group in other.waiting:
                self._promote(other, lane, item.group)
        ahead = self._waiting_above(lane, item.group)
        if ahead is not None:
            lane = ahead
            item.lane = ahead.number
        lane.waiting[item.group] = lane.waiting.get(item.group, 0) + 1
        return lane

    def _waiting_above(self, lane: Lane[ItemT], group: str) -> Lane[ItemT] | None:
        for other in self._keyed:
            if other.number < lane.number and group in other.waiting:
                return other
        return None

    def _promote(self, source: Lane[ItemT], target: Lane[ItemT], group: str) -> None:
        """Move a key's waiting items into a more urgent lane, where one of its facts queues up behind them."""
        parked = source.turns.parked.get(group, ()) if source.turns is not None else ()
        moved = [item for item in parked if item.lane == source.number]
        if moved and group in source.resumed:
            source.resumed.remove(group)
            target.resumed.append(group)
        batch = source.batcher.pop(group) if source.batcher is not None else None
        count = source.waiting.pop(group)
        if count > len(moved) + (batch is not None):
            ready = [item for item in source.ready if item.group == group]
            source.ready = deque(item for item in source.ready if item.group != group)
            target.ready.extend(ready)
            moved += ready
        if batch is not None:
            target.ready.append(batch)
            moved.append(batch)
        assert len(moved) == count, "what waits is ready, parked or open"
        for item in moved:
            item.lane = target.number
        target.waiting[group] = target.waiting.get(group, 0) + count

    def _open(self, lane: Lane[ItemT], batch: ItemT, now: float, linger_s: float | None) -> ItemT:
        batcher, group = lane.batcher, batch.group
        assert batcher is not None
        closed = batcher.pop(group)
        if closed is not None:
            self._ready(lane, [closed])
        if lane.pace is not None:
            linger_s = lane.pace.opened(group, now, batcher.policy.linger_s if linger_s is None else linger_s)
        at_once = self._idle_but_for_this(lane, now, linger_s)
        self._accept(batch)
        oldest = batcher.start(batch, now, 0.0 if at_once else linger_s)
        if lane.keyed:
            lane.waiting[group] = lane.waiting.get(group, 0) + 1
        if oldest is not None:
            self._ready(lane, [oldest])
        return batch

    def _idle_but_for_this(self, lane: Lane[ItemT], now: float, linger_s: float | None) -> bool:
        """`idle`, asked while the entry that opens the batch is already accounted."""
        if lane.ready or lane.inflight.count or self.held or (lane.batcher and lane.batcher.open):
            return False
        assert lane.policy.batch is not None
        return now - lane.taken_at >= (lane.policy.batch.linger_s if linger_s is None else linger_s)

    def _seal(self, lane: Lane[ItemT], batch: ItemT) -> None:
        assert lane.batcher is not None
        lane.batcher.pop(batch.group)
        self._ready(lane, [batch])

    def _ready(self, lane: Lane[ItemT], batches: list[ItemT]) -> None:
        """Queue sealed batches; a key that has something queued in a more urgent lane goes behind it."""
        for batch in batches:
            if lane.pace is not None:
                lane.pace.sealed(batch.group, batch.count)
            ahead = self._waiting_above(lane, batch.group) if lane.keyed else None
            if ahead is None:
                lane.ready.append(batch)
                continue
            self._forget_waiting(lane, batch.group)
            batch.lane = ahead.number
            ahead.ready.append(batch)
            ahead.waiting[batch.group] += 1

    def _seal_due(self, lane: Lane[ItemT], now: float) -> bool:
        """Seal a batch whose linger is over; whether the lane has something ready then."""
        batcher = lane.batcher
        if batcher is None or not batcher.open or lane.inflight.paused:
            return False
        while not lane.ready:  # a batch that has to queue up in another lane leaves this one empty
            batch = batcher.peek_due(now)
            if batch is None:
                return False
            if lane.turns is not None and not self.held and batch.group in lane.turns.under_way:
                batcher.put_off(batch)
                lane.turns.put_off[batch.group] = batch
                continue
            due_at = batcher.next_due()
            if lane.pace is not None and due_at is not None:
                lane.pace.late(now - due_at if due_at > AT_ONCE else 0.0)
            self._seal(lane, batch)
        return True

    def _take_in_turn(self, lane: Lane[ItemT], turns: Turns[ItemT], now: float) -> ItemT | None:
        """The next item of a lane whose group has none in flight, accounted in flight but still as queued."""
        while True:
            if lane.resumed:
                group = lane.resumed[0]
                if not lane.inflight.take(1, turns.parked[group][0].size):
                    return None
                lane.resumed.popleft()
                item = turns.next_of(group)
                break
            if not lane.ready and not self._seal_due(lane, now):
                return None
            item = lane.ready[0]
            group = item.group
            if group in turns.under_way:
                turns.park(group, lane.ready.popleft())
                continue
            if not lane.inflight.take(1, item.size):
                return None
            lane.ready.popleft()
            break
        turns.begin(group)
        return item

    def _end_turn(self, turns: Turns[ItemT], item: ItemT) -> bool:
        """A message is not in flight any more: its group's next may go; True when there may be one."""
        if not turns.end(item.group):
            return False
        parked = turns.parked.get(item.group)
        if parked is not None:
            ahead = self.lanes[parked[0].lane]
            ahead.resumed.append(item.group)
            return not ahead.inflight.paused
        return self._wake_batch(turns.put_off.pop(item.group, None)) or self.held  # held: something kept elsewhere

    def _wake_batch(self, batch: ItemT | None) -> bool:
        """A batch that was put off is due; False: there is none, or it is not open any more."""
        batcher = self.lanes[batch.lane].batcher if batch is not None else None
        return batch is not None and batcher is not None and batcher.wake(batch)

    def _all_turns(self) -> Iterable[Turns[ItemT]]:
        """Of all lanes, each once: keyed lanes share theirs."""
        return {id(lane.turns): lane.turns for lane in self.lanes if lane.turns is not None}.values()

    def _unpark(self) -> None:
        """What waits for its turn goes back to the front of its queue."""
        for turns in self._all_turns():
            if not (turns.parked or turns.put_off):
                continue
            for parked in turns.parked.values():
                self.lanes[parked[0].lane].ready.extendleft(reversed(parked))
            turns.parked.clear()
            for lane in self.lanes:
                if lane.turns is turns:
                    lane.resumed.clear()
            for batch in turns.put_off.values():
                self._wake_batch(batch)
            turns.put_off.clear()

    def _expired_parked(self, now: float) -> list[ItemT]:
        dropped: list[ItemT] = []
        for turns in self._all_turns():
            passed, emptied = turns.drop_while(lambda item: item.deadline_at <= now)
            for group in emptied:
                self._forget_resumed(group, turns)
            dropped += passed
        return dropped

    def _forget_resumed(self, group: str, turns: Turns[ItemT]) -> None:
        """Some of a group's parked items were dropped: if that were all and it was its turn, it is the open batch's."""
        if group in turns.parked or group in turns.under_way:
            return
        for lane in self.lanes:
            if lane.turns is turns and group in lane.resumed:
                lane.resumed.remove(group)
        self._wake_batch(turns.put_off.pop(group, None))

    def _leave_queue(self, item: ItemT) -> None:
        """Account that an item is no longer queued."""
        self.lanes[item.home].queue.release(item.count, item.size)
        lane = self.lanes[item.lane]
        if lane.keyed:
            self._forget_waiting(lane, item.group)

    def _forget_waiting(self, lane: Lane[ItemT], group: str) -> None:
        left = lane.waiting[group] - 1
        if left:
            lane.waiting[group] = left
        else:
            del lane.waiting[group]

    def _done(self, item: ItemT) -> None:
        self.unsettled -= 1
        if self.barriers:
            for barrier in self.barriers:
                if item.ordinal <= barrier.upto:
                    barrier.remaining -= 1
            self.barriers = [b for b in self.barriers if b.remaining]

    def _dropped(self, items: list[ItemT]) -> list[ItemT]:
        for item in items:
            self._leave_queue(item)
            self._done(item)
        return items
