"""What the decoder passes on, PostgreSQL stores: jsonb, text and timestamptz take every value."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest

from coord.errors import WireError
from coord.wire import codec
from coord.wire.envelope import parse_time

if TYPE_CHECKING:
    import random

EDGES = [
    b"1e308",
    b"-1.7976931348623157e308",
    b"5e-324",
    b"1e-400",
    b"0e400",
    b"0.0e-400",
    b"-0",
    b"-0.0",
    b"9" * 1000,
    b"0." + b"9" * 1000,
    b"9" * 300 + b"." + b"9" * 1000,
    b"0." + b"9" * 1000 + b"e-400",
    b'"\\u0001\\u001f\\u007f\\u0085\\ufffe\\uffff\\ud83d\\ude00"',
    rb'"\\u0000"',
    '"\x7f\x85\u2028\ufeff\ufffe\U0010ffff"'.encode(),
    b'{"":1,"a":{"a":1,"a":2}}',
    b"[" * 64 + b"]" * 64,
    b'"' + b"x" * 1_000_000 + b'"',
    b"[" + b"1," * 100_000 + b"1]",
    b" \t\r\n{} \n",
]

REFUSED_BY_BOTH = [b"1e-20000", b"0e9999999999", b'"\\u0000"', b'"\\ud800"', b'"\xff"', b"NaN", b"\xef\xbb\xbf1", b""]


def random_json(rng: random.Random, depth: int = 0) -> str:
    """JSON text, valid or nearly, in spellings that an encoder would never choose."""
    choice = rng.randrange(9 if depth < 4 else 6)
    if choice == 0:
        return rng.choice(["null", "true", "false", "nul", "-", "01", "+1", ".5", "1."])
    if choice in (1, 2):
        digits = "".join(rng.choices("0123456789", k=rng.choice([1, 3, 20, 400, 1001])))
        fraction = rng.choice(["", "", ".0", "." + "".join(rng.choices("0123456789", k=rng.choice([1, 30, 999])))])
        exponent = rng.choice(["", "", "", "e5", "E+05", "e-7", f"e{rng.randrange(-20000, 20000)}"])
        return rng.choice(["", "-"]) + (digits.lstrip("0") or "0") + fraction + exponent
    if choice in (3, 4, 5):
        escapes = ["\\n", "\\u00e4", "\\\\", '\\"', "\\/", "\\u0000", "\\ud83d\\ude00", "\\ud800", "\\u0001", "\\b"]
        plain = ["ä", "€", "😀", "e-999", "0e9", "\x7f", "\u2028", "{", "]", "x"]
        return '"' + "".join(rng.choices(escapes + plain * 3, k=rng.randrange(6))) + '"'
    items = [random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    if choice in (6, 7):
        return "[" + ",".join(items) + "]"
    return "{" + ", ".join(f'"k{rng.randrange(3)}": {item}' for item in items) + "}"


@pytest.fixture
async def pg(bare_database):
    connection = await asyncpg.connect(bare_database.url)
    yield connection
    await connection.close()


async def takes(pg: asyncpg.Connection[Any], text: str) -> bool:
    try:
        await pg.fetchval("SELECT $1::text::jsonb", text)
    except asyncpg.DataError:
        return False
    return True


async def test_what_is_passed_on_is_stored(pg, rng):
    bodies = EDGES + [random_json(rng).encode() for _ in range(1500)]
    passed = 0
    for body in bodies:
        try:
            codec.decode_json(body)
        except WireError:
            assert body not in EDGES, body[:60]
            continue
        passed += 1
        assert await takes(pg, body.decode()), body[:200]
    assert 300 < passed < len(bodies)
    for body in REFUSED_BY_BOTH:
        with pytest.raises(WireError):
            codec.decode_json(body)


async def test_what_comes_from_msgpack_is_stored(pg, rng):
    def value(depth: int = 0) -> Any:
        match rng.randrange(9 if depth < 4 else 7):
            case 0:
                return rng.choice([None, True, False])
            case 1:
                return rng.choice([0, -1, 2**64 - 1, -(2**63), rng.getrandbits(40)])
            case 2:
                return rng.choice([1.5, 5e-324, -1.7976931348623157e308, float("nan"), float("inf"), rng.random()])
            case 3:
                return rng.randbytes(rng.randrange(10))
            case 4:
                return datetime.fromtimestamp(rng.randrange(-(10**10), 10**11), UTC)
            case 5 | 6:
                return "".join(
                    rng.choices(["a", "ä", "\x00", "\x01", "\\", '"', "\ufffe", "😀"], [9, 9, 1, 9, 9, 9, 9, 9], k=3)
                )
            case 7:
                return [value(depth + 1) for _ in range(rng.randrange(4))]
            case _:
                return {rng.choice(["a", "b", "", "ä", 1]): value(depth + 1) for _ in range(rng.randrange(3))}

    passed = 0
    for _ in range(800):
        try:
            text = codec.json_text(codec.decode_msgpack(msgspec.msgpack.encode(value())))
        except WireError:
            continue
        passed += 1
        assert await takes(pg, text), text
        # …and it is JSON that our own reader of JSON takes.
        codec.decode_json(text.encode())
    assert 100 < passed < 800


async def test_every_time_is_stored(pg):
    for text in ("0001-01-02T00:00:00Z", "1901-02-03T04:05:06-07:00", "9999-12-30T23:59:59.999999Z"):
        moment = parse_time(text)
        assert await pg.fetchval("SELECT $1::timestamptz", moment) == moment
        assert await pg.fetchval("SELECT isfinite($1::timestamptz)", moment)
    # Why the calendar ends a day early: asyncpg takes its very ends for infinities.
    assert not await pg.fetchval("SELECT isfinite($1::timestamptz)", datetime(1, 1, 1, tzinfo=UTC))


async def test_numbers_keep_their_digits(pg):
    """The text goes to jsonb as it came: decimals are not rounded to doubles on the way."""
    body = b'{"price":12345678901234567890.123456789012345678901}'
    codec.decode_json(body)
    stored = await pg.fetchval("SELECT ($1::text::jsonb ->> 'price')", body.decode())
    assert stored == "12345678901234567890.123456789012345678901"
    assert json.loads(body)["price"] == pytest.approx(1.2345678901234567e19)
