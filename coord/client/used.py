"""Whether an id that the caller chose was used before, by what has left the log's window.

Within the window the broker itself refuses a second submission.  What is older only the tables know,
so the service is asked, before the submission: for ids that somebody chose (fresh ones are nobody's),
and only once the tables know more than the log, which is looked at every few seconds.  Whoever asks at
the same time shares a request.  What the service names is looked for in the log: a beginning that is
still there (within the margin, or stated again) is joined as on a young system.

Where no service answers at all, the log decides alone.  A service that is there and cannot tell (its
database is away) is asked again for a while; then the submission is refused, and may be repeated.
"""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeAlias

from coord import errors, limits
from coord.bus import rpc
from coord.bus.connection import Connection
from coord.client.entities import facts
from coord.core import handoff, tasks, workflow_life
from coord.core.retry import CallPolicy
from coord.runtime import clock
from coord.runtime.retrying import retrying
from coord.runtime.sharing import shared
from coord.wire import subjects
from coord.wire.used import Used, UsedAnswer, UsedKind, UsedRequest

_ASK: Final = CallPolicy(retries_max=None, deadline_s=limits.USED_WAIT_S)

Ident: TypeAlias = tuple[str, str]
"""(key, id)."""


_LONG_AGO: Final = "it ended before, and has left the log"


def task_exists(used: Used) -> errors.TaskExists:
    """The error that names the first."""
    return errors.TaskExists(
        _LONG_AGO, task=used.id, key=used.key, first_event_id=used.first_event_id,
        submitted_at=used.begun_at.isoformat(), submitter=used.submitter, capability=used.name, status=used.status,
    )  # fmt: skip


