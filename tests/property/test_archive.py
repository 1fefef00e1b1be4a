"""What the archive decides, whatever happens between its steps; and its checksum, whatever memory looks like."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv

from coord.core.archive import (
    HOLDS_ROWS,
    LEADS_TO,
    STEPS,
    Due,
    Piece,
    Span,
    State,
    compare,
    in_the_way,
    manifest_path,
    next_step,
    path,
    plan,
    purgeable,
)
from coord.store.archive import columns

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DUE = Due(after=7 * HOUR, drop=30 * HOUR, keep=300 * HOUR)


def piece(number: int, hour: int, state: str, **fields: object) -> Piece:
    start = T0 + hour * HOUR
    given = {"piece": number, "relation": "event", "start": start, "end": start + HOUR, "state": state, "attempt": 1}
    return Piece(**(given | fields))  # type: ignore[arg-type]


pieces = st.lists(
    st.builds(
        piece,
        st.integers(1, 10_000),
        st.integers(0, 400),
        st.sampled_from(sorted(LEADS_TO)),
        restored_until=st.none() | st.integers(0, 500).map(lambda h: T0 + h * HOUR),
    ),
    max_size=30,
    unique_by=lambda p: p.piece,
)
spans = st.lists(st.integers(0, 400), max_size=30, unique=True).map(
    lambda hours: [Span(T0 + h * HOUR, T0 + (h + 1) * HOUR) for h in sorted(hours)]
)
moments = st.integers(0, 800).map(lambda h: T0 + h * HOUR)


@given(spans, pieces, moments)
def test_nothing_young_is_begun_and_nothing_twice(spans, pieces, now) -> None:
    actions = plan("event", spans, [p for p in pieces if p.state != "purged"], now=now, due=DUE)
    assert [a.span for a in actions] == sorted(a.span for a in actions), "the oldest first"
    begun = [a.span for a in actions if a.step == "begin"]
    assert len(set(begun)) == len(begun)
    held = {p.span for p in pieces if p.state in HOLDS_ROWS}
    assert all(span.end <= now - DUE.after and span not in held for span in begun)
    old = {span for span in spans if span.end <= now - DUE.after}
    assert set(begun) == old - held, "everything old that has no piece is begun"


@given(pieces, moments)
def test_only_what_was_verified_and_is_old_is_dropped(pieces, now) -> None:
    for p in pieces:
        step = next_step(p, pieces, now=now, due=DUE)
        if step == "drop":
            assert p.state in {"verified", "restored"}
            assert p.end <= now - DUE.drop
            same = [q for q in (*pieces, p) if q.span == p.span and q.state == "restored"]
            assert all(q.restored_until is None or q.restored_until <= now for q in same)
        elif step is not None:
            assert STEPS[p.state] == step
        assert next_step(p, pieces, now=now, due=Due(after=DUE.after, drop=None, keep=None)) != "drop"


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8), st.booleans()), max_size=30))
def test_rows_of_pieces_that_overlap_are_never_in_the_table_at_once(ranges) -> None:
    there: list[Piece] = []
    for number, (hour, hours, leaves) in enumerate(ranges):
        if leaves and there:
            there.pop(0)
        coming = piece(number, hour, "dropped", end=T0 + (hour + hours) * HOUR)
        back = msgspec.structs.replace(coming, state="restored")
        other = in_the_way(coming, there)
        if other is None:
            assert plan("event", [coming.span], [*there, back], now=T0 + 900 * HOUR, due=DUE)[0].step != "begin"
            there.append(back)
        else:
            assert other in there
            assert other.start < coming.end
            assert coming.start < other.end
    for one in there:
        assert all(p.span == one.span or p.end <= one.start or one.end <= p.start for p in there)


@given(pieces, moments)
def test_only_what_is_in_the_archive_alone_and_old_is_purged(pieces, now) -> None:
    for p in purgeable(pieces, now=now, due=DUE):
        assert p.state == "dropped"
        assert p.end <= now - DUE.keep
    assert purgeable(pieces, now=now, due=Due(after=DUE.after, drop=DUE.drop, keep=None)) == []


@given(st.sets(st.integers(1, 10**12)), st.sets(st.integers(1, 10**12)))
def test_rows_that_came_late_are_told_from_rows_that_are_missing(archived, added) -> None:
    def sums(rows: set[int]) -> tuple[int, int]:
        return len(rows), sum(rows)

    assert compare(archived=sums(archived), found=sums(archived)) == "same"
    more = archived | added
    assert compare(archived=sums(archived), found=sums(more)) == ("late" if more != archived else "same")
    assert compare(archived=sums(more), found=sums(archived)) == ("less" if more != archived else "same")


def test_every_state_leads_somewhere_that_exists_and_every_step_is_of_one() -> None:
    assert set().union(*LEADS_TO.values()) <= set(LEADS_TO)
    assert set(STEPS) < set(LEADS_TO)
    reached: set[State] = {"writing"}
    todo: list[State] = ["writing"]
    while todo:
        new = LEADS_TO[todo.pop()] - reached
        reached |= new
        todo += new
    assert reached == set(LEADS_TO)


def test_names_are_those_that_every_reader_knows() -> None:
    p = piece(7, 0, "writing", attempt=2)
    assert path(p, 3, tenant="acme", day=T0.date(), kind="task") == (
        "event/tenant=acme/day=2026-01-01/kind=task/20260101T000000Z-7-2-0003.parquet"
    )
    assert manifest_path(p) == "event/_manifest/20260101T000000Z-7.json"


# --- values ------------------------------------------------------------------------------------

# What PostgreSQL can hold: no NUL, no lone surrogates.
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
facts = st.lists(
    st.tuples(
        times,
        *[st.integers(0, 2**31 - 1), st.integers(0, 2**62), st.integers(0, 2**31 - 1), st.integers(0, 15)],
        *[texts] * 9,
        st.integers(0, 2**31 - 1),
        times,
        times,
        *[st.none() | texts] * 4,
    ),
    min_size=1,
    max_size=20,
)


def table(rows: list[tuple]) -> pa.Table:
    schema = columns.schema("event")
    arrays = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.table(arrays, schema=schema)


@given(facts, st.data())
def test_the_checksum_is_of_the_values_alone(rows, data) -> None:
    whole = table(rows)
    one = columns.Content("event")
    one.update(whole)
    cut = data.draw(st.integers(0, len(rows)))
    two = columns.Content("event")
    for part in (whole.slice(0, cut), whole.slice(cut)):
        if part.num_rows:
            two.update(part.take(pa.array(range(part.num_rows))) if data.draw(st.booleans()) else part)
    assert one.hexdigest() == two.hexdigest()

    row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, len(whole.schema) - 1))
    other = [list(r) for r in rows]
    if isinstance(rows[row][column], str | None):
        other[row][column] = "changed"
    changed = columns.Content("event")
    changed.update(table([tuple(r) for r in other]))
    assert (changed.hexdigest() == one.hexdigest()) == (other[row][column] == rows[row][column])


@given(facts)
def test_what_copy_reads_keeps_every_value(rows) -> None:
    whole = table(rows)
    back = csv.read_csv(
        io.BytesIO(columns.unparse(whole)),
        read_options=csv.ReadOptions(column_names=whole.schema.names, block_size=1 << 22),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={field.name: field.type for field in whole.schema},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,  # as COPY has it: null is nothing, an empty text is quoted
        ),
    )
    assert back.cast(whole.schema).equals(whole)


@pytest.mark.parametrize("moment", [-(2**63), -9_222_425_352_054_775_809, -211_000_000_000_000_000])
def test_times_that_arrow_has_not_are_refused(moment: int) -> None:
    row = (datetime(1, 1, 1, tzinfo=UTC), 1, 1, 0, 0, *[""] * 9, 1, T0, T0, *[None] * 4)
    whole = table([row])
    assert columns.checked("event", whole.to_batches()[0]).equals(whole.to_batches()[0])
    at = whole.schema.get_field_index("occurred_at")
    far = pa.array([moment], pa.int64()).cast(pa.timestamp("us", "UTC"))
    with pytest.raises(pa.ArrowInvalid, match="occurred_at"):
        columns.checked("event", whole.set_column(at, "occurred_at", far).to_batches()[0])
