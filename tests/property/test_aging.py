"""First in, first out, and what is used is written again: close to least recently used, and always within bounds.

The broker's part is played here: a stream that drops its oldest messages for new ones.  Exact LRU, and the same stream
without writing again, get the same questions.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.core.aging import Window


class Stream:
    """Keys of a size each in the order in which they were written last."""

    def __init__(self, bytes_max: int, *, again: bool) -> None:
        self.bytes_max = bytes_max
        self.again = again
        self.held: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self.bytes = self.seq = self.writes = self.hits = 0

    def ask(self, key: int, size: int) -> None:
        found = self.held.get(key)
        if found is None:
            self.put(key, size)
            return
        self.hits += 1
        window = Window(next(iter(self.held.values()))[0], self.seq, self.bytes, self.bytes_max)
        if self.again and window.is_aging(found[0]):
            self.writes += 1
            self.put(key, size)

    def put(self, key: int, size: int) -> None:
        self.bytes -= self.held.pop(key, (0, 0))[1]
        while self.held and self.bytes + size > self.bytes_max:
            self.bytes -= self.held.popitem(last=False)[1][1]
        self.seq += 1
        self.held[key] = (self.seq, size)
        self.bytes += size


def lru_hits(trace: list[int], sizes: list[int], bytes_max: int) -> int:
    held: OrderedDict[int, int] = OrderedDict()
    total = hits = 0
    for key in trace:
        if key in held:
            hits += 1
            held.move_to_end(key)
            continue
        while held and total + sizes[key] > bytes_max:
            total -= held.popitem(last=False)[1]
        held[key] = sizes[key]
        total += sizes[key]
    return hits


def zipf(rng: random.Random, keys: int, count: int, exponent: float, drift: int) -> list[int]:
    """Keys drawn by Zipf's law; `drift`: after so many questions another key is the first one."""
    weights = list(accumulate(1 / (rank + 1) ** exponent for rank in range(keys)))
    drawn = rng.choices(range(keys), cum_weights=weights, k=count)
    return [(rank + (n // drift if drift else 0)) % keys for n, rank in enumerate(drawn)]


@pytest.mark.parametrize(("exponent", "drift"), [(0.7, 0), (1.0, 0), (1.0, 20)])
def test_hits_are_close_to_least_recently_used(exponent: float, drift: int, rng: random.Random) -> None:
    keys, count = 4_000, 30_000
    trace = zipf(rng, keys, count, exponent, drift)
    sizes = [rng.choice((1, 1, 2, 8)) for _ in range(keys)]
    bytes_max = sum(sizes) // 10
    ours, plain = Stream(bytes_max, again=True), Stream(bytes_max, again=False)
    for key in trace:
        ours.ask(key, sizes[key])
        plain.ask(key, sizes[key])
    exact = lru_hits(trace, sizes, bytes_max)
    print(f"zipf {exponent} drift {drift}: {ours.hits / count:.3f} of lru's {exact / count:.3f}, "
          f"fifo {plain.hits / count:.3f}; written again {ours.writes / ours.hits:.3f} of the hits")  # fmt: skip
    assert ours.hits > 0.96 * exact
    assert ours.hits >= plain.hits
    assert ours.writes < 0.5 * ours.hits


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=200), st.integers(10, 60))
def test_it_never_holds_more_than_its_bound(asked: list[tuple[int, int]], bytes_max: int) -> None:
    stream = Stream(bytes_max, again=True)
    for key, size in asked:
        stream.ask(key, size)
        assert stream.bytes == sum(size for _, size in stream.held.values()) <= bytes_max


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 100))
def test_nothing_is_written_again_while_there_is_room_and_the_youngest_never(
    first: int, more: int, filled: int
) -> None:
    window = Window(first, first + more, filled, 100)
    assert not window.is_aging(first + more)
    if filled < 90:
        assert not window.is_aging(first)
    elif more:
        assert window.is_aging(first)
