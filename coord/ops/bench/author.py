"""The agent that states what the bench publishes."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry

from coord.bus.connection import NatsConfig
from coord.client.config import PublisherConfig
from coord.client.connect import Connecting, connect
from coord.ops.bench import workload
from coord.telemetry.metrics import Metrics

AGENT: Final = "author"


def author(nats_url: str, publisher: PublisherConfig | None = None) -> Connecting:
    """Connect as it, with metrics of its own; `publisher`: the defaults when None."""
    return connect(
        NatsConfig(urls=(nats_url,)),
        tenant=workload.TENANT,
        agent=AGENT,
        publisher=publisher,
        metrics=Metrics(CollectorRegistry()),
    )
