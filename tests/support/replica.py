"""A primary and a streaming replica of it, of a test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import msgspec

from coord.ops.devstack import DevStackConfig, PostgresOptions, install, places, process
from coord.ops.devstack.postgres import OWNER, PostgresServer
from coord.store import migrations
from coord.store.config import DatabaseConfig
from tests.support.cluster import RUN_DIR
from tests.support.waiting import until


class Pair(msgspec.Struct, frozen=True):
    """Both, with coord's schema in them."""

    primary: PostgresServer
    replica: PostgresServer

    def config(self, **fields: object) -> DatabaseConfig:
        """Of coord, reading from the replica; patient with a machine that stands still."""
        given = {"pool_min": 0, "pool_max": 4, "health_timeout_s": 30.0, "statement_timeout_s": 120.0, **fields}
        return DatabaseConfig(url=self.primary.url(), replica_url=self.replica.url(), **given)  # type: ignore[arg-type]

    async def replays(self, *, on: bool) -> None:
        """Have the replica stop replaying what it receives, or go on."""
        conn = await asyncpg.connect(self.replica.url())
        try:
            await conn.execute(f"SELECT pg_wal_replay_{'resume' if on else 'pause'}()")
            if not on:
                await until(lambda: conn.fetchval("SELECT pg_get_wal_replay_pause_state() = 'paused'"))
        finally:
            await conn.close()


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Started, and stopped at the end."""
    home = Path(os.environ[RUN_DIR]) / f"pair-{secrets.token_hex(4)}"  # the database's account can walk there
    account = places.database_account()
    config = DevStackConfig.from_env(os.environ)
    provided = install.provide(config.source, places.cache_dir(account, asked=config.cache_dir), account, print)
    settings = {"wal_level": "replica", "max_wal_senders": "4", "hot_standby": "on", "wal_keep_size": "64MB"}
    settings["wal_retrieve_retry_interval"] = "100ms"
    options = PostgresOptions(fsync=False, shared_buffers="32MB", max_connections=40, settings=settings)
    primary = PostgresServer(home / "primary", provided, account, options)
    replica = PostgresServer(home / "replica", provided, account, options)
    try:
        await primary.start()
        await primary.ensure_database()
        await asyncio.to_thread(migrations.migrate, DatabaseConfig(url=primary.url()))
        places.make_folder(replica.home, account)
        replica._private(replica.data)
        copy: list[str | Path] = [
            provided.bin_dir / "pg_basebackup", "-D", replica.data, "-R", "-X", "stream", "-c", "fast", "--no-sync",
            "-d", f"host=127.0.0.1 port={primary.port} user={OWNER}",
        ]  # fmt: skip
        await asyncio.to_thread(
            process.run, copy, what="Copying the primary", cwd=replica.home, account=account, env={"LC_ALL": "C"}
        )
        await replica.start()
        yield Pair(primary, replica)
    finally:
        await replica.stop(immediate=True)
        await primary.stop(immediate=True)
