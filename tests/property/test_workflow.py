"""Random workflows, agents that do what they like, crashes, repetitions: what must hold of every history.

A seed makes a definition, plays it to its end and checks the log with rules that know nothing of how
the decider works.  The seed is in the test's name and in its messages.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from typing import Any

import msgspec
import pytest

from coord.core import flow_definition, flow_rerun, workflow_life
from coord.core.flow_definition import UNDO
from coord.core.tasks import Task
from coord.errors import InvalidWorkflow, WorkflowNotOver
from coord.wire import flow as said
from coord.wire.envelope import StoredFact
from coord.wire.work import LocalOutcome
from tests.support.flows import AGENT, World, dump, restored

SEEDS = 60
PER_SEED = 4


def definition(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random workflow: mostly tasks."""
    steps: list[dict[str, Any]] = []
    priority = rng.choice(["critical", "normal", "batch"])
    for number in range(rng.randint(1, 7 - 3 * depth)):
        step: dict[str, Any] = {"name": f"s{number}"}
        before = [other["name"] for other in steps]
        if before:
            # Lines, on which steps can be local, are as frequent as anything else.
            in_line = rng.random() < 0.4
            step["needs"] = before[-1:] if in_line else rng.sample(before, rng.randint(0, min(3, len(before))))
        kind = rng.choices(["task", "workflow", "signal", "decide", "sleep"], [10, 1 - depth, 1, 1, 1])[0]
        if kind == "task":
            step |= {
                "task": "do",
                "retries": rng.randint(0, 2),
                "priority": priority,
            }
        elif kind == "workflow":
            step["workflow"] = definition(rng, depth + 1)
        elif kind == "signal":
            step |= {"signal": f"sig{rng.randint(0, 1)}", "approval": rng.random() < 0.3}
            if rng.random() < 0.5:
                step["timeout_s"] = 60
        elif kind == "decide":
            step["decide"] = "table" if rng.random() < 0.5 else {"rules": [{"output": 1}]}
        else:
            step["sleep_s"] = rng.choice([1, 100])
        if kind in ("task", "workflow"):
            if rng.random() < 0.3:
                step |= {"for_each": list(range(rng.choice([0, 1, 5]))), "max_parallelism": rng.randint(1, 3)}
            if rng.random() < 0.4:
                step["undo"] = {"task": "undo", "retries": 0}
        if rng.random() < 0.15:
            step["optional"] = True
        if before and rng.random() < 0.25:
            name = rng.choice(before)
            step["when"] = f'steps.{name}.status {rng.choice(["==", "!="])} "completed"'
        steps.append(step)
    rng.shuffle(steps)
    some_local(rng, steps)
    return {"name": f"w{depth}", "version": str(rng.randint(1, 3)), "steps": steps}


def some_local(rng: random.Random, steps: list[dict[str, Any]]) -> None:
    """Make some of the steps local that can be."""
    for step in steps:
        if "task" in step and rng.random() < 0.7:
            step["local"] = True
            try:
                flow_definition.plan(flow_definition.convert({"name": "w", "steps": steps}))
            except InvalidWorkflow:
                del step["local"]


