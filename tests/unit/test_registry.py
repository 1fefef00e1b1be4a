"""What the registry answers, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from coord import errors
from coord.bus import rpc
from coord.core.presence import PresenceTable
from coord.server.registry import Registry
from coord.wire.agents import FoundAgents


def registry_of(*agents: tuple[str, str]) -> Registry:
    table = PresenceTable(0.0)
    for agent, instance in agents:
        table.beat("acme", agent, instance, b"{}", 0.0)
    nobody: Any = None
    return Registry(nobody, SimpleNamespace(table=table), nobody)  # type: ignore[arg-type]


async def found(registry: Registry, **asked: Any) -> FoundAgents:
    return await registry.find(rpc.Request("coord.rpc.acme.agents.find", msgspec.json.encode(asked), "json", 0.0))


async def test_a_large_fleet_is_read_page_by_page() -> None:
    agents = [(f"a{n % 7}", f"i{n:02}") for n in range(50)]
    registry = registry_of(*agents)
    seen: list[tuple[str, str]] = []
    after, left = ("", ""), 1
    while left:
        page = await found(registry, limit=8, after=after)
        left = page.left
        assert page.more == bool(left)
        seen += [(one.agent, one.instance) for one in page.instances]
        assert len(seen) + left == len(agents)
        after = seen[-1]
    assert seen == sorted(agents)
    some = await found(registry, limit=8)  # any of them, as it was
    assert (len(some.instances), some.more) == (8, True)
    assert not (await found(registry, limit=50)).more


async def test_who_has_just_begun_does_not_answer_for_all() -> None:
    with pytest.raises(errors.ServiceUnavailable):
        await registry_of().boards(rpc.Request("coord.rpc._.agents.boards", b"", "json", 0.0))
