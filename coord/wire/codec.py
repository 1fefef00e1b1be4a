"""Bodies: JSON and MessagePack in and out, and the bounds that make them safe to hand on.

A body that passes here can be stored as PostgreSQL jsonb: no NUL character, no lone
surrogate, no NaN, no number that `numeric` cannot hold, no nesting beyond
`limits.NESTING_MAX`.  The checks are made by cheap scans that only look closer where a
body is suspicious; a usual body costs little more than its decoding.

MessagePack has more types than JSON.  Binary becomes base64 text and timestamps become
RFC 3339 text when a body is turned into JSON; other extension types, keys that are not
strings, NaN and infinities are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any, Final, Literal

import msgspec

from coord import limits
from coord.errors import InvalidPayload, PayloadTooDeep, PayloadTooLarge, WireError

Content = Literal["json", "msgpack"]
Media = Literal["json", "msgpack", "frame", "frame+zstd"]

JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"
FRAME_TYPE: Final = "application/vnd.coord.frame+msgpack"
FRAME_ZSTD_TYPE: Final = "application/vnd.coord.frame+msgpack+zstd"
STRUCTURED_TYPE: Final = "application/cloudevents"

MEDIA_TYPES: Final[dict[Media, str]] = {
    "json": JSON_TYPE,
    "msgpack": MSGPACK_TYPE,
    "frame": FRAME_TYPE,
    "frame+zstd": FRAME_ZSTD_TYPE,
}
_MEDIA: Final[dict[str, Media]] = {
    **{text: media for media, text in MEDIA_TYPES.items()},
    "application/x-msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
    "text/json": "json",
}


def media_of(content_type: str) -> Media:
    """What a content type says about a body; `InvalidPayload` for one that coord does not read.

    Parameters are ignored, except a charset that is not UTF-8.  ``…+json`` is JSON.
    """
    media = _MEDIA.get(content_type)
    if media is not None:
        return media
    essence, _, parameters = content_type.partition(";")
    essence = essence.strip().lower()
    charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise InvalidPayload("text must be UTF-8", content_type=content_type[:128])
    media = _MEDIA.get(essence)
    if media is not None:
        return media
    if essence.startswith(STRUCTURED_TYPE):
        raise InvalidPayload(
            "structured-mode CloudEvents are not read; send the attributes as ce- headers (binary mode)",
            content_type=content_type[:128],
        )
    if essence.endswith("+json"):
        return "json"
    raise InvalidPayload("not a content type that coord reads", content_type=content_type[:128])


# --- decoding ----------------------------------------------------------------------------

_json_decode = msgspec.json.Decoder().decode
_json_encode = msgspec.json.Encoder().encode
_json_encode_lines = msgspec.json.Encoder().encode_lines
_msgpack_decode = msgspec.msgpack.Decoder().decode
_msgpack_encode = msgspec.msgpack.Encoder().encode

NUMBER_DIGITS_MAX: Final = 1_000
"""Digits in a row.  PostgreSQL's numeric takes 16,383 after the point; nobody means this many."""

NUMBER_EXPONENT_MAX: Final = 400
"""Absolute decimal exponent.  A double ends at 308; numeric refuses far beyond."""

_DIGIT_MAP: Final = bytes(ord("0") if b in b"0123456789" else ord(" ") for b in range(256))
_DIGIT_RUN: Final = b"0" * (NUMBER_DIGITS_MAX + 1)
_EXPONENT = re.compile(rb"[eE][-+]?([0-9]{3,})")


def decode_json(body: bytes) -> Any:
    """The value of a JSON body that jsonb will accept; raises `InvalidPayload` or `PayloadTooDeep`."""
    return read_json(body)[0]


def read_json(body: bytes) -> tuple[Any, str]:
    """Value and text of a JSON body that jsonb will accept; raises like `decode_json`."""
    try:
        value = _json_decode(body)
    except RecursionError as exc:
        raise PayloadTooDeep(depth_max=limits.NESTING_MAX) from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise InvalidPayload(f"not JSON: {exc}") from exc
    text = body.decode()
    if not _is_plain(body):
        _check_for_jsonb(body, value)
    return value, text