class Play:
    """One history."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(self.rng, forgetful=self.rng.random() < 0.3)
        self.snapshots: list[tuple[int, bytes]] = [(0, dump(self.world.decider))]
        self.dies = self.rng.random() < 0.7
        self.failing = self.rng.choice([0.02, 0.15])
        self.again = random.Random(f"again {seed}")
        """What reruns are made of."""

    def run(self) -> World:
        w, rng = self.world, self.rng
        if rng.random() < 0.5:
            w.fact("boss", "table", "rules", "table", "set", data={"rules": [{"output": {"x": 1}}]})
        w.start(definition(rng), input={"a": 1})
        early = self.again.choice([0, 40, 200])
        for turn in range(30_000):
            self._something()
            if turn == early:
                self._rerun("w1", "w2")
            if not w.unstated and w.folded == len(w.log) and not w.decider.open_count() and not self._rerun("w1", "w3"):
                break
        w.settle()
        return w

    def _rerun(self, of: str, id: str) -> bool:  # noqa: A002
        """Go on from where a workflow got to, in another one; whether one was started."""
        w = self.world
        facts = [f for f in w.log if f.key == of]
        if any(f.key == id for f in w.log):
            return False
        flow = flow_rerun.reached(facts)
        assert flow is not None
        plan = flow_definition.plan(flow_definition.decode(flow.definition))
        since = self.again.sample(sorted(plan.by_name), self.again.randint(0, 1))
        try:
            taken = flow_rerun.take_over(flow, plan, since)
        except WorkflowNotOver:
            assert not flow.life.ended or flow.life.status == "cancelled"
            return False
        rerun = msgspec.json.decode(msgspec.json.encode(said.Rerun(of=of, since=since, steps=taken)))
        w.start(msgspec.json.decode(flow.definition), msgspec.json.decode(flow.input), id, rerun=rerun)
        return True

    def _something(self) -> None:
        w, rng = self.world, self.rng
        dice = rng.random()
        if dice < 0.35:
            w.fold(rng.randint(1, 4))
        elif dice < 0.6:
            w.say(rng.randint(1, 3), twice=rng.random() < 0.2)
        elif dice < 0.92:
            self._agent()
        elif dice < 0.96:
            self._outside()
        elif dice < 0.975 and self.dies:
            at, dumped = rng.choice(self.snapshots)
            w.crash(at, dumped)
        elif not w.unstated:
            # A snapshot is as of a fact whose statements are all in the log.
            self.snapshots.append((w.folded, dump(w.decider)))

    def _agent(self) -> None:
        w, rng = self.world, self.rng
        tasks = w.open_tasks()
        if not tasks:
            return
        task = rng.choice(tasks)
        if task.free:
            w.claim(task)
            return
        dice = rng.random()
        if dice < self.failing:
            w.fail(task, final=rng.random() < 0.3)
        elif dice < self.failing + 0.02:
            w.fact("w", task.key, "task", task.id, "rejected", data={"reason": "no"})
        elif dice < self.failing + 0.08:
            w.fact("_task", task.key, "task", task.id, "released", str(task.claims), data={"reason": "gone"})
        else:
            w.do_line(task, self._local, most=rng.choice([0, 1, 20]), output={"from": task.id})

    def _local(self, step: str, _: Any) -> LocalOutcome:
        if self.rng.random() < self.failing:
            return LocalOutcome(step=step, error="Boom", message="no", final=self.rng.random() < 0.5)
        return LocalOutcome(step=step, output={"from": step})

    def _outside(self) -> None:
        """Signals, times, and now and then a cancellation or somebody's mischief."""
        w, rng = self.world, self.rng
        dice = rng.random()
        keys = sorted({f.key for f in w.log if f.kind == "workflow"})
        key = rng.choice(keys)
        if dice < 0.4:
            data = {"data": {"approved": rng.random() < 0.9}}
            w.fact("human", key, "signal", f"sig{rng.randint(0, 1)}", "raised", data=data)
        elif dice < 0.9:
            w.fact("x", "other", "note", "n", "said", later_s=rng.choice([1, 30, 120]))
            w.tick()
        elif dice < 0.93:
            w.fact("boss", "w1", "workflow", "w1", "cancelled", data={"reason": "enough"})
        elif dice < 0.96:
            w.fact("mallory", key, "task", f"s{rng.randint(0, 6)}", "completed", data={"output": "forged"})
        elif dice < 0.98:
            w.fact("mallory", key, "task", f"s{rng.randint(0, 6)}", "cancelled", data={})
        else:
            w.fact("mallory", key, "workflow", key, "cancelled", data={})


# --- what must hold ---------------------------------------------------------------------------


def check(w: World, seed: int) -> None:
    keys = sorted({f.key for f in w.log if f.kind == "workflow"})
    for key in keys:
        own = [f for f in w.log if f.key == key]
        started = next(f for f in own if f.kind == "workflow" and f.event == "started")
        _check_end(own, key, seed)
        _check_tasks(own, started.data["definition"], seed)
        _check_undone(own, started.data["definition"], seed)
        if "rerun" in started.data:
            _check_rerun(w, own, started, seed)
    assert w.decider.open_count() == 0, f"seed {seed}: a workflow never ended"


def _check_rerun(w: World, own: list[StoredFact], started: StoredFact, seed: int) -> None:
    """What it took over had ended and holds; it is not done again, nor undone, and what is left runs or is skipped."""
    rerun = started.data["rerun"]
    steps = {step["name"]: step for step in started.data["definition"]["steps"]}
    before = [f for f in w.log if f.key == rerun["of"] and f.seq < started.seq]
    ever = [f for f in w.log if f.key == rerun["of"] and f.kind == "task" and f.agent == AGENT]
    undone = {_step_of(f.id, steps) for f in ever if f.id.startswith(UNDO)}
    ended = {_step_of(f.id, steps) for f in before if f.kind == "task" and f.event == "completed"}
    ended |= {outcome["step"] for f in before if f.event == "completed" for outcome in (f.data or {}).get("then", [])}
    for name, over in rerun.get("steps", {}).items():
        assert name not in undone, f"seed {seed}: {name} was undone"
        if (
            over.get("status", "completed") == "completed"
            and "task" in steps[name]
            and steps[name].get("for_each") != []
        ):
            assert name in ended, f"seed {seed}: {name} was never done"
        assert not set(rerun.get("from", [])) & {name, *steps[name].get("needs", [])}, (
            f"seed {seed}: {name} comes after"
        )
    for fact in own:
        if (
            fact.agent == AGENT
            and fact.kind in ("task", "timer", "signal")
            and fact.event in ("submitted", "set", "awaited")
        ):
            name = fact.detail[0] if fact.kind == "signal" else fact.id
            assert _step_of(name, steps) not in rerun.get("steps", {}), f"seed {seed}: {name} again"
    life, _ = workflow_life.fold([f for f in own if f.kind == "workflow"])
    assert life is not None
    if life.status == "completed":
        for name in rerun.get("from", []):
            what = steps[name]
            began = [f for f in own if f.agent == AGENT and f.id.startswith(name) and f.event == "submitted"]
            gone_on = "task" not in what or what.get("local") or what.get("when") or what.get("needs") or began
            assert gone_on or what.get("for_each") == [] or what.get("optional"), f"seed {seed}: {name} did not run"


