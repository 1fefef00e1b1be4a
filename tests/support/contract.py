"""The views as a contract with analysts: which columns they have, by version.

`sql/contract/{major}.{minor}.txt` lists every column of every view with its type, as of that
version, one a line; files are never edited once released.  The newest is what a migrated
database has, and the view coord.v_contract says which that is.

Adding a view, or a column at the end of one, raises minor; anything else (a column renamed,
retyped, moved, or gone) can break a report, and raises major.

    python -m tests.support.contract URL          # from a migrated database, the next version where something changed
    python -m tests.support.contract URL --same   # again the newest one, before it is released
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from coord.runtime.assets import sql_dir

FOLDER: Final = sql_dir() / "contract"

_NAME: Final = re.compile(r"(\d+)\.(\d+)\.txt")
_LINE: Final = re.compile(r"(?P<view>v_\w+)\.(?P<column>\w+) (?P<type>\S.*)")

_COLUMNS: Final = rb"""
    SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) AS line
    FROM pg_class AS c
    INNER JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = to_regnamespace('coord') AND c.relkind = 'v' AND c.relname LIKE 'v\_%'
    ORDER BY c.relname COLLATE "C", a.attnum
"""

Version = tuple[int, int]


class Contract(msgspec.Struct, frozen=True):
    """What one version promises."""

    version: Version
    columns: tuple[str, ...]
    """`view.column type`, by view, in the view's order."""

    @property
    def views(self) -> dict[str, list[str]]:
        """View → its columns with their types, in order."""
        found: dict[str, list[str]] = {}
        for line in self.columns:
            view, _, column = line.partition(".")
            found.setdefault(view, []).append(column)
        return found


def load(folder: Path) -> list[Contract]:
    """Every version, the oldest first.  Raises `ValueError` for a file that is none."""
    found = [_read(path) for path in folder.iterdir()]
    return sorted(found, key=lambda c: c.version)


def columns_of(url: str) -> list[str]:
    """The columns of the views of this database."""
    with psycopg.connect(url) as conn:
        return [line for (line,) in conn.execute(_COLUMNS)]


def step(before: Contract, columns: Sequence[str]) -> Version | None:
    """The version that `columns` are after `before`; None where they are the same."""
    old, new = before.views, Contract((0, 0), tuple(columns)).views
    if old == new:
        return None
    major, minor = before.version
    only_grown = all(new.get(view, [])[: len(listed)] == listed for view, listed in old.items())
    return (major, minor + 1) if only_grown else (major + 1, 0)


def differences(before: Contract, columns: Sequence[str]) -> list[str]:
    """What changed, a line each: `+` came, `-` went."""
    old, new = set(before.columns), set(columns)
    return [f"- {line}" for line in before.columns if line not in new] + [f"+ {c}" for c in columns if c not in old]


def _read(path: Path) -> Contract:
    name = _NAME.fullmatch(path.name)
    lines = tuple(path.read_text("utf-8").splitlines())
    if name is None or not all(map(_LINE.fullmatch, lines)):
        raise ValueError(f"{path.name} is no version of the views' contract")
    return Contract((int(name[1]), int(name[2])), lines)


def main(url: str, *options: str) -> str:
    """Write a version; what there is to say about it."""
    found, known = columns_of(url), load(FOLDER)
    version = step(known[-1], found)
    if version is None:
        return "nothing changed since {}.{}".format(*known[-1].version)
    if "--same" in options:
        version = known[-1].version
    path = FOLDER / "{}.{}.txt".format(*version)
    path.write_text("\n".join(found) + "\n", encoding="utf-8")
    lines = [*differences(known[-1], found), f"{path.name}: now sql/views/v_contract.sql and CHANGELOG.md"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(main(*sys.argv[1:]) + "\n")
