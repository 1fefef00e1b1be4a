"""A decider's defect costs its partition the snapshot, or the decider a history, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from coord.core.deciding import Decider, Folding
from coord.server import history
from coord.server.session import Session
from coord.telemetry.metrics import Metrics
from coord.wire.envelope import StoredFact
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


class _Forgetful(Folding):
    name = "forgetful"
    kinds = frozenset({"task"})

    def recall(self, facts: Any) -> None:
        raise ValueError(facts)


async def test_a_history_that_cannot_be_recalled_does_not_stand_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(CollectorRegistry())
    session = Session(0, cast("Any", None), cast("Any", None), metrics, lambda: 0.0)
    told: list[Any] = []

    async def entity(*_: Any, below: int) -> list[int]:
        return [below]

    monkeypatch.setattr(history, "entity", entity)
    well = _Forgetful()
    monkeypatch.setattr(well, "recall", told.append, raising=False)
    fact = cast("StoredFact", SimpleNamespace(tenant="t", key="k", kind="task", id="k", seq=9))
    session._recall(fact, [cast("Decider", _Forgetful()), cast("Decider", well)])
    await until(lambda: not session._paused, 10)
    assert (told, session._recalled_seq, session._failed.done()) == ([[9]], 9, False)
    assert metrics.registry.get_sample_value("coord_decider_defects_total", {"decider": "forgetful"}) == 1
    session.end()
