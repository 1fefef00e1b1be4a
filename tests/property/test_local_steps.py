"""Lines of local steps: whoever does them, and however far, the workflow comes to the same.

A seed makes a workflow whose steps follow one another, and what each execution of each step comes
to.  It is played with agents that know nothing of local steps, with agents that do all that they are
offered, and with agents that stop anywhere.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from coord import limits
from coord.client.redriving import said_again
from coord.core import flow_definition, flow_view, tasks
from coord.core.flow_definition import UNDO
from coord.core.task_decider import TaskDecider
from coord.wire.work import LocalOutcome, Submission
from tests.property.test_workflow import some_local
from tests.support.flows import World, dump, restored

SEEDS = 90
PER_TEST = 15


def definition(rng: random.Random) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    for number in range(rng.choice([1, 3, 6, 25])):
        step: dict[str, Any] = {"name": f"s{number}", "task": "do", "retries": rng.randint(0, 2), "backoff_s": 0.01}
        names = [other["name"] for other in steps]
        if names:
            step["needs"] = [names[-1], *rng.sample(names, rng.choice([0, 0, min(2, len(names))]))]
            step["needs"] = list(dict.fromkeys(step["needs"]))
            dice = rng.random()
            other = rng.choice(names)
            if dice < 0.2:
                step["input"] = f"$steps.{other}.output"
            elif dice < 0.5:
                step["input"] = {
                    "n": f"$steps.{other}.output.n", "s": f"$steps.{names[-1]}.status", "e": f"$steps.{other}.error",
                    "k": ["$input.k", "$$x", "$workflow.id", "$input.none"],
                }  # fmt: skip
            elif dice < 0.6:
                step["input"] = "$input"
            if rng.random() < 0.15:
                step["when"] = rng.choice(
                    [f"steps.{other}.output.n > 2", f"exists(steps.{names[-1]}.output)", "input.k == 1", "input.k > 5"]
                )
        if rng.random() < 0.1:
            step["optional"] = True
        if rng.random() < 0.2:
            step["undo"] = {"task": "undo", "retries": 0}
        steps.append(step)
    some_local(rng, steps)
    return {"name": "line", "steps": steps}


class Executions:
    """What each execution of each step comes to: the same for every agent."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.failing = random.Random(seed).choice([0.03, 0.03, 0.03, 0.5])
        self.done: list[tuple[str, int, Any, LocalOutcome]] = []

    def __call__(self, step: str, given: Any) -> LocalOutcome:
        number = sum(name == step for name, *_ in self.done)
        rng = random.Random(f"{self.seed}/{step}/{number}/{given}")
        dice = rng.random()
        outcome = LocalOutcome(step=step, output={"n": rng.randint(0, 9), "pad": "x" * rng.choice([0, 0, 3_000])})
        if step.startswith(UNDO):
            outcome = LocalOutcome(step=step)
        elif dice < self.failing:
            outcome = LocalOutcome(step=step, error="Boom", message="no")
        elif dice < self.failing + 0.01:
            outcome = LocalOutcome(step=step, error="rejected", message="never", final=True)
        self.done.append((step, number, given, outcome))
        return outcome


def play(seed: int, honours: str) -> tuple[World, Executions]:
    rng = random.Random(seed)
    said = definition(rng)
    given = {"k": rng.randint(0, 2), "pad": "y" * rng.choice([0, 9_000])}
    world, executions = World(random.Random(seed)), Executions(seed)
    stops = random.Random(f"{seed}/{honours}")
    world.start(said, given)
    world.settle()
    while world.decider.open_count():
        open_tasks = world.open_tasks()
        if not open_tasks:
            world.fact("x", "other", "note", "n", "said", later_s=60)
            world.tick()
            world.settle()
            continue
        (task,) = open_tasks
        submitted = next(f for f in world.log if f.seq == task.submitted_seq).decode(Submission)
        outcome = executions(task.id, submitted.input)
        if outcome.error is None:
            most = {"never": 0, "always": 99}.get(honours, stops.randint(0, 3))
            world.do_line(task, executions, most=most, output=outcome.output)
        elif outcome.error == "rejected":
            world.claim(task)
            world.fact("w", task.key, "task", task.id, "rejected", data={"reason": outcome.message})
        else:
            world.fail(task, final=False)
        world.settle()
        if honours == "some" and stops.random() < 0.2:
            world.crash()
            world.settle()
    return world, executions