def read_json_text(body: bytes) -> str:
    """The text alone, for a third of the time: no value is built where its text shows that it could be."""
    try:
        _skim(body)
        text = body.decode()
    except Exception:  # noqa: BLE001 - whatever it is, the thorough look says it
        return read_json(body)[1]
    return text if _is_plain(body) else read_json(body)[1]


def _is_plain(body: bytes) -> bool:
    """Whether valid JSON holds nothing that PostgreSQL, or a double, might not take.

    Nearly everything is, and looks for a few characters say so; what is not plain may still be fine.
    """
    shape = body.translate(_SHAPE, _SIGNS).decode("latin-1")  # a text is searched faster than bytes
    return not (
        "\\" in shape
        # Ids written in hexadecimal have many such a run, but a number ends in another way than they do.
        or ("0e000" in shape and _LONG_EXPONENT.search(shape))
        or (len(body) > _BYTES_OF_DEPTH and (shape.count("[") > limits.NESTING_MAX or _MANY_DIGITS in shape))
    )


_skim: Final = msgspec.json.Decoder(msgspec.Raw).decode
"""Follows the grammar to the end of the text and builds nothing; it knows no range of numbers, and no UTF-8."""

_SIGNS: Final = b"+-"

_SHAPE: Final = bytes.maketrans(b"0123456789E{ \t\r\n]}", b"0" * 10 + b"e[" + b"," * 6)
"""Digits are one, exponents, openings of whatever, and what may follow a number."""

_LONG_EXPONENT: Final = re.compile(r"0e000+(?:,|\Z)")
"""What is shorter is within `NUMBER_EXPONENT_MAX`."""

_MANY_DIGITS: Final = "0" * 200
"""A number of fewer, with an exponent of two digits, is a double."""

_BYTES_OF_DEPTH: Final = 2 * limits.NESTING_MAX
"""What nesting beyond the limit takes at least: an opening and a closing bracket a level."""

assert len(_MANY_DIGITS) > _BYTES_OF_DEPTH


def _check_for_jsonb(body: bytes, value: Any) -> None:
    """Refuse valid JSON that PostgreSQL does not take: the exact checks."""
    if b"\\" in body and _has_nul(body):
        raise _nul()
    if body.count(b"[") + body.count(b"{") > limits.NESTING_MAX:
        _check_depth(value)
    # Positive exponents beyond a double were refused by the decoder, except on a zero.
    if b"e-" in body or b"0e" in body or (b"E" in body and (b"E-" in body or b"0E" in body)):
        _check_exponents(body)
    if len(body) > NUMBER_DIGITS_MAX and _DIGIT_RUN in body.translate(_DIGIT_MAP):
        _check_digits(body)


def decode_msgpack(body: bytes) -> Any:
    """The value of a MessagePack body; raises `InvalidPayload` or `PayloadTooDeep`.

    Whether it has a JSON form is `json_text`'s business.
    """
    try:
        return _msgpack_decode(body)
    except RecursionError as exc:
        raise PayloadTooDeep(depth_max=limits.NESTING_MAX) from exc
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, OverflowError) as exc:
        raise InvalidPayload(f"not MessagePack: {exc}") from exc


def json_text(value: Any) -> str:
    """The JSON text, fit for jsonb, of a value decoded from MessagePack."""
    check_tree(value)
    try:
        text = _json_encode(value)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise InvalidPayload(f"no JSON form: {exc}") from exc
    if b"\\" in text and _has_nul(text):
        raise _nul()
    return text.decode()


def json_texts(values: list[Any]) -> list[str]:
    """`json_text` of many at once; raises what it raises for any of them."""
    if not _all_flat(values):
        for value in values:
            check_tree(value)
    try:
        lines = _json_encode_lines(values)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise InvalidPayload(f"no JSON form: {exc}") from exc
    if b"\\" in lines and _has_nul(lines):
        raise _nul()
    # A line's own line ends are escaped; behind the last one stands nothing.
    return lines.decode().split("\n")[:-1]


