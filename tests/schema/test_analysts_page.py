"""The analysts' page: each of its questions finds what it is about, in a small history of everything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from coord.projector import entities
from coord.store import copy
from coord.store.rows import EventRow
from tests.support.cluster import Database
from tests.support.pages import pages
from tests.support.store import event, pool_of

PAGE = "docs/howto/ask-the-tables.md"
NOW = datetime.now(UTC)


def history() -> list[EventRow]:
    log: list[EventRow] = []

    def add(kind: str, id_: str, name: str, data: Any = None, key: str = "", detail: str = "", by: str = "me") -> None:
        seq = len(log) + 1
        body = msgspec.json.encode({} if data is None else data).decode()
        at = NOW - timedelta(seconds=600 - seq)
        log.append(event(seq, at=at, kind=kind, id=id_, key=key or id_, event=name, detail=detail, agent=by, data=body))

    add("task", "done", "submitted", detail="work.normal")
    add("task", "done", "claimed", detail="1", by="w1")
    add("task", "done", "released", {"reason": "gone"}, detail="1", by="_task")
    add("task", "done", "claimed", detail="2", by="w2")
    add("task", "done", "completed", {"run_s": 0.5}, by="w2")
    add("task", "queued", "submitted", detail="rare.critical")
    add("task", "dead", "submitted", {"retries": 0}, detail="work.batch")
    add("task", "dead", "claimed", detail="1", by="w1")
    add("task", "dead", "failed", {"error": "E"}, by="w1")
    add("task", "put", "submitted", {"placement": {"strategy": "least_connections"}}, detail="work.placed")
    add(
        "task",
        "put",
        "placed",
        {"agent": "w1", "strategy": "least_connections", "candidates": []},
        detail="1",
        by="_task",
    )
    add("workflow", "flow", "started", {"definition": {"name": "n", "version": "1"}})
    add("task", "step", "submitted", key="flow", detail="work.normal", by="_workflow")
    add("signal", "go", "awaited", {"names": ["go"]}, key="flow", detail="gate", by="_workflow")
    add("workflow", "sleeps", "started", {"definition": {"name": "m", "version": "1"}})
    add("handoff", "h", "offered", {"agent": "b"})
    add("signal", "up", "awaited", {"names": ["up"]}, detail="tok1")
    add("lock", "db", "requested", {"instance": "i1"}, detail="tok1", by="a1")
    add("lock", "db", "requested", {"instance": "i2"}, detail="tok2", by="a2")
    return log


async def test_each_question_has_an_answer(migrated_database: Database) -> None:
    log = history()
    asked = [block.text for block in pages()[PAGE].blocks() if block.language == "sql"]
    assert len(asked) >= 10
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        async with conn.transaction():
            assert await entities.project(conn, [log]) == [{}]
            await copy.events(conn, log)
        for question in asked:
            assert await conn.fetch(question.rstrip().rstrip(";")), question
        assert {r["what"] for r in await conn.fetch("SELECT DISTINCT what FROM coord.v_waiting")} == {
            "task", "workflow", "handoff", "signal", "lock",
        }  # fmt: skip
        waiting = await conn.fetch("SELECT id, waits_for FROM coord.v_waiting WHERE what = 'workflow' ORDER BY id")
    assert [tuple(r) for r in waiting] == [("flow", "task step, signal go"), ("sleeps", "m")]


async def test_each_who_was_asked_to_take_work_over_is_a_row(migrated_database: Database) -> None:
    asked = [
        ("h1", "offered", "", "desk", {"agent": "clerk"}),
        ("h2", "offered", "", "desk", {"capability": "refund"}),
        ("h2", "offered", "1", "_handoff", {"agent": "a"}),
        ("h2", "escalated", "2", "_handoff", {"agent": "b"}),
        ("h3", "offered", "", "old", {"to": "c"}),
    ]
    log = []
    for seq, (id_, name, n, by, data) in enumerate(asked, 1):
        text = msgspec.json.encode(data).decode()
        log.append(event(seq, kind="handoff", id=id_, key=id_, event=name, detail=n, agent=by, data=text))
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        async with conn.transaction():
            await entities.project(conn, [log])
            await copy.events(conn, log)
        found = await conn.fetch("SELECT from_agent, to_agent FROM coord.v_handoff ORDER BY seq")
    assert [tuple(r) for r in found] == [("desk", "clerk"), ("desk", "a"), ("desk", "b"), ("old", "c")]