class UsedIds:
    """Of one tenant on one connection."""

    def __init__(self, conn: Connection, tenant: str) -> None:
        self._conn = conn
        self._tenant = tenant
        self._service = subjects.rpc(tenant, "ids", "used")
        self._whole_until = 0.0
        self._renew_at = float("inf")
        self._asking: dict[UsedKind, tuple[list[Ident], asyncio.Task[dict[Ident, Used]]]] = {}
        self._running: set[asyncio.Task[dict[Ident, Used]]] = set()

    def knows_all(self, key: str, id: str) -> bool:
        """Whether `first` would say None without asking, for now; raises what it raises for what is no id."""
        _check(key, id)
        now = clock.monotonic()
        if now >= self._whole_until:
            return False
        if now >= self._renew_at:
            self._renew()
        return True

    async def first(self, kind: UsedKind, key: str, id: str) -> Used | None:
        """What ended under this id and has left the log; None: nothing, as far as anybody knows.

        Raises `InvalidToken` for what is no id, and what the service answers when it cannot tell:
        `DatabaseUnavailable`, `Overloaded`, …
        """
        if self.knows_all(key, id):  # and what is no id would spoil the request for the others in it
            return None
        asking = self._asking.get(kind)
        if asking is None or len(asking[0]) >= limits.USED_IDS_MAX:
            idents: list[Ident] = []
            task = self._start(self._ask_soon(kind, idents))
            asking = self._asking[kind] = (idents, task)
        asking[0].append((key, id))
        used = (await shared(asking[1])).get((key, id))
        return None if used is None or await self._in_log(kind, used) else used

    async def refuse_task(self, key: str, id: str) -> None:
        """Raise `TaskExists`, naming the first, when a task of this id ended and has left the log."""
        used = await self.first("task", key, id)
        if used is not None:
            raise task_exists(used)

    async def refuse_workflow(self, id: str) -> None:
        """Raise `WorkflowExists`, naming the first, when a workflow of this id ended and has left the log."""
        used = await self.first("workflow", id, id)
        if used is not None:
            raise errors.WorkflowExists(
                _LONG_AGO, workflow=id, first_event_id=used.first_event_id, started_at=used.begun_at.isoformat(),
                submitter=used.submitter, definition=used.name, status=used.status,
            )  # fmt: skip

    async def refuse_handoff(self, key: str, id: str) -> None:
        """Raise `HandoffExists`, naming the first, when a handoff of this id ended and has left the log."""
        used = await self.first("handoff", key, id)
        if used is not None:
            raise errors.HandoffExists(
                _LONG_AGO, handoff=id, key=key, first_event_id=used.first_event_id, offerer=used.submitter,
                offered_at=used.begun_at.isoformat(), to=used.name, status=used.status,
            )  # fmt: skip

    async def firsts(self, kind: UsedKind, idents: Sequence[Ident]) -> dict[Ident, Used]:
        """The same of many, `limits.USED_IDS_MAX` a request.  What is no id is nobody's."""
        asked = [ident for ident in idents if _is_ident(ident)]
        named: list[Used] = []
        for start in range(0, len(asked), limits.USED_IDS_MAX):
            if clock.monotonic() >= self._whole_until:
                named += (await self._ask(kind, asked[start : start + limits.USED_IDS_MAX])).values()
        found: dict[Ident, Used] = {}
        for start in range(0, len(named), limits.USED_READS_MAX):
            burst = named[start : start + limits.USED_READS_MAX]
            there = await asyncio.gather(*(self._in_log(kind, used) for used in burst))
            found |= {(used.key, used.id): used for used, is_there in zip(burst, there, strict=True) if not is_there}
        return found

    async def whole(self) -> bool:
        """Whether the log holds all that the tables know."""
        if clock.monotonic() >= self._whole_until:
            await self._ask("task", [])
        return clock.monotonic() < self._whole_until

    async def _in_log(self, kind: UsedKind, used: Used) -> bool:
        """Whether the log still tells of it: not some last fact, but how it began."""
        there = await facts(self._conn, self._tenant, key=used.key, kind=kind, id=used.id)
        if kind == "handoff":
            return handoff.fold(there) is not None
        began = tasks.fold(there)[0] if kind == "task" else workflow_life.fold(there)[0]
        return began is not None

    def _renew(self) -> None:
        """Ask in good time, so that nobody has to wait for the answer while there are submissions all the time."""
        self._renew_at = float("inf")
        self._start(self._ask("task", []))

    def _start(self, asking: Coroutine[Any, Any, dict[Ident, Used]]) -> asyncio.Task[dict[Ident, Used]]:
        task = asyncio.get_running_loop().create_task(asking, name="ids-used")
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def _ask_soon(self, kind: UsedKind, idents: list[Ident]) -> dict[Ident, Used]:
        await asyncio.sleep(0)  # whoever else submits in this turn of the loop
        asking = self._asking.get(kind)
        if asking is not None and asking[0] is idents:
            del self._asking[kind]
        return await self._ask(kind, idents)

    async def _ask(self, kind: UsedKind, idents: list[Ident]) -> dict[Ident, Used]:
        request = UsedRequest(kind, idents)
        answer = await retrying(lambda: self._once(request), _ASK)
        if answer.whole:
            now = clock.monotonic()
            self._whole_until, self._renew_at = now + limits.USED_WHOLE_S, now + limits.USED_WHOLE_S / 2
        return {(one.key, one.id): one for one in answer.used}

    async def _once(self, request: UsedRequest) -> UsedAnswer:
        try:
            return await rpc.call(self._conn, self._service, request, UsedAnswer)
        except errors.ServiceUnavailable:
            return UsedAnswer(whole=True)  # nobody knows more than the log

    def _done(self, task: asyncio.Task[dict[Ident, Used]]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # its callers may all have left

    async def close(self) -> None:
        """Stop asking."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._asking.clear()


def _check(key: str, id: str) -> None:
    subjects.check_token(id, "an id")
    if key is not id:
        subjects.check_token(key, "a key")


def _is_ident(ident: Ident) -> bool:
    if not all(isinstance(part, str) for part in ident):
        return False
    try:
        _check(*ident)
    except errors.InvalidToken:
        return False  # it is refused in its place, when it is stated
    return True
