"""What a workflow's definition says about values: conditions as text, and mappings with ``$`` in them.

A **condition** is text in a definition and a `coord.wire.where.Condition` inside::

    steps.check.output.score >= 0.8 and not input.draft
    input.lang in ["en", "de"] or exists(steps.review.output.note)

Comparisons ``== != < <= > >=`` of a path with a constant (text in quotes, a number, true, false,
null), ``in [...]``, ``exists(path)``, a path alone (is it true?), ``and``, ``or``, ``not``, parentheses.
A member whose name is no word is written ``input["a-b"]``.  What compares with what
`coord.wire.where` says; what is missing equals nothing and is in no order.

A **mapping** is a value in which text that begins with ``$`` stands for what it names:
``"$input.files"``, ``"$steps.scan.output"``, ``"$item"``, ``"$index"``, ``"$workflow.id"``.  ``"$$"`` is a
dollar sign.  What is missing is null: the output of a step that was skipped, say.

Pure.  The text is parsed by Python's own parser, of whose trees all but these few are refused.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import msgspec

from coord import limits
from coord.errors import InvalidWorkflow, PayloadTooLarge, QueryError
from coord.wire import where
from coord.wire.where import All, Compare, Condition, Members, Not, Place, Some

Path: TypeAlias = tuple[str, ...]
Reading: TypeAlias = Callable[[Path], Any]
"""From a path to its value, or `where.MISSING`."""

_WORDS: Final[dict[str, Any]] = {"true": True, "false": False, "null": None}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPS: Final[dict[type[ast.cmpop], str]] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in",
    ast.NotIn: "not in",
}  # fmt: skip
_BUILD: Final[dict[str, Callable[[Any, Any], Condition]]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_FREE_READS: Final = 8
_TURNED: Final = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


# --- conditions -------------------------------------------------------------------------------


def condition(text: str) -> Condition:
    """The condition that the text says; raises `InvalidWorkflow` naming what it does not understand."""
    if len(text) > limits.FLOW_EXPRESSION_MAX:
        raise InvalidWorkflow("a condition is too long", length=len(text), length_max=limits.FLOW_EXPRESSION_MAX)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        found = _condition(tree)
        where.places(found)  # counts its parts
    except InvalidWorkflow as exc:
        raise InvalidWorkflow(exc.message, condition=text[:200], **exc.details) from exc
    except QueryError as exc:
        raise InvalidWorkflow(exc.message, condition=text[:200]) from exc
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise InvalidWorkflow(f"not a condition: {type(exc).__name__}: {exc}", condition=text[:200]) from exc
    return found


def _condition(node: ast.expr) -> Condition:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return All(tuple(map(_condition, values)))
        case ast.BoolOp(op=ast.Or(), values=values):
            return Some(tuple(map(_condition, values)))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_condition(operand)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compared(left, _OPS.get(type(op)), right)
        case ast.Call(func=ast.Name(id="exists"), args=[place], keywords=[]):
            return _members(place).exists()
        case ast.Name() | ast.Attribute() | ast.Subscript():
            return _members(node) == True  # noqa: E712 - makes a condition
        case _:
            raise InvalidWorkflow("a condition compares paths with constants", found=_shown(node))


def _compared(left: ast.expr, op: str | None, right: ast.expr) -> Condition:
    if op is None:
        raise InvalidWorkflow("there is no such comparison")
    if op in ("in", "not in"):
        if not isinstance(right, ast.List | ast.Tuple):
            raise InvalidWorkflow("`in` takes a list", found=_shown(right))
        found = _members(left).is_in([_constant(member) for member in right.elts])
        return found if op == "in" else ~found
    if _is_constant(left) and not _is_constant(right):
        left, right, op = right, left, _TURNED[op]
    return _BUILD[op](_members(left), _constant(right))


def _is_constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant | ast.UnaryOp) or (isinstance(node, ast.Name) and node.id in _WORDS)


def _constant(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case _:
            raise InvalidWorkflow("not a constant", found=_shown(node))


def _members(node: ast.expr) -> Members:
    path: list[str] = []
    while True:
        match node:
            case ast.Name(id=name) if name not in _WORDS:
                path.append(name)
                break
            case ast.Attribute(value=inner, attr=name):
                path.append(name)
                node = inner
            case ast.Subscript(value=inner, slice=ast.Constant(value=str() as name)):
                path.append(name)
                node = inner
            case _:
                raise InvalidWorkflow("not a path", found=_shown(node))
    if len(path) > where.PATH_MAX:
        raise QueryError(f"a path has at most {where.PATH_MAX} members")
    return Members(Place("data", tuple(reversed(path))))


def _shown(node: ast.expr) -> str:
    return ast.unparse(node)[:100]


def text(found: Condition) -> str:
    """A condition as a definition has it; raises `InvalidWorkflow` for one that is not about data."""
    match found:
        case All():
            return " and ".join(_wrapped(part) for part in found.parts)
        case Some():
            return " or ".join(_wrapped(part) for part in found.parts)
        case Not():
            return f"not {_wrapped(found.part)}"
        case Compare():
            return _comparison(found)
        case _:
            raise InvalidWorkflow("not a condition", found=repr(found)[:100])


def _wrapped(found: Condition) -> str:
    return text(found) if isinstance(found, Compare) else f"({text(found)})"


def _comparison(found: Compare) -> str:
    if found.place.source != "data":
        raise InvalidWorkflow("a workflow's condition is about its data", found=repr(found)[:100])
    place = path_text(tuple(str(part) for part in found.place.path))
    if found.op == "exists":
        return f"exists({place})"
    constants = [_constant_text(constant) for constant in found.constants]
    if found.op == "==" and len(constants) != 1:
        return f"{place} in [{', '.join(constants)}]"
    return f"{place} {found.op} {constants[0]}"


def _constant_text(constant: Any) -> str:
    match constant:
        case None:
            return "null"
        case bool():
            return "true" if constant else "false"
        case str() | int() | float():
            return repr(constant)
        case _:
            raise InvalidWorkflow("not a constant of a workflow's condition", found=repr(constant)[:100])


def path_text(path: Path) -> str:
    """A path as conditions write it."""
    first, *rest = path
    return first + "".join(f".{part}" if _is_word(part) else f"[{part!r}]" for part in rest)


def _is_word(name: str) -> bool:
    return _WORD.fullmatch(name) is not None and not keyword.iskeyword(name)


# --- values -----------------------------------------------------------------------------------


def follow(value: Any, path: Path, of: Path = ()) -> Any:
    """The member of a value that a path leads to, or `where.MISSING`; `of`: what the value itself is called.

    Raises `PayloadTooLarge` where it leads into an output by reference: that is elsewhere, and not to be known is
    not to be missing.
    """
    found = where.follow(value, path)
    if found is not where.MISSING:
        return found
    for name in path:
        refuse_reference(value, (*of, *path))
        if type(value) is not dict or name not in value:
            break
        value = value[name]
    return where.MISSING


def refuse_reference(value: Any, path: Path) -> None:
    """Raise `PayloadTooLarge` for an output by reference, of which a `path` names a part."""
    if type(value) is dict and len(value) == 1 and type(value.get("$ref")) is dict:
        raise PayloadTooLarge(
            f"{path_text(path)} would be read out of an output that travels by reference, having more than"
            f" {limits.TASK_INLINE_BYTES} bytes: give what steps name apart from what is large",
            bytes=value["$ref"].get("size"),
        )


# --- mappings ---------------------------------------------------------------------------------


def path_named(value: Members) -> Path:
    """What a value that was written in Python names."""
    named = value.exists()
    assert isinstance(named, Compare), "that is what it makes"
    return tuple(str(part) for part in named.place.path)


def reference(path: Path) -> str:
    """A path as mappings write it."""
    for part in path:
        if "." in part or not part:
            raise InvalidWorkflow("a mapping cannot name a member with a dot in its name", member=part)
    return "$" + ".".join(path)


def path_of(said: str) -> Path | None:
    """What ``$…`` names; None: the text is itself."""
    if not said.startswith("$") or said.startswith("$$"):
        return None
    path = tuple(said[1:].split("."))
    if not all(path) or len(path) > where.PATH_MAX:
        raise InvalidWorkflow("a mapping names members with dots between them", found=said[:100])
    return path


def paths(mapping: Any) -> Iterator[Path]:
    """Everything that a mapping names; raises `InvalidWorkflow` for what is no path."""
    waiting = [mapping]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            path = path_of(value)
            if path is not None:
                yield path
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def counted(read: Reading) -> Reading:
    """`read`, for one mapping: raises `PayloadTooLarge` once what is read has more than `limits.FLOW_BYTES_MAX` bytes.

    A mapping may name a large value thousands of times, and be put together for gigabytes before anybody could look
    how large it has become.  The first few are not measured: so many are no danger.
    """
    sizes: dict[Path, int] = {}
    reads = total = 0

    def measured(path: Path) -> Any:
        nonlocal reads, total
        value = read(path)
        reads += 1
        if reads > _FREE_READS and value is not where.MISSING:
            if path not in sizes:
                sizes[path] = len(msgspec.json.encode(value))
            total += sizes[path]
            if total > limits.FLOW_BYTES_MAX:
                raise PayloadTooLarge(f"what is named has more than {limits.FLOW_BYTES_MAX} bytes", bytes=total)
        return value

    return measured


def filled(mapping: Any, read: Reading) -> Any:
    """The value that a mapping (which `paths` has seen) stands for."""
    if isinstance(mapping, str):
        path = path_of(mapping)
        if path is None:
            return mapping[1:] if mapping.startswith("$$") else mapping
        value = read(path)
        return None if value is where.MISSING else value
    if isinstance(mapping, dict):
        return {name: filled(value, read) for name, value in mapping.items()}
    if isinstance(mapping, list):
        return [filled(value, read) for value in mapping]
    return mapping
