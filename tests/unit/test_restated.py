"""A task that was stated again near the end of the log's window, when its submission has left the log."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coord.client.asks import Ask, same
from coord.core.deciding import State
from coord.core.task_decider import TaskDecider
from coord.core.tasks import Task, fold
from coord.wire import work
from coord.wire.records import StoredFact
from tests.support.facts import Log


@pytest.fixture
def log() -> Log:
    """In which only what was stated again is left of task `t`."""
    log = Log(TaskDecider())
    log.state("me", "task", "t", "submitted", "work", "normal", data={"input": [1, 2]})
    (again,) = list(log.decider.edge(2))
    assert isinstance(again, State)
    log.perform([again])
    return log


def submission(log: Log, given: Any) -> StoredFact:
    return log.fact("you", "task", "t", "submitted", "work", "normal", data={"input": given})


def ask(given: Any) -> Ask:
    return Ask("work", "t", "t", work.Submission(), msgspec.json.encode(given), Any)


def test_the_same_work_is_the_same_task(log: Log) -> None:
    left = log.facts[1:]
    task, refused = fold([*left, submission(log, [1, 2])])
    assert task is not None
    assert [refusal.code for _, refusal in refused] == ["task.repeated"]
    assert same(ask([1, 2]), task.capability, task.submission)


def test_other_work_is_refused_naming_the_first(log: Log) -> None:
    left = log.facts[1:]
    other = submission(log, [3])
    task, refused = fold([*left, other])
    assert task is not None
    ((_, refusal),) = refused
    assert (refusal.code, task.event_id) == ("task.exists", log.facts[0].event_id)
    assert f"{log.facts[0].event_id}, by me" in refusal.reason
    assert not same(ask([3]), task.capability, task.submission)
    # So says the decider, which keeps no input: from before, and after a restart.
    log.reload()
    log.store(other)
    assert log.decider.refused["task.exists"] == 1
    log.store(submission(log, [1, 2]))
    assert log.decider.refused["task.repeated"] == 1


def test_a_task_that_is_stated_twice_still_knows_the_first(log: Log) -> None:
    (again,) = list(log.decider.edge(3))
    assert isinstance(again, State)
    log.perform([again])
    task, _ = fold(log.facts[2:])
    assert isinstance(task, Task)
    assert (task.event_id, task.submission.input, task.restated) == (log.facts[0].event_id, [1, 2], 2)
    _, refused = fold([*log.facts[2:], submission(log, [1, 2])])
    assert [refusal.code for _, refusal in refused] == ["task.repeated"]


def test_what_was_decided_before_a_redrive_does_not_change_what_is_redriven() -> None:
    """Found by the simulation: it had the former deadline, and was moved to another queue."""
    log = Log(TaskDecider())
    log.state("me", "task", "t", "submitted", "work", "normal", data={"input": 1, "deadline": 1e9})
    (late,) = list(log.decider.edge(2))
    log.state("w", "task", "t", "claimed", "1", data={"instance": "i"})
    log.state("w", "task", "t", "failed", data={"claim": 1, "error": "no", "final": True})
    log.state("me", "task", "t", "submitted", "work", "normal", data={"input": 1, "redrive": 1})
    log.perform([late])
    task, refused = fold(log.facts)
    assert task is not None
    assert (task.status, task.submitted_seq, task.restated) == ("queued", 4, 0)
    assert [refusal.code for _, refusal in refused] == ["task.overtaken"]
    assert log.decider.get("acme", "t", "t").submitted_seq == 4  # type: ignore[attr-defined]
