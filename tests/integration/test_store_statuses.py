"""An agent's row shows what it said last, however its changes are cut into transactions."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from coord.core.status import Said, StatusSender
from coord.store import copy
from coord.store.pool import Connection
from coord.store.rows import AgentRow
from tests.support.cluster import Database
from tests.support.store import T0, pool_of


@pytest.fixture
async def conn(migrated_database: Database) -> AsyncIterator[Connection]:
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        yield conn


def row(seq: int, said: Said | None, agent: str = "a1", epoch: int = 1, **fields: Any) -> AgentRow:
    at = T0 + timedelta(seconds=seq)
    text = None if said is None else msgspec.json.encode(said.data).decode()
    if said is not None:
        fields["status" if said.event == "status" else "change"] = text
    return AgentRow(tenant="acme", agent=agent, seen_first=at, seen_last=at, epoch=epoch, seq=seq, **fields)


async def shown(conn: Connection, agent: str = "a1") -> tuple[Any, bool, str]:
    found = await conn.fetchrow("SELECT status, status_stale, state FROM coord.v_agent_status WHERE agent = $1", agent)
    assert found is not None
    return None if found["status"] is None else json.loads(found["status"]), found["status_stale"], found["state"]


async def test_the_row_is_the_senders_state_however_transactions_are_cut(conn: Connection) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    senders = {name: StatusSender(f"run-{name}", whole_every=9) for name in ("a1", "b2", "c3")}
    rows: list[AgentRow] = []
    for seq in range(1, 150):
        name = rng.choice(list(senders))
        said = senders[name].change({f"f{rng.randrange(8)}": rng.choice([None, 1, 1.5, "x", [1]])}, [], seq)
        rows.append(row(seq, said, name, state="alive" if said else None))
    while rows:
        count = rng.randrange(1, 20)
        batch, rows = rows[:count], rows[count:]
        rng.shuffle(batch)  # the order of the log is in the rows
        assert await copy.upsert_agents(conn, batch) == []
    for name, sender in senders.items():
        assert await shown(conn, name) == (sender.state, False, "alive")


async def test_a_missing_change_makes_stale_until_it_or_a_whole_status_comes(conn: Connection) -> None:
    sender = StatusSender("r1")
    first = sender.replace({"load": 1, "pad": "x" * 60}, 0)
    second, third, fourth, fifth = (sender.change({"load": load}, [], 1) for load in (2, 3, 4, 5))
    assert await copy.upsert_agents(conn, [row(1, first)]) == []
    assert await copy.upsert_agents(conn, [row(2, third)]) == [("acme", "a1")]
    assert await shown(conn) == ({"load": 1, "pad": "x" * 60}, True, "alive")
    assert await copy.upsert_agents(conn, [row(3, None, state="draining")]) == []  # nothing new about its status
    assert await shown(conn) == ({"load": 1, "pad": "x" * 60}, True, "draining")
    assert await copy.upsert_agents(conn, [row(4, second)]) == []  # late: and the one that waited follows
    assert (await shown(conn))[0]["load"] == 3
    assert await copy.upsert_agents(conn, [row(5, fifth)]) == [("acme", "a1")]
    assert await copy.upsert_agents(conn, [row(6, sender.whole(2)), row(7, fourth)]) == []
    assert (await shown(conn))[:2] == ({"load": 5, "pad": "x" * 60}, False)


async def test_a_change_of_an_unknown_agent_and_one_that_cannot_be_read(conn: Connection) -> None:
    sender = StatusSender("r1")
    sender.replace({"pad": "x" * 60}, 0)
    assert await copy.upsert_agents(conn, [row(1, sender.change({"a": 1}, [], 1))]) == [("acme", "a1")]
    assert (await shown(conn))[:2] == (None, True)
    assert await copy.upsert_agents(conn, [row(2, sender.whole(1))]) == []
    assert (await shown(conn))[:2] == ({"a": 1, "pad": "x" * 60}, False)
    assert await copy.upsert_agents(conn, [row(3, None, change='{"run":"r1"}')]) == [("acme", "a1")]
    assert (await shown(conn))[:2] == ({"a": 1, "pad": "x" * 60}, True)


async def test_plain_statuses_replace_and_nothing_is_applied_twice(conn: Connection) -> None:
    sender = StatusSender("r1")
    whole, change = sender.replace({"n": 0, "pad": "x" * 60}, 0), sender.change({"n": 1}, [], 1)
    rows = [row(1, whole), row(2, change)]
    for _ in range(2):  # a batch that comes again, all of it or in part, changes nothing
        await copy.upsert_agents(conn, rows)
        assert (await shown(conn))[:2] == ({"n": 1, "pad": "x" * 60}, False)
    await copy.upsert_agents(conn, [*rows, row(3, sender.change({"n": 2}, [], 1))])
    assert (await shown(conn))[0]["n"] == 2
    await copy.upsert_agents(conn, [row(4, None, status='{"plain":true}')])
    assert (await shown(conn))[:2] == ({"plain": True}, False)
    assert await copy.upsert_agents(conn, [row(5, sender.change({"n": 3}, [], 1))]) == [("acme", "a1")]
    assert (await shown(conn))[:2] == ({"plain": True}, True)
