"""Presence between coord and a Node client that knows nothing but docs/protocol.md."""

from __future__ import annotations

import pytest

from tests.support import interop
from tests.support.fleet import serving

pytestmark = pytest.mark.node


async def test_node_is_found_drained_and_missed(start_nats) -> None:
    async with (
        serving(await start_nats()) as fleet,
        interop.script("presence", fleet.server.url, fleet.tenant) as script,
    ):
        found = (await script.line())["found"]
        assert (found["agent"], found["instance"], found["state"]) == ("node-1", "nodepresence1", "alive")
        assert found["capabilities"] == {"ocr": 2}
        assert await script.line() == {"told": ["drain"]}
        assert await script.line() == {"gone": "nodepresence1"}  # nobody said goodbye
        await script.end()
