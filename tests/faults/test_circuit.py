"""A database that is cut off is knocked on by one, and found again by the next probe."""

from __future__ import annotations

import asyncio
import random
import time
from urllib.parse import urlsplit

from coord import limits
from coord.projector.service import ProjectorService
from tests.support.proxy import Proxy
from tests.support.waiting import until
from tests.support.workload import Workload, verify

AWAY_S = 6.0


def openings(service: ProjectorService) -> float:
    """How often the database's circuit has opened."""
    assert service._pool is not None
    labels = {"name": service._pool.circuit.name, "to": "open"}
    return service.metrics.registry.get_sample_value("coord_circuit_transitions_total", labels) or 0.0


async def test_the_database_is_cut_off(nats, crash_database, projector, rng: random.Random, record_property) -> None:
    url = crash_database.url
    async with Proxy("127.0.0.1", urlsplit(url).port or 0) as line:
        service = await projector(line.in_front_of(url))
        pool = service._pool
        async with Workload(nats.url, rng, per_s=500) as load:
            await load.more(200)
            line.refuse()
            line.cut()
            before, began = line.connections, time.monotonic()
            await until(lambda: pool.circuit.state == "open")
            await asyncio.sleep(AWAY_S)
            attempts, away_s = line.connections - before, time.monotonic() - began
            await until(lambda: not service.is_ready())
            opened = openings(service)
            line.resume()
            healed_at = time.monotonic()
            await until(lambda: pool.circuit.state == "closed")
            healed_s, opened = time.monotonic() - healed_at, openings(service) - opened
            await until(service.is_ready)
            ready_s = time.monotonic() - healed_at
            await load.more(50)
            await load.stop()
            rows = await verify(url, load)
    record_property("attempts", attempts)
    print(
        f"away for {away_s:.1f} s: {attempts} connections, {pool.circuit.refused} calls refused;"
        f" closed after {healed_s:.2f} s, ready after {ready_s:.2f} s; {len(rows)} rows"
    )
    # Those admitted before it opened (every partition of two streams at most), then one at a time:
    # 0.5, 1, 2, 4 s, half of it random.
    assert attempts <= 2 * limits.PARTITIONS + limits.PROJECT_WRITERS + 2 + away_s / (limits.CIRCUIT_OPEN_FIRST_S / 2)
    # One probe may have been under way; the next one, and how long it is put off is the circuit's own bound, finds it.
    assert opened <= 1
