"""``python -m coord.ops.bench.beside JOB``: one process of one system; see `coord.ops.bench.beside.job`."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import sys

import msgspec

from coord.ops.bench import process
from coord.ops.bench.beside import measuring
from coord.ops.bench.beside.job import Job, Peer


def main(argument: str) -> int:
    """Do the job `argument` (JSON)."""
    job = msgspec.json.decode(argument, type=Job)
    logging.getLogger().setLevel(logging.ERROR)
    # Only the peer's own: coord's replaces parts of nats-py, which another peer uses as it was installed.
    peer: Peer = importlib.import_module(job.peer)  # type: ignore[assignment]
    if job.role == "work":
        return process.run(functools.partial(peer.work, job), patient=True)
    return process.run(functools.partial(_submit, peer, job), patient=False)


async def _submit(peer: Peer, job: Job, _parent_gone: asyncio.Event) -> None:
    async with peer.submit(job) as ones:
        process.say({"ready": True})
        for kind in job.kinds:
            await measuring.measure(kind, ones[kind], job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
