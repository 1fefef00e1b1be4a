"""Who may state what."""

from __future__ import annotations

import pytest

from coord.errors import FrameNotAllowed, KeyMismatch, Unauthorised, UnknownSchema
from coord.wire import authors
from coord.wire.authors import TABLE, Author, check, rule_for
from coord.wire.subjects import FactSubject, check_token


def said(agent: str, kind: str, event: str, of: str = "x1", key: str | None = None) -> FactSubject:
    return FactSubject("acme", agent, of if key is None else key, kind, of, event)


@pytest.mark.parametrize("entry", [*sorted(TABLE), ("task", "eaten"), ("file", "scanned")], ids=".".join)
def test_what_is_allowed_unseen_is_allowed_of_every_entity(entry):
    kind, event = entry
    allowed = 0
    for agent in ("a1", "_d"):
        for schema in (1, 2):
            if authors.is_allowed(kind, event, schema, decider=agent == "_d"):
                allowed += 1
                check(said(agent, kind, event, key="k1"), schema=schema)
    rule = TABLE.get(entry)
    assert bool(allowed) == (rule is not None and kind != "agent" and rule.author is not Author.SELF)


@pytest.mark.parametrize("entry", sorted(TABLE), ids=".".join)
def test_every_rule_holds_for_agents_and_deciders(entry):
    kind, event = entry
    rule = TABLE[entry]
    check_token(kind, "kind")
    check_token(event, "event")
    outcomes = {}
    for who, agent in (("itself", "x1"), ("other", "a1"), ("decider", "_d")):
        try:
            assert check(said(agent, kind, event)) is rule
            outcomes[who] = True
        except Unauthorised:
            outcomes[who] = False
    expected = {
        Author.ANYONE: (True, True, rule.deciders),
        Author.SELF: (True, False, False),
        Author.DECIDER: (False, False, True),
        # Decided by the fold; here only the names of deciders are kept apart.
        Author.CLAIMANT: (True, True, False),
        Author.SUBMITTER: (True, True, rule.deciders),
        Author.ADDRESSEE: (True, True, False),
    }[rule.author]
    assert tuple(outcomes.values()) == expected


def test_only_status_and_progress_travel_in_frames():
    framed = {entry for entry, rule in TABLE.items() if rule.frames}
    assert framed == {("agent", "status"), ("agent", "changed"), ("task", "progress"), ("workflow", "progress")}
    assert all(TABLE[entry].service_class == "status" for entry in framed)
    assert all(rule.service_class == "critical" for rule in TABLE.values() if not rule.frames)


def test_an_agents_facts_carry_its_name_as_key():
    check(said("a1", "agent", "status", of="a1"))
    with pytest.raises(KeyMismatch):
        check(said("a1", "agent", "status", of="a1", key="other"))
    with pytest.raises(KeyMismatch):
        check(said("_presence", "agent", "gone", of="a1", key="other"))


def test_reserved_kinds_are_closed():
    for kind in authors.RESERVED_KINDS:
        with pytest.raises(Unauthorised, match="not an event of the reserved kind"):
            check(said("a1", kind, "exploded"))


def test_applications_kinds_are_open_to_agents_and_closed_to_deciders():
    rule = check(said("a1", "note", "taken"), schema=999)
    assert (rule.author, rule.service_class, rule.frames, rule.schema) == (Author.ANYONE, "critical", False, None)
    progress = check(said("a1", "note", "progress"), framed=True)
    assert (progress.service_class, progress.frames) == ("status", True)
    with pytest.raises(Unauthorised):
        check(said("_d", "note", "taken"))
    with pytest.raises(FrameNotAllowed):
        check(said("a1", "note", "taken"), framed=True)


def test_a_newer_schema_of_a_reserved_kind():
    check(said("a1", "task", "submitted"), schema=1)
    with pytest.raises(UnknownSchema):
        check(said("a1", "task", "submitted"), schema=2)


def test_the_entity_decides_not_the_tenant():
    assert rule_for("task", "submitted").author is Author.ANYONE
    assert rule_for("anything", "happened") is authors.APPLICATION
