"""Arguments of a wrong type: a typed error that names the argument, what it takes, and the choices."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

import coord
from coord import errors
from coord.client.asks import task_of
from coord.client.timers import _when
from coord.core import placement
from coord.wire import arguments, subjects
from coord.wire.flagging import FlagSet
from coord.wire.timing import TimerSet


def flow(**options: Any) -> coord.Workflow:
    written = coord.Workflow("flow")
    written.task("first", "work")
    written.task("second", "work", **options)
    return written


def agent(**options: Any) -> coord.Agent:
    return coord.Agent("a", **options)


def handler(**options: Any) -> None:
    @agent().task("work", **options)
    async def work() -> None: ...


def quotas(**given: Any) -> coord.Quotas:
    return coord.Quotas(**given)


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: placement.parse("round_robin"), "placement takes a coord.Placement, or a mapping .* not str"),  # type: ignore[arg-type]
    (lambda: placement.parse({"strategy": "rr"}), "strategy: .*one of round_robin, least_connections"),
    (lambda: placement.parse(coord.Placement(weights={"load": "x"})), "weights.load: Expected `float`"),  # type: ignore[arg-type]
    (lambda: task_of({"priority": "urgent"}, "i"), "priority: .*one of critical, normal, batch"),
    (lambda: task_of({"retries": "three"}, "i"), "retries: Expected `int"),
    (lambda: task_of({"labels": ["x"]}, "i"), "labels: Expected `object`"),
    (lambda: task_of({"nosuch": 1}, "i"), "not an option of a task: nosuch"),
    (lambda: arguments.moment("2026", "deadline"), "deadline takes an aware datetime, not str"),
    (lambda: arguments.moment(datetime(2026, 11, 22), "at"), "at takes an aware datetime"),
    (lambda: arguments.seconds("5", "deadline_s"), "deadline_s takes seconds"),
    (lambda: arguments.seconds(-1, "deadline_s"), "deadline_s takes seconds"),
    (lambda: _when(None, None, "x", None, None, None), "every_s: Expected"),  # type: ignore[arg-type]
    (lambda: arguments.as_kind(FlagSet(rules=({"agents": 5},)), FlagSet, "a flag"), r"rules\[0\].agents"),  # type: ignore[arg-type]
    (lambda: subjects.check_token(5, "an id"), "an id is a text, not int"),  # type: ignore[arg-type]
    (lambda: agent(capabilities=["work"]), "capabilities takes a mapping .* not list"),
    (lambda: agent(capabilities={"work": "2"}), "a capacity is"),
    (lambda: agent(quotas={"inflight": 1}), "quotas takes a coord.Quotas, not dict"),
    (lambda: agent(quotas=quotas(inflight="1")), "inflight: Expected `int"),
    (lambda: agent(labels=["x"]), "labels takes a mapping"),
    (lambda: agent(needs=5), "needs takes names of signals"),
    (lambda: handler(timeout_s="5"), "timeout_s takes seconds"),
    (lambda: handler(timeout_s=0), "timeout_s is above 0 and at most"),
    (lambda: handler(retries=1001), "retries takes a whole number, 0 to 1000"),
    (lambda: handler(retries=True), "retries takes a whole number"),
    (lambda: handler(preemptible="yes"), "preemptible takes True or False"),
]


@pytest.mark.parametrize(("call", "says"), WRONG)
def test_what_is_wrong_is_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises((errors.InvalidPayload, errors.InvalidToken, errors.SettingsError), match=says):
        call()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"priority": "urgent"}, "priority: .*one of critical, normal, batch"),
        ({"max_parallelism": "5"}, "max_parallelism: Expected `int`"),
        ({"timeout_s": "5"}, "timeout_s: Expected `float"),
        ({"placement": "round_robin"}, "placement: Expected"),
        ({"undo": 5}, "undo: Expected"),
        ({"retries": -1}, "retries is 0 to"),
    ],
)
def test_a_definition_names_the_step_at_fault(options: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.InvalidWorkflow, match=says) as wrong:
        flow(**options).definition()
    assert wrong.value.details["step"] == "second"


def test_one_need_stands_for_a_list_of_it() -> None:
    written = coord.Workflow("flow")
    first = written.task("first", "work")
    written.task("second", "work", needs=first)
    written.task("third", "work", needs="first")
    assert [step.needs for step in written.definition().steps] == [[], ["first"], ["first"]]
    for wrong in (5, None):
        with pytest.raises(errors.InvalidWorkflow, match="needs takes steps"):
            flow(needs=wrong)
    with pytest.raises(errors.InvalidWorkflow):
        written.workflow("inner", 5)  # type: ignore[arg-type]


def test_what_is_right_is_left_as_it_is() -> None:
    told = coord.Placement(strategy="label", values=("eu",), weights=placement.Weights(load=1))
    assert placement.parse(told) == told == placement.parse(placement.data_of(told))
    said = TimerSet(every_s=2)
    assert arguments.as_kind(said, TimerSet, "a timer") == said
    assert task_of({"retries": 1, "labels": {"a": "b"}, "input": "x"}, "i").input == "x"
