"""The collector looks seldom while a process of coord runs, and as before afterwards."""

from __future__ import annotations

import gc

import pytest
from prometheus_client import CollectorRegistry

from coord.runtime.heap import Heap
from coord.telemetry.metrics import Metrics


@pytest.mark.usefixtures("thawed")
async def test_the_collector_looks_seldom_until_the_service_ends() -> None:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    try:
        one, other = (Heap(registry=Metrics(CollectorRegistry())) for _ in range(2))
        async with one:
            assert gc.get_threshold()[0] > 10_000
            assert gc.get_freeze_count() > 0
            async with other:
                pass
            assert gc.get_threshold()[0] > 10_000, "it was not the second one's to set back"
        assert gc.get_threshold() == (700, 10, 10)
        assert gc.isenabled()
    finally:
        gc.set_threshold(*before)
