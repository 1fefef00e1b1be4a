"""Entities without a table are folded as their deciders fold them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from coord.core.capability import CapabilityDecider
from coord.core.workflow import WorkflowDecider
from coord.projector.entities import Judge
from coord.wire import subjects
from coord.wire.envelope import StoredFact

T0 = datetime(2026, 11, 1, tzinfo=UTC)


def fact(seq: int, kind: str, event: str, data: Any = None, *, id_: str, agent: str = "_x", **more: Any) -> StoredFact:
    key, detail = more.get("key", id_), more.get("detail", ())
    return StoredFact(
        "acme", agent, key, kind, id_, event, detail, subjects.partition(key), seq, 0, T0 + timedelta(seconds=seq), T0,
        f"e{seq}", f"coord.{kind}.{event}", 1, None, None, None, msgspec.json.encode(data), "json",
    )  # fmt: skip


def test_a_circuit_is_what_its_decider_says() -> None:
    decider = CapabilityDecider(subjects.partition("search"))
    judge = Judge("capability", ("acme", "search", "search"))
    told = [
        ("closed", "1", False), ("opened", "x", False), ("opened", "2", False), ("opened", "1", True),
        ("opened", "1", False), ("probing", "1", True), ("opened", "2", True), ("closed", "1", False),
        ("closed", "2", True),
    ]  # fmt: skip
    for seq, (event, n, believed) in enumerate(told, 1):
        stated = fact(seq, "capability", event, id_="search", detail=(n,))
        list(decider.apply(stated))
        assert (judge.apply(1, stated) is None) == believed, (event, n)
        if judge.known:
            assert [judge.fold.state] == list(decider.states())
    assert (judge.known, judge.fold.status, judge.fold.state.n) == (True, "closed", 2)
    assert (
        Judge("capability", ("acme", "k", "x")).apply(1, fact(1, "capability", "opened", id_="x", key="k")) is not None
    )


def test_a_decision_table_is_what_its_decider_says() -> None:
    decider = WorkflowDecider()
    judge = Judge("rules", ("acme", "where", "where"))
    rules: dict[str, Any] = {"rules": [{"output": "eu"}]}
    told = [
        ({"rules": [{"output": "us"}]}, "ann", True), (None, "ann", False), ({"rules": "none"}, "ann", False),
        (rules | {"version": "2"}, "bob", True), (rules | {"version": "3", "restated": 1}, "ann", False),
        (rules | {"version": "2", "restated": 1}, "_workflow", True),
    ]  # fmt: skip
    for seq, (said, agent, believed) in enumerate(told, 1):
        stated = fact(seq, "rules", "set", said, id_="where", agent=agent)
        list(decider.apply(stated))
        assert (judge.apply(1, stated) is None) == believed, said
    list(decider.apply(fact(9, "rules", "set", rules, id_="where", key="elsewhere")))
    assert (judge.fold.said.version, judge.fold.said.restated) == ("2", 1)
    assert msgspec.to_builtins(decider.dump())["tables"] == [msgspec.to_builtins(judge.fold)]
    assert msgspec.to_builtins(judge.fold)["name"] == "where", "as snapshots have it"
    assert decider.refused == {"rules.invalid": 3, "rules.key": 1}
