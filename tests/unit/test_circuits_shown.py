"""`coord doctor` names what the services on this machine have stopped asking."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.core.breaker import BreakerPolicy
from coord.ops import circuits
from coord.ops.devstack import ports
from coord.runtime.circuit import Circuit
from coord.runtime.http import HttpService
from coord.runtime.http_config import HttpConfig
from coord.telemetry.metrics import Metrics


async def test_open_circuits_are_named() -> None:
    metrics = Metrics(CollectorRegistry())
    policy = BreakerPolicy(failures_max=1)
    one, other = (
        Circuit(name, policy, counts=(errors.DatabaseUnavailable,), metrics=metrics)
        for name in ("database_write", "rpc_log")
    )
    service = HttpService(HttpConfig(port=0), lambda: {"ready": True}, registry=metrics)
    await service.start()
    try:
        config = msgspec.structs.replace(HttpConfig(), port=urlsplit(service.url).port or 0)
        found = await circuits.check(config)
        assert (found.state, found.detail) == ("ok", "2 closed")
        with pytest.raises(errors.DatabaseUnavailable), one.guard():
            raise errors.DatabaseUnavailable("gone")
        found = await circuits.check(config)
        assert (found.state, found.detail) == ("warn", "open: database_write")
        assert other.state == "closed"
    finally:
        await service.stop()
    assert (await circuits.check(config)).state == "skip"
    assert (await circuits.check(HttpConfig(host="0.0.0.0", port=config.port))).state == "skip"
    assert ports.LOOPBACK in (await circuits.check(HttpConfig(host="::", port=config.port))).detail
