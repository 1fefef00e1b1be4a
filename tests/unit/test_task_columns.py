"""What a row of `coord.task` says of a fold: within what PostgreSQL takes, whatever the fold holds."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coord import limits
from coord.core.tasks import Task
from coord.projector.tables import TABLES
from coord.store.rows import printable
from coord.wire import work
from coord.wire.work import Submission

YEAR_9999 = 253_402_300_799.0
times = st.none() | st.floats(allow_nan=False) | st.integers(-(2**40), 2**40)
numbers = st.integers(-(2**40), 2**40) | st.sampled_from([0, 1, 2**31 - 1, 2**31])
texts = st.none() | st.text(max_size=5) | st.just("x" * (limits.ENTITY_TEXT_CHARS + 1))
few = settings(max_examples=40)


def at(seconds: Any) -> Any:
    return None if seconds is None else min(max(seconds, 0.0), YEAR_9999)


def number(value: int) -> int:
    return min(max(value, 0), 2**31 - 1)


def text(said: str | None) -> str | None:
    return None if said is None else printable(said[: limits.ENTITY_TEXT_CHARS])


@few
@given(st.tuples(times, times, times, times, times, times), numbers, numbers, st.tuples(texts, texts, texts))
def test_columns_are_within_bounds(
    when: tuple[Any, ...], claims: int, redrives: int, words: tuple[str | None, ...]
) -> None:
    submitted, begun, claimed, retry, ended, deadline = when
    error, message, correlation_id = words
    task = Task(
        tenant="t", key="k", id="i", submission=Submission(deadline=deadline), submitted_at=submitted or 0.0,
        started_first_at=begun, claimed_at=claimed, retry_at=retry, ended_at=ended, claims=claims, redrives=redrives,
        error=error, message=message, correlation_id=correlation_id,
    )  # fmt: skip
    row = TABLES["task"].columns(task)
    assert row[:6] == (at(submitted or 0.0), at(begun), at(claimed), at(retry), at(ended), at(deadline))
    assert row[6:12] == (None, None, number(claims), 0, 0, number(redrives))
    assert row[12:19] == ("queued", "", "normal", "normal", "", None, None)
    assert row[19:22] == (text(error), text(message), text(correlation_id))
    assert row[22:] == ((3, 600.0) if claims else (None, None)), "a handler to come may say otherwise"


@few
@given(st.lists(st.from_regex(r"[0-9a²٣]{1,11}", fullmatch=True), max_size=2) | st.just([str(2)]))
def test_a_number_is_decimal_from_one(detail: list[str]) -> None:
    plain = len(detail) == 1 and set(detail[0]) <= set("0123456789") and detail[0][0] != "0" and len(detail[0]) <= 9
    assert work.number(tuple(detail)) == (int(detail[0]) if plain else None)
