"""What `coord db advise` decides, from numbers alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import limits
from coord.core.advice import Chunks, Disk, Index, Known, Table, advise, best_interval_s, forecast

GIB = 2**30
WEEK_S = limits.ADVISE_UNUSED_S
DISK = Disk(used=GIB, room=None, bytes_per_fact=500.0, facts_by_day=(), retain_days=None)


def known(**fields: object) -> Known:
    nothing = {"indexes": (), "wanted": {}, "tables": (), "chunks": (), "disk": DISK}
    return Known(**{"observed_s": 2 * WEEK_S, "memory": 4 * GIB} | nothing | fields)  # type: ignore[arg-type]


def index(name: str = "task_mine_idx", **fields: object) -> Index:
    return Index(**{"relation": "task", "name": name, "scans": 0, "bytes": 50 * limits.MIB} | fields)  # type: ignore[arg-type]


def said(advised: Known) -> list[tuple[str, str, str]]:
    return [(a.severity, a.kind, a.what) for a in advise(advised) if a.kind != "disk"]


def test_an_index_nobody_uses() -> None:
    assert said(known(indexes=[index()])) == [("advice", "unused index", "task.task_mine_idx")]
    assert advise(known(indexes=[index()]))[0].statement == "DROP INDEX CONCURRENTLY coord.task_mine_idx"


@pytest.mark.parametrize(
    "indexed",
    [index(scans=1), index(unique=True), index(bytes=limits.ADVISE_INDEX_BYTES_MIN - 1)],
    ids=["used", "keeps keys unique", "small"],
)
def test_an_index_that_is_left_alone(indexed: Index) -> None:
    assert said(known(indexes=[indexed])) == []


def test_nothing_is_unused_before_it_was_watched_long_enough() -> None:
    assert said(known(indexes=[index()], observed_s=WEEK_S - 1)) == []


def test_an_index_of_the_schema_is_not_to_be_dropped() -> None:
    own = known(indexes=[index("task_open_idx")], wanted={"task_open_idx": "CREATE INDEX …"})
    assert said(own) == [("note", "unused index", "task.task_open_idx")]
    assert advise(own)[0].statement == ""


def test_what_is_missing_or_broken_comes_first() -> None:
    found = known(
        indexes=[index(), index("x", valid=False, scans=3)], wanted={"task_open_idx": "CREATE INDEX task_open_idx"}
    )
    assert said(found) == [
        ("urgent", "invalid index", "task.x"),
        ("urgent", "missing index", "task_open_idx"),
        ("advice", "unused index", "task.task_mine_idx"),
    ]
    assert advise(found)[1].statement == "CREATE INDEX task_open_idx"


def test_a_large_table_that_is_read_whole_again_and_again() -> None:
    hours = 10.0
    often = Table(relation="task", rows=10**6, seq_scans=30, seq_rows=30 * 10**6, index_scans=5)
    seldom = Table(relation="event", rows=10**6, seq_scans=10, seq_rows=10**7, index_scans=5)
    small = Table(relation="flag", rows=10, seq_scans=10**6, seq_rows=10**7, index_scans=0)
    found = known(tables=[often, seldom, small], observed_s=hours * 3_600)
    assert said(found) == [("advice", "read whole", "task")]


def test_chunks_that_do_not_fit_into_memory() -> None:
    # A gigabyte an hour: six do not fit into a quarter of 16, two do.
    large = Chunks(relation="event", interval_s=6 * 3_600, count=20, bytes_per_s=GIB / 3_600)
    (one,) = [a for a in advise(known(chunks=[large], memory=16 * GIB)) if a.kind == "chunk interval"]
    assert one.statement == "SELECT set_chunk_time_interval('coord.event', INTERVAL '7200 seconds')"
    assert "6 GiB" in one.why
    assert said(known(chunks=[large], memory=32 * GIB)) == []


def test_small_chunks_are_told_of_only_when_there_are_many() -> None:
    def small(count: int) -> Known:
        return known(chunks=[Chunks(relation="event", interval_s=3_600, count=count, bytes_per_s=100.0)])

    assert said(small(limits.ADVISE_CHUNKS_MAX)) == []
    assert said(small(limits.ADVISE_CHUNKS_MAX + 1)) == [("advice", "chunk interval", "event")]


@given(rate=st.floats(1e-3, 1e9), memory=st.integers(2**20, 2**44))
def test_the_best_interval_fits_or_is_the_shortest(rate: float, memory: int) -> None:
    best = best_interval_s(rate, memory)
    assert best == 3_600 or best * rate <= memory * limits.ADVISE_CHUNK_MEMORY_SHARE
    assert best_interval_s(rate, 2 * memory) >= best


def test_the_disk_of_even_days() -> None:
    told = forecast(Disk(used=0, room=10_000_000, bytes_per_fact=100.0, facts_by_day=[1_000] * 10, retain_days=None))
    assert (told.bytes_per_day, told.doubt, told.settles_at) == (100_000.0, 0.0, None)
    assert (told.earliest, told.likely, told.latest) == (100.0, 100.0, 100.0)


def test_the_disk_that_settles_before_it_is_full() -> None:
    even = Disk(used=0, room=10_000_000, bytes_per_fact=100.0, facts_by_day=[1_000] * 10, retain_days=30)
    told = forecast(even)
    assert (told.settles_at, told.likely) == (3_000_000.0, None)
    (one,) = advise(known(disk=even))
    assert one.severity == "note"
    assert "settles" in one.why


def test_one_day_gives_no_confidence() -> None:
    told = forecast(Disk(used=0, room=1_000_000, bytes_per_fact=1.0, facts_by_day=[10_000], retain_days=None))
    assert math.isinf(told.doubt)
    assert (told.earliest, told.likely, told.latest) == (100.0, 100.0, None)


def test_no_day_gives_no_forecast() -> None:
    assert forecast(DISK).likely is None
    assert "no whole day" in advise(known())[0].why


def test_a_disk_that_is_full_soon_is_urgent() -> None:
    soon = Disk(used=0, room=1_000_000, bytes_per_fact=1.0, facts_by_day=[90_000, 110_000, 100_000], retain_days=None)
    (one,) = advise(known(disk=soon))
    assert (one.severity, one.kind) == ("urgent", "disk")
    assert "full in 10 days" in one.why


@given(
    days=st.lists(st.integers(0, 10**9), max_size=40),
    room=st.none() | st.integers(0, 2**50),
    used=st.integers(0, 2**50),
    retain=st.none() | st.floats(0.1, 3_650),
    size=st.floats(0, 10_000),
)
def test_earliest_likely_latest_are_in_order(
    days: list[int], room: int | None, used: int, retain: float | None, size: float
) -> None:
    disk = Disk(used=used, room=room, bytes_per_fact=size, facts_by_day=days, retain_days=retain)
    told = forecast(disk)
    order = [math.inf if at is None else at for at in (told.earliest, told.likely)]
    assert order == sorted(order)
    if told.latest is not None:
        assert told.likely is not None
        assert told.likely <= told.latest
    assert len(advise(known(disk=disk))) == 1