def came_to(world: World, executions: Executions) -> Any:
    view = flow_view.view([f for f in world.log if f.key == "w1"])
    assert view is not None
    end = [(f.event, f.data) for f in world.of("w1", "workflow") if f.event != "started"]
    return end, [(step.name, step.status) for step in view.steps], view.undo, executions.done


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_whoever_does_them_the_workflow_comes_to_the_same(first: int) -> None:
    local = 0
    for seed in range(first, first + PER_TEST):
        plain, *others = (play(seed, honours) for honours in ("never", "always", "some"))
        for other in others:
            assert came_to(*other) == came_to(*plain), f"seed {seed}"
            failed = any(outcome.error for *_, outcome in other[1].done)
            assert failed or len(other[0].log) <= len(plain[0].log), f"seed {seed}: it costs more facts"
        world = others[0][0]
        local += sum(len(f.data.get("then", [])) for f in world.of("w1", "task", "completed"))
        for fact in world.of("w1", "task", "submitted"):
            then = fact.decode(Submission).then
            assert len(then) <= limits.LOCAL_STEPS_MAX
            assert sum(len(msgspec.json.encode(one)) for one in then) <= limits.LOCAL_BYTES_MAX
        decider, owed = restored(world.log)
        assert not owed.take(), f"seed {seed}: a replay states something else"
        assert dump(decider) == dump(world.decider)
    assert local > PER_TEST // 3, "lines were done in one go"


@pytest.mark.parametrize(
    "then",
    [
        [{"step": "c"}],
        [{"step": "b"}, {"step": "b"}],
        [{"step": "b"}, {"step": "c"}, {"step": "d"}],
        [{"step": "b", "error": "Boom"}, {"step": "c"}],
        [{"step": "undo_a"}],
        [{"step": "b", "error": ""}],
        [{"step": "b", "error": "Boom", "output": 1}],
        "b",
    ],
)
def test_what_was_not_offered_is_refused_like_a_strangers_outcome(then: Any) -> None:
    world = World(random.Random(1))
    steps: list[dict[str, Any]] = [{"name": "a", "task": "do"}]
    steps += [{"name": n, "task": "do", "needs": [b], "local": n != "d"} for b, n in ("ab", "bc", "cd")]
    world.start({"name": "w", "steps": steps})
    world.settle()
    task = world.tasks["w1", "a"]
    world.claim(task)
    world.settle()
    world.fact("w", "w1", "task", "a", "completed", data={"then": then})
    world.settle()
    assert task.status == "claimed"
    _, refused = tasks.fold([f for f in world.log if f.id == "a" and f.kind == "task"])
    malformed = then == "b" or then[0].get("error") == "" or "output" in then[0]
    assert [why.code for _, why in refused] == ["task.malformed" if malformed else "task.not_offered"]
    assert world.submitted() == ["a"]
    both = [{"step": "b", "output": 1}, {"step": "c", "output": 2}]
    world.fact("w", "w1", "task", "a", "completed", data={"then": both})
    world.settle()
    assert world.submitted() == ["a", "d"], "the claim was still held"


