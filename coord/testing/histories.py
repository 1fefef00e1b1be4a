"""Stored histories: what a workflow's facts were once, folded by the code and the definition of today.

::

    history = fleet.facts(key="order-7")  # or `load` of a file that was kept
    assert coord.testing.replay(history) == []  # the code decides as it did
    assert coord.testing.replay(history, new_definition) == []  # and so does this definition

A workflow that runs finishes with the definition that it began with, whatever is released meanwhile; what must
not change under it is how coord decides.  And whoever changes a definition wants to know what would have
become of yesterday's workflows.  Nothing is run: handlers' outcomes are the history's.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from coord.client.building import Workflow
from coord.core.deciding import Effect, State, place_of
from coord.core.flow_run import AGENT
from coord.core.workflow import WorkflowDecider
from coord.errors import InvalidPayload
from coord.wire import subjects
from coord.wire.envelope import StoredFact
from coord.wire.flow import Definition

_Place: TypeAlias = tuple[Any, ...]

_VOLATILE = frozenset({"instance"})
"""Members that say which process it was."""


class Difference(msgspec.Struct, frozen=True):
    """One decision that is not the one of the history."""

    what: Literal["new", "missing", "changed"]
    """`new`: it is decided now and was not; `missing`: it was, and is not now; `changed`: with other data."""
    fact: str
    """``kind.event`` and the id."""
    recorded: Any = None
    """The data of the history's fact."""
    decided: Any = None
    """The data of today's."""


def replay(history: Iterable[StoredFact], definition: Workflow | Definition | None = None) -> list[Difference]:
    """What would be decided otherwise; empty: nothing.

    `history`: the facts under one workflow's key, in log order, from ``workflow.started`` on; of one that has ended
    or waits (what a running one decides next is `new`).  `definition`: in place of the one that it began with.
    Raises `InvalidPayload` for a history that does not begin with a start.
    """
    facts = list(history)
    if not facts or facts[0].kind != "workflow" or facts[0].event != "started":
        raise InvalidPayload("a history begins with workflow.started", facts=len(facts))
    if definition is not None:
        facts[0] = _with_definition(facts[0], definition)
    decider = WorkflowDecider()
    decided: dict[_Place, State] = {}
    for fact in facts:
        # A history has no clock but its own: what was due by then has been decided by then.
        _note(decider.tick(fact.stored_at.timestamp(), _Nobody()), decided)
        _note(decider.apply(fact), decided)
    recorded = {_place(fact): fact for fact in facts if fact.agent == AGENT}
    return [*_against(recorded, decided), *_missing(recorded, decided)]


def _note(effects: Iterable[Effect], decided: dict[_Place, State]) -> None:
    for effect in effects:
        if isinstance(effect, State):
            decided.setdefault(place_of(effect), effect)


def _place(fact: StoredFact) -> _Place:
    return (fact.tenant, fact.key, fact.kind, fact.id, fact.event, fact.detail)


def _against(recorded: dict[_Place, StoredFact], decided: dict[_Place, State]) -> Iterable[Difference]:
    told: set[str] = set()
    for state in decided.values():
        place = (state.tenant, state.key, state.kind, state.id, state.event, state.detail)
        fact = recorded.get(place)
        name = f"{state.kind}.{'.'.join((state.event, *state.detail))} {state.id}"
        data = _plain(state.data)
        if fact is None:
            if name in told:
                continue  # stated again because the history never had it
            told.add(name)
            yield Difference("new", name, decided=data)
        elif state.merge_seq is None and _plain(fact.data) != data:
            yield Difference("changed", name, _plain(fact.data), data)


def _missing(recorded: dict[_Place, StoredFact], decided: dict[_Place, State]) -> Iterable[Difference]:
    entities = {place[:4] for place in decided if place[4] is None}
    for place, fact in recorded.items():
        if place not in decided and place[:4] not in entities:
            name = f"{fact.kind}.{'.'.join((fact.event, *fact.detail))} {fact.id}"
            yield Difference("missing", name, recorded=_plain(fact.data))


def _with_definition(fact: StoredFact, definition: Workflow | Definition) -> StoredFact:
    defined = definition.definition() if isinstance(definition, Workflow) else definition
    data = {**_plain(fact.data), "definition": _plain(defined)}
    return msgspec.structs.replace(fact, body=msgspec.json.encode(data), content="json", converted=None)


def _plain(data: Any) -> Any:
    """As anybody reads it from the log."""
    plain = msgspec.json.decode(msgspec.json.encode(data))
    return {k: v for k, v in plain.items() if k not in _VOLATILE} if isinstance(plain, dict) else plain


class _Nobody:
    """Workflows do not ask who is there."""

    def lives(self, tenant: str, agent: str, instance: str) -> bool:  # noqa: ARG002
        return True


# --- keeping them ------------------------------------------------------------------------------


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One fact in a file; members are only ever added."""

    tenant: str
    agent: str
    key: str
    kind: str
    id: str
    event: str
    detail: tuple[str, ...] = ()
    seq: int
    event_id: str
    stored_at: datetime
    data: Any = None


def save(history: Iterable[StoredFact], path: Path) -> None:
    """Write a history to a file, a fact a line."""
    lines = [
        msgspec.json.encode(_Kept(**{name: getattr(fact, name) for name in _Kept.__struct_fields__}))
        for fact in history
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")


def load(path: Path) -> list[StoredFact]:
    """Read what `save` wrote; raises `InvalidPayload` naming the line."""
    facts: list[StoredFact] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            kept = msgspec.json.decode(line, type=_Kept)
        except msgspec.MsgspecError as exc:
            raise InvalidPayload(f"{path.name}, line {number}: {exc}") from exc
        facts.append(_fact(kept))
    return facts


def _fact(kept: _Kept) -> StoredFact:
    return StoredFact(
        kept.tenant, kept.agent, kept.key, kept.kind, kept.id, kept.event, kept.detail,
        partition=subjects.partition(kept.key), seq=kept.seq, index=0, stored_at=kept.stored_at,
        occurred_at=kept.stored_at, event_id=kept.event_id, type=subjects.default_type(kept.kind, kept.event), schema=1,
        correlation_id=None, causation_id=None, traceparent=None, body=msgspec.json.encode(kept.data), content="json",
    )  # fmt: skip
