"""Arms timers: one message in TIMERS for each, which the server publishes when it is due.

A schedule replaces the one on its subject; with `Arm.absent` it is only set where there is none.
What is due is published to ``coord.due.…``, and EVENTS takes it in as the fact ``timer.fired``
by ``_timer`` (streams/EVENTS.toml).  The broker keeps what was due for
`limits.TIMER_DUE_TTL_S`.

A schedule that the server refuses (a zone that it does not know) can never fire: the timer is
cancelled, with what the server said as the reason.  Any other failure is left: the timer decider arms
again what is overdue, and what is not armed when it takes over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from coord import errors, limits
from coord.bus.connection import Connection
from coord.core import timers as core
from coord.core.deciding import Arm, State
from coord.telemetry import logs
from coord.telemetry.metrics import Metrics
from coord.wire import headers, subjects

_log = logs.get("timers")

_WRONG_LAST: Final = 10071
_BAD_SCHEDULE: Final = frozenset({10189, 10223})
"""The pattern, or the zone, of a schedule is invalid."""

_AT_ONCE: Final = 256
_TRIES: Final = 3
_RETRY_S: Final = 1.0


class Arming:
    """Of one process, on a connection that stays the caller's.  `close` it before that."""

    def __init__(self, conn: Connection, metrics: Metrics, state: Callable[[State], None]) -> None:
        """`state`: what states a fact."""
        self._conn = conn
        self._metrics = metrics
        self._state = state
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._newest: dict[str, Arm] = {}
        """By subject: what is to be done next; while something is being done about it, only the last counts."""
        self._jobs: set[asyncio.Task[None]] = set()

    def demand(self, arm: Arm, then: Callable[[errors.CoordError | None], None]) -> None:
        """Arm it, in the order of demands for one timer; `then` is called at once: the decider looks after it."""
        subject = subjects.timer(arm.tenant, arm.key, arm.kind, arm.id)
        busy = subject in self._newest
        self._newest[subject] = arm
        if not busy:
            job = asyncio.get_running_loop().create_task(self._run(subject))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)
        then(None)

    async def close(self) -> None:
        """What is not armed yet is, by whoever takes over.  Twice is legal."""
        for job in list(self._jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def _run(self, subject: str) -> None:
        async with self._slots:
            try:
                while True:
                    arm = self._newest[subject]
                    await self._try(subject, arm)
                    if self._newest[subject] is arm:
                        return
            finally:
                del self._newest[subject]

    async def _try(self, subject: str, arm: Arm) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                await self._perform(subject, arm)
            except errors.CoordError as exc:
                self._metrics.timers_armed.labels(outcome="failed").inc()
                if attempt == _TRIES:
                    _log.warning("timers.not_armed", tenant=arm.tenant, key=arm.key, id=arm.id, error=exc)
                    return
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _perform(self, subject: str, arm: Arm) -> None:
        if arm.schedule is None:
            await self._conn.api(f"STREAM.PURGE.{subjects.TIMERS}", {"filter": subject})
            self._metrics.timers_armed.labels(outcome="removed").inc()
            return
        fields = {
            headers.SCHEDULE: arm.schedule,
            headers.SCHEDULE_TARGET: subjects.due(arm.tenant, arm.key, arm.kind, arm.id),
            headers.SCHEDULE_TTL: f"{limits.TIMER_DUE_TTL_S}s",
        }
        if arm.zone is not None:
            fields[headers.SCHEDULE_ZONE] = arm.zone
        if arm.absent:
            fields[headers.EXPECTED_LAST_SUBJECT_SEQ] = "0"
        try:
            answer = await self._conn.request(subject, msgspec.json.encode(arm.data), headers=headers.encode(fields))
        except errors.ServiceUnavailable as exc:
            raise errors.NoStream(subject=subject) from exc
        error: dict[str, Any] | None = msgspec.json.decode(answer.data, type=dict[str, Any]).get("error")
        code = None if error is None else error.get("err_code")
        if error is None:
            self._metrics.timers_armed.labels(outcome="armed").inc()
        elif code == _WRONG_LAST and arm.absent:
            self._metrics.timers_armed.labels(outcome="there").inc()
        elif code in _BAD_SCHEDULE:
            self._metrics.timers_armed.labels(outcome="refused").inc()
            self._refuse(arm, str(error.get("description")))
        else:
            raise errors.BusError(f"the timer was not armed: {error.get('description')}", err_code=code)

    def _refuse(self, arm: Arm, why: str) -> None:
        _log.warning("timers.refused", tenant=arm.tenant, key=arm.key, id=arm.id, schedule=arm.schedule, error=why)
        set_seq = int(arm.data["set"])
        self._state(
            State(
                tenant=arm.tenant,
                agent=core.AGENT,
                key=arm.key,
                kind="timer",
                id=arm.id,
                event="cancelled",
                detail=(str(set_seq),),
                data={"reason": why},
                once="own",
                step=f"cancelled.{arm.id}",
                attempt=set_seq,
                from_outside=True,
            )
        )
