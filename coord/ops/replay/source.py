"""The file of a recording: numbered lines, or JSON documents, never all of it in memory at once."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from coord import limits
from coord.errors import InvalidRecording
from coord.ops.replay.recording import Problem

_CHUNK_BYTES = 1024 * 1024


class Line(msgspec.Struct, frozen=True):
    """One line with something on it, without its end."""

    number: int
    text: str


class Document(msgspec.Struct, frozen=True):
    """One JSON document: a line, or a whole file."""

    first_line: int
    text: str
    is_line: bool


class Source:
    """A file; it is read anew by every iteration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):  # a pipe can be read once only, and opening it would wait
                raise InvalidRecording(f"{path} is no file: a recording is read several times", path=str(path))
            self.bytes = about.st_size
            with path.open("rb"):
                pass
        except OSError as exc:
            raise InvalidRecording(f"cannot read {path}: {exc.strerror}", path=str(path)) from exc

    def digest(self) -> str:
        """SHA-256 of the content, hexadecimal: what makes a replay the same replay."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def head(self) -> str:
        """The beginning, to tell the format by: up to 256 KiB."""
        with self.path.open("rb") as file:
            return file.read(256 * 1024).decode("utf-8-sig", "replace")

    def lines(self) -> Iterator[Line | Problem]:
        """Lines that hold something; a line that is too long or no UTF-8 is a `Problem`."""
        with self.path.open("rb") as file:
            number = 0
            while raw := file.readline(limits.REPLAY_LINE_BYTES + 1):
                number += 1
                if len(raw) > limits.REPLAY_LINE_BYTES:
                    while raw and not raw.endswith(b"\n"):
                        raw = file.readline(_CHUNK_BYTES)
                    yield Problem(number, f"longer than {limits.REPLAY_LINE_BYTES:,} bytes")
                    continue
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as exc:
                    yield Problem(number, f"not UTF-8: {exc.reason} at byte {exc.start + 1}")
                    continue
                if text.strip():
                    yield Line(number, text)

    def documents(self) -> Iterator[Document | Problem]:
        """JSON documents: one a line if the first line is one, else the whole file."""
        lines = self.lines()
        first = next(lines, None)
        if first is None:
            return
        if isinstance(first, Problem) or is_document(first.text):
            yield first if isinstance(first, Problem) else Document(first.number, first.text, is_line=True)
            for line in lines:
                yield line if isinstance(line, Problem) else Document(line.number, line.text, is_line=True)
            return
        if self.bytes > limits.REPLAY_DOCUMENT_BYTES:
            yield Problem(1, f"one document of more than {limits.REPLAY_DOCUMENT_BYTES:,} bytes; write one a line")
            return
        try:
            text = self.path.read_text("utf-8-sig")
        except UnicodeDecodeError as exc:
            yield Problem(1, f"not UTF-8: {exc.reason} at byte {exc.start + 1}")
            return
        yield Document(1, text, is_line=False)


def is_document(text: str) -> bool:
    """Whether `text` alone is a JSON document."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True
