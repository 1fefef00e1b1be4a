"""The documentation as data: pages, their code blocks, links, and what they name."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec

from tests.support.sources import ROOT

_FENCE = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


class Block(msgspec.Struct, frozen=True):
    """One fenced block: its language ("" when none), its text and the line it begins on."""

    language: str
    text: str
    line: int


class Link(msgspec.Struct, frozen=True):
    """One link: what is clicked, and where it goes."""

    text: str
    target: str


class Page(msgspec.Struct, frozen=True):
    """One Markdown file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path in the checkout."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self) -> Iterator[Block]:
        """The fenced blocks, in order."""
        for found in _FENCE.finditer(self.text):
            yield Block(found[2], found[3], self.text.count("\n", 0, found.start()) + 1)

    def links(self) -> list[Link]:
        """The links of the prose."""
        return [Link(text, target) for text, target in _LINK.findall(self.prose)]

    def spans(self) -> list[str]:
        """What stands in backticks in the prose."""
        return _SPAN.findall(self.prose)

    def anchors(self) -> set[str]:
        """What `#…` may name here: the headings as GitHub turns them into anchors."""
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(self.prose))
        return {heading.replace(" ", "-") for heading in plain}


@cache
def page(path: Path) -> Page:
    """One page."""
    return Page(path, path.read_text(encoding="utf-8"))


@cache
def pages() -> dict[str, Page]:
    """Every page of the project, by its path in the checkout."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    found += [ROOT / "sql/README.md", ROOT / "tests/golden/README.md"]
    return {p.name: p for p in map(page, sorted(found))}


def command_lines(text: str) -> list[str]:
    """The commands of a shell block: continuation lines joined, comments and empty lines left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def words(line: str) -> list[str]:
    """A command line as a shell would split it, without its comment."""
    return shlex.split(line, comments=True)


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a Python file defines: `name` at the top, `Class.member` inside."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from _names(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield prefix + node.target.id
        elif isinstance(node, ast.Assign):
            yield from (prefix + target.id for target in node.targets if isinstance(target, ast.Name))
