"""What the registry answers to ``agents.find`` (docs/protocol.md §16.2)."""

from __future__ import annotations

import msgspec

from coord.wire.presence import Quotas


class Found(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One instance, as the service sees it."""

    agent: str
    instance: str
    state: str
    """alive, draining, quarantined, suspect or gone."""
    capabilities: dict[str, int] = {}
    labels: dict[str, str] = {}
    model: str | None = None
    version: str | None = None
    cost: float | None = None
    coordinator: str | None = None
    quotas: Quotas | None = None
    quota: str | None = None
    """The one that its agent broke, while it is quarantined."""
    load: float = 0.0
    claims: int = 0
    running: dict[str, int] = {}
    memory_mib: float | None = None
    heard_s: float = 0.0
    """Seconds since its last heartbeat."""


class FoundAgents(msgspec.Struct, frozen=True):
    """The answer; `more`: there are more than `limit`, and where they are asked for in order `left` so many."""

    instances: list[Found] = []
    more: bool = False
    left: int = 0
