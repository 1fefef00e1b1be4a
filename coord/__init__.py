"""coord: the event-sourced service between the agents of a fleet.

::

    import coord

    async with coord.connect(agent="scout") as c:
        await c.emit(coord.Fact(kind="file", id="f1", event="scanned", data={"lines": 120}))

Everything a user needs is here; it is imported on first use, so that ``import coord`` costs
nothing.  Inside coord nothing imports this package root.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coord import errors
    from coord.bus.connection import NatsConfig
    from coord.bus.publish import PubAck
    from coord.cache.config import CacheConfig
    from coord.cache.loading import Loaded
    from coord.client.agent import Agent
    from coord.client.building import Workflow
    from coord.client.config import ClientConfig, PublisherConfig
    from coord.client.connect import Coord, connect
    from coord.client.context import handling
    from coord.client.handoff import HandoffContext, HandoffHandle
    from coord.client.quotas import Quotas
    from coord.client.receipt import Receipt
    from coord.client.task_handle import TaskHandle
    from coord.client.tasks import TaskContext
    from coord.client.workflows import WorkflowHandle
    from coord.core.eviction import Watermark
    from coord.core.placement import Placement
    from coord.core.retry import RetryPolicy
    from coord.errors import CoordError, Decline, FlushFailed, Overloaded, Reject
    from coord.runtime.running import run
    from coord.store.snapshots import reading
    from coord.wire.envelope import Fact, Sample, StoredFact, StoredSample
    from coord.wire.facts import fact
    from coord.wire.flagging import FlagRule
    from coord.wire.where import where

__all__ = [
    "Agent",
    "CacheConfig",
    "ClientConfig",
    "Coord",
    "CoordError",
    "Decline",
    "Fact",
    "FlagRule",
    "FlushFailed",
    "HandoffContext",
    "HandoffHandle",
    "Loaded",
    "NatsConfig",
    "Overloaded",
    "Placement",
    "PubAck",
    "PublisherConfig",
    "Quotas",
    "Receipt",
    "Reject",
    "RetryPolicy",
    "Sample",
    "StoredFact",
    "StoredSample",
    "TaskContext",
    "TaskHandle",
    "Watermark",
    "Workflow",
    "WorkflowHandle",
    "connect",
    "errors",
    "fact",
    "handling",
    "reading",
    "run",
    "where",
]

_HOME = {
    "Agent": "coord.client.agent",
    "CacheConfig": "coord.cache.config",
    "Loaded": "coord.cache.loading",
    "Watermark": "coord.core.eviction",
    "reading": "coord.store.snapshots",
    "run": "coord.runtime.running",
    "Placement": "coord.core.placement",
    "Quotas": "coord.client.quotas",
    "Reject": "coord.errors",
    "TaskContext": "coord.client.tasks",
    "TaskHandle": "coord.client.task_handle",
    "ClientConfig": "coord.client.config",
    "Coord": "coord.client.connect",
    "CoordError": "coord.errors",
    "Decline": "coord.errors",
    "FlagRule": "coord.wire.flagging",
    "HandoffContext": "coord.client.handoff",
    "HandoffHandle": "coord.client.handoff",
    "Fact": "coord.wire.envelope",
    "FlushFailed": "coord.errors",
    "NatsConfig": "coord.bus.connection",
    "Overloaded": "coord.errors",
    "PubAck": "coord.bus.publish",
    "PublisherConfig": "coord.client.config",
    "Receipt": "coord.client.receipt",
    "RetryPolicy": "coord.core.retry",
    "Sample": "coord.wire.envelope",
    "StoredFact": "coord.wire.envelope",
    "StoredSample": "coord.wire.envelope",
    "Workflow": "coord.client.building",
    "WorkflowHandle": "coord.client.workflows",
    "connect": "coord.client.connect",
    "fact": "coord.wire.facts",
    "handling": "coord.client.context",
    "where": "coord.wire.where",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("coord.errors")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'coord' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
