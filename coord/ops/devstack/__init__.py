"""The servers that coord needs, on a machine with nothing prepared.

`stack.DevStack` starts them together; `nats.NatsServer` and `postgres.PostgresServer` are one
server each; `install` chooses and provides a PostgreSQL, by preference with TimescaleDB.
"""

from __future__ import annotations

from coord.ops.devstack.nats import NatsOptions
from coord.ops.devstack.postgres import PostgresOptions
from coord.ops.devstack.stack import DevStack, DevStackConfig, StackState, find

__all__ = ["DevStack", "DevStackConfig", "NatsOptions", "PostgresOptions", "StackState", "find"]
