"""``python -m coord.ops.bench.query_worker JOB``: one instance of the query service, over NATS and HTTP, by itself.

By itself, so that its CPU is that of answers.  Says where it listens, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import functools
import sys

import msgspec
from prometheus_client import CollectorRegistry

from coord.bus.connection import Connection, NatsConfig
from coord.ops.bench import process
from coord.ops.bench.servers import unwatched
from coord.query.config import QueryConfig
from coord.query.http import QueryHttp
from coord.query.service import QueryService
from coord.runtime.heap import Heap
from coord.runtime.http import HttpService
from coord.runtime.http_config import HttpConfig
from coord.runtime.service import ServiceGroup
from coord.store.pool import Pool
from coord.store.reading import Reads
from coord.telemetry.metrics import Metrics

_READY_S = 30.0


class Answering(msgspec.Struct, frozen=True, kw_only=True):
    """What it answers from, and to whom."""

    nats_url: str
    database_url: str
    tokens: tuple[str, ...]
    """``tenant:token``, for HTTP."""
    connections: int = 8
    profile: str | None = None
    """Write cProfile's data into this file."""


async def answer(job: Answering, parent_gone: asyncio.Event) -> None:
    """Answer until the parent has enough."""
    metrics = Metrics(CollectorRegistry())
    http = QueryHttp(job.tokens)
    tables = msgspec.structs.replace(unwatched(job.database_url), pool_max=job.connections)
    async with await Connection.open(NatsConfig(urls=(job.nats_url,)), name="bench-query") as conn:
        config = QueryConfig(connections=job.connections)
        service = QueryService(conn, config, tables=Reads(Pool(tables, metrics=metrics)), http=http, registry=metrics)
        web = HttpService(HttpConfig(port=0), None, routes=http.routes, registry=metrics, name="query-http")
        async with ServiceGroup("bench", [Heap(registry=metrics), service, web]) as group:
            await group.wait_ready(_READY_S)
            process.say({"ready": True, "url": web.url})
            await parent_gone.wait()


def main(argument: str) -> int:
    """Do the job (JSON); a failure is the last line."""
    job = msgspec.json.decode(argument, type=Answering)
    return process.run(functools.partial(answer, job), patient=True, profile=job.profile)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
