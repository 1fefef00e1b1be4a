"""Rows: coalescing of agents, and text that PostgreSQL would not take."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from coord.store.rows import EVENT_COLUMNS, SAMPLE_COLUMNS, AgentRow, EventRow, SampleRow, coalesce_agents, printable

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def test_tuple_types_are_as_long_as_their_columns() -> None:
    assert len(EventRow.__args__) == len(EVENT_COLUMNS)  # type: ignore[attr-defined]
    assert len(SampleRow.__args__) == len(SAMPLE_COLUMNS)  # type: ignore[attr-defined]


def agent(seq: int, name: str = "a", state: str | None = None, status: str | None = None, epoch: int = 1) -> AgentRow:
    at = T0 + timedelta(seconds=seq)
    return AgentRow(
        tenant="t", agent=name, seen_first=at, seen_last=at, state=state, status=status, epoch=epoch, seq=seq
    )


def test_the_newest_wins_field_by_field() -> None:
    (row,) = coalesce_agents([agent(2, status="{}"), agent(1, state="alive", status="[]"), agent(3)])
    assert (row.state, row.status, row.seq) == ("alive", "{}", 3)
    assert (row.seen_first, row.seen_last) == (T0 + timedelta(seconds=1), T0 + timedelta(seconds=3))


def test_a_later_epoch_is_newer_whatever_its_sequence() -> None:
    (row,) = coalesce_agents([agent(9, state="left"), agent(1, state="alive", epoch=2)])
    assert (row.state, row.position) == ("alive", (2, 1, 0))


ROWS = st.lists(
    st.builds(
        agent,
        st.integers(0, 50),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([None, "alive", "draining"]),
        st.sampled_from([None, "{}", '{"load":1}']),
    ),
    unique_by=lambda r: (r.agent, r.seq),
)


@given(ROWS, st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(rows: list[AgentRow], shuffle: random.Random) -> None:
    expected = coalesce_agents(rows)
    shuffled = rows.copy()
    shuffle.shuffle(shuffled)
    assert coalesce_agents(shuffled) == expected
    assert [r.agent for r in expected] == sorted({r.agent for r in rows})


@given(ROWS, st.integers(0, 50))
def test_in_pieces_of_the_log_or_at_once(rows: list[AgentRow], cut: int) -> None:
    rows.sort(key=lambda r: r.position)
    assert coalesce_agents([*coalesce_agents(rows[:cut]), *coalesce_agents(rows[cut:])]) == coalesce_agents(rows)


@given(st.text(st.characters(codec=None)))
def test_printable_text_is_storable_and_leaves_good_text_alone(text: str) -> None:
    shown = printable(text)
    assert "\x00" not in shown
    shown.encode("utf-8")
    if "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
        assert shown == text
