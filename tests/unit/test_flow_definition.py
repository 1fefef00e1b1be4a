"""Definitions, their conditions and mappings, decision tables, files, templates and graphs."""

from __future__ import annotations

import xml.dom.minidom
from typing import Any

import msgspec
import pytest

import coord
from coord import errors, limits
from coord.core import expressions, flow_definition, flow_files, flow_graph, flow_view, rules
from coord.core.flow_view import StepView, View
from coord.core.workflow_life import Workflow as Life
from coord.runtime import assets
from coord.wire import where
from coord.wire.flow import Definition, RuleTable, Step, Undo, When
from tests.support.sources import ROOT

TEMPLATES = sorted(path.stem for path in assets.workflows_dir().glob("*.toml"))


def defined(*steps: dict[str, Any], **more: Any) -> Definition:
    return flow_definition.convert({"name": "w", "steps": list(steps), **more})


def step(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"name": name, "task": "do", **more}


# --- conditions -------------------------------------------------------------------------------

DATA: dict[str, Any] = {
    "input": {"n": 5, "lang": "en", "draft": False, "a-b": {"in": None}},
    "steps": {"s": {"output": {"score": 0.9}}},
}


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("input.n == 5", True),
        ("5 == input.n", True),
        ("3 < input.n", True),
        ("input.n <= -1", False),
        ("input.n != 5", False),
        ('input.lang in ["de", "en"]', True),
        ('input.lang not in ["de", "en"]', False),
        ("input.draft", False),
        ("not input.draft and steps.s.output.score >= 0.8", True),
        ("input.nothing == null", False),
        ('input["a-b"]["in"] == null', True),
        ("exists(input.nothing)", False),
        ("exists(input.n) and (input.n > 9 or input.draft == false)", True),
        ('input.lang < "f"', True),
        ("input.lang < 5", False),
    ],
)
def test_a_condition_says_the_same_as_text_and_as_itself(text: str, truth: bool) -> None:
    condition = expressions.condition(text)
    again = expressions.condition(expressions.text(condition))
    for one in (condition, again):
        order = where.places(one)
        assert where.compiled(one, order)([where.follow(DATA, place.path) for place in order]) is truth


@pytest.mark.parametrize(
    "text",
    ["", "1 + 1", "f(input.x)", "input.a == input.b", "input.a <", "exists(1)", "input.a < null", "input.a in input.b",
     "1 < input.a < 2", "[x for x in y]", "1 == 2", "'text'", "lambda: 1", "input.a == b''", "input['a'][0] == 1",
     "x" * (limits.FLOW_EXPRESSION_MAX + 1), "(" * 2_000, "-" * 3_000 + "1", "a." * 100 + "b",
     " and ".join(["input.x"] * 300), "await x", "input.__class__()", "a\x00b"],
)  # fmt: skip
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidWorkflow):
        expressions.condition(text)


