"""The soak's verdict finds every kind of damage in the tables, and nothing where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from coord.store import copy
from coord.store.rows import EventRow
from coord.wire import subjects
from tests.soak.speakers import RECORD, Speech
from tests.soak.verdict import judge
from tests.support.store import event, pool_of

# line, facts, first number, sequence: a note that states 1 to 5, a task whose frame has three.
ACKED = [*((0, 1, n, 10 * n) for n in range(1, 6)), (1, 3, 1, 7), (1, 3, 4, 77)]
UNSURE = [(0, 1, 6, 0)]


def row(key: str, n: int, seq: int, idx: int = 0, **fields: Any) -> EventRow:
    where = {"tenant": "t", "agent": "speaker-0", "key": key, "kind": "note", "id": key, "event_id": f"{key}-{n}"}
    return event(seq, idx=idx, partition=subjects.partition(key), data=json.dumps({"n": n}), **where | fields)


NOTE = [row("note-0", n, 10 * n) for n in range(1, 6)]
TASK = [row("task-1", n + 1, 7, n) for n in range(3)] + [row("task-1", n + 4, 77, n) for n in range(3)]


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        (NOTE + TASK, set()),
        ([*NOTE, row("note-0", 6, 60), *TASK], set()),  # given up, and stored after all
        (NOTE[:4] + TASK, {"lost"}),
        (NOTE[1:] + TASK, {"lost", "disordered"}),
        (NOTE + TASK[:5], {"lost"}),
        (NOTE + TASK[:3], {"lost"}),
        ([*NOTE, NOTE[2], *TASK], {"doubled"}),
        ([*NOTE, row("note-0", 3, 31), *TASK], {"doubled", "stray"}),
        ([*NOTE[:4], row("note-0", 5, 51), *TASK], {"moved", "stray"}),
        ([*NOTE[:2], row("note-0", 4, 30), row("note-0", 3, 40), NOTE[4], *TASK], {"moved", "disordered"}),
        ([*NOTE, *TASK, row("note-0", 7, 99)], {"stray"}),
        ([*NOTE, *TASK, row("nobody", 1, 99)], {"stray"}),
        ([*NOTE, *TASK, row("note-0", 6, 2_000)], {"checkpoint"}),
    ],
    ids=[
        "sound", "unsure", "last", "first", "entry", "frame", "twice", "again", "sequence", "swapped", "beyond",
        "nobody", "checkpoint",
    ],
)  # fmt: skip
async def test_each_kind_of_damage_is_found(
    migrated_database, tmp_path: Path, rows: list[EventRow], kinds: set[str]
) -> None:
    speech = Speech(url="", tenant="t", seed=1, records=str(tmp_path / "records"), agents=1, notes=1, tasks=1)
    with (tmp_path / "records").open("wb") as file:
        for acked, messages in ((1, ACKED), (0, UNSURE)):
            for line, facts, first, seq in messages:
                file.write(RECORD.pack(line, 0, acked, facts, first, seq))
    async with pool_of(migrated_database.url) as pool, pool.acquire() as conn:
        await copy.events(conn, rows)
    db = await asyncpg.connect(migrated_database.url)
    for partition in {r[4] for r in rows}:
        await db.execute(
            "INSERT INTO coord.checkpoint (stream_created, seq, epoch, partition, stream)"
            " VALUES (now(), 1000, 1, $1, 'EVENTS')",
            partition,
        )
    count, findings = await judge(db, [speech])
    assert {f.kind for f in findings} == kinds, findings
    assert count == len(rows)
    await db.close()
