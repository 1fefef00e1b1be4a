"""Real servers for the tests: nats-server and PostgreSQL with TimescaleDB."""

from __future__ import annotations
