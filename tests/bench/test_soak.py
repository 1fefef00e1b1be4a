"""The soak once, with tiny counts; that what it holds can fail; and its arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from coord.errors import EnvironmentProblem, SettingsError
from coord.limits import MIB
from coord.ops.bench import held, soak
from coord.ops.bench.held import Sample
from coord.ops.bench.measure import BenchError
from tests.support.benches import bench


@pytest.mark.slow
async def test_a_tiny_soak_over_two_processes() -> None:
    done = await bench(
        "soak", "--facts", "5000", "--processes", "2", "-o", "json",
    )  # fmt: skip
    assert done.code == 0, done.talk.decode()
    report = json.loads(done.out)
    assert report["held"] == {"exactly_once": True, "in_order": True, "rss_flat": None, "rss_small": None}
    found = report["figures"]["soak"]
    assert found["facts"] == 5_000
    assert found["facts_per_s"] > 0
    assert 0 < found["rss_mib_max"] < 500
    assert found["disk_gib_max"] > 0
    assert len(report["samples"][0]) == 3 + 2  # both processes' memory
    assert b"soak wants" not in done.talk


@pytest.fixture
async def db(migrated_database):
    connection = await asyncpg.connect(migrated_database.url)
    yield connection
    await connection.close()


_ROW = """
    INSERT INTO coord.event (stored_at, occurred_at, seq, epoch, idx, schema, partition, tenant, agent, key, kind, id,
                             event, detail, event_id, type, data)
    VALUES (now(), now(), $1, 1, $2, 1, 0, 't', 'a', 'k', $3, $4, 'e', '', gen_random_uuid()::text, 'x', $5)
"""


async def _fill(db: Any, rows: list[tuple[int, int, str, str, str]]) -> None:
    await db.executemany(_ROW, rows)


GOOD = [(1, i, "task", "t100", f'{{"done": {i}}}') for i in range(4)] + [
    (2 + i, 0, "file", f"f{i}", f'{{"number": {i}}}') for i in range(2)
]


async def _checked(db: Any) -> dict[str, bool | None]:
    return await held.check(db, tasks=1, facts_a_task=4, singles=2)


async def test_what_is_right_is_held(db: Any) -> None:
    await _fill(db, GOOD)
    assert await _checked(db) == {"exactly_once": True, "in_order": True}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a row is lost", GOOD[1:]),
        ("a row is doubled", [*GOOD, GOOD[0]]),
        ("one is lost, another doubled", [*GOOD[1:], GOOD[1]]),
        ("a single one is lost, another doubled", [*GOOD[:-1], GOOD[-2]]),
        ("two have changed places", [(1, 1, *GOOD[0][2:]), (1, 0, *GOOD[1][2:]), *GOOD[2:]]),
    ],
)
async def test_what_is_wrong_is_found(db: Any, name: str, rows: list[tuple[int, int, str, str, str]]) -> None:
    await _fill(db, rows)
    with pytest.raises(BenchError, match="exactly once and in order"):
        await _checked(db)


def _sample(projected: int, *rss_mib: int) -> Sample:
    return Sample(1.0, projected, projected, [r * MIB for r in rss_mib])


def test_memory_is_told_by_quarters_of_the_facts_and_the_largest_process_counts() -> None:
    found = held.memory([_sample(10, 50, 40), _sample(30, 60, 61), _sample(60, 62, 1), _sample(90, 63, 1)])
    assert [found[f"rss_mib_q{i}"] for i in (1, 2, 3, 4)] == [50, 61, 62, 63]
    assert found["rss_last_to_second"] == pytest.approx(63 / 61, abs=1e-3)
    assert held.judged(found, 10**7) == {"rss_flat": True, "rss_small": True}


def test_growth_and_size_are_judged_apart_and_short_runs_not_at_all() -> None:
    grown = held.memory([_sample(10, 50), _sample(30, 100), _sample(60, 103), _sample(90, 106)])
    assert held.judged(grown, 10**7) == {"rss_flat": False, "rss_small": True}
    large = held.memory([_sample(10, 50), _sample(30, 210), _sample(60, 210), _sample(90, 210)])
    assert held.judged(large, 10**7) == {"rss_flat": True, "rss_small": False}
    assert held.judged(large, 10**5) == {"rss_flat": None, "rss_small": None}


def test_a_long_run_is_thinned_for_the_report() -> None:
    assert len(held.thinned([_sample(i, 1) for i in range(1_000)])) <= 210


@pytest.mark.parametrize("wrong", [{"facts": 1}, {"processes": 0}, {"processes": 17}, {"window_s": 1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        soak.SoakConfig(**wrong).validate()


def test_without_disk_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    used = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr("shutil.disk_usage", lambda _: used)
    with pytest.raises(EnvironmentProblem, match="free disk"):
        soak._enough_disk(soak.SoakConfig())


def test_disk_is_what_files_take(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(b"x" * 100_000)
    assert 100_000 <= soak.folder_bytes(tmp_path) <= 140_000
