"""Registered payload types, real pydantic models, upcasters."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import pydantic
import pytest

from coord.errors import InvalidPayload, InvalidToken, RegisteredTwice, UnknownSchema
from coord.wire import facts, subjects
from coord.wire.envelope import Fact, StoredFact, decode_message, encode_fact
from coord.wire.facts import Registry, fact

AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


@fact("wire-test", "scanned", schema=3, service_class="status")
class Scanned(msgspec.Struct):
    path: str
    lines: int
    at: datetime
    tags: list[str] = []


@facts.REGISTRY.upcaster("wire-test", "scanned", 1)
def _name_became_path(data: Any) -> Any:
    return {**{k: v for k, v in data.items() if k != "name"}, "path": data["name"]}


@facts.REGISTRY.upcaster("wire-test", "scanned", 2)
def _at_is_required(data: Any) -> Any:
    return {"at": "2020-01-01T00:00:00Z", **data}


@fact("wire-test", "measured")
@dataclasses.dataclass
class Measured:
    value: float


@fact("wire-test", "reviewed", schema=2)
class Reviewed(pydantic.BaseModel):
    verdict: str
    at: datetime
    score: float = 0.5


@facts.REGISTRY.upcaster("wire-test", "reviewed", 1)
def _verdict(data: Any) -> Any:
    return {"verdict": data["result"], "at": "2020-01-01T00:00:00Z"}


def there_and_back(stated: Fact, content: Any = "json") -> StoredFact:
    message = encode_fact(stated, tenant="acme", agent="a1", event_id="e", occurred_at=AT, content=content)
    stored = subjects.parse_published(message.subject).stored
    (row,) = decode_message(stored, message.header_block(), message.body, 1, AT)
    assert isinstance(row, StoredFact)
    return row


@pytest.mark.parametrize("content", ["json", "msgpack"])
@pytest.mark.parametrize(
    "payload",
    [Scanned("a.py", 3, AT, ["x"]), Measured(1.5), Reviewed(verdict="good", at=AT)],
    ids=lambda p: type(p).__name__,
)
def test_objects_there_and_back(payload, content):
    row = there_and_back(Fact.of(payload, id="f1", key="k1", correlation_id="c"), content)
    entry = facts.REGISTRY.of_payload(payload)
    assert entry is not None
    assert (row.kind, row.event, row.schema) == ("wire-test", entry.event, entry.schema)
    assert (row.key, row.correlation_id) == ("k1", "c")
    assert row.decode(type(payload)) == payload


def test_the_registered_version_goes_out_even_without_of():
    row = there_and_back(Fact(kind="wire-test", id="f1", event="scanned", data=Scanned("a", 1, AT)))
    assert row.schema == 3


def stored_with(schema: int, event: str, data: Any) -> StoredFact:
    return there_and_back(Fact(kind="wire-test", id="f1", event=event, data=data, schema=schema))


def test_older_versions_are_upcast():
    assert stored_with(1, "scanned", {"name": "a.py", "lines": 3}).decode(Scanned) == Scanned(
        "a.py", 3, datetime(2020, 1, 1, tzinfo=UTC)
    )
    assert stored_with(2, "scanned", {"path": "a.py", "lines": 3}).decode(Scanned).path == "a.py"
    assert stored_with(1, "reviewed", {"result": "bad"}).decode(Reviewed).verdict == "bad"
    with pytest.raises(UnknownSchema):
        stored_with(4, "scanned", {}).decode(Scanned)
    with pytest.raises(InvalidPayload):
        stored_with(2, "scanned", {"path": 1, "lines": 3}).decode(Scanned)
    with pytest.raises(InvalidPayload):
        stored_with(1, "reviewed", {"result": 7}).decode(Reviewed)
    # Another type than the registered one is decoded as it is.
    assert stored_with(1, "scanned", {"name": "a.py"}).decode(dict[str, str]) == {"name": "a.py"}


def test_a_missing_step_is_named():
    with pytest.raises(UnknownSchema, match="no upcaster from schema 1 to 2"):
        facts.Registry().upcast(facts.FactType("k", "e", 2, dict), {}, 1)


def test_of_needs_a_registration():
    with pytest.raises(InvalidPayload, match="not registered"):
        Fact.of({"a": 1}, id="x")


def test_what_is_registered_twice_is_refused():
    registry = Registry()

    class One:
        pass

    class Two:
        pass

    registry.register("k", "e", One)
    registry.register("k", "e", One)
    with pytest.raises(RegisteredTwice):
        registry.register("k", "e", Two)
    with pytest.raises(RegisteredTwice):
        registry.register("k", "f", One)
    with pytest.raises(InvalidToken):
        registry.register("K", "e", Two)
    with pytest.raises(UnknownSchema):
        registry.register("k", "g", Two, schema=0)
    registry.upcaster("k", "e", 1)(dict)
    with pytest.raises(RegisteredTwice):
        registry.upcaster("k", "e", 1)(list)


def test_a_module_loaded_again_replaces_its_types():
    registry = Registry()
    first = type("Payload", (), {"__module__": "m"})
    again = type("Payload", (), {"__module__": "m"})
    registry.register("k", "e", first)
    registry.register("k", "e", again)
    entry = registry.of_event("k", "e")
    assert entry is not None
    assert entry.payload is again


def test_classes_of_service():
    assert facts.REGISTRY.service_class("wire-test", "scanned") == "status"
    assert facts.REGISTRY.service_class("wire-test", "measured") == "critical"
    assert facts.REGISTRY.service_class("wire-test", "progress") == "status"
    assert facts.REGISTRY.service_class("agent", "status") == "status"
    registry = Registry()
    registry.register("task", "completed", dict, service_class="metrics")
    assert registry.service_class("task", "completed") == "critical"  # the table's word, for reserved kinds
    assert facts.rule("task", "completed").service_class == "critical"


def test_builtins():
    assert facts.payload_to_builtins(Reviewed(verdict="x", at=AT)) == {
        "verdict": "x",
        "at": "2026-11-21T10:00:00Z",
        "score": 0.5,
    }
    assert facts.payload_to_builtins(Measured(1.0)) == {"value": 1.0}
    with pytest.raises(InvalidPayload):
        facts.payload_to_builtins(object())


def test_the_wire_imports_neither_pydantic_nor_io():
    code = "import sys; from coord.wire import envelope, facts, republished, log_api; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"pydantic", "asyncio", "nats", "asyncpg"} & set(out.stdout.split())
