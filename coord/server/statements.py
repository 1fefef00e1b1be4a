"""From what a decider states to a message, fast: what `coord.wire.encode` does, prepared per kind.

A workflow of three steps is four statements: a fifth of the CPU that deciding about it took was
encoding them.  The bytes are the reference's, by a test; whatever is unusual goes through the
reference, which says what is wrong with it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from coord.core.deciding import State
from coord.runtime import clock
from coord.wire import authors, headers, subjects
from coord.wire.encode import encode_fact
from coord.wire.facts import REGISTRY
from coord.wire.prepared import (
    PLACE_ID,
    PLACE_TIME,
    Moments,
    are_tokens,
    checked_json,
    condition,
    is_plain,
    is_token,
    open_block,
    open_subject,
)
from coord.wire.records import Fact

_SHAPES_MAX: Final = 4_096
"""Remembered, of (tenant, decider, kind, event): a tenant has a few dozen."""


class Message(msgspec.Struct, gc=False):
    """One statement, encoded."""

    subject: str
    headers: bytes
    body: bytes


class _Shape(msgspec.Struct, frozen=True):
    """What is the same for all statements of one kind and event by one decider of one tenant."""

    subject: str
    """Places for key and entity."""
    head: str
    """The header block, open at its end: places for id, time, id."""
    own: bool
    """Deciders alone may state it."""


class Encoder:
    """Of one process.  Not thread-safe."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, str, str, str], _Shape] = {}
        self._moments = Moments()

    def encode(self, state: State, data: Any, event_id: str) -> Message:
        """The message that states it, with its condition; raises the `WireError` a reader would refuse it with.

        `data`: instead of the state's own.  `event_id`: `ids.derive_id`'s.
        """
        shape = self._shape(state)
        correlation, cause = state.correlation_id, state.causation_id
        key, id_, detail = state.key, state.id, state.detail
        if (
            not (is_token(key) and is_token(id_) and are_tokens(detail))
            or not (correlation is None or is_plain(correlation))
            or not (cause is None or is_plain(cause))
            or REGISTRY.of_payload(data) is not None
            or state.schema != 1
        ):
            return _by_reference(state, data, event_id)
        extra = "" if correlation is None else f"{headers.CORRELATION}: {correlation}\r\n"
        if cause is not None:
            extra += f"{headers.CAUSATION}: {cause}\r\n"
        if state.once is not None:
            extra += condition(_first(state, own=shape.own), 0)
        moment = self._moments.text(int(clock.unix() * 1e6))
        subject = shape.subject % (key, id_)
        return Message(
            ".".join((subject, *detail)) if detail else subject,
            f"{shape.head % (event_id, moment, event_id)}{extra}\r\n".encode(),
            b"" if data is None else checked_json(data),
        )

    def _shape(self, state: State) -> _Shape:
        place = (state.tenant, state.agent, state.kind, state.event)
        shape = self._shapes.get(place)
        if shape is None:
            model = Fact(kind=state.kind, id="x", key="x", event=state.event)
            if state.kind == "agent":  # the entity is the key: `authors.check`
                model = msgspec.structs.replace(model, id=state.id, key=state.key)
            made = encode_fact(model, tenant=state.tenant, agent=state.agent, event_id=PLACE_ID, occurred_at=PLACE_TIME)
            shape = _Shape(
                subject=open_subject(state.tenant, state.agent, state.kind, state.event),
                head=open_block(made.headers),
                own=authors.rule_for(state.kind, state.event).author is authors.Author.DECIDER,
            )
            if len(self._shapes) >= _SHAPES_MAX:
                self._shapes.clear()
            if state.kind != "agent":
                self._shapes[place] = shape
        return shape


def first_filter(state: State) -> str:
    """What a statement has to be the first of."""
    return _first(state, own=authors.rule_for(state.kind, state.event).author is authors.Author.DECIDER)


def _first(state: State, *, own: bool) -> str:
    entity = subjects.entity_prefix(state.tenant, state.key, state.kind, state.id)
    if state.once == "entity":
        return f"{entity}.>"
    # Nobody else may state it; a forged one, which nobody believes, must not keep this one out.
    author = state.agent if own or state.once == "own" else "*"
    return ".".join((entity, author, state.event, *state.detail))


def _by_reference(state: State, data: Any, event_id: str) -> Message:
    fact = Fact(
        kind=state.kind, id=state.id, event=state.event, data=data, key=state.key, detail=state.detail,
        correlation_id=state.correlation_id, causation_id=state.causation_id, schema=state.schema,
    )  # fmt: skip
    made = encode_fact(fact, tenant=state.tenant, agent=state.agent, event_id=event_id, occurred_at=clock.utc_now())
    fields = made.headers
    if state.once is not None:
        fields[headers.EXPECTED_LAST_SUBJECT_SEQ] = "0"
        fields[headers.EXPECTED_LAST_SUBJECT] = first_filter(state)
    return Message(made.subject, headers.encode(fields), made.body)
