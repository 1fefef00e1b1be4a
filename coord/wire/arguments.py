"""What callers give, looked at in one place: an error names the argument, what it takes and what it was given.

A struct of msgspec's is not checked when it is made, so what holds others (`coord.Placement` and its weights, a
flag and its rules, a step) is looked at whole, before anything is stated that no reader would believe.

Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from coord import errors

T = TypeVar("T")

_WHERE: Final = re.compile(r" - at `\$\.?([^`]*)`")
_INDEX: Final = re.compile(r"\[[^\]]*\]")


def as_kind(given: Any, kind: Any, argument: str, error: type[errors.CoordError] = errors.InvalidPayload) -> Any:
    """`given` as `kind`, converted from what its members hold; raises `error` naming the member at fault."""
    try:
        return msgspec.convert(msgspec.to_builtins(given), kind)
    except (TypeError, msgspec.ValidationError, RecursionError) as exc:
        raise error(f"{argument}: {reason(exc, kind)}") from exc


def is_a(
    given: Any,
    kinds: type | tuple[type, ...],
    argument: str,
    takes: str,
    error: type[errors.CoordError] = errors.InvalidPayload,
) -> None:
    """Raise `error` where `given` is none of `kinds`; `takes`: what is wanted, in words."""
    if not isinstance(given, kinds):
        raise error(f"{argument} takes {takes}, not {_shown(given)}")


def mapping(
    given: Any, takes: str, argument: str, error: type[errors.CoordError] = errors.InvalidPayload
) -> Mapping[Any, Any]:
    """`given`, which must be a mapping; None is an empty one."""
    if given is None:
        return {}
    is_a(given, Mapping, argument, takes, error)
    found: Mapping[Any, Any] = given
    return found


def seconds(
    given: Any, argument: str, *, least: float = 0.0, error: type[errors.CoordError] = errors.InvalidPayload
) -> float:
    """A number of at least `least` seconds."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given) or given < least:
        raise error(f"{argument} takes seconds, at least {least:g}, not {_shown(given)}")
    return given


def moment(given: Any, argument: str) -> float:
    """Unix seconds of an aware time."""
    is_a(given, datetime, argument, "an aware datetime")
    if given.tzinfo is None:
        raise errors.InvalidPayload(f"{argument} takes an aware datetime: say in which zone {given} is")
    return float(given.timestamp())


def reason(exc: Exception, kind: Any) -> str:
    """Why something is no `kind`: the member and what it takes, choices too."""
    text = str(exc)
    at = _WHERE.search(text)
    if at is None or not at[1]:
        return text
    choices = _choices(kind, _INDEX.sub("", at[1]).split("."))
    said = text[: at.start()] + (f": it is one of {', '.join(map(str, choices))}" if choices else "")
    return f"{at[1]}: {said}"


def _choices(kind: Any, path: list[str]) -> tuple[Any, ...]:
    for name in path:
        found = next((one for one in _parts(kind) if hasattr(one, "__struct_fields__")), None)
        if found is None:
            return ()
        kind = get_type_hints(found).get(name, Any)
    return next((get_args(one) for one in _parts(kind) if get_origin(one) is Literal), ())


def _parts(kind: Any) -> list[Any]:
    """A type, or those that a union or a list is made of."""
    inside = () if get_origin(kind) is Literal else get_args(kind)
    return [part for one in inside for part in _parts(one)] if inside else [kind]


def _shown(given: Any) -> str:
    return f"{type(given).__name__} {repr(given)[:60]}"
