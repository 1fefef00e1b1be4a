"""streams/ and sql/ are found in a checkout and in an installed wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from coord.errors import EnvironmentProblem
from coord.runtime import assets
from tests.support.sources import ROOT


def test_in_a_checkout_they_are_read_where_they_lie():
    assert assets.streams_dir() == ROOT / "streams"
    assert assets.sql_dir() == ROOT / "sql"
    assert assets.checkout_dir() == ROOT


def test_what_is_missing_names_the_fix():
    with pytest.raises(EnvironmentProblem, match="lacks nothing/: install it again"):
        assets.assets_dir("nothing")


def test_a_wheel_carries_them_inside_the_package(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {"coord/py.typed", "coord/limits/work.py", "coord/_assets/streams/EVENTS.toml"} <= names
    assert "coord/_assets/sql/schema.sql" in names
    assert not {n for n in names if n.split("/")[0] in {"streams", "sql", "tests"}}
    script = "from coord.runtime import assets as a; print(a.streams_dir(), a.sql_dir(), a.checkout_dir(), sep='\\n')"
    shown = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    inside = (tmp_path / "site" / "coord" / "_assets").resolve()
    assert shown.stdout.split() == [str(inside / "streams"), str(inside / "sql"), "None"]
