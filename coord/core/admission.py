"""Whether one more task of a capability is let in: what its board says against what it may hold.

The service says about once a second how deep a capability's queues are and how its circuit is
(`Board`).  A submitter that heard nothing, or nothing lately, is not held up: the bound protects
the log, and a log without a service is protected by its own limits.

While a circuit probes, each submitter lets `limits.CAPABILITY_PROBES` in each time the board is said (a second),
and none while so many of the capability wait or run anyway: what they come to tells.  Where that takes long, one
every `limits.CAPABILITY_OPEN_S` is let in all the same.  All of this is each connection's own, as everywhere: who
counts probes counts his.  A new one asks for the board before it submits.  A circuit whose time is over probes,
whether or not the board has said so yet: all whom it refused come again in that moment.

Pure: the caller's monotonic clock is an argument.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from coord import limits


class Board(msgspec.Struct, frozen=True):
    """What is said on `coord.wire.subjects.board`; it only grows, with defaults."""

    depth: int = 0
    """Tasks that wait for an agent, of all priorities."""
    running: int = 0
    agents: int = 0
    """Instances that would take one."""
    capacity: int = 0
    """Tasks of it that they run at a time."""
    starved: bool = False
    """Work, and nobody who can do it."""
    unplaced: int = 0
    """Of `depth`: tasks whose placement nobody fits who is there."""
    bound: int | None = None
    """Of `depth`; None: there is none."""
    circuit: Literal["closed", "open", "probing"] = "closed"
    retry_after_s: float = 1.0
    """With an open circuit: when asking again makes sense."""
    at: float = 0.0
    """Unix seconds, of whoever said it."""


class Enter(msgspec.Struct, frozen=True):
    """Submit."""


class Wait(msgspec.Struct, frozen=True):
    """Beyond the bound: look again when the board says something new."""

    retry_after_s: float


class FailFast(msgspec.Struct, frozen=True):
    """The capability's circuit is open, or probes and enough is on its way."""

    retry_after_s: float


Verdict: TypeAlias = Enter | Wait | FailFast

ENTER = Enter()


class Door:
    """Of one capability, for one submitter."""

    def __init__(self) -> None:
        self._board: Board | None = None
        self._heard_at = 0.0
        self._entered = 0
        """Submitted since the board was heard: those it does not know of yet."""
        self._probed_at = 0.0
        """While the circuit probes: none has entered since."""

    @property
    def has_heard(self) -> bool:
        """Whether the board has said anything."""
        return self._board is not None

    def hear(self, board: Board, now: float) -> None:
        """The board says something new."""
        before = self._board
        if self._entered or before is None or before.circuit != board.circuit:
            self._probed_at = now
        self._board = board
        self._heard_at = now
        self._entered = 0

    def ask(self, now: float, *, urgent: bool = False) -> Verdict:
        """May one more task enter?  `entered` counts it when it did.

        `urgent`: it enters whatever waits, since a flood of batch work must not hold it up.
        """
        board = self._board
        if board is None or now - self._heard_at > limits.BOARD_STALE_S:
            return ENTER
        if board.circuit == "open" and now - self._heard_at < board.retry_after_s:
            return FailFast(max(0.0, board.retry_after_s - (now - self._heard_at)))
        # Who was told when to come again comes before the board says that the circuit probes.
        if board.circuit != "closed" and not self._may_probe(board, now):
            return FailFast(board.retry_after_s if board.circuit == "probing" else limits.BOARD_EVERY_S)
        if not urgent and board.bound is not None and board.depth + self._entered >= board.bound:
            return Wait(board.retry_after_s)
        return ENTER

    def _may_probe(self, board: Board, now: float) -> bool:
        if board.depth + board.running < limits.CAPABILITY_PROBES:
            return self._entered < limits.CAPABILITY_PROBES
        return not self._entered and now - self._probed_at >= limits.CAPABILITY_OPEN_S

    def entered(self) -> None:
        """One was submitted."""
        self._entered += 1
