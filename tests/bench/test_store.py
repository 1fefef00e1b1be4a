"""The bench of the database once, with tiny counts: the figures mean nothing here, that they exist does."""

from __future__ import annotations

import json

import pytest

from tests.support.benches import bench


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_bench_of_the_store_gives_every_figure() -> None:
    done = await bench(
        "store", "--scale", "0.005", "--rounds", "1", "-o", "json",
        # Not ingest: what it adds to these and to the bench of the spine are more rounds of the same.
        "--part", "rebuild", "--part", "archive", "--part", "dashboard", "--part", "bytes",
    )  # fmt: skip
    assert done.code == 0, done.talk.decode()
    report = json.loads(done.out)
    figures = report["figures"]
    assert figures.keys() >= {
        "rebuild_ratio", "archive_rows_per_s", "dashboard_ms", "bytes_per_fact", "gb_per_day_at_100_per_s",
    }  # fmt: skip
    assert figures["dashboard_ms"].keys() >= {"p50", "p99", "facts_per_s"}
    assert 200 < figures["bytes_per_fact"][report["edition"]] < 5_000
    assert report["settings"]["rounds"] == 1
    assert all(question["asks"] for question in report["questions"])
    assert b"dead_letters" not in done.talk, "what a fleet states is believed"
