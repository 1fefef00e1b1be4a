"""The house: arrows point down, siblings do not know each other, nothing is circular.

ops → testing → client | server | projector | query → bus | store | cache → runtime → telemetry → core → wire →
errors, limits
"""

from __future__ import annotations

import ast

import pytest

from tests.support import sources
from tests.support.sources import Module, parse

LAYERS = (
    ("errors", "limits"),
    ("wire",),
    ("core",),
    ("telemetry",),
    ("runtime",),
    ("bus", "store", "cache"),
    ("client", "server", "projector", "query"),
    ("testing",),
    ("ops",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

AS_A_USER = "coord.ops.demo"
"""Written as an agent's author writes: through the public face, which imports nothing of ops."""

PURE = frozenset({"wire", "core"})
IMPURE_MODULES = frozenset({
    "asyncio", "socket", "ssl", "select", "selectors", "time", "os", "sys", "io", "pathlib", "tempfile", "shutil",
    "subprocess", "threading", "multiprocessing", "concurrent", "secrets", "signal", "logging", "structlog", "nats",
    "asyncpg", "psycopg", "uvloop",
})  # fmt: skip
IMPURE_CALLS = frozenset({
    "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now",
    "datetime.datetime.utcnow", "datetime.date.today", "uuid.uuid1", "uuid.uuid4", "uuid_utils.uuid7", "open", "input",
    "print",
})  # fmt: skip


def up_or_sideways(module: Module, known: frozenset[str]) -> list[str]:
    """The imports that do not point down."""
    if not module.layer:
        return []  # the package root offers what lies below; nobody imports it
    wrong = []
    for found in sources.imports(module, known):
        layer = sources.layer_of(found.target)
        if layer and layer != module.layer and LEVEL[layer] >= LEVEL[module.layer]:
            wrong.append(f"{module.name}:{found.line} imports {found.target}")
    return wrong


def root_imports(module: Module, known: frozenset[str]) -> list[str]:
    """The imports of the package root: cycles of ten modules pass through it elsewhere."""
    if not module.layer or module.name.startswith(AS_A_USER):
        return []
    return [f"{module.name}:{f.line} imports coord" for f in sources.imports(module, known) if f.target == "coord"]


def impure(module: Module) -> list[str]:
    """What a pure module must not do: wait, look at a clock, the environment or a file, draw unseeded numbers."""
    wrong = []
    for node in ast.walk(module.tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "random":
                wrong += [f"{module.name}:{node.lineno} random.{a.name}" for a in node.names if a.name != "Random"]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            if node.attr != "Random":
                wrong.append(f"{module.name}:{node.lineno} random.{node.attr} is not seeded by an argument")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in IMPURE_CALLS or (called == "random.Random" and not node.args):
                wrong.append(f"{module.name}:{node.lineno} calls {called}")
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await):
            wrong.append(f"{module.name}:{node.lineno} is asynchronous")
        wrong += [f"{module.name} imports {n}" for n in names if n.split(".")[0] in IMPURE_MODULES]
    return wrong


def runtime_graph(found: dict[str, Module]) -> dict[str, set[str]]:
    """Who imports whom when the program runs."""
    known = frozenset(found)
    return {
        name: {i.target for i in sources.imports(module, known) if not i.typing and i.target in known}
        for name, module in found.items()
    }


@pytest.fixture(scope="module")
def known():
    return frozenset(sources.modules())


def test_every_module_has_a_place_in_the_house():
    homeless = [m.name for m in sources.modules().values() if m.layer and m.layer not in LEVEL]
    assert homeless == []
    assert {m.layer for m in sources.modules().values()} >= {"errors", "limits", "wire", "core", "bus", "store", "ops"}


def test_arrows_point_down(known):
    assert [line for m in sources.modules().values() for line in up_or_sideways(m, known)] == []


def test_nobody_imports_the_package_root(known):
    assert [line for m in sources.modules().values() for line in root_imports(m, known)] == []


def test_no_import_cycles():
    assert sources.cycles(runtime_graph(sources.modules())) == []


def test_wire_and_core_are_pure():
    assert [line for m in sources.modules().values() if m.layer in PURE for line in impure(m)] == []


def test_only_ops_reads_the_environment():
    wrong = [
        f"{m.name}:{node.lineno}"
        for m in sources.modules().values()
        if m.layer != "ops"
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
    ]
    assert wrong == []


def own_clocks(module: Module) -> list[str]:
    """Where time is measured by anything but `coord.runtime.clock`, which a test may replace."""
    own = {"time.time", "time.monotonic", "time.time_ns", "time.monotonic_ns", "datetime.now", "datetime.utcnow"}
    return [
        f"{module.name}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in own
    ]


def test_what_agents_and_deciders_run_has_no_clock_of_its_own():
    layers = {"bus", "client", "server"}
    assert [line for m in sources.modules().values() if m.layer in layers for line in own_clocks(m)] == []


# --- that these tests can fail ---


@pytest.mark.parametrize(
    ("name", "source", "ok"),
    [
        ("coord.core.x", "from coord.wire import subjects", True),
        ("coord.core.x", "from coord import limits", True),
        ("coord.wire.x", "import coord.core.window", False),
        ("coord.bus.x", "from coord.store import pool", False),
        ("coord.client.x", "from coord.query.api import ReadRequest", False),
        ("coord.errors", "from coord import limits", False),
        ("coord.core.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from coord.bus import rpc", False),
        ("coord.ops.x", "def f():\n    from coord.client import connect", True),
    ],
)
def test_the_layer_rule_itself(known, name, source, ok):
    assert (up_or_sideways(parse(name, source), known) == []) is ok


@pytest.mark.parametrize(
    ("source", "ok"),
    [
        ("import random\ndef f(rng: random.Random): return rng.random()", True),
        ("import random\nx = random.Random(1)", True),
        ("import random\nx = random.Random()", False),
        ("import random\nx = random.random()", False),
        ("from random import choice", False),
        ("import os.path", False),
        ("from asyncio import Queue", False),
        ("from datetime import datetime\nx = datetime.now()", False),
        ("from datetime import datetime, UTC\nx = datetime.fromtimestamp(0, UTC)", True),
        ("async def f(): ...", False),
        ("import uuid\nx = uuid.uuid4()", False),
    ],
)
def test_the_purity_rule_itself(source, ok):
    assert (impure(parse("coord.core.x", source)) == []) is ok


def test_the_clock_rule_itself():
    assert own_clocks(parse("coord.client.x", "import time\nnow = time.monotonic"))
    assert not own_clocks(parse("coord.client.x", "from coord.runtime import clock\nnow = clock.monotonic()"))


def test_the_root_rule_itself(known):
    assert root_imports(parse("coord.client.x", "import coord"), known)
    assert root_imports(parse("coord.client.x", "from coord import connect"), known)
    assert not root_imports(parse("coord.client.x", "from coord import limits"), known)


def test_the_cycle_finder_itself():
    assert sources.cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert sources.cycles({"a": {"a"}}) == [["a"]]
    assert sources.cycles({"a": {"b"}, "b": set()}) == []
