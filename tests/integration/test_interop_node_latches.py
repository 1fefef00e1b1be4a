"""Signals and locks between the SDK and a Node client that knows nothing but docs/protocol.md."""

from __future__ import annotations

import pytest

from tests.support import interop
from tests.support.tasks import services

pytestmark = pytest.mark.node


async def test_node_raises_waits_and_takes_locks(nats_server) -> None:
    async with services(nats_server.url) as fleet, fleet.client() as c:
        await c.signals.raise_("sdk-up", {"n": 1})
        lock = c.lock("sdk-held")
        held = await lock.__aenter__()
        async with interop.script("latches", fleet.url, fleet.tenant) as script:
            assert await c.signals.wait("node-up", timeout_s=90) == {"from": "node"}
            assert await script.line() == {"before": {"n": 1}}
            assert await script.line() == {"waits": True}
            await c.signals.raise_("sdk-later", [2])
            assert await script.line() == {"after": [2]}
            granted = await script.line()
            assert granted["lock"] == "granted"
            assert await script.line() == {"lock": "refused", "code": "lock.other_permits"}
            assert await script.line() == {"wants": True}
            await lock.__aexit__(None, None, None)
            after = await script.line()
            assert (after["lock"], after["epoch"] > held.epoch) == ("granted", True)
            await script.end()
        async with c.lock("sdk-held", timeout_s=90) as again:
            assert again.epoch > after["epoch"]
