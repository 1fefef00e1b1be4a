"""Conditions on facts: which of those that a subject's wildcards let through are wanted.

::

    from coord import where

    (where.event == "failed") & (where.data["attempt"] >= 3)
    where.agent.is_in(["a1", "b2"]) | ~where.data["model"].exists()

`where` has the tokens of the subject (`agent`, `key`, `kind`, `id`, `event`, ``detail[n]``), the
attributes of the envelope (`type`, `schema`, `event_id`, `correlation_id`, `causation_id`,
`occurred_at`) and ``data[…][…]``, the members of the body.

What compares with what: numbers with numbers (1 equals 1.0, and true is no number), text with
text, times with times, true and false and null with themselves.  Anything else is not equal and
in no order; what is missing equals nothing, not even null.  `!=` is the opposite of `==`: it
holds for what is missing.

A condition is data: `matches` judges a fact that was decoded, `coord.wire.sieve` one that was not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, final

import msgspec

from coord.errors import QueryError
from coord.wire.records import StoredFact

Scalar: TypeAlias = str | int | float | bool | datetime | None
Source: TypeAlias = Literal["subject", "attribute", "data"]
Truth: TypeAlias = bool | None
"""None: not known yet."""

NODES_MAX: Final = 256
"""Comparisons in one condition."""
PATH_MAX: Final = 16
"""Members on the way to a value."""


class Missing:
    """What stands for a value that a fact does not have, and for one that was not looked for yet."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


MISSING: Final = Missing("MISSING")
UNKNOWN: Final = Missing("UNKNOWN")


class Place(msgspec.Struct, frozen=True):
    """Where in a fact a value stands."""

    source: Source
    path: tuple[str | int, ...]


class Condition:
    """Combine with ``&``, ``|`` and ``~``.  It has no truth of its own: use those, not `and`, `or`, `not`."""

    __slots__ = ()

    def __and__(self, other: Condition) -> Condition:
        return _joined(All, self, other)

    def __or__(self, other: Condition) -> Condition:
        return _joined(Some, self, other)

    def __invert__(self) -> Condition:
        return self.part if isinstance(self, Not) else Not(self)

    def __bool__(self) -> bool:
        raise TypeError("a condition is combined with & | ~ and parentheses, not with and, or, not or a chain of <")


@final
class Compare(Condition):
    """One value against constants."""

    __slots__ = ("constants", "op", "place")

    def __init__(self, place: Place, op: Operator, constants: tuple[Scalar, ...]) -> None:
        self.place = place
        self.op = op
        self.constants = constants

    def __repr__(self) -> str:
        path = "".join(f"[{part!r}]" for part in self.place.path)
        return f"{self.place.source}{path} {self.op} {list(self.constants)!r}"


@final
class All(Condition):
    """Every one of its parts."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Condition, ...]) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return f"({' & '.join(map(repr, self.parts))})"


@final
class Some(Condition):
    """At least one of its parts."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Condition, ...]) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return f"({' | '.join(map(repr, self.parts))})"


@final
class Not(Condition):
    """The opposite."""

    __slots__ = ("part",)

    def __init__(self, part: Condition) -> None:
        self.part = part

    def __repr__(self) -> str:
        return f"~{self.part!r}"


Operator: TypeAlias = Literal["==", "<", "<=", ">", ">=", "exists"]


def _joined(kind: type[All | Some], one: Condition, other: object) -> Condition:
    if not isinstance(other, Condition):
        raise TypeError(f"{other!r} is no condition")
    parts: list[Condition] = []
    for condition in (one, other):
        parts += condition.parts if isinstance(condition, kind) else (condition,)
    return kind(tuple(parts))


# --- writing conditions ------------------------------------------------------------------


class Value:
    """A value of a fact, to be compared.  Comparing makes a `Condition`."""

    __slots__ = ("_place",)
    __hash__ = None  # type: ignore[assignment]  # == says something else here

    def __init__(self, place: Place) -> None:
        self._place = place

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return Compare(self._place, "==", (_scalar(other),))

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return Not(Compare(self._place, "==", (_scalar(other),)))

    def __lt__(self, other: Scalar) -> Condition:
        return Compare(self._place, "<", (_ordered(other),))

    def __le__(self, other: Scalar) -> Condition:
        return Compare(self._place, "<=", (_ordered(other),))

    def __gt__(self, other: Scalar) -> Condition:
        return Compare(self._place, ">", (_ordered(other),))

    def __ge__(self, other: Scalar) -> Condition:
        return Compare(self._place, ">=", (_ordered(other),))

    def is_in(self, values: Iterable[Scalar]) -> Condition:
        """Whether it equals one of them; of none: never."""
        if isinstance(values, str):
            raise QueryError("is_in takes a list; for one value there is ==")
        return Compare(self._place, "==", tuple(_scalar(value) for value in values))

    def exists(self) -> Condition:
        """Whether the fact has it; null is had."""
        return Compare(self._place, "exists", ())


