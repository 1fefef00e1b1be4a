"""What is wrong with a `Snapshot`.  Pure: a snapshot in, problems out.

An *error* means that facts are not flowing or will soon be lost; a *warning* that somebody
should look.  Each says what to do.
"""

from __future__ import annotations

from typing import Final

from coord import limits
from coord.ops.stats import PROJECTED, Problem, ProjectionStats, Snapshot, StreamStats
from coord.wire import subjects

FILL_WARNING: Final = limits.FILL_ALARM
FILL_ERROR: Final = 0.95
"""Parts of a stream's limits: a full log refuses everybody."""

LAG_WARNING_S: Final = 30.0
LAG_ERROR_S: Final = 300.0
"""Age of the newest projected message while more are waiting."""

_NAMED: Final = 10
"""Capabilities of one kind that are named; `coord agent capabilities` has all."""

_QUEUES_NEARLY: Final = 0.9
"""Of the consumers that queues may be."""

SILENT_S: Final = 4 * limits.CHECKPOINT_IDLE_S
"""A checkpoint nobody confirmed for so long, while messages wait, has no projector."""

STUCK_S: Final = 3 * SILENT_S
"""And for so long though projectors run: what it was given and cannot commit does not wait at the broker any more."""


def judge(snapshot: Snapshot) -> list[Problem]:
    """What is wrong, errors first."""
    problems = list(snapshot.failures)
    if snapshot.broker is not None:
        problems += _judge_streams(snapshot)
        problems += _judge_consumers(snapshot)
        problems += _judge_queues(snapshot)
        problems += _judge_capabilities(snapshot)
    if snapshot.database is not None:
        problems += _judge_database(snapshot)
    if snapshot.broker is not None and snapshot.database is not None and snapshot.database.migrated:
        problems += _judge_projection(snapshot)
    return sorted(problems, key=lambda p: p.severity != "error")


def healthy(problems: list[Problem]) -> bool:
    """Whether none of them is an error."""
    return all(p.severity != "error" for p in problems)


def _judge_queues(snapshot: Snapshot) -> list[Problem]:
    queues = snapshot.queues
    if queues is None or queues.consumers < _QUEUES_NEARLY * queues.consumers_max:
        return []
    return [
        _warning(
            "queues",
            f"{queues.consumers} of at most {queues.consumers_max} consumers are queues of capabilities",
            "Use fewer capabilities: beyond that new ones are refused. Unused ones go by themselves.",
        )
    ]


def _judge_capabilities(snapshot: Snapshot) -> list[Problem]:
    starved = [c for c in snapshot.capabilities if c.starved]
    opened = [c for c in snapshot.capabilities if c.circuit != "closed"]
    unplaced = [c for c in snapshot.capabilities if c.unplaced and not c.starved]
    return [
        *(
            _warning(
                f"capability {c.capability}",
                f"{c.depth} tasks of {c.tenant} wait and no agent can do them",
                "Start an agent with this capability, or cancel them.",
            )
            for c in starved[:_NAMED]
        ),
        *(
            _warning(
                f"capability {c.capability}",
                f"{c.unplaced} tasks of {c.tenant} wait for an agent that their placement allows",
                "See `coord.v_placement` for what they demand; start such an agent, or cancel them.",
            )
            for c in unplaced[:_NAMED]
        ),
        *(
            _warning(
                f"capability {c.capability}",
                f"its circuit is {c.circuit} for {c.tenant}: half of what ran lately failed",
                "See why its tasks fail; it closes by itself once some end well.",
            )
            for c in opened[:_NAMED]
        ),
    ]


def _judge_streams(snapshot: Snapshot) -> list[Problem]:
    problems = [
        _error(f"stream {name}", "it does not exist", "Run `coord stream apply`.")
        for name in subjects.STREAMS
        if snapshot.stream(name) is None and name not in snapshot.unanswered
    ]
    problems += [_unanswered(name) for name in snapshot.unanswered]
    for stream in snapshot.streams:
        if stream.replicas > 1 and stream.leader is None:
            problems.append(
                _error(f"stream {stream.name}", "it has no leader", "Wait for an election, or bring its servers back.")
            )
        if stream.discard != "new" or stream.fill < FILL_WARNING:
            continue  # a stream that drops its oldest is full as a matter of course
        make = _error if stream.fill >= FILL_ERROR else _warning
        problems.append(
            make(
                f"stream {stream.name}",
                f"it is {stream.fill:.0%} full; when it is full, publishers are refused",
                _make_room(snapshot, stream),
            )
        )
    return problems


def _unanswered(name: str) -> Problem:
    """A cache's copy is one of what the tables have: whoever asks goes on without it."""
    make = _warning if name.startswith("CACHE_") else _error
    return make(f"stream {name}", "nobody answers for it", "Bring back the servers that have it: `coord doctor`.")


def _make_room(snapshot: Snapshot, stream: StreamStats) -> str:
    """What keeps a stream from being trimmed, as far as it can be told from here."""
    if stream.name != subjects.EVENTS:
        return "Lower max_age or raise max_msgs and max_bytes in streams/, then `coord stream apply`."
    raise_limits = "raise streams.log_memory_mib and streams.log_disk_mib, then `coord stream apply`"
    group = snapshot.consumer(stream.name, "projector")
    if group is not None and stream.messages and group.pending > stream.messages // 10:
        return f"It is trimmed when it is projected, and {group.pending} messages wait: see `coord projection status`."
    return f"Its trimmer runs in `coord serve`; see why it cannot trim in its log (trimmer.blocked), or {raise_limits}."


