"""What a decider states is encoded as the reference in coord.wire encodes it, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord import errors
from coord.core.deciding import State
from coord.runtime import clock
from coord.server import statements
from coord.server.statements import Encoder, Message, first_filter
from coord.wire import headers, ids, subjects
from coord.wire.encode import encode_fact
from coord.wire.flow import Completed
from coord.wire.records import Fact
from coord.wire.work import Submission

AT = datetime(2026, 11, 21, 4, 30, 0, 123456, tzinfo=UTC)
ID = ids.derive_id("acme", "w1", "chain@1", "s0/submitted", 0, 0)


@pytest.fixture(autouse=True)
def _frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "unix", AT.timestamp)
    monkeypatch.setattr(clock, "utc_now", lambda: AT)


def state(**fields: Any) -> State:
    usual: dict[str, Any] = {
        "tenant": "acme", "agent": "_workflow", "key": "w1", "kind": "task", "id": "s0", "event": "submitted",
        "detail": ("echo", "normal"), "data": {"input": 1}, "once": "entity", "step": "s0/submitted",
        "causation_id": "019aa3b2-0000-7000-8000-000000000001",
    }  # fmt: skip
    return State(**usual | fields)


def reference(stated: State) -> Message:
    fact = Fact(
        kind=stated.kind, id=stated.id, event=stated.event, data=stated.data, key=stated.key, detail=stated.detail,
        correlation_id=stated.correlation_id, causation_id=stated.causation_id, schema=stated.schema,
    )  # fmt: skip
    made = encode_fact(fact, tenant=stated.tenant, agent=stated.agent, event_id=ID, occurred_at=AT)
    fields = made.headers
    if stated.once is not None:
        fields[headers.EXPECTED_LAST_SUBJECT_SEQ] = "0"
        fields[headers.EXPECTED_LAST_SUBJECT] = first_filter(stated)
    return Message(made.subject, headers.encode(fields), made.body)


DATA: list[Any] = [
    None,
    {"input": None, "retries": 0},
    Submission(input=msgspec.Raw(b'{"a":[1,2.5,null]}'), labels={"ü": "\u2028"}),
    Completed(output=msgspec.Raw(b'"x"')),
    {"text": "x" * 2_000},
    [1, "zwei"],
    {"nul": "\0"},
    {"nan": float("nan")},
    object(),
]
VALUES = [None, "c-1", "a b", "100%", "ü", "x" * 2_000, ""]


@given(
    once=st.sampled_from([None, "entity", "event", "own"]),
    place=st.sampled_from([
        ("_workflow", "w1", "task", "s0", "submitted", ("echo", "normal")),
        ("_workflow", "w1", "workflow", "w1", "completed", ()),
        ("_task", "k", "task", "t", "released", ("3",)),
        ("_presence", "a1", "agent", "a1", "gone", ("i", "1")),
        ("_presence", "a1", "agent", "a2", "gone", ()),
        ("_workflow", "w1", "task", "S0", "submitted", ("echo", "normal")),
        ("_workflow", "", "task", "s0", "submitted", ()),
        ("_workflow", "w1", "task", "s0", "submitted", ("a", "b", "c", "d", "e")),
        ("_workflow", "w1", "task", "s0", "claimed", ("1",)),
        ("_timer", "k", "timer", "t", "set", ("5", "1")),
        ("_x", "k", "task", "t", "invented", ()),
        ("_x", "k", "order", "o", "shipped", ()),
    ]),
    data=st.sampled_from(DATA),
    correlation=st.sampled_from(VALUES),
    cause=st.sampled_from(VALUES),
    schema=st.sampled_from([1, 1, 1, 2]),
)  # fmt: skip
def test_every_statement_has_the_reference_bytes(
    once: Any, place: tuple[Any, ...], data: Any, correlation: str | None, cause: str | None, schema: int
) -> None:
    agent, key, kind, id_, event, detail = place
    stated = state(
        once=once, agent=agent, key=key, kind=kind, id=id_, event=event, detail=detail, data=data,
        correlation_id=correlation, causation_id=cause, schema=schema,
    )  # fmt: skip
    encoder = Encoder()

    def outcome(work: Any) -> Any:
        try:
            return work()
        except errors.CoordError as exc:
            return type(exc)

    wanted = outcome(lambda: reference(stated))
    assert outcome(lambda: encoder.encode(stated, stated.data, ID)) == wanted
    assert outcome(lambda: encoder.encode(stated, stated.data, ID)) == wanted, "the second time it is prepared"


def test_what_it_must_be_the_first_of() -> None:
    entity = subjects.entity_filter("acme", "w1", "task", "s0")
    assert first_filter(state()) == entity
    anybodys = subjects.event_filter("acme", "w1", "task", "s0", "cancelled")
    assert first_filter(state(event="cancelled", detail=(), once="event")) == anybodys
    own = subjects.FactSubject("acme", "_workflow", "w1", "task", "s0", "released", ("1",)).stored
    assert first_filter(state(event="released", detail=("1",), once="event")) == own, "nobody else may state it"
    assert first_filter(state(event="released", detail=("1",), once="own")) == own


def test_what_is_prepared_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "_SHAPES_MAX", 2)
    encoder = Encoder()
    for n in range(5):
        stated = state(tenant=f"t{n}", id=f"s{n}")
        assert encoder.encode(stated, stated.data, ID) == reference(stated)
        assert len(encoder._shapes) <= 2
