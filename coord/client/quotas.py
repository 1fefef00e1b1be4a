"""What an agent limits itself to, and the keeping of it.

The SDK keeps quotas by waiting: a worker that has used up its facts, or whose process is larger
than it declared, takes nothing more until that is over; progress and what else its connection
emits waits for its turn.  A decider watches the same numbers and quarantines who exceeds them
(`coord.core.capability`), SDK or not.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path
from typing import Final

import msgspec

from coord import errors
from coord.core.rate import Rate
from coord.runtime import clock
from coord.wire import arguments

_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = resource.getpagesize()
_MEMORY_EVERY_S: Final = 0.5
FACTS_OF_A_TASK: Final = 2
"""Claim and outcome: what taking a task will cost."""


class Quotas(msgspec.Struct, frozen=True, kw_only=True):
    """What each process of an agent limits itself to.  None: no limit.

    `inflight`: tasks at once, of all its capabilities.  `facts_per_s`: facts that its connection states, a second's
    worth at once.  `memory_mib`: resident memory, declared: what placement counts on.
    """

    inflight: int | None = None
    """Tasks at once, of all its capabilities together."""
    facts_per_s: float | None = None
    """Facts that its connection states, claims and outcomes among them; a second's worth at once."""
    memory_mib: float | None = None
    """Resident memory of the process, declared: what placement counts on."""

    def validate(self) -> None:
        """Raise `SettingsError` for what cannot be kept."""
        arguments.as_kind(self, Quotas, "quotas", errors.SettingsError)
        if self.inflight is not None and self.inflight < 1:
            raise errors.SettingsError("quotas: inflight is at least 1")
        if self.facts_per_s is not None and self.facts_per_s <= 0:
            raise errors.SettingsError("quotas: facts_per_s is above 0")
        if self.memory_mib is not None and self.memory_mib <= 0:
            raise errors.SettingsError("quotas: memory_mib is above 0")


class Allowance:
    """What is left of an agent's quotas."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self._rate = None if quotas.facts_per_s is None else Rate(quotas.facts_per_s, clock.monotonic())

    def spend(self, facts: int) -> float:
        """Count facts; returns the seconds that whoever can wait should wait."""
        return 0.0 if self._rate is None else self._rate.take(facts, clock.monotonic())

    async def turn(self) -> None:
        """Return when one more fact is within the rate."""
        wait_s = self.spend(1)
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def wait_s(self, held: int) -> float:
        """Seconds until it makes sense to take another task, `held` being held; 0: now."""
        quotas = self.quotas
        if quotas.inflight is not None and held >= quotas.inflight:
            return float("inf")  # until one is done
        if quotas.memory_mib is not None and self.memory_mib() > quotas.memory_mib:
            return _MEMORY_EVERY_S
        return 0.0 if self._rate is None else self._rate.wait_s(clock.monotonic())

    def tasks(self) -> float:
        """Tasks that may be asked for at once within the rate: one at least, where `wait_s` says none has to wait."""
        return float("inf") if self._rate is None else max(1.0, self._rate.room(clock.monotonic()) // FACTS_OF_A_TASK)

    def memory_mib(self) -> float:
        """Resident memory of this process, at most half a second old."""
        return _memory.resident_mib()


class _Memory:
    """Of this process: read once for all agents that it hosts."""

    def __init__(self) -> None:
        self._mib = 0.0
        self._at = float("-inf")

    def resident_mib(self) -> float:
        now = clock.monotonic()
        if not 0 <= now - self._at < _MEMORY_EVERY_S:  # below 0: a clock of a test is over
            self._at, self._mib = now, _resident_mib()
        return self._mib


_memory: Final = _Memory()


def _resident_mib() -> float:
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES / 2**20
    except (OSError, ValueError, IndexError):  # not Linux: the peak is as near as it gets
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
