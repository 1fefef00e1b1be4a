"""Pulling one capability's tasks: as many as there are free slots, each priority in its turn.

::

    a slot is free ──▶ ask, without waiting, in the order of the shares ──▶ deliveries
          ▲                 │ "nothing there", of every priority
          │                 ▼
          │            wait: one pull per priority stays with the broker until work comes;
          │            or, where a crowd waits already, stand by until the service wakes us
          └── all slots taken: the waits are taken back

A busy worker must not leave a wait behind: the broker would give it a task that it cannot take,
which would wander from one busy worker to the next.  A wait is taken back by unsubscribing from
its inbox; what the broker had sent by then still arrives and is the caller's to give back.

No coroutine runs per pull: everything here happens when the broker or a slot speaks.  It never
acknowledges: deciders do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from coord import errors, limits
from coord.bus.connection import Connection, Passing, Subscription
from coord.client.standby import Standby
from coord.core.seats import State
from coord.core.sharing import Turns
from coord.telemetry import logs
from coord.wire import subjects, work

_log = logs.get("worker")

_ACK: Final = b"$JS.ACK."

_EMPTY_S: Final = 0.002
"""A priority that had nothing is not asked again for so long while others have work: ten round trips,"""
_EMPTY_ANSWERS: Final = 4
"""or for as long as so many answers take where that is longer.  With one free slot the priorities are asked one
after another: in a busy process the first must still count as empty when the last has answered, or all are asked
for ever and no wait is left with the broker."""
_EMPTY_MOST_S: Final = 0.5
"""But never longer."""

_CALM_S: Final = 0.05
"""A priority that had nothing so lately is waited for without being asked first.  What has come meanwhile may come
from several at once and be one too many: that is given back."""
_CALM_ANSWERS: Final = 8
"""Or for as long as so many answers take, where that is longer: a task takes several, and a process that is slow
asks for twice as much when its tasks have outlasted the calm.  Never longer than _EMPTY_MOST_S."""

_SHUT_S: Final = 1.0
"""A queue that refuses pulls, or does not exist, is left alone for so long."""

_SILENCE_S: Final = 3.0
"""A pull that must be answered at once and is not is forgotten after this."""

_SWEEP_S: Final = 5.0
"""How often it is looked whether an answer is missing."""


class Delivery(NamedTuple):
    """One message of a queue, as it came."""

    queue: str
    """The priority, or `placed`."""
    subject: str
    headers: bytes | None
    body: bytes
    seq: int
    delivered: int
    """Deliveries of it so far, this one included."""
    stored_ns: int


class _Pull:
    """One request that the broker has not finished."""

    __slots__ = ("asked_at", "inbox", "left", "queue", "until")

    def __init__(self, queue: str, left: int, asked_at: float, until: float, inbox: Passing | None = None) -> None:
        self.queue = queue
        self.left = left
        self.asked_at = asked_at
        self.until = until
        self.inbox = inbox
        """A wait's own: by leaving it the wait is taken back."""


