"""The bench of the database once, with tiny counts: the figures mean nothing here, that they exist does."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_bench_of_the_store_gives_every_figure() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coord.ops.bench", "store", "--scale", "0.005", "--rounds", "1", "-o", "json",
        # Not ingest: what it adds to these and to the bench of the spine are more rounds of the same.
        "--part", "rebuild", "--part", "archive", "--part", "dashboard", "--part", "bytes",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, talk = await process.communicate()
    assert process.returncode == 0, talk.decode()
    report = json.loads(output)
    figures = report["figures"]
    assert figures.keys() >= {
        "rebuild_ratio", "archive_rows_per_s", "dashboard_ms", "bytes_per_fact", "gb_per_day_at_100_per_s",
    }  # fmt: skip
    assert figures["dashboard_ms"].keys() >= {"p50", "p99", "facts_per_s"}
    assert 200 < figures["bytes_per_fact"][report["edition"]] < 5_000
    assert report["settings"]["rounds"] == 1
    assert all(question["asks"] for question in report["questions"])
    assert b"dead_letters" not in talk, "what a fleet states is believed"
