"""A projector in the test's own process."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from coord.bus.connection import NatsConfig
from coord.projector.config import ProjectorConfig
from coord.projector.service import ProjectorService
from coord.store.config import DatabaseConfig
from coord.telemetry.metrics import Metrics


def projector_service(nats_url: str, database_url: str, **fields: Any) -> ProjectorService:
    """One with metrics of its own, not started; `fields` are ProjectorConfig's."""
    return ProjectorService(
        NatsConfig(urls=(nats_url,)),
        DatabaseConfig(url=database_url, pool_min=1, pool_max=6),
        ProjectorConfig(**fields),
        registry=Metrics(CollectorRegistry()),
    )
