"""Files of sql/: names, flags, numbers, statements."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.errors import MigrationFailed
from coord.runtime.assets import sql_dir
from coord.store import migrations, scripts
from coord.store.scripts import Migration, statements


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.sql").write_text(text, "utf-8")
    return folder


def test_the_shipped_migrations_load() -> None:
    loaded = scripts.load_migrations(sql_dir() / "migrations")
    assert [m.number for m in loaded] == list(range(1, len(loaded) + 1))
    assert loaded[0].file == "0001_pre_initial.sql"


def test_flags_come_from_the_header_only(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "0001_pre_a": "-- Why.\n-- coord: no-transaction\nCREATE INDEX CONCURRENTLY i ON t (c);",
            "0002_post_b": "SELECT 1;\n-- coord: no-transaction\n",
        },
    )
    one, two = scripts.load_migrations(tmp_path)
    assert (one.transaction, one.phase, one.name) == (False, "pre", "a")
    assert (two.transaction, two.phase) == (True, "post")


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["1_pre_a"], "1_pre_a.sql"),
        (["0001_a"], "0001_a.sql"),
        (["0001_PRE_a"], "0001_PRE_a.sql"),
        (["0002_pre_a"], "0002_pre_a.sql"),
        (["0001_pre_a", "0003_pre_c"], "0003_pre_c.sql"),
        (["0001_post_b", "0001_pre_a"], "0001_pre_a.sql"),
    ],
)
def test_a_misnamed_or_misnumbered_file_is_refused_by_name(tmp_path: Path, names: list[str], complaint: str) -> None:
    write(tmp_path, **dict.fromkeys(names, "SELECT 1"))
    with pytest.raises(MigrationFailed, match=complaint):
        scripts.load_migrations(tmp_path)


def test_an_unknown_flag_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, **{"0001_pre_a": "-- coord: no-transactions\nSELECT 1"})
    with pytest.raises(MigrationFailed, match=r"0001_pre_a\.sql.*no-transactions"):
        scripts.load_migrations(tmp_path)


def test_line_ends_do_not_change_a_checksum() -> None:
    assert scripts.checksum("a\r\nb\r\n") == scripts.checksum("a\nb\n") != scripts.checksum("a\nb")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        ("-- only words; and more\n /* ; */ ;;", []),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';', 'it''s;'; SELECT \"a;\"\"b\";", ["SELECT ';', 'it''s;'", 'SELECT "a;""b"']),
        ("DO $$ a; b; $$; x", ["DO $$ a; b; $$", "x"]),
        ("DO $f$ a; $$ ; $$ b; $f$; x", ["DO $f$ a; $$ ; $$ b; $f$", "x"]),
        ("SELECT 1 -- one; two\n, 2; x", ["SELECT 1 -- one; two\n, 2", "x"]),
        ("SELECT $1; x", ["SELECT $1", "x"]),
    ],
)
def test_statements_end_at_semicolons_outside_of_quotes(sql: str, expected: list[str]) -> None:
    assert list(statements(sql)) == expected


PIECES = st.sampled_from(
    ["SELECT 1", "'a;b'", '"c;d"', "$$ e; $$", "$q$ f; $$; $q$", "-- g;\n", "/* h; */", " ", "\n", "i"]
)


@given(st.lists(PIECES), st.lists(PIECES))
def test_a_script_of_two_statements_splits_into_them(first: list[str], second: list[str]) -> None:
    a, b = " ".join(first), " ".join(second)
    together = list(statements(f"{a}\n;\n{b}"))
    assert together == [*statements(a), *statements(b)]
    assert len(together) <= 2


def migration(number: int, phase: str = "pre", sql: str = "SELECT 1") -> Migration:
    return Migration(
        number=number,
        phase="pre" if phase == "pre" else "post",
        name="x",
        file=f"{number:04d}_{phase}_x.sql",
        sha256=scripts.checksum(sql),
        sql=sql,
    )


def applied(m: Migration, **changes: object) -> migrations.Applied:
    fields = {
        "number": m.number,
        "name": m.name,
        "phase": m.phase,
        "sha256": m.sha256,
        "applied_at": datetime(2026, 1, 2, tzinfo=UTC),
        "applied_by": "me",
        "duration_ms": 1,
    }
    return migrations.Applied(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phases", "now", "later"),
    [
        ([], 0, 0),
        (["pre"], 1, 0),
        (["post"], 0, 1),
        (["pre", "post"], 1, 1),
        (["pre", "post", "pre", "post", "post"], 3, 2),  # an earlier release's post belongs before a later pre
    ],
)
def test_phase_pre_ends_at_the_last_pre(phases: list[str], now: int, later: int) -> None:
    pending = [migration(i, phase) for i, phase in enumerate(phases, 1)]
    todo, rest = migrations.split(pending, "pre")
    assert (len(todo), len(rest)) == (now, later)
    assert todo + rest == pending
    assert migrations.split(pending, "all") == (pending, [])


def test_a_ledger_that_agrees_has_no_problems() -> None:
    files = [migration(1), migration(2), migration(3)]
    assert migrations.compare(files, [applied(files[0]), applied(files[1])]) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sha256": "0" * 64}, "0002_pre_x.sql was edited"),
        ({"name": "y"}, "0002_pre_x.sql was applied under the name 0002_pre_y.sql"),
        ({"number": 3}, "lacks number 0002"),
    ],
)
def test_each_contradiction_names_its_file(change: dict[str, object], complaint: str) -> None:
    files = [migration(1), migration(2)]
    (problem,) = migrations.compare(files, [applied(files[0]), applied(files[1], **change)])
    assert complaint in problem


def test_a_newer_database_is_told_apart_from_an_edited_one() -> None:
    files = [migration(1)]
    (problem,) = migrations.compare(files, [applied(files[0]), applied(migration(2))])
    assert "newer release" in problem
    assert "0002_pre_x.sql" in problem
