"""An agent's status on the wire: all of it, or only what changed since.

``agent.status`` is the whole: any JSON value.  A map may have the member ``_rev``, which says
what changes build upon::

    {"load": 0.2, "task": "t1", "_rev": {"run": "k3jd8s0q", "at": 41}}

``agent.changed`` is a change of the state that was numbered one less by the same run::

    {"run": "k3jd8s0q", "at": 42, "set": {"load": 0.4}, "unset": ["task"]}

`run` is one life of the agent's process; `at` counts its statements, changes and wholes alike.
Members are replaced as they are, never merged: a null is a value, and a member that is itself
a map is sent anew when something in it changes.

Values stay the bytes they are (JSON): decimals keep their digits, nothing is decoded that
nobody reads.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import msgspec

from coord.errors import InvalidPayload

WHOLE: Final = "status"
"""The event of a whole status,"""
CHANGE: Final = "changed"
"""and of a change."""

MEMBER: Final = "_rev"
"""The reserved member of a status that says its run and number."""

_QUOTED: Final = f'"{MEMBER}"'
_RUN = re.compile(r"[A-Za-z0-9_-]{1,32}")
_AT_MAX: Final = 2**53

Fields: TypeAlias = dict[str, bytes]
"""Member → its value's JSON."""


class Whole(msgspec.Struct, frozen=True):
    """All of a status."""

    fields: Fields | None
    """None where it is no map; then `text` is all there is."""
    text: bytes
    """Its JSON, without `_rev`."""
    run: str | None = None
    """None: nothing can build upon it (a plain client's)."""
    at: int = 0


class Change(msgspec.Struct, frozen=True):
    """What changed since the statement before it."""

    run: str
    at: int
    set: Fields
    unset: tuple[str, ...] = ()


Statement: TypeAlias = Whole | Change


class _Revision(msgspec.Struct):
    run: str
    at: int


class _ChangeBody(msgspec.Struct):
    run: str
    at: int
    set: dict[str, msgspec.Raw] = {}
    unset: list[str] = []


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_revision = msgspec.json.Decoder(_Revision).decode
_decode_change = msgspec.json.Decoder(_ChangeBody).decode


def whole_body(state: dict[str, Any], run: str, at: int) -> dict[str, Any]:
    """The data of an ``agent.status`` that changes can build upon."""
    return {**state, MEMBER: {"run": run, "at": at}}


def change_body(run: str, at: int, set_: dict[str, Any], unset: list[str]) -> dict[str, Any]:
    """The data of an ``agent.changed``; what is empty is left out."""
    body: dict[str, Any] = {"run": run, "at": at}
    if set_:
        body["set"] = set_
    if unset:
        body["unset"] = unset
    return body


def has_revision(text: str) -> bool:
    """Whether the JSON of a status may have a revision: cheap, and True too often rather than too rarely."""
    return _QUOTED in text


def read_whole(text: str) -> Whole:
    """The status in the JSON `text` of an ``agent.status``.  A `_rev` that says nothing sensible is data."""
    raw = text.encode()
    if not has_revision(text):
        return Whole(None, raw)
    try:
        given = _decode_fields(raw)
        revision = _decode_revision(given[MEMBER])
    except (msgspec.DecodeError, KeyError, RecursionError):
        return Whole(None, raw)
    if not _RUN.fullmatch(revision.run) or not 1 <= revision.at <= _AT_MAX:
        return Whole(None, raw)
    fields = {name: bytes(value) for name, value in given.items() if name != MEMBER}
    return Whole(fields, join(fields), revision.run, revision.at)


def read_change(text: str) -> Change:
    """The change in the JSON `text` of an ``agent.changed``; raises `InvalidPayload`."""
    try:
        body = _decode_change(text.encode())
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as exc:
        raise InvalidPayload(f"not a change of a status: {exc}") from exc
    return checked_change(body.run, body.at, {name: bytes(value) for name, value in body.set.items()}, body.unset)


def checked_change(run: str, at: int, set_: Fields, unset: list[str]) -> Change:
    """A change with these members; raises `InvalidPayload` where they contradict each other or the protocol."""
    if not _RUN.fullmatch(run) or not 2 <= at <= _AT_MAX:
        raise InvalidPayload("a change has the run of a whole status and a number above its", run=run[:64], at=at)
    if MEMBER in set_ or not set_.keys().isdisjoint(unset):
        raise InvalidPayload(f"a change does not set {MEMBER}, nor set and unset one member")
    return Change(run, at, set_, tuple(unset))


def fields_of(text: bytes) -> Fields | None:
    """The members of a JSON map; None for any other value."""
    try:
        return {name: bytes(value) for name, value in _decode_fields(text).items()}
    except msgspec.DecodeError:
        return None


def join(fields: Fields) -> bytes:
    """The JSON map of `fields`."""
    return b"{%b}" % b",".join([b"%b:%b" % (msgspec.json.encode(name), value) for name, value in fields.items()])
