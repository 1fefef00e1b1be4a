"""What is identical, which generation answers, and what begins anew."""

from __future__ import annotations

import pytest

from coord.core import reuse
from coord.core.tasks import Task
from coord.wire import subjects


def task(status: str, ended_at: float | None = None) -> Task:
    return Task(tenant="t", key="k", id="i", status=status, ended_at=ended_at, submitted_seq=1)  # type: ignore[arg-type]


def test_the_order_of_members_and_white_space_make_no_difference_and_all_else_does() -> None:
    one = reuse.key_of("think", b'{"a": 1, "b": [1, 2]}')
    assert reuse.key_of("think", b'{"b":[1,2],"a":1}') == one
    for other in (b'{"a":1,"b":[2,1]}', b'{"a":1}', b'{"a":"1","b":[1,2]}', b""):
        assert reuse.key_of("think", other) != one
    assert reuse.key_of("thinker", b'{"a": 1, "b": [1, 2]}') != one


def test_keys_and_ids_are_tokens_and_generations_are_found_again() -> None:
    key = reuse.key_of("c" * 64, b'"x"')
    name = reuse.name_of(key, 123_456)
    subjects.check_token(key, "key")
    subjects.check_token(name, "id")
    assert reuse.generation_of(key, name) == 123_456
    for strange in (key, f"{key}-x", f"other-{key}-1", f"{key}-1-1"):
        assert reuse.generation_of(key, strange) == 0


@pytest.mark.parametrize(
    ("status", "ended_at", "joins"),
    [
        ("queued", None, True), ("claimed", None, True), ("waiting", None, True),
        ("completed", 95.0, True), ("rejected", 95.0, True), ("completed", 80.0, False), ("rejected", 80.0, False),
        ("failed", 99.0, False), ("cancelled", 99.0, False), ("expired", 99.0, False),
    ],
)  # fmt: skip
def test_what_answers(status: str, ended_at: float | None, joins: bool) -> None:
    there = task(status, ended_at)
    assert reuse.joinable(there, reuse_for_s=10, now=100.0) is joins
    assert reuse.answers(there, reuse_for_s=10, at=100.0) is joins
    assert reuse.answers(there, reuse_for_s=10, at=70.0), "whatever came of it later, it was there then"