def _check_end(own: list[StoredFact], key: str, seed: int) -> None:
    facts = [f for f in own if f.kind == "workflow"]
    life, _ = workflow_life.fold(facts)
    assert life is not None, seed
    assert life.ended, f"seed {seed}: {key} has not ended"
    one = workflow_life.Workflow(tenant="acme", id=key)
    ends = [f for f in facts if one.apply(f) is None and f.event in workflow_life.ENDED]
    assert len(ends) == 1, f"seed {seed}: it ends once"
    after = [f for f in own if f.seq > ends[0].seq and f.kind == "task" and f.event == "submitted"]
    if ends[0].event == "cancelled":
        # What was stated before the decider had read of it; and what undoes.
        heard = [f for f in after if not f.id.startswith(UNDO)]
        tasks = {f.id: _fold(own, f.id) for f in heard}
        assert all(t.ended for t in tasks.values()), f"seed {seed}: nothing goes on"
    else:
        assert not after, f"seed {seed}: nothing begins after the end"


def _fold(own: list[StoredFact], name: str) -> Task:
    task = Task(tenant="acme", key="", id=name)
    for fact in own:
        if fact.kind == "task" and fact.id == name:
            task.apply(fact)
    return task


def _check_tasks(own: list[StoredFact], defined: dict[str, Any], seed: int) -> None:
    """Submitted once, on met dependencies, within the parallelism, and everything ends."""
    steps = {step["name"]: step for step in defined["steps"]}
    tasks: dict[str, Task] = {}
    running: dict[str, set[str]] = defaultdict(set)
    over: set[str] = set()
    joined: set[str] = set()
    submitted: set[str] = set()
    local: dict[str, bool] = {}
    for fact in own:
        if fact.kind == "workflow" and fact.event == "joined":
            joined.add(fact.detail[0])
        if fact.kind != "task":
            continue
        task = tasks.setdefault(fact.id, Task(tenant="acme", key="", id=fact.id))
        refused = task.apply(fact)
        step = _step_of(fact.id, steps)
        if fact.event == "submitted" and fact.agent == AGENT and refused is None:
            assert fact.id not in submitted, f"seed {seed}: {fact.id} once"
            submitted.add(fact.id)
            if fact.id.startswith(UNDO):
                continue
            for need in steps[step].get("needs", []):
                assert not running[need], f"seed {seed}: {fact.id} while {need} runs"
                ended = _has_ended(need, steps, tasks, joined, local, own, fact.seq)
                assert ended, f"seed {seed}: {fact.id} before {need}"
            assert not local.get(fact.id), f"seed {seed}: {fact.id} was done already"
            running[step].add(fact.id)
            if "for_each" in steps[step]:
                assert len(running[step]) <= steps[step]["max_parallelism"], f"seed {seed}: {step}"
        if task.ended and refused is None:
            running[step].discard(fact.id)
            over.add(fact.id)
            if task.status == "completed":
                _check_local(fact, steps, tasks, joined, local, own, seed)
    assert {name for name, task in tasks.items() if task.submitted_seq} == over, f"seed {seed}: every task ends"


def _check_local(
    fact: StoredFact, steps: dict[str, Any], tasks: dict[str, Task], joined: set[str], local: dict[str, bool],
    own: list[StoredFact], seed: int,
) -> None:  # fmt: skip
    """What an agent went on with: each once, after what it needs.  `local`: whether a local step is over."""
    for outcome in fact.data.get("then", []):
        name = outcome["step"]
        step = steps[name]
        assert step.get("local"), f"seed {seed}: {name} is local"
        assert name not in local, f"seed {seed}: {name} was executed locally twice"
        assert name not in tasks or not tasks[name].submitted_seq, f"seed {seed}: {name} is a task of its own"
        for need in step["needs"]:
            ended = _has_ended(need, steps, tasks, joined, local, own, fact.seq)
            assert ended, f"seed {seed}: {name} before {need}"
        local[name] = outcome.get("error") is None or outcome.get("final", False) or not step["retries"]


