"""The package root: every public name is there, and importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import coord
from coord.client import connect as connect_module
from coord.wire import facts


def test_every_public_name_resolves() -> None:
    for name in coord.__all__:
        assert getattr(coord, name) is not None
    assert coord.connect is connect_module.connect
    assert coord.fact is facts.fact
    assert coord.errors.Overloaded is coord.Overloaded
    assert set(coord.__all__) <= set(dir(coord))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(coord, "no_such_name")


def test_importing_the_root_loads_nothing_else() -> None:
    code = "import sys, coord; print(sorted(m for m in sys.modules if m.split('.')[0] in ('coord', 'nats', 'msgspec')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "['coord']"


def test_speaking_loads_no_database_driver_and_no_subscriber() -> None:
    code = "import sys, coord; coord.connect, coord.Fact; print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = out.stdout
    for module in ("asyncpg", "psycopg", "typer", "uvloop", "coord.client.subscriber", "coord.store", "coord.ops"):
        assert f"'{module}'" not in loaded
