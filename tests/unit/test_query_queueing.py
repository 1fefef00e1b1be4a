"""Waiting for a turn at the database: what is recalled is done again, and nobody is left behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.core.fairness import Until
from coord.query.queueing import Queueing
from coord.telemetry.metrics import Metrics
from tests.support.waiting import until


class Looks:
    """Looks at the tables that last until they are let go."""

    def __init__(self, places: int) -> None:
        self.queueing = Queueing(places, Metrics(CollectorRegistry()))
        self.begun: Counter[str] = Counter()
        self.under_way: Counter[str] = Counter()
        self.go: dict[str, asyncio.Event] = {}

    def look(self, name: str) -> Callable[[], Coroutine[Any, Any, str]]:
        go = self.go.setdefault(name, asyncio.Event())

        async def work() -> str:
            self.begun[name] += 1
            self.under_way[name] += 1
            try:
                await go.wait()
            finally:
                self.under_way[name] -= 1
            return name

        return work

    def ask(self, tenant: str, name: str, wants_s: float = 1_000.0) -> asyncio.Task[str]:
        wants = Until(asyncio.get_running_loop().time() + wants_s)
        return asyncio.create_task(self.queueing.run(tenant, name, wants, self.look(name)))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUERY_QUICK_S", 0.02)
    monkeypatch.setattr(limits, "QUERY_WAIT_S", 1_000.0)


@pytest.mark.usefixtures("patient")
async def test_what_is_recalled_is_ended_and_done_again() -> None:
    looks = Looks(4)
    slow = [looks.ask("a", f"a{n}") for n in range(6)]
    await until(lambda: looks.under_way.total() == 4)
    quick = looks.ask("b", "b")
    await until(lambda: looks.under_way["b"])
    assert looks.under_way.total() <= 4
    looks.go["b"].set()
    assert await quick == "b"
    for event in looks.go.values():
        event.set()
    assert await asyncio.gather(*slow) == [f"a{n}" for n in range(6)]
    assert looks.begun.total() > 7, "one gave way"
    assert looks.queueing.places.waiting == looks.queueing.places.held("a") == 0


@pytest.mark.usefixtures("patient")
async def test_who_is_cancelled_gives_its_place_back() -> None:
    looks = Looks(1)
    first, second, third = (looks.ask("a", name) for name in "xyz")
    await until(lambda: looks.under_way["x"])
    second.cancel()
    first.cancel()
    await until(lambda: looks.under_way["z"])
    assert not looks.under_way["x"]
    assert not looks.begun["y"]
    looks.go["z"].set()
    assert await third == "z"
    for gone in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await gone


@pytest.mark.usefixtures("patient")
async def test_an_error_is_its_callers() -> None:
    looks = Looks(1)

    async def fails() -> str:
        raise errors.DatabaseUnavailable("away")

    with pytest.raises(errors.DatabaseUnavailable):
        await looks.queueing.run("a", "x", Until(1e9), fails)
    looks.ask("a", "y")
    await until(lambda: looks.under_way["y"])
    looks.go["y"].set()


async def test_who_waits_in_vain_is_told_and_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUERY_WAIT_S", 0.05)
    monkeypatch.setattr(limits, "QUERY_WAITING", 4)
    looks = Looks(1)
    running = looks.ask("a", "x")
    await until(lambda: looks.under_way["x"])
    waiting = [looks.ask("a", f"w{n}") for n in range(3)]
    for task in waiting:
        with pytest.raises(errors.Overloaded) as refused:
            await task
        assert refused.value.retry_after_s == 0.05
    wants = looks.ask("b", "left", wants_s=0.0)
    with pytest.raises(errors.Overloaded):
        await wants
    looks.go["x"].set()
    assert await running == "x"
    assert not looks.begun["w0"] + looks.begun["left"]