def _all_flat(values: list[Any]) -> bool:
    """Whether all are maps from strings to what JSON has, without a map, an array or a float in them."""
    return (
        _MAPS.issuperset(map(type, values))
        and _KEYS.issuperset(map(type, chain.from_iterable(values)))
        and _PLAIN.issuperset(map(type, chain.from_iterable(map(dict.values, values))))
    )


_PLAIN: Final = frozenset({str, int, bool, type(None), bytes, datetime})
_KEYS: Final = frozenset({str})
_MAPS: Final = frozenset({dict})


def check_tree(value: Any) -> None:
    """Refuse what JSON cannot carry: other keys than strings, NaN, extension types, depth."""
    if type(value) is dict and _KEYS.issuperset(map(type, value)) and _PLAIN.issuperset(map(type, value.values())):
        return  # the usual flat map
    level: list[Any] = [[value]]
    for _ in range(limits.NESTING_MAX + 1):
        below: list[Any] = []
        for container in level:
            items = container
            if type(container) is dict:
                if not _KEYS.issuperset(map(type, container)):
                    raise InvalidPayload("a map key is not a string")
                items = container.values()
            if not _PLAIN.issuperset(map(type, items)):
                for item in items:
                    kind = type(item)
                    if kind is dict or kind is list or kind is tuple:  # a tuple of the sender's is written as a list
                        below.append(item)
                    elif kind is float:
                        if not math.isfinite(item):
                            raise InvalidPayload("NaN and infinities have no JSON form")
                    elif kind not in _PLAIN:
                        raise InvalidPayload("an extension type has no JSON form")
        if not below:
            return
        level = below
    raise PayloadTooDeep(depth_max=limits.NESTING_MAX)


def _check_depth(value: Any) -> None:
    """Level by level, containers only; `PayloadTooDeep` beyond the limit."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(limits.NESTING_MAX):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) in _CONTAINERS
        ]
        if not level:
            return
    raise PayloadTooDeep(depth_max=limits.NESTING_MAX)


_CONTAINERS: Final = frozenset({dict, list})


def _has_nul(text: bytes) -> bool:
    """Whether valid JSON contains an escaped U+0000 (and not an escaped backslash before u0000)."""
    return b"\\u0000" in text and b"\\u0000" in text.replace(b"\\\\", b"")


def _nul() -> InvalidPayload:
    return InvalidPayload("the body contains the character U+0000, which no text column takes")


def reencode(value: Any) -> tuple[bytes, Content, str]:
    """(body, content, JSON text) of one value taken out of a frame."""
    if value is None:
        return b"", "msgpack", "null"
    text = json_text(value)
    if len(text) > limits.EVENT_BYTES_MAX:
        raise PayloadTooLarge(bytes=len(text), bytes_max=limits.EVENT_BYTES_MAX)
    return _msgpack_encode(value), "msgpack", text


def encode_again(value: Any) -> bytes:
    """MessagePack of anything that was decoded from MessagePack; for dead letters."""
    return _msgpack_encode(value)


def check_value(value: float) -> None:
    """Refuse a sample's value that is not a finite number; raises `InvalidPayload`."""
    if type(value) not in (int, float):
        raise InvalidPayload("the value of a sample is a number", found=type(value).__name__)
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise InvalidPayload("the value of a sample is a finite double")


def _outside_strings(body: bytes) -> bytes:
    """A JSON text without its strings' contents (exact for valid JSON)."""
    return b'"'.join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])


def _check_exponents(body: bytes) -> None:
    for found in _EXPONENT.finditer(_outside_strings(body)):
        digits = found[1].lstrip(b"0")
        if len(digits) > 3 or int(digits or b"0") > NUMBER_EXPONENT_MAX:
            raise InvalidPayload("a number's exponent is too large", exponent_max=NUMBER_EXPONENT_MAX)


def _check_digits(body: bytes) -> None:
    if _DIGIT_RUN in _outside_strings(body).translate(_DIGIT_MAP):
        raise InvalidPayload("a number has too many digits", digits_max=NUMBER_DIGITS_MAX)


