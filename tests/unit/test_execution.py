"""One delivery on its way through a worker that is played."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from coord.client import execution as execution_module
from coord.client.execution import Ended, Execution
from coord.client.tasks import Delivered


@pytest.mark.parametrize("because", ["cancelled", "lost", "drained"])
async def test_one_that_ends_in_the_turn_in_which_its_claim_is_stored_leaves_its_slot(because: Ended) -> None:
    """The broker's answer and what ends it come in one piece: its handler has not begun, and never does."""
    left: list[Any] = []
    returned: list[Any] = []
    worker: Any = SimpleNamespace(
        coord=None,
        loop=asyncio.get_running_loop(),
        stating=SimpleNamespace(sequel=lambda *_: None),
        began=lambda _: None,
        left=lambda execution, **_: left.append(execution),
        give_back=lambda *args: returned.append(args),
    )
    handles: Any = SimpleNamespace(preemptible=None)
    fact: Any = SimpleNamespace(seq=1, id="t", key="k", detail=("work", "normal"), agent="me", content="json")
    execution = Execution(worker, worker, handles, "normal", fact, Delivered(), "entity")
    execution._start(1)
    execution.end(because)
    assert execution._aio_task is not None
    await execution._aio_task
    assert left == [execution]
    assert len(returned) == (because == "drained")


async def test_one_whose_look_breaks_leaves_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(*_: Any) -> None:
        raise ValueError("no fact")

    monkeypatch.setattr(execution_module, "read", read)
    left: list[Any] = []
    worker: Any = SimpleNamespace(
        conn=None,
        tenant="t",
        looks=asyncio.Semaphore(1),
        stating=SimpleNamespace(sequel=lambda *_: None),
        left=lambda execution, **_: left.append(execution),
    )
    handles: Any = SimpleNamespace(preemptible=None)
    fact: Any = SimpleNamespace(seq=1, id="t", key="k", detail=("work", "normal"), agent="me", content="json")
    execution = Execution(worker, worker, handles, "normal", fact, Delivered(), "entity")
    execution.look()
    assert execution._aio_task is not None
    await asyncio.gather(execution._aio_task, return_exceptions=True)
    assert left == [execution]