class Puller:
    """Of one capability.  `open` it, call `refill` whenever a slot is freed, `close` it."""

    def __init__(
        self,
        conn: Connection,
        tenant: str,
        capability: str,
        *,
        free: Callable[[], int],
        deliver: Callable[[Delivery], None],
        missing: Callable[[], None],
        urgent: Callable[[], bool] = lambda: False,
        paced: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is asked before `open`.

        `free`: slots to fill now.  `missing`: told when the queues do not exist.  `urgent`: whether something
        critical would be taken though no slot is free.  `paced`: told when `rest_s` is shorter than it was.
        """
        self._conn = conn
        self._free = free
        self._deliver = deliver
        self._missing = missing
        self._urgent = urgent
        self._turns = Turns(limits.PRIORITY_SHARES)
        names: dict[str, str] = {queue: subjects.queue(tenant, capability, queue) for queue in work.PRIORITIES}
        self._requests: dict[str, str] = {
            queue: f"$JS.API.CONSUMER.MSG.NEXT.{subjects.EVENTS}.{name}" for queue, name in names.items()
        }
        self._queue_of = {name.encode(): queue for queue, name in names.items()}
        self._loop = asyncio.get_running_loop()
        self._rng = random.Random()
        self._numbers = itertools.count()
        self._inbox = conn.new_inbox()
        self._subscription: Subscription | None = None
        """To the answers of what is asked."""
        self._listening: asyncio.Task[None] | None = None
        self._asked: dict[int, _Pull] = {}
        self._waits: dict[int, _Pull] = {}
        self._wait_prefix = conn.new_inbox() + "w"
        self._shut_until: dict[str, float] = dict.fromkeys(work.PRIORITIES, 0.0)
        """Refuses pulls, or does not exist."""
        self._empty_until: dict[str, float] = dict.fromkeys(work.PRIORITIES, 0.0)
        self._calm_until: dict[str, float] = dict.fromkeys(work.PRIORITIES, 0.0)
        """Had nothing."""
        self._answer_s = 0.0
        """What the last answer took."""
        self._found_empty: set[str] = set()
        """Had nothing, and nothing has come since: each is asked once and then waited for, however late answers are."""
        self._scheduled = False
        self._took_back = False
        """Waits, since it was last made sure that nothing of them comes."""
        self._timer: asyncio.TimerHandle | None = None
        self._opened = False
        self._paused = False
        self._closed = False
        self._hasty = False
        self._standby = Standby(
            conn, tenant, capability,
            idle=lambda: len({wait.queue for wait in self._waits.values()}) == len(work.PRIORITIES),
            able=lambda: free() > self.asked, wake=self._woken, rise=self._take_back_waits,
            paced=paced,
        )  # fmt: skip
        self._unregister = [conn.on_disconnected(self._forget), conn.on_reconnected(self.refill)]

    async def look_first(self) -> bool:
        """Before `open`: whether so many wait already, at queues that there are, that this one need not."""
        return await self._standby.look_first()

    def open(self, *, stands: bool = False) -> None:
        """Begin to pull; `stands`: what `look_first` said."""
        self._opened = True
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)
        self._standby.begin(stands=stands)
        self.refill()

    @property
    def seat(self) -> State:
        """Whether it waits while it is idle, or stands by (`coord.core.seats`)."""
        return self._standby.state

    @property
    def rest_s(self) -> float:
        """How rarely its agent may beat as far as this is concerned; 0: as usual, also before `open`."""
        return self._standby.rest_s if self._opened else 0.0

    @property
    def asked(self) -> int:
        """Deliveries that may come at any moment."""
        return sum(pull.left for pull in self._asked.values())

    def hasten(self, *, hasty: bool) -> None:
        """Whether waits are to be short: those of a worker that hangs would swallow what its end sets free."""
        if hasty == self._hasty:
            return
        self._hasty = hasty
        if hasty and self._waits:
            self._take_back_waits()

    def refill(self) -> None:
        """A slot was freed, or the broker is back: ask for more, soon, for all that happens meanwhile at once."""
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._refill)

    def _refill(self) -> None:
        self._scheduled = False
        if self._closed or self._paused or not self._opened or not self._conn.is_connected:
            return
        self._standby.follow()
        free = self._free() - self.asked
        if free <= 0:
            self._full()
            return
        if self._standby.standing:
            if self._waits:  # something critical would have been taken though no slot was free
                self._take_back_waits()
            return
        if self._subscription is None:
            if self._listening is None or self._listening.done():
                self._listening = self._loop.create_task(self._listen(), name="pull")
            return
        now = self._loop.time()
        waited = {wait.queue for wait in self._waits.values()}
        open_ = [q for q in work.PRIORITIES if q not in waited and self._shut_until[q] <= now]
        ready = [q for q in open_ if self._empty_until[q] <= now and q not in self._found_empty]
        if any(self._calm_until[q] <= now for q in ready):
            for queue, count in self._turns.plan(free, ready).items():
                self._ask(queue, count, now)
        elif len(waited) < len(work.PRIORITIES):
            self._wait_for(open_)
        if sum(wait.left for wait in self._waits.values()) > max(free, len(self._waits)):
            self._take_back_waits()

    def _full(self) -> None:
        """No slot: nothing may wait but what would be taken all the same."""
        if self._free() <= 0:  # and not because it is being asked
            self._found_empty.clear()
        urgent = self._urgent()
        others = [wait.queue for wait in self._waits.values() if wait.queue != "critical" or not urgent]
        if others:
            self._take_back_waits()
        if urgent and not any(wait.queue == "critical" for wait in self._waits.values()):
            self._wait_for(["critical"])

    def _woken(self) -> None:
        """It stood by, and is to wait from now on; there may be work."""
        self._empty_until = dict.fromkeys(work.PRIORITIES, 0.0)
        self._calm_until = dict.fromkeys(work.PRIORITIES, 0.0)
        self._found_empty.clear()
        self.refill()

    # --- asking --------------------------------------------------------------------------

    async def _listen(self) -> None:
        """The first time: who stands by from the start may never pull."""
        with contextlib.suppress(errors.BusClosed):
            self._subscription = await self._conn.subscribe_bytes(self._inbox + ".*", self._on_answer)
            self.refill()

    def _ask(self, queue: str, count: int, now: float) -> None:
        number = next(self._numbers)
        self._request(queue, b'{"batch":%d,"no_wait":true}' % count, f"{self._inbox}.{number}")
        self._asked[number] = _Pull(queue, count, now, now + _SILENCE_S)

    def _wait_for(self, queues: Sequence[str]) -> None:
        free = self._free() - self.asked
        if not queues or (free <= 0 and not (self._urgent() and list(queues) == ["critical"])):
            return
        # Each gets a part of the slots; when work comes for one of them the others are made smaller.
        count = max(1, free // (len(work.PRIORITIES) + 1))
        most_s = limits.TASK_PULL_HASTY_S if self._hasty else limits.TASK_PULL_EXPIRES_S
        expires_s = most_s * self._rng.uniform(0.8, 1.0)
        body = b'{"batch":%d,"expires":%d}' % (count, int(expires_s * 1e9))
        now = self._loop.time()
        for queue in queues:
            number = next(self._numbers)
            inbox = f"{self._wait_prefix}{number}"
            try:
                passing = self._conn.listen(inbox, self._on_waited)
            except errors.BusError as exc:  # as below
                _log.debug("worker.pull_failed", error=exc)
                return
            self._request(queue, body, inbox)
            self._waits[number] = _Pull(queue, count, now, now + expires_s + _SILENCE_S, passing)

    def _request(self, queue: str, body: bytes, reply: str) -> None:
        try:
            self._conn.publish(self._requests[queue], body, reply=reply)
        except errors.BusError as exc:  # the reconnect begins anew
            _log.debug("worker.pull_failed", error=exc)

    def _take_back_waits(self) -> None:
        if not self._waits:
            return
        calm_until = self._loop.time() + self._calm_s
        for wait in self._waits.values():
            self._calm_until[wait.queue] = calm_until  # it would have been given what there was
            _leave(wait)
        self._waits.clear()
        self._took_back = True
        self.refill()

    # --- answers (called from the read loop) ---------------------------------------------

    def _on_answer(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        self._arrived(self._asked, len(self._inbox) + 1, subject, reply, headers, data)

    def _on_waited(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        self._arrived(self._waits, len(self._wait_prefix), subject, reply, headers, data)

    def _arrived(
        self, pulls: dict[int, _Pull], prefix: int, subject: bytes, reply: bytes, headers: bytes, data: bytes
    ) -> None:
        if not reply.startswith(_ACK):
            self._status(pulls, int(subject[prefix:]), headers[9:12])
            return
        # $JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<ns>.<pending>, or with domain and account in front
        tokens = reply.split(b".")
        base = 3 if len(tokens) == 9 else 5
        queue = self._queue_of.get(tokens[base])
        if queue is None:
            return
        for number, pull in pulls.items():
            if pull.queue == queue:
                pull.left -= 1
                if not pull.left:
                    del pulls[number]
                    _leave(pull)
                break
        self._found_empty.clear()
        if tokens[base + 5] == b"0":
            now = self._loop.time()
            self._empty_until[queue], self._calm_until[queue] = now + _EMPTY_S, now + self._calm_s
        else:
            self._empty_until[queue] = self._calm_until[queue] = 0.0
        count, seq, stored_ns = int(tokens[base + 1]), int(tokens[base + 2]), int(tokens[base + 4])
        text = subject.decode("utf-8", "backslashreplace")
        self._deliver(Delivery(queue, text, headers or None, data, seq, count, stored_ns))
        if not self._scheduled:
            self.refill()

    def _status(self, pulls: dict[int, _Pull], number: int, status: bytes) -> None:
        pull = pulls.pop(number, None)
        if pull is None:
            return
        _leave(pull)
        now = self._loop.time()
        if status in (b"404", b"408"):
            self._found_empty.add(pull.queue)
            if pulls is self._asked:
                self._turns.rested(pull.queue, pull.left)
                self._answer_s = now - pull.asked_at
                empty_s = min(max(_EMPTY_S, _EMPTY_ANSWERS * self._answer_s), _EMPTY_MOST_S)
                self._empty_until[pull.queue] = now + empty_s
            self._calm_until[pull.queue] = now + self._calm_s
        else:  # 503: there is no such queue; 409: it refuses, or has a new leader
            self._shut_until[pull.queue] = now + _SHUT_S
            self._loop.call_later(_SHUT_S * self._rng.uniform(1.0, 1.5), self.refill)
            if status == b"503":
                self._missing()
        self.refill()

    # --- time and the connection ---------------------------------------------------------

    def _sweep(self) -> None:
        """Forget what is not answered though it should have been, and look again at what was shut."""
        now = self._loop.time()
        for pulls in (self._asked, self._waits):
            for number in [number for number, pull in pulls.items() if pull.until < now]:
                _leave(pulls.pop(number))
        self.refill()
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)

    def _forget(self) -> None:
        self._asked.clear()
        for wait in self._waits.values():
            _leave(wait)
        self._waits.clear()
        self._shut_until = dict.fromkeys(work.PRIORITIES, 0.0)
        self._empty_until = dict.fromkeys(work.PRIORITIES, 0.0)
        self._calm_until = dict.fromkeys(work.PRIORITIES, 0.0)
        self._found_empty.clear()

    @property
    def _calm_s(self) -> float:
        return max(_CALM_S, min(_CALM_ANSWERS * self._answer_s, _EMPTY_MOST_S))

    async def pause(self, within_s: float = _SILENCE_S) -> None:
        """Ask for nothing more, and return when nothing more comes, or after `within_s`.  `resume` ends it."""
        self._paused = True
        self._found_empty.clear()
        self._standby.leave()
        self._take_back_waits()
        within_s = min(within_s, _SILENCE_S)
        if (self._asked or self._took_back) and self._conn.is_connected and within_s > 0:
            with contextlib.suppress(errors.NotConnected):
                # The broker answers these pulls, and lets waits be, in the order of what it is sent on this connection.
                await self._conn.flush(within_s)
                self._took_back = False

    def resume(self) -> None:
        """Pull again."""
        self._paused = False
        self._standby.begin()
        self.refill()

    async def close(self) -> None:
        """Stop for good; what comes after is the broker's to deliver again.  Twice is legal."""
        if not (self._closed or self._paused):  # whoever paused it has waited for what was to come
            await self.pause()
        self._closed = True
        await self._standby.close()
        for unregister in self._unregister:
            unregister()
        if self._timer is not None:
            self._timer.cancel()
        if self._listening is not None:
            await asyncio.gather(self._listening, return_exceptions=True)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.unsubscribe()


def _leave(pull: _Pull) -> None:
    if pull.inbox is not None:
        pull.inbox.retire()
