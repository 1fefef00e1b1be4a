"""SIGKILL to a rebuild at its steps: the live tables are as they were, and the next one goes on to the same end.

The last step and some of the others, by the seed; in a soak all of them.
"""

from __future__ import annotations

import random
import signal

from coord.projector import rebuild
from coord.projector.rebuild import Rebuilder
from coord.store.config import DatabaseConfig
from tests.conftest import soak_rounds
from tests.support.cluster import Database
from tests.support.rebuild_process import POINTS, killed
from tests.support.rebuilding import History, differing, project, tables, unequal
from tests.support.store import pool_of


async def test_killed_at_any_step_nothing_is_lost(migrated_database: Database, rng: random.Random) -> None:
    history = History(rng)
    async with pool_of(migrated_database.url) as pool:
        await project(pool, history.facts(600))
        before = await tables(pool)
        facts = 0
        others = sorted(rng.sample(range(len(POINTS) - 1), min(len(POINTS) - 1, soak_rounds(3))))
        for point in [*(POINTS[i] for i in others), POINTS[-1]]:
            assert await killed(migrated_database.url, point) == -signal.SIGKILL, point
            assert await tables(pool) == before, point
            async with pool.acquire() as conn:
                if await conn.fetchval("SELECT to_regclass('coord_rebuild.progress') IS NOT NULL"):
                    done = await conn.fetchval("SELECT facts FROM coord_rebuild.progress")
                    assert done >= facts, f"{point}: what was done is done"
                    facts = done
                else:
                    assert point == "created"
            # It goes on behind the one that is gone, whose locks are its server's to release.
            await project(pool, history.facts(30))
            before = await tables(pool)
        assert facts
        async with rebuild.pools(DatabaseConfig(url=migrated_database.url)) as (writer, reader):
            rebuilder = Rebuilder(writer, reader)
            assert await rebuilder.begin(), "it was begun"
            await rebuilder.build()
            assert unequal(await rebuilder.compare()) == [], await differing(pool)
            async with pool.acquire() as conn:
                about = "kind IN ('task', 'workflow', 'handoff', 'signal', 'lock', 'flag', 'agent')"
                every = await conn.fetchval(f"SELECT count(*) FROM coord.event WHERE {about}")
            assert rebuilder.progress.facts == every, "each was folded once"
            await rebuilder.swap()
        assert await tables(pool) == before
