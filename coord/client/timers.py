"""Timers that outlive whoever sets them: the broker keeps the time, the log says what fired.

::

    await c.timers.set("tea", delay_s=240, raise_="tea-ready")
    await c.timers.submit("nightly", "report", {"of": "day"}, cron="0 0 3 * * *", zone="Europe/Berlin")
    await c.timers.cancel("nightly")
    await c.sleep_until(when, id="job-7-pause")  # resumes where it was, after a restart too

An id is one timer: setting it again as it is changes nothing, setting it otherwise replaces it.
Whether a cancellation or a firing was first, the log's order decides: after `cancel` has returned True
nothing follows any more.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from coord import errors, limits
from coord.client.asks import task_of
from coord.client.entities import each, facts
from coord.client.event_ids import new_event_id
from coord.core import placement
from coord.core import timers as core
from coord.core.cron import unreadable
from coord.core.timers import Timer
from coord.runtime import clock
from coord.wire import arguments, codec, subjects, understood
from coord.wire import timing as wire
from coord.wire.latch import KEY as SIGNALS
from coord.wire.log_api import Filter
from coord.wire.records import Fact
from coord.wire.timing import Cancelled, Overlap, Raise, Submit, Then, TimerSet
from coord.wire.work import Submission

if TYPE_CHECKING:
    from coord.bus.patched import Message
    from coord.client.connect import Coord

INLINE_BYTES: Final = limits.TIMER_THEN_BYTES // 2
"""Of a task's input; what is larger travels by reference."""


