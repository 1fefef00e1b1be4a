"""Which received fact is being handled, so that what is emitted meanwhile says what caused it.

A subscription calls `handling(fact)` (or `follow` around each fact it yields); `emit` asks
`current()`.  The context is a `contextvars` one: it belongs to the asyncio task, and tasks
started while handling a fact inherit it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from contextvars import Token


class Received(Protocol):
    """What a cause must have: `StoredFact` does."""

    @property
    def event_id(self) -> str: ...  # noqa: D102

    @property
    def key(self) -> str: ...  # noqa: D102

    @property
    def correlation_id(self) -> str | None: ...  # noqa: D102

    @property
    def traceparent(self) -> str | None: ...  # noqa: D102


class Cause(msgspec.Struct, frozen=True, gc=False):
    """What a fact emitted now inherits, unless it says otherwise."""

    correlation_id: str
    """The conversation: the cause's, or the cause itself where it began one."""
    causation_id: str
    """The cause's event id."""
    traceparent: str | None
    key: str = ""
    """The cause's ordering key: what is read meanwhile is read for that piece of work."""


_current: ContextVar[Cause | None] = ContextVar("coord_cause", default=None)

current = _current.get
"""The cause of what is emitted now, or None."""


def cause_of(fact: Received) -> Cause:
    """What facts caused by `fact` inherit."""
    return Cause(fact.correlation_id or fact.event_id, fact.event_id, fact.traceparent, fact.key)


def follow(fact: Received | None) -> Token[Cause | None]:
    """From now on, in this task, `fact` is the cause; None: nothing is.  Undo with `restore`."""
    return _current.set(cause_of(fact) if fact is not None else None)


def restore(token: Token[Cause | None]) -> None:
    """Undo one `follow`, in the task that made it."""
    _current.reset(token)


@contextlib.contextmanager
def handling(fact: Received) -> Iterator[None]:
    """Facts emitted in this block were caused by `fact`."""
    token = follow(fact)
    try:
        yield
    finally:
        restore(token)
