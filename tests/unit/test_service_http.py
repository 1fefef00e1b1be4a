"""/healthz, /readyz and /metrics on a free port, in the loop they report on."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.runtime.http import HttpService
from coord.runtime.http_config import HttpConfig
from coord.runtime.lag import LoopLag
from coord.telemetry.metrics import Metrics
from tests.support.waiting import until
from tests.support.web import get


def service(record: dict[str, Any]) -> HttpService:
    return HttpService(HttpConfig(port=0), lambda: record, registry=Metrics(CollectorRegistry()))


async def test_the_three_endpoints() -> None:
    record: dict[str, Any] = {"name": "all", "state": "running", "ready": False}
    async with service(record) as http:
        await http.wait_ready(100)
        assert (await get(http.url, "/healthz"))[0] == 200
        status, headers, body = await get(http.url, "/readyz")
        assert (status, json.loads(body)) == (503, record)
        assert headers["cache-control"] == "no-store"
        record["ready"] = True
        assert (await get(http.url, "/readyz"))[0] == 200
        record["state"] = "failed"
        assert (await get(http.url, "/healthz"))[0] == 503
        assert (await get(http.url, "/nothing"))[0] == 404

        http.metrics.events_published.labels(stream="EVENTS").inc(7)
        status, headers, body = await get(http.url, "/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        assert b'coord_events_published_total{stream="EVENTS"} 7.0' in body
        _, headers, body = await get(http.url, "/metrics", "application/openmetrics-text; version=1.0.0")
        assert headers["content-type"].startswith("application/openmetrics-text")
        assert body.endswith(b"# EOF\n")


async def test_it_stops_with_a_connection_open_and_gives_the_port_back() -> None:
    http = service({"state": "running", "ready": True})
    await http.start()
    await http.wait_ready(100)
    host, _, port = http.url.removeprefix("http://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))  # sends nothing: a slow client
    await asyncio.wait_for(http.stop(), 100)
    writer.close()
    again = HttpService(HttpConfig(port=int(port)), dict, registry=Metrics(CollectorRegistry()))
    async with again:
        assert again.url == http.url


async def test_it_answers_while_it_drains() -> None:
    record = {"state": "draining", "ready": False}
    http = service(record)
    await http.start()
    await http.wait_ready(100)
    await http.drain()
    assert (await get(http.url, "/readyz"))[0] == 503
    await http.stop()


async def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        http = HttpService(HttpConfig(port=port), dict, registry=Metrics(CollectorRegistry()))
        with pytest.raises(errors.EnvironmentProblem, match=rf"port {port} .*COORD_HTTP_PORT"):
            await http.start()


async def test_a_foreign_address_is_refused() -> None:
    http = HttpService(HttpConfig(host="192.0.2.1", port=0), dict, registry=Metrics(CollectorRegistry()))
    with pytest.raises(errors.EnvironmentProblem, match=r"192\.0\.2\.1"):
        await http.start()


async def test_the_loops_lag_is_measured() -> None:
    lag = LoopLag(registry=Metrics(CollectorRegistry()))
    count = "coord_event_loop_lag_seconds_count"
    async with lag:
        await until(lambda: lag.metrics.registry.get_sample_value(count))
        assert lag.details()["lag_ms_max"] >= 0
        assert lag.metrics.registry.get_sample_value("coord_event_loop_lag_max_seconds") is not None
