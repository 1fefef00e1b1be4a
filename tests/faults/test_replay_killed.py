"""A replay during which broker and projector are killed: the tables hold what the file holds."""

from __future__ import annotations

import asyncio
import functools
import json
import random
from pathlib import Path
from typing import Any

import asyncpg

from coord.ops.replay.driver import ReplayConfig, Replayer
from coord.ops.replay.formats import FORMATS
from coord.ops.replay.recording import Statement
from coord.ops.replay.source import Source
from tests.conftest import soak_rounds
from tests.support.waiting import until


async def test_broker_and_projector_killed_in_the_middle(
    nats: Any, conn: Any, process: Any, migrated_database: Any, tmp_path: Path, rng: random.Random
) -> None:
    runs, messages, kills = 60 * soak_rounds(3), 12, soak_rounds(3)
    path = tmp_path / "talks.jsonl"
    with path.open("w") as file:
        for run in range(runs):
            history = [{"name": f"Agent {(run + n) % 5}", "content": f"{run}/{n}"} for n in range(messages)]
            file.write(json.dumps({"question": run, "history": history}) + "\n")
    source = Source(path)
    total = runs * (1 + messages + messages - 1)
    said = [s for s in FORMATS["conversations"].read(source, "r") if isinstance(s, Statement)]
    replayer = Replayer(
        conn, ReplayConfig(tenant="replayed", run="r"), digest=source.digest(), format_name="conversations"
    )
    projector = await process(migrated_database.url)
    await projector.ready()
    replaying = asyncio.create_task(replayer.run(said, lambda _: None))

    def reached(count: float) -> bool:
        return replayer.tally.done >= count or replaying.done()

    killed = 0
    for number in range(kills):
        at = total * (number + rng.random() / 2) / kills
        await until(functools.partial(reached, at))
        killed += not replaying.done()
        projector.kill()
        nats.kill()
        await projector.ended()
        await nats.start()
        projector = await process(migrated_database.url)
    assert await asyncio.wait_for(replaying, 100)
    assert killed > kills / 2, "the replay was over too soon to be disturbed"
    assert replayer.tally.done == total
    database = await asyncpg.connect(migrated_database.url)
    try:

        async def all_there() -> bool:
            return bool(await database.fetchval("SELECT count(*) >= $1 FROM coord.event", total))

        await until(all_there)
        rows = await database.fetch("SELECT key, kind, event_id, data FROM coord.event ORDER BY epoch, seq, idx")
    finally:
        await database.close()
    assert len(rows) == len({r["event_id"] for r in rows}) == total
    heard: dict[str, int] = {}
    for row in rows:
        if row["kind"] == "message":
            index = json.loads(row["data"])["index"]
            assert index == heard.get(row["key"], -1) + 1
            heard[row["key"]] = index
    print(f"{killed} of {kills} kills during the replay, {total} facts, {replayer.tally}")
