"""Judging messages by a condition before they are decoded: cheap things first, and no more than needed.

::

    subject ──known?──▶ headers ──known?──▶ the members of the body that the condition names
        tokens            one look each        everything else in it is skipped, not built

A message is thrown out as soon as what is known is enough.  What cannot be judged so is decoded
and judged then, or found to be a dead letter.  Exactly those facts pass that
`coord.wire.where.matches` accepts (tests/property/test_wire_sieve.py); whether what was thrown out
could have been decoded, nobody asks.

Of a frame each entry is judged; the others are neither built nor decoded when only some pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from coord import limits
from coord.errors import WireError
from coord.wire import attributes, codec, frames, headers
from coord.wire.decode import Stored, decode_message
from coord.wire.records import Poison, StoredFact
from coord.wire.subjects import default_type
from coord.wire.times import from_unix_us
from coord.wire.where import MISSING, UNKNOWN, Condition, Place, Truth, compiled, follow, of_fact, places

Verdict: TypeAlias = bool | tuple[int, ...] | None
"""Whether it passes; of a frame of which some entries do, their places; None: only decoding tells."""

_TOKEN: Final = {"key": 4, "kind": 5, "id": 6, "agent": 7, "event": 8}
_DETAIL: Final = 9
"""Places in ``coord.log.{p}.{tenant}.{key}.{kind}.{id}.{agent}.{event}[.{detail}…]``."""


class Sieve:
    """A condition, made ready."""

    def __init__(self, condition: Condition) -> None:
        """Raises `QueryError` for a condition that is too large."""
        self.condition = condition
        self._order = places(condition)
        self._judge = compiled(condition, self._order)
        self._unknown: list[Any] = [UNKNOWN] * len(self._order)
        self._subject = [(slot, _token(place)) for slot, place in enumerate(self._order) if place.source == "subject"]
        self._attributes = [
            (slot, str(place.path[0])) for slot, place in enumerate(self._order) if place.source == "attribute"
        ]
        data = [(slot, place) for slot, place in enumerate(self._order) if place.source == "data"]
        self._body = _Probe(data) if data else None

    def accepts(self, fact: StoredFact) -> bool:
        """Whether a decoded fact passes."""
        return bool(self._judge(of_fact(fact, self._order)))

    def judge(self, subject: str, raw: bytes | None, body: bytes, seq: int, stored_at: datetime) -> Verdict:
        """Whether a stored message passes; the arguments are `decode_message`'s.  Raises nothing."""
        try:
            return self._stages(subject, raw, body, seq, stored_at)
        except (WireError, msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            return None  # the decoder says what is wrong with it

    def _stages(self, subject: str, raw: bytes | None, body: bytes, seq: int, stored_at: datetime) -> Verdict:
        tokens = subject.split(".")
        if len(tokens) < _DETAIL:
            return None
        values = self._unknown.copy()
        for slot, at in self._subject:
            values[slot] = tokens[at] if at < len(tokens) else MISSING
        truth = self._judge(values) if self._subject else None
        if truth is not None:
            return truth
        media = _media(raw, tokens)
        framed = media in ("frame", "frame+zstd")
        for slot, name in self._attributes:
            if not framed or name not in ("event_id", "occurred_at"):
                values[slot] = _attribute(name, raw, tokens, seq, stored_at)
        truth = self._judge(values) if self._attributes else None
        if truth is not None:
            return truth
        if framed:
            return self._entries(values, raw, tokens, body, seq, compressed=media == "frame+zstd")
        if len(body) > limits.EVENT_BYTES_MAX:
            return None
        if self._body is not None:
            self._body.fill(values, body, json=media == "json")
        return self._judge(values)

    def _entries(
        self, values: list[Any], raw: bytes | None, tokens: list[str], body: bytes, seq: int, *, compressed: bool
    ) -> Verdict:
        _, base_us, entries = _decode_frame(frames.decoded(body, compressed=compressed))
        if len(entries) > limits.FRAME_ENTRIES_MAX:
            return None
        own = [(slot, name) for slot, name in self._attributes if name in ("event_id", "occurred_at")]
        event_id = _attribute("event_id", raw, tokens, seq, None) if any(name == "event_id" for _, name in own) else ""
        kept = []
        for index, (delta_us, data) in enumerate(entries):
            for slot, name in own:
                values[slot] = f"{event_id}/{index}" if name == "event_id" else from_unix_us(base_us + delta_us)
            if self._body is not None:
                self._body.fill(values, data, json=False)
            if self._judge(values):
                kept.append(index)
        return bool(kept) if len(kept) in (0, len(entries)) else tuple(kept)

    def decode(
        self, verdict: Verdict, subject: str, raw: bytes | None, body: bytes, seq: int, stored_at: datetime
    ) -> list[tuple[int, Stored]]:
        """What passes of a message that was given this verdict: facts and dead letters, with their places in it."""
        if verdict is False:
            return []
        if isinstance(verdict, tuple):
            return decode_kept(subject, raw, body, seq, stored_at, verdict)
        found = [(item.index, item) for item in decode_message(subject, raw, body, seq, stored_at)]
        if verdict:
            return found
        return [(index, item) for index, item in found if not isinstance(item, StoredFact) or self.accepts(item)]


def decode_kept(
    subject: str, raw: bytes | None, body: bytes, seq: int, stored_at: datetime, kept: Sequence[int]
) -> list[tuple[int, Stored]]:
    """The entries of a frame at the places `kept`, with these places: as decoding all of it would give them."""
    less = _without_others(raw, body, kept)
    if less is None:
        everything = decode_message(subject, raw, body, seq, stored_at)
        wanted = frozenset(kept)
        return [(item.index, item) for item in everything if item.index in wanted]
    found: list[tuple[int, Stored]] = []
    for index, item in zip(kept, decode_message(subject, *less, seq, stored_at), strict=False):
        if isinstance(item, StoredFact):
            event_id = f"{item.event_id.rpartition('/')[0]}/{index}"
            found.append((index, msgspec.structs.replace(item, index=index, event_id=event_id)))
        elif isinstance(item, Poison):
            found.append((index, msgspec.structs.replace(item, index=index)))
    return found


def _without_others(raw: bytes | None, body: bytes, kept: Sequence[int]) -> tuple[bytes, bytes] | None:
    """Headers and body of the frame that has only these entries; None where that is not easily made."""
    if raw is None:
        return None
    compressed = raw.count(_ZSTD_TYPE) == 1
    if not compressed and raw.count(_FRAME_TYPE) != 1:
        return None
    version, base_us, entries = _decode_frame(frames.decoded(body, compressed=compressed))
    less = msgspec.msgpack.encode((version, base_us, [entries[index] for index in kept]))
    return raw.replace(_ZSTD_TYPE, _FRAME_TYPE), less


_FRAME_TYPE: Final = codec.FRAME_TYPE.encode()
_ZSTD_TYPE: Final = codec.FRAME_ZSTD_TYPE.encode()
_decode_frame = msgspec.msgpack.Decoder(tuple[int, int, list[tuple[int, msgspec.Raw]]]).decode


def _token(place: Place) -> int:
    if place.path[0] == "detail":
        number = place.path[1]
        assert isinstance(number, int)
        return _DETAIL + number
    return _TOKEN[str(place.path[0])]


# --- headers -----------------------------------------------------------------------------


def _line(*names: str) -> re.Pattern[bytes]:
    """The lines of these names; whatever is not written plainly is left to the careful reader."""
    return re.compile(rb"\r\n(?i:%b):[ \t]*([^\r\n]*)(?=\r\n)" % b"|".join(name.lower().encode() for name in names))


_PLAIN = re.compile(rb"[!#$&-~]+")
_LINES: Final = {
    "type": _line(headers.TYPE),
    "schema": _line(headers.SCHEMA),
    "event_id": _line(headers.ID),
    "correlation_id": _line(headers.CORRELATION),
    "causation_id": _line(headers.CAUSATION),
    "media": _line(headers.CONTENT_TYPE, headers.PLAIN_CONTENT_TYPE),
}


def _scan(name: str, raw: bytes) -> Any:
    """The value of the one plainly written line; None: there is none; UNKNOWN: it takes a closer look."""
    found = _LINES[name].findall(raw)
    if not found:
        return None
    return found[0].decode() if len(found) == 1 and _PLAIN.fullmatch(found[0]) else UNKNOWN


def _media(raw: bytes | None, tokens: list[str]) -> codec.Media:
    if not raw:
        return "json"
    given = _scan("media", raw)
    if given is None:
        return "json"
    return _careful(raw, tokens).media if given is UNKNOWN else codec.media_of(given)


def _attribute(name: str, raw: bytes | None, tokens: list[str], seq: int, stored_at: datetime | None) -> Any:
    """An attribute as the decoder gives it; raises what the decoder would."""
    value: Any = None
    if raw:
        value = _scan(name, raw) if name in _LINES else UNKNOWN
        if value is UNKNOWN:
            value = getattr(_careful(raw, tokens), name)
        elif name == "schema" and value is not None:
            value = attributes.schema_version(value)
    if value is not None:
        return value
    if name == "type":
        return default_type(tokens[_TOKEN["kind"]], tokens[_TOKEN["event"]])
    if name == "event_id":
        return f"events-{seq}"
    return 1 if name == "schema" else stored_at if name == "occurred_at" else MISSING


def _careful(raw: bytes, tokens: list[str]) -> attributes.Attributes:
    return attributes.read(raw, tokens[3], tokens[_TOKEN["agent"]])


# --- bodies ------------------------------------------------------------------------------


class _Probe:
    """Decodes the members of a body that a condition names, and skips the others."""

    def __init__(self, wanted: list[tuple[int, Place]]) -> None:
        tree: dict[str, Any] = {}
        self._slots: list[tuple[int, Callable[[Any], Any]]] = []
        ways = [tuple(str(part) for part in place.path) for _, place in wanted]
        for way in ways:
            # Where a member is wanted and members of it too, it is built whole.
            whole = next((way[:n] for n in range(1, len(way)) if way[:n] in ways), way)
            node = tree
            for name in whole[:-1]:
                node = node.setdefault(name, {})
            node[whole[-1]] = None
        names: dict[tuple[str, ...], str] = {}
        probe = _struct(tree, (), names)
        self._from_json: Callable[[Any], Any] = msgspec.json.Decoder(probe).decode
        self._from_msgpack: Callable[[Any], Any] = msgspec.msgpack.Decoder(probe).decode
        self._paths = [(slot, place.path) for slot, place in wanted]
        for (slot, _), way in zip(wanted, ways, strict=True):
            whole = next((way[:n] for n in range(1, len(way)) if way[:n] in ways), way)
            self._slots.append((slot, _getter([names[whole[: n + 1]] for n in range(len(whole))], way[len(whole) :])))

    def fill(self, values: list[Any], body: bytes | msgspec.Raw, *, json: bool) -> None:
        """Put the values of a body into their slots; raises what decoding raises."""
        if not body:
            for slot, _ in self._slots:
                values[slot] = MISSING
            return
        try:
            probe = (self._from_json if json else self._from_msgpack)(body)
        except msgspec.ValidationError:
            # No map, or a map where something else stands: rare enough to build all of it.
            data = codec.decode_json(bytes(body)) if json else codec.decode_msgpack(bytes(body))
            for slot, path in self._paths:
                values[slot] = follow(data, path)
            return
        for slot, get in self._slots:
            values[slot] = get(probe)


def _struct(tree: dict[str, Any], path: tuple[str, ...], names: dict[tuple[str, ...], str]) -> type:
    fields: list[tuple[str, Any, Any]] = []
    rename = {}
    for number, (name, below) in enumerate(tree.items()):
        field = f"f{number}"
        names[*path, name] = field
        rename[field] = name
        kind: Any = Any if below is None else _struct(below, (*path, name), names)
        fields.append((field, kind, msgspec.UNSET))
    return msgspec.defstruct("Probe", fields, rename=rename, gc=False)


def _getter(fields: list[str], rest: Sequence[str]) -> Callable[[Any], Any]:
    first = fields[0]
    if len(fields) == 1 and not rest:

        def one(probe: Any) -> Any:
            value = getattr(probe, first)
            return MISSING if value is msgspec.UNSET else value

        return one

    def get(probe: Any) -> Any:
        for field in fields:
            probe = getattr(probe, field)
            if probe is msgspec.UNSET:
                return MISSING
        return follow(probe, rest)

    return get


__all__ = ["Sieve", "Truth", "Verdict", "decode_kept"]
