"""The soak's own parts: what runs, the plan of kills, what is drawn from a result."""

from __future__ import annotations

import random
from collections import Counter

import msgspec

from tests.soak import kill_storm, page
from tests.soak.__main__ import scenarios
from tests.soak.harness import FINDINGS_NAMED_MAX, Finding, Job, Result, percentile, rng_of


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
