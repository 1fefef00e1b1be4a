"""What a format makes of a file: statements in order, and what it could not read, by line."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

from coord.wire.records import Fact


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One fact of the recording, and who stated it."""

    line: int
    """Where in the file it stands, from 1."""
    ordinal: int = 0
    """Which of the statements of that line."""
    agent: str
    """A subject token."""
    fact: Fact
    """Without an `event_id` it gets one derived from the file, the line and the ordinal."""
    at: datetime | None = None
    """When it was stated; None where the recording has no times: then nothing is waited for."""


class Problem(msgspec.Struct, frozen=True):
    """Something that cannot be read or stated."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class LeftOut(msgspec.Struct, frozen=True):
    """Something that is understood and deliberately not stated again."""

    line: int
    reason: str


Item: TypeAlias = Statement | Problem | LeftOut
