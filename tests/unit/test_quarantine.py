"""Who was cut off when it was told that it is quarantined, or released, is told again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from coord import limits
from coord.core.deciding import Push, State
from coord.core.presence import PresenceTable
from coord.core.presence_decider import PresenceDecider
from coord.wire.records import StoredFact
from coord.wire.subjects import partition

AGAIN_S = limits.QUARANTINE_AGAIN_S


class World:
    """A decider, what it hears, and a clock."""

    def __init__(self) -> None:
        self.decider = PresenceDecider()
        self.table = PresenceTable(0.0, settle_s=0.0)
        self.now = 1.0
        self.seq = 0

    def states(self, event: str, data: Any, *, by: str = "_presence", detail: tuple[str, ...] = ()) -> None:
        self.seq += 1
        at = datetime.fromtimestamp(self.now, UTC)
        said = StoredFact(
            "acme", by, "a1", "agent", "a1", event, detail, partition("a1"), self.seq, 0, at, at, f"e{self.seq}",
            f"coord.agent.{event}", 1, None, None, None, msgspec.json.encode(data), "json",
        )  # fmt: skip
        list(self.decider.apply(said))

    def beats(self, *, quarantined: bool) -> None:
        body = msgspec.json.encode({"quarantined": quarantined, "every_s": 60})
        self.table.beat("acme", "a1", "i1", body, self.now)

    def told(self, after_s: float) -> list[Any]:
        self.now += after_s
        said = []
        for effect in list(self.decider.tick(self.now, self.table)):
            if isinstance(effect, State):
                self.states(effect.event, effect.data, detail=effect.detail)
            elif isinstance(effect, Push):
                said.append(effect.body)
        return said


def test_who_says_otherwise_than_the_log_is_told_again() -> None:
    world = World()
    world.states("registered", {"instance": "i1", "quotas": {"inflight": 2}}, by="a1")
    world.beats(quarantined=False)
    assert world.told(AGAIN_S) == []
    world.states("quarantined", {"quota": "inflight"}, detail=("1",))
    assert world.told(1.0) == []  # it may just be saying so
    assert world.told(AGAIN_S) == [{"what": "quarantined", "reason": "inflight"}]
    assert world.told(1.0) == []  # not at each look
    world.beats(quarantined=True)
    assert world.told(AGAIN_S) == []
    assert world.told(limits.QUARANTINE_S) == []  # it is released, by a fact
    assert world.told(AGAIN_S) == [{"what": "released"}]
    kept = world.decider.dump()
    world.decider = PresenceDecider()
    world.decider.load(kept)
    assert world.told(AGAIN_S) == [{"what": "released"}]  # whoever decides by then
    world.beats(quarantined=False)
    assert world.told(AGAIN_S) == []
