"""Answers as bytes: what goes in comes out, what cannot is refused, and nothing damaged is ever an answer."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from coord import errors, limits
from coord.cache import entries
from coord.cache.config import CacheConfig
from coord.cache.entries import Entry, Shape
from coord.cache.functions import Functions
from coord.cache.loading import Cache
from coord.telemetry.metrics import Metrics


class Colour(enum.StrEnum):
    RED = "red"


class Row(msgspec.Struct):
    id: str
    n: int = 0


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def entry(value: bytes, **fields: Any) -> Entry:
    known = Entry(
        key=b"k", tags=("note:a",), marks=(("EVENTS", 3, 1, 7),), loaded_at=1.0, expires_at=2.0, writer="w", eras=b"",
        packed=False, value=value,
    )  # fmt: skip
    return msgspec.structs.replace(known, **fields)


@given(plain)
def test_what_messagepack_has_comes_back_as_it_went(value: Any) -> None:
    shape = Shape(True)
    said = shape.encode(value)
    assert said is not None
    stored = entries.encode(entry(said))
    assert stored is not None
    back = entries.decode(stored)
    assert back == entry(said)
    found = shape.decode(back.value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value", [(1, 2), {"a": (1,)}, {1, 2}, object(), Row("a"), dt.date(2026, 1, 1), 2**70, "\ud800"]
)
def test_what_would_come_back_as_something_else_is_not_stored(value: Any) -> None:
    assert Shape(True).encode(value) is None


def test_a_shape_keeps_its_type_and_another_version_of_it_is_another_name() -> None:
    shape = Shape(list[Row])
    said = shape.encode([Row("a", 1)])
    assert said is not None
    assert shape.decode(said) == [Row("a", 1)]
    assert shape.encode([Row("a", "x")]) is None  # type: ignore[arg-type]  # that is what is refused
    Later = msgspec.defstruct("Row", [("id", str), ("n", int, 0), ("more", str, "")])  # noqa: N806 - a class
    names = {
        entries.name_of(b"k", s, rules)
        for s in (shape, Shape(list[Row], 2), Shape(list[Later]), Shape(list[dict[str, int]]), Shape(list[Row], 1, "f"))  # type: ignore[valid-type]
        for rules in (b"", entries.rules_fingerprint({"task.*": ("board",)}))
    }
    assert len(names) == 10
    with pytest.raises(errors.InvalidCacheKey):
        Shape(object)
    with pytest.raises(errors.InvalidCacheKey):
        entries.key_bytes(object())


def test_large_values_are_compressed_and_too_large_ones_refused() -> None:
    long = b"\xc6\x00\x10\x00\x00" + bytes(1 << 20)
    stored = entries.encode(entry(long))
    assert stored is not None
    assert len(stored) < 10_000
    assert entries.decode(stored).value == long
    assert entries.encode(entry(bytes(limits.CACHE_VALUE_BYTES_MAX + 1))) is None
    noise = zstandard.ZstdCompressor(level=1).compress(b"x")  # any bytes; the value need not be MessagePack here
    assert entries.encode(entry(noise)) is not None


@given(st.data())
def test_a_damaged_entry_is_refused_whatever_was_done_to_it(data: st.DataObject) -> None:
    stored = entries.encode(entry(b"\xa3abc" * 2_000))
    assert stored is not None
    at = data.draw(st.integers(0, len(stored) - 1))
    flipped = bytearray(stored)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(flipped), stored[:at], data.draw(st.binary(max_size=60))):
        with pytest.raises(errors.CacheEntryDamaged):
            entries.decode(bad)


def test_a_bomb_does_not_go_off() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(limits.CACHE_VALUE_BYTES_MAX + 1))
    stored = entries.encode(entry(bomb, packed=True))
    assert stored is not None
    with pytest.raises(errors.CacheEntryDamaged):
        entries.decode(stored)


class Broken:
    """A tier that hangs, or fails."""

    name = "l2"
    life_s = 60.0

    def __init__(self, error: errors.CoordError | None) -> None:
        self.error = error
        self.asked = 0

    async def get(self, _: str, /) -> None:
        self.asked += 1
        if self.error is None:
            await asyncio.Event().wait()
            return
        raise self.error

    async def put(self, name: str, _body: bytes, /, *, ttl_s: float, over: int | None = None) -> int | None:
        del ttl_s, over
        await self.get(name)
        return None

    async def drop(self, name: str, /) -> None:
        await self.get(name)

    async def look(self) -> None:
        await self.get("")

    def is_aging(self, _: int, /) -> bool:
        return False


@pytest.mark.parametrize("error", [None, errors.StreamFull(), errors.NotConnected(), errors.BusError()])
async def test_a_tier_that_hangs_or_fails_is_not_in_the_way(
    error: errors.CoordError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CACHE_TIER_S", 0.01)
    tier = Broken(error)
    cache = Cache(CacheConfig(), metrics=Metrics(CollectorRegistry()), tiers=(tier,))

    @Functions(cache).cached("n:{n}", shared=int)
    async def number(n: int) -> int:
        return n

    for n in range(30):
        assert await number(n) == n
    assert cache.tiers is not None
    outcomes = cache.tiers.outcomes()["l2"]
    assert outcomes["error"]
    if not isinstance(error, errors.NotConnected):  # that says so at once, and costs nothing
        assert outcomes["away"] > outcomes["error"]
        assert tier.asked < 30
    await cache.close()
