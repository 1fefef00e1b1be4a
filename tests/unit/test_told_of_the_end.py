"""What the submitter is told of a task's end, whatever a plain client wrote as its outcome."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coord.core.task_decider import TaskDecider
from tests.support.facts import Log


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", {"output": None}),
        (b"null", {"output": None}),
        (b'{"output":null}', {"output": None}),
        (b'{"output":[1,{"a":2}]}', {"output": [1, {"a": 2}]}),
    ],
)
def test_an_outcome_of_nothing_is_told_and_settled(body: bytes, told: dict[str, Any]) -> None:
    log = Log(TaskDecider())
    log.state("me", "task", "t", "submitted", "work", "normal", data={"input": 1, "instance": "me1"})
    log.state("w", "task", "t", "claimed", "1", data={"instance": "w1"})
    done = log.fact("w", "task", "t", "completed")
    log.store(msgspec.structs.replace(done, body=body))
    (ended,) = msgspec.json.decode(msgspec.json.encode(log.pushes("ended")))
    assert (ended["status"], {k: ended[k] for k in told}) == ("completed", told)