# --- definitions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "error", "details"),
    [
        ([step(needs=["b"]), step("b", needs=["a"])], errors.CyclicWorkflow, {"cycle": ["a", "b", "a"]}),
        ([step(input="$steps.a.output")], errors.CyclicWorkflow, {"cycle": ["a", "a"]}),
        ([step(needs=["z"])], errors.UnknownStep, {"step": "a", "unknown": "z"}),
        ([step(when="steps.z.output")], errors.UnknownStep, {"step": "a", "unknown": "z"}),
        ([{"name": "a"}], errors.StepWithoutHandler, {"step": "a", "said": []}),
        ([step(signal="s")], errors.StepWithoutHandler, {"step": "a", "said": ["task", "signal"]}),
        ([step(), step()], errors.DuplicateStep, {"step": "a"}),
        ([step(for_each=[1]), step("a-7")], errors.DuplicateStep, {"step": "a-7"}),
        ([], errors.InvalidWorkflow, {}),
        ([step("undo_a")], errors.InvalidWorkflow, {"step": "undo_a"}),
        ([step("A")], errors.InvalidWorkflow, {}),
        ([step(task="NO")], errors.InvalidWorkflow, {"step": "a"}),
        ([step(when="1")], errors.InvalidWorkflow, {"step": "a"}),
        ([step(input="$item")], errors.InvalidWorkflow, {"step": "a"}),
        ([step(input="$nowhere.x")], errors.InvalidWorkflow, {"step": "a"}),
        ([step(input="$steps.a.secrets")], errors.InvalidWorkflow, {"step": "a"}),
        ([step(retries=-1)], errors.InvalidWorkflow, {"step": "a"}),
        ([step(timeout_s=0)], errors.InvalidWorkflow, {"step": "a"}),
        ([step(max_parallelism=0)], errors.InvalidWorkflow, {"step": "a"}),
        ([step(for_each="files")], errors.InvalidWorkflow, {"step": "a"}),
        ([step(approval=True)], errors.InvalidWorkflow, {"step": "a"}),
        ([step(local=True)], errors.InvalidWorkflow, {"step": "a"}),
        ([{"name": "a", "sleep_s": 1, "local": True}], errors.InvalidWorkflow, {"step": "a"}),
        ([step(), step("b", needs=["a"], local=True, undo={"task": "u"})], errors.InvalidWorkflow, {"step": "b"}),
        ([step(), step("b", needs=["a"], local=True, deadline_s=1)], errors.InvalidWorkflow, {"step": "b"}),
        ([step(), step("b", needs=["a"], local=True, for_each=[1])], errors.InvalidWorkflow, {"step": "b"}),
        ([step(for_each=[1]), step("b", needs=["a"], local=True)], errors.InvalidWorkflow, {"follows": "a"}),
        ([step(deadline_s=1), step("b", needs=["a"], local=True)], errors.InvalidWorkflow, {"follows": "a"}),
        ([step(undo={"task": "u"}), step("b", needs=["a"], local=True)], errors.InvalidWorkflow, {"follows": "a"}),
        ([step(), step("b", needs=["a"], local=True, priority="batch")], errors.InvalidWorkflow, {"priority": "batch"}),
        ([step(), step("c"), step("b", needs=["a", "c"], local=True)], errors.InvalidWorkflow, {"step": "b"}),
        ([step(), step("b", needs=["a"], local=True), step("c", needs=["a"])], errors.InvalidWorkflow, {"other": "c"}),
        ([{"name": "a", "sleep_s": 1, "timeout_s": 2}], errors.InvalidWorkflow, {"step": "a"}),
        ([{"name": "a", "sleep_s": 1, "undo": {"task": "u"}}], errors.InvalidWorkflow, {"step": "a"}),
        ([{"name": "a", "decide": {"rules": []}}], errors.InvalidWorkflow, {"step": "a"}),
        ([{"name": "a", "decide": {"rules": [{"output": 1, "when": "steps.x.output"}]}}], errors.InvalidWorkflow, {}),
        ([{"name": "a", "workflow": {"name": "i", "steps": [step("q", needs=["q"])]}}], errors.CyclicWorkflow, {}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(steps: list[dict[str, Any]], error: type[Exception], details: dict[str, Any]) -> None:
    with pytest.raises(error) as raised:
        flow_definition.plan(defined(*steps))
    assert isinstance(raised.value, errors.InvalidWorkflow)
    assert details.items() <= raised.value.details.items()


def test_what_is_wrong_with_a_definition_is_the_callers_fault_and_no_message_of_the_wire() -> None:
    kinds: list[type[errors.CoordError]] = [errors.InvalidWorkflow, *errors.InvalidWorkflow.__subclasses__()]
    assert {kind.code for kind in kinds} == {
        "workflow.invalid", "workflow.cyclic", "workflow.unknown_step", "workflow.no_handler",
        "workflow.duplicate_step",
    }  # fmt: skip
    for kind in kinds:
        assert not issubclass(kind, errors.WireError)
        assert (kind.fault, kind.retryable) == (errors.Fault.CALLER, False)
        assert kind.remedy


def test_unknown_members_are_refused_and_nesting_is_bounded() -> None:
    with pytest.raises(errors.InvalidWorkflow, match="retrys"):
        defined(step(retrys=1))
    nested: dict[str, Any] = step()
    for _ in range(limits.FLOW_DEPTH_MAX):
        nested = {"name": "a", "workflow": {"name": "w", "steps": [nested]}}
    with pytest.raises(errors.InvalidWorkflow, match="nested"):
        flow_definition.plan(defined(nested))
    with pytest.raises(errors.InvalidWorkflow):
        flow_definition.decode(b'{"name":"w","steps":[' * 200)


def test_every_member_of_a_step_survives_the_file() -> None:
    whole = Step(
        name="a", needs=[], when="input.x", task="do", input={"a": "$input.b"}, for_each="$input.l", max_parallelism=3,
        optional=True, undo=Undo(task="un", input="$output", retries=1, timeout_s=5), priority="batch", retries=1,
        backoff_s=2, backoff_max_s=9, timeout_s=4, deadline_s=7, labels={"a": "b"}, preemptible=True,
        placement={"strategy": "label", "values": ["eu"]},
    )  # fmt: skip
    definition = Definition(name="w", steps=[whole], version="3", description="d", output="$steps.a.output")
    text = msgspec.json.encode(definition).decode()
    assert flow_files.parse(text, is_json=True) == definition


# --- decision tables --------------------------------------------------------------------------


def test_the_first_that_is_sure_enough_decides_and_else_the_surest() -> None:
    table = RuleTable(
        rules=[
            When(when="input.n > 10", output="big", confidence=0.7),
            When(when="input.n > 5", output={"n": "$input.n"}, confidence=0.9),
            When(when="input.n > 0", output="small", confidence=0.95),
            When(when="input.n == 0", output="none", confidence=0.2),
        ],
        threshold=0.85, inputs=["n"], version="4",
    )  # fmt: skip
    ready = rules.Table(table)

    def decide(given: Any) -> tuple[Any, int | None]:
        decided = ready.decide(given)
        return msgspec.json.decode(decided.output), decided.rule

    assert decide({"n": 11}) == ({"n": 11}, 1), "it exits early: the third is surer"
    assert decide({"n": 3}) == ("small", 2)
    assert decide({"n": 0}) == ("none", 3)
    assert ready.decide({"n": -1}).error == rules.NO_RULE
    assert ready.decide({}).error == rules.NO_INPUT
    assert ready.decide("text").error == rules.NO_INPUT
    assert ready.decide({"n": 3}).version == "4"
    unsure = rules.Table(RuleTable(rules=[When(output=1, confidence=0.3), When(output=2, confidence=0.6)]))
    assert unsure.decide(None).rule == 1


# --- written in Python ------------------------------------------------------------------------


def test_lines_of_local_steps() -> None:
    steps = [step(f"s{n}", needs=[f"s{n - 1}"] if n else [], local=n > 0) for n in range(limits.LOCAL_STEPS_MAX + 4)]
    steps += [step("join", needs=["s0", "s3", steps[-1]["name"]]), step("y", needs=["x"]), step("x")]
    steps.append(step("z", needs=["y"], input={"x": "$steps.x.output"}, local=True))
    lines = {one.step.name: one.line for one in flow_definition.plan(defined(*steps)).steps}
    assert lines["s0"] == tuple(range(1, limits.LOCAL_STEPS_MAX + 1)), "it is bounded,"
    assert lines["s16"] == (17, 18, 19), "and goes on from there"
    assert lines["s19"] == lines["join"] == lines["x"] == lines["z"] == ()
    assert lines["y"] == (len(steps) - 1,)


def test_python_and_toml_say_the_same() -> None:
    flow = coord.Workflow("review", version="2")
    scan = flow.task("scan", "scan")
    each = flow.task(
        "each", "sum", for_each=scan.output["files"], max_parallelism=8, input={"f": flow.item, "k": flow.input["k"]}
    )
    gate = flow.approval(
        "gate", "ok", needs=[each], timeout_s=60, when=(scan.output["score"] >= 0.8) & scan.output["new"].exists()
    )
    flow.task("publish", "publish", needs=[gate], input=each, undo="withdraw")
    flow.output({"text": each})
    text = """
        name = "review"
        version = "2"
        output = { text = "$steps.each.output" }
        [[steps]]
        name = "scan"
        task = "scan"
        [[steps]]
        name = "each"
        task = "sum"
        for_each = "$steps.scan.output.files"
        max_parallelism = 8
        input = { f = "$item", k = "$input.k" }
        [[steps]]
        name = "gate"
        needs = ["each"]
        signal = "ok"
        approval = true
        timeout_s = 60
        when = "steps.scan.output.score >= 0.8 and exists(steps.scan.output.new)"
        [[steps]]
        name = "publish"
        needs = ["gate"]
        task = "publish"
        input = "$steps.each.output"
        undo = { task = "withdraw" }
    """
    assert flow.definition() == flow_files.parse(text)


def test_an_option_that_there_is_none_of_names_its_step() -> None:
    flow = coord.Workflow("w")
    with pytest.raises(errors.InvalidWorkflow, match="retrys") as raised:
        flow.task("a", "do", retrys=3)
    assert raised.value.details["step"] == "a"


# --- templates and graphs ---------------------------------------------------------------------


def test_the_definition_in_the_howto_is_one() -> None:
    shown = (ROOT / "docs/howto/workflows.md").read_text().partition('```text\nname = "docs"')
    definition = flow_files.parse('name = "docs"' + shown[2].partition("```")[0])
    assert {kind for step in definition.steps if (kind := flow_view._kind(step))} == {
        "task", "workflow", "signal", "decide", "sleep",
    }  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_definitions_whatever_their_parameters(name: str) -> None:
    template = (assets.workflows_dir() / f"{name}.toml").read_text()
    definition = flow_files.parse(flow_files.filled(template, {}))
    assert definition.name == name
    assert flow_files.described(template)
    for parameter, default in flow_files.parameters(template).items():
        given = {str: "other", int: "7", float: "0.25", bool: "true"}[type(default)]
        other = flow_files.filled(template, {parameter: given if parameter != "items" else "$input.others"})
        assert "{{" not in other
        assert flow_files.parse(other) != definition, parameter


def test_a_template_is_filled_in_safely() -> None:
    template = """# x
#: name = "w"
#: many = 3
name = "{{name}}"
[[steps]]
name = "a"
task = "do"
max_parallelism = "{{many}}"
when = "input.x == '{{name}}'"
"""
    assert flow_files.parse(flow_files.filled(template, {"many": "9"})).steps[0].max_parallelism == 9
    for given in ({"no": 1}, {"many": "x"}, {"many": True}, {"many": '1"\ntask="evil'}):
        with pytest.raises(errors.InvalidWorkflow):
            flow_files.filled(template, given)
    evil = flow_files.filled(template, {"name": 'w"\n[[steps]]\nname = "b'})
    with pytest.raises(errors.InvalidWorkflow):
        flow_files.parse(evil)
    with pytest.raises(errors.InvalidWorkflow):
        flow_files.parse("not toml")


@pytest.mark.parametrize("name", TEMPLATES)
def test_graphs(name: str) -> None:
    definition = flow_files.parse(flow_files.filled((assets.workflows_dir() / f"{name}.toml").read_text(), {}))
    view = View(Life(tenant="t", id="w"), definition, [StepView(definition.steps[0].name, "completed")])
    drawn = xml.dom.minidom.parseString(flow_graph.svg(definition, view))
    names = {text.firstChild.data for text in drawn.getElementsByTagName("text")}  # type: ignore[union-attr]
    assert {found.name for found in definition.steps} <= names
    mermaid = flow_graph.mermaid(definition, view)
    assert mermaid.startswith("flowchart LR\n")
    assert "class s0 completed" in mermaid
    planned = flow_definition.plan(definition)
    laid = flow_graph.columns(planned)
    column = {node.index: number for number, nodes in enumerate(laid) for node in nodes}
    assert all(column[need] < column[node.index] for node in planned.steps for need in node.needs)


def test_what_is_drawn_is_escaped() -> None:
    definition = defined(step(), version="<script>")
    assert "<script>" not in flow_graph.svg(definition)
