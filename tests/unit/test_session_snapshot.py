"""A decider whose state cannot be packed costs its partition the snapshot, and nothing else."""

from __future__ import annotations

from typing import Any, cast

from prometheus_client import CollectorRegistry

from coord.core.deciding import Decider, Folding
from coord.server.session import Session
from coord.telemetry.metrics import Metrics
from tests.support.waiting import until


class _Unpackable(Folding):
    name = "unpackable"
    kinds = frozenset({"task"})

    def dump(self) -> Any:
        return 10**30  # no integer of MessagePack


async def test_a_state_that_cannot_be_packed_ends_no_session() -> None:
    metrics = Metrics(CollectorRegistry())
    session = Session(0, cast("Any", None), cast("Any", None), metrics, lambda: 0.0)
    session.deciders = [cast("Decider", _Unpackable())]
    session.position = 7
    session._saved_at = float("-inf")
    session._save_if_due()
    labels = {"outcome": "failed"}
    await until(lambda: metrics.registry.get_sample_value("coord_decider_snapshots_total", labels))
    assert session._saving is None
    assert not session._failed.done()
    session.end()
