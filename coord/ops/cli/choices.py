"""What an option may be where there are a few: typer names them, and refuses any other."""

from __future__ import annotations

from enum import StrEnum


class TaskStatus(StrEnum):
    """`coord.core.tasks.Status`; lost: the log that held it is gone (docs/adr/0082)."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    WAITING = "waiting"
    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    LOST = "lost"


class WorkflowStatus(StrEnum):
    """`coord.core.workflow_life.Status`; lost: the log that held it is gone."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


class HandoffStatus(StrEnum):
    """`coord.core.handoff.Status`; lost: the log that held it is gone."""

    SEEKING = "seeking"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    LOST = "lost"


class AgentState(StrEnum):
    """What `coord.wire.agents.Found.state` is."""

    ALIVE = "alive"
    DRAINING = "draining"
    QUARANTINED = "quarantined"
    SUSPECT = "suspect"
    GONE = "gone"


class Priority(StrEnum):
    """`coord.wire.work.Priority`."""

    CRITICAL = "critical"
    NORMAL = "normal"
    BATCH = "batch"


class Strategy(StrEnum):
    """`coord.core.placement.Strategy`, but for `agent` and `label`, which need more than a name."""

    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTIONS = "least_connections"
    RESPONSE_TIME = "response_time"
    RESOURCES = "resources"


class Drawing(StrEnum):
    """How a graph is drawn."""

    MERMAID = "mermaid"
    SVG = "svg"
