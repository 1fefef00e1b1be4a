"""How often and how long a task may run: the submitter's word, else the handler's, else the defaults."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import coord
from coord import errors, limits
from coord.testing import InMemoryCoord
from coord.wire.records import Fact
from coord.wire.work import Submission

DEFAULT_S = 3.0
"""Instead of 600: virtual time is not for nothing."""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TASK_TIMEOUT_S", DEFAULT_S)


def patient() -> tuple[coord.Agent, list[str]]:
    """An agent whose handlers want more, and less, than the defaults; which steps it was given."""
    agent = coord.Agent("patient", capabilities={"long": 20, "short": 20, "plain": 20, "once": 1})
    seen: list[str] = []

    async def work(given: dict[str, Any], ctx: coord.TaskContext) -> int:
        seen.append(ctx.step)
        if ctx.attempt <= given.get("failures", 0):
            raise ConnectionError("not now")
        await asyncio.sleep(given.get("sleeps_s", 0.0))
        return ctx.attempt

    agent.task("long", timeout_s=12, retries=10)(work)
    agent.task("short", timeout_s=1, retries=1)(work)
    agent.task("plain")(work)
    agent.task("once", retries=0)(work)
    return agent, seen


CASES: list[tuple[str, dict[str, Any], dict[str, Any], int | str]] = [
    ("long", {}, {"failures": 6}, 7),
    ("long", {}, {"failures": 11}, "ConnectionError"),
    ("long", {}, {"sleeps_s": 7}, 1),
    ("long", {"retries": 0}, {"failures": 1}, "ConnectionError"),
    ("long", {"retries": 0, "timeout_s": 2}, {"sleeps_s": 3}, "timeout"),
    ("short", {}, {"failures": 2}, "ConnectionError"),
    ("short", {"retries": 3}, {"failures": 3}, 4),
    ("short", {"timeout_s": 9}, {"sleeps_s": 6}, 1),
    ("short", {}, {"sleeps_s": 2}, "timeout"),
    ("plain", {}, {"failures": 3}, 4),
    ("plain", {}, {"failures": 4}, "ConnectionError"),
    ("plain", {"retries": 0}, {"sleeps_s": 4}, "timeout"),
]
"""Capability, what the submitter says, what it is given; the attempt that succeeds, or how it fails."""


async def test_the_submitters_word_counts_else_the_handlers_else_the_defaults(fleet: InMemoryCoord) -> None:
    """Of a task, and of a step of a workflow that says the same."""

    async def end(begun: Any) -> Any:
        try:
            return await begun.result(timeout_s=200)
        except (errors.TaskFailed, errors.WorkflowFailed) as exc:
            return exc.details["error"]

    agent, _ = patient()
    async with fleet.work(agent), fleet.connect("boss") as c:
        begun: list[Any] = []
        for capability, said, given, _ in CASES:
            flow = coord.Workflow("flow")
            flow.task("only", capability, backoff_s=0.01, **said)
            begun += [await c.submit(capability, given, backoff_s=0.01, **said), await c.start_workflow(flow, given)]
        ended = await asyncio.gather(*map(end, begun))
    for case, as_task, as_step in zip(CASES, ended[::2], ended[1::2], strict=True):
        assert (as_task, as_step) == (case[3], case[3]), case


async def test_a_local_step_takes_what_its_offer_gives_and_else_is_a_task_of_its_own(fleet: InMemoryCoord) -> None:
    agent, seen = patient()
    flow = coord.Workflow("flow")
    before = flow.task("first", "plain", input={})
    before = flow.task("second", "short", input={}, needs=[before], local=True)
    before = flow.task("third", "long", input={}, needs=[before], local=True)
    flow.task("fourth", "long", input={}, needs=[before], timeout_s=2, local=True)
    fails = {said: coord.Workflow("fails") for said in (None, 2)}
    for retries, failing in fails.items():
        first = failing.task("first", "plain", input={})
        failing.task("last", "once", input={"failures": 9}, needs=[first], local=True, retries=retries, backoff_s=0.01)
    async with fleet.work(agent), fleet.connect("boss") as c:
        assert await c.run_workflow(flow, {}, id="w", timeout_s=60) == 1
        submitted = [fact.id for fact in fleet.facts("task") if fact.event == "submitted"]
        assert (submitted, seen) == (["first", "third"], ["first", "second", "third", "fourth"])
        for retries, failing in fails.items():
            seen.clear()
            with pytest.raises(errors.WorkflowFailed):
                await c.run_workflow(failing, {}, timeout_s=60)
            assert seen == ["first", *["last"] * (1 + (retries or 0))], "the step's word, else its handler's"


async def test_a_claim_may_say_so_in_any_language_and_nonsense_is_not_heeded(fleet: InMemoryCoord) -> None:
    async with fleet.connect("boss") as c:
        handle = await c.submit("nobody")

        async def state(event: str, n: int, **said: Any) -> tuple[int, float]:
            await c.emit(Fact(kind="task", id=handle.id, key=handle.key, event=event, detail=(str(n),), data=said))
            await c.flush()
            status = await handle.status()
            return status.retries, status.timeout_s

        assert await state("claimed", 1, retries=-1, timeout_s=0) == (3, DEFAULT_S)
        await state("returned", 1)
        assert await state("claimed", 2, retries=7, timeout_s=900) == (7, 900)


@pytest.mark.parametrize(
    ("said", "allowed", "is_held"),
    [
        (None, None, False), (None, True, True), (True, None, True), (True, True, True), (False, True, False),
        (True, False, False), (None, False, False),
    ],
)  # fmt: skip
def test_who_says_nothing_of_being_held_leaves_it_to_the_handler(
    *, said: bool | None, allowed: bool | None, is_held: bool
) -> None:
    agent = coord.Agent("a")

    @agent.task("x", preemptible=allowed)
    async def handler() -> None: ...

    assert agent.handles["x"].may_be_held(Submission(preemptible=said)) is is_held