# --- encoding ----------------------------------------------------------------------------


def _dump_foreign(value: Any) -> Any:
    """What msgspec does not know: pydantic models, recognised by their method, never imported."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    if isinstance(value, msgspec.Raw):  # only `to_builtins` asks: the encoders write it as it is
        return msgspec.json.decode(value)
    raise NotImplementedError(f"objects of type {type(value).__name__} cannot be sent")


_json_encode_any = msgspec.json.Encoder(enc_hook=_dump_foreign).encode
_msgpack_encode_any = msgspec.msgpack.Encoder(enc_hook=_dump_foreign).encode

_ENCODE_ERRORS: Final = (
    msgspec.MsgspecError,
    TypeError,
    ValueError,  # UnicodeEncodeError: a lone surrogate
    OverflowError,
    RecursionError,
    NotImplementedError,
)


def to_builtins(value: Any) -> Any:
    """A payload (struct, dataclass, pydantic model, dict, …) as dicts, lists and scalars."""
    try:
        return msgspec.to_builtins(value, enc_hook=_dump_foreign, str_keys=True)
    except _ENCODE_ERRORS as exc:
        raise InvalidPayload(f"cannot be sent: {exc}") from exc


_SCALARS: Final = frozenset({int, float, bool, type(None)})
_SCALAR_BYTES: Final = 24
"""What a double takes at most; integers may be longer, and of too many digits."""


def encode(value: Any, content: Content = "json", *, bytes_max: int = limits.EVENT_BYTES_MAX) -> bytes:
    """A payload's bytes, checked as a reader would check them.

    Raises `InvalidPayload`, `PayloadTooDeep` or `PayloadTooLarge` on the sender's side,
    where there is still somebody to tell.
    """
    try:
        body = _json_encode_any(value) if content == "json" else _msgpack_encode_any(value)
    except _ENCODE_ERRORS as exc:
        raise InvalidPayload(f"cannot be sent: {exc}") from exc
    if len(body) > bytes_max:
        raise PayloadTooLarge(bytes=len(body), bytes_max=bytes_max)
    if content == "msgpack":
        json_text(decode_msgpack(body))
        return body
    if type(value) in _SCALARS and len(body) <= _SCALAR_BYTES and (value is None or body != b"null"):
        return body  # a double, no NaN, or what is as short: nothing that is looked for can be in it
    read_json_text(body)
    # The encoder writes NaN as null: only a body with a null can hide one.
    if b"null" in body and not isinstance(value, (str, type(None))):
        check_tree(to_builtins(value))
    return body


@lru_cache(maxsize=1024)
def _reads_json(to: type) -> Callable[[str], Any] | None:
    """How a pydantic model is read; None: it is none.  To be told that a class has no such name costs an exception."""
    return getattr(to, "model_validate_json", None)


def decode_as(body: bytes, content: Content, text: str | None, to: Any) -> Any:
    """A body as type `to`: a msgspec struct, dataclass or any type msgspec knows, or a pydantic model.

    `text` is the body's JSON; None: the body is JSON.  Raises `InvalidPayload` when the body is not of that type.
    """
    try:
        validate = _reads_json(to) if isinstance(to, type) else getattr(to, "model_validate_json", None)
        if validate is not None:
            return validate((body or b"null").decode() if text is None else text)
        if content == "json":
            return msgspec.json.decode(body or b"null", type=to)
        return msgspec.msgpack.decode(body or b"\xc0", type=to)
    except WireError:
        raise
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as exc:
        raise InvalidPayload(f"not a {getattr(to, '__name__', to)}: {exc}") from exc


def convert(value: Any, to: Any) -> Any:
    """A decoded value (builtin types) as type `to`; raises `InvalidPayload`."""
    try:
        validate = getattr(to, "model_validate", None)
        return validate(value) if validate is not None else msgspec.convert(value, to)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as exc:
        raise InvalidPayload(f"not a {getattr(to, '__name__', to)}: {exc}") from exc