def test_what_failed_waits_for_its_backoff_whoever_decides() -> None:
    world = World(random.Random(1))
    steps: list[dict[str, Any]] = [{"name": "a", "task": "do"}, {"name": "b", "task": "do", "needs": ["a"]}]
    steps[1] |= {"local": True, "retries": 2, "backoff_s": 300.0, "backoff_max_s": 1200.0}
    world.start({"name": "w", "steps": steps})
    world.settle()
    failed = LocalOutcome(step="b", error="Boom")
    assert world.do_line(world.tasks["w1", "a"], lambda *_: failed, most=1) == ["b"]
    world.settle()
    world.crash()
    for _ in range(2):
        world.fact("x", "other", "note", "n", "said", later_s=40)
        world.tick()
        world.settle()
        assert world.submitted() == ["a"], "300 s, at least half of them"
    world.fact("x", "other", "note", "n", "said", later_s=300)
    world.tick()
    world.settle()
    assert world.submitted() == ["a", "b"]
    task = world.tasks["w1", "b"]
    assert (task.failures, task.submission.retries) == (1, 2), "the next execution is the second"
    world.fail(task, final=False)
    assert task.retry_at is not None
    assert task.retry_at - world.now >= 300, "the backoff goes on: 600 s, at least half of them"
    world.settle()
    world.fail(task, final=False)
    world.settle()
    assert not world.decider.open_count(), "three executions are used up"


def test_redriven_it_is_a_task_as_any_other() -> None:
    world = World(random.Random(1))
    steps: list[dict[str, Any]] = [{"name": "a", "task": "do"}, {"name": "b", "task": "do", "needs": ["a"]}]
    world.start({"name": "w", "steps": [steps[0], steps[1] | {"local": True}]})
    world.settle()
    task = world.tasks["w1", "a"]
    begun = world.log[task.submitted_seq - 1].data
    assert begun["then"]
    world.fail(task)
    again = said_again(begun | {"failures": 1}, 1)
    world.fact("operator", "w1", "task", "a", "submitted", "do", "normal", data=again)
    assert (task.status, task.failures) == ("queued", 0)
    assert again == {"redrive": 1} | {name: value for name, value in begun.items() if name != "then"}
    world.complete(task)
    assert task.status == "completed", "by whoever goes by what the submission says"


@pytest.mark.parametrize(
    ("error", "fare"),
    [({"error": "Boom"}, (1, 1, 0)), ({"error": "rejected", "final": True}, (1, 0, 1)), ({}, (2, 0, 0))],
)
def test_what_was_done_on_the_way_counts_for_its_capability(error: dict[str, Any], fare: tuple[int, ...]) -> None:
    world = World(random.Random(1))
    steps: list[dict[str, Any]] = [{"name": "a", "task": "first"}]
    steps += [{"name": n, "task": "other", "needs": [b], "local": True} for b, n in ("ab", "bc", "cd")]
    world.start({"name": "w", "steps": steps})
    world.settle()
    world.claim(world.tasks["w1", "a"])
    then = [{"step": "b", "output": 1}, {"step": "c", **error}]
    world.fact("w", "w1", "task", "a", "completed", data={"output": 1, "then": then})
    decider = TaskDecider()
    for fact in world.of("w1", "task"):
        decider.apply(fact)
    found = decider.fares["acme", "other"]
    assert (found.completed, found.failed, found.rejected) == fare
    assert decider.fares["acme", "first"].completed == 1


def test_only_a_decider_offers() -> None:
    world = World(random.Random(1))
    data = {"then": [{"step": "b", "task": "do"}], "failures": 3}
    world.fact("boss", "t", "task", "t", "submitted", "do", "normal", data=data)
    task = world.tasks["t", "t"]
    assert not task.submission.then
    assert not task.failures
    world.claim(task)
    world.fact("w", "t", "task", "t", "completed", data={"then": [{"step": "b"}]})
    assert task.status == "claimed"


def test_a_line_may_last_as_long_as_what_was_begun_in_time() -> None:
    world = World(random.Random(1))
    steps: list[dict[str, Any]] = [{"name": "a", "task": "do", "timeout_s": 5}]
    for before, name, timeout_s in [("a", "b", 60), ("b", "c", 7)]:
        steps.append({"name": name, "task": "do", "needs": [before], "local": True, "timeout_s": timeout_s})
    world.start({"name": "w", "steps": steps})
    world.settle()
    assert world.tasks["w1", "a"].claim_s == 60 + limits.LOCAL_S
    plain = flow_definition.plan(flow_definition.convert({"name": "w", "steps": steps[:1]}))
    assert plain.steps[0].line == ()
