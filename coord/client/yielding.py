"""Handlers that make way: a coroutine that is held at its next await while something urgent runs.

Python coroutines are resumed by whoever drives them.  Between a handler and asyncio stands a
generator that passes on what the handler awaits, and, before it lets the handler go on, looks
at its gate; so it does before the handler's first line.  A handler that never awaits never makes way;
what it awaits (a call, a timer) goes on meanwhile.  Cancelling goes through to the handler at once, gate or not.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


class Gate:
    """Open at first."""

    __slots__ = ("_by", "_opened")

    def __init__(self) -> None:
        self._opened: asyncio.Future[None] | None = None
        self._by: set[object] | None = None
        """Made when somebody closes it: hardly any gate is ever closed."""

    @property
    def closed(self) -> bool:
        """Whether whoever comes waits."""
        return self._opened is not None

    def close(self, by: object = None) -> None:
        """Hold the handler at its next await.  Twice is legal; of several who hold it each has to open it."""
        if self._by is None:
            self._by = set()
        self._by.add(by)
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_future()

    def open(self, by: object = None) -> None:
        """Let it go on.  Twice is legal."""
        if self._by is not None:
            self._by.discard(by)
            if self._by:
                return
        opened, self._opened = self._opened, None
        if opened is not None and not opened.done():
            opened.set_result(None)

    def wait(self) -> Generator[Any, None, None]:
        """Return when it is open."""
        while self._opened is not None:
            yield from asyncio.shield(self._opened).__await__()


def through(gate: Gate, handler: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """`await handler`, held whenever `gate` is closed where it would begin or go on."""
    return _driven(handler.send, handler.throw, handler.close, gate)


def within(context: Context, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """`await work`, which sees and sets context variables of `context` instead of the task's."""
    run = context.run
    return _driven(
        lambda value: run(work.send, value), lambda error: run(work.throw, error), lambda: run(work.close), None
    )


@types.coroutine
def _driven(
    send: Callable[[None], Any],
    throw: Callable[[BaseException], Any],
    close: Callable[[], None],
    gate: Gate | None,
) -> Generator[Any, None, Any]:
    error: BaseException | None = None
    try:
        while True:
            if gate is not None and gate.closed and error is None:
                try:
                    yield from gate.wait()
                except BaseException as thrown:  # noqa: BLE001 - a cancellation: the handler's to see
                    error = thrown
            try:
                waits_for = send(None) if error is None else throw(error)
            except StopIteration as done:
                return done.value
            error = None
            try:
                yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - as above, or what was awaited failed
                error = thrown
    finally:
        close()
