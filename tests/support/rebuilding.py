"""Histories of every kind of entity, put into the tables as the projector's writer does, without a broker."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from coord import limits
from coord.ops import projection
from coord.projector import entities
from coord.projector.rows import agent_row
from coord.projector.tables import TABLES
from coord.store import checkpoints, copy
from coord.store.pool import Connection, Pool
from coord.store.rows import EventRow
from coord.store.shadow import Compared
from coord.wire import subjects
from tests.support.store import T0, advance, event

CREATED = datetime(2025, 12, 1, tzinfo=UTC)

_SAYS: dict[str, tuple[str, ...]] = {
    "task": ("submitted", "claimed", "claimed", "progress", "completed", "failed", "returned", "cancelled"),
    "workflow": ("started", "cancelled", "completed"),
    "handoff": ("offered", "accepted", "refused", "withdrawn"),
    "signal": ("raised", "awaited", "left"),
    "lock": ("requested", "released", "granted"),
    "flag": ("set",),
    "agent": ("registered", "status", "heartbeat", "left", "gone", "draining", "changed"),
    "note": ("said",),
}


class History:
    """Facts of a fleet in the order of its log, without regard to what is allowed."""

    def __init__(self, rng: random.Random, *, epoch: int = 1, ids: int = 12) -> None:
        self._rng = rng
        self._ids = ids
        self.epoch = epoch
        self.seq = 0
        self.at = T0

    def facts(self, count: int) -> list[EventRow]:
        """The next ones; now and then a message is a frame of several."""
        rows: list[EventRow] = []
        while len(rows) < count:
            self.seq += self._rng.randrange(1, 3)
            self.at += timedelta(seconds=self._rng.randrange(120))
            framed = self._rng.random() < 0.1
            rows += [self._fact("task", "progress", idx) for idx in range(4)] if framed else [self._any()]
        return rows

    def _any(self) -> EventRow:
        kind = self._rng.choice([*_SAYS, "task", "task"])
        return self._fact(kind, self._rng.choice(_SAYS[kind]), 0)

    def _fact(self, kind: str, name: str, idx: int) -> EventRow:
        rng = self._rng
        agent = f"a{rng.randrange(4)}"
        id_ = agent if kind == "agent" else f"{kind[0]}{rng.randrange(self._ids)}"
        key = "flags" if kind == "flag" else id_
        detail, data = self._says(kind, name, agent)
        # As an author writes it, which is not as jsonb does: spaces, the order of members, and a number's form.
        # Who says the same of the same again says it in the same words.
        text = msgspec.json.format(msgspec.json.encode(data), indent=(-1, 0, 2)[len(id_) % 3]).decode()
        return event(
            self.seq, idx=idx, epoch=self.epoch, partition=subjects.partition(key), agent=agent, key=key, kind=kind,
            id=id_, event=name, detail=detail, event_id=f"e{self.epoch}-{self.seq}/{idx}", at=self.at,
            type=f"coord.{kind}.{name}", data=text,
        )  # fmt: skip

    def _says(self, kind: str, name: str, agent: str) -> tuple[str, Any]:
        rng = self._rng
        n = str(rng.randrange(1, 4))
        match kind, name:
            case "task", "submitted":
                return "work.normal", {
                    "retries": 2,
                    "redrive": rng.choice([0, 0, 0, 1]),
                    "input": {"zz": 1.50, "b": [1]},
                }
            case "task", "claimed" | "returned":
                return n, {"instance": "i1"}
            case "task", "progress":
                return "", {"done": rng.random()}
            case "workflow", "started":
                return "", {"definition": {"version": "1", "name": "n"}, "input": {"zz": 1, "a": 2}}
            case "handoff", "offered":
                return "", {"agent": f"a{rng.randrange(4)}", "work": {"zz": 1, "a": 2}}
            case "handoff", "accepted" | "refused":
                return "1", {"instance": "i1"}
            case "signal", "awaited" | "left":
                return f"w{n}", {"names": ["s0"], "instance": "i1"}
            case "lock", _:
                return f"tok{n}", {"instance": "i1"}
            case "flag", "set":
                return "", {"percentage": rng.randrange(100), "rules": []}
            case "agent", "registered":
                return "", {"instance": f"i{n}", "labels": {"zone": n, "a": "b"}, "capabilities": {"work": 2, "b": 1}}
            case "agent", "left" | "gone":
                return "", {"instance": f"i{n}"}
            case "agent", "status":
                return "", {"load": rng.random(), "run": "r1", "n": rng.randrange(5)}
            case _:
                return "", {"load": 0.5}


async def project(pool: Pool, rows: Sequence[EventRow]) -> dict[entities.Place, str]:
    """Into the tables in batches of random length, each with its checkpoints; what was refused, which has no row."""
    refused: dict[entities.Place, str] = {}
    start = 0
    while start < len(rows):
        end = start + random.Random(start).randrange(1, 200)
        while end < len(rows) and rows[end][2] == rows[end - 1][2]:
            end += 1  # a message is in one batch
        some = list(rows[start:end])
        async with pool.transaction() as conn:
            while True:
                (found,) = await entities.project(conn, [some])
                if not found:
                    break
                refused |= {place: error.code for place, error in found.items()}
                some = [row for row in some if (row[2], row[3]) not in found]
            await copy.events(conn, some)
            await copy.upsert_agents(conn, [agent_row(row) for row in some if row[8] == "agent"])
            await _checkpoint(conn, rows[end - 1 if end < len(rows) else -1])
        start = end
    return refused


async def _checkpoint(conn: Connection, last: EventRow) -> None:
    """All partitions are at that fact: those that have none of it follow the log's end."""
    if not await checkpoints.read_all(conn, subjects.EVENTS):
        for partition in range(limits.PARTITIONS):
            await checkpoints.create(conn, stream=subjects.EVENTS, partition=partition, stream_created=CREATED, seq=0)
    for before in await checkpoints.read_all(conn, subjects.EVENTS):
        moved = checkpoints.moved(before, seq=last[2], stored_at=last[0])
        await advance(conn, before, moved, pending=0)


