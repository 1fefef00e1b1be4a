"""What is said about timers: the data of the facts of kind `timer`, in docs/protocol.md §16.5.

A **timer** is the entity (tenant, key, ``timer``, id).  The server itself keeps the time: what is
due becomes the fact ``timer.fired`` by ``_timer``, with the key and id of what was set.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from coord import limits
from coord.errors import InvalidPayload
from coord.wire import work
from coord.wire.numbers import Count, check_integers
from coord.wire.subjects import check_token
from coord.wire.understood import GROWN

TOPIC: Final = "timer"
"""Of pushes: ``{"what": "fired", "key", "id", "n", "instance"}`` to whoever set it with an `instance`."""


Overlap: TypeAlias = Literal["allow", "skip", "queue"]


class Submit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task that is submitted when the timer fires, in the name of whoever set it."""

    capability: str
    task: work.Submission = work.Submission()
    id: str | None = None
    """Of the task; None: the timer's, of a recurring one ``{timer}-{n}``.  Only for what fires once."""
    key: str | None = None
    """None: the task's id."""
    reuse_for_s: float | None = None
    """Of shared work, whose generation is `id`: where that was begun meanwhile, it is joined if it runs when the timer
    fires or was done no longer before, and else the next generation is begun."""


class Raise(msgspec.Struct, frozen=True, omit_defaults=True):
    """A signal that is raised when the timer fires."""

    name: str
    key: str = "signals"
    data: Any = None


class Then(msgspec.Struct, frozen=True, omit_defaults=True, rename={"raise_": "raise"}):
    """What follows."""

    submit: Submit | None = None
    raise_: Raise | None = None


