"""`coord demo` at its smallest: what it says of the analyst that is killed comes out of the database."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.cli import cli

pytestmark = pytest.mark.slow

FILES = 6

HELD_UP = """\
import sys, threading, time
from pathlib import Path

read_bytes, held = Path.read_bytes, Path(__file__).with_name("held")

def held_up(path):
    if path.parent.name == "tree":
        if '"analyst-2"' in sys.argv[-1]:
            held.touch()
            threading.Event().wait(100)
        while not held.exists() and any(map(lives, Path("/proc").glob("[0-9]*/cmdline"))):
            time.sleep(0.01)
    return read_bytes(path)

def lives(process):
    try:
        return b'"analyst-2"' in read_bytes(process)
    except OSError:
        return False

Path.read_bytes = held_up
"""
"""Whoever is to be killed reads no file, and nobody else before he has a task, or was killed on the way to it: he dies
in the middle of it, however fast the machine is."""


async def test_the_summary_names_who_was_killed_and_who_has_his_tasks(
    migrated_database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, site = tmp_path / "tree", tmp_path / "site"
    tree.mkdir()
    site.mkdir()
    for n in range(FILES):
        (tree / f"m{n}.py").write_text(f"def f{n}(x):\n    return x\n")
    (site / "sitecustomize.py").write_text(HELD_UP)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", str(site) if before is None else f"{site}{os.pathsep}{before}")
    asked = ("--path", tree, "--agents", "4", "--ephemeral", "--database", migrated_database.url)
    shown = await cli("demo", *asked)
    assert shown.code == 0, shown.err
    assert f"{FILES} files reviewed" in shown.err
    told = r"^analyst-2 was killed \(-9\) in the middle; its .*tasks? went on with analyst-1, within"
    assert re.search(told, shown.out, re.MULTILINE)
    moved = shown.out.partition("Tasks that moved")[2].partition("\n\n")[0]
    assert re.search(r"^analyst-2 +analyst-1 +", moved, re.MULTILINE), moved
    assert "every fact and every sample exactly once" in shown.out
