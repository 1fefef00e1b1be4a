"""What a workflow's start says, as far as it helps to guess what will be read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coord import errors, limits
from coord.client.caches import trigger_of
from coord.core.warming import Trigger


class Started:
    """A stored fact, as much of it as is looked at."""

    id, key, agent = "wf-1", "wf-1", "a1"
    content = "json"
    says_nothing = False

    def __init__(self, body: Any) -> None:
        self.body = body if isinstance(body, bytes) else msgspec.json.encode(body)


def started(**said: Any) -> Any:
    return Started({"definition": {"name": "nightly"}} | said)


def test_a_start_names_its_definition_and_what_it_was_given() -> None:
    given = {"repo": "r1", "n": 3, "list": [1], "none": None, "yes": True, "long": "x" * 2_000, "huge": 1 << 300}
    assert trigger_of(started(input=given)) == Trigger(
        "nightly", "wf-1",
        {"id": "wf-1", "key": "wf-1", "agent": "a1", "input.repo": "r1", "input.n": ("int", "3")},
    )  # fmt: skip
    assert trigger_of(started(input="r1")).fields["input"] == "r1"
    assert len(trigger_of(started(input={str(n): "v" for n in range(999)})).fields) == limits.CACHE_LEARNT_KEYS_MAX + 3
    for nothing in (None, [1], 1.5):
        assert "input" not in trigger_of(started(input=nothing)).fields


@pytest.mark.parametrize(
    "body",
    [
        {}, b"", b"no", [1], {"definition": 1}, {"definition": {"name": 1}}, {"definition": {"name": ""}},
        {"definition": {"name": "x" * 1_000}}, b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_start_is_said_to_be_none(body: Any) -> None:
    with pytest.raises(errors.InvalidPayload):
        trigger_of(Started(body))  # type: ignore[arg-type]  # as above
