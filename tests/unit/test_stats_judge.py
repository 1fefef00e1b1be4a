"""What `coord status` calls wrong, what it calls healthy, and the rates of `coord top`."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus import errors_map, topology
from coord.bus.connection import NatsConfig
from coord.ops import judge, permissions, stats, top
from coord.ops.cli.output import Format, Output
from coord.ops.gauges import StatsService
from coord.ops.judge import LAG_ERROR_S, LAG_WARNING_S, SILENT_S, STUCK_S
from coord.ops.stats import (
    BrokerStats,
    ConsumerStats,
    DatabaseStats,
    DeadLetterStats,
    Problem,
    ProjectionStats,
    QueueStats,
    Snapshot,
    StreamStats,
)
from coord.runtime import assets
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics
from coord.wire import subjects

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def stream(name: str, **fields: Any) -> StreamStats:
    given: dict[str, Any] = {
        "messages": 10, "bytes": 1_000, "limit_messages": 1_000, "limit_bytes": -1, "fill": 0.01,
        "discard": "old" if name == "TELEMETRY" else "new", "subjects": 3, "consumers": 16, "first_seq": 1,
        "last_seq": 10, "first_at": NOW, "last_at": NOW, "replicas": 1, "leader": "n1",
        "created_at": NOW,
    }  # fmt: skip
    return StreamStats(name=name, **(given | fields))


def consumer(name: str, **fields: Any) -> ConsumerStats:
    given: dict[str, Any] = {
        "name": "projector", "members": 16, "pending": 0, "ack_pending": 0, "redelivered": 0, "waiting": 1,
        "pinned": 16, "delivered": 10,
    }  # fmt: skip
    return ConsumerStats(stream=name, **(given | fields))


def projection(name: str, **fields: Any) -> ProjectionStats:
    given: dict[str, Any] = {
        "partitions": 16, "pending": 0, "lag_seconds": 0.0, "silent_seconds": 1.0, "silent_seconds_min": 1.0,
        "epoch": 1, "seq_min": 1, "seq_max": 10, "stream_created_min": NOW, "stream_created_max": NOW,
    }  # fmt: skip
    return ProjectionStats(stream=name, **(given | fields))


DATABASE = DatabaseStats(
    url="postgresql://h/coord", edition="apache", lacks=(), postgres="17", timescaledb="2.19", bytes=1 << 20,
    connections=10, connections_max=100, migrated=True,
)  # fmt: skip
WELL = Snapshot(
    at=NOW,
    broker=BrokerStats(url="nats://h:4222", server="n1", version="2.15.1", rtt_s=0.001, max_payload_bytes=1 << 20),
    streams=tuple(stream(name) for name in subjects.STREAMS),
    consumers=(consumer("EVENTS"), consumer("TELEMETRY")),
    instances=("host-1",),
    database=DATABASE,
    projection=(projection("EVENTS"), projection("TELEMETRY")),
)


def with_stream(name: str, **fields: Any) -> Snapshot:
    streams = tuple(msgspec.structs.replace(s, **fields) if s.name == name else s for s in WELL.streams)
    return msgspec.structs.replace(WELL, streams=streams)


def without(name: str) -> Snapshot:
    return msgspec.structs.replace(WELL, streams=tuple(s for s in WELL.streams if s.name != name))


def changed(**fields: Any) -> Snapshot:
    return msgspec.structs.replace(WELL, **fields)


def test_a_system_that_is_well_has_no_problems() -> None:
    assert judge.judge(WELL) == []


@pytest.mark.parametrize(
    ("snapshot", "severity", "what", "said"),
    [
        (changed(streams=WELL.streams[1:]), "error", "stream EVENTS", "does not exist"),
        (
            msgspec.structs.replace(without("CACHE_L3"), unanswered=("CACHE_L3",)),
            "warning", "stream CACHE_L3", "nobody answers for it",
        ),
        (
            msgspec.structs.replace(without("DLQ"), unanswered=("DLQ",)),
            "error", "stream DLQ", "nobody answers for it",
        ),
        (with_stream("EVENTS", fill=0.8), "warning", "stream EVENTS", "80% full"),
        (with_stream("EVENTS", fill=0.96), "error", "stream EVENTS", "96% full"),
        (with_stream("EVENTS", replicas=3, leader=None), "error", "stream EVENTS", "no leader"),
        (changed(consumers=WELL.consumers[1:]), "error", "stream EVENTS", "0 of 16 projector consumers"),
        (
            changed(consumers=(consumer("EVENTS", members=15), consumer("TELEMETRY"))),
            "error", "stream EVENTS", "15 of 16",
        ),
        (changed(older=("old-1",)), "warning", "upgrade", "of an older release: old-1; newer ones wait for them"),
        (changed(instances=()), "warning", "projector", "none is running; 0 messages wait"),
        (
            changed(instances=(), consumers=(consumer("EVENTS", pending=7), consumer("TELEMETRY"))),
            "error", "projector", "none is running; 7 messages wait",
        ),
        (
            changed(database=msgspec.structs.replace(DATABASE, migrated=False), projection=()),
            "error", "database", "tables are not there",
        ),
        (
            changed(database=msgspec.structs.replace(DATABASE, connections=95)),
            "warning", "database", "95 of 100 connections",
        ),
        (changed(queues=QueueStats(consumers=1_350)), "warning", "queues", "1350 of at most 1500"),
        (
            changed(dead_letters=(DeadLetterStats(stream="EVENTS", code="wire.author", letters=3, last_at=NOW),)),
            "warning", "dead letters", "3 parked, most of them wire.author",
        ),
        (
            changed(projection=(projection("EVENTS", pending=5, silent_seconds=SILENT_S + 1),)),
            "error", "projection EVENTS", "5 messages wait and a checkpoint has not moved",
        ),
        (
            changed(
                projection=(projection("EVENTS", silent_seconds=SILENT_S + 1),),
                consumers=(consumer("EVENTS", pending=9), consumer("TELEMETRY")),
            ),
            "error", "projection EVENTS", "9 messages wait",
        ),
        (
            changed(projection=(projection("EVENTS", silent_seconds_min=STUCK_S + 1, seq_max=9),)),
            "error", "projection EVENTS", "goes on to 10, the furthest checkpoint is 9",
        ),
        (
            changed(projection=(projection("EVENTS", silent_seconds=STUCK_S + 1, seq_min=9),)),
            "error", "projection EVENTS", "not been confirmed for 61 s though projectors run",
        ),
        (
            changed(projection=(projection("EVENTS", silent_seconds=STUCK_S + 1, seq_min=10),)),
            "warning", "projection EVENTS", "not been confirmed for 61 s though projectors run",
        ),
        (
            changed(projection=(projection("EVENTS", pending=5, lag_seconds=LAG_WARNING_S + 1),)),
            "warning", "projection EVENTS", "31 s behind",
        ),
        (
            changed(projection=(projection("EVENTS", pending=5, lag_seconds=LAG_ERROR_S + 1),)),
            "error", "projection EVENTS", "301 s behind",
        ),
        (
            with_stream("EVENTS", created_at=NOW + timedelta(seconds=1)),
            "error", "projection EVENTS", "created anew",
        ),
        (with_stream("EVENTS", last_seq=9), "error", "projection EVENTS", "ends at 9, below a checkpoint at 10"),
        (with_stream("EVENTS", first_seq=50, last_seq=60), "error", "projection EVENTS", "facts may be lost"),
        (
            changed(broker=None, failures=(Problem(severity="error", what="broker", message="gone", remedy="x"),)),
            "error", "broker", "gone",
        ),
    ],
)  # fmt: skip
def test_each_problem_is_named_with_what_to_do(snapshot: Snapshot, severity: str, what: str, said: str) -> None:
    problems = judge.judge(snapshot)
    assert [(p.severity, p.what) for p in problems] == [(severity, what)]
    assert said in problems[0].message
    assert problems[0].remedy
    assert judge.healthy(problems) is (severity == "warning")


def test_what_is_no_problem() -> None:
    assert judge.judge(with_stream("TELEMETRY", fill=1.0)) == []  # drops its oldest, as it should
    assert judge.judge(with_stream("TELEMETRY", first_seq=500, last_seq=600)) == []
    assert judge.judge(changed(instances=None)) == []  # nobody listened
    assert judge.judge(changed(queues=QueueStats(consumers=1_349))) == []
    quiet = projection("EVENTS", silent_seconds=10 * SILENT_S)
    assert judge.judge(changed(projection=(quiet,), instances=None)) == []  # nothing waits
    assert judge.judge(changed(projection=(projection("EVENTS", silent_seconds=STUCK_S),))) == []


def test_the_lag_grows_while_the_database_says_nothing() -> None:
    """What it said last, that nothing waits, would keep the alarm from firing for as long as it is away."""
    shown = Metrics(CollectorRegistry())
    service = StatsService(NatsConfig(), DatabaseConfig(), 5.0, registry=shown)

    def lag_s(after_s: float, *, last_seq: int, silent_s: float | None) -> float | None:
        known = () if silent_s is None else (projection("EVENTS", silent_seconds=silent_s, seq_min=10),)
        streams = (stream("EVENTS", last_seq=last_seq),)
        service._show(Snapshot(at=NOW + timedelta(seconds=after_s), streams=streams, projection=known))
        labels = {"stream": "EVENTS", "consumer": "projector"}
        return shown.registry.get_sample_value("coord_consumer_lag_seconds", labels)

    assert lag_s(0, last_seq=10, silent_s=1) == 0
    assert lag_s(60, last_seq=10, silent_s=None) == 0  # nothing came
    assert lag_s(15, last_seq=11, silent_s=None) == 0  # it may be on its way
    assert lag_s(60, last_seq=11, silent_s=None) == 61
    assert lag_s(70, last_seq=11, silent_s=71) == 71  # it answers again, and nobody writes into it
    assert lag_s(80, last_seq=11, silent_s=1) == 0


class _OneServerAway:
    """Answers as a broker does of whose servers the one with CACHE_L3 is away, which is known after a while."""

    def __init__(self, *, is_known: bool) -> None:
        self.is_known = is_known

    async def api(self, request: str, *_: Any) -> dict[str, Any]:
        if request.endswith(".CACHE_L3"):
            if self.is_known:
                raise errors_map.api_error(
                    {"code": 500, "err_code": 10118, "description": "stream is offline"}, request
                )
            raise errors.DeadlineExceeded
        state = {"messages": 0, "bytes": 0, "first_seq": 1, "last_seq": 0}
        return {"config": {"name": request.rpartition(".")[2]}, "state": state, "created": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_stream_without_its_server_keeps_nothing_else_from_being_seen(*, is_known: bool) -> None:
    found, unanswered = await stats.streams(cast("Any", _OneServerAway(is_known=is_known)))
    assert (len(found), unanswered) == (len(subjects.STREAMS) - 1, ("CACHE_L3",))


def test_errors_come_first() -> None:
    both = msgspec.structs.replace(with_stream("EVENTS", fill=0.97), instances=())
    assert [p.severity for p in judge.judge(both)] == ["error", "warning"]


# --- rates ---------------------------------------------------------------------------------


def later(seconds: float, **fields: Any) -> Snapshot:
    return msgspec.structs.replace(with_stream("EVENTS", **fields), at=NOW + timedelta(seconds=seconds))


def test_rates_are_differences_over_time() -> None:
    after = msgspec.structs.replace(
        later(2, last_seq=110, bytes=3_000, subjects=13),
        consumers=(consumer("EVENTS", delivered=70), consumer("TELEMETRY", delivered=3)),
    )
    found = top.rates(WELL, after)
    events = found.of("EVENTS")
    assert events is not None
    assert (events.stored_per_s, events.projected_per_s, events.bytes_per_s, events.subjects_per_s) == (50, 30, 1000, 5)
    telemetry = found.of("TELEMETRY")
    assert telemetry is not None
    assert telemetry.projected_per_s is None  # reset: it counts again from the start


def test_a_stream_made_anew_has_no_rate() -> None:
    assert top.rates(WELL, later(1, last_seq=2)).of("EVENTS") is None


def test_the_picture_and_the_rows_hold_what_matters() -> None:
    from rich.console import Console

    full = msgspec.structs.replace(
        later(1, last_seq=110),
        dead_letters=(DeadLetterStats(stream="EVENTS", code="wire.author", letters=3, last_at=NOW),),
        agents={"alive": 4},
    )
    text = io.StringIO()
    Console(file=text, width=80).print(top.picture(full, top.rates(WELL, full), judge.judge(full)))
    shown = text.getvalue()
    for part in ("100 facts messages/s", "4 agents", "EVENTS/projector ×16", "wire.author", "warning: dead letters"):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 80
    table = io.StringIO()
    Output(Format.TABLE, stdout=table, colour=False).rows(top.stream_rows(full, top.rates(WELL, full)))
    assert "MSGS/S" in table.getvalue()


# --- permissions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "subject", "allowed"),
    [
        (None, "a.b", True),
        ({}, "a.b", True),
        ({"allow": ["a.>"]}, "a.b.c", True),
        ({"allow": ["a.>"]}, "a", False),
        ({"allow": ["a.*"]}, "a.b", True),
        ({"allow": ["a.*"]}, "a.b.c", False),
        ({"allow": ["a.b"]}, "a.b", True),
        ({"allow": ["a.b"]}, "a", False),
        ({"allow": ["a.>"], "deny": ["a.b"]}, "a.b", False),
        ({"deny": ["x.>"]}, "a.b", True),
        ({"allow": ["a.b queue"]}, "a.b", True),
    ],
)
def test_permissions_are_read_as_the_server_means_them(
    rules: dict[str, Any] | None, subject: str, allowed: bool
) -> None:
    assert permissions.may(rules, subject) is allowed


def test_what_the_services_need_includes_the_trimmers_update() -> None:
    wanted = topology.load(assets.streams_dir(), "production")
    publish, subscribe = permissions.needed(wanted, trims=True, inbox="_INBOX.x")
    update = f"$JS.API.STREAM.UPDATE.{subjects.EVENTS}"
    assert publish - permissions.needed(wanted, trims=False, inbox="_INBOX.x")[0] == {update}
    # Enough to project, to decide and to answer, as an operator would grant it before there was a trimmer.
    api = [
        "INFO",
        "STREAM.INFO.*",
        "STREAM.MSG.GET.*",
        "STREAM.PURGE.SNAPSHOTS",
        "STREAM.PURGE.TIMERS",
        "DIRECT.GET.>",
        "CONSUMER.>",
    ]
    rules = {"allow": [*(f"$JS.API.{a}" for a in api), "$JS.ACK.>", "coord.>"]}
    assert [s for s in publish if not permissions.may(rules, s)] == [update]
    assert all(permissions.may({"allow": ["_INBOX.>", "coord.>"]}, s) for s in subscribe)


async def test_facts_that_come_while_it_is_asked_are_no_lost_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    read, later = stream("EVENTS", last_seq=10), stream("EVENTS", last_seq=12)

    async def broker(_conn: Any, *, listen: bool) -> dict[str, Any]:
        return {"streams": (read,)}

    async def database(_pool: Any) -> dict[str, Any]:
        return {"projection": (projection("EVENTS", seq_max=11),)}

    async def again(_conn: Any, name: str) -> StreamStats:
        return later

    for name, asked in (("_ask_broker", broker), ("_ask_database", database), ("_stream", again)):
        monkeypatch.setattr(stats, name, asked)
    snapshot = await stats.collect(cast("Any", None), cast("Any", None))
    assert snapshot.streams[0].last_seq == 12
    assert not [problem for problem in judge.judge(snapshot) if "below a checkpoint" in problem.message]
