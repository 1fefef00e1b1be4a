"""The bench of tasks once, with tiny counts: the figures mean nothing here, that they exist does."""

from __future__ import annotations

import json

import pytest

from coord.errors import SettingsError
from coord.ops.bench.tasks import PARTS, TasksConfig
from tests.support.benches import bench

_SIDES = ("agents", "all", "coord", "database", "nats", "submitter")
_BOTH = ("p50", "p99")
FIGURES = {
    "tasks_per_s", "bare.tasks_per_s", "tasks_to_bare", "workflows_per_s", "workflows_per_s.local",
    "agents_scale.growth", "fleet_idle.cpu_us",
    *(f"coordination_overhead{load}{what}" for what in ("", "_per_s")
      for load in ("", ".at_100", ".workflows", ".workflows_local", ".workflows_at_30")),
    *(f"{name}.{p}" for name in ("submit_to_start_ms", "submit_to_result_ms", "command_ack_ms", "flood_ack_ms")
      for p in _BOTH),
    *(f"{name}.{p}" for name in ("workflow_ms", "moved_after_kill_ms") for p in _BOTH),
    *(f"workflow_ms.local_{p}" for p in _BOTH),
    *(f"{name}{side}" for name in ("task_cpu_us.", "workflow_cpu_us.", "workflow_cpu_us.local_") for side in _SIDES),
    *(f"{name}.{side}" for name in ("coordination_overhead_us", "fleet_idle_us") for side in _SIDES if side != "all"),
    *(f"{safe}.{what}_per_s" for safe in ("always", "r3") for what in ("tasks", "workflows")),
    *(f"critical_wait_ms.{when}_{p}" for when in ("idle", "flooded") for p in _BOTH),
    "critical_wait_ms.flooded_to_idle",
    *(f"shares.{priority}" for priority in ("critical", "normal", "batch")),
    *(f"agents_scale.{agents}.{what}" for agents in (2, 4)
      for what in ("cpu_us", "coord_us", "nats_us", "agent_kib", "growth")),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_bench_of_tasks_gives_every_figure() -> None:
    done = await bench(
        "tasks", "--scale", "0.02", "--rounds", "1", "--full",
        "--agents", "2", "--agents", "4", "-o", "json",
    )  # fmt: skip
    assert done.code == 0, done.talk.decode()
    report = json.loads(done.out)
    assert set(report["figures"]) == FIGURES
    assert all(isinstance(value, float) for value in report["figures"].values())
    assert set(report["settings"]["parts"]) == set(PARTS)


def test_what_takes_long_is_only_measured_when_asked_for() -> None:
    assert TasksConfig().fleets == [10, 1_000]
    assert TasksConfig(full=True).fleets == [10, 100, 1_000, 5_000]
    assert TasksConfig(full=True, scales=(4, 2)).fleets == [2, 4]


def test_settings_that_make_no_sense_are_refused() -> None:
    for broken in (TasksConfig(flood=0), TasksConfig(safe=0), TasksConfig(shares=0), TasksConfig(scales=(0,))):
        with pytest.raises(SettingsError):
            broken.validate()
