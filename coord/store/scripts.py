"""Files of sql/: their headers, checksums and statements.  Pure, apart from reading the files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from coord.errors import MigrationFailed

Phase = Literal["pre", "post"]

_NAME = re.compile(r"(?P<number>\d{4})_(?P<phase>pre|post)_(?P<name>[a-z0-9_]+)\.sql")
_FLAGS = re.compile(r"--\s*coord:\s*(?P<flags>.*)")
_NO_TRANSACTION = "no-transaction"

_TOKEN = re.compile(
    r"""
      '(?:[^']|'')*'                           # a string (standard_conforming_strings)
    | "(?:[^"]|"")*"                           # an identifier
    | \$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?(tag)(?P=tag))\$   # a dollar-quoted string
    | --[^\n]*
    | /\*.*?\*/                                # not nested: nobody here nests them
    | (?P<end>;)
    | .
    """,
    re.VERBOSE | re.DOTALL,
)


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file of sql/migrations/."""

    number: int
    phase: Phase
    """`pre` is applied before the new code runs, `post` after no old code runs any more."""
    name: str
    file: str
    sha256: str
    sql: str
    transaction: bool = True
    """False when its header says `-- coord: no-transaction`: its statements then run one by
    one and must be repeatable, because a crash can come between them."""


def load_migrations(folder: Path) -> list[Migration]:
    """The migrations of a folder in order.

    Raises `MigrationFailed` naming the file when one is misnamed, has an unknown flag, or when
    a number is missing or taken twice.
    """
    migrations = [_load(path) for path in sorted(folder.glob("*.sql"))]
    for expected, migration in enumerate(migrations, 1):
        if migration.number != expected:
            raise MigrationFailed(
                f"{migration.file}: expected number {expected:04d}; numbers have no gaps and no twins"
            )
    return migrations


def script(path: Path) -> str:
    """A file that is applied again on every migrate."""
    return path.read_text("utf-8")


def checksum(text: str) -> str:
    """SHA-256 of a file's text, whatever its line ends became in a checkout."""
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


def statements(sql: str) -> Iterator[str]:
    """The statements of a script, without their semicolons; what is only comment is left out."""
    for _, statement in numbered(sql):
        yield statement


def numbered(sql: str) -> Iterator[tuple[int, str]]:
    """The same, each with the number of the line that it begins on."""
    piece: list[str] = []
    line = 1
    for token in _TOKEN.finditer(sql):
        if token["end"]:
            yield from _statement(line, piece)
            line += sum(part.count("\n") for part in piece)
            piece = []
        else:
            piece.append(token[0])
    yield from _statement(line, piece)


def _statement(line: int, piece: list[str]) -> Iterator[tuple[int, str]]:
    code = "".join(token for token in piece if not token.startswith(("--", "/*")))
    if code.strip():
        text = "".join(piece)
        yield line + text[: len(text) - len(text.lstrip())].count("\n"), text.strip()


def _load(path: Path) -> Migration:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise MigrationFailed(f"{path.name}: migrations are called NNNN_pre_name.sql or NNNN_post_name.sql")
    sql = path.read_text("utf-8")
    flags = _flags(path.name, sql)
    phase: Phase = "pre" if match["phase"] == "pre" else "post"
    return Migration(
        number=int(match["number"]),
        phase=phase,
        name=match["name"],
        file=path.name,
        sha256=checksum(sql),
        sql=sql,
        transaction=_NO_TRANSACTION not in flags,
    )


def _flags(file: str, sql: str) -> set[str]:
    """Flags of the header: the comment lines before the first other line."""
    flags: set[str] = set()
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        match = _FLAGS.match(line)
        if match is not None:
            flags.update(match["flags"].replace(",", " ").split())
    unknown = flags - {_NO_TRANSACTION}
    if unknown:
        raise MigrationFailed(f"{file}: unknown flag {min(unknown)!r} in its header")
    return flags
