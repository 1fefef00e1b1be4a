"""Who takes part, with what, and what has to be installed for it."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from coord.ops.bench.beside.job import KINDS, Kind

Server: TypeAlias = Literal["coord", "nats", "database", "restate", "temporal"]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One system, used in one way."""

    name: str
    module: str
    """That is a `coord.ops.bench.beside.job.Peer`."""
    variant: str = ""
    server: Server
    kinds: tuple[Kind, ...] = KINDS
    window: int
    """Under way at once in a flood: what served it best when 8 to 256 were tried on two cores."""
    window_flows: int = 0
    """The same for workflows."""
    stored: bool = True
    """Whether the outcome of a task is on record before its submitter is told, or at least afterwards."""
    packages: dict[str, str] = {}
    """Module → its distribution, of what it needs."""
    program: str = ""
    """That it needs beside this Python."""

    def missing(self) -> str | None:
        """What is not installed; None when nothing is missing."""
        wanted = [name for module, name in self.packages.items() if importlib.util.find_spec(module) is None]
        if self.program and program(self.program) is None:
            wanted.append(self.program)
        return " and ".join(wanted) or None

    def versions(self) -> dict[str, str]:
        """Of its distributions."""
        return {name: metadata.version(name) for name in self.packages.values()}


COORD: Final = "coord"
COORD_LOCAL: Final = "coord_local"
COORD_HANDLER: Final = "coord_handler"

SIDES: Final = (
    Side(name=COORD, module="coord.ops.bench.beside.coord_itself", server="coord", window=256, window_flows=128),
    Side(
        name=COORD_LOCAL,
        module="coord.ops.bench.beside.coord_itself",
        variant="local",
        server="coord",
        kinds=("one_step", "three_steps"),
        window=256,
        window_flows=128,
    ),
    Side(
        name=COORD_HANDLER,
        module="coord.ops.bench.beside.coord_itself",
        variant="handler",
        server="coord",
        kinds=("one_step", "three_steps"),
        window=256,
        window_flows=256,
    ),
    Side(
        name="taskiq_nats",
        module="coord.ops.bench.beside.taskiq_nats",
        server="nats",
        kinds=("task",),
        stored=False,
        window=100,
        packages={"taskiq_nats": "taskiq-nats", "taskiq": "taskiq"},
    ),
    Side(
        name="taskiq_nats_results",
        module="coord.ops.bench.beside.taskiq_nats",
        variant="results",
        server="nats",
        kinds=("task",),
        window=16,
        packages={"taskiq_nats": "taskiq-nats", "taskiq": "taskiq"},
    ),
    Side(
        name="procrastinate",
        module="coord.ops.bench.beside.procrastinate",
        server="database",
        kinds=("task",),
        window=32,
        packages={"procrastinate": "procrastinate"},
    ),
    Side(
        name="dbos",
        module="coord.ops.bench.beside.dbos",
        server="database",
        window=32,
        window_flows=32,
        packages={"dbos": "dbos"},
    ),
    Side(
        name="dbos_queued",
        module="coord.ops.bench.beside.dbos",
        variant="queued",
        server="database",
        kinds=("task",),
        window=64,
        packages={"dbos": "dbos"},
    ),
    Side(
        name="restate",
        module="coord.ops.bench.beside.restate",
        server="restate",
        window=64,
        window_flows=64,
        packages={"restate": "restate-sdk", "hypercorn": "hypercorn", "aiohttp": "aiohttp"},
        program="restate-server",
    ),
    Side(
        name="temporal",
        module="coord.ops.bench.beside.temporal",
        server="temporal",
        window=16,
        window_flows=16,
        packages={"temporalio": "temporalio"},
        program="temporal",
    ),
    Side(
        name="temporal_local",
        module="coord.ops.bench.beside.temporal",
        variant="local",
        server="temporal",
        kinds=("one_step", "three_steps"),
        window=16,
        window_flows=16,
        packages={"temporalio": "temporalio"},
        program="temporal",
    ),
)

NAMES: Final = tuple(side.name for side in SIDES)
BY_NAME: Final = {side.name: side for side in SIDES}


def program(name: str) -> Path | None:
    """The program beside this Python, where wheels and `make bench-tasks-peers` put it; None when it is not there."""
    found = Path(sys.executable).with_name(name)
    return found if os.access(found, os.X_OK) else None
