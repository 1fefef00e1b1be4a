"""The views are a contract: who changes a column says so with a version, and reports can ask which one they meet."""

from __future__ import annotations

import itertools
from pathlib import Path

import psycopg
import pytest

from tests.support import contract
from tests.support.cluster import Database
from tests.support.contract import FOLDER, Contract


def test_the_views_are_what_the_newest_version_says(migrated_database: Database) -> None:
    newest = contract.load(FOLDER)[-1]
    found = contract.columns_of(migrated_database.url)
    with psycopg.connect(migrated_database.url) as conn:
        said = conn.execute("SELECT major, minor FROM coord.v_contract").fetchone()
    version = contract.step(newest, found)
    if version is not None:
        name = "{}.{}.txt".format(*version)
        listed = "\n".join(contract.differences(newest, found)) or "the order of columns"
        pytest.fail(
            f"columns changed without a version:\n{listed}\nWrite them to sql/contract/{name} (python"
            f" -m tests.support.contract URL does), say {version} in sql/views/v_contract.sql and in CHANGELOG.md."
        )
    assert said == newest.version, "sql/views/v_contract.sql says another version"


def test_each_version_follows_from_what_changed() -> None:
    for before, after in itertools.pairwise(contract.load(FOLDER)):
        assert contract.step(before, after.columns) == after.version


def test_what_changed_decides_which_number_rises() -> None:
    base = Contract((1, 2), ("v_a.x text", "v_a.y integer", "v_b.z text"))
    assert contract.step(base, base.columns) is None
    assert contract.step(base, ("v_a.x text", "v_a.y integer", "v_a.new text", "v_b.z text", "v_c.q text")) == (1, 3)
    for broken in (
        ("v_a.x text", "v_b.z text"),
        ("v_a.x text", "v_a.y bigint", "v_b.z text"),
        ("v_a.y integer", "v_a.x text", "v_b.z text"),
        ("v_a.new text", "v_a.x text", "v_a.y integer", "v_b.z text"),
        ("v_a.x text", "v_a.y integer"),
    ):
        assert contract.step(base, broken) == (2, 0)
    assert contract.differences(base, ("v_a.x text", "v_a.y bigint", "v_b.z text")) == [
        "- v_a.y integer", "+ v_a.y bigint",
    ]  # fmt: skip


def test_a_file_that_is_no_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.0.txt").write_text("v_a.x text\n")
    assert contract.load(tmp_path) == [Contract((1, 0), ("v_a.x text",))]
    (tmp_path / "1.1.txt").write_text("anything\n")
    with pytest.raises(ValueError, match=r"1\.1\.txt"):
        contract.load(tmp_path)
