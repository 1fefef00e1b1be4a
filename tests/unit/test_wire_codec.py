"""Bodies: jsonb-safe JSON, MessagePack with a JSON form, bounds that hold against the hostile."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from coord import limits
from coord.errors import InvalidPayload, PayloadTooDeep, PayloadTooLarge, WireError
from coord.wire import codec

DEPTH = limits.NESTING_MAX


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"null", None),
        (b' [1, 2.5, true, "x"] \n', [1, 2.5, True, "x"]),
        (b'{"a":1,"a":2}', {"a": 2}),
        (rb'"\\u0000"', r"\u0000"),
        (rb'"\\\\u0000"', r"\\u0000"),
        (rb'"\ud83d\ude00 \u00e4"', "😀 ä"),
        (b"1e308", 1e308),
        (b"1e-400", 0.0),
        (b"5e-324", 5e-324),
        (b"0e400", 0.0),
        (b"12345678901234567890123", 12345678901234567890123),
        (b'"1e-99999 ' + b"7" * 2000 + b'"', "1e-99999 " + "7" * 2000),
        (rb'["\"", "e-9999", "\\"]', ['"', "e-9999", "\\"]),
        (b"[" * DEPTH + b"]" * DEPTH, None),
        (b"[" + b"{}," * 5000 + b"{}]", None),
        (b'"' + b"[" * 500 + b'"', "[" * 500),
    ],
)
def test_json_that_jsonb_takes(body, value):
    decoded = codec.decode_json(body)
    assert value is None or decoded == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b"'a'",
        b'{"a":1,}',
        b"[1]]",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b'"\\u0000"',
        rb'{"\u0000":1}',
        rb'"\\\u0000"',
        b'"\x00"',
        b'"\n"',
        b'"\xff"',
        b'"\\ud800x"',
        b'"\\ude00"',
        b"\xfe\xff\x00[",
        b"1e-401",
        b"[1E-0000000000000000000000401]",
        b"0e401",
        b"0.0E99999999999999999999",
        b"1" * 1001,
        b"[0." + b"3" * 1001 + b"]",
        b"1e" + b"0" * 1001 + b"1",
    ],
)
def test_json_that_jsonb_would_not_take(body):
    with pytest.raises(InvalidPayload):
        codec.decode_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1),
        b'{"a":' * (DEPTH + 1) + b"1" + b"}" * (DEPTH + 1),
        b"[[1],[2]," + b"[" * DEPTH + b"]" * DEPTH + b"]",
        b"[" * 1_000_000 + b"]" * 1_000_000,
        b'{"a":[' * 200_000,
    ],
    ids=lambda b: f"{len(b)} bytes",
)
def test_deep_json(body):
    with pytest.raises(PayloadTooDeep):
        codec.decode_json(body)


def test_hostile_bodies_cost_little():
    """The worst bodies found by hand take some twenty times as long as a usual one of the same size."""
    nest = b"[" + b",".join([b"[" * 63 + b"]" * 63] * 7_000) + b"]"
    digits = b"[" + b",".join([b"1" * 1000] * 900) + b"]"
    bodies = [nest, digits, b'["' + rb"\"" * 400_000 + b'"]', b"[" + b"1e-1," * 150_000 + b"1]", b"[" * 900_000]
    usual = b"[" + b",".join([b'{"a":"some text here","n":12345,"x":[1,2,3],"t":null}'] * 17_000) + b"]"

    def cpu_s(body: bytes) -> float:
        started = time.process_time()
        with contextlib.suppress(WireError):
            codec.decode_json(body)
        return time.process_time() - started

    for body in bodies:
        # What else runs on the machine makes it slower from one moment to the next.
        assert any(cpu_s(body) < 75 * cpu_s(usual) for _ in range(5)), body[:20]


def test_msgpack_types():
    at = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    value = {"b": b"\x00\xff", "at": at, "n": [2**64 - 1, -(2**63), 1.5, None, False], "ä": "€"}
    body = msgspec.msgpack.encode(value)
    assert codec.decode_msgpack(body) == value
    text = codec.json_text(value)
    assert msgspec.json.decode(text) == {
        "b": base64.b64encode(b"\x00\xff").decode(),
        "at": "2026-01-02T03:04:05.678000Z",
        "n": [2**64 - 1, -(2**63), 1.5, None, False],
        "ä": "€",
    }
    assert codec.decode_json(text.encode()) is not None


@pytest.mark.parametrize(
    "value",
    [
        {1: 2},
        {None: 1},
        {b"a": 1},
        [{"a": {True: 1}}],
        float("nan"),
        [1, [float("inf")]],
        {"a": float("-inf")},
        msgspec.msgpack.Ext(5, b"x"),
        {"a": [msgspec.msgpack.Ext(5, b"x")]},
        "\x00",
        {"a\x00": 1},
    ],
    ids=lambda v: repr(v).partition(" at 0x")[0],
)
def test_msgpack_without_a_json_form(value):
    body = msgspec.msgpack.encode(value)
    with pytest.raises(InvalidPayload):
        codec.json_text(codec.decode_msgpack(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x01\x02",
        b"\xa1\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
        b"\xd7\xff" + b"\xff" * 8,
        b"\xc7\x0c\xff" + b"\x00" * 4 + b"\x7f" + b"\xff" * 7,
    ],
)
def test_what_is_no_msgpack(body):
    with pytest.raises(InvalidPayload):
        codec.json_text(codec.decode_msgpack(body))


@pytest.mark.parametrize("prefix", [b"\x91", b"\x81\xa1a"])
def test_deep_msgpack(prefix):
    assert codec.json_text(codec.decode_msgpack(prefix * DEPTH + b"\xc0"))
    for depth in (DEPTH + 1, 300, 100_000):
        with pytest.raises(PayloadTooDeep):
            codec.json_text(codec.decode_msgpack(prefix * depth + b"\xc0"))


class Point(msgspec.Struct):
    x: int
    at: datetime
    raw: bytes = b""


@dataclasses.dataclass
class Line:
    length: float
    name: str | None = None


class Model:
    """Looks like a pydantic model; tests with the real one are in test_wire_facts.py."""

    def model_dump(self, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return {"kind": "model"}


@pytest.mark.parametrize("content", ["json", "msgpack"])
@pytest.mark.parametrize(
    ("value", "builtins"),
    [
        (Point(1, datetime(2026, 1, 1, tzinfo=UTC)), {"x": 1, "at": "2026-01-01T00:00:00Z", "raw": ""}),
        (Line(1.5), {"length": 1.5, "name": None}),
        (Model(), {"kind": "model"}),
        ([Model(), None], [{"kind": "model"}, None]),
        ("text", "text"),
        (7, 7),
        ((1, 2), [1, 2]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_payload_types(value, builtins, content):
    body = codec.encode(value, content)
    text = body.decode() if content == "json" else codec.json_text(codec.decode_msgpack(body))
    assert msgspec.json.decode(text) == builtins


@pytest.mark.parametrize("content", ["json", "msgpack"])
def test_decoding_into_types(content):
    point = Point(1, datetime(2026, 1, 1, tzinfo=UTC), b"\x00\x01")
    body = codec.encode(point, content)
    text = body.decode() if content == "json" else codec.json_text(codec.decode_msgpack(body))
    assert codec.decode_as(body, content, text, Point) == point
    assert codec.decode_as(codec.encode(Line(2.0), content), content, text, Line) == Line(2.0)
    assert codec.decode_as(b"", content, "null", type(None)) is None
    with pytest.raises(InvalidPayload):
        codec.decode_as(body, content, text, Line)
    with pytest.raises(InvalidPayload):
        codec.decode_as(b"", content, "null", Point)


@pytest.mark.parametrize("content", ["json", "msgpack"])
@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"a": [float("inf")]},
        [None, float("nan")],
        Line(float("nan")),
        "\x00",
        "\ud800",
        object(),
        {"f": print},
        10**1000,
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_readers_would_refuse_is_not_sent(value, content):
    with pytest.raises(InvalidPayload):
        codec.encode(value, content)


def test_none_stays_none():
    assert codec.encode(None) == b"null"
    assert codec.encode({"a": None}) == b'{"a":null}'
    assert codec.encode("null") == b'"null"'


def test_too_large_and_too_deep_are_not_sent():
    with pytest.raises(PayloadTooLarge):
        codec.encode("x" * limits.EVENT_BYTES_MAX)
    deep: Any = None
    for _ in range(DEPTH + 1):
        deep = [deep]
    with pytest.raises(PayloadTooDeep):
        codec.encode(deep)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidPayload):
        codec.encode(endless)


@pytest.mark.parametrize(
    ("text", "media"),
    [
        ("application/json", "json"),
        ("Application/JSON", "json"),
        ("application/json;charset=utf-8", "json"),
        ('application/json; charset="UTF-8"', "json"),
        ("text/json", "json"),
        ("application/problem+json", "json"),
        ("application/msgpack", "msgpack"),
        ("application/x-msgpack", "msgpack"),
        ("application/vnd.coord.frame+msgpack", "frame"),
        ("application/vnd.coord.frame+msgpack+zstd", "frame+zstd"),
    ],
)
def test_content_types(text, media):
    assert codec.media_of(text) == media


@pytest.mark.parametrize(
    "text",
    ["", "json", "text/plain", "application/json; charset=iso-8859-1", "application/cloudevents+json", "*/*"],
)
def test_content_types_that_are_not_read(text):
    with pytest.raises(InvalidPayload):
        codec.media_of(text)


def test_tuples_travel_as_lists_with_nulls_too() -> None:
    assert codec.encode({"done": [(1, 2)], "error": None}) == b'{"done":[[1,2]],"error":null}'
    with pytest.raises(InvalidPayload):
        codec.encode({"done": [(1, float("nan"))], "error": None})
