"""The bench of the spine: publish, project, ask, subscribe, on servers of its own.

Each part gets a fresh nats-server with the streams of streams/ (profile `production`); one
database serves them all.  Everything is temporary and on free ports of loopback; nothing of
the bench is left when it ends.

Publishing is measured under `sync_interval: always` too, the setting of deploy/ and the one that
survives a power loss, with fewer facts, because each waits for the disk: `publish_always.*`.
`full` does that for every part.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from coord.errors import SettingsError
from coord.ops.bench import machine, projecting, publishing, servers
from coord.ops.bench.latency import Load, latency
from coord.ops.bench.measure import Figures, Run, rounded
from coord.ops.bench.servers import Database
from coord.ops.devstack.nats import NatsServer
from coord.ops.devstack.stack import DevStackConfig

FORMAT: Final = 2
"""Of the report; a figure that changes its meaning raises it.  2: `subscribe_ms` has 1,000 subscribers."""

ALWAYS: Final = "always"
"""nats-server's sync_interval that syncs before each acknowledgement."""

Part: TypeAlias = Literal["publish", "project", "latency"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


class SpineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the bench does.  The defaults take less than two minutes on two cores."""

    rounds: int = 3
    """Of each side of each ratio; the figure is their median."""
    singles: int = 40_000
    """Single facts a round publishes."""
    samples: int = 500_000
    """Samples a round publishes one by one, in frames that the publisher makes."""
    samples_many: int = 3_000_000
    """Samples a round publishes with `emit_many`, and in ready frames."""
    backlog_framed: int = 240_000
    """Rows of each backlog of frames."""
    backlog_singles: int = 120_000
    """Rows of the backlog of single facts: two seconds, of which the beginning is a tenth of one."""
    latency_facts_per_s: float = 2_000
    latency_s: float = 3
    """Of each of `rounds` windows."""
    subscribers: int = 1_000
    subscribe_facts_per_s: float = 500
    subscribe_s: float = 3.5
    """The same."""
    warm_up_s: float = 2
    """Before the first window of a latency, at the same rate: not counted."""
    always_singles: int = 2_000
    """Single facts a round publishes under `sync_interval: always`: some thousand a second is what a disk does."""
    always_samples: int = 60_000
    """Samples, one by one, likewise."""
    sync_interval: str | None = None
    """nats-server's, for every part: "always" syncs before each acknowledgement; None is its default, two minutes."""
    full: bool = False
    """Every part under both settings, instead of publishing alone."""
    parts: tuple[Part, ...] = PARTS
    """latency: latency_ms and subscribe_ms."""
    database: DevStackConfig = DevStackConfig(ephemeral=True, nats=False)
    """Which database; its server is started and removed by the bench."""

    def validate(self) -> None:
        """Raise `SettingsError` when a count is not positive or a part unknown."""
        for name in (
            "rounds",
            "singles",
            "samples",
            "samples_many",
            "backlog_framed",
            "backlog_singles",
            "subscribers",
            "always_singles",
            "always_samples",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"bench: {name} is at least 1")
        for name in ("latency_facts_per_s", "latency_s", "subscribe_facts_per_s", "subscribe_s", "warm_up_s"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"bench: {name} is positive")
        if not self.parts or set(self.parts) - set(PARTS):
            raise SettingsError(f"bench: parts are {', '.join(PARTS)}")
        if self.full and self.sync_interval is not None:
            raise SettingsError("bench: full is both settings, so it takes no sync_interval")

    def scaled(self, share: float) -> SpineConfig:
        """With `share` of every count and duration; rates and subscribers stay."""
        counts = (
            "singles", "samples", "samples_many", "backlog_framed", "backlog_singles", "always_singles",
            "always_samples",
        )  # fmt: skip
        fields: dict[str, Any] = {name: max(1, int(getattr(self, name) * share)) for name in counts}
        fields |= {name: getattr(self, name) * share for name in ("latency_s", "subscribe_s", "warm_up_s")}
        return msgspec.structs.replace(self, **fields)


async def spine(config: SpineConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it; returns the report, plain values only.

    Raises `EnvironmentProblem` when the machine lacks something, `BenchError` when something
    was lost, doubled or refused on the way.
    """
    config.validate()
    circumstances = machine.Circumstances()
    figures: dict[str, Figures] = {}
    runs: dict[str, list[Run]] = {}
    versions: dict[str, str | None] = {}
    async with servers.database(config.database, say) as database:
        for part, sync_interval in _sections(config):
            say(part if sync_interval is None else f"{part}, sync_interval {sync_interval}")
            await servers.emptied(database.config)
            async with servers.broker(sync_interval) as nats:
                versions = await servers.versions(nats, database.config)
                found, of = await _run(part, config, nats, database, say)
            # The setting of the whole run needs no name; what was measured beside it does.
            suffix = "" if sync_interval == config.sync_interval else f"_{sync_interval}"
            figures |= {name + suffix: values for name, values in found.items()}
            runs |= {name + suffix: rounds for name, rounds in of.items()}
    return circumstances.report(
        "spine",
        FORMAT,
        versions=versions,
        edition=database.edition,
        settings=_settings(config),
        figures=_each(figures, statistics.median),
        by_round=_each(figures, list),
        rounds={name: [run.record() for run in of] for name, of in runs.items()},
    )


def _sections(config: SpineConfig) -> list[tuple[Part, str | None]]:
    """What is measured in turn, each with its sync_interval."""
    sections: list[tuple[Part, str | None]] = []
    for part in config.parts:
        sections.append((part, config.sync_interval))
        if config.sync_interval is None and (config.full or part == "publish"):
            sections.append((part, ALWAYS))
    return sections


async def _run(
    part: Part,
    config: SpineConfig,
    nats: NatsServer,
    database: Database,
    say: Callable[[str], None],
) -> tuple[dict[str, Figures], dict[str, list[Run]]]:
    assert nats.pid is not None
    always = nats.options.sync_interval == ALWAYS
    if part == "latency":
        loads = (
            Load(facts_per_s=config.latency_facts_per_s, seconds=config.latency_s, windows=config.rounds),
            Load(facts_per_s=config.subscribe_facts_per_s, seconds=config.subscribe_s, windows=config.rounds),
        )
        return await latency(nats.url, database.config, *loads, config.warm_up_s, config.subscribers, say), {}
    if part == "publish":
        counts = publishing.Counts(
            singles=config.always_singles if always else config.singles,
            samples=config.always_samples if always else config.samples,
            samples_many=config.samples_many,
        )
        # Ready frames against frames say nothing new when both wait for the disk.
        groups = publishing.GROUPS if config.full or not always else ("singles", "samples")
        found, runs = await publishing.publishing(nats.url, nats.pid, counts, config.rounds, say, groups)
        return {part: found}, runs
    rows = projecting.Counts(framed=config.backlog_framed, singles=config.backlog_singles)
    found, runs = await projecting.projecting(
        nats.url, nats.pid, database.config, database.pid, rows, config.rounds, say
    )
    return {part: found}, runs


def _each(figures: dict[str, Figures], of: Callable[[list[float]], Any]) -> dict[str, dict[str, Any]]:
    """The figures by part and name, each made of its rounds' values, which are rounded first."""
    return {
        part: {name: of([rounded(value) for value in values]) for name, values in found.items()}
        for part, found in figures.items()
    }


def _settings(config: SpineConfig) -> dict[str, Any]:
    return servers.settings(config) | {"fsync": True}
