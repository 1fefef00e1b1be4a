"""Who wants what: subjects with wildcards, as tries of tokens."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from coord.wire import subjects
from coord.wire.filters import matches

T = TypeVar("T")

_ONE: Final = "*"
_REST: Final = ">"


class _Node(Generic[T]):
    __slots__ = ("children", "items")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.items: list[T] = []


class Interest(Generic[T]):
    """Items by the pattern (``*``, ``>``) that they want; few changes, many look-ups."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: str, item: T) -> None:
        """It wants what matches the pattern; the same pair twice is two."""
        node = self._root
        for token in pattern.split("."):
            node = node.children.setdefault(token, _Node())
        node.items.append(item)

    def discard(self, pattern: str, item: T) -> None:
        """It does not any more; legal for one that never did."""
        tokens = pattern.split(".")
        path = [self._root]
        for token in tokens:
            found = path[-1].children.get(token)
            if found is None:
                return
            path.append(found)
        if item in path[-1].items:
            path[-1].items.remove(item)
        for parent, token, node in zip(reversed(path[:-1]), reversed(tokens), reversed(path), strict=False):
            if node.items or node.children:
                break
            del parent.children[token]

    def match(self, subject: str) -> list[T]:
        """Everybody who wants this subject, in no order that means anything but always the same one."""
        nodes, found = [self._root], []
        for token in subject.split("."):
            after = []
            for node in nodes:
                children = node.children
                if _REST in children:
                    found += children[_REST].items
                if _ONE in children:
                    after.append(children[_ONE])
                if token in children and token not in {_ONE, _REST}:
                    after.append(children[token])
            if not after:
                return found
            nodes = after
        for node in nodes:
            found += node.items
        return found


class _Leaf:
    __slots__ = ("children", "seqs")

    def __init__(self) -> None:
        self.children: dict[str, _Leaf] = {}
        self.seqs: list[int] = []


class Stored:
    """The sequences stored under each subject; a filter finds them without looking at the others."""

    def __init__(self) -> None:
        self._root = _Leaf()
        self.subjects = 0
        """How many have any."""

    def add(self, subject: str, seq: int) -> None:
        """Sequences only grow."""
        node = self._root
        for token in subject.split("."):
            child = node.children.get(token)
            if child is None:
                child = node.children[token] = _Leaf()
            node = child
        self.subjects += not node.seqs
        node.seqs.append(seq)

    def remove(self, subject: str, seq: int) -> None:
        """It is not stored any more."""
        path = [self._root]
        for token in subject.split("."):
            path.append(path[-1].children[token])
        seqs = path[-1].seqs
        del seqs[bisect_left(seqs, seq)]
        self.subjects -= not seqs
        for parent, token, node in zip(reversed(path[:-1]), reversed(subject.split(".")), reversed(path), strict=False):
            if node.seqs or node.children:
                break
            del parent.children[token]

    def find(self, pattern: str) -> Iterator[tuple[str, list[int]]]:
        """(subject, sequences) of all that match."""
        return self._find(self._root, pattern.split("."), 0, [])

    def _find(self, node: _Leaf, tokens: list[str], at: int, path: list[str]) -> Iterator[tuple[str, list[int]]]:
        if at == len(tokens):
            if node.seqs:
                yield ".".join(path), node.seqs
            return
        token = tokens[at]
        if token == _REST:
            for name, child in node.children.items():
                yield from _below(child, [*path, name])
        elif token == _ONE:
            for name, child in node.children.items():
                yield from self._find(child, tokens, at + 1, [*path, name])
        elif (one := node.children.get(token)) is not None:
            yield from self._find(one, tokens, at + 1, [*path, token])

    def last(self, pattern: str) -> int:
        """The newest that matches; 0: nothing does."""
        return max((seqs[-1] for _, seqs in self.find(pattern)), default=0)

    def next(self, pattern: str, seq: int) -> int:
        """The first at or above `seq` that matches; 0: there is none."""
        found = 0
        for _, seqs in self.find(pattern):
            at = bisect_left(seqs, seq)
            if at < len(seqs) and (not found or seqs[at] < found):
                found = seqs[at]
        return found

    def all_from(self, pattern: str, seq: int) -> list[int]:
        """All at or above `seq` that match, in order."""
        return sorted(n for _, seqs in self.find(pattern) for n in seqs[bisect_left(seqs, seq) :])


def _below(node: _Leaf, path: list[str]) -> Iterator[tuple[str, list[int]]]:
    if node.seqs:
        yield ".".join(path), node.seqs
    for name, child in node.children.items():
        yield from _below(child, [*path, name])


# --- transforms ----------------------------------------------------------------------------

_FUNCTION: Final = re.compile(r"\{\{\s*(partition|wildcard)\(([\d,\s]+)\)\s*\}\}")


def transform(source: str, destination: str, subject: str) -> str | None:
    """The subject as the transform has it; None: it is not of its source."""
    if not matches(source, subject):
        return None
    tokens = subject.split(".")
    wild: list[str] = []
    rest: list[str] = []
    for at, token in enumerate(source.split(".")):
        if token == _ONE:
            wild.append(tokens[at])
        elif token == _REST:
            rest = tokens[at:]

    def fill(found: re.Match[str]) -> str:
        numbers = [int(n) for n in found[2].split(",")]
        if found[1] == "wildcard":
            return wild[numbers[0] - 1]
        hashed = "".join(wild[n - 1] for n in numbers[1:]).encode("utf-8", "surrogateescape")
        return str(subjects.fnv1a_32(hashed) % numbers[0])

    # Functions hold no dots, so tokens can be taken one by one.
    made = [_FUNCTION.sub(fill, token) for token in destination.split(".")]
    if made and made[-1] == _REST:
        made[-1:] = rest
    return ".".join(made)
