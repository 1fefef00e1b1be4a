"""Files that a command writes: they have their name once they are whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import typer


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write; it becomes `path` when the block ends without an error, and is gone otherwise."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as exc:
        raise typer.BadParameter(f"--to: cannot write {path}: {exc.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
