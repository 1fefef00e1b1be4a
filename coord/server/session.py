"""One session with a partition: from being pinned to it to losing it, with deciders of its own.

The order of things is told in `coord.server.deciding`, which begins sessions and says when one is
to end; here is what one does: load, fold, perform, look at the time, snapshot.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final, TypeGuard

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.bus.pull import Delivery, PinnedReader
from coord.core.deciding import NONE, Decider, Effect, Folding, Owed, Presence, Push, Settle, State
from coord.runtime import clock
from coord.server import edges, history
from coord.server.effects import Performer
from coord.server.snapshots import Snapshots
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import headers, subjects, usual
from coord.wire.decode import decode_unusual, stored_fact
from coord.wire.envelope import StoredFact
from coord.wire.readings import Readings
from coord.wire.times import from_unix_us_all, parse_time, to_unix_us

_log = logs.get("deciders")

_LEAVE_S: Final = 1.0
"""How long a last snapshot may take."""

_TAKE: Final = 128
"""Facts folded before other coroutines get a turn: about 2 ms."""

_TELL_S: Final = 60.0
"""While catching up: acks, naks and pushes of facts that are not older are made good,"""
_TELL_MAX: Final = 50_000
"""and no more of them than this."""

_COMPLAIN_S: Final = 1.0
"""Between two lines of one partition about defects."""

_EXPECTED: Final = headers.EXPECTED_LAST_SUBJECT_SEQ.encode()


class Session:
    """From being pinned to losing it: fresh deciders and what belongs to them."""

    def __init__(
        self,
        partition: int,
        conn: Connection,
        performer: Performer,
        metrics: Metrics,
        now: Callable[[], float],
        readings: Readings | None = None,
    ) -> None:
        self.deciders: list[Decider] = []
        """Their states are as of `position`."""
        self.position = 0
        """Everything up to this stream sequence is folded."""
        self._partition = partition
        self._now = now
        self._readings = readings
        self._conn = conn
        self._performer = performer
        self._metrics = metrics
        self._reader: PinnedReader | None = None
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._failed.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._snapshots = Snapshots(conn, self._partition)
        self._by_kind: dict[str, list[Decider]] = {}
        self._mourners: list[Decider] = []
        """Those to whom it matters that somebody is gone: of a process of thousands each would be asked in vain."""
        self._forgetful: dict[str, list[Decider]] = {}
        """Those that may have to recall something."""
        self._owed: Owed | None = Owed()
        """None once caught up."""
        self._late: deque[tuple[Decider, Settle | Push]] = deque(maxlen=_TELL_MAX)
        """What was not done while catching up."""
        self._ready: asyncio.Future[None] = self._loop.create_future()
        """Done once caught up."""
        self._tell_from = now() - _TELL_S
        self._target = 0
        self._created = ""
        self._scheduled = False
        self._paused = False
        self._left = False
        self._recalled_seq = 0
        self._unanswered: dict[int, int] = {}
        """Sequence → statements that it led to and that the log does not have for sure."""
        self._answered = asyncio.Event()
        """Set when there may be fewer."""
        self._received = 0
        """Deliveries folded since the last snapshot."""
        self._saved_seq = 0
        self._saved_at = 0.0
        self._save_not_before = 0.0
        self._saving: asyncio.Task[None] | None = None
        self._end_seen: tuple[int, int | None] = 0, None
        """The end of the log when a quiet partition last looked, as in `_witness`; no time if all had left the log."""
        self._witness: tuple[int, int] | None = None
        """Of the newest fact that is folded, or an end of the log that was seen: see `Head.witness`."""
        self._complain_at = 0.0
        self._looked_at = self._loop.time()
        self._looking: asyncio.Task[None] | None = None
        self._recalling: asyncio.Task[None] | None = None

    @property
    def snapshot_bytes(self) -> int:
        """Of the newest snapshot that was read or written, compressed."""
        return self._snapshots.bytes

    # --- the beginning ---------------------------------------------------------------------

    async def restore(self, make: Callable[[], list[Decider]], reader: PinnedReader) -> None:
        """Load the snapshot and begin to read behind it."""
        info = await self._conn.api(f"STREAM.INFO.{subjects.EVENTS}")
        self._created, state = info["created"], info["state"]
        self._target = state["last_seq"]
        self.position = self._saved_seq = await self._load(make, max(0, state["first_seq"] - 1), state["last_seq"])
        self._saved_at = self._loop.time()
        for decider in self.deciders:
            if not isinstance(decider, Folding) or _mourns(type(decider)):
                self._mourners.append(decider)
            for kind in decider.kinds:
                self._by_kind.setdefault(kind, []).append(decider)
                if not isinstance(decider, Folding) or "forgot" in vars(type(decider)):
                    self._forgetful.setdefault(kind, []).append(decider)
        self._reader = reader
        await reader.start(self.position + 1)
        consumer = await self._conn.api(f"CONSUMER.INFO.{subjects.EVENTS}.decider-{self._partition}")
        # Its stream sequence says nothing: it moves past what the filters leave out.
        if not consumer["num_pending"] and not consumer["delivered"]["consumer_seq"]:
            self._target = 0  # nothing follows
        _log.info("deciders.restored", partition=self._partition, position=self.position)

    async def _load(self, make: Callable[[], list[Decider]], begins: int, ends: int) -> int:
        """Make the deciders as the snapshot has them; up to which sequence that is.

        `begins`: the sequence before the log's first, where whoever has no snapshot begins; `ends`: its last.
        """
        self.deciders = make()
        snapshot = await self._snapshots.load(self._created, ends)
        await self._snapshots.tidy()
        if snapshot is None:
            return begins
        if missing := [d.name for d in self.deciders if d.name not in snapshot.states]:
            # A release with more deciders: what they would have folded is behind the snapshot.
            _log.info("deciders.snapshot_lacks", partition=self._partition, deciders=missing)
            return begins
        try:
            for decider in self.deciders:
                decider.load(snapshot.states[decider.name])
        except Exception as exc:  # noqa: BLE001 - a state that cannot be read must not stop the partition for ever
            _log.error("deciders.snapshot_broken", partition=self._partition, exc_info=exc)
            self.deciders = make()
            return begins
        if snapshot.head.seq < begins:
            # Nobody decided for as long as the window is: open work is stated again, ends may have been missed.
            _log.error("deciders.gap", partition=self._partition, sequences_max=begins - snapshot.head.seq)
        self._witness = snapshot.head.witness
        return max(begins, snapshot.head.seq)

    async def caught_up(self, leave: asyncio.Event) -> None:
        """Return when everything that was in the log has been folded, or told to leave."""
        if not self._target:
            self._catch_up()
        self.wake()
        leaving = asyncio.ensure_future(leave.wait())
        ends: set[asyncio.Future[Any]] = {self._ready, self._failed, leaving}
        try:
            while not self._ready.done() and not leave.is_set():
                await asyncio.wait(ends, timeout=limits.DECIDER_TICK_S, return_when=asyncio.FIRST_COMPLETED)
                self._check()
        finally:
            leaving.cancel()

    def end(self) -> None:
        """Nothing is done any more for this session."""
        if not self._failed.done():
            self._failed.cancel()
        for task in (self._saving, self._recalling, self._looking):
            if task is not None:
                task.cancel()

    async def decide(self, leave: asyncio.Event) -> None:
        """Fold and perform until told to leave; somebody calls `look` now and then."""
        leaving = asyncio.ensure_future(leave.wait())
        try:
            ends: set[asyncio.Future[Any]] = {self._failed, leaving}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            await self._leave_behind()
        finally:
            leaving.cancel()

    def look(self, presence: Presence) -> None:
        """Time has passed: what is due by it, and whether the server is still there."""
        if self._failed.done() or self._left:
            return
        try:
            self._tick(self._now(), presence)
            self._save_if_due()
            self._look_at_edge()
            self._check()
        except errors.CoordError as exc:
            self._fail(exc)
        except Exception as exc:  # noqa: BLE001 - the other partitions are looked at, too
            _log.error("deciders.defect", partition=self._partition, exc_info=exc)
            self._fail(errors.CoordError(f"a defect: {type(exc).__name__}: {exc}"))

    def _check(self) -> None:
        if self._failed.done():
            self._failed.result()
        assert self._reader is not None
        if self._paused or self._scheduled:
            return
        self._reader.check_silence()

    # --- facts -----------------------------------------------------------------------------

    def wake(self) -> None:
        """Something has arrived: fold it in the next turn of the loop."""
        if not self._scheduled and not self._paused and self._reader is not None:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._failed.done() or self._paused or self._reader is None:
            return
        if self._performer.is_full:
            self._pause()
            self._performer.when_room(self._resume)
            return
        try:
            deliveries = self._reader.take(_TAKE)
            folded = self._fold_all(deliveries)
        except errors.CoordError as exc:
            self._fail(exc)
            return
        except Exception as exc:  # noqa: BLE001 - what was taken and not folded must come again
            _log.error("deciders.defect", partition=self._partition, exc_info=exc)
            self._fail(errors.CoordError(f"a defect: {type(exc).__name__}: {exc}"))
            return
        if folded < len(deliveries):
            self._reader.put_back(deliveries[folded:])
            return  # paused: a history is being read
        if folded and not self._reader.is_empty:
            self.wake()

    def _fold_all(self, deliveries: list[Delivery]) -> int:
        """How many were folded."""
        folded = 0
        times = from_unix_us_all([delivery.stored_ns // 1000 for delivery in deliveries])
        for delivery, stored_at in zip(deliveries, times, strict=True):
            if not self._fold(delivery, stored_at):
                break
            folded += 1
        self._received += folded
        if folded:
            newest = deliveries[folded - 1]
            self._witness = newest.seq, newest.stored_ns // 1000
            self._metrics.decider_facts.inc(folded)
            if self._owed is None:
                stored_s = newest.stored_ns / 1e9
                self._metrics.decider_lag_seconds.observe(max(0.0, clock.unix() - stored_s))
        return folded

    def _fold(self, delivery: Delivery, stored_at: datetime) -> bool:
        """False: its entity's history has to be read first."""
        readings, seq = self._readings, delivery.seq
        usual_fact = (
            usual.read(delivery.subject, delivery.raw_headers, delivery.data)
            if readings is None
            else readings.of(delivery)
        )
        if usual_fact is not None:
            if not self._apply(stored_fact(usual_fact, delivery.data, seq, stored_at), delivery):
                return False
        else:
            for found in decode_unusual(delivery.subject, delivery.raw_headers, delivery.data, seq, stored_at):
                # What cannot be believed is parked by the projector.
                if type(found) is StoredFact and not self._apply(found, delivery):
                    return False
        self.position = delivery.seq
        if self._owed is not None and (delivery.seq >= self._target or not delivery.pending):
            self._catch_up()
        return True

    def _apply(self, fact: StoredFact, delivery: Delivery) -> bool:
        deciders = self._by_kind.get(fact.kind)
        if deciders is None:
            return True
        owed = self._owed
        if owed is not None:
            owed.meet(fact)
        if fact.seq != self._recalled_seq:
            for decider in self._forgetful.get(fact.kind, ()):
                if decider.forgot(fact) and not _is_first(fact, delivery.raw_headers):
                    self._recall(fact, deciders)
                    return False
        for decider in deciders:
            try:
                effects = decider.apply(fact)
                if effects is NONE:
                    continue
                effects = _held(effects)
            except Exception as exc:  # noqa: BLE001 - a defect of one fold must not stop the partition
                self._defect(decider, exc, seq=fact.seq)
                continue
            if effects:
                self._perform(decider, effects, fact)
        return True

    def _recall(self, fact: StoredFact, deciders: list[Decider]) -> None:
        self._pause()
        self._recalling = self._loop.create_task(self._read_history(fact, deciders))

    async def _read_history(self, fact: StoredFact, deciders: list[Decider]) -> None:
        try:
            facts = await history.entity(self._conn, fact.tenant, fact.key, fact.kind, fact.id, below=fact.seq)
        except errors.CoordError as exc:
            self._fail(exc)
            return
        except Exception as exc:  # noqa: BLE001 - the partition stands still until this has ended
            _log.error("deciders.defect", partition=self._partition, exc_info=exc)
            self._fail(errors.CoordError(f"a defect: {type(exc).__name__}: {exc}"))
            return
        for decider in deciders if facts else ():
            try:
                decider.recall(facts)
            except Exception as exc:  # noqa: BLE001 - as for folding
                self._defect(decider, exc, seq=fact.seq)
        self._recalled_seq = fact.seq
        self._resume()

    def _pause(self) -> None:
        self._paused = True

    def _resume(self) -> None:
        self._paused = False
        self.wake()

    # --- effects ---------------------------------------------------------------------------

    def _perform(self, decider: Decider, effects: Iterable[Effect], fact: StoredFact | None) -> None:
        decides, performer = self._owed is None, self._performer
        for effect in effects:
            try:
                if decides and type(effect) is not State:
                    performer.perform(effect)
                else:
                    self._perform_one(decider, effect, fact)
            except errors.CoordError:
                raise
            except Exception as exc:  # noqa: BLE001 - as for folding: a push that cannot be encoded, say
                self._defect(decider, exc, effect=type(effect).__name__)

    def _perform_one(self, decider: Decider, effect: Effect, fact: StoredFact | None) -> None:
        owed = self._owed
        if type(effect) is State:
            if fact is not None and effect.causation_id is None:
                effect = msgspec.structs.replace(effect, causation_id=fact.event_id)
            if owed is not None:
                owed.demand(effect)
            else:
                self._state(effect, self.position + 1)  # of the fact that is being folded, or none
        elif owed is None:
            self._performer.perform(effect)
        elif fact is not None and _is_told(effect) and fact.stored_at.timestamp() >= self._tell_from:
            self._late.append((decider, effect))

    def _state(self, state: State, seq: int) -> None:
        """`seq`: no snapshot as of it, or later, is stored before this is in the log."""
        unanswered = self._unanswered
        unanswered[seq] = unanswered.get(seq, 0) + 1

        def answered(error: errors.CoordError | None) -> None:
            if error is not None:
                self._fail(error)
                return
            left = unanswered[seq] - 1
            if left:
                unanswered[seq] = left
            else:
                del unanswered[seq]
                self._answered.set()

        self._performer.state(state, answered)

    def gone(self, tenant: str, agent: str, instance: str, now: float, *, left: bool) -> None:
        """An instance is no more; `left`: it has said so itself."""
        if left:
            self._outside(self._mourners, lambda decider: decider.leaves(tenant, agent, instance, now))
        else:
            self._outside(self._mourners, lambda decider: decider.gone(tenant, agent, instance, now))

    def outside(self, ask: Callable[[Decider], Iterable[Effect]]) -> None:
        """Something happened outside of the log."""
        self._outside(self.deciders, ask)

    def _outside(self, deciders: list[Decider], ask: Callable[[Decider], Iterable[Effect]]) -> None:
        try:
            for decider in deciders:
                try:
                    effects = ask(decider)
                    if effects is NONE:
                        continue
                    effects = _held(effects)
                except Exception as exc:  # noqa: BLE001 - as above
                    self._defect(decider, exc)
                    continue
                self._perform(decider, effects, None)
        except errors.CoordError as exc:
            self._fail(exc)

    def _defect(self, decider: Decider, exc: Exception, **where: Any) -> None:
        self._metrics.decider_defects.labels(decider=decider.name).inc()
        now = self._loop.time()
        if now < self._complain_at:
            return  # counted: a defect at every fact must not flood the log
        self._complain_at = now + _COMPLAIN_S
        _log.error("deciders.decider_raised", decider=decider.name, partition=self._partition, exc_info=exc, **where)

    def _fail(self, exc: errors.CoordError) -> None:
        if not self._failed.done():
            self._failed.set_exception(exc)

    # --- having caught up --------------------------------------------------------------------

    def _catch_up(self) -> None:
        owed, self._owed = self._owed, None
        assert owed is not None
        for state in owed.take():
            self._state(state, self.position)
        now = self._now()
        late, self._late = self._late, deque()
        for decider, effect in late:
            self._perform(decider, (effect,), None)
        self.outside(lambda decider: decider.reconcile(now))
        if not self._ready.done():
            self._ready.set_result(None)
        if self._reader is not None:
            self._reader.may_be_lent()

    def _tick(self, now: float, presence: Presence) -> None:
        self.outside(lambda decider: decider.tick(now, presence))
        for decider in self.deciders:
            refused = decider.refused
            for code in list(refused):
                self._metrics.decider_refused.labels(reason=code).inc(refused.pop(code))

    # --- the window --------------------------------------------------------------------------

    def _look_at_edge(self) -> None:
        """Now and then: state again what open work needs of a part of the log that is about to leave it."""
        now = self._loop.time()
        if now - self._looked_at < limits.EDGE_LOOK_S or self._looking is not None:
            return
        self._looked_at = now
        oldest = self._oldest()
        if oldest is not None:
            self._looking = self._loop.create_task(self._restate(oldest))

    async def _restate(self, oldest: int) -> None:
        try:
            edge = await edges.near(self._conn, oldest)
            if edge:
                _log.info("deciders.near_edge", partition=self._partition, oldest=oldest, edge=edge)
                self.outside(lambda decider: itertools.islice(decider.edge(edge), limits.RESTATE_MAX))
        except errors.CoordError as exc:
            _log.warning("deciders.edge_unknown", partition=self._partition, error=exc)
        finally:
            self._looking = None

    def _oldest(self) -> int | None:
        """The oldest sequence that open work needs."""
        return min((o for o in (decider.oldest() for decider in self.deciders) if o is not None), default=None)

    # --- snapshots ---------------------------------------------------------------------------

    def _save_if_due(self) -> None:
        now = self._loop.time()
        folded = self._received
        due = now - self._saved_at >= limits.DECIDER_SNAPSHOT_S or folded >= limits.DECIDER_SNAPSHOT_FACTS
        if self._saving is not None or not due or now < self._save_not_before:
            return
        self._saved_at = now
        still = self.position == self._saved_seq
        self._saving = self._loop.create_task(self._follow_end() if still else self._save_all())
        self._saving.add_done_callback(self._saved)

    async def _save_all(self) -> None:
        """The states as of when this begins.  A defect in one of them costs the snapshot, not the session."""
        await self._save(*self._packed())

    def _packed(self) -> tuple[bytes, int, int | None, tuple[int, int] | None]:
        """The states as of now: packed, of which sequence, the oldest that they need, and the witness of the log."""
        began = time.perf_counter()
        self._received = 0
        states = msgspec.msgpack.encode({decider.name: decider.dump() for decider in self.deciders})
        oldest = self._oldest()
        # Packing holds everything else up: it may take a hundredth of the time.
        self._save_not_before = self._loop.time() + 100 * (time.perf_counter() - began)
        return states, self.position, oldest, self._witness

    async def _save(self, states: bytes, seq: int, oldest: int | None, witness: tuple[int, int] | None) -> None:
        while any(at <= seq for at in self._unanswered):
            self._answered.clear()
            await self._answered.wait()
        await self._snapshots.save(states, seq=seq, created=self._created, oldest=oldest, witness=witness)
        self._saved_seq = max(self._saved_seq, seq)
        if self._reader is not None:
            self._reader.kept(seq)
        self._metrics.decider_snapshots.labels(outcome="written").inc()

    def _saved(self, saving: asyncio.Task[None]) -> None:
        self._saving = None
        if saving.cancelled():
            return
        exc = saving.exception()
        if exc is None:
            return
        if isinstance(exc, errors.PinLost):
            self._fail(exc)
            return
        # Without a newer snapshot the next owner folds more: nothing else.
        self._metrics.decider_snapshots.labels(outcome="failed").inc()
        _log.warning("deciders.snapshot_failed", partition=self._partition, error=exc)

    async def _follow_end(self) -> None:
        """Move a quiet partition's position to the end of the log: the trimmer waits for nobody who has read all.

        The end is one that was seen the last time: what was in the log then has been delivered by now,
        if the consumer says that nothing is pending.
        """
        info = await self._conn.api(f"STREAM.INFO.{subjects.EVENTS}")
        (before, stored_us), self._end_seen = self._end_seen, _end(info["state"])
        if before <= self.position or info["created"] != self._created:
            return
        assert self._reader is not None
        if not await self._reader.has_all():
            return  # something is on its way
        self._reader.passed(before)
        if before > self.position:
            self.position = before
            self._witness = self._witness if stored_us is None else (before, stored_us)
        await self._save(*self._packed())

    async def _leave_behind(self) -> None:
        """Told to leave: a last snapshot, if it can be had soon, spares the next owner the folding."""
        self._paused = self._left = True
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._save_all()
        except (errors.CoordError, TimeoutError) as exc:
            _log.info("deciders.left_without_snapshot", partition=self._partition, error=repr(exc))
        except Exception as exc:  # noqa: BLE001 - a decider's defect: leaving must go on
            _log.error("deciders.defect", partition=self._partition, exc_info=exc)


