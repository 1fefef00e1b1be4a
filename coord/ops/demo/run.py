"""Run the demo: the stack, the service, the fleet, and what the database says afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

import coord
from coord import errors
from coord.bus import topology
from coord.bus.connection import Connection, NatsConfig
from coord.ops.cli.output import Output
from coord.ops.demo import fleet
from coord.ops.devstack.stack import DevStack, DevStackConfig
from coord.projector.service import ProjectorService
from coord.query.service import QueryService
from coord.runtime import assets
from coord.runtime.service import ServiceGroup
from coord.store import migrations, queries
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool

AGENTS_MIN: Final = 3
"""A scout, a reporter and somebody who works."""

_CAUGHT_UP_S: Final = 60.0
"""How long the tables may take to have what was published: far more than they need."""

_FLEET_S: Final = 600.0
"""How long the fleet may work: two minutes is much for the standard library on two cores."""

_PROCESSES: Final = max(2, min(4, (os.cpu_count() or 2)))


class DemoConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo does."""

    path: Path | None = None
    """The source tree to review; None: the standard library of the running Python."""
    agents: int = 12
    stack: DevStackConfig = DevStackConfig()


async def demo(config: DemoConfig, out: Output) -> bool:
    """Run it; True when every published fact is in the table exactly once.

    Raises `EnvironmentProblem` when the machine lacks something, `CoordError` otherwise.
    """
    root = (config.path or Path(sysconfig.get_path("stdlib"))).resolve()
    files = len(fleet.source_files(root)) if root.is_dir() else 0
    if not files:
        raise errors.EnvironmentProblem(f"{root} holds no Python files: name another tree with --path DIR.")
    if config.agents < AGENTS_MIN:
        raise errors.EnvironmentProblem(f"The demo needs at least {AGENTS_MIN} agents: --agents {AGENTS_MIN}.")
    out.say("Starting nats-server and the database …")
    async with DevStack(config.stack, say=out.say) as stack, _service(stack, out) as database:
        out.say(f"{out.style('nats', 'bold')}      {stack.nats_url}")
        out.say(f"{out.style('database', 'bold')}  {stack.database_url}  ({stack.edition}: {stack.edition_note})")
        out.say(f"{config.agents} agents review {files} files of {root}")
        tenant = f"demo-{secrets.token_hex(3)}"
        began = datetime.now(UTC)
        tally = await _review(stack, tenant, root, files, config.agents, out)
        async with Pool(database) as pool:
            return await _answers(pool, tenant, began, tally, out, stack)


# --- the service ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _service(stack: DevStack, out: Output) -> AsyncIterator[DatabaseConfig]:
    """Streams, schema, projector and query service, for the length of the block."""
    nats, database = NatsConfig(urls=(stack.nats_url,)), DatabaseConfig(url=stack.database_url)
    report = await asyncio.to_thread(migrations.migrate, database)
    for note in report.notes:
        out.say(note)
    async with await Connection.open(nats, name="demo-service") as conn:
        await topology.apply(conn, topology.load(assets.streams_dir(), "development"))
        services = ServiceGroup("demo", [ProjectorService(nats, database), QueryService(conn)])
        async with services:
            await services.wait_ready(30)
            yield database


# --- the fleet -----------------------------------------------------------------------------


async def _review(stack: DevStack, tenant: str, root: Path, files: int, agents: int, out: Output) -> fleet.Tally:
    """Let the fleet work, showing its progress; returns what was acknowledged."""
    analysts = tuple(f"analyst-{i}" for i in range(1, agents - 1))
    hosted: list[list[str]] = [[] for _ in range(min(_PROCESSES, len(analysts)))]
    for i, name in enumerate(analysts):
        hosted[i % len(hosted)].append(name)
    hosted[0] += [fleet.SCOUT, fleet.REPORTER]
    jobs = [
        fleet.Job(url=stack.nats_url, tenant=tenant, root=str(root), agents=tuple(names), analysts=analysts)
        for names in hosted
    ]
    runs = [asyncio.create_task(_process(job)) for job in jobs]
    progress = asyncio.create_task(_show_progress(stack.nats_url, tenant, files, out))
    try:
        # The first that fails ends the others: half a fleet would wait for the other half.
        async with asyncio.timeout(_FLEET_S):
            tallies = await asyncio.gather(*runs)
    except TimeoutError as exc:
        raise errors.DeadlineExceeded(f"the fleet was not done within {_FLEET_S:g} s; see `coord dlq ls`") from exc
    finally:
        for task in (*runs, progress):
            task.cancel()
        ended = await asyncio.gather(*runs, progress, return_exceptions=True)
    if isinstance(ended[-1], Exception):
        raise ended[-1]
    return fleet.Tally(
        facts=sum(t.facts for t in tallies), samples=sum(t.samples for t in tallies), shed=sum(t.shed for t in tallies)
    )


