"""Workers, deciders and NATS are killed while tasks and workflows run; `make soak` does it with thousands."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.soak.tasks import TENANT, connected
from tests.support import crew
from tests.support.siege import VICTIMS, Kill, Siege
from tests.support.taskload import Amount, Load
from tests.support.taskverdict import Log, judge

FEW = Amount(tasks=40, workflows=4, task_s=(0.2, 1.0), step_s=(0.0, 0.2))


@pytest.mark.timeout(600)
async def test_each_task_has_one_outcome_whoever_is_killed(
    nats, conn, rng: random.Random, rounds: int, tmp_path: Path
) -> None:
    job = crew.Job(urls=(), tenant=TENANT, folder=str(tmp_path))
    async with Siege.of(nats, job, tmp_path / "crew.log", servers=1, workers=2) as siege, connected((nats.url,)) as c:
        load = Load(c, FEW, rng.randrange(1 << 30))
        await load.full(60)
        for _ in range(rounds // 2):
            await siege.round([Kill(victim, rng.random() / 2, rng.random() / 2) for victim in VICTIMS])
            assert await load.probe(120) is not None, "not every partition goes on"
        assert await load.finish(180) == 0
        nats.kill()
        await nats.start()
        await load.last_word()
        ran = sum(1 for _ in crew.began(tmp_path))
        await asyncio.sleep(0.5)
        assert sum(1 for _ in crew.began(tmp_path)) == ran
    assert load.wrong == []
    log = await Log.read(conn, TENANT)
    assert judge(log, load.ends, tmp_path) == []
    print(f"{dict(siege.kills)}, {load.ended} ended, {log.facts} facts")