class Timers:
    """Of one connection: ``c.timers``."""

    def __init__(self, coord: Coord) -> None:
        self._coord = coord

    async def set(
        self,
        id: str,
        *,
        at: datetime | None = None,
        delay_s: float | None = None,
        every_s: float | None = None,
        cron: str | None = None,
        zone: str | None = None,
        times_max: int | None = None,
        key: str | None = None,
        raise_: str | None = None,
        data: Any = None,
        signal_key: str = SIGNALS,
    ) -> Timer:
        """Set a timer, or replace it; returns it as the log has it.

        When: `at` an aware time, in `delay_s`, `every_s` seconds (at least 1), or by `cron` (six fields, in
        `zone`; default UTC), `times_max` times at most.  `raise_`: the signal that is raised when it fires,
        with `data`; each firing is the fact ``timer.fired`` in any case.  `key`: what it is ordered with.

        A schedule that the broker refuses cancels the timer, with what it said as `reason` (`get`): a zone that only
        this machine knows.

        Raises `InvalidPayload` (naming a zone that does not exist, too), `TimerTaken` when another agent has set it,
        and what stating a fact raises.
        """
        then = None if raise_ is None else Then(raise_=Raise(raise_, signal_key, data))
        return await self.begin(id, key, _when(at, delay_s, every_s, cron, zone, times_max), then)

    async def submit(
        self,
        id: str,
        capability: str,
        input: Any = None,
        /,
        *,
        at: datetime | None = None,
        delay_s: float | None = None,
        every_s: float | None = None,
        cron: str | None = None,
        zone: str | None = None,
        times_max: int | None = None,
        key: str | None = None,
        overlap: Overlap = "allow",
        **task: Any,
    ) -> Timer:
        """Submit a task whenever the timer fires: ``{id}``, or ``{id}-1``, ``{id}-2``, … of one that recurs.

        `overlap`: of what recurs, when the next comes while a task of it has not ended: ``allow`` (they run beside each
        other), ``skip`` (it is not done: ``timer.skipped``, counted), or ``queue`` (it is done when that has ended; one
        waits at most, others are skipped).  With ``skip`` and ``queue`` the tasks have the timer's key:
        ``c.task("nightly-3", key="nightly")``.

        `task`: what `Submission` has (priority, retries, timeout_s, …); a deadline is not among it.  Raises
        what `set` raises.
        """
        said = await self._submission(input, task)
        then = Then(submit=Submit(capability, said))
        when = msgspec.structs.replace(_when(at, delay_s, every_s, cron, zone, times_max), overlap=overlap)
        arguments.as_kind(when, TimerSet, "a timer")
        return await self.begin(id, key, when, then)

    async def cancel(self, id: str, *, key: str | None = None, reason: str = "") -> bool:
        """Cancel a timer; False: it is not set, or fired first.

        Raises `TimerTaken` when another agent has set it, and what stating a fact raises.
        """
        fact = Fact(kind="timer", id=id, key=key, event="cancelled", data=Cancelled(reason))
        stored = await self._coord.stating.state(fact)
        timer: Timer | None = None
        for found in await self._facts(id, key, stored.seq):
            if timer is None:
                timer = Timer(tenant=found.tenant, key=found.key, id=found.id)
            refusal = timer.apply(found)
            if found.seq == stored.seq:
                if refusal is not None and refusal.code == "timer.not_setter":
                    raise errors.TimerTaken(timer=id, setter=timer.setter)
                return refusal is None
        return False

    async def get(self, id: str, *, key: str | None = None) -> Timer | None:
        """A timer as the log has it now, `status` set, fired or cancelled; None: the log knows of none."""
        return core.fold(await self._facts(id, key, 0))

    async def ls(self) -> list[Timer]:
        """All timers of the tenant that are set."""
        found: dict[tuple[str, str], Timer] = {}
        async for fact in each(self._coord.connection, self._coord.tenant, Filter(kind="timer")):
            place = (fact.key, fact.id)
            found.setdefault(place, Timer(tenant=fact.tenant, key=fact.key, id=fact.id)).apply(fact)
        return [timer for timer in found.values() if timer.set_seq and timer.status == "set"]

    async def sleep_until(self, at: datetime, *, id: str | None = None, key: str | None = None) -> None:
        """Return when that time has come, by the broker's clock.

        With an `id` it is one sleep, however often it is begun: who was restarted goes on sleeping, or returns
        at once when it is over.  Without, the timer is cancelled when the sleeper is.  Raises `InvalidPayload` for a
        naive time, and what setting a timer raises.
        """
        due = arguments.moment(at, "at")
        name = new_event_id() if id is None else id
        fired = asyncio.Event()
        place = name if key is None else key
        live = subjects.stored_to_live(subjects.event_filter(self._coord.tenant, place, "timer", name, "fired"))

        def heard(_message: Message) -> None:
            fired.set()

        subscription = await self._coord.connection.subscribe(live, heard)
        try:
            timer = await self.get(name, key=key) if id is not None else None
            if timer is None:
                timer = await self.begin(name, key, TimerSet(at=due), None)
            wait_s = max(0.0, (timer.said.at or 0.0) - clock.unix()) + limits.RESULT_AUDIT_FIRST_S
            while timer is None or timer.status == "set":
                try:
                    async with asyncio.timeout(wait_s):
                        await fired.wait()
                    return
                except TimeoutError:
                    wait_s = limits.RESULT_AUDIT_FIRST_S
                    timer = await self.get(name, key=key)
        except asyncio.CancelledError:
            if id is None:
                self._coord.stating.send(
                    Fact(kind="timer", id=name, key=key, event="cancelled", data=Cancelled()), then=lambda _: None
                )
            raise
        finally:
            await subscription.unsubscribe()

    # --- inside ----------------------------------------------------------------------------

    async def begin(
        self,
        id: str,
        key: str | None,
        said: TimerSet,
        then: Then | None,
        instead: Callable[[Timer], bool] | None = None,
    ) -> Timer:
        """Set a timer.  `instead` is asked whether one that is set otherwise is replaced; it may raise."""
        said = msgspec.structs.replace(said, then=then)
        wire.check(said, clock.unix())
        if said.cron is not None and (field := unreadable(said.cron)) is not None:
            raise errors.InvalidPayload("a field of cron is none that the broker takes", field=field, cron=said.cron)
        if said.zone is not None:
            _check_zone(said.zone)
        schema = wire.schema_of(said)
        if schema > 1:
            await self._coord.understood.demand(understood.KEEPS_APART, "timers whose tasks do not overlap")
        fact = Fact(kind="timer", id=id, key=key, event="set", data=said, schema=schema)
        last = 0  # what is replaced is what was looked at: who answers may lag, and others may be faster
        for _ in range(limits.STORED_LOOKS_MAX):
            await self._coord.stating.room()
            try:
                stored = await self._coord.stating.send(fact, last=last)
                break
            except errors.WrongLastSequence:
                found = await self._facts(id, key, last + 1)
            timer = core.fold(found)
            if timer is not None and _same(timer, said):
                return timer
            if timer is not None and timer.status == "set" and instead is not None and not instead(timer):
                return timer
            last = found[-1].seq
        else:
            raise errors.Overloaded("others set this timer all the time", timer=id, key=key)
        timer = core.fold(await self._facts(id, key, stored.seq))
        assert timer is not None, "it was stored"
        if timer.setter != self._coord.agent:
            raise errors.TimerTaken(timer=id, setter=timer.setter)
        return timer

    async def _facts(self, id: str, key: str | None, seq: int) -> list[Any]:
        """The timer's facts; what answers may lag behind what was just stored at `seq`."""
        for _ in range(limits.STORED_LOOKS_MAX):
            found = await facts(
                self._coord.connection, self._coord.tenant, key=id if key is None else key, kind="timer", id=id
            )
            if not seq or any(fact.seq >= seq for fact in found):
                return found
            await asyncio.sleep(limits.STORED_LOOK_AGAIN_S)
        raise errors.DeadlineExceeded("the log does not show what was just stored", timer=id)

    async def _submission(self, input: Any, task: dict[str, Any]) -> Submission:
        raw = codec.encode(input, bytes_max=limits.TASK_OUTPUT_BYTES_MAX)
        given = {name: value for name, value in task.items() if value is not None}
        if "deadline" in given:
            raise errors.InvalidPayload("what a timer submits has no deadline: `Coord.submit` with `at` takes one")
        if "placement" in given:
            given["placement"] = placement.data_of(given["placement"])
        if len(raw) > INLINE_BYTES:
            given["ref"] = await self._coord.payloads.put(raw)
        elif input is not None:
            given["input"] = msgspec.Raw(raw)
        return task_of(given, self._coord.instance)


