"""The diagrams are those of the tables."""

from __future__ import annotations

import re

from tests.docs.make_state_machines import MACHINES, PAGE, render
from tests.support import sources

_MACHINE = re.compile(r"^(TRANSITIONS|\w+: Final\[dict\[tuple\[(State|Status), Event\]).*=", re.MULTILINE)
"""A table of a state machine, whatever it is called."""


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "python -m tests.docs.make_state_machines"


def test_every_table_of_the_core_is_drawn() -> None:
    drawn = {source for _, source, _ in MACHINES}
    core = sources.ROOT / "coord" / "core"
    tables = {f"coord/core/{path.name}" for path in core.glob("*.py") if _MACHINE.search(path.read_text())}
    assert drawn == tables
