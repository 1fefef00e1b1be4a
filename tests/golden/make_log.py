"""Record a log of tests/golden/logs: what a stopped coord has in the broker and in the database.

``python -m tests.golden.make_log DIRECTORY``, with COORD_NATS_URLS and COORD_DATABASE_URL.  For adding one before a
release, with work of all kinds half way and `coord serve` of that release drained; never to change one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import asyncpg

from coord import errors, limits
from coord.bus.connection import Connection
from coord.ops import settings
from coord.wire import subjects

TABLES = ("task", "workflow", "handoff", "signal", "lock", "flag", "agent_registry")


async def messages(conn: Connection, stream: str) -> AsyncIterator[dict[str, Any]]:
    state = (await conn.api(f"STREAM.INFO.{stream}"))["state"]
    for seq in range(state["first_seq"], state["last_seq"] + 1):
        try:
            yield (await conn.api(f"STREAM.MSG.GET.{stream}", {"seq": seq}))["message"]
        except errors.ApiNotFound:
            continue


def event(message: dict[str, Any]) -> dict[str, Any]:
    """Text as it is, so that people can read it; of anything else its base64."""
    body = base64.b64decode(message.get("data", ""))
    said = {"seq": message["seq"], "stored_at": message["time"], "subject": message["subject"]}
    said["headers"] = base64.b64decode(message.get("hdrs", "")).decode()
    try:
        return said | {"body": body.decode()}
    except UnicodeDecodeError:
        return said | {"base64": message["data"]}


async def snapshots(conn: Connection) -> AsyncIterator[dict[str, Any]]:
    found = {m["subject"]: m.get("data", "") async for m in messages(conn, subjects.SNAPSHOTS)}
    for p in range(limits.PARTITIONS):
        head = json.loads(base64.b64decode(found[subjects.snapshot(p, "head")]))
        pieces = [found[subjects.snapshot(p, name)] for name, _ in head["pieces"]]
        yield {"partition": p, "seq": head["seq"], "pieces": pieces}


async def rows(database: str) -> AsyncIterator[dict[str, Any]]:
    db = await asyncpg.connect(database)
    for table in TABLES:
        query = f"SELECT to_jsonb(x) - 'fold' FROM coord.{table} AS x ORDER BY tenant, key, id"
        for (row,) in await db.fetch(query):
            yield {"table": table, "row": json.loads(row)}
    for seq, code in await db.fetch("SELECT seq, code FROM coord.dead_letter WHERE stream = 'EVENTS' ORDER BY seq"):
        yield {"table": "dead_letter", "row": {"seq": seq, "code": code}}
    await db.close()


def write(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects), encoding="utf-8")


async def record(folder: Path) -> None:
    folder.mkdir(parents=True)
    config = settings.load(None).settings
    async with await Connection.open(config.nats, name="make-log") as conn:
        write(folder / "events.jsonl", [event(m) async for m in messages(conn, subjects.EVENTS)])
        write(folder / "snapshots.jsonl", [s async for s in snapshots(conn)])
    write(folder / "rows.jsonl", [r async for r in rows(config.database.url)])


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
