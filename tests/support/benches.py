"""Benches as tests run them: forks, whose workers are forks, on copies of a cluster that was migrated once.

Two thirds of a tiny bench's CPU are programs that import coord, and a database that is made and migrated.  What runs is
``python -m coord.ops.bench`` all the same, in a process of its own with servers of its own.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import subprocess
from pathlib import Path
from typing import NamedTuple

from coord.ops.bench import workers
from coord.ops.devstack import DevStackConfig, PostgresOptions, install, places
from coord.ops.devstack.install import Install
from coord.ops.devstack.locks import locked
from coord.ops.devstack.postgres import PostgresServer
from coord.store import migrations
from coord.store.config import DatabaseConfig
from tests.support import cluster, forking


class Done(NamedTuple):
    """A bench that has ended."""

    code: int | None
    out: bytes
    talk: bytes


async def bench(*args: str | Path) -> Done:
    """Run ``coord bench`` with `args`."""
    await _migrate_once()
    process = await forking.python("-m", __name__, *args, stderr=subprocess.PIPE)
    try:
        out, talk = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Done(process.returncode, out, talk)


def _migrated(of: Install) -> Path:
    """The files that such programs copy."""
    return Path(os.environ[cluster.RUN_DIR]) / f"migrated-{of.source}-{of.major}"


async def _migrate_once() -> None:
    """The run's first makes the cluster that all others copy."""
    account = places.database_account()
    config = DevStackConfig.from_env(os.environ)
    cache = places.cache_dir(account, asked=config.cache_dir)
    provided = await asyncio.to_thread(install.provide, config.source, cache, account, print)
    made = _migrated(provided)
    with locked(made.with_suffix(".lock"), what="it migrates a database cluster"):
        if made.exists():
            return
        server = PostgresServer(made.with_suffix(".home"), provided, account, PostgresOptions(fsync=False))
        await server.start()
        await server.ensure_database()
        await asyncio.to_thread(migrations.migrate, DatabaseConfig(url=server.url()))
        await server.stop()
        server.data.rename(made)


# --- the other half ----------------------------------------------------------------------


def main() -> None:
    """Be a bench."""
    forking.begin()
    cluster.copy_clusters()
    initdb, program = PostgresServer._initdb, workers._start

    def copy(server: PostgresServer, folder: Path) -> None:
        if (made := _migrated(server.install)).exists():
            cluster.copy_files(server, made, folder)
        else:
            initdb(server, folder)

    async def start(module: str, argument: str) -> asyncio.subprocess.Process | forking.Forked:
        if module.endswith(".peer_worker"):  # which must not import coord's own client
            return await program(module, argument)
        return await forking.python("-m", module, argument, limit=workers._LINE_BYTES_MAX)

    PostgresServer._initdb = copy  # type: ignore[method-assign, assignment]
    workers._start = start  # type: ignore[assignment]
    runpy.run_module("coord.ops.bench", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
