"""What type a function gives, as far as it says so: what is recorded of a step is read as that again.

Pure but for what it remembers of functions, which goes when they do.
"""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from types import NoneType, SimpleNamespace
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec
import msgspec.inspect

from coord import errors

INFER: Final[Any] = object()
"""The type is what the function's annotation says."""

_kinds: Final[WeakKeyDictionary[Callable[..., Any], Any]] = WeakKeyDictionary()
"""Function → what `kind_of` says of it; methods are made anew each time and found nowhere."""


def kind_of(call: Callable[..., Any], returns: Any) -> Any:
    """The type of what it gives; raises `StepRefused` for one that could not be read again."""
    if returns is INFER:
        try:
            return _kinds[call]
        except (KeyError, TypeError):
            pass
    kind = returned_by(call) if returns is INFER else returns
    if not _is_readable(kind):
        raise errors.StepRefused("what a step gives has a type that JSON can be read as", type=str(kind))
    if returns is INFER:
        with contextlib.suppress(TypeError):  # not everything that can be called can be kept
            _kinds[call] = kind
    return kind


def is_taken(kind: Any) -> bool:
    """Whether anything that JSON is read as can be of that type: of `object`, but of no class of one's own."""
    return kind in (typing.NoReturn, typing.Never) or all(_has_of_json(part) for part in _foreign_in(kind))


def _is_readable(kind: Any) -> bool:
    return not _foreign_in(kind)


def _foreign_in(kind: Any) -> tuple[Any, ...]:
    try:
        return _foreign(kind)
    except TypeError:  # not to be remembered
        return _foreign.__wrapped__(kind)


def _has_of_json(kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    try:
        return any(issubclass(plain, kind) for plain in (dict, list, str, int, float, bool, NoneType))
    except TypeError:  # a protocol, which is not to be asked
        return False


@lru_cache(maxsize=1024)
def _foreign(kind: Any) -> tuple[Any, ...]:
    """What JSON is not read as in a type: classes that msgspec does not know, or all of it."""
    if kind is Any or hasattr(kind, "model_validate_json"):
        return ()
    try:
        parts: list[Any] = [msgspec.inspect.type_info(kind)]
    except TypeError:
        return (kind,)
    found: list[Any] = []
    seen: set[int] = set()  # types may hold themselves
    while parts:
        part = parts.pop()
        if isinstance(part, msgspec.inspect.CustomType):
            found.append(part.cls)
        elif isinstance(part, tuple):
            parts.extend(part)
        elif isinstance(part, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(part) not in seen:
            seen.add(id(part))
            parts.extend(getattr(part, name) for name in part.__struct_fields__)
    return tuple(found)


def returned_by(call: Callable[..., Any]) -> Any:
    """The type of what awaiting a call gives, as its annotation says; Any where it says nothing.

    Raises `StepRefused` where what it says cannot be looked up.
    """
    plain = _plain(call)
    if isinstance(plain, type):
        return plain
    try:
        said = getattr(plain, "__annotations__", {}).get("return", Any)
        # Not the parameters': they may name what only type checkers import.
        alone = SimpleNamespace(__annotations__={"return": said}, __type_params__=getattr(plain, "__type_params__", ()))
        kind = typing.get_type_hints(alone, globalns=getattr(plain, "__globals__", {}))["return"]
    except (NameError, SyntaxError) as exc:
        raise errors.StepRefused("what a step returns cannot be looked up: say `returns=`", why=str(exc)) from exc
    except (TypeError, AttributeError):
        return Any  # no annotations as functions have them
    origin = typing.get_origin(kind)
    if isinstance(origin, type) and issubclass(origin, Awaitable) and not inspect.iscoroutinefunction(plain):
        return typing.get_args(kind)[-1]
    return kind


def _plain(call: Any) -> Any:
    """The function (or class) behind partials, methods, decorators and objects that can be called."""
    while True:
        inner = call.func if isinstance(call, partial) else inspect.unwrap(getattr(call, "__func__", call))
        if inner is call:
            break
        call = inner
    return call if isinstance(call, type) or inspect.isroutine(call) else type(call).__call__
