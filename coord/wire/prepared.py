"""Messages that are like the last one of their kind: what `coord.wire.encode` makes, cut at what differs.

Whoever states the same few kinds of facts again and again lets the reference make the message of one
with placeholders, once, and fills in what differs.  The bytes are the reference's, by tests of those
who do it: the SDK's encoder and the deciders' statements.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from coord import limits
from coord.wire import codec, headers
from coord.wire.subjects import FactSubject
from coord.wire.times import format_time

PLACE_ID: Final = "00000000-c00d-7000-8000-c00dc00dc00d"
PLACE_TIME: Final = datetime(1987, 6, 5, 4, 3, 2, 1, tzinfo=UTC)
"""What a prepared header block is made with, to be found again in it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

is_token = re.compile(rf"[a-z0-9_-]{{1,{limits.TOKEN_BYTES_MAX}}}").fullmatch
is_plain = re.compile(rf"[\x21\x23\x24\x26-\x7e]{{1,{limits.HEADER_VALUE_BYTES_MAX}}}").fullmatch
"""Whether a value stands in a header as it is: see `headers.quote`."""

_json_encode = msgspec.json.Encoder().encode


def open_block(fields: dict[str, str]) -> str:
    """A header block, without its last empty line, with %s for id, time, id."""
    text = headers.encode(fields).decode()[:-2].replace("%", "%%")
    text = text.replace(PLACE_ID, "%s").replace(format_time(PLACE_TIME), "%s")
    assert text.index(headers.ID) < text.index(headers.TIME) < text.index(headers.MSG_ID), "the places have this order"
    assert text.count("%s") == 3, "id, time, id"
    return text


def open_subject(tenant: str, agent: str, kind: str, event: str) -> str:
    """The subject of facts of this kind, with %s for key and entity; '%' is in no token."""
    return FactSubject(tenant, agent, "%s", kind, "%s", event).publish


def pieces(text: str) -> tuple[str, ...]:
    """What `open_block` or `open_subject` made, cut at its places: joined in a third of the time of filling in."""
    return tuple(piece.replace("%%", "%") for piece in text.split("%s"))


def condition(filter_: str, last: int) -> str:
    """The lines that have the broker store a fact only if the newest one under a filter is at `last`; 0: none is."""
    return f"{headers.EXPECTED_LAST_SUBJECT_SEQ}: {last}\r\n{headers.EXPECTED_LAST_SUBJECT}: {filter_}\r\n"


def are_tokens(detail: tuple[str, ...]) -> bool:
    """Whether these may stand behind an event."""
    return not detail or (len(detail) <= limits.DETAIL_TOKENS_MAX and all(map(is_token, detail)))


def checked_json(data: Any) -> bytes:
    """`codec.encode`, skipping the checks that this body cannot fail.

    The encoder writes valid JSON; what it cannot see is depth, NUL characters, and NaN,
    which it writes as null.  Large bodies take the thorough way: they can pay for it.
    The one check that is not made: that a `msgspec.Raw` deep inside small data is JSON.  Who
    writes raw JSON vouches for it.
    """
    try:
        body = _json_encode(data)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return codec.encode(data)  # a pydantic model, or the right error
    if (
        len(body) >= codec.NUMBER_DIGITS_MAX
        or b"null" in body
        or b"\\u0000" in body
        or body.count(b"[") + body.count(b"{") > limits.NESTING_MAX
        or type(data) is msgspec.Raw
    ):
        return codec.encode(data)
    return body


class Moments:
    """`format_time` of times that follow each other: the current second is remembered."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, at_us: int) -> str:
        """Of Unix microseconds."""
        second, fraction = divmod(at_us, 1_000_000)
        if second != self._second:
            self._text = (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
            self._second = second
        return f"{self._text}.{fraction:06d}Z" if fraction else f"{self._text}Z"
