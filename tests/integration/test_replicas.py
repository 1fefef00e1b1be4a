"""Replicas of two releases of which one does not understand the other: the newer one waits, and takes over cleanly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection, NatsConfig
from coord.bus.replicas import Replicas
from coord.wire import subjects
from tests.support.waiting import until

ALL = frozenset(range(4))


class Member:
    """What one replica was told."""

    def __init__(self, conn: Connection, name: str, folds: int, service: str, behind: Sequence[str]) -> None:
        self.conn = conn
        self.told: list[frozenset[int]] = []
        self.replicas = Replicas(conn, service, name, len(ALL), self.told.append, behind=behind, folds=folds)

    @property
    def mine(self) -> frozenset[int]:
        return self.told[-1] if self.told else frozenset()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Member]:
        task = asyncio.create_task(self.replicas.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def member(start_nats: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setattr(limits, "REPLICA_BEAT_S", 0.05)
    server = await start_nats()

    async with contextlib.AsyncExitStack() as stack:

        async def made(name: str, folds: int, service: str = "projector", behind: Sequence[str] = ()) -> Member:
            conn = await stack.enter_async_context(await Connection.open(NatsConfig(urls=(server.url,)), name=name))
            return Member(conn, name, folds, service, behind)

        yield made


async def test_a_newer_release_waits_until_the_older_one_is_gone(member: Any) -> None:
    old, two, new, later = [await member(n, f) for n, f in (("old", 0), ("two", 0), ("new", 1), ("later", 1))]
    async with old.running(), new.running(), later.running():
        await until(lambda: new.replicas.older == later.replicas.older == {"old"} and old.mine == ALL)
        assert new.mine == later.mine == frozenset()
        async with two.running():  # the older ones share as if there were no others
            await until(lambda: old.mine | two.mine == ALL and not old.mine & two.mine and len(old.mine) == 2)
            assert new.replicas.members == {"old", "two"}
        await until(lambda: old.mine == ALL)
    async with new.running(), later.running():
        await until(lambda: new.mine | later.mine == ALL and len(new.mine) == len(later.mine) == 2)
        async with old.running():  # the way back: who is older is not waited for by itself
            await until(lambda: old.mine == ALL and not new.mine and not later.mine)
        await until(lambda: new.mine | later.mine == ALL and not new.mine & later.mine)


async def test_deciders_wait_for_older_projectors_and_projectors_for_no_deciders(member: Any) -> None:
    projector, decider = await member("p", 0), await member("d", 1, "deciders", ("projector",))
    old, new = await member("old", 0, "deciders"), await member("new", 1)
    async with projector.running(), decider.running():
        await until(lambda: decider.replicas.older == {"p"} and projector.mine == ALL)
        assert not decider.mine
    async with old.running(), new.running():
        await until(lambda: old.mine == new.mine == ALL)


async def test_who_is_killed_is_waited_for_as_long_as_the_dead_are(
    member: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLICA_GONE_S", 0.3)
    new, dead = await member("new", 1), await member("dead", 0)
    conn = dead.replicas._conn
    async with new.running():
        await until(lambda: new.mine == ALL)
        conn.publish(subjects.beat("projector", "dead"), b"here")  # as releases without a number do
        await until(lambda: new.replicas.older == {"dead"} and not new.mine)
        await until(lambda: new.mine == ALL)


async def test_one_of_them_says_who_is_there(member: Any) -> None:
    old, two, three = [await member(n, f) for n, f in (("old", 0), ("two", 0), ("three", 1))]

    async def told() -> dict[str, int] | None:
        try:
            asked = await rpc.call(two.conn, "coord.rpc._.replicas.projector", {}, dict[str, int])
        except errors.ServiceUnavailable:
            return None  # whoever has just begun does not know
        return asked

    async with old.running(), two.running(), three.running():
        assert await told() is None
        await until(lambda: three.replicas.older == {"old", "two"})
        assert (await three.replicas.understands(None)).folds == 0, "the least of them decides"
        for _ in range(8):  # whoever of them it is that answers
            assert await until(told) == {"old": 0, "two": 0}, "who waits is not there yet"
