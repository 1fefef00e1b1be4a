"""`coord bench cache`, a little of it: that it measures what it says, not how fast this machine is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coord.ops.bench import cache_fleet, cache_shared, cache_traces, servers
from coord.ops.bench.cache_fleet import FleetConfig
from coord.ops.bench.cache_hits import hits
from coord.ops.bench.cache_replay import Fleet, ReplayConfig, replay
from coord.ops.bench.cache_traces import Step
from coord.ops.bench.cache_worker import Answered
from coord.ops.bench.measure import BenchError
from tests.support.benches import bench
from tests.support.cluster import Database


@pytest.mark.slow
async def test_a_fleet_is_asked_while_facts_are_committed(migrated_database: Database) -> None:
    config = FleetConfig(processes=1, connections=3, readers=2, notes=20, quiet_s=0.3, seconds=0.6)
    async with servers.broker() as nats:
        figures = await cache_fleet.fleet(config, nats.url, servers.unwatched(migrated_database.url), print)
        shared = await cache_shared.shared(20, nats.url, print)
    assert figures["stale_answers"] == 0
    assert figures["answers_checked"] > 0
    assert 0 < figures["eviction_ms"]["p50"] <= figures["eviction_ms"]["p99"]
    assert figures["dropped"]["notice"]
    assert shared["l2_hit_ms"]["p50"] > 0


async def test_the_command_says_what_the_parts_found(data: Path) -> None:
    done = await bench(
        "cache", "--part", "traces", "--data", str(data), "--scale", "0.001",
        "-o", "json",
    )  # fmt: skip
    assert done.code == 0, done.talk.decode()
    figures: dict[str, Any] = json.loads(done.out)["figures"]
    assert figures["stale_answers"] == 0
    assert figures["answers_checked"] == sum(figures[name]["answers_checked"] for name in cache_traces.FILES)
    assert figures["hit_rate"] == figures["azure"]["hit_rate"]


async def test_hits_are_compared() -> None:
    figures = await hits(1, 2_000, print)
    assert all(figures[name] >= 0 for name in figures)
    assert figures["l1_get_ratio_to_cachebox"] > 0


def test_an_answer_older_than_what_was_heard_is_stale() -> None:
    commits: Any = [{"id": "n1", "seq": 5}, {"id": "n2", "seq": 6}, {"id": "n1", "seq": 9}]
    good = [Answered("n1", 0, 0, 3), Answered("n1", 5, 8, 3), Answered("n1", 9, 8, 3), Answered("n3", 0, 100, 3)]
    old = [Answered("n1", 5, 9, 3), Answered("n2", 0, 6, 3)]
    assert cache_fleet.stale_answers(good, commits) == 0
    assert cache_fleet.stale_answers(old, commits) == 6


def test_an_answer_with_other_facts_than_there_were_is_found() -> None:
    commits: Any = [{"id": "n1", "seq": 5}, {"id": "n2", "seq": 6}, {"id": "n1", "seq": 9}]
    good: Any = SimpleNamespace(counts=[("n1", 0, 0), ("n1", 5, 1), ("n1", 9, 2), ("n2", 6, 1)])
    bad: Any = SimpleNamespace(counts=[("n1", 9, 1), ("n2", 6, 2)])
    assert cache_fleet.miscounted([good], commits) == []
    assert cache_fleet.miscounted([good, bad], commits) == ["n1", "n2"]


def test_a_last_answer_that_is_not_the_newest_is_found() -> None:
    commits: Any = [{"id": "n1", "seq": 5}, {"id": "n2", "seq": 6}, {"id": "n1", "seq": 9}]
    told: Any = [SimpleNamespace(at_last={"n1": 9, "n2": 6, "n3": 0}), SimpleNamespace(at_last={"n1": 5, "n2": 6})]
    assert cache_fleet.left_behind(told, commits) == ["n1"]


# --- recordings ------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two recordings as theirs are, of a few lines."""
    rows = [f"2023-11-16 18:17:{n // 10:02}.{n % 10}799600,{256 * (1 + n % 7)},10" for n in range(90)]
    (tmp_path / cache_traces.FILES["azure"]).write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    history = [{"name": f"agent-{n % 3}", "role": "assistant", "content": "…"} for n in range(9)]
    line = json.dumps({"question": "?", "history": [*history, {"role": "user", "content": "!"}]})
    (tmp_path / cache_traces.FILES["conversations"]).write_text("\n".join([line] * 6))
    return tmp_path


@pytest.mark.parametrize("trace", ["azure", "conversations"])
async def test_recordings_go_through_three_tiers_below_the_bound(trace: cache_traces.Trace, data: Path) -> None:
    config = ReplayConfig(processes=3, l1_bytes=2**16, l2_bytes=2**17, l3_bytes=2**18)
    played = list(cache_traces.steps(trace, data, config.processes))
    assert played == list(cache_traces.steps(trace, data, config.processes))
    assert [step.at for step in played] == sorted(step.at for step in played)
    found = await replay(config, played)
    assert found["answers_checked"] == sum(step.process >= 0 for step in played)
    assert found["stale_answers"] == 0
    rates, bounds = found["hit_rate"], found["hit_rate_bound"]
    assert 0 < rates["l1"] <= bounds["l1"]
    assert 0 < rates["l2"] <= bounds["l2"] + 0.1  # it holds what is younger in more entries than the last ones say
    assert rates["all"] <= rates["bound"]
    assert found["l1_bytes_most"] <= config.l1_bytes
    assert found["l2_bytes_most"] <= config.l2_bytes
    assert found["l3_bytes_most"] <= config.l3_bytes


async def test_facts_move_conversations_on_and_a_cache_that_evicts_stands_beside_it(data: Path) -> None:
    config = ReplayConfig(processes=3)
    played = list(cache_traces.steps("conversations", data, config.processes))
    moved = await replay(config, played, cache_traces.MOVED["conversations"])
    evicting = await replay(config, played)
    assert moved["stale_answers"] == evicting["stale_answers"] == 0
    assert moved["answers_checked"] == evicting["answers_checked"]
    assert moved["moved"]["moved"] > 0
    assert not evicting["moved"]
    assert evicting["load_reduction"] <= evicting["load_reduction_bound"] < moved["load_reduction"]
    assert moved["load_reduction"] <= moved["load_reduction_bound"]
    assert moved["cpu_us"].keys() >= {"hear_fact", "move", "load"}


async def test_an_answer_with_a_fact_too_many_is_found_out() -> None:
    fleet = Fleet(ReplayConfig(processes=1), frozenset({"k"}))
    (process,) = fleet.processes
    steps = [Step(0.0, 0, "k-1"), Step(1.0, -1, "k-1"), Step(2.0, 0, "k-1")]
    await fleet.play(steps)
    assert fleet.stale == 0
    fleet.tables.said["k-1"] = (*fleet.tables.said["k-1"][:-1], 99)
    await fleet.play([Step(3.0, 0, "k-1")])
    await process.cache.close()
    assert fleet.stale == 1


async def test_a_cache_that_hears_nothing_is_found_out() -> None:
    fleet = Fleet(ReplayConfig(processes=1))
    process = fleet.processes[0]
    process.cache.hear = lambda body: None  # type: ignore[method-assign]
    await fleet.play([Step(0.0, 0, "k"), Step(1.0, -1, "k"), Step(2.0, 0, "k")])
    await process.cache.close()
    assert fleet.stale == 1


def test_without_a_recording_there_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(BenchError):
        cache_traces.steps("azure", tmp_path, 2)