class Held(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a timer that its decider states again."""

    setter: str = ""
    set_at: float = 0.0
    set_seq: Count = 0
    fires: Count = 0
    fired_at: float | None = None
    fired_id: str = ""
    numbered: Count = 0
    """How often it fired, again and again, as it was set before."""
    taken: bool = False
    """The task that it is to submit once was submitted by somebody else."""
    skipped: Count = 0
    skipped_n: Count = 0
    run: Any = None
    """Of one that does not overlap: its task that runs, and what waits behind it, as its decider has them."""
    since: Count = 0
    """Who has read the log from this sequence on knows all that this says, and what came since."""


class TimerSet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``timer.set``: exactly one of `at`, `every_s` and `cron`."""

    at: float | None = None
    """Unix seconds; what has passed fires at once."""
    every_s: float | None = None
    """Seconds, at least 1; from when it is set."""
    cron: str | None = None
    """Six fields: second minute hour day-of-month month day-of-week."""
    zone: str | None = None
    """Of `cron`: ``Europe/Berlin``; None: UTC."""
    times_max: Count | None = None
    """Of what recurs: it ends after so many."""
    then: Then | None = None
    overlap: Overlap = "allow"
    """Of a recurring one that submits tasks, while the one before has not ended: ``allow`` submits the next all the
    same; ``skip`` does not; ``queue`` does when that has ended, and skips what comes meanwhile.  With the last two its
    tasks have its key."""
    instance: str | None = None
    """Who is told when it fires."""
    restated: Count = 0
    held: Held | None = None
    """With `restated`; believed of a decider."""


class Fired(msgspec.Struct, frozen=True, omit_defaults=True):
    """``timer.fired``: what the decider gave the server to say."""

    set: Count = 0
    """The stream sequence of the `timer.set` it belongs to."""


class Skipped(msgspec.Struct, frozen=True, omit_defaults=True):
    """``timer.skipped.{n}``: its n-th firing submitted nothing, since a task of it had not ended."""

    set: Count = 0
    """As `Fired.set`."""
    task: str = ""
    """That one."""


class Cancelled(msgspec.Struct, frozen=True, omit_defaults=True):
    """``timer.cancelled``: it fires no more; what fires all the same counts for nothing."""

    reason: str = ""


_FIELD: Final = r"(?:\*|\?|[0-9A-Za-z]{1,4}(?:-[0-9A-Za-z]{1,4})?)(?:/[0-9]{1,3})?"
_CRON: Final = re.compile(rf"{_FIELD}(?:,{_FIELD}){{0,30}}(?: {_FIELD}(?:,{_FIELD}){{0,30}}){{5}}")
_ZONE: Final = re.compile(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,2}")


def check(said: TimerSet, now: float) -> TimerSet:
    """Itself, or `InvalidPayload`/`InvalidToken` naming what is wrong; `now`: Unix seconds, when it is set."""
    given = [name for name in ("at", "every_s", "cron") if getattr(said, name) is not None]
    if len(given) != 1:
        raise InvalidPayload("a timer has exactly one of at, every_s and cron", given=given)
    if said.at is not None and not 0 <= said.at <= now + limits.TIMER_AHEAD_MAX_S:
        raise InvalidPayload(f"a timer is at most {limits.TIMER_AHEAD_MAX_S:g} s ahead", at=said.at)
    if said.every_s is not None and not limits.TIMER_EVERY_MIN_S <= said.every_s <= limits.TIMER_AHEAD_MAX_S:
        raise InvalidPayload(f"a timer recurs at most every {limits.TIMER_EVERY_MIN_S:g} s", every_s=said.every_s)
    if said.cron is not None and not _CRON.fullmatch(said.cron):
        raise InvalidPayload("cron has six fields: second minute hour day month weekday", cron=said.cron[:100])
    if said.zone is not None and (said.cron is None or not _ZONE.fullmatch(said.zone)):
        raise InvalidPayload("a zone goes with cron and is a name such as Europe/Berlin", zone=said.zone[:100])
    if said.times_max is not None and said.times_max < 1:
        raise InvalidPayload("times_max is at least 1", times_max=said.times_max)
    if said.overlap != "allow":
        _check_overlap(said)
    if said.then is not None:
        _check_then(said.then)
        check_integers(said.then)
        if len(msgspec.json.encode(said.then)) > limits.TIMER_THEN_BYTES:
            raise InvalidPayload(f"what follows has at most {limits.TIMER_THEN_BYTES} bytes: give a large input by ref")
    return said


def schema_of(said: TimerSet) -> int:
    """`Coord-Schema` of it: who does not know `overlap` would have its tasks run beside each other."""
    return 1 if said.overlap == "allow" else GROWN


def _check_overlap(said: TimerSet) -> None:
    submit = None if said.then is None else said.then.submit
    if said.at is not None or submit is None or submit.key is not None or submit.reuse_for_s is not None:
        raise InvalidPayload(
            "overlap is for what submits a task of its own again and again, under the timer's key", overlap=said.overlap
        )
    if said.overlap == "queue" and said.times_max is not None:
        raise InvalidPayload("what queues goes on: no times_max", times_max=said.times_max)


def _check_then(then: Then) -> None:
    if then.submit is not None:
        work.check(then.submit.task)
        work.submission_detail(then.submit.capability, queue_of(then.submit.task))
        if then.submit.reuse_for_s is not None and not then.submit.reuse_for_s >= 0:
            raise InvalidPayload("reuse_for_s is at least 0", reuse_for_s=then.submit.reuse_for_s)
        for what in ("id", "key"):
            token = getattr(then.submit, what)
            if token is not None:
                check_token(token, what)
    if then.raise_ is not None:
        check_token(then.raise_.name, "name")
        check_token(then.raise_.key, "key")


def queue_of(task: work.Submission) -> str:
    """Which of the capability's queues."""
    return work.PLACED if task.placement is not None else task.priority


def schedule(said: TimerSet) -> str:
    """As JetStream has it."""
    if said.at is not None:
        return "@at " + datetime.fromtimestamp(said.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if said.every_s is not None:
        return f"@every {round(said.every_s * 1000)}ms"
    assert said.cron is not None
    return said.cron
