"""Restate: a service of durable handlers behind its server, as its documentation shows one.

The service is an ASGI application in hypercorn; its HTTP/2 streams are bidirectional, so steps
are acknowledged on the invocation's own stream.  The submitter calls the server's ingress by
aiohttp, which costs less than the SDK's own client (httpx).  A step is `ctx.run_typed`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from coord.ops.bench import process
from coord.ops.bench.beside.job import KINDS, STEPS, Job, Kind, One
from coord.ops.bench.measure import BenchError

_SERVICE: Final = "nothing"


async def work(job: Job, parent_gone: asyncio.Event) -> None:
    """Serve the handlers; the bench registers them with the server."""
    from hypercorn import Config
    from hypercorn.asyncio import serve

    config = Config()
    config.bind = [f"127.0.0.1:{job.port}"]
    config.h2_max_concurrent_streams = 1_000
    config.loglevel = "ERROR"
    serving = asyncio.ensure_future(serve(_app(), config, shutdown_trigger=parent_gone.wait))
    await _listening(job.port)
    process.say({"ready": True})
    await serving


def _app() -> Any:
    import restate

    service = restate.Service(_SERVICE)

    async def nothing() -> None:
        pass

    def handler(steps: int) -> Any:
        async def run(ctx: Any) -> None:
            for n in range(steps):
                await ctx.run_typed(f"s{n}", nothing)

        run.__annotations__["ctx"] = restate.Context
        return run

    for kind in KINDS:
        service.handler(name=kind)(handler(0 if kind == "task" else STEPS[kind]))
    return restate.app(services=[service])


async def _listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


@contextlib.asynccontextmanager
async def submit(job: Job) -> AsyncIterator[Mapping[Kind, One]]:
    """Invocations by the ingress."""
    import aiohttp

    # The handlers take nothing: the ingress refuses a type of content where there is none.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), skip_auto_headers={"Content-Type"}
    ) as session:

        def call(kind: Kind) -> One:
            url = f"{job.url}/{_SERVICE}/{kind}"

            async def one() -> None:
                async with session.post(url) as response:
                    if response.status >= 300:
                        raise BenchError(f"Restate answered {response.status}: {await response.text()}")
                    await response.read()

            return one

        yield {kind: call(kind) for kind in KINDS}