class Members(Value):
    """A member of the body, which may have members: ``data["a"]["b"]``.  A list has none."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Members:
        if len(self._place.path) >= PATH_MAX:
            raise QueryError(f"a path has at most {PATH_MAX} members")
        return Members(Place("data", (*self._place.path, name)))

    __iter__ = None  # or `in` would ask for members 0, 1, 2 …


class _Details:
    def __getitem__(self, number: int) -> Value:
        if number < 0:
            raise QueryError("a detail token has a number from 0 on", given=number)
        return Value(Place("subject", ("detail", number)))


class _Data:
    def __getitem__(self, name: str) -> Members:
        return Members(Place("data", ()))[name]


class Where:
    """The values of a fact; `coord.where` is one."""

    agent = Value(Place("subject", ("agent",)))
    key = Value(Place("subject", ("key",)))
    kind = Value(Place("subject", ("kind",)))
    id = Value(Place("subject", ("id",)))
    event = Value(Place("subject", ("event",)))
    detail = _Details()
    type = Value(Place("attribute", ("type",)))
    schema = Value(Place("attribute", ("schema",)))
    event_id = Value(Place("attribute", ("event_id",)))
    correlation_id = Value(Place("attribute", ("correlation_id",)))
    causation_id = Value(Place("attribute", ("causation_id",)))
    occurred_at = Value(Place("attribute", ("occurred_at",)))
    data = _Data()


where: Final = Where()


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise QueryError("a time to compare with needs a time zone")
        return value
    raise QueryError("a value is compared with text, a number, a time, true, false or null", given=type(value).__name__)


def _ordered(value: Scalar) -> Scalar:
    if value is None or isinstance(value, bool):
        raise QueryError("null, true and false are in no order", given=repr(value))
    return _scalar(value)


# --- judging -----------------------------------------------------------------------------

Judge: TypeAlias = Callable[[Sequence[Any]], Truth]
"""From the values, in the order of `places`, to a truth; values may be MISSING or UNKNOWN."""


def places(condition: Condition) -> list[Place]:
    """The values that it looks at, each once.  Raises `QueryError` when it is too large."""
    found: dict[Place, None] = {}
    count = 0
    waiting = [condition]
    while waiting:
        node = waiting.pop()
        count += 1
        if count > NODES_MAX:
            raise QueryError(f"a condition has at most {NODES_MAX} parts")
        if isinstance(node, Compare):
            found[node.place] = None
        elif isinstance(node, Not):
            waiting.append(node.part)
        elif isinstance(node, All | Some):
            waiting += node.parts
    return sorted(found, key=lambda place: (place.source, [str(part) for part in place.path]))


def compiled(condition: Condition, order: Sequence[Place]) -> Judge:
    """The condition as one function; Kleene's logic where something is not known yet."""
    if isinstance(condition, Compare):
        return _compare(order.index(condition.place), condition)
    if isinstance(condition, Not):
        return _opposite(compiled(condition.part, order))
    assert isinstance(condition, All | Some)
    judges = tuple(compiled(part, order) for part in condition.parts)
    return _unless(judges, decisive=isinstance(condition, Some))


def _unless(judges: tuple[Judge, ...], *, decisive: bool) -> Judge:
    """`decisive` as soon as one part is; known only when all are."""

    def judge(values: Sequence[Any]) -> Truth:
        known = True
        for part in judges:
            truth = part(values)
            if truth is decisive:
                return decisive
            if truth is None:
                known = False
        return (not decisive) if known else None

    return judge


def _opposite(part: Judge) -> Judge:
    def judge(values: Sequence[Any]) -> Truth:
        truth = part(values)
        return None if truth is None else not truth

    return judge


def _compare(slot: int, comparison: Compare) -> Judge:
    if comparison.op == "exists":

        def exists(values: Sequence[Any]) -> Truth:
            value = values[slot]
            return None if value is UNKNOWN else value is not MISSING

        return exists
    test = _equal(comparison.constants) if comparison.op == "==" else _in_order(comparison.op, comparison.constants[0])

    def judge(values: Sequence[Any]) -> Truth:
        value = values[slot]
        return None if value is UNKNOWN else test(value)

    return judge


_NUMBERS: Final = (int, float)


def _class_of(value: Any) -> Any:
    """What compares with what; None: with nothing."""
    kind = type(value)
    if kind in _NUMBERS:
        return float
    return kind if kind in {str, bool, datetime, type(None)} else None


def _equal(constants: tuple[Scalar, ...]) -> Callable[[Any], bool]:
    wanted = {(_class_of(_plain(constant)), _plain(constant)) for constant in constants}

    def test(value: Any) -> bool:
        kind = _class_of(value)
        return kind is not None and (kind, value) in wanted

    return test


_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _in_order(op: str, constant: Scalar) -> Callable[[Any], bool]:
    compare, bound = _ORDERS[op], _plain(constant)
    wanted = _class_of(bound)

    def test(value: Any) -> bool:
        return _class_of(value) is wanted and compare(value, bound)

    return test


def _plain(value: Scalar) -> Scalar:
    """A subclass (an enum, a pandas timestamp) as what it is a kind of."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, datetime):
        return value if type(value) is datetime else datetime.combine(value.date(), value.timetz())
    return str.__str__(value) if isinstance(value, str) else int(value) if isinstance(value, int) else float(value)


# --- facts that were decoded -------------------------------------------------------------


def of_fact(fact: StoredFact, order: Sequence[Place]) -> list[Any]:
    """The values of a decoded fact."""
    data: Any = UNKNOWN
    found = []
    for place in order:
        if place.source == "data":
            if data is UNKNOWN:
                data = fact.data
            found.append(follow(data, place.path))
        elif place.path[0] == "detail":
            number = place.path[1]
            assert isinstance(number, int)
            found.append(fact.detail[number] if number < len(fact.detail) else MISSING)
        else:
            value = getattr(fact, str(place.path[0]))
            found.append(MISSING if value is None else value)
    return found


def follow(data: Any, path: Iterable[str | int]) -> Any:
    """The value at the end of `path`, or MISSING."""
    for name in path:
        if type(data) is not dict or name not in data:
            return MISSING
        data = data[name]
    return data


def matches(condition: Condition, fact: StoredFact) -> bool:
    """Whether a decoded fact is wanted: what `coord.wire.sieve` must agree with."""
    order = places(condition)
    return bool(compiled(condition, order)(of_fact(fact, order)))
