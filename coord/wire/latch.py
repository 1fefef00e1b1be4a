"""What is said about signals: the data of the facts of kind `signal`, in docs/protocol.md §16.4.

A **signal** is a durable latch: the entity (tenant, key, ``signal``, name).  Raised once it stays
raised; who waits for it states that, and is told.  What is believed is the fold of
`coord.core.signals`; this module has the bodies.  They are JSON maps that only grow, with defaults.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.errors import InvalidPayload
from coord.wire.numbers import Count
from coord.wire.subjects import check_token

KEY: Final = "signals"
"""The key of signals that belong to no piece of work: one partition sees all of a tenant's."""

TOPIC: Final = "signal"
"""Of pushes: ``{"what": "raised", "key", "id", "wait", "instance", "data"}`` (`more`: the data is too large to be
told, the log has it), ``{"what": "deadlocked", …, "cycle"}`` and ``{"what": "ended", …, "reason"}``."""

Mode: TypeAlias = Literal["all", "any"]

Ending: TypeAlias = Literal["", "any", "timeout", "cancelled", "deadlocked", "gone"]
"""Why a wait ended without its signal."""


class Raised(msgspec.Struct, frozen=True, omit_defaults=True):
    """``signal.raised``: from now on it is.  The first counts; another one changes nothing."""

    data: Any = None
    """Whatever whoever waits should know."""
    raised_at: float | None = None
    """Unix seconds: where its decider states it again."""
    raised_by: str | None = None
    restated: Count = 0


class Awaited(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``signal.awaited.{wait}``: the author waits.  Stated of each signal that it waits for."""

    names: tuple[str, ...] = ()
    """All that it waits for; empty: this one."""
    mode: Mode = "all"
    instance: str | None = None
    """Of whoever waits: the wait ends with it.  None (a plain client): it ends at `deadline`."""
    deadline: float | None = None
    """Unix seconds."""
    provides: tuple[str, ...] = ()
    """Signals of the same key that the author raises when this wait is over: what cycles are found by."""
    since: float | None = None
    """Where its decider states it again: since when,"""
    agent: str | None = None
    """and who."""
    first_seq: Count = 0
    """Of the wait's first statement;"""
    restated: Count = 0
    """how often it was stated since."""


class Resumed(msgspec.Struct, frozen=True, omit_defaults=True):
    """``signal.resumed.{wait}``: the wait for this signal is over, though it was not raised."""

    reason: Ending = ""


class Edge(msgspec.Struct, frozen=True):
    """One of a cycle: `agent` waits for the signal `name`, which the next one provides."""

    agent: str
    name: str
    wait: str
    instance: str | None = None


class Deadlocked(msgspec.Struct, frozen=True, omit_defaults=True):
    """``signal.deadlocked.{wait}``: nobody of these can go on."""

    cycle: tuple[Edge, ...] = ()


def check(said: Awaited) -> Awaited:
    """Itself, or `InvalidPayload`/`InvalidToken` naming what is out of range."""
    for what, names in (("names", said.names), ("provides", said.provides)):
        if len(names) > limits.SIGNAL_NAMES_MAX:
            raise InvalidPayload(f"a wait has at most {limits.SIGNAL_NAMES_MAX} {what}", given=len(names))
        for name in names:
            check_token(name, what)
    return said


def words(cycle: tuple[Edge, ...]) -> str:
    """``a waits for b-ready, b waits for a-ready``."""
    return ", ".join(f"{edge.agent} waits for {edge.name}" for edge in cycle)
