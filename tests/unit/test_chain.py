"""The chain of what was projected: vectors for other readers, and what it notices."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.bus.pull import as_published
from coord.core import chain

Message = tuple[int, str, bytes | None, bytes]

VECTORS: list[tuple[int, Message, int]] = [
    (0, (1, "coord.log.7.acme.a1.k.note.n.said", None, b"{}"), 0xDFED1D14),
    (0xDFED1D14, (5, "coord.log.7.acme.a1.k.note.n.said", b"NATS/1.0\r\nce-id: 1\r\n\r\n", b'{"a":1}'), 0xE43E3995),
    (0xE43E3995, (2**40, "coord.tel.acme.ä.cpu", None, b""), 0x33C3076B),
]


@pytest.mark.parametrize(("before", "message", "after"), VECTORS)
def test_vectors(before: int, message: Message, after: int) -> None:
    """A reader in another language computes these."""
    assert chain.extend(before, *message) == after


def test_the_rule_spelled_out() -> None:
    seq, subject, headers, body = VECTORS[1][1]
    name, block = subject.encode(), headers or b""
    lengths = b"".join(len(part).to_bytes(4, "big") for part in (name, block, body))
    assert zlib.crc32(seq.to_bytes(8, "big") + lengths + name + block + body, 7) == chain.extend(
        7, seq, subject, headers, body
    )


messages = st.lists(
    st.tuples(
        st.integers(1, 2**63),
        st.text(max_size=20),
        st.none() | st.binary(min_size=1, max_size=20),
        st.binary(max_size=40),
    ),
    min_size=1,
    max_size=20,
)


def digest_of(of: list[Message]) -> int:
    digest = chain.EMPTY
    for message in of:
        digest = chain.extend(digest, *message)
    return digest


@given(messages, st.data())
def test_a_flipped_bit_a_lost_a_doubled_or_a_swapped_message_shows(of: list[Message], data: st.DataObject) -> None:
    whole = digest_of(of)
    at = data.draw(st.integers(0, len(of) - 1))
    seq, subject, headers, body = of[at]
    assert digest_of(of[:at] + of[at + 1 :]) != whole
    assert digest_of([*of[: at + 1], *of[at:]]) != whole
    if body:
        bit = data.draw(st.integers(0, 8 * len(body) - 1))
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        assert digest_of([*of[:at], (seq, subject, headers, bytes(flipped)), *of[at + 1 :]]) != whole
    if at and of[at - 1] != of[at]:
        assert digest_of([*of[: at - 1], of[at], of[at - 1], *of[at + 1 :]]) != whole


def test_where_one_part_ends_and_the_next_begins_counts() -> None:
    assert chain.extend(0, 1, "ab", b"c", b"d") != chain.extend(0, 1, "a", b"bc", b"d")
    assert chain.extend(0, 1, "ab", b"c", b"d") != chain.extend(0, 1, "ab", None, b"cd")
    assert chain.extend(0, 1, "a", None, b"") == chain.extend(0, 1, "a", b"", b"")


@given(
    st.none() | st.binary(min_size=2, max_size=60) | st.sampled_from([b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\na: b\r\nXY"])
)
def test_headers_as_stored_and_as_delivered_are_one(stored: bytes | None) -> None:
    """What a server does to a pinned delivery's headers, undone by the reader, is the reader's own form."""
    delivered = (b"NATS/1.0\r\n" if stored is None else stored[:-2]) + b"Nats-Pin-Id: x\r\n\r\n"
    assert as_published(delivered) == chain.canonical_headers(stored)


def test_when_an_anchor_is_due() -> None:
    assert not chain.anchor_due(0, 1e9)
    assert not chain.anchor_due(limits.ANCHOR_MESSAGES - 1, limits.ANCHOR_EVERY_S - 0.1)
    assert chain.anchor_due(limits.ANCHOR_MESSAGES, 0)
    assert chain.anchor_due(1, limits.ANCHOR_EVERY_S)
