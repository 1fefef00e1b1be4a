"""``coord bench cache``: what a hit costs, how soon what is committed is evicted, and whether anything stale is served.

l1      `coord.ops.bench.cache_hits`: CPU of a hit beside cachebox and aiocache
l2      `coord.ops.bench.cache_shared`: what another process has loaded, from the broker's memory
fleet   `coord.ops.bench.cache_fleet`: a hundred connections in several processes while facts are committed
traces  `coord.ops.bench.cache_replay`: recordings through three tiers, beside a cache that knows the future
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from coord.ops.bench import machine, servers
from coord.ops.bench.cache_fleet import FleetConfig, fleet
from coord.ops.bench.cache_hits import hits
from coord.ops.bench.cache_replay import ReplayConfig, replay
from coord.ops.bench.cache_shared import shared
from coord.ops.bench.cache_traces import FILES, MOVED, Trace, steps
from coord.ops.devstack.stack import DevStackConfig

FORMAT: Final = 2
_STEPS: Final = 8_819
"""Of the longer recording."""

Part = Literal["l1", "l2", "fleet", "traces"]
PARTS: Final[tuple[Part, ...]] = ("l1", "l2", "fleet", "traces")


class CachingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured, and how much of it."""

    parts: tuple[Part, ...] = PARTS
    rounds: int = 5
    hits: int = 200_000
    """Of each sort in a round; a tenth of those of aiocache."""
    shared: int = 2_000
    """Answers from L2."""
    fleet: FleetConfig = FleetConfig()
    replay: ReplayConfig = ReplayConfig()
    data: Path | None = None
    """Where the recordings are; None: no traces."""
    steps: int | None = None
    """Requests or messages of each recording; None: all."""
    database: DevStackConfig

    def scaled(self, scale: float) -> CachingConfig:
        """Counts and durations times `scale`; 1.0 is the whole."""
        own = self.fleet
        return msgspec.structs.replace(
            self,
            rounds=max(1, round(self.rounds * min(1.0, scale))),
            hits=max(2_000, int(self.hits * scale)),
            shared=max(20, int(self.shared * scale)),
            fleet=msgspec.structs.replace(
                own,
                processes=max(1, min(own.processes, round(own.processes * scale))),
                connections=max(2, int(own.connections * scale)),
                readers=max(2, int(own.readers * scale)),
                notes=max(20, int(own.notes * scale)),
                quiet_s=max(1.0, own.quiet_s * scale),
                seconds=max(2.0, own.seconds * scale),
            ),
            steps=None if scale >= 1 else max(20, int(_STEPS * scale)),
        )


async def cache(config: CachingConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and return the report."""
    circumstances = machine.Circumstances()
    figures: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if "l1" in config.parts:
        say("l1")
        figures |= await hits(config.rounds, config.hits, say)
    if "l2" in config.parts:
        say("l2")
        async with servers.broker() as nats:
            figures |= await shared(config.shared, nats.url, say)
    if "fleet" in config.parts:
        async with servers.database(config.database, say) as database, servers.broker() as nats:
            say("fleet")
            more = {"versions": await servers.versions(nats, database.config), "edition": database.edition}
            found = await fleet(config.fleet, nats.url, database.config, say)
            figures |= {name: found.pop(name) for name in tuple(found) if name.startswith("eviction")}
            figures["fleet"] = found
    if "traces" in config.parts:
        figures |= await _traces(config, say)
    figures |= _together(figures)
    return circumstances.report("cache", FORMAT, settings=servers.settings(config), figures=figures, **more)


async def _traces(config: CachingConfig, say: Callable[[str], None]) -> dict[str, Any]:
    if config.data is None:
        say("traces: no recordings (COORD_TEST_DATA)")
        return {}
    found: dict[str, Any] = {}
    for trace in FILES:
        say(trace)
        found[trace] = await _trace(config, config.data, trace)
        rates = {name: f"{rate:.0%}" for name, rate in found[trace]["hit_rate"].items()}
        say(f"  {found[trace]['answers_checked']:,} answers, {rates}, loads ÷ {found[trace]['load_reduction']:g}")
    return found


async def _trace(config: CachingConfig, data: Path, trace: Trace) -> dict[str, Any]:
    """Where facts can move answers on: with that, and beside it without, as every cache has it that evicts."""
    found: dict[str, Any] = {}
    moved = MOVED[trace]
    for kinds in (moved, frozenset[str]()) if moved else (moved,):
        played = await replay(config.replay, steps(trace, data, config.replay.processes, config.steps), kinds)
        if found:
            names = ("stale_answers", "hit_rate", "load_reduction", "load_reduction_bound", "cpu_us")
            found["stale_answers"] += played["stale_answers"]
            found["evicting"] = {name: played[name] for name in names}
        else:
            found = played
    return found


def _together(figures: dict[str, Any]) -> dict[str, Any]:
    """What was asked of the whole; rates and loads are those of the first recording, of the fleet without one."""
    parts = [figures[name] for name in (*FILES, "fleet") if name in figures]
    if not parts:
        return {}
    return {
        "stale_answers": sum(part["stale_answers"] for part in parts),
        "answers_checked": sum(part["answers_checked"] for part in parts),
        "hit_rate": parts[0]["hit_rate"],
        "load_reduction": parts[0]["load_reduction"],
    }
