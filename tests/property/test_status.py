"""Status by changes converges whatever happens to the statements on the way, and never shows what was not said."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import errors, limits
from coord.core.status import Said, StatusFold, StatusSender
from coord.wire import status
from coord.wire.status import Statement, Whole

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab☃", max_size=3) | st.floats(-2, 2, width=16),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("xy", max_size=2), inner, max_size=2),
    max_leaves=3,
)
NAMES = st.sampled_from(["load", "task", "a b", 'quo"te', "☃", ""])
STATES = st.dictionaries(NAMES, VALUES, max_size=5)


def arrived(said: Said) -> Statement:
    """A statement as a reader finds it in the log."""
    text = msgspec.json.encode(said.data).decode()
    return status.read_whole(text) if said.event == "status" else status.read_change(text)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is not 1.0 and not true."""
    sort = msgspec.json.Encoder(order="deterministic").encode
    return sort(one) == sort(other)


class History:
    """What one agent said in all its runs: the statements, and the state at each of them."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []
        self.states: dict[tuple[str, int], Any] = {}
        self.statements: dict[tuple[str, int], Statement] = {}

    def add(self, sender: StatusSender, said: Said | None) -> None:
        if said is not None:
            place = (sender.run, said.at)
            self.said.append(place)
            self.states[place] = sender.state
            self.statements[place] = arrived(said)

    def check(self, fold: StatusFold) -> None:
        if fold.run is not None:
            assert same(fold.state, self.states[fold.run, fold.at])


@st.composite
def histories(draw: st.DrawFn, runs_max: int = 3) -> History:
    found = History()
    now = 0.0
    for run in range(draw(st.integers(1, runs_max))):
        sender = StatusSender(f"run{run}", whole_every=draw(st.integers(1, 8)), whole_after_s=draw(st.integers(1, 60)))
        for _ in range(draw(st.integers(1, 12))):
            now += draw(st.floats(0, 10))
            step = draw(st.sampled_from(["change", "change", "change", "replace", "whole", "lost"]))
            if step == "change":
                changes = draw(STATES)
                unset = [name for name in draw(st.lists(NAMES, max_size=2)) if name not in changes]
                found.add(sender, sender.change(changes, unset, now))
            elif step == "replace":
                found.add(sender, sender.replace(draw(STATES), now))
            elif step == "whole":
                found.add(sender, sender.whole(now))
            else:
                sender.lost()
    return found


@given(histories(), st.randoms(use_true_random=False), st.data())
def test_any_loss_repeat_or_order(history: History, rng: random.Random, data: st.DataObject) -> None:
    """What is shown was said, one run only goes forward, and a newest whole status mends everything."""
    messages = [place for place in history.said for _ in range(data.draw(st.integers(0, 2)))]
    if data.draw(st.booleans()):
        rng.shuffle(messages)
    fold = StatusFold()
    for place in messages:
        before = fold.run, fold.at
        fold.take(history.statements[place])
        history.check(fold)
        assert fold.run != before[0] or fold.at >= before[1]
        if data.draw(st.booleans()):  # as between two transactions
            dumped = fold.dump()
            text = fold.text
            fold = StatusFold.load(
                None if text is None else text.decode(),
                None if dumped is None else msgspec.json.encode(dumped).decode(),
            )
            history.check(fold)
    if not history.said:
        return
    run, at = history.said[-1]
    fields = {name: msgspec.json.encode(value) for name, value in history.states[run, at].items()}
    fold.take(Whole(fields, status.join(fields), run, at + 1))
    assert same(fold.state, history.states[run, at])
    assert not fold.stale


@given(histories(runs_max=1), st.randoms(use_true_random=False))
def test_once_nothing_is_missing_it_is_current_whatever_the_order(history: History, rng: random.Random) -> None:
    messages = list(history.said)
    rng.shuffle(messages)
    fold = StatusFold()
    for place in messages:
        fold.take(history.statements[place])
    if messages:
        assert (fold.run, fold.at) == history.said[-1]
        assert not fold.stale
        assert same(fold.state, history.states[history.said[-1]])


@given(histories(runs_max=1), st.integers(0, 30))
def test_a_lost_change_is_noticed_by_the_next_statement(history: History, lost: int) -> None:
    """Stale from the first statement behind the loss until a whole one."""
    fold = StatusFold()
    missing = False
    for number, place in enumerate(history.said):
        if number == lost:
            missing = True
            continue
        statement = history.statements[place]
        fold.take(statement)
        missing = missing and not isinstance(statement, Whole)
        assert fold.stale is missing
        if not missing:
            assert same(fold.state, history.states[place])


def test_what_is_whole_and_why() -> None:
    sender = StatusSender("r1", whole_every=2, whole_after_s=10.0)
    big = {f"field_{n}": n for n in range(20)}

    def reason(said: Said | None) -> str | None:
        assert said is not None
        return said.reason

    assert sender.whole(0.0) is None  # nothing to say yet
    assert reason(sender.replace(big, 0.0)) == "first"
    assert sender.change({"field_1": 1}, [], 1.0) is None  # nothing new
    assert sender.change({"field_1": 1.0}, [], 1.0) is not None  # another number to JSON
    assert reason(sender.change({"field_1": True}, ["field_2"], 2.0)) is None
    assert reason(sender.change({"field_1": None}, [], 3.0)) == "count"
    assert reason(sender.change({"field_1": 5}, [], 13.0)) == "age"
    assert reason(sender.replace({"other": "x" * 300}, 13.5)) == "smaller"
    sender.lost()
    assert reason(sender.change({}, [], 14.0)) == "lost"
    assert reason(sender.whole(14.5)) == "asked"
    assert sender.state == {"other": "x" * 300}


def test_null_is_a_value() -> None:
    sender, fold = StatusSender("r1"), StatusFold()
    for said in (sender.replace({"a": 1, "b": "x" * 50}, 0.0), sender.change({"a": None}, [], 1.0)):
        assert said is not None
        fold.take(arrived(said))
    assert fold.state == {"a": None, "b": "x" * 50}


@pytest.mark.parametrize(
    "changes", [{"_rev": 1}, {"a": float("nan")}, {"a": "\x00"}, {"a": object()}, {1: "a"}, {"a": "x" * 300_000}]
)
def test_what_cannot_be_said_changes_nothing(changes: dict[Any, Any]) -> None:
    sender = StatusSender("r1")
    sender.replace({"ok": 1}, 0.0)
    with pytest.raises((errors.InvalidPayload, errors.PayloadTooLarge)):
        sender.change(changes, [], 1.0)
    assert (sender.state, sender.at) == ({"ok": 1}, 1)
    with pytest.raises(errors.InvalidPayload, match="at once"):
        sender.change({"ok": 2}, ["ok"], 1.0)


def test_values_given_are_copied() -> None:
    sender = StatusSender("r1")
    tasks = ["t1"]
    sender.replace({"tasks": tasks, "pad": "x" * 50}, 0.0)
    tasks.append("t2")
    assert sender.state["tasks"] == ["t1"]
    said = sender.change({"tasks": tasks}, [], 1.0)
    assert said is not None
    assert said.data["set"] == {"tasks": ["t1", "t2"]}


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        '{"run":"r","at":1,"set":{}}',
        '{"run":"","at":2}',
        '{"run":"r","at":2,"set":{"_rev":1}}',
        '{"run":"r","at":2,"set":{"a":1},"unset":["a"]}',
        '{"run":"r","at":2.5}',
        '{"run":"r"}',
    ],
)
def test_a_change_that_cannot_be_read_makes_stale(text: str) -> None:
    with pytest.raises(errors.InvalidPayload):
        status.read_change(text)
    fold = StatusFold()
    fold.take(status.read_whole('{"a":1,"_rev":{"run":"r","at":1}}'))
    fold.take(None)
    assert fold.stale
    assert fold.state == {"a": 1}
    fold.take(status.read_whole('{"a":2,"_rev":{"run":"r","at":3}}'))
    assert not fold.stale


@pytest.mark.parametrize("text", ['{"a":1}', "[1]", "7", '{"a":1,"_rev":3}', '{"_rev":{"run":"r","at":0}}', '"_rev"'])
def test_a_plain_client_says_whatever_it_likes(text: str) -> None:
    """Shown as it is; and a change builds upon nothing."""
    fold = StatusFold()
    fold.take(status.read_whole(text))
    assert same(fold.state, msgspec.json.decode(text))
    assert fold.dump() is None
    assert fold.take(status.read_change('{"run":"r","at":2,"set":{"a":2}}')) == "gap"
    assert same(fold.state, msgspec.json.decode(text))
    assert fold.stale


def test_what_waits_is_bounded() -> None:
    fold = StatusFold()
    fold.take(status.read_whole('{"a":1,"_rev":{"run":"r","at":1}}'))
    for at in range(3, 3 + 3 * limits.STATUS_WAITING_MAX):
        fold.take(status.read_change(f'{{"run":"r","at":{at},"set":{{"a":{at}}}}}'))
    dumped = fold.dump()
    assert dumped is not None
    assert len(dumped["waiting"]) == limits.STATUS_WAITING_MAX
    assert fold.stale
    fold.take(status.read_change('{"run":"r","at":2,"set":{"a":2}}'))
    assert fold.state == {"a": 2}  # the ones behind were dropped
    assert fold.stale
    for at in range(20):
        fold.take(status.Change("s", at + 2, {"x": b'"%b"' % (b"x" * 60_000)}))
    assert len(msgspec.json.encode(fold.dump())) < 2 * limits.STATUS_BYTES_MAX


def test_decimals_keep_their_digits() -> None:
    fold = StatusFold()
    fold.take(status.read_whole('{"x":0.10000000000000000000001,"y":1,"_rev":{"run":"r","at":1}}'))
    fold.take(status.read_change('{"run":"r","at":2,"set":{"y":2}}'))
    assert fold.text == b'{"x":0.10000000000000000000001,"y":2}'
