"""How late the event loop runs its timers: the first thing to look at when everything is slow.

A callback that computes for 80 ms delays every ack, heartbeat and pin renewal by 80 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from coord import limits
from coord.runtime.service import Service

if TYPE_CHECKING:
    from coord.telemetry import metrics

_WINDOW_S = 10.0


class LoopLag(Service):
    """Measures the lag four times a second; the worst of the last ten seconds is a gauge."""

    def __init__(self, *, registry: metrics.Metrics | None = None) -> None:
        super().__init__("loop_lag", registry=registry)
        self._recent: deque[tuple[float, float]] = deque(maxlen=int(_WINDOW_S / limits.LOOP_LAG_EVERY_S))

    async def run(self) -> None:
        """Sleep, and see how much longer it took."""
        histogram = self.metrics.event_loop_lag_seconds
        gauge = self.metrics.event_loop_lag_max_seconds
        while not self.draining.is_set():
            # Not the loop's own time: uvloop's is in whole milliseconds, and as old as the iteration.
            due = time.perf_counter() + limits.LOOP_LAG_EVERY_S
            await asyncio.sleep(limits.LOOP_LAG_EVERY_S)
            now = time.perf_counter()
            lag_s = max(0.0, now - due)
            histogram.observe(lag_s)
            self._recent.append((now, lag_s))
            gauge.set(self.worst_s(now))

    def worst_s(self, now: float) -> float:
        """The worst lag of the ten seconds before `now` (time.perf_counter)."""
        return max((lag_s for at, lag_s in self._recent if at > now - _WINDOW_S), default=0.0)

    def details(self) -> dict[str, Any]:
        """The worst lag, in milliseconds."""
        return {"lag_ms_max": round(self.worst_s(time.perf_counter()) * 1e3, 2)}
