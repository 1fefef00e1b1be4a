"""What a definition, an input or an output may be at worst: whatever follows is stated, and the workflow ends."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from coord import limits
from coord.core import rules, workflow_life
from coord.core.deciding import State
from coord.core.rules import RuleSet
from coord.wire.flow import RuleTable
from tests.support.flows import World

HALF = "x" * (limits.FLOW_BYTES_MAX // 2)


def begun(*steps: dict[str, Any], input: Any = None, **more: Any) -> World:  # noqa: A002
    w = World(random.Random(1))
    w.start({"name": "w", "steps": list(steps), **more}, input)
    w.settle()
    return w


def outcome(w: World) -> tuple[str, str | None]:
    life, _ = workflow_life.fold(w.of("w1", "workflow"))
    assert life is not None
    return life.status, life.error


def test_all_parts_of_a_fan_out_may_fail_at_once() -> None:
    """They did so one inside the other, which ends at a thousand frames; the workflow was never heard of again."""
    each = {"name": "each", "task": "do", "for_each": "$input.of", "optional": True, "input": ["$input.x", "$input.x"]}
    w = begun(each, {"name": "last", "task": "do", "input": 1}, input={"of": [0] * 700, "x": HALF})
    assert w.submitted() == ["last"]
    w.complete(w.tasks["w1", "last"])
    w.settle()
    assert outcome(w) == ("completed", None)


def test_a_mapping_is_not_put_together_for_gigabytes() -> None:
    wide = ["$input.x"] * 50_000
    w = begun({"name": "a", "task": "do", "input": wide}, input={"x": HALF})
    assert outcome(w) == ("failed", "workflow.too_large")
    w = begun({"name": "a", "sleep_s": 0.1}, input={"x": HALF}, output={"all": wide})
    w.fact("_timer", "w1", "timer", "a", "fired", later_s=1.0)
    w.settle()
    assert outcome(w) == ("failed", "workflow.too_large")


@pytest.mark.parametrize("output", [["$input.x"] * 3, ["$input.x"] * 50_000], ids=["few", "many"])
def test_a_decision_that_is_too_large_is_none(output: Any) -> None:
    """It was not stated, and the step waited for it for ever."""
    rule = {"rules": [{"output": output}]}
    w = begun({"name": "a", "decide": rule}, input={"x": HALF})
    assert outcome(w) == ("failed", rules.TOO_LARGE)
    assert rules.Table(msgspec.convert(rule, RuleTable)).decide({"x": HALF}).error == rules.TOO_LARGE


def test_a_sub_workflow_that_is_too_large_to_be_started_fails() -> None:
    """Its start was not stated, and the step waited for it for ever."""
    child = {"name": "c", "steps": [{"name": "b", "task": "do", "input": "y" * 500_000}]}
    w = begun({"name": "a", "task": "do"}, {"name": "sub", "workflow": child, "needs": ["a"]})
    w.complete(w.tasks["w1", "a"], HALF)
    w.settle()
    assert outcome(w) == ("failed", "workflow.too_large")


def again(w: World, stated: Any) -> list[State]:
    found = list(w.decider.edge(stated))
    assert found
    return [effect for effect in found if isinstance(effect, State)]


def test_a_cancelled_workflow_does_not_go_on_because_it_was_about_to_be_stated_again() -> None:
    w = begun({"name": "a", "sleep_s": 5.0}, {"name": "charge", "task": "do", "needs": ["a"]})
    (late,) = again(w, 2)
    w.fact("boss", "w1", "workflow", "w1", "cancelled", data={})
    w.settle()
    assert w.decider.open_count() == 0
    w.state(late)
    w.settle()
    w.fact("me", "other", "task", "t", "submitted", "do", "normal", data={}, later_s=60.0)
    w.tick()
    w.settle()
    assert w.submitted() == []
    assert (w.decider.open_count(), outcome(w)) == (0, ("cancelled", "cancelled"))


def test_a_table_is_what_was_set_last_though_the_one_before_is_stated_again_behind_it() -> None:
    w = World(random.Random(1))
    w.fact("me", "t", "rules", "t", "set", data={"rules": [{"output": "old"}]})
    w.settle()
    (late,) = again(w, 2)
    w.fact("me", "t", "rules", "t", "set", data={"rules": [{"output": "new"}]})
    w.settle()
    w.state(late)
    w.start({"name": "w", "steps": [{"name": "a", "decide": "t"}]})
    w.settle()
    (ended,) = w.of("w1", "workflow", "completed")
    assert ended.data == {"output": "new"}
    stated = w.of("t", "rules", "set")
    for since in range(3):  # also for whoever begins to read at the old one
        found = RuleSet("acme", "t")
        for fact in stated[since:]:
            assert found.apply(fact) is None
        assert found.said.rules[0].output == "new", since


@pytest.mark.parametrize("cancels", [False, True])
def test_more_is_undone_than_a_fact_can_name(cancels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not stated, and nothing of its partition was decided any more."""
    monkeypatch.setattr(limits, "FLOW_NAMED_MAX", 4)
    each = {"name": "each", "task": "do", "undo": {"task": "undo"}, "for_each": [0] * 6, "max_parallelism": 6}
    w = begun(each, {"name": "last", "task": "do", "needs": ["each"]})
    for n in range(6):
        w.complete(w.tasks["w1", f"each-{n}"])
    w.settle()
    if cancels:
        w.fact("boss", "w1", "workflow", "w1", "cancelled")
    else:
        w.fail(w.tasks["w1", "last"])
    w.settle()
    for n in reversed(range(6)):
        w.complete(w.tasks["w1", f"undo_each-{n}"])
        w.settle()
    said = {fact.event: fact.data for fact in w.of("w1", "workflow") if isinstance(fact.data, dict)}
    end = said["compensated" if cancels else "failed"]
    assert (len(said["compensating"]["undo"]), said["compensating"]["unnamed"]) == (4, 2)
    assert (end["undone"], end["unnamed"]) == (["each-5", "each-4", "each-3", "each-2"], 2)
