"""Files that a command reads or writes, and JSON that it is given; what it writes whole has its name once it is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer


def text_of(path: Path) -> str:
    """The text of a file that somebody named; raises `UnusableFile`."""
    from coord.errors import UnusableFile

    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise UnusableFile(f"the file cannot be read: {exc.strerror}", file=str(path)) from exc
    except UnicodeDecodeError as exc:
        raise UnusableFile("the file is not text in UTF-8", file=str(path)) from exc


def write_text(path: Path, text: str) -> None:
    """Write it there; raises `UnusableFile`."""
    from coord.errors import UnusableFile

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UnusableFile(f"the file cannot be written: {exc.strerror}", file=str(path)) from exc


def json_given(text: str, option: str) -> Any:
    """What an option says as JSON, ``@FILE`` or ``-`` (stdin): there; empty: None.

    Raises `InvalidArgument` for what is no JSON, and `UnusableFile`.
    """
    import msgspec

    from coord.errors import InvalidArgument

    if not text:
        return None
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        text = text_of(Path(text[1:]))
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise InvalidArgument(f"{option} is not JSON: {exc}", given=text[:100]) from exc


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
