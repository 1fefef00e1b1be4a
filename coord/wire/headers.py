"""The NATS header block, byte by byte, and how CloudEvents attributes stand in it.

Our own codec, because nats-py's gives up silently on a malformed block, keeps one value
per name and re-encodes on every publish.  ``encode`` makes a block, ``parse`` reads one
strictly, ``quote``/``unquote`` are the percent-encoding of the CloudEvents NATS binding
(1.0.3-wip, 3.1.3.2).

Names: a block is case-sensitive to NATS; the envelope's own names are recognised in any
case and returned in the one spelling of this module.  Twice the same envelope name is an
error.  Of other names the *last* value counts: the server appends its ``Nats-`` headers
behind the sender's, so a sender cannot forge them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from coord import limits
from coord.errors import InvalidEnvelope

SPECVERSION: Final = "ce-specversion"
ID: Final = "ce-id"
SOURCE: Final = "ce-source"
TYPE: Final = "ce-type"
TIME: Final = "ce-time"
CONTENT_TYPE: Final = "ce-datacontenttype"
PLAIN_CONTENT_TYPE: Final = "content-type"
TRACEPARENT: Final = "traceparent"
CE_TRACEPARENT: Final = "ce-traceparent"
CORRELATION: Final = "Coord-Correlation"
CAUSATION: Final = "Coord-Causation"
SCHEMA: Final = "Coord-Schema"
MSG_ID: Final = "Nats-Msg-Id"
EXPECTED_LAST_SUBJECT_SEQ: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
MSG_TTL: Final = "Nats-TTL"
"""Seconds after which the broker drops the message; of streams that allow it."""

LIVE_STREAM: Final = "Nats-Stream"
LIVE_SUBJECT: Final = "Nats-Subject"
LIVE_SEQUENCE: Final = "Nats-Sequence"
LIVE_LAST_SEQUENCE: Final = "Nats-Last-Sequence"
LIVE_TIME: Final = "Nats-Time-Stamp"
NUM_PENDING: Final = "Nats-Num-Pending"
STREAM_SOURCE: Final = "Nats-Stream-Source"
"""Appended by the server to what a stream took in from another: ``{stream} {sequence} …``."""

REQUEST_INFO: Final = "Nats-Request-Info"
"""Put by the server on what comes out of another account by a service import: whose it is."""

SCHEDULE: Final = "Nats-Schedule"
SCHEDULE_TARGET: Final = "Nats-Schedule-Target"
SCHEDULE_TTL: Final = "Nats-Schedule-TTL"
SCHEDULE_ZONE: Final = "Nats-Schedule-Time-Zone"
PIN_ID: Final = "Nats-Pin-Id"
"""Appended by the server to every delivery of a pinned consumer."""

ENVELOPE: Final = (
    SPECVERSION,
    ID,
    SOURCE,
    TYPE,
    TIME,
    CONTENT_TYPE,
    PLAIN_CONTENT_TYPE,
    TRACEPARENT,
    CE_TRACEPARENT,
    CORRELATION,
    CAUSATION,
    SCHEMA,
)
_CANONICAL: Final = {name.lower(): name for name in ENVELOPE}
_EXACT: Final = frozenset({
    *ENVELOPE, MSG_ID, EXPECTED_LAST_SUBJECT_SEQ, EXPECTED_LAST_SUBJECT, LIVE_STREAM, LIVE_SUBJECT, LIVE_SEQUENCE,
    LIVE_LAST_SEQUENCE, LIVE_TIME, NUM_PENDING, PIN_ID,
})  # fmt: skip

_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_USUAL: Final = bytes(b for b in range(0x21, 0x7F) if b not in b'%"')
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS = re.compile(r"NATS/1\.0(?: +(\d{3})(?: (.*))?)?\s*", re.ASCII)
# Room for what the server appends to a message's headers (republish, direct get).
_BLOCK_BYTES_MAX: Final = limits.HEADERS_BYTES_MAX + 4 * limits.KIB


class Headers(msgspec.Struct, frozen=True):
    """A parsed block: `status` and `description` of a control message, else None and ""."""

    status: int | None
    description: str
    fields: dict[str, str]
    usual: bool = False
    """ASCII, nothing quoted, our own spelling: values can be taken as they are."""


def encode(headers: Mapping[str, str]) -> bytes:
    """The block for `headers`; values must already be printable (see `quote`).

    Raises `InvalidEnvelope` for a name or value that would break the block.
    """
    try:
        block = "".join(["NATS/1.0\r\n", *[f"{name}: {value}\r\n" for name, value in headers.items()], "\r\n"]).encode()
    except UnicodeEncodeError as exc:
        raise InvalidEnvelope("a header value is not Unicode text") from exc
    if not _EXACT.issuperset(headers) or len(block.translate(None, _PRINTABLE)) != 2 * (len(headers) + 2):
        for name, value in headers.items():
            if not _NAME.fullmatch(name):
                raise InvalidEnvelope("not a header name", name=name[:128])
            if not value.isprintable():
                raise InvalidEnvelope("a header value must be printable; percent-encode it", name=name)
    if len(block) > limits.HEADERS_BYTES_MAX:
        raise InvalidEnvelope("the headers are too large", bytes=len(block), bytes_max=limits.HEADERS_BYTES_MAX)
    return block


def parse(raw: bytes) -> Headers:
    """Read a header block.  Raises `InvalidEnvelope` and nothing else."""
    if len(raw) > _BLOCK_BYTES_MAX:
        raise InvalidEnvelope("the headers are too large", bytes=len(raw), bytes_max=_BLOCK_BYTES_MAX)
    try:
        lines = raw.decode().split("\r\n")
    except UnicodeDecodeError as exc:
        raise InvalidEnvelope("the headers are not UTF-8") from exc
    if len(lines) < 3 or lines[-1] or lines[-2]:
        raise InvalidEnvelope("the header block does not end with an empty line")
    status: int | None = None
    description = ""
    if lines[0] != "NATS/1.0":
        status, description = _status_line(lines[0])
    lines = lines[1:-2]
    # The usual block: our own spelling, nothing twice, one space a line, nothing quoted and
    # nothing unprintable.  Whatever is unusual is looked at line by line.
    if len(raw.translate(None, _USUAL)) == 3 * len(lines) + 4:
        try:
            fields = dict([line.split(": ", 1) for line in lines])
        except ValueError:
            pass
        else:
            if len(fields) == len(lines) and _EXACT.issuperset(fields):
                return Headers(status, description, fields, status is None)
    return Headers(status, description, _careful(lines))


def _careful(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise InvalidEnvelope("not a header line", line=line[:128])
        known = _CANONICAL.get(name.lower())
        if known is None:
            fields[name] = value.strip(" \t")
        elif known in fields:
            raise InvalidEnvelope("a header stands twice", name=known)
        else:
            fields[known] = value.strip(" \t")
    _check_characters(fields)
    return fields


def _status_line(line: str) -> tuple[int | None, str]:
    found = _STATUS.fullmatch(line)
    if not found:
        raise InvalidEnvelope("the header block does not begin with NATS/1.0")
    code, description = found.groups()
    return (None, "") if code is None else (int(code), (description or "").strip())


_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def _check_characters(fields: dict[str, str]) -> None:
    """Non-ASCII text and tabs pass; control characters (a lone CR or LF among them) do not."""
    for name, value in fields.items():
        if _CONTROL.search(value):
            raise InvalidEnvelope("a header value contains a control character", name=name)


# --- CloudEvents values ------------------------------------------------------------------

_PLAIN = re.compile(r"[\x21\x23\x24\x26-\x7e]*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")


def quote(value: str) -> str:
    """Percent-encode space, '"', '%' and everything outside printable ASCII."""
    if _PLAIN.fullmatch(value):
        return value
    try:
        data = value.encode()
    except UnicodeEncodeError as exc:
        raise InvalidEnvelope("a header value is not Unicode text") from exc
    return "".join(chr(b) if 0x21 <= b <= 0x7E and b not in b'"%' else f"%{b:02X}" for b in data)


def unquote(value: str, name: str) -> str:
    """Undo `quote`, and the double-quoted strings of older senders; `InvalidEnvelope` naming `name`.

    A '%' that is not followed by two hexadecimal digits, bytes that are not UTF-8 and
    control characters are refused.  Raw UTF-8 is accepted as it is.
    """
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    if "%" in value:
        try:
            value = _ESCAPE.sub(_unescape, value.encode()).decode()
        except (ValueError, UnicodeError) as exc:
            raise InvalidEnvelope("a header value is not correctly percent-encoded", name=name) from exc
    if _FORBIDDEN.search(value):
        raise InvalidEnvelope("a header value contains a control character", name=name)
    return value


def _unescape(found: re.Match[bytes]) -> bytes:
    digits = found.group(1)
    if digits is None:
        raise ValueError("'%' without two hexadecimal digits")
    return bytes((int(digits, 16),))


def readable(block: bytes) -> str:
    """A block as text, whatever is in it: bytes that are no UTF-8 with a backslash, in hexadecimal.

    What ``decode("utf-8", "backslashreplace")`` gives, which asks Python about each such byte: 4 ms of CPU for 16 KiB
    of them, where this takes 0.05.
    """
    return _SURROGATES.sub(_spelled, block.decode("utf-8", "surrogateescape"))


_SURROGATES: Final = re.compile("[\udc80-\udcff]+")


def _spelled(found: re.Match[str]) -> str:
    return "\\x" + found[0].encode("utf-8", "surrogateescape").hex("-").replace("-", "\\x")
