"""When a client asks for its broker again: at once, then ever more rarely, each in a moment of its own."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any
from urllib.parse import urlparse

import pytest
from nats.aio.client import Srv
from nats.errors import NoServersError

from coord import limits
from coord.bus.patched import PatchedClient


def client(*hosts: str, first_s: float = 0.1) -> PatchedClient:
    found = PatchedClient(print)
    found.options |= {"reconnect_time_wait": first_s, "connect_timeout": 2.0}

    async def told(_exc: Exception) -> None: ...

    found._error_cb = told
    found._server_pool = [Srv(urlparse(f"nats://{host}:4222")) for host in hosts]
    return found


def test_each_try_is_later_than_the_one_before_up_to_a_bound_and_by_chance() -> None:
    asking = client("a")
    (server,) = asking._server_pool
    assert asking._wait_s(server, 1.0) == 0.0, "the first is made at once"
    server.last_attempt = time.monotonic()
    waits = []
    for tries in range(1, 40):
        server.reconnects = tries
        soonest, latest = asking._wait_s(server, 0.0), asking._wait_s(server, 1.0)
        assert soonest == pytest.approx(latest / 2, abs=0.1)
        waits.append(latest)
    assert waits[0] == pytest.approx(0.1, abs=0.05)
    assert all(b >= a - 0.05 for a, b in pairwise(waits))
    assert waits[-1] == pytest.approx(0.1 * limits.RECONNECT_WAITS_MAX, abs=0.1)


async def test_a_server_that_is_away_keeps_nobody_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = client("away", "here", first_s=3_600.0)
    tried: list[str | None] = []

    async def reach(server: Srv) -> None:
        tried.append(server.uri.hostname)
        if server.uri.hostname == "away":
            raise ConnectionRefusedError

    monkeypatch.setattr(asking, "_connect_to_server", reach)
    for _ in range(3):
        await asking._select_next_server()
        current: Any = asking._current_server
        assert current.uri.hostname == "here"
    assert tried == ["away", "here", "here", "here"]
    asking._server_pool.clear()
    with pytest.raises(NoServersError):
        await asking._select_next_server()
