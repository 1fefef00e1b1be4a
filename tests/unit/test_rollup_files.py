"""Files of sql/rollups: what is in them, and that a mistake is refused with its line."""

from __future__ import annotations

import pytest

from coord.errors import MigrationFailed
from coord.store import rollup_files, rollup_sql, rollups, scripts

GOOD = """-- How many.
-- More about it.
SELECT
  s.tenant, -- Whose.
  left(s.agent, 3) AS who, -- Who, or so.
  count(*)::bigint AS facts, -- sum: How many.
  min(s.seq)::bigint AS first -- min: The first.
FROM coord.event AS s
WHERE s.kind = 'file'
"""


def test_a_file_says_it_all() -> None:
    rollup = rollup_files.parse("files", GOOD)
    assert (rollup.title, rollup.source, rollup.where) == ("How many.", "event", "s.kind = 'file'")
    assert [c.name for c in rollup.groups] == ["tenant", "who"]
    assert [(c.name, c.merge, c.type) for c in rollup.measures] == [
        ("facts", "sum", "bigint"),
        ("first", "min", "bigint"),
    ]
    step = rollup_sql.step(rollup, "1m")
    assert "least(old.first, excluded.first)" in step
    assert "s.kind = 'file' AND s.stored_at >= $1 AND s.stored_at < $2" in step
    assert "min(s.first)::bigint AS first" in rollup_sql.step(rollup, "1d")


@pytest.mark.parametrize(
    ("before", "after", "line", "why"),
    [
        ("-- How many.", "-- How many", 1, "one sentence"),
        ("SELECT\n", "SELECT s.tenant,\n", 3, "SELECT, on a line of its own"),
        ("  s.tenant, --", "  s.tenant --", 5, "FROM"),
        ("  s.tenant, -- Whose.\n", "", 4, "first column is s.tenant"),
        (" AS who", "", 5, "needs a name"),
        ("AS who", "AS facts", 6, "two columns facts"),
        ("-- sum: How", "-- How", 6, "how two rows are put together"),
        ("count(*)::bigint", "count(*)", 6, "ends with its type"),
        ("-- min: The", "-- median: The", 7, "how two rows are put together"),
        ("coord.event AS s", "coord.task AS s", 8, "expected FROM"),
        ("WHERE s.", "ORDER BY s.", 9, "at most one line"),
    ],
)
def test_a_mistake_is_refused_with_its_line(before: str, after: str, line: int, why: str) -> None:
    assert before in GOOD
    with pytest.raises(MigrationFailed, match=rf"rollups/files\.sql, line {line}: .*{why}"):
        rollup_files.parse("files", GOOD.replace(before, after, 1))


def test_nothing_counted_is_no_rollup() -> None:
    nothing = "\n".join(line for line in GOOD.splitlines() if "sum:" not in line and "min:" not in line)
    with pytest.raises(MigrationFailed, match=r"line \d+: "):
        rollup_files.parse("files", nothing)


def test_names_are_plain() -> None:
    with pytest.raises(MigrationFailed, match="line 1: a rollup's name"):
        rollup_files.parse("x; DROP TABLE y", GOOD)


def test_those_of_this_release_count_what_is_asked_for() -> None:
    assert {r.name: r.source for r in rollups.load()} == {
        "fact_rate": "event", "outcome": "outcome", "work": "outcome", "handoff": "outcome", "wait": "outcome",
        "run": "outcome", "telemetry": "metric_sample",
    }  # fmt: skip


def test_statements_know_their_lines() -> None:
    text = "-- first\nSELECT 1;\n\n-- more\nSELECT\n  ';\n';\nDO $$ BEGIN; END $$"
    begins = [(number, one.splitlines()[0]) for number, one in scripts.numbered(text)]
    assert begins == [(1, "-- first"), (4, "-- more"), (8, "DO $$ BEGIN; END $$")]
