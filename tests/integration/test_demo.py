"""`coord demo` at its smallest: what it says of the analyst that is killed comes out of the database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.cli import cli

pytestmark = pytest.mark.slow

FILES = 9


async def test_the_summary_names_who_was_killed_and_who_has_his_tasks(migrated_database, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(FILES):  # as long as a review has to take for somebody to be killed in it
        (tree / f"m{n}.py").write_text(f"def f{n}(x):\n" + "    x = [x, 1, 2, {3: x}]\n" * 1_500)
    asked = ("--path", tree, "--agents", "4", "--ephemeral", "--database", migrated_database.url)
    shown = await cli("demo", *asked)
    assert shown.code == 0, shown.err
    assert f"{FILES} files reviewed" in shown.err
    told = r"^analyst-2 was killed \(-9\) in the middle; its .*tasks? went on with analyst-1, within"
    assert re.search(told, shown.out, re.MULTILINE)
    moved = shown.out.partition("Tasks that moved")[2].partition("\n\n")[0]
    assert re.search(r"^analyst-2 +analyst-1 +", moved, re.MULTILINE), moved
    assert "every fact and every sample exactly once" in shown.out
