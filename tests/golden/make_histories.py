"""Record the histories of tests/golden/histories; for adding some before a release, never to change those of one."""

from __future__ import annotations

from pathlib import Path

from coord.testing import InMemoryCoord, run, save
from tests.testing.test_inmemory import order, played

DIRECTORY = Path(__file__).parent / "histories"


async def record() -> None:
    async with InMemoryCoord() as fleet:
        save(await played(fleet, order()), DIRECTORY / "approved-and-slept.jsonl")


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    run(record())
