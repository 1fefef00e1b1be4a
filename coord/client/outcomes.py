"""What is told of submitted tasks, for whoever waits (`coord.client.task_handle`): a push is at most once."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import ref

import msgspec

from coord import limits
from coord.core import tasks
from coord.core.tasks import Task
from coord.runtime import clock
from coord.runtime.alarms import Alarms
from coord.wire import work
from coord.wire.records import StoredFact

if TYPE_CHECKING:
    from coord.client.connect import Coord

T = TypeVar("T")

_NULL: Final = msgspec.Raw(b"null")


class Progress(msgspec.Struct, frozen=True):
    """How far a task is."""

    done: float | None
    """0 to 1."""
    note: Any = None
    claim: int | None = None
    """Of the execution that says so: another one begins anew."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a task ended."""

    status: tasks.Status
    output: msgspec.Raw = _NULL
    """JSON."""
    ref: work.Reference | None = None
    error: str | None = None
    message: str | None = None


class _Told(msgspec.Struct, gc=False):
    """A push of topic `task`."""

    what: str
    key: str = ""
    id: str = ""
    instance: str | None = None
    status: str = ""
    output: msgspec.Raw = _NULL
    ref: work.Reference | None = None
    omitted: bool = False
    """The output is too large to be pushed: the log has it."""
    error: str | None = None
    message: str | None = None
    claim: int | None = None
    done: float | None = None
    note: Any = None


_decode_told = msgspec.json.Decoder(_Told).decode
_decode_several = msgspec.json.Decoder(list[_Told]).decode


class Watch:
    """What is known of one task whose outcome somebody may want."""

    __slots__ = (
        "__weakref__",
        "_alarms",
        "_changed",
        "_many",
        "foreign",
        "id",
        "outcome",
        "progress",
        "seen",
        "suspicious",
        "unbegun",
    )

    def __init__(self, id: str, alarms: Alarms, *, foreign: bool) -> None:
        self.id = id
        self.foreign = foreign
        """Somebody else is told: the live log has to be watched."""
        self.outcome: Outcome | None = None
        self.unbegun = False
        """That is what its timer's cancellation came to: there may be a task yet."""
        self.progress: Progress | None = None
        self.seen = 0
        """Counts what was heard."""
        self.suspicious = False
        """Something may have happened that nobody told of: the log has to be read."""
        self._alarms = alarms
        self._changed: list[asyncio.Future[bool]] = []
        """Those that wait, and perhaps some that did,"""
        self._many = 8
        """which are looked for when there are so many."""

    def hear(self, *, outcome: Outcome | None = None, progress: Progress | None = None) -> None:
        """Note what is new, or that something is, and wake whoever waits.

        A completed task is over; what ended otherwise may be submitted again, and the later outcome counts.
        """
        if outcome is None and progress is None:
            self.suspicious = True
        if self.outcome is None or (outcome is not None and self.outcome.status != "completed"):
            self.outcome, self.unbegun = outcome, False
        if progress is not None:
            self.progress = progress
        self.seen += 1
        changed, self._changed = self._changed, []
        for waiter in changed:
            if not waiter.done():
                waiter.set_result(True)

    def reopen(self, *, foreign: bool) -> None:
        """It has no outcome, whatever was heard: it was submitted again.  `foreign`: by somebody else, who is told."""
        self.outcome = None
        self.foreign = self.foreign or foreign

    def changed(self, timeout_s: float | None) -> Coroutine[Any, Any, bool]:
        """Return when something is heard; False after `timeout_s` without, or a quarter of a second later."""
        waiter = self._alarms.future()
        self._changed.append(waiter)
        if len(self._changed) > self._many:  # each is looked at twice at most, however many wait
            self._changed = [other for other in self._changed if not other.done()]
            self._many = 2 * len(self._changed) + 8
        return self._alarms.wait(waiter, timeout_s)


