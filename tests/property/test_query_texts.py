"""ETags and positions: what was written is read, and whatever else comes is none of ours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.wire import query_api
from coord.wire.query_api import Etag, Position

NUMBER = st.integers(0, 2**53)
MARKS = st.dictionaries(
    st.tuples(st.sampled_from(["EVENTS", "TELEMETRY"]), st.integers(0, limits.PARTITIONS - 1)),
    st.tuples(NUMBER, NUMBER),
)
TEXTS = st.binary(max_size=40).map(query_api._text)  # type: ignore[arg-type]
NONSENSE = st.text(max_size=20) | st.text("ABCabc019-_=", max_size=60) | TEXTS
DIGEST = st.binary(min_size=8, max_size=8)


@given(DIGEST, DIGEST, NUMBER, MARKS)
def test_an_etag_says_what_was_put_into_it(asked: bytes, content: bytes, at: int, marks: query_api.Marks) -> None:
    etag = Etag(asked, content, at, query_api.pack(marks))
    text = str(etag)
    assert query_api.read_etag(text) == etag
    assert query_api.unpack(etag.marks) == marks
    assert len(text) <= limits.QUERY_TOKEN_BYTES_MAX
    assert text.isascii()
    assert not set(text) & set('" \\,')


@given(DIGEST, NUMBER, NUMBER, DIGEST)
def test_a_position_says_what_was_put_into_it(asked: bytes, start: int, offset: int, seen: bytes) -> None:
    position = Position(asked, start, offset, seen)
    assert query_api.read_position(str(position)) == position


@given(NONSENSE)
def test_what_is_none_is_none(text: str) -> None:
    for found in (query_api.read_etag(text), query_api.read_position(text)):
        assert found is None or isinstance(found.asked, bytes)


@given(st.lists(st.lists(st.binary(max_size=5))), st.lists(st.lists(st.binary(max_size=5))))
def test_different_lists_have_different_digests(one: list[list[bytes]], other: list[list[bytes]]) -> None:
    assert (query_api.digest(*one) == query_api.digest(*other)) == (one == other)