def _end(state: dict[str, Any]) -> tuple[int, int | None]:
    """The log's last sequence and when that was stored, in Unix microseconds; None: everything in it has left."""
    return int(state["last_seq"]), to_unix_us(parse_time(state["last_ts"])) if state["messages"] else None


def _held(effects: Iterable[Effect]) -> Iterable[Effect]:
    """All of them: a generator's defect is its decider's, wherever it comes to light."""
    return effects if type(effects) in (tuple, list) else list(effects)


def _mourns(decider: type[Folding]) -> bool:
    return decider.gone is not Folding.gone or decider.leaves is not Folding.leaves


def _is_told(effect: Effect) -> TypeGuard[Settle | Push]:
    """Whether it is made good after catching up."""
    return type(effect) is Push or (type(effect) is Settle and effect.how != "extend")


def _is_first(fact: StoredFact, raw_headers: bytes | None) -> bool:
    """Whether the broker vouches that this is the first fact of its entity: it was stated on that condition."""
    if raw_headers is None or raw_headers.count(_EXPECTED) != 2:
        return False
    condition = (
        f"{headers.EXPECTED_LAST_SUBJECT_SEQ}: 0\r\n{headers.EXPECTED_LAST_SUBJECT}: "
        f"{subjects.LOG_PREFIX}{fact.partition}.{fact.tenant}.{fact.key}.{fact.kind}.{fact.id}.>\r\n"
    )
    return condition.encode() in raw_headers
