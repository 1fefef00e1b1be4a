"""A pull that nobody answers: the consumer is made only where the server says that there is none."""

from __future__ import annotations

from typing import Any, cast

import pytest

from coord import errors, limits
from coord.bus import topology
from coord.bus.connection import Connection

SPEC = topology.Spec("EVENTS", "projector-3", {"name": "projector-3", "filter_subject": "coord.log.3.>"})


class Broker:
    """Says what it is told to when asked about a consumer."""

    def __init__(self, answer: errors.CoordError | None) -> None:
        self.asked: list[tuple[str, float]] = []
        self._answer = answer

    async def api(
        self, request: str, _payload: Any = None, *, timeout_s: float = limits.API_TIMEOUT_S
    ) -> dict[str, Any]:
        self.asked.append((request, timeout_s))
        if request.startswith("CONSUMER.INFO.") and self._answer is not None:
            raise self._answer
        return {"config": SPEC.config}

    async def ensure(self) -> None:
        await topology.ensure_consumer(cast("Connection", self), SPEC)


async def test_a_consumer_that_is_there_is_not_made() -> None:
    broker = Broker(None)
    await broker.ensure()
    assert [request for request, _ in broker.asked] == ["CONSUMER.INFO.EVENTS.projector-3"]


async def test_a_consumer_that_is_missing_is_made_and_not_waited_for_long() -> None:
    broker = Broker(errors.ApiNotFound("consumer not found", server_code=10014))
    await broker.ensure()
    request, timeout_s = broker.asked[-1]
    assert request == "CONSUMER.CREATE.EVENTS.projector-3.coord.log.3.>"
    assert timeout_s + 3 * limits.PULL_EXPIRES_S <= limits.TAKEOVER_S


@pytest.mark.parametrize("answer", [errors.ApiUnavailable("no leader"), errors.DeadlineExceeded("nobody answers")])
async def test_a_consumer_without_a_leader_is_not_made(answer: errors.CoordError) -> None:
    broker = Broker(answer)
    with pytest.raises(type(answer)):
        await broker.ensure()
    assert len(broker.asked) == 1
