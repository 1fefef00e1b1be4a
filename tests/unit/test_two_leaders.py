"""A stream with copies that two servers lead for a moment: "nothing" from the older one skips no fact.

The answers are planted: INFO comes from the new leader, who has a fact at 95 of 100, and MSG.GET
from one that was cut off at 90 and does not know it yet.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.bus import direct
from coord.core.checkpoint import Checkpoint
from coord.core.subscription import Position
from coord.projector.config import ProjectorConfig
from coord.projector.partition import PartitionProjector
from coord.projector.strays import Strays
from coord.query.reader import LogReader
from coord.store import checkpoints
from coord.telemetry.metrics import Metrics
from coord.wire import subjects

CREATED = "2026-01-01T00:00:00Z"
STORED = "2026-01-01T00:01:00Z"
FACT = 95


class Broker:
    """Answers as whoever `info_by` and `get_by` name: n1 leads and has everything, n0 ends at 90."""

    def __init__(self, *, copies: int = 3) -> None:
        self.copies = copies
        self.last = 100
        self.info_by = ["n1"]
        """Taken one by one; the last one stays."""
        self.get_by = ["n1"]
        self.is_connected = True
        self.epoch = 0

    def new_inbox(self) -> str:
        return "_INBOX"

    def on_disconnected(self, _: Any) -> Any:
        return lambda: None

    async def api(self, request: str, payload: Any = None, **_: Any) -> dict[str, Any]:
        if request.startswith("STREAM.INFO"):
            by = self._by(self.info_by)
            return {
                "created": CREATED,
                "config": {"num_replicas": self.copies},
                "cluster": {"leader": by, "leader_since": "then"},
                "state": {
                    "messages": self.last, "first_seq": 1, "last_seq": self.last if by == "n1" else 90,
                    "first_ts": CREATED, "last_ts": STORED,
                },
            }  # fmt: skip
        # `last_by_subj` asks for the newest; no number is beyond it.
        if self._by(self.get_by) == "n1" and payload.get("seq", 0) <= FACT:
            return {"message": {"seq": FACT, "subject": "coord.log.3.t.e.n.i.a.said", "time": STORED, "data": ""}}
        raise errors.ApiNotFound(server_code=10037)

    def _by(self, names: list[str]) -> str:
        return names.pop(0) if len(names) > 1 else names[0]


class Writer:
    def __init__(self) -> None:
        self.moves: list[int] = []

    async def advance(self, _: Checkpoint, moved: Checkpoint) -> None:
        self.moves.append(moved.seq)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def partition(broker: Broker, at: int) -> tuple[PartitionProjector, Writer]:
    writer: Any = Writer()
    conn: Any = broker
    pool: Any = None
    projector = PartitionProjector(
        subjects.EVENTS, 3, conn, pool, writer, ProjectorConfig(), Metrics(CollectorRegistry())
    )
    projector.checkpoint = Checkpoint(
        stream=subjects.EVENTS, partition=3, seq=at, epoch=1,
        stream_created=datetime.fromisoformat(CREATED), stored_at=None,
    )  # fmt: skip
    return projector, writer


async def test_a_leader_of_before_does_not_move_an_idle_checkpoint_over_a_fact(broker) -> None:
    projector, writer = partition(broker, at=90)
    broker.get_by = ["n0", "n1"]
    for _ in range(3):
        await projector._follow_end()
    assert writer.moves == []


async def test_an_idle_checkpoint_moves_where_the_same_leader_was_a_look_ago(broker) -> None:
    projector, writer = partition(broker, at=FACT)
    await projector._follow_end()
    broker.last = 120
    await projector._follow_end()
    await projector._follow_end()
    assert writer.moves == [100, 120]


async def test_a_change_of_leader_begins_anew(broker) -> None:
    projector, writer = partition(broker, at=FACT)
    broker.info_by = ["n1", "n0", "n1"]
    await projector._follow_end()
    with contextlib.suppress(errors.ProjectionStopped):  # its stream ends before the checkpoint
        await projector._follow_end()
    await projector._follow_end()
    assert writer.moves == []
    await projector._follow_end()
    assert writer.moves == [100]


async def test_without_copies_one_look_is_enough() -> None:
    projector, writer = partition(Broker(copies=1), at=FACT)
    await projector._follow_end()
    assert writer.moves == [100]


# --- strays ------------------------------------------------------------------------------


class Pool:
    """A database whose checkpoint is of the stream."""

    @contextlib.asynccontextmanager
    async def acquire(self) -> Any:
        yield self

    async def fetchval(self, *_: Any) -> int:
        return 90


async def test_a_stray_is_not_passed_by_on_the_word_of_a_leader_of_before(broker, monkeypatch) -> None:
    parked = []
    unused: Any = None
    pool: Any = Pool()
    conn: Any = broker

    async def checkpoint(*_: Any) -> Checkpoint:
        known = partition(broker, at=90)[0].checkpoint
        assert known is not None
        return known

    async def park(_: Strays, message: direct.StoredMessage) -> None:
        parked.append(message.seq)

    monkeypatch.setattr(checkpoints, "read", checkpoint)
    monkeypatch.setattr(Strays, "_park", park)
    sweeper = Strays(subjects.EVENTS, conn, pool, unused, unused, lambda: True)
    broker.get_by = ["n0", "n1"]
    for _ in range(4):
        await sweeper.sweep()
    assert parked == [FACT]
    assert sweeper._seq == 100


# --- the reader --------------------------------------------------------------------------


async def dry_read(broker: Broker) -> int:
    """Where a page goes on whose batch a replica answered that ends at 90."""
    conn: Any = broker
    reader = LogReader(conn)

    async def batch(*_: Any, **__: Any) -> direct.Batch:
        return direct.Batch([], 0)

    reader._direct.batch = batch  # type: ignore[method-assign]
    page = await reader.read((subjects.LOG_ALL,), Position(91))
    await reader.close()
    return page.next.seq


async def test_a_page_ends_before_what_only_a_leader_of_before_vouched_for(broker) -> None:
    broker.info_by = ["n1", "n1", "n0"]
    broker.get_by = ["n0"]
    assert await dry_read(broker) == 91


async def test_a_page_gains_what_the_leader_has(broker) -> None:
    assert await dry_read(broker) == FACT + 1


def test_when_it_began_to_lead_belongs_to_who_leads() -> None:
    info: dict[str, Any] = {"config": {"num_replicas": 3}, "cluster": {"leader": "n1", "leader_since": STORED}}
    assert direct.leadership(info).startswith("n1 2026")
    assert direct.leadership(info | {"config": {"num_replicas": 1}}) == ""
