"""Trajectories as SWE-agent writes them: one JSON document a run, or one a line.

``{"trajectory": [{"thought": …, "action": …, "observation": …}, …], "environment": …, "info": {…}}``

=========================  ==========================================================
``run.{run}.recorded``     everything of the document but its steps and its history
``step.{n}.taken``         thought, action and the rest of a step, by the agent
``step.{n}.observed``      what the environment answered, by the environment
=========================  ==========================================================

The agent is ``agent``, or what the member ``agent`` names; the environment likewise.  The
run, ``{run id}-{line}``, is the key.  Steps carry no times of their own, but an
``execution_time`` in seconds; where all of a run have one, the steps follow at that distance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from coord.ops.replay import places
from coord.ops.replay.names import NameRefused, Names
from coord.ops.replay.recording import Item, Problem, Statement
from coord.ops.replay.source import Document, Source
from coord.wire.records import Fact

NAME: Final = "trajectory"
TITLE: Final = "SWE-agent trajectories: steps of thought, action and observation"

_BEGIN: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LEFT_AWAY: Final = ("trajectory", "history", "replay_config")
"""The history is the steps once more, as the model was told them."""


class Step(msgspec.Struct):
    """One step; further members are kept in ``step.taken``."""

    action: Any
    thought: Any = None
    observation: Any = None
    execution_time: float | None = None


class Trajectory(msgspec.Struct):
    """One run; further members are kept in ``run.recorded``."""

    trajectory: list[dict[str, Any]]
    agent: str | None = None
    environment: str | None = None


def sniff(head: str) -> bool:
    """An object with a member ``trajectory`` that is an array."""
    return head.lstrip().startswith("{") and re.search(r'"trajectory"\s*:\s*\[', head) is not None


def read(source: Source, run: str) -> Iterator[Item]:
    """The statements of every trajectory, in file order."""
    agents = Names("agent")
    for document in source.documents():
        if isinstance(document, Problem):
            yield document
            continue
        try:
            yield from list(_run(document, f"{run}-{document.first_line}", agents))
        except _Unreadable as exc:
            yield Problem(exc.line, str(exc))


class _Unreadable(ValueError):
    def __init__(self, document: Document, reason: str, *path: str | int) -> None:
        inside = 1 if document.is_line else places.line_of(document.text, path)
        self.line = document.first_line + inside - 1
        super().__init__(reason)


def _run(document: Document, key: str, agents: Names) -> Iterator[Statement]:
    try:
        whole = msgspec.json.decode(document.text, type=dict[str, Any])
        trajectory = msgspec.convert(whole, Trajectory)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise _Unreadable(document, f"no trajectory: {exc}") from None
    steps = [_step(document, raw, index) for index, raw in enumerate(trajectory.trajectory)]
    if not steps:
        raise _Unreadable(document, "the trajectory is empty", "trajectory")
    try:
        agent = agents.token(trajectory.agent or "agent", document.first_line)
        environment = agents.token(trajectory.environment or "environment", document.first_line)
    except NameRefused as exc:
        raise _Unreadable(document, str(exc)) from None
    timed = all(step.execution_time is not None for step in steps)
    at = _BEGIN if timed else None
    ordinal = 0

    def statement(by: str, kind: str, id_: str, event: str, data: Any) -> Statement:
        nonlocal ordinal
        fact = Fact(kind=kind, id=id_, event=event, key=key, correlation_id=key, data=data)
        made = Statement(line=document.first_line, ordinal=ordinal, agent=by, fact=fact, at=at)
        ordinal += 1
        return made

    about = {name: value for name, value in whole.items() if name not in _LEFT_AWAY}
    yield statement(agent, "run", key, "recorded", {**about, "steps": len(steps)})
    for index, step in enumerate(steps):
        taken = {"index": index, **trajectory.trajectory[index]}
        observation = taken.pop("observation", None)
        yield statement(agent, "step", str(index), "taken", taken)
        if at is not None:
            at = _later(document, at, step.execution_time or 0.0, index)
        if observation is not None:
            yield statement(environment, "step", str(index), "observed", {"index": index, "observation": observation})


def _later(document: Document, at: datetime, seconds: float, index: int) -> datetime:
    """When the next step was taken; no step is believed to have taken longer than a day."""
    try:
        return at + timedelta(seconds=min(max(seconds, 0.0), 86_400.0))
    except OverflowError:
        raise _Unreadable(document, "its steps take longer than until the year 9999", "trajectory", index) from None


def _step(document: Document, raw: dict[str, Any], index: int) -> Step:
    try:
        return msgspec.convert(raw, Step)
    except msgspec.MsgspecError as exc:
        raise _Unreadable(document, f"trajectory[{index}]: {exc}", "trajectory", index) from None
