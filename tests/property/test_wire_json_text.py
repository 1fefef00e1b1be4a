"""A body read for its text alone is taken, or refused, exactly as one whose value is built."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coord import limits
from coord.errors import CoordError
from coord.wire import codec
from tests.property.test_wire_fuzz import mutate

_ALPHABET = '{}[]",:01e-+.a\\ tn\x00\x7fE'


def thorough(body: bytes) -> str:
    """The text, or why not, by building the value and looking at everything exactly, plain or not."""
    try:
        codec._check_for_jsonb(body, codec.decode_json(body))
    except CoordError as exc:
        return f"{exc.code}: {exc}"
    return body.decode()


def alone(body: bytes) -> str:
    """The text, or why not, without."""
    try:
        return codec.read_json_text(body)
    except CoordError as exc:
        return f"{exc.code}: {exc}"


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """Numbers as JSON writes them, most of them about where a double or PostgreSQL ends."""
    digits = draw(st.sampled_from([1, 2, 17, 198, 199, 200, 201, 250, 308, 309, 310, 400, 999, 1000, 1001]))
    text = draw(st.sampled_from(["", "-"])) + draw(st.sampled_from("0123456789")) * digits
    if draw(st.booleans()):
        text += "." + "7" * draw(st.sampled_from([1, 3, 200, 400]))
    if draw(st.booleans()):
        exponents = st.sampled_from(
            ["0", "5", "99", "100", "107", "108", "109", "307", "308", "309", "400", "401", "000001"]
        )
        text += draw(st.sampled_from("eE")) + draw(st.sampled_from(["", "+", "-"])) + draw(exponents)
    return text


@given(numbers(), st.sampled_from(["%s", "[%s]", '{"a":%s}', '{"a": %s }', '["x",%s,1]', '"%s"', '["e%s"]', "%s\n"]))
@example("1e999", "%s")
@example("1E309", '{"a":%s}')
@example("1e-401", '["x",%s,1]')
@example("1e+309", '{"a": %s }')
@example("0.5E-401", "%s")
@example("0e+999", "%s\n")
@example("1" * 309, "[%s]")
@example("1" * 200 + "e" + "99", "%s")
@example("1" * 250 + "e" + "59", "%s")
def test_numbers(number: str, shape: str) -> None:
    body = (shape % number).encode()
    assert alone(body) == thorough(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=6),
    max_leaves=30,
)


@given(json_values, st.integers(0, 2**32))
def test_any_value_and_what_becomes_of_it(value: object, seed: int) -> None:
    body = msgspec.json.encode(value)
    assert alone(body) == thorough(body)
    changed = mutate(body, random.Random(seed))
    assert alone(changed) == thorough(changed)


@pytest.mark.parametrize("depth", [limits.NESTING_MAX + change for change in (-1, 0, 1)] + [5_000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_depth(depth: int, left: str, right: str) -> None:
    body = (left * depth + "1" + right * depth).encode()
    assert alone(body) == thorough(body)


def test_every_short_text() -> None:
    for length in range(5):
        for chars in itertools.product(_ALPHABET, repeat=length):
            body = "".join(chars).encode()
            # The thorough look raises for nearly all of them: 200,000 reasons would take their time.
            try:
                found = codec.read_json_text(body)
            except CoordError:
                continue
            assert found == thorough(body)


@pytest.mark.parametrize("body", [b"\xff", b'"\xc3("', b'"\xed\xa0\x80"', b'"a\x01b"', b'{"a":"\xf0\x9f"}', b""])
def test_what_is_not_text_is_refused_alike(body: bytes) -> None:
    assert alone(body) == thorough(body)
    assert alone(body).startswith("wire.payload")
