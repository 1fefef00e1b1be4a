"""One handler run once: its input read, its time limited, what it returned or raised made an outcome.

What ends it before it is through (cancelled, lost, drained) is its execution's business
(`coord.client.execution`) and comes as `CancelledError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import msgspec

from coord import errors, limits
from coord.client.yielding import Gate, through
from coord.core.tasks import bound
from coord.runtime import clock
from coord.telemetry import logs
from coord.wire import work

if TYPE_CHECKING:
    from coord.client.payloads import Payloads
    from coord.client.tasks import Delivered, Handles, TaskContext
    from coord.wire.codec import Content

_log = logs.get("worker")

_COARSE_S: Final = 5.0
"""Longer time limits are kept to within half a second; the grace of a claim is two (`limits.TASK_TIMEOUT_GRACE_S`)."""

Event: TypeAlias = Literal["completed", "failed", "rejected"]
Ended: TypeAlias = tuple[Event, "work.Completed | work.Failed | work.Rejected"]


class Holder(Protocol):
    """What an attempt asks of its execution."""

    claim: int
    gate: Gate
    preemptible: bool

    @property
    def payloads(self) -> Payloads: ...  # noqa: D102

    @property
    def is_ending(self) -> bool:
        """Whether the execution is being ended from outside."""
        ...


class Attempt:
    """See the module.  `outcome` runs it, once."""

    __slots__ = ("_content", "_overran", "began_at", "ctx", "handles", "holder", "overruns_at", "said")

    def __init__(
        self, holder: Holder, handles: Handles, said: Delivered, ctx: TaskContext, content: Content = "json"
    ) -> None:
        """`content`: what the input is written in."""
        self.holder = holder
        self.handles = handles
        self.said = said
        self.ctx = ctx
        self.began_at = clock.monotonic()
        self.overruns_at: float | None = None
        """Monotonic; None: a timer of its own sees to it."""
        self._content = content
        self._overran = False

    def overrun(self) -> bool:
        """It has run for as long as it may: whether the handler is to be ended, at its next await."""
        self.overruns_at = None
        if self._overran:
            return False
        self._overran = True
        return True

    async def outcome(self) -> Ended:
        """Run the handler: the event that says how it ended, and its data."""
        claim, handles = self.holder.claim, self.handles
        try:
            value = await self._input() if handles.takes_input else None
        except errors.CoordError as exc:
            if exc.retryable:
                return self.failed(exc.code, exc.message)
            return "rejected", work.Rejected(claim=claim, reason=f"the input cannot be read: {exc.message}", run_s=0.0)
        limit_s = self._limit_s()
        # A timer for each of many short executions would cost more than it brings: the worker looks every half second.
        self.overruns_at = self.began_at + limit_s if limit_s > _COARSE_S else None
        limit = asyncio.timeout(limit_s) if self.overruns_at is None else None
        try:
            handler = self._call(value)
            if limit is None:
                output = await handler
            else:
                async with limit:
                    output = await handler
        except errors.Reject as exc:
            return "rejected", work.Rejected(claim=claim, reason=exc.message, run_s=self.run_s())
        except TimeoutError as exc:
            if limit is None or not limit.expired():
                return self.failed(type(exc).__name__, str(exc))
            return self.failed("timeout", "the handler ran longer than it may")
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._overran and not self.holder.is_ending and current is not None:
                current.uncancel()
                return self.failed("timeout", "the handler ran longer than it may")
            if self.holder.is_ending or (current is not None and current.cancelling()):
                raise
            return self.failed("CancelledError", "the handler cancelled itself")
        except Exception as exc:  # noqa: BLE001 - whatever a handler raises is an outcome
            _log.info("worker.task_failed", task=self.ctx.task_id, capability=self.ctx.capability, exc_info=exc)
            return self.failed(*_described(exc))
        run_s = self.run_s()
        self.overruns_at = None  # what follows is not the handler's
        try:
            body = handles.encode(output)
            ref = None
            if len(body) > limits.TASK_INLINE_BYTES:
                ref, body = await self.holder.payloads.put(body), b"null"
        except errors.PayloadTooLarge as exc:
            return self.failed("result.too_large", str(exc), final=True)
        except errors.WireError as exc:
            return self.failed("result.type", exc.message, final=True)
        except errors.CoordError as exc:
            return self.failed(exc.code, exc.message)
        return "completed", work.Completed(claim=claim, output=msgspec.Raw(body), ref=ref, run_s=run_s)

    async def _input(self) -> Any:
        said = self.said
        if said.ref is not None:
            return self.handles.decode(await self.holder.payloads.get(said.ref), said.ref.content)
        raw = bytes(said.input)
        if self._content == "json":
            raw = await self.holder.payloads.whole(raw)
        return self.handles.decode(raw, self._content)

    def _call(self, value: Any) -> Awaitable[Any]:
        handles, holder = self.handles, self.holder
        arguments = (value,) if handles.takes_input else ()
        named = {handles.context_name: self.ctx} if handles.context_name is not None else {}
        handler = handles.call(*arguments, **named)
        return through(holder.gate, handler) if holder.preemptible else handler  # type: ignore[arg-type]

    def _limit_s(self) -> float:
        limit_s = bound(self.said.timeout_s, self.handles.timeout_s, limits.TASK_TIMEOUT_S)
        now = clock.unix()
        if self.said.deadline is not None:
            limit_s = min(limit_s, max(0.0, self.said.deadline - now))
        self.ctx.bound(now + limit_s)
        return limit_s

    def run_s(self) -> float:
        """How long it has run."""
        return round(clock.monotonic() - self.began_at, 6)

    def failed(self, error: str, message: str, *, final: bool = False) -> tuple[Literal["failed"], work.Failed]:
        """It has failed; `final`: another execution will, too."""
        retries = self.handles.retries
        # The claim said so: this is for folds that do not know that one may, and for local steps, which have none.
        final = final or (self.said.retries is None and retries is not None and self.ctx.attempt > retries)
        said = work.Failed(
            claim=self.holder.claim, error=error[:256], message=message[:4096], run_s=self.run_s(), final=final
        )
        return "failed", said


def _described(exc: Exception) -> tuple[str, str]:
    if isinstance(exc, errors.CoordError):
        return exc.code, str(exc)
    return type(exc).__name__, str(exc)