async def _process(job: fleet.Job) -> fleet.Tally:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coord.ops.demo.fleet", msgspec.json.encode(job).decode(),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        output, talk = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        last = talk.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise errors.CoordError(f"a process of the fleet ended with {process.returncode}: {' '.join(last)}")
    return msgspec.json.decode(output.splitlines()[-1], type=fleet.Tally)


async def _show_progress(url: str, tenant: str, files: int, out: Output) -> None:
    """A bar that follows the log, as any subscriber can; one line when nobody looks at a terminal."""
    terminal = out.stderr.isatty()
    async with (
        coord.connect(url, tenant=tenant, agent="audience") as c,
        c.subscribe(kind="file", event="analysed", start=1) as analysed,
    ):
        began, done = time.monotonic(), 0
        async for _ in analysed:
            done += 1
            if terminal:
                filled = 40 * done // files
                out.stderr.write(f"\r  [{'█' * filled}{'·' * (40 - filled)}] {done}/{files} files")
                out.stderr.flush()
            if done == files:
                break
        end = "\r" + " " * 70 + "\r" if terminal else ""
        out.say(f"{end}{done} files reviewed in {time.monotonic() - began:.1f} s")


# --- the answers ---------------------------------------------------------------------------


async def _answers(pool: Pool, tenant: str, since: datetime, tally: fleet.Tally, out: Output, stack: DevStack) -> bool:
    values = {"tenant": tenant, "since": since.isoformat()}
    await _caught_up(pool, values, tally)
    committed = await _has_commit_times(pool)
    for title, name, more in (
        ("Files per agent", "files_per_agent", {}),
        ("The ten most complex functions", "most_complex_functions", {"limit": 10}),
        ("Who handed work to whom", "handoff_matrix", {}),
        ("Telemetry", "telemetry_summary", {}),
        ("Latency", "latency_committed" if committed else "latency_projected", {}),
        ("Throughput", "throughput", {}),
    ):
        await _show(pool, title, name, {**values, **more}, out)
    rows = await _show(pool, "Rows against facts published", "rows_vs_facts", {**values, "published": tally.facts}, out)
    samples = await _count_samples(pool, values)
    exact = bool(rows[0]["exactly_once"]) and samples == tally.samples
    verdict = "every fact and every sample exactly once" if exact else "NOT what was published"
    out.text(
        f"{tally.facts} facts and {tally.samples} samples published; "
        f"{rows[0]['rows']} and {samples} rows in the tables: {out.style(verdict, 'green' if exact else 'red')}"
    )
    home = stack.state.database.home if stack.state.database else None
    out.say("")
    out.say(f"The log is in {stack.data_dir}/nats, the tables in {home or stack.database_url}.")
    out.say("What to try next:")
    out.say("  coord dev               the same stack, left running")
    out.say("  coord event tail        follow the log live")
    out.say("  make demo ARGS='--path DIR'   review another tree")
    return exact


async def _show(
    pool: Pool, title: str, name: str, values: Mapping[str, object], out: Output
) -> Sequence[Mapping[str, Any]]:
    async with pool.acquire() as conn:
        found = [dict(row) for row in await queries.run(conn, name, **values)]
    if out.is_table:
        out.text("")
        out.text(out.style(title, "bold"))
    out.rows(found)
    return found


async def _caught_up(pool: Pool, values: Mapping[str, object], tally: fleet.Tally) -> None:
    """Return when the tables have everything, or after a while: the answers then show what lacks."""
    async with pool.acquire() as conn:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CAUGHT_UP_S):
                while True:
                    rows = await queries.run(conn, "rows_vs_facts", **values)
                    if rows[0]["rows"] >= tally.facts and await _samples(conn, values) >= tally.samples:
                        return
                    await asyncio.sleep(0.1)


async def _count_samples(pool: Pool, values: Mapping[str, object]) -> int:
    async with pool.acquire() as conn:
        return await _samples(conn, values)


async def _samples(conn: Any, values: Mapping[str, object]) -> int:
    return sum(row["samples"] for row in await queries.run(conn, "telemetry_summary", **values))


async def _has_commit_times(pool: Pool) -> bool:
    async with pool.acquire() as conn:
        return bool(await conn.fetchval("SELECT current_setting('track_commit_timestamp')::boolean"))