def _step_of(name: str, steps: dict[str, Any]) -> str:
    name = name.removeprefix(UNDO)
    return name if name in steps else name.rpartition("-")[0]


def _has_ended(
    need: str, steps: dict[str, Any], tasks: dict[str, Task], joined: set[str], local: dict[str, bool],
    own: list[StoredFact], seq: int,
) -> bool:  # fmt: skip
    """Whether a step has ended, as far as that can be told without knowing why others were skipped."""
    step = steps[need]
    if need in local and (local[need] or need not in tasks):
        return local[need]
    parts = [f"{need}-{i}" for i in step["for_each"]] if "for_each" in step else [need]
    if "task" in step:
        met = [p for p in parts if p in tasks and tasks[p].submitted_seq]
        failed = any(tasks[p].ended and tasks[p].status != "completed" for p in met)
        return not met or (all(tasks[p].ended for p in met) and (len(met) == len(parts) or failed))
    if "workflow" in step:
        began = [p for p in parts if any(f.seq < seq for f in own if f.kind == "workflow" and p in f.detail)]
        return all(p in joined for p in began)
    earlier = [f for f in own if f.seq < seq]
    if "signal" in step:
        awaited = any(f.kind == "signal" and f.event == "awaited" and f.detail == (need,) for f in earlier)
        raised = any(
            f.kind == "signal" and f.event in ("raised", "resumed") and f.id == step["signal"] for f in earlier
        )
        return raised or not awaited
    if "sleep_s" in step:
        was_set = any(f.kind == "timer" and f.event == "set" and f.id == need for f in earlier)
        return not was_set or any(f.kind == "timer" and f.event == "fired" and f.id == need for f in earlier)
    return True


def _check_undone(own: list[StoredFact], defined: dict[str, Any], seed: int) -> None:
    """What is undone was completed (or may have happened), newest first, one at a time, and nothing is left out."""
    undo = [f for f in own if f.kind == "task" and f.event == "submitted" and f.id.startswith(UNDO)]
    undo = [f for number, f in enumerate(undo) if f.id not in {g.id for g in undo[:number]}]
    names = [f.id.removeprefix(UNDO) for f in undo]
    steps = {step["name"]: step for step in defined["steps"]}
    ended: dict[str, int] = {}
    tasks: dict[str, Task] = {}
    must: set[str] = set()
    for fact in own:
        if fact.kind == "workflow" and fact.event == "joined" and "undo" in steps[_step_of(fact.detail[0], steps)]:
            ended.setdefault(fact.detail[0], fact.seq)
            if fact.data.get("status", "completed") == "completed":
                must.add(fact.detail[0])
        if fact.kind != "task" or fact.id.startswith(UNDO):
            continue
        task = tasks.setdefault(fact.id, Task(tenant="acme", key="", id=fact.id))
        if task.apply(fact) is None and task.ended and "undo" in steps[_step_of(fact.id, steps)]:
            ended[fact.id] = fact.seq
            if task.status == "completed":
                must.add(fact.id)
    seqs = [ended[name] for name in names]
    assert seqs == sorted(seqs, reverse=True), f"seed {seed}: {names}"
    life, _ = workflow_life.fold([f for f in own if f.kind == "workflow"])
    assert life is not None
    if life.status == "completed":
        assert not names, f"seed {seed}: what was completed is not undone"
    else:
        assert must <= set(names), f"seed {seed}: {must - set(names)} is left as it is"
    for one, other in itertools.pairwise(undo):
        ends = [f.seq for f in own if f.id == one.id and f.event in ("completed", "failed", "rejected", "released")]
        assert min(ends, default=other.seq) < other.seq, f"seed {seed}: one at a time"


def check_replays(play: Play, seed: int) -> None:
    """Whoever folds it again, from the beginning or any snapshot, has nothing to state."""
    w = play.world
    for at, dumped in [(0, None), *play.snapshots[-3:]]:
        decider, owed = restored(w.log, at, dumped)
        left = owed.take()
        assert not left, f"seed {seed}: replayed from {at} it states {left[0].kind}.{left[0].event} of {left[0].id}"
        assert dump(decider) == dump(w.decider) or decider.open_count() == 0


@pytest.mark.parametrize("block", range(SEEDS))
def test_every_history_is_right(block: int) -> None:
    for seed in range(block * PER_SEED, (block + 1) * PER_SEED):
        play = Play(seed)
        check(play.run(), seed)
        check_replays(play, seed)
