"""The soak's own parts: what runs, the plan of kills, what is drawn from a result."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any, cast

import msgspec
import pytest

from coord.testing import virtual
from tests.soak import kill_storm, page
from tests.soak.__main__ import scenarios
from tests.soak.harness import FINDINGS_NAMED_MAX, Finding, Job, Result, percentile, rng_of
from tests.soak.lag import LIVE_S, caught_up
from tests.soak.speakers import Told


def test_every_scenario_stands_on_the_page_and_nothing_else_does() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    section = text.partition("## The scenarios")[2].partition("\n## ")[0]
    described = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert described == [s.name for s in scenarios().values()]


def test_the_pages_block_is_what_the_results_say() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    block = text.partition("do not edit) -->\n")[2].partition("<!-- soak:end -->")[0]
    assert block == page.render(page.kept())


def test_the_plan_of_kills_is_the_seeds_and_has_what_was_asked_for() -> None:
    plan = kill_storm.plan(rng_of(Job(seed=7), "kills"), 200)
    assert plan == kill_storm.plan(rng_of(Job(seed=7), "kills"), 200)
    assert plan != kill_storm.plan(rng_of(Job(seed=8), "kills"), 200)
    assert Counter(k.victim for kills in plan for k in kills) == {"projector": 200, "nats": 100, "postgres": 100}
    assert {len(kills) for kills in plan} == {1, 2, 3}
    assert all(kills == sorted(kills, key=lambda k: k.after_s) for kills in plan)


def test_a_result_fails_with_any_finding_and_counts_by_kind() -> None:
    result = Result()
    assert result.outcome == "passed"
    result.add([Finding("lost", "three", 3), Finding("lost", "named"), Finding("checkpoint", "beyond")])
    assert (result.lost, result.doubled, result.disordered, result.outcome) == (4, 0, 0, "failed")
    assert Result(skipped="not root").outcome == "skipped"


def test_findings_of_one_kind_are_named_up_to_a_bound_and_counted_beyond() -> None:
    result = Result()
    for i in range(FINDINGS_NAMED_MAX + 5):
        result.found("late", str(i))
    assert len(result.findings) == FINDINGS_NAMED_MAX
    assert result.details == {"more findings: late": 5}


def test_a_row_of_the_page() -> None:
    machine = {"cores": 2, "cpu": "C", "memory_gib": 8.0, "system": "S", "kernel": "K"}
    result = Result(
        volume={"facts": 1_234_567, "unsure": 0}, rounds=4, lost=0, doubled=0, disordered=0, catch_up_s=[1.0, 2.5],
        scenario="kill-storm", seed=7, commit="abc", machine=machine, at="2026-05-01T00:00:00+00:00", duration_s=99.6,
    )  # fmt: skip
    again = msgspec.json.decode(msgspec.json.encode(result), type=Result)
    text = page.render([again])
    assert "| `kill-storm` | passed | 1,234,567 facts | 4 | 0 | 0 | 0 | 2.50 | 100 | 7 | 1 |" in text
    assert "1. 2026-05-01, commit `abc`, 2 cores of C, 8.0 GiB, S, kernel K" in text
    result.found("late", "too late")
    assert "* `kill-storm`: late: too late" in page.render([result])


def test_percentiles_are_values_that_occurred() -> None:
    values = random.Random(1).sample(range(1000), 100)
    ordered = sorted(values)
    assert percentile(values, 0.99) == ordered[98]
    assert percentile(values, 0.5) == ordered[49]
    assert percentile([3.0], 0.99) == 3.0


class _Flow:
    """A fact a millisecond for one partition, the tables `lag_s` behind from `back_s` on, and at nothing before."""

    def __init__(self, *, lag_s: float, back_s: float = 0.0) -> None:
        self._lag_s, self._back_s = lag_s, back_s
        self._began = asyncio.get_running_loop().time()

    def _facts(self, ago_s: float = 0.0) -> int:
        return 1000 + round(1000 * (asyncio.get_running_loop().time() - self._began - ago_s))

    async def word(self) -> Told:
        await asyncio.sleep(0.1)
        return Told(0, 0, 0, [self._facts()], {}, 0, 0)

    async def read(self) -> dict[tuple[str, int], int]:
        back = self._facts() >= 1000 + 1000 * self._back_s
        return {("EVENTS", 0): self._facts(self._lag_s) if back else 0}

    async def sessions(self) -> list[str]:
        return []


@pytest.mark.parametrize(
    ("lag_s", "back_s", "least_s", "most_s"),
    [(0.05, 0.0, 0.1, 0.3), (0.05, 3.0, 3.0, 3.2), (LIVE_S + 0.2, 0.0, None, None)],
    ids=["follows at once, never without a fact on its way", "does so after three seconds", "is too far behind"],
)
def test_caught_up_is_who_follows(lag_s: float, back_s: float, least_s: float | None, most_s: float | None) -> None:
    async def looked() -> float | None:
        flow = cast("Any", _Flow(lag_s=lag_s, back_s=back_s))
        return await caught_up(flow, flow, timeout_s=10.0)

    took = virtual.run(looked())
    if least_s is None or most_s is None:
        # What was acknowledged at first is there soon; what came since never is in time.
        assert took is None
    else:
        assert took is not None
        assert least_s <= took <= most_s