async def tables(pool: Pool) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables of entities."""
    found = {}
    async with pool.acquire() as conn:
        for name in (*(table.name for table in TABLES.values()), "agent"):
            rows = await conn.fetch(f"SELECT * FROM coord.{name} ORDER BY 1, 2, 3")
            found[name] = sorted((tuple(row) for row in rows), key=repr)  # an order, though a NULL has none
    return found


async def open_epoch(pool: Pool, *, replaced: bool) -> None:
    """As an operator does: of all partitions, of another log or of the same behind a gap."""
    every = range(limits.PARTITIONS)
    plan = projection.EpochPlan(
        stream=subjects.EVENTS, stream_created=CREATED + timedelta(days=1 if replaced else 0),
        starts=dict.fromkeys(every, 0), lost_max=0, replaced=frozenset(every if replaced else ()), why="a test",
    )  # fmt: skip
    await projection.new_epoch(pool, plan)


def unequal(compared: list[Compared]) -> list[Compared]:
    return [one for one in compared if not one.is_equal]


async def differing(pool: Pool) -> list[str]:
    """What differs, to be read."""
    found = []
    async with pool.acquire() as conn:
        for name, key in [*((table.name, "tenant, key, id") for table in TABLES.values()), ("agent", "tenant, agent")]:
            rows = await conn.fetch(
                f"SELECT to_jsonb(l) AS live, to_jsonb(r) AS rebuilt FROM coord.{name} AS l"
                f" FULL JOIN coord_rebuild.{name} AS r USING ({key}) WHERE l IS DISTINCT FROM r"
            )
            for row in rows:
                live, rebuilt = (msgspec.json.decode(one or "{}") for one in row)
                fold = {}
                for which, one in (("live", live), ("rebuilt", rebuilt)):
                    if "fold" in one:
                        fold[which] = msgspec.msgpack.decode(bytes.fromhex(one.pop("fold")[2:]))
                columns = {c: (live.get(c), rebuilt.get(c)) for c in live | rebuilt if live.get(c) != rebuilt.get(c)}
                found.append(f"{name} {live.get('id') or live.get('agent')}: {columns} {fold}")
    return found
