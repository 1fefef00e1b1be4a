"""An integer that no snapshot has room for is refused where it is said: one fact must not stop a partition."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from coord.core.handoff import HandoffDecider
from coord.core.locks import LockDecider
from coord.core.signals import SignalDecider
from coord.core.task_decider import TaskDecider
from coord.core.timers import TimerDecider
from coord.core.workflow import WorkflowDecider
from coord.errors import InvalidPayload
from coord.wire import subjects
from coord.wire.decode import decode_message
from coord.wire.envelope import StoredFact
from coord.wire.numbers import COUNT_MAX, check_integers

BIG = 10**30


@pytest.mark.parametrize(
    ("decider", "event", "said"),
    [
        (TaskDecider, "task.x.me.submitted.work.normal", {"redrive": BIG}),
        (TaskDecider, "task.x.me.submitted.work.normal", {"restated": BIG}),
        (TaskDecider, "task.x.me.submitted.work.normal", {"redrive": -1}),
        (TaskDecider, "task.x.me.submitted.work.normal", {"carried": {"claims": BIG}}),
        (TaskDecider, "task.x.me.submitted.work.placed", {"placement": {"strategy": "pinned", "x": [BIG]}}),
        (SignalDecider, "signal.x.me.raised", {"data": [{"a": BIG}]}),
        (SignalDecider, "signal.x.me.awaited.tok", {"restated": BIG}),
        (LockDecider, "lock.x.me.requested.tok", {"restated": BIG}),
        (LockDecider, "lock.x.me.requested.tok", {"permits": BIG}),
        (HandoffDecider, "handoff.x.me.offered", {"agent": "b", "work": BIG}),
        (HandoffDecider, "handoff.x.me.offered", {"agent": "b", "restated": BIG}),
        (TimerDecider, "timer.x.me.set", {"every_s": 5, "times_max": BIG}),
        (TimerDecider, "timer.x.me.set", {"every_s": 5, "then": {"raise": {"name": "s", "data": BIG}}}),
        (WorkflowDecider, "rules.x.me.set", {"rules": [{"output": BIG}]}),
        (WorkflowDecider, "rules.x.me.set", {"restated": BIG, "rules": [{"output": 1}]}),
    ],
)  # fmt: skip
def test_a_decider_can_always_be_saved(decider: Callable[[], Any], event: str, said: dict[str, Any]) -> None:
    subject = f"coord.log.{subjects.partition('x')}.acme.x.{event}"
    (fact,) = decode_message(subject, None, msgspec.json.encode(said), 1, datetime.now(UTC))
    assert isinstance(fact, StoredFact)
    made = decider()
    before = msgspec.msgpack.encode(made.dump())
    list(made.apply(fact))
    assert msgspec.msgpack.encode(made.dump()) == before, "it is not believed"


def test_what_fits_is_taken() -> None:
    check_integers(None, 0, -(2**63), 2**64 - 1, {"a": [1.5, "x"]}, COUNT_MAX)
    with pytest.raises(InvalidPayload):
        check_integers({"a": [2**64]})
