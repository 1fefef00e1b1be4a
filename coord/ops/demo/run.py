"""Run the demo: the stack, the services, the fleet, a death in the middle, and what the database says afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
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
from coord.core.tasks import ENDED
from coord.ops import serve
from coord.ops.cli.output import Output
from coord.ops.demo import counts, fleet
from coord.ops.demo.processes import Process
from coord.ops.devstack.stack import DevStack, DevStackConfig
from coord.ops.settings import Settings
from coord.runtime import assets
from coord.runtime.http_config import HttpConfig
from coord.server.config import PresenceConfig
from coord.store import migrations, queries
from coord.store.config import DatabaseConfig
from coord.store.pool import Pool

AGENTS_MIN: Final = 4
"""A scout, a reporter, one that is killed, and one that goes on."""

_CAUGHT_UP_S: Final = 60.0
"""How long the tables may take to have what was published: far more than they need."""

_READY_S: Final = 60.0

_SMALL_FILES: Final = 100
"""Of fewer all are with an analyst at once: a third later the victim may have none any more."""

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
        killed = await _review(stack, tenant, root, files, config.agents, out)
        async with Pool(database) as pool:
            return await _answers(pool, tenant, began, killed, out, stack)


# --- the service ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _service(stack: DevStack, out: Output) -> AsyncIterator[DatabaseConfig]:
    """Streams, schema and all that `coord serve` runs, for the length of the block."""
    # Whoever looks at a demo has not asked for plans; and everything on one machine is slow now and then.
    nats, database = NatsConfig(urls=(stack.nats_url,)), DatabaseConfig(url=stack.database_url, slow_query_ms=0)
    report = await asyncio.to_thread(migrations.migrate, database)
    for note in report.notes:
        out.say(note)
    async with await Connection.open(nats, name="demo-service") as conn:
        await topology.apply(conn, topology.load(assets.streams_dir(), "development"))
    user = stack.nats_system_user
    settings = Settings(
        nats=nats,
        database=database,
        presence=PresenceConfig() if user is None else PresenceConfig(system_user=user, system_password=user),
        http=HttpConfig(enabled=False),
    )
    services = serve.services(settings)
    async with services:
        await services.wait_ready(_READY_S)
        yield database


# --- the fleet -----------------------------------------------------------------------------


class Killed(msgspec.Struct, frozen=True):
    """The analyst that did not live to see the end."""

    agent: str
    at: datetime
    held: int
    """Tasks that it had claimed and not finished, as far as was heard."""


async def _review(stack: DevStack, tenant: str, root: Path, files: int, agents: int, out: Output) -> Killed | None:
    """Let the fleet work, showing its progress, and kill one of it in the middle."""
    *others, last = (f"analyst-{i}" for i in range(1, agents - 1))
    hosts: list[list[str]] = [[] for _ in range(min(_PROCESSES, len(others)))]
    for i, name in enumerate(others):
        hosts[i % len(hosts)].append(name)
    parts = (*hosts, [last], [fleet.SCOUT, fleet.REPORTER])
    jobs = [fleet.Job(url=stack.nats_url, tenant=tenant, root=str(root), agents=tuple(names)) for names in parts]
    async with contextlib.AsyncExitStack() as processes:
        *workers, victim = [await processes.enter_async_context(Process(job)) for job in jobs[:-1]]
        await _all_there(stack.nats_url, tenant, {*others, last})  # or a small tree is done before the last of them is
        boss = await processes.enter_async_context(Process(jobs[-1]))
        work = asyncio.gather(boss.ended(), _follow(stack.nats_url, tenant, files, victim, out))
        failures = [asyncio.ensure_future(worker.ended()) for worker in workers]
        try:
            async with asyncio.timeout(_FLEET_S):
                # A host that ends is one that has failed; its tasks would move, but the demo shows one death.
                waiting: list[asyncio.Future[Any]] = [work, *failures]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for failure in failures:
                    if failure.done():
                        failure.result()
                _, killed = await work
        except TimeoutError as exc:
            raise errors.DeadlineExceeded(f"the fleet was not done within {_FLEET_S:g} s; see `coord dlq ls`") from exc
        finally:
            work.cancel()
            for failure in failures:
                failure.cancel()
            await asyncio.gather(work, *failures, return_exceptions=True)
        await asyncio.gather(*(worker.dismiss() for worker in (workers if killed else (*workers, victim))))
    return killed


async def _all_there(url: str, tenant: str, names: set[str]) -> None:
    """Return when all of them have registered."""
    async with (
        coord.connect(url, tenant=tenant, agent="audience") as c,
        c.subscribe(kind="agent", event="registered", start=1) as registered,
    ):
        try:
            async with asyncio.timeout(_READY_S):
                while names:
                    names = names - {(await anext(registered)).agent}
        except TimeoutError as exc:
            raise errors.DeadlineExceeded("not all analysts have come", missing=sorted(names)) from exc


async def _follow(url: str, tenant: str, files: int, victim: Process, out: Output) -> Killed | None:
    """Show how far the fleet is, from the log, as any subscriber can; kill the victim in the middle of its work.

    Of a small tree as soon as it has some: each analyst has its share at once.  None: it never had any.
    A bar where somebody looks at a terminal, otherwise a line at the end.
    """
    middle = files / 3 if files >= _SMALL_FILES else 0
    (name,) = victim.job.agents
    terminal = out.stderr.isatty()
    killed: Killed | None = None
    done: set[str] = set()
    held: set[str] = set()
    began = time.monotonic()
    async with (
        coord.connect(url, tenant=tenant, agent="audience") as c,
        c.subscribe(kind="task", start=1) as tasks,
    ):
        while len(done) < files:
            fact = await anext(tasks)
            if fact.event == "claimed" and fact.agent == name:
                held.add(fact.id)
            elif fact.event in ENDED:
                held.discard(fact.id)
                done.add(fact.id)
                if terminal:
                    filled = 40 * len(done) // files
                    out.stderr.write(f"\r  [{'█' * filled}{'·' * (40 - filled)}] {len(done)}/{files} files")
                    out.stderr.flush()
            if killed is None and held and len(done) >= middle:
                killed = Killed(name, datetime.now(UTC), len(held))
                victim.kill()
    end = "\r" + " " * 70 + "\r" if terminal else ""
    out.say(f"{end}{len(done)} files reviewed in {time.monotonic() - began:.1f} s")
    return killed


# --- the answers ---------------------------------------------------------------------------


async def _answers(
    pool: Pool, tenant: str, since: datetime, killed: Killed | None, out: Output, stack: DevStack
) -> bool:
    # What is stored from now on (an agent's end, say) is not counted on either side.
    until = datetime.now(UTC)
    async with await Connection.open(NatsConfig(urls=(stack.nats_url,)), name="demo-count") as conn:
        said = await counts.stored(conn, tenant, until)
    values = {"tenant": tenant, "since": since.isoformat(), "until": until.isoformat()}
    await _caught_up(pool, values, said)
    committed = await _has_commit_times(pool)
    for title, name, more in (
        ("Files per agent", "files_per_agent", {}),
        ("The ten most complex functions", "most_complex_functions", {"limit": 10}),
        ("Who did whose tasks", "tasks_done", {}),
    ):
        await _show(pool, title, name, {**values, **more}, out)
    if killed is not None:
        moved = await _show(pool, "Tasks that moved", "tasks_moved", {**values, "lost_at": killed.at.isoformat()}, out)
        out.text(_moved(killed, moved))
    else:
        out.text("Nobody was killed: whoever was to be never had a task. A larger tree shows it.")
    for title, name in (
        ("Telemetry", "telemetry_summary"),
        ("Latency", "latency_committed" if committed else "latency_projected"),
        ("Throughput", "throughput"),
    ):
        await _show(pool, title, name, values, out)
    rows = await _show(pool, "Rows against facts stored", "rows_vs_facts", {**values, "published": said.facts}, out)
    samples = await _count_samples(pool, values)
    exact = bool(rows[0]["exactly_once"]) and samples == said.samples
    verdict = "every fact and every sample exactly once" if exact else "NOT what was stored"
    out.text(
        f"{said.facts} facts and {said.samples} samples in the log; "
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


def _moved(killed: Killed, rows: Sequence[Mapping[str, Any]]) -> str:
    """What became of the tasks of the one that was killed, in words."""
    mine = [row for row in rows if row["from_agent"] == killed.agent]
    if not mine:
        return f"{killed.agent} was killed (-9) in the middle; it held nothing that was not done."
    tasks = sum(row["tasks"] for row in mine)
    takers = ", ".join(sorted(row["to_agent"] for row in mine))
    last = max(row["max_ms"] for row in mine)
    which = "its task" if tasks == 1 else f"its {tasks} tasks"
    return f"{killed.agent} was killed (-9) in the middle; {which} went on with {takers}, within {last:.0f} ms."


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


async def _caught_up(pool: Pool, values: Mapping[str, object], said: counts.Stored) -> None:
    """Return when the tables have everything, or after a while: the answers then show what lacks."""
    async with pool.acquire() as conn:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CAUGHT_UP_S):
                while True:
                    rows = await queries.run(conn, "rows_vs_facts", **values)
                    if rows[0]["rows"] >= said.facts and await _samples(conn, values) >= said.samples:
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
