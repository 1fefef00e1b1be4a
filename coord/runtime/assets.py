"""Find `streams/`, `sql/` and `workflows/`: beside the package in a checkout, inside it in an installed wheel.

They are read where they lie and never copied, so what a person edits in a checkout is what
runs.  The checkout wins over files inside the package: an editable install has only the first.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from coord.errors import EnvironmentProblem

_PACKAGE = Path(__file__).resolve().parent.parent


def streams_dir() -> Path:
    """The folder of stream and consumer definitions."""
    return assets_dir("streams")


def sql_dir() -> Path:
    """The folder of schema, migrations, queries and roles."""
    return assets_dir("sql")


def workflows_dir() -> Path:
    """The folder of workflow templates."""
    return assets_dir("workflows")


def checkout_dir() -> Path | None:
    """The root of the checkout this code runs from; None when it runs from an installed wheel."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "streams").is_dir() else None


@cache
def assets_dir(name: str) -> Path:
    """The folder `name` that ships with coord.

    Raises `EnvironmentProblem` when this installation lacks it.
    """
    root = checkout_dir()
    candidates = ([root / name] if root else []) + [_PACKAGE / "_assets" / name]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise EnvironmentProblem(
        f"This installation of coord lacks {name}/: install it again (pip install --force-reinstall)."
    )
