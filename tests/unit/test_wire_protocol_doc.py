"""docs/protocol.md says what the code does: its commands decode, its tables are the code's."""

from __future__ import annotations

import codecs
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coord import errors, limits
from coord.core import tasks
from coord.projector.tables import QUIET
from coord.wire import headers, ids, log_api, query_api, subjects
from coord.wire.authors import TABLE
from coord.wire.envelope import Poison, decode_message
from coord.wire.used import UsedRequest

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


def section(number: int, part: int = 0) -> str:
    """A chapter with its parts, or one part of it."""
    head, end = (f"## {number}\\.", "## ") if not part else (f"### {number}\\.{part}", "##")
    found = re.search(rf"^{head} .*?(?=^{end}|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return found[0]


def tables(text: str) -> list[list[str]]:
    """All rows of all tables, cells stripped; headings and rules left out."""
    lines = text.splitlines()
    rows = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    heads = {at for at, row in enumerate(rows) if set(row[0]) <= set("-")}
    return [row for at, row in enumerate(rows) if at not in heads and at + 1 not in heads]


def commands() -> list[str]:
    """Every `nats pub|req|sub` of the page, continuation lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ").replace("|\n", "| ")
    return [line for line in joined.splitlines() if re.match(r"(nats|printf) ", line)]


def run(command: str) -> tuple[str, str, dict[str, str], bytes]:
    """(verb, subject, headers, body) of a command line, as the nats CLI would send it."""
    body = b""
    if command.startswith("printf"):
        printed, command = command.split(" | ")
        body = codecs.decode(shlex.split(printed)[1], "unicode_escape").encode("latin-1")
    _, verb, subject, *rest = shlex.split(command)
    fields: dict[str, str] = {}
    while rest:
        word = rest.pop(0)
        if word == "-H":
            name, _, value = rest.pop(0).partition(":")
            fields[name] = value
        elif word != "--force-stdin":
            body = word.encode()
    return verb, subject, fields, body


PUBLISHED = [c for c in commands() if " coord.ev." in c or " coord.tel." in c]


@pytest.mark.parametrize("command", PUBLISHED)
def test_commands_publish_what_is_believed(command):
    _, subject, fields, body = run(command)
    stored = subjects.parse_published(subject).stored
    rows = decode_message(stored, headers.encode(fields) if fields else None, body, 17, NOW)
    assert rows
    assert not [r for r in rows if isinstance(r, Poison)]
    if "Nats-Msg-Id" in fields:
        tenant, agent = subjects.owner(subject)
        assert fields["Nats-Msg-Id"] == f"{tenant}.{agent}.{fields['ce-id']}"
    if headers.EXPECTED_LAST_SUBJECT in fields:
        parsed = subjects.parse_published(subject)
        assert isinstance(parsed, subjects.FactSubject)
        entity = (parsed.tenant, parsed.key, parsed.kind, parsed.id)
        once = {subjects.entity_filter(*entity), subjects.event_filter(*entity, parsed.event, parsed.detail)}
        assert fields[headers.EXPECTED_LAST_SUBJECT] in once


def test_there_are_commands_of_both_forms():
    verbs = {run(c)[0] for c in PUBLISHED}
    assert verbs == {"pub", "req"}
    assert len(PUBLISHED) >= 8


def test_the_other_commands():
    others = [run(c) for c in commands() if c not in PUBLISHED]
    read, asked, used = [o for o in others if o[0] == "req"]
    assert subjects.parse_rpc(read[1]) == ("acme", "log", "read")
    request = msgspec.json.decode(read[3], type=log_api.ReadRequest)
    assert (request.filter.kind, request.from_seq, request.max) == ("task", 1, 100)
    assert subjects.parse_rpc(used[1]) == ("acme", "ids", "used")
    assert msgspec.json.decode(used[3], type=UsedRequest).ids == [("doc-42", "doc-42")]
    assert subjects.parse_rpc(asked[1]) == ("acme", "query", "tasks")
    question = msgspec.json.decode(asked[3], type=query_api.QueryRequest)
    assert (question.params, question.rows) == ({"status": "dead"}, 20)
    (sub,) = [o for o in others if o[0] == "sub"]
    assert sub[1] == subjects.live_filter("acme", kind="task", event="completed")


def test_the_table_of_authors():
    rows = {
        (kind.strip("`"), event.strip("`")): (author, deciders == "yes", frames == "yes")
        for kind, event, author, deciders, frames in tables(section(7))
    }
    assert rows == {entry: (r.author.value, r.deciders, r.frames) for entry, r in TABLE.items()}


def test_the_codes():
    def wire_errors(base: type[errors.CoordError]) -> set[str]:
        return {base.code} | {code for sub in base.__subclasses__() for code in wire_errors(sub)}

    refused = {r.code for r in vars(tasks).values() if isinstance(r, tasks.Refusal)}
    believed = QUIET | {"task.unknown"}  # repeated, or of a task that nobody is known to have submitted: rows
    definitions = wire_errors(errors.InvalidWorkflow)  # how a workflow ends, and no reason of a dead letter
    mine = wire_errors(errors.WireError) - {errors.WireError.code, errors.RegisteredTwice.code} - definitions
    told = [row[0].strip("`") for row in tables(section(12))]
    assert sorted(told) == sorted(mine | (refused - believed))
    assert definitions <= set(re.findall(r"`([a-z_.]+)`", section(16)))


def test_the_limits():
    found = {row[0]: row[1] for row in tables(section(13))}
    expected: dict[str, Any] = {
        "token": limits.TOKEN_BYTES_MAX,
        "detail tokens": limits.DETAIL_TOKENS_MAX,
        "series tokens": limits.SERIES_TOKENS_MAX,
        "body of one fact or sample": limits.EVENT_BYTES_MAX,
        "headers together": limits.HEADERS_BYTES_MAX,
        "`ce-id`": limits.EVENT_ID_BYTES_MAX,
        "other envelope values, decoded": limits.HEADER_VALUE_BYTES_MAX,
        "nesting": limits.NESTING_MAX,
        "frame entries": limits.FRAME_ENTRIES_MAX,
        "frame, decoded": limits.FRAME_BYTES_MAX,
        "schema": limits.SCHEMA_VERSION_MAX,
        "facts of one answer": limits.READ_PAGE_FACTS_MAX,
        "deduplication window": int(limits.DUPLICATE_WINDOW_S),
    }
    assert {name: int(re.match(r"\d+", value)[0]) for name, value in found.items()} == expected  # type: ignore[index]


def test_the_headers():
    names = {row[0].strip("`").lower() for row in tables(section(3))}
    assert names == {n.lower() for n in headers.ENVELOPE} | {headers.MSG_ID.lower()}


def test_the_answer_of_the_log_reader():
    log = section(10).removesuffix(section(10, 1))
    named = {name for row in tables(log) for name in re.findall(r"`(\w+)`", row[0])}
    request = {"from" if f == "from_" else f for f in log_api.ReadRequest.__struct_fields__}
    assert named == request | set(log_api.Page.__struct_fields__)
    listed = set(re.findall(r"`(\w+)`", log))
    assert set(log_api.JsonFact.__struct_fields__) <= listed
    assert set(log_api.LogInfo.__struct_fields__) <= listed


def test_the_answer_about_the_tables():
    named = {name for row in tables(section(10, 1)) for name in re.findall(r"`(\w+)`", row[0])}
    assert named == {*query_api.QueryRequest.__struct_fields__, *query_api.QueryAnswer.__struct_fields__}


def test_worked_values():
    for token, p in re.findall(r'`partition\("([\w-]+)"\)` is (\d+)', TEXT):
        assert subjects.partition(token) == int(p)
    assert headers.quote("Euro € 😀") in TEXT
    derived = re.search(r'derive\("acme", "wf-7", "review@3", "parse", 1, 0\): (\S+)\n', TEXT)
    assert derived
    assert ids.derive_id("acme", "wf-7", "review@3", "parse", 1, 0) == derived[1]
    counted = re.search(r"counted\(0x([0-9a-f]+) of 74 bits, 255\): (\S+)\n", TEXT)
    assert counted
    assert ids.counted_id(int(counted[1], 16), 255) == counted[2]
    hashed = re.search(r'hash\("acme", "wf-7", "review@3", "parse", 1, 0\):\n\s+SHA-256\("(.*)"\)', TEXT)
    assert hashed
    import hashlib

    digest = hashlib.sha256(hashed[1].encode()).hexdigest()
    assert ids.hashed_id("acme", "wf-7", "review@3", "parse", 1, 0).replace("-", "")[:12] == digest[:12]
    frame = re.search(r"```\n(93 .*?)```", TEXT, re.DOTALL)
    assert frame
    dumped = bytes.fromhex("".join(re.findall(r"^\s*((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", frame[1], re.MULTILINE)))
    assert dumped == run(next(c for c in commands() if c.startswith("printf")))[3]
