"""The notebook runs as it stands on a fleet of today, and what is in the file is what a run gives."""

from __future__ import annotations

import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coord.ops.bench import made
from tests.support import notebooks
from tests.support.cluster import Database
from tests.support.sources import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
async def test_it_runs_again_and_shows_as_much(migrated_database: Database, path: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    shape = made.Shape(rows=6_000, begin=now - timedelta(days=2), until=now, agents=20, samples=200)
    await made.fill(migrated_database.url, shape)
    run = await notebooks.execute(path, migrated_database.url, tmp_path / path.name)
    assert notebooks.outputs(run) == notebooks.outputs(notebooks.read(path))
    assert notebooks.outputs(run).count("image") >= 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_file_was_run_from_its_first_cell_to_its_last(path: Path) -> None:
    text = path.read_text("utf-8")
    cells = [c for c in notebooks.read(path).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [out for c in cells for out in c.outputs if out.output_type in {"error", "stream"}]
    assert not re.search(r"postgresql://|0x[0-9a-f]{8,}", text), "nothing of one run"
    assert not [p for p in (ROOT, Path.home(), Path(tempfile.gettempdir())) if f"{p}/" in text], (
        "nothing of the machine"
    )
    assert len(text) < 400_000


def test_there_is_one() -> None:
    assert NOTEBOOKS
