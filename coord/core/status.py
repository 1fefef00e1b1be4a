"""Status by changes: what an agent says next, and what a reader makes of what arrives.

`StatusSender` turns an agent's state into statements, most of them changes, and says a whole
one where a reader may need it.  `StatusFold` puts them together again, whatever was lost,
doubled or reordered on the way::

                  a whole status of the run, newer            change at + 1
              +---------------------------------------+   +------------------+
              v                                       |   v                  |
    +-----------+  whole   +---------+  change beyond  +-------+              |
    |  unknown  | -------> | current | --------------> | stale | -------------+
    +-----------+          +---------+ <-------------- +-------+   the missing ones came
              a change first: stale, with nothing to show

What holds, whatever arrives (tests/property/test_status.py):

* what a fold shows is a state that the sender stated, as a whole, at one moment; a change is
  never applied to anything but the state it was made from;
* of one run a fold only goes forward;
* it is stale from the moment it knows of a statement that it cannot reach until it reaches it;
* once the newest whole status arrives, or every statement behind the one it shows, in any
  order (as far as `limits.STATUS_WAITING_MAX` changes can wait), it shows the sender's state.

A run cannot be ordered among runs (clocks lie), so a whole status of another run is believed.
When it was a late one of the run before, the next change does not fit, and the fold is stale
until it is told all again.

Pure: the time is an argument, and asking for a whole status is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from coord import limits
from coord.errors import InvalidPayload, PayloadTooLarge
from coord.wire import codec, status
from coord.wire.status import Change, Fields, Statement, Whole

Reason: TypeAlias = Literal["first", "count", "age", "asked", "lost", "smaller"]
"""Why a whole status: nothing was said before; so many changes or so much time since the last one; a
reader asked; a statement may not have been stored; a change would be no smaller."""

Outcome: TypeAlias = Literal["applied", "old", "gap"]

_encode = msgspec.json.Encoder(order="deterministic").encode


class Said(msgspec.Struct, frozen=True):
    """One statement to publish."""

    event: Literal["status", "changed"]
    data: dict[str, Any]
    at: int
    reason: Reason | None = None
    """Why it is whole; None for a change."""


class StatusSender:
    """One agent's state in one run of its process.  Values are copied when they are given."""

    def __init__(
        self,
        run: str,
        *,
        whole_every: int = limits.STATUS_WHOLE_EVERY,
        whole_after_s: float = limits.STATUS_WHOLE_AFTER_S,
    ) -> None:
        """`run`: up to 32 of ``A-Za-z0-9_-``, another for every start of the process."""
        self.run = run
        self.at = 0
        """The number of the last statement."""
        self._whole_every = whole_every
        self._whole_after_s = whole_after_s
        self._fields: Fields = {}
        self._changes = 0
        self._whole_at: float | None = None
        self._whole_size = 0
        self._due: Reason | None = "first"

    @property
    def state(self) -> dict[str, Any]:
        """What was said last: a copy."""
        return {name: msgspec.json.decode(value) for name, value in self._fields.items()}

    def change(self, changes: Mapping[str, Any], unset: Iterable[str], now: float) -> Said | None:
        """Set and remove members; what to say, or None when that changes nothing.

        Raises `InvalidPayload` for a value that is not JSON or a name that is reserved, and
        `PayloadTooLarge`; then nothing has changed.
        """
        if isinstance(unset, str):
            raise InvalidPayload("unset takes a list of names", unset=unset[:64])
        gone = set(unset)
        if not gone.isdisjoint(changes):
            raise InvalidPayload("a member is set and unset at once", members=sorted(gone.intersection(changes)))
        return self._become({n: v for n, v in self._fields.items() if n not in gone} | _encoded(changes), now)

    def replace(self, state: Mapping[str, Any], now: float) -> Said | None:
        """Make `state` the state: members that it does not have are removed."""
        return self._become(_encoded(state), now)

    def whole(self, now: float, reason: Reason = "asked") -> Said | None:
        """All of it, once more; None before anything was said."""
        if self.at == 0:
            return None
        self._due = reason
        return self._say({}, [], now)

    def lost(self) -> None:
        """A statement may not have been stored: the next one is whole."""
        if self._due is None:
            self._due = "lost"

    def _become(self, fields: Fields, now: float) -> Said | None:
        before = self._fields
        if fields == before and self._due in {None, "lost"} and self.at:
            return None if self._due is None else self._say({}, [], now)
        if sum(len(name) + len(value) for name, value in fields.items()) > limits.STATUS_BYTES_MAX:
            raise PayloadTooLarge("a status is small", bytes_max=limits.STATUS_BYTES_MAX)
        changed = {name: value for name, value in fields.items() if before.get(name) != value}
        gone = [name for name in before if name not in fields]
        self._fields = fields
        return self._say(changed, gone, now)

    def _say(self, changed: Fields, gone: list[str], now: float) -> Said:
        self.at += 1
        reason = self._due or self._reason(changed, gone, now)
        if reason is None:
            self._changes += 1
            set_ = {name: msgspec.json.decode(value) for name, value in changed.items()}
            return Said("changed", status.change_body(self.run, self.at, set_, gone), self.at)
        self._due, self._changes, self._whole_at = None, 0, now
        self._whole_size = _size(self._fields)
        return Said("status", status.whole_body(self.state, self.run, self.at), self.at, reason)

    def _reason(self, changed: Fields, gone: list[str], now: float) -> Reason | None:
        if self._changes >= self._whole_every:
            return "count"
        if self._whole_at is None or now - self._whole_at >= self._whole_after_s:
            return "age"
        if _size(changed) + sum(len(name) + 3 for name in gone) >= _size(self._fields):
            return "smaller"
        return None