def _judge_consumers(snapshot: Snapshot) -> list[Problem]:
    problems = []
    for name in PROJECTED:
        group = snapshot.consumer(name, "projector")
        if snapshot.stream(name) is not None and (group is None or group.members < limits.PARTITIONS):
            have = group.members if group else 0
            problems.append(
                _error(
                    f"stream {name}",
                    f"it has {have} of {limits.PARTITIONS} projector consumers",
                    "Run `coord stream apply`.",
                )
            )
    if snapshot.instances == ():
        waiting = sum(c.pending for c in snapshot.consumers if c.name == "projector")
        make = _error if waiting else _warning
        problems.append(make("projector", f"none is running; {waiting} messages wait", "Start one: `coord serve all`."))
    if snapshot.older:
        names = ", ".join(snapshot.older)
        problems.append(
            _warning("upgrade", f"of an older release: {names}; newer ones wait for them", "Stop the older processes.")
        )
    return problems


def _judge_database(snapshot: Snapshot) -> list[Problem]:
    database = snapshot.database
    assert database is not None
    if not database.migrated:
        return [_error("database", "coord's tables are not there", "Run `coord db migrate`.")]
    problems = []
    if database.connections >= 0.9 * database.connections_max:
        problems.append(
            _warning(
                "database",
                f"{database.connections} of {database.connections_max} connections are used",
                "Lower database.pool_max, or raise max_connections.",
            )
        )
    letters = sum(d.letters for d in snapshot.dead_letters)
    if letters:
        worst = snapshot.dead_letters[0]
        problems.append(
            _warning(
                "dead letters",
                f"{letters} parked, most of them {worst.code} ({worst.letters} of {worst.stream})",
                "Look at them: `coord dlq ls`.",
            )
        )
    return problems


def _judge_projection(snapshot: Snapshot) -> list[Problem]:
    problems = []
    for projection in snapshot.projection:
        what = f"projection {projection.stream}"
        lag_s, silent_s = projection.lag_seconds or 0.0, projection.silent_seconds or 0.0
        # The checkpoint's own count is as old as the checkpoint; the broker's is of now.
        consumer = snapshot.consumer(projection.stream, "projector")
        waiting = max(projection.pending, consumer.pending if consumer is not None else 0)
        stream = snapshot.stream(projection.stream)
        if stream is not None and _is_left(projection, stream):
            problems.append(
                _error(
                    what,
                    f"the stream goes on to {stream.last_seq}, the furthest checkpoint is {projection.seq_max},"
                    f" and none was confirmed for {projection.silent_seconds_min:.0f} s",
                    "Nobody projects into this database: start `coord serve all`, or see whether the one that runs has"
                    " another `database.url`.",
                )
            )
        elif waiting and silent_s > SILENT_S:
            problems.append(
                _error(
                    what,
                    f"{waiting} messages wait and a checkpoint has not moved for {silent_s:.0f} s",
                    "See which and why: `coord projection status`.",
                )
            )
        elif snapshot.instances and silent_s > STUCK_S:
            # Those of quiet partitions follow the end of the stream: one that does not may have facts before it.
            make = _error if stream is not None and projection.seq_min < stream.last_seq else _warning
            problems.append(
                make(
                    what,
                    f"a checkpoint has not been confirmed for {silent_s:.0f} s though projectors run",
                    "Their `/readyz` says what keeps it back; `coord projection status` which one it is.",
                )
            )
        elif lag_s > LAG_WARNING_S:
            make = _error if lag_s > LAG_ERROR_S else _warning
            problems.append(
                make(
                    what,
                    f"it is {lag_s:.0f} s behind, {waiting} messages wait",
                    "Look at `coord top`: add a projector, or find out what slows the database.",
                )
            )
        if stream is not None:
            problems += _judge_checkpoints(what, projection, stream)
    return problems


def _is_left(projection: ProjectionStats, stream: StreamStats) -> bool:
    """Whether nobody moves any checkpoint though there is more: what the broker counts is not of this database."""
    return (projection.silent_seconds_min or 0.0) > STUCK_S and projection.seq_max < stream.last_seq


def lag_seconds(projection: ProjectionStats, stream: StreamStats | None, since_s: float = 0.0) -> float | None:
    """How far the tables are behind the stream, at most; None: unknown.

    `since_s`: how long ago the database said what `projection` is.  What a checkpoint says is as old as it: where
    nobody writes one, or the database does not answer, it would say for ever that nothing waits.
    """
    lag_s = projection.lag_seconds
    if lag_s:
        lag_s += since_s
    unconfirmed_s = (projection.silent_seconds or 0.0) + since_s
    if stream is None or projection.seq_min >= stream.last_seq or unconfirmed_s <= SILENT_S:
        return lag_s
    return max(lag_s or 0.0, unconfirmed_s)


def _judge_checkpoints(what: str, projection: ProjectionStats, stream: StreamStats) -> list[Problem]:
    """Whether the stream is still the one of the checkpoints; `coord projection status` looks closer."""
    if not projection.stream_created_min == stream.created_at == projection.stream_created_max:
        wrong = "the stream was created anew; partitions wait for a decision"
    elif projection.seq_max > stream.last_seq:
        wrong = f"the stream ends at {stream.last_seq}, below a checkpoint at {projection.seq_max}"
    elif stream.discard == "new" and 0 < projection.seq_min < stream.first_seq - 1:
        wrong = f"the log begins at {stream.first_seq}, a checkpoint is at {projection.seq_min}: facts may be lost"
    else:
        return []
    remedy = "See `coord projection status`; go on with `coord projection new-epoch`."
    return [_error(what, wrong, remedy)]


def _error(what: str, message: str, remedy: str) -> Problem:
    return Problem(severity="error", what=what, message=message, remedy=remedy)


def _warning(what: str, message: str, remedy: str) -> Problem:
    return Problem(severity="warning", what=what, message=message, remedy=remedy)
