"""The arithmetic of the bench: rounds, percentiles, windows, CPU time; comparing and printing reports."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coord.errors import SettingsError
from coord.ops.bench import compare, machine, measure, report, spine, workload
from coord.ops.bench.latency import Load
from coord.ops.bench.measure import BenchError, Clock, Run, percentile, percentiles, ratios
from coord.ops.bench.spine import SpineConfig
from coord.wire import subjects

REPORT: dict[str, Any] = {
    "bench": "spine",
    "format": 1,
    "started_at": "2026-01-01T00:00:00+00:00",
    "took_s": 1.0,
    "machine": {
        "cores": 2, "cpu": "X", "memory_gib": 8.0, "system": "S", "kernel": "6", "load_1m_before": 0.1,
        "cores_used_elsewhere": 0.25,
    },
    "python": "CPython 3.11",
    "versions": {"coord": "0.1.0", "timescaledb": None},
    "commit": "abc",
    "edition": "apache",
    "settings": {"rounds": 2, "parts": ["publish"], "sync_interval": None, "singles": 40_000, "fsync": True},
    "figures": {"publish": {"single_ratio": 0.8, "frame_facts_per_s": 400_000.0}, "latency_ms": {"p50": 10.0}},
    "by_round": {"publish": {"single_ratio": [0.7, 0.9]}, "latency_ms": {"p50": [9.0, 11.0]}},
    "rounds": {"emit": [{"count": 10, "seconds": 1.0, "per_s": 10.0, "client_cpu_us": 20.5}]},
}  # fmt: skip


BEGIN, END = report.markers("spine")


# --- rounds --------------------------------------------------------------------------------


async def test_the_collector_is_not_within_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("whoever measures collects before"))

    async def one() -> None:
        await asyncio.sleep(0)

    assert await measure.windowed_s(3, 2, one) > 0


async def test_sides_take_turns() -> None:
    turns: list[str] = []

    def side(name: str, seconds: float):
        async def run() -> Run:
            turns.append(name)
            return Run(count=10, seconds=seconds)

        return run

    found = await measure.alternate(3, {"a": side("a", 1.0), "b": side("b", 2.0)}, lambda _: None)
    assert turns == ["a", "b"] * 3
    assert ratios(found["a"], found["b"]) == [2.0, 2.0, 2.0]


def test_a_run_says_what_each_fact_cost() -> None:
    run = Run(count=1_000, seconds=0.5, client_cpu_s=0.02, server_cpu_s=0.01, more={"resends": 0})
    assert run.record() == {
        "count": 1_000, "seconds": 0.5, "per_s": 2_000.0, "client_cpu_us": 20.0, "server_cpu_us": 10.0, "resends": 0,
    }  # fmt: skip
    assert measure.cpu_us([run]) == [pytest.approx(30.0)]


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_a_value_that_was_measured(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value


def test_each_window_has_its_own_percentiles() -> None:
    found = percentiles([[3.0, 1.0, 2.0], [10.0]])
    assert found["p50"] == [2.0, 10.0]
    assert found["max"] == [3.0, 10.0]


def test_an_empty_window_is_no_figure() -> None:
    with pytest.raises(BenchError):
        percentiles([[1.0], []])


def test_a_fact_belongs_to_the_window_it_was_due_in() -> None:
    load = Load(facts_per_s=100, seconds=0.5, windows=3)
    assert (load.window, load.count) == (50, 150)
    began = datetime(2026, 1, 1, tzinfo=UTC)
    found = load.split(began, ((began + timedelta(seconds=i / 100), float(i)) for i in range(load.count)))
    assert [(w[0], w[-1], len(w)) for w in found] == [(0.0, 49.0, 50), (50.0, 99.0, 50), (100.0, 149.0, 50)]


def test_cpu_time_of_a_process_grows_with_its_work() -> None:
    before, began = measure.cpu_s(os.getpid()), time.process_time()
    while time.process_time() - began < 0.1:
        pass
    assert 0.05 <= measure.cpu_s(os.getpid()) - before < 5


def test_a_clock_reads_its_own_process_exactly() -> None:
    clock = Clock(server=os.getpid())
    began = time.process_time()
    while time.process_time() - began < 0.05:
        pass
    clock.stop()
    run = clock.run(1)
    assert 0.05 <= run.client_cpu_s <= run.seconds + 0.01
    assert run.server_cpu_s >= 0.03


def test_no_figure_of_a_process_that_is_gone() -> None:
    with pytest.raises(BenchError):
        measure.cpu_s(2**22 + 1)  # above the kernel's largest


async def test_what_the_bench_uses_itself_is_not_used_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was waited for is the bench's own; whatever else the cores did is somebody else's."""
    monkeypatch.setattr(machine, "_busy_s", iter([100.0, 100.9]).__next__)
    elsewhere, began = machine.Elsewhere(), time.perf_counter()
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    await (await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", burn)).wait()
    cores, seconds = elsewhere.cores(), time.perf_counter() - began
    # 0.9 s were busy, 0.5 and a little (the interpreter's start) ours.
    assert 0.1 <= cores * seconds <= 0.41


def test_busy_time_grows_with_work() -> None:
    before, began = machine._busy_s(), time.process_time()
    while time.process_time() - began < 0.1:
        pass
    assert machine._busy_s() - before >= 0.05


# --- the workload --------------------------------------------------------------------------


def test_agents_cover_all_partitions_evenly() -> None:
    agents = workload.agents_of_all_partitions(2)
    assert sorted(map(subjects.partition, agents)) == sorted(list(range(16)) * 2)
    assert sorted(map(subjects.partition, agents[:16])) == list(range(16))


def test_the_workload_is_the_same_in_every_run() -> None:
    assert workload.bodies() == workload.bodies()
    assert workload.numbers() == workload.numbers()


def test_messages_under_new_ids_are_otherwise_the_same() -> None:
    first = workload.sample_frames(3, workload.numbers(), ["a1"])
    second = workload.with_new_ids(first)
    for a, b in zip(first, second, strict=True):
        assert (a.subject, a.body, list(a.headers)) == (b.subject, b.body, list(b.headers))
        assert a.msg_id != b.msg_id
        assert b.headers["Nats-Msg-Id"] == b.msg_id == f"bench.a1.{b.headers['ce-id']}"


# --- settings ------------------------------------------------------------------------------


def test_scaling_keeps_rates_and_at_least_one_of_each() -> None:
    tiny = SpineConfig().scaled(1e-9)
    tiny.validate()
    assert (tiny.singles, tiny.backlog_framed) == (1, 1)
    assert tiny.latency_facts_per_s == 2_000


@pytest.mark.parametrize(
    "wrong",
    [{"rounds": 0}, {"latency_s": 0}, {"parts": ()}, {"parts": ("nothing",)}, {"full": True, "sync_interval": "2m"}],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        msgspec.structs.replace(SpineConfig(), **wrong).validate()


# --- comparing -----------------------------------------------------------------------------


def test_comparing_knows_which_way_is_better() -> None:
    after = copy.deepcopy(REPORT)
    after["figures"] = {"publish": {"single_ratio": 0.6, "new": 1.0}, "latency_ms": {"p50": 5.0}}
    rows = {row["figure"]: row for row in compare.compare(REPORT, after)}
    assert rows["publish.single_ratio"]["verdict"] == "worse"
    assert rows["publish.single_ratio"]["change"] == "-25.0%"
    assert rows["latency_ms.p50"] | {"ratio": 0.5} == rows["latency_ms.p50"]
    assert rows["latency_ms.p50"]["verdict"] == "better"
    assert rows["publish.frame_facts_per_s"]["verdict"] == rows["publish.new"]["verdict"] == "only in one"


@pytest.mark.parametrize(
    ("figure", "lower"),
    [
        ("latency_ms.p99", True), ("subscribe_ms_always.p99", True), ("publish.single_cpu_us", True),
        ("publish_always.single_ratio", False), ("project.frame_rows_per_s", False),
        ("coordination_overhead.at_100", True), ("coordination_overhead_per_s", False), ("fleet_idle.cpu_us", True),
    ],
)  # fmt: skip
def test_costs_are_known_by_their_units(figure: str, lower: bool) -> None:
    assert compare.lower_is_better(figure) is lower


def test_publishing_alone_is_measured_under_both_settings_unless_all_is_asked_for() -> None:
    everything = [(part, sync) for part in ("publish", "project", "latency") for sync in (None, "always")]
    assert spine._sections(SpineConfig()) == [
        ("publish", None), ("publish", "always"), ("project", None), ("latency", None),
    ]  # fmt: skip
    assert spine._sections(SpineConfig(full=True)) == everything
    assert spine._sections(SpineConfig(sync_interval="always")) == [(part, "always") for part, _ in everything[::2]]


def test_a_small_change_is_none() -> None:
    after = copy.deepcopy(REPORT)
    after["figures"]["latency_ms"]["p50"] = 10.3
    assert {row["verdict"] for row in compare.compare(REPORT, after)} == {"same"}


def test_what_else_differs_is_said_but_not_how_busy_it_was() -> None:
    after = copy.deepcopy(REPORT)
    after["machine"] |= {"cores": 8, "load_1m_before": 3.0, "cores_used_elsewhere": 1.0}
    after["commit"] = "def"
    assert compare.differences(REPORT, after) == ["machine.cores: 2 → 8"]


@pytest.mark.parametrize("content", ["", "[]", '{"figures": 1}', '{"figures": {}}', "not json"])
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(SettingsError):
        compare.read(path)
    with pytest.raises(SettingsError):
        compare.read(tmp_path / "absent.json")


# --- the document --------------------------------------------------------------------------


def test_the_document_gets_the_figures_and_keeps_the_rest(tmp_path: Path) -> None:
    document, found = tmp_path / "benchmarks.md", tmp_path / "spine.json"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    found.write_bytes(msgspec.json.encode(REPORT))
    for _ in range(2):  # again: the markers are still there
        assert report.write(found, document) == document
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| `publish.single_ratio` | 0.80 | 0.70 · 0.90 |" in text
    assert "| `publish.frame_facts_per_s` | 400,000 |" in text
    assert "| `emit` | 10 | 10 | 20.5 |  |  |" in text


def test_a_document_without_markers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        report.write(tmp_path / "spine.json", tmp_path / "absent.md")
    with pytest.raises(SettingsError):
        report.rewrite("nothing here", REPORT)
    with pytest.raises(SettingsError):
        report.rewrite(f"only {BEGIN}", REPORT)


@pytest.mark.parametrize("bench", report.BENCHES)
def test_the_page_of_the_project_has_the_markers(bench: str) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
    assert report.rewrite(page.read_text(encoding="utf-8"), REPORT | {"bench": bench})


def test_a_report_without_rounds_says_what_held() -> None:
    soak = {n: v for n, v in REPORT.items() if n not in {"rounds", "by_round"}} | {
        "bench": "soak", "held": {"exactly_once": True, "rss_flat": False, "rss_small": None},
    }  # fmt: skip
    text = report.render(soak)
    assert "| `exactly_once` | yes |" in text
    assert "| `rss_flat` | **no** |" in text
    assert "| `rss_small` | too short to tell |" in text


def test_what_has_no_place_on_the_page_is_refused() -> None:
    with pytest.raises(SettingsError, match="budget"):
        report.rewrite("", REPORT | {"bench": "budget"})


# --- the baseline --------------------------------------------------------------------------


def test_the_baseline_keeps_one_report_of_each_bench(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    compare.keep(REPORT, file)
    compare.keep(REPORT | {"bench": "soak", "samples": [[0.5, 1, 1, 1]]}, file)
    compare.keep(REPORT | {"commit": "new"}, file)
    assert compare.baseline("spine", file)["commit"] == "new"
    assert "samples" not in compare.baseline("soak", file)
    with pytest.raises(SettingsError, match="no report of peers"):
        compare.baseline("peers", file)


def test_reports_of_different_benches_are_not_compared() -> None:
    with pytest.raises(SettingsError, match="nothing in common"):
        compare.compare(REPORT, REPORT | {"bench": "soak"})


def test_the_committed_baseline_has_what_compares_with_it() -> None:
    found = compare.baseline("spine")
    assert {"machine", "commit", "figures"} <= set(found)
    assert all(row["verdict"] == "same" for row in compare.compare(found, found))
