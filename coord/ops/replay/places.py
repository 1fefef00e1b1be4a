"""On which line of a JSON document a value stands.

Decoders forget where they found what.  This walks the text again, only when something has to be
reported, to the value that a path names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

_DECODER: Final = json.JSONDecoder(strict=False)
_SPACE: Final = re.compile(r"[ \t\n\r]*")


def line_of(text: str, path: Sequence[str | int]) -> int:
    """The line, from 1, on which the value at `path` begins; of its nearest parent if it is not there."""
    offset = _skip(text, 0)
    try:
        for step in path:
            offset = _into(text, offset, step)
    except (ValueError, IndexError, KeyError, RecursionError):
        pass
    return text.count("\n", 0, offset) + 1


def _into(text: str, offset: int, step: str | int) -> int:
    """Where the member `step` of the object or array at `offset` begins."""
    is_object = isinstance(step, str)
    if text[offset] != ("{" if is_object else "["):
        raise KeyError(step)
    offset = _skip(text, offset + 1)
    index = 0
    while text[offset] not in "]}":
        name: str | int = index
        if is_object:
            name, offset = _DECODER.raw_decode(text, offset)
            offset = _skip(text, _skip(text, offset) + 1)  # the colon
        if name == step:
            return offset
        _, offset = _DECODER.raw_decode(text, offset)
        offset = _skip(text, offset)
        if text[offset] == ",":
            offset = _skip(text, offset + 1)
        index += 1
    raise KeyError(step)


def _skip(text: str, offset: int) -> int:
    match = _SPACE.match(text, offset)
    assert match is not None
    return match.end()
