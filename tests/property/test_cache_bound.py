"""The bound that knows the future: no cache does better, and one does as well."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from coord.ops.bench.cache_bound import best_hits

EVENTS = st.lists(st.sampled_from([0, 1, 2, 3] * 3 + [~0, ~1, ~2, ~3]), max_size=9)


@given(EVENTS, st.integers(0, 3))
def test_it_is_what_the_best_of_all_ways_to_keep_reaches(events: list[int], capacity: int) -> None:
    @cache
    def best(at: int, kept: frozenset[int]) -> int:
        if at == len(events):
            return 0
        event = events[at]
        if event < 0:
            return best(at + 1, kept - {~event})
        choices = [kept]
        if event not in kept and capacity:
            room = [kept] if len(kept) < capacity else [kept - {other} for other in kept]
            choices += [some | {event} for some in room]
        return (event in kept) + max(best(at + 1, some) for some in choices)

    assert best_hits(array("l", events), capacity) == best(0, frozenset())


@given(
    st.lists(st.sampled_from([*range(30)] * 9 + [~key for key in range(30)]), max_size=200),
    st.integers(1, 20),
)
def test_least_recently_used_is_never_above_it(events: list[int], capacity: int) -> None:
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for event in events:
        if event < 0:
            kept.pop(~event, None)
            continue
        hits += kept.pop(event, 0) is None
        kept[event] = None
        if len(kept) > capacity:
            kept.popitem(last=False)
    assert hits <= best_hits(array("l", events), capacity)
