"""A recording as work: which tasks and workflows it is, and the picture of who waited."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from coord.core import flow_definition
from coord.errors import InvalidRecording
from coord.ops.replay import chart, work
from coord.ops.replay.formats import arrivals, conversations
from coord.ops.replay.recording import Statement
from coord.ops.replay.source import Source
from coord.ops.replay.waits import Waits, summary


def statements(path: Path, text: str) -> Iterator[Statement]:
    path.write_text(text, encoding="utf-8")
    form = conversations if text.startswith("{") else arrivals
    return (item for item in form.read(Source(path), "r") if isinstance(item, Statement))


def test_rows_are_requests_that_keep_their_distances(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2026-11-21 10:00:00.5,7,3\n2026-11-21 10:00:02,8,0\n"
    first, second = work.requests(statements(tmp_path / "a.csv", text))
    assert (first.row, first.after_s, first.tokens) == (1, 0.0, 3)
    assert (second.row, second.after_s, second.tokens) == (2, 1.5, 0)


def test_a_row_that_does_not_say_how_long_it_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecording, match="line 2"):
        list(work.requests(statements(tmp_path / "a.csv", "TIMESTAMP,Tokens\n2026-11-21 10:00:00,7\n")))


def test_priorities_depend_on_the_line_only_and_have_their_shares() -> None:
    counts = Counter(work.priority_of(line) for line in range(1, 10_001))
    assert work.priority_of(7) == work.priority_of(7)
    assert 900 < counts["critical"] < 1_100
    assert 5_800 < counts["normal"] < 6_200
    assert 2_800 < counts["batch"] < 3_200


def test_a_conversation_is_a_workflow_with_a_step_a_message_and_its_handoffs(tmp_path: Path) -> None:
    text = (
        '{"question":"?","history":[{"name":"A b","content":"$input is no path here"},{"name":"A b","content":"2"},'
        '{"name":"C","content":"3"}]}\n{"history":[{"name":"C","content":"x"}]}\n'
    )
    one, two = work.talks(statements(tmp_path / "t.jsonl", text))
    assert [(said.speaker, said.to) for said in one.messages] == [("a-b", None), ("a-b", "c"), ("c", None)]
    assert (one.handoffs, two.handoffs, len(two.messages)) == (1, 0, 1)
    definition, given = work.workflow(one, "say", 0.5)
    flow_definition.plan(definition)
    assert [step.needs for step in definition.steps] == [[], ["m0"], ["m1"]]
    assert [step.placement and step.placement["agent"] for step in definition.steps] == ["a-b", "a-b", "c"]
    assert given["m0"]["content"] == "$input is no path here"


def test_waits_by_priority_are_drawn() -> None:
    rows = [
        {"priority": priority, "wait_seconds": n / 1000, "run_seconds": None if n == 1 else 0.01}
        for priority in ("batch", "critical")
        for n in range(1, 101)
    ]
    critical, batch = summary("pull", rows)
    assert (critical.priority, batch.priority) == ("critical", "batch")
    assert (critical.tasks, critical.wait_p50_ms, critical.wait_p99_ms, critical.wait_max_ms) == (100, 50, 99, 100)
    assert critical.run_mean_ms == 9.9
    picture = ET.fromstring(chart.svg([critical, batch], "who <waited>"))
    assert len(picture.findall("{http://www.w3.org/2000/svg}g")) == 2
    ET.fromstring(chart.svg([Waits("x", "batch", 1, 0.0, 0.0, 0.0, 0.0, 0.0)], "nothing"))
    ET.fromstring(chart.svg([], "nobody"))
