"""`coord bench query`, a little of it, and the verdict of its soak: that they measure and find what they say."""

from __future__ import annotations

import pytest

from coord.ops.bench.measure import BenchError
from coord.ops.bench.querying import QueryingConfig, _Told
from coord.ops.devstack.stack import DevStackConfig
from tests.soak.harness import Result
from tests.soak.query import Told, check


def test_a_part_of_the_whole_is_smaller() -> None:
    whole = QueryingConfig(database=DevStackConfig(ephemeral=True, nats=False))
    part = whole.scaled(0.1)
    assert (part.rounds, part.tenants) == (1, whole.tenants)
    assert part.seconds < whole.seconds
    with pytest.raises(BenchError):
        _Told().figures()


GOOD = Told("acme", "k", (3, 5), 6, 5, frozenset({"acme"}), modified=True)
FACTS = {("acme", "k"): [3, 5, 9], ("other", "k"): [4]}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, set()),
        ({"modified": False, "to": 8}, set()),
        ({"modified": False, "to": 9}, {"wrong"}),
        ({"seqs": (5,)}, {"wrong"}),
        ({"seqs": (3, 5, 9)}, {"wrong"}),
        ({"seqs": (3, 4, 5), "tenants": frozenset({"acme", "other"})}, {"wrong", "foreign"}),
        ({"wanted": 7}, {"behind"}),
        ({"key": "nobody", "seqs": (), "tenants": frozenset()}, set()),
    ],
)
def test_what_was_answered_is_held_against_the_log(changed: dict[str, object], found: set[str]) -> None:
    result = Result()
    fields = {name: getattr(GOOD, name) for name in GOOD.__struct_fields__} | changed
    assert check(result, [Told(**fields)], FACTS) == 1
    assert {finding.kind for finding in result.findings} == found
