"""The project's own sources, read as syntax trees: what the tidy tests ask about them."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]


class Module(msgspec.Struct, frozen=True):
    """One Python module: dotted name, path, syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def layer(self) -> str:
        """The part of the house it belongs to: its first name below coord; "" for the package root."""
        return layer_of(self.name)


class Import(msgspec.Struct, frozen=True):
    """One import statement's target inside coord; `typing`: under `if TYPE_CHECKING`."""

    target: str
    line: int
    typing: bool


def layer_of(name: str) -> str:
    """The part of the house a dotted name lies in; "" for the package root."""
    return name.removeprefix("coord").removeprefix(".").partition(".")[0]


def parse(name: str, source: str, path: Path | None = None) -> Module:
    """A module out of its source."""
    return Module(name, path or Path(f"{name}.py"), ast.parse(source))


@cache
def modules() -> dict[str, Module]:
    """Every module of coord, by name."""
    found = {}
    for path in sorted((ROOT / "coord").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = parse(name, path.read_text(encoding="utf-8"), path)
    return found


@cache
def nodes(module: Module) -> tuple[ast.AST, ...]:
    """All of its syntax tree."""
    return tuple(ast.walk(module.tree))


@cache
def imports(module: Module, known: frozenset[str]) -> list[Import]:
    """What it imports of coord, each as the module it really needs.

    `from coord.wire import subjects` is an import of `coord.wire.subjects`, not of the package.
    """
    typing_nodes = {
        id(inner)
        for node in nodes(module)
        if isinstance(node, ast.If)
        and any("TYPE_CHECKING" in {getattr(part, "id", ""), getattr(part, "attr", "")} for part in ast.walk(node.test))
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in nodes(module):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif not isinstance(node, ast.ImportFrom):
            continue
        elif node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [name if name in known else node.module for name in inside]
        else:
            targets = []  # relative: ruff refuses it
        found += [
            Import(target, node.lineno, id(node) in typing_nodes)
            for target in dict.fromkeys(targets)
            if target == "coord" or target.startswith("coord.")
        ]
    return found


def docstrings(module: Module) -> set[int]:
    """The ids of the constants that are docstrings: of modules, classes, functions, and of the fields below which
    a bare string stands."""
    return {
        id(node.value)
        for node in nodes(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


@cache
def strings(module: Module) -> list[tuple[int, str]]:
    """Its string literals that are not docstrings, with their lines; an f-string by its first part."""
    skip = docstrings(module)
    inner = {id(part) for node in nodes(module) if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
    hidden = skip | inner
    return [
        (node.lineno, node.value)
        for node in nodes(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in hidden
    ]


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The cycles of a graph, each once, as the names along it (Tarjan's components of more than one node)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = []
            while True:
                component.append(stack.pop())
                if component[-1] == node:
                    break
            if len(component) > 1 or node in graph.get(node, ()):
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


@cache
def tracked_files() -> tuple[Path, ...]:
    """What git tracks or would; without git, everything that .gitignore's plain folders do not hide."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode == 0:
        names = [os.fsdecode(n) for n in done.stdout.split(b"\0") if n]
        return tuple(path for n in names if (path := ROOT / n).is_file())
    hidden = re.compile(r"(^|/)(\.venv|\.git|\.coord|__pycache__|node_modules|\.\w+_cache|\.hypothesis)(/|$)")
    return tuple(p for p in ROOT.rglob("*") if p.is_file() and not hidden.search(str(p.relative_to(ROOT))))
