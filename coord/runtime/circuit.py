"""Circuits: a breaker with a clock, a name, metrics and log lines.

::

    with circuit.guard() as call:  # raises `CircuitOpen`, and nothing was asked
        answer = await ask()  # an error of `counts` is a failure

`coord.core.breaker` decides.  One circuit stands in front of one class of what is outside,
for all callers of its owner: where sixteen loops would each knock on a dead database, one
does, and the others are told at once how long to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Final

from coord import errors
from coord.core.breaker import Breaker, BreakerPolicy, State, Ticket
from coord.runtime import clock
from coord.telemetry import logs
from coord.telemetry import metrics as telemetry

_log = logs.get("circuit")
_rng = random.Random()

LEVELS: Final[dict[State, int]] = {"closed": 0, "half_open": 1, "open": 2}
"""The values of the gauge ``coord_circuit_state``."""


_OURS: Final = (errors.Overloaded, errors.NotConnected, errors.BusClosed, errors.CircuitOpen)
"""Errors that say nothing about what was asked: it never was.  (A lost connection has its own way back.)"""


class Circuit:
    """See the module.  Safe for one event loop."""

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy | None = None,
        *,
        counts: tuple[type[errors.CoordError], ...],
        error: type[errors.CircuitOpen] = errors.CircuitOpen,
        metrics: telemetry.Metrics | None = None,
        now: Callable[[], float] = lambda: clock.monotonic(),  # noqa: PLW0108 - looked up when it is called
    ) -> None:
        """`name`: the metric's label, such as ``database_write``; `counts`: errors that are failures.

        `error` is raised while it is open.
        """
        self.name = name
        self.refused = 0
        """Calls told to wait."""
        self.closed = asyncio.Event()
        """Set while it is closed."""
        self.closed.set()
        self._breaker = Breaker(policy or BreakerPolicy())
        self._counts = counts
        self._error = error
        self._now = now
        self._cause: errors.CoordError | None = None
        """The last failure."""
        metrics = metrics if metrics is not None else telemetry.default()
        self._transitions = metrics.circuit_transitions
        self._m_state = metrics.circuit_state.labels(name=name)
        self._m_refused = metrics.circuit_refused.labels(name=name)
        self._m_state.set(LEVELS["closed"])

    @property
    def state(self) -> State:
        """closed, open or half_open."""
        return self._breaker.state

    @property
    def policy(self) -> BreakerPolicy:
        """When it opens, and for how long."""
        return self._breaker.policy

    @contextlib.contextmanager
    def guard(self) -> Iterator[Call]:
        """Around one call: raises `CircuitOpen` instead of entering while it is open.

        An error of `counts` is a failure, another error of coord's or none an answer;
        cancellation, what was never asked and whatever else leaves the block say nothing.
        """
        call = self.enter()
        try:
            yield call
        except _OURS:
            raise
        except errors.CoordError as exc:
            if isinstance(exc, self._counts):
                call.failed(exc)
            else:
                call.succeeded()
            raise
        else:
            call.succeeded()
        finally:
            call.close()

    def enter(self) -> Call:
        """Admission by hand: `close` what it returns in any case.  Raises `CircuitOpen`."""
        return Call(self, self._admit())

    def _admit(self) -> Ticket:
        before = self._breaker.state
        admitted = self._breaker.admit(self._now())
        self._show(before)
        if isinstance(admitted, Ticket):
            return admitted
        self.refused += 1
        self._m_refused.inc()
        why = "" if self._cause is None else f": {self._cause.message} [{self._cause.code}]"
        raise self._error(f"not asked again yet{why}", circuit=self.name, retry_after_s=round(admitted, 3))

    def _is_past(self, ticket: Ticket) -> bool:
        return ticket.generation != self._breaker.generation

    def _settle(self, ticket: Ticket, outcome: str, cause: errors.CoordError | None = None) -> None:
        before = self._breaker.state
        if outcome == "succeeded":
            self._breaker.succeeded(ticket)
        elif outcome == "failed":
            self._cause = cause or self._cause
            self._breaker.failed(ticket, self._now(), _rng)
        else:
            self._breaker.abandoned(ticket)
        self._show(before, cause)

    def _show(self, before: State, cause: errors.CoordError | None = None) -> None:
        state = self._breaker.state
        if state == before:
            return
        self._transitions.labels(name=self.name, to=state).inc()
        self._m_state.set(LEVELS[state])
        if state == "closed":
            self.closed.set()
            _log.info("circuit.closed", circuit=self.name)
        else:
            self.closed.clear()
        if state == "open" and before == "closed":
            _log.warning("circuit.opened", circuit=self.name, error=cause)


class Call:
    """One admitted call: says once how it went.  Made by `Circuit`."""

    __slots__ = ("_circuit", "_ticket")

    def __init__(self, circuit: Circuit, ticket: Ticket) -> None:
        self._circuit = circuit
        self._ticket: Ticket | None = ticket

    def succeeded(self) -> None:
        """What is outside answered; the first outcome counts."""
        self._settle("succeeded")

    def renew(self) -> None:
        """Be admitted again where the circuit has changed since; raises `CircuitOpen`."""
        if self._ticket is not None and self._circuit._is_past(self._ticket):  # noqa: SLF001
            self._ticket = None
            self._ticket = self._circuit._admit()  # noqa: SLF001

    def proved(self) -> None:
        """What is outside answers, and the call goes on: a probe need not end before others may call."""
        if self._ticket is not None and self._ticket.probe:
            self._settle("succeeded")
            with contextlib.suppress(errors.CircuitOpen):
                self._ticket = self._circuit._admit()  # noqa: SLF001

    def failed(self, cause: errors.CoordError | None = None) -> None:
        """It did not."""
        self._settle("failed", cause)

    def close(self) -> None:
        """Nothing can be said; legal after an outcome."""
        self._settle("abandoned")

    def _settle(self, outcome: str, cause: errors.CoordError | None = None) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._circuit._settle(ticket, outcome, cause)  # noqa: SLF001