def _encoded(values: Mapping[str, Any]) -> Fields:
    if status.MEMBER in values:
        raise InvalidPayload(f"{status.MEMBER} is reserved", member=status.MEMBER)
    fields: Fields = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise InvalidPayload("the members of a status have names")
        codec.encode({name: value})  # refuses what a reader would
        fields[name] = _encode(codec.to_builtins(value))
    return fields


def _size(fields: Fields) -> int:
    return sum(len(name) + len(value) + 4 for name, value in fields.items())


class StatusFold:
    """One agent's status as a reader has it; see the module."""

    __slots__ = ("_lost", "_text", "_waiting", "at", "fields", "run")

    def __init__(self) -> None:
        self.run: str | None = None
        """Of what is shown; None: nothing, or what a plain client said."""
        self.at = 0
        self.fields: Fields | None = None
        """What is shown, by member; None: nothing, or no map that changes could build upon."""
        self._text: bytes | None = None
        self._waiting: dict[tuple[str, int], Change] = {}
        self._lost = False

    @property
    def text(self) -> bytes | None:
        """The JSON of what is shown; None while nothing is known."""
        return self._text if self.fields is None else status.join(self.fields)

    @property
    def state(self) -> Any:
        """What is shown, decoded; None while nothing is known."""
        text = self.text
        return None if text is None else msgspec.json.decode(text)

    @property
    def stale(self) -> bool:
        """Whether something was stated that is not in what is shown: ask for a whole status."""
        return self._lost or bool(self._waiting)

    def take(self, statement: Statement | None) -> Outcome:
        """What arrived; None stands for a change that could not be read."""
        if statement is None:
            self._lost = True
            return "gap"
        if isinstance(statement, Whole):
            return self._take_whole(statement)
        return self._take_change(statement)

    def _take_whole(self, whole: Whole) -> Outcome:
        if whole.run is not None and whole.run == self.run and whole.at <= self.at:
            return "old"
        self.run, self.at, self.fields = whole.run, whole.at, whole.fields
        self._text = whole.text if whole.fields is None else None
        self._lost = False
        self._waiting = {
            (run, at): change for (run, at), change in self._waiting.items() if run == whole.run and at > whole.at
        }
        self._catch_up()
        return "applied"

    def _take_change(self, change: Change) -> Outcome:
        if change.run == self.run:
            if change.at <= self.at:
                return "old"
            if change.at == self.at + 1:
                before = self.at
                self._apply(change)
                self._catch_up()
                return "applied" if self.at > before else "gap"
        self._waiting[change.run, change.at] = change
        self._bound_waiting()
        return "gap"

    def _catch_up(self) -> None:
        while self.run is not None and (change := self._waiting.pop((self.run, self.at + 1), None)) is not None:
            self._apply(change)

    def _apply(self, change: Change) -> None:
        assert self.fields is not None, "what has a run has members"
        fields = {name: value for name, value in self.fields.items() if name not in change.unset} | change.set
        if sum(len(name) + len(value) for name, value in fields.items()) > limits.STATUS_BYTES_MAX:
            self._lost = True  # no sender of ours says so much: what is shown stays, and is stale
            return
        self.fields, self.at = fields, change.at

    def _bound_waiting(self) -> None:
        """Drop what is furthest behind: the newest is what says that something is missing."""
        waiting = self._waiting
        size = sum(_size(change.set) for change in waiting.values())
        while len(waiting) > limits.STATUS_WAITING_MAX or size > limits.STATUS_BYTES_MAX:
            first = min(waiting, key=lambda place: (place[0] == self.run, place[1]))
            size -= _size(waiting.pop(first).set)
            self._lost = True

    # --- between two transactions --------------------------------------------------------

    def dump(self) -> dict[str, Any] | None:
        """What `load` needs beside the status itself, as JSON values; None where no change can build upon it."""
        if self.run is None and not self.stale:
            return None
        found: dict[str, Any] = {"run": self.run, "at": self.at}
        if self.stale:
            found["stale"] = True
            found["lost"] = self._lost
            found["waiting"] = [
                {
                    "run": change.run,
                    "at": change.at,
                    "set": {name: msgspec.Raw(value) for name, value in change.set.items()},
                    "unset": list(change.unset),
                }
                for change in self._waiting.values()
            ]
        return found

    @classmethod
    def load(cls, text: str | None, dumped: str | None) -> StatusFold:
        """The fold whose status is the JSON `text` and whose `dump` is the JSON `dumped`."""
        fold = cls()
        fold._text = None if text is None else text.encode()
        if dumped is None:
            return fold
        try:
            found = msgspec.json.decode(dumped, type=_Dumped)
            changes = [status.read_change(bytes(raw).decode()) for raw in found.waiting]
        except (msgspec.DecodeError, InvalidPayload):
            fold._lost = True  # somebody else wrote it: a whole status mends it
            return fold
        fold._lost = found.lost
        fold._waiting = {(change.run, change.at): change for change in changes}
        if found.run is not None and fold._text is not None:
            fold.fields = status.fields_of(fold._text)
            if fold.fields is not None:
                fold.run, fold.at, fold._text = found.run, found.at, None
        return fold


class _Dumped(msgspec.Struct):
    run: str | None
    at: int
    lost: bool = False
    waiting: list[msgspec.Raw] = []
