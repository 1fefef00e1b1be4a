"""A worker in a process of its own, to be killed: ``python -m tests.support.worker_process URL TENANT NAME SECONDS``.

It says on its output which task it has begun; ``hold`` tasks take SECONDS.
"""

from __future__ import annotations

import asyncio
import sys

import coord


async def main(url: str, tenant: str, name: str, seconds: float) -> None:
    agent = coord.Agent(name, capabilities={"hold": 4})

    @agent.task("hold")
    async def hold(n: int) -> str:
        print("began", n, flush=True)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            print("ended", n, flush=True)
            raise
        return name

    async with agent.connect(url, tenant=tenant):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
