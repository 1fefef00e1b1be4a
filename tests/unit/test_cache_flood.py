"""A flood of evictions: memory stays bounded, whoever loads gets an answer, and nothing that was evicted is served."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord import limits
from coord.cache.config import CacheConfig
from coord.cache.functions import Functions
from coord.cache.loading import Cache, Loaded
from coord.core.eviction import Marks
from coord.telemetry.metrics import Metrics
from coord.wire import notices, subjects
from coord.wire.notices import Notice

_EACH = 200
"""Tags of a notice."""


def said(to: int, tags: list[str] | None) -> bytes:
    """Notices of the partition that the note is in, without a gap."""
    partition = subjects.partition("n1")
    return notices.encode(
        Notice(
            stream=subjects.EVENTS, epoch=1, partition=partition, session="s", from_=max(0, to - 1), to=to, tags=tags
        )
    )  # fmt: skip


@pytest.fixture
async def cache() -> Any:
    made = Cache(CacheConfig(), metrics=Metrics(CollectorRegistry()))
    made.connected()
    made.hear_beat(said(0, []))
    made.hear(said(1, []))
    yield made
    await made.close()


async def test_what_is_remembered_of_a_flood_is_bounded_and_nothing_evicted_is_kept(cache: Cache) -> None:
    began, let_go = asyncio.Event(), asyncio.Event()
    versions = iter(range(10))

    cached: Any = Functions(cache).cached

    @cached("note:{id}", tags=["note:{id}"])
    async def note(id: str) -> int:  # noqa: A002
        version = next(versions)
        began.set()
        await let_go.wait()
        return version

    loading = asyncio.create_task(note("n1"))
    await began.wait()
    count = 4 * limits.CACHE_EVICTED_TAGS_MAX // _EACH
    for n in range(count):
        first = ["note:n1"] if n == 0 else []
        cache.hear(said(2 + n, [*first, *(f"note:{n}-{i}" for i in range(_EACH))]))
    assert len(cache.evictions._tags) <= limits.CACHE_EVICTED_TAGS_MAX
    assert "note:n1" not in cache.evictions._tags, "the flood has pushed it out"
    let_go.set()
    assert await loading == 0
    assert note.peek("n1") is None, "what is not remembered one by one is not kept either"
    assert (await note("n1"), note.peek("n1")) == (1, 1)
    assert cache.stats().gaps == 1, "the first word of that partition"


async def test_whoever_loads_in_a_flood_gets_an_answer_that_has_seen_what_was_heard(cache: Cache) -> None:
    committed = 1

    def marks() -> Marks:
        return {(subjects.EVENTS, subjects.partition("n1")): (1, committed)}

    cached: Any = Functions(cache).cached

    @cached("note:{id}", tags=["note:{id}"])
    async def note(id: str) -> Loaded:  # noqa: A002
        loaded = Loaded(committed, marks())
        await asyncio.sleep(0)
        return loaded

    over = asyncio.Event()

    async def flood() -> None:
        nonlocal committed
        while not over.is_set():
            committed += 1
            cache.hear(said(committed, ["note:n1"] if committed % 3 else None))
            await asyncio.sleep(0)

    async def ask() -> None:
        for _ in range(50):
            heard = committed
            assert await note("n1") >= heard

    flooding = asyncio.create_task(flood())
    await asyncio.gather(*(ask() for _ in range(4)))
    over.set()
    await flooding
    assert cache.stats().refused["overtaken"]
    assert await note("n1") == committed
    assert note.peek("n1") == committed
