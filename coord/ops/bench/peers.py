"""coord beside frameworks that people would use instead: the same backlog of single facts into the same table.

faststream        FastStream's batch pull subscriber as its documentation shows one, one asyncpg COPY a
                  batch in its handler
faststream_lean   the same with decoding, validation and dependency injection switched off
nats_sinks        nats-sinks' runner with a sink that does the same

Each is one process on all the machine's cores, as coord's projector is.  They take turns on one
full backlog; the table is emptied and consumers are made anew before each.  What is in the
peers' favour:

* they check nothing: a subject is split, three headers are taken, the body goes in as it came;
* one durable consumer on the whole log, no partitions, no order per key;
* `synchronous_commit=off` as coord has it, though for them it is not safe: they acknowledge
  after a commit that a crash of the database may still lose, and then nobody has the rows;
* their clock starts after connecting and ends at the last commit, acknowledgements behind it.

What they do not have, and this bench does not charge them for: exactly once (a crash between
commit and acknowledgement doubles a batch), one bad message that does not stop the rest, an
order between replicas, gaps and lost streams noticed, notices for caches, back-pressure in bytes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
from collections.abc import Callable
from importlib import metadata
from typing import Any, Final, Literal, get_args

import msgspec

from coord import errors
from coord.bus.connection import Connection, NatsConfig
from coord.errors import EnvironmentProblem, SettingsError
from coord.ops.bench import machine, projecting, servers
from coord.ops.bench.measure import BenchError, Clock, Run, Side, alternate, rates, ratios, rounded, settle
from coord.ops.bench.workers import Job, Worker
from coord.ops.devstack.stack import DevStackConfig
from coord.store.pool import PROJECTOR_SETTINGS, Pool

FORMAT: Final = 1

_DISTRIBUTIONS: Final = {"faststream": "faststream", "nats_sinks": "nats-sinks"}
"""Module → its distribution, of what is measured against."""

_CONSUMER: Final = "peer"
_RESULT_S: Final = 180.0

Peer = Literal["faststream", "faststream-lean", "nats-sinks"]
PEERS: Final[tuple[Peer, ...]] = get_args(Peer)


_DIGEST: Final = """
    SELECT md5(string_agg(concat_ws('|', epoch, seq, idx, partition, tenant, agent, key, kind, id, event, detail,
                                    event_id, type, schema, occurred_at, data), E'\n' ORDER BY seq, idx))
    FROM coord.event
"""
"""Of all that each side wrote: they must not only be as many rows, but the same."""


class PeersConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bench does.  The defaults take about two minutes on two cores."""

    facts: int = 120_000
    """Of the backlog; filled up to whole batches: a last pull that is not full waits a second for company."""
    rounds: int = 3
    batch: int = 500
    """Messages of one pull and rows of one transaction of the peers."""
    database: DevStackConfig = DevStackConfig(ephemeral=True, nats=False)

    def validate(self) -> None:
        """Raise `SettingsError` when a number is not positive."""
        for name in ("facts", "rounds", "batch"):
            if getattr(self, name) < 1:
                raise SettingsError(f"bench: {name} is at least 1")
        if self.batch > 10_000:
            raise SettingsError("bench: batch is at most 10,000, as nats-sinks has it")


async def peers(config: PeersConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it; returns the report.

    Raises `EnvironmentProblem` when the extra `bench` is not installed, `BenchError` when a side
    lost or doubled something.
    """
    config.validate()
    _installed()
    circumstances = machine.Circumstances()
    async with (
        servers.database(config.database, say) as database,
        servers.broker() as nats,
        await Connection.open(NatsConfig(urls=(nats.url,)), name="bench") as conn,
        Pool(msgspec.structs.replace(database.config, pool_min=1), settings=PROJECTOR_SETTINGS) as pool,
    ):
        assert nats.pid is not None
        facts = -(-config.facts // config.batch) * config.batch
        counts = projecting.Counts(framed=0, singles=facts)
        (backlog,) = projecting.backlogs(counts, ["singles"])
        say(f"  {backlog.rows:,} single facts; rounds of coord and each peer in turn")
        bench = projecting.Bench(nats.url, nats.pid, conn, pool, database.pid, backlog)
        await bench.fill()
        same = _Same(pool)
        sides: dict[str, Side] = {"coord": same.as_before(bench.drain)}
        for peer in PEERS:
            side = _Peer(peer, config.batch, bench, conn, nats.url, nats.pid, database)
            sides[_side(peer)] = same.as_before(side)
        found = await alternate(config.rounds, sides, say)
        versions = await servers.versions(nats, database.config)
    figures = _figures(found)
    return circumstances.report(
        "peers",
        FORMAT,
        versions=versions | {name: metadata.version(name) for name in _DISTRIBUTIONS.values()},
        edition=database.edition,
        settings=servers.settings(config),
        figures={"peers": {name: rounded(statistics.median(values)) for name, values in figures.items()}},
        by_round={"peers": {name: [rounded(v) for v in values] for name, values in figures.items()}},
        rounds={name: [run.record() for run in of] for name, of in found.items()},
    )


class _Same:
    """Looks after each round whether the table holds what it held after the first."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._digest: str | None = None

    def as_before(self, side: Side) -> Side:
        """`side`, and `BenchError` when its rows are not those of the sides before."""

        async def run() -> Run:
            found = await side()
            async with self._pool.acquire() as conn:
                digest = await conn.fetchval(_DIGEST)
            if self._digest not in {None, digest}:
                raise BenchError("this side's rows are not those of the sides before it")
            self._digest = digest
            return found

        return run


class _Peer:
    """One peer's side of the bench; called once a round."""

    def __init__(
        self, peer: Peer, batch: int, bench: projecting.Bench, conn: Connection, nats_url: str, nats_pid: int,
        database: servers.Database,
    ) -> None:  # fmt: skip
        self._job = Job(
            role=peer,
            nats_url=nats_url,
            database_url=database.config.url,
            stream=bench.backlog.stream,
            expected=bench.backlog.rows,
            batch=batch,
        )
        self._bench = bench
        self._conn = conn
        self._nats_pid = nats_pid
        self._database_pid = database.pid

    async def __call__(self) -> Run:
        job = self._job
        await self._bench.empty()
        with contextlib.suppress(errors.ApiNotFound):  # the first round
            await self._conn.api(f"CONSUMER.DELETE.{job.stream}.{_CONSUMER}")
        clock = Clock(server=self._nats_pid, database=self._database_pid)
        async with Worker(job) as worker:
            found = await worker.result(_RESULT_S)
            await settle()  # a session that ends just now would be counted nowhere
            clock.settle()
        await self._bench.check()
        clock.seconds, clock.client_cpu_s = found["seconds"], found["cpu_s"]
        return clock.run(job.expected, transactions=found["transactions"], rss_mib=found["rss_bytes"] / 2**20)


def _side(peer: Peer) -> str:
    return peer.replace("-", "_")


def _figures(found: dict[str, list[Run]]) -> dict[str, list[float]]:
    figures = {"rows_per_s": rates(found["coord"])}
    for side in map(_side, PEERS):
        figures[f"{side}_rows_per_s"] = rates(found[side])
        figures[f"{side}_ratio"] = ratios(found["coord"], found[side])
    return figures


def _installed() -> None:
    missing = [name for module, name in _DISTRIBUTIONS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise EnvironmentProblem(
            f"{' and '.join(missing)} not installed: pip install 'coord[bench]', or make bench-peers in a checkout"
        )
