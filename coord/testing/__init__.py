"""For tests without servers: all of coord in one process, virtual time, stored histories; and the simulation.

::

    async with coord.testing.InMemoryCoord() as fleet:
        ...  # coord.testing.inmemory
    coord.testing.run(main())  # coord.testing.virtual
    coord.testing.replay(history, definition)  # coord.testing.histories

`coord.testing.fixtures` has them for pytest.  What decides is the real thing everywhere.

The simulation (`coord.testing.simulation`, ``coord chaos sim``) is another matter: there a fleet and its
faults are made from a seed, and what surrounds the deciders is a model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coord.testing.histories import Difference, load, replay, save
    from coord.testing.inmemory import InMemoryCoord
    from coord.testing.virtual import Stuck, VirtualLoop, run

__all__ = ["PYTEST_PLUGIN", "Difference", "InMemoryCoord", "Stuck", "VirtualLoop", "load", "replay", "run", "save"]

PYTEST_PLUGIN = "coord.testing.fixtures"
"""For ``pytest_plugins`` of the topmost conftest, where all tests are to run in virtual time."""

_HOME = {
    "Difference": "coord.testing.histories",
    "load": "coord.testing.histories",
    "replay": "coord.testing.histories",
    "save": "coord.testing.histories",
    "InMemoryCoord": "coord.testing.inmemory",
    "Stuck": "coord.testing.virtual",
    "VirtualLoop": "coord.testing.virtual",
    "run": "coord.testing.virtual",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'coord.testing' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