class _Held(ref[Watch]):
    """A watch that is forgotten when nobody holds it.  `WeakValueDictionary` does the same in several calls."""

    __slots__ = ("place",)

    place: tuple[str, str]


class Outcomes:
    """Of one connection: tasks by (key, id), for as long as somebody holds a handle."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord
        self._watches: dict[tuple[str, str], _Held] = {}
        self.alarms = Alarms()
        """Of all that wait for something that may be told here."""
        self._audit_at = 0.0
        self._unregister = [
            coord.pushes.on("task", self._pushed),
            coord.pushes.on("tasks", self._pushed_together),
            coord.connection.on_reconnected(self._reconnected),
        ]

    def watch(self, key: str, id: str, *, foreign: bool = False) -> Watch:
        """The watch of a task; the caller keeps it."""
        place = (key, id)
        held = self._watches.get(place)
        watch = None if held is None else held()
        if watch is None:
            watch = Watch(id, self.alarms, foreign=foreign)
            held = self._watches[place] = _Held(watch, self._let_go)
            held.place = place
        return watch

    def __len__(self) -> int:
        """How many are watched."""
        return len(self._watches)

    def _let_go(self, held: ref[Watch]) -> None:
        assert isinstance(held, _Held), "nothing else is kept"
        if self._watches.get(held.place) is held:
            del self._watches[held.place]

    def may_audit(self) -> bool:
        """Whether the log may be read for one more of those that wait: they share a rate, however many they are."""
        now = clock.monotonic()
        if now < self._audit_at:
            return False
        self._audit_at = now + limits.RESULT_AUDIT_APART_S
        return True

    def audit_in_s(self, max_s: float) -> float:
        """Take the next turn to read the log, in so many seconds; none is taken that is later than `max_s`."""
        now = clock.monotonic()
        at = max(now, self._audit_at)
        if at - now < max_s:
            self._audit_at = at + limits.RESULT_AUDIT_APART_S
        return at - now

    def close(self) -> None:
        """Hear no more."""
        for unregister in self._unregister:
            unregister()

    def _pushed(self, body: bytes) -> None:
        try:
            told = _decode_told(body)
        except msgspec.MsgspecError:
            return
        self._hear(told)

    def _pushed_together(self, body: bytes) -> None:
        try:
            several = _decode_several(body)
        except msgspec.MsgspecError:
            return
        for told in several:
            self._hear(told)

    def _hear(self, told: _Told) -> None:
        held = self._watches.get((told.key, told.id))
        watch = None if held is None else held()
        if watch is None:
            return
        if told.what == "ended" and told.omitted:
            watch.hear()  # whoever waits reads the log
        elif told.what == "ended" and told.status in tasks.ENDED:
            outcome = Outcome(told.status, told.output, told.ref, told.error, told.message)  # type: ignore[arg-type]
            watch.hear(outcome=outcome)
        elif told.what == "progress":
            watch.hear(progress=Progress(told.done, told.note, told.claim))

    def _reconnected(self) -> None:
        for held in list(self._watches.values()):
            if (watch := held()) is not None:
                watch.hear()  # something may have been said meanwhile: whoever waits reads the log


def outcome_of(facts: list[StoredFact]) -> Outcome | None:
    """How a task ended, from its facts in log order; None: it has not, or was submitted again since."""
    task: Task | None = None
    ended_by: StoredFact | None = None
    for fact in facts:
        if task is None:
            task = Task(tenant=fact.tenant, key=fact.key, id=fact.id)
        before = task.ended
        if task.apply(fact) is None:
            ended_by = fact if task.ended and not before else (ended_by if task.ended else None)
    if task is None or ended_by is None:
        return None
    if ended_by.event != "completed":
        return Outcome(task.status, error=task.error, message=task.message)
    said = ended_by.decode(work.Completed) if ended_by.body else work.Completed()
    return Outcome("completed", msgspec.Raw(msgspec.json.encode(said.output)), said.ref)
