"""`coord replay --as-tasks` on real servers: as much in the tables as in the file, and who waited."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord.bus.connection import NatsConfig
from coord.ops.devstack.nats import NatsServer
from coord.server.board import BoardService
from coord.telemetry.metrics import Metrics
from tests.support.cli import cli
from tests.support.cluster import Database
from tests.support.log import projector
from tests.support.tasks import Fleet, services

DATA = Path(os.environ.get("COORD_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def recorded(name: str) -> Path:
    """A real recording; skips the test where there is none."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in {DATA} (COORD_TEST_DATA)")
    return path


@pytest.fixture
async def fleet(nats_server: NatsServer, migrated_database: Database) -> AsyncIterator[Fleet]:
    config = NatsConfig(urls=(nats_server.url,))
    async with services(nats_server.url) as fleet, projector(nats_server.url, migrated_database.url):
        registry = Metrics(CollectorRegistry())
        async with BoardService(config, fleet.presence.board, fleet.deciders.deciders, registry=registry) as board:
            await board.wait_ready(90)
            yield fleet


async def replay(fleet: Fleet, database: Database, *args: Any) -> dict[str, Any]:
    found = await cli(
        "replay", *args, "--as-tasks", "--nats", fleet.url, "--database", database.url, "-t", fleet.tenant, "-o", "json"
    )
    assert found.code == 0, (found.out, found.err)
    said: dict[str, Any] = found.json
    return said


async def test_arrivals_wait_by_placement_and_priority(
    fleet: Fleet, migrated_database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "arrivals.csv"
    rows = [f"2026-11-21 10:00:{n // 10:02}.{n % 10}00,{100 + n},{n % 7}" for n in range(40)]
    file.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    plot = tmp_path / "waits.svg"
    args = (file, "--speed", 60, "--placement", "pull,label", "--plot", plot)
    said = await replay(fleet, migrated_database, *args)
    assert (said["requests"], said["tasks"], said["not_succeeded"]) == (40, 80, 0)
    assert said["offers"] >= 40
    assert {(w["placement"], w["priority"]) for w in said["waits"]} == set(
        itertools.product(("pull", "label"), ("critical", "normal", "batch"))
    )
    assert sum(w["tasks"] for w in said["waits"]) == 80
    assert all(0 <= w["wait_p50_ms"] <= w["wait_p99_ms"] <= w["wait_max_ms"] for w in said["waits"])
    assert plot.read_text().count("<g>") == 6
    again = await replay(fleet, migrated_database, *args)
    assert (again["tasks"], again["offers"]) == (80, 0), "done before"


async def test_a_slice_of_the_real_conversations(fleet: Fleet, migrated_database: Database) -> None:
    path = recorded("who_and_when_algorithm.jsonl")
    runs = [json.loads(line) for line in path.read_text().splitlines()[:3]]
    speakers = [[message["name"] for message in run["history"]] for run in runs]
    said = await replay(fleet, migrated_database, path, "--limit", 3, "--speed", "max")
    assert (said["conversations"], said["workflows"], said["not_succeeded"]) == (3, 3, 0)
    assert said["steps"] == sum(map(len, speakers))
    assert said["handoffs"] == sum(a != b for of in speakers for a, b in itertools.pairwise(of))
    assert said["agents"] == len({name for of in speakers for name in of})


async def test_a_slice_of_the_real_arrivals(fleet: Fleet, migrated_database: Database) -> None:
    arrivals = recorded("azure_llm_inference_2023_code.csv")
    args = ("--limit", 60, "--speed", "max", "--placement", "pull,resources")
    said = await replay(fleet, migrated_database, arrivals, *args)
    assert (said["requests"], said["tasks"], said["not_succeeded"]) == (60, 120, 0)


@pytest.mark.soak
@pytest.mark.skipif("COORD_SOAK_ROUNDS" not in os.environ, reason="19,000 tasks: only in `make faults`")
@pytest.mark.timeout(600)
async def test_the_real_recordings_whole(fleet: Fleet, migrated_database: Database) -> None:
    said = await replay(fleet, migrated_database, recorded("who_and_when_algorithm.jsonl"), "--speed", "max")
    assert (said["workflows"], said["steps"], said["handoffs"], said["not_succeeded"]) == (126, 1099, 823, 0)
    arrivals = recorded("azure_llm_inference_2023_code.csv")
    said = await replay(fleet, migrated_database, arrivals, "--speed", "max", "--placement", "pull,resources")
    assert (said["requests"], said["tasks"], said["not_succeeded"]) == (8819, 2 * 8819, 0)
