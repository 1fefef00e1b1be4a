"""What a step of a handler may give: what its annotation says, and whether that can be read again."""

from __future__ import annotations

import enum
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from numbers import Number
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypedDict, TypeVar, assert_type

import msgspec
import pydantic
import pytest

from coord.client import returning, steps
from coord.client.agent import Agent
from coord.client.tasks import TaskContext, declare
from coord.errors import InvalidPayload, SettingsError, StepRefused

if TYPE_CHECKING:
    from coord.client.connect import Coord

T = TypeVar("T")


class Odd:
    """Nothing that JSON can hold."""


class Model(pydantic.BaseModel):
    n: int


class Chain(msgspec.Struct):
    next: Chain | None = None


class Box(msgspec.Struct, Generic[T]):
    of: T


class Level(enum.Enum):
    HIGH = "high"


class Pair(NamedTuple):
    a: int
    b: str


class Row(TypedDict):
    n: int


@dataclass
class Holder:
    odd: Odd


@dataclass
class Charge:
    amount: int

    async def again(self) -> Charge:
        return self

    @staticmethod
    def none() -> None:
        return None

    @classmethod
    def of(cls, amount: int) -> Charge:
        return cls(amount)


class Charger:
    async def __call__(self, amount: int) -> Charge:
        return Charge(amount)


def _kept(call: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(call)
    def inner(*args: Any) -> T:
        return call(*args)

    return inner


@_kept
def decorated(coord: Coord) -> Charge:  # a parameter's type that only checkers import
    return Charge(1)


def awaitable() -> Awaitable[Charge]:
    return Charge(1).again()


def coroutine() -> Coroutine[Any, Any, list[Charge]]:
    raise NotImplementedError


def generator() -> Iterator[int]:
    yield 1


def unknown() -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
    raise NotImplementedError


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (Charge(1).again, Charge),
        (Charge.none, type(None)),
        (Charge.of, Charge),
        (Charge, Charge),
        (Charger(), Charge),
        (functools.partial(functools.partial(Charger()), 1), Charge),
        (functools.lru_cache(Charge.of), Charge),
        (decorated, Charge),
        (awaitable, Charge),
        (coroutine, list[Charge]),
        (lambda: 1, Any),
        (datetime.now, Any),
        (int, int),
    ],
)
def test_the_annotation_is_found(call: Callable[..., Any], kind: Any) -> None:
    assert returning.returned_by(call) == kind


@pytest.mark.parametrize(
    "kind",
    [list[Odd], Odd | None, dict[str, Odd], tuple[Odd, ...], Holder, list[Holder], Box[Odd], list[Model], Model | None,
     Iterator[int], complex, str | datetime],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_before_anything_is_done(kind: Any) -> None:
    with pytest.raises(StepRefused):
        returning.kind_of(lambda: pytest.fail("done"), kind)


@pytest.mark.parametrize("kind", [Odd, list[Odd], Odd | None, Holder, list[Model], complex, str | datetime])
def test_a_handler_of_such_types_is_refused_where_it_is_declared(kind: Any) -> None:
    async def takes(doc: Any) -> None: ...

    async def gives() -> Any: ...

    takes.__annotations__["doc"] = gives.__annotations__["return"] = kind
    for handler, what in ((takes, "input"), (gives, "output")):
        with pytest.raises(SettingsError, match=f"a handler's {what} has a type that JSON can be read as"):
            Agent("scribe").task("note")(handler)


@pytest.mark.parametrize(
    "kind", [object, Any, Mapping, Iterable[int], Model, Chain, list[Chain] | None, Number, T, NoReturn]
)
def test_a_handler_of_what_any_value_may_be_is_not(kind: Any) -> None:
    async def handler(doc: Any) -> Any: ...

    handler.__annotations__.update(doc=kind, **{"return": kind})
    Agent("scribe").task("note")(handler)


@pytest.mark.parametrize("call", [generator, unknown, Odd])
def test_nor_what_a_function_says_so(call: Callable[..., Any]) -> None:
    with pytest.raises(StepRefused):
        returning.kind_of(call, returning.INFER)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, None), (None, int | None), (10**300, int), (b"\x00", bytes), ((1, "a"), tuple[int, str]),
        ({1}, set[int]),
        (Level.HIGH, Level), (datetime(2026, 1, 2, 3, tzinfo=UTC), datetime), (Decimal("1.10"), Decimal),
        (Pair(1, "b"), Pair), (Row(n=1), Row), ([Row(n=1)], list[Row]), ({1: "a"}, dict[int, str]), (Model(n=1), Model),
        (Chain(Chain()), Chain), (Box(3), Box[int]), (Charge(1), Charge | None),
    ],
)  # fmt: skip
async def test_what_is_given_is_given_again(value: Any, kind: Any) -> None:
    given = await steps.unrecorded(lambda: value, (), kind)
    assert (given, type(given)) == (value, type(value))


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), float), ("3", int), (True, int), (Odd(), Any), ("\0", str)])
async def test_what_is_something_else_is_refused(value: Any, kind: Any) -> None:
    with pytest.raises(InvalidPayload):
        await steps.unrecorded(lambda: value, (), kind)


async def test_an_output_that_is_a_typed_dictionary() -> None:
    async def row() -> Row:
        return Row(n=1)

    async def counts() -> dict[int, str]:
        return {}

    made = declare("x", row, timeout_s=None, retries=None, preemptible=None)
    assert made.encode({"n": 1}) == b'{"n":1}'
    with pytest.raises(InvalidPayload):
        made.encode({"n": "one"})
    made = declare("x", counts, timeout_s=None, retries=None, preemptible=None)
    assert made.encode({1: "a"}) == b'{"1":"a"}'


async def _typed(ctx: TaskContext) -> None:
    """Read by the type checker alone."""
    assert_type(await ctx.run("a", Charge(1).again), Charge)
    assert_type(await ctx.run("b", Charge.of, 1), Charge)
    assert_type(await ctx.run("c", awaitable), Charge)
    assert_type(await ctx.run("d", Charger(), 1), Charge)
    assert_type(await ctx.run("e", lambda: 3), int)
    assert_type(await ctx.run("f", msgspec.json.decode, b"{}", returns=Charge), Charge)
    assert_type(await ctx.run("g", msgspec.json.decode, b"[]", returns=list[int]), list[int])
    assert_type(await ctx.run("h", Charge), Charge)
    assert_type(await ctx.run("i", functools.partial(Charge.of, 1)), Charge)
