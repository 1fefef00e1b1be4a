"""Keys and tags of a function's arguments.

A template such as ``agent:{id}`` names parameters.  The key is not the text but a tuple of the template and the
arguments' values, each with its type unless it is a str: so no argument can be chosen so that two calls, or two
functions, share an answer (``a:{x}:{y}`` of "1:2" and "3" is not that of "1" and "2:3", and 1 is not True).

Every parameter that may change the answer has to be in the template: one that is not is refused when the function is
decorated, unless it is said that it does not matter (a connection, `self`).
"""

from __future__ import annotations

import datetime as dt
import enum
import inspect
import string
import uuid
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

from coord import limits
from coord.errors import InvalidCacheKey

Key: TypeAlias = tuple[Any, ...]

_NAMED: Final = (dt.datetime, dt.date, uuid.UUID, float, type(None))
_INT_BITS_MAX: Final = 256

_MADE: Final[dict[str, Callable[[str], Any]]] = {
    "bool": lambda said: said == "True",
    "int": int,
    "float": float,
    "NoneType": lambda _: None,
    "UUID": uuid.UUID,
    "date": dt.date.fromisoformat,
    "datetime": dt.datetime.fromisoformat,
}
"""What `part` made a text of, out of that text."""


class Template:
    """What a template makes of the arguments of one function."""

    def __init__(self, text: str, names: tuple[str, ...], parts: tuple[tuple[str, str | None], ...]) -> None:
        """`names`: the fields, in order; `parts`: literal text and the field behind it."""
        self.text = text
        self.names = names
        self._parts = parts

    @classmethod
    def parse(cls, text: str, signature: inspect.Signature) -> Template:
        """Raises `InvalidCacheKey` for what is no template of that function's parameters."""
        try:
            found = [
                (literal, name, spec, conversion) for literal, name, spec, conversion in string.Formatter().parse(text)
            ]
        except ValueError as exc:
            raise InvalidCacheKey(f"not a template: {exc}", template=text) from exc
        for _, name, spec, conversion in found:
            if name is not None and (spec or conversion or name not in signature.parameters):
                raise InvalidCacheKey("a field is the name of a parameter, no more", field=name, template=text)
        names = tuple(dict.fromkeys(name for _, name, _, _ in found if name is not None))
        return cls(text, names, tuple((literal, name) for literal, name, _, _ in found))

    def key(self, values: Mapping[str, Any]) -> Key:
        """The key of a call."""
        parts = tuple(part(values[name], name) for name in self.names)
        size = sum([len((said if isinstance(said, str) else said[1]).encode()) for said in parts])
        if size > limits.CACHE_KEY_BYTES_MAX:
            raise InvalidCacheKey("too long for a key", bytes=size, bytes_max=limits.CACHE_KEY_BYTES_MAX)
        return (self.text, *parts)

    def fill(self, values: Mapping[str, Any]) -> str:
        """The template's text with the values in it: a tag."""
        found = []
        for literal, name in self._parts:
            found.append(literal)
            if name is not None:
                said = part(values[name], name)
                found.append(said if isinstance(said, str) else said[1])
        return checked_tag("".join(found))


class Arguments:
    """Of one function: its parameters, and how calls fill them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = inspect.signature(function)
        self._positional = all(
            p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} for p in self.signature.parameters.values()
        )
        for name, parameter in self.signature.parameters.items():
            if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
                raise InvalidCacheKey("a cached function has no *args and no **kwargs", parameter=name)
            if name == "min_watermark":
                raise InvalidCacheKey("this name is the cache's", parameter=name)

    def check_all_named(self, template: Template, ignore: Collection[str]) -> None:
        """Raise `InvalidCacheKey` for a parameter that is neither in the key nor ignored."""
        for name in self.signature.parameters:
            if name not in template.names and name not in ignore:
                raise InvalidCacheKey(
                    "a parameter is not in the key: name it there, or in ignore=", parameter=name, key=template.text
                )

    def all_in_order(self, template: Template) -> int | None:
        """How many positional arguments make the key as they are, or None where it takes more than that."""
        return len(template.names) if self._positional and template.names == tuple(self.signature.parameters) else None

    def are_enough(self, values: Mapping[str, Any]) -> bool:
        """Whether the function can be called with these, by name, and defaults."""
        return all(
            p.kind is not p.POSITIONAL_ONLY and (name in values or p.default is not p.empty)
            for name, p in self.signature.parameters.items()
        )

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Name → value, defaults included; raises `TypeError` as calling it would."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments


def arguments_of(template: Template, key: Key) -> dict[str, Any] | None:
    """What a key was made of; None where it does not say: an enum's member is a name without its enum."""
    found = {}
    try:
        for name, said in zip(template.names, key[1:], strict=True):
            found[name] = said if type(said) is str else _MADE[said[0]](said[1])
    except (KeyError, ValueError, TypeError, IndexError):
        return None  # of another version of the function, or of a type that is not made again
    return found


def part(value: Any, name: str) -> str | tuple[str, str]:
    """One value of a key; raises `InvalidCacheKey` for one that has no short name of its own."""
    kind = type(value)
    if kind is str:
        text: str = value
        said: str | tuple[str, str] = text
    elif kind is bool or kind in _NAMED:
        text = str(value)
        said = (kind.__name__, text)
    elif kind is int:
        if value.bit_length() > _INT_BITS_MAX:
            raise InvalidCacheKey("an integer in a key is too large", field=name)
        text = str(value)
        said = ("int", text)
    elif isinstance(value, enum.Enum):
        text = str(value.value)
        said = (f"{kind.__module__}.{kind.__qualname__}", value.name)
    else:
        raise InvalidCacheKey("not of a type that keys are made of", field=name, type=kind.__name__)
    _check_bytes(text, limits.CACHE_KEY_BYTES_MAX, name)
    return said


def shown(key: Hashable) -> str:
    """A key as a person writes it: the template with the values in it; anything else as Python shows it.

    Not unique: the text of 1 and "1" is the same.
    """
    if type(key) is str:
        return key
    if not (type(key) is tuple and key and type(key[0]) is str):
        return repr(key)[: limits.CACHE_SHOWN_CHARS]
    literals = _literals(key[0])
    values = dict(zip(dict.fromkeys(name for _, name in literals if name is not None), key[1:], strict=False))
    found = []
    for literal, name in literals:
        found.append(literal)
        if name is not None:
            said = values.get(name, "")
            found.append(said if isinstance(said, str) else str(said[1]))
    return "".join(found)


@lru_cache(maxsize=limits.CACHE_FUNCTIONS_MAX)
def _literals(template: str) -> tuple[tuple[str, str | None], ...]:
    """Literal text and the field behind it; what is no template is all literal."""
    try:
        return tuple((literal, name) for literal, name, _, _ in string.Formatter().parse(template))
    except ValueError:
        return ((template, None),)


def checked_tag(tag: str) -> str:
    """`tag`, or `InvalidCacheKey`."""
    if not tag:
        raise InvalidCacheKey("a tag is empty")
    _check_bytes(tag, limits.CACHE_TAG_BYTES_MAX, "tag")
    return tag


def _check_bytes(text: str, bytes_max: int, field: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidCacheKey("not a text", field=field) from exc
    if size > bytes_max:
        raise InvalidCacheKey("too long for a key or tag", field=field, bytes=size, bytes_max=bytes_max)
