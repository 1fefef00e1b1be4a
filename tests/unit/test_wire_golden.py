"""The golden vectors: every release decodes the bytes of every earlier one to the same rows."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from coord.core.status import StatusFold
from coord.errors import InvalidEnvelope, InvalidPayload, InvalidToken, WireError
from coord.wire import headers, ids, status, subjects
from coord.wire.envelope import Poison, decode_message, parse_time
from tests.golden.make_vectors import row

V1 = Path(__file__).parents[1] / "golden" / "v1"


def load(name: str) -> Any:
    return json.loads((V1 / name).read_text())


def decode(vector: dict[str, Any]) -> list[Any]:
    raw = vector["headers"]
    return decode_message(
        vector["stored"],
        None if raw is None else base64.b64decode(raw),
        base64.b64decode(vector["body"]),
        vector["seq"],
        parse_time(vector["stored_at"]),
    )


@pytest.mark.parametrize("vector", load("messages.json"), ids=lambda v: v["name"])
def test_messages_decode_to_their_rows(vector):
    assert [row(item) for item in decode(vector)] == vector["rows"]
    if vector["published"]:
        assert subjects.parse_published(vector["published"]).stored == vector["stored"]


@pytest.mark.parametrize("vector", load("invalid.json"), ids=lambda v: v["name"])
def test_invalid_messages_are_dead_letters(vector):
    (item,) = decode(vector)
    assert isinstance(item, Poison)
    assert item.error.code == vector["code"]
    assert (item.seq, item.index, item.body) == (vector["seq"], 0, base64.b64decode(vector["body"]))
    assert "\x00" not in str(item.error)  # the reason goes into a text column


@pytest.mark.parametrize("vector", load("status.json"), ids=lambda v: v["name"])
def test_statuses_by_changes(vector):
    fold = StatusFold()
    for step in vector["steps"]:
        text = json.dumps(step["data"])
        try:
            fold.take(status.read_whole(text) if step["event"] == "status" else status.read_change(text))
        except InvalidPayload:
            fold.take(None)
        assert (fold.state, fold.stale) == (step["state"], step["stale"])


def test_subjects():
    vectors = load("subjects.json")
    for v in vectors["partitions"]:
        assert subjects.fnv1a_32(v["token"].encode()) == v["fnv1a_32"]
        assert subjects.partition(v["token"]) == v["fnv1a_32"] % 16 == v["partition"]
    for v in vectors["facts"]:
        fact = subjects.FactSubject(
            v["tenant"], v["agent"], v["key"], v["kind"], v["id"], v["event"], tuple(v["detail"])
        ).checked()
        assert (fact.publish, fact.stored, fact.live) == (v["publish"], v["stored"], v["live"])
        assert subjects.parse_published(v["publish"]) == fact == subjects.parse_stored(v["stored"])
    for v in vectors["samples"]:
        sample = subjects.SampleSubject(v["tenant"], v["agent"], v["series"]).checked()
        assert (sample.publish, sample.stored) == (v["publish"], v["stored"])


def test_filters_and_other_subjects_by_name():
    vectors = load("subjects.json")
    assert [v["filter"] for v in vectors["filters"]] == [
        subjects.entity_filter("acme", "wf-7", "task", "doc-42"),
        subjects.event_filter("acme", "wf-7", "task", "doc-42", "claimed", ("1",)),
        subjects.log_filter("acme", kind="task"),
        subjects.log_filters("acme", kind="task", event="completed")[1],
        subjects.partition_filter("EVENTS", 3),
        subjects.partition_filter("TELEMETRY", 3),
    ]
    assert subjects.parse_rpc(vectors["others"]["rpc"]) == ("acme", "log", "read")
    assert subjects.parse_timer(vectors["others"]["timer"]) == ("acme", "wf-7", "timer", "t-1")
    assert subjects.parse_due(vectors["others"]["due"]) == ("acme", "wf-7", "timer", "t-1")
    assert subjects.parse_notice(vectors["others"]["notice"]) == ("acme", 3)
    assert subjects.parse_dlq(vectors["others"]["dlq"]) == ("EVENTS", "acme", "a1")
    assert subjects.parse_dlq(vectors["others"]["dlq_unknown"]) == ("TELEMETRY", None, None)
    assert subjects.parse_cursor(vectors["others"]["cursor"]) == ("acme", "a1", "audit")


def test_invalid_subjects_are_refused():
    vectors = load("subjects.json")
    for token in vectors["invalid_tokens"]:
        with pytest.raises(InvalidToken):
            subjects.check_token(token, "token")
    for subject in vectors["invalid_published"]:
        with pytest.raises(WireError):
            subjects.parse_published(subject)


def test_ids():
    vectors = load("ids.json")
    for v in vectors["uuid7"]:
        assert ids.uuid7(v["unix_ms"], int(v["random_80bits_hex"], 16)) == v["id"]
    for v in vectors["counted"]:
        assert ids.counted_id(int(v["session_74bits_hex"], 16), v["count"]) == v["id"]
    for name, made in (("derived", ids.derive_id), ("hashed", ids.hashed_id)):
        for v in vectors[name]:
            assert made(**{field: value for field, value in v.items() if field != "id"}) == v["id"]


def test_percent_encoding():
    vectors = load("headers.json")
    for v in vectors["percent_encoding"]:
        assert headers.quote(v["text"]) == v["encoded"]
        if v["text"].isprintable():
            assert headers.unquote(v["encoded"], "ce-id") == v["text"]
    for v in vectors["decoded_only"]:
        assert headers.unquote(v["encoded"], "ce-id") == v["text"]
    for value in vectors["invalid"]:
        with pytest.raises(InvalidEnvelope):
            headers.unquote(value, "ce-id")