def _when(
    at: datetime | None,
    delay_s: float | None,
    every_s: float | None,
    cron: str | None,
    zone: str | None,
    times_max: int | None,
) -> TimerSet:
    moment = None if at is None and delay_s is None else due_at(at, delay_s)
    said = TimerSet(at=moment, every_s=every_s, cron=cron, zone=zone, times_max=times_max)
    arguments.as_kind(said, TimerSet, "a timer")
    return said


def due_at(at: datetime | None, delay_s: float | None) -> float:
    """Unix seconds of what is due at a time or in so many seconds: exactly one is given."""
    if at is not None and delay_s is not None:
        raise errors.InvalidPayload("give at or delay_s, not both")
    if at is not None:
        return arguments.moment(at, "at")
    return clock.unix() + arguments.seconds(delay_s, "delay_s")


def _check_zone(zone: str) -> None:
    """Raise `InvalidPayload` for a name that is no zone's, where this machine knows any."""
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError) as exc:  # it is looked up as a file
        if available_timezones():
            raise errors.InvalidPayload("zone takes a name such as Europe/Berlin", zone=zone) from exc


def _same(timer: Timer, said: TimerSet) -> bool:
    """Whether a timer that is set is this one; of one that fires once any time is: it was set before."""
    if timer.status != "set":
        return False
    there = msgspec.structs.replace(timer.said, restated=0, held=None)
    return bool(_compared(there) == _compared(said))


def _compared(said: TimerSet) -> object:
    """What makes a timer that recurs the same: not whom it tells, which a program that was restarted says otherwise."""
    told = None if said.then is None else said.then.submit
    if said.then is not None and told is not None and said.at is None:
        task = msgspec.structs.replace(told.task, instance=None, progress=False, together=False)
        then = msgspec.structs.replace(said.then, submit=msgspec.structs.replace(told, task=task))
        said = msgspec.structs.replace(said, then=then, instance=None)
    found: object = msgspec.json.decode(msgspec.json.encode(said))
    return found
