"""Look at one Python source file: size, complexity, imports, long functions, to-dos.

Pure: text in, findings out.  Complexity is McCabe's cyclomatic number (decisions + 1),
counted per function over its own body, nested functions excluded.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import msgspec

LONG_FUNCTION_LINES = 60
_TODO = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b")

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_DECISIONS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case)


class FunctionFinding(msgspec.Struct, frozen=True):
    """One function of a file."""

    name: str
    line: int
    lines: int
    complexity: int


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a review of one file found."""

    path: str
    lines: int
    bytes: int
    functions: list[FunctionFinding]
    imports: list[str]
    long_functions: int
    todos: int
    problem: str | None = None
    """Why the file could not be parsed; the counts that need a parse are zero then."""


def review(path: str, source: bytes) -> Findings:
    """Review one file.  Never raises because of what is in it."""
    text = source.decode("utf-8", "replace")
    lines = text.count("\n") + (not text.endswith("\n"))
    todos = sum(1 for line in text.splitlines() if _TODO.search(line))
    try:
        tree = ast.parse(source, filename=path)
        functions = [_function(node) for node in ast.walk(tree) if isinstance(node, _Function)]
    except (SyntaxError, ValueError, RecursionError) as exc:
        return Findings(
            path=path, lines=lines, bytes=len(source), functions=[], imports=[], long_functions=0, todos=todos,
            problem=f"{type(exc).__name__}: {exc}"[:200],
        )  # fmt: skip
    return Findings(
        path=path,
        lines=lines,
        bytes=len(source),
        functions=functions,
        imports=sorted(set(_imports(tree))),
        long_functions=sum(1 for f in functions if f.lines > LONG_FUNCTION_LINES),
        todos=todos,
    )


def _function(node: _Function) -> FunctionFinding:
    end = node.end_lineno or node.lineno
    return FunctionFinding(node.name, node.lineno, end - node.lineno + 1, 1 + sum(map(_weight, _own_nodes(node))))


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _Function | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def _weight(node: ast.AST) -> int:
    if isinstance(node, _DECISIONS):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    return len(node.ifs) if isinstance(node, ast.comprehension) else 0


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
