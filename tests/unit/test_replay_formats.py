"""Each format: what it makes of its files, and what it says of what it cannot read, by line."""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coord.errors import InvalidRecording
from coord.ops.replay.formats import FORMATS, conversations, detect, otlp
from coord.ops.replay.recording import Item, LeftOut, Problem, Statement
from coord.ops.replay.source import Source
from coord.ops.replay.survey import checked, survey

TALK = {
    "question": "how many?",
    "level": "2",
    "history": [
        {"name": "Expert_One", "role": "user", "content": "let us count"},
        {"name": "Expert_One", "role": "user", "content": "again"},
        {"name": "Computer_terminal", "role": "assistant", "content": "3", "cost": 0.1},
    ],
}
HEX = {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174"}
SPAN = HEX | {"name": "chat", "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661500000000"}
EXPORTED = {
    "seq": 7, "index": 0, "agent": "a1", "key": "k", "kind": "file", "id": "f1", "event": "scanned", "event_id": "e-1",
    "data": {"n": 1}, "detail": ["x", "y"], "stored_at": "2026-01-01T00:00:00Z", "occurred_at": "2025-12-31T23:59:59Z",
}  # fmt: skip


def write(folder: Path, *lines: Any, name: str = "file") -> Source:
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return Source(path)


def items(source: Source, form: str | None = None, run: str = "r") -> list[Item]:
    known = detect(source) if form is None else FORMATS[form]
    return list(checked(known, source, run, "t"))


def statements(found: list[Item]) -> list[Statement]:
    assert not [i for i in found if isinstance(i, Problem)], found
    return [i for i in found if isinstance(i, Statement)]


def problems(found: list[Item]) -> list[Problem]:
    return [i for i in found if isinstance(i, Problem)]


def spans(*of: dict[str, Any], **resource: Any) -> dict[str, Any]:
    attributes = [{"key": k, "value": {"stringValue": v}} for k, v in resource.items()]
    return {"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [{"spans": list(of)}]}]}


def attribute(key: str, **value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}


# --- conversations ---------------------------------------------------------------------------


def test_a_conversation_is_a_run_its_messages_and_a_handoff_at_each_change_of_speaker(tmp_path: Path) -> None:
    found = statements(items(write(tmp_path, TALK)))
    said = [(s.agent, s.fact.kind, s.fact.id, s.fact.event) for s in found]
    assert said == [
        ("expert_one", "run", "r-1", "recorded"),
        ("expert_one", "message", "0", "sent"),
        ("expert_one", "message", "1", "sent"),
        ("expert_one", "handoff", "1", "offered"),
        ("computer_terminal", "message", "2", "sent"),
    ]
    assert {s.fact.key for s in found} == {"r-1"}
    assert found[0].fact.data == {"question": "how many?", "level": "2", "messages": 3}
    assert found[3].fact.data["to"] == "computer_terminal"
    assert found[3].fact.data["to_name"] == "Computer_terminal"
    assert found[4].fact.data["speaker"] == "Computer_terminal"
    assert found[4].fact.data["cost"] == 0.1, "members nobody asked for are kept"
    assert [s.ordinal for s in found] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("message", "name", "to", "remark"),
    [
        ({"role": "Planner (-> Coder)"}, "Planner", "Coder", None),
        ({"role": "Orchestrator (thought)"}, "Orchestrator", None, "thought"),
        ({"role": "Web Surfer"}, "Web Surfer", None, None),
        ({"name": "Ann", "role": "user"}, "Ann", None, None),
        ({"name": "Ann", "role": "user (-> Bob)"}, "Ann", "Bob", None),
        ({"name": "Ann (→ Bob)", "role": "user"}, "Ann", "Bob", None),
        ({"name": "  ", "role": "user"}, "user", None, None),
        ({"role": "f(x) (-> Coder)"}, "f(x)", "Coder", None),
        ({"role": "Planner(to Coder )"}, "Planner", "Coder", None),
        ({"role": "Planner (->Coder)"}, "Planner", "Coder", None),
        ({"role": "Coder (tool)"}, "Coder", None, "tool"),
        ({"role": "Coder (->)"}, "Coder", None, "->"),
        ({"role": "Coder ()"}, "Coder ()", None, None),
        ({"role": "(-> Coder)"}, "(-> Coder)", None, None),
        ({"role": "f(x))"}, "f(x))", None, None),
        ({"role": "Coder (a) b"}, "Coder (a) b", None, None),
    ],
)
def test_roles_name_speaker_and_addressee(
    message: dict[str, str], name: str, to: str | None, remark: str | None
) -> None:
    found = conversations.speaker_of(conversations.Message(content="", **message))
    assert found == conversations.Speaker(name, to, remark)


def test_a_conversation_that_cannot_be_read_is_named_by_line_and_message(tmp_path: Path) -> None:
    bad = [
        {"history": []},
        {"history": [{"content": "x"}]},
        {"history": [{"name": "a"}]},
        {"history": [{"name": "a", "content": 1}, 5]},
        {"question": "?"},
        "{",
        {"history": [{"name": "Expert-One", "content": "a name that collides"}]},
        {"history": [{"name": "a", "content": "nul \0"}]},
    ]
    found = items(write(tmp_path, TALK, *bad), "conversations")
    assert [p.line for p in problems(found)] == [2, 3, 4, 5, 6, 7, 9]
    assert len(statements([i for i in found if isinstance(i, Statement)])) > 5
    texts = [p.reason for p in problems(found)]
    assert "history is empty" in texts[0]
    assert "history[0]" in texts[1]
    assert "content" in texts[2]


def test_names_that_end_as_one_token_are_refused_with_both_originals(tmp_path: Path) -> None:
    other = {"history": [{"name": "EXPERT_ONE", "content": "hi"}]}
    (problem,) = problems(items(write(tmp_path, TALK, other)))
    assert problem.line == 2
    assert "'EXPERT_ONE'" in problem.reason
    assert "'Expert_One'" in problem.reason
    assert "line 1" in problem.reason


# --- arrivals --------------------------------------------------------------------------------


def test_an_arrival_is_a_row(tmp_path: Path) -> None:
    source = write(tmp_path, "TIMESTAMP,ContextTokens,Model,Load", "2023-11-16 18:17:03.9799600,4808,gpt,0.5",
                   "2023-11-16T18:17:04+01:00,007,,1e400")  # fmt: skip
    first, second = statements(items(source))
    assert first.at == datetime(2023, 11, 16, 18, 17, 3, 979960, UTC)
    assert first.fact.id == "r-1"
    assert first.fact.data == {
        "row": 1, "TIMESTAMP": "2023-11-16 18:17:03.9799600", "ContextTokens": 4808, "Model": "gpt", "Load": 0.5,
    }  # fmt: skip
    assert second.at == datetime(2023, 11, 16, 17, 17, 4, tzinfo=UTC)
    assert second.fact.data["ContextTokens"] == "007", "what is not written as a number is text"
    assert second.fact.data["Model"] is None
    assert second.fact.data["Load"] == "1e400"


def test_rows_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    source = write(tmp_path, "TIMESTAMP,A", "2023-11-16 18:17:03,1", "yesterday,1", "2023-11-16 18:17:03", "", '"x')
    assert [p.line for p in problems(items(source))] == [3, 4, 6]
    (problem,) = problems(items(write(tmp_path, "TIMESTAMP,A,A", "x"), "arrivals"))
    assert problem.line == 1


# --- trajectories ----------------------------------------------------------------------------

STEPS = {
    "environment": "swe_main",
    "info": {"exit_status": "submitted"},
    "history": ["left away"],
    "trajectory": [
        {"thought": "look", "action": "ls", "observation": "a b", "execution_time": 0.5},
        {"thought": "done", "action": "submit", "observation": None, "execution_time": 2},
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_a_trajectory_is_steps_taken_and_observed(tmp_path: Path, indent: int | None) -> None:
    source = write(tmp_path, json.dumps(STEPS, indent=indent))
    found = statements(items(source))
    assert [(s.agent, s.fact.kind, s.fact.id, s.fact.event) for s in found] == [
        ("agent", "run", "r-1", "recorded"),
        ("agent", "step", "0", "taken"),
        ("swe_main", "step", "0", "observed"),
        ("agent", "step", "1", "taken"),
    ]
    assert found[0].fact.data == {
        "environment": "swe_main", "info": {"exit_status": "submitted"}, "steps": 2,
    }  # fmt: skip
    assert found[2].fact.data == {"index": 0, "observation": "a b"}
    assert found[1].at is not None
    assert found[2].at is not None
    assert (found[2].at - found[1].at).total_seconds() == 0.5


def test_steps_that_take_for_ever_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A day each at most: it would take three million of them.
    monkeypatch.setattr("coord.ops.replay.formats.trajectory._BEGIN", datetime(9999, 12, 30, tzinfo=UTC))
    slow = {"trajectory": [{"action": "wait", "execution_time": 1e300}] * 3}
    (found,) = problems(items(write(tmp_path, slow)))
    assert (found.line, "9999" in found.reason) == (1, True)


def test_a_bad_step_of_a_document_is_named_by_its_own_line(tmp_path: Path) -> None:
    bad = {**STEPS, "trajectory": [*STEPS["trajectory"], {"thought": "no action"}]}
    text = json.dumps(bad, indent=1)
    (problem,) = problems(items(write(tmp_path, text)))
    assert problem.line == text[: text.index("no action")].count("\n"), "the line of the object's brace"
    assert "trajectory[2]" in problem.reason
    (problem,) = problems(items(write(tmp_path, STEPS, bad)))
    assert problem.line == 2


# --- OpenTelemetry ---------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
def test_a_span_is_stated_by_its_agent_about_its_conversation(tmp_path: Path, indent: int | None) -> None:
    child = SPAN | {
        "spanId": "0000000000000001", "parentSpanId": HEX["spanId"], "endTimeUnixNano": 1544712661000000000,
        "attributes": [
            attribute("gen_ai.agent.name", stringValue="Math Tutor"),
            attribute("gen_ai.conversation.id", stringValue="conv_5j66"),
            attribute("gen_ai.usage.input_tokens", intValue="120"),
            attribute("gen_ai.request.temperature", doubleValue=0.5),
            attribute("odd", doubleValue="NaN"),
            attribute("gen_ai.response.finish_reasons", arrayValue={"values": [{"stringValue": "stop"}]}),
            attribute("more", kvlistValue={"values": [attribute("a", boolValue=True)]}),
            attribute("none"),
        ],
    }  # fmt: skip
    source = write(tmp_path, json.dumps(spans(SPAN, child, **{"service.name": "shop"}), indent=indent))
    first, second = statements(items(source))
    assert first.fact.id == "0000000000000001", "in the order in which they ended"
    assert (first.agent, second.agent) == ("math-tutor", "shop")
    assert first.fact.key == "r-conv_5j66"
    assert second.fact.key == f"r-{HEX['traceId']}"
    assert first.fact.causation_id == second.fact.event_id
    assert first.fact.correlation_id == HEX["traceId"]
    assert first.fact.traceparent == f"00-{HEX['traceId']}-0000000000000001-01"
    assert first.at == datetime(2018, 12, 13, 14, 51, 1, tzinfo=UTC)
    assert first.fact.data["attributes"] == {
        "gen_ai.agent.name": "Math Tutor", "gen_ai.conversation.id": "conv_5j66", "gen_ai.usage.input_tokens": 120,
        "gen_ai.request.temperature": 0.5, "odd": "NaN", "gen_ai.response.finish_reasons": ["stop"],
        "more": {"a": True}, "none": None,
    }  # fmt: skip
    assert second.fact.data["duration_ms"] == 1500.0


def test_ids_in_base64_are_understood(tmp_path: Path) -> None:
    packed = {name: base64.b64encode(bytes.fromhex(value)).decode() for name, value in HEX.items()}
    (found,) = statements(items(write(tmp_path, spans(SPAN | packed))))
    assert found.fact.id == HEX["spanId"]


def test_an_attribute_nested_too_deeply_is_a_problem_of_its_span() -> None:
    value: dict[str, Any] = {"intValue": "1"}
    for _ in range(5_000):
        value = {"arrayValue": {"values": [value]}}
    with pytest.raises(ValueError, match="attribute"):
        otlp._attributes([otlp.KeyValue("a", value)])


def test_one_bad_span_does_not_take_its_neighbours_along(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        SPAN | {"spanId": "xyz"},
        SPAN | {"traceId": "0" * 32},
        SPAN | {"endTimeUnixNano": "soon"},
        SPAN | {"attributes": [attribute("a", arrayValue=5)]},
        SPAN | {"attributes": [attribute("a", shortValue=5)]},
        {"name": "no ids"},
    ]
    text = json.dumps(spans(*bad, SPAN), indent=1)
    found = items(write(tmp_path, text))
    assert len(problems(found)) == len(bad)
    assert len([i for i in found if isinstance(i, Statement)]) == 1
    lines = [p.line for p in problems(found)]
    assert lines == sorted(lines)
    assert len(set(lines)) == len(bad), "each has its own"
    assert problems(items(write(tmp_path, {"resourceSpans": [5]})))


# --- coord's own -----------------------------------------------------------------------------


def test_an_exported_fact_keeps_who_and_what_it_was(tmp_path: Path) -> None:
    decided = EXPORTED | {"agent": "_task", "event_id": "e-2"}
    odd = json.dumps(EXPORTED).replace('{"n": 1}', '{"n": 123456789012345678901234567890.5e1}')
    first, second, third = items(write(tmp_path, EXPORTED, decided, odd))
    assert isinstance(first, Statement)
    assert isinstance(second, LeftOut)
    assert isinstance(third, Statement)
    assert first.agent == "a1"
    assert first.fact.detail == ("x", "y")
    assert first.fact.event_id == "e-1"
    assert first.fact.occurred_at == datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert first.at == datetime(2026, 1, 1, tzinfo=UTC)
    assert msgspec.json.decode(bytes(first.fact.data)) == {"n": 1}
    assert b"123456789012345678901234567890.5e1" in bytes(third.fact.data), "numbers as they were written"


@pytest.mark.parametrize(
    "change",
    [
        {"agent": "A 1"}, {"key": "K"}, {"kind": "agent"}, {"event_id": ""}, {"occurred_at": "2025-12-31T23:59:59"},
        {"detail": ["a b"]}, {"schema": 0}, {"data": {"x": "\0"}}, {"traceparent": "x"}, {"agent": None},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_an_exported_fact_that_no_log_would_take_is_a_problem(tmp_path: Path, change: dict[str, Any]) -> None:
    found = items(write(tmp_path, EXPORTED, EXPORTED | change), "export")
    assert [p.line for p in problems(found)] == [2]


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("conversations", TALK),
        ("arrivals", "TIMESTAMP,x"),
        ("trajectory", STEPS),
        ("otlp", spans(SPAN)),
        ("export", EXPORTED),
    ],
)
def test_a_format_is_told_by_its_look(tmp_path: Path, name: str, line: Any) -> None:
    source = write(tmp_path, line)
    assert detect(source).name == name
    assert [f.name for f in FORMATS.values() if f.sniff(source.head())] == [name], "and by one only"


@pytest.mark.parametrize("text", ["", "hello", "[]", "{}", '{"a": 1}', "\x00\xff"])
def test_a_file_in_no_format_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRecording):
        detect(write(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecording):
        Source(tmp_path / "nothing")


def test_what_can_be_read_only_once_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(InvalidRecording, match="no file"):
            Source(tmp_path / name)


def test_lines_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(TALK).encode() + b"\r\n\xff\xfe\n\n" + json.dumps(TALK).encode())
    found = items(Source(path))
    assert [p.line for p in problems(found)] == [2]
    assert {s.line for s in found if isinstance(s, Statement)} == {1, 4}


def test_a_line_beyond_the_bound_is_named_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coord.limits.REPLAY_LINE_BYTES", 400)
    long = {**TALK, "question": "x" * 5000}
    found = items(write(tmp_path, TALK, long, TALK), "conversations")
    assert [p.line for p in problems(found)] == [2]
    assert {s.line for s in found if isinstance(s, Statement)} == {1, 3}


def test_a_survey_counts_and_shows_only_the_first_problems(tmp_path: Path) -> None:
    source = write(tmp_path, TALK, *(["{"] * 50))
    found = survey(iter(items(source)))
    assert (found.statements, found.bad, found.agents, found.keys) == (5, 50, 2, 1)
    assert found.events == {"handoff.offered": 1, "message.sent": 3, "run.recorded": 1}
    assert [p.line for p in found.problems] == list(range(2, 22))
