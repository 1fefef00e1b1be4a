"""What `Coord` offers to whoever hands out work; `coord.client.submitting` does it."""

# ruff: noqa: A002 - `id` is what the entity's id is called, everywhere

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Unpack, cast, overload

from coord.client.delayed import submit_later

if TYPE_CHECKING:
    from coord import errors
    from coord.client.connect import Coord
    from coord.client.submit_options import SubmitOptions
    from coord.client.submitting import Submitter
    from coord.client.task_handle import TaskHandle
    from coord.core.placement import Placement
    from coord.wire.work import Priority

R = TypeVar("R")

_UNSAID: Final = (None,) * 11


class Submits:
    """What `Coord` offers to whoever hands out work."""

    _submitter: Submitter

    @overload
    def submit(
        self,
        capability: str,
        input: Any = None,
        /,
        *,
        returns: type[R],
        id: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Coroutine[Any, Any, TaskHandle[R]]: ...

    @overload
    def submit(
        self,
        capability: str,
        input: Any = None,
        /,
        *,
        returns: Any = Any,
        id: str | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Coroutine[Any, Any, TaskHandle[Any]]: ...

    def submit(
        self,
        capability: str,
        input: Any = None,
        /,
        *,
        id: str | None = None,
        key: str | None = None,
        priority: Priority | None = None,
        retries: int | None = None,
        timeout_s: float | None = None,
        backoff_s: float | None = None,
        backoff_max_s: float | None = None,
        deadline: datetime | None = None,
        deadline_s: float | None = None,
        placement: Placement | dict[str, Any] | None = None,
        labels: dict[str, str] | None = None,
        preemptible: bool | None = None,
        progress: bool | None = None,
        reuse_for_s: float | None = None,
        at: datetime | None = None,
        delay_s: float | None = None,
        returns: Any = Any,
    ) -> Coroutine[Any, Any, TaskHandle[Any]]:
        """Submit a task to whoever has `capability`; returns, once it is stored, the handle of its outcome.

        `input`: what the handler gets (as `Fact.data`; beyond 256 KiB it travels by reference).  `id`: the
        task exists once under it: the same work again gives the same task; default: a fresh one.  `key`: what
        it is ordered with; default: `id`.  `priority`: default normal, or that of the same work under its id.
        `retries` after the first execution (default: as the handler says, else 3), each after `backoff_s` (1),
        doubled, up to `backoff_max_s` (60).  `timeout_s` of one execution (default: as the handler says, else 600).
        `deadline`, or `deadline_s` from its submission: what has no outcome by then is expired.  `placement`: how
        the scheduler chooses an agent; default: the next free one takes it.  `preemptible`: a batch task that may
        be held while something critical runs.  `progress`: be told of it.  `reuse_for_s`: identical work
        (capability and input) that runs, or was done no longer ago, answers instead of being done again, as whoever
        came first submitted it, and for as long as the deadline that is given here; see `coord.core.reuse`.  `at`
        (an aware time) or `delay_s`: it is submitted then, by a timer of its id (`timers.submit` for what recurs);
        `deadline_s` counts from then, and what `reuse_for_s` joins is decided then.  `returns`: type of the result.

        Raises `TaskExists` for an id that other work has (of a delayed task the handle does, where other work took
        the id meanwhile), or that any work had which ended and has left the log,
        `Overloaded` when too many wait, `CircuitOpen` when the capability fails, and what publishing raises.  A
        capability that nobody has is no error: the task waits, and `coord status` shows it.
        """
        if at is not None or delay_s is not None:
            return submit_later(
                self._submitter, cast("Coord", self), capability, input, at=at, delay_s=delay_s, id=id, key=key,
                priority=priority, retries=retries, timeout_s=timeout_s, backoff_s=backoff_s,
                backoff_max_s=backoff_max_s, deadline=deadline, deadline_s=deadline_s, placement=placement,
                labels=labels, preemptible=preemptible, progress=progress, reuse_for_s=reuse_for_s, returns=returns,
            )  # fmt: skip
        rest = (
            retries, timeout_s, backoff_s, backoff_max_s, deadline, deadline_s, placement, labels, preemptible,
            progress, reuse_for_s,
        )  # fmt: skip
        if rest == _UNSAID:  # as mostly: it need not be passed on and dropped
            return self._submitter.submit(capability, input, id=id, key=key, priority=priority, returns=returns)
        return self._submitter.submit(
            capability, input, id=id, key=key, priority=priority, retries=retries, timeout_s=timeout_s,
            backoff_s=backoff_s, backoff_max_s=backoff_max_s, deadline=deadline, deadline_s=deadline_s,
            placement=placement, labels=labels, preemptible=preemptible, progress=progress, returns=returns,
            reuse_for_s=reuse_for_s,
        )  # fmt: skip

    @overload
    def submit_many(
        self,
        capability: str,
        inputs: Iterable[Any],
        /,
        *,
        returns: type[R],
        ids: Iterable[str] | None = None,
        return_errors: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> Coroutine[Any, Any, list[TaskHandle[R]]]: ...

    @overload
    def submit_many(
        self,
        capability: str,
        inputs: Iterable[Any],
        /,
        *,
        returns: type[R],
        ids: Iterable[str] | None = None,
        return_errors: bool,
        **options: Unpack[SubmitOptions],
    ) -> Coroutine[Any, Any, list[TaskHandle[R] | errors.CoordError]]: ...

    @overload
    def submit_many(
        self,
        capability: str,
        inputs: Iterable[Any],
        /,
        *,
        returns: Any = Any,
        ids: Iterable[str] | None = None,
        return_errors: Literal[False] = False,
        **options: Unpack[SubmitOptions],
    ) -> Coroutine[Any, Any, list[TaskHandle[Any]]]: ...

    @overload
    def submit_many(
        self,
        capability: str,
        inputs: Iterable[Any],
        /,
        *,
        returns: Any = Any,
        ids: Iterable[str] | None = None,
        return_errors: bool,
        **options: Unpack[SubmitOptions],
    ) -> Coroutine[Any, Any, list[TaskHandle[Any] | errors.CoordError]]: ...

    def submit_many(
        self,
        capability: str,
        inputs: Iterable[Any],
        /,
        *,
        ids: Iterable[str] | None = None,
        return_errors: bool = False,
        **options: Any,
    ) -> Coroutine[Any, Any, list[Any]]:
        """`submit` each input, pipelined; returns their handles in order, once all are stored.

        `ids`: one for each.  `options`: `submit`'s, but `id`, the same for all; with `reuse_for_s`, `at` or
        `delay_s` each is a submission of its own, some at a time: a few requests each.  When some are refused the
        first error is raised after all are settled; with `return_errors` errors stand in the list where handles
        would.  As many `ids` as `inputs`: `InvalidPayload` before anything is submitted, or, of what has no length,
        in the place of the first that has no partner, where the list ends.
        """
        return self._submitter.submit_many(capability, inputs, ids, return_errors=return_errors, **options)

    async def entering(self, capability: str, /, *, urgent: bool = False) -> None:
        """Return when a task of this capability may be submitted, for who states that himself.

        Raises `Overloaded`, `CircuitOpen` at once, and what opening its queues raises.
        """
        await self._submitter.enter(capability, urgent=urgent)

    @overload
    def task(self, id: str, /, *, returns: type[R], key: str | None = None) -> TaskHandle[R]: ...

    @overload
    def task(self, id: str, /, *, returns: Any = Any, key: str | None = None) -> TaskHandle[Any]: ...

    def task(self, id: str, /, *, key: str | None = None, returns: Any = Any) -> TaskHandle[Any]:
        """The handle of a task that somebody submitted; nothing is asked until it is used."""
        return self._submitter.handle(id, key, returns)
