"""coord's tasks beside other systems: the bench itself, with systems that do nothing; theirs are not installed here."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import msgspec
import pytest

from coord.errors import SettingsError
from coord.ops.bench import report, servers, tasks_peers
from coord.ops.bench.beside import sides
from coord.ops.bench.beside.job import KINDS, Effort
from coord.ops.bench.beside.servers import Served
from coord.ops.bench.beside.sides import Side
from coord.ops.bench.compare import flat, lower_is_better
from coord.ops.bench.measure import BenchError
from coord.ops.bench.tasks_peers import TasksPeersConfig
from coord.store.config import DatabaseConfig
from tests.support import nothing

EFFORT = Effort(idle=5, idle_s=0.05, warm_up_s=0.01, flood_s=0.05)
SIDES = (
    Side(name="coord", module="tests.support.nothing", server="nats", window=4, window_flows=2),
    Side(name="dbos", module="tests.support.nothing", variant=nothing.FAILS, server="nats", window=4),
    Side(name="temporal", module="tests.support.nothing", server="nats", window=1, packages={"no_such_module": "x"}),
    Side(name="taskiq_nats", module="tests.support.nothing", server="nats", window=4, kinds=("task",), stored=False),
)


@pytest.fixture
def without_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def database(*_: Any):
        yield servers.Database(config=DatabaseConfig(), edition="plain", pid=None, data_dir=None)

    @contextlib.asynccontextmanager
    async def serving(*_: Any, synced: bool):
        yield Served(url="", processes={"nats": (os.getpid(), False)})

    async def versions(_: Any) -> dict[str, str | None]:
        return {"coord": "0"}

    monkeypatch.setattr(servers, "database", database)
    monkeypatch.setattr(tasks_peers, "serving", serving)
    monkeypatch.setattr(tasks_peers, "_versions", versions)
    monkeypatch.setattr(tasks_peers, "SIDES", SIDES)


async def test_sides_take_turns_and_what_fails_or_is_missing_is_left_out_and_named(without_servers: None):
    said: list[str] = []
    config = TasksPeersConfig(sides=tuple(side.name for side in SIDES), rounds=1, effort=EFFORT)
    found = await tasks_peers.tasks_peers(config, said.append)
    assert set(found["figures"]) == {"coord", "taskiq_nats", "beside"}
    assert "not installed: x" in found["skipped"]["temporal"]
    assert "this system is broken" in found["skipped"]["dbos"]
    assert all(len(found["by_round"]["coord"][f"{kind}_per_s"]) == 1 for kind in KINDS)
    assert {"task_per_s", "task_ms.p50", "task_ms.p99"} <= set(found["figures"]["taskiq_nats"])
    assert not any(name.startswith("three") for name in found["figures"]["taskiq_nats"])
    assert any("task" in line for line in said if "taskiq_nats" in line)
    page = report.render(msgspec.json.decode(msgspec.json.encode(found)))
    assert "| `taskiq_nats` |" in page
    assert "this system is broken" in page


async def test_when_nothing_could_be_measured_there_is_no_report(without_servers: None):
    with pytest.raises(BenchError, match="no side"):
        await tasks_peers.tasks_peers(TasksPeersConfig(sides=("temporal",), effort=EFFORT), lambda _: None)


def test_coord_is_compared_with_the_best_of_those_that_keep_outcomes_and_of_all():
    figures = {
        "coord": {"task_per_s": [30.0], "task_ms.p50": [2.0], "steps_per_s": [9.0]},
        "coord_local": {"steps_per_s": [27.0]},
        "coord_handler": {"steps_per_s": [36.0]},
        "restate": {"task_per_s": [10.0], "task_ms.p50": [4.0], "steps_per_s": [3.0]},
        "dbos": {"task_per_s": [5.0], "task_ms.p50": [1.0]},
        "taskiq_nats": {"task_per_s": [60.0], "task_ms.p50": [0.5]},
    }
    assert tasks_peers.against(figures) == {
        "stored": {"task_per_s": 3.0, "task_ms.p50": 0.5, "steps_per_s": 3.0},
        "all": {"task_per_s": 0.5, "task_ms.p50": 0.25, "steps_per_s": 3.0},
        "local": {"steps_per_s": 9.0},
        "handler": {"steps_per_s": 12.0},
    }
    assert tasks_peers.against({"dbos": figures["dbos"]}) == {"stored": {}, "all": {}, "local": {}, "handler": {}}


def test_a_cost_is_known_as_one_under_its_sides_name():
    names = flat({"dbos": {"task_ms.p50": 1, "task_cpu_us.all": 1}})
    assert all(map(lower_is_better, names))
    assert not lower_is_better("dbos.task_per_s")
    assert not lower_is_better("beside.all.task_ms.p50")


def test_every_side_names_a_module_and_a_window_for_what_it_does():
    for side in sides.SIDES:
        assert sides.BY_NAME[side.name] is side
        assert side.window > 0
        assert side.window_flows > 0 or side.kinds == ("task",)


@pytest.mark.parametrize("wrong", [{"sides": ("nobody",)}, {"sides": ()}, {"rounds": 0}, {"effort": Effort(idle=0)}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]):
    with pytest.raises(SettingsError):
        TasksPeersConfig(**wrong).validate()
