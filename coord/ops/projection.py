"""Checkpoints for operators: where each partition stands, and how to go on when one is stopped.

A stopped partition is the projector's question to a person: the stream under the checkpoint
is not what it was.  `plan_new_epoch` works out the answer that loses nothing and doubles
nothing, `new_epoch` writes it down:

* the stream was made anew: everything it holds is new; begin at its first message;
* it was restored from a copy, which the broker takes for a new stream too: messages in it are those of rows, to the
  microsecond.  It is the same log, which may have lost a tail: as below, and nothing of it is lost;
* the window passed the checkpoint: what is gone is gone; begin at its first message, which
  lies behind the checkpoint, so nothing is projected twice;
* the stream lost its tail (it ends below the checkpoint, or other messages stand there now):
  what it holds from before is in the tables; begin behind the last message that is not newer
  than the checkpoint, by the broker's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from coord import errors
from coord.bus import damage
from coord.bus.connection import Connection
from coord.bus.direct import StoredMessage, next_on_leader
from coord.core.checkpoint import Checkpoint, StreamState, judge, witness
from coord.ops.judge import SILENT_S
from coord.store import checkpoints, entities, queries
from coord.store.pool import Pool
from coord.store.queries import statement
from coord.store.sqlstate import translated
from coord.wire import subjects

_ASKED: Final = 8
"""Messages at either end of a stream."""


class PartitionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One partition's checkpoint against its stream."""

    checkpoint: Checkpoint
    problem: errors.ProjectionStopped | None
    pending: int | None
    """None: more than the checkpoint knows of, which nobody has confirmed for long."""
    lag_seconds: float | None
    silent_seconds: float

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self.checkpoint.stream

    def record(self) -> dict[str, Any]:
        """As a row for printing."""
        c = self.checkpoint
        return {
            "stream": c.stream,
            "partition": c.partition,
            "state": "stopped" if self.problem is not None else "behind" if self.pending != 0 else "current",
            "epoch": c.epoch,
            "seq": c.seq,
            "pending": self.pending,
            "lag_seconds": self.lag_seconds,
            "silent_seconds": self.silent_seconds,
            "stored_at": c.stored_at,
            "code": self.problem.code if self.problem else None,
            "reason": self.problem.message if self.problem else None,
        }


class EpochPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `new_epoch` would do."""

    stream: str
    stream_created: datetime
    starts: dict[int, int]
    """Partition → the sequence behind which it begins."""
    lost_max: int
    """Upper bound of sequence numbers that were never projected and are gone."""
    replaced: frozenset[int]
    """Partitions of which this is another log than the one that was projected."""
    why: str

    def describe(self) -> str:
        """For the person who has to agree."""
        places = sorted(set(self.starts.values()))
        begin = f"behind sequence {places[0]}" if len(places) == 1 else f"behind sequences {places[0]} to {places[-1]}"
        lost = f" Up to {self.lost_max:,} messages were never projected and are gone." if self.lost_max else ""
        if self.replaced and self.stream == subjects.EVENTS:
            lost += " What was open in the log that is gone is lost; its signals, locks and flags are no more."
        return f"{self.stream}: {self.why}. {len(self.starts)} partition(s) go on in a new epoch {begin}.{lost}"


async def status(conn: Connection, pool: Pool, streams: Sequence[str]) -> list[PartitionStatus]:
    """Every partition of `streams` that has a checkpoint."""
    found: list[PartitionStatus] = []
    for stream in streams:
        async with pool.acquire() as db:
            marks = await checkpoints.read_all(db, stream)
            lags = {r["partition"]: r for r in await queries.run(db, "projection_lag", stream=stream)}
        if not marks:
            continue
        state = await _state(conn, stream)
        for mark in marks:
            lag = lags[mark.partition]
            problem, waits = await _judge(conn, state, mark, marks)
            # What was pending when somebody last looked says nothing once nobody has for long, as after a restore.
            is_unknown = waits is not None and not lag["pending"] and lag["silent_seconds"] > SILENT_S
            found.append(
                PartitionStatus(
                    checkpoint=mark,
                    problem=problem,
                    pending=None if is_unknown else lag["pending"],
                    lag_seconds=_age_s(waits) if is_unknown and waits is not None else lag["lag_seconds"],
                    silent_seconds=lag["silent_seconds"],
                )
            )
    return found


def _age_s(message: StoredMessage) -> float:
    return max(0.0, (datetime.now(UTC) - message.stored_at).total_seconds())


async def plan_new_epoch(
    conn: Connection, pool: Pool, stream: str, partitions: Sequence[int] | None, *, at_end: bool = False
) -> EpochPlan:
    """Where stopped partitions go on.

    `partitions`: only these; default: all that are stopped.  `at_end`: only what comes from
    now on, whatever the stream holds.  Raises `NotStopped` when nothing is stopped, or one
    that was named is not: going on anew would put its facts into the tables twice.
    """
    rows = await status(conn, pool, [stream])
    stopped = {r.checkpoint.partition: r for r in rows if r.problem is not None}
    wanted = list(stopped) if partitions is None else list(partitions)
    well = sorted(set(wanted) - stopped.keys())
    if well:
        raise errors.NotStopped(f"partition {well[0]} of {stream} is not stopped: its facts would be doubled")
    if not wanted:
        raise errors.NotStopped(f"no partition of {stream} is stopped: there is nothing to decide")
    state = await _state(conn, stream)
    other = [p for p in wanted if stopped[p].checkpoint.stream_created != state.created]
    until = await _projected_until(conn, pool, state, [stopped[p].checkpoint for p in other]) if other else None
    is_copy = until is not None
    starts = {
        p: await _start(conn, state, stopped[p], at_end=at_end)
        if until is None or at_end
        else await _start_in_copy(conn, stopped[p].checkpoint, until)
        for p in wanted
    }
    gaps = [stopped[p] for p in wanted if isinstance(stopped[p].problem, errors.LogGap)]
    problem = stopped[wanted[0]].problem
    assert problem is not None
    return EpochPlan(
        stream=stream,
        stream_created=state.created,
        starts=starts,
        replaced=frozenset() if is_copy else frozenset(other),
        lost_max=max((starts[g.checkpoint.partition] - g.checkpoint.seq for g in gaps), default=0),
        why="the stream was restored from a copy of itself" if is_copy else problem.message,
    )


async def new_epoch(pool: Pool, plan: EpochPlan) -> tuple[list[Checkpoint], dict[str, int]]:
    """Write the decision; projectors see it within seconds and go on.  And how many rows of entities were lost.

    Entities of a log that was replaced are no longer what their rows say (docs/adr/0082).
    """
    opened: list[Checkpoint] = []
    lost: dict[str, int] = {}
    async with pool.transaction() as db:
        for seq in sorted(set(plan.starts.values())):
            chosen = [p for p, start in plan.starts.items() if start == seq]
            opened += await checkpoints.new_epoch(
                db,
                plan.stream,
                stream_created=plan.stream_created,
                seq=seq,
                partitions=chosen,
                replaced=sorted(plan.replaced),
            )
        if plan.replaced and plan.stream == subjects.EVENTS:
            lost = await entities.lose(db, lambda key: subjects.partition(key) in plan.replaced)
    return sorted(opened, key=lambda c: c.partition), lost


async def _projected_until(conn: Connection, pool: Pool, state: StreamState, marks: Sequence[Checkpoint]) -> int | None:
    """The last sequence that is in the tables, of a stream restored from a copy; None: it is another one.

    Some of its messages are asked for: the last ones that may have been projected, and the first ones, as behind a
    copy there may be what was said since.
    """
    if marks[0].stream != subjects.EVENTS:
        return None
    epochs = [mark.epoch for mark in marks]
    top = min(state.last_seq, max(mark.seq for mark in marks))
    asked = dict.fromkeys([*(top - n for n in range(_ASKED)), *(state.first_seq + n for n in range(_ASKED))])
    async with pool.acquire() as db:
        for seq in asked:
            if not max(state.first_seq, 1) <= seq <= top:
                continue
            try:
                found = await conn.api(f"STREAM.MSG.GET.{subjects.EVENTS}", {"seq": seq})
            except errors.ApiNotFound:
                continue
            at = _moment(found["message"]["time"])
            with translated("new epoch"):
                if await db.fetch(statement("projected_already"), at, seq, epochs):
                    newest: datetime = (await db.fetch(statement("projected_until"), epochs))[0]["stored_at"]
                    return await _last_not_after(conn, subjects.EVENTS, state, newest)
    return None


async def _start_in_copy(conn: Connection, mark: Checkpoint, until: int) -> int:
    """Behind what was projected; a partition that has nothing up to there begins there, as the others."""
    if mark.seq >= until:
        return until
    mine = subjects.partition_filter(mark.stream, mark.partition)
    following = await next_on_leader(conn, mark.stream, mine, mark.seq + 1)
    return until if following is None or following.seq > until else mark.seq


async def _start(conn: Connection, state: StreamState, row: PartitionStatus, *, at_end: bool) -> int:
    if at_end:
        return state.last_seq
    mark = row.checkpoint
    if isinstance(row.problem, errors.LogGap):
        return int(row.problem.details["first_seq"]) - 1
    if mark.stream_created != state.created:
        return max(state.first_seq - 1, 0)
    if mark.stored_at is None:
        return state.last_seq  # nothing tells what was projected: better a gap than rows twice
    return await _last_not_after(conn, mark.stream, state, mark.stored_at)


async def _last_not_after(conn: Connection, stream: str, state: StreamState, moment: datetime) -> int:
    """The last sequence whose message is not newer than `moment`: some twenty questions."""
    low, high = max(state.first_seq - 1, 0), state.last_seq
    while low < high:
        middle = (low + high + 1) // 2
        try:
            found = await conn.api(f"STREAM.MSG.GET.{stream}", {"seq": middle, "next_by_subj": ">"})
        except errors.ApiNotFound:
            high = middle - 1
            continue
        message = found["message"]
        if _moment(message["time"]) <= moment:
            low = min(message["seq"], high)
        else:
            high = middle - 1
    return low


async def _state(conn: Connection, stream: str) -> StreamState:
    info = await conn.api(f"STREAM.INFO.{stream}")
    state = info["state"]
    return StreamState(created=_moment(info["created"]), first_seq=state["first_seq"], last_seq=state["last_seq"])


async def _judge(
    conn: Connection, state: StreamState, mark: Checkpoint, marks: Sequence[Checkpoint]
) -> tuple[errors.ProjectionStopped | None, StoredMessage | None]:
    """As the projector judges: a tail that one partition misses stops the whole stream.  And what comes next for it."""
    furthest = witness(mark, marks)
    problem = judge(furthest, await _with_time_at(conn, state, furthest))
    if furthest is not mark and not isinstance(problem, errors.StreamReplaced):
        problem = judge(mark, await _with_time_at(conn, state, mark))
    if problem is not None or mark.seq >= state.last_seq:
        return problem, None
    mine = subjects.partition_filter(mark.stream, mark.partition)
    following = await next_on_leader(conn, mark.stream, mine, mark.seq + 1)
    if following is not None:
        return None, following
    # What comes next may lie in a part that the broker cannot read.
    after = await damage.readable_again(conn, mark.stream, mine, mark.seq + 1, state.last_seq)
    return None if after is None else damage.gap(mark.stream, mark.partition, mark.seq, after), None


async def _with_time_at(conn: Connection, state: StreamState, mark: Checkpoint) -> StreamState:
    if mark.stored_at is None or not state.first_seq <= mark.seq <= state.last_seq:
        return state
    try:
        found = await conn.api(f"STREAM.MSG.GET.{mark.stream}", {"seq": mark.seq})
    except errors.ApiNotFound:
        return state
    return msgspec.structs.replace(state, at_checkpoint=_moment(found["message"]["time"]))


def _moment(text: str) -> datetime:
    """The broker's RFC 3339, truncated to microseconds as checkpoints are."""
    return datetime.fromisoformat(text)
