"""One partition of one stream, from its consumer to its tables.

The order that everything rests on, all of it in this file::

    pinned → read checkpoint → judge it → reset the consumer to checkpoint + 1
        ┌─▶ receive, decode into the pending batch                       (`Intake`, by calls)
        └── offer it to the writer: rows + checkpoint, one transaction  →  acknowledge  →  notice

A batch is offered as soon as the one before it is committed, and grows until the writer takes
it, together with what other partitions have offered: alone when idle, large when busy.  The coroutine
of a session is woken for what the clock says, for trouble, and to leave.

Failure: whatever breaks (pin lost, a delivery lost, the broker or the database away, the
checkpoint moved by another replica) ends the *session*.  What was prefetched is forgotten
and a new session begins from the checkpoint as it is in the database then.  Only a stream
that is not the checkpoint's stream any more stops the partition until an operator decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any, Literal

import msgspec

from coord import errors, limits
from coord.bus import damage, topology
from coord.bus.connection import Connection
from coord.bus.direct import leadership
from coord.bus.pull import PinnedReader
from coord.bus.reading import Reader
from coord.bus.unled import UnledReader
from coord.core import trim
from coord.core.checkpoint import Checkpoint, StreamState, judge, witness
from coord.core.retry import backoff_s
from coord.projector.config import ProjectorConfig
from coord.projector.ends import Ends, Looks
from coord.projector.intake import Intake
from coord.projector.notices import Notices
from coord.projector.rows import Batch
from coord.projector.states import broker_time, stream_state
from coord.projector.tally import Tally
from coord.projector.writer import Writer
from coord.runtime.bell import Bell
from coord.store import checkpoints
from coord.store.checkpoints import Move
from coord.store.pool import Pool
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import subjects
from coord.wire.readings import Readings

_log = logs.get("projector")

State = Literal["unassigned", "standby", "pinned", "unled", "retrying", "stopped"]
"""`unled`: projecting, while the consumer has no leader that could pin anybody."""

_UNPIN_S = 1.0
"""How long the broker may take to answer that a pin was given back."""

_UNPIN_UNLED_S = 0.1
"""The same after it had not answered something else."""

_CONSUMER_S = limits.API_AGAIN_S * 1.5
"""How long a consumer may take to answer, asked once more meanwhile: then its partition is read without it."""

_ROUSE_S = 0.5
"""How often a standby looks whether it is kept waiting for nothing, until a dead owner's pin has lapsed;
later it looks as often as it follows the end of the log."""


class PartitionProjector:
    """Projects one partition while it is assigned to this replica."""

    def __init__(
        self,
        stream: str,
        partition: int,
        conn: Connection,
        pool: Pool,
        writer: Writer,
        config: ProjectorConfig,
        metrics: Metrics,
        consumer: topology.Spec | None = None,
        readings: Readings | None = None,
        ends: Ends | None = None,
        tally: Tally | None = None,
    ) -> None:
        """`consumer`: made anew where the broker has none; None: then the partition waits for one.

        `readings`: of the stream, shared with another service of this process; `ends`, `tally`: with its other
        partitions.
        """
        self.stream = stream
        self.partition = partition
        self.state: State = "unassigned"
        self.error: errors.CoordError | None = None
        """Why it is stopped or retrying."""
        self.checkpoint: Checkpoint | None = None
        self.pending = 0
        """Messages of this partition still in the stream after the last committed one."""
        self._conn = conn
        self._pool = pool
        self._writer = writer
        self._config = config
        self._metrics = metrics
        self._spec = consumer
        self._readings = readings
        self._notices = Notices(conn)
        self._ends = ends or Ends(conn, stream)
        self._tally = tally or Tally(metrics, stream)
        self._reader = PinnedReader(
            conn,
            stream,
            f"projector-{partition}",
            messages_max=config.pull_messages_max,
            bytes_max=config.pull_bytes_max,
        )
        self._unled = UnledReader(
            conn,
            stream,
            f"projector-{partition}",
            subjects.partition_filter(stream, partition),
            messages_max=config.pull_messages_max,
            bytes_max=config.pull_bytes_max,
        )
        self._source: Reader = self._reader
        """Whichever of the two this session reads with."""
        self._wanted = asyncio.Event()
        self._leave = asyncio.Event()
        self._closing = False
        self.closed = asyncio.Event()
        """Set when `run` has ended: nothing is under way and the pin is given back."""
        self._failures = 0
        self._duplicates_seen = 0
        self._rng = random.Random()
        self._looks = Looks(config.idle_checkpoint_s)
        self._overdue = 0
        """A sequence that waited for us when we last looked, and had not been delivered."""
        self._end: tuple[str, StreamState] | None = None
        """Who led a stream with copies, and its end, when we last found nothing of ours up to there."""
        self._watched = damage.Watched()
        self._window_from = 0
        """The window had not passed this checkpoint when we last looked;"""
        self._window_messages = 0
        """and so many messages were committed since."""
        self._window_due = self._window_planned = False
        """Whether to look now; whether that will be said (`Ends.later`)."""
        self._looked_at = 0.0
        """When anything had come last, when we last looked (the loop's clock)."""
        self._intake: Intake | None = None
        """What receives and offers, while a session reads."""
        self._bell = Bell()
        """Rung when the session has something to look at."""
        label = f"{stream}.projector"
        self._m_redelivered = metrics.messages_redelivered.labels(consumer=label)
        self._m_duplicates = metrics.duplicates_dropped.labels(stage="projector")

    @property
    def reader(self) -> PinnedReader:
        """What reads its consumer: for whoever reads for all partitions (`coord.bus.shared`)."""
        return self._reader

    @property
    def is_projecting(self) -> bool:
        """Whether what arrives is written."""
        return self.state in ("pinned", "unled")

    # --- control -------------------------------------------------------------------------

    def assign(self, *, mine: bool) -> None:
        """Say whether this replica should own the partition.  May be called at any time."""
        if mine and not self._closing:
            self._leave.clear()
            self._wanted.set()
        else:
            self._wanted.clear()
            self._leave.set()
            self._bell.ring()

    def close(self) -> None:
        """Finish the commit under way, give the partition back, and end `run`."""
        self._closing = True
        self.assign(mine=False)
        self._wanted.set()

    async def run(self) -> None:
        """Project until `close`; never raises because of the broker, the database or a fact."""
        try:
            while not self._closing:
                if not self._wanted.is_set():
                    self._set("unassigned")
                await self._wanted.wait()
                try:
                    if not self._leave.is_set():
                        await self._session()
                        self.error = None
                except errors.ProjectionStopped as exc:
                    await self._stopped(exc)
                except errors.CoordError as exc:
                    await self._retry(exc)
                except Exception as exc:  # noqa: BLE001 - a defect of one session must not cost the partition
                    _log.error("projector.defect", stream=self.stream, partition=self.partition, exc_info=exc)
                    await self._retry(errors.CoordError(f"a defect: {type(exc).__name__}: {exc}"))
        finally:
            await self._reader.close()
            await self._unled.close()
            self._set("unassigned")
            self.closed.set()

    # --- one session ---------------------------------------------------------------------

    async def _session(self) -> None:
        """With the consumer; without it while it does not answer, though the stream does."""
        # Judged before being pinned too: a stopped partition must not wait for a message.
        self.checkpoint = await self._read_checkpoint()
        self._notices.begin(self.checkpoint)
        self._end = None
        self._set("standby")
        try:
            await self._with_consumer()
        except (errors.ApiUnavailable, errors.DeadlineExceeded):
            await self._without_consumer()
        except errors.DeliveryGap as exc:
            if "silent_s" not in exc.details:
                raise
            # Whoever served our pulls serves them no more.
            await self._without_consumer()

    async def _with_consumer(self) -> None:
        if not await self._until_pinned_anyhow():
            await self._reader.stop()
            return
        unpin_s = _UNPIN_S
        try:
            await self._read_with(self._reader, "pinned")
        except (errors.ApiUnavailable, errors.DeadlineExceeded):
            unpin_s = _UNPIN_UNLED_S
            raise
        finally:
            # Also after a failure: our own next session would have to wait for the pin to lapse.
            with contextlib.suppress(errors.CoordError):
                await self._reader.unpin(timeout_s=unpin_s)

    async def _without_consumer(self) -> None:
        """Until the consumer answers again, which may be at once."""
        assert self.checkpoint is not None
        await self._reader.stop()
        if self._leave.is_set():
            return
        self._metrics.projection_unled.labels(stream=self.stream).inc()
        _log.info("projector.unled", stream=self.stream, partition=self.partition, position=self.checkpoint.seq)
        await self._read_with(self._unled, "unled")

    async def _until_pinned_anyhow(self) -> bool:
        """`_until_pinned`, after making the consumer where there is none."""
        try:
            return await self._until_pinned()
        except errors.ApiNotFound:
            if self._spec is None:
                raise
            # It lives in the broker's memory: a broker that was started again has forgotten it.
            await topology.ensure_consumer(self._conn, self._spec)
            return await self._until_pinned()

    async def _read_with(self, source: Reader, state: State) -> None:
        """Project what `source` reads, from the checkpoint as it is now."""
        checkpoint = await self._read_checkpoint()
        self._source = source
        source.on_wake = self._wake
        try:
            try:
                async with asyncio.timeout(_CONSUMER_S):
                    await source.start(checkpoint.seq + 1, created=checkpoint.stream_created)
            except TimeoutError:
                raise errors.DeadlineExceeded("the consumer does not begin anew", stream=self.stream) from None
            self._notices.begin(checkpoint)
            self._set(state)
            self._metrics.projection_takeovers.labels(stream=self.stream).inc()
            self._writer.join()
            if source is self._reader:
                self._reader.may_be_lent()
            try:
                await self._project(checkpoint)
            finally:
                self._writer.leave()
        finally:
            self._source = self._reader
            if source is self._unled:
                await source.stop()

    async def _project(self, checkpoint: Checkpoint) -> None:
        """Have what arrives committed until told to leave, or a session without a consumer is over.

        Returns with nothing left uncommitted.
        """
        self.checkpoint = checkpoint
        self._window_due = False
        self._looks.put_off()
        self._overdue = 0
        self._window_from, self._window_messages = checkpoint.seq, 0
        intake = self._intake = Intake(
            self._source, self._writer, checkpoint, self._bell,
            readings=self._readings, received=self._received, committed=self._committed,
        )  # fmt: skip
        intake.wake()  # it may have arrived before
        leaving = False
        try:
            while True:
                self._bell.silence()
                intake.check()
                leaving = leaving or self._leave.is_set() or (self._source is self._unled and self._unled.is_over)
                if leaving:  # also when it is assigned again meanwhile: the next session takes it up
                    intake.leave()
                    if intake.is_idle:
                        return
                    wait_s = self._config.idle_checkpoint_s
                else:
                    await self._look(intake)
                    wait_s = min(self._looks.wait_s(), self._source.patience_s)
                await self._bell.wait(wait_s)
        finally:
            self._intake = None
            await intake.end()

    async def _look(self, intake: Intake) -> None:
        """What is due by the clock, and nothing else looks at."""
        loop = asyncio.get_running_loop()
        self._notices.beat(intake.checkpoint, loop.time())
        self._source.check_silence()
        if intake.received_at > self._looked_at:
            self._looked_at = intake.received_at
            self._looks.put_off(intake.received_at)
        if self._looks.is_due() and intake.is_idle:
            intake.hold()
            await self._follow_end()
            assert self.checkpoint is not None
            intake.hold(self.checkpoint)
        if self._window_due:
            self._window_due = False
            try:
                await self._look_at_window(intake.checkpoint)
            except errors.CoordError:
                self._plan_window()  # only who commits plans it, and that may have been the last for long

    def _plan_window(self) -> None:
        """Look whether the window passes us, in the moment in which all that are busy do."""
        if not self._window_planned:
            self._window_planned = True
            self._ends.later(self._window_is_due)

    def _window_is_due(self) -> None:
        self._window_planned = False
        if self._window_messages:
            self._window_due = True
            self._bell.ring()

    def _wake(self) -> None:
        """Something has arrived, is broken or over."""
        if self._intake is not None:
            self._intake.wake()
            if self._source is self._unled and self._unled.is_over:
                self._bell.ring()

    def _received(self, messages: int) -> None:
        self._tally.received(messages)
        self._overdue = 0
        new = self._reader.duplicates - self._duplicates_seen
        if new:
            self._duplicates_seen += new
            self._m_redelivered.inc(new)
            self._m_duplicates.inc(new)

    def _committed(self, batch: Batch, move: Move, took_s: float) -> None:
        """From here on only messages about it, which may be lost."""
        assert batch.last is not None
        self.checkpoint = move.after
        self._failures = 0
        self.error = None
        self._source.ack(batch.last)
        self._notices.send(batch, move.before.seq, move.after.seq)
        self._notices.beat(move.after, asyncio.get_running_loop().time())
        self.pending = self._reader.left_behind(batch.last)
        self._tally.committed(batch, took_s)
        if batch.letters:
            self._warn(batch)
        self._window_messages += batch.messages
        self._plan_window()

    def _warn(self, batch: Batch) -> None:
        first = batch.letters[0].row
        _log.warning(
            "projector.dead_letters",
            stream=self.stream,
            partition=self.partition,
            count=len(batch.letters),
            first_seq=first.seq,
            first_code=first.code,
            first_reason=first.reason,
            first_subject=first.subject,
        )

    # --- checkpoints ---------------------------------------------------------------------

    async def _read_checkpoint(self) -> Checkpoint:
        """The checkpoint from the database, created if there is none, judged against the stream.

        The database is asked first: what was committed until then is in the stream that is
        looked at afterwards, or the stream has lost it.
        """
        async with self._writer.turn() as conn:
            known = await checkpoints.read_all(conn, self.stream)
        stream = await self._stream_state()
        checkpoint = next((c for c in known if c.partition == self.partition), None)
        if checkpoint is None:
            async with self._writer.turn() as conn:
                checkpoint = await checkpoints.create(
                    conn,
                    stream=self.stream,
                    partition=self.partition,
                    stream_created=stream.created,
                    seq=max(stream.first_seq - 1, 0),
                )
            stream = await self._stream_state()  # it may be another replica's, and have moved on
        furthest = witness(checkpoint, known)
        if furthest.seq > checkpoint.seq:
            problem = judge(furthest, await self._with_time_at(stream, furthest))
            if isinstance(problem, errors.StreamReplaced):
                raise problem
        problem = judge(checkpoint, await self._with_time_at(stream, checkpoint))
        if isinstance(problem, errors.LogGap) and self.stream == "TELEMETRY":
            return await self._accept_gap(checkpoint, stream, problem)
        if problem is not None:
            raise problem
        return checkpoint

    async def _look_at_window(self, checkpoint: Checkpoint) -> None:
        """Say what passed a running session: a consumer skips what its stream has dropped, without a word.

        Nothing has if the window still begins at or before the place where we were when we last
        looked, or at one that the trimmer knew to be projected when it cut the log: while a backlog
        is projected, the window may be cut past places where we were a second ago.  Otherwise we are
        about as slow as the window is long.  The session goes on: to stop now would lose more.
        """
        messages = self._window_messages
        info = await self._ends.info()
        stream = stream_state(info)
        lost_max = stream.first_seq - max(self._window_from + 1, trim.unneeded_below(info["config"]))
        if stream.first_seq > checkpoint.seq:
            lost_max -= messages
        if lost_max > 0:
            self._metrics.projection_shed.labels(stream=self.stream).inc(lost_max)
            _log.error("projector.shed", stream=self.stream, partition=self.partition, sequences_max=lost_max)
        self._window_from, self._window_messages = checkpoint.seq, self._window_messages - messages

    async def _accept_gap(self, checkpoint: Checkpoint, stream: StreamState, gap: errors.LogGap) -> Checkpoint:
        """TELEMETRY sheds by policy: count what passed by and go on behind it."""
        moved = checkpoints.moved(checkpoint, seq=stream.first_seq - 1, stored_at=None)
        await self._writer.pass_gap(checkpoint, moved)
        shed_max = int(gap.details["sequences_lost_max"])
        self._metrics.projection_shed.labels(stream=self.stream).inc(shed_max)
        _log.warning("projector.shed", stream=self.stream, partition=self.partition, sequences_max=shed_max)
        return moved

    async def _follow_end(self) -> bool:
        """Move an idle partition's checkpoint to the end of the log, after making sure it may; whether it is there.

        Otherwise the checkpoint of a quiet partition would fall out of the window and look
        like a gap.  The end is read first, then the leader is asked whether the partition has
        anything up to there.

        A stream with copies may have two leaders for a moment (`leadership`).  So the end to move to
        is one that was seen the last time, under the same leader, with nothing up to it then and
        nothing up to it now: a leader of before has heard of the new one since.

        A checkpoint that is at the end is confirmed instead: a crash of the database may have
        lost it with its rows (synchronous_commit=off), and no later fact may ever tell us.
        """
        assert self.checkpoint is not None
        info, checkpoint = await self._ends.info(), self.checkpoint
        stream, leader = stream_state(info, with_time=True), leadership(info)
        if not self._source.is_empty:
            return False
        before, self._end = self._end, None
        if stream.last_seq <= checkpoint.seq:
            problem = judge(checkpoint, msgspec.structs.replace(stream, at_checkpoint=None))
            if isinstance(problem, errors.StreamReplaced):
                raise problem
            await self._writer.advance(checkpoint, checkpoint)
            return True
        filter_subject = subjects.partition_filter(self.stream, self.partition)
        try:
            found = await self._conn.api(
                f"STREAM.MSG.GET.{self.stream}", {"seq": checkpoint.seq + 1, "next_by_subj": filter_subject}
            )
        except errors.ApiNotFound:
            await self._check_readable(checkpoint, stream)
        else:
            if found["message"]["seq"] <= stream.last_seq:
                if self.is_projecting:
                    self._expect(found["message"]["seq"])
                else:
                    self._overdue = found["message"]["seq"]
                return False  # on its way to us
        if leader:
            self._end = leader, stream
            if before is None or before[0] != leader or before[1].last_seq <= checkpoint.seq:
                return False  # the next look may
            stream = before[1]
        moved = checkpoints.moved(checkpoint, seq=stream.last_seq, stored_at=stream.at_checkpoint)
        await self._writer.advance(checkpoint, moved)
        self._source.passed(moved.seq)
        self.checkpoint = moved
        self.pending = 0
        self._window_from, self._window_messages = moved.seq, 0
        return True

    async def _check_readable(self, checkpoint: Checkpoint, stream: StreamState) -> None:
        """Stop at a part of the log that the broker cannot read; it answers there as if nothing were left.

        TELEMETRY sheds by policy: it counts what is lost and begins behind it.
        """
        self._watched.saw(stream.last_seq, asyncio.get_running_loop().time())
        if self._watched.covers(checkpoint.seq + 1):
            return
        mine = subjects.partition_filter(self.stream, self.partition)
        after = await damage.readable_again(self._conn, self.stream, mine, checkpoint.seq + 1, stream.last_seq)
        if after is None:
            return
        gap = damage.gap(checkpoint.stream, checkpoint.partition, checkpoint.seq, after)
        if self.stream != subjects.TELEMETRY:
            raise gap
        await self._accept_gap(checkpoint, msgspec.structs.replace(stream, first_seq=after), gap)
        raise errors.DeliveryGap("a part of the stream cannot be read; going on behind it", first_seq=after)

    def _expect(self, seq: int) -> None:
        """Begin a new session when `seq` was on its way last time too, and nothing has come since.

        Whatever the server waits for: where a consumer wants acknowledgements they are sent once and
        may be lost without the connection (its leader moves), and a server that believes
        max_ack_pending deliveries to be unacknowledged sends no more.
        """
        if seq == self._overdue:
            raise errors.DeliveryGap("a message of the log is not delivered", seq=seq)
        self._overdue = seq

    async def _stream_state(self, *, with_time: bool = False) -> StreamState:
        return stream_state(await self._conn.api(f"STREAM.INFO.{self.stream}"), with_time=with_time)

    async def _with_time_at(self, stream: StreamState, checkpoint: Checkpoint) -> StreamState:
        if checkpoint.stored_at is None or not stream.first_seq <= checkpoint.seq <= stream.last_seq:
            return stream
        try:
            found = await self._conn.api(f"STREAM.MSG.GET.{self.stream}", {"seq": checkpoint.seq})
        except errors.ApiNotFound:
            return stream
        return msgspec.structs.replace(stream, at_checkpoint=broker_time(found["message"]["time"]))

    # --- waiting -------------------------------------------------------------------------

    async def _until_pinned(self) -> bool:
        """Wait for the pin, following the end of the log meanwhile; False when told to leave."""
        assert self.checkpoint is not None
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        self._looks.put_off()
        overdue, self._overdue = False, 0
        wait_s = _ROUSE_S / 10  # usually a message waits and brings the pin at once
        pinned = asyncio.ensure_future(self._reader.wait_pinned())
        leave = asyncio.ensure_future(self._leave.wait())
        try:
            while True:
                self._notices.beat(self.checkpoint, loop.time())
                await asyncio.wait({pinned, leave}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if pinned.done():
                    pinned.result()
                    self._overdue = 0
                    return True
                if leave.done():
                    return False
                at_end = False
                if self._looks.is_due():
                    waited_for, self._overdue = self._overdue, 0
                    at_end = await self._follow_end()
                    overdue = 0 < waited_for == self._overdue
                recent = loop.time() - began_at < limits.PIN_TTL_S + 1
                if recent or not at_end:  # at the end there is nothing that could pin anybody
                    await self._rouse(self.checkpoint.seq, {pinned, leave}, overdue=overdue)
                wait_s = min(self._looks.wait_s(), _ROUSE_S if recent else self._config.idle_checkpoint_s)
        finally:
            for future in (pinned, leave):
                future.cancel()
            await asyncio.gather(pinned, leave, return_exceptions=True)

    async def _rouse(self, position: int, ends: set[asyncio.Future[Any]], *, overdue: bool) -> None:
        """`PinnedReader.rouse`, unless one of `ends` comes first: a slow broker may pin us before it answers."""
        rousing = asyncio.ensure_future(self._reader.rouse(position, overdue=overdue))
        try:
            done, _ = await asyncio.wait({rousing, *ends}, timeout=_CONSUMER_S, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise errors.DeadlineExceeded("the consumer says nothing of itself", stream=self.stream)
            if not any(end.done() for end in ends):
                rousing.result()
        finally:
            rousing.cancel()
            await asyncio.gather(rousing, return_exceptions=True)

    async def _retry(self, exc: errors.CoordError) -> None:
        self._metrics.projection_rollbacks.labels(stream=self.stream, reason=exc.code).inc()
        expected = isinstance(exc, errors.PinLost | errors.CheckpointMoved | errors.DeliveryGap | errors.CircuitOpen)
        if isinstance(exc, errors.CircuitOpen):
            # Nothing was asked.  One of us will try whether it is back; the others are woken when it is.
            wait_s = exc.retry_after_s * (1.0 + 0.5 * self._rng.random())
        else:
            self._failures += 1
            config = self._config
            most_s = config.retry_max_s
            if isinstance(exc, errors.BusError | errors.DeadlineExceeded):
                most_s = min(most_s, limits.RETRY_BROKER_MAX_S)
            wait_s = backoff_s(self._failures, self._rng, first_s=config.retry_first_s, most_s=most_s)
        log = _log.info if expected or self._closing else _log.warning
        log(
            "projector.session_ended", stream=self.stream, partition=self.partition, code=exc.code, error=str(exc),
            retry_s=round(wait_s, 3),
        )  # fmt: skip
        self.error = exc
        self._set("retrying")
        waiting = [asyncio.ensure_future(self._leave.wait())]
        if isinstance(exc, errors.DatabaseCircuitOpen):
            waiting.append(asyncio.ensure_future(self._pool.circuit.closed.wait()))
        try:
            await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _stopped(self, exc: errors.ProjectionStopped) -> None:
        if self.error is None or self.error.code != exc.code:
            _log.error(
                "projector.stopped",
                stream=self.stream,
                partition=self.partition,
                code=exc.code,
                error=str(exc),
                remedy=exc.remedy,
            )
        self.error = exc
        self._set("stopped")
        # An operator's decision shows in the checkpoint: look again now and then.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.retry_max_s):
                await self._leave.wait()

    def _set(self, state: State) -> None:
        if state == self.state:
            return
        self._gauge(self.state, -1)
        self.state = state
        self._gauge(state, +1)

    def _gauge(self, state: State, by: int) -> None:
        if state in ("pinned", "unled"):
            self._metrics.projection_owned.labels(stream=self.stream).inc(by)
        elif state == "stopped":
            self._metrics.projection_stopped.labels(stream=self.stream).inc(by)
